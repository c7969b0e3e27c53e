"""A folder in a bucket is there or not, whoever dies over it; a store that is away says so."""

import asyncio
import contextlib
import os
import socket
import uuid
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from events import s3_blobs
from events.blob_cache import BlobCache
from events.edge import add_error_answers
from events.failure import BlobsUnavailable, NotFound
from events.s3_blobs import MANIFEST, S3Blobs, UnfitStore
from events.stored_file import StoredFile
from tests.s3_server import Bucket, Fault


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def blobs(bucket: Bucket, tmp_path: Path, prefix: str) -> S3Blobs:
    return another(tmp_path, prefix)


def another(tmp_path: Path, prefix: str) -> S3Blobs:
    """As another process has it."""
    return S3Blobs(f"s3://blobs/{prefix}", BlobCache(tmp_path / "cache", 10_000_000), patience=0.3)


def filled(blobs: S3Blobs, **files: bytes) -> Path:
    folder = blobs.staging()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


async def test_a_folder_whose_writer_died_before_the_manifest_is_not_there(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "refuse", lambda method, key: method == "PUT" and key.endswith(MANIFEST))
        with pytest.raises(BlobsUnavailable):
            await blobs.put_folder("t/run/1", filled(blobs, a=b"1", b=b"2"))
    assert len([key for key in bucket.objects if key.startswith(f"{prefix}/t/run/1/")]) == 2
    for one in (blobs, another(tmp_path, prefix)):
        with pytest.raises(NotFound):
            await one.files("t/run/1")
        assert await one.under("t/run") == ["t/run/1"], "who tidies up must find it"

    await blobs.put_folder("t/run/1", filled(blobs, a=b"3"))
    async with another(tmp_path, prefix).folder("t/run/1") as folder:
        assert (folder / "a").read_bytes() == b"3"
    await blobs.delete("t/run/1")
    assert not [key for key in bucket.objects if key.startswith(prefix)], (
        "what the dead writer left goes, too"
    )


async def test_a_folder_whose_deletion_was_cut_short_is_not_there(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"1"))
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "refuse", lambda method, key: method == "DELETE" and key.endswith("/a"))
        with pytest.raises(BlobsUnavailable):
            await blobs.delete("t/f")
    with pytest.raises(NotFound):
        await another(tmp_path, prefix).files("t/f")
    await blobs.delete("t/f")
    assert not [key for key in bucket.objects if key.startswith(prefix)]


async def test_a_folder_that_lacks_a_file_is_not_found_and_no_copy_stays(
    bucket: Bucket, blobs: S3Blobs, prefix: str
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"1", b=b"2"))
    del bucket.objects[next(key for key in bucket.objects if key.startswith(prefix) and key.endswith("/b"))]
    for _ in range(2):
        with pytest.raises(NotFound):
            async with blobs.folder("t/f"):
                pass


async def test_readers_at_once_share_one_download(bucket: Bucket, blobs: S3Blobs) -> None:
    await blobs.put_folder("t/f", filled(blobs, shared=b"1"))
    before = bucket.count("GET", "/shared")

    async def read() -> Path:
        async with blobs.folder("t/f") as folder:
            assert (folder / "shared").read_bytes() == b"1"
            return folder

    assert len(set(await asyncio.gather(*(read() for _ in range(20))))) == 1
    assert bucket.count("GET", "/shared") - before == 1


async def test_of_several_writers_of_a_folder_one_wins_whole_and_the_others_leave_nothing(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str
) -> None:
    other = another(tmp_path, prefix)
    writers = [blobs, other] * 3
    await asyncio.gather(
        *(
            one.put_folder("t/f", filled(one, a=b"%d" % number, b=b"%d" % number))
            for number, one in enumerate(writers)
        )
    )
    async with another(tmp_path, prefix).folder("t/f") as folder:
        assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert len([key for key in bucket.objects if key.startswith(f"{prefix}/t/f/")]) == 3, (
        "the losers' are gone"
    )


async def test_large_files_go_in_parts_and_come_in_ranges(bucket: Bucket, blobs: S3Blobs) -> None:
    data = os.urandom(9 * 1024 * 1024)
    await blobs.put_folder("t/f", filled(blobs, large=data))
    assert bucket.count("POST", "/large") == 2 and not bucket.parts
    async with blobs.folder("t/f") as folder:
        assert (folder / "large").read_bytes() == data
    assert bucket.count("GET", "/large") == 2


