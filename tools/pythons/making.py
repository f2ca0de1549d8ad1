"""Measure how received values are made, by one thread and by four, in one run: `python tools/pythons/making.py`.

An object that changes its class is the cheapest way on a Python with a global interpreter lock. A free-threaded one
stops all threads for each change. The library chooses when it is imported.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from trio_ipv4 import ControlMessage
from trio_ipv4._values.control import stamped, stamped_by_class, stamped_by_slots
from trio_ipv4._values.datagram import make_by_class, make_by_slots, make_datagram

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 64
ROUNDS = 5
SECONDS = 0.3
"""How long a thread works, at least."""
CONTROL = ControlMessage(ttl=1, dst="239.1.2.3", ifindex=2)
PAYLOADS = [bytes(100)] * BATCH


def datagrams(make: Callable[..., Any]) -> None:
    list(map(make, PAYLOADS, itertools.repeat(("192.0.2.1", 5000)), itertools.repeat(CONTROL)))


def stamps(make: Callable[..., Any]) -> None:
    list(map(make, itertools.repeat(CONTROL, BATCH), itertools.count()))


def nanoseconds(what: Callable[..., None], make: Callable[..., Any], threads: int) -> float:
    """Return the time from one value to the next, of all threads together."""
    barrier, counts = threading.Barrier(threads), [0] * threads

    def work(number: int) -> None:
        barrier.wait()
        until, count = time.perf_counter() + SECONDS, 0
        while time.perf_counter() < until:
            what(make)
            count += BATCH
        counts[number] = count

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begun) / sum(counts) * 1e9


def main() -> None:
    """Print the medians of some rounds, in which all take turns."""
    print(sys.version)
    rows = [
        ("Datagram", "by class", datagrams, make_by_class, make_datagram),
        ("Datagram", "by slots", datagrams, make_by_slots, make_datagram),
        ("ControlMessage", "by class", stamps, stamped_by_class, stamped),
        ("ControlMessage", "by slots", stamps, stamped_by_slots, stamped),
    ]
    taken: dict[tuple[int, int], list[float]] = {}
    for _ in range(ROUNDS):
        for number, (_, _, what, make, _) in enumerate(rows):
            for threads in (1, 4):
                taken.setdefault((number, threads), []).append(nanoseconds(what, make, threads))
    for number, (value, way, _, make, chosen) in enumerate(rows):
        one, four = (statistics.median(taken[number, threads]) for threads in (1, 4))
        mark = ", chosen" if make is chosen else ""
        print(f"{value:15} {way}: {one:7,.0f} ns by one thread, {four:7,.0f} ns by four{mark}")


if __name__ == "__main__":
    main()
