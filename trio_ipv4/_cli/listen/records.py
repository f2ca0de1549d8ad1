"""What `listen` has to show."""

from __future__ import annotations

import shlex
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from trio_ipv4._cli.listen.figures import (
    show_optional,
    show_range,
    show_rate,
    show_seconds,
    show_share,
    show_tos,
)
from trio_ipv4._cli.output import Column, Remark, Row, Sentence, many

if TYPE_CHECKING:
    from trio_ipv4._cli.arguments import GroupPort
    from trio_ipv4._cli.listen.flows import Flow

_FORGOTTEN: Final = range(240, 281)
"""In seconds. A switch that snoops without a querier forgets a member 260 s after its report (RFC 3376 section 8.4, the
Group Membership Interval with the default values)."""
_COLUMNS: Final = (
    Column("group"),
    Column("source"),
    Column("interface"),
    Column("datagrams/s", right=True),
    Column("bit/s", gives_way=5, right=True),
    Column("datagrams", gives_way=3, right=True),
    Column("lost", gives_way=1, right=True),
    Column("dup.", gives_way=7, right=True),
    Column("reordered", gives_way=8, right=True),
    Column("jitter", gives_way=6, right=True),
    Column("longest gap", gives_way=9, right=True),
    Column("TTL", gives_way=2, right=True),
    Column("TOS", gives_way=4),
    Column("octets", gives_way=10, right=True),
)


@attrs.frozen
class Started(Remark):
    """What is listened to, and where."""

    event: ClassVar[str] = "start"
    groups: tuple[str, ...]
    interfaces: tuple[str, ...]
    mode: str
    sources: tuple[IPv4Address, ...]
    buffer_octets: int

    def text(self) -> str:
        """Return the words."""
        where = f"on {', '.join(self.interfaces)}" if self.interfaces else "on no interface so far"
        listed = ", ".join(map(str, self.sources))
        which = "only " if self.mode == "include" else "all sources but "
        return f"Listening to {', '.join(self.groups)} {where}{listed and f', {which}{listed}'}."


@attrs.frozen
class Waiting(Remark):
    """An interface that does not exist yet; `None` if there is no suitable one at all."""

    event: ClassVar[str] = "waiting"
    interface: str | None

    def text(self) -> str:
        """Return the words."""
        if self.interface is None:
            return "No interface is up and supports multicast. Those that come are joined. --interface takes any."
        return f"There is no interface {self.interface} yet. It is joined when it comes."


@attrs.frozen
class Joined(Remark):
    """An interface that was joined later than at the start."""

    event: ClassVar[str] = "joined"
    group: str
    interface: str

    def text(self) -> str:
        """Return the words."""
        return f"{self.group} is joined on {self.interface} now."


@attrs.frozen
class Left(Joined):
    """An interface that went, or no longer matches."""

    event: ClassVar[str] = "left"

    def text(self) -> str:
        """Return the words."""
        return f"{self.group} is no longer joined on {self.interface}: it went, or was set down."


@attrs.frozen
class Refused(Remark):
    """An interface on which the kernel refused the join."""

    event: ClassVar[str] = "refused"
    group: str
    interface: str
    reason: str

    def text(self) -> str:
        """Return the words."""
        return f"{self.group} is not joined on {self.interface}: {self.reason}"


@attrs.frozen
class Nothing(Remark):
    """Groups of which nothing has come yet.

    Args:
        groups: The groups.
        seconds: For how long.
        doctor: The commands that find out why, one for each group on each interface.
    """

    event: ClassVar[str] = "nothing_yet"
    groups: tuple[str, ...]
    seconds: float
    doctor: tuple[str, ...]

    def text(self) -> str:
        """Return the words."""
        return (
            f"Nothing has come to {', '.join(self.groups)} for {self.seconds:g} s. Are group, port and interface those "
            f"of the sender? This finds out why: {self.doctor[0]}"
        )


def ask_doctor(endpoint: GroupPort, interface: str | None, source: IPv4Address | None) -> str:
    """Return the command that finds out why nothing arrives."""
    words = ["trio-ipv4", "doctor", f"{endpoint.group}:{endpoint.port or 'PORT'}"]
    words += ["--interface", interface] if interface is not None else []
    words += ["--source", str(source)] if source is not None else []
    return shlex.join(words)


@attrs.frozen
class ManyFlows(Remark):
    """There are more flows than are shown in an interval, or kept apart."""

    event: ClassVar[str] = "many_flows"
    shown: int
    kept_apart: int
    is_over: bool

    def text(self) -> str:
        """Return the words."""
        if self.is_over:
            return f"There are more than {self.kept_apart:,} flows. The datagrams of the others are counted together."
        return f"There are many flows. Of each interval the {self.shown} busiest are shown; the summary has all."


