"""Deadlines by their keys, the earliest first.

A deadline that moves back costs nothing: its entry is moved when its old time comes. So however often something is
heard, and its deadline set anew, there is about one entry for each key.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")

_SPARE: Final = 64
"""So many entries without a use are kept, beside one for each key."""


@final
class Timers(Generic[K]):
    """Deadlines by their keys. Times are whole nanoseconds of any one clock."""

    def __init__(self) -> None:
        self._deadlines: Final[dict[K, int]] = {}
        self._planned: Final[dict[K, int]] = {}
        """When the entry of each key comes up: at its deadline, or earlier."""
        self._entries: list[tuple[int, int, K]] = []
        self._numbers: Final = itertools.count()

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: K) -> bool:
        return key in self._deadlines

    def set(self, key: K, deadline: int) -> None:
        """Set a deadline, in place of one that the key has."""
        self._deadlines[key] = deadline
        if key not in self._planned or deadline < self._planned[key]:
            self._plan(key, deadline)

    def drop(self, key: K) -> None:
        """Forget a deadline, if there is one."""
        self._deadlines.pop(key, None)
        self._planned.pop(key, None)
        if len(self._entries) > 2 * len(self._deadlines) + _SPARE:
            self._rebuild()

    def next_deadline(self) -> int | None:
        """Return the earliest deadline."""
        self._settle()
        return self._entries[0][0] if self._entries else None

    def pop(self, now: int) -> tuple[int, K] | None:
        """Take away the earliest deadline, with its key, if it has come."""
        self._settle()
        if not self._entries or self._entries[0][0] > now:
            return None
        deadline, _, key = heapq.heappop(self._entries)
        del self._deadlines[key], self._planned[key]
        return deadline, key

    def _settle(self) -> None:
        """Make the first entry one whose deadline is right."""
        while self._entries:
            when, _, key = self._entries[0]
            current = self._planned.get(key) == when
            if current and self._deadlines[key] == when:
                return
            heapq.heappop(self._entries)
            if current:
                self._plan(key, self._deadlines[key])

    def _plan(self, key: K, when: int) -> None:
        self._planned[key] = when
        heapq.heappush(self._entries, (when, next(self._numbers), key))
        if len(self._entries) > 2 * len(self._deadlines) + _SPARE:
            self._rebuild()

    def _rebuild(self) -> None:
        """Leave out entries that no key needs any more."""
        self._planned.clear()
        self._planned.update(self._deadlines)
        self._entries = [(when, next(self._numbers), key) for key, when in self._deadlines.items()]
        heapq.heapify(self._entries)
