"""A handler for each interface that matches."""

from __future__ import annotations

import contextlib
import errno
import itertools
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from support.here import BOTH, igmp_groups, is_closed, source_filters
from support.links import bridge, ip
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Interface,
    NoInterfaceWarning,
    PacketConn,
    RefusedInterfaceWarning,
    SourceFilter,
    follow_group,
    open_ip,
    open_udp,
    serve_group,
    serve_interfaces,
)

if TYPE_CHECKING:
    from conftest import Eventually
    from trio_ipv4.testing import Network

pytestmark = BOTH

GROUP, OTHER = IPv4Address("239.8.8.8"), IPv4Address("239.8.8.9")
PORT = 5008
SERIAL = itertools.count()
RUN_AS_USER = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", sys.executable, "-m", "trio_ipv4.testing"]
"""Root without capabilities is an ordinary user; who maps root must have CAP_SETFCAP (user_namespaces(7))."""
OTHER_PROGRAM = f"""
import trio
from trio_ipv4 import serve_group
async def handler(conn, interface):
    print("ready", flush=True)
    print((await conn.receive()).payload.decode(), flush=True)
trio.run(serve_group, handler, "{GROUP}", {PORT})
"""


def joined() -> dict[int, int]:
    """How many hold the group, by interface index."""
    return {index: users for (index, group), users in igmp_groups().items() if group == GROUP}


async def probe(index: int) -> bytes:
    """Send something new on an interface."""
    payload = b"%d" % next(SERIAL)
    async with open_udp() as sender:
        await sender.send_to(payload, (str(GROUP), PORT), control=ControlMessage(ifindex=index))
    return payload


@attrs.define
class Log:
    """What handlers were there, and what they heard."""

    begun: list[int] = attrs.field(factory=list)
    ended: list[int] = attrs.field(factory=list)
    heard: list[tuple[int, bytes]] = attrs.field(factory=list)
    conns: list[PacketConn] = attrs.field(factory=list)

    async def __call__(self, conn: PacketConn, interface: Interface) -> None:
        assert joined()[interface.index] >= 1
        self.begun.append(interface.index)
        self.conns.append(conn)
        try:
            async for datagram in conn:
                self.heard.append((interface.index, datagram.payload))
        finally:
            self.ended.append(interface.index)


async def test_every_interface_has_a_handler_that_hears_only_it(eventually: Eventually) -> None:
    ip(*bridge("br0", 10), *bridge("br1", 11), "link add down0 type bridge")
    log = Log()
    async with trio.open_nursery() as nursery:
        interfaces = await nursery.start(serve_group, log, str(GROUP), PORT)
        assert [each.name for each in interfaces] == ["br0", "br1"]
        assert joined() == {10: 1, 11: 1}
        sent = [(index, await probe(index)) for index in (10, 11, 10)]
        await eventually(lambda: len(log.heard) == 3)
        assert sorted(log.heard) == sorted(sent)
        nursery.cancel_scope.cancel()
    assert joined() == {}
    assert all(is_closed(conn) for conn in log.conns)
    assert sorted(log.ended) == [10, 11]


async def test_unicast_is_heard_where_it_arrives_and_answers_leave_there(two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]

    async def handler(conn: PacketConn, interface: Interface) -> None:
        async for datagram in conn:
            heard.append((interface.name, datagram.payload))
            await conn.send_to(interface.name.encode(), (str(GROUP), datagram.peer[1]))

    heard: list[tuple[str, bytes]] = []
    async with b.call(open_udp) as peer, trio.open_nursery() as nursery:
        await nursery.start(a.run, partial(serve_group, handler, GROUP, PORT))
        for link in (0, 1):
            async with peer.joined(f"en{link}", GROUP):
                await peer.send_to(b"%d" % link, (a.addresses[link], PORT))
                with trio.fail_after(20):
                    answer = await peer.receive()
            assert answer.payload == b"en%d" % link
            assert answer.peer == (f"198.18.{link}.1", PORT)
        assert heard == [("en0", b"0"), ("en1", b"1")]
        nursery.cancel_scope.cancel()


