"""Hear more groups than one socket may join: 61 universes of sACN (ANSI E1.31), or any other range.

    python many_groups.py [INTERFACE] [--universes 1-61] [--seconds SECONDS]

A socket can be in 20 groups (sysctl net.ipv4.igmp_max_memberships). So each connection takes twenty, all of them on the
same port: multicast reaches each socket that has joined the group, and no other. By default it stays on the loopback.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
from ipaddress import IPv4Address
from itertools import islice
from typing import TYPE_CHECKING

import trio

from trio_ipv4 import PacketConn, open_udp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORT = 5568
PER_CONNECTION = 20


def group_of(universe: int) -> IPv4Address:
    """Return the group of a universe (E1.31 section 9.3.1)."""
    return IPv4Address("239.255.0.0") + universe


def portions(groups: Iterable[IPv4Address]) -> Iterator[list[IPv4Address]]:
    """Yield the groups of one connection after the other."""
    rest = iter(groups)
    while portion := list(islice(rest, PER_CONNECTION)):
        yield portion


async def listen(interface: str, groups: list[IPv4Address], counts: collections.Counter[IPv4Address | None]) -> None:
    """Join the groups of one connection, and count what arrives."""
    async with open_udp("0.0.0.0", PORT, share_port=True) as conn, contextlib.AsyncExitStack() as joined:
        for group in groups:
            await joined.enter_async_context(conn.joined(interface, group))
        await count(conn, counts)


async def count(conn: PacketConn, counts: collections.Counter[IPv4Address | None]) -> None:
    """Count datagrams by their group."""
    async for batch in conn.batches():
        counts.update(datagram.control.dst for datagram in batch)


async def main(arguments: argparse.Namespace) -> None:
    """Listen on all connections at once."""
    first, _, last = arguments.universes.partition("-")
    groups = map(group_of, range(int(first), int(last or first) + 1))
    counts: collections.Counter[IPv4Address | None] = collections.Counter()
    with trio.move_on_after(arguments.seconds):
        async with trio.open_nursery() as nursery:
            for portion in portions(groups):
                nursery.start_soon(listen, arguments.interface, portion, counts)
    for group, number in sorted(counts.items(), key=str):
        print(f"{group}: {number} datagrams")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hear many groups.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--universes", default="1-61", help="from 1 to 63999; default: 1-61")
    parser.add_argument("--seconds", type=float, default=5)
    trio.run(main, parser.parse_args())
