"""ICMP as a host sends it: echo replies, and errors about packets that came in vain (RFC 792, RFC 1122)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._values.checksum import internet_checksum, with_checksum
from trio_ipv4.testing._simulation.packets import ANY, ICMP, LIMITED_BROADCAST, Packet, is_group

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.clock import Clock

_ECHO_REPLY: Final = 0
_ECHO: Final = 8
NET_UNREACHABLE: Final = 3, 0
HOST_UNREACHABLE: Final = 3, 1
PROTOCOL_UNREACHABLE: Final = 3, 2
PORT_UNREACHABLE: Final = 3, 3
TTL_EXCEEDED: Final = 11, 0
_INFORMATIONAL: Final = frozenset({0, 8, 9, 10, 13, 14, 15, 16, 17, 18})
"""Types that are no errors. About an error there is no error (RFC 1122 section 3.2.2)."""
_MAX_ERROR: Final = 576
"""How long an error may be, in octets (RFC 1812 section 4.3.2.3)."""
_BURST: Final = 6
"""Errors to one host in one go (linux net/ipv4/route.c, `inet_peer_xrlim_allow`)."""


class ErrorRate:
    """How many errors a host may send to each other host: one per net.ipv4.icmp_ratelimit, in bursts of six."""

    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._tokens: Final[dict[bytes, tuple[float, float]]] = {}

    def allows(self, peer: bytes, milliseconds: int) -> bool:
        """Tell whether one more may go to a host, and count it. With 0 milliseconds between two there is no limit."""
        if not milliseconds:
            return True
        now = self._clock.now()
        tokens, before = self._tokens.get(peer, (float(_BURST), now))
        tokens = min(float(_BURST), tokens + (now - before) * 1000 / milliseconds)
        is_allowed = tokens >= 1
        self._tokens[peer] = tokens - is_allowed, now
        return is_allowed


def echo_reply(packet: Packet) -> bytes | None:
    """Return the answer to an echo request; `None` if a packet is none."""
    message = packet.payload
    if len(message) < 8 or message[0] != _ECHO or internet_checksum(message):
        return None
    return with_checksum(bytes([_ECHO_REPLY, 0, 0, 0]) + message[4:])


def error_about(packet: Packet, kind: tuple[int, int]) -> bytes | None:
    """Write an error that quotes a packet; `None` if there must be none about it (RFC 1122 section 3.2.2)."""
    if is_group(packet.dst) or packet.dst == LIMITED_BROADCAST:
        return None
    if packet.src == ANY or is_group(packet.src) or packet.src == LIMITED_BROADCAST:
        return None
    if packet.protocol == ICMP and packet.payload[:1] and packet.payload[0] not in _INFORMATIONAL:
        return None
    return with_checksum(struct.pack(">BBHI", *kind, 0, 0) + packet.octets()[: _MAX_ERROR - 28])
