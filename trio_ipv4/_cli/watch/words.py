"""Words for figures and lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTED: Final = 8
"""So many addresses are named in a line; of more, the number is told."""


def seconds(number: float) -> str:
    """Say a duration."""
    return f"{number:.3g} s" if number < 100 else f"{number:.0f} s"


def about(number: float) -> str:
    """Say a duration that was measured, to tenths of a second."""
    return f"{number:.1f} s" if number < 100 else f"{number:.0f} s"


def ago(number: float) -> str:
    """Say how long ago something was."""
    return "just now" if number < 0.05 else f"{about(number)} ago"


def many(items: Sequence[object]) -> str:
    """Say a list, which may be long."""
    return ", ".join(listed(items)) or "nobody"


def listed(items: Sequence[object], most: int = _LISTED) -> list[str]:
    """Return the first of a list, and how many follow."""
    named = [str(each) for each in items[:most]]
    return [*named, f"and {len(items) - most} more"] if len(items) > most else named
