"""What a call costs is bounded: time in which nobody else runs, octets copied, buffers, reads of the kernel's table."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio

from support.links import bridge, ip
from support.weather import Pauses, changing
from trio_ipv4 import Datagram, PartialSendError, interfaces, open_udp, watch_interfaces
from trio_ipv4._kernel import netlink
from trio_ipv4._kernel.calls import by_ctypes, mmsg
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._kernel.calls import Sender

MAX_BATCH = 1024  # linux/uio.h: UIO_MAXIOV
MANY = 300_000
LONGEST_WAIT = 2.0
"""Seconds that another task may have to wait: many times of what it takes, for a busy machine."""
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
DISCARD = ("127.0.0.1", 9)
NO_ROUTE = ("198.51.100.1", 9)
PORT = 5000
GROUP = "239.1.2.3"
MAX_MEMBERSHIPS = Path("/proc/sys/net/ipv4/igmp_max_memberships")


def sent_datagrams() -> int:
    """Return how many UDP datagrams this thread's network has sent."""
    lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("OutDatagrams")])


async def until_sent(count: int) -> None:
    """Look between any two portions, so that no more than one of them is sent unseen."""
    with trio.fail_after(20):
        while sent_datagrams() < count:
            await trio.lowlevel.checkpoint()


@pytest.fixture
def hearing() -> Iterator[socket.socket]:
    """A plain socket with room for several thousand datagrams, if the machine's root runs the test."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        with contextlib.suppress(PermissionError):
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8_000_000)
        made.bind(("127.0.0.1", PORT))
        yield made


def has_room(hearing: socket.socket) -> bool:
    return hearing.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 8_000_000


def queued(hearing: socket.socket, most: int) -> Iterator[bytes]:
    for _ in range(most):
        try:
            yield hearing.recv(65535)
        except BlockingIOError:
            return


# Batches without end


@pytest.mark.usefixtures("calls")
async def test_a_deadline_ends_a_batch_of_hundreds_of_thousands() -> None:
    waits = Pauses()
    async with open_udp() as conn, trio.open_nursery() as nursery:
        nursery.start_soon(waits.note)
        before = sent_datagrams()
        with trio.move_on_after(0.05) as scope:
            await conn.send_batch([Datagram(b"x", DISCARD)] * MANY)
        assert scope.cancelled_caught
        assert sent_datagrams() - before < MANY
        nursery.cancel_scope.cancel()
    assert waits.longest < LONGEST_WAIT


@pytest.mark.usefixtures("calls")
async def test_others_run_while_hundreds_of_thousands_are_sent() -> None:
    waits = Pauses()
    async with open_udp() as conn, trio.open_nursery() as nursery:
        nursery.start_soon(waits.note)
        before = sent_datagrams()
        with trio.fail_after(60):
            await conn.send_batch([Datagram(b"x", DISCARD)] * (MANY // 3))
        assert sent_datagrams() - before == MANY // 3
        nursery.cancel_scope.cancel()
    assert waits.longest < LONGEST_WAIT


@pytest.mark.usefixtures("calls")
async def test_a_batch_that_is_cancelled_has_sent_a_prefix(hearing: socket.socket) -> None:
    heard: list[int] = []
    before = sent_datagrams()

    async def listen() -> None:
        while True:
            heard.extend(int.from_bytes(payload, "big") for payload in queued(hearing, 4 * MAX_BATCH))
            await trio.lowlevel.checkpoint()

    async with open_udp() as conn:
        datagrams = [Datagram(number.to_bytes(4, "big"), ("127.0.0.1", PORT)) for number in range(100 * MAX_BATCH)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.send_batch, datagrams)
            nursery.start_soon(listen)
            await until_sent(before + 3 * MAX_BATCH)
            nursery.cancel_scope.cancel()
    sent = sent_datagrams() - before
    heard.extend(int.from_bytes(payload, "big") for payload in queued(hearing, len(datagrams)))
    assert 3 * MAX_BATCH <= sent < len(datagrams)
    assert heard == sorted(heard)
    if has_room(hearing):
        assert heard == list(range(sent))
    else:
        assert 0 < len(heard) <= sent
        assert heard[-1] < sent


@pytest.mark.usefixtures("calls")
async def test_other_senders_wait_for_their_turn(hearing: socket.socket) -> None:
    heard: list[bytes] = []
    before = sent_datagrams()
    count = 20 * MAX_BATCH

    async def listen() -> None:
        while True:
            heard.extend(queued(hearing, 4 * MAX_BATCH))
            await trio.lowlevel.checkpoint()

    async with open_udp() as conn, trio.open_nursery() as listening:
        listening.start_soon(listen)
        second, third = trio.Event(), trio.Event()

        async def send_second() -> None:
            await second.wait()
            third.set()
            await conn.send_batch([Datagram(b"second", ("127.0.0.1", PORT))] * 3)

        async def send_third() -> None:
            await third.wait()
            await conn.send_to(b"third", ("127.0.0.1", PORT))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.send_batch, [Datagram(b"first", ("127.0.0.1", PORT))] * count)
                nursery.start_soon(send_second)
                nursery.start_soon(send_third)
                await until_sent(before + 1)
                assert sent_datagrams() - before < count
                second.set()
        listening.cancel_scope.cancel()
    heard.extend(queued(hearing, count))
    assert sent_datagrams() - before == count + 4
    assert heard[-4:] == [b"second"] * 3 + [b"third"]
    assert set(heard[:-4]) == {b"first"}
    if has_room(hearing):
        assert len(heard) == count + 4


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("position", [1, 1023, 1024, 1025, 2047, 2048, 2500, 2999])
async def test_a_refusal_beyond_the_first_portion_tells_how_many_are_out(position: int) -> None:
    datagrams = [Datagram(b"x", DISCARD)] * position + [Datagram(b"x", NO_ROUTE)] + [Datagram(b"x", DISCARD)] * 3000
    before = sent_datagrams()
    async with open_udp() as conn:
        with pytest.raises(PartialSendError, match=f"datagram {position} of the batch") as caught:
            await conn.send_batch(datagrams[:3000])
        assert (caught.value.sent, caught.value.errno) == (position, errno.ENETUNREACH)
        assert sent_datagrams() - before == position
        # The connection goes on.
        await conn.send_batch(datagrams[position + 1 : position + 3])
        assert sent_datagrams() - before == position + 2


@pytest.mark.usefixtures("calls")
async def test_what_the_first_portion_refuses_is_no_partial_send() -> None:
    async with open_udp() as conn:
        before = sent_datagrams()
        with pytest.raises(OSError, match="datagram 0 of the batch") as caught:
            await conn.send_batch([Datagram(b"x", NO_ROUTE)] + [Datagram(b"x", DISCARD)] * 3000)
        assert type(caught.value) is OSError
        assert sent_datagrams() == before


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("position", [0, 1023, 1024, 2500, 2999])
async def test_what_is_no_datagram_is_found_before_anything_is_sent(position: int) -> None:
    before = sent_datagrams()
    values: list[Any] = [Datagram(b"x", DISCARD)] * 3000
    values[position] = b"octets"
    async with open_udp() as conn:
        with pytest.raises(TypeError, match="pass a Datagram"):
            await conn.send_batch(values)
    assert sent_datagrams() == before


@pytest.mark.usefixtures("calls")
async def test_what_is_handed_to_the_kernel_does_not_grow_with_the_square() -> None:
    handed: list[int] = []

    class Spy:
        def __init__(self, original: Sender) -> None:
            self._original = original
            self.columns = original.columns

        def send(
            self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes]
        ) -> tuple[int, OSError | None]:
            handed.append(len(payloads))
            assert len(payloads) == len(names) == len(controls)
            return self._original.send(descriptor, payloads, names, controls)

    count = 30 * MAX_BATCH + 7
    async with open_udp() as conn:
        conn._outbox.sender = Spy(conn._outbox.sender)
        await conn.send_batch([Datagram(b"x", DISCARD)] * count)
    assert max(handed) <= MAX_BATCH
    # A full send buffer may have a portion handed over again in part.
    assert count <= sum(handed) <= 2 * count


# Buffers


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the buffers that are made."""
    sizes: list[int] = []
    original = mmsg.private_memory

    def make(size: int) -> Any:
        sizes.append(size)
        return original(size)

    for module in (mmsg, by_ctypes):
        monkeypatch.setattr(module, "private_memory", make)
    return sizes


