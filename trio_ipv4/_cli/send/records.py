"""What `send` has to show."""

from __future__ import annotations

import errno
import re
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar, Final

import attrs

from trio_ipv4._cli.output import Column, Record, Remark, Row, Sentence, many, reason_of

_LOCAL_CONTROL: Final = IPv4Network("224.0.0.0/24")
"""RFC 5771 section 4: routers don't forward these groups, whatever the TTL."""


@attrs.frozen
class Start(Remark):
    """Where the datagrams of one interface go."""

    event: ClassVar[str] = "start"
    destination: IPv4Address
    port: int
    interface: str | None
    ifindex: int | None
    source: IPv4Address | None
    ttl: int
    tos: int
    loopback: bool
    stream: int | None
    reach: str

    def text(self) -> str:
        """Return the words, as one line."""
        way = f" by {self.interface}" if self.interface else ""
        way += f" from {self.source}" if self.source else ""
        tos = f", TOS {self.tos:#04x}" if self.tos else ""
        return f"Sending to {self.destination}:{self.port}{way}, TTL {self.ttl}{tos}{self._explain_reach()}"

    def _explain_reach(self) -> str:
        if self.reach == "host":
            return " (stays on this host)"
        if self.reach == "link" and self.destination in _LOCAL_CONTROL:
            return " (stays on this link: routers forward no group of 224.0.0.0/24, whatever the TTL)"
        if self.reach == "link":
            return " (stays on this link)"
        return f" (crosses at most {many(self.ttl - 1, 'router')})"


def reach(destination: IPv4Address, ttl: int, *, by_loopback: bool) -> str:
    """Return how far datagrams get: "host", "link" or "routers"."""
    if by_loopback:
        return "host"
    return "link" if ttl == 1 or destination in _LOCAL_CONTROL else "routers"


@attrs.frozen
class Refused(Remark):
    """An interface refused, for the first time with this errno."""

    event: ClassVar[str] = "refused"
    interface: str | None
    errno: str
    reason: str
    given_up: bool

    def text(self) -> str:
        """Return the words, as one line."""
        where = f"{self.interface}: " if self.interface else ""
        return f"{where}{self.reason}"

    def style(self) -> str:
        """Return how a terminal shows them."""
        return "red"


def refused(interface: str | None, error: OSError, *, given_up: bool) -> Refused:
    """Return the record of a refusal."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    reason = describe(error)
    if error.errno == errno.ENETUNREACH and interface is None:
        reason += ". Name the interface by --interface; 'trio-ipv4 interfaces' lists them"
    return Refused(interface, name, reason, given_up)


def describe(error: OSError) -> str:
    """Return why something was refused. Which datagram of a batch it was tells nobody anything here."""
    return re.sub(r"\bdatagram [0-9]+ of the batch, ", "", reason_of(error))


@attrs.frozen
class Progress(Row):
    """What was sent on an interface so far; the rates are those since the last row."""

    event: ClassVar[str] = "progress"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("time", width=7, gives_way=1, right=True),
        Column("interface", width=9),
        Column("datagrams", width=10, right=True),
        Column("octets", width=12, gives_way=3, right=True),
        Column("datagrams/s", width=11, right=True),
        Column("bit/s", width=9, gives_way=2, right=True),
        Column("refused", width=7, gives_way=4, right=True),
    )
    seconds: float
    interface: str | None
    datagrams: int
    octets: int
    datagrams_per_second: float
    bits_per_second: float
    refused: int

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (
            f"{self.seconds:.1f} s",
            self.interface or "-",
            f"{self.datagrams:,}",
            f"{self.octets:,}",
            per_second(self.datagrams_per_second),
            bits(self.bits_per_second),
            f"{self.refused:,}",
        )


@attrs.frozen
class InterfaceFacts(Record):
    """What was sent on an interface in all."""

    event: ClassVar[str] = "interface_summary"
    interface: str | None
    source: IPv4Address | None
    datagrams: int
    octets: int
    refused: int
    seconds: float
    datagrams_per_second: float | None
    bits_per_second: float | None
    late_median_seconds: float | None
    late_p99_seconds: float | None
    late_most_seconds: float | None
    behind_seconds: float
    reason: str | None


@attrs.frozen
class InterfaceSummary(InterfaceFacts, Row):
    """The same, as a row of a table."""

    event: ClassVar[str] = "interface_summary"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("interface"),
        Column("from", gives_way=5),
        Column("datagrams", right=True),
        Column("octets", gives_way=4, right=True),
        Column("refused", gives_way=3, right=True),
        Column("datagrams/s", right=True),
        Column("bit/s", gives_way=6, right=True),
        Column("late (median)", gives_way=8, right=True),
        Column("late (99 %)", gives_way=7, right=True),
        Column("late (most)", gives_way=2, right=True),
    )

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (
            self.interface or "-",
            str(self.source or "-"),
            f"{self.datagrams:,}",
            f"{self.octets:,}",
            f"{self.refused:,}",
            per_second(self.datagrams_per_second),
            bits(self.bits_per_second),
            duration(self.late_median_seconds),
            duration(self.late_p99_seconds),
            duration(self.late_most_seconds),
        )

    def style(self) -> str:
        """Return how a terminal shows the row."""
        return "red" if self.reason else ""


@attrs.frozen
class Summary(Sentence):
    """What was sent on all interfaces."""

    event: ClassVar[str] = "summary"
    datagrams: int
    octets: int
    refused: int
    seconds: float
    interfaces: int
    interface: str | None
    interfaces_refused: int
    behind_seconds: float

    def text(self) -> str:
        """Return the words, as one line."""
        where = f" by {self.interface}" if self.interface else ""
        where = f" by {self.interfaces} interfaces" if self.interfaces > 1 else where
        time = f" in {self._time()}" if self.seconds else ""
        words = [f"Sent {many(self.datagrams, 'datagram')}, {many(self.octets, 'octet')}{where}{time}."]
        if not self.datagrams:
            words = ["Nothing was sent."]
        if self.refused:
            words.append(f"{many(self.refused, 'datagram')} {'was' if self.refused == 1 else 'were'} refused.")
        if self.interfaces_refused and self.interfaces > 1:
            words.append(f"{self.interfaces_refused} of {self.interfaces} interfaces refused.")
        if self.behind_seconds:
            words.append(
                f"The rate was not reached: this machine fell behind by {duration(self.behind_seconds)}, and did not "
                "make up for it."
            )
        return " ".join(words)

    def style(self) -> str:
        """Return how a terminal shows them."""
        return "bold red" if self.interfaces_refused else "bold"

    def _time(self) -> str:
        return f"{self.seconds:.1f} s" if self.seconds >= 1 else duration(self.seconds)


def per_second(rate: float | None) -> str:
    """Return how often something happens in a second."""
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def bits(rate: float | None) -> str:
    """Return a rate of bits, without "bit/s"."""
    if rate is None:
        return "-"
    for unit in ("", " k", " M"):
        if rate < 999.5:
            return f"{rate:.3g}{unit}"
        rate /= 1000
    return f"{rate:.3g} G"


def duration(seconds: float | None) -> str:
    """Return a short time."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
