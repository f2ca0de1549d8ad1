"""Traffic: the part of a connection that sends and receives values, singly and in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

from trio_ipv4._conn import switches
from trio_ipv4._conn.inbox import MAX_BYTES
from trio_ipv4._conn.owned import OwnedConn
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel.calls import MAX_BATCH
from trio_ipv4._values.fields import to_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._conn.codec import Codec
    from trio_ipv4._conn.inbox import Inbox
    from trio_ipv4._conn.outbox import Outbox
    from trio_ipv4._kernel.calls import Columns
    from trio_ipv4._values.control import ControlFlags

ValueT = TypeVar("ValueT")
MAX_LIMIT: Final = 2**31 - 1


class Traffic(OwnedConn, trio.abc.Channel[ValueT], Generic[ValueT]):
    """The part of a connection that sends and receives, in turns.

    `async for` receives until the connection is closed from another task, which is `trio.ClosedResourceError`.
    """

    _codec: Codec[ValueT]
    _inbox: Inbox[ValueT]
    _outbox: Outbox

    @property
    def control_flags(self) -> ControlFlags:
        """The facts that come with each datagram, as a whole set. Default: the facts that the socket has switched on.

        A datagram in the queue gets its facts when it is read. Some facts are noted only on arrival. A datagram that
        arrived without SRC, DST and INTERFACE has no `ifindex` and no `local`. Without TIMESTAMP, `timestamp_ns` may be
        the time of reading. Without DROPS, `drops` is 0. If the kernel refuses a part, nothing is changed.

        Linux stamps arriving packets only while some socket of the host asks for it, and begins a moment after the
        first one does. Until then `timestamp_ns` is the time of reading, even with TIMESTAMP from the start. `drops` is
        the count when the datagram was queued: the next datagram after a burst shows the loss. The property `drops`
        shows it at once.

        Raises:
            TypeError: Not `ControlFlags`.
            UnsupportedError: The platform has no such fact.
        """
        self._require_open()
        return self._codec.facts

    @control_flags.setter
    def control_flags(self, value: ControlFlags) -> None:
        flags = switches.to_flags(value)
        before = switches.switched_on(self._usable)
        try:
            switches.switch(self._usable, before, flags)
        except BaseException:
            switches.switch(self._usable, switches.switched_on(self._usable), before)
            raise
        self._codec.use_facts(value)

    async def receive(self, max_bytes: int = MAX_BYTES) -> ValueT:
        """Receive one datagram. A checkpoint; cancelled, it has taken nothing.

        ICMP errors and transmit timestamps come by `receive_error`. If IP_RECVERR or SO_TIMESTAMPING was set on the
        bare socket, and `receive_error` was never called, a task that waits here discards them: the kernel would wake
        it again and again.

        Args:
            max_bytes: The longest payload to return, 1 to 65535 octets; of a longer one the rest is lost, and
                `truncated` says so.

        Raises:
            OSError: A pending error of the socket, such as ECONNREFUSED; or EMSGSIZE: the control messages did not fit.
            trio.ClosedResourceError: The connection is closed.
        """
        if max_bytes != MAX_BYTES:
            to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return (await self._owned.receive(self._inbox.take, 1, max_bytes))[0]

    async def receive_batch(self, limit: int = 64, *, max_bytes: int = MAX_BYTES) -> Sequence[ValueT]:
        """Wait for one datagram, then take all that are queued, in order. Never empty. A checkpoint, as `receive`.

        Errors are those of `receive`; one that comes after datagrams is raised by the next call.

        Args:
            limit: The most datagrams to return, 1 or more. One call of the kernel takes at most 1,024.
            max_bytes: As for `receive`.
        """
        to_integer(limit, "limit", 1, MAX_LIMIT)
        to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return await self._owned.receive(self._inbox.take, limit, max_bytes)

    def batches(self, limit: int = 64, *, max_bytes: int = MAX_BYTES) -> Batches[ValueT]:
        """Return an asynchronous iterator of batches: `async for batch in conn.batches()`. Not a generator.

        Each step is a `receive_batch`, with these arguments.
        """
        return Batches(self, limit, max_bytes)

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self, max_bytes: int = MAX_BYTES) -> ValueT:
        """Receive one datagram that is queued already. Not a checkpoint. Arguments and errors are those of `receive`.

        Raises:
            trio.WouldBlock: Nothing is queued, or another task is waiting for it.
        """
        self._require_open()
        to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return self._owned.receive_nowait(self._inbox.take, 1, max_bytes)[0]

    async def send(self, value: ValueT) -> None:
        """Send one datagram. A checkpoint; cancelled, it has sent nothing.

        Raises:
            OSError: The kernel refused.
            TypeError: Not a value of this connection's kind.
            ValueError: The control message is not a request.
            UnsupportedError: The platform has no control message for a request.
            trio.ClosedResourceError: The connection is closed.
        """
        self._require_open()
        payload, name, control = self._codec.encode(value)
        await self._outbox.send([((payload,), (name,), (control,))])

    async def send_batch(self, values: Iterable[ValueT]) -> None:
        """Send all, in order. A checkpoint, and another one for every 1,024 datagrams; cancelled, it has sent a prefix.

        All are looked at first: if one can't be sent (`TypeError`, `ValueError`, as for `send`), nothing is.

        Raises:
            PartialSendError: The kernel refused one after it took `sent` others. Its docstring says where to go on.
            OSError: The kernel refused the first one.
        """
        self._require_open()
        require_trio()
        given: object = values
        if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | memoryview | str):
            raise TypeError(f"pass a collection of datagrams to send_batch(), not {given!r}; send() takes one")
        every = tuple(values)
        portions: list[Columns] = []
        for start in range(0, len(every), MAX_BATCH):
            if start:
                await trio.lowlevel.checkpoint()
            portions.append(self._codec.encode_all(every[start : start + MAX_BATCH]))
        await self._outbox.send(portions)


class Batches(Generic[ValueT]):
    """An asynchronous iterator of batches. It holds no turn, and nothing else, between items."""

    def __init__(self, conn: Traffic[ValueT], limit: int, max_bytes: int) -> None:
        self._conn: Final = conn
        self._limit: Final = to_integer(limit, "limit", 1, MAX_LIMIT)
        self._max_bytes: Final = to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)

    def __aiter__(self) -> Batches[ValueT]:
        return self

    async def __anext__(self) -> Sequence[ValueT]:
        return await self._conn.receive_batch(self._limit, max_bytes=self._max_bytes)
