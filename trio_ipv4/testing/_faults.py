"""Faults on purpose: a scenario that is cancelled wherever it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MOST: Final = 100_000


async def cancel_at_each_checkpoint(
    scenario: Callable[[], Awaitable[object]], *, after_each: Callable[[], object] | None = None
) -> int:
    """Run a scenario again and again, cancelled once everywhere: before it begins, at its 1st, 2nd, 3rd ... checkpoint.

        async def scenario():
            async with open_udp() as conn, conn.joined("lo", "239.1.2.3"):
                await conn.send_to(b"hello", ("127.0.0.1", conn.local_endpoint[1]))

        await cancel_at_each_checkpoint(scenario, after_each=lambda: check(igmp_groups()))

    At every point where one of the scenario's tasks waits, it is cancelled in two ways: while it waits, and when what
    it waited for has come but it has not gone on yet, so that the cancellation is met at its next checkpoint. All tasks
    that the scenario started in nurseries of its own count, and no others: those of a nursery around the call go on.
    The last run is not cancelled at all. Where several tasks run, trio shuffles their order, so that two calls may
    differ in what they try.

    Args:
        scenario: An asynchronous function; it has to do the same each time.
        after_each: A check after each run, which is not cancelled. Its exceptions are raised.

    Returns:
        The number of runs.

    Raises:
        Exception: Any exception of the scenario, in any run.
        RuntimeError: The scenario has no end: 100,000 runs were not enough.
    """
    for moment in range(_MOST):
        canceller = _Canceller(trio.lowlevel.current_task(), moment)
        with canceller.scope:
            if moment > 0:
                trio.lowlevel.add_instrument(canceller)
            try:
                await scenario()
            finally:
                if moment > 0:
                    trio.lowlevel.remove_instrument(canceller)
        if after_each is not None:
            after_each()
        if not canceller.scope.cancel_called:
            return moment + 1
    raise RuntimeError(f"the scenario had not come to its end after {_MOST:,} steps")


@final
class _Canceller(trio.abc.Instrument):
    """Cancel a scope at the n-th time that one of its tasks begins or ends a step; at once if that is 0."""

    def __init__(self, root: trio.lowlevel.Task, moment: int) -> None:
        self.scope: Final = trio.CancelScope()
        self._root: Final = root
        self._around: Final = frozenset(root.child_nurseries)  # Nurseries that the caller opened before.
        self._left = moment
        if moment == 0:
            self.scope.cancel()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def _count(self, task: trio.lowlevel.Task) -> None:
        if self._left > 0 and self._is_inside(task):
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()

    def _is_inside(self, task: trio.lowlevel.Task) -> bool:
        each: trio.lowlevel.Task | None = task
        while each is not None and each is not self._root:
            nursery = each.parent_nursery
            if nursery in self._around:
                return False
            each = None if nursery is None else nursery.parent_task
        return each is not None
