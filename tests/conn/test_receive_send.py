"""Sending and receiving, singly and in batches, with recvmmsg and sendmmsg and without them."""

from __future__ import annotations

import errno
import pickle
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from support.here import BOTH
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    PacketConn,
    PartialSendError,
    open_udp,
)
from trio_ipv4._kernel import calls as calls_room
from trio_ipv4._kernel.calls import compiled, mmsg, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = [BOTH, pytest.mark.usefixtures("calls")]

HERE = ("127.0.0.1", 5000)
LONGEST = 65507  # RFC 791, RFC 768: 65,535 octets less 20 and 8.


def enlarge(a_socket: trio.socket.SocketType) -> int:
    """Make room for as much as the kernel allows; tell how much that is."""
    try:
        # SO_RCVBUFFORCE (asm-generic/socket.h): beyond net.core.rmem_max, for the machine's root.
        a_socket.setsockopt(socket.SOL_SOCKET, 33, 8_000_000)
    except PermissionError:
        a_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
    return a_socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@pytest.fixture
async def conn() -> Any:
    """A connection that can send to itself, with room for a lot."""
    async with open_udp(*HERE) as conn:
        enlarge(conn.socket)
        yield conn


@pytest.fixture
async def roomy(conn: PacketConn) -> PacketConn:
    """One with room for thousands."""
    if conn.receive_buffer_size < 8_000_000:
        pytest.skip("net.core.rmem_max is too low, and only the machine's root may pass it")
    return conn


async def receive_singly(conn: PacketConn, count: int, max_bytes: int = 65535) -> list[Datagram]:
    return [await conn.receive(max_bytes) for _ in range(count)]


async def receive_in_batches(conn: PacketConn, count: int, limit: int = 64, max_bytes: int = 65535) -> list[Datagram]:
    received: list[Datagram] = []
    while len(received) < count:
        with trio.fail_after(10):
            batch = await conn.receive_batch(min(limit, count - len(received)), max_bytes=max_bytes)
        assert 1 <= len(batch) <= limit
        received += batch
    return received


# Single datagrams


async def test_a_payload_arrives_with_its_sender(conn: PacketConn) -> None:
    async with open_udp("127.0.0.1") as sender:
        await sender.send_to(b"payload", HERE)
        expected = ControlMessage(dst="127.0.0.1", local="127.0.0.1", ifindex=1)
        assert await conn.receive() == Datagram(b"payload", sender.local_endpoint, control=expected)


