"""Checkpoints, cancellation, turns between tasks, and closing."""

from __future__ import annotations

import random
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.links import ip
from trio_ipv4 import Datagram, Header, PacketConn, RawConn, RawDatagram, open_ip, open_raw, open_udp
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.usefixtures("calls")

HERE = ("127.0.0.1", 5000)
GROUP = "239.1.2.3"


@pytest.fixture(params=["udp", "ip", "raw"])
def conn(request: pytest.FixtureRequest) -> PacketConn | RawConn:
    """A connection that can send to itself."""
    if request.param == "udp":
        return open_udp(*HERE)
    return open_ip(253, "127.0.0.1") if request.param == "ip" else open_raw(253, "127.0.0.1")


def message(conn: PacketConn | RawConn, payload: bytes) -> Any:
    if isinstance(conn, RawConn):
        return RawDatagram(Header(src="127.0.0.1", dst="127.0.0.1", protocol=253, ttl=9), payload)
    return Datagram(payload, HERE)


def put(payload: bytes) -> None:
    """Send to UDP connections here, past the library."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, HERE)


def left_over(conn: PacketConn) -> list[bytes]:
    """What the kernel still has."""
    found = []
    while True:
        try:
            found.append(conn.socket._sock.recv(65535, socket.MSG_DONTWAIT))  # type: ignore[attr-defined]
        except BlockingIOError:
            return found


# Checkpoints


async def test_every_operation_is_a_checkpoint_when_it_need_not_wait(conn: PacketConn | RawConn) -> None:
    async with conn:
        one = message(conn, b"x")
        for send in (lambda: conn.send(one), lambda: conn.send_batch([one, one]), lambda: conn.send_batch([])):
            with trio.testing.assert_checkpoints():
                await send()
        if isinstance(conn, PacketConn):
            with trio.testing.assert_checkpoints():
                await conn.send_to(b"x", HERE)
        with trio.testing.assert_checkpoints():
            await conn.receive()
        with trio.testing.assert_checkpoints():
            await conn.receive_batch(1)
        with trio.testing.assert_checkpoints():
            await conn.__anext__()
        with trio.testing.assert_checkpoints():
            await conn.aclose()
        with trio.testing.assert_checkpoints():
            await conn.aclose()


async def test_every_operation_is_a_checkpoint_when_it_waits() -> None:
    async with open_udp(*HERE) as conn, trio.open_nursery() as nursery:
        for operation in (conn.receive, conn.receive, conn.receive_batch):
            nursery.start_soon(checked, operation)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            put(b"x")


async def checked(operation: Callable[[], Awaitable[object]]) -> None:
    with trio.testing.assert_checkpoints():
        await operation()


async def test_receiving_lets_other_tasks_run() -> None:
    # A queue that is never empty must not starve the others.
    async with open_udp(*HERE) as conn:
        for _ in range(20):
            put(b"x")
        turns = []

        async def other() -> None:
            for number in range(5):
                turns.append(number)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(20):
                await conn.receive()
            assert turns == [0, 1, 2, 3, 4]


# Cancellation


class CancelAtStep(trio.abc.Instrument):
    """Cancel a scope just before the `number`th step of a task."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            if self.left == 0:
                self.scope.cancel()
            self.left -= 1


@pytest.mark.parametrize("rival", [False, True])
@pytest.mark.parametrize("batch", [False, True])
async def test_cancelled_at_any_step_receiving_loses_nothing(rival: bool, batch: bool) -> None:
    fired = 0
    while await cancel_at_step(fired, rival, batch):
        fired += 1
    assert fired > 1  # Before the first step, and at least once later.


async def cancel_at_step(number: int, rival: bool, batch: bool) -> bool:
    """Receive, cancelled before that step; tell whether there were that many."""
    taken: list[bytes] = []
    instrument = CancelAtStep(number)

    async def receive() -> None:
        instrument.task = trio.lowlevel.current_task()
        await trio.lowlevel.checkpoint()
        with instrument.scope:
            if batch:
                taken.extend(datagram.payload for datagram in await conn.receive_batch(2))
            else:
                taken.append((await conn.receive()).payload)

    async def compete() -> None:
        taken.append((await conn.receive()).payload)

    trio.lowlevel.add_instrument(instrument)
    try:
        async with open_udp(*HERE) as conn, trio.open_nursery() as nursery:
            if rival:
                nursery.start_soon(compete)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(receive)
                # It waits for its turn now, unless it is cancelled already.
                await trio.testing.wait_all_tasks_blocked()
            put(b"1")
            put(b"2")
            if not rival:
                nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            left = left_over(conn)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert sorted(taken + left) == [b"1", b"2"]
    return instrument.left < 0


