"""Links that are deleted and made anew, and what all connections of a run make of it.

The oracle is the number of users in /proc/net/igmp, and what arrives.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.here import BOTH, igmp_groups, is_closed, set_sysctl, source_filters, subscribers
from support.links import bridge, ip
from support.systems import on
from trio_ipv4 import (
    ControlMessage,
    MembershipWarning,
    PacketConn,
    SourceFilter,
    follow_group,
    open_udp,
    watch_interfaces,
)
from trio_ipv4._conn.monitor import Monitor
from trio_ipv4._kernel import groups, lifetimes, netlink
from trio_ipv4._kernel.native import NativeSocket, NativeSystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Eventually
    from trio_ipv4.testing import Lab

pytestmark = BOTH

GROUP = IPv4Address("239.7.7.7")
PORT = 5007
SERIAL = itertools.count()
LEAVE = 45
"""MCAST_LEAVE_GROUP, linux/in.h."""
RTMGRP_IPV4_NETCONF = 1 << 23


def users(index: int = 10) -> int:
    return igmp_groups().get((index, GROUP), 0)


def anew(name: str, index: int) -> None:
    ip(f"link delete {name}", *bridge(name, index))


def limit(number: int) -> None:
    set_sysctl("net.ipv4.igmp_max_memberships", number)


def watchers() -> int:
    """How many sockets are subscribed to the ends of links."""
    return subscribers(RTMGRP_IPV4_NETCONF | 1)


@pytest.fixture
def br0() -> None:
    ip(*bridge("br0", 10))


@pytest.fixture
async def conn(br0: None) -> AsyncIterator[PacketConn]:
    async with open_udp("0.0.0.0", PORT, share_port=True) as conn:
        yield conn


@pytest.fixture
async def other(br0: None) -> AsyncIterator[PacketConn]:
    async with open_udp("0.0.0.0", PORT, share_port=True) as conn:
        yield conn


async def hear(*conns: PacketConn, index: int = 10) -> None:
    payload = b"%d" % next(SERIAL)
    async with open_udp() as sender:
        await sender.send_to(payload, (str(GROUP), PORT), control=ControlMessage(ifindex=index))
    with trio.fail_after(20):
        for each in conns:
            assert (await each.receive()).payload == payload


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The requests to leave that the kernel got."""
    found: list[bytes] = []
    set_option = NativeSocket.setsockopt

    def spy(self: NativeSocket, level: int, name: int, value: bytes) -> None:
        if level == socket.IPPROTO_IP and name == LEAVE:
            found.append(value)
        set_option(self, level, name, value)

    monkeypatch.setattr(NativeSocket, "setsockopt", spy)
    return found


# One membership


async def test_is_alive_says_whether_the_kernel_hears(conn: PacketConn) -> None:
    membership = conn.joined(10, GROUP)
    assert not membership.is_alive
    async with membership:
        assert membership.is_alive
        ip("link set br0 down")
        assert membership.is_alive  # The kernel hears again by itself when it is up.
        ip("link delete br0")
        assert not membership.is_alive
        assert conn.memberships == {}
    assert not membership.is_alive


async def test_the_same_index_is_heard_again_without_being_asked(conn: PacketConn) -> None:
    async with conn.joined(10, GROUP) as membership:
        for _ in range(3):
            anew("br0", 10)
            assert membership.is_alive
            assert users() == 1
            await hear(conn)
    assert users() == 0


async def test_another_index_stays_dead_and_says_so(conn: PacketConn) -> None:
    async with conn.joined(10, GROUP) as membership:
        anew("br0", 11)
        assert not membership.is_alive
        assert conn.memberships == {}
        ip(*bridge("br1", 10))  # Whatever its name.
        assert membership.is_alive
        await hear(conn)


async def test_a_filter_comes_back_as_it_was_merged(conn: PacketConn) -> None:
    include = SourceFilter.include
    async with (
        conn.joined(10, GROUP, sources=include("198.18.0.7")),
        conn.joined(10, GROUP, sources=include("198.18.0.8")),
    ):
        anew("br0", 10)
        assert dict(conn.memberships) == {(10, GROUP): include("198.18.0.7", "198.18.0.8")}
        assert source_filters()[10, GROUP].keys() == {IPv4Address("198.18.0.7"), IPv4Address("198.18.0.8")}