@attrs.frozen
class Dropped(Sentence):
    """Datagrams that the kernel dropped at a socket since the last time."""

    event: ClassVar[str] = "dropped"
    group: str
    datagrams: int
    total: int
    buffer_octets: int

    def text(self) -> str:
        """Return the words."""
        return (
            f"{self.group}: the kernel dropped {many(self.datagrams, 'datagram')} ({self.total:,} so far): the "
            f"receive buffer of {self.buffer_octets:,} octets was full, or checksums were wrong. --buffer asks for a "
            "larger one, up to sysctl net.core.rmem_max."
        )

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "bold red"


@attrs.frozen
class Stalled(Sentence):
    """A flow that came regularly, and has stopped."""

    event: ClassVar[str] = "stalled"
    group: str
    source: IPv4Address | None
    interface: str | None
    seconds_since_start: float

    def text(self) -> str:
        """Return the words."""
        stopped = f"{_flow(self)} has stopped, {self.seconds_since_start:.0f} s after the start."
        if int(self.seconds_since_start) in _FORGOTTEN:
            stopped += " A switch that snoops without a querier forgets its members after 260 s."
        return stopped

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow"


@attrs.frozen
class Resumed(Sentence):
    """A flow that has come back."""

    event: ClassVar[str] = "resumed"
    group: str
    source: IPv4Address | None
    interface: str | None
    gap_seconds: float

    def text(self) -> str:
        """Return the words."""
        return f"{_flow(self)} has come back after {show_seconds(self.gap_seconds)}."


@attrs.frozen
class FlowShown(Row):
    """A flow: the rates of the last interval, and all else since the start."""

    event: ClassVar[str] = "flow"
    columns: ClassVar[tuple[Column, ...]] = _COLUMNS
    group: IPv4Address
    port: int
    source: IPv4Address | None
    interface: str | None
    datagrams_per_second: float
    bits_per_second: float
    datagrams: int
    octets: int
    octets_least: int
    octets_most: int
    jitter_seconds: float | None
    jitter_by: str
    longest_gap_seconds: float | None
    ttl: tuple[int, ...]
    tos: tuple[int, ...]
    ecn: tuple[int, ...]
    streams: tuple[str, ...]
    expected: int | None
    lost: int | None
    duplicates: int | None
    reordered: int | None
    restarts: int | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (
            f"{self.group}:{self.port}" if self.port else str(self.group),
            "others" if self.source is None else str(self.source),
            self.interface or "-",
            show_rate(self.datagrams_per_second),
            show_rate(self.bits_per_second),
            f"{self.datagrams:,}",
            show_optional(self.lost),
            show_optional(self.duplicates),
            show_optional(self.reordered),
            "-" if self.jitter_seconds is None else show_seconds(self.jitter_seconds),
            "-" if self.longest_gap_seconds is None else show_seconds(self.longest_gap_seconds),
            show_range(self.ttl),
            (" ".join(map(show_tos, self.tos[:3])) or "-") + (" ..." if self.tos[3:] else ""),
            show_range((self.octets_least, self.octets_most)),
        )

    def style(self) -> str:
        """Return how a terminal shows it: dim if it is silent."""
        return "" if self.datagrams_per_second else "dim"


@attrs.frozen
class FlowTotal(FlowShown):
    """A flow as a whole: the rates are those from its first datagram to its last."""

    event: ClassVar[str] = "flow_total"

    def style(self) -> str:
        """Return how a terminal shows it: red if something was lost."""
        return "red" if self.lost else ""


@attrs.frozen
class DatagramShown(Sentence):
    """A datagram."""

    event: ClassVar[str] = "datagram"
    group: IPv4Address
    port: int
    source: IPv4Address
    source_port: int
    interface: str
    timestamp_ns: int
    ttl: int | None
    tos: int | None
    octets: int
    payload: bytes
    payload_text: str | None

    def text(self) -> str:
        """Return it on one line."""
        shown = self.payload.hex() if self.payload_text is None else self.payload_text
        seconds, nanoseconds = divmod(self.timestamp_ns, 10**9)
        return (
            f"{seconds}.{nanoseconds:09} {self.source}:{self.source_port} > {self.group}:{self.port} {self.interface} "
            f"TTL {show_optional(self.ttl)} {'-' if self.tos is None else show_tos(self.tos)} {self.octets}: {shown}"
        )


