"""Own one trio socket: try, then wait; turns between tasks; closing.

trio's own `recvmsg` and `sendmsg` resolve addresses, build lists and yield to the scheduler in a way of their own. Here
the caller makes the system call. The rest, which every call on a connection needs, stands here once:

* Each call is a checkpoint: it can be cancelled before anything was taken from or given to the kernel, a batch also
  between its portions, and never otherwise.
* Tasks that receive, send, or wait for errors take turns, each kind in the order in which they came.
* Interrupts are held back from the system call until its result is handed over, so that Ctrl-C loses no datagram.
* Work that takes several system calls lets other tasks run between them.
* Closing wakes those who wait, with `trio.ClosedResourceError`, from wherever it is called: a worker thread, or after
  the end of the run.
* The kernel also calls a socket readable for its error queue (IP_RECVERR, transmit timestamps). A task that was woken
  in vain empties that queue before it waits again (`error_queue.py`). Otherwise it would never sleep.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, final

import trio

from trio_ipv4._conn.error_queue import ErrorQueue
from trio_ipv4._kernel.descriptors import close_descriptor
from trio_ipv4._kernel.native import current_system

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.socket_error import SocketError

T = TypeVar("T")


class Progress(enum.Enum):
    """The outcome of an attempt that has no result yet."""

    MORE = "there is more to do: other tasks may run, then try again"


MORE: Final = Progress.MORE
Unfinished: TypeAlias = "Literal[Progress.MORE] | None"
"""`None`: the kernel has nothing, or no room: wait for it, then try again."""


def soon(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls another one in this run of trio: at once from within, soon from elsewhere."""
    token = trio.lowlevel.current_trio_token()

    def call() -> None:
        if this_run() is token:
            function()
            return
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(function)

    return call


def require_trio() -> None:
    """Raise a `RuntimeError` unless this thread runs trio."""
    if this_run() is None:
        raise RuntimeError(
            "trio_ipv4 runs under trio.run(), and no trio runs in this thread (asyncio's event loop is another one)"
        )


def to_trio(socket: Socket) -> trio.socket.SocketType:
    """Return the trio socket for a system's socket."""
    handle = socket.handle
    return handle if isinstance(handle, trio.socket.SocketType) else trio.socket.from_stdlib_socket(handle)


def to_system(socket: trio.socket.SocketType) -> Socket:
    """Return the system's side of a trio socket: its own, if it has one; else this process's, or the current host's."""
    own: Socket | None = getattr(socket, "system_socket", None)
    return current_system().adopt(socket) if own is None else own


@final
class OwnedSocket:
    """One socket and the turns of the tasks that use it.

    Args:
        socket: The system's side of the socket.
        trio_socket: The trio socket for it.
    """

    def __init__(self, socket: Socket, trio_socket: trio.socket.SocketType) -> None:
        self.socket: Final = trio_socket
        self._system_socket: Final = socket
        # A trio socket that has no descriptor has no number.
        self.fileno: Final = (socket if is_simulated(trio_socket) else trio_socket).fileno
        readable, writable = waits(trio_socket)
        self._receiving: Final = _Turn(readable)
        self._sending: Final = _Turn(writable)
        self.errors: Final = ErrorQueue(socket, trio_socket)
        self._hearing_errors: Final = _Turn(self.errors.wait)
        self._token: trio.lowlevel.TrioToken | None = None
        self._process: Final = socket.system.process()

    def close(self) -> None:
        """Close the socket and wake everybody who waits on it. From any thread, also when no run is going on."""
        in_use = self._receiving.is_taken or self._sending.is_taken or self._hearing_errors.is_taken
        # In a forked child no run goes on that the socket was used in.
        user = self._token if in_use and self._process == self._system_socket.system.process() else None
        here = this_run()
        if (here is not None and user in (None, here)) or is_simulated(self.socket):
            self.socket.close()
            self.errors.close(in_run=here is not None)
            return
        # Here trio's own `close` would raise and leave the socket open, or not wake the tasks of another run.
        descriptor = self.socket.detach()
        if descriptor < 0:
            return
        if user is not None:
            # A task of that run uses the descriptor: the run has to close it, lest its number be another file's.
            try:
                user.run_sync_soon(self._close_in_run, descriptor)
            except trio.RunFinishedError:
                pass
            else:
                return
        self.errors.close(in_run=False)
        close_descriptor(descriptor)

    def _close_in_run(self, descriptor: int) -> None:
        self.errors.close(in_run=True)
        trio.lowlevel.notify_closing(descriptor)
        close_descriptor(descriptor)

    def note_run(self) -> None:
        """Note which run uses the socket, for closing it from elsewhere."""
        self._token = trio.lowlevel.current_trio_token()

    def receive(self, attempt: Callable[..., T | Unfinished], *arguments: int) -> Awaitable[T]:
        """Call `attempt(descriptor, *arguments)`, when it is this task's turn, until it returns something."""
        return _take_turn(self, self._receiving, attempt, *arguments)

    def receive_nowait(self, attempt: Callable[..., T | Unfinished], *arguments: int) -> T:
        """Call `attempt(descriptor, *arguments)` once.

        Raises:
            trio.WouldBlock: There is nothing, or another task waits for it.
        """
        return _try_once(self, self._receiving, attempt, *arguments)

    def send(self, attempt: Callable[[int], T | Unfinished]) -> Awaitable[T]:
        """Call `attempt(descriptor)`, when it is this task's turn, until it returns something."""
        return _take_turn(self, self._sending, attempt)

    def receive_error(self) -> Awaitable[SocketError]:
        """Take the first error, when it is this task's turn."""
        return _take_turn(self, self._hearing_errors, self.errors.take)

    def receive_error_nowait(self) -> SocketError:
        """Take the first error that is there already.

        Raises:
            trio.WouldBlock: There is none, or another task waits for it.
        """
        return _try_once(self, self._hearing_errors, self.errors.take)

    async def wait(self, turn: _Turn) -> None:
        """Wait for the kernel."""
        try:
            await turn.wait()
        except (OSError, ValueError):
            if self.fileno() >= 0:
                raise
            raise trio.ClosedResourceError("this connection was closed") from None

    def after_false_alarm(self, turn: _Turn) -> None:
        """Empty the error queue after a task was woken in vain."""
        _descriptor(self)
        found = self.errors.empty()
        if turn is not self._sending and not found and self._system_socket.is_shut_down():
            raise trio.ClosedResourceError("this connection was shut down for receiving (shutdown(2))")


