"""What Linux does not do, or does otherwise than one would think: the facts that the documentation's promises stop at.

Each test is named after its fact. A kernel that does better one day fails it, and then a sentence in the documentation
can go.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from support.links import ip
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Header,
    HeaderFlags,
    PacketConn,
    RawDatagram,
    SourceFilter,
    internet_checksum,
    open_ip,
    open_raw,
    open_udp,
    parse_bpf,
)
from trio_ipv4.testing import Lab, LabHost, igmp_groups, open_lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import Eventually
    from trio_ipv4 import RawConn

GROUP = IPv4Address("239.1.2.3")
TO_GROUP = (str(GROUP), 5000)
HERE, LO = "127.0.0.1", 1
UDP, IGMP, PROTOCOL = 17, 2, 253
SECONDS = 20
"""How long to wait for what should come soon."""
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_RECVERR, SO_BINDTOIFINDEX = 10, 0, 11, 62  # linux/in.h, asm-generic/socket.h
UDP_GRO = 104  # linux/udp.h
BEGINS_WITH_X = parse_bpf("4\n48 0 0 8\n21 0 1 120\n6 0 0 262144\n6 0 0 0\n")  # Over UDP; 120 is "x".
RECORD_ROUTE = bytes([7, 39, 4]) + bytes(36) + b"\0"  # RFC 791: room for nine addresses, and the end

needs_tc = pytest.mark.skipif(shutil.which("tc") is None, reason="tc is missing")
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="nft is missing")


def flood(lab: Lab) -> Lab:
    """Let no bridge wait for reports before it forwards a group."""
    for bridge in {lab.bridge(int(name[2:])) for host in lab.values() for name in host._ends}:
        lab.switch.ip("link", "set", bridge, "type", "bridge", "mcast_snooping", "0")
    return lab


@pytest.fixture
def two(needs_lab: None) -> Iterator[Lab]:
    """Hosts "a" and "b" on one link."""
    with open_lab() as lab:
        yield flood(lab)


@pytest.fixture
def two_links(needs_lab: None) -> Iterator[Lab]:
    """Hosts "a" and "b" on two links."""
    with open_lab(links=2) as lab:
        yield flood(lab)


@pytest.fixture
def routed(needs_lab: None) -> Iterator[Lab]:
    """Host "a" on one link, "b" on another, and a router between them."""
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        yield flood(lab)


async def hear(conn: PacketConn) -> Datagram:
    with trio.fail_after(SECONDS):
        return await conn.receive()


async def hear_all(conn: PacketConn, count: int) -> list[bytes]:
    return [(await hear(conn)).payload for _ in range(count)]


def nft(*lines: str) -> None:
    subprocess.run(["nft", "-f", "-"], input="\n".join(["add table ip t", *lines, ""]), text=True, check=True)


def set_option(conn: PacketConn, name: int, value: int) -> None:
    conn.socket.setsockopt(socket.IPPROTO_IP, name, value)


# TTL 0


async def test_multicast_with_ttl_0_leaves_a_host_that_is_no_member(two: Lab) -> None:
    a, b = two["a"], two["b"]
    facts = ControlFlags.TTL | ControlFlags.DST
    async with (
        b.call(open_udp, port=5000, control_flags=facts) as far,
        a.call(open_udp) as sender,
        far.joined("en0", GROUP),
    ):
        sender.multicast_interface, sender.multicast_ttl = "en0", 0
        await sender.send_to(b"", TO_GROUP)
        assert (await hear(far)).control.ttl == 0


@pytest.mark.parametrize("loopback", [True, False])
async def test_multicast_with_ttl_0_stays_on_a_host_that_is_a_member_there(two: Lab, loopback: bool) -> None:
    a, b = two["a"], two["b"]
    async with (
        b.call(open_udp, port=5000) as far,
        a.call(open_udp, port=5000) as near,
        a.call(open_udp) as sender,
        far.joined("en0", GROUP),
        near.joined("en0", GROUP),
    ):
        sender.multicast_interface, sender.multicast_loopback = "en0", loopback
        sender.multicast_ttl = 0
        await sender.send_to(b"stays", TO_GROUP)
        sender.multicast_ttl = 1
        await sender.send_to(b"goes", TO_GROUP)
        assert (await hear(far)).payload == b"goes"
        if loopback:
            assert await hear_all(near, 2) == [b"stays", b"goes"]


async def test_a_member_that_does_not_hear_the_sender_does_not_keep_ttl_0_on_the_host(two: Lab) -> None:
    a, b = two["a"], two["b"]
    async with (
        b.call(open_udp, port=5000) as far,
        a.call(open_udp, port=5000) as near,
        a.call(open_udp) as sender,
        far.joined("en0", GROUP),
        near.joined("en0", GROUP, sources=SourceFilter.include("192.0.2.1")),
    ):
        sender.multicast_interface, sender.multicast_ttl = "en0", 0
        await sender.send_to(b"leaves", TO_GROUP)
        assert (await hear(far)).payload == b"leaves"


async def test_a_header_with_ttl_0_leaves_the_host_too(two: Lab) -> None:
    a, b = two["a"], two["b"]
    async with b.call(open_raw, PROTOCOL) as far, a.call(open_raw, PROTOCOL) as sender, far.joined("en0", GROUP):
        sender.multicast_interface = "en0"
        await sender.send(RawDatagram(Header(src="0.0.0.0", dst=GROUP, protocol=PROTOCOL, ttl=0), b""))
        with trio.fail_after(SECONDS):
            assert (await far.receive()).header.ttl == 0


# The source and the interface of what is sent


@pytest.mark.parametrize("to", ["unicast", "multicast"])
async def test_an_interface_alone_in_a_control_message_makes_linux_forget_the_bound_source(two: Lab, to: str) -> None:
    a, b = two["a"], two["b"]
    (en0,) = a.interfaces
    first, second = a.addresses[0], IPv4Address("198.18.0.77")
    a.ip("address", "add", f"{second}/24", "dev", "en0")
    async with (
        b.call(open_udp, port=5000) as receiver,
        a.call(open_udp, second) as sender,
        receiver.joined("en0", GROUP),
    ):
        sender.multicast_interface = "en0"
        peer = (b.addresses[0] if to == "unicast" else GROUP, 5000)
        for control, source in (
            (ControlMessage(), second),
            (ControlMessage(ifindex=en0), first),
            (ControlMessage(ifindex=en0, src=second), second),
        ):
            await sender.send_to(b"", peer, control=control)
            assert (await hear(receiver)).peer[0] == str(source)


async def test_a_bound_address_chooses_the_interface_for_multicast_whatever_the_routes_say(two_links: Lab) -> None:
    a, b = two_links["a"], two_links["b"]
    async with (
        b.call(open_udp, port=5000) as receiver,
        a.call(open_udp, a.addresses[1]) as bound,
        a.call(open_udp) as unbound,
        receiver.joined("en0", GROUP),
        receiver.joined("en1", GROUP),
    ):
        en0, en1 = (each.index for each in b.interfaces)
        await bound.send_to(b"without a route", TO_GROUP)
        assert (await hear(receiver)).control.ifindex == en1
        with pytest.raises(OSError, match="unreachable"):
            await unbound.send_to(b"", TO_GROUP)
        a.ip("route", "add", "224.0.0.0/4", "dev", "en0")
        await bound.send_to(b"against the route", TO_GROUP)
        assert (await hear(receiver)).control.ifindex == en1
        await unbound.send_to(b"by the route", TO_GROUP)
        assert (await hear(receiver)).control.ifindex == en0
        # A requested source does as a bound one; `multicast_interface` has more say than either.
        request = ControlMessage(src=a.addresses[1])
        await unbound.send_to(b"by the source", TO_GROUP, control=request)
        assert (await hear(receiver)).control.ifindex == en1
        for sender in (bound, unbound):
            sender.multicast_interface = "en0"
            await sender.send_to(b"by the option", TO_GROUP, control=request if sender is unbound else ControlMessage())
            assert (await hear(receiver)).control.ifindex == en0


async def test_a_host_hears_its_own_multicast_only_on_the_interface_where_it_leaves(two_links: Lab) -> None:
    a = two_links["a"]
    async with a.call(open_udp, port=5000) as member, a.call(open_udp) as sender, member.joined("en1", GROUP):
        for interface in ("en0", "en1"):
            sender.multicast_interface = interface
            await sender.send_to(interface.encode(), TO_GROUP)
        assert (await hear(member)).payload == b"en1"


async def test_an_interface_in_a_control_message_has_more_say_than_the_device_that_the_socket_is_bound_to(
    two_links: Lab,
) -> None:
    a, b = two_links["a"], two_links["b"]
    bound = a.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    bound.setblocking(False)
    async with (
        b.call(open_udp, port=5000) as receiver,
        PacketConn(trio.socket.from_stdlib_socket(bound)) as sender,
        receiver.joined("en0", GROUP),
        receiver.joined("en1", GROUP),
    ):
        bound.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, a.interfaces[0].index)
        for control, number in (
            (ControlMessage(), 0),
            (ControlMessage(src=a.addresses[1]), 0),
            (ControlMessage(ifindex=a.interfaces[1]), 1),
        ):
            await sender.send_to(b"", TO_GROUP, control=control)
            assert (await hear(receiver)).control.ifindex == b.interfaces[number].index


# Timestamps


async def test_the_first_timestamp_may_be_the_time_of_reading() -> None:
    """Linux switches stamping on for the whole host, a moment after the first socket has asked for it."""
    with trio.move_on_after(SECONDS):
        while True:
            async with open_udp(HERE, control_flags=ControlFlags.TIMESTAMP) as conn:
                await conn.send_to(b"", conn.local_endpoint)  # On loopback it is queued when this returns.
                sent = time.time_ns()
                stamp = (await hear(conn)).control.timestamp_ns
            assert stamp is not None
            if stamp > sent:
                return
            await trio.sleep(0.01)  # The kernel takes as long to switch it off.
    pytest.skip("another socket of this machine keeps stamping on")


async def test_timestamps_become_the_time_of_arrival() -> None:
    async with open_udp(HERE, control_flags=ControlFlags.TIMESTAMP) as conn:
        with trio.fail_after(SECONDS):
            while True:
                await conn.send_to(b"", conn.local_endpoint)
                sent = time.time_ns()
                stamp = (await conn.receive()).control.timestamp_ns
                assert stamp is not None
                if stamp <= sent:
                    return


# Raw sockets


def pseudo_header(source: IPv4Address | str, destination: IPv4Address | str, length: int) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    return addresses + struct.pack("!BBH", 0, UDP, length)  # RFC 768


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_a_raw_socket_hears_a_train_of_segments_as_one_packet(
    two: Lab, opener: Callable[[int], PacketConn | RawConn]
) -> None:
    a, b = two["a"], two["b"]
    async with b.call(opener, UDP) as raw, b.call(open_udp, port=5000) as udp, a.call(open_udp) as sender:
        await sender.send_segmented(bytes(5000), 1000, (b.addresses[0], 5000))
        with trio.fail_after(SECONDS):
            packet = await raw.receive()
        assert b.interfaces[0].mtu == 1500
        assert len(packet.payload) == 8 + 5000
        assert struct.unpack("!4xH2x", packet.payload[:8]) == (8 + 5000,)
        if isinstance(packet, RawDatagram):
            assert packet.header.total_len == 20 + 8 + 5000
        assert [len(each) for each in await hear_all(udp, 5)] == [1000] * 5


async def test_a_raw_socket_sees_unfinished_checksums_of_this_host() -> None:
    async with open_ip(UDP) as raw, open_udp(HERE) as udp, open_udp(HERE) as sender:
        await sender.send_to(b"hello", udp.local_endpoint)
        assert_is_unfinished((await hear(raw)).payload, HERE, HERE)
        assert (await hear(udp)).payload == b"hello"


async def test_a_raw_socket_sees_unfinished_checksums_from_a_veth(two: Lab) -> None:
    a, b = two["a"], two["b"]
    async with b.call(open_ip, UDP) as raw, a.call(open_udp) as sender:
        await sender.send_to(b"hello", (b.addresses[0], 5000))
        assert_is_unfinished((await hear(raw)).payload, a.addresses[0], b.addresses[0])


def assert_is_unfinished(packet: bytes, source: IPv4Address | str, destination: IPv4Address | str) -> None:
    """The field holds the sum of the pseudo header alone (CHECKSUM_PARTIAL, linux/skbuff.h)."""
    pseudo = pseudo_header(source, destination, len(packet))
    assert struct.unpack("!6xH", packet[:8])[0] == internet_checksum(pseudo) ^ 0xFFFF
    assert internet_checksum(pseudo + packet) != 0


@needs_nft
async def test_a_raw_socket_does_not_hear_what_a_firewall_drops() -> None:
    async with open_ip(PROTOCOL) as conn:
        nft("add chain ip t i { type filter hook input priority 0; }", "add rule ip t i ip daddr 127.0.0.2 drop")
        await conn.send_to(b"dropped", ("127.0.0.2", 0))
        await conn.send_to(b"heard", (HERE, 0))
        assert (await hear(conn)).payload == b"heard"


async def test_a_raw_socket_hears_from_the_moment_it_is_made_before_any_option_of_it_is_set() -> None:
    """As `open_ip` makes it: socket, options, bind. What comes between lacks facts, and obeys nothing."""
    bare = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
    bare.setblocking(False)
    async with PacketConn(trio.socket.from_stdlib_socket(bare)) as conn, open_ip(PROTOCOL) as sender:
        await sender.send_to(b"early, and for another address", ("127.0.0.2", 0))
        bare.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO, linux/in.h
        bare.bind((HERE, 0))
        await sender.send_to(b"late, and for another address", ("127.0.0.2", 0))
        await sender.send_to(b"late", (HERE, 0))
        early, late = await hear(conn), await hear(conn)
        assert (early.payload, early.control.ifindex) == (b"early, and for another address", None)
        assert (late.payload, late.control.ifindex) == (b"late", LO)


async def test_all_hosts_is_not_heard_by_a_raw_connection_that_did_not_join_it() -> None:
    async with open_ip(PROTOCOL) as conn, open_ip(PROTOCOL, multicast_all=True) as curious:
        curious.multicast_interface = LO
        await curious.send_to(b"to all hosts", ("224.0.0.1", 0))
        await curious.send_to(b"unicast", (HERE, 0))
        assert await hear_all(curious, 2) == [b"to all hosts", b"unicast"]
        assert (await hear(conn)).payload == b"unicast"


async def test_the_identification_stays_0_where_fragmenting_is_forbidden() -> None:
    header = Header(src="0.0.0.0", dst=HERE, protocol=PROTOCOL, ttl=9)
    async with open_raw(PROTOCOL) as conn:
        await conn.send(RawDatagram(header, b""))
        await conn.send(RawDatagram(attrs.evolve(header, flags=HeaderFlags.DONT_FRAGMENT), b""))
        with trio.fail_after(SECONDS):
            assert (await conn.receive()).header.id != 0
            assert (await conn.receive()).header.id == 0


async def test_the_receiving_kernel_writes_into_record_route_and_not_into_the_checksum(two: Lab) -> None:
    a, b = two["a"], two["b"]
    header = Header(src="0.0.0.0", dst=b.addresses[0], protocol=PROTOCOL, ttl=9, options=RECORD_ROUTE)
    async with b.call(open_raw, PROTOCOL) as receiver, a.call(open_raw, PROTOCOL) as sender:
        await sender.send(RawDatagram(header, b""))
        with trio.fail_after(SECONDS):
            got = (await receiver.receive()).header
        assert got.options[:7] == bytes([7, 39, 8]) + b.addresses[0].packed
        assert not got.checksum_ok
        assert attrs.evolve(got, options=RECORD_ROUTE).checksum_ok


async def test_a_raw_socket_of_igmp_hears_queries_and_reports(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    async with b.call(open_ip, IGMP) as igmp, a.call(open_udp) as member:
        igmp.join_group("en0", "224.0.0.1")
        igmp.join_group("en0", "224.0.0.22")
        for state in "01":  # A querier that is switched on asks at once.
            lab.switch.ip("link", "set", "br0", "type", "bridge", "mcast_querier", state)
        member.join_group("en0", GROUP)
        wanted = {0x11, 0x22}  # A query; a report of version 3 (RFC 9776 section 4).
        with trio.fail_after(SECONDS):
            while wanted:
                wanted.discard((await igmp.receive()).payload[0])


# Errors of sending


def batch(*payloads: bytes, to: tuple[str, int]) -> list[Datagram]:
    return [Datagram(payload, to) for payload in payloads]


@needs_nft
@pytest.mark.usefixtures("calls")
async def test_after_eperm_a_batch_goes_on_behind_the_datagram_that_was_refused() -> None:
    nft("add chain ip t o { type filter hook output priority 0; }", "add rule ip t o udp dport 7777 drop")
    async with open_udp(HERE) as receiver, open_udp(HERE) as sender:
        to = receiver.local_endpoint
        values = [*batch(b"0", to=to), *batch(b"1", to=(HERE, 7777)), *batch(b"2", to=to)]
        with pytest.raises(OSError, match="datagram 1 of the batch") as caught:
            await sender.send_batch(values)
        assert (caught.value.errno, caught.value.sent) == (errno.EPERM, 1)  # type: ignore[attr-defined]
        for _ in range(2):  # It never goes out.
            with pytest.raises(PermissionError):
                await sender.send_batch(values[1:])
        await sender.send_batch(values[2:])
        assert await hear_all(receiver, 2) == [b"0", b"2"]


@pytest.fixture
async def nobody() -> tuple[str, int]:
    """Where nobody listens."""
    async with open_udp(HERE) as gone:
        return gone.local_endpoint


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("how", ["connected", "IP_RECVERR"])
async def test_econnrefused_is_of_an_earlier_datagram_and_the_one_at_hand_can_be_sent_again(
    nobody: tuple[str, int], how: str, eventually: Eventually
) -> None:
    async with open_udp(HERE) as receiver, open_udp(HERE) as sender:
        if how == "connected":
            await sender.socket.connect(nobody)
        else:
            set_option(sender, IP_RECVERR, 1)
        await sender.send_to(b"to nobody", nobody)
        await eventually(lambda: has_error(sender))
        values = batch(b"0", b"1", to=receiver.local_endpoint)
        with pytest.raises(ConnectionRefusedError):
            await sender.send_batch(values)
        await sender.send_batch(values)
        assert await hear_all(receiver, 2) == [b"0", b"1"]


@pytest.mark.usefixtures("calls")
async def test_after_econnrefused_a_batch_goes_on_at_the_datagram_that_was_refused(nobody: tuple[str, int]) -> None:
    """In the middle of a batch sendmmsg(2) keeps such an error to itself: then nothing is raised, and all is out."""
    async with open_udp(HERE) as receiver, open_udp(HERE) as sender:
        set_option(sender, IP_RECVERR, 1)
        rest: Sequence[Datagram] = batch(b"1", b"2", b"3", to=receiver.local_endpoint)
        rest = [Datagram(b"0", nobody), *rest]
        for _ in range(len(rest)):
            try:
                await sender.send_batch(rest)
                break
            except OSError as refused:  # A `PartialSendError` is no `ConnectionRefusedError`.
                assert refused.errno == errno.ECONNREFUSED
                rest = rest[getattr(refused, "sent", 0) :]
        else:
            pytest.fail("there is an error for each datagram")
        await sender.send_to(b"end", receiver.local_endpoint)
        assert await hear_all(receiver, 4) == [b"1", b"2", b"3", b"end"]


async def test_a_pending_error_is_told_before_datagrams_that_were_queued_earlier(
    nobody: tuple[str, int], eventually: Eventually
) -> None:
    async with open_udp(HERE) as conn, open_udp(HERE) as sender:
        set_option(conn, IP_RECVERR, 1)
        await sender.send_to(b"earlier", conn.local_endpoint)
        await conn.send_to(b"to nobody", nobody)
        await eventually(lambda: has_error(conn))
        with pytest.raises(ConnectionRefusedError):
            await conn.receive()
        assert (await hear(conn)).payload == b"earlier"


def has_error(conn: PacketConn) -> bool:
    poll = select.poll()
    poll.register(conn.socket.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@needs_tc
async def test_what_a_full_queue_of_the_interface_drops_is_told_only_with_ip_recverr(two: Lab) -> None:
    a, b = two["a"], two["b"]
    to = b.addresses[0], 5000
    async with b.call(open_udp, port=5000) as receiver, a.call(open_udp) as sender:
        limit_queue(a)
        await sender.send_batch([Datagram(bytes(1000), to), Datagram(b"short", to)])
        assert (await hear(receiver)).payload == b"short"
        set_option(sender, IP_RECVERR, 1)
        with pytest.raises(OSError, match="No buffer space") as caught:
            await sender.send_to(bytes(1000), to)
        assert caught.value.errno == errno.ENOBUFS


def limit_queue(host: LabHost) -> None:
    """Let the queue of en0 have room for 100 octets."""
    subprocess.run(host.command(["tc", "qdisc", "add", "dev", "en0", "root", "bfifo", "limit", "100"]), check=True)


async def test_a_connected_socket_is_told_of_other_icmp_errors_too(routed: Lab) -> None:
    far = ("198.51.100.1", 5000)
    routed["router"].ip("route", "add", "prohibit", "198.51.100.0/24")
    async with routed["a"].call(open_udp) as conn:
        await conn.socket.connect(far)
        await conn.send_to(b"", far)
        with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)) as caught:
            await hear(conn)
        assert caught.value.errno == errno.EHOSTUNREACH
        await conn.send_to(b"", far)


async def test_einval_is_also_of_a_blackhole_route_and_of_a_loopback_source(two: Lab) -> None:
    a, b = two["a"], two["b"]
    a.ip("route", "add", "blackhole", "203.0.113.0/24")
    async with a.call(open_udp) as conn, a.call(open_udp, HERE) as loopback:
        for sender, to in ((conn, "203.0.113.1"), (loopback, b.addresses[0])):
            with pytest.raises(OSError, match="Invalid argument"):
                await sender.send_to(b"", (to, 5000))


async def test_eacces_is_also_of_a_prohibit_route(two: Lab) -> None:
    two["a"].ip("route", "add", "prohibit", "203.0.113.0/24")
    async with two["a"].call(open_udp) as conn:
        with pytest.raises(PermissionError) as caught:
            await conn.send_to(b"", ("203.0.113.1", 5000))
        assert caught.value.errno == errno.EACCES


# Sockets on one port


async def test_a_connected_socket_hears_no_group(two: Lab) -> None:
    """Connecting binds it to one of this host's addresses."""
    a, b = two["a"], two["b"]
    async with (
        b.call(open_udp, port=5000) as receiver,
        a.call(open_udp, a.addresses[0]) as sender,
        receiver.joined("en0", GROUP),
    ):
        sender.multicast_interface = "en0"
        assert receiver.local_endpoint == ("0.0.0.0", 5000)
        await receiver.socket.connect(sender.local_endpoint)
        assert receiver.local_endpoint == (str(b.addresses[0]), 5000)
        await sender.send_to(b"to the group", TO_GROUP)
        await sender.send_to(b"unicast", receiver.local_endpoint)
        assert (await hear(receiver)).payload == b"unicast"