@pytest.mark.parametrize("endpoint", [HERE, (IPv4Address("127.0.0.1"), 5000)])
@pytest.mark.parametrize("payload", [b"x", bytearray(b"x"), memoryview(b"x")])
async def test_send_to_takes_what_a_datagram_takes(conn: PacketConn, endpoint: Any, payload: Any) -> None:
    await conn.send_to(payload, endpoint, control=ControlMessage(tos=4))
    assert (await conn.receive()).payload == b"x"


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, LONGEST])
async def test_every_size_arrives_whole(conn: PacketConn, size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    await conn.send_to(payload, HERE)
    await conn.send_to(payload, HERE)
    assert (await conn.receive()).payload == payload
    assert [datagram.payload for datagram in await conn.receive_batch()] == [payload]


async def test_a_longer_datagram_than_there_can_be_is_refused(conn: PacketConn) -> None:
    with pytest.raises(OSError, match=r"can't send 65508 octets to 127\.0\.0\.1, port 5000: .*65,507") as caught:
        await conn.send_to(bytes(LONGEST + 1), HERE)
    assert caught.value.errno == errno.EMSGSIZE
    assert type(caught.value) is OSError


async def test_truncation_is_told(conn: PacketConn) -> None:
    for _ in range(2):
        for payload in (b"12345", b"1234", b"", b"123456789"):
            await conn.send_to(payload, HERE)
    singly = await receive_singly(conn, 4, 4)
    assert [(d.payload, d.truncated) for d in singly] == [
        (b"1234", True),
        (b"1234", False),
        (b"", False),
        (b"1234", True),
    ]
    assert await conn.receive_batch(max_bytes=4) == singly


async def test_received_datagrams_are_like_those_that_a_caller_makes(conn: PacketConn) -> None:
    await conn.send_batch([Datagram(b"one", HERE), Datagram(b"two", HERE), Datagram(b"three", HERE)])
    received = [await conn.receive(), *await conn.receive_batch(max_bytes=4)]
    for got in received:
        assert type(got) is Datagram
        made = Datagram(got.payload, got.peer, control=got.control, truncated=got.truncated)
        assert (got, hash(got), repr(got)) == (made, hash(made), repr(made))
        assert pickle.loads(pickle.dumps(got)) == made
        assert attrs.evolve(got, payload=b"") == attrs.evolve(made, payload=b"")
        for name in ("payload", "peer", "control", "truncated"):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(got, name, None)
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                delattr(got, name)
    assert [got.truncated for got in received] == [False, False, True]


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda c: c.receive(0), ValueError, "max_bytes must be from 1 to 65535, got 0"),
        (lambda c: c.receive(65536), ValueError, "max_bytes must be from 1 to 65535, got 65536"),
        (lambda c: c.receive(True), TypeError, "max_bytes must be an integer"),
        (lambda c: c.receive(10.0), TypeError, "max_bytes must be an integer"),
        (lambda c: c.receive_batch(0), ValueError, "limit must be from 1 to"),
        (lambda c: c.receive_batch(max_bytes=0), ValueError, "max_bytes must be from 1 to 65535"),
        (lambda c: c.send(b"x"), TypeError, "pass a Datagram, not b'x'"),
        (lambda c: c.send(None), TypeError, "pass a Datagram, not None"),
        (lambda c: c.send_batch([Datagram(b"", HERE), b""]), TypeError, "pass a Datagram, not b''"),
        (lambda c: c.send_to("x", HERE), TypeError, "payload must be bytes"),
        (lambda c: c.send_to(b"x", "127.0.0.1"), TypeError, "peer must be a tuple"),
        (lambda c: c.send_to(b"x", ("localhost", 1)), ValueError, "host names are not looked up here"),
        (lambda c: c.send_to(b"x", HERE, control=None), TypeError, "control must be a ControlMessage"),
    ],
)
async def test_nonsense_is_refused(
    conn: PacketConn, operation: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await operation(conn)


async def test_port_0_is_refused_with_advice(conn: PacketConn) -> None:
    with pytest.raises(OSError, match="the port is 0") as caught:
        await conn.send_to(b"x", ("127.0.0.1", 0))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.kernel_only("connect(2)")
async def test_a_pending_error_is_told_once_with_advice() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a_socket:
        await a_socket.bind(("127.0.0.1", 0))
        await a_socket.connect(("127.0.0.1", 5001))
        conn = PacketConn(a_socket)
        for operation in (conn.receive, lambda: conn.send_to(b"", ("127.0.0.1", 5001))):
            await conn.send_to(b"", ("127.0.0.1", 5001))
            with pytest.raises(ConnectionRefusedError, match="nobody listens there"), trio.fail_after(20):
                await operation()
        with trio.move_on_after(0.01) as scope:
            await conn.receive()
        assert scope.cancelled_caught


# At once or not at all


async def test_what_is_queued_is_received_without_waiting(conn: PacketConn) -> None:
    with pytest.raises(trio.WouldBlock):
        conn.receive_nowait()
    await conn.send_batch([Datagram(b"first", HERE), Datagram(b"second", HERE)])
    assert conn.receive_nowait().payload == b"first"
    cut = conn.receive_nowait(3)
    assert (cut.payload, cut.truncated) == (b"sec", True)
    with pytest.raises(trio.WouldBlock):
        conn.receive_nowait()
    for wrong, error in ((0, ValueError), (65536, ValueError), (True, TypeError), ("9", TypeError)):
        with pytest.raises(error, match="max_bytes"):
            conn.receive_nowait(wrong)  # type: ignore[arg-type]


async def test_who_waits_is_not_overtaken(conn: PacketConn) -> None:
    received = []

    async def wait() -> None:
        received.append((await conn.receive()).payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await conn.send_to(b"x", HERE)
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
    assert received == [b"x"]


async def test_after_closing_nothing_is_received_at_once(conn: PacketConn) -> None:
    await conn.send_to(b"x", HERE)
    conn.close()
    with pytest.raises(trio.ClosedResourceError):
        conn.receive_nowait()


# Batches


async def test_a_batch_is_in_order_and_bounded(conn: PacketConn) -> None:
    payloads = [bytes([number]) * (number % 7) for number in range(100)]
    await conn.send_batch(Datagram(payload, HERE) for payload in payloads)
    first = await conn.receive_batch(1)
    second = await conn.receive_batch(30)
    third = await conn.receive_batch()
    fourth = await conn.receive_batch(1000)
    assert [len(each) for each in (first, second, third, fourth)] == [1, 30, 64, 5]
    assert [datagram.payload for each in (first, second, third, fourth) for datagram in each] == payloads


async def test_more_than_one_call_of_the_kernel_takes(roomy: PacketConn) -> None:
    # recvmmsg and sendmmsg take 1,024 at a time (UIO_MAXIOV).
    payloads = [number.to_bytes(2, "big") for number in range(2500)]
    await roomy.send_batch([Datagram(payload, HERE) for payload in payloads])
    received = await receive_in_batches(roomy, len(payloads), limit=5000, max_bytes=100)
    assert [datagram.payload for datagram in received] == payloads


async def test_a_batch_is_never_empty_and_waits_for_the_first(conn: PacketConn) -> None:
    batches: list[Sequence[Datagram]] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            async for each in conn.batches(3):
                batches.append(each)
                if sum(map(len, batches)) == 4:
                    return

        await trio.testing.wait_all_tasks_blocked()
        assert batches == []
        await conn.send_batch([Datagram(bytes([number]), HERE) for number in range(4)])
    assert [[datagram.payload for datagram in each] for each in batches] == [[b"\0", b"\1", b"\2"], [b"\3"]]


async def test_an_empty_batch_sends_nothing(conn: PacketConn) -> None:
    with trio.testing.assert_checkpoints():
        await conn.send_batch([])
    with trio.testing.assert_checkpoints():
        await conn.send_batch(iter(()))
    await conn.send_to(b"first", HERE)
    assert [datagram.payload for datagram in await conn.receive_batch()] == [b"first"]


async def test_a_batch_goes_to_each_ones_peer_with_each_ones_request(conn: PacketConn) -> None:
    conn.control_flags = ControlFlags.TTL | ControlFlags.TOS | ControlFlags.SRC
    async with open_udp("0.0.0.0", 5001) as other, open_udp() as sender:
        await sender.send_batch(
            [
                Datagram(b"a", HERE, control=ControlMessage(ttl=1)),
                Datagram(b"b", ("127.0.0.2", 5001)),
                Datagram(b"c", HERE, control=ControlMessage(tos=9, src="127.0.0.3")),
                Datagram(b"d", HERE),
                Datagram(b"e", HERE, control=ControlMessage(src="127.0.0.4", ifindex=1, ttl=255, tos=255)),
            ]
        )
        got = await receive_in_batches(conn, 4)
        assert [(d.payload, d.control.ttl, d.control.tos, str(d.control.src), d.peer[0]) for d in got] == [
            (b"a", 1, 0, "127.0.0.1", "127.0.0.1"),
            (b"c", 64, 9, "127.0.0.3", "127.0.0.3"),
            (b"d", 64, 0, "127.0.0.1", "127.0.0.1"),
            (b"e", 255, 255, "127.0.0.4", "127.0.0.4"),
        ]
        assert ((await other.receive()).payload, (await conn_is_empty(other))) == (b"b", True)


async def test_a_sender_is_used_again_after_larger_and_smaller_batches(conn: PacketConn) -> None:
    async with open_udp("127.0.0.1") as sender:
        for count, request in ((1, {}), (5, {"ttl": 3}), (3, {}), (2, {"ttl": 4, "tos": 1}), (6, {}), (1, {"tos": 2})):
            sent = [Datagram(bytes([i]) * i, HERE, control=ControlMessage(**request)) for i in range(count)]  # type: ignore[arg-type]
            await sender.send_batch(sent)
            mixed = [attrs.evolve(sent[0], control=ControlMessage(tos=i)) for i in range(count)]
            await sender.send_batch(mixed)
            conn.control_flags = ControlFlags.TTL | ControlFlags.TOS
            got = await receive_in_batches(conn, 2 * count)
            assert [d.payload for d in got] == [d.payload for d in [*sent, *mixed]]
            assert [d.control.tos for d in got] == [request.get("tos", 0)] * count + list(range(count))


async def test_a_refusal_in_the_middle_says_how_many_are_out(conn: PacketConn) -> None:
    good, bad = Datagram(b"x", HERE), Datagram(bytes(LONGEST + 1), HERE)
    with pytest.raises(PartialSendError, match=r"datagram 2 of the batch, 65508 octets to 127\.0\.0\.1") as caught:
        await conn.send_batch([good, good, bad, good])
    assert (caught.value.sent, caught.value.errno) == (2, errno.EMSGSIZE)
    assert len(await conn.receive_batch()) == 2
    assert await conn_is_empty(conn)


async def test_a_refusal_of_the_first_is_a_plain_error(conn: PacketConn) -> None:
    with pytest.raises(OSError, match="datagram 0 of the batch") as caught:
        await conn.send_batch([Datagram(bytes(LONGEST + 1), HERE), Datagram(b"x", HERE)])
    assert type(caught.value) is OSError
    assert caught.value.errno == errno.EMSGSIZE
    assert await conn_is_empty(conn)


async def test_a_refusal_after_the_first_call_of_the_kernel_counts_all(roomy: PacketConn) -> None:
    good, bad = Datagram(b"x", HERE), Datagram(bytes(LONGEST + 1), HERE)
    with pytest.raises(PartialSendError) as caught:
        await roomy.send_batch([*[good] * 1500, bad])
    assert caught.value.sent == 1500
    assert len(await receive_in_batches(roomy, 1500)) == 1500


async def test_nonsense_in_a_batch_sends_none_of_it(conn: PacketConn) -> None:
    with pytest.raises(ValueError, match="drops must be None when sending"):
        await conn.send_batch([Datagram(b"x", HERE), Datagram(b"", HERE, control=ControlMessage(drops=1))])
    assert await conn_is_empty(conn)


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 3).map(lambda n: bytes([n]) * 8),  # Equal lengths, and equal contents.
    st.sampled_from([b"", bytes(1472), b"\xff" * 1473, b"\1" * LONGEST]),
)


