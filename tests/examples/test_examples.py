"""The examples of the documentation, each run as its reader would run it, and watched from outside.

What they do is seen by sockets of the standard library, on the wire (packet(7)), and in /proc.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import runpy
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import trio

from trio_ipv4.testing import igmp_groups, open_lab, source_filters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_ipv4.testing import Lab, LabHost

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
GROUP: Final = IPv4Address("239.1.2.3")
OTHER: Final = IPv4Address("239.1.2.4")
THIRD: Final = IPv4Address("239.1.2.5")
PORT: Final = 5000
LO: Final = 1
ETH_P_IP: Final = 0x0800  # linux/if_ether.h
ETH_P_ALL: Final = 0x0003  # linux/if_ether.h; unlike ETH_P_IP it hears what this host sends, too.


class Packet(NamedTuple):
    """What a packet on the wire looks like."""

    src: str
    dst: str
    tos: int
    ttl: int
    ports: tuple[int, int]
    rest: bytes


class Program:
    """An example that runs."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._stdout: Final = process.stdout
        self._buffer = b""

    async def line(self) -> str:
        """Return the next line that it prints."""
        with trio.fail_after(20):
            while b"\n" not in self._buffer:
                more = await self._stdout.receive_some()
                assert more, f"it has ended, and said only {self._buffer!r} after that"
                self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def lines(self, count: int) -> list[str]:
        return [await self.line() for _ in range(count)]

    async def wait(self) -> int:
        with trio.fail_after(20):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def running(name: str, *arguments: str, host: LabHost | None = None) -> AsyncIterator[Program]:
    argv = [sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *arguments]
    command = argv if host is None else host.command(argv)
    async with trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        yield Program(await nursery.start(run))
        nursery.cancel_scope.cancel()


def send(payload: bytes, destination: object, source: object, port: int = PORT) -> None:
    """Send one datagram from one of this host's addresses; a group's on the interface that has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        if not str(source).startswith("127."):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(str(source)))
        sender.bind((str(source), 0))
        sender.sendto(payload, (str(destination), port))


def join(group: object, address: object) -> socket.socket:
    """Return a socket on a port of its own that is a member of a group on the interface with that address."""
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    request = socket.inet_aton(str(group)) + socket.inet_aton(str(address))
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    return member


def tap(interface: str) -> socket.socket:
    """Return a socket that hears everything on an interface, what this host sends included."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    wire.bind((interface, ETH_P_ALL))
    wire.settimeout(5)
    return wire


def packets(wire: socket.socket) -> Iterator[Packet]:
    """Read IPv4 packets from a tap until there is none for 5 seconds."""
    while True:
        data, (_, protocol, *_) = wire.recvfrom(65536)
        if protocol == ETH_P_IP:
            header_length = (data[0] & 0xF) * 4
            yield Packet(
                socket.inet_ntoa(data[12:16]),
                socket.inet_ntoa(data[16:20]),
                data[1],
                data[8],
                struct.unpack_from("!HH", data, header_length),
                data[header_length + 4 :],
            )


def is_member(host: LabHost | None, index: int, group: IPv4Address, users: int = 1) -> Callable[[], bool]:
    return lambda: (igmp_groups() if host is None else host.call(igmp_groups)).get((index, group)) == users


def forwards(lab: Lab, host: LabHost, link: int, group: IPv4Address) -> Callable[[], bool]:
    """Whether a link's bridge knows that a host wants a group: the report may come later than the membership."""

    def asked() -> bool:
        argv = lab.switch.command(["bridge", "mdb", "show", "dev", lab.bridge(link)])
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return f"port {host.name}-{link} grp {group} " in shown

    return asked


async def repeat(action: Callable[[], object]) -> None:
    while True:
        action()
        await trio.sleep(0.05)


@pytest.fixture
def two_links(needs_lab: None) -> Iterator[Lab]:
    with open_lab(links=2) as lab:
        yield lab


# The tutorial's


async def test_hear_hears_what_talk_says(eventually) -> None:
    async with running("hear") as hear:
        await eventually(is_member(None, LO, GROUP), seconds=20)
        async with running("talk"):
            first = await hear.line()
    assert first.startswith("('127.0.0.1', ")
    assert first.endswith(" b'hello 1'")


async def test_hear_and_talk_reach_another_host(lab: Lab, eventually) -> None:
    index = lab["a"].interfaces[0].index
    async with running("hear", "en0", host=lab["a"]) as hear:
        await eventually(is_member(lab["a"], index, GROUP), seconds=20)
        async with running("talk", "en0", host=lab["b"]):
            assert (await hear.line()).startswith(f"('{lab['b'].addresses[0]}', ")


