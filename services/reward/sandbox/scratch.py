"""Scratch folders: made fresh, measured while a guest lives, removed whatever it did to them.

Guests nest folders deeper than a path can be long, take all rights from them, and lay links. So nothing here follows
a link, and removal needs neither long paths nor recursion: each folder found is first moved up to the top.
"""

import asyncio
import os
import secrets
import shutil
import tempfile

BLOCK_BYTES = 512
MOST_ENTRIES = 4096
"""Files and folders in one scratch folder; more are not counted but taken for too much."""


class Scratch:
    """The folder in which all those of one sandbox lie. Others may pass through it, but not look around in it."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="rekindle-sandbox-")
        os.chmod(self.path, 0o711)

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
        path = os.path.join(self.path, "shared")
        if not os.path.exists(path):
            os.mkdir(path)
            os.chmod(path, 0o777)
        return path

    async def clear(self, path: str) -> None:
        """Remove a folder that was made here; in a thread if there is much to do."""
        if path.endswith("shared"):
            return
        if not remove_empty(path):
            await asyncio.to_thread(remove, path)

    def close(self) -> None:
        shutil.rmtree(self.path)


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
    """Whether at most `most` bytes of disk are in use in `path`, as far as names lead; False if that cannot be told.

    It cannot where a path is too long, a folder is closed or there are too many entries.
    """
    used = entries = 0
    waiting = [path]
    while waiting:
        try:
            for entry in os.scandir(waiting.pop()):
                entries += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    used += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                if entries > MOST_ENTRIES or used > most:
                    return False
        except FileNotFoundError:  # removed meanwhile
            entries += 1
        except OSError:
            return False
    return True