@given(
    payloads=st.lists(PAYLOADS, min_size=1, max_size=20),
    senders=st.lists(st.integers(0, 2), min_size=20, max_size=20),
    max_bytes=st.sampled_from([1, 8, 20, 1472, LONGEST, 65535]),
    limit=st.integers(1, 25),
    flags=st.sampled_from(
        [ControlFlags(0), ControlFlags.SRC, ControlFlags.TTL | ControlFlags.TOS, ControlFlags(31 + 64)]
    ),
)
@example(payloads=[b""] * 20, senders=[0, 1] * 10, max_bytes=1, limit=20, flags=ControlFlags.SRC)
@example(payloads=[b"1234567"] * 19 + [b"12345678"], senders=[0] * 20, max_bytes=7, limit=20, flags=ControlFlags(0))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_batch_equals_as_many_single_datagrams(
    payloads: list[bytes], senders: list[int], max_bytes: int, limit: int, flags: ControlFlags
) -> None:
    async def main() -> None:
        async with open_udp(*HERE, control_flags=flags) as conn:
            room = enlarge(conn.socket)
            assume(sum(2 * len(payload) + 1000 for payload in payloads) < room)
            sources = [ControlMessage(src=f"127.0.0.{1 + n}", ttl=n + 5, tos=4 * n) for n in range(3)]
            async with open_udp("0.0.0.0", 6000) as sender:
                datagrams = [
                    Datagram(payload, HERE, control=sources[n]) for payload, n in zip(payloads, senders, strict=False)
                ]
                await sender.send_batch(datagrams)
                batched = await receive_in_batches(conn, len(payloads), limit, max_bytes)
                for datagram in datagrams:
                    await sender.send(datagram)
                assert await receive_singly(conn, len(payloads), max_bytes) == batched
        assert [d.payload for d in batched] == [payload[:max_bytes] for payload in payloads]
        assert [d.truncated for d in batched] == [len(payload) > max_bytes for payload in payloads]
        assert [d.peer for d in batched] == [(str(d.control.src), 6000) for d in datagrams]
        if ControlFlags.TTL in flags:
            assert [(d.control.ttl, d.control.tos) for d in batched] == [
                (d.control.ttl, d.control.tos) for d in datagrams
            ]

    trio.run(main)


