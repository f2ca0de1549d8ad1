"""Measure how long listing, watching and following take with many links that change: python tools/benchmarks/links.py

It needs root, or `python -m trio_ipv4.testing` before it; all of it happens in a private network. It prints medians and
maxima over a few rounds; other tasks' pauses are those of a task that is always ready to run.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.links import ip
from support.weather import Pauses, changing, make_pairs, weather
from trio_ipv4 import follow_group, interfaces, open_udp, watch_interfaces
from trio_ipv4.testing import private_network

ROUNDS = 5
CHANGES = 500  # A second.


def show(what: str, seconds: list[float]) -> None:
    print(f"{what:60} median {statistics.median(seconds) * 1e3:6.1f} ms, most {max(seconds) * 1e3:6.1f} ms")


async def list_and_watch() -> None:
    make_pairs(500)
    listing, entering, pausing = [], [], []
    with changing(weather(), CHANGES):
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            interfaces()
            listing.append(time.perf_counter() - begin)
        async with trio.open_nursery() as nursery:
            pauses = Pauses()
            nursery.start_soon(pauses.note)
            for _ in range(ROUNDS):
                pauses.begin()
                begin = time.perf_counter()
                async with watch_interfaces() as changes:
                    entering.append(time.perf_counter() - begin)
                    with trio.move_on_after(0.5):
                        async for _ in changes:
                            pass
                pausing.append(pauses.longest)
            nursery.cancel_scope.cancel()
    print(f"1,000 links, {CHANGES} changes a second")
    show("interfaces()", listing)
    show("entering watch_interfaces()", entering)
    show("the longest pause of other tasks meanwhile", pausing)


async def follow() -> None:
    Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("500", encoding="ascii")
    make_pairs(200)
    pauses, pausing = Pauses(), []
    async with open_udp() as conn, trio.open_nursery() as nursery:
        begin = time.perf_counter()
        await nursery.start(follow_group, conn, "239.1.2.3")
        joining = time.perf_counter() - begin
        nursery.start_soon(pauses.note)
        for _ in range(ROUNDS):
            ip(*(f"link set lo mtu {1000 + number % 400}" for number in range(3000)))
            pauses.begin()  # What iproute2 took does not count.
            await trio.sleep(0.5)
            pausing.append(pauses.longest)
        nursery.cancel_scope.cancel()
    print("400 interfaces with a membership")
    show("follow_group, until all are joined", [joining])
    show("the longest pause of other tasks after an overflow", pausing)


def main() -> None:
    print(f"Python {sys.version.split()[0]}")
    for part in (list_and_watch, follow):
        with private_network():
            trio.run(part)


if __name__ == "__main__":
    main()
