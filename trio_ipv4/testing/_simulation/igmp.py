"""IGMPv3 between hosts and links: reports and queries (RFC 3376 section 4)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_ipv4._values.checksum import internet_checksum, with_checksum
from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE
from trio_ipv4.testing._simulation.packets import ALL_SYSTEMS, ANY, IGMP, Packet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

State = tuple[int, frozenset[bytes]]
"""Mode and sources of an interface's group."""
NOTHING: Final[State] = (INCLUDE, frozenset())

ALL_ROUTERS: Final = b"\xe0\0\0\x16"
"""224.0.0.22, where version 3 reports go (RFC 3376 section 4.2.14)."""
QUERY_INTERVAL: Final = 125.0
QUERY_RESPONSE_INTERVAL: Final = 10.0
MEMBERSHIP_INTERVAL: Final = 260.0
UNSOLICITED_REPORT_INTERVAL: Final = 1.0
"""In seconds: RFC 3376 section 8."""
_QUERY: Final = 0x11
_REPORT: Final = 0x22
_VERSION_2_REPORT: Final = 0x16
_LEAVE: Final = 0x17
_MODE: Final = {INCLUDE: 1, EXCLUDE: 2}
_CHANGE_TO: Final = {INCLUDE: 3, EXCLUDE: 4}
_ALLOW: Final = 5
_BLOCK: Final = 6
_ROUTER_ALERT: Final = bytes([0x94, 4, 0, 0])
"""RFC 2113."""
_INTERNETWORK_CONTROL: Final = 0xC0
"""The TOS of every message (RFC 3376 section 4)."""


class Record(NamedTuple):
    """What a report says of a group."""

    kind: int
    group: bytes
    sources: tuple[bytes, ...]

    @property
    def is_wanted(self) -> bool | None:
        """Whether the host is a member from now on; `None` if the record leaves that open."""
        if self.kind in (_MODE[EXCLUDE], _CHANGE_TO[EXCLUDE]):
            return True
        if self.kind in (_MODE[INCLUDE], _CHANGE_TO[INCLUDE]):
            return bool(self.sources)
        return True if self.kind == _ALLOW else None


def changes(group: bytes, before: State, after: State) -> Iterator[Record]:
    """Yield the records that announce a change (RFC 3376 section 5.1)."""
    (old_mode, old), (mode, new) = before, after
    if mode != old_mode:
        yield Record(_CHANGE_TO[mode], group, tuple(sorted(new)))
        return
    added, removed = tuple(sorted(new - old)), tuple(sorted(old - new))
    allowed, blocked = (added, removed) if mode == INCLUDE else (removed, added)
    if mode == INCLUDE and not new and old:
        yield Record(_CHANGE_TO[INCLUDE], group, ())
        return
    if allowed:
        yield Record(_ALLOW, group, allowed)
    if blocked:
        yield Record(_BLOCK, group, blocked)


def current(group: bytes, state: State) -> Record:
    """Return the record that answers a query."""
    return Record(_MODE[state[0]], group, tuple(sorted(state[1])))


def report(source: bytes, records: Iterable[Record]) -> Packet:
    """Write a report."""
    parts = [
        struct.pack(">BBH4s", each.kind, 0, len(each.sources), each.group) + b"".join(each.sources) for each in records
    ]
    message = struct.pack(">BBHHH", _REPORT, 0, 0, 0, len(parts)) + b"".join(parts)
    return _packet(source, ALL_ROUTERS, message)


def general_query() -> Packet:
    """Write a query for all groups, as a switch sends it that has no address (RFC 4541 section 2.1.1)."""
    code = int(QUERY_RESPONSE_INTERVAL * 10)
    message = struct.pack(">BBH4sBBH", _QUERY, code, 0, ANY, 2, int(QUERY_INTERVAL), 0)
    return _packet(ANY, ALL_SYSTEMS, message)


def is_general_query(message: bytes) -> bool:
    """Tell whether a message asks for all groups."""
    return len(message) >= 8 and message[0] == _QUERY and message[4:8] == ANY


def parse_report(message: bytes) -> list[Record]:
    """Return the records of a report of any version; of what is none, nothing."""
    if len(message) < 8 or internet_checksum(message):
        return []
    if message[0] == _VERSION_2_REPORT:
        return [Record(_CHANGE_TO[EXCLUDE], message[4:8], ())]
    if message[0] == _LEAVE:
        return [Record(_CHANGE_TO[INCLUDE], message[4:8], ())]
    return list(_records(message)) if message[0] == _REPORT else []


def _records(message: bytes) -> Iterator[Record]:
    (count,) = struct.unpack_from(">6xH", message)
    offset = 8
    for _ in range(count):
        if len(message) - offset < 8:
            return
        kind, auxiliary, number, group = struct.unpack_from(">BBH4s", message, offset)
        end = offset + 8 + 4 * number
        if end + 4 * auxiliary > len(message):
            return
        yield Record(kind, group, tuple(message[at : at + 4] for at in range(offset + 8, end, 4)))
        offset = end + 4 * auxiliary


def _packet(source: bytes, destination: bytes, message: bytes) -> Packet:
    return Packet(source, destination, IGMP, with_checksum(message), 1, _INTERNETWORK_CONTROL, options=_ROUTER_ALERT)