async def test_handlers_come_and_go_with_their_interfaces(eventually: Eventually) -> None:
    log = Log()
    async with trio.open_nursery() as nursery:
        with pytest.warns(NoInterfaceWarning):
            assert await nursery.start(serve_group, log, GROUP, PORT) == ()
        steps = [
            (bridge("br0", 10), [10], []),
            (["link set br0 down"], [10], [10]),
            (["link set br0 up"], [10, 10], [10]),
            (["link set br0 name br9"], [10, 10], [10]),
            (["link delete br9", *bridge("br0", 10)], [10, 10, 10], [10, 10]),
            (["link delete br0", *bridge("br0", 12)], [10, 10, 10, 12], [10, 10, 10]),
        ]
        for changes, begun, ended in steps:
            ip(*changes)
            await eventually(lambda begun=begun, ended=ended: (log.begun, log.ended) == (begun, ended))
            if len(begun) > len(ended):
                assert joined() == {begun[-1]: 1}
                payload = await probe(begun[-1])
                await eventually(lambda begun=begun, payload=payload: log.heard[-1:] == [(begun[-1], payload)])
            else:
                assert joined() == {}
        assert [is_closed(conn) for conn in log.conns] == [True, True, True, False]
        nursery.cancel_scope.cancel()


async def test_a_handler_that_returns_is_done_until_its_interface_comes_back(eventually: Eventually) -> None:
    begun = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        begun.append(interface.index)

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        assert len(await nursery.start(serve_group, handler, GROUP, PORT)) == 1
        await eventually(lambda: joined() == {})
        ip("link set br0 mtu 1400", "address delete 198.18.10.1/24 dev br0", "link set br0 name br9")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert begun == [10]
        ip("link set br9 down", "link set br9 up")
        await eventually(lambda: begun == [10, 10])
        nursery.cancel_scope.cancel()


async def test_the_next_handler_begins_only_after_the_last_has_ended(eventually: Eventually) -> None:
    events: list[str] = []
    release = trio.Event()

    async def handler(conn: PacketConn, interface: Interface) -> None:
        events.append("begin")
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await release.wait()
            events.append("end")

    ip(*bridge("br0", 10), *bridge("br1", 11))
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_group, where=lambda each: each.index == 10 and each.is_up), handler, GROUP, PORT
        )
        for _ in range(3):  # The ones between were cancelled before they began.
            ip("link set br0 down", "link set br0 up")
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert events == ["begin"]
        release.set()
        await eventually(lambda: events == ["begin", "end", "begin"])
        assert joined() == {10: 1}
        nursery.cancel_scope.cancel()
    assert events == ["begin", "end", "begin", "end"]


async def test_a_failure_is_the_caller_s_and_several_are_several() -> None:
    gate = trio.Event()

    async def handler(conn: PacketConn, interface: Interface) -> None:
        await gate.wait()
        raise ValueError(interface.name)

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_group, handler, GROUP, PORT)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()

    ip(*bridge("br0", 10), *bridge("br1", 11))
    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert caught.group_contains(ValueError, match="br0")
    assert caught.group_contains(ValueError, match="br1")
    assert joined() == {}


async def test_a_nursery_of_the_caller_s_outlives_serving(eventually: Eventually) -> None:
    ip(*bridge("br0", 10))
    log = Log()
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_group, handler_nursery=handlers), log, GROUP, PORT)
            nursery.cancel_scope.cancel()
        payload = await probe(10)
        await eventually(lambda: log.heard == [(10, payload)])
        handlers.cancel_scope.cancel()


async def test_options_reach_the_connections(eventually: Eventually) -> None:
    async def handler(conn: PacketConn, interface: Interface) -> None:
        assert conn.control_flags == ControlFlags.TTL
        assert conn.multicast_interface == interface.index
        assert conn.multicast_all is False
        assert conn.local_endpoint == ("0.0.0.0", PORT)
        assert source_filters()[interface.index, GROUP] == {IPv4Address("198.18.0.9"): (1, 0)}
        done.set()

    done = trio.Event()
    serve = partial(
        serve_group,
        where=lambda each: each.is_loopback,
        sources=SourceFilter.include("198.18.0.9"),
        control_flags=ControlFlags.TTL,
    )
    async with trio.open_nursery() as nursery:
        (interface,) = await nursery.start(serve, handler, GROUP, PORT)
        assert interface.name == "lo"
        with trio.fail_after(20):
            await done.wait()
        nursery.cancel_scope.cancel()


