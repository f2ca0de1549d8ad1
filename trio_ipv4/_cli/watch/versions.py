"""Older versions of IGMP beside version 3, and what is lost by them (RFC 9776 sections 7.2 and 7.3).

A host that hears a query of version 1 or 2 speaks that version, too, for a time. So the sources that it wants are not
told any more. And where one host reports a group by an older version, routers take no word about sources of this group
from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._cli.watch.querier import SECOND, Intervals
from trio_ipv4._cli.watch.records import VersionConflict

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4 import IGMPQuery
    from trio_ipv4._cli.watch.members import Group


@attrs.define
class _Older:
    """A querier of an older version."""

    address: IPv4Address
    until: int
    is_told: bool = False


@final
class Versions:
    """The versions of IGMP on one link.

    Args:
        interface: Where.
    """

    def __init__(self, interface: str | None) -> None:
        self._interface: Final = interface
        self._queriers: Final[dict[int, _Older]] = {}
        self._version_3_until = -1

    def hear_query(
        self, now: int, sender: IPv4Address, query: IGMPQuery, intervals: Intervals
    ) -> list[VersionConflict]:
        """Take in a query. Only one for all groups makes hosts change their version."""
        if query.version == 3:
            return self.hear_version_3(now, None, intervals)
        if query.group is not None:
            return []
        # RFC 9776 section 8.12, the Older Version Querier Present Timeout: hosts keep to the older version for so long.
        until = now + intervals.until_overdue + round(10 * query.max_response_time * SECOND)
        known = self._alive(now, query.version)
        self._queriers[query.version] = _Older(sender, until, known is not None and known.is_told)
        return self._tell_queriers(now)

    def hear_version_3(self, now: int, group: Group | None, intervals: Intervals) -> list[VersionConflict]:
        """Take in a query or a report of version 3."""
        self._version_3_until = now + intervals.membership
        found = self._tell_queriers(now)
        if group is not None and group.older_last is not None:
            found += self._tell_host(now, group.older_last, group, group.hosts[group.older_last].version)
        return found

    def hear_report(self, now: int, sender: IPv4Address, version: int, group: Group | None) -> list[VersionConflict]:
        """Take in a report of an older version."""
        return self._tell_host(now, sender, group, version) if group is not None else []

    def _tell_queriers(self, now: int) -> list[VersionConflict]:
        found = []
        for version in (1, 2):
            older = self._alive(now, version)
            if older is not None and not older.is_told and now <= self._version_3_until:
                older.is_told = True
                found.append(VersionConflict(now, self._interface, "querier", version, older.address, None))
        return found

    def _tell_host(self, now: int, host: IPv4Address, group: Group, version: int) -> list[VersionConflict]:
        """Tell it once. A host that follows an older querier is not to blame."""
        obeys = any(self._alive(now, each) for each in range(1, version + 1))
        if obeys or version in group.conflicts or now > self._version_3_until:
            return []
        group.conflicts.add(version)
        return [VersionConflict(now, self._interface, "host", version, host, group.address)]

    def _alive(self, now: int, version: int) -> _Older | None:
        older = self._queriers.get(version)
        return older if older is not None and now <= older.until else None
