"""A socket can be readable, or writable, although there is nothing to receive and no room to send: who waits sleeps.

The oracle is the number of times that a task wakes, counted by an instrument of trio's.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from support.links import ip
from support.steps import counting
from trio_ipv4 import PacketConn, RawConn, open_ip, open_udp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.usefixtures("calls")

HERE = ("127.0.0.1", 5000)
NOBODY = ("127.0.0.1", 5999)
IP_RECVERR = 11  # linux/in.h
SO_TIMESTAMPING = 37  # asm-generic/socket.h
STAMP_WHAT_IS_SENT = 1 << 1 | 1 << 4  # SOF_TIMESTAMPING_TX_SOFTWARE, _SOFTWARE: linux/net_tstamp.h
A_FEW = 30


async def steps_while_waiting(wait: Callable[[], Awaitable[object]], seconds: float = 0.5) -> int:
    """Let a task wait for what doesn't come, and return how often it ran."""
    async with trio.open_nursery() as nursery:
        with counting() as steps:
            nursery.start_soon(wait, name="waiting")
            await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return steps.counts["waiting"]


def is_readable(conn: PacketConn | RawConn) -> bool:
    poll = select.poll()
    poll.register(conn.socket, 0)  # POLLERR is told unasked.
    return bool(poll.poll(1000))


async def with_icmp_errors(count: int) -> PacketConn:
    conn = open_udp("127.0.0.1")
    conn.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    for _ in range(count):
        try:
            await conn.send_to(b"x", NOBODY)
        except ConnectionRefusedError:
            await conn.send_to(b"x", NOBODY)
    return conn


async def with_stamps(count: int) -> PacketConn:
    conn = open_udp("127.0.0.1")
    conn.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, STAMP_WHAT_IS_SENT)
    async with open_udp(*HERE):
        for _ in range(count):
            await conn.send_to(b"x", HERE)
    return conn


async def receiving(conn: PacketConn) -> None:
    while True:
        try:
            await conn.receive()
        except ConnectionRefusedError:  # Each is told once.
            continue


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("make", [with_icmp_errors, with_stamps])
async def test_who_receives_sleeps_whatever_waits_in_the_error_queue(
    make: Callable[[int], Awaitable[PacketConn]], count: int
) -> None:
    async with await make(count) as conn, open_udp("127.0.0.1") as other:
        assert is_readable(conn)
        assert await steps_while_waiting(lambda: receiving(conn)) < 3 * count + A_FEW
        await other.send_to(b"still here", conn.local_endpoint)
        with trio.fail_after(20):
            assert (await conn.receive()).payload == b"still here"


async def test_errors_that_keep_coming_keep_nobody_from_hearing() -> None:
    async with await with_icmp_errors(1) as conn, open_udp("127.0.0.1") as other:
        heard = []

        async def hear() -> None:
            while len(heard) < 50:
                try:
                    heard.append((await conn.receive()).payload)
                except ConnectionRefusedError:
                    continue

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                for number in range(50):
                    await trio.testing.wait_all_tasks_blocked()
                    with contextlib.suppress(ConnectionRefusedError):
                        await conn.send_to(b"x", NOBODY)
                    await other.send_to(bytes([number]), conn.local_endpoint)
        assert heard == [bytes([number]) for number in range(50)]


async def test_who_sends_sleeps_while_the_buffer_is_full_and_an_error_waits() -> None:
    # Datagrams to a neighbour that does not answer wait for its address, in the send buffer.
    ip(
        "link add en0 type veth peer name far0",
        "address add 198.18.0.1/24 dev en0",
        "link set far0 up",
        "link set en0 up",
    )
    async with open_udp() as conn:
        conn.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, STAMP_WHAT_IS_SENT)
        conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        await conn.send_to(b"x", NOBODY)
        assert is_readable(conn)

        async def send() -> None:
            while True:
                await conn.send_to(bytes(1000), ("198.18.0.9", 5000))

        assert await steps_while_waiting(send) < A_FEW + 20


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
async def test_who_receives_from_what_was_shut_down_is_told(how: int) -> None:
    async with open_udp(*HERE) as conn:
        await conn.send_to(b"before", HERE)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                with pytest.raises(OSError, match="not connected"):  # And yet it works (net/ipv4/af_inet.c).
                    conn.socket._sock.shutdown(how)  # type: ignore[attr-defined]
                assert (await conn.receive()).payload == b"before"
                nursery.start_soon(told_of_shutdown, conn)


async def told_of_shutdown(conn: PacketConn) -> None:
    with pytest.raises(trio.ClosedResourceError, match="shut down for receiving"):
        await conn.receive()


async def test_raw_sockets_sleep_too() -> None:
    async with open_ip(253, "127.0.0.1") as conn:
        conn.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        packed = struct.pack("=i", STAMP_WHAT_IS_SENT)
        conn.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, packed)
        await conn.send_to(b"x", ("127.0.0.1", 0))
        assert (await conn.receive()).payload == b"x"
        assert is_readable(conn)
        assert await steps_while_waiting(lambda: receiving(conn)) < A_FEW


async def test_interfaces_are_watched_without_losing_messages_to_it() -> None:
    # A netlink socket has no error queue; to read one there would take its next message.
    from trio_ipv4 import watch_interfaces  # noqa: PLC0415

    async with watch_interfaces() as changes:
        assert (await changes.__anext__()).interface.name == "lo"
        names = []
        for number in range(20):
            ip(f"link add br{number} type bridge")
            with trio.fail_after(20):
                names.append((await changes.__anext__()).interface.name)
        assert names == [f"br{number}" for number in range(20)]