@trio.lowlevel.enable_ki_protection
async def _take_turn(
    owned: OwnedSocket,
    turn: _Turn,
    attempt: Callable[..., T | Unfinished],
    *arguments: int,
) -> T:
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
    except RuntimeError:
        require_trio()
        raise
    owned.note_run()
    waited = turn.is_taken
    if waited:
        await turn.wait_for_it()
    turn.is_taken = True
    try:
        woken = False
        while (result := attempt(_descriptor(owned), *arguments)) is None or result is MORE:
            waited = True
            if result is MORE:
                await trio.lowlevel.checkpoint()
                woken = False
                continue
            if woken:
                owned.after_false_alarm(turn)
            await owned.wait(turn)
            woken = True
    finally:
        turn.end()
    if not waited:
        # A datagram can't be given back to the kernel, so this half of the checkpoint can't be cancelled.
        await trio.lowlevel.cancel_shielded_checkpoint()
    return result


def _try_once(owned: OwnedSocket, turn: _Turn, attempt: Callable[..., T | Unfinished], *arguments: int) -> T:
    descriptor = _descriptor(owned)
    result = None if turn.is_taken else attempt(descriptor, *arguments)
    if result is None or result is MORE:
        raise trio.WouldBlock
    return result


def this_run() -> trio.lowlevel.TrioToken | None:
    """Return the token of the run of trio that this thread is in; `None` if it is in none."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def is_simulated(socket: trio.socket.SocketType) -> bool:
    """Tell whether a trio socket has no file descriptor. Its system's side closes it from any thread."""
    return hasattr(socket, "system_socket")


def waits(socket: Any) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    """Return how to wait until a trio socket can be read, and written. One without a descriptor knows by itself."""
    if is_simulated(socket):
        return socket.wait_readable, socket.wait_writable
    return (
        functools.partial(trio.lowlevel.wait_readable, socket),
        functools.partial(trio.lowlevel.wait_writable, socket),
    )


def _descriptor(owned: OwnedSocket) -> int:
    descriptor = owned.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("this connection was closed")
    return descriptor


@final
class _Turn:
    """Who may call the kernel now. Turns pass in the order in which tasks came.

    A `trio.StrictFIFOLock` does the same for twice the time, most of it for detecting that its owner died, which can't
    happen here.
    """

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self.wait: Final = wait
        """Wait until the kernel has something, or room."""
        self.is_taken = False
        self._waiting: Final = trio.lowlevel.ParkingLot()

    async def wait_for_it(self) -> None:
        """Wait for this task's turn. The task before hands its turn over, so it stays taken."""
        await self._waiting.park()

    def end(self) -> None:
        """Hand the turn to the next in line, if there is one."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self.is_taken = False
