"""The simulated network: links and their faults, hosts, routers, refusals. `test_differential.py` compares it."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import threading
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.wire import fields_of, need_tshark
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Header,
    ICMPType,
    InterfaceChangeKind,
    PacketConn,
    RawDatagram,
    SourceFilter,
    UnsupportedError,
    follow_group,
    interfaces,
    open_ip,
    open_raw,
    open_udp,
    watch_interfaces,
)
from trio_ipv4.testing import cancel_at_each_checkpoint, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trio_ipv4.testing import SimulatedHost, SimulatedNetwork

pytestmark = pytest.mark.pure
GROUP = "239.1.2.3"
PORT = 5000
Clock = trio.testing.MockClock


def lan(net: SimulatedNetwork, *names: str, **conditions: Any) -> list[SimulatedHost]:
    """Hosts on one link."""
    link = net.link(**conditions)
    hosts = [net.host(name) for name in names]
    for number, host in enumerate(hosts, 1):
        host.attach(link, "en0", f"198.18.{len(net.links) - 1}.{number}/24")
    return hosts


@pytest.fixture
def net() -> Iterator[SimulatedNetwork]:
    with simulate() as net:
        yield net


def receiver(host: SimulatedHost, group: str = GROUP, **options: Any) -> PacketConn:
    conn = host.call(open_udp, "0.0.0.0", PORT, **options)
    conn.join_group("en0", group)
    return conn


def sender(host: SimulatedHost) -> PacketConn:
    conn = host.call(open_udp)
    conn.multicast_interface = "en0"
    return conn


async def count_off(conn: PacketConn, numbers: range, pause: float = 0.01, group: str = GROUP) -> None:
    """Send numbers, one after the other."""
    for number in numbers:
        await conn.send_to(b"%d" % number, (group, PORT))
        await trio.sleep(pause)


async def arrived(conn: PacketConn) -> list[int]:
    """Return the numbers that have come."""
    return [number for number, _ in await arrived_at(conn)]


async def arrived_at(conn: PacketConn) -> list[tuple[int, float]]:
    found = []
    with trio.move_on_after(10):
        while True:
            found.append((int((await conn.receive()).payload), trio.current_time()))
    return found


# Links


async def test_latency_is_what_a_packet_takes(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", latency=0.25)
    async with receiver(a) as hears, sender(b) as tells:
        await tells.send_to(b"7", (GROUP, PORT))
        assert await arrived_at(hears) == [(7, 0.25)]


async def test_jitter_spreads_arrivals_and_keeps_the_order(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", latency=0.1, jitter=0.05)
    async with receiver(a) as hears, sender(b) as tells:
        await count_off(tells, range(200))
        found = await arrived_at(hears)
    assert [number for number, _ in found] == [*range(200)]


async def test_a_loss_is_as_often_as_it_is_ordered(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", loss=0.25)
    async with receiver(a) as hears, sender(b) as tells:
        await count_off(tells, range(240), 0)
        assert 150 < len(await arrived(hears)) < 210


async def test_duplicates_come_at_once_or_within_the_jitter(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", duplicate=1, jitter=0.02)
    async with receiver(a) as hears, sender(b) as tells:
        await count_off(tells, range(5), 1)
        found = await arrived_at(hears)
    assert sorted(number for number, _ in found) == sorted([*range(5), *range(5)])


async def test_what_is_reordered_is_overtaken(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", latency=0.1, reorder=0.2)
    async with receiver(a) as hears, sender(b) as tells:
        await count_off(tells, range(100))
        found = await arrived(hears)
    assert sorted(found) == [*range(100)]
    assert found != sorted(found)


async def test_a_partition_cuts_two_hosts_off_and_no_other(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b, c = lan(net, "a", "b", "c")
    async with receiver(a) as at_a, receiver(c) as at_c, sender(b) as tells:
        net.links[0].partition(a, "b")
        await count_off(tells, range(3))
        net.links[0].heal()
        await count_off(tells, range(3, 5))
        assert await arrived(at_a) == [3, 4]
        assert await arrived(at_c) == [0, 1, 2, 3, 4]


async def test_what_is_held_comes_in_order_when_it_is_released(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", latency=0.5)
    async with receiver(a) as hears, sender(b) as tells:
        net.links[0].hold("a", "b")
        await count_off(tells, range(3))
        await trio.sleep(60)
        net.links[0].release()
        released = trio.current_time()
        await count_off(tells, range(3, 5))
        found = await arrived_at(hears)
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert found[0][1] == pytest.approx(released + 0.5)


async def test_a_link_that_is_down_takes_carriers_away(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b")
    async with receiver(a) as hears, sender(b) as tells:
        net.links[0].set(up=False)
        await count_off(tells, range(2))
        assert "RUNNING" not in repr(a.interfaces[0].flags)
        net.links[0].set(up=True)
        await count_off(tells, range(2, 4))
        assert await arrived(hears) == [2, 3]


BEFORE = {"latency": 0.01, "jitter": 0.004, "loss": 0.3, "duplicate": 0.2, "reorder": 0.1}


def losses(seed: object, **conditions: float) -> tuple[list[int], list[int]]:
    """Who gets which of 300 datagrams under these conditions, in each direction."""

    async def main() -> tuple[list[int], list[int]]:
        with simulate(seed) as net:
            a, b = lan(net, "a", "b", **conditions)
            async with receiver(a, share_port=True) as at_a, receiver(b, share_port=True) as at_b:
                at_a.multicast_interface = at_b.multicast_interface = "en0"
                at_a.multicast_loopback = at_b.multicast_loopback = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(count_off, at_a, range(300))
                    nursery.start_soon(count_off, at_b, range(300))
                return sorted(set(await arrived(at_a))), sorted(set(await arrived(at_b)))

    return trio.run(main, clock=Clock(autojump_threshold=0))


@pytest.mark.parametrize("changed", ["latency", "jitter", "duplicate", "reorder"])
def test_to_change_one_condition_shifts_no_other(changed: str) -> None:
    assert losses(1, **BEFORE) == losses(1, **{**BEFORE, changed: 0.0})


def test_the_directions_and_the_seeds_have_other_fates() -> None:
    first, second = losses(1, **BEFORE)
    assert first != second
    assert losses(1, **BEFORE) == (first, second)
    assert losses(2, **BEFORE) != (first, second)


def test_the_same_seed_is_the_same_world_with_several_tasks() -> None:
    def world(seed: int) -> list[tuple[str, bytes]]:
        async def main() -> list[tuple[str, bytes]]:
            with simulate(seed) as net:
                a, *others = lan(net, *"abcdefgh", loss=0.1, jitter=0.1, reorder=0.2)
                async with receiver(a) as hears:
                    async with trio.open_nursery() as nursery:
                        for each in others:
                            nursery.start_soon(each.run, talk)
                    found: list[tuple[str, bytes]] = []
                    with trio.move_on_after(5):
                        while True:
                            datagram = await hears.receive()
                            found.append((datagram.peer[0], datagram.payload))
                    return found

        async def talk() -> None:
            async with open_udp() as conn:
                conn.multicast_interface = "en0"
                await count_off(conn, range(20))

        return trio.run(main, clock=Clock(autojump_threshold=0))

    assert world(3) == world(3)
    assert world(3) != world(4)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ({"loss": 1.5}, ValueError, "loss must be a probability, 0 to 1, got 1.5"),
        ({"latency": -1}, ValueError, "latency must be seconds, 0 or more, got -1"),
        ({"jitter": True}, ValueError, "jitter must be seconds"),
        ({"snooping": 1}, TypeError, "snooping"),
        ({"lose": 0.1}, TypeError, "lose"),
    ],
)
def test_conditions_that_are_none_are_refused(
    net: SimulatedNetwork, condition: dict[str, Any], error: type[Exception], message: str
) -> None:
    link = net.link()
    for attempt in (net.link, link.set):
        with pytest.raises(error, match=message):
            attempt(**condition)


# Switches


async def test_a_switch_that_snoops_forwards_to_members_alone(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b, c = lan(net, "a", "b", "c", snooping=True)
    async with (
        receiver(a) as member,
        c.call(open_udp, "0.0.0.0", PORT, multicast_all=True) as stranger,
        sender(b) as tells,
        c.call(open_raw, 17) as wire,
    ):
        await tells.send_to(b"too early", (GROUP, PORT))  # The report is yet to come.
        await trio.sleep(0.1)
        await count_off(tells, range(3))
        assert await arrived(member) == [0, 1, 2]
        assert await arrived(stranger) == []
        with trio.move_on_after(1):
            await wire.receive()
            pytest.fail("the switch let it through")


@pytest.mark.parametrize("querier", [True, False])
async def test_without_a_querier_a_switch_forgets(net: SimulatedNetwork, autojump_clock: Clock, querier: bool) -> None:
    """It works for four minutes, then it stops."""
    a, b = lan(net, "a", "b", snooping=True, querier=querier)
    async with receiver(a) as hears, sender(b) as tells:
        await trio.sleep(0.1)
        await count_off(tells, range(10), 60)
        found = await arrived(hears)
        assert found == [*range(10 if querier else 5)]
        hears.refresh_memberships()
        await trio.sleep(0.1)
        await count_off(tells, range(20, 21))
        assert await arrived(hears) == [20]


async def test_a_host_reports_its_memberships_twice_and_answers_queries(
    net: SimulatedNetwork, autojump_clock: Clock
) -> None:
    a, b = lan(net, "a", "b", snooping=True)
    async with b.call(open_raw, 2) as igmp:
        igmp.join_group("en0", "224.0.0.22")
        a_conn = a.call(open_udp, "0.0.0.0", PORT)
        async with a_conn:
            a_conn.set_source_filter("en0", IPv4Address(GROUP), SourceFilter.include("198.18.0.2"))
            found: list[bytes] = []
            with trio.move_on_after(120):
                while True:
                    found.append((await igmp.receive()).payload[8:])
            group = IPv4Address(GROUP).packed
            allow = bytes([5, 0, 0, 1]) + group + bytes([198, 18, 0, 2])  # ALLOW_NEW_SOURCES, RFC 3376 section 4.2.12
            assert [each for each in found if group in each] == [allow, allow]
            with trio.move_on_after(20):
                while group not in (answer := (await igmp.receive()).payload):
                    pass
            assert answer[8:] == bytes([1, 0, 0, 1]) + group + bytes([198, 18, 0, 2])  # MODE_IS_INCLUDE


# Hosts


async def test_an_unmodified_program_and_all_its_tasks_are_on_the_host(net: SimulatedNetwork) -> None:
    lan(net, "a")

    async def child() -> list[str]:
        return [each.name for each in interfaces()]

    async def program() -> list[str]:
        found = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            found += await child()
        return found + await trio.to_thread.run_sync(lambda: [each.name for each in interfaces()])

    assert await net["a"].run(program) == ["lo", "en0", "lo", "en0"]


async def test_start_hands_the_task_status_on(net: SimulatedNetwork) -> None:
    (a,) = lan(net, "a")
    async with a.call(open_udp, "0.0.0.0", PORT) as conn, trio.open_nursery() as nursery:
        joined = await nursery.start(a.run, functools.partial(follow_group, conn, GROUP))
        assert [each.name for each in joined] == ["en0"]
        assert a.groups()[2, IPv4Address(GROUP)] == 1
        nursery.cancel_scope.cancel()
    assert (2, IPv4Address(GROUP)) not in a.groups()


async def test_a_task_on_no_host_is_refused(net: SimulatedNetwork) -> None:
    lan(net, "a")
    for attempt in (open_udp, lambda: open_raw(253), interfaces):
        with pytest.raises(RuntimeError, match=r"this task is on none of its hosts: .*strict=False"):
            attempt()
    with pytest.raises(RuntimeError, match="none of its hosts"):
        async with watch_interfaces():
            pass
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as real:
        with pytest.raises(RuntimeError, match="none of its hosts"):
            PacketConn(real)
        with pytest.raises(TypeError, match="the simulated host 'a' has no other sockets"):
            net["a"].call(PacketConn, real)


async def test_when_it_is_not_strict_that_task_has_the_real_network() -> None:
    with simulate(strict=False):
        async with open_udp("127.0.0.1") as conn:
            await conn.send_to(b"x", conn.local_endpoint)
            assert (await conn.receive()).payload == b"x"


async def test_after_the_end_hosts_are_closed() -> None:
    with simulate() as net:
        (a,) = lan(net, "a")
        conn = a.call(open_udp)
    for attempt in (lambda: a.call(open_udp), a.groups, lambda: a.detach("en0")):
        with pytest.raises(trio.ClosedResourceError, match="the simulated network has ended"):
            attempt()
    conn.close()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, link: a.attach(link, "en0"), ValueError, "a has an interface 'en0' already"),
        (lambda a, link: a.attach(link, "x", index=2), ValueError, "a has an interface with index 2 already: en0"),
        (lambda a, link: a.attach(link, "a" * 16), ValueError, "1 to 15 octets"),
        (
            lambda a, link: a.attach("link0", "x"),
            TypeError,
            "a link of this network, or its number, 0 to 0, got .link0.",
        ),
        (lambda a, link: a.attach(link, "x", "198.18.0.1/33"), ValueError, "prefix length, .*got '198.18.0.1/33'"),
        (lambda a, link: a.add_address("en0", "198.18.0.9"), ValueError, "prefix length, .*got '198.18.0.9'"),
        (lambda a, link: a.detach("x"), KeyError, "a has no interface 'x', only lo, en0"),
        (lambda a, link: a.remove_address("en0", "198.18.0.9/24"), KeyError, "en0 has no address 198.18.0.9/24"),
        (lambda a, link: a.add_address("en0", "198.18.0.1/24"), ValueError, "en0 has the address 198.18.0.1/24"),
        (lambda a, link: a.add_route("0.0.0.0/0"), ValueError, "a route needs a gateway"),
        (lambda a, link: a.add_route("0.0.0.0/0", via="10.0.0.1"), ValueError, "10.0.0.1 is in no network"),
        (lambda a, link: a.set_sysctl("net.ipv4.nothing", 1), KeyError, "net.ipv4.nothing is not simulated, only"),
        (lambda a, link: a.call(trio.sleep, 0), TypeError, "must be synchronous"),
        (lambda a, link: link.partition("a", "x"), KeyError, "no host 'x' in this network, only a, b"),
        (lambda a, link: link.hold("a", a), ValueError, "two different hosts"),
    ],
)
def test_nonsense_is_refused(
    net: SimulatedNetwork, change: Callable[[Any, Any], object], error: type[Exception], message: str
) -> None:
    a, _ = lan(net, "a", "b")
    before = a.interfaces, a.groups()
    with pytest.raises(error, match=message):
        change(a, net.links[0])
    assert (a.interfaces, a.groups()) == before


def test_names_are_given_once(net: SimulatedNetwork) -> None:
    net.host("a")
    net.link(name="lan")
    for attempt in (lambda: net.host("a"), lambda: net.router("a"), lambda: net.link(name="lan")):
        with pytest.raises(ValueError, match="already"):
            attempt()
    with pytest.raises(KeyError, match="no host 'b' in this network, only a"):
        net["b"]
    assert (list(net), len(net), [each.name for each in net.links]) == (["a"], 1, ["lan"])
    assert "a" in repr(net)


def test_a_host_without_privilege_has_no_raw_sockets_and_no_low_ports(net: SimulatedNetwork) -> None:
    host = net.host("user", privileged=False)
    with pytest.raises(PermissionError, match="CAP_NET_RAW"):
        host.call(open_ip, 253)
    with pytest.raises(PermissionError, match="port_start is 1024"):
        host.call(open_udp, "0.0.0.0", 80)


async def test_a_sysctl_that_is_lowered_is_obeyed_and_quoted(net: SimulatedNetwork) -> None:
    (a,) = lan(net, "a")
    a.set_sysctl("net.ipv4.igmp_max_memberships", 1)
    async with a.call(open_udp) as conn:
        conn.join_group("en0", GROUP)
        with pytest.raises(OSError, match=r"net\.ipv4\.igmp_max_memberships is 1") as caught:
            conn.join_group("en0", "239.1.2.4")
    assert caught.value.errno == errno.ENOBUFS


async def test_timestamps_are_of_the_virtual_time(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b", latency=0.5)
    async with receiver(a, control_flags=ControlFlags.TIMESTAMP) as hears, sender(b) as tells:
        await count_off(tells, range(3), 10)
        stamps = [(await hears.receive()).control.timestamp_ns or 0 for _ in range(3)]
    assert [later - earlier for earlier, later in itertools.pairwise(stamps)] == [10 * 10**9] * 2
    assert stamps[0] % 10**9 == 5 * 10**8


async def test_a_buffer_that_overflows_counts_its_drops(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b")
    async with receiver(a) as hears, sender(b) as tells:
        hears.receive_buffer_size = 5000
        await count_off(tells, range(100), 0)
        found = await arrived(hears)
        assert len(found) < 20
        assert hears.drops == 100 - len(found)


async def test_lost_netlink_messages_are_noticed(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    (a,) = lan(net, "a")

    async def program() -> None:
        async with watch_interfaces() as changes:
            for _ in range(2):
                await anext(changes)
            a.lose_netlink_messages()
            a.attach(net.links[0], "en1")
            a.detach("en0")
            found = []
            with trio.move_on_after(1):
                while True:
                    change = await anext(changes)
                    found.append((change.kind, change.interface.name))
            assert (InterfaceChangeKind.ADDED, "en1") in found
            assert [kind for kind, name in found if name == "en0"] == [InterfaceChangeKind.REMOVED]

    await a.run(program)


async def test_a_storm_of_changes_overflows_the_buffer_and_is_noticed(
    net: SimulatedNetwork, autojump_clock: Clock
) -> None:
    (a,) = lan(net, "a")

    async def program() -> None:
        async with watch_interfaces() as changes:
            for _ in range(2):
                await anext(changes)
            for number in range(1000):  # Twice net.core.rmem_max holds some 180 messages.
                a.attach(net.links[0], "fleeting", index=100 + number)
                a.detach("fleeting")
            a.attach(net.links[0], "last", index=7)
            found = []
            with trio.move_on_after(1):
                while True:
                    change = await anext(changes)
                    found.append((change.kind, change.interface.name))
            assert (InterfaceChangeKind.ADDED, "last") in found
            assert len(found) < 1000
            assert sum(name == "fleeting" for _, name in found) % 2 == 0

    await a.run(program)


async def test_closing_from_another_thread_wakes_who_waits(net: SimulatedNetwork) -> None:
    (a,) = lan(net, "a")
    conn = a.call(open_udp)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await conn.receive()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            thread = threading.Thread(target=conn.close)
            thread.start()
            await trio.to_thread.run_sync(thread.join)


async def test_cancelling_anywhere_loses_nothing_and_leaves_everything(
    net: SimulatedNetwork, autojump_clock: Clock
) -> None:
    a, b = lan(net, "a", "b", latency=0.01)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            conn = a.call(open_udp, "0.0.0.0", PORT)
            async with conn, conn.joined("en0", GROUP):
                nursery.start_soon(conn.receive)
                async with sender(b) as tells:
                    await tells.send_to(b"1", (GROUP, PORT))
                    await tells.send_to(b"2", (GROUP, PORT))
                await conn.receive()

    def check() -> None:
        assert (2, IPv4Address(GROUP)) not in a.groups()

    assert await cancel_at_each_checkpoint(scenario, after_each=check) > 5


async def test_a_network_can_be_used_in_a_second_run() -> None:
    with simulate() as net:
        a, b = lan(net, "a", "b", latency=1)

        async def main() -> float:
            async with receiver(a) as hears, sender(b) as tells:
                await tells.send_to(b"1", (GROUP, PORT))
                return (await arrived_at(hears))[0][1] - trio.current_time() + 10

        def run() -> None:
            times.extend(trio.run(main, clock=Clock(autojump_threshold=0)) for _ in range(2))

        times: list[float] = []
        thread = threading.Thread(target=run)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
    assert times == [pytest.approx(1), pytest.approx(1)]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda conn: conn.socket.fileno(),
        lambda conn: conn.socket.detach(),
        lambda conn: conn.socket.recv(1),
        lambda conn: conn.socket.setsockopt(0, 6, 1),  # IP_RECVOPTS, linux/in.h
        lambda conn: conn.socket.getsockopt(1, 12),  # SO_PRIORITY, asm-generic/socket.h
        lambda conn: setattr(conn, "receive_offload", True),
    ],
)
def test_what_is_not_simulated_is_refused(net: SimulatedNetwork, attempt: Callable[[PacketConn], object]) -> None:
    (a,) = lan(net, "a")
    refused = pytest.raises(UnsupportedError, match="is not available on the simulated network")
    with contextlib.closing(a.call(open_udp)) as conn, refused:
        attempt(conn)


# Raw IP


async def test_headers_are_read_and_written(net: SimulatedNetwork) -> None:
    a, b = lan(net, "a", "b")
    async with a.call(open_raw, 253) as hears, b.call(open_raw, 253) as tells:
        header = Header(src="198.18.0.2", dst="198.18.0.1", protocol=253, ttl=9, tos=0x28)
        await tells.send(RawDatagram(header, b"payload"))
        datagram = await hears.receive()
    assert datagram.payload == b"payload"
    assert datagram.header.checksum_ok
    assert (datagram.header.ttl, datagram.header.tos, datagram.header.total_len) == (9, 0x28, 27)


async def test_a_udp_datagram_by_hand_arrives_if_it_is_sound(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b")
    sound = (4000).to_bytes(2, "big") + PORT.to_bytes(2, "big") + (9).to_bytes(2, "big") + bytes(2) + b"x"
    async with a.call(open_udp, "0.0.0.0", PORT) as hears, b.call(open_raw, 17) as tells:
        header = Header(src="198.18.0.2", dst="198.18.0.1", protocol=17, ttl=9)
        await tells.send(RawDatagram(header, sound[:6] + b"\1\1" + sound[8:]))  # A wrong checksum.
        await tells.send(RawDatagram(header, sound))
        datagram = await hears.receive()
        assert (datagram.payload, datagram.peer) == (b"x", ("198.18.0.2", 4000))
        with trio.move_on_after(1):
            await hears.receive()
            pytest.fail("two came")


async def test_fragments_are_refused(net: SimulatedNetwork) -> None:
    a, _ = lan(net, "a", "b")
    header = Header(src="198.18.0.1", dst="198.18.0.2", protocol=253, fragment_offset=3)
    async with a.call(open_raw, 253) as conn:
        with pytest.raises(UnsupportedError, match="fragments are not simulated"):
            await conn.send(RawDatagram(header, b""))


async def test_a_host_answers_echo_requests(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, _ = lan(net, "a", "b", latency=0.01)
    async with a.call(open_ip, 1) as ping:
        request = bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0])
        await ping.send_to(request, ("198.18.0.2", 0))
        answer = await ping.receive()
        assert (answer.payload, answer.peer[0]) == (bytes([0, 0, 0xFF, 0xFF, 0, 0, 0, 0]), "198.18.0.2")


# Routers


def routed(net: SimulatedNetwork) -> tuple[SimulatedHost, SimulatedHost, SimulatedHost]:
    near, far = net.link(), net.link()
    router = net.router("router")
    for link in (near, far):
        number = net.links.index(link)
        router.attach(link, f"en{number}", f"198.18.{number}.254/24")
    a, b = net.host("a"), net.host("b")
    a.attach(near, "en0", "198.18.0.1/24")
    b.attach(far, "en0", "198.18.1.2/24")
    a.add_route("0.0.0.0/0", via="198.18.0.254")
    b.add_route("0.0.0.0/0", via="198.18.1.254")
    return a, b, router


async def facts(conn: PacketConn) -> tuple[bytes, int | None] | None:
    with trio.move_on_after(1):
        datagram = await conn.receive()
        return datagram.payload, datagram.control.ttl
    return None


async def test_a_router_takes_one_from_the_ttl(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b, _ = routed(net)
    flags = ControlFlags.TTL | ControlFlags.DST | ControlFlags.INTERFACE
    async with b.call(open_udp, "0.0.0.0", PORT, control_flags=flags) as hears, sender(a) as tells:
        hears.join_group("en0", GROUP)
        for ttl, destination in itertools.product((1, 2, 9), ("198.18.1.2", GROUP, "224.0.0.77")):
            await tells.send_to(b"x", (destination, PORT), control=ControlMessage(ttl=ttl))
            expected = None if ttl == 1 or destination == "224.0.0.77" else (b"x", ttl - 1)
            assert await facts(hears) == expected, (ttl, destination)


async def test_a_router_tells_the_sender_that_the_ttl_is_used_up(net: SimulatedNetwork) -> None:
    a, _, _ = routed(net)
    async with a.call(open_ip, 1) as icmp, a.call(open_udp) as tells:
        await tells.send_to(b"x", ("198.18.1.2", PORT), control=ControlMessage(ttl=1))
        error = await icmp.receive()
        assert (error.payload[:2], error.peer[0]) == (bytes([ICMPType.TIME_EXCEEDED, 0]), "198.18.0.254")
        await tells.send_to(b"x", ("10.1.1.1", PORT))
        error = await icmp.receive()
        assert error.payload[:2] == bytes([ICMPType.DESTINATION_UNREACHABLE, 0])
        await tells.send_to(b"x", ("198.18.1.2", PORT))
        error = await icmp.receive()
        assert (error.payload[:2], error.peer[0]) == (bytes([ICMPType.DESTINATION_UNREACHABLE, 3]), "198.18.1.2")


async def test_icmp_errors_come_at_a_limited_rate(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    a, b = lan(net, "a", "b")

    async def errors() -> int:
        """Send ten datagrams to a port that nobody has."""
        count = 0
        for _ in range(10):
            await tells.send_to(b"x", ("198.18.0.2", PORT))
        with trio.move_on_after(1):
            while True:
                await icmp.receive()
                count += 1
        return count

    async with a.call(open_ip, 1) as icmp, a.call(open_udp) as tells:
        assert await errors() == 6
        assert await errors() == 1  # A second later.
        b.set_sysctl("net.ipv4.icmp_ratelimit", 0)
        assert await errors() == 10


async def test_a_host_that_is_not_there_is_told_after_three_seconds(
    net: SimulatedNetwork, autojump_clock: Clock
) -> None:
    a, _, _ = routed(net)
    async with a.call(open_ip, 1) as icmp, a.call(open_udp) as tells:
        for destination, reporter in (("198.18.0.77", "198.18.0.1"), ("198.18.1.77", "198.18.0.254")):
            sent = trio.current_time()
            await tells.send_to(b"x", (destination, PORT))
            error = await icmp.receive()
            assert (error.payload[:2], error.peer[0]) == (bytes([ICMPType.DESTINATION_UNREACHABLE, 1]), reporter)
            assert trio.current_time() == pytest.approx(sent + 3)


async def test_the_reverse_path_filter_drops_what_came_the_wrong_way(
    net: SimulatedNetwork, autojump_clock: Clock
) -> None:
    a, b, router = routed(net)
    async with (
        b.call(open_udp, "0.0.0.0", PORT, control_flags=ControlFlags.TTL) as hears,
        a.call(open_raw, 17) as tells,
    ):
        datagram = (4000).to_bytes(2, "big") + PORT.to_bytes(2, "big") + (9).to_bytes(2, "big") + bytes(2) + b"x"
        forged = RawDatagram(Header(src="198.18.1.77", dst="198.18.1.2", protocol=17, ttl=9), datagram)
        await tells.send(forged)
        assert await facts(hears) == (b"x", 8)
        router.set_sysctl("net.ipv4.conf.en0.rp_filter", 1)
        await tells.send(forged)
        assert await facts(hears) is None
        router.set_sysctl("net.ipv4.conf.en0.rp_filter", 2)  # Loose: some way leads back.
        await tells.send(forged)
        assert await facts(hears) == (b"x", 8)


# Captures


async def test_tshark_reads_a_capture(net: SimulatedNetwork, autojump_clock: Clock, tmp_path: Path) -> None:
    need_tshark()
    a, b = lan(net, "a", "b", latency=0.1)
    capture = net.capture(tmp_path / "lan.pcap")
    async with receiver(a) as hears, sender(b) as tells:
        await trio.sleep(5)
        await tells.send_batch([Datagram(bytes(length), (GROUP, PORT)) for length in (0, 1, 1400)])
        for _ in range(3):
            await hears.receive()
    await trio.sleep(2)
    capture.close()
    fields = ["frame.time_epoch", "ip.src", "ip.dst", "ip.checksum.status", "udp.checksum.status", "udp.length"]
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    rows = fields_of(tmp_path / "lan.pcap", fields, *checks, "-Y", "udp")
    assert [row[1:] for row in rows] == [["198.18.0.2", GROUP, "1", "1", str(8 + n)] for n in (0, 1, 1400)]
    assert len({row[0] for row in rows}) == 1
    # Joined and left: CHANGE_TO_EXCLUDE and CHANGE_TO_INCLUDE, each twice (RFC 9776 section 5.1).
    assert fields_of(tmp_path / "lan.pcap", ["igmp.record_type"], *checks, "-Y", "igmp") == [["4"], ["4"], ["3"], ["3"]]