async def test_talk_sends_from_the_source_that_it_is_given() -> None:
    with tap("lo") as wire:
        async with running("talk", "lo", "232.7.8.9", "127.0.0.2"):
            heard = await trio.to_thread.run_sync(lambda: next(p for p in packets(wire) if p.ports[1] == PORT))
    assert (heard.src, heard.dst, heard.ttl) == ("127.0.0.2", "232.7.8.9", 1)


async def test_several_hears_each_of_its_groups(eventually) -> None:
    async with running("several") as several:
        for group in (GROUP, OTHER, THIRD):
            await eventually(is_member(None, LO, group), seconds=20)
        for group in (THIRD, GROUP, OTHER):
            send(b"x", group, "127.0.0.1")
        lines = await several.lines(3)
    assert [line.split()[0] for line in lines] == [str(THIRD), str(GROUP), str(OTHER)]


async def test_in_a_lab_hears_across_the_link(needs_lab: None) -> None:
    async with running("in_a_lab") as program:
        assert await program.line() == "a heard b'hello 1' from b, 198.18.0.2"
        assert await program.wait() == 0


# One for each thing that one can do


async def test_mark_tcp_marks_what_the_accepted_connection_sends() -> None:
    with tap("lo") as wire:
        async with running("mark_tcp", "7000") as program:
            assert "7000" in await program.line()
            with trio.fail_after(20):
                stream = await connect(7000)
                async with stream:
                    assert await stream.receive_some() == b"marked\n"
        sent = await trio.to_thread.run_sync(lambda: list(until(packets(wire), lambda p: p.rest.endswith(b"marked\n"))))
    answer = sent[-1]
    assert (answer.ports[0], answer.tos) == (7000, 0x28)
    assert {packet.tos for packet in sent if packet.ports[1] == 7000} == {0}  # The client's are not marked.


async def connect(port: int) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:  # The line that it prints comes before it listens.
            await trio.sleep(0.01)


def until(found: Iterator[Packet], last: Callable[[Packet], bool]) -> Iterator[Packet]:
    for packet in found:
        yield packet
        if last(packet):
            return


async def test_two_interfaces_hears_the_group_on_both(two_links: Lab, eventually) -> None:
    a, b = two_links["a"], two_links["b"]
    async with running("two_interfaces", "en0", "en1", host=a) as program:
        for interface in a.interfaces:
            await eventually(is_member(a, interface.index, GROUP), seconds=20)
        for link in (0, 1):
            await eventually(forwards(two_links, a, link, GROUP))
        for number, address in enumerate(b.addresses):
            b.call(send, b"%d" % number, GROUP, address)
        assert sorted(await program.lines(2)) == [
            f"b'0' from {b.addresses[0]}, on en0",
            f"b'1' from {b.addresses[1]}, on en1",
        ]


@pytest.mark.parametrize("name", ["two_interfaces", "two_groups_two_interfaces"])
async def test_unicast_on_a_third_interface_is_not_for_the_group(two_links: Lab, eventually, name: str) -> None:
    a, b = two_links["a"], two_links["b"]
    async with running(name, "en0", "en1", host=a) as program:
        await eventually(is_member(a, a.interfaces[0].index, GROUP), seconds=20)
        await eventually(forwards(two_links, a, 0, GROUP))
        a.call(send, b"a stranger's", "127.0.0.1", "127.0.0.1")
        b.call(send, b"the group's", GROUP, b.addresses[0])
        assert (await program.line()).startswith('b"the group\'s"')


async def test_two_interfaces_may_be_the_same(eventually) -> None:
    async with running("two_interfaces") as program:
        await eventually(is_member(None, LO, GROUP), seconds=20)
        send(b"once", GROUP, "127.0.0.1")
        send(b"twice", GROUP, "127.0.0.1")
        assert await program.lines(2) == ["b'once' from 127.0.0.1, on lo", "b'twice' from 127.0.0.1, on lo"]


