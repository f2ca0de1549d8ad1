"""What was measured, as medians and spreads; as JSON and Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contestants import FLOOR, GO, Answer, Contestant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

BASE_LIMIT = 64
"""What the bases of the ratios take in one call."""


@dataclass
class Series:
    """One contestant under one load: nanoseconds per datagram, by round."""

    contestant: Contestant
    payload: int
    limit: int
    wall: dict[int, float] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)
    """The share of what was sent, where some may be lost."""

    def add(self, number: int, answer: Answer) -> None:
        self.wall[number] = answer.wall_ns / max(1, answer.count)
        self.cpu[number] = answer.cpu_ns / max(1, answer.count)
        if answer.sent is not None:
            self.arrived[number] = answer.count / answer.sent

    def ratio(self, base: Series | None) -> float | None:
        """The median of the ratios round by round: what disturbs the machine disturbs both of a round."""
        both = self.wall.keys() & (base.wall if base else {}).keys()
        return statistics.median(self.wall[number] / base.wall[number] for number in both) if base and both else None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.contestant.name,
            "label": self.contestant.label,
            "payload": self.payload,
            "limit": self.limit,
            "median_ns": round(median(self.wall)),
            "quartiles_ns": [round(value) for value in quartiles(self.wall)],
            "cpu_median_ns": round(median(self.cpu)),
            "wall_ns": [round(value) for value in self.wall.values()],
            "cpu_ns": [round(value) for value in self.cpu.values()],
            "arrived": [round(value, 4) for value in self.arrived.values()],
        }


def median(by_round: Mapping[int, float]) -> float:
    return statistics.median(by_round.values())


def quartiles(by_round: Mapping[int, float]) -> tuple[float, float]:
    """Between these two lies the middle half of the rounds."""
    values = list(by_round.values())
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def find(series: Iterable[Series], name: str, payload: int, limit: int) -> Series | None:
    wanted = (name, payload, limit)
    return next((one for one in series if (one.contestant.name, one.payload, one.limit) == wanted), None)


def ratio_tables(series: Sequence[Series], *, limits: Sequence[int] = (BASE_LIMIT,)) -> Iterator[str]:
    """One table per payload: every contestant at each of `limits`, with the ratios to the floor and to Go."""
    for payload in sorted({one.payload for one in series}):
        floor, go = (find(series, name, payload, BASE_LIMIT) for name in (FLOOR, GO))
        yield f"\nPayload of {payload} octets:\n"
        yield "| contestant | limit | ns per datagram | middle half | CPU ns | to C | to Go |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        for one in series:
            if one.payload != payload or (one.contestant.batches and one.limit not in limits):
                continue
            low, high = quartiles(one.wall)
            limit = one.limit if one.contestant.batches else "–"
            yield (
                f"| {one.contestant.label} | {limit} | {median(one.wall):,.0f} | {low:,.0f} to {high:,.0f} "
                f"| {median(one.cpu):,.0f} | {number(one.ratio(floor))} | {number(one.ratio(go))} |"
            )


def limits_table(series: Sequence[Series], payload: int) -> Iterator[str]:
    """Nanoseconds per datagram of those that batch, by the most that one call takes."""
    batching = [one for one in series if one.contestant.batches and one.payload == payload]
    limits = sorted({one.limit for one in batching})
    yield f"\nBy batch limit, {payload} octets, ns per datagram:\n"
    yield f"| contestant | {' | '.join(map(str, limits))} |"
    yield f"| --- |{' ---: |' * len(limits)}"
    for contestant in dict.fromkeys(one.contestant for one in batching):
        cells = [find(batching, contestant.name, payload, limit) for limit in limits]
        yield f"| {contestant.label} | {' | '.join(f'{median(one.wall):,.0f}' if one else '–' for one in cells)} |"


def flow_table(flows: Mapping[int, Sequence[Series]]) -> Iterator[str]:
    """Loss and CPU time by rate."""
    rates = list(flows)
    yield f"| contestant | {' | '.join(f'{rate:,}/s: lost | CPU ns' for rate in rates)} |"
    yield f"| --- |{' ---: | ---: |' * len(rates)}"
    contestants = dict.fromkeys(one.contestant for series in flows.values() for one in series)
    for contestant in contestants:
        cells = []
        for series in flows.values():
            found = [one for one in series if one.contestant == contestant]
            cells += (
                [f"{100 * (1 - median(found[0].arrived)):.1f} %", f"{median(found[0].cpu):,.0f}"] if found else "––"
            )
        yield f"| {contestant.label} | {' | '.join(cells)} |"


def rows_table(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Rows with equal keys, as they are."""
    if not rows:
        return
    yield f"| {' | '.join(rows[0])} |"
    yield f"| {' | '.join('---:' for _ in rows[0])} |"
    for row in rows:
        yield f"| {' | '.join(f'{value:,}' if isinstance(value, int) else str(value) for value in row.values())} |"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
