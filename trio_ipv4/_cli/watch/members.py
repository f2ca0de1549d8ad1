"""Who is a member of which group: what each host said last, and when it will be forgotten.

This is explicit tracking, as RFC 9776 appendix A.2 has in mind. Of each host, the filter is kept as its reports tell it
(section 5.1 read backwards). A host of version 1 or 2 holds back its report when it hears another's (RFC 2236 section
3), so a report of one renews all of them, and some are never seen.

A member is forgotten when it was not reported for the Group Membership Interval. When a group is asked for by itself,
members that do not answer are forgotten after the Last Member Query Time (section 6.6.1). The last one may leave while
others were never seen: so the group ends that time after the leave.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from trio_ipv4 import FilterMode, GroupRecordType, SourceFilter
from trio_ipv4._cli.watch.querier import SECOND, Intervals
from trio_ipv4._cli.watch.records import Expiring, GroupState, Limit, Member, SourceLimit, mode_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ipv4 import GroupRecord
    from trio_ipv4._cli.watch.records import Finding
    from trio_ipv4._cli.watch.timers import Timers

MOST: Final = 50_000
"""So many groups, members and sources are remembered, altogether: forged reports must not eat up the memory."""
MOST_SOURCES: Final = 64
"""So many sources are remembered of a member: forged reports must not eat up the time either."""
_NAMED: Final = 100
"""So many hosts are named in a record."""
_REPLACES: Final = {
    GroupRecordType.MODE_IS_INCLUDE: FilterMode.INCLUDE,
    GroupRecordType.CHANGE_TO_INCLUDE_MODE: FilterMode.INCLUDE,
    GroupRecordType.MODE_IS_EXCLUDE: FilterMode.EXCLUDE,
    GroupRecordType.CHANGE_TO_EXCLUDE_MODE: FilterMode.EXCLUDE,
}

Key: TypeAlias = tuple[str, str | None, IPv4Address | None, IPv4Address | None]
"""Of a deadline: which one, and of which interface, group and host."""


@attrs.define
class Host:
    """A member of a group: what it hears, by which version it said so, when, and until when that counts."""

    sources: SourceFilter
    version: int
    heard: int
    until: int
    overdue: bool = False


@attrs.define
class Group:
    """A group of a link, and its members."""

    interface: str | None
    address: IPv4Address
    hosts: dict[IPv4Address, Host] = attrs.Factory(dict)
    older_hosts: int = 0
    """How many members speak version 1 or 2."""
    older_last: IPv4Address | None = None
    """Which of them reported last."""
    older_heard: int = 0
    older_until: int = 0
    """Until when the members of versions 1 and 2 count, all together."""
    older_overdue: bool = False
    asked: int | None = None
    """Since when an answer to a query for this group is due."""
    conflicts: set[int] = attrs.Factory(set)
    """The older versions that were told beside version 3."""

    def older(self) -> list[IPv4Address]:
        """Return the members of versions 1 and 2."""
        return [address for address, host in self.hosts.items() if host.version < 3]

    def put(self, name: IPv4Address, host: Host) -> None:
        """Remember a member."""
        before = self.hosts.get(name)
        self.hosts[name] = host
        if host.version < 3:
            self.older_last = name
        self._count_older((host.version < 3) - (before is not None and before.version < 3), name, host.version)

    def take(self, name: IPv4Address) -> Host:
        """Forget a member."""
        host = self.hosts.pop(name)
        self._count_older(-(host.version < 3), name, 3)
        return host

    def _count_older(self, more: int, name: IPv4Address, version: int) -> None:
        self.older_hosts += more
        if version == 3 and self.older_last == name:
            self.older_last = None
        if not self.older_hosts:
            self.conflicts.clear()


@final
class Members:
    """The members of all groups, on all interfaces.

    Args:
        timers: Where its deadlines are set. `expire` is to be called with each key that comes up.
        most: So many groups, members and sources are remembered.
    """

    def __init__(self, timers: Timers[Key], most: int = MOST) -> None:
        self._timers: Final = timers
        self._most: Final = most
        self._groups: Final[dict[tuple[str | None, IPv4Address], Group]] = {}
        self._used = 0
        self._is_told = False
        self._is_told_of_sources = False

    def find(self, interface: str | None, group: IPv4Address) -> Group | None:
        """Return what is known of a group."""
        return self._groups.get((interface, group))

    def counts(self) -> tuple[int, int]:
        """Return how many groups there are, and how many members."""
        held = [len(group.hosts) for group in self._groups.values() if group.hosts]
        return len(held), sum(held)

    def report(
        self, now: int, interface: str | None, host: IPv4Address, record: GroupRecord, intervals: Intervals
    ) -> list[Finding]:
        """Take in a record of a report of version 3."""
        if not isinstance(record.type, GroupRecordType):
            return []  # RFC 9776 section 4.2.13: it is ignored.
        group = self.find(interface, record.group)
        known = group.hosts.get(host) if group else None
        before = known.sources if known else SourceFilter.none()
        after = _filter_after(record, before)
        if after == SourceFilter.none():
            return self._leave(now, group, host, intervals) if group and known else []
        found: list[Finding] = []
        if len(after.sources) > MOST_SOURCES:
            after = SourceFilter(after.mode, sorted(after.sources)[:MOST_SOURCES])
            if not self._is_told_of_sources:
                self._is_told_of_sources = True
                found.append(SourceLimit(now, interface, record.group, host, MOST_SOURCES))
        if known is not None and known.version == 3 and known.heard == now and known.sources == after:
            return found  # A record of the same report has said so already.
        return found + self._keep(now, interface, record.group, host, Host(after, 3, now, 0), intervals)

    def report_older(
        self,
        now: int,
        interface: str | None,
        host: IPv4Address,
        group: IPv4Address,
        version: int,
        intervals: Intervals,
    ) -> list[Finding]:
        """Take in a report of version 1 or 2."""
        return self._keep(now, interface, group, host, Host(SourceFilter.any(), version, now, 0), intervals)

    def leave(
        self, now: int, interface: str | None, host: IPv4Address, group: IPv4Address, intervals: Intervals
    ) -> list[Finding]:
        """Take in a leave of version 2."""
        known = self.find(interface, group)
        return self._leave(now, known, host, intervals) if known and host in known.hosts else []

    def ask(self, now: int, interface: str | None, group: IPv4Address, intervals: Intervals) -> None:
        """Take in a query for a group: who does not answer in time is no member (RFC 9776 section 6.6.1)."""
        known = self.find(interface, group)
        if known is not None and known.asked is None:
            known.asked = now
            self._timers.set(("asked", interface, group, None), now + intervals.last_member_time)

    def expire(self, now: int, key: Key) -> list[Finding]:
        """Do what is due at a deadline."""
        kind, interface, address, host = key
        assert address is not None
        group = self._groups[interface, address]
        if kind == "host":
            assert host is not None
            return self._expire_host(now, group, host)
        if kind == "older":
            return self._expire_older(now, group)
        if kind == "asked":
            return self._end_asking(now, group)
        return self._end(now, group, "left")

    def forget(self, now: int, interface: str | None) -> list[Finding]:
        """Forget all groups of an interface, which is gone."""
        gone = [group for (where, _), group in self._groups.items() if where == interface]
        return [record for group in gone for record in self._end(now, group, "interface")]

    def state(self, now: int) -> Iterator[GroupState]:
        """Return each member of each group."""
        for (interface, address), group in sorted(self._groups.items(), key=lambda item: _order(item[0])):
            for name, host in sorted(group.hosts.items()):
                until = host.until if host.version == 3 else group.older_until
                silent, remaining = (now - host.heard) / SECOND, (until - now) / SECOND
                sources = mode_of(host.sources)
                yield GroupState(interface, address, str(name), host.version, *sources, silent, remaining)

    def _keep(
        self,
        now: int,
        interface: str | None,
        address: IPv4Address,
        name: IPv4Address,
        host: Host,
        intervals: Intervals,
    ) -> list[Finding]:
        """Remember what a host hears. If there is no room for that, what is known of it stays."""
        group = self.find(interface, address)
        known = group.hosts.get(name) if group else None
        more = (group is None) + (known is None) + len(host.sources.sources)
        more -= len(known.sources.sources) if known else 0
        if more > 0 and self._used + more > self._most:
            return self._refuse(now, interface)
        self._used += more
        found: list[Finding] = []
        if group is None:
            group = self._groups[interface, address] = Group(interface, address)
        if known is None:
            is_first = not group.hosts and not self._drop_end(group)
            change = "first" if is_first else "joined"
            found.append(Member(now, interface, change, "reported", address, str(name), *mode_of(host.sources)))
        group.put(name, host)
        self._plan(now, group, name, host, intervals)
        return found

    def _plan(self, now: int, group: Group, name: IPv4Address, host: Host, intervals: Intervals) -> None:
        """Set the deadline at which a report would be overdue; the next one follows it."""
        overdue, host.until = now + intervals.until_overdue, now + intervals.membership
        own: Key = ("host", group.interface, group.address, name)
        if host.version == 3:
            self._timers.set(own, overdue)
            return
        self._timers.drop(own)
        group.older_heard, group.older_until, group.older_overdue = now, host.until, False
        self._timers.set(("older", group.interface, group.address, None), overdue)

    def _drop_end(self, group: Group) -> bool:
        """Let a group that was about to end go on; tell whether it was."""
        key: Key = ("end", group.interface, group.address, None)
        was = key in self._timers
        self._timers.drop(key)
        return was

    def _leave(self, now: int, group: Group, name: IPv4Address, intervals: Intervals) -> list[Finding]:
        found = self._remove(now, group, name, "left")
        if not group.hosts:
            self._timers.set(("end", group.interface, group.address, None), now + intervals.last_member_time)
        return found

    def _expire_host(self, now: int, group: Group, name: IPv4Address) -> list[Finding]:
        host = group.hosts[name]
        if not host.overdue:
            host.overdue = True
            self._timers.set(("host", group.interface, group.address, name), host.until)
            return [Expiring(now, group.interface, group.address, (name,), (host.until - now) / SECOND)]
        return self._remove_all(now, group, [name])

    def _expire_older(self, now: int, group: Group) -> list[Finding]:
        older = group.older()
        if not older:
            return []
        if not group.older_overdue:
            group.older_overdue = True
            self._timers.set(("older", group.interface, group.address, None), group.older_until)
            left = (group.older_until - now) / SECOND
            return [Expiring(now, group.interface, group.address, tuple(older[:_NAMED]), left)]
        return self._remove_all(now, group, older)

    def _end_asking(self, now: int, group: Group) -> list[Finding]:
        asked, group.asked = group.asked or now, None
        silent = [
            name
            for name, host in group.hosts.items()
            if (host.heard if host.version == 3 else group.older_heard) < asked
        ]
        return self._remove_all(now, group, silent) if silent else []

    def _remove_all(self, now: int, group: Group, names: Iterable[IPv4Address]) -> list[Finding]:
        """Remove members that were not reported again, and then the group, if nobody is left."""
        found = [record for name in names for record in self._remove(now, group, name, "expired")]
        return found if group.hosts else found + self._end(now, group, "expired")

    def _remove(self, now: int, group: Group, name: IPv4Address, reason: str) -> list[Finding]:
        host = group.take(name)
        self._used -= 1 + len(host.sources.sources)
        self._timers.drop(("host", group.interface, group.address, name))
        return [Member(now, group.interface, "left", reason, group.address, str(name), None, ())]

    def _end(self, now: int, group: Group, reason: str) -> list[Finding]:
        found = [record for name in list(group.hosts) for record in self._remove(now, group, name, reason)]
        for kind in ("older", "asked", "end"):
            self._timers.drop((kind, group.interface, group.address, None))
        del self._groups[group.interface, group.address]
        self._used -= 1
        return [*found, Member(now, group.interface, "last", reason, group.address, None, None, ())]

    def _refuse(self, now: int, interface: str | None) -> list[Finding]:
        if self._is_told:
            return []
        self._is_told = True
        return [Limit(now, interface, self._most)]


def _filter_after(record: GroupRecord, before: SourceFilter) -> SourceFilter:
    """Return what a host hears after a record. Of a host that was not heard before, the filter is INCLUDE {}."""
    sources = [each for each in record.sources if not each.is_multicast and int(each) not in (0, 0xFFFF_FFFF)]
    assert isinstance(record.type, GroupRecordType)
    if (mode := _REPLACES.get(record.type)) is not None:
        return SourceFilter(mode, sources)
    return before.allow(*sources) if record.type is GroupRecordType.ALLOW_NEW_SOURCES else before.block(*sources)


def _order(key: tuple[str | None, IPv4Address]) -> tuple[str, IPv4Address]:
    return key[0] or "", key[1]