async def test_tell_groups_apart_tells_all_three_kinds(lab: Lab, eventually) -> None:
    a, b = lab["a"], lab["b"]
    index = a.interfaces[0].index
    with a.call(join, OTHER, a.addresses[0]):
        async with running("tell_groups_apart", "en0", host=a) as program:
            for group in (GROUP, OTHER):
                await eventually(is_member(a, index, group), seconds=20)
                await eventually(forwards(lab, a, 0, group))
            for payload, destination in (b"theirs", OTHER), (b"mine", a.addresses[0]), (b"ours", GROUP):
                b.call(send, payload, destination, b.addresses[0])
            # That the others' group is heard at all shows that the kernel's default is in force.
            assert sorted(await program.lines(3)) == [
                "b'mine' for this host alone",
                "b'ours' for our group",
                "b'theirs' for somebody else's group",
            ]


async def test_send_options_shows_on_the_wire(two_links: Lab, eventually) -> None:
    a, b = two_links["a"], two_links["b"]
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(b.call(tap, name)) for name in ("en0", "en1"))
        for address in b.addresses:  # So that the bridge lets the group through.
            stack.enter_context(b.call(join, GROUP, address))
        for link in (0, 1):
            await eventually(forwards(two_links, b, link, GROUP))
        async with running("send_options", "en0", "en1", str(b.addresses[0]), host=a) as program:
            assert await program.wait() == 0
        from_a = [
            [next(p for p in packets(wire) if p.ports[1] == PORT and p.src in map(str, a.addresses)) for _ in range(n)]
            for wire, n in ((first, 2), (second, 1))
        ]
    ends = [str(address) for address in a.addresses]
    assert [(p.src, p.dst, p.tos, p.ttl, p.rest[4:]) for p in from_a[0]] == [
        (ends[0], str(b.addresses[0]), 0x28, 5, b"unicast"),
        (ends[0], str(GROUP), 0x28, 2, b"multicast"),
    ]
    assert [(p.src, p.dst, p.tos, p.ttl, p.rest[4:]) for p in from_a[1]] == [
        (ends[1], str(GROUP), 0xB8, 3, b"by request")
    ]


async def test_send_options_stays_on_loopback_by_default() -> None:
    with tap("lo") as wire:
        async with running("send_options") as program:
            assert await program.wait() == 0
        sent = await trio.to_thread.run_sync(
            lambda: list(until(packets(wire), lambda p: p.rest.endswith(b"by request")))
        )
    assert {p.src for p in sent} == {"127.0.0.1"}


async def test_two_groups_two_interfaces_hears_each_group_on_its_own_interface_only(two_links: Lab, eventually) -> None:
    a, b = two_links["a"], two_links["b"]
    en0, en1 = a.interfaces
    # Another socket of the host joins both the wrong way round: so both groups reach it on both interfaces.
    with a.call(join, OTHER, a.addresses[0]), a.call(join, GROUP, a.addresses[1]):
        async with running("two_groups_two_interfaces", "en0", "en1", host=a) as program:
            for link, group in itertools.product((0, 1), (GROUP, OTHER)):
                await eventually(is_member(a, a.interfaces[link].index, group), seconds=20)
                await eventually(forwards(two_links, a, link, group))
            for wrong, right, address in (OTHER, GROUP, b.addresses[0]), (GROUP, OTHER, b.addresses[1]):
                b.call(send, b"wrong", wrong, address)
                b.call(send, b"right", right, address)
            assert sorted(await program.lines(2)) == [
                f"b'right' for {GROUP}, on interface {en0.index}",
                f"b'right' for {OTHER}, on interface {en1.index}",
            ]


async def test_share_port_lets_both_hear_the_group_and_one_hear_unicast(eventually) -> None:
    async with running("share_port") as program:
        await eventually(is_member(None, LO, GROUP, users=2), seconds=20)
        send(b"to one", "127.0.0.1", "127.0.0.1")
        send(b"to both", GROUP, "127.0.0.1")
        lines = await program.lines(3)
    assert collections.Counter(line.partition(" heard ")[2] for line in lines) == {"b'to one'": 1, "b'to both'": 2}
    assert {"Alice heard b'to both'", "Bob heard b'to both'"} < set(lines)


