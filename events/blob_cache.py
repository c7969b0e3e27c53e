"""Local copies of folders that a remote store holds, and folders of what is about to be stored.

Promises: readers of the same folder share one copy and one download; a copy appears whole, and stays while somebody
holds it. Copies that nobody holds go, the least recently used first, as soon as all of them together pass the limit.
Each process has a folder of its own and a lock on it: what those that died have left behind goes when the next one
begins. Knows nothing of the store. Belongs to one event loop.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

Fetch = Callable[[Path], Awaitable[None]]
"""Fills an empty folder."""


@dataclass(eq=False, slots=True)
class _Copy:
    size: int
    filling: "asyncio.Task[Path]"
    holders: int = 0


class BlobCache:
    """Copies of at most `limit` bytes together, unless more are held at once."""

    def __init__(self, root: Path, limit: int) -> None:
        """Raises OSError when `root` can be no folder of ours."""
        self._limit = limit
        self._own, lock = _claim(root)
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        """The least recently used first."""
        self.close = weakref.finalize(self, _leave, self._own, lock, os.getpid())
        """Removes it all; called by nobody, it happens at the end of the process."""

    @contextlib.asynccontextmanager
    async def hold(self, name: str, size: int, fetch: Fetch) -> AsyncIterator[Path]:
        """A folder that stays for the block, at the same path each time. Raises what `fetch` raises.

        name: of what is in it, which never changes. size: of its files together, in bytes.
        """
        copy = self._copies.get(name)
        if copy is None:
            self._make_room(size)
            copy = self._copies[name] = _Copy(size, asyncio.create_task(self._fill(name, fetch)))
            copy.filling.add_done_callback(partial(self._filled, name, copy))
        self._copies.move_to_end(name)
        copy.holders += 1
        try:
            yield await asyncio.shield(copy.filling)
        finally:
            copy.holders -= 1
            self._make_room(0)

    def forget(self, key: str) -> None:
        """Remove the copies whose names begin with `key/`, but for those that are held."""
        for name, copy in list(self._copies.items()):
            if name.startswith(f"{key}/") and _is_idle(copy):
                self._drop(name)

    def staging(self, work: str = "") -> Path:
        """A fresh folder, beside the copies; one of the same `work` that was left goes."""
        if work:
            for left in self._own.glob(f"new.{work}.*"):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"new.{work}.", dir=self._own))

    async def _fill(self, name: str, fetch: Fetch) -> Path:
        folder = self.staging()
        try:
            await fetch(folder)
            return folder.rename(self._place(name))
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise

    def _filled(self, name: str, copy: _Copy, filling: "asyncio.Task[Path]") -> None:
        failed = filling.cancelled() or filling.exception() is not None
        if failed and self._copies.get(name) is copy:
            del self._copies[name]

    def _make_room(self, size: int) -> None:
        """Drop what nobody holds until `size` more bytes fit, or nothing is left to be dropped."""
        for name, copy in list(self._copies.items()):
            if sum(one.size for one in self._copies.values()) + size <= self._limit:
                return
            if _is_idle(copy):
                self._drop(name)

    def _drop(self, name: str) -> None:
        del self._copies[name]
        shutil.rmtree(self._place(name), ignore_errors=True)

    def _place(self, name: str) -> Path:
        return self._own / hashlib.sha256(name.encode()).hexdigest()[:32]


def _is_idle(copy: _Copy) -> bool:
    return copy.holders == 0 and copy.filling.done()


def _claim(root: Path) -> tuple[Path, int]:
    """A folder of our own below `root`, and the descriptor of its lock; those whose processes have died go."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not {root.stat().st_uid, root.lstat().st_uid} <= {0, os.getuid()}:  # nor a link that others have laid
        raise PermissionError(f"blob_cache: {str(root)!r} belongs to somebody else")
    with _locked(root / "lock"):
        for folder in (path for path in root.iterdir() if path.is_dir()):
            with (
                contextlib.suppress(BlockingIOError, FileNotFoundError),
                _locked(folder / "lock", fcntl.LOCK_NB),
            ):
                shutil.rmtree(folder, ignore_errors=True)
        own = Path(tempfile.mkdtemp(dir=root))
        return own, _lock(own / "lock", fcntl.LOCK_NB)


def _leave(own: Path, lock: int, pid: int) -> None:
    if os.getpid() == pid:  # not a child that was forked
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _locked(path: Path, how: int = 0) -> Iterator[None]:
    """Raises BlockingIOError, where asked not to wait, while another has it."""
    handle = _lock(path, how)
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, how: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except BaseException:
        os.close(handle)
        raise
    return handle