# Control messages that do not fit


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for IP_PKTINFO and a part of the next control message."""
    for module in (calls_room, compiled, mmsg, one_by_one):
        monkeypatch.setattr(module, "CONTROL_SIZE", 50)


IP_RECVOPTS, IP_RETOPTS, IP_RECVORIGDSTADDR, SO_TIMESTAMPING = 6, 7, 20, 37  # linux/in.h, asm-generic/socket.h


async def outcomes(conn: PacketConn, receive: Callable[[], Any], count: int) -> list[Any]:
    """What receiving gives until `count` datagrams have been told of: payloads, and errnos."""
    found: list[Any] = []
    while len(found) < count:
        with trio.fail_after(20):
            try:
                got = await receive()
            except OSError as error:
                assert "MSG_CTRUNC" in str(error)
                found.append(error.errno)
            else:
                found += [d.payload for d in ([got] if isinstance(got, Datagram) else got)]
    assert await conn_is_empty(conn)
    return found


@pytest.mark.kernel_only("options that are not simulated")
@pytest.mark.parametrize("way", ["single", "batch"])
async def test_cut_off_control_messages_raise_and_lose_no_other_datagram(conn: PacketConn, way: str) -> None:
    # Everything that the kernel can add at once, set through the bare socket: for a datagram with IP options, that is
    # more than there is room for.
    conn.control_flags = ControlFlags(127)
    for level, name, value in (
        (0, IP_RECVOPTS, 1),
        (0, IP_RETOPTS, 1),
        (0, IP_RECVORIGDSTADDR, 1),
        (1, SO_TIMESTAMPING, 0x18),
    ):
        conn.socket.setsockopt(level, name, value)
    async with open_udp("127.0.0.1") as plain, open_udp("127.0.0.1") as laden:
        laden.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 40)
        for sender, payload in (
            (plain, b"0"),
            (laden, b"1"),
            (plain, b"2"),
            (laden, b"3"),
            (laden, b"4"),
            (plain, b"5"),
        ):
            await sender.send_to(payload, HERE)
        receive = conn.receive if way == "single" else conn.receive_batch
        assert await outcomes(conn, receive, 6) == [b"0", errno.EMSGSIZE, b"2", errno.EMSGSIZE, errno.EMSGSIZE, b"5"]


@pytest.mark.kernel_only("options that are not simulated")
@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("way", ["single", "batch"])
async def test_a_control_message_that_is_cut_in_two_is_cut_off(conn: PacketConn, way: str) -> None:
    conn.control_flags = ControlFlags.DST | ControlFlags.TTL
    await conn.send_batch([Datagram(b"x", HERE)] * 3)
    receive = conn.receive if way == "single" else conn.receive_batch
    assert await outcomes(conn, receive, 3) == [errno.EMSGSIZE] * 3


@pytest.mark.kernel_only("options that are not simulated")
async def test_what_is_left_after_an_error_obeys_the_next_calls_bound(conn: PacketConn) -> None:
    conn.control_flags = ControlFlags(127)
    for level, name, value in (
        (0, IP_RECVOPTS, 1),
        (0, IP_RETOPTS, 1),
        (0, IP_RECVORIGDSTADDR, 1),
        (1, SO_TIMESTAMPING, 0x18),
    ):
        conn.socket.setsockopt(level, name, value)
    async with open_udp("127.0.0.1") as plain, open_udp("127.0.0.1") as laden:
        laden.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 40)
        await laden.send_to(b"laden", HERE)
        await plain.send_to(b"longer than four", HERE)
        with pytest.raises(OSError, match="MSG_CTRUNC"):
            await conn.receive_batch()
        datagram = await conn.receive(4)
        assert (datagram.payload, datagram.truncated) == (b"long", True)


# The channel's interface


async def test_a_connection_is_a_channel(conn: PacketConn) -> None:
    assert isinstance(conn, trio.abc.Channel)
    for number in range(3):
        await conn.send(Datagram(bytes([number]), HERE))
    found = []
    async for datagram in conn:
        found.append(datagram.payload)
        if len(found) == 3:
            break
    assert found == [b"\0", b"\1", b"\2"]


async def conn_is_empty(conn: PacketConn) -> bool:
    """Whether a receive would wait."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def give_up() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            datagram = await conn.receive()
            pytest.fail(f"there is {datagram}")
    return True


