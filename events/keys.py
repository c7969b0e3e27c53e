"""Who holds which API key: keys open the edges, each for one tenant.

Only sha256 sums of keys are known here. They come from two places: `api_keys`, whose holders are the tenant of this
machine, and a file that names a tenant for each, as a cluster mounts it from a Secret. The file is read again when it
changes, so that a key is given or taken back without a restart; one that cannot be read changes nothing.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import structlog
from pydantic import ValidationError

from rekindle.types.keys import KEYS, key_digest

log = structlog.get_logger(__name__)

LOCAL_TENANT = "local"
"""Whose everything is where nobody is told apart."""


class Keyring:
    """Names the tenant of a key."""

    def __init__(self, hashes: Iterable[str], path: Path | None) -> None:
        """`hashes`: of the local tenant's keys. `path`: JSON list of ApiKey. Raises OSError or ValueError."""
        self._own = dict.fromkeys(hashes, LOCAL_TENANT)
        self._path = path
        self._seen = None if path is None else _state(path)
        self._filed = {} if path is None else _read(path)

    def __bool__(self) -> bool:
        """Whether keys are asked for; a file that names none admits nobody."""
        return bool(self._own) or self._path is not None

    def tenant_of(self, key: str) -> str | None:
        """None for a key that nobody holds; the empty one is none, though the sum of an unset variable be listed."""
        if not key:
            return None
        self._look_again()
        # Sums are compared, so the time that a look-up takes says nothing about the key.
        found = key_digest(key)
        return self._own.get(found) or self._filed.get(found)

    def _look_again(self) -> None:
        if self._path is None:
            return
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state  # one that is wrong is told of once, however many ask
        try:
            self._filed = _read(self._path)
        except (OSError, ValueError) as error:
            log.error("keys.unreadable", path=str(self._path), error=str(error))
        else:
            log.info("keys.read", path=str(self._path), keys=len(self._filed))


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes with the file, its rights included; None where it cannot be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_ino, found.st_size


def _read(path: Path) -> dict[str, str]:
    try:
        keys = KEYS.validate_json(path.read_bytes())
    except ValidationError as error:
        mistake = error.errors()[0]
        where = ".".join(map(str, mistake["loc"])) or "file"
        raise ValueError(f"{path}: {where}: {mistake['msg']}") from error
    return {key.hash: key.tenant for key in keys}
