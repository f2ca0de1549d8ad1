"""The state machine of `watch`: packets and time go in, records come out. It knows neither sockets nor clocks.

Time is in nanoseconds, from any clock that does not go back. Before a packet is taken in, all that was due is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import attrs

from trio_ipv4 import IGMPLeave, IGMPMessage, IGMPOther, IGMPQuery, IGMPv1Report, IGMPv2Report, IGMPv3Report
from trio_ipv4._cli.watch.members import MOST, Key, Members
from trio_ipv4._cli.watch.messages import Leave, Malformed, Other, Query, Report, is_wish_of_switch
from trio_ipv4._cli.watch.packets import Arrival, read_packet
from trio_ipv4._cli.watch.querier import QuerierWatch
from trio_ipv4._cli.watch.timers import Timers
from trio_ipv4._cli.watch.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

    from trio_ipv4 import GroupRecordType
    from trio_ipv4._cli.watch.messages import Line, Message
    from trio_ipv4._cli.watch.records import Finding, GroupState, QuerierState


@attrs.frozen
class _Link:
    """What is known of an interface's link."""

    querier: QuerierWatch
    versions: Versions


@final
class Watcher:
    """Reads IGMP, and follows from it who asks, and who is a member.

    Args:
        most: So many groups, members and sources are remembered.
    """

    def __init__(self, most: int = MOST) -> None:
        self._timers: Final[Timers[Key]] = Timers()
        self._members: Final = Members(self._timers, most)
        self._links: Final[dict[str | None, _Link]] = {}
        self._now = 0
        self.messages = 0
        self.malformed = 0

    def begin(self, now: int, interface: str | None) -> None:
        """Begin to watch an interface: from now on it is worth telling that nobody asks."""
        if interface not in self._links:
            link = self._links[interface] = _Link(QuerierWatch(interface, now), Versions(interface))
            self._timers.set(("querier", interface, None, None), link.querier.deadline)

    def end(self, now: int, interface: str) -> list[Line]:
        """Forget an interface, which is gone."""
        found: list[Line] = [*self.advance(now), *self._members.forget(now, interface)]
        self._timers.drop(("querier", interface, None, None))
        self._links.pop(interface, None)
        return found

    def next_deadline(self) -> int | None:
        """Return when `advance` will have something to do."""
        return self._timers.next_deadline()

    def advance(self, now: int) -> list[Line]:
        """Do what is due until now."""
        found: list[Line] = []
        while (due := self._timers.pop(now)) is not None:
            when, key = due
            found += self._expire(when, key)
        self._now = max(self._now, now)
        return found

    def hear(self, now: int, interface: str | None, packet: bytes, *, outgoing: bool | None = None) -> list[Line]:
        """Take in an IP packet. One that is not IGMP is passed over.

        Args:
            now: When it came.
            interface: Where.
            packet: From its IP header on.
            outgoing: Whether this host sent it, if that is known.
        """
        arrival = read_packet(packet)
        if arrival is None:
            return []
        self.messages += 1
        self.malformed += arrival.message is None
        common = {
            "timestamp_ns": now,
            "interface": interface,
            "message": self.messages,
            "sender": arrival.sender,
            "destination": arrival.destination,
            "ttl": arrival.ttl,
            "outgoing": outgoing,
            "problems": arrival.problems,
        }
        now = max(now, self._now)  # The times in a capture may go back.
        found: list[Line] = self.advance(now)
        self.begin(now, interface)
        found += _tell(arrival, common)
        if arrival.message is not None and arrival.sender is not None and arrival.header_is_whole:
            found += self._follow(now, interface, arrival.sender, arrival.message)
        return found

    def has_querier(self) -> bool:
        """Whether a query was heard, and the querier is not silent since."""
        return any(link.querier.is_present for link in self._links.values())

    def querier_states(self) -> list[QuerierState]:
        """Return the querier of each interface."""
        return [link.querier.state(self._now) for link in self._links.values()]

    def member_states(self) -> Iterator[GroupState]:
        """Return each member of each group."""
        return self._members.state(self._now)

    def counts(self) -> tuple[int, int]:
        """Return how many groups there are, and how many members."""
        return self._members.counts()

    def _expire(self, when: int, key: Key) -> list[Finding]:
        if key[0] == "querier":
            return [*self._links[key[1]].querier.fall_silent(when)]
        return self._members.expire(when, key)

    def _follow(self, now: int, interface: str | None, sender: IPv4Address, message: IGMPMessage) -> list[Finding]:
        """Follow from a message what has changed."""
        link, members = self._links[interface], self._members
        intervals = link.querier.intervals
        found: list[Finding] = []
        match message:
            case IGMPQuery():
                found += self._follow_query(now, interface, sender, message)
            case IGMPv3Report():
                for record in message.records:
                    if is_wish_of_switch(sender, record.group):
                        continue
                    found += members.report(now, interface, sender, record, intervals)
                    group = members.find(interface, record.group)
                    found += link.versions.hear_version_3(now, group, intervals)
            case IGMPv1Report() | IGMPv2Report() if not is_wish_of_switch(sender, message.group):
                version = 1 if isinstance(message, IGMPv1Report) else 2
                found += members.report_older(now, interface, sender, message.group, version, intervals)
                group = members.find(interface, message.group)
                found += link.versions.hear_report(now, sender, version, group)
            case IGMPLeave():
                found += members.leave(now, interface, sender, message.group, intervals)
            case _:
                pass
        return found

    def _follow_query(self, now: int, interface: str | None, sender: IPv4Address, query: IGMPQuery) -> list[Finding]:
        link = self._links[interface]
        found: list[Finding] = [*link.querier.hear(now, sender, query)]
        if link.querier.is_present:
            self._timers.set(("querier", interface, None, None), link.querier.deadline)
        # With S, routers leave their timers alone (RFC 9776 section 4.1.5). For sources, no timer is kept here.
        if query.group is not None and not query.sources and not query.suppress_router_processing:
            self._members.ask(now, interface, query.group, link.querier.intervals.after(query))
        return [*found, *link.versions.hear_query(now, sender, query, link.querier.intervals)]