async def test_a_cancelled_task_takes_and_sends_nothing() -> None:
    async with open_udp(*HERE) as conn:
        put(b"stays")
        sent = Datagram(b"sent", HERE)
        for operation in (
            conn.receive,
            conn.receive_batch,
            conn.__anext__,
            conn.batches().__anext__,
            lambda: conn.send(sent),
            lambda: conn.send_to(b"sent", HERE),
            lambda: conn.send_batch([sent]),
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await operation()
            assert scope.cancelled_caught
        assert left_over(conn) == [b"stays"]


@pytest.mark.parametrize("seed", range(5))
async def test_many_tasks_that_are_cancelled_at_random_get_each_datagram_once(seed: int) -> None:
    choose = random.Random(seed)
    expected = [number.to_bytes(2, "big") for number in range(300)]
    taken: list[bytes] = []
    async with open_udp(*HERE) as conn:

        async def receive() -> None:
            while True:
                with trio.move_on_after(choose.choice([0, 0.0001, 0.001, 5])):
                    if choose.random() < 0.5:
                        taken.append((await conn.receive()).payload)
                    else:
                        taken.extend(datagram.payload for datagram in await conn.receive_batch(choose.randint(1, 5)))
                    if len(taken) == len(expected):
                        nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(receive)
                for payload in expected:
                    put(payload)
                    if choose.random() < 0.3:
                        await trio.lowlevel.checkpoint()
        assert sorted(taken) == expected


# Turns


async def test_tasks_receive_in_the_order_in_which_they_came() -> None:
    got: list[tuple[int, bytes]] = []
    async with open_udp(*HERE) as conn, trio.open_nursery() as nursery:

        async def receive(number: int) -> None:
            for _ in range(3):
                datagram = await conn.receive()
                got.append((number, datagram.payload))

        for number in range(4):
            nursery.start_soon(receive, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in range(12):
            put(bytes([number]))
            await trio.testing.wait_all_tasks_blocked()
    assert got == [(number % 4, bytes([number])) for number in range(12)]


async def test_each_of_several_tasks_gets_each_datagram_once(conn: PacketConn | RawConn) -> None:
    got: list[bytes] = []
    async with conn:

        async def receive() -> None:
            async for datagram in conn:
                got.append(datagram.payload)
                if len(got) == 200:
                    nursery.cancel_scope.cancel()

        async def send(start: int) -> None:
            for number in range(start, start + 50):
                await conn.send(message(conn, bytes([number])))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(receive)
                for start in range(0, 200, 50):
                    nursery.start_soon(send, start)
    assert sorted(got) == [bytes([number]) for number in range(200)]


async def test_who_is_cancelled_while_waiting_for_a_turn_holds_up_nobody() -> None:
    async with open_udp(*HERE) as conn, trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(3)]
        got: list[int] = []

        async def receive(number: int) -> None:
            with scopes[number]:
                await conn.receive()
                got.append(number)

        for number in range(3):
            nursery.start_soon(receive, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        put(b"")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [0]
        put(b"")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [0, 2]


async def test_who_is_cancelled_while_it_has_the_turn_hands_it_on() -> None:
    async with open_udp(*HERE) as conn, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await conn.receive()

        got: list[bytes] = []

        async def second() -> None:
            got.append((await conn.receive()).payload)

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        put(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"x"]


async def test_an_iterator_holds_no_turn_between_items() -> None:
    async with open_udp(*HERE) as conn:
        put(b"1")
        put(b"2")
        async for batch in conn.batches(1):
            assert [datagram.payload for datagram in batch] == [b"1"]
            assert (await conn.receive()).payload == b"2"
            break


# Sending when there is no room


@pytest.fixture
def cable() -> None:
    """Two interfaces, en0 with an address, and nobody at the other end who would answer ARP."""
    ip(
        "link add en0 type veth peer name en1",
        "address add 198.18.0.1/24 dev en0",
        "link set en0 up",
        "link set en1 up",
    )


@pytest.fixture
def full(cable: None) -> PacketConn:
    """A connection whose send buffer has room for few datagrams, to an address that answers no ARP."""
    # On another kind of interface than loopback, a datagram stays in the buffer until it is sent.
    conn = open_udp("198.18.0.1")
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return conn


@pytest.fixture
def slow(cable: None) -> None:
    """The other end has an address, and 1,000 octets take 4 ms: slower than a small send buffer fills."""
    ip("neigh add 198.18.0.2 lladdr 02:00:00:00:00:02 dev en0")
    shape = ["qdisc", "add", "dev", "en0", "root", "tbf", "rate", "2mbit", "burst", "2000", "limit", "100000"]
    subprocess.run(["tc", *shape], check=True)


ABSENT = ("198.18.0.2", 5000)


async def fill(conn: PacketConn) -> None:
    """Send until a task waits."""
    with trio.move_on_after(10):
        while True:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def give_up(scope: trio.CancelScope = scope) -> None:
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()

                    await conn.send_to(bytes(1000), ABSENT)
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                return
    pytest.fail("the send buffer never filled")


async def test_closing_wakes_everybody_who_sends(full: PacketConn) -> None:
    woken = []
    async with full:
        await fill(full)

        async def send(number: int) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await full.send_to(bytes(1000), ABSENT)
            woken.append(number)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(send, number)
                await trio.testing.wait_all_tasks_blocked()
                assert woken == []
                full.close()
    assert sorted(woken) == [0, 1, 2]


async def test_waiting_to_send_can_be_cancelled(full: PacketConn) -> None:
    async with full:
        await fill(full)
        with trio.move_on_after(0.02) as scope:
            await full.send_batch([Datagram(bytes(1000), ABSENT)] * 3)
        assert scope.cancelled_caught


@pytest.mark.usefixtures("slow")
async def test_a_full_buffer_is_waited_for_and_all_goes_out() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire:
        wire.bind(("en1", 0x0800))
        async with open_udp("198.18.0.1") as conn:
            conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            with trio.fail_after(20):
                await conn.send_batch(Datagram(bytes([number]) * 1000, ABSENT) for number in range(20))
            heard: list[int] = []
            with trio.fail_after(20):
                while len(heard) < 20:
                    try:
                        packet = wire.recv(2000, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        await trio.sleep(0.002)
                    else:
                        heard.append(packet[-1])
    assert heard == list(range(20))


# Closing


async def test_closing_wakes_everybody_who_receives(conn: PacketConn | RawConn) -> None:
    woken: list[int] = []

    async def receive(number: int, operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()
        woken.append(number)

    operations = [conn.receive, conn.receive_batch, conn.__anext__, conn.batches().__anext__, conn.receive]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number, operation in enumerate(operations):
                nursery.start_soon(receive, number, operation)
                await trio.testing.wait_all_tasks_blocked()
            conn.close()
    assert sorted(woken) == [0, 1, 2, 3, 4]


async def test_closing_the_trio_socket_wakes_everybody_too() -> None:
    conn = open_udp(*HERE)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await conn.receive()

            nursery.start_soon(receive)
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            conn.socket.close()


async def test_closing_twice_does_not_close_the_next_ones_descriptor() -> None:
    conn = open_udp()
    descriptor = conn.socket.fileno()
    conn.close()
    async with open_udp() as next_one:
        assert next_one.socket.fileno() == descriptor
        conn.close()
        await conn.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await conn.receive()
        assert next_one.local_endpoint[1] > 0


async def test_aclose_closes_even_when_cancelled() -> None:
    conn = open_udp()
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.aclose()
    assert scope.cancelled_caught
    assert conn.socket.fileno() == -1


async def test_closing_leaves_every_membership_though_a_duplicate_lives() -> None:
    conn = open_udp()
    with conn.socket.dup():
        conn.join_group("lo", GROUP)
        membership = conn.joined("lo", "239.1.2.4")
        await membership.__aenter__()
        assert {"239.1.2.3", "239.1.2.4"} <= {str(group) for _, group in igmp_groups()}
        conn.close()
        assert not {"239.1.2.3", "239.1.2.4"} & {str(group) for _, group in igmp_groups()}


async def test_an_exception_in_the_block_closes_and_arrives_as_it_was_raised() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_udp() as conn:
            raise KeyError("mine")
    assert conn.socket.fileno() == -1
