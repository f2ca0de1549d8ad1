"""Measure how long listing, watching and following take with many links that change: python tools/benchmarks/links.py

It needs root, or `python -m trio_ipv4.testing` before it; all of it happens in a private network. It prints medians and
maxima over a few rounds; other tasks' pauses are those of a task that is always ready to run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import trio

from trio_ipv4 import follow_group, interfaces, open_udp, watch_interfaces
from trio_ipv4.testing import private_network

ROUNDS = 5
CHANGES = 500  # A second.


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join([*lines, ""]), text=True, check=True)


class Pauses:
    """The longest time that a task which is always ready to run had to wait."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self.longest, self._last = 0.0, time.perf_counter()

    async def note(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            self.longest, self._last = max(self.longest, now - self._last), now


class Weather:
    """Changes of links, settings and addresses at a steady rate."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._change)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _change(self) -> None:
        kinds = ["link set v{0} mtu {1}", "address add 10.9.{2}.1/32 dev w{0}", "address flush dev w{0}"]
        with subprocess.Popen(["ip", "-force", "-batch", "-"], stdin=subprocess.PIPE, bufsize=0) as process:
            assert process.stdin is not None
            begin, count = time.monotonic(), 0
            while not self._stop.is_set():
                if count > (time.monotonic() - begin) * CHANGES:
                    time.sleep(0.001)
                    continue
                line = kinds[count % 3].format(count % 400, 1300 + count % 100, count % 250)
                process.stdin.write(f"{line}\n".encode())
                count += 1
            process.kill()


def show(what: str, seconds: list[float]) -> None:
    print(f"{what:60} median {statistics.median(seconds) * 1e3:6.1f} ms, most {max(seconds) * 1e3:6.1f} ms")


def make(pairs: int) -> None:
    ip(*(f"link add v{number} type veth peer name w{number}" for number in range(pairs)))
    ip(*(f"link set {end}{number} up" for number in range(pairs) for end in "vw"))


async def list_and_watch() -> None:
    make(500)
    listing, entering, pausing = [], [], []
    with Weather():
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
    make(200)
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