SIZES = (1, 3, 100, 101, 128, 129, 1500, 2048, 65535)
LIMITS = (1, 3, 64, 2, 1024)


@pytest.mark.parametrize("batches", [True, False], ids=["in batches", "one at a time"])
async def test_alternating_sizes_and_limits_make_a_bounded_number_of_buffers(
    batches: bool, buffers: list[int], calls: str
) -> None:
    payloads = [b"", b"x", b"xy", b"x" * 100, b"x" * 101, b"x" * 128, b"x" * 2000, b"x" * 5000]
    made: list[int] = []
    async with open_udp("127.0.0.1", PORT) as conn, open_udp("127.0.0.1") as sending:
        for _ in range(5):
            for max_bytes in SIZES:
                for limit in LIMITS if batches else (1,):
                    await sending.send_batch([Datagram(payload, ("127.0.0.1", PORT)) for payload in payloads])
                    got: list[Datagram] = []
                    while len(got) < len(payloads):
                        if batches:
                            received = await conn.receive_batch(limit, max_bytes=max_bytes)
                            assert 1 <= len(received) <= limit
                            got += received
                        else:
                            got.append(await conn.receive(max_bytes))
                    assert [each.payload for each in got] == [payload[:max_bytes] for payload in payloads]
                    assert [each.truncated for each in got] == [len(payload) > max_bytes for payload in payloads]
            made.append(len(buffers))
    # All that are ever needed were made in the first round: for each power of two, one for each longer limit.
    assert made == [made[0]] * 5
    rooms = len({(size - 1).bit_length() for size in SIZES})
    longer_than_before = 4 if batches else 1  # Of LIMITS: 1, 3, 64, 1024.
    assert made[0] <= rooms * longer_than_before + (calls == "ctypes")  # And the sender's.
    if calls == "one by one":
        assert made[0] == 0


