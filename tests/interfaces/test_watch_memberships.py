"""The groups that interfaces are in, then as they change. The oracle is /proc/net/igmp, and what `ip` shows."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.here import BOTH, igmp_groups, machine, set_sysctl, subscribers
from support.links import bridge, ip
from trio_ipv4 import (
    HostMembership,
    MembershipChange,
    MembershipChangeKind,
    ParseError,
    SourceFilter,
    UnsupportedError,
    host_memberships,
    open_udp,
    watch_interfaces,
    watch_memberships,
)
from trio_ipv4._kernel import memberships, native, netlink
from trio_ipv4.testing import Lab, cancel_at_each_checkpoint, open_lab, private_network, simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ipv4 import PacketConn

pytestmark = BOTH

JOINED, LEFT = MembershipChangeKind.JOINED, MembershipChangeKind.LEFT
ALL_SYSTEMS, GROUP, OTHER, LAST = "224.0.0.1", "239.1.2.3", "239.1.2.4", "239.255.255.254"
SOURCE = "198.18.0.7"
JOIN = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
    member.setsockopt(socket.IPPROTO_IP, 35, socket.inet_aton(sys.argv[1]) + bytes(4) + (1).to_bytes(4, sys.byteorder))
"""
"""Joins on the loopback by IP_ADD_MEMBERSHIP with a struct ip_mreqn (ip(7)), and ends."""
WATCH_AS_NOBODY = """
import os, trio, trio_ipv4
async def main():
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    print(*(each.group for each in trio_ipv4.host_memberships()))
    async with trio_ipv4.watch_memberships() as changes:
        for _ in range(2):
            print((await anext(changes)).membership.group)
trio.run(main)
"""
LINK = 0x1
"""RTMGRP_LINK, linux/rtnetlink.h. The kernel's table shows the first 32 groups alone."""


def told(change: MembershipChange) -> tuple[MembershipChangeKind, int, str]:
    return change.kind, change.membership.interface, str(change.membership.group)


async def take(changes: AsyncIterator[MembershipChange], count: int) -> list[tuple[MembershipChangeKind, int, str]]:
    with trio.fail_after(20):
        return [told(await anext(changes)) for _ in range(count)]


