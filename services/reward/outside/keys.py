"""Secrets that this server holds for asking others: variables `REKINDLE_KEY_<NAME>`, and where each may be sent.

A tenant names a key and an address; a key that went to whatever address is named with it would be everybody's. So it
goes to the hosts that `outside_key_hosts` names for it, and to no other.
"""

import os
from collections.abc import Mapping, MutableMapping, Sequence

from pydantic import SecretStr

from events.outside import Pattern

PREFIX = "REKINDLE_KEY_"
ANY = "*"
"""Keys that are not named."""


def take(environment: MutableMapping[str, str] = os.environ) -> dict[str, SecretStr]:
    """The keys by name. They leave the environment: what this process starts does not inherit them."""
    names = [name for name in environment if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): SecretStr(environment.pop(name).strip()) for name in names}


class Withheld(Exception):
    """There is no such key, or it may not be sent there."""


class Keys:
    """Gives a key for a host."""

    def __init__(self, held: Mapping[str, SecretStr], hosts: Mapping[str, Sequence[str]]) -> None:
        """`hosts`: patterns `HOST[:PORT]` by name of key, `*` for keys that are not named. Raises ValueError."""
        self._held = held
        self._hosts = {name: [Pattern.parse(one) for one in found] for name, found in hosts.items()}

    def secret(self, name: str, host: str, port: int) -> str:
        """Raises Withheld."""
        if name not in self._held:
            raise Withheld(
                f"the server holds no key {name}: {PREFIX}{name} is not set for the reward service"
            )
        patterns = self._hosts.get(name, self._hosts.get(ANY, []))
        if not any(pattern.names(host, port) for pattern in patterns):
            raise Withheld(f"the key {name} may not be sent to {host}:{port}: see outside_key_hosts")
        return self._held[name].get_secret_value()
