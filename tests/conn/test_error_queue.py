"""Errors that came back: each at the connection and with the peer that it is about, and nothing else is disturbed.

The dead peer is a port of this host where nobody listens. tests/testing/test_simulated_errors.py has the other kinds of
errors, from routers.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import socket
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

from support import capabilities, here
from support.here import BOTH, set_sysctl
from support.links import ip, veth
from support.steps import counting
from support.systems import Counted, lacking, on, on_platform
from trio_ipv4 import (
    ControlFlags,
    Datagram,
    ErrorOrigin,
    Header,
    ICMPEcho,
    ICMPType,
    PacketConn,
    PartialSendError,
    PathMTUDiscovery,
    RawConn,
    SocketError,
    Timestamping,
    UnsupportedError,
    open_ip,
    open_raw,
    open_udp,
    open_unprivileged_icmp,
    parse_icmp,
)
from trio_ipv4._abi.this import this_platform
from trio_ipv4._conn.error_queue import MOST_KEPT
from trio_ipv4._kernel.native import current_system
from trio_ipv4.testing import cancel_at_each_checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ipv4.testing import Network

pytestmark = [BOTH, pytest.mark.usefixtures("calls")]

LOCALHOST = "127.0.0.1"
DEAD = (LOCALHOST, 5999)
OTHER_DEAD = ("127.0.0.2", 5998)


@contextlib.asynccontextmanager
async def reporting() -> Any:
    async with open_udp(LOCALHOST) as conn:
        conn.report_errors = True
        yield conn


async def soon(awaitable: Awaitable[Any]) -> Any:
    with trio.fail_after(20):
        return await awaitable


# One error


async def test_an_error_names_the_peer_that_it_is_about_and_who_told() -> None:
    async with reporting() as conn:
        await conn.send_to(b"hello", DEAD)
        error: SocketError = await soon(conn.receive_error())
    assert error.errno == errno.ECONNREFUSED
    assert error.origin is ErrorOrigin.ICMP
    assert (error.icmp_type, error.icmp_code) == (ICMPType.DESTINATION_UNREACHABLE, 3)
    assert error.offender == IPv4Address(LOCALHOST)
    assert error.destination == DEAD
    assert error.payload == b"hello"
    assert (error.info, error.mtu, error.number, error.extensions) == (0, None, None, ())
    assert (error.timestamp_ns, error.hardware_timestamp_ns) == (None, None)


async def test_an_error_has_the_time_at_which_it_came_if_timestamps_are_on() -> None:
    async with reporting() as conn:
        conn.control_flags = ControlFlags.TIMESTAMP
        await conn.send_to(b"hello", DEAD)
        error = await soon(conn.receive_error())
    assert error.timestamp_ns is not None
    assert error.timestamp_ns >= 1_000_000_000_000_000_000


async def test_no_error_is_reported_by_default() -> None:
    async with open_udp(LOCALHOST) as conn:
        assert conn.report_errors is False
        await conn.send_to(b"hello", DEAD)
        with pytest.raises(RuntimeError, match=r"set conn\.report_errors = True first"):
            await conn.receive_error()
        with pytest.raises(RuntimeError, match=r"set conn\.report_errors = True first"):
            conn.receive_error_nowait()
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()


async def test_switching_it_off_forgets_what_the_kernel_has() -> None:
    async with reporting() as conn:
        await conn.send_to(b"hello", DEAD)
        conn.report_errors = False
        assert conn.report_errors is False
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
        conn.report_errors = True
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()


async def test_there_is_none_and_there_is_one() -> None:
    async with reporting() as conn:
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()
        await conn.send_to(b"hello", DEAD)
        assert conn.receive_error_nowait().destination == DEAD
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()


@pytest.mark.kernel_only("sockets that somebody else made")
async def test_a_socket_that_reports_errors_already_reports_them_when_wrapped() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bare:
        await bare.bind((LOCALHOST, 0))
        bare.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR, linux/in.h
        async with PacketConn(bare) as conn:
            assert conn.report_errors is True
            await conn.send_to(b"hello", DEAD)
            await conn.send_to(b"hello", OTHER_DEAD)
            assert [(await soon(conn.receive_error())).destination for _ in "12"] == [DEAD, OTHER_DEAD]


@pytest.mark.kernel_only("options of the bare socket")
async def test_what_was_switched_on_behind_our_back_is_received_when_asked_for() -> None:
    async with open_udp(LOCALHOST) as conn:
        conn.socket.setsockopt(socket.IPPROTO_IP, 11, 1)
        await conn.send_to(b"hello", DEAD)
        assert (await soon(conn.receive_error())).destination == DEAD
        assert conn.report_errors is True


@pytest.mark.kernel_only("platforms")
async def test_other_platforms_have_no_error_queue() -> None:
    names = [name for name in this_platform().options if name.startswith(("IP_RECVERR", "IP_MTU", "SO_TIMESTAMPING"))]
    with on_platform(attrs.evolve(lacking(*names), numbers={})):
        conn = open_udp(LOCALHOST)
    async with conn:
        for attempt in (
            lambda: setattr(conn, "report_errors", True),
            lambda: setattr(conn, "timestamping", Timestamping.TX_SOFTWARE),
            conn.receive_error_nowait,
            lambda: conn.path_mtu(LOCALHOST),
        ):
            with pytest.raises(UnsupportedError):
                attempt()
        assert conn.report_errors is False


@pytest.mark.kernel_only("options of the bare socket")
async def test_an_error_that_cannot_be_read_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ipv4._kernel.native.ERROR_CONTROL_SIZE", 40)  # The error does not fit.
    async with reporting() as conn:
        await conn.send_to(b"hello", DEAD)
        assert await soon(conn.receive_error()) == SocketError(0, ErrorOrigin.NONE, destination=DEAD, payload=b"hello")


@pytest.mark.kernel_only("kernels without an option")
async def test_an_older_kernel_reports_errors_without_extensions() -> None:
    with on_platform(lacking("IP_RECVERR_RFC4884")):
        conn = open_udp(LOCALHOST)
    async with conn:
        conn.report_errors = True
        await conn.send_to(b"hello", DEAD)
        assert (await soon(conn.receive_error())).destination == DEAD


# An error of one peer disturbs nobody else


@pytest.mark.parametrize("opens", [open_udp, partial(open_ip, 253), partial(open_raw, 253)])
async def test_reporting_reads_back_on_every_kind(opens: Callable[[], PacketConn | RawConn]) -> None:
    async with opens() as conn:
        conn.report_errors = True
        assert conn.report_errors is True
        conn.timestamping = Timestamping.TX_SOFTWARE | Timestamping.TX_SCHED
        assert conn.timestamping == Timestamping.TX_SOFTWARE | Timestamping.TX_SCHED
        conn.timestamping = Timestamping(0)
        assert conn.timestamping == Timestamping(0)


async def test_an_error_of_one_peer_fails_no_send_to_another() -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as alive:
        for number in range(100):
            await conn.send_to(b"dead %d" % number, DEAD)
            await conn.send_to(b"alive %d" % number, alive.local_endpoint)
        heard = [datagram.payload for datagram in await alive.receive_batch(1000)]
        errors = [(await soon(conn.receive_error())).payload for _ in range(100)]
    assert heard == [b"alive %d" % number for number in range(100)]
    assert errors == [b"dead %d" % number for number in range(100)]


@pytest.mark.parametrize("count", [2, 63, 64, 1025, 3000])
async def test_an_error_of_one_peer_stops_no_batch(count: int) -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as alive:
        conn.receive_buffer_size = alive.receive_buffer_size = 16_000_000
        batch = [Datagram(b"%d" % number, (DEAD, alive.local_endpoint)[number % 2]) for number in range(count)]
        await conn.send_batch(batch)
        heard = [datagram.payload for datagram in await alive.receive_batch(count)]
        while len(heard) < count // 2:
            heard += [datagram.payload for datagram in await soon(alive.receive_batch(count))]
        errors = [await soon(conn.receive_error()) for _ in range((count + 1) // 2)]
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()
    assert heard == [datagram.payload for datagram in batch[1::2]]
    assert [error.payload for error in errors] == [datagram.payload for datagram in batch[0::2]]
    assert {error.destination for error in errors} == {DEAD}


async def test_an_error_fails_no_receive() -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as alive:
        await conn.send_to(b"dead", DEAD)
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
        await alive.send_to(b"still here", conn.local_endpoint)
        await conn.send_to(b"dead", DEAD)
        assert (await soon(conn.receive())).payload == b"still here"
        assert [(await soon(conn.receive_error())).destination for _ in "12"] == [DEAD, DEAD]


async def test_a_refusal_of_the_very_datagram_fails_its_send() -> None:
    async with reporting() as conn:
        await conn.send_to(b"dead", DEAD)
        with pytest.raises(OSError, match="no route to the destination") as caught:
            await conn.send_to(b"nowhere", ("198.18.0.9", 5000))
        assert caught.value.errno == errno.ENETUNREACH
        assert conn.receive_error_nowait().payload == b"dead"


async def test_longer_than_the_mtu_fails_its_send_and_is_reported_with_the_mtu() -> None:
    ip(*veth("en0", 7), "address add 198.18.7.1/24 dev en0", "link set en0 mtu 1400")
    async with open_udp() as conn, open_udp(LOCALHOST) as alive:
        conn.report_errors = True
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        await conn.send_to(b"dead", DEAD)
        with pytest.raises(OSError, match=r"longer than the path's MTU of 1,400 octets") as caught:
            await conn.send_to(bytes(1400 - 28 + 1), ("198.18.7.2", 5000))
        assert caught.value.errno == errno.EMSGSIZE
        await conn.send_to(b"alive", alive.local_endpoint)
        errors = [await soon(conn.receive_error()) for _ in "12"]
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()
    assert [error.payload for error in errors][:1] == [b"dead"]
    assert (errors[1].origin, errors[1].errno, errors[1].mtu) == (ErrorOrigin.LOCAL, errno.EMSGSIZE, 1400)
    assert errors[1].destination == ("198.18.7.2", 0)  # The kernel notes no port of a socket that is not connected.


async def test_the_oldest_errors_are_forgotten_if_nobody_wants_them() -> None:
    async with reporting() as conn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.receive)  # It empties the kernel's queue, whose memory is bounded.
            for number in range(MOST_KEPT + 10):
                await conn.send_to(b"%d" % number, DEAD)
                if number % 50 == 0:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        errors = [conn.receive_error_nowait().payload for _ in range(MOST_KEPT)]
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()
    assert errors == [b"%d" % number for number in range(10, MOST_KEPT + 10)]


async def test_a_full_receive_buffer_keeps_no_datagram_from_going_out(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    there = str(b.addresses[0])
    async with a.call(open_udp) as conn, a.call(open_udp) as other, b.call(open_udp, "0.0.0.0", 5000) as alive:
        conn.report_errors = True
        conn.receive_buffer_size = 1  # The least: errors find no room, and are pending all the same.
        for _ in range(20):
            await other.send_to(bytes(1000), (str(a.addresses[0]), conn.local_endpoint[1]))
        for number in range(100):
            await conn.send_to(b"dead", (there, 5999))
            await conn.send_to(b"%d" % number, (there, 5000))
        heard = [(await soon(alive.receive())).payload for _ in range(100)]
    assert heard == [b"%d" % number for number in range(100)]


async def test_one_that_is_too_long_is_reported_once_also_in_a_batch() -> None:
    ip(*veth("en0", 7), "address add 198.18.7.1/24 dev en0", "link set en0 mtu 1400")
    async with open_udp() as conn:
        conn.report_errors = True
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        there = ("198.18.7.2", 5000)
        with pytest.raises(PartialSendError) as caught:
            await conn.send_batch([Datagram(b"short", there), Datagram(bytes(2000), there), Datagram(b"short", there)])
        assert (caught.value.errno, caught.value.sent) == (errno.EMSGSIZE, 1)
        assert conn.receive_error_nowait().mtu == 1400
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()


@pytest.mark.kernel_only("connect(2)")
async def test_an_error_from_before_is_told_first() -> None:
    async with open_udp(LOCALHOST) as conn:
        await conn.socket.connect(DEAD)
        await conn.send_to(b"dead", DEAD)
        conn.report_errors = True
        await conn.socket.connect(OTHER_DEAD)
        with contextlib.suppress(OSError):
            await conn.send_to(b"dead, too", OTHER_DEAD)
        first, second = [await soon(conn.receive_error()) for _ in "12"]
    assert (first.errno, first.origin, first.destination) == (errno.ECONNREFUSED, ErrorOrigin.NONE, None)
    assert (second.origin, second.destination) == (ErrorOrigin.ICMP, OTHER_DEAD)


@pytest.mark.parametrize("unread", [10, 70, 200])
async def test_one_that_is_too_long_is_told_apart_behind_many_errors(unread: int) -> None:
    ip(*veth("en0", 7), "address add 198.18.7.1/24 dev en0", "link set en0 mtu 1400")
    async with open_udp() as conn:
        conn.report_errors = True
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        await conn.send_batch_to([b"dead"] * unread, DEAD)
        with pytest.raises(OSError, match=r"longer than the path's MTU of 1,400 octets"):
            await conn.send_to(bytes(2000), ("198.18.7.2", 5000))
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
        errors = [conn.receive_error_nowait() for _ in range(unread + 1)]
        with pytest.raises(trio.WouldBlock):
            conn.receive_error_nowait()
    assert [error.origin for error in errors] == [ErrorOrigin.ICMP] * unread + [ErrorOrigin.LOCAL]


async def test_switching_it_off_wakes_who_waits() -> None:
    async with reporting() as conn, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(RuntimeError, match=r"set conn\.report_errors = True first"):
                await conn.receive_error()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        conn.report_errors = False


# Who waits


class CountedReceiver:
    """A receiver that counts its calls."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self.calls = 0

    def receive(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._receiver.receive(*arguments)


async def test_all_datagrams_and_all_errors_arrive_and_nobody_spins() -> None:
    datagrams, errors = 10_000, 1_000
    counted = Counted(current_system())
    with on(counted):  # type: ignore[arg-type]
        conn = open_udp(LOCALHOST)
    heard: list[bytes] = []
    told: list[bytes] = []
    receiver = conn._inbox._receiver = CountedReceiver(conn._inbox._receiver)  # type: ignore[misc,assignment]

    async def receive() -> None:
        while len(heard) < datagrams:
            heard.append((await conn.receive()).payload)

    async def receive_errors() -> None:
        while len(told) < errors:
            told.append((await conn.receive_error()).payload)

    async with conn, open_udp(LOCALHOST) as other:
        conn.report_errors = True
        conn.receive_buffer_size = 32_000_000  # The kernel must have room for all that the tasks have not taken yet.
        counted.calls.clear()
        with counting() as steps, trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, name="receive")
                nursery.start_soon(receive_errors, name="errors")
                for number in range(errors):
                    await conn.send_to(b"%d" % number, DEAD)
                    await other.send_batch_to(
                        [b"%d" % each for each in range(10 * number, 10 * number + 10)], conn.local_endpoint
                    )
    assert heard == [b"%d" % number for number in range(datagrams)]
    assert told == [b"%d" % number for number in range(errors)]
    # Each error may wake both tasks in vain, and be read by either: so many calls of the kernel, and no more.
    assert receiver.calls <= datagrams + 4 * errors
    assert counted.calls.count("receive_error") <= 5 * errors
    assert counted.calls.count("getsockopt") <= 2 * errors
    assert steps.counts["receive"] <= 2 * datagrams + 4 * errors
    assert steps.counts["errors"] <= 4 * errors


