"""Packets for captures, rebuilt from what a socket tells: payload, addresses, ports, TTL and TOS.

What a socket does not tell is not the original's: identification and flags are 0, and there are no options.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4 import Header

if TYPE_CHECKING:
    from ipaddress import IPv4Address

_IP_HEADER: Final = 20
_UDP_HEADER: Final = struct.Struct("!HHHH")  # RFC 768
_MODULUS: Final = 0xFFFF


def rebuild(
    source: tuple[IPv4Address, int], destination: tuple[IPv4Address, int], ttl: int, tos: int, payload: bytes
) -> bytes:
    """Return the IP packet of a UDP datagram, with right checksums."""
    length = _UDP_HEADER.size + len(payload)
    header = Header(
        src=source[0], dst=destination[0], tos=tos, ttl=ttl, protocol=socket.IPPROTO_UDP, total_len=_IP_HEADER + length
    ).with_checksum()
    pseudo = source[0].packed + destination[0].packed + struct.pack("!HH", socket.IPPROTO_UDP, length)
    checksum = _checksum(pseudo + _UDP_HEADER.pack(source[1], destination[1], length, 0) + payload)
    return header.marshal() + _UDP_HEADER.pack(source[1], destination[1], length, checksum) + payload


def _checksum(octets: bytes) -> int:
    """Return the checksum of RFC 768.

    A sum of 16-bit words in ones' complement is the remainder by 65,535 of all octets as one number. A checksum of 0
    would mean that there is none: 65,535 is sent instead, and the subtraction gives just that.
    """
    return _MODULUS - int.from_bytes(octets + bytes(len(octets) % 2)) % _MODULUS
