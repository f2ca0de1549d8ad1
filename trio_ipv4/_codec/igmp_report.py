"""The report that a host sends about a group when it is asked, in each version of IGMP (RFC 9776 section 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._values.igmp import IGMPv1Report, IGMPv2Report, IGMPv3Report
from trio_ipv4._values.igmp_record import GroupRecord
from trio_ipv4._values.source_filter import ANY, FilterMode

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4._values.source_filter import SourceFilter

_OLDER: Final = {1: IGMPv1Report, 2: IGMPv2Report}


def igmp_report(version: int, group: IPv4Address, sources: SourceFilter) -> bytes:
    """Write a report that asks for no less than `sources`.

    It speaks for one socket, and there may be others: so a filter that excludes sources is reported without them, lest
    others miss these. Before version 3 a report names no sources.
    """
    if version in _OLDER:
        return _OLDER[version](group).marshal()
    wanted = sources if sources.mode is FilterMode.INCLUDE else ANY
    return IGMPv3Report([GroupRecord.current(group, wanted)]).marshal()
