"""Copies appear whole, stay while they are held, and together keep to a limit."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from events.blob_cache import BlobCache

Fetch = Callable[[Path], Awaitable[None]]


class Source:
    """Ten bytes under any name; counts who asks."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    def of(self, name: str) -> Fetch:
        async def fetch(into: Path) -> None:
            self.fetched.append(name)
            self.begun.set()
            (into / "half").write_bytes(b"01234")
            await self.go_on.wait()
            (into / "half").rename(into / "whole")

        return fetch


def found(folder: Path, name: str) -> int:
    """Files of that name, anywhere below."""
    return len(list(folder.rglob(name)))


async def touch(cache: BlobCache, source: Source, *names: str) -> None:
    for name in names:
        async with cache.hold(name, 10, source.of(name)) as folder:
            assert [path.name for path in folder.iterdir()] == ["whole"]


async def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 30), Source()
    await touch(cache, source, "a", "b", "c", "a", "d")
    await touch(cache, source, "a", "c", "d")
    assert source.fetched == ["a", "b", "c", "d"], "b alone had to go"
    await touch(cache, source, "b")
    assert source.fetched[-1] == "b"
    assert found(tmp_path, "whole") == 3


async def test_what_is_held_stays_beyond_the_limit(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 10), Source()
    async with cache.hold("a", 10, source.of("a")) as first, cache.hold("b", 10, source.of("b")) as second:
        await touch(cache, source, "c")
        cache.forget("a")
        assert (first / "whole").exists() and (second / "whole").exists()
    assert found(tmp_path, "whole") == 1


async def test_one_fetches_for_all_who_ask_meanwhile(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 10), Source()
    source.go_on.clear()
    readers = [asyncio.create_task(touch(cache, source, "a")) for _ in range(5)]
    await asyncio.sleep(0)
    readers.pop().cancel()
    source.go_on.set()
    await asyncio.gather(*readers)
    assert source.fetched == ["a"]


async def test_who_gives_up_takes_the_download_from_nobody(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 10), Source()
    source.go_on.clear()
    first = asyncio.create_task(touch(cache, source, "a"))
    await source.begun.wait()
    second = asyncio.create_task(touch(cache, source, "a"))
    first.cancel()
    await asyncio.wait({first})
    source.go_on.set()
    await second
    assert source.fetched == ["a"]


async def test_a_download_that_failed_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 10), Source()

    async def broken(into: Path) -> None:
        (into / "half").write_bytes(b"01")
        raise OSError("no space left on device")

    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            async with cache.hold("a", 10, broken):
                pass
    assert not found(tmp_path, "half")
    await touch(cache, source, "a")


async def test_what_was_deleted_is_forgotten(tmp_path: Path) -> None:
    cache, source = BlobCache(tmp_path, 100), Source()
    await touch(cache, source, "t/a/1", "t/ab/1")
    cache.forget("t/a")
    await touch(cache, source, "t/ab/1", "t/a/1")
    assert source.fetched == ["t/a/1", "t/ab/1", "t/a/1"]


def test_what_a_dead_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    dying = (
        "import os, sys\nfrom pathlib import Path\nfrom events.blob_cache import BlobCache\n"
        "cache = BlobCache(Path(sys.argv[1]), 10)\n"
        "(cache.staging('work') / 'left').touch()\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=True)
    assert found(tmp_path, "left")
    living = BlobCache(tmp_path, 10)
    (living.staging() / "kept").touch()
    BlobCache(tmp_path, 10)
    assert not found(tmp_path, "left") and found(tmp_path, "kept")


@pytest.mark.parametrize("closed", [True, False])
def test_who_ends_leaves_nothing(tmp_path: Path, closed: bool) -> None:
    cache = BlobCache(tmp_path, 10)
    (cache.staging() / "left").touch()
    if closed:
        cache.close()
    del cache
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
