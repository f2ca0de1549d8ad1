"""What is done to the library while everything fails. Each scenario closes what it opens, and is always the same."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio

from support.here import machine, set_sysctl
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    ICMPEcho,
    SourceFilter,
    Timestamping,
    follow_group,
    host_memberships,
    open_ip,
    open_raw,
    open_unprivileged_icmp,
    parse_icmp,
    serve_group,
    watch_interfaces,
    watch_memberships,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faults.harness import World
    from trio_ipv4 import Interface, PacketConn

    Scenario = Callable[[World], Awaitable[None]]

GROUP, OTHER = "239.1.2.3", "239.1.2.4"
A, B, C = "198.18.0.7", "198.18.0.8", "198.18.0.9"
LOOPBACK = "127.0.0.1"
DEAD = LOOPBACK, 5999
"""Nobody listens there."""


async def opens(world: World) -> None:
    everything = ~ControlFlags(0)
    async with world.open(address=GROUP, bind_group=True, control_flags=everything) as conn:
        conn.control_flags = ControlFlags.TTL
        conn.multicast_interface = "en0"
        conn.multicast_ttl = 2
        await trio.lowlevel.checkpoint()


async def opens_raw(world: World) -> None:
    async with open_ip(253) as packets, open_raw(253) as raw:
        assert packets.ttl == raw.ttl
        await trio.lowlevel.checkpoint()


async def joins(world: World) -> None:
    async with world.open() as conn, conn.joined("en0", GROUP):
        await trio.lowlevel.checkpoint()


async def joins_by_route(world: World) -> None:
    async with world.open() as conn:
        async with conn.joined(None, GROUP), conn.joined(None, OTHER, sources=SourceFilter.exclude(A)):
            await trio.lowlevel.checkpoint()
        async with conn.joined(None, GROUP, sources=SourceFilter.include(A, B)):
            await trio.lowlevel.checkpoint()


async def joins_by_address(world: World) -> None:
    async with world.open() as conn, conn.joined(IPv4Address("198.18.1.1"), GROUP) as membership:
        membership.block(A)
        await trio.lowlevel.checkpoint()


async def joins_nested(world: World) -> None:
    async with world.open() as conn, conn.joined("en0", GROUP, sources=SourceFilter.include(A)):
        async with conn.joined("en0", GROUP, sources=SourceFilter.include(B)), conn.joined("en1", GROUP):
            await trio.lowlevel.checkpoint()
        async with conn.joined("en0", GROUP):
            await trio.lowlevel.checkpoint()
        async with conn.joined("en0", GROUP, sources=SourceFilter.exclude(B, C)):
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()


async def joins_concurrently(world: World) -> None:
    async def member(conn: PacketConn, sources: SourceFilter, steps: int) -> None:
        async with conn.joined("en0", GROUP, sources=sources) as membership:
            for _ in range(steps):
                membership.allow(C)
                await trio.lowlevel.checkpoint()

    async with world.open() as conn, trio.open_nursery() as nursery:
        nursery.start_soon(member, conn, SourceFilter.any(), 1)
        nursery.start_soon(member, conn, SourceFilter.include(A), 3)
        nursery.start_soon(member, conn, SourceFilter.exclude(B), 2)


async def changes_filters(world: World) -> None:
    steps = [
        SourceFilter.exclude(A),
        SourceFilter.include(A, B),
        SourceFilter.none(),
        SourceFilter.any(),
        SourceFilter.none(),
        SourceFilter.exclude(B, C),
    ]
    async with world.open() as conn, conn.joined("en0", GROUP, sources=SourceFilter.include(A)) as membership:
        for sources in steps:
            membership.set_sources(sources)
            await trio.lowlevel.checkpoint()


async def uses_explicit_operations(world: World) -> None:
    async with world.open(scoped=False) as conn:
        conn.join_group("en0", GROUP)
        await trio.lowlevel.checkpoint()
        conn.exclude_source_specific_group("en0", GROUP, A)
        conn.include_source_specific_group("en0", GROUP, A)
        conn.join_source_specific_group(None, OTHER, A)
        await trio.lowlevel.checkpoint()
        conn.join_source_specific_group(None, OTHER, B)
        conn.leave_source_specific_group(None, OTHER, A)
        conn.set_source_filter("en1", OTHER, SourceFilter.exclude(A, B))
        await trio.lowlevel.checkpoint()
        assert conn.source_filter("en1", OTHER) == SourceFilter.exclude(A, B)
        conn.leave_group(None, OTHER)
        conn.leave_group("en0", GROUP)
        conn.repair_memberships()
        await trio.lowlevel.checkpoint()


async def receives(world: World) -> None:
    async with world.open(address=LOOPBACK) as conn, world.open() as sender:
        for _ in range(3):
            await sender.send_to(b"one", conn.local_endpoint)
            assert (await receive(conn)).payload == b"one"


async def receive(conn: PacketConn) -> Datagram:
    """Receive what was sent: a fault may have cost a datagram, which is then not waited for in vain."""
    with trio.fail_after(20):
        return await conn.receive()


async def hears_of_errors(world: World) -> None:
    async def hear() -> None:
        with trio.fail_after(20):
            told.append((await conn.receive_error()).payload)

    told: list[bytes] = []
    async with world.open(address=LOOPBACK) as conn, world.open(address=LOOPBACK) as other:
        conn.report_errors = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            nursery.start_soon(receive, conn)
            await conn.send_to(b"dead", DEAD)
            await conn.send_to(b"alive", other.local_endpoint)
            await other.send_to(b"alive", conn.local_endpoint)
        assert told == [b"dead"]
        assert (await receive(other)).payload == b"alive"
        conn.report_errors = False


async def hears_of_times(world: World) -> None:
    async with world.open(address=LOOPBACK) as conn, world.open(address=LOOPBACK) as other:
        conn.timestamping = Timestamping.TX_SOFTWARE
        await conn.send_to(b"alive", other.local_endpoint)
        with trio.fail_after(20):
            assert (await conn.receive_error()).number == 0
        assert conn.path_mtu(LOOPBACK) > 1500


async def pings(world: World) -> None:
    set_sysctl("net.ipv4.ping_group_range", "0 0")
    async with open_unprivileged_icmp(LOOPBACK) as conn:
        await conn.send_to(ICMPEcho(0, 1, b"hello").marshal(), (LOOPBACK, 0))
        answer = parse_icmp((await receive(conn)).payload)
        assert answer == ICMPEcho(conn.local_endpoint[1], 1, b"hello", is_reply=True)


async def waits_for_a_datagram(world: World) -> None:
    async with world.open(address=LOOPBACK) as conn, world.open() as sender, trio.open_nursery() as nursery:
        nursery.start_soon(receive, conn)
        nursery.start_soon(receive, conn)
        await trio.lowlevel.checkpoint()
        await sender.send_batch([Datagram(b"1", conn.local_endpoint), Datagram(b"2", conn.local_endpoint)])


async def sends(world: World) -> None:
    async with world.open() as conn:
        conn.multicast_interface = "en0"
        await conn.send_to(b"to a group", (GROUP, 5000))
        await conn.send_to(b"elsewhere", (GROUP, 5000), control=ControlMessage(ifindex=11, ttl=3))


async def moves_batches(world: World) -> None:
    async with world.open(address=LOOPBACK) as conn, world.open() as sender:
        everything = [Datagram(bytes([i]), conn.local_endpoint) for i in range(5)]
        await sender.send_batch(everything)
        taken: list[bytes] = []
        with trio.fail_after(20):
            while len(taken) < 5:
                taken += [each.payload for each in await conn.receive_batch(3)]
        assert taken == [bytes([i]) for i in range(5)]


async def sends_segmented(world: World) -> None:
    async with world.open(address=LOOPBACK) as conn, world.open() as sender:
        conn.receive_offload = machine() is None  # It is not simulated; then segments come one by one.
        await sender.send_segmented(bytes(1000), 300, conn.local_endpoint)
        taken = 0
        with trio.fail_after(20):
            while taken < 1000:
                taken += sum(len(each.payload) for each in await conn.receive_batch())
        assert taken == 1000


async def follows_a_group(world: World) -> None:
    async with world.open() as conn, trio.open_nursery() as nursery:
        await nursery.start(partial(follow_group, conn, GROUP, where=lambda each: each.name.startswith("en")))
        world.reached("both joined" if len(world.joined()) == 2 else "fewer")
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def serves_a_group(world: World) -> None:
    world.sees_all = False  # A connection is joined before its handler can show it.

    async def handler(conn: PacketConn, interface: Interface) -> None:
        world.watch(conn)
        await conn.send_to(b"here", (GROUP, 5000))
        await trio.sleep_forever()

    serve = partial(serve_group, handler, GROUP, 5000, where=lambda each: each.name.startswith("en"))
    async with trio.open_nursery() as nursery:
        served = await nursery.start(serve)
        world.reached(*(each.name for each in served))  # An interface that a call says is gone is not served.
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def sends_everywhere(world: World) -> None:
    async with world.open() as conn:
        outcomes = await conn.send_everywhere(
            Datagram(b"x", (GROUP, 5000)), where=lambda each: each.name.startswith("en")
        )
        world.reached(*(f"{each.name}: {error is None}" for each, error in outcomes.items()))


async def announces_again(world: World) -> None:
    async with world.open() as one, one.joined("en0", GROUP) as membership:
        membership.refresh()  # By leaving and joining.
        async with world.open() as other, other.joined("en0", GROUP, sources=SourceFilter.include(A)):
            membership.refresh()  # By a report.
            other.refresh_memberships()


async def watches_interfaces(world: World) -> None:
    async with watch_interfaces() as changes:
        for _ in range(5):
            await anext(changes)


async def watches_memberships(world: World) -> None:
    async with watch_memberships() as changes, world.open() as conn, conn.joined("en0", GROUP):
        for _ in range(6):  # The group, and 224.0.0.1 on five interfaces.
            await anext(changes)


async def lists_memberships(_world: World) -> None:
    assert host_memberships()
    for _ in range(2):
        await trio.lowlevel.checkpoint()


SCENARIOS = [
    opens,
    opens_raw,
    joins,
    joins_by_route,
    joins_by_address,
    joins_nested,
    joins_concurrently,
    changes_filters,
    uses_explicit_operations,
    receives,
    hears_of_errors,
    hears_of_times,
    pings,
    waits_for_a_datagram,
    sends,
    moves_batches,
    sends_segmented,
    follows_a_group,
    serves_a_group,
    sends_everywhere,
    announces_again,
    watches_interfaces,
    watches_memberships,
    lists_memberships,
]
