"""Contestants take turns: every load, round after round."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contestants import Answer, Contestant, Failed, Peer, Programs
from report import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Measure = Callable[[Contestant, Peer, int, int], Answer]


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    count: int = 2000
    """Datagrams in one measurement; 2,000 of 1,400 octets take about 5 MiB of receive buffer."""
    rounds: int = 21
    payloads: tuple[int, ...] = (64, 256, 1400)
    limits: tuple[int, ...] = (1, 8, 64, 256, 1024)
    rates: tuple[int, ...] = (20_000, 50_000, 100_000)
    seconds: float = 1
    sources: int = 1_000_000
    most: int = 1000
    """Connections, groups, scopes."""


QUICK: Final = Plan(
    count=100, rounds=2, payloads=(256,), limits=(1, 64), rates=(5_000,), seconds=0.1, sources=5_000, most=20
)


def take_turns(
    programs: Programs,
    contestants: Collection[Contestant],
    role: str,
    plan: Plan,
    measure: Measure,
    missing: dict[str, str],
) -> list[Series]:
    """Have every contestant do every load of `plan`; the first round warms up and is discarded.

    Every second round goes backwards, so that nobody always comes after the same one. Who can't be started, or fails,
    is noted in `missing`, and what was measured of it is dropped.
    """
    series: dict[tuple[Contestant, int, int], Series] = {}
    failed: set[Contestant] = set()

    def note(contestant: Contestant, failure: Failed) -> None:
        failed.add(contestant)
        missing[f"{contestant.label} ({role})"] = f"failed: {failure}"

    with contextlib.ExitStack() as stack:
        peers: dict[Contestant, Peer] = {}
        for contestant in contestants:
            if reason := programs.missing(contestant):
                missing[contestant.label] = reason
                continue
            try:
                peers[contestant] = stack.enter_context(contextlib.closing(programs.start(contestant, role)))
            except Failed as failure:
                note(contestant, failure)
        for payload, number in itertools.product(plan.payloads, range(plan.rounds + 1)):
            turns = [(one, limit) for one in peers for limit in (plan.limits if one.batches else (1,))]
            for contestant, limit in turns if number % 2 else turns[::-1]:
                if contestant in failed:
                    continue
                try:
                    answer = measure(contestant, peers[contestant], payload, limit)
                except Failed as failure:
                    note(contestant, failure)
                    continue
                if number:
                    found = series.setdefault((contestant, payload, limit), Series(contestant, payload, limit))
                    found.add(number, answer)
    return sorted(
        (one for one in series.values() if one.contestant not in failed),
        key=lambda one: (list(contestants).index(one.contestant), one.payload, one.limit),
    )


def udp_row(port: int) -> tuple[int, int]:
    """Return the octets that wait on a port, and how many datagrams were dropped there, as the kernel counts them."""
    rows = [line.split() for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]]
    ours = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port]
    return sum(int(row[4].rpartition(":")[2], 16) for row in ours), sum(int(row[-1]) for row in ours)


def only(plan: Plan, payload: int, limit: int) -> Plan:
    return replace(plan, payloads=(payload,), limits=(limit,))
