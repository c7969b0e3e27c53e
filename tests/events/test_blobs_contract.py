"""What every blob store promises: blobs that appear whole, never change, and stay inside their store.

`REKINDLE_TEST_S3=s3://BUCKET[/PREFIX]` has the same said of a real store, which the variables AWS_* lead to.
"""

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from events.blobs import Blobs, FolderBlobs, open_blobs
from events.failure import NotFound
from events.settings import BusSettings


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return opened(str(tmp_path / "blobs"), tmp_path)
    url = os.environ.get("REKINDLE_TEST_S3")
    if url is None:
        request.getfixturevalue("bucket")
    return opened(f"{url or 's3://blobs'}/{uuid.uuid4().hex}", tmp_path)


def opened(url: str, tmp_path: Path) -> Blobs:
    return open_blobs(BusSettings(nats_url="nats://127.0.0.1", blobs=url, blob_cache=tmp_path / "cache"))


def filled(store: Blobs, **files: bytes) -> Path:
    folder = store.staging()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


async def contents(store: Blobs, key: str) -> dict[str, bytes]:
    async with store.folder(key) as folder:
        return {file.name: file.read_bytes() for file in folder.iterdir()}


async def test_what_was_put_is_read_back_and_never_changes(store: Blobs) -> None:
    await store.put("t/a/b", b"first")
    await store.put("t/a/b", b"second")
    assert await store.get("t/a/b") == b"first"


async def test_what_is_not_there_is_not_found(store: Blobs) -> None:
    for attempt in (store.get("t/none"), store.files("t/none"), contents(store, "t/none")):
        with pytest.raises(NotFound):
            await attempt
    with pytest.raises(NotFound):
        async with store.gathered("t/none"):
            pass
    await store.delete("t/none")
    assert await store.under("t") == []


async def test_of_many_who_put_one_blob_one_wins(store: Blobs) -> None:
    await asyncio.gather(*(store.put("t/a", b"%d" % number * 1000) for number in range(8)))
    first = await store.get("t/a")
    await store.put("t/a", b"late")
    assert await store.get("t/a") == first and len(first) == 1000


async def test_a_folder_is_moved_in_once(store: Blobs) -> None:
    assert await store.put_folder("t/run/w/1", filled(store, a=b"12", b=b"345")) == 5
    again = filled(store, a=b"99", b=b"999", c=b"")
    assert await store.put_folder("t/run/w/1", again) == 5
    assert not again.exists()
    assert await contents(store, "t/run/w/1") == {"a": b"12", "b": b"345"}
    assert await store.files("t/run/w/1") == ["a", "b"]


async def test_of_many_who_put_one_folder_one_wins_whole(store: Blobs) -> None:
    folders = [filled(store, a=b"%d" % number, b=b"%d" % number) for number in range(4)]
    assert await asyncio.gather(*(store.put_folder("t/f", one) for one in folders)) == [2] * 4
    found = await contents(store, "t/f")
    assert found["a"] == found["b"] and not any(folder.exists() for folder in folders)


async def test_large_files_come_back_as_they_were(store: Blobs) -> None:
    data = os.urandom(17 * 1024 * 1024)
    assert await store.put_folder("t/large", filled(store, large=data, empty=b"")) == len(data)
    assert await contents(store, "t/large") == {"large": data, "empty": b""}


async def test_a_folder_keeps_its_path(store: Blobs) -> None:
    await store.put_folder("t/f", filled(store, a=b"1"))
    async with store.folder("t/f") as first:
        pass
    async with store.folder("t/f") as second:
        assert first == second and (second / "a").read_bytes() == b"1"


async def test_a_file_is_read_in_place(store: Blobs) -> None:
    await store.put_folder("t/f", filled(store, a=b"0123456789", empty=b""))
    async with store.file("t/f", "a") as file:
        assert file.seek(-3, os.SEEK_END) == 7 and await asyncio.to_thread(file.read) == b"789"
        file.seek(2)
        assert await asyncio.to_thread(file.read, 3) == b"234"
    async with store.file("t/f", "empty") as file:
        assert await asyncio.to_thread(file.read) == b""
    for key, name in (("t/f", "none"), ("t/none", "a"), ("t/f", ".."), ("t", "f/a")):
        with pytest.raises(NotFound):
            async with store.file(key, name):
                pass


