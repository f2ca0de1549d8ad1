"""The membership ledger of one connection, and the scoped memberships that write into it.

The kernel keeps one filter for each (socket, interface, group). The ledger lets many holders share it. Each scope of
`joined` holds a `SourceFilter` for its key, (interface index, group); Go's explicit operations share one further hold
for each key. What the kernel gets is the merge of all holds by RFC 3376 section 3.2, so the first to leave takes
nothing from the others.

Three rules bind every step from one merged filter to the next:

* The socket is never wider on the way than the old and the new filter together. So a source-specific join never passes
  through an any-source one, and a first EXCLUDE {a} begins as INCLUDE of a source that nobody has.
* The call to the kernel and the bookkeeping are one transaction: interrupts are held back, nothing is awaited, and a
  refusal leaves both as they were.
* Leaving is MCAST_LEAVE_GROUP by the real index. On a dead interface the other ways out, LEAVE_SOURCE and MSFILTER
  INCLUDE {}, give ENODEV and keep the entry.
"""

from __future__ import annotations

import errno
import ipaddress
import sys
import warnings
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from trio_ipv4._codec.explicit_steps import IllegalStep
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._errors import DeafMembershipWarning, MembershipWarning, SourceSpecificRangeWarning
from trio_ipv4._kernel import groups, lookup
from trio_ipv4._kernel.deletions import Deletions, watch_deletions
from trio_ipv4._kernel.explain import refusal
from trio_ipv4._values.fields import SSM_RANGE, UNSPECIFIED
from trio_ipv4._values.source_filter import INCLUDE_NEVER, NEVER, FilterMode, SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from ipaddress import IPv4Address
    from types import TracebackType

    from trio_ipv4._codec.explicit_steps import Change
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike

Key: TypeAlias = "tuple[int, IPv4Address]"

_ANY: Final = SourceFilter.any()
_NONE: Final = SourceFilter.none()
_EXPLICIT: Final = "the explicit operations"


@final
class Membership:
    """One scope's membership of a group on an interface: joined inside `async with`, left after it.

    It is bound to one interface index and ends with that interface, or when its MTU falls below 68; `follow_group`
    follows. Leaving does not empty the socket's queue: what was queued before still arrives. A membership can be
    entered once.
    """

    __slots__ = ("__weakref__", "_ended", "_entered", "_group", "_key", "_ledger", "_requested", "_sources", "_waiting")

    def __init__(self, ledger: Ledger, interface: InterfaceLike, group: IPv4Address, sources: SourceFilter) -> None:
        self._ledger: Final = ledger
        self._requested: Final = interface
        self._group: Final = group
        self._sources = sources
        self._key: Key | None = None
        self._entered = False
        self._ended = False
        self._waiting: Final = ledger.expect(self, group)

    @property
    def interface(self) -> int:
        """The index of the interface that was joined on: the one that the kernel chose, if it was to choose.

        Raises:
            RuntimeError: Before the block has been entered.
        """
        if self._key is None:
            raise RuntimeError("the interface is known only after 'async with' has joined")
        return self._key[0]

    @property
    def group(self) -> IPv4Address:
        """The group."""
        return self._group

    @property
    def sources(self) -> SourceFilter:
        """The sources that this scope asks for; other scopes may make the socket hear more."""
        return self._sources

    def set_sources(self, sources: SourceFilter) -> None:
        """Replace this scope's filter, at once. Not a checkpoint.

        Raises:
            OSError: The kernel refused, such as ENOBUFS for more sources than sysctl net.ipv4.igmp_max_msf (10), or
                ENODEV for an interface that is gone; nothing is changed.
            RuntimeError: Before the block has been entered.
            trio.ClosedResourceError: After the block, or when the connection is closed.
        """
        self._replace(to_sources(sources))

    def allow(self, *addresses: AddressLike) -> None:
        """Hear these sources too, whatever the mode. Errors as `set_sources`; `ValueError` if one is not unicast."""
        self._replace(self._sources.allow(*addresses))

    def block(self, *addresses: AddressLike) -> None:
        """Hear these sources no longer, whatever the mode. Errors as `allow`.

        Other scopes of the same group may still hear them, and then the socket does.
        """
        self._replace(self._sources.block(*addresses))

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Membership:
        if self._entered:
            raise RuntimeError("a membership can be entered only once: call joined() again")
        self._ledger.expected.pop(self._waiting, None)
        require_trio()
        self._entered = True
        try:
            await trio.lowlevel.checkpoint()
            self._key = self._ledger.enter(self, self._requested, self._group, self._sources)
        except BaseException:
            self._entered = False
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not a checkpoint: leaving can't block, and so can't be cancelled away.
        self._ended = True
        try:
            self._ledger.release(self, self.interface, self._group)
        except (OSError, MembershipWarning) as refused:  # A warning may be an error.
            if error is None:
                raise
            error.add_note(f"Besides, at the end of the membership: {refused}")

    @trio.lowlevel.enable_ki_protection
    def _replace(self, sources: SourceFilter) -> None:
        if self._ended:
            raise trio.ClosedResourceError("this membership has ended with its block")
        self._ledger.replace((self.interface, self._group), self, sources)
        self._sources = sources

    def __repr__(self) -> str:
        state = "ended" if self._ended else "not joined yet" if self._key is None else f"on index {self._key[0]}"
        return f"<Membership of {self._group}, {self._sources}, {state}>"