async def rest(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> list[object]:
    """Take what there is. A join that is made now comes last: when it is told of, everything was."""
    conn.join_group("lo", LAST)
    found: list[object] = []
    with trio.fail_after(20):
        while not found or found[-1] != (JOINED, 1, LAST):
            found.append(told(await anext(changes)))
    conn.leave_group("lo", LAST)
    assert await take(changes, 1) == [(LEFT, 1, LAST)]
    return found[:-1]


def listed() -> dict[tuple[int, IPv4Address], float]:
    found = host_memberships()
    assert list(found) == sorted(found, key=lambda each: (each.interface, each.group))
    ages = {(each.interface, each.group): each.age for each in found}
    assert len(ages) == len(found)
    return ages


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
async def conn() -> AsyncIterator[PacketConn]:
    async with open_udp() as conn:
        yield conn


@pytest.fixture
async def changes(conn: PacketConn) -> AsyncIterator[AsyncIterator[MembershipChange]]:
    """The changes after the first one: at the beginning there is nothing but the loopback."""
    async with watch_memberships() as changes:
        assert await take(changes, 1) == [(JOINED, 1, ALL_SYSTEMS)]
        yield changes


# The list


async def test_the_list_has_what_the_kernel_has(conn: PacketConn) -> None:
    assert listed().keys() == igmp_groups().keys() == {(1, IPv4Address(ALL_SYSTEMS))}
    ip(*bridge("br0", 7), *bridge("br1", 8))
    conn.join_group("br0", GROUP)
    conn.join_group("br1", GROUP)
    conn.join_source_specific_group("br1", OTHER, SOURCE)
    ip("link set br0 down")
    assert listed().keys() == igmp_groups().keys()
    assert (7, IPv4Address(ALL_SYSTEMS)) not in listed()  # It is down.
    assert len(listed()) == 5


@pytest.mark.kernel_only("another process")
async def test_the_list_has_what_ip_shows(conn: PacketConn) -> None:
    ip(*bridge("br0", 7))
    conn.join_group("br0", GROUP)
    shown = json.loads(run("ip", "-json", "maddress"))
    assert listed().keys() == {
        (link["ifindex"], IPv4Address(each["address"]))
        for link in shown
        for each in link["maddr"]
        if each.get("family") == "inet"
    }


async def test_a_list_of_several_parts_is_complete(conn: PacketConn) -> None:
    set_sysctl("net.ipv4.igmp_max_memberships", 3000)
    for number in range(1500):
        conn.join_group("lo", IPv4Address("239.2.0.0") + number)
    assert listed().keys() == igmp_groups().keys()
    assert len(listed()) == 1501


@pytest.mark.kernel_only("another system's methods")
async def test_a_leave_between_two_parts_hides_no_other_group(
    conn: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts through the groups, newest first, and passes over as many as were left meanwhile."""
    set_sysctl("net.ipv4.igmp_max_memberships", 3000)
    groups = [IPv4Address("239.2.0.0") + number for number in range(1500)]
    for group in groups:
        conn.join_group("lo", group)
    real = native.NativeSocket.recvmsg

    def receive(self: native.NativeSocket, size: int, flags: int = 0) -> Any:
        found = real(self, size, flags)
        if size == netlink.MAX_NETLINK and len(conn.memberships) == 1500:
            for group in groups[-5:]:
                conn.leave_group("lo", group)
        return found

    monkeypatch.setattr(native.NativeSocket, "recvmsg", receive)
    assert listed().keys() == igmp_groups().keys()
    assert len(listed()) == 1496


async def test_the_age_is_the_time_since_the_first_member(conn: PacketConn) -> None:
    before = time.perf_counter()
    conn.join_group("lo", GROUP)
    joined = time.perf_counter()
    async with open_udp() as second:
        second.join_group("lo", GROUP)
        conn.leave_group("lo", GROUP)  # There is a member all the time.
        asked = time.perf_counter()
        age = listed()[1, IPv4Address(GROUP)]
        assert asked - joined - 0.03 <= age <= time.perf_counter() - before + 0.03


@pytest.mark.pure
def test_the_age_passes_as_simulated_time_does() -> None:
    async def main() -> None:
        async with open_udp() as conn, watch_memberships() as changes:
            assert (await anext(changes)).membership.age == 0
            conn.join_group("lo", GROUP)
            assert (await anext(changes)).membership.age == 0
            await trio.sleep(260)
            assert [each.age for each in host_memberships()] == [260, 260]
            conn.leave_group("lo", GROUP)
            await trio.sleep(10)
            assert told(left := await anext(changes)) == (LEFT, 1, GROUP)
            assert left.membership.age == 270  # When it is told.

    with simulate() as network:
        host = network.host("a")
        trio.run(host.run, main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.pure
@pytest.mark.parametrize("frequency", [100, 250, 300, 1000])
@pytest.mark.parametrize("uptime", [0.5, 299.0, 301.0, 3600.0, 5e6, 4e7, 42949672.0, 4294968.0, 6e7])
@pytest.mark.parametrize("overflows", [False, True])
def test_the_kernels_clock_is_found(
    frequency: int, uptime: float, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """times(2) has the count that stamps have, with a beginning that nobody tells (linux/jiffies.h)."""
    ticks = round((2**32 - 300 * frequency + uptime * frequency) * 100 / frequency)
    if overflows:
        ticks = (ticks + 2**31) % 2**32 - 2**31  # clock_t has 32 bits.
    monkeypatch.setattr(native.time, "monotonic", lambda: uptime + 0.3)
    monkeypatch.setattr(os, "times", lambda: os.times_result((0, 0, 0, 0, ticks / 100)))
    native._ticks_at_boot.cache_clear()
    system: Any = native.NativeSystem()
    try:
        stamp = int(uptime * 100) % 2**32
        assert memberships.age(system, stamp) < 0.02
        assert memberships.age(system, (stamp - 12345) % 2**32) == pytest.approx(123.45, abs=0.02)
    finally:
        native._ticks_at_boot.cache_clear()


@pytest.mark.kernel_only("kernels without an option")
async def test_an_older_kernel_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memberships, "group_dump_request", without_multicast)
        with pytest.raises(UnsupportedError, match=r"RTM_GETMULTICAST is not available on Linux before 6\.15"):
            host_memberships()
        with pytest.raises(UnsupportedError, match="RTM_GETMULTICAST"):
            async with watch_memberships():
                pytest.fail("entered")
    monkeypatch.setattr(memberships, "RTNLGRP_IPV4_MCADDR", 1000)
    with pytest.raises(UnsupportedError, match="RTNLGRP_IPV4_MCADDR"):
        host_memberships()
    with pytest.raises(UnsupportedError, match="RTNLGRP_IPV4_MCADDR"):
        async with watch_memberships():
            pytest.fail("entered")
    assert descriptors() == before


def without_multicast(sequence: int, _byte_order: str) -> bytes:
    """Ask for what IPv4 has not, RTM_GETANYCAST: the kernel refuses as it once did RTM_GETMULTICAST."""
    header = b"".join(number.to_bytes(size, sys.byteorder) for number, size in ((24, 4), (62, 2), (0x301, 2)))
    return header + sequence.to_bytes(4, sys.byteorder) + bytes(4) + bytes([2]) + bytes(7)


# Changes


async def test_what_there_is_comes_first(conn: PacketConn) -> None:
    ip(*bridge("br0", 7))
    conn.join_group("br0", OTHER)
    conn.join_group("br0", GROUP)
    async with watch_memberships() as changes:
        assert await take(changes, 4) == [
            (JOINED, 1, ALL_SYSTEMS),
            (JOINED, 7, ALL_SYSTEMS),
            (JOINED, 7, GROUP),
            (JOINED, 7, OTHER),
        ]
        assert await rest(changes, conn) == []


async def test_joins_and_leaves_come_in_order(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> None:
    conn.join_group("lo", GROUP)
    conn.join_group("lo", OTHER)
    conn.leave_group("lo", GROUP)
    conn.join_group("lo", GROUP)
    conn.leave_group("lo", OTHER)
    assert await rest(changes, conn) == [
        (JOINED, 1, GROUP),
        (JOINED, 1, OTHER),
        (LEFT, 1, GROUP),
        (JOINED, 1, GROUP),
        (LEFT, 1, OTHER),
    ]


async def test_only_the_first_and_the_last_member_make_a_change(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    async with open_udp() as one:
        async with open_udp() as two:
            one.join_group("lo", GROUP)
            two.join_group("lo", GROUP)
        assert igmp_groups()[1, IPv4Address(GROUP)] == 1
        assert await rest(changes, conn) == [(JOINED, 1, GROUP)]
    assert await rest(changes, conn) == [(LEFT, 1, GROUP)]  # Closing is a leave.


async def test_filters_change_nothing(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> None:
    async with conn.joined("lo", GROUP, sources=SourceFilter.include(SOURCE)) as membership:
        assert await rest(changes, conn) == [(JOINED, 1, GROUP)]
        membership.allow("198.18.0.8")
        membership.set_sources(SourceFilter.exclude("198.18.0.9"))
        async with open_udp() as other, other.joined("lo", GROUP):
            pass
        assert await rest(changes, conn) == []
    assert await rest(changes, conn) == [(LEFT, 1, GROUP)]


async def test_an_interface_that_goes_up_is_in_a_group_by_itself(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    ip("link add br0 index 7 type bridge mcast_snooping 0")
    assert await rest(changes, conn) == []
    ip("link set br0 up")
    assert await rest(changes, conn) == [(JOINED, 7, ALL_SYSTEMS)]
    conn.join_group(7, GROUP)
    ip("link set br0 down", "link set br0 name br1", "link set br1 mtu 1400", "link set br1 up")
    assert await rest(changes, conn) == [(JOINED, 7, GROUP), (LEFT, 7, ALL_SYSTEMS), (JOINED, 7, ALL_SYSTEMS)]


async def test_an_interface_that_is_deleted_has_left_all(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    """The kernel tells only of 224.0.0.1."""
    ip(*bridge("br0", 7))
    async with open_udp() as member:
        member.join_group(7, GROUP)
        member.join_group(7, OTHER)
        ip("link delete br0")
        assert await rest(changes, conn) == [
            *((JOINED, 7, group) for group in (ALL_SYSTEMS, GROUP, OTHER)),
            *((LEFT, 7, group) for group in (ALL_SYSTEMS, GROUP, OTHER)),
        ]
        ip(*bridge("br0", 7))
        assert member.memberships  # It joins again.
        found = await rest(changes, conn)
        assert sorted(map(str, found)) == sorted(str((JOINED, 7, each)) for each in (ALL_SYSTEMS, GROUP, OTHER))
        assert listed().keys() == igmp_groups().keys()


async def test_whoever_watches_has_memberships_joined_again(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    ip(*bridge("br0", 7))
    conn.join_group(7, GROUP)
    ip("link delete br0", *bridge("br0", 7))
    found = await take(changes, 6)
    assert found[-1] == (JOINED, 7, GROUP)  # Nobody but the watch has looked.
    assert igmp_groups()[7, IPv4Address(GROUP)] == 1


async def test_an_mtu_without_ipv4_ends_all(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> None:
    ip(*bridge("br0", 7), "link set lo mtu 1500")
    async with open_udp() as member:
        member.join_group(1, GROUP)
        member.join_group(7, GROUP)
        await rest(changes, conn)
        ip("link set lo mtu 67")
        assert {*await take(changes, 2)} == {(LEFT, 1, ALL_SYSTEMS), (LEFT, 1, GROUP)}
        ip("link set lo mtu 68")
        assert (JOINED, 1, ALL_SYSTEMS) in await take(changes, 2)  # Whoever watches, joins again.
        assert listed().keys() == igmp_groups().keys()


@pytest.mark.kernel_only("another process")
async def test_another_processs_join_is_told_and_its_end(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    run(sys.executable, "-c", JOIN, GROUP)
    assert await rest(changes, conn) == [(JOINED, 1, GROUP), (LEFT, 1, GROUP)]


@pytest.mark.kernel_only("another process")
async def test_another_process_without_privilege_sees_it(conn: PacketConn) -> None:
    conn.join_group("lo", GROUP)
    assert run(sys.executable, "-c", WATCH_AS_NOBODY).split() == [ALL_SYSTEMS, GROUP, ALL_SYSTEMS, GROUP]


@pytest.mark.kernel_only("namespaces")
async def test_it_is_about_the_namespace_in_which_it_was_entered(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    with private_network():
        async with open_udp() as foreign:
            foreign.join_group("lo", GROUP)
            assert [str(each.group) for each in host_memberships()] == [ALL_SYSTEMS, GROUP]
    assert await rest(changes, conn) == []


@pytest.mark.kernel_only("namespaces")
async def test_a_link_that_moves_to_another_namespace_takes_its_memberships_along(
    changes: AsyncIterator[MembershipChange], conn: PacketConn, lab: Lab
) -> None:
    ip("link add v0 index 20 type veth peer name v1", "link set v0 up")
    conn.join_group(20, GROUP)
    await take(changes, 2)
    ip(f"link set v0 netns {lab['a'].namespace}")
    assert {*await take(changes, 2)} == {(LEFT, 20, ALL_SYSTEMS), (LEFT, 20, GROUP)}


@pytest.mark.kernel_only("namespaces")
async def test_a_host_of_a_lab_has_its_own() -> None:
    with open_lab() as lab:
        a, b = lab["a"], lab["b"]

        async def member() -> None:
            async with open_udp() as conn, conn.joined("lo", GROUP), watch_memberships() as changes:
                assert {*await take(changes, 3)} >= {(JOINED, 1, GROUP)}

        await a.run(member)
        assert IPv4Address(GROUP) not in {each.group for each in b.call(host_memberships)}


# Loss


async def test_a_reader_that_is_too_slow_is_told_the_difference(
    changes: AsyncIterator[MembershipChange], conn: PacketConn
) -> None:
    ip(*bridge("br0", 7))
    async with open_udp() as member:
        member.join_group("br0", GROUP)
        member.join_group("lo", OTHER)
        assert len(await rest(changes, conn)) == 3
        ip("link delete br0")
        for number in range(2000):
            member.join_group("lo", IPv4Address("239.3.0.0") + number)
            member.leave_group("lo", IPv4Address("239.3.0.0") + number)
        member.join_group("lo", GROUP)
        assert await rest(changes, conn) == [(LEFT, 7, ALL_SYSTEMS), (LEFT, 7, GROUP), (JOINED, 1, GROUP)]
        member.leave_group("lo", OTHER)  # After that it goes on, change by change.
        assert await rest(changes, conn) == [(LEFT, 1, OTHER)]


async def test_what_waits_in_the_program_is_bounded(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> None:
    async with watch_memberships() as reader, open_udp() as member:
        for _ in range(60):
            for number in range(50):
                member.join_group("lo", IPv4Address("239.3.0.0") + number % 10)
                member.leave_group("lo", IPv4Address("239.3.0.0") + number % 10)
            await rest(reader, conn)
        assert len(changes._feed._pending) <= 5000  # type: ignore[attr-defined]
        assert await rest(changes, conn) == []


async def test_what_was_left_and_joined_again_is_both(
    changes: AsyncIterator[MembershipChange], conn: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.join_group("lo", GROUP)
    await take(changes, 1)
    while listed()[1, IPv4Address(GROUP)] < 0.03:  # The kernel's stamps have 0.01 s.
        pass
    monkeypatch.setattr(netlink, "receive_messages", garbled(monkeypatch))
    conn.leave_group("lo", GROUP)
    conn.join_group("lo", GROUP)
    assert await take(changes, 2) == [(LEFT, 1, GROUP), (JOINED, 1, GROUP)]


async def test_what_cannot_be_read_loses_nothing(
    changes: AsyncIterator[MembershipChange], conn: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "receive_messages", garbled(monkeypatch))
    conn.join_group("lo", GROUP)
    assert await take(changes, 1) == [(JOINED, 1, GROUP)]


def garbled(monkeypatch: pytest.MonkeyPatch) -> Any:
    def receive(_socket: object) -> None:
        monkeypatch.undo()
        raise ParseError("garbled")

    return receive


async def test_a_dump_that_never_ends_is_an_error_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_PATIENCE", 0.01)
    monkeypatch.setattr(memberships, "read_memberships", lambda _asking: iter([None]))
    with pytest.raises(OSError, match=r"list the groups .*watch_memberships\(\)") as caught:
        host_memberships()
    assert caught.value.errno == errno.EBUSY


# The block


async def test_cancelling_loses_nothing(changes: AsyncIterator[MembershipChange], conn: PacketConn) -> None:
    for number in range(10):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(changes)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await anext(changes)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            conn.join_group("lo", f"239.4.0.{number}")  # Cancelled and readable at the same time.
            nursery.cancel_scope.cancel()
        assert await take(changes, 1) == [(JOINED, 1, f"239.4.0.{number}")]


async def test_cancelled_anywhere_nothing_stays_open(conn: PacketConn) -> None:
    conn.join_group("lo", GROUP)
    before = descriptors()

    async def scenario() -> None:
        async with watch_memberships() as changes:
            for _ in range(2):
                await anext(changes)
            conn.join_group("lo", OTHER)
            assert told(await anext(changes)) == (JOINED, 1, OTHER)
            conn.leave_group("lo", OTHER)
            assert told(await anext(changes)) == (LEFT, 1, OTHER)

    def check() -> None:
        assert subscribers(LINK) == 0
        assert descriptors() == before
        with contextlib.suppress(OSError):
            conn.leave_group("lo", OTHER)

    assert await cancel_at_each_checkpoint(scenario, after_each=check) > 5


async def test_a_checkpoint_comes_with_each_change(conn: PacketConn) -> None:
    conn.join_group("lo", GROUP)
    async with watch_memberships() as changes:
        with trio.testing.assert_checkpoints():
            await anext(changes)
        await anext(changes)
        conn.leave_group("lo", GROUP)
        with trio.testing.assert_checkpoints():
            await anext(changes)
        with trio.testing.assert_no_checkpoints():
            await changes.__aexit__(None, None, None)


async def test_watches_share_a_subscription_and_leaving_closes_it(conn: PacketConn) -> None:
    before = descriptors()
    async with watch_memberships() as one, watch_interfaces() as links, watch_memberships() as two:
        assert subscribers(LINK) == 1
        await anext(links)
        conn.join_group("lo", GROUP)
        for changes in (one, two):
            assert await take(changes, 2) == [(JOINED, 1, ALL_SYSTEMS), (JOINED, 1, GROUP)]
    conn.leave_group("lo", GROUP)
    await conn.aclose()
    assert subscribers(LINK) == 0
    assert machine() or descriptors() < before
    with pytest.raises(trio.ClosedResourceError, match="memberships are watched no longer"):
        await anext(one)
    with pytest.raises(RuntimeError, match=r"once: call watch_memberships\(\)"):
        await one.__aenter__()


async def test_a_reader_wakes_when_the_watch_is_left() -> None:
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        changes = await stack.enter_async_context(watch_memberships())
        await take(changes, 1)

        async def reader() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await anext(changes)

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()


async def test_outside_its_block_there_is_nothing_to_watch() -> None:
    with pytest.raises(RuntimeError, match="memberships are watched only inside"):
        await anext(watch_memberships())


@pytest.mark.pure
def test_two_lists_can_be_compared() -> None:
    old = HostMembership(1, GROUP, age=3.0)
    assert {HostMembership(1, GROUP, age=4.0), HostMembership(1, OTHER)} - {old} == {HostMembership(1, OTHER)}
