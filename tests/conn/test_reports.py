"""The reports by which a host announces its filters are those of `GroupRecord.between`, on both networks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from support.here import BOTH
from trio_ipv4 import (
    GroupRecord,
    GroupRecordType,
    IGMPv3Report,
    PacketConn,
    SourceFilter,
    open_ip,
    open_udp,
    parse_igmp,
)

if TYPE_CHECKING:
    from trio_ipv4.testing import Network

pytestmark = BOTH

GROUP = "239.1.2.3"
ALL_ROUTERS = "224.0.0.22"
A, B, C = "198.18.9.1", "198.18.9.2", "198.18.9.3"
FILTERS = {
    "any": SourceFilter.any(),
    "a": SourceFilter.include(A),
    "a b": SourceFilter.include(A, B),
    "b c": SourceFilter.include(B, C),
    "not a": SourceFilter.exclude(A),
    "not b c": SourceFilter.exclude(B, C),
}
ANSWERS = {GroupRecordType.MODE_IS_INCLUDE, GroupRecordType.MODE_IS_EXCLUDE}
"""The lab's switch asks from time to time."""
SILENCE = 1.0
"""Seconds without a report after which a change is announced."""


async def hear(conn: PacketConn) -> set[GroupRecord]:
    """Return the records of the group that come until the link is silent. Each report comes twice."""
    records: set[GroupRecord] = set()
    with trio.move_on_after(SILENCE) as scope:
        async for datagram in conn:
            message = parse_igmp(datagram.payload)
            assert isinstance(message, IGMPv3Report)
            records |= {each for each in message.records if str(each.group) == GROUP and each.type not in ANSWERS}
            scope.deadline = trio.current_time() + SILENCE
    return records


def sorted_records(records: set[GroupRecord]) -> set[GroupRecord]:
    """The kernel reports sources in an order of its own."""
    return {GroupRecord(record.type, record.group, sorted(record.sources)) for record in records}


@pytest.mark.parametrize(
    ("first", "last"),
    [("any", "a"), ("a", "any"), ("a b", "b c"), ("not a", "not b c"), ("not b c", "a b"), ("a", "not a")],
)
async def test_a_join_a_change_and_a_leave_are_announced(first: str, last: str, two_links: Network) -> None:
    a, b = two_links["a"], two_links["b"]
    for host in (a, b):
        with contextlib.suppress(KeyError):  # In a simulation the second report comes within a second, too.
            host.set_sysctl("net.ipv4.conf.en0.igmpv3_unsolicited_report_interval", 20)
    before, after, nothing = FILTERS[first], FILTERS[last], SourceFilter.none()
    async with b.call(open_ip, 2) as wire, wire.joined("en0", ALL_ROUTERS), a.call(open_udp) as conn:
        await hear(wire)
        async with conn.joined("en0", GROUP, sources=before) as membership:
            assert sorted_records(await hear(wire)) == set(GroupRecord.between(GROUP, nothing, before))
            membership.set_sources(after)
            assert sorted_records(await hear(wire)) == set(GroupRecord.between(GROUP, before, after))
        assert sorted_records(await hear(wire)) == set(GroupRecord.between(GROUP, after, nothing))
