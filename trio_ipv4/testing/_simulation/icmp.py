"""ICMP as a host sends it: echo replies, and errors about packets that came in vain (RFC 792, RFC 1122)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_ipv4._values.checksum import internet_checksum, with_checksum
from trio_ipv4.testing._simulation.packets import ANY, ICMP, LIMITED_BROADCAST, Packet, is_group

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.clock import Clock

UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM = 3, 4, 5, 11, 12
"""The types of errors (linux/icmp.h)."""
_ECHO_REPLY: Final = 0
_REPLIES: Final = frozenset({_ECHO_REPLY, 43})
_ECHO: Final = 8
NET_UNREACHABLE: Final = 3, 0
HOST_UNREACHABLE: Final = 3, 1
PROTOCOL_UNREACHABLE: Final = 3, 2
PORT_UNREACHABLE: Final = 3, 3
FRAGMENTATION_NEEDED: Final = 3, 4
TTL_EXCEEDED: Final = 11, 0
_FRAGMENT_TIME_EXCEEDED: Final = 11, 1
_LAST_CODE: Final = 15
"""NR_ICMP_UNREACH, linux/icmp.h."""
_INFORMATIONAL: Final = frozenset({0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43})
"""Types that are no errors. About an error there is no error (RFC 1122 section 3.2.2)."""
_MAX_ERROR: Final = 576
"""How long an error may be, in octets (RFC 1812 section 4.3.2.3)."""
_BURST: Final = 6
"""Errors to one host in one go (`XRLIM_BURST_FACTOR`, linux net/ipv4/inetpeer.c)."""
_ROUTE_ERROR_COST, _ROUTE_ERROR_BURST = 1.0, 5.0
"""In seconds: net.ipv4.route.error_cost and error_burst, linux net/ipv4/route.c."""
_INFOS: Final = {
    UNREACHABLE: (0xFFFF, 0),
    SOURCE_QUENCH: (0, 0),
    REDIRECT: (0xFFFF_FFFF, 0),
    TIME_EXCEEDED: (0, 0),
    PARAMETER_PROBLEM: (0xFF00_0000, 24),
}
"""Which part of the second word is the info."""
_MIN_QUOTED: Final = 128
"""The octets that a quote has at least if extensions follow (RFC 4884 section 3)."""
_EXTENSIONS_VERSION: Final = 2


class ErrorRate:
    """How many errors a host may send to each other host: one bucket of tokens for each (`struct inet_peer`).

    A token is a second without an error. Every error takes net.ipv4.icmp_ratelimit of them, in bursts of six. An error
    about a missing route takes one more, in bursts of five.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._tokens: Final[dict[bytes, tuple[float, float]]] = {}

    def allows(self, peer: bytes, milliseconds: int) -> bool:
        """Tell whether one more may go to a host, and take tokens for it (`inet_peer_xrlim_allow`)."""
        cost = milliseconds / 1000
        return self._take(peer, cost, _BURST * cost)

    def allows_about_route(self, peer: bytes) -> bool:
        """Tell the same of an error about a missing route, and take tokens for that alone (`ip_error`)."""
        return self._take(peer, _ROUTE_ERROR_COST, _ROUTE_ERROR_BURST)

    def _take(self, peer: bytes, cost: float, most: float) -> bool:
        now = self._clock.now()
        tokens, before = self._tokens.get(peer, (most, now))
        tokens = min(most, tokens + now - before)
        is_allowed = tokens >= cost
        self._tokens[peer] = tokens - cost * is_allowed, now
        return is_allowed


def echo_reply(packet: Packet) -> bytes | None:
    """Return the answer to an echo request; `None` if a packet is none."""
    message = packet.payload
    if len(message) < 8 or message[0] != _ECHO or internet_checksum(message):
        return None
    return with_checksum(bytes([_ECHO_REPLY, 0, 0, 0]) + message[4:])