# Many payloads to one destination


@pytest.mark.parametrize("count", [0, 1, 2, 100])
async def test_payloads_go_to_one_destination_as_datagrams_would(conn: PacketConn, count: int) -> None:
    conn.control_flags = ControlFlags.TTL
    payloads = [bytes([number]) * number for number in range(count)]
    async with open_udp("127.0.0.1") as sending:
        await sending.send_batch_to(iter(payloads), conn.local_endpoint, control=ControlMessage(ttl=7))
        await sending.send_to(b"end", conn.local_endpoint)
        received: list[Datagram] = []
        while not received or received[-1].payload != b"end":
            received += await conn.receive_batch()
        assert [each.payload for each in received[:-1]] == payloads
        assert {(each.peer, each.control.ttl) for each in received[:-1]} <= {(sending.local_endpoint, 7)}


async def test_more_payloads_than_one_call_takes_are_all_sent(calls: str) -> None:
    async with open_udp("127.0.0.1") as sending:
        with trio.testing.assert_checkpoints():
            await sending.send_batch_to([b""] * 3000, ("127.0.0.1", 9))


async def test_any_octets_are_payloads(conn: PacketConn) -> None:
    async with open_udp("127.0.0.1") as sending:
        await sending.send_batch_to([bytearray(b"a"), memoryview(b"b")], conn.local_endpoint)
        assert [(await conn.receive()).payload, (await conn.receive()).payload] == [b"a", b"b"]


@pytest.mark.parametrize("payloads", [b"one", "one", bytearray(b"one"), None, 7, ["text"], [b"fine", None], [7]])
async def test_nonsense_for_payloads_is_refused_before_anything_is_sent(conn: PacketConn, payloads: Any) -> None:
    async with open_udp("127.0.0.1") as sending:
        with pytest.raises(TypeError, match="payloads"):
            await sending.send_batch_to(payloads, conn.local_endpoint)
        await sending.send_to(b"first", conn.local_endpoint)
        assert (await conn.receive()).payload == b"first"


async def test_a_refused_payload_says_how_many_are_out(conn: PacketConn) -> None:
    async with open_udp("127.0.0.1") as sending:
        with pytest.raises(PartialSendError, match=r"datagram 2 of the batch, 65508 octets") as caught:
            await sending.send_batch_to([b"0", b"1", bytes(65508), b"3"], conn.local_endpoint)
        assert caught.value.sent == 2
        with pytest.raises(ValueError, match="dst must be None"):
            await sending.send_batch_to([b"0"], conn.local_endpoint, control=ControlMessage(dst="127.0.0.1"))
    with pytest.raises(trio.ClosedResourceError):
        await sending.send_batch_to([b"0"], conn.local_endpoint)
