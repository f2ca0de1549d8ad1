"""Own one trio socket: try, then wait; turns between tasks; closing.

trio's own `recvmsg` and `sendmsg` resolve addresses, build lists and yield to the scheduler in a way of their own. Here
the system call is the caller's, and the rest is what every call on a connection needs, once:

* Each call is a checkpoint: it can be cancelled before anything was taken from or given to the kernel, and never after.
* Tasks that receive, or send, at the same time take turns in the order in which they came.
* Interrupts are held back from the system call until its result is handed over, so that Ctrl-C loses no datagram.
* Closing wakes those who wait, with `trio.ClosedResourceError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@final
class OwnedSocket:
    """One trio socket and the turns of the tasks that use it."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket: Final = socket
        self._receiving: Final = _Turn()
        self._sending: Final = _Turn()

    def close(self) -> None:
        """Close the socket and wake everybody who waits on it."""
        self.socket.close()

    def receive(self, attempt: Callable[..., T | None], *arguments: int) -> Awaitable[T]:
        """Call `attempt(descriptor, *arguments)`, when it is this task's turn, until it returns something."""
        return _take_turn(self.socket, self._receiving, trio.lowlevel.wait_readable, attempt, *arguments)

    def send(self, attempt: Callable[[int], T | None]) -> Awaitable[T]:
        """Call `attempt(descriptor)`, when it is this task's turn, until it returns something."""
        return _take_turn(self.socket, self._sending, trio.lowlevel.wait_writable, attempt)


@trio.lowlevel.enable_ki_protection
async def _take_turn(
    socket: trio.socket.SocketType,
    turn: _Turn,
    wait: Callable[[trio.socket.SocketType], Awaitable[None]],
    attempt: Callable[..., T | None],
    *arguments: int,
) -> T:
    await trio.lowlevel.checkpoint_if_cancelled()
    waited = await turn.begin() if turn.is_taken else turn.take()
    try:
        while (result := attempt(_descriptor(socket), *arguments)) is None:
            await wait(socket)
            waited = True
    finally:
        turn.end()
    if not waited:
        # What was taken from the kernel can't be given back, so this half of the checkpoint can't be cancelled.
        await trio.lowlevel.cancel_shielded_checkpoint()
    return result


def _descriptor(socket: trio.socket.SocketType) -> int:
    descriptor = socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("this connection was closed")
    return descriptor


@final
class _Turn:
    """Who may call the kernel now. Turns pass in the order in which tasks came.

    A `trio.StrictFIFOLock` does the same for twice the time, most of it for detecting that its owner died, which can't
    happen here.
    """

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: Final = trio.lowlevel.ParkingLot()

    def take(self) -> bool:
        """Take the turn, which is nobody's; tell that there was no waiting."""
        self.is_taken = True
        return False

    async def begin(self) -> bool:
        """Wait for this task's turn; tell that there was waiting, which is a checkpoint."""
        await self._waiting.park()  # Whoever unparks us hands its turn over.
        return True

    def end(self) -> None:
        """Hand the turn to the next in line, if there is one."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self.is_taken = False
