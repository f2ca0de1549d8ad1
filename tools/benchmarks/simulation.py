"""Measure how fast the simulated network is: python tools/benchmarks/simulation.py

It needs no privilege and no network. Rounds of all measurements take turns; it prints medians.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

from trio_ipv4 import Datagram, follow_group, open_udp
from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
COUNT = 64 * 500
GROUP = "239.1.2.3"
SUITE = Path(__file__).parents[2] / "docs" / "examples" / "test_ssdp_search.py"


async def hour() -> None:
    """One datagram a second, for an hour, with three flaps."""
    with simulate() as net:
        lan = net.link(latency=0.001)
        a, b = net.host("a"), net.host("b")
        a.attach(lan, "en0", "198.18.0.1/24")
        b.attach(lan, "en0", "198.18.0.2/24")

        async def listen() -> None:
            async with open_udp("0.0.0.0", 5000) as conn, trio.open_nursery() as inner:
                await inner.start(follow_group, conn, GROUP)
                async for _ in conn:
                    pass

        async def tick() -> None:
            async with open_udp() as conn:
                conn.multicast_interface = "en0"
                for second in range(3600):
                    await conn.send_to(b"%d" % second, (GROUP, 5000))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run, listen)
            nursery.start_soon(b.run, tick)
            for _ in range(3):
                await trio.sleep(900.5)
                a.detach("en0")
                await trio.sleep(10)
                a.attach(lan, "en0", "198.18.0.1/24")
            await trio.sleep(868.5)
            nursery.cancel_scope.cancel()


async def pump(batch: int, latency: float) -> None:
    """Send and receive datagrams of 200 octets, one by one or in batches."""
    with simulate() as net:
        lan = net.link(latency=latency)
        a, b = net.host("a"), net.host("b")
        a.attach(lan, "en0", "198.18.0.1/24")
        b.attach(lan, "en0", "198.18.0.2/24")
        a.set_sysctl("net.core.rmem_max", 1 << 30)
        async with a.call(open_udp, "0.0.0.0", 5000) as hears, b.call(open_udp) as tells:
            hears.receive_buffer_size = 1 << 29
            hears.join_group("en0", GROUP)
            tells.multicast_interface = "en0"
            datagrams = [Datagram(bytes(200), (GROUP, 5000))] * batch

            async def receive() -> None:
                got = 0
                while got < COUNT:
                    got += len(await hears.receive_batch(batch))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                for _ in range(COUNT // batch):
                    await tells.send_batch(datagrams)


def suite() -> None:
    options = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--durations=0", "-vv")
    argv = [sys.executable, "-m", "pytest", *options, str(SUITE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=SUITE.parent)
    spent = re.findall(r"^([0-9.]+)s (?:call|setup|teardown)", done.stdout, re.MULTILINE)
    FOUND["ten tests of the SSDP example: calls, setups, teardowns"].append(sum(map(float, spent)))


def run(main: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    trio.run(main, *arguments, clock=MockClock(autojump_threshold=0))  # type: ignore[arg-type]
    return time.perf_counter() - begin


FOUND: dict[str, list[float]] = {
    "an hour of one datagram a second, three flaps": [],
    "ten tests of the SSDP example: calls, setups, teardowns": [],
}
RATES: dict[str, list[float]] = {}


def main() -> None:
    for _ in range(ROUNDS):
        FOUND["an hour of one datagram a second, three flaps"].append(run(hour))
        suite()
        for batch in (1, 64):
            for latency in (0.0, 0.001):
                name = f"in batches of {batch}, latency {latency * 1e3:.0f} ms"
                RATES.setdefault(name, []).append(COUNT / run(pump, batch, latency))
    for name, seconds in FOUND.items():
        print(f"{name:60} {statistics.median(seconds):8.2f} s")
    for name, rates in RATES.items():
        print(f"{name:60} {statistics.median(rates):8,.0f} datagrams a second")


if __name__ == "__main__":
    main()
