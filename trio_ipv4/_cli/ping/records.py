"""What `ping` shows."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import ClassVar

import attrs

from trio_ipv4._cli.output import Column, Remark, Row, Sentence
from trio_ipv4._cli.ping.protocol import PORT
from trio_ipv4._cli.ping.statistics import Finding


@attrs.frozen
class PingStarted(Remark):
    """What is asked, and where the answers are expected."""

    event: ClassVar[str] = "start"
    target: IPv4Address
    port: int
    group: IPv4Address
    source_specific: bool
    interfaces: tuple[str, ...]
    octets: tuple[int, ...]
    ttl: int

    def text(self) -> str:
        """Return the words, as one line."""
        where = f"on {_enumerate(self.interfaces)}" if self.interfaces else "on no interface"
        sizes = ", ".join(map(str, self.octets))
        if self.target.is_multicast:
            whom = f"all members of {self.group}, port {self.port}, {where}"
            return f"Asking {whom}, with TTL {self.ttl}: {sizes} octets."
        source = f" from {self.target} alone" if self.source_specific else ""
        return f"Asking {self.target}, port {self.port}: {sizes} octets. Joined {self.group}{source} {where}."


@attrs.frozen
class Answer(Row):
    """An answer; or an error that came for a request."""

    event: ClassVar[str] = "answer"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("#", width=4, right=True),
        Column("from", width=15),
        Column("kind", width=9),
        Column("ms", width=8, right=True),
        Column("hops", width=4, gives_way=1, right=True),
        Column("size", width=5, gives_way=2, right=True),
        Column("remark"),
    )
    number: int | None
    responder: IPv4Address | None
    kind: str
    round_trip_seconds: float | None
    hops: int | None
    ttl: int | None
    octets: int | None
    late: bool
    duplicate: bool
    error: str | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        marks = [word for word, is_so in (("late", self.late), ("duplicate", self.duplicate)) if is_so]
        return (
            _or_dash(self.number),
            _or_dash(self.responder),
            self.kind,
            milliseconds(self.round_trip_seconds),
            "-" if self.error is not None else "unknown" if self.hops is None else str(self.hops),
            _or_dash(self.octets),
            self.error or ", ".join(marks),
        )

    def style(self) -> str:
        """Return how a terminal shows the row, in rich's terms."""
        return "red" if self.error is not None else "yellow" if self.late or self.duplicate else ""


@attrs.frozen
class ResponderFound(Remark):
    """A responder has answered for the first time, and says what it is."""

    event: ClassVar[str] = "responder"
    responder: IPv4Address
    version: str

    def text(self) -> str:
        """Return the words, as one line."""
        return f"{self.responder} is a responder, version {self.version}."


@attrs.frozen
class MulticastCame(Remark):
    """The multicast of a responder came for the first time."""

    event: ClassVar[str] = "first_multicast"
    responder: IPv4Address
    number: int
    seconds_after_join: float

    def text(self) -> str:
        """Return the words, as one line."""
        only = "only from" if self.number > 1 else "from"
        return f"{self.responder}: multicast {only} #{self.number} on, {self.seconds_after_join:.3f} s after the join."


@attrs.frozen
class Hint(Remark):
    """What to know, or to do, about what is going on."""

    event: ClassVar[str] = "hint"
    hint: str

    def text(self) -> str:
        """Return the words, as one line."""
        return self.hint


@attrs.frozen
class Statistics(Row):
    """The answers of one kind from one responder, to the requests of one size."""

    event: ClassVar[str] = "statistics"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("from"),
        Column("kind"),
        Column("octets", gives_way=3, right=True),
        Column("sent", right=True),
        Column("received", right=True),
        Column("lost", right=True),
        Column("duplicates", gives_way=5, right=True),
        Column("late", gives_way=4, right=True),
        Column("min/avg/max/mdev ms", gives_way=1),
        Column("hops", gives_way=2, right=True),
    )
    responder: IPv4Address
    kind: str
    octets: int
    sent: int
    received: int
    lost: int
    lost_before_first: int
    pending: int
    late: int
    duplicates: int
    min_seconds: float | None
    mean_seconds: float | None
    max_seconds: float | None
    deviation_seconds: float | None
    hops: int | None
    first_number: int | None
    first_seconds_after_join: float | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        had_their_time = self.received + self.lost
        share = f"{self.lost / had_their_time:.0%}" if had_their_time else "-"
        times = (self.min_seconds, self.mean_seconds, self.max_seconds, self.deviation_seconds)
        return (
            str(self.responder),
            self.kind,
            str(self.octets),
            str(self.sent),
            str(self.received),
            share if not self.lost else f"{self.lost}, {share}",
            str(self.duplicates),
            str(self.late),
            "/".join(map(milliseconds, times)) if self.received else "-",
            _or_dash(self.hops),
        )


