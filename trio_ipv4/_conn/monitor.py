"""What the interfaces are now: one monitor for each run of trio and network.

A deleted link takes the memberships on it along. If a new link has the same index, the kernel still answers for the
dead membership, refuses to join anew, and takes a leave of it for one of the new link's: somebody else would become
deaf. No socket, and no table in /proc, tells a dead membership from a live one. Only the order of events does. So:

* Every ledger registers. Before a change of its memberships it lets the monitor catch up, and after a join once more.
  Then whatever died before the join is known, and whatever dies from now on is still to come (`lifetimes.py`).
* When a link has ended, all ledgers leave its dead memberships first. Then whoever holds one joins again, as soon as
  there is a link with that index.

    who                          calls                       which reads
    ledgers                      catch_up                    ends and beginnings of links: nearly always nothing
    watchers, followers, servers Feed.receive                those, and all changes of interfaces

The monitor has no task. One of the tasks that wait for changes, the leader, waits for the kernel, and hands each change
to every feed: it is read and parsed once, whatever the number of feeds. Unread messages wait in the kernel's buffer.
When that overflows (ENOBUFS) everything is read again, and the difference are the changes.
"""

from __future__ import annotations

import collections
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from trio_ipv4._codec.interface_table import InterfaceTable, difference
from trio_ipv4._codec.rtnetlink import Overrun
from trio_ipv4._conn.turns import this_run, to_trio, waits
from trio_ipv4._conn.warn import warn
from trio_ipv4._errors import MembershipWarning, ParseError, UnsupportedError
from trio_ipv4._kernel import namespaces, netlink
from trio_ipv4._kernel.lifetimes import Lifetimes
from trio_ipv4._values.interface import InterfaceChange, InterfaceChangeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.lifetimes import News
    from trio_ipv4._kernel.system import Socket, System
    from trio_ipv4._values.interface import Interface

_ROUNDS: Final = 10
"""How often to look again after joining again, if links go on to be deleted."""
_SLICE: Final = 0.005
"""Seconds in which to read changes before other tasks run."""
_SLICES: Final = 50
"""How many such slices to read before a feed begins, if changes come as fast as they can be read."""
_MOST_PENDING: Final = 5000
"""Changes that a feed keeps for a slow reader."""
_MONITORS: Final[trio.lowlevel.RunVar[weakref.WeakValueDictionary[object, Monitor]]] = trio.lowlevel.RunVar(
    "the monitors of trio_ipv4, by network"
)


class Holder(Protocol):
    """A ledger: what it does when links end and begin."""

    def bury(self, news: News, /) -> None: ...
    def revive(self, news: News, /) -> Iterable[str]: ...


@final
class Monitor:
    """One network: the ends of its links, and, while anybody wants them, all its interfaces."""

    def __init__(self, network: object, lifetimes: Lifetimes) -> None:
        self.run: Final = this_run()
        self.process: Final = lifetimes.process
        self._network: Final = network
        self._lifetimes: Final = lifetimes
        self._thread: Final = threading.get_ident()
        self._holders: Final[weakref.WeakSet[Holder]] = weakref.WeakSet()
        self._links: _Links | None = None

    # For ledgers

    @property
    def is_here(self) -> bool:
        """Whether it is this thread's."""
        return threading.get_ident() == self._thread

    def register(self, holder: Holder) -> None:
        """Tell a ledger of ends and beginnings from now on."""
        self._holders.add(holder)

    def unregister(self, holder: Holder) -> None:
        """Forget a ledger. The last user closes the monitor."""
        self._holders.discard(holder)
        self._close_if_unused()

    def catch_up(self) -> Sequence[str]:
        """Take in all that has happened to links, and let all ledgers act on it. It does not wait.

        Return why memberships could not be joined again, beside that their interfaces are gone.
        """
        if not self.is_here:
            return ()  # A connection may be closed from another thread, while the others are in use.
        news = self._lifetimes.read()
        if news is None:
            return ()
        refusals: list[str] = []
        for _ in range(_ROUNDS):
            refusals += self._act_on(news)
            news = self._lifetimes.read()
            if news is None:
                break
        return refusals

    def _act_on(self, news: News) -> Iterator[str]:
        if self._links is not None:
            self._links.note(news)
        holders = list(self._holders)
        for holder in holders:
            holder.bury(news)
        for holder in holders:
            yield from holder.revive(news)

    # For feeds

    def open_links(self, system: System) -> _Links:
        """Return the interfaces, for one feed more."""
        if self._links is None:
            self._links = _Links(system, self)
        self._links.users += 1
        return self._links

    def close_links(self, links: _Links) -> None:
        """Give the interfaces back, for one feed less. The last user closes the monitor."""
        links.users -= 1
        if not links.users:
            links.close()
            self._links = None
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._holders and self._links is None:
            self._lifetimes.close()
            known = _known()
            if known is not None and known.get(self._network) is self:
                del known[self._network]


