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


def many(items: Sequence[object]) -> str:
    """Say a list, which may be long."""
    return ", ".join(listed(items)) or "nobody"


def listed(items: Sequence[object]) -> list[str]:
    """Return the first of a list, and how many follow."""
    named = [str(each) for each in items[:_LISTED]]
    return [*named, f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else named