async def test_limits_that_rise_step_by_step_make_few_buffers(buffers: list[int]) -> None:
    async with open_udp("127.0.0.1", PORT) as conn:
        for limit in range(1, 1025):
            await conn.send_to(b"x", ("127.0.0.1", PORT))
            assert len(await conn.receive_batch(limit, max_bytes=100)) == 1
    assert len(buffers) <= 11 + 1  # 1, 2, 4 ... 1,024; and the sender's.


# Interfaces that change all the time


@pytest.mark.parametrize(
    "lines",
    [
        "address add 10.200.0.7/32 dev big\naddress del 10.200.0.7/32 dev big\n",
        "link set big mtu 1400\nlink set big mtu 1500\n",
        "link add coming type bridge\nlink delete coming\n",
    ],
    ids=["addresses", "states", "links"],
)
def test_interfaces_takes_a_bounded_time_while_they_change(lines: str) -> None:
    ip(
        "link add big type bridge mcast_snooping 0",
        "link set big up",
        *(f"address add 10.{i >> 8}.{i & 255}.1/32 dev big" for i in range(2000)),
    )
    returned = refused = 0
    with changing(itertools.repeat(lines * 10)):  # The pipe is full most of the time.
        until = time.monotonic() + 3
        while returned + refused < 200 and time.monotonic() < until:
            begin = time.monotonic()
            try:
                found = interfaces()
            except OSError as error:
                assert error.errno == errno.EBUSY
                assert "try again, or use watch_interfaces()" in str(error)
                refused += 1
            else:
                assert {"lo", "big"} <= {interface.name for interface in found}
                returned += 1
            # Half a second is promised. Without a bound it would go on for as long as interfaces change.
            assert time.monotonic() - begin < 20 * LONGEST_WAIT
    assert returned + refused > 0
    assert {"lo", "big"} <= {interface.name for interface in interfaces()}