@attrs.frozen
class Summary(Sentence):
    """All of it."""

    event: ClassVar[str] = "summary"
    seconds: float
    flows: int
    flows_numbered: int
    flows_undecided: int
    datagrams: int
    octets: int
    dropped: int
    expected: int | None
    lost: int | None
    duplicates: int | None
    reordered: int | None
    restarts: int | None
    silent: tuple[str, ...]
    missed: tuple[str, ...]

    def text(self) -> str:
        """Return the words."""
        words = [self._came(), self._dropped()]
        if self.datagrams:
            words += self._lost() if self.expected else [self._why_loss_is_unknown()]
        if self.datagrams and self.silent:
            words.append(f"Nothing came to {', '.join(self.silent)}.")
        if less := [group for group in self.missed if group not in self.silent]:
            words.append(f"Less than expected came to {', '.join(less)}.")
        return " ".join(filter(None, words))

    def _came(self) -> str:
        if not self.datagrams:
            return f"Nothing came to {', '.join(self.silent)} in {self.seconds:.1f} s."
        came = f"{many(self.datagrams, 'datagram')}, {many(self.octets, 'octet')}"
        return f"{came}, of {many(self.flows, 'flow')} in {self.seconds:.1f} s."

    def _dropped(self) -> str:
        if not self.datagrams:
            return f"The kernel dropped {self.dropped:,}." if self.dropped else ""
        return f"The kernel dropped {f'{self.dropped:,} more' if self.dropped else 'none'}."

    def _lost(self) -> list[str]:
        lost, expected = self.lost or 0, self.expected or 0
        share = f", {show_share(lost, expected)}" if lost else ""
        has = "has" if self.flows_numbered == 1 else "have"
        which = f" ({self.flows_numbered:,} of {self.flows:,} flows {has} numbers)"
        words = [f"Lost {lost:,} of {expected:,}{share}{which if self.flows_numbered < self.flows else ''}."]
        beside = [many(self.duplicates, "duplicate")] if self.duplicates else []
        beside += [f"{self.reordered:,} reordered"] if self.reordered else []
        words += [f"{', '.join(beside)}."] if beside else []
        if self.restarts:
            across = "it" if self.restarts == 1 else "them"
            words.append(f"{many(self.restarts, 'restart')}: loss across {across} is not known.")
        return words

    def _why_loss_is_unknown(self) -> str:
        if not self.flows_undecided:
            return "Loss is not known: the payload is neither RTP nor probes of 'trio-ipv4 send'."
        if self.flows == 1:
            are = "is" if self.datagrams == 1 else "are"
            return f"Loss is not known: {many(self.datagrams, 'datagram')} {are} too few to recognise RTP."
        return f"Loss is not known: too few datagrams to recognise RTP came by {many(self.flows_undecided, 'flow')}."

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "bold red" if self.missed or self.dropped or self.lost else "bold"


def show_flow(flow: Flow, seconds: float) -> FlowShown:
    """Return a flow, for the interval since `begin_interval`, which took so many seconds."""
    return FlowShown(**_facts(flow, flow.news / seconds, 8 * flow.octets_of_news / seconds))


def total_flow(flow: Flow) -> FlowTotal:
    """Return a flow as a whole."""
    seconds = (flow.latest_ns - flow.first_ns) / 1e9
    # Between the first datagram and the last there is one gap less than there are datagrams.
    rate = (flow.datagrams - 1) / seconds if seconds > 0 else 0.0
    return FlowTotal(**_facts(flow, rate, 8 * rate * flow.octets / flow.datagrams))


def _facts(flow: Flow, datagrams_per_second: float, bits_per_second: float) -> dict[str, Any]:
    tos = tuple(sorted(each for each in flow.tos if each is not None))
    return {
        **attrs.asdict(flow.key),
        "datagrams_per_second": round(datagrams_per_second, 3),
        "bits_per_second": round(bits_per_second, 3),
        "datagrams": flow.datagrams,
        "octets": flow.octets,
        "octets_least": flow.least_octets,
        "octets_most": flow.most_octets,
        # The first difference takes two datagrams with the sender's clock, and three without.
        "jitter_seconds": round(flow.jitter_ns) / 1e9 if flow.datagrams > (1 if flow.is_clocked else 2) else None,
        "jitter_by": "sender" if flow.is_clocked else "arrival",
        "longest_gap_seconds": flow.longest_gap_ns / 1e9 if flow.datagrams > 1 else None,
        "ttl": tuple(sorted(each for each in flow.ttl if each is not None)),
        "tos": tos,
        "ecn": tuple(sorted({each & 3 for each in tos})),
        "streams": flow.streams.names(),
        **flow.streams.totals(),
    }


def _flow(record: Stalled | Resumed) -> str:
    return f"{record.source or 'others'} to {record.group} on {record.interface or 'any interface'}"
