"""IP packets on their way. Addresses are 4 octets in network order."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final, final

from trio_ipv4 import Header, HeaderFlags, ParseError
from trio_ipv4._values.checksum import internet_checksum
from trio_ipv4.testing._simulation.linux import memory_of

ANY: Final = bytes(4)
LIMITED_BROADCAST: Final = b"\xff\xff\xff\xff"
ALL_SYSTEMS: Final = b"\xe0\0\0\1"
"""224.0.0.1: every host is a member, for good (RFC 1112 section 7.2)."""
ICMP: Final = 1
IGMP: Final = 2
UDP: Final = 17
_UDP_HEADER: Final = struct.Struct(">HHHH")
"""Source port, destination port, length, checksum (RFC 768)."""


def is_group(address: bytes) -> bool:
    """Tell whether an address is multicast (RFC 5771)."""
    return address[0] & 0xF0 == 0xE0


def is_link_scoped(group: bytes) -> bool:
    """Tell whether a group stays on its link: 224.0.0.0/24 (RFC 5771 section 4)."""
    return group[:3] == b"\xe0\0\0"


@final
class Packet:
    """A packet. `payload` is what UDP carries, or what IP carries for another protocol; ports are 0 then.

    `memory` is what it counts in the kernel's buffers (`skb->truesize`). If it is longer than `mtu`, it was fragmented.
    """

    __slots__ = (
        *("src", "dst", "protocol", "payload", "ttl", "tos", "sport", "dport"),
        *("dont_fragment", "id", "options", "memory", "mtu"),
    )

    def __init__(
        self,
        src: bytes,
        dst: bytes,
        protocol: int,
        payload: bytes,
        ttl: int,
        tos: int,
        sport: int = 0,
        dport: int = 0,
        dont_fragment: bool = True,  # noqa: FBT002  # Packets are made in masses: keywords would take half as long again.
        identification: int = 0,
        options: bytes = b"",
        memory: int = 832,
        mtu: int = 65535,
    ) -> None:
        self.src = src
        self.dst = dst
        self.protocol = protocol
        self.payload = payload
        self.ttl = ttl
        self.tos = tos
        self.sport = sport
        self.dport = dport
        self.dont_fragment = dont_fragment
        self.id = identification
        self.options = options
        self.memory = memory
        self.mtu = mtu

    @property
    def is_datagram(self) -> bool:
        """Whether this is a UDP datagram, in good order."""
        return self.dport > 0

    @property
    def above(self) -> int:
        """How many octets IP carries, with the UDP header."""
        return len(self.payload) + (_UDP_HEADER.size if self.is_datagram else 0)

    def length(self, mtu: int) -> int:
        """Return how long the packet is on the wire, or its longest fragment, if it had to be fragmented for an MTU."""
        length, mtu = 20 + len(self.options) + self.above, min(mtu, self.mtu)
        return length if length <= mtu else 20 + (mtu - 20) // 8 * 8

    def body(self) -> bytes:
        """Return what IP carries, with the UDP header."""
        if not self.is_datagram:
            return self.payload
        length = 8 + len(self.payload)
        pseudo = self.src + self.dst + struct.pack(">HH", UDP, length)
        zero = _UDP_HEADER.pack(self.sport, self.dport, length, 0)
        checksum = internet_checksum(pseudo + zero + self.payload) or 0xFFFF  # RFC 768: 0 stands for "none".
        return _UDP_HEADER.pack(self.sport, self.dport, length, checksum) + self.payload

    def octets(self) -> bytes:
        """Return the packet as it is on the wire, whole."""
        body = self.body()
        header = Header(
            src=IPv4Address(self.src),
            dst=IPv4Address(self.dst),
            tos=self.tos,
            total_len=20 + len(self.options) + len(body),
            id=self.id,
            flags=HeaderFlags.DONT_FRAGMENT if self.dont_fragment else HeaderFlags(0),
            ttl=self.ttl,
            protocol=self.protocol,
            options=self.options,
        )
        return header.with_checksum().marshal() + body

    def forwarded(self, mtu: int) -> Packet:
        """Return the packet one hop further, over an interface with this MTU."""
        return Packet(
            self.src,
            self.dst,
            self.protocol,
            self.payload,
            self.ttl - 1,
            self.tos,
            self.sport,
            self.dport,
            self.dont_fragment,
            self.id,
            self.options,
            self.memory if self.length(self.mtu) <= mtu else memory_of(self.above, mtu),
            min(self.mtu, mtu),
        )


def parse_packet(data: bytes) -> Packet:
    """Read a packet with its header.

    Raises:
        ParseError: It has none.
    """
    header = Header.parse(data)
    if header.fragment_offset or HeaderFlags.MORE_FRAGMENTS in header.flags:
        raise ParseError("fragments are not simulated", offset=6)
    src, dst = header.src.packed, header.dst.packed
    payload = data[header.header_len or 20 :]
    ports = (0, 0)
    if header.protocol == UDP and _is_sound(src, dst, payload):
        ports, payload = (*_UDP_HEADER.unpack_from(payload)[:2],), payload[8:]
    return Packet(
        src,
        dst,
        header.protocol,
        payload,
        header.ttl,
        header.tos,
        *ports,
        dont_fragment=HeaderFlags.DONT_FRAGMENT in header.flags,
        identification=header.id,
        options=header.options,
    )


def _is_sound(src: bytes, dst: bytes, datagram: bytes) -> bool:
    """Tell whether UDP takes a datagram: its length and its checksum are right (RFC 768)."""
    if len(datagram) < _UDP_HEADER.size:
        return False
    _, _, length, checksum = _UDP_HEADER.unpack_from(datagram)
    if length != len(datagram):
        return False
    pseudo = src + dst + struct.pack(">HH", UDP, length)
    return not checksum or internet_checksum(pseudo + datagram) == 0