@final
class Ledger:
    """Who holds what on one socket, and what the kernel has. Synchronous throughout.

    Whoever calls it to change something holds interrupts back.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket: Final = socket
        self._process: Final = socket.system.process()
        self._holds: Final[dict[Key, dict[object, SourceFilter]]] = {}
        self._kernel: Final[dict[Key, SourceFilter]] = {}
        # Where the explicit operations joined when the routes were to choose: a later leave must not ask them again,
        # since with the route moved that would leak the membership.
        self._chosen: Final[dict[IPv4Address, int]] = {}
        # What was alive at the last look, if that can't have changed since.
        self._alive: Final[set[Key]] = set()
        self._deletions: Deletions | None = None
        self._can_watch = True
        # Memberships that nobody has entered yet, and their groups.
        self.expected: Final[dict[weakref.ref[Membership], IPv4Address]] = {}

    @property
    def memberships(self) -> Mapping[Key, SourceFilter]:
        """What the kernel has, as a snapshot."""
        return MappingProxyType(dict(self._kernel))

    def enter(self, hold: object, interface: InterfaceLike, group: IPv4Address, sources: SourceFilter) -> Key:
        """Add a hold, joining if need be, and return its key."""
        self._require_open()
        self._warn(group, None, sources)
        key = self._find_key(interface, group)
        if key is None:
            return self._join_by_route(group, hold, sources)
        self.change(key, hold, sources)
        return key

    def replace(self, key: Key, hold: object, sources: SourceFilter) -> None:
        """Replace what a hold asks for."""
        self._require_open()
        self._warn(key[1], self._holds[key][hold], sources)
        self.change(key, hold, sources)

    def change(self, key: Key, hold: object, sources: SourceFilter | None) -> None:
        """Set what a hold asks for (`None`: nothing), and bring the kernel there. A refusal changes nothing."""
        self._require_open()
        holds = dict(self._holds.get(key, {}))
        joining = hold not in holds
        holds.pop(hold, None)
        if sources is not None:
            holds[hold] = sources
        if joining and key in self._kernel and not self._is_surely_alive(key):
            self._revive(key, self._look_who_lives())
            self._alive.add(key)
        wanted = SourceFilter.merge(holds.values())
        stays_wider = self._is_wider(key)
        try:
            self._apply(key, wanted)
        except OSError as refused:
            # Where an earlier narrowing was refused, a change that hears no more than the socket does anyway is none
            # that the kernel could refuse.
            if not stays_wider or SourceFilter.merge((self._kernel.get(key, _NONE), wanted)) != self._kernel.get(key):
                raise
            self._keep_wider(key, wanted, refused)
        self._record(key, holds)

    def release(self, hold: object, index: int, group: IPv4Address) -> None:
        """Take a hold away at the end of its scope. Only the refusal of a leave is an error; see `_keep_wider`."""
        if not self._is_open() or self._is_inherited():
            return
        key = index, group
        holds = dict(self._holds[key])
        del holds[hold]
        self._record(key, holds)
        wanted = SourceFilter.merge(holds.values())
        try:
            self._apply(key, wanted)
        except OSError as refused:
            if wanted == _NONE:
                raise
            if refused.errno != errno.ENODEV:  # With the interface gone, nobody hears anything.
                self._keep_wider(key, wanted, refused)

    def expect(self, membership: Membership, group: IPv4Address) -> weakref.ref[Membership]:
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
        warnings.warn(message, RuntimeWarning, stacklevel=callers_level())

    def explicit(self, interface: InterfaceLike, group: IPv4Address, change: Change, attempt: str) -> None:
        """Change the hold of the explicit operations by one step; an illegal one has the errno that Linux gives."""
        self._require_open()
        by_route = interface is None and group in self._chosen
        key = (self._chosen[group], group) if by_route else self._find_key(interface, group)
        before = None if key is None else self._holds.get(key, {}).get(_EXPLICIT)
        try:
            after = change(before)
        except IllegalStep as illegal:
            where = "the interface that the routes choose" if key is None else self._where(key)
            raise refusal(illegal.errno, "explicit", f"{attempt} on {where}") from None
        if after is not None:
            self._warn(group, before, after)
        if key is not None:
            self.change(key, _EXPLICIT, after)
        elif after is not None:
            key = self._join_by_route(group, _EXPLICIT, after)
        if after is None and key == (self._chosen.get(group), group):
            del self._chosen[group]
        elif after is not None and interface is None and key is not None:
            self._chosen[group] = key[0]

    def read(self, interface: InterfaceLike, group: IPv4Address) -> SourceFilter:
        """Read a filter from the kernel."""
        index = self._chosen.get(group) if interface is None else lookup.resolve(self._socket, interface)
        if index is None:
            found = groups.get_filter_by_route(self._socket, group)
        else:
            found = groups.get_filter(self._socket, index, group)
        if found is None and (index, group) in self._kernel:
            raise refusal(errno.ENOPROTOOPT, "join", f"read the filter of {group}", self._socket)
        if found is None:
            where = "the interface that the routes choose" if index is None else self._where((index, group))
            elsewhere = [self._where(key) for key in self._kernel if key[1] == group and key[0] != index]
            advice = f"the socket is not a member there, only on {', '.join(elsewhere)}" if elsewhere else None
            attempt = f"read the filter of {group} on {where}"
            raise refusal(errno.EADDRNOTAVAIL, "join", attempt, self._socket, advice=advice)
        return found

    def repair(self) -> None:
        """Leave and join again what is dead and whose interface is back."""
        self._require_open()
        refused: list[OSError] = []
        table = self._look_who_lives()
        for key in {**self._kernel, **self._holds}:
            if not lookup.exists(self._socket, key[0]):
                continue
            try:
                if key in self._kernel:
                    self._revive(key, table)
                self._apply(key, SourceFilter.merge(self._holds.get(key, {}).values()))
            except OSError as error:
                refused.append(error)
        if len(refused) > 1:
            each = "; ".join(str(error.strerror) for error in refused)
            raise OSError(refused[0].errno, f"{len(refused)} memberships are not repaired: {each}")
        if refused:
            raise refused[0]

    def close(self) -> None:
        """Leave everything. What the kernel refuses goes with the socket, which is closed next."""
        if self._is_open() and not self._is_inherited():
            for index, group in list(self._kernel):
                try:
                    groups.leave_group(self._socket, index, group)
                except OSError:
                    continue
        self._kernel.clear()
        if self._deletions is not None:
            self._deletions.close()
            self._deletions, self._can_watch = None, False

    def _apply(self, key: Key, wanted: SourceFilter) -> None:
        """Bring the kernel from what it has to `wanted`, or raise and leave it as it was."""
        has = self._kernel.get(key, _NONE)
        if has == wanted:
            return
        if wanted == _NONE:
            groups.leave_group(self._socket, *key)
            del self._kernel[key]
        elif has == _NONE:
            self._join(key, wanted)
        else:
            self._switch(key, wanted)

    def _join(self, key: Key, wanted: SourceFilter) -> None:
        """Join what the socket is not a member of."""
        # A membership that the caller made on the bare socket is not ours to change: MCAST_JOIN_SOURCE_GROUP on an
        # any-source member would succeed, and turn EXCLUDE {} into INCLUDE {source}.
        if self._kernel_has(key):
            raise refusal(errno.EADDRINUSE, "join", f"join {key[1]} on {self._where(key)}", self._socket)
        self._begin(key, wanted)
        self._kernel[key] = _as_begun(wanted)
        self._alive.add(key)
        try:
            self._apply(key, wanted)
        except BaseException:
            self._apply(key, _NONE)
            raise

    def _switch(self, key: Key, wanted: SourceFilter) -> None:
        """Replace the filter of a membership; one that died or vanished in the meantime is joined anew."""
        try:
            groups.set_filter(self._socket, *key, wanted)
        except OSError as refused:
            died = refused.errno == errno.ESRCH
            vanished = refused.errno in (errno.EINVAL, errno.EADDRNOTAVAIL) and not self._kernel_has(key)
            if not died and not vanished:
                raise
            self._join_anew(key, wanted)
        else:
            self._kernel[key] = wanted

    def _kernel_has(self, key: Key) -> bool:
        return groups.get_filter(self._socket, *key) is not None

    def _is_surely_alive(self, key: Key) -> bool:
        """Tell whether a membership was alive at the last look, and no link has been deleted since."""
        if self._deletions is None and self._can_watch:
            self._deletions = watch_deletions(self._socket)
            self._can_watch = self._deletions is not None
            self._alive.clear()
        if self._deletions is None or self._deletions.any():
            self._alive.clear()
        return key in self._alive

    def _look_who_lives(self) -> groups.InterfaceGroups | None:
        """Read the kernel's table, once for all memberships."""
        table = groups.read_table(self._socket)
        if self._deletions is not None and table is not None:
            self._alive.update(key for key in self._kernel if key in table)
        return table

    def _revive(self, key: Key, table: groups.InterfaceGroups | None) -> None:
        """Join a dead membership anew: its interface was deleted, and another has its index now."""
        if not lookup.exists(self._socket, key[0]):
            raise refusal(errno.ENODEV, "join", f"join {key[1]} on {self._where(key)}", self._socket)
        if groups.is_dead(self._socket, *key, self._kernel[key], table):
            self._join_anew(key, self._kernel[key])

    def _join_anew(self, key: Key, wanted: SourceFilter) -> None:
        self._apply(key, _NONE)
        self._join(key, wanted)

    def _find_key(self, interface: InterfaceLike, group: IPv4Address) -> Key | None:
        """Return the key that is meant; `None` if the routes are to choose and the socket is not a member there."""
        index = lookup.resolve(self._socket, interface)
        if index is not None:
            return index, group
        present = groups.get_filter_by_route(self._socket, group)
        if present is None:
            return None
        # The kernel tells the filter of the membership that the routes choose, but not its index.
        same: list[int] = []
        for look in (lookup.indexes, lookup.all_indexes):
            members = groups.memberships(self._socket, group, look(self._socket))
            same = [index for index, sources in members.items() if sources == present]
            if same:
                break
        if len(same) != 1:
            attempt = f"tell which interface the routes choose for {group}, by its membership there"
            raise refusal(errno.EADDRINUSE, "route", attempt, self._socket)
        return same[0], group

    def _join_by_route(self, group: IPv4Address, hold: object, sources: SourceFilter) -> Key:
        """Begin a membership where the routes choose, no wider than `sources`, learn its index, and complete it."""
        before = groups.memberships(self._socket, group, lookup.indexes(self._socket))
        self._begin((groups.ROUTE, group), sources)
        try:
            key = self._find_new(group, before), group
        except BaseException:
            groups.leave_group(self._socket, groups.ROUTE, group)
            raise
        self._kernel[key] = _as_begun(sources)
        try:
            self.change(key, hold, sources)
        except BaseException:
            self._apply(key, _NONE)
            raise
        return key

    def _find_new(self, group: IPv4Address, before: Collection[int]) -> int:
        """Return the index of the one interface on which the socket has become a member."""
        for look in (lookup.indexes, lookup.all_indexes):
            found = [i for i in groups.memberships(self._socket, group, look(self._socket)) if i not in before]
            if len(found) == 1:
                return found[0]
        raise refusal(errno.ENODEV, "route", f"join {group}", self._socket)

    def _begin(self, key: Key, wanted: SourceFilter) -> None:
        if wanted == _ANY:
            groups.join_group(self._socket, *key)
        else:
            groups.join_source_group(self._socket, *key, _first_source(wanted), wanted)

    def _keep_wider(self, key: Key, wanted: SourceFilter, refused: OSError) -> None:
        """Keep what the kernel has when it refuses a narrower filter, at the end of a scope or after such an end.

        No open scope hears less than it asked for; the next change of this key tries again.
        """
        has = self._kernel.get(key, _NONE)
        message = f"{refused.strerror}. The socket keeps {has} instead of {wanted}"
        warnings.warn(message, MembershipWarning, stacklevel=callers_level())

    def _is_wider(self, key: Key) -> bool:
        """Tell whether the socket hears more than its holds ask for, since the kernel refused a narrower filter."""
        return key in self._kernel and self._kernel[key] != SourceFilter.merge(self._holds.get(key, {}).values())

    def _record(self, key: Key, holds: dict[object, SourceFilter]) -> None:
        if holds:
            self._holds[key] = holds
        else:
            self._holds.pop(key, None)

    def _warn(self, group: IPv4Address, before: SourceFilter | None, sources: SourceFilter) -> None:
        """Warn of a hold that will hear nothing, before anything is changed: a warning may be an error."""
        turns = before is None or before.mode is FilterMode.INCLUDE
        if turns and group in SSM_RANGE and sources.mode is FilterMode.EXCLUDE:
            message = (
                f"{group} is in the source-specific range {SSM_RANGE}, where routers ignore joins that name no source "
                "(RFC 4607 section 2): pass sources=SourceFilter.include(...)"
            )
            warnings.warn(message, SourceSpecificRangeWarning, stacklevel=callers_level())
        if before is not None:
            return
        bound = ipaddress.IPv4Address(self._socket.getsockname()[0])
        if bound not in (UNSPECIFIED, group):
            message = f"this socket is bound to {bound}, so it will hear nothing of {group}: bind it to 0.0.0.0"
            warnings.warn(message, DeafMembershipWarning, stacklevel=callers_level())

    def _where(self, key: Key) -> str:
        return lookup.describe(self._socket, key[0])

    def _is_inherited(self) -> bool:
        """Tell whether this is a forked child. It shares the socket: leaving would make its parent deaf."""
        return self._process != self._socket.system.process()

    def _is_open(self) -> bool:
        return self._socket.fileno() >= 0

    def _require_open(self) -> None:
        if not self._is_open():
            raise trio.ClosedResourceError("this connection was closed")


def _first_source(wanted: SourceFilter) -> IPv4Address:
    """Return a source to begin with: INCLUDE of it alone is no wider than `wanted`."""
    return min(wanted.sources) if wanted.mode is FilterMode.INCLUDE and wanted.sources else NEVER


def _as_begun(wanted: SourceFilter) -> SourceFilter:
    """Return the filter that the first call of a join makes."""
    if wanted == _ANY:
        return _ANY
    first = _first_source(wanted)
    return INCLUDE_NEVER if first == NEVER else SourceFilter.include(first)


def callers_level() -> int:
    """Return the `stacklevel` at which `warnings.warn`, called by our caller, names the first frame outside of here."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] == "trio_ipv4":
        frame, level = frame.f_back, level + 1
    return level