async def test_sources_change_while_the_interface_is_gone_only_to_be_refused(conn: PacketConn) -> None:
    async with conn.joined(10, GROUP) as membership:
        ip("link delete br0")
        with pytest.raises(OSError, match=r"change .* on interface index 10: .*the interface is gone") as caught:
            membership.block("198.18.0.7")
        assert caught.value.errno == errno.ENODEV
        assert membership.sources == SourceFilter.any()
        ip(*bridge("br0", 10))
        membership.block("198.18.0.7")
        assert dict(conn.memberships) == {(10, GROUP): SourceFilter.exclude("198.18.0.7")}


async def test_an_mtu_that_ends_ipv4_and_one_that_begins_it_again(conn: PacketConn) -> None:
    async with conn.joined("lo", GROUP) as membership:
        ip("link set lo mtu 67")
        assert not membership.is_alive
        ip("link set lo mtu 68")
        assert membership.is_alive
        assert users(1) == 1


async def test_explicit_memberships_come_back_too(conn: PacketConn) -> None:
    conn.join_group(10, GROUP)
    anew("br0", 10)
    assert (10, GROUP) in conn.memberships
    await hear(conn)
    conn.leave_group(10, GROUP)
    assert users() == 0


async def test_what_is_lost_can_be_left_beside_others_that_hold_it(conn: PacketConn) -> None:
    conn.join_group(10, GROUP)
    async with conn.joined(10, GROUP) as membership:
        ip("link delete br0")
        conn.leave_group(10, GROUP)
        with pytest.raises(OSError, match="explicit"):
            conn.leave_group(10, GROUP)
        ip(*bridge("br0", 10))
        assert membership.is_alive
    assert users() == 0


