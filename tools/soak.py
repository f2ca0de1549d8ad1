"""Joins, leaves, floods, flaps and cancellations, for as long as you like: `python tools/soak.py --minutes 60`.

All of it in a network namespace of its own. It works in rounds, a second each: tasks that do what users do, at random,
while links go down, vanish and come back; then everything is cancelled, wherever it is. After each round the kernel's
tables, the descriptors and trio's tasks are as they were before the first, and memory stays flat. The seed is printed;
with the same one the same is tried, as far as the kernel's and trio's timing lets it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import gc
import random
import resource
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.links import bridge, ip
from trio_ipv4 import (
    ControlMessage,
    Datagram,
    MembershipWarning,
    SourceFilter,
    follow_group,
    open_udp,
    serve_group,
    watch_interfaces,
)
from trio_ipv4.testing import igmp_groups, private_network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from ipaddress import IPv4Address

    from trio_ipv4 import Interface, PacketConn

ROUND_SECONDS = 1.0
WARM_UP = 5
"""The rounds in which caches and allocators may grow."""
MEMORY_GROWTH = 1 << 20
"""What the last third of the rounds may take more than the second, in octets: allocators keep some of what they got."""
GROUPS = [f"239.9.9.{last}" for last in range(1, 7)]
SOURCES = [f"198.18.0.{last}" for last in range(1, 9)]
LINKS = ["en0", "en1", "en2"]
PORTS = 5000, 5001
REFUSALS = {
    errno.ENODEV,  # The link has just vanished,
    errno.EADDRNOTAVAIL,
    errno.ENXIO,
    errno.ENETUNREACH,  # is down,
    errno.ENETDOWN,
    errno.EINVAL,  # or has lost its IPv4.
    errno.ENOBUFS,  # net.ipv4.igmp_max_memberships, or a full queue.
    errno.EPERM,
}


class State(NamedTuple):
    """What is flat."""

    groups: dict[tuple[int, IPv4Address], int]
    descriptors: int
    tasks: int


class Soak:
    """The rounds, and what they counted."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.memory: list[int] = []

    async def run(self, seconds: float) -> None:
        ip(*(line for name in LINKS for line in make(name)), "link set lo up")
        begin = state()
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(self.memory) < 3 * WARM_UP:
            await self.round()
            now = state()
            if now != begin:
                raise AssertionError(f"round {len(self.memory)} left {now}, not {begin}")
            gc.collect()
            self.memory.append(resident())
        self.check_memory()

    async def round(self) -> None:
        users = [self.join, self.change, self.receive, self.share, self.flood, self.watch, self.churn, self.churn]
        with trio.move_on_after(ROUND_SECONDS * self.chance.uniform(0.5, 1.5)):
            async with trio.open_nursery() as nursery:
                for user in users:
                    nursery.start_soon(self.again, user)
                nursery.start_soon(self.flap)
                nursery.start_soon(self.follow)
                nursery.start_soon(self.serve)
        self.counts["rounds"] += 1

    async def again(self, user: Callable[[], Awaitable[None]]) -> None:
        """Do something over and over, cancelled every now and then; refusals of a network in motion are no faults."""
        while True:
            with trio.move_on_after(self.chance.expovariate(20)) as scope, self.tolerated():
                await user()
                self.counts[user.__name__] += 1
            self.counts["cancelled"] += scope.cancelled_caught
            await trio.lowlevel.checkpoint()

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        try:
            yield
        except* OSError as refused:
            for each in leaves(refused):
                if not isinstance(each, OSError) or each.errno not in REFUSALS:
                    raise
                self.counts[f"refused {errno.errorcode[each.errno or 0]}"] += 1

    def filter(self) -> SourceFilter:
        chosen = self.chance.sample(SOURCES, self.chance.randrange(4))
        return self.chance.choice([SourceFilter.any(), SourceFilter.include(*chosen), SourceFilter.exclude(*chosen)])

    async def join(self) -> None:
        async with open_udp() as conn, contextlib.AsyncExitStack() as stack:
            for _ in range(self.chance.randrange(1, 25)):
                scope = conn.joined(self.chance.choice(LINKS), self.chance.choice(GROUPS), sources=self.filter())
                await stack.enter_async_context(scope)

    async def change(self) -> None:
        async with open_udp() as conn, conn.joined("en0", GROUPS[0]) as membership:
            for _ in range(20):
                membership.set_sources(self.filter())
                await trio.lowlevel.checkpoint()

    async def churn(self) -> None:
        """Several tasks with scopes of one group on one connection, and the explicit operations beside them."""

        async def member(conn: PacketConn) -> None:
            async with conn.joined("en0", GROUPS[1], sources=self.filter()) as membership:
                membership.block(self.chance.choice(SOURCES))
                await trio.sleep(self.chance.expovariate(200))

        async with open_udp() as conn, trio.open_nursery() as nursery:
            conn.set_source_filter("en0", GROUPS[1], self.filter())
            for _ in range(5):
                nursery.start_soon(member, conn)

    async def receive(self) -> None:
        async with open_udp("0.0.0.0", PORTS[0], share_port=True) as conn, conn.joined("en0", GROUPS[2]):
            conn.receive_offload = self.chance.random() < 0.5
            async for batch in conn.batches():
                self.counts["datagrams"] += len(batch)

    async def share(self) -> None:
        async def reader(conn: PacketConn) -> None:
            async for _ in conn:
                self.counts["datagrams"] += 1

        async with (
            open_udp("0.0.0.0", PORTS[0], share_port=True) as conn,
            conn.joined("en0", GROUPS[2]),
            trio.open_nursery() as nursery,
        ):
            for _ in range(3):
                nursery.start_soon(reader, conn)

    async def flood(self) -> None:
        async with open_udp() as conn:
            request = ControlMessage(ifindex=10)
            for _ in range(20):
                endpoint = GROUPS[2], PORTS[0]
                size = self.chance.choice([0, 1, 100, 1400, 5000])
                await conn.send_batch([Datagram(bytes(size), endpoint, control=request)] * 50)
                await conn.send_segmented(bytes(10_000), 500, endpoint, control=request)

    async def watch(self) -> None:
        async with watch_interfaces() as changes:
            async for _ in changes:
                self.counts["changes"] += 1

    async def follow(self) -> None:
        async with open_udp() as conn:
            await follow_group(conn, GROUPS[3], sources=self.filter() if self.chance.random() < 0.5 else ANY)

    async def serve(self) -> None:
        async def handler(conn: PacketConn, _: Interface) -> None:
            with self.tolerated():
                await conn.send_to(b"here", (GROUPS[4], PORTS[1]))
                async for _ in conn:
                    self.counts["served"] += 1

        await serve_group(partial(handler), GROUPS[4], PORTS[1])

    async def flap(self) -> None:
        while True:
            await trio.sleep(self.chance.expovariate(10))
            name = self.chance.choice(LINKS[1:])
            away, back = self.chance.choice(
                [(f"link set {name} down", [f"link set {name} up"]), (f"link delete {name}", make(name))]
            )
            ip(away)
            try:
                await trio.sleep(self.chance.choice([0, 0.01, 0.1]))
            finally:
                ip(*back)
            self.counts["flaps"] += 1

    def check_memory(self) -> None:
        third = len(self.memory) // 3
        earlier, later = self.memory[third : 2 * third], self.memory[2 * third :]
        growth = sum(later) / len(later) - sum(earlier) / len(earlier)
        if growth > MEMORY_GROWTH:
            raise AssertionError(f"memory grew by {growth / 1024:.0f} KiB: {[each >> 10 for each in self.memory]}")

    def report(self) -> str:
        first, last = self.memory[WARM_UP], self.memory[-1]
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items()))
        return f"memory {first >> 10:,} KiB after {WARM_UP} rounds, {last >> 10:,} KiB at the end; {counts}"


ANY = SourceFilter.any()


def make(name: str) -> list[str]:
    return bridge(name, 10 + LINKS.index(name))


def state() -> State:
    tasks = trio.lowlevel.current_statistics().tasks_living
    return State(igmp_groups(), len(list(Path("/proc/self/fd").iterdir())), tasks)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


def soak(seconds: float, seed: int) -> str:
    """Soak in a network of its own, and return what was done."""
    made = Soak(seed)
    with private_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", MembershipWarning)
        trio.run(made.run, seconds)
    return made.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    print(soak(options.minutes * 60, options.seed))


if __name__ == "__main__":
    sys.exit(main())
