"""IGMP messages as they come in IP packets: the message, or what is wrong with it, and what the IP header tells."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

import attrs

from trio_ipv4 import (
    Header,
    HeaderFlags,
    IGMPLeave,
    IGMPMessage,
    IGMPQuery,
    IGMPv2Report,
    IGMPv3Report,
    ParseError,
    internet_checksum,
    parse_igmp,
)

IGMP: Final = 2
"""The protocol's number (IANA, "Assigned Internet Protocol Numbers")."""
_PROTOCOL_AT: Final = 9  # RFC 791 section 3.1
_ROUTER_ALERT: Final = 148  # RFC 2113 section 2.1: copied, class 0, option 20
_END_OF_OPTIONS, _NO_OPERATION = 0, 1  # RFC 791 section 3.1
_ALL_SYSTEMS: Final = IPv4Address("224.0.0.1")
_WITH_GROUP: Final = {0x11, 0x12, 0x16, 0x17}
"""Types whose messages have a group in the octets 4 to 7 (RFC 2236 section 2)."""


@attrs.frozen
class Arrival:
    """A packet of IGMP's protocol number.

    `message` is `None` if it can't be read; `fault` then says why. `offset` is that of the fault, counted from the
    start of the message, or of the IP header if that is at fault.
    """

    sender: IPv4Address | None
    destination: IPv4Address | None
    ttl: int | None
    payload: bytes
    message: IGMPMessage | None
    fault: str | None
    offset: int | None
    problems: tuple[str, ...]
    header_is_whole: bool
    """Whether the IP header's checksum is right. A host throws away a packet whose is not."""

    @property
    def type(self) -> int | None:
        """The message's type octet."""
        return self.payload[0] if self.payload else None

    @property
    def checksum_ok(self) -> bool:
        """Whether the message's checksum is right."""
        return internet_checksum(self.payload) == 0

    @property
    def group(self) -> IPv4Address | None:
        """What stands at the place of the group, also in a message that can't be read."""
        if self.type not in _WITH_GROUP or len(self.payload) < 8:
            return None
        return IPv4Address(self.payload[4:8])


def read_packet(packet: bytes) -> Arrival | None:
    """Read an IP packet, from its header on. Return `None` if it is not one of IGMP."""
    if len(packet) <= _PROTOCOL_AT or packet[0] >> 4 != 4 or packet[_PROTOCOL_AT] != IGMP:
        return None
    try:
        header = Header.parse(packet)
    except ParseError as error:
        reason = f"in the IP header: {error.message}"
        return Arrival(None, None, None, b"", None, reason, error.offset, (), header_is_whole=False)
    payload = packet[header.header_len : max(header.total_len, header.header_len)]
    message, fault, offset = _read_message(header, payload, len(packet))
    return Arrival(
        header.src,
        header.dst,
        header.ttl,
        payload,
        message,
        fault,
        offset,
        tuple(_problems(header, message)),
        header.checksum_ok,
    )


def _read_message(header: Header, payload: bytes, available: int) -> tuple[IGMPMessage | None, str | None, int | None]:
    if header.fragment_offset or HeaderFlags.MORE_FRAGMENTS in header.flags:
        return None, "it is a fragment: no message of IGMP comes in parts", 0
    if header.total_len > available:
        return None, f"it is cut short: the packet has {header.total_len} octets, got {available}", len(payload)
    try:
        return parse_igmp(payload), None, None
    except ParseError as error:
        return None, error.message, error.offset


def _problems(header: Header, message: IGMPMessage | None) -> list[str]:
    """Return what the IP header of a message should not be (RFC 9776 section 4, RFC 2236 section 2)."""
    found = []
    if header.ttl != 1:
        found.append(f"TTL {header.ttl}, not 1")
    # Version 1 is older than the option.
    if _needs_alert(message) and not _has_router_alert(header.options):
        found.append("no Router Alert option")
    if not header.checksum_ok:
        found.append("the IP header's checksum is wrong")
    if isinstance(message, IGMPQuery) and message.group is None and header.dst != _ALL_SYSTEMS:
        found.append(f"sent to {header.dst}, where hosts ignore a query for all groups")  # RFC 9776 section 4.1.12
    return found


def _needs_alert(message: IGMPMessage | None) -> bool:
    if isinstance(message, IGMPQuery):
        return message.version > 1
    return isinstance(message, IGMPv2Report | IGMPv3Report | IGMPLeave)


def _has_router_alert(options: bytes) -> bool:
    at = 0
    while at < len(options) and (kind := options[at]) != _END_OF_OPTIONS:
        if kind == _ROUTER_ALERT:
            return True
        length = 1 if kind == _NO_OPERATION else (options[at + 1] if at + 1 < len(options) else 0)
        if length == 0:
            break
        at += length
    return False