async def test_a_broadcast_reaches_each_socket_of_a_shared_port_and_unicast_one(two: Lab) -> None:
    a, b = two["a"], two["b"]
    async with (
        b.call(open_udp, port=5000, share_port=True) as one,
        b.call(open_udp, port=5000, share_port=True) as other,
        a.call(open_udp) as sender,
    ):
        await sender.send_to(b"unicast", (b.addresses[0], 5000))
        for _ in range(2):
            await sender.send_to(b"broadcast", ("198.18.0.255", 5000))
        heard = [(await hear(conn)).payload for conn in (one, other) for _ in range(2)]
        assert sorted(heard) == [b"broadcast"] * 3 + [b"unicast"]


@pytest.mark.parametrize("by", ["address", "device"])
async def test_unicast_to_a_shared_port_prefers_who_is_bound_closer(two: Lab, by: str) -> None:
    a, b = two["a"], two["b"]
    close = b.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    close.setblocking(False)
    async with (
        b.call(open_udp, port=5000, share_port=True) as before,
        PacketConn(trio.socket.from_stdlib_socket(close)) as closer,
    ):
        close.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if by == "device":
            close.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, b.interfaces[0].index)
        close.bind((str(b.addresses[0]) if by == "address" else "0.0.0.0", 5000))
        async with b.call(open_udp, port=5000, share_port=True) as after, a.call(open_udp) as sender:
            await sender.send_to(b"unicast", (b.addresses[0], 5000))
            assert (await hear(closer)).payload == b"unicast"
            assert is_empty(before)
            assert is_empty(after)


