"""Frames of a packet socket, taken apart: link, VLAN tag, IPv4 packet, and the checksums that a receiver would judge.

A packet socket of the kind SOCK_RAW delivers a frame from its link's header on. Ethernet and loopback have one of 14
octets. For other kinds of link, some of which have none, the kernel says where the IP header begins (PACKET_AUXDATA,
packet(7)). A VLAN tag is in the auxiliary data, or a second one still in the frame.
"""

from __future__ import annotations

import functools
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from trio_ipv4 import internet_checksum
from trio_ipv4._cli.packet_socket import ETH_P_IP, ETHERNET, HOST, LOOPBACK, OTHER_HOST, OUTGOING, SOL_PACKET

if TYPE_CHECKING:
    from collections.abc import Sequence

Direction: TypeAlias = Literal["in", "out", "other_host", "unicast"]
Fault: TypeAlias = Literal["ip_checksum", "udp_checksum", "udp_length"]

AUXILIARY: Final = 8  # PACKET_AUXDATA, linux/if_packet.h
AUXILIARY_DATA: Final = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata: status, length, captured length, where the link's and the network's header begin, VLAN tag,
its kind."""
_CHECKSUM_NOT_READY: Final = 0x8  # TP_STATUS_CSUMNOTREADY
_VLAN_VALID: Final = 0x10  # TP_STATUS_VLAN_VALID
_VLAN_NUMBER: Final = 0x0FFF  # IEEE 802.1Q; 0 is none.
_TAGS: Final = (0x8100, 0x88A8)  # ETH_P_8021Q, ETH_P_8021AD: linux/if_ether.h
_TAG: Final = struct.Struct("!HH")
_TYPE_AT: Final = 12
"""Behind the two addresses (linux/if_ether.h: struct ethhdr)."""
_NETWORK_AT: Final = 14
_HEADER: Final = struct.Struct("!BBHHHBBxx4s4s")
"""RFC 791 section 3.1: version and length, TOS, total length, identification, flags and fragment offset, TTL,
protocol, checksum, source, destination."""
_ADDRESSES: Final = slice(12, 20)
_MORE: Final = 0x2000  # RFC 791 section 3.1: more fragments.
_OFFSET: Final = 0x1FFF
_UDP: Final = struct.Struct("!HHHH")  # RFC 768
_PSEUDO: Final = struct.Struct("!BBH")
UDP: Final = 17
IGMP: Final = 2


@attrs.frozen
class Frame:
    """How a frame came, and the IPv4 packet in it, as octets.

    Args:
        direction: As `Flow` has it.
        octets: From the IP header on.
        vlan: The number in a tag that it still has.
        hardware_address: Where it is addressed to, on Ethernet.
        is_summed: Its UDP checksum is filled in.
    """

    direction: Direction
    octets: bytes
    vlan: int | None = None
    hardware_address: str | None = None
    is_summed: bool = True


@attrs.frozen
class Packet:
    """An IPv4 packet, as far as it matters here. `offset` is that of a fragment, in octets."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    ttl: int
    identification: int
    offset: int
    is_more: bool
    header: bytes
    body: bytes
    is_complete: bool

    @property
    def fragment(self) -> Literal["first", "later"] | None:
        """Which part of a datagram it is."""
        return "later" if self.offset else "first" if self.is_more else None

    @property
    def port(self) -> int | None:
        """The port that it goes to; `None` for a later fragment, and if it is no UDP."""
        if self.protocol != UDP or self.offset or len(self.body) < _UDP.size:
            return None
        return int(_UDP.unpack_from(self.body)[1])


