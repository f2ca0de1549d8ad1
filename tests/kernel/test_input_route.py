"""`input_route` says what becomes of a datagram before one has come. Each answer is tried with a real datagram."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_ipv4 import (
    Header,
    InputRoute,
    RawDatagram,
    SourceFilter,
    input_route,
    open_raw,
    open_udp,
)
from trio_ipv4._kernel import input_route as asking
from trio_ipv4._kernel.netlink import open_netlink
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from trio_ipv4.testing import Host, Network

pytestmark = pytest.mark.usefixtures("private_net")

GROUP, ALL_HOSTS = "239.1.2.3", "224.0.0.1"
PORT = 5000
UDP = 17
NEIGHBOUR, FAR = "198.18.0.1", "203.0.113.5"
MARTIANS = ("127.0.0.1", "198.18.0.2", "224.0.0.9", "255.255.255.255")
"""Addresses that no neighbour can have. 198.18.0.2 is the host's own. 0.1.2.3 is an address like others (Linux 5.3)."""
FILTERS = {
    "not joined": None,
    "everybody": SourceFilter.any(),
    "only the neighbour": SourceFilter.include(NEIGHBOUR),
    "all but the neighbour": SourceFilter.exclude(NEIGHBOUR),
}


def forged(source: str, destination: str, payload: bytes) -> RawDatagram:
    """A UDP datagram (RFC 768) with this source, without a checksum."""
    udp = PORT.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    return RawDatagram(Header(src=source, dst=destination, ttl=1, protocol=UDP), udp + payload)


async def arrives(network: Network, source: str, destination: str) -> bool:
    """Whether a datagram with this source reaches a socket of b's that hears all that b takes in."""
    a, b = network["a"], network["b"]
    with trio.fail_after(20):
        async with a.call(open_raw, UDP) as tells, b.call(open_udp, "0.0.0.0", PORT, multicast_all=True) as hears:
            tells.multicast_interface = "en0"
            for datagram in (forged(source, destination, b"tried"), forged(NEIGHBOUR, "198.18.0.2", b"end")):
                await tells.send(datagram)
            return (await hears.receive()).payload == b"tried"


@pytest.mark.parametrize("source", [NEIGHBOUR, FAR, "0.1.2.3", *MARTIANS])
@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
async def test_a_group_is_taken_in_as_the_answer_says(
    network: Network, wanted: SourceFilter | None, source: str
) -> None:
    b = network["b"]
    b.add_route("0.0.0.0/0", interface="en0")  # Else nobody could answer the far source.
    async with contextlib.AsyncExitStack() as stack:
        if wanted is not None:
            conn = await stack.enter_async_context(b.call(open_udp))
            await stack.enter_async_context(conn.joined("en0", GROUP, sources=wanted))
        answer = b.call(input_route, "en0", source, GROUP)
        assert answer is (InputRoute.LOCAL if await arrives(network, source, GROUP) else InputRoute.REFUSED)
        is_joined = wanted is not None and wanted.accepts("198.18.0.99" if source in MARTIANS else source)
        assert (answer is InputRoute.LOCAL) == (is_joined and source not in MARTIANS)


@pytest.mark.parametrize("mode", ["0", "1", "2"])
@pytest.mark.parametrize("routed", [False, True])
async def test_the_reverse_path_filter_is_asked(network: Network, mode: str, routed: bool) -> None:
    b = network["b"]
    b.attach(network.links[0], "en1", "198.18.1.2/24")
    if routed:
        b.add_route("203.0.113.0/24", interface="en1")
    b.set_sysctl("net.ipv4.conf.en0.rp_filter", mode)
    async with b.call(open_udp) as conn, conn.joined("en0", GROUP):
        answer = b.call(input_route, "en0", FAR, GROUP)
        assert answer is (InputRoute.LOCAL if await arrives(network, FAR, GROUP) else InputRoute.REFUSED)
        assert (answer is InputRoute.LOCAL) == (mode == "0" or (mode == "2" and routed))
        # It is the source: a group that is always joined is refused as well.
        assert b.call(input_route, "en0", FAR, ALL_HOSTS) is answer
        assert b.call(input_route, "en0", NEIGHBOUR, ALL_HOSTS) is InputRoute.LOCAL


