"""Blobs appear whole, never change, and stay inside their store."""

import asyncio
import os
from pathlib import Path

import pytest

from events.blobs import FolderBlobs
from events.failure import NotFound


def filled(blobs: FolderBlobs, **files: bytes) -> Path:
    folder = blobs.staging()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


async def test_a_reader_never_sees_half_a_blob(blobs: FolderBlobs) -> None:
    whole = os.urandom(3_000_000)
    seen: list[bytes] = []

    async def watch() -> None:
        while not seen:
            try:
                seen.append(await blobs.get("t/large"))
            except NotFound:
                await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(blobs.put("t/large", whole) for _ in range(4)))
    await watching
    assert seen == [whole]
    assert list((blobs._root / "aside").iterdir()) == []


async def test_a_write_that_fails_leaves_nothing_behind(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            await blobs.put("t/a", b"data")
    assert list((blobs._root / "aside").iterdir()) == []
    with pytest.raises(NotFound):
        await blobs.get("t/a")
    await blobs.put("t/a", b"data")
    assert await blobs.get("t/a") == b"data"


async def test_a_folder_is_moved_in_once(blobs: FolderBlobs) -> None:
    assert await blobs.put_folder("t/run/w/1", filled(blobs, a=b"12", b=b"345")) == 5
    again = filled(blobs, a=b"99", b=b"999")
    assert await blobs.put_folder("t/run/w/1", again) == 5
    assert not again.exists()
    async with blobs.folder("t/run/w/1") as folder:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a": b"12", "b": b"345"}


async def test_what_was_deleted_is_gone_without_a_trace(blobs: FolderBlobs) -> None:
    await blobs.put_folder("t/run/w/1", filled(blobs, a=b"12"))
    await blobs.put("t/a", b"x")
    await blobs.delete("t/run/w/1")
    await blobs.delete("t/run/w/1")
    await blobs.delete("t/a")
    with pytest.raises(NotFound):
        await blobs.files("t/run/w/1")
    with pytest.raises(NotFound):
        await blobs.get("t/a")
    assert list((blobs._root / "aside").iterdir()) == []
    assert [path.name for path in blobs._root.iterdir()] == ["aside"], "no folder is left that is empty"


async def test_a_folder_is_deleted_by_several_at_once(blobs: FolderBlobs) -> None:
    for number in range(20):
        key = f"t/run/{number}"
        await blobs.put_folder(key, filled(blobs, a=b"1", b=b"2"))
        await asyncio.gather(*(blobs.delete(key) for _ in range(4)))
        assert [path.name for path in blobs._root.iterdir()] == ["aside"]
        assert list((blobs._root / "aside").iterdir()) == []


async def test_blobs_come_and_go_in_one_folder_at_once(blobs: FolderBlobs) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(30):
            await blobs.put(f"t/deep/er/{number}", b"%d" % number)
            await blobs.put_folder(f"t/deep/er/{number}-folder", filled(blobs, a=b"x"))
            assert await blobs.get(f"t/deep/er/{number}") == b"%d" % number
            await blobs.delete(f"t/deep/er/{number}")
            await blobs.delete(f"t/deep/er/{number}-folder")

    await asyncio.gather(*(come_and_go(number) for number in range(4)))
    assert [path.name for path in blobs._root.iterdir()] == ["aside"]


async def test_a_folder_may_go_when_it_has_just_been_found_to_be_there(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put("t/day/a", b"a")
    make = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        try:
            make(path, mode)
        except FileExistsError:
            monkeypatch.undo()
            blobs._delete(blobs._path("t/day/a"))
            raise

    monkeypatch.setattr(os, "mkdir", mkdir)
    await blobs.put("t/day/b", b"b")
    assert await blobs.get("t/day/b") == b"b"


async def test_a_blob_may_go_when_it_has_just_come(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = Path.rename

    def rename(path: Path, place: Path) -> Path:
        moved = move(path, place)
        monkeypatch.undo()
        blobs._delete(place)
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    await blobs.put("t/day/a", b"a")
    assert [path.name for path in blobs._root.iterdir()] == ["aside"]


async def test_a_link_does_not_lead_out_of_the_store(blobs: FolderBlobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (blobs._root / "link").symlink_to(secret)
    with pytest.raises(AssertionError, match="leaves the store"):
        await blobs.get("link")