def is_empty(conn: PacketConn) -> bool:
    try:
        os.read(conn.socket.fileno(), 1)
    except BlockingIOError:
        return True
    return False


async def test_a_source_filter_has_no_say_on_interfaces_where_only_others_joined(two_links: Lab) -> None:
    """With `multicast_all=True`, the kernel's own default."""
    a, b = two_links["a"], two_links["b"]
    async with (
        b.call(open_udp, port=5000, multicast_all=True) as receiver,
        b.call(open_udp) as other,
        a.call(open_udp) as sender,
        receiver.joined("en0", GROUP, sources=SourceFilter.include("192.0.2.1")),
        other.joined("en0", GROUP),
        other.joined("en1", GROUP),
    ):
        for interface in ("en0", "en1"):
            sender.multicast_interface = interface
            await sender.send_to(interface.encode(), TO_GROUP)
        assert (await hear(receiver)).payload == b"en1"


# The drop counter


async def test_the_drop_counter_counts_what_a_filter_refused_over_udp() -> None:
    async with open_udp(HERE, control_flags=ControlFlags.DROPS) as conn, open_udp(HERE) as sender:
        conn.attach_filter(BEGINS_WITH_X)
        for payload in (b"a", b"b", b"x"):
            await sender.send_to(payload, conn.local_endpoint)
        got = await hear(conn)
        assert (got.payload, got.control.drops) == (b"x", 2)


