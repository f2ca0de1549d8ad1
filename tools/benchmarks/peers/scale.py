"""Print, as JSON, what grows with what: `python scale.py MOST SOURCES ROUNDS`."""

from __future__ import annotations

import gc
import ipaddress
import json
import resource
import socket
import statistics
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import trio
import trio.testing

from trio_ipv4 import Datagram, SourceFilter, open_udp

LOOPBACK = 1
PAYLOAD = b"x" * 256
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP = 42, 45  # linux/in.h
GROUPS = int(ipaddress.IPv4Address("239.1.0.0"))


def main():
    most, sources, rounds = map(int, sys.argv[1:])
    # A descriptor for each connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    steps = [step for step in (1, 10, 100, 1000) if step < most] + [most]
    # Memory first: what earlier measurements have freed would serve later ones.
    tables = {
        "Memory": trio.run(memory, most),
        "Memory with distinct sources": trio.run(distinct_sources, sources),
        "Joined groups on one connection": trio.run(joined_groups, steps, rounds),
        "Scopes on one group": trio.run(scopes, steps, rounds),
        "Connections in one nursery": trio.run(connections, steps, rounds),
    }
    print(json.dumps(tables))


def microseconds(times):
    """The median of nanoseconds."""
    return round(statistics.median(times) / 1000, 1)


async def joined_groups(steps, rounds):
    """Cost of one more join and leave."""
    rows = []
    async with open_udp() as conn:
        held = 0
        for step in steps:
            for held in range(held, step):  # noqa: B020
                conn.join_group(LOOPBACK, ipaddress.IPv4Address(GROUPS + held))
            held = step
            group = ipaddress.IPv4Address(GROUPS - 1)
            ours = []
            for _ in range(rounds * 20):
                start = time.monotonic_ns()
                async with conn.joined(LOOPBACK, group):
                    pass
                ours.append(time.monotonic_ns() - start)
            rows.append(
                {
                    "groups": step,
                    "joined, us": microseconds(ours),
                    "bare join and leave calls, us": microseconds(bare_joins(conn.socket, group, rounds * 20)),
                }
            )
    return rows


def bare_joins(made, group, times):
    """The kernel's share: the two system calls on the same socket."""
    request = struct.pack("@I4xHH4s120x", LOOPBACK, socket.AF_INET, 0, group.packed)  # struct group_req
    taken = []
    for _ in range(times):
        start = time.monotonic_ns()
        made.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request)
        made.setsockopt(socket.IPPROTO_IP, MCAST_LEAVE_GROUP, request)
        taken.append(time.monotonic_ns() - start)
    return taken


async def scopes(steps, rounds):
    """Cost of one more scope on a group which has `step` open ones: hearing anybody, and one source each."""
    rows = []
    group = ipaddress.IPv4Address(GROUPS)
    for step in steps:
        row = {"scopes": step}
        for title, filters in (
            ("any source, us", lambda _: SourceFilter.any()),
            ("a source each, us", lambda i: SourceFilter.include(ipaddress.IPv4Address(0x0A000001 + i))),
        ):
            async with open_udp() as conn, AsyncExits() as exits:
                for i in range(step):
                    await exits.enter(conn.joined(LOOPBACK, group, sources=filters(i)))
                taken = []
                for _ in range(rounds):
                    start = time.monotonic_ns()
                    async with conn.joined(LOOPBACK, group, sources=filters(step)):
                        pass
                    taken.append(time.monotonic_ns() - start)
            row[title] = microseconds(taken)
        rows.append(row)
    return rows


class AsyncExits:
    """Leave many scopes, the last first."""

    def __init__(self):
        self.scopes = []

    async def enter(self, scope):
        await scope.__aenter__()
        self.scopes.append(scope)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        while self.scopes:
            await self.scopes.pop().__aexit__(None, None, None)


async def connections(steps, rounds):
    """Cost of a datagram, when `step` tasks wait for one, each on a connection of its own, and one comes to each."""
    rows = []
    for step in steps:
        taken = {"receive, us per datagram": [], "trio.socket.recvfrom, us per datagram": []}
        for title, times in taken.items():
            await many_waiting(step, rounds, ours=title.startswith("receive"), times=times)
        rows.append({"connections": step, **{title: microseconds(times) for title, times in taken.items()}})
    return rows


async def many_waiting(count, rounds, *, ours, times):
    conns = [open_udp("127.0.0.1") for _ in range(count)]
    got = 0
    wake = trio.Event()

    async def serve(conn):
        nonlocal got
        while True:
            await (conn.receive() if ours else conn.socket.recvfrom(2048))
            got += 1
            if got == count:
                wake.set()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        async with trio.open_nursery() as nursery:
            for conn in conns:
                nursery.start_soon(serve, conn)
            for number in range(rounds + 1):
                await trio.testing.wait_all_tasks_blocked()
                got, wake = 0, trio.Event()
                for conn in conns:
                    sender.sendto(PAYLOAD, conn.local_endpoint)
                start = time.monotonic_ns()
                await wake.wait()
                if number:
                    times.append((time.monotonic_ns() - start) / count)
            nursery.cancel_scope.cancel()
    for conn in conns:
        conn.close()


async def memory(count):
    """What a connection takes before and after its first batch, and what a batch of 64 takes while it is kept."""
    gc.collect()
    start = private_kib()
    conns = [open_udp("127.0.0.1") for _ in range(count)]
    opened = private_kib()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for conn in conns:
            sender.sendto(PAYLOAD, conn.local_endpoint)
            await conn.receive_batch(64, max_bytes=65535)
        gc.collect()
        received = private_kib()
        for _ in range(128):
            sender.sendto(PAYLOAD, conns[0].local_endpoint)
        batch = await conns[0].receive_batch(64)  # What the first one leaves behind is not the batch's.
        tracemalloc.start()
        batch = await conns[0].receive_batch(64)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    for conn in conns:
        conn.close()
    return [
        {"of": f"one of {count} connections, opened", "KiB": round((opened - start) / count, 1)},
        {"of": "one that has received a batch, room for 64 x 65,535", "KiB": round((received - start) / count, 1)},
        {"of": f"a batch of {len(batch)} x 256 octets, kept", "KiB": round(kept / 1024, 1)},
    ]


async def distinct_sources(count):
    """The process's memory after so many senders with addresses of their own (all of 127/8 is local)."""
    rows = []
    warm = max(1, count // 100)
    async with open_udp("127.0.0.1") as conn:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(0, count, 64):
                for i in range(number, min(number + 64, count)):
                    # struct in_pktinfo: the source address of this one datagram.
                    source = struct.pack("=I4s4x", 0, (0x7F010000 + i).to_bytes(4, "big"))
                    sender.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, source)], 0, conn.local_endpoint)
                batch = await conn.receive_batch(64)
                assert isinstance(batch[0], Datagram)
                assert ipaddress.IPv4Address(batch[-1].peer[0]) == ipaddress.IPv4Address(0x7F010000 + i)
                if number // warm != (number + 64) // warm and len(rows) in (0, 1):
                    rows.append({"sources": number + 64, "private memory, KiB": private_kib()})
            rows.append({"sources": count, "private memory, KiB": private_kib()})
    return rows


def private_kib():
    """What this process alone has in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


if __name__ == "__main__":
    main()
