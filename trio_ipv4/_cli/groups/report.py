"""The rows and the summary, from the kernel's tables and from what the sockets said."""

from __future__ import annotations

import functools
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4 import Interface, interfaces
from trio_ipv4._cli.groups.records import GroupListed, ProcessShown, SocketShown, Summary
from trio_ipv4._cli.kernel_tables import read_groups, read_source_counts
from trio_ipv4._cli.merge import EVERYBODY, Filter, merge
from trio_ipv4._cli.processes import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from trio_ipv4._cli.groups.records import Certainty
    from trio_ipv4._cli.groups.witness import Evidence, Key, Proven
    from trio_ipv4._cli.merge import Counts

ALL_HOSTS: Final = IPv4Address("224.0.0.1")
"""Every interface that is up is in it, without any socket (ip_mc_up in net/ipv4/igmp.c)."""
ALL_SNOOPERS: Final = IPv4Address("224.0.0.106")
"""A bridge that snoops is in it (br_ip4_multicast_join_snoopers in net/bridge/br_multicast.c; RFC 4286)."""
_SEES_ALL: Final = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
"""ptrace(2): to ask; capabilities(7): to list the descriptors of another user's process."""
_ASKS_ALL: Final = ("CAP_SYS_PTRACE",)


@attrs.frozen
class Entry:
    """A group on an interface, as the kernel's tables have it."""

    interface: str
    ifindex: int
    group: IPv4Address
    users: int
    counts: Counts

    @property
    def key(self) -> Key:
        """The interface's index, and the group."""
        return self.ifindex, self.group


def read_entries(indices: Collection[int], groups: Collection[IPv4Address]) -> list[Entry]:
    """Read the kernel's tables, for these interfaces and groups; none of a kind: all."""
    counts = read_source_counts()
    return [
        Entry(name, index, group, users, counts.get((index, group), {}))
        for group, name, index, users in read_groups()
        if (not indices or index in indices) and (not groups or group in groups)
    ]


def gather(
    read: Callable[[], list[Entry]], look: Callable[[Collection[Key]], Evidence]
) -> tuple[list[Entry], Evidence]:
    """Read the tables and ask the sockets; once more, if sockets joined in between."""
    entries = read()
    evidence = look([entry.key for entry in entries])
    if any(len(evidence.members.get(entry.key, ())) > entry.users for entry in entries):
        entries = read()
        evidence = look([entry.key for entry in entries])
    return entries, evidence


def make_rows(entries: Sequence[Entry], evidence: Evidence) -> list[GroupListed]:
    """Return a row for each entry."""
    return list(map(_Rows(evidence).make, entries))


def summarize(rows: Sequence[GroupListed], evidence: Evidence) -> Summary:
    """Return how much was seen."""
    unseen = sum(row.unseen for row in rows)
    needs = _SEES_ALL if evidence.unreadable else _ASKS_ALL if evidence.refused else ()
    if not evidence.can_ask:
        needs = ()  # None would help.
    return Summary(
        len(rows),
        sum(row.sockets for row in rows),
        unseen,
        evidence.unreadable,
        evidence.refused,
        needs if unseen else (),
        evidence.can_ask,
    )


class _Rows:
    """Makes rows; each process is looked up once."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence: Final = evidence
        self._links: Final = {interface.index: interface for interface in interfaces()}
        self._describe: Final = functools.cache(describe)
        self._suspects: Final = self._show_suspects()

    def make(self, entry: Entry) -> GroupListed:
        """Return the row of an entry."""
        members = self._evidence.members.get(entry.key, ())
        kernel = _kernel_is_member(entry, len(members), self._links.get(entry.ifindex))
        sockets = entry.users - kernel
        unseen = max(0, sockets - len(members))
        known = [each.filters[entry.key] for each in members]
        merged = merge(entry.users, entry.counts, [*known, EVERYBODY] if kernel else known)
        return GroupListed(
            entry.interface,
            entry.ifindex,
            entry.group,
            merged.filter.mode,
            tuple(sorted(merged.filter.sources)),
            merged.certain,
            sockets,
            kernel,
            (*self._show_holders(members, entry.key), *(self._suspects if unseen else ())),
            unseen,
            max(0, len(members) - sockets),
        )

    def _show_holders(self, members: Sequence[Proven], key: Key) -> list[ProcessShown]:
        sockets: dict[int, list[SocketShown]] = {}
        for each in members:
            for pid in each.pids:
                sockets.setdefault(pid, []).append(_show(each, each.filters[key]))
        return [self._show_process(pid, "proven", sockets[pid]) for pid in sorted(sockets)]

    def _show_suspects(self) -> list[ProcessShown]:
        by_process: dict[int, list[SocketShown]] = {}
        by_user: dict[str, list[SocketShown]] = {}
        for suspect in self._evidence.suspects:
            shown = SocketShown(suspect.protocol, suspect.port)
            if suspect.user is not None:
                by_user.setdefault(suspect.user, []).append(shown)
            for pid in suspect.pids:
                by_process.setdefault(pid, []).append(shown)
        return [
            *(self._show_process(pid, "possible", by_process[pid]) for pid in sorted(by_process)),
            *(ProcessShown(None, None, user, "possible", tuple(by_user[user])) for user in sorted(by_user)),
        ]

    def _show_process(self, pid: int, certainty: Certainty, sockets: Sequence[SocketShown]) -> ProcessShown:
        process = self._describe(pid)
        return ProcessShown(pid, process.name, process.user, certainty, tuple(sockets))


def _kernel_is_member(entry: Entry, members: int, link: Interface | None) -> bool:
    if link is None:
        return False
    if entry.group == ALL_HOSTS:
        return link.is_up
    return entry.group == ALL_SNOOPERS and link.kind == "bridge" and entry.users > members


def _show(each: Proven, hears: Filter) -> SocketShown:
    return SocketShown(each.protocol, each.port, hears.mode, tuple(sorted(hears.sources)))