async def test_the_loopback_is_served_if_asked_for(eventually: Eventually) -> None:
    log = Log()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_group, where=lambda each: each.is_loopback), log, GROUP, PORT)
        async with open_udp() as sender:
            sender.multicast_interface = "lo"
            await sender.send_to(b"hello", (str(GROUP), PORT))
        await eventually(lambda: log.heard == [(1, b"hello")])
        nursery.cancel_scope.cancel()


@pytest.mark.kernel_only("another process")
async def test_two_programs_serve_one_port(eventually: Eventually) -> None:
    ip(*bridge("br0", 10))
    log = Log()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_group, log, GROUP, PORT)
        with subprocess.Popen([sys.executable, "-c", OTHER_PROGRAM], stdout=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
            assert other.stdout is not None
            try:
                assert other.stdout.readline() == "ready\n"
                assert joined() == {10: 2}
                payload = await probe(10)
                assert other.stdout.readline() == payload.decode() + "\n"
            finally:
                other.kill()
        await eventually(lambda: log.heard == [(10, payload)])
        nursery.cancel_scope.cancel()


async def test_a_port_that_somebody_else_has_for_himself_is_told_of_and_tried_again(eventually: Eventually) -> None:
    ip(*bridge("br0", 10))
    log = Log()
    async with trio.open_nursery() as nursery:
        async with open_udp("0.0.0.0", PORT):
            with pytest.warns(RefusedInterfaceWarning, match="left out br0 until something changes: .*share_port"):
                assert await nursery.start(serve_group, log, GROUP, PORT) == ()
        assert joined() == {}
        ip("link set lo mtu 1400")
        await eventually(lambda: log.begun == [10])
        assert joined() == {10: 1}
        nursery.cancel_scope.cancel()
    assert joined() == {}


async def test_an_interface_that_has_just_vanished_is_no_error(eventually: Eventually) -> None:
    doomed = {10, 12}

    def where(interface: Interface) -> bool:
        if interface.name == "fleeting" and interface.is_up and interface.index in doomed:
            doomed.discard(interface.index)
            ip("link delete fleeting")  # Between the kernel's word and the join.
        return not interface.is_loopback and interface.is_up

    ip(*bridge("fleeting", 10), *bridge("br1", 11))
    log = Log()
    async with trio.open_nursery() as nursery:
        interfaces = await nursery.start(partial(serve_group, where=where), log, GROUP, PORT)
        assert [each.index for each in interfaces] == [11]
        ip(*bridge("fleeting", 12))  # That vanishes too, later.
        ip(*bridge("br0", 10))
        await eventually(lambda: log.begun == [11, 10])
        assert joined() == {10: 1, 11: 1}
        nursery.cancel_scope.cancel()


async def test_after_an_overflow_handlers_are_right(eventually: Eventually) -> None:
    ip(*bridge("br0", 10), *bridge("gone0", 11), *bridge("stays0", 13))
    log = Log()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_group, log, GROUP, PORT)
        await eventually(lambda: sorted(log.begun) == [10, 11, 13])
        ip(
            *(f"link set lo mtu {1000 + number % 400}" for number in range(3000)),
            "link delete br0",
            *bridge("br0", 10),  # As it was before, so that nothing but the kernel's table tells the difference.
            "link delete gone0",
            *bridge("new0", 12),
        )
        await eventually(lambda: joined() == {10: 1, 12: 1, 13: 1})
        await eventually(lambda: sorted(log.begun) == [10, 10, 11, 12, 13])
        assert sorted(log.ended) == [10, 11]
        for index in (10, 12, 13):
            payload = await probe(index)
            await eventually(lambda index=index, payload=payload: log.heard[-1:] == [(index, payload)])
        nursery.cancel_scope.cancel()