async def test_a_warning_that_is_an_error_leaves_no_join_behind(
    conn: PacketConn, other: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one connection joins, another one can't be joined again."""
    other.join_group(10, "239.7.7.8")
    real = groups.join_group

    def join(socket: Any, index: int, group: IPv4Address) -> None:
        if group == GROUP:  # Between the look before the join and the one after it.
            anew("br0", 10)
            real(socket, index, group)
            limit(0)
        else:
            real(socket, index, group)

    monkeypatch.setattr(groups, "join_group", join)
    with pytest.raises(MembershipWarning):
        conn.join_group(10, GROUP)
    limit(20)
    assert users() == 0
    assert conn.memberships == {}


async def test_a_join_on_a_link_that_goes_at_the_same_moment(conn: PacketConn, monkeypatch: pytest.MonkeyPatch) -> None:
    real, again = groups.join_group, [True, False]

    def join(socket: Any, index: int, group: IPv4Address) -> None:
        if again and again.pop(0):
            anew("br0", 10)  # The message of that is read only after the join, which is on the new link.
            real(socket, index, group)
        else:
            real(socket, index, group)

    monkeypatch.setattr(groups, "join_group", join)
    async with conn.joined(10, GROUP) as membership:
        assert membership.is_alive
        assert users() == 1
        await hear(conn)

    def vanish(socket: Any, index: int, group: IPv4Address) -> None:
        real(socket, index, group)
        ip("link delete br0")

    monkeypatch.setattr(groups, "join_group", vanish)
    for attempt in (lambda: conn.join_group(10, GROUP), lambda: conn.join_group(None, GROUP)):
        with pytest.raises(OSError, match=r"join 239\.7\.7\.7 on interface index 10: .*no such interface") as caught:
            attempt()
        assert caught.value.errno == errno.ENODEV
        assert conn.memberships == {}
        ip(*bridge("br0", 10), "route add 224.0.0.0/4 dev br0")
        assert conn.memberships == {}


@pytest.mark.kernel_only("alternative names")
async def test_nothing_but_the_end_of_its_link_disturbs_a_membership(conn: PacketConn, leaves: list[bytes]) -> None:
    ip(*bridge("br1", 11), *bridge("br2", 12))
    async with conn.joined(10, GROUP) as membership:
        ip(
            "link set br0 down",
            "link set br0 name lan0",
            "link set lan0 up",
            "link set lan0 mtu 1400",
            "address flush dev lan0",
            "link property add dev lan0 altname another",
            "link delete br1",
            # As ports of a bridge: it tells of that in the same kinds of messages as of links.
            "link set br2 down",
            "link add v0 type veth peer name v1",
            "link set v0 master lan0",
            "link set v0 nomaster",
            "link delete v0",
            *(f"link set lo mtu {1000 + number % 400}" for number in range(5000)),  # More than the buffer would hold.
        )
        assert membership.is_alive
        assert leaves == []


@pytest.mark.kernel_only("namespaces")
async def test_a_link_that_was_moved_away_and_back(conn: PacketConn, lab: Lab) -> None:
    ip("link add v0 index 20 type veth peer name v1", "link set v0 up")
    async with conn.joined(20, GROUP) as membership:
        with Path("/proc/thread-self/ns/net").open("rb") as here:  # noqa: ASYNC230
            ip(f"link set v0 netns {lab['a'].namespace}")
            assert not membership.is_alive
            lab["a"].ip("link", "set", "v0", "netns", f"/proc/{os.getpid()}/fd/{here.fileno()}")
        ip("link set v0 up")
        back = socket.if_nametoindex("v0")
        assert membership.is_alive is (back == 20)
        assert users(20) == (back == 20)


async def test_whoever_asks_is_not_interrupted_in_the_middle(conn: PacketConn, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask may leave and join as well, of all connections."""
    protected = []
    real = Monitor.catch_up

    def watch(self: Monitor) -> Any:
        protected.append(trio.lowlevel.currently_ki_protected())
        return real(self)

    async with conn.joined(10, GROUP) as membership:
        monkeypatch.setattr(Monitor, "catch_up", watch)
        assert not trio.lowlevel.currently_ki_protected()
        assert membership.is_alive
        assert conn.memberships
        assert conn.source_filter(10, GROUP) == SourceFilter.any()
        conn.repair_memberships()
        conn.refresh_memberships()
        membership.refresh()
        monkeypatch.undo()
    assert len(protected) >= 6
    assert all(protected)


# Several holders


async def test_all_connections_of_a_run_hear_again(conn: PacketConn, other: PacketConn) -> None:
    async with conn.joined(10, GROUP) as first, other.joined(10, GROUP) as second:
        for _ in range(5):
            anew("br0", 10)
            assert second.is_alive  # Whoever asks.
            assert users() == 2
            assert first.is_alive
            await hear(conn, other)


async def test_the_end_of_one_takes_nothing_from_the_others(conn: PacketConn, other: PacketConn) -> None:
    async with other.joined(10, GROUP):
        async with open_udp("0.0.0.0", PORT, share_port=True) as third, third.joined(10, GROUP):
            async with conn.joined(10, GROUP):
                anew("br0", 10)
            assert users() == 2
            anew("br0", 10)
        assert users() == 1
        await hear(other)
    assert users() == 0


async def test_closing_is_enough(conn: PacketConn, other: PacketConn) -> None:
    conn.join_group(10, GROUP)
    other.join_group(10, GROUP)
    anew("br0", 10)
    conn.close()
    assert users() == 1
    await hear(other)


async def test_a_new_join_finds_the_others_alive(conn: PacketConn, other: PacketConn) -> None:
    conn.join_group(10, GROUP)
    anew("br0", 10)
    async with other.joined(10, GROUP):
        assert users() == 2
    assert users() == 1
    await hear(conn)


async def test_a_scope_beside_two_followers(conn: PacketConn, other: PacketConn, eventually: Eventually) -> None:
    async with trio.open_nursery() as nursery, other.joined(10, GROUP):
        for each in (conn, other):
            await nursery.start(follow_group, each, GROUP)
        for _ in range(5):
            anew("br0", 10)
            await eventually(lambda: users() == 2)
            await trio.testing.wait_all_tasks_blocked()
            assert users() == 2
            await hear(conn, other)
        await conn.joined("lo", GROUP).__aenter__()
        nursery.cancel_scope.cancel()
    conn.close()
    assert users() == users(1) == 0


@pytest.mark.kernel_only("threads, which are on no simulated host")
async def test_a_second_run_begins_anew(br0: None) -> None:
    def later() -> None:
        async def main() -> None:
            conn.join_group(10, GROUP)
            async with open_udp() as second, second.joined(10, GROUP):
                anew("br0", 10)
                assert second.memberships
                assert users() == 2
            conn.close()

        trio.run(main)

    conn = open_udp()

    async def first() -> None:
        conn.join_group("lo", GROUP)

    # Each in a thread, which stays in this network; a run can't begin inside another one.
    for run in (lambda: trio.run(first), later):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
    assert is_closed(conn)
    assert users() == 0


def test_what_was_joined_before_a_run_is_not_disturbed_by_it(br0: None, leaves: list[bytes]) -> None:
    conn = open_udp("0.0.0.0", PORT)
    conn.join_group(10, GROUP)

    async def main() -> None:
        async with conn, open_udp() as other, other.joined(10, GROUP):
            assert conn.memberships
            assert leaves == []
            anew("br0", 10)
            assert conn.memberships
            assert users() == 2
            await hear(conn)

    trio.run(main)
    assert users() == 0


def test_it_works_where_no_trio_runs(br0: None) -> None:
    conn = open_udp()
    conn.join_group(10, GROUP)
    anew("br0", 10)
    assert conn.memberships
    assert users() == 1
    conn.close()
    assert users() == 0
    assert watchers() == 0


@pytest.mark.kernel_only("namespaces")
async def test_it_knows_the_hosts_of_a_lab(lab: Lab, eventually: Eventually) -> None:
    a = lab["a"]

    def counted() -> int:
        return {key: number for key, number in a.call(igmp_groups).items() if key[1] == GROUP}.get((77, GROUP), 0)

    def make() -> None:
        a.ip("link", "add", "v0", "index", "77", "type", "veth", "peer", "name", "v1")

    make()
    async with a.call(open_udp) as there, open_udp() as here, there.joined(77, GROUP) as membership:
        a.ip("link", "delete", "v0")
        assert here.memberships == {}
        assert not membership.is_alive
        make()
        assert membership.is_alive
        assert counted() == 1
        a.ip("link", "delete", "v0")
        make()
        await a.run(follow_group_for_a_moment, there)
        assert counted() == 1


async def follow_group_for_a_moment(conn: PacketConn) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, "239.1.1.1")
        nursery.cancel_scope.cancel()


# Refusals


async def test_a_join_that_is_refused_when_the_interface_is_back_warns_and_can_be_repaired(conn: PacketConn) -> None:
    async with conn.joined(10, GROUP) as membership:
        limit(0)
        anew("br0", 10)
        with pytest.warns(MembershipWarning, match="igmp_max_memberships is 0.*repair_memberships"):
            assert not membership.is_alive
        assert conn.memberships == {}
        with pytest.raises(OSError, match="igmp_max_memberships is 0"):
            conn.repair_memberships()
        limit(20)
        conn.repair_memberships()
        assert membership.is_alive
        await hear(conn)


async def test_a_watch_warns_of_that_as_well(conn: PacketConn) -> None:
    async with conn.joined(10, GROUP), watch_interfaces() as changes:
        for _ in range(2):
            await anext(changes)
        limit(0)
        anew("br0", 10)
        with pytest.warns(MembershipWarning, match="igmp_max_memberships is 0"):
            await anext(changes)


async def test_a_repair_tells_all_refusals(conn: PacketConn) -> None:
    wanted = [f"239.7.7.{number}" for number in range(3)]
    for group in wanted:
        conn.join_group(10, group)
    anew("br0", 10)
    limit(0)
    with pytest.raises(OSError, match="3 memberships are not repaired") as caught:
        conn.repair_memberships()
    assert all(group in str(caught.value) for group in wanted)
    assert caught.value.errno == errno.ENOBUFS


async def test_a_scope_leaves_although_a_warning_is_an_error(conn: PacketConn, other: PacketConn) -> None:
    membership = conn.joined(10, GROUP)
    await membership.__aenter__()
    other.join_group("lo", GROUP)
    async with other.joined(10, "239.7.7.8"):
        limit(1)
        anew("br0", 10)
        with pytest.raises(MembershipWarning):
            await membership.__aexit__(None, None, None)
        assert users() == 0
        limit(20)


# The subscription


async def test_one_subscription_serves_a_run_and_ends_with_its_last_user(conn: PacketConn, other: PacketConn) -> None:
    assert watchers() == 0
    conn.join_group(10, GROUP)
    other.join_group(10, GROUP)
    async with watch_interfaces() as changes, open_udp() as third, third.joined(10, GROUP):
        await anext(changes)
        assert watchers() == 1
    conn.close()
    assert watchers() == 1
    other.close()
    assert watchers() == 0


async def test_lost_messages_are_no_lost_membership(
    conn: PacketConn, other: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetimes, "_BUFFER", 4096)
    with without_net_admin():
        conn.join_group(10, GROUP)
    other.join_group(10, GROUP)
    for number in range(50):
        ip(f"link add gone{number} type bridge", f"link delete gone{number}")
    ip("link delete br0")
    assert conn.memberships == {}
    for number in range(50):
        ip(f"link add gone{number} type bridge", f"link delete gone{number}")
    ip(*bridge("br0", 10))
    assert conn.memberships
    assert users() == 2
    await hear(conn, other)


@pytest.mark.kernel_only("another system's methods")
def test_until_the_queue_is_empty_messages_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so once, and drops on."""
    monkeypatch.setattr(lifetimes, "_BUFFER", 8192)
    with without_net_admin():
        told = lifetimes.Lifetimes(NativeSystem())
    with contextlib.closing(told):
        monkeypatch.setattr(lifetimes, "_MOST", 2)
        for _ in range(3):
            for number in range(50):
                ip(f"link add gone{number} index 77 type bridge", f"link delete gone{number}")
            looks = 0
            while (news := told.read()) is not None:
                assert news.is_lost
                looks += 1
            assert looks > 1
            ip("link add br0 index 79 type bridge", "link delete br0")
            assert told.read() == lifetimes.News(frozenset({79}), frozenset({79}), is_lost=False)


@contextlib.contextmanager
def without_net_admin() -> Iterator[None]:
    """Refuse SO_RCVBUFFORCE, as for a plain user."""
    with pytest.MonkeyPatch.context() as patch:
        real = lifetimes.options.set_integer

        def refuse(socket: Any, name: str, value: int) -> None:
            if name == "SO_RCVBUFFORCE":
                raise PermissionError(errno.EPERM, "not permitted")
            real(socket, name, value)

        patch.setattr(lifetimes.options, "set_integer", refuse)
        yield


class NoPrograms(NativeSystem):
    """A sandbox in which a socket takes no BPF program."""

    def socket(self, family: int, kind: int, protocol: int) -> Any:
        made = super().socket(family, kind, protocol)

        def refuse(_program: bytes) -> None:
            raise OSError(errno.ENOPROTOOPT, "no such option")

        made.attach_bpf = refuse  # type: ignore[method-assign]
        return made


@pytest.mark.kernel_only("another system's methods")
async def test_without_a_bpf_program_it_is_the_same(br0: None) -> None:
    with on(NoPrograms()):
        conn = open_udp("0.0.0.0", PORT)
    async with conn, conn.joined(10, GROUP) as membership:
        ip("link set lo mtu 1400")
        anew("br0", 10)
        assert membership.is_alive
        await hear(conn)


async def test_twenty_followers_read_a_change_once(
    conn: PacketConn, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    parsed: list[bytes] = []
    real = netlink.parse_messages

    def count(data: bytes, *more: Any) -> Any:
        parsed.append(data)
        return real(data, *more)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            await nursery.start(follow_group, conn, f"239.7.8.{number}")
        assert len(conn.memberships) == 20
        monkeypatch.setattr(netlink, "parse_messages", count)
        ip("link set br0 mtu 1400")
        async with watch_interfaces() as changes:
            while (await anext(changes)).interface.mtu != 1400:
                pass
        await trio.testing.wait_all_tasks_blocked()
        assert len(parsed) == 1
        nursery.cancel_scope.cancel()