async def test_a_store_that_is_away_is_said_to_be(
    tmp_path: Path, bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        blobs = another(tmp_path, prefix)
        left = filled(blobs, a=b"1")
        said = await asyncio.gather(
            blobs.put("t/a", b"1"),
            blobs.get("t/a"),
            blobs.put_folder("t/f", left),
            blobs.files("t/f"),
            blobs.under("t"),
            blobs.delete("t/a"),
            return_exceptions=True,
        )
        assert [type(error) for error in said] == [BlobsUnavailable] * 6
        assert not left.exists(), "a disk must not fill while the store is away"


async def test_a_bucket_that_does_not_exist_takes_nothing_and_knows_nothing_of_what_is_gone(
    bucket: Bucket, tmp_path: Path
) -> None:
    blobs = S3Blobs("s3://other", BlobCache(tmp_path / "cache", 1000), patience=0.3)
    for attempt in (
        blobs.put("t/a", b"1"),
        blobs.put_folder("t/f", filled(blobs, a=b"1")),
        blobs.get("t/a"),
        blobs.files("t/f"),
        blobs.under("t"),
        blobs.delete("t/a"),
    ):
        with pytest.raises(BlobsUnavailable, match="the bucket does not exist"):
            await attempt


async def test_a_put_whose_answer_is_lost_is_one_put(
    bucket: Bucket, blobs: S3Blobs, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def once(method: str, target: str) -> Fault | None:
        if method != "PUT" or target in lost:
            return None
        lost.append(target)
        return "lost"

    monkeypatch.setattr(bucket, "fault", once)
    with contextlib.suppress(BlobsUnavailable):  # one that stands may be said not to
        await blobs.put("t/a", b"1")
    await blobs.put("t/a", b"2")
    assert await blobs.get("t/a") == b"1"
    await blobs.delete("t/a")
    with contextlib.suppress(BlobsUnavailable):
        await blobs.put_folder("t/f", filled(blobs, a=b"1"))
    await blobs.put_folder("t/f", filled(blobs, a=b"1"))
    assert len(lost) > 2
    async with blobs.folder("t/f") as folder:
        assert (folder / "a").read_bytes() == b"1"


async def test_a_folder_that_was_known_and_deleted_by_others_is_put_whole_though_the_answer_is_lost(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"old"))
    assert await blobs.files("t/f") == ["a"]
    await another(tmp_path, prefix).delete("t/f")
    create = S3Blobs._create

    async def unheard(self: S3Blobs, path: str, data: bytes) -> bool:
        await create(self, path, data)
        return False  # as it is when the library asks again

    with monkeypatch.context() as patch:
        patch.setattr(S3Blobs, "_create", unheard)
        await blobs.put_folder("t/f", filled(blobs, a=b"new"))
    for one in (blobs, another(tmp_path, prefix)):
        async with one.folder("t/f") as folder:
            assert (folder / "a").read_bytes() == b"new"


async def test_a_conflict_with_a_deletion_is_no_blob(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "fault", lambda method, target: "conflict" if method == "PUT" else None)
        with pytest.raises(BlobsUnavailable):
            await blobs.put("t/a", b"1")
    await blobs.put("t/a", b"1")
    assert await blobs.get("t/a") == b"1"


async def test_a_store_that_puts_over_what_stands_is_refused(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "fault", lambda method, target: "deaf")
    with pytest.raises(UnfitStore, match="conditional writes"):
        await blobs.put("t/a", b"1")


async def test_what_the_store_says_is_told(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "fault", lambda method, target: "skewed")
    for attempt in (blobs.put("t/a", b"1"), blobs.get("t/a"), blobs.under("t")):
        with pytest.raises(BlobsUnavailable, match="RequestTimeTooSkewed"):
            await attempt


async def test_a_busy_store_is_asked_again(
    bucket: Bucket, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = S3Blobs(f"s3://blobs/{prefix}", BlobCache(tmp_path / "cache", 1000))
    asked: set[str] = set()

    def first_time(method: str, target: str) -> Fault | None:
        known = f"{method} {target}" in asked
        asked.add(f"{method} {target}")
        return None if known else "busy"

    monkeypatch.setattr(bucket, "fault", first_time)
    await blobs.put("t/a", b"1")
    assert await blobs.get("t/a") == b"1" and await blobs.under("t") == ["t/a"]
    await blobs.delete("t/a")
    assert not [key for key in bucket.objects if key.startswith(prefix)]


async def test_a_body_that_is_cut_short_is_no_blob(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put("t/a", b"0123456789")
    await blobs.put_folder("t/f", filled(blobs, a=b"0123456789"))
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "fault", lambda method, target: "cut" if method == "GET" else None)
        with pytest.raises(BlobsUnavailable):
            await blobs.get("t/a")
        with pytest.raises(BlobsUnavailable):
            async with blobs.folder("t/f"):
                pass
    async with blobs.folder("t/f") as folder:
        assert (folder / "a").read_bytes() == b"0123456789"


async def test_a_large_blob_is_put_once_too(bucket: Bucket, blobs: S3Blobs) -> None:
    data = os.urandom(12 * 1024 * 1024)
    await blobs.put("t/large", data)
    await blobs.put("t/large", b"late")
    assert await blobs.get("t/large") == data


async def test_an_upload_that_fails_leaves_no_parts(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            bucket,
            "fault",
            lambda method, target: "conflict" if method == "PUT" and "partNumber" in target else None,
        )
        with pytest.raises(BlobsUnavailable):
            await blobs.put_folder("t/f", filled(blobs, large=bytes(9 * 1024 * 1024)))
    assert not bucket.parts


async def test_an_upload_whose_end_was_not_heard_is_no_missing_blob(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            bucket,
            "fault",
            lambda method, target: "lost" if method == "POST" and target.endswith("?uploadId") else None,
        )
        with pytest.raises(BlobsUnavailable):
            await blobs.put_folder("t/f", filled(blobs, large=bytes(9 * 1024 * 1024)))
    await blobs.put_folder("t/f", filled(blobs, large=bytes(9 * 1024 * 1024)))
    assert await blobs.files("t/f") == ["large"]


async def test_a_file_of_any_size_has_no_more_parts_than_a_store_takes(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_blobs, "MOST_PARTS", 2)
    data = os.urandom(20 * 1024 * 1024)
    await blobs.put_folder("t/f", filled(blobs, huge=data))
    assert bucket.count("PUT", "/huge") <= 2
    async with blobs.folder("t/f") as folder:
        assert (folder / "huge").read_bytes() == data


async def test_a_disk_that_takes_a_part_only_is_asked_for_the_rest(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"0123456789"))
    write = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, data, place: write(handle, data[:3], place))
        async with blobs.folder("t/f") as folder:
            assert (folder / "a").read_bytes() == b"0123456789"


