"""Sending on every interface, from its own address; and interfaces that are named by an address."""

from __future__ import annotations

import errno
import sys
from ipaddress import IPv4Address
from socket import IP_TRANSPARENT, IP_TTL, IPPROTO_IP, SO_PRIORITY, SOL_SOCKET
from typing import TYPE_CHECKING

import pytest
import trio

from support.here import BOTH
from support.links import bridge, ip
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Header,
    Interface,
    OtherControl,
    PacketConn,
    RawDatagram,
    interfaces,
    open_ip,
    open_raw,
    open_udp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ipv4.testing import Lab

pytestmark = BOTH

GROUP, PORT = "239.1.2.3", 5000
FIRST, SECOND = IPv4Address("198.18.10.1"), IPv4Address("198.18.10.2")


@pytest.fixture
def links() -> None:
    ip(*bridge("br0", 10), "address add 198.18.10.2/24 dev br0", *bridge("br1", 11))


@pytest.fixture
async def hearing(links: None) -> AsyncIterator[PacketConn]:
    async with open_udp("0.0.0.0", PORT) as conn:
        for name in ("br0", "br1", "lo"):
            conn.join_group(name, GROUP)
        yield conn


async def sources(hearing: PacketConn, count: int) -> set[tuple[int | None, str]]:
    found = set()
    with trio.fail_after(20):
        for _ in range(count):
            datagram = await hearing.receive()
            found.add((datagram.control.ifindex, datagram.peer[0]))
    return found


@pytest.mark.kernel_only("options of the bare socket")
@pytest.mark.parametrize("everywhere", [True, False])
async def test_control_messages_of_other_kinds_go_along(hearing: PacketConn, everywhere: bool) -> None:
    hearing.control_flags = ControlFlags.TTL | ControlFlags.INTERFACE
    other = [OtherControl(IPPROTO_IP, IP_TTL, (9).to_bytes(4, sys.byteorder))]
    async with open_udp() as conn:
        if everywhere:
            await conn.send_everywhere(
                Datagram(b"x", (GROUP, PORT), control=ControlMessage(other=other)),
                where=lambda each: each.name == "br0",
            )
        else:
            conn.multicast_interface = IPv4Address("198.18.11.1")  # Its address must not go out elsewhere.
            index = next(each.index for each in interfaces() if each.name == "br0")
            await conn.send_to(b"x", (GROUP, PORT), control=ControlMessage(ifindex=index, other=other))
        with trio.fail_after(20):
            received = await hearing.receive()
    assert (received.control.ttl, received.peer[0]) == (9, str(FIRST))


async def test_it_leaves_everywhere_from_the_address_there(hearing: PacketConn) -> None:
    async with open_udp() as conn:
        outcomes = await conn.send_everywhere(Datagram(b"x", (GROUP, PORT)))
    assert {each.name: error for each, error in outcomes.items()} == {"br0": None, "br1": None}
    assert await sources(hearing, 2) == {(10, str(FIRST)), (11, "198.18.11.1")}


async def test_one_that_refuses_does_not_stop_the_others(hearing: PacketConn) -> None:
    ip(*bridge("bare0", 9), "address flush dev bare0", "link add v0 index 12 type bridge")
    async with open_udp() as conn:
        outcomes = await conn.send_everywhere(
            Datagram(b"x" * 2000, ("255.255.255.255", PORT)), where=lambda each: not each.is_loopback
        )
        errors = {each.name: error for each, error in outcomes.items()}
    assert errors["br0"] is errors["br1"] is None
    for name in ("bare0", "v0"):
        assert isinstance(errors[name], OSError)
        assert errors[name].errno == errno.EADDRNOTAVAIL
        assert f"send 2000 octets on {name}: .*has no IPv4 address"[:20] in str(errors[name])


async def test_a_refusal_of_the_kernel_is_an_outcome(links: None) -> None:
    def where(interface: Interface) -> bool:
        if interface.name == "br0":
            ip("link delete br0")  # It is gone before the datagram is sent.
        return not interface.is_loopback

    async with open_udp() as conn:
        outcomes = await conn.send_everywhere(Datagram(b"x", (GROUP, PORT)), where=where)
    errors = {each.name: error for each, error in outcomes.items()}
    assert errors["br1"] is None
    assert isinstance(errors["br0"], OSError)
    assert "can't send 1 octets" in str(errors["br0"])


