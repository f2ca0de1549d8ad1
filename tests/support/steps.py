"""How often tasks run, counted by an instrument of trio's: a task that sleeps does not."""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


class Steps(trio.abc.Instrument):
    """How often each task ran, by its name."""

    def __init__(self) -> None:
        self.counts = collections.Counter[str]()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts[task.name] += 1


@contextlib.contextmanager
def counting() -> Iterator[Steps]:
    """Count steps in the block."""
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)
