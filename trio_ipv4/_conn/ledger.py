"""The membership ledger of one connection.

The kernel keeps one filter for each (socket, interface, group). The ledger lets many holders share it. A *hold* is a
`SourceFilter` for a key, (interface index, group). Each scope of `joined` has one, and Go's explicit operations share
one for each key. The kernel gets the merge of all holds (RFC 3376 section 3.2), so the first to leave takes nothing
from the others.

    who                 calls                      which leads to
    a scope             enter, replace, release    _set: the holds change, and with them the merged filter
    Go's operations     explicit                   _bring: a plan, from the kernel's filter to that one
    the connection      repair, close              _carry_out: one call of the kernel

Rules:

* A change is one transaction: interrupts are held back, nothing is awaited, and a refusal leaves holds and kernel as
  they were. The plan from one merged filter to the next is in `_codec/plan.py`.
* Leaving by the end of a scope never fails because the kernel refuses a *narrower* filter. The socket keeps the wider
  one, a warning says so, and the next change tries again. Until then the socket hears more than its holds ask for. A
  change within that needs nothing from the kernel, so a refusal of it only warns.
* A key has a real interface index. Where the routes choose, the ledger finds out which interface it was (`routes.py`):
  a leave by index 0 after the route has moved would leak the membership.
* A membership dies with its interface. The monitor (`monitor.py`) has all ledgers leave what is dead before anybody
  joins anew; then each joins again for its holders. So every change catches up with the monitor first, and every join
  once more afterwards.
* A membership that was made on the bare socket is somebody else's: the ledger neither changes nor leaves it.
* A forked child shares the socket. It leaves nothing, which would make its parent deaf.
"""

from __future__ import annotations

import contextlib
import errno
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from trio_ipv4._codec.explicit_steps import IllegalStep
from trio_ipv4._codec.plan import Call, Verb, plan
from trio_ipv4._conn import routes
from trio_ipv4._conn.holds import Holds
from trio_ipv4._conn.monitor import monitor_of
from trio_ipv4._conn.turns import this_run
from trio_ipv4._conn.warn import warn, warn_of_deafness
from trio_ipv4._errors import MembershipWarning
from trio_ipv4._kernel import announce, groups, lookup
from trio_ipv4._kernel.explain import refusal
from trio_ipv4._kernel.lifetimes import LOST, News
from trio_ipv4._values.source_filter import INCLUDE_NEVER, NONE, FilterMode, SourceFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._codec.explicit_steps import Step
    from trio_ipv4._conn.monitor import Monitor
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.interface import InterfaceLike

Key: TypeAlias = "tuple[int, IPv4Address]"
_EXPLICIT: Final = "the explicit operations"


@final
class Entry:
    """One key: its holds, and the filter that the kernel has (INCLUDE {}: the socket is no member)."""

    __slots__ = ("has", "holds", "key")

    def __init__(self, key: Key) -> None:
        self.key: Final[Key] = key
        self.holds: Final[Holds] = Holds()
        self.has: SourceFilter = NONE

    @property
    def is_member(self) -> bool:
        """Whether the socket is a member: not with INCLUDE {}. Spelt out, since it is asked all the time."""
        return self.has.mode is FilterMode.EXCLUDE or bool(self.has.sources)

    @property
    def is_lost(self) -> bool:
        """Whether the membership has died with its interface, and somebody holds it still."""
        return not self.is_member and self.holds.merged() != NONE

    @property
    def is_wider(self) -> bool:
        """Whether the socket hears more than the holds ask for, since the kernel refused a narrower filter."""
        return self.is_member and self.has != self.holds.merged()