async def test_blobs_put_one_by_one_are_gathered(store: Blobs) -> None:
    for number in range(60):
        await store.put(f"t/up/{number}", b"%d" % number)
    async with store.gathered("t/up") as folder:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            str(number): b"%d" % number for number in range(60)
        }
    assert len(await store.under("t/up")) == 60


async def test_what_lies_under_a_key_is_listed(store: Blobs) -> None:
    await store.put("t/run/claims/a", b"1")
    await store.put_folder("t/run/weights/1", filled(store, a=b"1"))
    await store.put("t/running", b"1")
    assert await store.under("t/run") == ["t/run/claims", "t/run/weights"]
    assert await store.under("t/run/weights") == ["t/run/weights/1"]
    assert await store.under("t/run/none") == []


async def test_what_was_deleted_is_gone(store: Blobs) -> None:
    await store.put_folder("t/run/w/1", filled(store, a=b"12"))
    await store.put_folder("t/run/w/2", filled(store, a=b"12"))
    await store.put("t/a", b"x")
    await contents(store, "t/run/w/1")
    await store.delete("t/run/w/1")
    await store.delete("t/run/w/1")
    await store.delete("t/a")
    for attempt in (contents(store, "t/run/w/1"), store.files("t/run/w/1"), store.get("t/a")):
        with pytest.raises(NotFound):
            await attempt
    assert await store.under("t/run/w") == ["t/run/w/2"]
    await store.delete("t/run")
    assert await store.under("t") == []


async def test_a_key_may_be_used_again_once_its_folder_is_deleted(store: Blobs) -> None:
    await store.put_folder("t/f", filled(store, a=b"old"))
    assert await contents(store, "t/f") == {"a": b"old"}
    await store.delete("t/f")
    await store.put_folder("t/f", filled(store, a=b"new"))
    assert await contents(store, "t/f") == {"a": b"new"}


async def test_work_begun_anew_clears_what_its_last_attempt_left(store: Blobs) -> None:
    left, other = store.staging("save-1"), store.staging("save-2")
    assert store.staging("save-1").is_dir()
    assert not left.exists() and other.is_dir()


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "t/../../outside", "", ".", "t/.."])
async def test_no_key_leads_out_of_the_store(store: Blobs, key: str, tmp_path: Path) -> None:
    for attempt in (store.put(key, b"x"), store.get(key), contents(store, key), store.delete(key)):
        with pytest.raises(AssertionError, match="leaves the store"):
            await attempt
    assert not (tmp_path / "outside").exists()


async def test_what_the_reward_service_reaches_lies_in_a_store_of_its_own(tmp_path: Path) -> None:
    main, own = tmp_path / "main", tmp_path / "own"
    store = open_blobs(BusSettings(nats_url="nats://127.0.0.1", blobs=str(main), reward_blobs=str(own)))
    for key in ("tenant-1/reward/x", "reward/tenant-1/x", "rewards/x"):
        await store.put(key, key.encode())
        assert await store.get(key) == key.encode()
        assert (own if key == "reward/tenant-1/x" else main).joinpath(key).exists()
    assert await store.under("reward") == ["reward/tenant-1"] and await store.under("tenant-1/reward")
    for root, there in ((main, "reward/tenant-1/x"), (own, "tenant-1/reward/x")):
        assert not root.joinpath(there).exists()
    await store.delete("reward/tenant-1/x")
    assert await store.under("reward") == []
    await store.close()


def test_other_stores_are_not_served(tmp_path: Path) -> None:
    assert isinstance(opened(str(tmp_path / "x"), tmp_path), FolderBlobs)
    with pytest.raises(ValueError, match="neither a folder nor s3://"):
        opened("gs://bucket", tmp_path)
