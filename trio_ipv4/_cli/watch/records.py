"""What `watch` shows beside messages: what follows from them, what is going on, and the state at the end."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import ClassVar, Final

import attrs

from trio_ipv4 import SourceFilter
from trio_ipv4._cli.output import Column, Remark, Row, Sentence, describe_sources
from trio_ipv4._cli.watch.messages import Line
from trio_ipv4._cli.watch.words import about, ago, listed, seconds

MISSING: Final = "CAP_NET_RAW"
_SWITCH: Final = "a switch (0.0.0.0)"
_NAMED: Final = 2
"""So many sources stand in a cell, or one and the number of the others: whole addresses, or none."""


@attrs.frozen
class Finding(Line):
    """What follows from messages, or from their absence."""

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "bold"


@attrs.frozen
class QuerierChange(Finding):
    """`change` is "elected", "changed", "proxy", "silent" or "none"."""

    event: ClassVar[str] = "querier"
    change: str
    address: IPv4Address | None
    previous: IPv4Address | None
    version: int | None
    silent_seconds: float | None

    def who(self) -> str:
        """Return the querier."""
        return str(self.address or self.previous or "")

    def words(self) -> str:
        """Return what became of it."""
        if self.change == "elected":
            return f"is the querier (version {self.version})"
        if self.change == "changed":
            return f"is the querier now (version {self.version}): it has a lower address than {self.previous}"
        if self.change == "proxy":
            return f"the querier is {_SWITCH}, version {self.version}"
        heard = seconds(self.silent_seconds or 0)
        if self.change == "silent":
            return f"the querier is silent: no query for {heard}"
        return f"no query was heard in {heard}. Without a querier, a switch that snoops forgets members after 260 s"


@attrs.frozen
class Member(Finding):
    """`change` is "first", "joined", "left" or "last"; `reason` "reported", "left", "expired" or "interface"."""

    event: ClassVar[str] = "member"
    change: str
    reason: str
    group: IPv4Address
    host: str | None
    mode: str | None
    sources: tuple[IPv4Address, ...]

    def who(self) -> str:
        """Return the host."""
        return self.host or ""

    def words(self) -> str:
        """Return what became of the group."""
        why = {"expired": ": it was not reported again", "interface": ": the interface is gone, or down"}.get(
            self.reason, ""
        )
        return {
            "first": f"is the first member heard of {self.group}",
            "joined": f"is a member of {self.group}, too",
            "left": f"is no member of {self.group} any more{why}",
            "last": f"{self.group} has no member any more{why}",
        }[self.change]

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "bold green" if self.change == "first" else "bold"


@attrs.frozen
class Expiring(Finding):
    """A membership that nobody reported when it was asked for."""

    event: ClassVar[str] = "expiring"
    group: IPv4Address
    hosts: tuple[IPv4Address, ...]
    seconds: float

    def who(self) -> str:
        """Return the host, if it is one."""
        return str(self.hosts[0]) if len(self.hosts) == 1 else f"{len(self.hosts)} hosts"

    def words(self) -> str:
        """Return what will run out."""
        return f"membership of {self.group} runs out in {seconds(self.seconds)}: it was not reported again"

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow"


@attrs.frozen
class VersionConflict(Finding):
    """An older version of IGMP beside version 3. `of` is "querier" or "host"."""

    event: ClassVar[str] = "version"
    of: str
    version: int
    address: IPv4Address
    group: IPv4Address | None

    def who(self) -> str:
        """Return who speaks the older version."""
        return str(self.address)

    def words(self) -> str:
        """Return what is lost by it."""
        beside = f"by version {self.version}, beside version 3"
        if self.of == "querier":
            return f"asks {beside}: hosts follow it, and no longer name sources" + (
                " or tell leaves" if self.version == 1 else ""
            )
        lost = "sources and leaves do" if self.version == 1 else "sources do"
        return f"reports {self.group} {beside}: {lost} not count for this group"

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow"


@attrs.frozen
class Limit(Finding):
    """There is more to remember than there is room for. It is told once."""

    event: ClassVar[str] = "limit"
    entries: int

    def words(self) -> str:
        """Return what is not done any more."""
        return f"{self.entries} groups, members and sources are known: further ones are shown, and not remembered"

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow"


@attrs.frozen
class SourceLimit(Finding):
    """A member hears more sources than are remembered. It is told once."""

    event: ClassVar[str] = "source_limit"
    group: IPv4Address
    host: IPv4Address
    sources: int

    def who(self) -> str:
        """Return the member."""
        return str(self.host)

    def words(self) -> str:
        """Return what is not done any more."""
        return f"names many sources of {self.group}: of each member {self.sources} are remembered"

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow"


@attrs.frozen
class InterfaceChanged(Line):
    """An interface that came, changed or went."""

    event: ClassVar[str] = "interface_change"
    change: str
    index: int
    up: bool
    multicast: bool
    mtu: int
    flags: tuple[str, ...]
    addresses: tuple[str, ...]

    def words(self) -> str:
        """Return what it is now."""
        if self.change == "removed":
            return "interface removed"
        parts = ["up" if self.up else "down", f"MTU {self.mtu}", *self.addresses]
        return f"interface {self.change}: {', '.join(parts)}"


@attrs.frozen
class Watching(Remark):
    """How the wire is watched, or why not. `how` is "wire", "memberships" or "file"."""

    event: ClassVar[str] = "watching"
    how: str
    interfaces: tuple[str, ...]
    missing: str | None = None

    def text(self) -> str:
        """Return what is seen, and what is not."""
        if self.how == "file":
            return "Reading a capture: the times are those of the file."
        if self.how == "memberships":
            return (
                f"Hearing IGMP on the wire needs {self.missing}. Only this host's own memberships are watched. Run as "
                "root, or give it to Python: setcap cap_net_raw+ep PYTHON"
            )
        where = ", ".join(self.interfaces) or "no interface yet: none is up"
        return (
            f"Watching {where}. An ordinary port of a switch that snoops shows queries and this host's own reports, "
            "and may not show those of other hosts."
        )


@attrs.frozen
class NotUp(Remark):
    """An interface that was named is not up."""

    event: ClassVar[str] = "not_up"
    interface: str

    def text(self) -> str:
        """Return what will be done."""
        return f"{self.interface}: not up yet. It is watched when it comes up."


@attrs.frozen
class Dropped(Remark):
    """Packets came faster than they could be read."""

    event: ClassVar[str] = "dropped"
    timestamp_ns: int
    packets: int
    total: int

    def text(self) -> str:
        """Return how many were lost."""
        return f"{_count(self.packets, 'packet')} came too fast and {_were(self.packets)} lost, {self.total} so far."


@attrs.frozen
class Unsure(Sentence):
    """No query was heard on an interface, and it is too early to say that nobody asks."""

    event: ClassVar[str] = "unsure"
    seconds: float

    def text(self) -> str:
        """Return what it takes to know."""
        return (
            f"No query in {about(self.seconds)} says little: queriers usually ask every 125 s. "
            "Watch for 260s or longer to be sure."
        )


@attrs.frozen
class CommandTold(Remark):
    """What became of a command of `--exec`."""

    event: ClassVar[str] = "command"
    group: IPv4Address
    change: str
    failure: str

    def text(self) -> str:
        """Return how it failed."""
        return f"The command for the {self.change} member of {self.group} {self.failure}."


@attrs.frozen
class ClockSet(Remark):
    """The clock was set while the command ran."""

    event: ClassVar[str] = "clock"
    seconds: float

    def text(self) -> str:
        """Return by how much."""
        return f"The clock was set by {self.seconds:+.3f} s. The times here go on by the old one."


@attrs.frozen
class QuerierState(Row):
    """The querier of an interface, at the end."""

    event: ClassVar[str] = "querier_state"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("interface"),
        Column("querier"),
        Column("version", gives_way=2),
        Column("last query"),
        Column("interval", gives_way=1),
    )
    interface: str | None
    address: IPv4Address | None
    version: int | None
    silent_seconds: float
    query_interval_seconds: float | None
    known: bool

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        if self.version is None:
            querier = "none" if self.known else "not heard yet"
            return (self.interface or "-", querier, "-", f"none in {about(self.silent_seconds)}", "-")
        return (
            self.interface or "-",
            _SWITCH if self.address is None else str(self.address),
            str(self.version),
            ago(self.silent_seconds),
            seconds(self.query_interval_seconds or 0),
        )


@attrs.frozen
class GroupState(Row):
    """A member of a group, at the end."""

    event: ClassVar[str] = "member_state"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("interface", gives_way=1),
        Column("group"),
        Column("member"),
        Column("version", gives_way=3),
        Column("hears", gives_way=2),
        Column("reported"),
        Column("runs out", gives_way=4),
    )
    interface: str | None
    group: IPv4Address
    host: str
    version: int | None
    mode: str
    sources: tuple[IPv4Address, ...]
    silent_seconds: float | None
    remaining_seconds: float | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        sources = listed(self.sources, _NAMED if len(self.sources) <= _NAMED else 1)
        return (
            self.interface or "-",
            str(self.group),
            self.host,
            "-" if self.version is None else str(self.version),
            describe_sources(self.mode, sources),
            "-" if self.silent_seconds is None else ago(self.silent_seconds),
            "-" if self.remaining_seconds is None else f"in {about(self.remaining_seconds)}",
        )


@attrs.frozen
class Summary(Sentence):
    """What was seen altogether."""

    event: ClassVar[str] = "summary"
    seconds: float
    messages: int | None
    malformed: int
    dropped: int
    groups: int
    members: int

    def text(self) -> str:
        """Return the figures."""
        if self.messages is None:
            return f"Messages: not heard ({MISSING}). This host is a member of {_count(self.groups, 'group')}."
        malformed = f", {self.malformed} of them malformed" if self.malformed else ""
        lost = (
            f" {_count(self.dropped, 'packet')} came too fast and {_were(self.dropped)} lost." if self.dropped else ""
        )
        return (
            f"{_count(self.messages, 'message')} in {about(self.seconds)}{malformed}. "
            f"Groups: {self.groups}, members: {self.members}.{lost}"
        )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def mode_of(sources: SourceFilter) -> tuple[str, tuple[IPv4Address, ...]]:
    """Return the mode and the sources of a filter, as records have them."""
    return sources.mode.value, tuple(sorted(sources.sources))
