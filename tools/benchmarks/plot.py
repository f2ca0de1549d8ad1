"""The plot: bars for who drains how fast, and lines for what the batch limit does. Plain SVG, with no library."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

from contestants import GO
from report import BASE_LIMIT, find, median, quartiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from report import Series

COLOURS: Final = {"C": "#7a7a7a", "Go": "#3d85c6", "ours": "#c0504d", "pure": "#dd9a98", "Python": "#b8a36a"}
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#222}.h{font-size:16px;font-weight:600}.s{font-size:11px;fill:#555}"
)
SECOND: Final = ("c-parse", "ours-batch-2048")
"""Dashed, as they lie close to another line of their colour."""
WIDTH: Final = 960
BARS: Final = 430
"""Where the bars begin."""
ROW: Final = 24
LINES: Final = 260
"""The height of the second panel's axes."""


def svg(series: Sequence[Series], payload: int, subtitle: str) -> str:
    """Draw the drain of one payload."""
    rows = [one for one in series if one.payload == payload and one.limit in (1, BASE_LIMIT)]
    rows = [one for one in rows if one.limit == BASE_LIMIT or not one.contestant.batches]
    rows.sort(key=lambda one: median(one.wall))
    top = 70
    second = top + ROW * len(rows) + 80
    batching = [one for one in series if one.payload == payload and one.contestant.batches]
    height = second + LINES + 60
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>Nanoseconds per datagram, {payload} octets</title>",
            f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            text(20, 28, f"Emptying a full receive buffer, {payload} octets: ns per datagram", "h"),
            text(20, 48, subtitle, "s"),
            *bars(rows, top),
            text(20, second - 20, "The same, by the most that one call takes (both axes logarithmic)", "h"),
            *lines(batching, second),
            "</svg>",
            "",
        ]
    )


def bars(rows: Sequence[Series], top: int) -> Iterator[str]:
    """One bar a contestant; the whisker spans the middle half of the rounds, the dashed line is Go's ReadBatch."""
    room = WIDTH - BARS - 90
    longest = max(quartiles(one.wall)[1] for one in rows)
    for i, one in enumerate(rows):
        y = top + i * ROW
        low, high = (BARS + room * value / longest for value in quartiles(one.wall))
        end = BARS + room * median(one.wall) / longest
        limit = f" ({BASE_LIMIT} a call)" if one.contestant.batches else ""
        yield text(BARS - 8, y + 14, one.contestant.label + limit, anchor="end")
        yield f'<rect x="{BARS}" y="{y + 3}" width="{end - BARS:.1f}" height="{ROW - 8}" fill="{colour(one)}"/>'
        yield f'<path d="M{low:.1f} {y + 11}H{high:.1f}" stroke="#222" stroke-width="2"/>'
        yield text(round(max(end, high)) + 6, y + 15, f"{median(one.wall):,.0f}")
    go = next((one for one in rows if one.contestant.name == GO), None)
    if go:
        x = BARS + room * median(go.wall) / longest
        yield f'<path d="M{x:.1f} {top}V{top + ROW * len(rows)}" stroke="{COLOURS["Go"]}" stroke-dasharray="3 3"/>'


def lines(batching: Sequence[Series], top: int) -> Iterator[str]:
    """One line a contestant."""
    limits = sorted({one.limit for one in batching})
    values = [median(one.wall) for one in batching]
    low, high = math.log10(min(values) * 0.8), math.log10(max(values) * 1.2)
    left, right = 70, WIDTH - 300

    def x(limit: int) -> float:
        return left + (right - left) * (math.log2(limit) / max(1, math.log2(limits[-1])))

    def y(value: float) -> float:
        return top + LINES * (high - math.log10(value)) / (high - low)

    for tick in (mantissa * 10**power for power in range(1, 6) for mantissa in (1, 2, 5)):
        if low <= math.log10(tick) <= high:
            yield f'<path d="M{left} {y(tick):.1f}H{right}" stroke="#ddd"/>'
            yield text(left - 8, round(y(tick)) + 4, f"{tick:,}", "s", anchor="end")
    for limit in limits:
        yield text(round(x(limit)), top + LINES + 18, str(limit), "s", anchor="middle")
    taken: list[float] = []
    contestants = dict.fromkeys(one.contestant for one in batching)
    ends = {one: find(batching, one.name, batching[0].payload, limits[-1]) for one in contestants}
    for contestant in sorted(contestants, key=lambda one: -median(ends[one].wall) if ends[one] else 0):
        points = [one for one in batching if one.contestant == contestant]
        path = " ".join(f"{x(one.limit):.1f},{y(median(one.wall)):.1f}" for one in points)
        dash = ' stroke-dasharray="5 3"' if contestant.name in SECOND else ""
        yield f'<polyline points="{path}" fill="none" stroke="{colour(points[0])}" stroke-width="2"{dash}/>'
        label = max(y(median(points[-1].wall)) + 4, taken[-1] + 15 if taken else 0)
        taken.append(label)
        yield text(right + 10, round(label), contestant.label, "s")


def colour(one: Series) -> str:
    if not one.contestant.name.startswith("ours"):
        return COLOURS[one.contestant.language]
    return COLOURS["pure" if one.contestant.name.endswith("-pure") else "ours"]


def text(x: int, y: int, words: str, kind: str = "", *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
