"""The ends of links, for whoever holds memberships: one monitor for each run of trio and network.

A deleted link takes the memberships on it along. If a new link has the same index, the kernel still answers for the
dead membership, refuses to join anew, and takes a leave of it for one of the new link's: somebody else would become
deaf. No socket, and no table in /proc, tells a dead membership from a live one. Only the order of events does. So:

* Every ledger registers. Before a change of its memberships it lets the monitor catch up, and after a join once more.
  Then whatever died before the join is known, and whatever dies from now on is still to come (`lifetimes.py`).
* When a link has ended, all ledgers leave its dead memberships first. Then whoever holds one joins again, as soon as
  there is a link with that index.

    who                          calls                       which reads
    ledgers                      catch_up                    ends and beginnings of links: nearly always nothing
    watchers, followers, servers Feed.receive (`feeds.py`)   those, and all changes of interfaces, or of memberships
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast, final

import trio

from trio_ipv4._conn.turns import this_run
from trio_ipv4._errors import UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.lifetimes import Lifetimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from trio_ipv4._kernel.lifetimes import News
    from trio_ipv4._kernel.system import Socket, System

_ROUNDS: Final = 10
"""How often to look again after joining again, if links go on to be deleted."""
_MONITORS: Final[trio.lowlevel.RunVar[weakref.WeakValueDictionary[object, Monitor]]] = trio.lowlevel.RunVar(
    "the monitors of trio_ipv4, by network"
)


class Holder(Protocol):
    """A ledger: what it does when links end and begin."""

    def bury(self, news: News, /) -> None: ...
    def revive(self, news: News, /) -> Iterable[str]: ...


class Subscription(Protocol):
    """What several readers share (`feeds.py`), for as long as there are any."""

    users: int

    def note(self, news: News, /) -> None: ...
    def close(self) -> None: ...


SubscriptionT = TypeVar("SubscriptionT", bound=Subscription)


@final
class Monitor:
    """One network: the ends of its links, and what else is read of it while anybody wants that."""

    def __init__(self, network: object, lifetimes: Lifetimes) -> None:
        self.run: Final = this_run()
        self.process: Final = lifetimes.process
        self._network: Final = network
        self._lifetimes: Final = lifetimes
        self._thread: Final = threading.get_ident()
        self._holders: Final[weakref.WeakSet[Holder]] = weakref.WeakSet()
        self._subscriptions: Final[dict[object, Subscription]] = {}

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
        for subscription in self._subscriptions.values():
            subscription.note(news)
        holders = list(self._holders)
        for holder in holders:
            holder.bury(news)
        for holder in holders:
            yield from holder.revive(news)

    # For feeds

    def subscribe(self, topic: object, open_it: Callable[[], SubscriptionT]) -> SubscriptionT:
        """Return the subscription to a topic, for one reader more. The first one opens it."""
        try:
            if topic not in self._subscriptions:
                self._subscriptions[topic] = open_it()
        except BaseException:
            self._close_if_unused()
            raise
        subscription = self._subscriptions[topic]
        subscription.users += 1
        return cast("SubscriptionT", subscription)  # Of a topic there is one kind.

    def unsubscribe(self, topic: object) -> None:
        """Give the subscription back, for one reader less. The last user closes the monitor."""
        subscription = self._subscriptions[topic]
        subscription.users -= 1
        if not subscription.users:
            subscription.close()
            del self._subscriptions[topic]
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._holders and not self._subscriptions:
            self._lifetimes.close()
            known = _known()
            if known is not None and known.get(self._network) is self:
                del known[self._network]


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


def monitor_here(system: System) -> Monitor:
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
