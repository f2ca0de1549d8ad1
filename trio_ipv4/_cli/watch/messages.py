"""The messages on the wire, as `watch` shows them."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from trio_ipv4 import GroupRecordType
from trio_ipv4._cli.output import Sentence
from trio_ipv4._cli.watch.words import many, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER_TYPES: Final = {
    # IANA's registry "IGMP Type Numbers".
    0x13: "DVMRP",
    0x14: "PIM version 1",
    0x15: "Cisco trace",
    0x1E: "multicast traceroute response",
    0x1F: "multicast traceroute",
    0x30: "multicast router advertisement",
    0x31: "multicast router solicitation",
    0x32: "multicast router termination",
}


ALL_SNOOPERS: Final = IPv4Address("224.0.0.106")  # RFC 4286 section 2


def is_wish_of_switch(sender: IPv4Address, group: IPv4Address) -> bool:
    """Tell whether a switch without an address wants to discover multicast routers (RFC 4286). It is no member."""
    return int(sender) == 0 and group == ALL_SNOOPERS


@attrs.frozen
class Line(Sentence):
    """Something that happened at a time, on an interface. In a capture the interface is `None`."""

    timestamp_ns: int
    interface: str | None

    def text(self) -> str:
        """Return the line of a log: time of day, interface, host, and what there is to say."""
        whole, fraction = divmod(self.timestamp_ns, 10**9)
        clock = f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{fraction // 10**6:03}"
        return f"{clock}  {self.interface or '-':<8}  {self.who():<15}  {self.words()}"

    def who(self) -> str:
        """Return whom it is about."""
        return ""

    def words(self) -> str:
        """Return what there is to say."""
        raise NotImplementedError


@attrs.frozen
class Message(Line):
    """A message on the wire. A report of several groups makes a record for each, with the same `message` number."""

    message: int
    sender: IPv4Address | None
    destination: IPv4Address | None
    ttl: int | None
    outgoing: bool | None
    problems: tuple[str, ...]

    def who(self) -> str:
        """Return the sender."""
        return str(self.sender or "?")

    def words(self) -> str:
        """Return what it says, and what is wrong with its IP header."""
        return self.says() + (f" [{'; '.join(self.problems)}]" if self.problems else "")

    def says(self) -> str:
        """Return what the message says."""
        raise NotImplementedError

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "yellow" if self.problems else ""


@attrs.frozen
class Query(Message):
    """A query."""

    event: ClassVar[str] = "query"
    version: int
    group: IPv4Address | None
    sources: tuple[IPv4Address, ...]
    max_response_seconds: float
    suppress_router_processing: bool
    robustness: int | None
    query_interval_seconds: int | None

    def says(self) -> str:
        """Return what is asked."""
        asks = f"query v{self.version} for {self.group}" if self.group else f"general query v{self.version}"
        parts = [
            f"{asks} from {many(self.sources)}" if self.sources else asks,
            f"max response {seconds(self.max_response_seconds)}",
            f"QRV {self.robustness}" if self.robustness else "",
            f"interval {seconds(self.query_interval_seconds)}" if self.query_interval_seconds else "",
            "S" if self.suppress_router_processing else "",
        ]
        return ", ".join(filter(None, parts))


@attrs.frozen
class Report(Message):
    """A report of version 1 or 2, or a group record of version 3. A report without records has `record` 0 of 0."""

    event: ClassVar[str] = "report"
    version: int
    record: int
    records: int
    record_type: GroupRecordType | int | None
    group: IPv4Address | None
    sources: tuple[IPv4Address, ...]
    auxiliary_octets: int

    def says(self) -> str:
        """Return what is wanted."""
        if self.group is None:
            return "reports nothing (v3 report without records)"
        kind = self.record_type
        if kind is None:
            return f"wants {self.group} from everybody (v{self.version} report){self._own_wish()}"
        if not isinstance(kind, GroupRecordType):
            return f"says nothing that is defined of {self.group} (record type {kind})"
        return f"{_wants(kind, self.group, self.sources)} ({kind}){self._own_wish()}"

    def _own_wish(self) -> str:
        is_switch = self.group is not None and self.sender is not None and is_wish_of_switch(self.sender, self.group)
        return ": a switch's own wish, for multicast router discovery" if is_switch else ""


@attrs.frozen
class Leave(Message):
    """A leave of version 2."""

    event: ClassVar[str] = "leave"
    group: IPv4Address

    def says(self) -> str:
        """Return what is left."""
        return f"leaves {self.group} (v2 leave)"


@attrs.frozen
class Other(Message):
    """A message of another protocol that shares IGMP's number."""

    event: ClassVar[str] = "other"
    type: int
    code: int
    octets: int

    def says(self) -> str:
        """Return what it is."""
        name = OTHER_TYPES.get(self.type, f"type {self.type:#04x}")
        return f"{name}, code {self.code}, {self.octets} octets behind"


@attrs.frozen
class Malformed(Message):
    """A message that can't be read, or whose checksum is wrong. It changes nothing of what is known."""

    event: ClassVar[str] = "malformed"
    type: int | None
    checksum_ok: bool
    group: IPv4Address | None
    reason: str
    offset: int
    payload: bytes

    def says(self) -> str:
        """Return why."""
        return f"malformed: {self.reason} (at octet {self.offset})"

    def style(self) -> str:
        """Return how a terminal shows it."""
        return "red"


def _wants(kind: GroupRecordType, group: IPv4Address, sources: Sequence[IPv4Address]) -> str:
    if not sources and kind in {GroupRecordType.ALLOW_NEW_SOURCES, GroupRecordType.BLOCK_OLD_SOURCES}:
        return f"names no source of {group}"
    match kind:
        case GroupRecordType.MODE_IS_INCLUDE | GroupRecordType.CHANGE_TO_INCLUDE_MODE:
            return f"wants {group} from {many(sources)} only" if sources else f"leaves {group}"
        case GroupRecordType.MODE_IS_EXCLUDE | GroupRecordType.CHANGE_TO_EXCLUDE_MODE:
            return f"wants {group} from everybody" + (f" but {many(sources)}" if sources else "")
        case GroupRecordType.ALLOW_NEW_SOURCES:
            return f"wants {group} from {many(sources)}, too"
        case GroupRecordType.BLOCK_OLD_SOURCES:
            return f"wants {group} from {many(sources)} no longer"