class Groups(trio.abc.Instrument):
    """Note the groups on loopback after each step of a task, whenever they are others than before."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # Called with it.
        now = {str(group) for index, group in igmp_groups() if index == LO} - {"224.0.0.1"}
        if self.seen[-1:] != [now]:
            self.seen.append(now)


@pytest.mark.parametrize(
    ("way", "between"), [("one_after_the_other", set()), ("make_before_break", {str(GROUP), str(OTHER)})]
)
async def test_change_groups_changes_in_two_ways(way: str, between: set[str], eventually) -> None:
    example = runpy.run_path(str(EXAMPLES / "change_groups.py"))
    groups = Groups()
    async with example["open_udp"]("0.0.0.0", PORT) as conn, trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(groups)
        nursery.start_soon(example[way], conn, "lo")
        await eventually(is_member(None, LO, GROUP))
        send(b"old", GROUP, "127.0.0.1")
        await eventually(is_member(None, LO, OTHER))
        send(b"new", OTHER, "127.0.0.1")
        if way == "make_before_break":
            await eventually(lambda: (LO, GROUP) not in igmp_groups())
            send(b"new", OTHER, "127.0.0.1")
        await eventually(lambda: (LO, OTHER) not in igmp_groups())
        trio.lowlevel.remove_instrument(groups)
    assert groups.seen == [set(), {str(GROUP)}, between, {str(OTHER)}, set()]


async def test_change_groups_runs(eventually) -> None:
    async with running("change_groups") as program:
        for group in (GROUP, OTHER, GROUP, OTHER, OTHER):
            await eventually(is_member(None, LO, group), seconds=20)
            send(b"x", group, "127.0.0.1")
            assert await program.line() == f"b'x' for {group}"
        assert await program.wait() == 0


async def test_one_source_hears_only_that_source(needs_lab: None, eventually) -> None:
    group = IPv4Address("232.7.8.9")
    with open_lab(("a", "b", "c")) as lab:
        a, b, c = lab.values()
        index, source = a.interfaces[0].index, b.addresses[0]
        async with running("one_source", "en0", str(source), host=a) as program:
            await eventually(lambda: a.call(source_filters).get((index, group)) == {source: (1, 0)}, seconds=20)
            await eventually(forwards(lab, a, 0, group))
            c.call(send, b"not this", group, c.addresses[0])
            b.call(send, b"this", group, source)
            assert await program.line() == f"b'this' from {source}"


async def test_one_source_tells_sources_apart_on_loopback(eventually) -> None:
    async with running("one_source") as program:
        await eventually(is_member(None, LO, IPv4Address("232.7.8.9")), seconds=20)
        send(b"not this", "232.7.8.9", "127.0.0.2")
        send(b"this", "232.7.8.9", "127.0.0.1")
        assert await program.line() == "b'this' from 127.0.0.1"


async def test_all_but_one_source_joins_excludes_includes_and_leaves(needs_lab: None, eventually) -> None:
    group = IPv4Address("239.7.8.9")
    with open_lab(("a", "b", "c")) as lab:
        a, b, c = lab.values()
        index, source, other = a.interfaces[0].index, b.addresses[0], c.addresses[0]
        async with running("all_but_one_source", "en0", str(source), host=a) as program:
            await eventually(is_member(a, index, group), seconds=20)
            await eventually(forwards(lab, a, 0, group))
            b.call(send, b"1", group, source)
            assert await program.line() == f"joined: b'1' from {source}"
            await eventually(lambda: a.call(source_filters).get((index, group)) == {source: (0, 1)})
            b.call(send, b"2", group, source)
            c.call(send, b"3", group, other)
            assert await program.line() == f"without {source}: b'3' from {other}"
            await eventually(lambda: not a.call(source_filters) and is_member(a, index, group)())
            async with trio.open_nursery() as nursery:  # The bridge lets the source through again a little later.
                nursery.start_soon(repeat, lambda: b.call(send, b"4", group, source))
                assert await program.line() == f"with {source} again: b'4' from {source}"
                nursery.cancel_scope.cancel()
            assert await program.line() == "left"
            await eventually(lambda: (index, group) not in a.call(igmp_groups))
            assert await program.wait() == 0


async def test_many_groups_are_spread_over_connections(eventually: Callable[..., object]) -> None:
    async with running("many_groups", "lo", "--universes", "1-61", "--seconds", "4") as program:
        universes = [IPv4Address("239.255.0.0") + number for number in range(1, 62)]
        wanted = {(LO, group): 1 for group in universes}

        def joined() -> dict[tuple[int, IPv4Address], int]:
            return {key: users for key, users in igmp_groups().items() if key in wanted}

        await eventually(lambda: joined() == wanted)  # type: ignore[misc]
        for number in (0, 20, 60, 60):
            send(b"x", universes[number], "127.0.0.1", 5568)
        send(b"x", IPv4Address("239.255.0.99"), "127.0.0.1", 5568)
        told = await program.lines(3)
        counts = {universes[0]: 1, universes[20]: 1, universes[60]: 2}
        assert sorted(told) == sorted(f"{group}: {count} datagrams" for group, count in counts.items())
        assert await program.wait() == 0