async def test_who_waits_for_errors_sleeps_whatever_datagrams_wait() -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as other:
        await other.send_to(b"a datagram", conn.local_endpoint)
        async with trio.open_nursery() as nursery:
            with counting() as steps:
                nursery.start_soon(conn.receive_error, name="errors")
                await trio.sleep(0.3)
            assert steps.counts["errors"] < 10
            await conn.send_to(b"dead", DEAD)  # The task ends, and so does the nursery.
        assert (await soon(conn.receive())).payload == b"a datagram"


async def test_who_receives_sleeps_whatever_errors_wait() -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as other:
        await conn.send_to(b"dead", DEAD)
        async with trio.open_nursery() as nursery:
            with counting() as steps:
                nursery.start_soon(conn.receive, name="receive")
                await trio.sleep(0.3)
            assert steps.counts["receive"] < 10
            await other.send_to(b"a datagram", conn.local_endpoint)
        assert conn.receive_error_nowait().payload == b"dead"


async def test_errors_go_to_those_who_wait_in_turn() -> None:
    told: list[tuple[int, bytes]] = []
    async with reporting() as conn:

        async def wait(number: int) -> None:
            error = await conn.receive_error()
            told.append((number, error.payload))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(wait, number)
                    await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.WouldBlock):
                    conn.receive_error_nowait()
                for number in range(3):
                    await conn.send_to(b"%d" % number, DEAD)
    assert sorted(told) == [(number, b"%d" % number) for number in range(3)]