async def test_nonsense_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="port"):
        await serve_group(Log(), GROUP, 0)
    with pytest.raises(ValueError, match="multicast"):
        await serve_group(Log(), "192.0.2.1", PORT)
    with pytest.raises(TypeError, match="control_flags"):
        await serve_group(Log(), GROUP, PORT, control_flags=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sources"):
        await serve_group(Log(), GROUP, PORT, sources=["192.0.2.1"])  # type: ignore[arg-type]


@pytest.mark.kernel_only("another process")
def test_all_of_it_works_without_root(needs_lab: None) -> None:
    chosen = "hears_only_it or come_and_go or vanished or comes_first or in_order or interface_goes"
    here = __file__.rpartition("/")[0]
    files = [f"{here}/{name}.py" for name in ("test_serve_group", "test_follow_group", "test_watch_interfaces")]
    done = subprocess.run(
        [
            *RUN_AS_USER,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-k",
            chosen,
            *files,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


# Renumbering


async def test_a_handler_begins_again_with_the_new_addresses_and_loses_nothing(eventually: Eventually) -> None:
    told: list[tuple[str, ...]] = []
    conns = []
    heard = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        told.append(tuple(str(each.ip) for each in interface.addresses))
        conns.append(conn)
        while True:
            heard.append((await conn.receive()).payload)

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_group, handler, GROUP, PORT)
        await eventually(lambda: told == [("198.18.10.1",)])
        sent = []
        for change, addresses in (
            ("add 198.18.20.1/24", ("198.18.10.1", "198.18.20.1")),  # The new one comes first.
            ("delete 198.18.10.1/24", ("198.18.20.1",)),
            ("delete 198.18.20.1/24", ()),  # The old one goes first.
            ("add 198.18.10.1/24", ("198.18.10.1",)),
        ):
            ip(f"address {change} dev br0")
            sent.append(await probe(10))
            await eventually(lambda addresses=addresses: told[-1] == addresses)
        await eventually(lambda: heard == sent)
        assert len(told) == 5
        assert len(set(map(id, conns))) == 1
        ip("address change 198.18.10.1/24 dev br0 valid_lft 1000 preferred_lft 1000")  # A renewed lease is no change.
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(told) == 5
        nursery.cancel_scope.cancel()


async def test_a_handler_that_closed_its_connection_gets_a_new_one(eventually: Eventually) -> None:
    begun: list[PacketConn] = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        async with conn:
            begun.append(conn)
            await trio.sleep_forever()

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_group, handler, GROUP, PORT)
        await eventually(lambda: len(begun) == 1)
        ip("address add 198.18.20.1/24 dev br0")
        await eventually(lambda: len(begun) == 2)
        assert begun[0] is not begun[1]
        assert [is_closed(conn) for conn in begun] == [True, False]
        assert joined() == {10: 1}
        nursery.cancel_scope.cancel()


async def test_handlers_that_do_not_care_for_addresses_go_on(eventually: Eventually) -> None:
    begun = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        begun.append(interface)
        await trio.sleep_forever()

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_group, restart=False), handler, GROUP, PORT)
        await eventually(lambda: len(begun) == 1)
        ip("address add 198.18.20.1/24 dev br0")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(begun) == 1
        ip("link set br0 down", "link set br0 up")
        await eventually(lambda: len(begun) == 2)
        nursery.cancel_scope.cancel()


# Errors of the caller's functions


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize("following", [True, False])
async def test_an_error_of_the_predicate_is_the_same_everywhere(at_start: bool, following: bool) -> None:
    def where(interface: Interface) -> bool:
        if at_start or interface.name == "br1":
            raise LookupError(interface.name)
        return interface.name == "br0"

    async def handler(conn: PacketConn, interface: Interface) -> None:
        await trio.sleep_forever()

    ip(*bridge("br0", 10))
    async with open_udp() as conn:
        follow = partial(follow_group, conn, GROUP, where=where)
        serve = partial(serve_group, handler, GROUP, PORT, where=where)
        helper = follow if following else serve
        if at_start:
            with pytest.raises(LookupError):
                await helper()
            return
        caught: list[Exception] = []

        async def catch(*, task_status: trio.TaskStatus[object]) -> None:
            try:
                await helper(task_status=task_status)
            except LookupError as error:
                caught.append(error)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(catch)
                ip(*bridge("br1", 11))
        assert len(caught) == 1
        assert joined() == {}