async def test_a_file_that_is_read_in_place_is_not_copied_and_may_go(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path
) -> None:
    data = os.urandom(3 * 1024 * 1024)
    await blobs.put_folder("t/f", filled(blobs, large=data, small=b"0123456789"))
    async with blobs.file("t/f", "large") as file:
        assert await asyncio.to_thread(file.read) == data
    assert not list((tmp_path / "cache").glob("*/*/large")), "nothing is copied"
    async with blobs.file("t/f", "small") as file:
        await blobs.delete("t/f")
        with pytest.raises(NotFound):
            await asyncio.to_thread(file.read)
    with pytest.raises(NotFound):
        async with blobs.file("t/f", "small"):
            pass


def test_an_answer_is_a_file_of_the_store(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(blobs.put_folder("t/f", filled(blobs, data=b"0123456789", empty=b"")))
    app = FastAPI()
    add_error_answers(app)

    @app.get("/{name}")
    async def get(name: str) -> StoredFile:
        return StoredFile(blobs, "t/f", name, called="called.bin")

    with TestClient(app) as client:
        whole = client.get("/data")
        assert whole.content == b"0123456789" and "called.bin" in whole.headers["content-disposition"]
        part = client.get("/data", headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert part.headers["content-range"] == "bytes 2-4/10"
        for wanted, found in (("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")):
            assert client.get("/data", headers={"Range": wanted}).content == found
        for ignored in ("bytes=1-2,4-5", "bytes=5-2", "lines=1-2", "bytes=-"):
            assert client.get("/data", headers={"Range": ignored}).content == b"0123456789"
        past = client.get("/data", headers={"Range": "bytes=10-"})
        assert (past.status_code, past.headers["content-range"]) == (416, "bytes */10")
        for tag, length in ((whole.headers["etag"], 3), ('"another"', 10)):
            assert len(client.get("/data", headers={"Range": "bytes=2-4", "If-Range": tag}).content) == length
        assert client.get("/none").status_code == 404
        assert client.get("/empty").content == b""
        monkeypatch.setattr(bucket, "refuse", lambda method, key: True)
        blobs._manifests.clear()
        away = client.get("/data")
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
