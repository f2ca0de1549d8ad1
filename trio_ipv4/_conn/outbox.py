"""Datagrams on their way to the kernel, in portions, and the error for one that it refuses."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal, final

from trio_ipv4._conn.error_queue import TRIES
from trio_ipv4._conn.turns import MORE, Progress
from trio_ipv4._errors import PartialSendError
from trio_ipv4._kernel.causes import Attempt, explain_sending
from trio_ipv4._values.control import parse_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ipv4._conn.error_queue import ErrorQueue
    from trio_ipv4._conn.turns import OwnedSocket
    from trio_ipv4._kernel.calls import Columns, Sender
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.control import ControlMessage

_ROUNDS: Final = 16
"""How often to try `TRIES` times while errors flow in. Other tasks run between."""


@final
class Outbox:
    """The datagrams that one socket sends."""

    def __init__(self, socket: Socket, owned: OwnedSocket) -> None:
        self._socket: Final = socket
        self._owned: Final = owned
        self.sender: Sender = socket.sender()
        self.multicast_interface: int | None = None
        """The index of the interface that was set for multicast. The kernel does not tell it (IP_MULTICAST_IF)."""
        self.complete: Callable[[ControlMessage], ControlMessage] | None = None
        """Completes the request of a datagram to a group; `None` if there is nothing to complete."""

    async def send(self, portions: Iterable[Columns]) -> None:
        """Send portions of at most 1,024 datagrams each, and let other tasks run between them."""
        sending = _Sending(self.sender, portions, self._owned.errors)
        try:
            await self._owned.send(sending.go_on)
        except _RefusedError as refused:
            raise self._error(refused.error, sending) from None

    def _error(self, refused: OSError, sending: _Sending) -> OSError:
        payload, name, control = sending.next
        which = f"datagram {sending.sent} of the batch, " if sending.is_batch else ""
        request = parse_control(self._socket.system.platform, control)
        attempt = Attempt(
            self._socket,
            payload,
            name,
            request,
            self.multicast_interface,
            earlier_are_apart=self._owned.errors.is_reported,
        )
        return partial_send(explain_sending(refused, f"{which}{len(payload)} octets", attempt), sending.sent)


def partial_send(error: OSError, sent: int) -> OSError:
    """Return the error for a batch of which `sent` datagrams are out and the next one was refused."""
    return PartialSendError(error.errno or 0, error.strerror or "", sent) if sent else error


class _RefusedError(Exception):
    """Raised on the way out of a send; the caller sees `error`, explained."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error: Final = error


@final
class _Sending:
    """The rest of one call's datagrams, and how many are out."""

    def __init__(self, sender: Sender, portions: Iterable[Columns], errors: ErrorQueue) -> None:
        self._sender: Final = sender
        self._errors: Final = errors
        self._tries = 0
        """How often the next datagram was refused."""
        self._portions: Final = iter(portions)
        self._portion = next(self._portions, _NOTHING)
        self._done = 0
        """How many of the portion are out."""
        self._before = 0
        """How many of the portions before it are."""

    @property
    def sent(self) -> int:
        return self._before + self._done

    @property
    def next(self) -> tuple[bytes, bytes, bytes]:
        """The datagram that the kernel is to take next: octets, `struct sockaddr_in`, control messages."""
        payloads, names, controls = self._portion
        return payloads[self._done], names[self._done], controls[self._done]

    @property
    def is_batch(self) -> bool:
        return self._before > 0 or len(self._portion[0]) > 1

    def go_on(self, descriptor: int) -> Literal[True, Progress.MORE] | None:
        """Let the kernel take what it can of a portion: `None` if its buffer is full, `MORE` if portions are left."""
        payloads, names, controls = self._portion
        count = len(payloads)
        while self._done < count:
            if self._done:
                left = slice(self._done, None)
                sent, refused = self._sender.send(descriptor, payloads[left], names[left], controls[left])
            else:
                sent, refused = self._sender.send(descriptor, payloads, names, controls)
            self._done += sent
            if sent:
                self._tries = 0
            if refused is not None:
                if refused.errno == errno.EAGAIN:
                    return None
                if not self._errors.is_told_elsewhere(refused) or self._is_certain(refused):
                    raise _RefusedError(refused)
                if self._tries % TRIES == 0:
                    return MORE
        portion = next(self._portions, None)
        if portion is None:
            return True
        self._portion, self._before, self._done = portion, self.sent, 0
        return MORE

    def _is_certain(self, refused: OSError) -> bool:
        """Tell whether a refusal is about the next datagram: it comes again and again, and no errors flow in."""
        if self._errors.is_too_long(refused):
            return True
        self._tries += 1
        if self._tries % TRIES:
            return False
        return self._tries == TRIES * _ROUNDS or not self._errors.empty()


_NOTHING: Final[Columns] = ((), (), ())