async def test_the_drop_counter_is_that_of_the_moment_at_which_the_datagram_was_queued() -> None:
    async with open_udp(HERE, control_flags=ControlFlags.DROPS) as conn, open_udp(HERE) as sender:
        conn.receive_buffer_size = 4096
        for _ in range(100):
            await sender.send_to(bytes(500), conn.local_endpoint)
        queued = await conn.receive_batch(200)
        assert 0 < len(queued) < 100
        assert {datagram.control.drops for datagram in queued} == {0}
        await sender.send_to(b"the next one tells", conn.local_endpoint)
        assert (await hear(conn)).control.drops == 100 - len(queued)


# Offload


async def test_with_offload_the_drop_counter_may_count_a_train_as_one() -> None:
    async with open_udp(HERE, control_flags=ControlFlags.DROPS) as conn, open_udp(HERE) as sender:
        conn.receive_offload = True
        conn.receive_buffer_size = 20_000
        for _ in range(20):
            await sender.send_segmented(bytes(5000), 100, conn.local_endpoint)
        lost = 20 * 50 - len(await conn.receive_batch(2000))
        await sender.send_to(b"", conn.local_endpoint)
        drops = (await hear(conn)).control.drops
        assert drops is not None
        assert 0 < drops < lost


@pytest.mark.parametrize("offload", [False, True])
async def test_with_offload_a_filter_judges_a_train_by_its_first_datagram(offload: bool) -> None:
    """The option is set on the bare socket, so a train is heard as one."""
    async with open_udp(HERE) as conn, open_udp(HERE) as sender:
        conn.attach_filter(BEGINS_WITH_X)
        conn.socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, offload)
        await sender.send_segmented(b"x1a2x3", 2, conn.local_endpoint)
        await sender.send_segmented(b"a4x5x6", 2, conn.local_endpoint)
        await sender.send_to(b"x7", conn.local_endpoint)
        expected = [b"x1a2x3", b"x7"] if offload else [b"x1", b"x3", b"x5", b"x6", b"x7"]
        assert await hear_all(conn, len(expected)) == expected


