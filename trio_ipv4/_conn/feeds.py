"""Changes of what the kernel tells of, for several readers: of interfaces, or of the groups that they are in.

There is one subscription to a topic for each run of trio and network. It has no task. One of the tasks that wait for
changes, the leader, waits for the kernel, and hands each change to every feed: it is read and parsed once, whatever the
number of feeds. Unread messages wait in the kernel's buffer. When that overflows (ENOBUFS), or a message says too
little, everything is read again, and the difference are the changes.

Whoever reads lets the monitor catch up first, so that ledgers learn of dead memberships.
"""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, final

import trio

from trio_ipv4._codec.rtnetlink import Overrun
from trio_ipv4._conn.monitor import monitor_here
from trio_ipv4._conn.turns import to_trio, waits
from trio_ipv4._conn.warn import warn
from trio_ipv4._errors import MembershipWarning, ParseError
from trio_ipv4._kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._conn.monitor import Monitor
    from trio_ipv4._kernel.lifetimes import News
    from trio_ipv4._kernel.system import Socket, System

_SLICE: Final = 0.005
"""Seconds in which to read changes before other tasks run."""
_SLICES: Final = 50
"""How many such slices to read before a feed begins, if changes come as fast as they can be read."""
_MOST_PENDING: Final = 5000
"""Changes that a feed keeps for a slow reader."""

TableT = TypeVar("TableT")
KeyT = TypeVar("KeyT")
RowT = TypeVar("RowT")
ChangeT = TypeVar("ChangeT")


class Topic(Protocol[TableT, KeyT, RowT, ChangeT]):
    """What changes are of: how it is read, and the table that follows it."""

    # Open a socket to which the kernel tells the changes; and read everything, as `netlink.read_interfaces` does.
    def subscribe(self, system: System, /) -> Socket: ...
    def read(self, asking: Socket, /) -> Iterator[TableT | None]: ...

    # Take a message in, and return the changes that it makes; or many. `None` and `False`: read everything again.
    def apply(self, table: TableT, message: Message, /) -> Sequence[ChangeT] | None: ...
    def apply_all(self, table: TableT, messages: Sequence[Message], /) -> bool: ...

    # A snapshot of a table, by key; and the index of the interface that a key is about.
    def rows(self, table: TableT, /) -> Mapping[KeyT, RowT]: ...
    def index(self, key: KeyT, /) -> int: ...

    # The changes from one snapshot to another one; of links with the indexes `ended` the first ones are gone.
    def difference(
        self, old: Mapping[KeyT, RowT], new: Mapping[KeyT, RowT], ended: Container[int] = (), /
    ) -> list[ChangeT]: ...

    # Bring the snapshot that a reader knows up to a change.
    def note(self, told: dict[KeyT, RowT], change: ChangeT, /) -> None: ...


