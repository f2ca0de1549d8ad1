"""The options of PacketConn, each read back from the kernel, and the facts that each control flag brings."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

from support import capabilities
from support.here import BOTH, is_empty
from support.systems import having, lacking, on, on_platform
from trio_ipv4 import (
    CappedBufferWarning,
    ControlFlags,
    ControlMessage,
    Datagram,
    Interface,
    InterfaceFlags,
    PacketConn,
    PathMTUDiscovery,
    Timestamping,
    UnsupportedError,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4._kernel.native import NativeSystem

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4 import RawConn
    from trio_ipv4.testing import Network

pytestmark = BOTH

GROUP = IPv4Address("239.1.2.3")
LO = 1
ALL_FLAGS = [ControlFlags(bits) for bits in range(128)]
PKTINFO = ControlFlags.SRC | ControlFlags.DST | ControlFlags.INTERFACE
SWITCHES = {  # (level, number): what it brings; linux/in.h, asm-generic/socket.h
    (0, 8): PKTINFO,
    (0, 12): ControlFlags.TTL,
    (0, 13): ControlFlags.TOS,
    (1, 35): ControlFlags.TIMESTAMP,
    (1, 40): ControlFlags.DROPS,
}


def multicast_address(conn: PacketConn | RawConn) -> str:
    return socket.inet_ntoa(conn.socket.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4))


# Options


@pytest.mark.parametrize("opener", [open_udp, lambda: open_ip(253), lambda: open_raw(253)], ids=["udp", "ip", "raw"])
@pytest.mark.parametrize(
    ("name", "number", "values"),
    [
        ("tos", 1, [0, 0xB9, 255]),
        ("ttl", 2, [1, 64, 255]),
        ("multicast_ttl", 33, [0, 1, 255]),
        ("multicast_loopback", 34, [False, True]),
        ("multicast_all", 49, [True, False]),
    ],
)
async def test_what_is_set_is_what_the_kernel_has(
    opener: Callable[[], PacketConn | RawConn], name: str, number: int, values: list[int]
) -> None:
    async with opener() as conn:
        for value in values:
            setattr(conn, name, value)
            assert conn.socket.getsockopt(socket.IPPROTO_IP, number) == value
            assert getattr(conn, name) == value
            assert type(getattr(conn, name)) is type(value)


async def test_what_somebody_else_set_is_read() -> None:
    async with open_udp() as conn:
        conn.socket.setsockopt(0, 33, 77)
        conn.socket.setsockopt(0, 34, 0)
        assert (conn.multicast_ttl, conn.multicast_loopback) == (77, False)
        conn.socket.setsockopt(0, 32, socket.inet_aton("127.0.0.1"))
        assert conn.multicast_interface == LO


async def test_defaults() -> None:
    async with open_udp() as conn:
        assert (conn.tos, conn.ttl, conn.multicast_ttl, conn.multicast_loopback) == (0, 64, 1, True)
        assert conn.multicast_interface is None


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("multicast_ttl", 256, ValueError, "multicast_ttl must be from 0 to 255, got 256"),
        ("multicast_ttl", -1, ValueError, "multicast_ttl must be from 0 to 255, got -1"),
        ("multicast_ttl", True, TypeError, "multicast_ttl must be an integer"),
        ("multicast_loopback", 1, TypeError, "multicast_loopback must be True or False, got 1"),
        ("multicast_all", 0, TypeError, "multicast_all must be True or False, got 0"),
        ("multicast_all", None, TypeError, "multicast_all must be True or False, got None"),
        ("multicast_interface", 0, ValueError, "interface must be from 1 to 2147483647, got 0"),
        ("multicast_interface", True, TypeError, "interface must be an integer"),
        ("multicast_interface", 1.0, TypeError, "interface must be an integer"),
        ("receive_buffer_size", 0, ValueError, "receive_buffer_size must be from 1 to"),
        ("receive_buffer_size", -1, ValueError, "receive_buffer_size must be from 1 to"),
        ("send_buffer_size", 0, ValueError, "send_buffer_size must be from 1 to"),
        ("min_ttl", 256, ValueError, "min_ttl must be from 0 to 255, got 256"),
        ("min_ttl", True, TypeError, "min_ttl must be an integer from 0 to 255, got True"),
        ("path_mtu_discovery", 2, TypeError, "path_mtu_discovery must be a PathMTUDiscovery, got 2"),
        ("report_errors", 1, TypeError, "report_errors must be True or False, got 1"),
        ("timestamping", 1, TypeError, "timestamping must be Timestamping, got 1"),
        ("control_flags", 1, TypeError, "control_flags must be ControlFlags, got 1"),
        ("control_flags", None, TypeError, "control_flags must be ControlFlags, got None"),
        ("icmp_filter", 0, TypeError, "icmp_filter must be an ICMPFilter, got 0"),
    ],
)
async def test_nonsense_is_refused_and_changes_nothing(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    async with open_udp() as conn:
        conn.multicast_interface = "lo"
        before = {
            n: getattr(conn, n) for n in ("multicast_ttl", "multicast_loopback", "multicast_all", "control_flags")
        }
        with pytest.raises(error, match=message):
            setattr(conn, name, value)
        assert {n: getattr(conn, n) for n in before} == before
        assert conn.multicast_interface == LO


BUFFERS = [("receive_buffer_size", "rmem_max", socket.SO_RCVBUF), ("send_buffer_size", "wmem_max", socket.SO_SNDBUF)]


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, _, option in BUFFERS])
async def test_a_buffer_is_what_the_kernel_made_of_it(name: str, option: int) -> None:
    async with open_udp() as conn:
        setattr(conn, name, 10_000)
        assert getattr(conn, name) == 20_000  # socket(7): the kernel doubles it.
        assert conn.socket.getsockopt(socket.SOL_SOCKET, option) == 20_000


@pytest.mark.kernel_only("options that are not simulated")
@pytest.mark.parametrize(("name", "sysctl", "option"), BUFFERS)
async def test_each_octet_that_is_missing_from_a_buffer_is_told(name: str, sysctl: str, option: int) -> None:
    most = int(Path("/proc/sys/net/core", sysctl).read_text())
    async with open_udp() as conn:
        with capabilities.without(capabilities.NET_ADMIN):
            setattr(conn, name, most)
            what = name.removesuffix("_size").replace("_", " ")
            message = f"a {what} of {most + 1:,} octets, the kernel granted {most:,}: raise sysctl net.core.{sysctl}"
            with pytest.warns(CappedBufferWarning, match=message) as told:
                setattr(conn, name, most + 1)
        assert told[0].filename == __file__
        assert conn.socket.getsockopt(socket.SOL_SOCKET, option) == getattr(conn, name) == 2 * most


@pytest.mark.parametrize("name", ["receive_buffer_size", "send_buffer_size"])
async def test_who_has_cap_net_admin_grows_a_buffer_beyond_the_sysctl(name: str) -> None:
    async with open_udp() as conn:
        setattr(conn, name, 100_000_000)  # A warning would be an error.
        assert getattr(conn, name) == 200_000_000


# The outgoing interface


@pytest.mark.parametrize(
    "value",
    [
        "lo",
        LO,
        IPv4Address("127.0.0.1"),
        Interface(LO, "lo", 65536, InterfaceFlags.LOOPBACK),
    ],
)
async def test_multicast_on_loopback_has_its_address_as_source(value: Any) -> None:
    async with open_udp(port=5000) as receiver, open_udp() as sender, receiver.joined("lo", GROUP):
        sender.multicast_interface = value
        assert sender.multicast_interface == LO
        assert multicast_address(sender) == "127.0.0.1"
        await sender.send_to(b"x", (GROUP, 5000))
        datagram = await receiver.receive()
        assert datagram.peer == ("127.0.0.1", sender.local_endpoint[1])
        assert (datagram.control.ifindex, datagram.control.dst) == (LO, GROUP)


async def test_no_interface_leaves_it_to_the_routes() -> None:
    async with open_udp() as sender:
        sender.multicast_interface = "lo"
        sender.multicast_interface = None
        assert sender.multicast_interface is None
        assert multicast_address(sender) == "0.0.0.0"
        with pytest.raises(OSError, match=r"for a group, name the interface") as caught:
            await sender.send_to(b"x", (GROUP, 5000))
        assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize(
    ("value", "number", "message"),
    [
        ("en7", errno.ENODEV, r"can't find the interface named 'en7': .*interfaces\(\) lists them"),
        ("", errno.ENODEV, "can't find the interface named ''"),
        ("a" * 16, errno.ENODEV, "can't find the interface named"),
        ("lo\0", errno.ENODEV, "can't find the interface named"),
        (99, errno.EADDRNOTAVAIL, r"interface with index 99: .*interfaces\(\) lists them"),
        (IPv4Address("192.0.2.1"), errno.EADDRNOTAVAIL, "can't find the interface that has the address 192.0.2.1"),
        ("127.0.0.1", errno.ENODEV, "can't find the interface named '127.0.0.1'"),
    ],
)
async def test_an_interface_that_is_not_there_is_refused(value: Any, number: int, message: str) -> None:
    async with open_udp() as conn:
        conn.multicast_interface = "lo"
        with pytest.raises(OSError, match=message) as caught:
            conn.multicast_interface = value
        assert caught.value.errno == number
        assert conn.multicast_interface == LO
        assert multicast_address(conn) == "127.0.0.1"


async def test_a_control_message_for_another_interface_has_that_interfaces_address(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    en0, en1 = a.interfaces
    async with b.call(open_udp, port=5000) as receiver, a.call(open_udp) as sender:
        for form in (en0, en0.name, en0.index, a.addresses[0]):
            sender.multicast_interface = form
            assert sender.multicast_interface == en0.index
        async with receiver.joined("en0", GROUP), receiver.joined("en1", GROUP):
            indexes = [interface.index for interface in b.interfaces]
            await sender.send_to(b"by default", (GROUP, 5000))
            default = await receiver.receive()
            assert (default.peer[0], default.control.ifindex) == (str(a.addresses[0]), indexes[0])
            await sender.send_to(b"asked", (GROUP, 5000), control=ControlMessage(ifindex=en1))
            asked = await receiver.receive()
            assert (asked.peer[0], asked.control.ifindex) == (str(a.addresses[1]), indexes[1])
            sender.multicast_interface = None
            with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
                await sender.send_to(b"no", (GROUP, 5000))


async def test_names_and_addresses_are_those_of_the_connections_own_network(two_links: Network) -> None:
    a = two_links["a"]
    async with a.call(open_udp) as conn:
        # This thread has neither the name nor the address.
        conn.multicast_interface = "en1"
        assert conn.multicast_interface == a.interfaces[1].index
        conn.multicast_interface = a.addresses[0]
        assert conn.multicast_interface == a.interfaces[0].index


async def test_each_datagram_is_sent_as_its_control_message_asks(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    a.add_address("en0", "198.18.0.77/24")
    flags = ControlFlags.DST | ControlFlags.TTL | ControlFlags.TOS
    async with b.call(open_udp, port=5000, control_flags=flags) as receiver, a.call(open_udp) as sender:
        sender.tos, sender.ttl, sender.multicast_ttl = 4, 33, 44
        to = (b.addresses[0], 5000)
        requests = [
            ControlMessage(),
            ControlMessage(ttl=7),
            ControlMessage(tos=0xB9),
            ControlMessage(src="198.18.0.77"),
            ControlMessage(src=a.addresses[0], ifindex=a.interfaces[0], ttl=1, tos=255),
        ]
        for request in requests:
            await sender.send_to(b"x", to, control=request)
            got = await receiver.receive()
            assert got.peer[0] == str(request.src or a.addresses[0])
            assert got.control.ttl == (request.ttl or 33)
            assert got.control.tos == (4 if request.tos is None else request.tos)
        async with receiver.joined("en1", GROUP):
            control = ControlMessage(ifindex=a.interfaces[1])
            await sender.send_batch(
                Datagram(b"", (GROUP, 5000), control=attrs.evolve(control, ttl=ttl)) for ttl in (None, 1, 255)
            )
            heard = [await receiver.receive() for _ in range(3)]
            assert [datagram.control.ttl for datagram in heard] == [44, 1, 255]
            assert {datagram.control.dst for datagram in heard} == {GROUP}


async def test_a_source_of_another_host_is_refused() -> None:
    async with open_udp() as conn:
        with pytest.raises(OSError, match="the source is not an address of this host") as caught:
            await conn.send_to(b"", ("127.0.0.1", 5000), control=ControlMessage(src="192.0.2.1"))
        assert caught.value.errno in (errno.ENETUNREACH, errno.EINVAL)
        with pytest.raises(OSError, match="no such interface") as caught:
            await conn.send_to(b"", ("127.0.0.1", 5000), control=ControlMessage(ifindex=99))
        assert caught.value.errno in (errno.ENODEV, errno.ENXIO)


async def test_what_is_no_request_is_not_sent() -> None:
    async with open_udp("127.0.0.1", 5000) as conn:
        conn.control_flags = ControlFlags.TTL
        await conn.send_to(b"one", ("127.0.0.1", 5000))
        received = await conn.receive()
        facts = [{"dst": "127.0.0.1"}, {"local": "127.0.0.1"}, {"timestamp_ns": 1}, {"drops": 0}, {"ttl": 0}]
        for fact in facts:
            bad = Datagram(b"", ("127.0.0.1", 5000), control=ControlMessage(**fact))  # type: ignore[arg-type]
            for send in (
                conn.send(bad),
                conn.send_batch([received, bad]),
                conn.send_to(b"", bad.peer, control=bad.control),
            ):
                with pytest.raises(ValueError, match="when sending"):
                    await send
        assert is_empty(conn)


# Facts


@pytest.mark.kernel_only("the time of day")
async def test_every_set_of_flags_brings_its_facts(calls: str) -> None:
    async with open_udp("127.0.0.1", 5000) as receiver, open_udp("127.0.0.1") as sender:
        sender.ttl, sender.tos = 9, 0xB9
        for flags in ALL_FLAGS:
            receiver.control_flags = flags
            assert receiver.control_flags == flags
            for (level, number), facts in SWITCHES.items():
                assert receiver.socket.getsockopt(level, number) == bool(flags & facts)
            before = time.time_ns()
            await sender.send_to(b"x", ("127.0.0.1", 5000))
            after = time.time_ns()
            control = (await receiver.receive()).control
            assert control.ttl == (9 if ControlFlags.TTL in flags else None)
            assert control.tos == (0xB9 if ControlFlags.TOS in flags else None)
            assert control.drops == (0 if ControlFlags.DROPS in flags else None)
            assert control.src == (IPv4Address("127.0.0.1") if ControlFlags.SRC in flags else None)
            pktinfo = (
                (LO, IPv4Address("127.0.0.1"), IPv4Address("127.0.0.1")) if flags & PKTINFO else (None, None, None)
            )
            assert (control.ifindex, control.dst, control.local) == pktinfo
            if ControlFlags.TIMESTAMP in flags:
                assert control.timestamp_ns is not None
                # The kernel reads a coarser clock than this process might; both are the same clock.
                assert before - 10**7 <= control.timestamp_ns <= after + 10**7
            else:
                assert control.timestamp_ns is None


@pytest.mark.kernel_only("the time of day")
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("offload", [False, True])
async def test_each_datagram_of_a_batch_has_its_own_timestamp(offload: bool) -> None:
    async with open_udp("127.0.0.1", 5000) as receiver, open_udp("127.0.0.1") as sender:
        receiver.control_flags = ControlFlags(127)
        receiver.receive_offload = offload
        # Linux begins to stamp a moment after somebody asks (net/core/dev.c, `net_enable_timestamp`).
        is_stamped = False
        while not is_stamped:
            await sender.send_to(b"", ("127.0.0.1", 5000))
            sent = time.time_ns()
            is_stamped = ((await receiver.receive()).control.timestamp_ns or sent) < sent
        for _ in range(3):  # The second and third time the other facts are known.
            before = time.time_ns()
            for number in range(5):
                await sender.send_to(bytes([number]), ("127.0.0.1", 5000), control=ControlMessage(ttl=9))
            batch = await receiver.receive_batch()
            after = time.time_ns()
            assert [each.payload for each in batch] == [bytes([number]) for number in range(5)]
            stamps = [each.control.timestamp_ns or 0 for each in batch]
            # The kernel reads a coarser clock than this process might; both are the same clock.
            assert before - 10**7 <= stamps[0] <= stamps[-1] <= after + 10**7
            assert stamps == sorted(stamps)
            assert len(set(stamps)) > 1
            assert {attrs.evolve(each.control, timestamp_ns=None) for each in batch} == {
                ControlMessage(
                    ttl=9,
                    src="127.0.0.1",
                    dst="127.0.0.1",
                    ifindex=LO,
                    tos=0,
                    local="127.0.0.1",
                    drops=0,
                )
            }


@pytest.mark.kernel_only("sockets that somebody else made")
async def test_a_wrapped_socket_has_the_flags_that_it_had() -> None:
    for chosen in itertools.chain.from_iterable(itertools.combinations(SWITCHES, n) for n in range(len(SWITCHES) + 1)):
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a_socket:
            expected = ControlFlags(0)
            for level, number in chosen:
                a_socket.setsockopt(level, number, 1)
                expected |= SWITCHES[level, number]
            assert PacketConn(a_socket).control_flags == expected


async def test_local_is_this_hosts_address_also_for_a_group() -> None:
    async with open_udp(port=5000) as receiver, open_udp() as sender, receiver.joined("lo", GROUP):
        sender.multicast_interface = "lo"
        await sender.send_to(b"x", (GROUP, 5000))
        control = (await receiver.receive()).control
        assert (control.dst, control.local, control.ifindex) == (GROUP, IPv4Address("127.0.0.1"), LO)


async def test_what_was_queued_before_a_fact_was_asked_for_lacks_it() -> None:
    async with open_udp("127.0.0.1", 5000, control_flags=ControlFlags(0)) as conn:
        await conn.send_to(b"x", ("127.0.0.1", 5000))
        conn.control_flags = ControlFlags.DST
        control = (await conn.receive()).control
        # The destination is read from the header even so; what the kernel notes at arrival is lost.
        assert (control.ifindex, control.local) == (None, None)
        assert control.dst in (None, IPv4Address("127.0.0.1"))


async def test_lost_datagrams_are_counted() -> None:
    flags = ControlFlags.DROPS | ControlFlags.TTL
    async with open_udp("127.0.0.1", 5000, control_flags=flags) as receiver, open_udp() as sender:
        receiver.receive_buffer_size = 1  # The kernel's least.
        payloads = [bytes([number]) * 1000 for number in range(100)]
        for payload in payloads:
            await sender.send_to(payload, ("127.0.0.1", 5000))
        kept = await receiver.receive_batch(100)
        assert 0 < len(kept) < 100
        assert [datagram.payload for datagram in kept] == payloads[: len(kept)]
        # Each knows what was lost before it was queued.
        assert {datagram.control.drops for datagram in kept} == {0}
        await sender.send_to(b"after", ("127.0.0.1", 5000))
        after = await receiver.receive()
        assert after.payload == b"after"
        assert after.control == ControlMessage(drops=100 - len(kept), ttl=64)
        receiver.control_flags = ControlFlags(0)
        await sender.send_to(b"x", ("127.0.0.1", 5000))
        assert (await receiver.receive()).control == ControlMessage()


async def test_a_refusal_half_way_changes_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    system = NativeSystem()
    with on(system):
        conn = open_udp(control_flags=ControlFlags.TTL | ControlFlags.DROPS)
    async with conn:
        before = {switch: conn.socket.getsockopt(*switch) for switch in SWITCHES}
        unknown = attrs.evolve(system.platform.option("SO_TIMESTAMPNS"), name=9999)
        with monkeypatch.context() as patch:
            patch.setattr(system, "platform", having(SO_TIMESTAMPNS=unknown))
            with pytest.raises(OSError, match="SO_TIMESTAMPNS") as caught:
                conn.control_flags = ControlFlags(127) ^ ControlFlags.DROPS
            assert caught.value.errno == errno.ENOPROTOOPT
        assert conn.control_flags == ControlFlags.TTL | ControlFlags.DROPS
        assert {switch: conn.socket.getsockopt(*switch) for switch in SWITCHES} == before


async def test_a_fact_that_the_platform_lacks_is_refused_and_changes_nothing() -> None:
    with on_platform(lacking("SO_RXQ_OVFL", "IP_MULTICAST_ALL")):
        conn = open_udp()
    async with conn:
        assert conn.socket.getsockopt(0, 49) == 1
        with pytest.raises(UnsupportedError) as caught:
            conn.control_flags = ControlFlags.TTL | ControlFlags.DROPS
        assert (caught.value.option, caught.value.platform) == ("SO_RXQ_OVFL", "linux")
        assert conn.control_flags == ControlFlags.DST | ControlFlags.INTERFACE
        assert conn.socket.getsockopt(0, 12) == 0
        with pytest.raises(UnsupportedError, match="IP_MULTICAST_ALL is not available on linux"):
            conn.multicast_all  # noqa: B018
        with pytest.raises(UnsupportedError):
            conn.multicast_all = True
    before = descriptors()
    with on_platform(lacking("SO_RXQ_OVFL")), pytest.raises(UnsupportedError, match="SO_RXQ_OVFL"):
        open_udp(control_flags=ControlFlags.DROPS)
    assert descriptors() == before


# Replies


async def test_a_reply_comes_from_the_address_that_was_asked() -> None:
    async with open_udp(port=5000) as server, open_udp("127.0.0.9") as client:
        await client.send_to(b"question", ("127.0.0.77", 5000))
        await server.send((await server.receive()).reply(b"answer", tos=8))
        answer = await client.receive()
        assert answer.peer == ("127.0.0.77", 5000)
        assert answer.payload == b"answer"


async def test_a_reply_to_a_group_goes_back_to_who_asked(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    async with b.call(open_udp, port=5000) as server, a.call(open_udp) as client, server.joined("en1", GROUP):
        client.multicast_interface = "en1"
        await client.send_to(b"question", (GROUP, 5000))
        question = await server.receive()
        reply = question.reply(b"answer")
        assert reply.control == ControlMessage(ifindex=b.interfaces[1])
        await server.send(reply)
        answer = await client.receive()
        assert answer.peer == (str(b.addresses[1]), 5000)
        assert answer.control.ifindex == a.interfaces[1].index


# Closing


OPERATIONS: list[Callable[[Any], object]] = [
    *(lambda conn, name=name: getattr(conn, name) for name in (  # type: ignore[misc]
        "tos", "ttl", "multicast_ttl", "multicast_loopback", "multicast_interface", "multicast_all", "control_flags",
        "icmp_filter", "receive_buffer_size", "send_buffer_size", "memberships", "local_endpoint", "min_ttl",
        "path_mtu_discovery", "report_errors", "timestamping", "drops",
    )),
    lambda conn: setattr(conn, "tos", 1),
    lambda conn: setattr(conn, "multicast_ttl", 1),
    lambda conn: setattr(conn, "multicast_loopback", True),
    lambda conn: setattr(conn, "multicast_interface", 1),
    lambda conn: setattr(conn, "multicast_interface", None),
    lambda conn: setattr(conn, "multicast_all", True),
    lambda conn: setattr(conn, "control_flags", ControlFlags(0)),
    lambda conn: setattr(conn, "receive_buffer_size", 1000),
    lambda conn: setattr(conn, "send_buffer_size", 1000),
    lambda conn: setattr(conn, "report_errors", True),
    lambda conn: setattr(conn, "timestamping", Timestamping.TX_SOFTWARE),
    lambda conn: setattr(conn, "path_mtu_discovery", PathMTUDiscovery.DO),
    lambda conn: conn.path_mtu("127.0.0.1"),
    lambda conn: conn.receive_error_nowait(),
    lambda conn: conn.join_group("lo", GROUP),
    lambda conn: conn.leave_group("lo", GROUP),
    lambda conn: conn.source_filter("lo", GROUP),
    lambda conn: conn.repair_memberships(),
    lambda conn: conn.detach_filter(),
]  # fmt: skip


@pytest.mark.parametrize("opener", [open_udp, lambda: open_raw(253)])
async def test_every_operation_of_a_closed_connection_is_refused(opener: Callable[[], Any]) -> None:
    closed = opener()
    closed.close()
    closed.close()
    await closed.aclose()
    behind_its_back = opener()
    behind_its_back.socket.close()
    for conn in (closed, behind_its_back):
        for operation in OPERATIONS:
            with pytest.raises(trio.ClosedResourceError):
                operation(conn)
        for operation in (conn.receive, conn.receive_batch, lambda conn=conn: conn.send_batch([])):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
        with pytest.raises(trio.ClosedResourceError):
            async with conn.joined("lo", GROUP):
                pass
        with pytest.raises(trio.ClosedResourceError):
            async for _ in conn:
                pass
        with pytest.raises(trio.ClosedResourceError):
            async for _ in conn.batches():
                pass
        assert "closed" in repr(conn)


@pytest.mark.kernel_only("descriptors")
async def test_a_connection_closes_its_socket() -> None:
    async with open_udp() as conn:
        descriptor = conn.socket.fileno()
    assert conn.socket.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_sent_on_loopback_comes_back_without_multicast_loopback_too() -> None:
    async with open_udp(port=5000, share_port=True) as conn, conn.joined("lo", "239.1.2.3"):
        conn.multicast_interface = "lo"
        conn.multicast_loopback = False
        await conn.send_to(b"x", ("239.1.2.3", 5000))
        with trio.fail_after(20):
            assert (await conn.receive()).payload == b"x"