def test_only_link_local_groups_may_come_from_nobody(network: Network) -> None:
    b = network["b"]
    conn = b.call(open_udp)
    conn.join_group("en0", GROUP)
    assert b.call(input_route, "en0", "0.0.0.0", ALL_HOSTS) is InputRoute.LOCAL
    assert b.call(input_route, "en0", "0.0.0.0", GROUP) is InputRoute.REFUSED
    conn.close()


def test_unicast_is_for_this_host_or_for_nobody(network: Network) -> None:
    b = network["b"]
    assert b.call(input_route, "en0", NEIGHBOUR, "198.18.0.2") is InputRoute.LOCAL
    assert b.call(input_route, "en0", NEIGHBOUR, "198.18.0.255") is InputRoute.LOCAL
    assert b.call(input_route, "en0", NEIGHBOUR, "198.18.0.99") is InputRoute.REFUSED


def ask_router(router: Host) -> list[InputRoute]:
    first = router.interfaces[0].name
    return [router.call(input_route, first, NEIGHBOUR, to) for to in ("198.18.1.1", "198.18.0.254", GROUP)]


def test_a_router_sends_on() -> None:
    expected = [InputRoute.FORWARD, InputRoute.LOCAL, InputRoute.FORWARD]
    with open_lab(("a", "b"), links=2, router=True) as lab:
        assert ask_router(lab["router"]) == expected
    with simulate() as network:
        router = network.router("router")
        for number in range(2):
            router.attach(network.link(), f"en{number}", f"198.18.{number}.254/24")
        assert ask_router(router) == expected


def test_a_router_that_does_not_route_there_is_a_host_there() -> None:
    with open_lab(("a", "b"), links=2, router=True) as lab:
        router = lab["router"]
        router.attach(lab.links[0], "en9", "198.18.9.1/24")  # After the router has begun to route.
        assert router.call(input_route, "en9", "198.18.9.2", GROUP) is InputRoute.REFUSED
        conn = router.call(open_udp)
        conn.join_group("en9", GROUP)
        assert router.call(input_route, "en9", "198.18.9.2", GROUP) is InputRoute.LOCAL
        conn.close()


def test_the_interface_can_be_named_in_every_way(network: Network) -> None:
    b = network["b"]
    (en0,) = b.interfaces
    for interface in (en0, en0.index, "en0", IPv4Address("198.18.0.2")):
        assert b.call(input_route, interface, NEIGHBOUR, ALL_HOSTS) is InputRoute.LOCAL


def test_an_interface_that_is_not_there_is_an_error(network: Network) -> None:
    for interface in ("en9", 99):
        with pytest.raises(OSError, match=r"No such device.*interfaces\(\) lists them") as raised:
            network["b"].call(input_route, interface, NEIGHBOUR, GROUP)
        assert raised.value.errno == 19  # ENODEV


def test_only_the_kernel_s_answer_counts(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may send to any netlink socket, and only the kernel has port 0 (netlink(7))."""

    class Disturbed:
        def __init__(self, socket: Any) -> None:
            self._socket = socket
            self._strangers = [(b"nonsense", 0, (4711, 0))]

        def recvmsg(self, size: int, flags: int = 0) -> Any:
            return self._strangers.pop() if self._strangers else self._socket.recvmsg(size, flags)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._socket, name)

    monkeypatch.setattr(asking, "open_netlink", lambda *arguments: Disturbed(open_netlink(*arguments)))
    assert network["b"].call(input_route, "en0", NEIGHBOUR, ALL_HOSTS) is InputRoute.LOCAL


def test_arguments_are_checked(network: Network) -> None:
    call = network["b"].call
    with pytest.raises(TypeError, match=r"interface must be .* got None"):
        call(input_route, None, NEIGHBOUR, GROUP)
    with pytest.raises(ValueError, match="source"):
        call(input_route, "en0", "somebody", GROUP)