@pytest.mark.parametrize("close", ["close", "aclose"])
async def test_closing_wakes_who_receives_and_who_waits_for_errors(close: str) -> None:
    woken: list[str] = []

    async def wait(name: str, receive: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await receive()
        woken.append(name)

    async with reporting() as conn, trio.open_nursery() as nursery:
        nursery.start_soon(wait, "receive", conn.receive)
        nursery.start_soon(wait, "errors", conn.receive_error)
        nursery.start_soon(wait, "errors too", conn.receive_error)
        await trio.testing.wait_all_tasks_blocked()
        if close == "close":
            conn.close()
        else:
            await conn.aclose()
        with trio.fail_after(20):
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(woken) == ["errors", "errors too", "receive"]
    with pytest.raises(trio.ClosedResourceError):
        await conn.receive_error()


async def test_closing_from_another_thread_wakes_who_waits_for_errors() -> None:
    async with reporting() as conn, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await conn.receive_error()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(conn.close)


@pytest.mark.kernel_only("descriptors")
async def test_waiting_for_errors_leaves_no_descriptor_open() -> None:
    before = [*Path("/proc/self/fd").iterdir()]
    async with reporting() as conn:
        with trio.move_on_after(0.01):
            await conn.receive_error()
        conn.close()
        assert len([*Path("/proc/self/fd").iterdir()]) == len(before)


async def test_cancellation_at_every_checkpoint_loses_nothing() -> None:
    told: list[bytes] = []
    heard: list[bytes] = []
    rounds = 0

    async def scenario() -> None:
        nonlocal rounds
        rounds += 1
        number = b"%d" % rounds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(receive_error)
            await other.send_to(number, conn.local_endpoint)
            await conn.send_to(number, DEAD)
            await other.send_to(number, conn.local_endpoint)

    async def receive() -> None:
        heard.append((await conn.receive()).payload)
        heard.append((await conn.receive()).payload)

    async def receive_error() -> None:
        told.append((await conn.receive_error()).payload)

    def take_the_rest() -> None:
        with contextlib.suppress(trio.WouldBlock):
            while True:
                heard.append(conn.receive_nowait().payload)
        with contextlib.suppress(trio.WouldBlock):
            while True:
                told.append(conn.receive_error_nowait().payload)
        # A send that was cancelled has sent nothing, so that there may be fewer; but no gap, and nothing twice.
        assert collections.Counter(heard) <= collections.Counter({b"%d" % rounds: 2})
        assert collections.Counter(told) <= collections.Counter({b"%d" % rounds: 1})
        if scope_was_left:
            assert (len(heard), len(told)) == (2, 1)
        heard.clear()
        told.clear()

    scope_was_left = False
    async with reporting() as conn, open_udp(LOCALHOST) as other:
        runs = await cancel_at_each_checkpoint(scenario, after_each=take_the_rest)
        assert runs > 10
        scope_was_left = True
        await scenario()
        take_the_rest()


# Other sockets


async def test_an_unprivileged_echo_request_is_answered() -> None:
    set_sysctl("net.ipv4.ping_group_range", "0 0")
    async with open_unprivileged_icmp(LOCALHOST, control_flags=ControlFlags.TTL) as conn:
        identifier = conn.local_endpoint[1]
        await conn.send_to(ICMPEcho(0, 7, b"hello").marshal(), (LOCALHOST, 0))
        answer = await soon(conn.receive())
    assert parse_icmp(answer.payload) == ICMPEcho(identifier, 7, b"hello", is_reply=True)
    assert answer.peer == (LOCALHOST, 0)
    assert answer.control.ttl == 64


async def test_the_identifier_of_an_unprivileged_socket_can_be_chosen_once() -> None:
    set_sysctl("net.ipv4.ping_group_range", "0 0")
    async with open_unprivileged_icmp(LOCALHOST, 4711) as conn:
        assert conn.local_endpoint == (LOCALHOST, 4711)
        with pytest.raises(OSError, match="bind an unprivileged ICMP socket to") as caught:
            open_unprivileged_icmp(LOCALHOST, 4711)
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_group_that_is_not_within_the_range_is_told_the_sysctl() -> None:
    with pytest.raises(PermissionError, match=r"within the range: net\.ipv4\.ping_group_range is 1 to 0"):
        open_unprivileged_icmp()


@pytest.mark.parametrize("identifier", [-1, 65536, True, "1"])
async def test_an_identifier_is_a_number_of_16_bits(identifier: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="identifier must be"):
        open_unprivileged_icmp(LOCALHOST, identifier)


@pytest.mark.kernel_only("a firewall")
@pytest.mark.parametrize("is_root", [True, False])
async def test_a_firewall_that_prohibits_is_told_as_such(is_root: bool, lab_pair: Network) -> None:
    a, b = lab_pair["a"], lab_pair["b"]
    a.set_sysctl("net.ipv4.ping_group_range", "0 0")
    address = str(b.addresses[0])
    chain = "add table t; add chain t i { type filter hook input priority 0; }; "
    prohibit = f"add rule t i ip daddr {address} meta l4proto {{ udp, icmp }} reject with icmp type admin-prohibited"
    await trio.run_process(b.command(["nft", chain + prohibit]))
    opens = [open_udp, open_unprivileged_icmp, *([partial(open_ip, 1)] if is_root else [])]
    conns = [a.call(opening) for opening in opens]  # type: ignore[arg-type]
    with contextlib.nullcontext() if is_root else capabilities.without():
        for conn in conns:
            async with conn:
                conn.report_errors = True
                port = 5000 if conn is conns[0] else 0
                await conn.send_to(ICMPEcho(4711, 1, b"hello").marshal(), (address, port))
                error = await soon(conn.receive_error())
            assert (error.errno, error.icmp_type, error.icmp_code) == (errno.EHOSTUNREACH, 3, 13)
            assert (error.offender, error.destination) == (IPv4Address(address), (address, port))


@pytest.fixture
def lab_pair(request: pytest.FixtureRequest) -> Any:
    request.getfixturevalue("needs_lab")
    with here.lab_hosts(1) as lab:
        yield lab


async def test_a_raw_connection_is_told_of_the_packets_of_its_protocol(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    there = str(b.addresses[0])
    async with a.call(open_ip, 253) as conn, a.call(open_raw, 253) as raw:
        conn.report_errors = raw.report_errors = True
        await conn.send_to(b"hello there", (there, 0))
        errors = [await soon(each.receive_error()) for each in (conn, raw)]
    for error in errors:
        assert (error.errno, error.icmp_type, error.icmp_code) == (errno.ENOPROTOOPT, 3, 2)
        assert (error.destination, error.offender) == ((there, 0), IPv4Address(there))
    assert errors[0].payload == b"hello there"
    header = Header.parse(errors[1].payload)  # With IP_HDRINCL the header comes back, too.
    assert (header.dst, header.protocol) == (IPv4Address(there), 253)
    assert errors[1].payload[header.header_len :] == b"hello there"


# Timestamps of what is sent


async def test_every_datagram_has_its_stamp_in_order() -> None:
    stamps: list[SocketError] = []
    async with open_udp(LOCALHOST) as conn, open_udp(LOCALHOST) as other:
        conn.timestamping = Timestamping.TX_SOFTWARE

        async def take() -> None:
            while len(stamps) < 1000:
                stamps.append(await conn.receive_error())

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                for number in range(1000):
                    await conn.send_to(b"%d" % number, other.local_endpoint)
    assert [stamp.number for stamp in stamps] == list(range(1000))
    assert {(stamp.errno, stamp.origin, stamp.info) for stamp in stamps} == {
        (errno.ENOMSG, ErrorOrigin.TIMESTAMPING, 0)
    }
    times = [stamp.timestamp_ns for stamp in stamps]
    assert None not in times
    assert times == sorted(times)
    assert {(stamp.payload, stamp.destination, stamp.hardware_timestamp_ns) for stamp in stamps} == {(b"", None, None)}


async def test_the_scheduler_has_a_datagram_before_the_driver() -> None:
    async with open_udp(LOCALHOST) as conn, open_udp(LOCALHOST) as other:
        conn.timestamping = Timestamping.TX_SCHED | Timestamping.TX_SOFTWARE
        await conn.send_to(b"x", other.local_endpoint)
        first, second = [await soon(conn.receive_error()) for _ in "12"]
    assert [first.info, second.info] == [1, 0]
    assert [first.number, second.number] == [0, 0]
    assert first.timestamp_ns <= second.timestamp_ns


async def test_stamps_disturb_neither_receiving_nor_errors() -> None:
    async with reporting() as conn, open_udp(LOCALHOST) as other:
        conn.timestamping = Timestamping.TX_SOFTWARE
        await conn.send_to(b"alive", other.local_endpoint)
        await conn.send_to(b"dead", DEAD)
        await other.send_to(b"hello", conn.local_endpoint)
        received = await soon(conn.receive())
        found = [await soon(conn.receive_error()) for _ in "123"]
    assert received.payload == b"hello"
    assert received.control.hardware_timestamp_ns is None
    (icmp,) = [error for error in found if error.origin is ErrorOrigin.ICMP]
    assert icmp.destination == DEAD
    assert [error.number for error in found if error.origin is ErrorOrigin.TIMESTAMPING] == [0, 1]
