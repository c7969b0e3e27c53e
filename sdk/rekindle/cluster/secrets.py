"""Passwords and keys of an installation: made at random once, never changed afterwards.

Of an API key only its sha256 is kept, as services compare it; the key itself is shown to who made it, and to nobody
again. The dispatcher's own key opens services for activations and belongs to no tenant.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from rekindle.cluster.api import Api, Ref
from rekindle.cluster.place import PART_OF
from rekindle.cluster.render import Manifest
from rekindle.types.keys import key_digest

KEYS = "rekindle-keys"
KEY_PREFIX = "tml-"
"""The Tinker SDK sends no key that begins otherwise."""
TENANT = "default"
"""Whom the first key belongs to."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was made. Example: Made(("rekindle-nats", "rekindle-keys"), key="tml-…")."""

    names: tuple[str, ...]
    """Of the secrets that were not there."""
    key: str | None
    """The first API key, which is kept nowhere; None = there are keys already."""


def ensure(
    api: Api, namespace: str, show_key: Callable[[str], None] = lambda key: None, *, dry_run: bool = False
) -> Made:
    """Make the secrets that are missing; those that are there stay as they are, whoever made them.

    `show_key` hears the first API key in the moment in which it is made.
    """
    key = new_key()
    names = []
    for one in _all(namespace, key):
        missing = api.get(Ref.of(one)) is None
        if missing and (dry_run or api.create(one)):
            names.append(one["metadata"]["name"])
            if names[-1] == KEYS and not dry_run:
                show_key(key)
    return Made(tuple(names), key if KEYS in names and not dry_run else None)


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _all(namespace: str, key: str) -> list[Manifest]:
    system = new_key()
    entry = {"hash": key_digest(key), "tenant": TENANT, "name": "first"}
    contents = {
        "rekindle-nats": _nats_user("rekindle"),
        "rekindle-nats-reward": _nats_user("reward"),
        "rekindle-blobs": _pair("rekindle"),
        "rekindle-blobs-reward": _identity("reward"),
        KEYS: {"keys.json": json.dumps([entry])},
        "rekindle-links": {"REKINDLE_EXTERNAL_URLS_SECRET": secrets.token_hex(32)},
        "rekindle-activation": {
            "REKINDLE_ACTIVATION_KEY": system,
            "REKINDLE_SYSTEM_KEYS": json.dumps([key_digest(system)]),
        },
    }
    return [_secret(name, namespace, content) for name, content in contents.items()]


def _nats_user(user: str) -> dict[str, str]:
    # It begins with a letter: NATS' configuration takes 12e3 for a number.
    password = f"p{secrets.token_hex(24)}"
    return {"NATS_USER": user, "NATS_PASSWORD": password, "NATS_URL": f"nats://{user}:{password}@nats:4222"}


def _pair(user: str) -> dict[str, str]:
    """Keys of the store."""
    return {
        "AWS_ACCESS_KEY_ID": f"{user}{secrets.token_hex(6)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(24),
    }


def _identity(user: str) -> dict[str, str]:
    """Keys of somebody who has one bucket, and what the cluster's own store is told of it."""
    pair = _pair(user)
    told = {
        "name": user,
        "credentials": [{"accessKey": pair["AWS_ACCESS_KEY_ID"], "secretKey": pair["AWS_SECRET_ACCESS_KEY"]}],
        "actions": [f"{may}:rekindle-{user}" for may in ("Read", "Write", "List")],
    }
    return pair | {"identities.json": json.dumps({"identities": [told]})}


def _secret(name: str, namespace: str, content: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {PART_OF: "rekindle"}},
        "type": "Opaque",
        "stringData": content,
    }
