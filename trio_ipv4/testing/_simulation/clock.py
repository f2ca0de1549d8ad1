"""Time in a simulated network: what is to happen, when, and how tasks wait for it.

Nothing runs in the background. Whoever calls a host first lets happen what is due (`catch_up`). Of the tasks that wait
for datagrams one, the leader, watches the clock for all. So under trio's `MockClock` time passes as fast as the program
allows, and under a real clock as it does outside.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH: Final = 1_000_000_000
"""The time of day, in seconds since 1970, when a simulated network begins: 2001-09-09 01:46:40 UTC."""


@final
class Clock:
    """The clock of one network. It shows the seconds since the network was first used within a run of trio."""

    def __init__(self) -> None:
        self._events: Final[list[tuple[float, int, Callable[[], object]]]] = []
        self._numbers: Final = itertools.count()
        self._token: trio.lowlevel.TrioToken | None = None
        self._trio_time = 0.0
        self._offset = 0.0
        """What to take off trio's time, which starts anywhere, and anew in each run."""
        self._latest = 0.0
        self._happening: float | None = None
        self._waiting: Final[dict[trio.lowlevel.ParkingLot, None]] = {}
        self._leader: trio.CancelScope | None = None

    def now(self) -> float:
        """Return the time, in seconds; for an event that happens late, the time at which it was due."""
        if self._happening is not None:
            return self._happening
        try:
            self._trio_time = trio.current_time()
        except RuntimeError:  # Outside a run, time stands still.
            return self._latest
        token = trio.lowlevel.current_trio_token()
        if token is not self._token:
            self._token, self._offset = token, self._trio_time - self._latest
        self._latest = self._trio_time - self._offset
        return self._latest

    def nanoseconds(self) -> int:
        """Return the time of day, in nanoseconds since 1970."""
        return EPOCH * 10**9 + round(self.now() * 1e9)

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Call something at a time. What is due at the same time happens in the order of these calls."""
        heapq.heappush(self._events, (when, next(self._numbers), call))
        if self._leader is not None:
            self._leader.deadline = min(self._leader.deadline, when + self._offset)
        elif self._waiting:
            next(iter(self._waiting)).unpark_all()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something in so many seconds."""
        self.at(self.now() + seconds, call)

    def catch_up(self) -> None:
        """Let happen what is due. What an event calls for may be due at once, too."""
        events = self._events
        if not events or self._happening is not None:
            return
        self.now()
        try:
            # As deadlines are computed: a time that is rounded otherwise would never come.
            while events and events[0][0] + self._offset <= self._trio_time:
                self._happening, _, call = heapq.heappop(events)
                call()
        finally:
            self._happening = None

    async def wait(self, lot: trio.lowlevel.ParkingLot, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. Who makes it hold unparks the lot."""
        self.catch_up()
        self._waiting[lot] = None
        try:
            while not condition():
                if self._leader is None and self._events:
                    await self._lead(lot)
                else:
                    await lot.park()
        finally:
            if not lot:
                self._waiting.pop(lot, None)
            self._find_leader()

    async def _lead(self, lot: trio.lowlevel.ParkingLot) -> None:
        """Wait for the next event, too, and let it happen."""
        self._leader = trio.CancelScope(deadline=self._events[0][0] + self._offset)
        try:
            with self._leader:
                await lot.park()
        finally:
            self._leader = None
        self.catch_up()

    def _find_leader(self) -> None:
        if self._leader is None and self._events and self._waiting:
            next(iter(self._waiting)).unpark_all()
