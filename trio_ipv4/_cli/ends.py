"""How a command ends: by itself, after a time, by Ctrl-C or SIGTERM; and with which exit status.

A command that runs for long does its work in an `until_stopped` block, and shows its summary behind it. Whatever ended
the block, the memberships in it were left by then.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_ipv4._cli.output import raise_if_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import FrameType

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Status(enum.IntEnum):
    """Exit statuses. They are stable: scripts rely on them."""

    DONE = 0
    """It was done, and what was expected came."""
    NEGATIVE = 1
    """It was done, and what was expected did not come."""
    USAGE = 2
    """The command line can't be understood."""
    NOTHING = 3
    """Nothing came. `NEGATIVE` means that a part came. Of `doctor`: it can't tell the cause."""
    MULTICAST_ONLY = 4
    """Multicast came, and unicast did not."""
    FAILED = 5
    """It could not be done: the kernel refused, or something is missing. Standard error says what."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells have it."""
    NOBODY_READS = 141
    """Standard output was closed, as by `| head`: 128 + SIGPIPE."""


@final
class Stop:
    """What ends an `until_stopped` block."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope: Final = scope
        self._signal: int | None = None

    def now(self) -> None:
        """End the block."""
        self._scope.cancel()

    def by_signal(self, number: int) -> None:
        """End the block because of a signal."""
        if number == signal.SIGINT and sys.stdout.isatty():
            sys.stdout.write("\r  \r")  # The terminal has written ^C.
        if self._signal is None:
            self._signal = number
        self.now()

    def status(self, status: int) -> int:
        """Return the exit status: this one, unless a signal ended the block."""
        return status if self._signal is None else 128 + self._signal


@contextlib.asynccontextmanager
async def until_stopped(seconds: float | None = None) -> AsyncIterator[Stop]:
    """Run the block until its end, until `stop.now()`, Ctrl-C or SIGTERM, or for so many seconds, if they are given.

    All but the first cancel what is in the block; the statements behind it run. Once a signal has ended the block,
    further ones do nothing until the end of `trio.run`, so that the memberships are left and the summary is shown.
    """
    block = trio.CancelScope()
    stop = Stop(block)
    with contextlib.ExitStack() as stack:
        # Below the receiver: it hands on the signals that nobody has taken when it ends.
        stack.enter_context(_ignored(*_SIGNALS))
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            for number in _SIGNALS:
                signal.signal(number, _after(raise_if_blocked, signal.getsignal(number)))
            async with trio.open_nursery() as nursery:
                with block:

                    async def listen() -> None:
                        async for number in signals:
                            stop.by_signal(number)

                    nursery.start_soon(listen)
                    if seconds is not None:
                        block.deadline = trio.current_time() + seconds
                    yield stop
                nursery.cancel_scope.cancel()
        if stop.status(0):
            trio.lowlevel.spawn_system_task(_hold, stack.pop_all())


@contextlib.contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals do nothing during the block, unless standard output is blocked.

    A handler of our own, unlike SIG_IGN, is not passed on by execve(2).
    """
    before = {number: signal.signal(number, raise_if_blocked) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _after(first: Callable[..., object], then: Any) -> Callable[[int, FrameType | None], None]:
    """Return a signal handler that calls one, and then the other."""

    def handle(number: int, frame: FrameType | None) -> None:
        first(number, frame)
        then(number, frame)

    return handle


async def _hold(stack: contextlib.ExitStack) -> None:
    """Leave the stack's contexts at the end of `trio.run`, which cancels this."""
    with stack:
        await trio.sleep_forever()
