"""Who asks on a link: the election of a querier, and the intervals that it sets (RFC 9776 sections 6.6.2 and 8).

Of several routers the one with the lowest address asks; the others fall silent. A switch that has no address asks from
0.0.0.0 (RFC 4541 section 2.1.1). It never wins against an address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._cli.watch.records import QuerierChange, QuerierState

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4 import IGMPQuery

SECOND: Final = 10**9
"""In nanoseconds, as all times here."""
_ROBUSTNESS: Final = 2  # RFC 9776 sections 8.1 to 8.3 and 8.8
_QUERY_INTERVAL: Final = 125.0
_RESPONSE_INTERVAL: Final = 10.0
_LAST_MEMBER_INTERVAL: Final = 1.0


@final
@attrs.frozen
class Intervals:
    """What a querier tells of its timers, or the values of the RFC where it does not.

    Args:
        robustness: How many times something is sent, because some may get lost.
        query: The time between two queries for all groups, in seconds.
        response: How long hosts may take to answer these, in seconds.
        last_member: How long they may take to answer a query for one group, in seconds.
    """

    robustness: int = _ROBUSTNESS
    query: float = _QUERY_INTERVAL
    response: float = _RESPONSE_INTERVAL
    last_member: float = _LAST_MEMBER_INTERVAL

    @property
    def until_overdue(self) -> int:
        """How long after a report all the queries that a member may miss have gone unanswered."""
        return round(self.robustness * self.query * SECOND)

    @property
    def membership(self) -> int:
        """How long after the last report a member is forgotten (section 8.4)."""
        return self.until_overdue + round(2 * self.response * SECOND)

    @property
    def other_querier(self) -> int:
        """How long after its last query a querier is taken for gone (section 8.5)."""
        return self.until_overdue + round(self.response / 2 * SECOND)

    @property
    def last_member_time(self) -> int:
        """How long after a leave, or a query for the group, it is clear that nobody wants it (section 8.10)."""
        return round(self.robustness * self.last_member * SECOND)

    def after(self, query: IGMPQuery) -> Intervals:
        """Return the intervals after a query."""
        if query.group is not None:
            return attrs.evolve(self, last_member=query.max_response_time)
        return attrs.evolve(
            self,
            robustness=query.robustness or _ROBUSTNESS,
            query=float(query.query_interval or _QUERY_INTERVAL),
            response=query.max_response_time,
        )


@final
class QuerierWatch:
    """The querier of one link.

    Args:
        interface: Where.
        now: Since when it is watched.
    """

    def __init__(self, interface: str | None, now: int) -> None:
        self._interface: Final = interface
        self._heard = now
        self._address: IPv4Address | None = None
        self._version: int | None = None
        """`None`: there is no querier."""
        self._was_heard = False
        self.intervals = Intervals()

    @property
    def deadline(self) -> int:
        """When silence is worth telling."""
        return self._heard + self.intervals.other_querier

    @property
    def is_present(self) -> bool:
        """Whether somebody asks."""
        return self._version is not None

    def hear(self, now: int, sender: IPv4Address, query: IGMPQuery) -> list[QuerierChange]:
        """Take in a query. One of a router that has lost the election changes nothing."""
        present, before = self.is_present, self._address
        address = sender if int(sender) else None
        if present and _rank(address) > _rank(before):
            return []
        self._heard, self._address, self._version, self._was_heard = now, address, query.version, True
        self.intervals = self.intervals.after(query)
        if present and address == before:
            return []
        change = "proxy" if address is None else "changed" if before is not None else "elected"
        return [QuerierChange(now, self._interface, change, address, before, query.version, None)]

    def fall_silent(self, now: int) -> list[QuerierChange]:
        """Tell that nobody asks, at the deadline."""
        gone, version = self._address, self._version
        self._address = self._version = None
        change = "silent" if self._was_heard else "none"
        silent = (now - self._heard) / SECOND
        return [QuerierChange(now, self._interface, change, None, gone, version, silent)]

    def state(self, now: int) -> QuerierState:
        """Return how things are."""
        interval = self.intervals.query if self.is_present else None
        silent = (now - self._heard) / SECOND
        known = self._was_heard or now >= self.deadline
        return QuerierState(self._interface, self._address, self._version, silent, interval, known)


def _rank(address: IPv4Address | None) -> tuple[bool, int]:
    """Return by what the lower address wins."""
    return address is None, int(address or 0)