@final
class Ledger:
    """The holds on one socket, and the kernel's filters. Synchronous throughout.

    Whoever calls it to change something holds interrupts back.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket: Final = socket
        self._platform: Final = socket.system.platform
        self._process: Final = socket.system.process()
        self._entries: Final[dict[Key, Entry]] = {}
        # Where the explicit operations joined when the routes were to choose.
        self._chosen: Final[dict[IPv4Address, int]] = {}
        self._monitor: Monitor | None = None
        self._can_monitor = True
        # What else ends when the connection is closed.
        self.at_close: Final[set[Callable[[], None]]] = set()
        # Memberships that nobody has entered yet, and their groups.
        self.expected: Final[dict[weakref.ref[object], IPv4Address]] = {}

    @property
    def memberships(self) -> Mapping[Key, SourceFilter]:
        """The kernel's filters, as a snapshot."""
        self._catch_up()
        return MappingProxyType({entry.key: entry.has for entry in self._members()})

    def is_alive(self, entry: Entry) -> bool:
        """Tell whether the kernel hears for an entry."""
        if not self._is_open():
            return False
        self._catch_up()
        return entry.is_member

    # Scopes

    def enter(self, hold: object, interface: InterfaceLike, group: IPv4Address, sources: SourceFilter) -> Entry:
        """Add a hold, joining if need be, and return its entry."""
        self._require_open()
        warn_of_deafness(self._socket, group, None, sources)
        self._catch_up()
        key = self._find_key(interface, group)
        if key is None:
            return self._join_by_route(group, hold, sources)
        entry = self._entry(key)
        self._set(entry, hold, sources)
        return entry

    def replace(self, entry: Entry, hold: object, sources: SourceFilter) -> None:
        """Replace the filter of a hold."""
        self._require_open()
        warn_of_deafness(self._socket, entry.key[1], entry.holds.get(hold), sources)
        self._catch_up()
        self._set(entry, hold, sources)

    def release(self, entry: Entry, hold: object) -> None:
        """Take a hold away at the end of its scope. Only the refusal of a leave is an error; see `_keep_wider`."""
        if not self._is_usable():
            return
        try:
            self._catch_up()
        finally:  # A warning may be an error.
            self._release(entry, hold)

    def _release(self, entry: Entry, hold: object) -> None:
        entry.holds.set(hold, None)
        wanted = entry.holds.merged()
        try:
            if entry.is_member:
                self._bring(entry, wanted)
        except OSError as refused:
            if wanted == NONE:
                raise
            if refused.errno != errno.ENODEV:  # With the interface gone, nobody hears anything.
                self._keep_wider(entry, wanted, refused)
        finally:
            self._forget_if_empty(entry)

    def expect(self, membership: object, group: IPv4Address) -> weakref.ref[object]:
        """Note a membership that is to be entered; return the note, which `expected` has until then."""
        note = weakref.ref(membership)
        self.expected[note] = group
        return note

    def warn_of_forgotten(self) -> None:
        """Warn of memberships that can't be entered any more. Whoever waits for datagrams now would wait in vain.

        Not when they are thrown away: a cancellation or Ctrl-C may have come before they were entered.
        """
        forgotten = {note: group for note, group in self.expected.items() if note() is None}
        if not forgotten:
            return
        for note in forgotten:
            del self.expected[note]
        never = ", ".join(map(str, dict.fromkeys(forgotten.values())))
        message = f"{never} was never joined: what joined() returns takes effect inside 'async with'"
        warn(message, RuntimeWarning)

    # Go's operations

    def explicit(self, interface: InterfaceLike, group: IPv4Address, step: Step, attempt: str) -> None:
        """Change the hold of the explicit operations by one step; an illegal one has the errno that Linux gives."""
        self._require_open()
        self._catch_up()
        by_route = interface is None and group in self._chosen
        key = (self._chosen[group], group) if by_route else self._find_key(interface, group)
        entry = None if key is None else self._entries.get(key)
        before = None if entry is None else entry.holds.get(_EXPLICIT)
        try:
            after = step(before)
        except IllegalStep as illegal:
            where = "the interface that the routes choose" if key is None else self._where(key)
            raise refusal(illegal.errno, "explicit", f"{attempt} on {where}") from None
        if after is not None:
            warn_of_deafness(self._socket, group, before, after)
        if key is not None:
            self._set(self._entry(key), _EXPLICIT, after)
        elif after is not None:
            key = self._join_by_route(group, _EXPLICIT, after).key
        if after is None and key == (self._chosen.get(group), group):
            del self._chosen[group]
        elif after is not None and interface is None and key is not None:
            self._chosen[group] = key[0]

    # The connection

    def read(self, interface: InterfaceLike, group: IPv4Address) -> SourceFilter:
        """Read a filter from the kernel."""
        self._catch_up()
        index = self._chosen.get(group) if interface is None else lookup.resolve(self._socket, interface)
        if index is None:
            found = groups.get_filter_by_route(self._socket, group)
        else:
            found = groups.get_filter(self._socket, index, group)
        if found is not None:
            return found
        memberships = self.memberships
        if (index, group) in memberships:
            raise refusal(errno.ENOPROTOOPT, "join", f"read the filter of {group}", self._socket)
        where = "the interface that the routes choose" if index is None else self._where((index, group))
        elsewhere = [self._where(key) for key in memberships if key[1] == group]
        advice = f"the socket is not a member there, only on {', '.join(elsewhere)}" if elsewhere else None
        attempt = f"read the filter of {group} on {where}"
        raise refusal(errno.EADDRNOTAVAIL, "join", attempt, self._socket, advice=advice)

    def repair(self) -> None:
        """Join again each dead membership whose interface is back.

        Where nothing tells which ones are dead, that is each membership.
        """
        self._require_open()
        self._monitored()
        present = [each for each in self._entries.values() if lookup.exists(self._socket, each.key[0])]
        try:
            _try_all(self._repair, present, "repaired")
        finally:
            self._monitored()

    def _repair(self, entry: Entry) -> None:
        if self._monitor is None:
            self._bring(entry, NONE)
        self._bring(entry, entry.holds.merged())

    def refresh(self, entry: Entry) -> None:
        """Announce a membership again."""
        self._require_open()
        self._catch_up()
        if not entry.is_member:
            raise refusal(
                errno.ENODEV, "join", f"announce {entry.key[1]} again on {self._where(entry.key)}", self._socket
            )
        members = announce.find_members(self._socket, *entry.key)
        if members is not None and members.users == 1:
            self._join_anew(entry, entry.has)
            self._require_alive(entry)
        else:
            announce.send_report(self._socket, *entry.key, entry.has, members)

    def refresh_all(self) -> None:
        """Announce all memberships again."""
        self._require_open()
        self._catch_up()
        _try_all(self.refresh, self._members(), "announced")

    def close(self) -> None:
        """Leave everything. A refused leave happens anyway when the socket is closed next."""
        if self._is_usable():
            if self._monitor is not None:
                self._monitor.catch_up()
            for entry in self._members():
                with contextlib.suppress(OSError):
                    groups.leave_group(self._socket, *entry.key)
        self._entries.clear()
        if self._monitor is not None:
            self._monitor.unregister(self)
        for call in list(self.at_close):
            call()

    # The monitor

    def bury(self, news: News) -> None:
        """Leave the memberships that have died: until then the kernel refuses to join anew, and answers for them."""
        for entry in self._members() if self._is_usable() else ():
            if news.may_have_ended(entry.key[0]):
                with contextlib.suppress(OSError):
                    groups.leave_group(self._socket, *entry.key)
                entry.has = NONE

    def revive(self, news: News) -> Iterator[str]:
        """Join again where somebody holds a membership still and the interface is back. Yield why it was refused."""
        for entry in self._entries.values() if self._is_usable() else ():
            if news.may_have_begun(entry.key[0]) and entry.is_lost:
                try:
                    self._bring(entry, entry.holds.merged())
                except OSError as refused:
                    if refused.errno != errno.ENODEV:
                        yield f"{refused.strerror}. The interface was made anew; repair_memberships() tries again"

    def _catch_up(self) -> None:
        """Take in all that has happened to links, and warn if that ends a membership."""
        for reason in self._monitored():
            warn(reason, MembershipWarning)

    def _monitored(self) -> Iterable[str]:
        """Take in all that has happened to links, and return why memberships could not be joined again."""
        if self._is_inherited():
            return ()
        monitor = self._monitor
        if monitor is None or this_run() not in (None, monitor.run):
            monitor = self._begin_monitoring()
        return () if monitor is None else monitor.catch_up()

    def _begin_monitoring(self) -> Monitor | None:
        """Register with the monitor of this run, and let go of an earlier one."""
        if not self._can_monitor:
            return None
        last, self._monitor = self._monitor, monitor_of(self._socket)
        self._can_monitor = self._monitor is not None
        if self._monitor is not None:
            if last is not None:
                self._monitor.catch_up()  # Whatever was before is for the last one to tell.
            self._monitor.register(self)
        if last is not None:
            last.catch_up()
            last.unregister(self)
            if not last.is_here:  # It is another thread's, which may have left something unread.
                self.bury(LOST)
                for reason in self.revive(LOST):
                    warn(reason, MembershipWarning)
        return self._monitor

    # Entries

    def _entry(self, key: Key) -> Entry:
        """Return the entry of a key. A new one is forgotten again if nothing comes of it."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key)
        return entry

    def _members(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.is_member]

    def _forget_if_empty(self, entry: Entry) -> None:
        if not entry.holds and not entry.is_member:
            self._entries.pop(entry.key, None)

    def _set(self, entry: Entry, hold: object, sources: SourceFilter | None) -> None:
        """Set the filter of a hold (`None`: nothing), and bring the kernel there. A refusal changes nothing."""
        is_new = entry.holds.get(hold) is None
        is_wider, is_lost, was_member = entry.is_wider, entry.is_lost, entry.is_member
        before = entry.holds.set(hold, sources)
        try:
            if is_new and was_member:
                self._join_anew_if_dead(entry)
            if was_member or sources is not None:  # To hold less of a membership that is lost asks for nothing.
                self._bring_or_stay_wider(entry, entry.holds.merged(), is_wider=is_wider)
            if not was_member and sources is not None:
                self._require_alive(entry)
        except BaseException as error:
            entry.holds.set(hold, before)
            if not was_member:  # It may have been joined: then something failed after that.
                with contextlib.suppress(OSError):
                    self._bring(entry, entry.holds.merged())
            if is_lost and isinstance(error, OSError) and error.errno == errno.ENODEV:
                raise refusal(errno.ENODEV, "filter", f"change {entry.key[1]} on {self._where(entry.key)}") from None
            raise
        finally:
            self._forget_if_empty(entry)

    def _bring_or_stay_wider(self, entry: Entry, wanted: SourceFilter, *, is_wider: bool) -> None:
        try:
            self._bring(entry, wanted)
        except OSError as refused:
            if not is_wider or SourceFilter.merge((entry.has, wanted)) != entry.has:
                raise
            self._keep_wider(entry, wanted, refused)

    def _keep_wider(self, entry: Entry, wanted: SourceFilter, refused: OSError) -> None:
        """Keep the wider filter that the kernel has, and say so."""
        warn(f"{refused.strerror}. The socket keeps {entry.has} instead of {wanted}", MembershipWarning)

    # The kernel

    def _bring(self, entry: Entry, wanted: SourceFilter) -> None:
        """Bring the kernel from its filter to `wanted`, or raise and leave it as it was."""
        joining = not entry.is_member
        calls = plan(self._platform, entry.has, wanted)
        if calls and calls[0].verb is Verb.JOIN_SOURCE:
            self._require_no_member(entry.key)
        try:
            for call in calls:
                self._carry_out(entry, call, wanted)
        except BaseException:
            if joining:
                self._bring(entry, NONE)
            raise

    def _carry_out(self, entry: Entry, call: Call, wanted: SourceFilter) -> None:
        """Make one call; a membership that died or vanished in the meantime is joined anew."""
        try:
            _call(self._socket, entry.key, call, wanted)
        except OSError as refused:
            if call.verb is not Verb.SET or not self._is_gone(entry.key, refused):
                raise
            self._join_anew(entry, call.after)
            return
        entry.has = call.after

    def _is_gone(self, key: Key, refused: OSError) -> bool:
        """Tell from a refused MCAST_MSFILTER whether the membership is dead (ESRCH), or was left by somebody else."""
        if refused.errno == errno.ESRCH:
            return True
        return refused.errno in (errno.EINVAL, errno.EADDRNOTAVAIL) and not self._kernel_has(key)

    def _join_anew(self, entry: Entry, wanted: SourceFilter) -> None:
        self._bring(entry, NONE)
        self._bring(entry, wanted)

    def _join_anew_if_dead(self, entry: Entry) -> None:
        """Join anew if a membership seems to be dead, where no monitor tells."""
        if self._monitor is None and groups.seems_dead(self._socket, *entry.key, entry.has):
            self._join_anew(entry, entry.has)

    def _require_alive(self, entry: Entry) -> None:
        """After a join, take in what happened before it. Refuse the membership if its interface is gone."""
        if entry.is_member:
            self._catch_up()
        if entry.is_lost:
            raise refusal(errno.ENODEV, "join", f"join {entry.key[1]} on {self._where(entry.key)}", self._socket)

    def _require_no_member(self, key: Key) -> None:
        """Refuse to touch a membership that was made on the bare socket.

        The kernel itself refuses an any-source join of a member. MCAST_JOIN_SOURCE_GROUP would succeed, and turn
        EXCLUDE {} into INCLUDE {source}.
        """
        if self._kernel_has(key):
            raise refusal(errno.EADDRINUSE, "join", f"join {key[1]} on {self._where(key)}", self._socket)

    def _kernel_has(self, key: Key) -> bool:
        return groups.get_filter(self._socket, *key) is not None

    # Where the routes choose

    def _find_key(self, interface: InterfaceLike, group: IPv4Address) -> Key | None:
        """Return the key that is meant; `None` if the routes are to choose and the socket is not a member there."""
        index = lookup.resolve(self._socket, interface)
        if index is None:
            index = routes.find_member(self._socket, group)
        return None if index is None else (index, group)

    def _join_by_route(self, group: IPv4Address, hold: object, sources: SourceFilter) -> Entry:
        """Begin a membership where the routes choose, no wider than `sources`, learn its index, and complete it."""
        before = routes.members(self._socket, group)
        # Also a scope that hears nobody has to learn its interface.
        first = plan(self._platform, NONE, INCLUDE_NEVER if sources == NONE else sources)[0]
        _call(self._socket, (groups.ROUTE, group), first, sources)
        try:
            entry = self._entry((routes.find_new(self._socket, group, before), group))
        except BaseException:
            with contextlib.suppress(OSError):
                groups.leave_group(self._socket, groups.ROUTE, group)
            raise
        entry.has = first.after
        try:
            self._set(entry, hold, sources)
            self._require_alive(entry)
        except BaseException:
            entry.holds.set(hold, None)
            self._bring(entry, NONE)
            self._forget_if_empty(entry)
            raise
        return entry

    def _where(self, key: Key) -> str:
        return lookup.describe(self._socket, key[0])

    def _is_usable(self) -> bool:
        """Tell whether the socket is open, and this process's own."""
        return self._is_open() and not self._is_inherited()

    def _is_inherited(self) -> bool:
        """Tell whether this is a forked child."""
        return self._process != self._socket.system.process()

    def _is_open(self) -> bool:
        return self._socket.fileno() >= 0

    def _require_open(self) -> None:
        if not self._is_open():
            raise trio.ClosedResourceError("this connection was closed")


def _try_all(act: Callable[[Entry], None], entries: Iterable[Entry], done: str) -> None:
    """Act on all entries, and then raise all refusals as one."""
    refused: list[OSError] = []
    for entry in entries:
        try:
            act(entry)
        except OSError as error:
            refused.append(error)
    if len(refused) > 1:
        each = "; ".join(str(error.strerror) for error in refused)
        raise OSError(refused[0].errno, f"{len(refused)} memberships are not {done}: {each}")
    if refused:
        raise refused[0]


def _call(socket: Socket, key: Key, call: Call, wanted: SourceFilter) -> None:
    match call.verb:
        case Verb.JOIN:
            groups.join_group(socket, *key)
        case Verb.JOIN_SOURCE:
            (source,) = call.after.sources
            groups.join_source_group(socket, *key, source, wanted)
        case Verb.SET:
            groups.set_filter(socket, *key, call.after)
        case Verb.LEAVE:
            groups.leave_group(socket, *key)
