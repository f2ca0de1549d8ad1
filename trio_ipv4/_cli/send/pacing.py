"""When each datagram is due, and how late it was handed over. Pure: whoever has a clock passes the time.

The n-th datagram of a rate is due n / rate after the start, so nothing drifts however late the program wakes up. If it
wakes up later than `PATIENCE`, it does not make up for all of the time that passed: a burst is lost in the first switch
that it comes to. The schedule is moved instead, and `behind` says by how much.
"""

from __future__ import annotations

import math
from typing import Final, final

from trio_ipv4._cli.arguments import Rate

PATIENCE: Final = 0.1
"""In seconds: the most that is made up for at once."""
_OCTET: Final = 8
"""In bits."""


@final
class Pacer:
    """The schedule of one stream of datagrams.

    Args:
        rate: How fast to send; `None`: at once.
        start: When the first one is due, in seconds of any clock.
    """

    def __init__(self, rate: Rate | None, start: float) -> None:
        self.is_paced: Final = rate is not None
        self._by_bits: Final = rate is not None and rate.bits is not None
        # In the unit of the rate: datagrams, or bits.
        self._per_second: Final = math.inf if rate is None else rate.bits or rate.datagrams or math.inf
        self._start = start
        self._units = 0
        self._interval = 0.0
        self.behind = 0.0
        """By how many seconds the schedule was moved, because the program was late."""

    @property
    def due(self) -> float:
        """When the next datagram is due."""
        return self._start + self._units / self._per_second

    def count(self, octets: int) -> None:
        """Count the next datagram, with a payload of so many octets."""
        # An empty payload counts as an octet; else there were no end of them at once.
        units = max(octets, 1) * _OCTET if self._by_bits else 1
        self._units += units
        self._interval = units / self._per_second

    def forgive(self, now: float) -> None:
        """Move the schedule, if it is late, so that no more is due at once than one datagram, or that of `PATIENCE`."""
        late = now - self.due
        patience = max(PATIENCE, self._interval)
        if not self.is_paced or late < patience:
            return
        # By whole intervals, where the rate has them: then the others keep their times.
        interval = self._interval or late
        moved = (math.floor((late - patience) / interval) + 1) * interval
        self._start += moved
        self.behind += moved

    def resume(self, now: float) -> None:
        """Go on after a wait for something to send: nobody was late, and nothing is to be made up for."""
        self._start += max(0.0, now - self.due)


_STEPS: Final = 16
"""How many classes of latenesses there are in an octave: each is 4.4 % wide."""
_LEAST: Final = 1e-6
"""In seconds: no clock of ours tells less."""


@final
class Lateness:
    """How late datagrams were, in classes, so that it takes the same room however many there are."""

    def __init__(self) -> None:
        self._counts: Final[dict[int, int]] = {}
        self.most: float | None = None
        """In seconds."""

    def add(self, seconds: float) -> None:
        """Note how late a datagram was."""
        step = math.ceil(math.log2(seconds / _LEAST) * _STEPS) if seconds > _LEAST else 0
        self._counts[step] = self._counts.get(step, 0) + 1
        if self.most is None or seconds > self.most:
            self.most = seconds

    def quantile(self, share: float) -> float | None:
        """Return the lateness, in seconds, that this share of the datagrams did not exceed; `None` if there are none.

        It is up to 4.4 % too great.
        """
        wanted = share * sum(self._counts.values())
        seen = 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            if seen >= wanted:
                return min(_LEAST * 2 ** (step / _STEPS), self.most or 0.0)
        return None