async def test_watching_begins_within_bounds_while_interfaces_change() -> None:
    ip("link add big type bridge mcast_snooping 0", *(f"address add 10.0.{i}.1/32 dev big" for i in range(200)))
    waits = Pauses()
    lines = "address add 10.200.0.7/32 dev big\naddress del 10.200.0.7/32 dev big\n"
    with changing(itertools.repeat(lines * 10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits.note)
            with trio.move_on_after(1):
                async with watch_interfaces() as changes:
                    async for _ in changes:
                        pass
            nursery.cancel_scope.cancel()
    assert waits.longest < LONGEST_WAIT


def test_interfaces_that_never_stand_still_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def never_complete(asking: object) -> Iterator[None]:
        tries.append(asking)
        yield None

    monkeypatch.setattr(netlink, "read_interfaces", never_complete)
    begin = time.monotonic()
    with pytest.raises(OSError, match=r"can't list the interfaces: .*try again, or use watch_interfaces\(\)") as caught:
        interfaces()
    assert caught.value.errno == errno.EBUSY
    assert time.monotonic() - begin < LONGEST_WAIT
    assert len(tries) > 1


# Scopes


class Reads:
    """How often the kernel's table of groups is opened, by whatever means, while this is entered."""

    def __init__(self) -> None:
        self.count = 0
        self._watching = False
        sys.addaudithook(self._watch)  # It can't be taken away again.

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event == "open" and str(arguments[0]).endswith("/igmp"):
            self.count += 1

    def __enter__(self) -> Self:
        self.count, self._watching = 0, True
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False


@pytest.fixture(scope="module")
def reads() -> Reads:
    return Reads()


def test_the_counter_sees_a_read(reads: Reads) -> None:
    with reads:
        igmp_groups()
        Path("/proc/thread-self/net/igmp").read_bytes()
    igmp_groups()
    assert reads.count == 2


async def test_scopes_of_one_group_read_the_kernels_table_twice_at_most(reads: Reads) -> None:
    async with open_udp(port=PORT) as conn, contextlib.AsyncExitStack() as scopes:
        with reads:
            for _ in range(200):
                await scopes.enter_async_context(conn.joined("lo", GROUP))
        assert igmp_groups()[1, IPv4Address(GROUP)] == 1
        assert len(conn.memberships) == 1
        assert reads.count <= 2
    assert (1, IPv4Address(GROUP)) not in igmp_groups()


async def test_many_groups_with_two_scopes_read_the_kernels_table_twice_at_most(reads: Reads) -> None:
    MAX_MEMBERSHIPS.write_text("1000", encoding="ascii")  # Of this test's own network.
    groups = [f"239.1.3.{number}" for number in range(100)]
    async with open_udp(port=PORT) as conn, contextlib.AsyncExitStack() as scopes:
        with reads:
            for group in groups * 2:
                await scopes.enter_async_context(conn.joined("lo", group))
        assert {(1, IPv4Address(group)) for group in groups} <= igmp_groups().keys()
        assert reads.count <= 2
        # One after the other, too.
        with reads:
            for group in groups:
                async with conn.joined("lo", group), conn.joined("lo", group):
                    pass
        assert reads.count <= 2


async def test_repairing_many_memberships_reads_the_kernels_table_twice_at_most(reads: Reads) -> None:
    MAX_MEMBERSHIPS.write_text("1000", encoding="ascii")
    async with open_udp(port=PORT) as conn, contextlib.AsyncExitStack() as scopes:
        for number in range(100):
            await scopes.enter_async_context(conn.joined("lo", f"239.1.3.{number}"))
        with reads:
            conn.repair_memberships()
        assert reads.count <= 2


async def test_a_new_scope_revives_what_a_deleted_link_took_away_however_many_there_were(reads: Reads) -> None:
    ip(*bridge("en0", 30))
    async with open_udp(port=PORT) as conn, contextlib.AsyncExitStack() as scopes:
        for _ in range(20):
            await scopes.enter_async_context(conn.joined("en0", GROUP))
        for remade in range(3):
            ip("link delete en0", *bridge("en0", 30))
            assert (30, IPv4Address(GROUP)) not in igmp_groups()
            multicast(b"lost %d" % remade, "198.18.30.1")  # The new link has no member: this goes nowhere.
            with reads:
                await scopes.enter_async_context(conn.joined("en0", GROUP))
                await scopes.enter_async_context(conn.joined("en0", GROUP))
            assert reads.count <= 2
            multicast(b"heard %d" % remade, "198.18.30.1")
            with trio.fail_after(20):
                assert (await conn.receive()).payload == b"heard %d" % remade


def multicast(payload: bytes, out: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(out))
        sender.sendto(payload, (GROUP, PORT))