@pytest.mark.parametrize("offload", [False, True])
async def test_the_datagrams_of_a_train_share_one_timestamp(offload: bool) -> None:
    async with open_udp(HERE, control_flags=ControlFlags.TIMESTAMP) as conn, open_udp(HERE) as sender:
        conn.receive_offload = offload
        with trio.fail_after(SECONDS):
            while True:  # Until stamping is on: without it, each may have its own time of reading.
                await sender.send_segmented(b"abcdef", 1, conn.local_endpoint)
                sent = time.time_ns()
                stamps = [(await conn.receive()).control.timestamp_ns or 0 for _ in range(6)]
                if max(stamps) <= sent:
                    break
        assert len(set(stamps)) == 1


# Length


async def test_the_first_datagram_that_is_longer_than_a_narrower_link_on_the_way_is_lost(routed: Lab) -> None:
    a, b = routed["a"], routed["b"]
    routed["router"].ip("link", "set", "en1", "mtu", "1000")
    async with b.call(open_udp, port=5000) as receiver, a.call(open_udp) as sender:
        heard: Datagram | None = None
        number = -1
        with trio.fail_after(SECONDS):
            while heard is None:
                number += 1
                await sender.send_to(struct.pack("!I1396x", number), (b.addresses[0], 5000))
                with trio.move_on_after(0.05):
                    heard = await receiver.receive()
        assert len(heard.payload) == 1400
        assert struct.unpack_from("!I", heard.payload)[0] > 0