@final
class _Subscription(Generic[TableT, KeyT, RowT, ChangeT]):
    """All that there is of a topic in a network: the table, and the feeds that are told of changes."""

    def __init__(self, system: System, monitor: Monitor, topic: Topic[TableT, KeyT, RowT, ChangeT]) -> None:
        self._monitor: Final = monitor
        self.topic: Final = topic
        self.socket: Final = topic.subscribe(system)
        try:
            self._asking: Final = netlink.open_netlink(system, 0)
        except BaseException:
            self.socket.close()
            raise
        self._wait_readable: Final = waits(to_trio(self.socket))[0]
        self._table: TableT | None = None
        self.users = 0
        self.feeds: Final[set[Feed[TableT, KeyT, RowT, ChangeT]]] = set()
        self.drains = 0
        self._is_in_step = False
        # Indexes of links that ended; whether the messages of that were lost here is not known yet.
        self._ended: set[int] = set()
        self._leader: trio.CancelScope | None = None
        self._followers: Final = trio.lowlevel.ParkingLot()

    @property
    def rows(self) -> Mapping[KeyT, RowT]:
        """A snapshot of the table."""
        return {} if self._table is None else self.topic.rows(self._table)

    def note(self, news: News) -> None:
        """Note which links have ended, in case that the messages here get lost."""
        self._ended |= set(map(self.topic.index, self.rows)) if news.is_lost else news.ended

    async def synchronize(self) -> None:
        """Bring the table to the state of now. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._is_in_step:
            for _ in range(_SLICES):
                if not self._read():
                    break
                await trio.lowlevel.checkpoint()
            self.wake()  # The other feeds may have got something.
        while not self._is_in_step:
            await self.progress()

    async def progress(self) -> None:
        """Wait until something has changed, or was tried. One task at a time leads; the others wait for it."""
        if self._leader is not None:
            await self._followers.park()
            return
        try:
            with trio.CancelScope() as self._leader:
                if not self._is_in_step:
                    await self._resynchronize()
                elif self._read():
                    await trio.lowlevel.checkpoint()
                else:
                    await self._wait_readable()
        finally:
            self._leader = None
            self._followers.unpark_all()

    def wake(self) -> None:
        """Wake all who wait, to look whether their feed was closed."""
        if self._leader is not None:
            self._leader.cancel()
        self._followers.unpark_all()

    def close(self) -> None:
        """Close the sockets."""
        self.socket.close()
        self._asking.close()

    def _read(self) -> bool:
        """Read some messages, and tell the feeds of the changes; return whether there was anything to read."""
        known_before, self._ended = self._ended, set()
        refusals = self._monitor.catch_up()
        changes: list[ChangeT] = []
        count = 0
        deadline = time.monotonic() + _SLICE
        while (messages := self._receive()) is not None:
            count += 1
            changes += self._apply(messages)
            if not self._is_in_step or time.monotonic() > deadline:
                break
        if messages is None:
            self.drains += 1
        else:
            # The messages of these ends may be still to come, or lost.
            self._ended |= known_before
        self._tell(changes, refusals)
        return count > 0

    def _apply(self, messages: Sequence[Message]) -> Iterator[ChangeT]:
        """Take messages in, as far as they tell enough."""
        assert self._table is not None
        for message in messages:
            changes = self.topic.apply(self._table, message)
            if changes is None:
                self._is_in_step = False
                return
            yield from changes

    def _receive(self) -> tuple[Message, ...] | None:
        try:
            messages = netlink.receive_messages(self.socket)
        except (OSError, ParseError):
            messages = (Overrun(0),)  # What can't be read is as good as lost.
        if messages and any(isinstance(message, Overrun) for message in messages):
            self._is_in_step = False
            return ()
        return messages

    async def _resynchronize(self) -> None:
        """Read everything. If changes get lost meanwhile, the next call tries again. Other tasks run in between."""
        await trio.lowlevel.checkpoint()
        if not netlink.drain(self.socket):
            return
        table: TableT | None = None
        for table in self.topic.read(self._asking):  # noqa: B007  # The last one counts.
            await trio.lowlevel.checkpoint()
        if table is None:
            return
        changes = netlink.receive_all(self.socket)
        if changes is None or not self.topic.apply_all(table, changes):
            return
        refusals = self._monitor.catch_up()
        old, self._table = self.rows, table
        self._is_in_step = True
        self.drains += 1
        ended, self._ended = self._ended, set()
        self._tell(self.topic.difference(old, self.rows, ended), refusals)

    def _tell(self, changes: list[ChangeT], refusals: Iterable[str]) -> None:
        if changes:
            for feed in self.feeds:
                feed.push(changes)
        for reason in refusals:
            warn(reason, MembershipWarning)


@final
class Feed(Generic[TableT, KeyT, RowT, ChangeT]):
    """The changes of a topic for one reader: first what there is, as if it came now, then each change, in order."""

    def __init__(self, system: System, topic: Topic[TableT, KeyT, RowT, ChangeT], at_close: str) -> None:
        """Open it in the network in which a system makes sockets now.

        Args:
            system: The system.
            topic: The topic: one object for all its feeds.
            at_close: What to tell tasks that wait when the feed is closed.
        """
        self._topic: Final = topic
        self._at_close: Final = at_close
        monitor = monitor_here(system)
        self._monitor: Final = monitor
        self._shared: Final = monitor.subscribe(topic, lambda: _Subscription(system, monitor, topic))
        self._pending: Final[collections.deque[ChangeT]] = collections.deque()
        self._told: Final[dict[KeyT, RowT]] = {}
        self._is_behind = False
        self._closed: str | None = None

    @property
    def socket(self) -> Socket:
        """A socket of the network that all this is about."""
        return self._shared.socket

    @property
    def drains(self) -> int:
        """How often all that the kernel had to tell was read."""
        return self._shared.drains

    @property
    def has_changes(self) -> bool:
        """Whether there is something to receive at once."""
        return bool(self._pending)

    async def begin(self) -> None:
        """Begin with what there is now. A checkpoint."""
        await self._shared.synchronize()
        self._shared.feeds.add(self)
        self._pending.extend(self._topic.difference({}, self._shared.rows))

    async def receive(self, limit: int = 2**31) -> list[ChangeT]:
        """Wait for changes, and return up to `limit`. A checkpoint; cancelled, it has taken nothing.

        Raises:
            trio.ClosedResourceError: The feed is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self._closed is not None:
                raise trio.ClosedResourceError(self._closed)
            if self._is_behind:
                self._skip()
            if self._pending:
                break
            await self._shared.progress()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return [self._take() for _ in range(min(limit, len(self._pending)))]

    def push(self, changes: list[ChangeT]) -> None:
        """Take changes in. Of too many, only the difference is kept for the reader."""
        self._is_behind = self._is_behind or len(self._pending) + len(changes) > _MOST_PENDING
        if self._is_behind:
            self._pending.clear()
        else:
            self._pending.extend(changes)

    def close(self, reason: str | None = None) -> None:
        """Close it, and wake the tasks that wait."""
        if self._closed is None:
            self._closed = reason or self._at_close
            self._shared.feeds.discard(self)
            self._shared.wake()
            self._monitor.unsubscribe(self._topic)

    def _skip(self) -> None:
        self._is_behind = False
        self._pending.extend(self._topic.difference(self._told, self._shared.rows))

    def _take(self) -> ChangeT:
        change = self._pending.popleft()
        self._topic.note(self._told, change)
        return change