def _tell(arrival: Arrival, common: dict[str, Any]) -> list[Message]:
    """Return the records that tell a message."""
    message = arrival.message
    match message:
        case IGMPQuery():
            return [_query(message, common)]
        case IGMPv1Report() | IGMPv2Report():
            version = 1 if isinstance(message, IGMPv1Report) else 2
            return [_report(common, version=version, group=message.group)]
        case IGMPv3Report():
            return _reports(message, common)
        case IGMPLeave():
            return [Leave(**common, group=message.group)]
        case IGMPOther():
            return [Other(**common, type=message.type, code=message.code, octets=len(message.body))]
        case None:
            return [_malformed(arrival, common)]


def _query(query: IGMPQuery, common: dict[str, Any]) -> Query:
    return Query(
        **common,
        version=query.version,
        group=query.group,
        sources=query.sources,
        max_response_seconds=query.max_response_time,
        suppress_router_processing=query.suppress_router_processing,
        robustness=query.robustness,
        query_interval_seconds=query.query_interval,
    )


def _reports(report: IGMPv3Report, common: dict[str, Any]) -> list[Message]:
    count = len(report.records)
    if count == 0:
        return [_report(common, version=3, group=None, record=0, records=0)]
    return [
        _report(
            common,
            version=3,
            group=each.group,
            record=number,
            records=count,
            record_type=each.type,
            sources=each.sources,
            auxiliary_octets=len(each.auxiliary),
        )
        for number, each in enumerate(report.records, 1)
    ]


def _report(
    common: dict[str, Any],
    *,
    version: int,
    group: IPv4Address | None,
    record: int = 1,
    records: int = 1,
    record_type: GroupRecordType | int | None = None,
    sources: tuple[IPv4Address, ...] = (),
    auxiliary_octets: int = 0,
) -> Report:
    return Report(
        **common,
        version=version,
        record=record,
        records=records,
        record_type=record_type,
        group=group,
        sources=sources,
        auxiliary_octets=auxiliary_octets,
    )


def _malformed(arrival: Arrival, common: dict[str, Any]) -> Malformed:
    return Malformed(
        **common,
        type=arrival.type,
        checksum_ok=arrival.checksum_ok,
        group=arrival.group,
        reason=arrival.fault or "",
        offset=arrival.offset or 0,
        payload=arrival.payload,
    )
