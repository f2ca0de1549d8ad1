"""UDP_GRO and UDP_SEGMENT: fewer calls, the same datagrams."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket as stdlib_socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from support.systems import lacking, on_platform
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    PacketConn,
    PartialSendError,
    RawInstruction,
    UnsupportedError,
    open_ip,
    open_udp,
)
from trio_ipv4.testing import private_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4.testing import Lab

pytestmark = pytest.mark.usefixtures("calls")

UDP_GRO = 104  # linux/udp.h
FACTS = ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TTL


def to(conn: PacketConn) -> tuple[str, int]:
    return "127.0.0.1", conn.local_endpoint[1]


async def drain(conn: PacketConn, count: int, *, limit: int = 64, max_bytes: int = 65535) -> list[Datagram]:
    received: list[Datagram] = []
    with trio.fail_after(20):
        while len(received) < count:
            received += await conn.receive_batch(min(limit, count - len(received)), max_bytes=max_bytes)
    return received


def nothing_left(conn: PacketConn) -> bool:
    alias = stdlib_socket.socket(fileno=conn.socket.fileno())
    try:
        alias.setblocking(False)  # PyPy's constructor made it block.
        with pytest.raises(BlockingIOError):
            alias.recv(1)
    finally:
        alias.detach()
    return True


async def test_what_is_sent_segmented_arrives_as_single_datagrams() -> None:
    async with open_udp(control_flags=FACTS) as receiver, open_udp() as sender:
        payload = bytes(range(256)) * 20 + b"end"
        await sender.send_segmented(payload, 1000, to(receiver), control=ControlMessage(ttl=7))
        received = await drain(receiver, 6)
        assert [len(each.payload) for each in received] == [1000] * 5 + [123]
        assert b"".join(each.payload for each in received) == payload
        assert {each.control.ttl for each in received} == {7}
        assert nothing_left(receiver)


@pytest.mark.parametrize("limit", [1, 3, 64, 1024])
async def test_offload_changes_the_cost_and_not_what_is_received(limit: int) -> None:
    async with open_udp(control_flags=FACTS) as receiver, open_udp() as sender:
        receiver.receive_offload = True
        assert receiver.socket.getsockopt(17, UDP_GRO) == 1
        await sender.send_segmented(b"a" * 500 + b"b" * 500 + b"c" * 20, 100, to(receiver))
        await sender.send_to(b"alone", to(receiver))
        await sender.send_to(b"", to(receiver))
        received = await drain(receiver, 13, limit=limit)
        assert [each.payload for each in received] == [b"a" * 100] * 5 + [b"b" * 100] * 5 + [b"c" * 20, b"alone", b""]
        assert {each.peer for each in received} == {("127.0.0.1", sender.local_endpoint[1])}
        assert {(each.control.ttl, str(each.control.dst), each.control.ifindex) for each in received} == {
            (64, "127.0.0.1", 1)
        }
        assert not any(each.truncated for each in received)


async def test_the_kernel_really_hands_several_over_as_one() -> None:
    """Otherwise the other tests would show nothing."""
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"x" * 6400, 100, to(receiver))
        payload, ancillary, _, _ = await receiver.socket.recvmsg(65535, 256)
        assert len(payload) == 6400
        assert (17, UDP_GRO, struct.pack("=i", 100)) in ancillary


async def test_left_over_segments_come_first_from_whatever_receives_next() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"".join(bytes([65 + i]) * 50 for i in range(10)), 50, to(receiver))
        assert (await receiver.receive()).payload == b"A" * 50
        assert [each.payload for each in await receiver.receive_batch(3)] == [b"B" * 50, b"C" * 50, b"D" * 50]
        receiver.receive_offload = False
        assert receiver.receive_offload is False
        await sender.send_to(b"later", to(receiver))
        assert (await receiver.receive()).payload == b"E" * 50
        assert [each.payload for each in await drain(receiver, 6)] == [bytes([65 + i]) * 50 for i in range(5, 10)] + [
            b"later"
        ]


async def test_what_was_queued_as_one_is_still_split_after_switching_off() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"x" * 1000, 100, to(receiver))
        receiver.receive_offload = False
        assert [each.payload for each in await drain(receiver, 10)] == [b"x" * 100] * 10


async def test_max_bytes_bounds_each_datagram_and_not_what_the_kernel_handed_over() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"x" * 1000, 100, to(receiver))
        first = await receiver.receive(30)
        assert (first.payload, first.truncated) == (b"x" * 30, True)
        second = await receiver.receive()
        assert (second.payload, second.truncated) == (b"x" * 100, False)
        rest = await drain(receiver, 8, max_bytes=99)
        assert {(each.payload, each.truncated) for each in rest} == {(b"x" * 99, True)}


async def test_an_error_comes_after_what_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await socket.bind(("127.0.0.1", 5000))
    async with PacketConn(socket) as receiver:
        receiver.receive_offload = True
        with stdlib_socket.socket(type=stdlib_socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 6000))
            await socket.connect(("127.0.0.1", 6000))
            for number in range(20):
                peer.sendto(bytes([number]), ("127.0.0.1", 5000))
        receive = receiver._inbox._receive

        def refused_after_the_first(*arguments: int) -> object:
            received = receive(*arguments)
            monkeypatch.setattr(receiver._inbox, "_receive", receive)
            os.write(socket.fileno(), b"nobody is there any more")
            return received

        monkeypatch.setattr(receiver._inbox, "_receive", refused_after_the_first)
        first = await receiver.receive_batch()
        assert [each.payload[0] for each in first] == list(range(8))
        with pytest.raises(ConnectionRefusedError):
            await receiver.receive_batch()
        assert [each.payload[0] for each in await drain(receiver, 12)] == list(range(8, 20))


async def test_a_wrapped_socket_that_has_offload_on_is_read_rightly() -> None:
    socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await socket.bind(("127.0.0.1", 0))
    socket.setsockopt(17, UDP_GRO, 1)
    async with PacketConn(socket) as receiver, open_udp() as sender:
        assert receiver.receive_offload is True
        await sender.send_segmented(b"x" * 300, 100, to(receiver))
        assert [each.payload for each in await drain(receiver, 3)] == [b"x" * 100] * 3


async def test_offload_works_for_a_group(lab: Lab) -> None:
    group = ("239.7.7.7", 5000)
    receiver, sender = lab["a"].call(open_udp, "224.0.0.0", 5000), lab["b"].call(open_udp)
    async with receiver, sender, receiver.joined("en0", group[0]):
        receiver.receive_offload = True
        sender.multicast_interface = "en0"
        await sender.send_segmented(b"".join(b"%04d" % i for i in range(200)), 4, group)
        assert [each.payload for each in await drain(receiver, 200)] == [b"%04d" % i for i in range(200)]


async def test_segments_longer_than_the_mtu_go_out_without_offload(lab: Lab) -> None:
    receiver, sender = lab["a"].call(open_udp), lab["b"].call(open_udp)
    async with receiver, sender:
        endpoint = str(lab["a"].addresses[0]), receiver.local_endpoint[1]
        payload = bytes(range(250)) * 20
        await sender.send_segmented(payload, 2000, endpoint)
        received = await drain(receiver, 3)
        assert [len(each.payload) for each in received] == [2000, 2000, 1000]
        assert b"".join(each.payload for each in received) == payload


async def test_more_than_one_call_carries_is_cut_into_several() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_buffer_size = 2**20
        payload = b"".join(b"%03d" % i for i in range(300))
        await sender.send_segmented(payload, 3, to(receiver))
        assert [each.payload for each in await drain(receiver, 300)] == [b"%03d" % i for i in range(300)]


async def test_an_empty_payload_is_one_empty_datagram() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        await sender.send_segmented(b"", 100, to(receiver))
        assert (await receiver.receive()).payload == b""
        assert nothing_left(receiver)


async def test_without_the_option_the_same_datagrams_go_out() -> None:
    with on_platform(lacking("UDP_SEGMENT", "UDP_GRO")):
        receiver, sender = open_udp(), open_udp()
    async with receiver, sender:
        await sender.send_segmented(b"x" * 250, 100, to(receiver))
        assert [len(each.payload) for each in await drain(receiver, 3)] == [100, 100, 50]
        with pytest.raises(UnsupportedError) as caught:
            receiver.receive_offload = True
        assert caught.value.option == "UDP_GRO"
        assert receiver.receive_offload is False


async def test_a_refused_destination_is_told_as_such() -> None:
    async with open_udp() as sender:
        with pytest.raises(OSError, match="send") as caught:
            await sender.send_segmented(b"x" * 300, 100, ("127.0.0.1", 0))
        assert caught.value.errno == errno.EINVAL
        assert not isinstance(caught.value, PartialSendError)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (65508, ValueError), (True, TypeError), ("9", TypeError)])
async def test_nonsense_for_a_segment_size_is_refused(size: int, error: type[Exception]) -> None:
    async with open_udp() as sender:
        with pytest.raises(error, match="segment_size"):
            await sender.send_segmented(b"x", size, ("127.0.0.1", 9))


async def test_raw_connections_have_no_offload() -> None:
    async with open_ip(253) as conn:
        assert conn.receive_offload is False
        with pytest.raises(OSError, match="UDP_GRO") as caught:
            conn.receive_offload = True
        assert caught.value.errno in {errno.ENOPROTOOPT, errno.EOPNOTSUPP}
        assert conn.receive_offload is False


async def test_offloaded_datagrams_can_be_filtered() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        receiver.attach_filter([RawInstruction(0x06, 0, 0, 0)])  # ret #0: nothing passes.
        await sender.send_segmented(b"x" * 300, 100, to(receiver))
        assert nothing_left(receiver)


ONLY_A = [
    # tcpdump -ddd -y RAW 'link[8:1] = 0x41': what begins with an A, behind the UDP header.
    RawInstruction(0x30, 0, 0, 8),
    RawInstruction(0x15, 0, 1, 0x41),
    RawInstruction(0x06, 0, 0, 262144),
    RawInstruction(0x06, 0, 0, 0),
]


def is_coalescing(conn: PacketConn) -> bool:
    return bool(conn.socket.getsockopt(stdlib_socket.IPPROTO_UDP, UDP_GRO))


@pytest.mark.parametrize("first", ["offload", "filter"])
async def test_a_program_judges_each_datagram_of_a_train(first: str) -> None:
    async with open_udp() as receiver, open_udp() as sender:
        if first == "offload":
            receiver.receive_offload = True
            receiver.attach_filter(ONLY_A)
        else:
            receiver.attach_filter(ONLY_A)
            receiver.receive_offload = True
        assert receiver.receive_offload is True
        await sender.send_segmented(b"A1B1A2B2A3B3", 2, to(receiver))
        await sender.send_segmented(b"B4A4", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 4)] == [b"A1", b"A2", b"A3", b"A4"]
        assert nothing_left(receiver)
        receiver.detach_filter()
        await sender.send_segmented(b"A5B5", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 2)] == [b"A5", b"B5"]
        assert is_coalescing(receiver)


async def test_what_was_coalesced_before_a_program_came_is_split_all_the_same() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"B1A1B2", 2, to(receiver))  # Queued before, so not filtered.
        receiver.attach_filter(ONLY_A)
        assert not is_coalescing(receiver)
        await sender.send_segmented(b"B3A3", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 4)] == [b"B1", b"A1", b"B2", b"A3"]
        assert nothing_left(receiver)


async def test_an_error_that_is_pending_keeps_nothing_from_being_split() -> None:
    socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await socket.bind(("127.0.0.1", 0))
    async with PacketConn(socket) as receiver, open_udp("127.0.0.1") as sender:
        receiver.receive_offload = True
        await socket.connect(sender.local_endpoint)
        await sender.send_segmented(b"B1A1B2", 2, to(receiver))
        await socket.connect(("127.0.0.1", 9))  # What is queued stays.
        await receiver.send_to(b"nobody listens there", ("127.0.0.1", 9))
        receiver.attach_filter(ONLY_A)
        with pytest.raises(ConnectionRefusedError):
            await receiver.receive()
        assert [each.payload for each in await drain(receiver, 3)] == [b"B1", b"A1", b"B2"]


async def test_a_warning_that_is_an_error_leaves_the_program_attached() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        receiver.joined("lo", "239.1.2.3")  # Never entered, which is told when somebody waits.
        gc.collect()
        receiver.attach_filter(ONLY_A)
        await sender.send_segmented(b"A1B1", 2, to(receiver))
        assert (await receiver.receive()).payload == b"A1"
        with pytest.raises(RuntimeWarning, match="never joined"):
            await receiver.receive()


async def test_a_program_that_is_refused_leaves_offload_as_it_was() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        with pytest.raises(OSError, match="attach a filter"):
            receiver.attach_filter([RawInstruction(0xFF, 0, 0, 0), RawInstruction(0x06, 0, 0, 0)])
        assert is_coalescing(receiver)
        await sender.send_segmented(b"A1B1", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 2)] == [b"A1", b"B1"]


@pytest.mark.parametrize("length", [1, 20, 100])
async def test_option_memory_for_one_program_is_enough(length: int) -> None:
    longest = [RawInstruction(0x30, 0, 0, 8)] * length + ONLY_A
    async with open_udp() as receiver, open_udp() as sender, open_udp() as trying:
        for limit in range(200, 20_000, 8):
            Path("/proc/sys/net/core/optmem_max").write_text(str(limit))
            with contextlib.suppress(OSError):
                trying.attach_filter(longest)
                break
        receiver.receive_offload = True
        receiver.attach_filter(longest)
        await sender.send_segmented(b"A1B1A2", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 2)] == [b"A1", b"A2"]


async def test_a_program_on_the_bare_socket_keeps_the_kernel_from_coalescing() -> None:
    async with open_udp() as made, open_udp() as sender:
        made.attach_filter(ONLY_A)
        receiver = PacketConn(made.socket)  # It has not seen the program.
        receiver.receive_offload = True
        assert not is_coalescing(receiver)
        await sender.send_segmented(b"A1B1", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 1)] == [b"A1"]


async def test_a_queue_of_the_connections_own_is_emptied_before_a_filter_changes() -> None:
    # What the kernel handed over at once, and nobody has got yet, waits where poll(2) can't see it.
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        await sender.send_segmented(b"B1B2B3B4", 2, to(receiver))
        assert (await receiver.receive()).payload == b"B1"
        receiver.attach_filter([RawInstruction(0x06, 0, 0, 0)])
        assert [receiver.receive_nowait().payload for _ in range(3)] == [b"B2", b"B3", b"B4"]
        with pytest.raises(trio.WouldBlock):
            receiver.receive_nowait()
        receiver.attach_filter(ONLY_A)
        await sender.send_segmented(b"A5B5", 2, to(receiver))
        assert [each.payload for each in await drain(receiver, 1)] == [b"A5"]


async def test_an_icmp_socket_sends_as_many_datagrams_as_there_are_segments() -> None:
    # It takes UDP_SEGMENT and ignores it (icmp(7)).
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    echo = struct.pack("!BBHHH", 8, 0, 0, 0, 1) + bytes(92)
    socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM, trio.socket.IPPROTO_ICMP)
    await socket.bind(("127.0.0.1", 0))
    async with PacketConn(socket) as conn:
        await conn.send_segmented(echo * 5 + echo[:50], 100, ("127.0.0.1", 0))
        assert [len(each.payload) for each in await drain(conn, 6)] == [100] * 5 + [50]
        assert conn.receive_offload is False
        with pytest.raises(OSError, match="UDP_GRO"):
            conn.receive_offload = True


async def test_many_segments_go_in_portions_that_a_deadline_ends() -> None:
    async with open_udp() as sender:
        with trio.move_on_after(0.05) as scope:
            await sender.send_segmented(bytes(1_000_000), 1, ("127.0.0.1", 9))
        assert scope.cancelled_caught


async def test_sending_and_receiving_are_checkpoints() -> None:
    async with open_udp() as receiver, open_udp() as sender:
        receiver.receive_offload = True
        with trio.testing.assert_checkpoints():
            await sender.send_segmented(b"x" * 300, 100, to(receiver))
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await receiver.receive()


# At most 30 datagrams each: all wait in one receive buffer, which has room for some 250 small ones.
Mix = st.lists(
    st.tuples(st.integers(0, 1500), st.integers(1, 700)).map(lambda pair: (pair[0], max(pair[1], pair[0] // 30 + 1))),
    min_size=1,
    max_size=6,
)


def test_any_mix_comes_through_every_path_alike() -> None:
    async def exchange(mix: Sequence[tuple[int, int]], limit: int, *, with_offload: bool) -> list[bytes]:
        async with open_udp() as receiver, open_udp() as sender:
            receiver.receive_offload = with_offload
            expected: list[bytes] = []
            for number, (length, size) in enumerate(mix):
                payload = bytes([number]) * length
                await sender.send_segmented(payload, size, to(receiver))
                expected += [payload[at : at + size] for at in range(0, length or 1, size)]
            received = await drain(receiver, len(expected), limit=limit)
            assert [each.payload for each in received] == expected
            assert nothing_left(receiver)
            return expected

    @settings(max_examples=40, deadline=None)
    @given(Mix, st.integers(1, 100), st.booleans())
    def check(mix: list[tuple[int, int]], limit: int, with_offload: bool) -> None:
        with private_network():
            trio.run(lambda: exchange(mix, limit, with_offload=with_offload))

    check()