@attrs.frozen
class Loss:
    """How many answers of a kind are missing.

    Args:
        kind: "unicast" or "multicast".
        lost: How many.
        of: How many should have come.
        before_first: How many of the lost ones belong to requests before the first that was answered.
    """

    kind: str
    lost: int
    of: int
    before_first: int

    def text(self) -> str:
        """Return the words, as a part of a sentence."""
        were = "was" if self.lost == 1 else "were"
        early = self.kind == "multicast" and self.before_first == self.lost
        when = ", before the join took effect" if early else ""
        return f"{self.lost} of {_count(self.of, f'{self.kind} answer')} {were} lost{when}"


@attrs.frozen
class PingSummary(Sentence):
    """The finding."""

    event: ClassVar[str] = "summary"
    finding: str
    target: IPv4Address
    group: IPv4Address
    sent: int
    responders: tuple[IPv4Address, ...]
    errors: int
    ignored: int
    drops: int
    losses: tuple[Loss, ...]
    seconds: float

    def text(self) -> str:
        """Return the words, as one line."""
        who = _enumerate(self.responders) or "nobody"
        both = "; ".join([f"unicast and multicast came from {who}", *(loss.text() for loss in self.losses)])
        words = {
            Finding.BOTH.value: f"Both: {both}.",
            Finding.UNICAST_ONLY.value: f"Unicast only: from {who}, no multicast to {self.group} came.",
            Finding.MULTICAST_ONLY.value: f"Multicast only: from {who}, no unicast came.",
            Finding.MIXED.value: f"Mixed: not all of {who} came both ways, in every size.",
            Finding.NOTHING.value: f"Nothing: no answer from {self.target} came.",
        }[self.finding]
        drops = f" This host itself has dropped {_count(self.drops, 'datagram')}." if self.drops else ""
        return f"{words} {_count(self.sent, 'request')} in {_duration(self.seconds)}.{drops}"

    def style(self) -> str:
        """Return how a terminal shows them, in rich's terms."""
        if self.finding != Finding.BOTH.value:
            return "red"
        return "yellow" if self.losses else "green"


@attrs.frozen
class ServingStarted(Remark):
    """A responder is ready."""

    event: ClassVar[str] = "start"
    port: int
    groups: tuple[IPv4Address, ...]
    interfaces: tuple[str, ...]
    limit: int
    addresses: tuple[IPv4Address, ...]

    def text(self) -> str:
        """Return the words, as one line."""
        only = f", on {_enumerate(self.interfaces)} alone" if self.interfaces else ""
        whose = " and of ".join(["this host", *map(str, self.groups)])
        words = f"Answering requests to port {self.port} of {whose}{only}: at most {self.limit} in a second."
        if not self.addresses:
            return words
        port = "" if self.port == PORT else f" --port {self.port}"
        return f"{words} On another host: trio-ipv4 ping {self.addresses[0]}{port}"


@attrs.frozen
class ClientCame(Row):
    """Somebody asked who has not asked before, or not for long."""

    event: ClassVar[str] = "client"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("client", width=21),
        Column("asked", width=15),
        Column("on", width=8, gives_way=2),
        Column("answers to", width=15),
        Column("octets", width=6, gives_way=1, right=True),
    )
    client: IPv4Address
    port: int
    asked: IPv4Address
    interface: str
    group: IPv4Address
    answers_in_group: bool
    octets: int

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (
            f"{self.client}:{self.port}",
            str(self.asked),
            self.interface,
            str(self.group) if self.answers_in_group else "unicast only",
            str(self.octets),
        )


@attrs.frozen
class ServingSummary(Sentence):
    """What a responder has done."""

    event: ClassVar[str] = "summary"
    clients: int
    requests: int
    answered_by_unicast: int
    answered_by_multicast: int
    ignored: int
    over_limit: int
    refused: int
    drops: int
    seconds: float

    def text(self) -> str:
        """Return the words, as one line."""
        others = [
            f"{number} {what}"
            for number, what in (
                (self.ignored, "ignored"),
                (self.over_limit, "over the limit"),
                (self.refused, "answers refused by the kernel"),
                (self.drops, "dropped by this host itself"),
            )
            if number
        ]
        asked = f"{_count(self.requests, 'request')} from {_count(self.clients, 'client')} in {_duration(self.seconds)}"
        answered = f"{self.answered_by_unicast} answered by unicast, {self.answered_by_multicast} by multicast"
        return f"{asked}: {', '.join([answered, *others])}."


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds, with microseconds."""
    return "-" if seconds is None else f"{seconds * 1000:.3f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _enumerate(items: Sequence[object]) -> str:
    """Return "A", "A and B", or "A, B and C"."""
    *first, last = map(str, items) if items else [""]
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
