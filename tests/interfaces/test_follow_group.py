"""One connection stays joined on every interface that matches."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from support.here import BOTH, get_sysctl, igmp_groups, set_sysctl, source_filters
from support.links import bridge, ip
from trio_ipv4 import (
    ControlMessage,
    Interface,
    NoInterfaceWarning,
    PacketConn,
    RefusedInterfaceWarning,
    SourceFilter,
    follow_group,
    interface_by_name,
    open_udp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Eventually
    from trio_ipv4.testing import Lab

pytestmark = BOTH

GROUP = IPv4Address("239.7.7.7")
SERIAL = itertools.count()


def joined() -> dict[int, int]:
    """How many hold the group, by interface index."""
    return {index: users for (index, group), users in igmp_groups().items() if group == GROUP}


async def hears(conn: PacketConn, *indexes: int) -> None:
    """Check that a probe which is sent on each interface arrives there, once."""
    port = conn.local_endpoint[1]
    expected = {}
    async with open_udp() as sender:
        for index in indexes:
            payload = str(next(SERIAL)).encode()
            expected[payload] = index
            await sender.send_to(payload, (str(GROUP), port), control=ControlMessage(ifindex=index))
    heard = {}
    with trio.fail_after(20):
        while len(heard) < len(expected):
            datagram = await conn.receive()
            assert datagram.payload not in heard
            heard[datagram.payload] = datagram.control.ifindex
    assert heard == expected


@pytest.fixture
async def conn() -> AsyncIterator[PacketConn]:
    async with open_udp() as conn:
        yield conn


async def test_joins_everywhere_before_it_has_started_and_leaves_when_cancelled(conn: PacketConn) -> None:
    ip(*bridge("br0", 10), *bridge("br1", 11), "link add down0 type bridge")
    async with trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, str(GROUP))
        assert joined() == {10: 1, 11: 1}  # And not on the loopback, nor on what is down.
        await hears(conn, 10, 11)
        nursery.cancel_scope.cancel()
    assert joined() == {}
    assert conn.memberships == {}


SITUATIONS = {
    "down": (["link set br0 down"], {11}),
    "down and up": (["link set br0 down", "link set br0 up"], {10, 11}),
    "address lost": (["address delete 198.18.10.1/24 dev br0"], {10, 11}),
    "address lost and gained": (
        ["address delete 198.18.10.1/24 dev br0", "address add 198.18.10.9/24 dev br0"],
        {10, 11},
    ),
    "deleted": (["link delete br0"], {11}),
    "made anew with the same index": (["link delete br0", *bridge("br0", 10)], {10, 11}),
    "made anew with another index": (["link delete br0", *bridge("br0", 12)], {11, 12}),
    "made anew under another name": (["link delete br0", *bridge("br5", 10)], {10, 11}),
    "renamed": (["link set br0 name br9"], {10, 11}),
    "names swapped": (["link set br0 name x", "link set br1 name br0", "link set x name br1"], {10, 11}),
    "another one": (bridge("br2", 12), {10, 11, 12}),
    "multicast off": (["link set br0 multicast off"], {11}),
    "multicast off and on": (["link set br0 multicast off", "link set br0 multicast on"], {10, 11}),
    "made anew twenty-five times": (
        [line for _ in range(25) for line in ("link delete br0", *bridge("br0", 10))],
        {10, 11},
    ),
    "made anew with twenty-five indexes": (
        [line for index in range(50, 75) for line in ("link delete br0", *bridge("br0", index))],
        {11, 74},
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_follows(situation: str, conn: PacketConn, eventually: Eventually) -> None:
    changes, expected = SITUATIONS[situation]
    ip(*bridge("br0", 10), *bridge("br1", 11))
    async with trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, GROUP)
        ip(*changes)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await eventually(lambda: joined() == dict.fromkeys(expected, 1))
        assert {index for index, _ in conn.memberships} == expected  # No dead one is left to count.
        await hears(conn, *expected)
        nursery.cancel_scope.cancel()
    assert joined() == {}


async def test_follows_one_by_one_past_the_limit_of_memberships(conn: PacketConn, eventually: Eventually) -> None:
    limit = int(get_sysctl("net.ipv4.igmp_max_memberships"))
    async with trio.open_nursery() as nursery:
        with pytest.warns(NoInterfaceWarning):
            await nursery.start(follow_group, conn, GROUP)
        for index in range(100, 100 + limit + 5):
            ip(*bridge("br0", index))
            await eventually(lambda index=index: joined() == {index: 1})
            ip("link delete br0")
            await eventually(lambda: joined() == {})
        nursery.cancel_scope.cancel()


@pytest.mark.kernel_only("namespaces")
async def test_a_link_that_is_moved_to_another_namespace_and_back(lab: Lab, eventually: Eventually) -> None:
    ip("link add v0 type veth peer v1", "link set v0 up")
    index = interface_by_name("v0").index
    follow = partial(follow_group, where=lambda each: each.name == "v0" and each.is_up)
    # By a descriptor: the thread itself is elsewhere while it runs `ip` there.
    with Path("/proc/thread-self/ns/net").open("rb") as here:  # noqa: ASYNC230
        async with open_udp() as conn, trio.open_nursery() as nursery:
            await nursery.start(follow, conn, GROUP)
            assert joined() == {index: 1}
            ip(f"link set v0 netns {lab['a'].namespace}")
            await eventually(lambda: conn.memberships == {})
            lab["a"].ip("link", "set", "v0", "netns", f"/proc/{os.getpid()}/fd/{here.fileno()}")
            ip("link set v0 up")
            back = interface_by_name("v0").index
            await eventually(lambda: joined() == {back: 1})
            nursery.cancel_scope.cancel()


async def test_an_mtu_too_small_for_ipv4_ends_memberships(conn: PacketConn, eventually: Eventually) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(follow_group, where=lambda each: each.is_loopback), conn, GROUP)
        assert joined() == {1: 1}
        ip("link set lo mtu 67")
        await eventually(lambda: conn.memberships == {})
        ip("link set lo mtu 1500", "address add 127.0.0.1/8 dev lo")
        await eventually(lambda: joined() == {1: 1})
        await hears(conn, 1)
        nursery.cancel_scope.cancel()


async def test_the_predicate_is_asked_about_each_change(conn: PacketConn, eventually: Eventually) -> None:
    asked = []

    def where(interface: Interface) -> bool:
        asked.append(interface)
        return interface.name.startswith("lan") and bool(interface.addresses)

    ip(*bridge("br0", 10))
    async with trio.open_nursery() as nursery:
        with pytest.warns(NoInterfaceWarning, match="no interface matches now, of lo, br0"):
            assert await nursery.start(partial(follow_group, where=where), conn, GROUP) == ()
        assert [each.index for each in asked] == [1, 10]
        assert joined() == {}
        ip("link set br0 name lan0")
        await eventually(lambda: joined() == {10: 1})
        ip("address flush dev lan0")
        await eventually(lambda: joined() == {})
        ip("address add 198.18.10.1/24 dev lan0")
        await eventually(lambda: joined() == {10: 1})
        nursery.cancel_scope.cancel()


async def test_an_interface_that_has_just_vanished_is_no_error(conn: PacketConn, eventually: Eventually) -> None:
    doomed = {10, 12}

    def where(interface: Interface) -> bool:
        if interface.name == "fleeting" and interface.is_up and interface.index in doomed:
            doomed.discard(interface.index)
            ip("link delete fleeting")  # Between the kernel's word and the join.
        return not interface.is_loopback and interface.is_up

    ip(*bridge("fleeting", 10), *bridge("br1", 11))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(follow_group, where=where), conn, GROUP)
        assert joined() == {11: 1}
        ip(*bridge("br0", 10))
        await eventually(lambda: joined() == {10: 1, 11: 1})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("also", [False, True])
async def test_after_an_overflow_memberships_are_right(also: bool, conn: PacketConn, eventually: Eventually) -> None:
    ip(*bridge("br0", 10), *bridge("gone0", 11))
    async with trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, GROUP)
        if also:  # Another scope on the same key keeps the dead membership in the kernel.
            await nursery.start(follow_group, conn, GROUP)
        ip(
            *(f"link set lo mtu {1000 + number % 400}" for number in range(3000)),
            "link delete br0",
            *bridge("br0", 10),  # As it was before, so that nothing but the kernel's table tells the difference.
            "link delete gone0",
            *bridge("new0", 12),
        )
        assert joined() == {}  # Nothing has run yet.
        await eventually(lambda: joined() == {10: 1, 12: 1})
        await hears(conn, 10, 12)
        nursery.cancel_scope.cancel()
    assert joined() == {}


async def test_other_scopes_stay_as_they_are(conn: PacketConn, eventually: Eventually) -> None:
    ip(*bridge("br0", 10))
    async with conn.joined(10, GROUP, sources=SourceFilter.include("198.18.0.7")):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(follow_group, sources=SourceFilter.include("198.18.0.8")), conn, GROUP)
            assert source_filters()[10, GROUP].keys() == {IPv4Address("198.18.0.7"), IPv4Address("198.18.0.8")}
            ip("link set br0 multicast off")
            await eventually(lambda: source_filters()[10, GROUP].keys() == {IPv4Address("198.18.0.7")})
            nursery.cancel_scope.cancel()
        assert source_filters()[10, GROUP].keys() == {IPv4Address("198.18.0.7")}


async def test_one_too_many_is_told_of_and_tried_again(conn: PacketConn, eventually: Eventually) -> None:
    set_sysctl("net.ipv4.igmp_max_memberships", "2")
    ip(*bridge("br0", 10), *bridge("br1", 11), *bridge("br2", 12))
    told = []

    def on_refusal(interface: Interface, error: OSError) -> None:
        told.append((interface.name, error.errno))

    async with open_udp() as conn, trio.open_nursery() as nursery:
        started = await nursery.start(partial(follow_group, on_refusal=on_refusal), conn, GROUP)
        assert [each.name for each in started] == ["br0", "br1"]
        assert joined() == {10: 1, 11: 1}
        ip("link set br1 mtu 1400")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [("br2", errno.ENOBUFS)]  # Once for each reason, not for each time.
        ip("link set br0 down")
        await eventually(lambda: joined() == {11: 1, 12: 1})
        ip("link set br0 up")
        await eventually(lambda: told == [("br2", errno.ENOBUFS), ("br0", errno.ENOBUFS)])
        assert joined() == {11: 1, 12: 1}
        nursery.cancel_scope.cancel()
    assert joined() == {}


async def test_a_refusal_is_a_warning_by_default(conn: PacketConn) -> None:
    set_sysctl("net.ipv4.igmp_max_memberships", "1")
    ip(*bridge("br0", 10), *bridge("br1", 11))
    async with open_udp() as conn, trio.open_nursery() as nursery:
        with pytest.warns(RefusedInterfaceWarning, match="left out br1 until something changes: .*_memberships is 1"):
            await nursery.start(follow_group, conn, GROUP)
        nursery.cancel_scope.cancel()


async def test_a_warning_that_is_an_error_ends_the_follower_and_leaves_everything(conn: PacketConn) -> None:
    set_sysctl("net.ipv4.igmp_max_memberships", "1")
    ip(*bridge("br0", 10), *bridge("br1", 11))
    with pytest.raises(RefusedInterfaceWarning):
        await follow_group(conn, GROUP)
    assert joined() == {}
    assert conn.memberships == {}


async def test_an_interrupt_leaves_everything(conn: PacketConn) -> None:
    def where(interface: Interface) -> bool:
        if interface.name == "br1":
            signal.raise_signal(signal.SIGINT)
        return interface.is_multicast

    ip(*bridge("br0", 10), *bridge("br1", 11))
    with pytest.raises(KeyboardInterrupt):
        await follow_group(conn, GROUP, where=where)
    assert joined() == {}
    assert conn.memberships == {}


async def test_a_connection_of_another_namespace_is_refused(lab: Lab) -> None:
    async with lab["a"].call(open_udp) as foreign:
        with pytest.raises(ValueError, match="another network namespace"), trio.fail_after(20):
            await follow_group(foreign, GROUP)


async def test_a_closed_connection_is_noticed(conn: PacketConn) -> None:
    async def program() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(follow_group, conn, GROUP)
            conn.close()
            with trio.fail_after(20):
                await trio.sleep_forever()

    ip(*bridge("br0", 10))
    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert caught.group_contains(trio.ClosedResourceError, match="this connection was closed")
    with pytest.raises(trio.ClosedResourceError):
        await follow_group(conn, GROUP)


async def test_nonsense_is_refused_at_once(conn: PacketConn) -> None:
    with pytest.raises(ValueError, match="multicast"):
        await follow_group(conn, "192.0.2.1")
    with pytest.raises(TypeError, match="PacketConn"):
        await follow_group(conn.socket, GROUP)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sources"):
        await follow_group(conn, GROUP, sources=["192.0.2.1"])  # type: ignore[arg-type]
