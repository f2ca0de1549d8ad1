"""What was asked, and who answered: numbers alone, without a network or a clock."""

from __future__ import annotations

import enum
import math
from collections import Counter
from ipaddress import IPv4Address
from typing import Final, final

import attrs

REMEMBERED: Final = 65536
"""How many requests are remembered. An answer to an older one is not known any more."""
KINDS: Final = ("unicast", "multicast")
"""How answers come."""


class Finding(enum.Enum):
    """How the answers of a responder came."""

    BOTH = "both"
    UNICAST_ONLY = "unicast only"
    MULTICAST_ONLY = "multicast only"
    NOTHING = "nothing"
    MIXED = "mixed"
    """Of several responders, or sizes, not all have the same."""

    @classmethod
    def of(cls, *, unicast: bool, multicast: bool) -> Finding:
        """Return the finding of one responder."""
        if unicast:
            return cls.BOTH if multicast else cls.UNICAST_ONLY
        return cls.MULTICAST_ONLY if multicast else cls.NOTHING


@attrs.frozen
class Heard:
    """What an answer is, beside the others.

    Args:
        octets: The size of the request.
        round_trip: In seconds.
        is_first: Whether this kind came from this responder for the first time.
        is_late: Whether it came after the time that an answer has.
        is_duplicate: Whether this kind came from this responder for this request before.
    """

    octets: int
    round_trip: float
    is_first: bool
    is_late: bool
    is_duplicate: bool


@attrs.frozen
class Figures:
    """The answers of one kind from one responder, to the requests of one size. Times are in seconds.

    Args:
        responder: Who.
        octets: The size of the requests.
        kind: "unicast" or "multicast".
        sent: How many requests were sent.
        received: How many of them were answered, each counted once.
        late: How many of those answers came late.
        lost: How many were not answered in time, or ever.
        pending: How many were not answered yet, when their time was not over.
        duplicates: How many answers came again.
        lost_before_first: How many of the lost ones were sent before the first that was answered.
        first_number: The number of that first one.
        first: When the first answer came, on the clock of the requests.
        least, mean, most, deviation: Of the round trips.
        hops: How many routers the latest answer has passed, if that is known.
    """

    responder: IPv4Address
    octets: int
    kind: str
    sent: int
    received: int
    late: int
    lost: int
    pending: int
    duplicates: int
    lost_before_first: int
    first_number: int | None
    first: float | None
    least: float | None
    mean: float | None
    most: float | None
    deviation: float | None
    hops: int | None


@attrs.frozen
class _Asked:
    at: float
    octets: int
    place: int
    """How many of this size were asked before."""


