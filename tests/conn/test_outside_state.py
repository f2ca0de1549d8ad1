"""State of the process that others set, and calls from where trio does not run: threads, fixtures, asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_ipv4 import (
    Conn,
    Datagram,
    NoInterfaceWarning,
    PacketConn,
    follow_group,
    interfaces,
    open_ip,
    open_udp,
    serve_group,
    watch_interfaces,
)
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4 import Interface, RawConn

    Eventually = Callable[..., object]

GROUP = "239.1.2.3"
HERE = ("127.0.0.1", 5000)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_joined() -> bool:
    return any(str(group) == GROUP for _, group in igmp_groups())


# A default timeout


@pytest.fixture(params=[0.0, 0.05, 30.0])
def default_timeout(request: pytest.FixtureRequest) -> Iterator[None]:
    """What another library may call at any time."""
    socket.setdefaulttimeout(request.param)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("default_timeout", "calls")
async def test_a_default_timeout_changes_nothing() -> None:
    with trio.fail_after(20):
        assert [each.name for each in interfaces()] == ["lo"]
        async with watch_interfaces() as changes:
            assert (await changes.__anext__()).interface.name == "lo"
        async with open_udp("0.0.0.0", 5000) as conn, open_ip(253) as raw:
            async with conn.joined("lo", GROUP), conn.joined("lo", GROUP):
                await conn.send_batch([Datagram(bytes([number]), HERE) for number in range(3)])
                assert [each.payload[0] for each in await conn.receive_batch()] == [0, 1, 2]
                conn.repair_memberships()
            await raw.send_to(b"x", ("127.0.0.1", 0))
            assert (await raw.receive()).payload == b"x"
            with trio.move_on_after(0.2) as nothing_comes:
                await conn.receive()
            assert nothing_comes.cancelled_caught


@pytest.mark.usefixtures("default_timeout")
async def test_a_default_timeout_does_not_disturb_followers_and_servers() -> None:
    async with open_udp("0.0.0.0", 5000) as conn, trio.open_nursery() as nursery:
        with trio.fail_after(20):
            with pytest.warns(NoInterfaceWarning):
                await nursery.start(follow_group, conn, GROUP)
            with pytest.warns(NoInterfaceWarning):
                await nursery.start(serve_group, never, GROUP, 5001)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def never(conn: PacketConn, interface: Interface) -> None:
    raise AssertionError


# Closing


def closed_in_a_thread(conn: PacketConn | RawConn) -> None:
    thread = threading.Thread(target=conn.close)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def closed_here(conn: PacketConn | RawConn) -> None:
    conn.close()


@pytest.mark.parametrize("close", [closed_here, closed_in_a_thread])
def test_closing_where_no_run_goes_on_really_closes(close: Callable[[PacketConn | RawConn], None]) -> None:
    conn = open_udp("0.0.0.0", 5000)  # As in a synchronous fixture.
    descriptor = conn.socket.fileno()
    conn.join_group("lo", GROUP)
    close(conn)
    assert not is_open(descriptor)
    assert not is_joined()
    open_udp("0.0.0.0", 5000).close()  # The port is free.
    conn.close()
    assert repr(conn) == "<PacketConn (closed)>"
    with pytest.raises(trio.ClosedResourceError):
        conn.join_group("lo", GROUP)


@pytest.mark.parametrize("close", [closed_here, closed_in_a_thread])
def test_closing_after_the_run_really_closes(close: Callable[[PacketConn | RawConn], None]) -> None:
    async def use() -> PacketConn:
        conn = open_udp(*HERE)
        await conn.__aenter__()
        with trio.move_on_after(0.01):
            await conn.receive()
        return conn

    conn = trio.run(use)
    descriptor = conn.socket.fileno()
    close(conn)
    assert not is_open(descriptor)


async def test_closing_in_a_worker_thread_really_closes() -> None:
    conn = open_udp("0.0.0.0", 5000)
    descriptor = conn.socket.fileno()
    async with conn.joined("lo", GROUP):
        await trio.to_thread.run_sync(conn.close)
        assert not is_open(descriptor)
        assert not is_joined()


@pytest.mark.parametrize("by", ["trio's thread", "another thread"])
async def test_closing_in_a_thread_wakes_who_waits(by: str) -> None:
    conn = open_udp(*HERE)
    descriptor = conn.socket.fileno()
    ended: list[str] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await conn.receive()
        ended.append("woken")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            if by == "trio's thread":
                await trio.to_thread.run_sync(conn.close)
                assert not is_open(descriptor)
            else:
                closed_in_a_thread(conn)
    assert ended == ["woken"] * 3
    assert not is_open(descriptor)
    for operation in (conn.receive, lambda: conn.send_to(b"", HERE)):
        with pytest.raises(trio.ClosedResourceError):
            await operation()


async def test_closing_in_another_run_wakes_who_waits_in_this_one() -> None:
    conn = open_udp(*HERE)
    ended: list[str] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await conn.receive()
        ended.append("woken")

    async def close() -> None:
        conn.close()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await trio.to_thread.run_sync(trio.run, close)
    assert ended == ["woken"]


async def test_a_number_that_another_file_has_by_now_is_left_alone() -> None:
    # While a task waits, its run closes the descriptor: not the thread, which could free the number too early.
    conn = open_udp(*HERE)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await conn.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        descriptor = conn.socket.fileno()
        closed_in_a_thread(conn)
        assert conn.socket.fileno() == -1
        assert is_open(descriptor)
        conn.close()
    assert not is_open(descriptor)


def test_a_watch_that_outlives_its_run_can_be_closed() -> None:
    watch = watch_interfaces()
    before = open_files()
    trio.run(watch.__aenter__)
    assert watch._feed is not None
    watch._feed.close()
    assert open_files() == before


def test_a_conn_ends_anywhere() -> None:
    with socket.socket() as a_socket:
        Conn(trio.socket.from_stdlib_socket(a_socket)).close()
        assert a_socket.fileno() >= 0


async def test_closing_in_a_thread_leaves_other_files_alone() -> None:
    # Not entered, never waited: the first thing that the connection does is what a thread interrupts.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.setblocking(False)
        for _ in range(30):
            conn = open_udp("127.0.0.1")
            port = conn.local_endpoint[1]
            closing = threading.Thread(target=close_and_open_another, args=(conn,))
            closing.start()
            with contextlib.suppress(trio.ClosedResourceError):
                for _ in range(50):
                    await conn.send_batch([Datagram(b"x", heard.getsockname())] * 64)
            closing.join()
            conn.close()
            with contextlib.suppress(BlockingIOError):
                while True:
                    assert heard.recvfrom(10)[1][1] == port


def close_and_open_another(conn: PacketConn) -> None:
    conn.close()
    for _ in range(5):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
            another.bind(("127.0.0.1", 0))


# asyncio


async def under_asyncio_open() -> None:
    async with open_udp():
        raise AssertionError


async def under_asyncio_receive() -> None:
    conn = open_udp()
    try:
        await conn.receive()
    finally:
        conn.close()


async def under_asyncio_send() -> None:
    conn = open_udp()
    try:
        await conn.send_to(b"x", HERE)
    finally:
        conn.close()


async def under_asyncio_send_many() -> None:
    conn = open_udp()
    try:
        await conn.send_batch([Datagram(b"x", HERE)] * 2000)
    finally:
        conn.close()


async def under_asyncio_join() -> None:
    conn = open_udp()
    try:
        async with conn.joined("lo", GROUP):
            raise AssertionError
    finally:
        conn.close()


async def under_asyncio_watch() -> None:
    async with watch_interfaces():
        raise AssertionError


async def under_asyncio_follow() -> None:
    conn = open_udp()
    try:
        await follow_group(conn, GROUP)
    finally:
        conn.close()


async def under_asyncio_serve() -> None:
    await serve_group(never, GROUP, 5000)


async def under_asyncio_aclose() -> None:
    await open_udp().aclose()


@pytest.mark.parametrize(
    "main",
    [
        under_asyncio_open,
        under_asyncio_receive,
        under_asyncio_send,
        under_asyncio_send_many,
        under_asyncio_join,
        under_asyncio_watch,
        under_asyncio_follow,
        under_asyncio_serve,
        under_asyncio_aclose,
    ],
)
def test_asyncio_is_told_what_is_missing(main: Callable[[], object]) -> None:
    loop = asyncio.new_event_loop()
    before = open_files()
    try:
        with pytest.raises(RuntimeError, match=r"trio_ipv4 runs under trio\.run\(\).*asyncio"):
            loop.run_until_complete(main())  # type: ignore[arg-type]
        assert open_files() == before
    finally:
        loop.close()
    assert not is_joined()