def is_reply(message: bytes) -> bool:
    """Tell whether a message is an echo reply, of the extended kind too (RFC 8335)."""
    return len(message) >= 8 and message[0] in _REPLIES and not internet_checksum(message)


class Error(NamedTuple):
    """An ICMP error that came in."""

    kind: int
    code: int
    info: int
    """The MTU of "fragmentation needed", the octet at fault, the gateway of a redirect; otherwise 0."""
    quoted: bytes
    """The packet that it is about, as far as that is quoted, from the IP header on."""

    @property
    def is_fragmentation(self) -> bool:
        """Whether a packet was too long for a path."""
        return (self.kind, self.code) == FRAGMENTATION_NEEDED

    @property
    def protocol(self) -> int:
        """The protocol of the packet."""
        return self.quoted[9]

    @property
    def src(self) -> bytes:
        """The source of the packet: this host, as a rule."""
        return self.quoted[12:16]

    @property
    def dst(self) -> bytes:
        """The destination of the packet."""
        return self.quoted[16:20]

    @property
    def body(self) -> bytes:
        """What the packet carried."""
        return self.quoted[4 * (self.quoted[0] & 0xF) :]


def parse_error(message: bytes) -> Error | None:
    """Read an ICMP error; `None` if Linux makes nothing of it (`icmp_rcv`, `icmp_unreach`, `icmp_socket_deliver`)."""
    if len(message) < 8 or internet_checksum(message):
        return None
    kind, code, word, quoted = message[0], message[1], int.from_bytes(message[4:8], "big"), message[8:]
    if kind not in _INFOS or (kind, code) == _FRAGMENT_TIME_EXCEEDED or (kind == UNREACHABLE and code > _LAST_CODE):
        return None
    # A header, and eight octets more.
    if len(quoted) < 20 or not 5 <= quoted[0] & 0xF <= (len(quoted) - 8) // 4:
        return None
    mask, shift = _INFOS[kind] if kind != UNREACHABLE or code == FRAGMENTATION_NEEDED[1] else (0, 0)
    return Error(kind, code, (word & mask) >> shift, quoted)


def extension_data(message: bytes, start: int) -> int:
    """Return what a socket is told of an error's extensions (IP_RECVERR_RFC4884; `ip_icmp_error_rfc4884`).

    That is where they begin, 0 for none, and a flag if they are unsound (`struct sock_ee_data_rfc4884`).

    Args:
        message: The ICMP message.
        start: Where the payload that a socket is told begins in it.
    """
    if message[0] not in (UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM):
        return 0
    header, quoted = start - 8, 4 * message[5]
    at = 8 + quoted
    if quoted < _MIN_QUOTED or quoted < header or at + 4 > len(message):
        return 0
    return (quoted - header) | (0 if _has_sound_objects(message[at:]) else 1 << 16)


def _has_sound_objects(extensions: bytes) -> bool:
    """Check extensions (RFC 4884 section 7; `ip_icmp_error_rfc4884_validate`)."""
    if extensions[0] >> 4 != _EXTENSIONS_VERSION:
        return True
    if any(extensions[2:4]) and internet_checksum(extensions):
        return False
    at = 4
    while at < len(extensions):
        length = int.from_bytes(extensions[at : at + 2], "big")
        if len(extensions) - at < 4 or length < 4 or at + length > len(extensions):
            return False
        at += length
    return True


def error_about(packet: Packet, kind: tuple[int, int], info: int = 0) -> bytes | None:
    """Write an error that quotes a packet; `None` if there must be none about it (RFC 1122 section 3.2.2)."""
    if is_group(packet.dst) or packet.dst == LIMITED_BROADCAST:
        return None
    if packet.src == ANY or is_group(packet.src) or packet.src == LIMITED_BROADCAST:
        return None
    if packet.protocol == ICMP and packet.payload[:1] and packet.payload[0] not in _INFORMATIONAL:
        return None
    return with_checksum(struct.pack(">BBHI", *kind, 0, info) + packet.octets()[: _MAX_ERROR - 28])