@final
class Spread:
    """The mean of numbers, and how they differ from it (Welford's method, Knuth's TAOCP 2, section 4.2.2)."""

    def __init__(self) -> None:
        self.count = 0
        self.least: float | None = None
        self.most: float | None = None
        self._mean = 0.0
        self._squares = 0.0

    def add(self, number: float) -> None:
        """Take a number in."""
        self.count += 1
        self.least = number if self.least is None else min(self.least, number)
        self.most = number if self.most is None else max(self.most, number)
        above = number - self._mean
        self._mean += above / self.count
        self._squares += above * (number - self._mean)

    @property
    def mean(self) -> float | None:
        """The mean; `None` of nothing."""
        return self._mean if self.count else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation, of all and not of a sample, as ping(8) has it; `None` of nothing."""
        return math.sqrt(self._squares / self.count) if self.count else None


@final
class _Tally:
    """What is counted for a responder, a size, and a kind."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        """The numbers of the answered requests, as far as these are remembered."""
        self.late = 0
        self.duplicates = 0
        self.arrived: float | None = None
        """When the first one came."""
        self.lowest: tuple[int, int] | None = None
        """The place and the number of the first request that was answered, whenever the answer came."""
        self.spread = Spread()
        self.hops: int | None = None

    @property
    def received(self) -> int:
        """How many requests were answered."""
        return self.spread.count

    def add(self, number: int, asked: _Asked, at: float, hops: int | None, *, is_late: bool) -> None:
        self.seen.add(number)
        self.late += is_late
        self.spread.add(at - asked.at)
        self.hops = hops
        self.arrived = at if self.arrived is None else self.arrived
        place = asked.place, number
        self.lowest = place if self.lowest is None else min(self.lowest, place)


@final
class Book:
    """The requests, and the answers to them.

    Args:
        wait: How long an answer may take, in seconds.
        expected: Who is asked, if that is known beforehand.
    """

    def __init__(self, wait: float, expected: IPv4Address | None = None) -> None:
        self._wait: Final = wait
        self._expected: Final = expected
        self._asked: Final[dict[int, _Asked]] = {}
        self._sent: Final[Counter[int]] = Counter()
        self._tallies: Final[dict[tuple[IPv4Address, int, str], _Tally]] = {}

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return self._sent.total()

    @property
    def responders(self) -> tuple[IPv4Address, ...]:
        """Who is asked, or has answered."""
        expected = [] if self._expected is None else [self._expected]
        return tuple(dict.fromkeys([*expected, *(responder for responder, _, _ in self._tallies)]))

    def ask(self, number: int, octets: int, at: float) -> None:
        """Note a request."""
        self._asked[number] = _Asked(at, octets, self._sent[octets])
        self._sent[octets] += 1
        if len(self._asked) > REMEMBERED:
            oldest = next(iter(self._asked))
            del self._asked[oldest]
            for tally in self._tallies.values():
                tally.seen.discard(oldest)

    def withdraw(self, number: int) -> None:
        """Forget the latest request: it could not be sent."""
        self._sent[self._asked.pop(number).octets] -= 1

    def take(self, number: int, responder: IPv4Address, kind: str, at: float, hops: int | None) -> Heard | None:
        """Note an answer. `None`: no such request is known."""
        asked = self._asked.get(number)
        if asked is None:
            return None
        tally = self._tallies.setdefault((responder, asked.octets, kind), _Tally())
        round_trip = max(at - asked.at, 0.0)
        is_late, is_first = round_trip > self._wait, self._is_first(responder, kind)
        is_duplicate = number in tally.seen
        if is_duplicate:
            tally.duplicates += 1
        else:
            tally.add(number, asked, asked.at + round_trip, hops, is_late=is_late)
        return Heard(asked.octets, round_trip, is_first, is_late, is_duplicate)

    def figures(self, now: float) -> list[Figures]:
        """Return the figures of each responder, by size and kind."""
        return [
            self._figures(responder, octets, kind, now)
            for responder in self.responders
            for octets in self._sent
            for kind in KINDS
        ]

    def finding(self) -> Finding:
        """Return how the answers came."""
        found = {self._finding(responder, octets) for responder in self.responders for octets in self._sent}
        if len(found) > 1:
            return Finding.MIXED
        return found.pop() if found else Finding.NOTHING

    def open_until(self) -> float:
        """Return the time until which an answer is awaited, on the clock of the requests; if none is, the first time.

        Of a group nobody knows who will answer: then it is that of the latest request.
        """
        return max((asked.at + self._wait for number, asked in self._asked.items() if self._is_open(number)), default=0)

    def _is_open(self, number: int) -> bool:
        """Tell whether an answer may come to a request."""
        octets = self._asked[number].octets
        return self._expected is None or any(
            number not in self._tally(self._expected, octets, kind).seen for kind in KINDS
        )

    def _is_first(self, responder: IPv4Address, kind: str) -> bool:
        return not any(self._tally(responder, octets, kind).received for octets in self._sent)

    def _tally(self, responder: IPv4Address, octets: int, kind: str) -> _Tally:
        return self._tallies.get((responder, octets, kind)) or _Tally()

    def _finding(self, responder: IPv4Address, octets: int) -> Finding:
        unicast, multicast = (bool(self._tally(responder, octets, kind).received) for kind in KINDS)
        return Finding.of(unicast=unicast, multicast=multicast)

    def _figures(self, responder: IPv4Address, octets: int, kind: str, now: float) -> Figures:
        tally, sent = self._tally(responder, octets, kind), self._sent[octets]
        pending = sum(
            asked.octets == octets and now < asked.at + self._wait and number not in tally.seen
            for number, asked in self._asked.items()
        )
        lost = sent - tally.received - pending
        place, number = tally.lowest or (lost, None)
        return Figures(
            responder=responder,
            octets=octets,
            kind=kind,
            sent=sent,
            received=tally.received,
            late=tally.late,
            lost=lost,
            pending=pending,
            duplicates=tally.duplicates,
            lost_before_first=min(place, lost),  # Of those before it, some may be pending.
            first_number=number,
            first=tally.arrived,
            least=tally.spread.least,
            mean=tally.spread.mean,
            most=tally.spread.most,
            deviation=tally.spread.deviation,
            hops=tally.hops,
        )