def parse_frame(
    data: bytes, control: Sequence[tuple[int, int, bytes]], protocol: int, kind: int, link: int
) -> Frame | None:
    """Take a frame apart; `None`, if there is no IPv4 in it.

    Args:
        data: What the socket received.
        control: Its control messages.
        protocol: The kind of packet, by the socket address (sll_protocol).
        kind: Whom it is for, by that (sll_pkttype).
        link: The kind of link, by that (sll_hatype).
    """
    status, network_at, tag = _auxiliary(control)
    vlan = tag & _VLAN_NUMBER if status & _VLAN_VALID else 0
    if link in (ETHERNET, LOOPBACK):
        protocol, network_at, inner = _skip_tags(data)
        vlan = vlan or inner
    if protocol != ETH_P_IP:
        return None
    return Frame(
        _direction(kind, link),
        data[network_at:],
        vlan or None,
        data[:6].hex(":") if link == ETHERNET else None,
        not status & _CHECKSUM_NOT_READY,
    )


def _auxiliary(control: Sequence[tuple[int, int, bytes]]) -> tuple[int, int, int]:
    """Return the status, where the network's header begins, and the VLAN tag."""
    for level, kind, data in control:
        if (level, kind) == (SOL_PACKET, AUXILIARY) and len(data) >= AUXILIARY_DATA.size:
            status, _, _, _, network_at, tag, _ = AUXILIARY_DATA.unpack_from(data)
            return status, network_at, tag
    return 0, 0, 0


def _skip_tags(data: bytes) -> tuple[int, int, int]:
    """Return which protocol is in an Ethernet frame, where, and the first number in its tags; 0 is none."""
    protocol, at, vlan = int.from_bytes(data[_TYPE_AT:_NETWORK_AT], "big"), _NETWORK_AT, 0
    while protocol in _TAGS and at + _TAG.size <= len(data):
        tag, protocol = _TAG.unpack_from(data, at)
        vlan = vlan or tag & _VLAN_NUMBER
        at += _TAG.size
    return protocol, at, vlan


def _direction(kind: int, link: int) -> Direction:
    if kind == OUTGOING:
        return "out"
    if kind == OTHER_HOST:
        return "other_host"
    # Where frames have no addresses, as on loopback and in tunnels, all of them are for this host.
    return "unicast" if kind == HOST and link == ETHERNET else "in"


def parse_packet(octets: bytes) -> Packet | None:
    """Read an IPv4 packet; `None`, if it is none."""
    if len(octets) < _HEADER.size:
        return None
    first, _, total, identification, part, ttl, protocol, source, destination = _HEADER.unpack_from(octets)
    length = 4 * (first & 0xF)
    if first >> 4 != 4 or not _HEADER.size <= length <= min(total, len(octets)):
        return None
    return Packet(
        _address(source),
        _address(destination),
        protocol,
        ttl,
        identification,
        8 * (part & _OFFSET),
        bool(part & _MORE),
        octets[:length],
        octets[length:total],
        total <= len(octets),
    )


@functools.lru_cache(maxsize=1024)
def _address(octets: bytes) -> IPv4Address:
    return IPv4Address(octets)


def judge_header(packet: Packet) -> tuple[Fault, ...]:
    """Return what is wrong with a packet's IP header."""
    return ("ip_checksum",) if internet_checksum(packet.header) else ()


def judge_body(packet: Packet, *, is_summed: bool) -> tuple[Fault, ...]:
    """Return what is wrong with the UDP header of a packet that is no fragment.

    Args:
        packet: The packet.
        is_summed: Its checksum is filled in: one that goes from a program on the same machine need not have it yet.
    """
    if packet.protocol != UDP or packet.fragment or len(packet.body) < _UDP.size or not packet.is_complete:
        return ()
    *_, length, checksum = _UDP.unpack_from(packet.body)
    if not _UDP.size <= length <= len(packet.body):
        return ("udp_length",)
    if not checksum or not is_summed:  # RFC 768: 0 is none.
        return ()
    pseudo = packet.header[_ADDRESSES] + _PSEUDO.pack(0, UDP, length)
    return ("udp_checksum",) if internet_checksum(pseudo + packet.body[:length]) else ()