@final
class _Links:
    """All interfaces of a network: the table, and the feeds that are told of changes."""

    def __init__(self, system: System, monitor: Monitor) -> None:
        self._monitor: Final = monitor
        self.socket: Final = netlink.subscribe(system)
        try:
            self._asking: Final = netlink.open_netlink(system, 0)
        except BaseException:
            self.socket.close()
            raise
        self._wait_readable: Final = waits(to_trio(self.socket))[0]
        self.table = InterfaceTable()
        self.users = 0
        self.feeds: Final[set[Feed]] = set()
        self.drains = 0
        self._is_in_step = False
        # Indexes of links that ended; whether the messages of that were lost here is not known yet.
        self._ended: set[int] = set()
        self._leader: trio.CancelScope | None = None
        self._followers: Final = trio.lowlevel.ParkingLot()

    def note(self, news: News) -> None:
        """Note which links have ended, in case that the messages here get lost."""
        self._ended |= set(self.table.interfaces) if news.is_lost else news.ended

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
        changes: list[InterfaceChange] = []
        count = 0
        deadline = time.monotonic() + _SLICE
        while (messages := self._receive()) is not None:
            count += 1
            changes += filter(None, map(self.table.apply, messages))
            if not self._is_in_step or time.monotonic() > deadline:
                break
        if messages is None:
            self.drains += 1
        else:
            # The messages of these ends may be still to come, or lost.
            self._ended |= known_before
        self._tell(changes, refusals)
        return count > 0

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
        table: InterfaceTable | None = None
        for table in netlink.read_interfaces(self._asking):  # noqa: B007  # The last one counts.
            await trio.lowlevel.checkpoint()
        if table is None:
            return
        changes = netlink.receive_all(self.socket)
        if changes is None:
            return
        table.apply_all(changes)
        refusals = self._monitor.catch_up()
        old, self.table = self.table, table
        self._is_in_step = True
        self.drains += 1
        recreated, self._ended = self._ended, set()
        self._tell(difference(old.interfaces, table.interfaces, recreated), refusals)

    def _tell(self, changes: list[InterfaceChange], refusals: Iterable[str]) -> None:
        if changes:
            for feed in self.feeds:
                feed.push(changes)
        for reason in refusals:
            warn(reason, MembershipWarning)


@final
class Feed:
    """The changes of interfaces for one reader: first an ADDED for each that exists, then each change, in order."""

    def __init__(self, system: System) -> None:
        """Open it in the network in which a system makes sockets now."""
        self._monitor: Final = _monitor_here(system)
        try:
            self._links: Final = self._monitor.open_links(system)
        except BaseException:
            self._monitor._close_if_unused()
            raise
        self._pending: Final[collections.deque[InterfaceChange]] = collections.deque()
        self._told: Final[dict[int, Interface]] = {}
        self._is_behind = False
        self._closed: str | None = None

    @property
    def socket(self) -> Socket:
        """A socket of the network that all this is about."""
        return self._links.socket

    @property
    def drains(self) -> int:
        """How often all that the kernel had to tell was read."""
        return self._links.drains

    @property
    def has_changes(self) -> bool:
        """Whether there is something to receive at once."""
        return bool(self._pending)

    async def begin(self) -> None:
        """Begin with all interfaces that exist now. A checkpoint."""
        await self._links.synchronize()
        self._links.feeds.add(self)
        added = InterfaceChangeKind.ADDED
        self._pending.extend(InterfaceChange(added, each) for each in self._links.table.interfaces.values())

    async def receive(self, limit: int = 2**31) -> list[InterfaceChange]:
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
            await self._links.progress()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return [self._take() for _ in range(min(limit, len(self._pending)))]

    def push(self, changes: list[InterfaceChange]) -> None:
        """Take changes in. Of too many, only the difference is kept for the reader."""
        self._is_behind = self._is_behind or len(self._pending) + len(changes) > _MOST_PENDING
        if self._is_behind:
            self._pending.clear()
        else:
            self._pending.extend(changes)

    def close(self, reason: str = "the interfaces are watched no longer") -> None:
        """Close it, and wake the tasks that wait."""
        if self._closed is None:
            self._closed = reason
            self._links.feeds.discard(self)
            self._links.wake()
            self._monitor.close_links(self._links)

    def _skip(self) -> None:
        self._is_behind = False
        self._pending.extend(difference(self._told, self._links.table.interfaces))

    def _take(self) -> InterfaceChange:
        change = self._pending.popleft()
        if change.kind is InterfaceChangeKind.REMOVED:
            self._told.pop(change.interface.index, None)
        else:
            self._told[change.interface.index] = change.interface
        return change


def monitor_of(socket: Socket) -> Monitor | None:
    """Return the monitor of a socket's network; `None` where nobody can tell what happens to its links.

    In a run of trio it is the one of that run. It can be found only where the system makes sockets in that network now.
    """
    network = _network_of(socket)
    found = _find(network, socket.system)
    if found is not None:
        return found
    try:
        lifetimes = Lifetimes(socket.system)
    except (OSError, UnsupportedError):  # In some sandboxes, and elsewhere than on Linux.
        return None
    if not namespaces.are_same(socket, lifetimes.socket):
        lifetimes.close()
        return None
    return _note(Monitor(network, lifetimes))


def _monitor_here(system: System) -> Monitor:
    """Return the monitor of the network in which a system makes sockets now."""
    lifetimes = Lifetimes(system)
    network = _network_of(lifetimes.socket)
    found = _find(network, system)
    if found is not None:
        lifetimes.close()
        return found
    return _note(Monitor(network, lifetimes))


def _find(network: object, system: System) -> Monitor | None:
    known = _known()
    found = None if known is None else known.get(network)
    return found if found is not None and found.process == system.process() else None


def _note(monitor: Monitor) -> Monitor:
    known = _known()
    if known is not None:
        known[monitor._network] = monitor
    return monitor


def _network_of(socket: Socket) -> object:
    # Before Linux 5.14 there are no cookies: there a system counts as one network.
    return namespaces.cookie(socket) or socket.system


def _known() -> weakref.WeakValueDictionary[object, Monitor] | None:
    """Return the monitors of this run; `None` if this thread is in none."""
    if this_run() is None:
        return None
    try:
        return _MONITORS.get()
    except LookupError:
        known: weakref.WeakValueDictionary[object, Monitor] = weakref.WeakValueDictionary()
        _MONITORS.set(known)
        return known
