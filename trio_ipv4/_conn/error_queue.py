"""Errors that came back, between the kernel and the tasks that want them.

The kernel calls a socket readable, and writable, while its error queue has something. So whoever wakes in vain has to
empty that queue. What it finds there is kept for `receive_error`, if this connection reports errors; else it is thrown
away. A task that waits for an error is woken by the kernel, or by a task that was quicker.
"""

from __future__ import annotations

import collections
import errno
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._kernel import error_queue
from trio_ipv4._kernel.descriptors import ErrorWatch
from trio_ipv4._kernel.explain import refusal
from trio_ipv4._values.socket_error import ErrorOrigin, SocketError
from trio_ipv4._values.timestamps import SENDING, Timestamping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._kernel.system import Socket

MOST_KEPT: Final = 4096
"""The most errors that wait for `receive_error`."""
_AT_ONCE: Final = 64
"""How many to read in one go, so that other tasks run while errors flow in."""
_PORTIONS: Final = 16
"""How many such portions to look through for one message."""
TRIES: Final = 32
"""How often to try a call that is told the errors of earlier datagrams instead, without a pause.

The call that is told a pending error takes it away. So the next one succeeds, unless another error comes in the few
microseconds between the two.
"""
NOT_REPORTED: Final = "no error is reported on this connection: set conn.report_errors = True first"


@final
class ErrorQueue:
    """The errors of one socket, in the kernel and taken from there."""

    def __init__(self, socket: Socket, trio_socket: trio.socket.SocketType) -> None:
        self._socket: Final = socket
        self._trio_socket: Final = trio_socket
        self.is_reported = False
        """Whether ICMP errors are kept (IP_RECVERR). Then receiving and sending are not told them."""
        self.stamps = Timestamping(0)
        self._kept: Final[collections.deque[SocketError]] = collections.deque(maxlen=MOST_KEPT)
        self._watch: ErrorWatch | None = None
        self._waiting: trio.CancelScope | None = None

    def note_switches(self) -> None:
        """Learn what is switched on, from the kernel: somebody else has used the socket."""
        if error_queue.has_queue(self._socket):
            self.is_reported = error_queue.is_reported(self._socket)
            self.stamps = error_queue.stamps_of(self._socket)

    @property
    def may_have_errors(self) -> bool:
        """Whether errors or timestamps are switched on, or some are left."""
        return bool(self.is_reported or self.stamps & SENDING or self._kept)

    def empty(self) -> Sequence[SocketError]:
        """Read a portion of the kernel's queue, keep its messages if anybody may want them, and return them."""
        if not error_queue.has_queue(self._socket):
            return ()
        found: list[SocketError] = []
        try:
            while len(found) < _AT_ONCE and (error := error_queue.read_error(self._socket)) is not None:
                found.append(error)
        finally:
            self._keep(found)
        return found

    def _keep(self, found: Sequence[SocketError]) -> None:
        if found and self.may_have_errors:
            self._kept.extend(found)
            self.wake()

    def take(self, _descriptor: int) -> SocketError | None:
        """Take the first error; `None` if there is none.

        Raises:
            OSError: A pending error of the socket, of which the queue says nothing.
            RuntimeError: None will ever come.
            trio.ClosedResourceError: The socket was closed meanwhile, from another thread.
        """
        if not self.may_have_errors:
            raise RuntimeError(NOT_REPORTED)
        try:
            if not self._kept and not self.empty():
                # The kernel says that there is an error while one is pending.
                number = error_queue.clear_pending(self._socket)
                if number and not (self.is_reported and number in error_queue.PENDING):
                    raise refusal(number, "receive", "receive an error", self._socket)
        except OSError:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this connection was closed") from None
            raise
        return self._kept.popleft() if self._kept else None

    def is_told_elsewhere(self, error: OSError) -> bool:
        """Tell whether the refusal of a call may be an ICMP error that `receive_error` tells."""
        return self.is_reported and error.errno in error_queue.PENDING

    def is_too_long(self, error: OSError) -> bool:
        """Tell whether a refusal to send says that the datagram itself is too long.

        Then the kernel has queued a message that says so, one for each try. One of them is kept.
        """
        if error.errno != errno.EMSGSIZE:
            return False
        for _ in range(_PORTIONS):
            found = self.empty()
            local = [each for each in found if each.origin is ErrorOrigin.LOCAL and each.errno == errno.EMSGSIZE]
            for again in local[1:]:
                self._kept.remove(again)
            if local:
                return True
            if len(found) < _AT_ONCE:
                break
        return False

    def begin(self) -> None:
        """Report errors from now on. One that is pending from before is told, too; nobody knows of which peer."""
        self.is_reported = True
        number = error_queue.clear_pending(self._socket)
        if number and not self.empty():
            self._keep([SocketError(number, ErrorOrigin.NONE)])

    def end(self) -> None:
        """Report no errors any more."""
        self.is_reported = False
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits: it looks again."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def wait(self) -> None:
        """Wait until the kernel has an error, or another task has taken one from there."""
        self._waiting = trio.CancelScope()
        try:
            with self._waiting:
                await self._wait_for_kernel()
        finally:
            self._waiting = None

    async def _wait_for_kernel(self) -> None:
        wait = getattr(self._trio_socket, "wait_error", None)
        if wait is not None:
            await wait()
            return
        if self._watch is None:
            self._watch = ErrorWatch(self._socket.fileno())
        await trio.lowlevel.wait_readable(self._watch.fileno())

    def close(self, *, in_run: bool) -> None:
        """Close the descriptor by which tasks wait. In the run that they belong to, they wake."""
        watch, self._watch = self._watch, None
        if watch is not None:
            if in_run:
                trio.lowlevel.notify_closing(watch.fileno())
            watch.close()
