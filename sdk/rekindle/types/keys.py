"""API keys as a file holds them, and the tenants that they belong to.

Of a key only its sha256 is kept. `rekindle keys` and a cluster's Secret write such files, the edges read them.
"""

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter

EVERYONE = "everyone"
"""Tenant of what all tenants share: nobody's name."""
TENANT_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")


def key_digest(key: str) -> str:
    """What is kept of a key: its sha256, 64 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_tenant(name: str) -> str:
    """The name, if a tenant may have it. Raises ValueError."""
    if not TENANT_PATTERN.fullmatch(name) or name == EVERYONE:
        raise ValueError(f"{name!r}: expected 1 to 40 of a-z, 0-9 and -, and not {EVERYONE!r}")
    return name


def _check_digest(value: str) -> str:
    if not DIGEST_PATTERN.fullmatch(value):
        raise ValueError("expected 64 hex digits, the sha256 of the key")
    return value


class ApiKey(BaseModel):
    """One key and its holder. Example: ApiKey(hash="9f86…", tenant="vision-lab", name="ci")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: Annotated[str, AfterValidator(_check_digest)]
    """sha256 of the key, 64 hex digits."""
    tenant: Annotated[str, AfterValidator(check_tenant)]
    """Whose runs, datasets and checkpoints it opens: 1 to 40 of a-z, 0-9 and `-`."""
    name: str = ""
    """For people."""


KEYS = TypeAdapter(list[ApiKey])
"""The content of a file of keys."""
