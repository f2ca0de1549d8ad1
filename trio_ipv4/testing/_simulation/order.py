"""The order of tasks: trio runs those of one instant in a random order, which a simulated world takes from its seed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
"""Makes trio order a batch of tasks by its random numbers alone. pytest-trio uses it for Hypothesis."""
_NUMBERS: Final = "_r"


@contextlib.contextmanager
def ordered_by(seed: object) -> Iterator[None]:
    """Let trio take its random numbers from a seed. A trio without these names goes on as it likes."""
    scheduler: Any = trio._core._run
    numbers = getattr(scheduler, _NUMBERS, None)
    if numbers is None or not hasattr(scheduler, _SWITCH):
        yield
        return
    state, switch = numbers.getstate(), getattr(scheduler, _SWITCH)
    numbers.seed(f"{seed}/order")
    setattr(scheduler, _SWITCH, True)
    try:
        yield
    finally:
        setattr(scheduler, _SWITCH, switch)
        numbers.setstate(state)
