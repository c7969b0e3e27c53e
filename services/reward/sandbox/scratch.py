"""Scratch folders: made fresh, measured while a guest lives, removed whatever it did to them.

Guests nest folders deeper than a path can be long, take all rights from them, and lay links. So nothing here follows
a link, and removal needs neither long paths nor recursion: each folder found is first moved up to the top.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from events import names

BLOCK_BYTES = 512
MOST_ENTRIES = 4096
"""Files and folders in one scratch folder; more are not counted but taken for too much."""


class Scratch:
    """The folder in which all those of one sandbox lie. Others may pass through it, but not look around in it."""

    def __init__(self) -> None:
        machine = f"rekindle-sandbox-{names.token(socket.gethostname())}-"
        _sweep(machine)
        self.path = tempfile.mkdtemp(prefix=f"{machine}{os.getpid()}.")
        os.chmod(self.path, 0o711)
        self._shared = os.path.join(self.path, "shared")

    def make(self, owner: int | None, shared: bool = False) -> str:
        """A fresh folder that is only its owner's, with a name that cannot be guessed; or one that all share."""
        if shared:
            return self._make_shared()
        path = os.path.join(self.path, secrets.token_hex(8))
        os.mkdir(path, 0o700)
        if owner is not None:
            os.chown(path, owner, owner)
        return path

    def _make_shared(self) -> str:
        if not os.path.exists(self._shared):
            os.mkdir(self._shared)
            os.chmod(self._shared, 0o777)
        return self._shared

    async def clear(self, path: str) -> None:
        """Remove a folder that was made here and is not shared; in a thread if there is much to do."""
        if path != self._shared and not remove_empty(path):
            await asyncio.to_thread(remove, path)

    async def clear_shared(self) -> None:
        """Remove the folder that all shared, if there is one."""
        await asyncio.to_thread(shutil.rmtree, self._shared, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.path)


def _sweep(machine: str) -> None:
    """Remove what services of this machine have left that were killed. What resists stays: it is in nobody's way."""
    for left in Path(tempfile.gettempdir()).glob(f"{machine}*.*"):
        pid = left.name.removeprefix(machine).partition(".")[0]
        with contextlib.suppress(OSError):  # another may be faster
            if pid.isdigit() and not Path(f"/proc/{pid}").exists() and _is_own_folder(left):
                remove(str(left))


def _is_own_folder(path: Path) -> bool:
    """Anybody may have put something under this name, and a link leads anywhere."""
    state = path.lstat()
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()


def remove_empty(path: str) -> bool:
    """Remove a folder if nothing is in it, as after most runs."""
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def remove(path: str) -> None:
    """Remove a folder that a guest had for its own, and all that is in it. No process may use it any more."""
    os.chmod(path, 0o700)
    moved, waiting = 0, [path]
    while waiting:
        folder = waiting.pop()
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            moved += 1
            up = os.path.join(path, f"{secrets.token_hex(8)}-{moved}")
            os.rename(entry.path, up)
            waiting.append(up)
        if folder != path:
            os.rmdir(folder)
    os.rmdir(path)


def holds(path: str, most: int) -> bool:
    """Whether the files in `path` have at most `most` bytes altogether, as far as names lead.

    False also if that cannot be told: where a path is too long, a folder is closed or there are too many entries.
    """
    used = entries = 0
    waiting = [path]
    try:
        while waiting:
            found = _entries(waiting.pop())
            entries += len(found)
            used += sum(map(_bytes, found))
            if entries >= MOST_ENTRIES or used > most:
                return False
            waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return False
    return True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """So many that there is no need to know of more; none if it has been removed meanwhile."""
    try:
        with os.scandir(folder) as found:
            return list(itertools.islice(found, MOST_ENTRIES))
    except FileNotFoundError:
        return []


def _bytes(entry: os.DirEntry[str]) -> int:
    """Of its content and on the disk, whichever is more; a folder counts for nothing."""
    try:
        state = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return 0 if stat.S_ISDIR(state.st_mode) else max(state.st_size, state.st_blocks * BLOCK_BYTES)
