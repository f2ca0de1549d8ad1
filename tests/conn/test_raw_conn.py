"""Raw IP with headers (RawConn) and without (PacketConn): protocol 253, which RFC 3692 keeps for experiments."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

from support.here import BOTH, igmp_groups, is_empty, source_filters
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Header,
    HeaderFlags,
    PacketConn,
    PartialSendError,
    RawConn,
    RawDatagram,
    SourceFilter,
    open_ip,
    open_raw,
)
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4.testing import Lab

pytestmark = [BOTH, pytest.mark.usefixtures("calls")]

PROTOCOL = 253
HERE = "127.0.0.1"
GROUP = IPv4Address("239.1.2.3")
SSM = IPv4Address("232.1.2.3")
LO = 1
HEADER = Header(src=HERE, dst=HERE, protocol=PROTOCOL, ttl=9, tos=0xB8, id=0x1234)
NOPS = b"\x01" * 4  # RFC 791: No Operation, four times
RECORD_ROUTE = bytes([7, 39, 4]) + bytes(36) + b"\0"  # RFC 791: Record Route with room for nine, and the end


@pytest.fixture
def a_lab(needs_lab: None) -> Iterator[Lab]:
    with open_lab() as lab:
        # A slow machine must not make the bridge wait for reports before it forwards.
        lab.switch.ip("link", "set", "br0", "type", "bridge", "mcast_snooping", "0")
        yield lab


# Headers


async def test_a_header_arrives_as_it_was_sent_and_the_kernel_fills_in_the_rest() -> None:
    async with open_raw(PROTOCOL, HERE) as conn:
        await conn.send(RawDatagram(HEADER, b"payload"))
        got = await conn.receive()
        assert got.payload == b"payload"
        assert got.header == attrs.evolve(HEADER, total_len=27).with_checksum()
        assert got.header.checksum_ok
        assert got.control == ControlMessage(ifindex=LO, dst=HERE, local=HERE)
        assert got.truncated is False


async def test_the_kernel_fills_in_source_identification_length_and_checksum() -> None:
    async with open_raw(PROTOCOL) as conn:
        blank = Header(src="0.0.0.0", dst=HERE, protocol=PROTOCOL, ttl=9, id=0, total_len=9999, checksum=0xDEAD)
        for _ in range(2):
            await conn.send(RawDatagram(blank, b"x" * 5))
        first, second = await conn.receive_batch()
        for got in (first, second):
            assert got.header.src == IPv4Address(HERE)
            assert got.header.total_len == 25
            assert got.header.checksum_ok
        assert first.header.id != second.header.id


async def test_flags_and_offset_are_kept() -> None:
    async with open_raw(PROTOCOL) as conn:
        await conn.send(RawDatagram(attrs.evolve(HEADER, flags=HeaderFlags.DONT_FRAGMENT), b""))
        assert (await conn.receive()).header.flags == HeaderFlags.DONT_FRAGMENT


@pytest.mark.parametrize("options", [NOPS, NOPS * 10, RECORD_ROUTE])
async def test_options_are_not_a_part_of_the_payload(options: bytes) -> None:
    header = attrs.evolve(HEADER, options=options)
    payloads = [b"HELLO", b"", b"more"]
    async with open_raw(PROTOCOL) as raw, open_ip(PROTOCOL) as packets:
        batch = [RawDatagram(header, payload) for payload in payloads]
        for single in batch:
            await raw.send(single)
        await raw.send_batch(batch)
        for expected in payloads:
            got = await raw.receive()
            assert (got.payload, got.header.header_len) == (expected, 20 + len(options))
            assert got.header.options[:3] == options[:3] or options is RECORD_ROUTE
            assert (await packets.receive()).payload == expected
        assert [got.payload for got in await raw.receive_batch()] == payloads
        got = await packets.receive_batch()
        assert [each.payload for each in got] == payloads
        assert {each.peer for each in got} == {(HERE, 0)}
        assert not any(each.truncated for each in got)


async def test_options_that_the_sockets_add_are_stripped_too() -> None:
    async with open_ip(PROTOCOL) as conn:
        conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, NOPS)
        await conn.send_to(b"HELLO", (HERE, 0))
        assert (await conn.receive()).payload == b"HELLO"


@pytest.mark.parametrize("size", [1, 19, 20, 24, 5])
async def test_a_bound_smaller_than_the_header_is_safe(size: int) -> None:
    payload = b"0123456789" * 3
    async with open_raw(PROTOCOL) as raw, open_ip(PROTOCOL) as packets:
        for options in (b"", NOPS * 10):
            await raw.send(RawDatagram(attrs.evolve(HEADER, options=options), payload))
            await raw.send(RawDatagram(attrs.evolve(HEADER, options=options), payload[:size]))
            for conn in (raw, packets):
                cut = await conn.receive(size)
                assert (cut.payload, cut.truncated) == (payload[:size], True)
                (whole,) = await conn.receive_batch(max_bytes=size)
                assert (whole.payload, whole.truncated) == (payload[:size], False)


async def test_packets_have_the_kernels_header() -> None:
    async with open_raw(PROTOCOL) as raw, open_ip(PROTOCOL) as packets:
        packets.ttl, packets.tos = 5, 0x28
        await packets.send_to(b"x", (HERE, 0), control=ControlMessage(ttl=77))
        await packets.send_to(b"y", (HERE, 4000))  # raw(7): the port of a raw endpoint means nothing.
        headers = [got.header for got in await raw.receive_batch()]
        assert [(header.ttl, header.tos, header.protocol) for header in headers] == [(77, 0x28, 253), (5, 0x28, 253)]
        assert [got.payload for got in await packets.receive_batch()] == [b"x", b"y"]


async def test_a_batch_is_in_order_and_equals_singles() -> None:
    async with open_raw(PROTOCOL, control_flags=ControlFlags(31)) as conn:
        headers = [attrs.evolve(HEADER, ttl=ttl, id=ttl, options=NOPS * (ttl % 3)) for ttl in range(1, 20)]
        sent = [RawDatagram(header, bytes([header.ttl]) * header.ttl) for header in headers]
        await conn.send_batch(sent)
        batched = await conn.receive_batch()
        for datagram in sent:
            await conn.send(datagram)
        assert [await conn.receive() for _ in sent] == batched
        assert [got.payload for got in batched] == [datagram.payload for datagram in sent]
        assert [got.header.options for got in batched] == [header.options for header in headers]
        assert [got.control.ttl for got in batched] == [header.ttl for header in headers]
        assert {(got.control.tos, got.control.src) for got in batched} == {(0xB8, IPv4Address(HERE))}


async def test_a_refusal_says_how_many_are_out() -> None:
    async with open_raw(PROTOCOL) as conn:
        good, bad = RawDatagram(HEADER, b"x"), RawDatagram(HEADER, bytes(65535))
        with pytest.raises(PartialSendError, match=r"datagram 1 of the batch, 65555 octets to 127\.0\.0\.1") as caught:
            await conn.send_batch([good, bad])
        assert (caught.value.sent, caught.value.errno) == (1, errno.EMSGSIZE)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (b"x", TypeError, "pass a RawDatagram, not b'x'"),
        (Datagram(b"", (HERE, 0)), TypeError, "pass a RawDatagram, not Datagram"),
        (RawDatagram(HEADER, b"", control=ControlMessage(ttl=1)), ValueError, "must have no ttl and no tos"),
        (RawDatagram(HEADER, b"", control=ControlMessage(tos=1)), ValueError, "must have no ttl and no tos"),
        (RawDatagram(HEADER, b"", control=ControlMessage(dst=HERE)), ValueError, "dst must be None when sending"),
    ],
)
async def test_nonsense_is_refused(value: Any, error: type[Exception], message: str) -> None:
    async with open_raw(PROTOCOL) as conn:
        for send in (conn.send(value), conn.send_batch([RawDatagram(HEADER, b""), value])):
            with pytest.raises(error, match=message):
                await send
        assert is_empty(conn)


async def test_packet_connections_do_not_take_headers() -> None:
    async with open_ip(PROTOCOL) as conn:
        with pytest.raises(TypeError, match="pass a Datagram, not RawDatagram"):
            await conn.send(RawDatagram(HEADER, b""))  # type: ignore[arg-type]


async def test_a_raw_connection_is_a_channel() -> None:
    async with open_raw(PROTOCOL) as conn:
        assert isinstance(conn, trio.abc.Channel)
        await conn.send(RawDatagram(HEADER, b"one"))
        async for datagram in conn:
            assert datagram.payload == b"one"
            break
        await conn.send(RawDatagram(HEADER, b"two"))
        async for batch in conn.batches():
            assert [datagram.payload for datagram in batch] == [b"two"]
            break


async def test_only_the_protocol_and_the_address_are_heard() -> None:
    async with open_raw(254) as other, open_ip(PROTOCOL, "127.0.0.2") as bound, open_raw(255) as sender:
        await sender.send(RawDatagram(HEADER, b"to .1"))
        assert is_empty(other)
        assert is_empty(bound)
        await sender.send(RawDatagram(attrs.evolve(HEADER, dst="127.0.0.2"), b"to .2"))
        assert (await bound.receive()).payload == b"to .2"
        assert is_empty(sender)  # raw(7): IPPROTO_RAW receives nothing.


async def test_a_reply_over_raw_ip_comes_from_the_address_that_was_asked() -> None:
    async with open_ip(PROTOCOL) as server, open_raw(PROTOCOL, "127.0.0.9") as client:
        await client.send(RawDatagram(attrs.evolve(HEADER, src="127.0.0.9", dst="127.0.0.77"), b"question"))
        await server.send((await server.receive()).reply(b"answer"))
        answer = await client.receive()
        assert (answer.header.src, answer.payload) == (IPv4Address("127.0.0.77"), b"answer")


@pytest.mark.kernel_only("options that are not simulated")
@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_cut_off_control_messages_raise_and_lose_no_other(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(PROTOCOL) as conn, open_raw(PROTOCOL, "127.0.0.3") as sender:
        conn.control_flags = ControlFlags(127)
        for level, name, value in ((0, 6, 1), (0, 7, 1), (0, 20, 1), (1, 37, 0x18)):  # As in test_receive_send.py.
            conn.socket.setsockopt(level, name, value)
        laden = attrs.evolve(HEADER, options=NOPS * 10)
        plain = RawDatagram(HEADER, b"plain")
        await sender.send_batch([plain, RawDatagram(laden, b"laden"), plain])
        # The port of a raw packet is its payload's second word: four octets are wanted.
        got = await conn.receive_batch()
        assert [each.payload for each in got] == [b"plain"]
        with pytest.raises(OSError, match="MSG_CTRUNC"):
            await conn.receive_batch()
        assert (await conn.receive()).payload == b"plain"


# Multicast


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_a_group_is_heard_from_any_source_once_joined(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(PROTOCOL) as conn, open_raw(PROTOCOL, "127.0.0.9") as sender:
        sender.multicast_interface = "lo"
        to_group = RawDatagram(attrs.evolve(HEADER, dst=GROUP), b"x")
        await sender.send(to_group)
        assert is_empty(conn)
        async with conn.joined("lo", GROUP):
            assert (LO, GROUP) in igmp_groups()
            await sender.send(to_group)
            got = await conn.receive()
            assert (got.payload, got.control.dst, got.control.ifindex) == (b"x", GROUP, LO)
        assert (LO, GROUP) not in igmp_groups()
        await sender.send(to_group)
        assert is_empty(conn)


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_a_group_is_heard_from_one_source_alone(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(PROTOCOL) as conn, open_raw(255) as sender:
        sender.multicast_interface = "lo"
        async with conn.joined("lo", SSM, sources=SourceFilter.include("127.0.0.2")):
            assert source_filters()[LO, SSM] == {IPv4Address("127.0.0.2"): (1, 0)}
            for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
                header = Header(src=source, dst=SSM, protocol=PROTOCOL, ttl=1)
                # On loopback the kernel filters by the source that it would have chosen, unless it is told another.
                await sender.send(RawDatagram(header, source.encode(), control=ControlMessage(src=source)))
            assert (await conn.receive()).payload == b"127.0.0.2"
            assert is_empty(conn)


async def test_between_hosts_headers_and_groups_are_the_same(a_lab: Lab) -> None:
    a, b = a_lab["a"], a_lab["b"]
    async with a.call(open_raw, PROTOCOL) as sender, b.call(open_raw, PROTOCOL) as raw, b.call(open_ip, PROTOCOL) as ip:
        with trio.fail_after(20):
            unicast = Header(src=a.addresses[0], dst=b.addresses[0], protocol=PROTOCOL, ttl=3, id=7, options=NOPS)
            await sender.send(RawDatagram(unicast, b"unicast"))
            got = await raw.receive()
            assert got.header == attrs.evolve(unicast, total_len=24 + 7).with_checksum()
            assert got.payload == (await ip.receive()).payload == b"unicast"
            include = SourceFilter.include(a.addresses[0])
            async with raw.joined("en0", SSM, sources=include), ip.joined("en0", GROUP):
                for dst in (SSM, GROUP):
                    for src in (str(a.addresses[0]), "198.18.0.200"):
                        header = Header(src=src, dst=dst, protocol=PROTOCOL, ttl=1, id=9)
                        control = ControlMessage(ifindex=a.interfaces[0])
                        await sender.send(RawDatagram(header, f"{dst} from {src}".encode(), control=control))
                heard = [(await ip.receive()).payload.decode() for _ in range(2)]
                assert heard == [f"{GROUP} from {a.addresses[0]}", f"{GROUP} from 198.18.0.200"]
                assert (await raw.receive()).payload.decode() == f"{SSM} from {a.addresses[0]}"
                assert is_empty(raw)


async def test_longer_than_the_mtu_is_refused_with_headers_and_cut_without(a_lab: Lab) -> None:
    # raw(7): with IP_HDRINCL packets are not fragmented.
    a, b = a_lab["a"], a_lab["b"]
    payload = struct.pack(">1000H", *range(1000))
    async with (
        a.call(open_raw, PROTOCOL) as raw,
        a.call(open_ip, PROTOCOL) as ip,
        b.call(open_ip, PROTOCOL) as receiver,
    ):
        with pytest.raises(OSError, match=r"longer than the path's MTU of 1,500 octets") as caught:
            await raw.send(RawDatagram(attrs.evolve(HEADER, src=a.addresses[0], dst=b.addresses[0]), payload))
        assert caught.value.errno == errno.EMSGSIZE
        with trio.fail_after(20):
            await ip.send_to(payload, (b.addresses[0], 0))
            assert (await receiver.receive()).payload == payload


async def test_ip_protocol_255_is_not_a_packet_connection_without_headers() -> None:
    # raw(7): "An IPPROTO_RAW socket is send only" and "implies enabled IP_HDRINCL".
    async with open_ip(255) as conn:
        assert conn.socket.getsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL) == 0


async def test_protocol_255_is_one_like_any_other_without_headers() -> None:
    """To the kernel IPPROTO_RAW means IP_HDRINCL, unless told otherwise (raw(7))."""
    async with open_ip(255) as conn:
        await conn.send_to(b"short", ("127.0.0.1", 0))
        with trio.fail_after(20):
            assert (await conn.receive()).payload == b"short"
