"""How much may be done in a second."""

from __future__ import annotations

from typing import Final, final


@final
class Allowance:
    """So much in a second, and no more at once.

    Args:
        limit: How much.
        now: The time, in seconds.
    """

    def __init__(self, limit: int, now: float) -> None:
        self._limit: Final = limit
        self._left = float(limit)
        self._at = now

    def take(self, now: float, much: int = 1) -> bool:
        """Take so much, or all that there may be; return False if less than that is left."""
        much = min(much, self._limit)
        self._left = min(self._left + (now - self._at) * self._limit, self._limit)
        self._at = now
        if self._left < much:
            return False
        self._left -= much
        return True