async def test_handlers_that_fail_beside_the_predicate_are_told_too() -> None:
    def where(interface: Interface) -> bool:
        if interface.name == "br1":
            raise LookupError(interface.name)
        return interface.name == "br0"

    async def handler(conn: PacketConn, interface: Interface) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_group, where=where), handler, GROUP, PORT)
            await trio.testing.wait_all_tasks_blocked()
            ip(*bridge("br1", 11))

    ip(*bridge("br0", 10))
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(20):
        await program()
    assert caught.group_contains(LookupError)
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("nonsense", [None, 7])
async def test_a_function_of_refusals_is_looked_at_before(nonsense: object) -> None:
    async def later(interface: Interface, error: OSError) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="on_refusal must be"):
        await serve_group(Log(), GROUP, PORT, on_refusal=nonsense)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_refusal must be a synchronous function"):
        await serve_group(Log(), GROUP, PORT, on_refusal=later)


# The general case


def several(interface: Interface) -> Several:
    """Two groups on two ports: what one handler needs, opened and closed as one."""
    with contextlib.ExitStack() as stack:
        conns = []
        for number, group in ((PORT, GROUP), (PORT + 1, OTHER)):
            conn = open_udp("0.0.0.0", number, share_port=True, interface=interface)
            stack.callback(conn.close)
            conn.join_group(interface, group)
            conns.append(conn)
        return Several(tuple(conns), stack.pop_all())


@attrs.frozen
class Several:
    """Several connections of one interface."""

    conns: tuple[PacketConn, ...]
    stack: contextlib.ExitStack

    def close(self) -> None:
        self.stack.close()


async def test_a_handler_may_have_several_connections(eventually: Eventually) -> None:
    heard = []
    opened: list[Several] = []

    async def handler(several: Several, interface: Interface) -> None:
        opened.append(several)
        heard.extend([(interface.index, (await conn.receive()).payload) for conn in several.conns])
        await trio.sleep_forever()

    ip(*bridge("br0", 10), *bridge("br1", 11))
    async with trio.open_nursery() as nursery:
        interfaces = await nursery.start(serve_interfaces, handler, several)
        assert [each.index for each in interfaces] == [10, 11]
        assert joined() == {10: 1, 11: 1}
        async with open_udp() as sender:
            for number, group in ((PORT, GROUP), (PORT + 1, OTHER)):
                await sender.send_everywhere(Datagram(b"%d" % number, (str(group), number)))
        await eventually(lambda: len(heard) == 4)
        assert sorted(heard) == [(i, b"%d" % number) for i in (10, 11) for number in (PORT, PORT + 1)]
        ip("address add 198.18.20.1/24 dev br0")  # Nobody can tell whether such a thing is open: there is a new one.
        await eventually(lambda: len(opened) == 3)
        nursery.cancel_scope.cancel()
    assert joined() == {}
    assert all(is_closed(conn) for each in opened for conn in each.conns)


async def test_no_group_and_raw_ip_are_served_as_well(eventually: Eventually) -> None:
    heard = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        assert conn.memberships == {}
        async with conn.joined(interface, GROUP):
            heard.append(((await conn.receive()).payload, interface.name))

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_interfaces, handler, lambda each: open_ip(253, interface=each))
        await eventually(lambda: joined() == {10: 1})
        async with open_ip(253) as sender:
            await sender.send_everywhere(Datagram(b"x", (str(GROUP), 0)))
        await eventually(lambda: heard == [(b"x", "br0")])
        nursery.cancel_scope.cancel()


async def test_what_open_connection_raises_or_returns_is_the_callers(eventually: Eventually) -> None:
    ip(*bridge("br0", 10))
    told: list[int | None] = []

    def refuse(interface: Interface) -> PacketConn:
        raise OSError(errno.EPERM, "not today")

    async with trio.open_nursery() as nursery:
        on_refusal = lambda _, error: told.append(error.errno)  # noqa: E731
        assert await nursery.start(partial(serve_interfaces, Log(), refuse, on_refusal=on_refusal)) == ()
        assert told == [errno.EPERM]
        nursery.cancel_scope.cancel()
    with pytest.raises(ZeroDivisionError):
        await serve_interfaces(Log(), lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="must return a connection, got 7"):
        await serve_interfaces(Log(), lambda _: 7)  # type: ignore[arg-type, return-value]
    for nonsense in (None, open_later):
        with pytest.raises(TypeError, match="open_connection must be a synchronous function"):
            await serve_interfaces(Log(), nonsense)  # type: ignore[arg-type]


async def open_later(interface: Interface) -> PacketConn:
    raise AssertionError
