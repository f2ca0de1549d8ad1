"""Datagrams between the kernel and the caller.

One call of the kernel may bring more than a caller wants: coalesced datagrams, and an error among them. The rest is
*ready*: it comes first from the next receive, single or batch.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast, final

from trio_ipv4._conn.error_queue import TRIES
from trio_ipv4._kernel import calls, offload
from trio_ipv4._kernel.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_ipv4._conn.codec import Codec
    from trio_ipv4._conn.error_queue import ErrorQueue
    from trio_ipv4._kernel.calls import Received
    from trio_ipv4._kernel.system import Socket

ValueT = TypeVar("ValueT")
MAX_BYTES: Final = 65535
"""The longest IP packet (RFC 791: total length has 16 bits)."""
_FEW: Final = 8
"""How many coalesced datagrams to read in one call: each may hold 64, and the rest waits for the next receive."""
_MANY: Final = 64
"""The same, where all of the queue is to be read. Each takes up to 64 KiB."""


@final
class Inbox(Generic[ValueT]):
    """The received values of one socket.

    Args:
        socket: The socket.
        codec: It makes the values.
        errors: The errors of the socket, some of which are not told here.
        when_empty: Called when nothing is queued, before somebody waits.
    """

    def __init__(
        self, socket: Socket, codec: Codec[ValueT], errors: ErrorQueue, when_empty: Callable[[], object]
    ) -> None:
        self._socket: Final = socket
        self._codec: Final = codec
        self._errors: Final = errors
        self._when_empty: Final = when_empty
        self._receiver: Final = socket.receiver()
        # Runs of values, with errors between them.
        self._ready: Final[collections.deque[list[ValueT] | Exception]] = collections.deque()

    def take(self, descriptor: int, limit: int, max_bytes: int) -> Sequence[ValueT] | None:
        """Take up to `limit` values: those that are ready, else those that the kernel has; `None` if there are none."""
        if self._codec.is_coalesced:
            self._fill(descriptor, limit)
        elif not self._ready:
            received = self._receive(descriptor, limit, max_bytes + self._codec.header_room)
            if isinstance(received, list):
                return received
            if received is not None:
                if (values := self._codec.decode_whole(received)) is not None:
                    return values
                self._keep(self._codec.decode(received))
        if not self._ready:
            self._when_empty()
            return None
        return self._hand_over(limit, max_bytes)

    def read_queue(self) -> None:
        """Make ready all that the kernel has queued, errors included."""
        for _ in range(calls.MAX_BATCH):
            try:
                if not self._read_coalesced(self._socket.fileno(), _MANY):
                    break
            except OSError as error:
                self._ready.append(error)

    def _fill(self, descriptor: int, limit: int) -> None:
        """Make ready as many values as the caller wants, if the kernel has them, and no more than it takes."""
        enough = min(limit, calls.MAX_BATCH)  # A flood must not keep this call for ever.
        while sum(1 if isinstance(run, Exception) else len(run) for run in self._ready) < enough:
            try:
                if not self._read_coalesced(descriptor, min(limit, _FEW)):
                    break
            except OSError as error:
                self._ready.append(error)  # After the values before it.
                break

    def _read_coalesced(self, descriptor: int, limit: int) -> bool:
        """Make ready up to `limit` coalesced datagrams; tell whether there may be more."""
        received = self._receive(descriptor, limit, offload.MAX_COALESCED)
        if received is None:
            return False
        if isinstance(received, list):
            self._last_run().extend(received)
        else:
            self._keep(self._codec.decode(received))
        return True

    def _receive(self, descriptor: int, limit: int, max_bytes: int) -> list[ValueT] | Received | None:
        for _ in range(TRIES):
            try:
                return self._receiver.receive(descriptor, limit, max_bytes, self._codec.recipe)
            except OSError as error:
                if not self._errors.is_told_elsewhere(error):
                    raise explain(error, "receive", "receive", self._socket) from None
        return None  # Errors flood in. Other tasks run before the next try: the socket is readable.

    def _keep(self, decoded: Iterable[ValueT | Exception]) -> None:
        """Make values, and errors, ready."""
        for each in decoded:
            if isinstance(each, Exception):
                self._ready.append(each)
            else:
                self._last_run().append(each)

    def _last_run(self) -> list[ValueT]:
        """Return the last run of ready values, to add to it."""
        if not self._ready or isinstance(self._ready[-1], Exception):
            self._ready.append([])
        return cast("list[ValueT]", self._ready[-1])

    def _hand_over(self, limit: int, max_bytes: int) -> list[ValueT]:
        """Return ready values, up to the first error. Raise that when its turn comes, so that nothing is lost."""
        values: list[ValueT] = []
        while self._ready and len(values) < limit:
            first = self._ready[0]
            if isinstance(first, Exception):
                if values:
                    break
                self._ready.popleft()
                raise first
            room = limit - len(values)
            values += first[:room]
            del first[:room]
            if not first:
                self._ready.popleft()
        return values if max_bytes == MAX_BYTES else [self._codec.bounded(value, max_bytes) for value in values]
