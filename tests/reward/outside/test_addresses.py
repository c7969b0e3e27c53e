"""Which addresses are asked, and that what was checked is what is connected to."""

import ipaddress

import httpcore
import pytest
from pydantic import SecretStr

from events.outside import Guard, GuardedNetwork, Pattern, Refused, is_public, resolve
from services.reward.outside.keys import Keys, Withheld, take
from tests.reward.outside.http_server import Server, server

__all__ = ["server"]

# fmt: off
PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "192.88.99.1", "224.0.0.1", "232.1.1.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::1",
    "3fff::1", "4000::1",
]
# fmt: on


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_not_public(text: str):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "172.15.0.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_an_address_of_the_internet_is_public(text: str):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "::1", "::ffff:127.0.0.1"]
)
async def test_loopback_is_refused_however_it_is_written(host: str):
    with pytest.raises(Refused, match="is not public"):
        await Guard().addresses(host, 80)


@pytest.mark.parametrize(
    ("patterns", "host", "port", "found", "admitted"),
    [
        ([], "x.example", 80, ["8.8.8.8"], True),
        ([], "x.example", 80, ["8.8.8.8", "10.0.0.1"], False),
        ([], "x.example", 80, ["not an address"], False),
        ([], "x.example", 80, ["2606:4700::1%eth0"], False),
        (["10.0.0.0/8"], "x.example", 80, ["10.0.0.1"], True),
        (["10.0.0.0/8"], "x.example", 80, ["10.0.0.1", "192.168.0.1"], False),
        (["10.0.0.0/8:8080"], "x.example", 80, ["10.0.0.1"], False),
        (["10.0.0.0/8:8080"], "x.example", 8080, ["10.0.0.1"], True),
        (["[::1]"], "x.example", 80, ["::1"], True),
        (["[::1]:81"], "x.example", 80, ["::1"], False),
        (["127.0.0.0/8"], "x.example", 80, ["::ffff:127.0.0.1"], False),
        (["*.svc"], "judge.svc", 80, ["10.0.0.1"], True),
        (["*.svc"], "JUDGE.SVC.", 80, ["10.0.0.1"], True),
        (["*.svc"], "svc.evil.example", 80, ["10.0.0.1"], False),
        (["judge:8080"], "judge", 8080, ["10.0.0.1"], True),
        (["judge:8080"], "judge", 8081, ["10.0.0.1"], False),
    ],
)
async def test_hosts_are_admitted_by_what_they_resolve_to_or_by_name(
    patterns: list[str], host: str, port: int, found: list[str], admitted: bool
):
    async def resolves(_host: str, _port: int) -> list[str]:
        return found

    guard = Guard(patterns, resolves)
    if admitted:
        assert await guard.addresses(host, port) == found
    else:
        with pytest.raises(Refused):
            await guard.addresses(host, port)


async def test_the_address_that_was_checked_is_the_one_connected_to(server: Server):
    asked = 0

    async def rebinds(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"] if asked == 1 else ["127.0.0.2"]

    network = GuardedNetwork(Guard(["127.0.0.1"], rebinds))
    stream = await network.connect_tcp("rebinding.example", server.port)
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1" and asked == 1
    await stream.aclose()
    with pytest.raises(Refused, match=r"^rebinding\.example is not public"):
        await network.connect_tcp("rebinding.example", server.port)


async def test_addresses_are_tried_in_turn_and_a_host_without_any_is_an_error(server: Server):
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"] if host == "two" else []

    network = GuardedNetwork(Guard(["127.0.0.0/8"], two))
    await (await network.connect_tcp("two", server.port)).aclose()
    with pytest.raises(httpcore.ConnectError, match="no address"):
        await network.connect_tcp("none", server.port)


async def test_the_system_resolves_names():
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]


@pytest.mark.parametrize("text", ["", ":80", " "])
def test_a_pattern_without_a_host_is_refused(text: str):
    with pytest.raises(ValueError, match="HOST"):
        Pattern.parse(text)


def test_keys_leave_the_environment_and_go_only_where_they_may():
    environment = {"REKINDLE_KEY_OPENAI": " sk-1\n", "REKINDLE_KEY_MINE": "sk-2", "PATH": "/bin"}
    held = take(environment)
    assert environment == {"PATH": "/bin"}
    assert "sk-1" not in repr(held) and held["OPENAI"] == SecretStr("sk-1")
    keys = Keys(held, {"OPENAI": ["api.openai.com:443"], "*": ["*.mine"]})
    assert keys.secret("OPENAI", "api.openai.com", 443) == "sk-1"
    assert keys.secret("MINE", "a.mine", 80) == "sk-2"
    for name, host in (
        ("OPENAI", "a.mine"),
        ("OPENAI", "evil.example"),
        ("MINE", "evil.example"),
        ("X", "a.mine"),
    ):
        with pytest.raises(Withheld):
            keys.secret(name, host, 443)
    with pytest.raises(Withheld, match="outside_key_hosts"):
        Keys(held, {}).secret("OPENAI", "api.openai.com", 443)
