"""Which addresses this server asks on behalf of a tenant: those of the public internet, and those it was told.

A name is resolved once, all of its addresses are checked, and a connection goes to the very address that was
checked, so that a name which resolves to something else a moment later gains nothing. Names are checked by what
they resolve to, never by how they are written.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import httpcore

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) → its addresses, as text. Raises OSError."""

UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is routed on the internet."""
ODD = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's metadata, at an address that looks like any other
            "192.0.0.0/24",  # of protocols; at one of them another cloud's metadata
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # of protocols: Teredo, which carries an IPv4 address, among them
            "2002::/16",  # 6to4, which carries one too
            "3fff::/20",  # for documentation
        ),
    )
)
"""Not on the internet, or only on the way to somewhere else, though not marked so by all versions of `ipaddress`."""


class Refused(Exception):
    """The address is not one that this server asks."""


def is_public(address: Address) -> bool:
    """Whether it is an ordinary address of the internet; mapped, translated and tunnelled ones are not."""
    if isinstance(address, IPv6Address) and address not in UNICAST:
        return False
    if any(address.version == network.version and address in network for network in ODD):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """By the system. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


@dataclass(frozen=True, slots=True)
class Pattern:
    """Hosts that may be asked, e.g. of `10.0.0.0/8`, `*.rewards.svc:8080` or `[::1]`."""

    host: str
    network: Network | None
    """None: names are meant, as URLs write them."""
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """`HOST[:PORT]`; HOST is an address, a network, or a name with `*`. Raises ValueError."""
        host, colon, port = text.strip().lower().rpartition(":")
        if not colon or not port.isdigit():
            host, port = text.strip().lower(), ""
        host = host.removeprefix("[").removesuffix("]")
        if not host:
            raise ValueError(f"{text!r}: expected HOST[:PORT]")
        try:
            return cls(host, ipaddress.ip_network(host), int(port) if port else None)
        except ValueError:
            return cls(host, None, int(port) if port else None)

    def names(self, host: str, port: int) -> bool:
        """Whether it means a host by the name in the URL."""
        return self._port(port) and fnmatchcase(host.lower().rstrip("."), self.host)

    def holds(self, address: Address, port: int) -> bool:
        """Whether it means an address."""
        network = self.network
        return network is not None and self._port(port) and address in network

    def _port(self, port: int) -> bool:
        return self.port is None or self.port == port


class Guard:
    """Checks hosts before they are connected to."""

    def __init__(self, allowed: Iterable[str] = (), resolve: Resolve = resolve) -> None:
        """`allowed`: hosts that may be asked though they are not public. Raises ValueError."""
        self._allowed = [Pattern.parse(one) for one in allowed]
        self._resolve = resolve

    async def addresses(self, host: str, port: int) -> list[str]:
        """What to connect to. Raises Refused, if only one of them may not be asked, or OSError."""
        found = await self._resolve(host, port)
        if not any(pattern.names(host, port) for pattern in self._allowed):
            for text in found:
                self._check(host, port, text)
        return found

    def _check(self, host: str, port: int, text: str) -> None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise Refused(f"{host} has an address that cannot be read") from None
        scoped = isinstance(address, IPv6Address) and address.scope_id is not None
        if is_public(address) and not scoped:
            return
        if not any(pattern.holds(address, port) for pattern in self._allowed):
            # not the address itself: whoever asks shall not learn names of the inside
            raise Refused(f"{host} is not public, and the server's outside_hosts do not name it")


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that a guard has checked, and to nothing else."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises Refused, or httpcore.ConnectError."""
        try:
            addresses = await self._guard.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error.strerror or error}") from error
        return await self._first(addresses, port, timeout, local_address, socket_options)

    async def _first(self, addresses: Sequence[str], port: int, *options: Any) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, *options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
