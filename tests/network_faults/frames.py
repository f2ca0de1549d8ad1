"""Frames made by hand: UDP datagrams to a group, right, or wrong in every way. Standard library alone."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ETH_P_IP = 0x0800  # linux/if_ether.h
ETH_P_8021Q = 0x8100
MORE_FRAGMENTS = 0x2000  # RFC 791
ROUTER_ALERT = b"\x94\x04\0\0"  # RFC 2113
WRONG = 0x1111
"""What a wrong checksum differs by."""


class Frame(NamedTuple):
    """What a datagram looks like on the wire."""

    group: str = "239.1.2.3"
    port: int = 5000
    source: str = "198.18.0.1"
    source_port: int = 40000
    ttl: int = 1
    to: str = ""
    """The hardware address that it goes to; empty: that of the group."""
    vlan: int = -1
    """The number in its VLAN tag; negative: it has none."""
    ethertype: int = ETH_P_IP
    fragments: str = ""
    """Which of two fragments are sent: first, last, all; empty: it is not fragmented."""
    options: bool = False
    bad_ip_checksum: bool = False
    bad_udp_checksum: bool = False
    no_udp_checksum: bool = False
    bad_length: bool = False

    def make(self, own: bytes, number: int, payload: bytes) -> Iterator[bytes]:
        """Make the frames of one datagram, which come from the hardware address `own`."""
        udp = self.udp(payload)
        to = bytes.fromhex(self.to.replace(":", "")) if self.to else hardware_address(self.group)
        tag = struct.pack("!HH", ETH_P_8021Q, self.vlan) if self.vlan >= 0 else b""
        for start, end in self.cuts(len(udp)):
            more = bool(self.fragments) and end < len(udp)
            header = self.header(number, end - start, start // 8 | (MORE_FRAGMENTS if more else 0))
            yield to + own + tag + struct.pack("!H", self.ethertype) + header + udp[start:end]

    def udp(self, payload: bytes) -> bytes:
        length = 8 + len(payload)
        told = length + (9 if self.bad_length else 0)
        start = struct.pack("!HHH", self.source_port, self.port, told)
        pseudo = self.addresses() + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
        right = checksum(pseudo + start + bytes(2) + payload) or 0xFFFF
        told_sum = 0 if self.no_udp_checksum else right ^ (WRONG if self.bad_udp_checksum else 0)
        return start + struct.pack("!H", told_sum) + payload

    def header(self, number: int, length: int, fragment: int) -> bytes:
        options = ROUTER_ALERT if self.options else b""
        words = 5 + len(options) // 4
        total = 4 * words + length
        start = struct.pack("!BBHHHBB", 0x40 + words, 0, total, number & 0xFFFF, fragment, self.ttl, socket.IPPROTO_UDP)
        rest = self.addresses() + options
        right = checksum(start + bytes(2) + rest)
        return start + struct.pack("!H", right ^ (WRONG if self.bad_ip_checksum else 0)) + rest

    def addresses(self) -> bytes:
        return socket.inet_aton(self.source) + socket.inet_aton(self.group)

    def cuts(self, length: int) -> list[tuple[int, int]]:
        half = (length // 2) & ~7
        both = [(0, half), (half, length)]
        return {"": [(0, length)], "first": both[:1], "last": both[1:], "all": both}[self.fragments]


def hardware_address(group: str) -> bytes:
    """Of a group: 23 of its 28 bits (RFC 1112 section 6.4)."""
    octets = socket.inet_aton(group)
    return b"\x01\0\x5e" + bytes([octets[1] & 0x7F]) + octets[2:]


def checksum(octets: bytes) -> int:
    """RFC 1071."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF
