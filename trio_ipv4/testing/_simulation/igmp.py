"""IGMPv3 between hosts and links: reports and queries (RFC 9776)."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeAlias

from trio_ipv4 import (
    FilterMode,
    GroupRecord,
    GroupRecordType,
    IGMPLeave,
    IGMPMessage,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    ParseError,
    parse_igmp,
)
from trio_ipv4._values import igmp_record
from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE
from trio_ipv4.testing._simulation.packets import ALL_SYSTEMS, ANY, IGMP, Packet

if TYPE_CHECKING:
    from collections.abc import Iterable

State: TypeAlias = tuple[int, frozenset[bytes]]
"""Mode and sources of an interface's group."""
NOTHING: Final[State] = (INCLUDE, frozenset())

ALL_ROUTERS: Final = b"\xe0\0\0\x16"
"""224.0.0.22, where version 3 reports go (RFC 9776 section 4.2.15)."""
QUERY_INTERVAL: Final = 125
QUERY_RESPONSE_INTERVAL: Final = 10.0
MEMBERSHIP_INTERVAL: Final = 260.0
UNSOLICITED_REPORT_INTERVAL: Final = 1.0
"""In seconds: RFC 9776 section 8."""
_ROBUSTNESS: Final = 2
_MODES: Final = {INCLUDE: FilterMode.INCLUDE, EXCLUDE: FilterMode.EXCLUDE}
_CURRENT: Final = {INCLUDE: GroupRecordType.MODE_IS_INCLUDE, EXCLUDE: GroupRecordType.MODE_IS_EXCLUDE}
_ROUTER_ALERT: Final = bytes([0x94, 4, 0, 0])
"""RFC 2113."""
_INTERNETWORK_CONTROL: Final = 0xC0
"""The TOS of every message (RFC 9776 section 4)."""


def announce(group: bytes, before: State, after: State) -> tuple[GroupRecord, ...]:
    """Return the records that announce a change (RFC 9776 section 5.1)."""
    (old_mode, old), (mode, new) = before, after
    found = igmp_record.changes(_MODES[old_mode], old, _MODES[mode], new)
    return tuple(_record(kind, group, sources) for kind, sources in found)


def current(group: bytes, state: State) -> GroupRecord:
    """Return the record that answers a query."""
    mode, sources = state
    return _record(_CURRENT[mode], group, sources)


def report(source: bytes, records: Iterable[GroupRecord]) -> Packet:
    """Write a report."""
    return _packet(source, ALL_ROUTERS, IGMPv3Report(records))


def general_query() -> Packet:
    """Write a query for all groups, as a switch sends it that has no address (RFC 4541 section 2.1.1)."""
    query = IGMPQuery(max_response_time=QUERY_RESPONSE_INTERVAL, robustness=_ROBUSTNESS, query_interval=QUERY_INTERVAL)
    return _packet(ANY, ALL_SYSTEMS, query)


def is_general_query(message: bytes) -> bool:
    """Tell whether a message asks for all groups."""
    with contextlib.suppress(ParseError):
        parsed = parse_igmp(message)
        return isinstance(parsed, IGMPQuery) and parsed.group is None
    return False


def read_report(message: bytes) -> tuple[GroupRecord, ...]:
    """Return the records of a report of any version; of another message, nothing."""
    with contextlib.suppress(ParseError):
        parsed = parse_igmp(message)
        if isinstance(parsed, IGMPv3Report):
            return parsed.records
        # What the older messages say in terms of version 3 (RFC 9776 section 7.3.2).
        if isinstance(parsed, IGMPv1Report | IGMPv2Report):
            return (GroupRecord(GroupRecordType.MODE_IS_EXCLUDE, parsed.group),)
        if isinstance(parsed, IGMPLeave):
            return (GroupRecord(GroupRecordType.CHANGE_TO_INCLUDE_MODE, parsed.group),)
    return ()


def state_after(record: GroupRecord, before: State) -> State:
    """Return what is wanted of a group after a record, at once: nobody is asked again (RFC 9776 section 6.4)."""
    mode, heard = before
    sources = frozenset(each.packed for each in record.sources)
    if record.type in (GroupRecordType.MODE_IS_INCLUDE, GroupRecordType.CHANGE_TO_INCLUDE_MODE):
        return INCLUDE, sources
    if record.type in (GroupRecordType.MODE_IS_EXCLUDE, GroupRecordType.CHANGE_TO_EXCLUDE_MODE):
        return EXCLUDE, sources
    is_more = (record.type == GroupRecordType.ALLOW_NEW_SOURCES) == (mode == INCLUDE)
    return mode, heard | sources if is_more else heard - sources


def _record(kind: GroupRecordType, group: bytes, sources: frozenset[bytes]) -> GroupRecord:
    return GroupRecord(kind, IPv4Address(group), map(IPv4Address, sorted(sources)))


def _packet(source: bytes, destination: bytes, message: IGMPMessage) -> Packet:
    return Packet(source, destination, IGMP, message.marshal(), 1, _INTERNETWORK_CONTROL, options=_ROUTER_ALERT)