async def test_multicast_that_is_longer_than_a_narrower_link_behind_a_router_is_lost_unless_it_may_be_fragmented(
    routed: Lab,
) -> None:
    a, b = routed["a"], routed["b"]
    routed["router"].ip("link", "set", "en1", "mtu", "1000")
    async with b.call(open_udp, port=5000) as receiver, a.call(open_udp) as sender, receiver.joined("en1", GROUP):
        sender.multicast_interface, sender.multicast_ttl = "en0", 2
        ready = 0
        with trio.fail_after(SECONDS):  # The router learns a route from the first ones, and keeps only a few meanwhile.
            while not ready:
                await sender.send_to(b"ready", TO_GROUP)
                with trio.move_on_after(0.05):
                    ready = len((await receiver.receive()).payload)
        for _ in range(3):  # No error comes back, for groups none ever does (RFC 1122 section 3.2.2).
            await sender.send_to(bytes(1400), TO_GROUP)
        await sender.send_to(b"!", TO_GROUP)
        await sender.send_to(bytes(1600), TO_GROUP)  # More than this host's own MTU leaves in fragments anyway.
        set_option(sender, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        await sender.send_to(bytes(1400), TO_GROUP)
        heard: list[int] = []
        while 1400 not in heard:
            heard.append(len((await hear(receiver)).payload))
        assert [length for length in heard if length != ready] == [1, 1600, 1400]


# Memberships


async def test_a_membership_ends_when_its_interfaces_mtu_falls_below_68() -> None:
    async with open_udp() as conn, conn.joined(LO, GROUP):
        assert (LO, GROUP) in igmp_groups()
        ip("link set lo mtu 67", "link set lo mtu 1500")
        assert (LO, GROUP) not in igmp_groups()
        conn.repair_memberships()
        assert (LO, GROUP) in igmp_groups()


KILLED = """
import os, signal, time
from trio_ipv4 import open_udp

conn = open_udp()
conn.join_group("lo", "239.1.2.3")
child = os.fork()
if child:
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


async def test_a_process_that_is_killed_stays_a_member_as_long_as_a_forked_child_lives(eventually: Eventually) -> None:
    child = kill_a_member()
    try:
        assert (LO, GROUP) in igmp_groups()
    finally:
        os.kill(child, 9)
    await eventually(lambda: (LO, GROUP) not in igmp_groups())


def kill_a_member() -> int:
    """Run `KILLED` until it is dead; return its child's process id."""
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        assert killed.wait(SECONDS) == -9
    return child
