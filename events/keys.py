"""Who holds which API key: keys open the edges, each for one tenant.

Only sha256 sums of keys are known here. They come from two places: `api_keys`, whose holders are the tenant of this
machine, and a file that names a tenant for each, as a cluster mounts it from a Secret. The file is read again when it
changes, so that a key is given or taken back without a restart; one that cannot be read changes nothing.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from events.records import EVERYONE

log = structlog.get_logger(__name__)

LOCAL_TENANT = "local"
"""Whose everything is where nobody is told apart."""
TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
SUM = re.compile(r"[0-9a-f]{64}")


class ApiKey(BaseModel):
    """One key and its holder. Example: ApiKey(hash="9f86…", tenant="vision-lab", name="ci")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str
    """sha256 of the key, 64 hex digits."""
    tenant: str
    """Whose runs, datasets and checkpoints it opens: 1 to 40 of a-z, 0-9 and `-`."""
    name: str = ""
    """For people."""

    @field_validator("hash")
    @classmethod
    def _is_sum(cls, value: str) -> str:
        if not SUM.fullmatch(value):
            raise ValueError("expected 64 hex digits, the sha256 of the key")
        return value

    @field_validator("tenant")
    @classmethod
    def _is_tenant(cls, value: str) -> str:
        if not TENANT.fullmatch(value) or value == EVERYONE:
            raise ValueError(f"{value!r}: expected 1 to 40 of a-z, 0-9 and -, and not {EVERYONE!r}")
        return value


KEYS = TypeAdapter(list[ApiKey])


def sum_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


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
        found = sum_of(key)
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