async def test_ttl_and_tos_are_kept_and_source_and_interface_are_its_own(hearing: PacketConn) -> None:
    async with open_udp() as conn:
        for control in (ControlMessage(src=FIRST), ControlMessage(ifindex=10)):
            with pytest.raises(ValueError, match="neither src nor ifindex"):
                await conn.send_everywhere(Datagram(b"x", (GROUP, PORT), control=control))
        with pytest.raises(TypeError, match="pass a Datagram"):
            await conn.send_everywhere(b"x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="where must be"):
            await conn.send_everywhere(Datagram(b"x", (GROUP, PORT)), where=None)  # type: ignore[arg-type]
        control = ControlMessage(tos=0x28)
        await conn.send_everywhere(Datagram(b"x", (GROUP, PORT), control=control), where=lambda each: each.index == 11)
    assert await sources(hearing, 1) == {(11, "198.18.11.1")}


async def test_a_connection_of_another_namespace_sends_in_its_own_or_refuses(lab: Lab) -> None:
    async with lab["a"].call(open_udp) as conn:
        outcomes = await conn.send_everywhere(Datagram(b"x", (GROUP, PORT)))
        assert [each.name for each in outcomes] == ["en0"]
    made = lab["a"].call(trio.socket.socket, trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    async with PacketConn(made) as foreign:
        with pytest.raises(ValueError, match="another network namespace"):
            await foreign.send_everywhere(Datagram(b"x", (GROUP, PORT)))


# Named by an address


async def test_an_address_is_the_source_as_well(hearing: PacketConn) -> None:
    async with open_udp() as conn:
        for address in (SECOND, FIRST):
            conn.multicast_interface = address
            assert conn.multicast_interface == 10
            await conn.send_to(b"x", (GROUP, PORT))
            assert await sources(hearing, 1) == {(10, str(address))}
        conn.multicast_interface = "br0"
        await conn.send_to(b"x", (GROUP, PORT))
        assert await sources(hearing, 1) == {(10, str(FIRST))}


@pytest.mark.parametrize("interface", [SECOND, "lo"])
async def test_on_another_interface_the_source_is_that_ones(interface: IPv4Address | str, hearing: PacketConn) -> None:
    async with open_udp() as conn:
        conn.multicast_interface = interface
        elsewhere = Datagram(b"x", (GROUP, PORT), control=ControlMessage(ifindex=11))
        await conn.send(elsewhere)
        await conn.send_batch([elsewhere, elsewhere])
        await conn.send_batch_to([b"x"], (GROUP, PORT), control=ControlMessage(ifindex=11))
        await conn.send_segmented(b"xy", 1, (GROUP, PORT), control=ControlMessage(ifindex=11))
        assert await sources(hearing, 6) == {(11, "198.18.11.1")}
        # Whoever names a source gets it.
        await conn.send_to(b"x", (GROUP, PORT), control=ControlMessage(ifindex=11, src=FIRST))
        assert await sources(hearing, 1) == {(11, str(FIRST))}
        # Unicast is chosen by the routes, as ever.
        await conn.send_to(b"x", (str(FIRST), PORT), control=ControlMessage(ttl=3))
        assert await sources(hearing, 1) == {(10, str(FIRST))}


async def test_a_raw_connection_does_the_same(hearing: PacketConn) -> None:
    udp = (5001).to_bytes(2, "big") + PORT.to_bytes(2, "big") + (9).to_bytes(2, "big") + bytes(2) + b"x"
    async with open_raw(17) as conn:
        conn.multicast_interface = SECOND
        for index, source in ((10, str(SECOND)), (11, "198.18.11.1")):
            header = Header(src="0.0.0.0", dst=GROUP, ttl=1, protocol=17, total_len=29)
            await conn.send(RawDatagram(header, udp, control=ControlMessage(ifindex=index)))
            assert await sources(hearing, 1) == {(index, source)}


async def test_an_address_of_two_interfaces_is_an_error_that_names_both(links: None) -> None:
    ip("address add 198.18.10.1/32 dev br1")
    async with open_udp() as conn:
        for attempt in (
            lambda: setattr(conn, "multicast_interface", FIRST),
            lambda: conn.join_group(FIRST, GROUP),
        ):
            with pytest.raises(OSError, match=r"198\.18\.10\.1: .*\(br0 and br1 have it: name the interface") as caught:
                attempt()
            assert caught.value.errno == errno.EADDRINUSE
        conn.join_group(SECOND, GROUP)
        assert set(conn.memberships) == {(10, IPv4Address(GROUP))}


@pytest.mark.kernel_only("addresses of peers")
async def test_one_interface_may_have_an_address_twice(links: None) -> None:
    ip("address add 198.18.10.1 peer 198.18.10.77 dev br0")
    async with open_udp() as conn:
        conn.multicast_interface = FIRST
        assert conn.multicast_interface == 10


# Bound to an interface


@pytest.mark.parametrize("named", ["br1", 11, IPv4Address("198.18.11.1")])
async def test_a_connection_that_is_bound_to_an_interface_hears_and_sends_only_there(
    named: str | int | IPv4Address, links: None
) -> None:
    async with open_udp("0.0.0.0", PORT, interface=named) as conn, open_udp() as sender:
        assert conn.multicast_interface == 11
        for name in ("br0", "br1"):
            async with conn.joined(name, GROUP):
                await sender.send_everywhere(Datagram(name.encode(), (GROUP, PORT)))
        datagram = await conn.receive()
        assert (datagram.payload, datagram.control.ifindex) == (b"br1", 11)
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
        with pytest.raises(OSError, match="bound to another device"):
            conn.multicast_interface = "br0"


async def test_what_is_bound_to_the_loopback_has_its_address(hearing: PacketConn) -> None:
    async with open_udp(interface="lo") as conn:
        await conn.send_to(b"x", (GROUP, PORT))
    assert await sources(hearing, 1) == {(1, "127.0.0.1")}


async def test_raw_ones_can_be_bound_too(links: None) -> None:
    for way in (open_ip, open_raw):
        async with way(253, interface="br1") as conn:
            assert conn.multicast_interface == 11


async def test_no_such_interface_is_an_error_and_leaves_nothing_open(links: None) -> None:
    with pytest.raises(OSError, match="find the interface named 'br7'"):
        open_udp(interface="br7")
    with pytest.raises(OSError, match=r"bind to the interface with index 99: .*interfaces"):
        open_udp(interface=99)
    stale = Interface(98, "br8", 1500, 0)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="bind to the interface with index 98"):
        open_udp(interface=stale)


# Options before binding


@pytest.mark.kernel_only("options that are not simulated")
async def test_options_are_set_before_binding() -> None:
    # Only a transparent socket can bind to an address of another host.
    options = [(IPPROTO_IP, IP_TRANSPARENT, 1), (SOL_SOCKET, SO_PRIORITY, (6).to_bytes(4, "little"))]
    async with open_udp("192.0.2.1", PORT, options=options) as conn:
        assert conn.socket.getsockopt(SOL_SOCKET, SO_PRIORITY) == 6
        assert conn.local_endpoint == ("192.0.2.1", PORT)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (7, TypeError, "options must be triples"),
        ([(1, 2)], TypeError, "an option must be a triple"),
        ([(1, 2, "x")], TypeError, "an option's value must be"),
        ([(1, -2, 0)], ValueError, "an option's name must be from 0"),
        ([(1, 2, 2**31)], ValueError, "an option's value must be from"),
    ],
)
async def test_options_that_are_none_are_refused(options: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_udp(options=options)  # type: ignore[arg-type]


@pytest.mark.kernel_only("options that are not simulated")
async def test_an_option_that_the_kernel_refuses_is_named() -> None:
    with pytest.raises(OSError, match=r"set the option 9999 of level 0 to -1: .*no such option") as caught:
        open_udp(options=[(0, 9999, -1)])
    assert caught.value.errno == errno.ENOPROTOOPT
