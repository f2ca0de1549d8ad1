"""The checksum that IP, ICMP, IGMP and UDP share (RFC 1071)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._errors import ParseError
from trio_ipv4._values.fields import to_octets

if TYPE_CHECKING:
    from collections.abc import Mapping

_START_LEN: Final = 4
"""Type, code and checksum (RFC 792)."""
_ONES: Final = 0xFFFF
"""All ones: in one's complement, the other way to write zero."""


def internet_checksum(data: bytes | bytearray | memoryview) -> int:
    """Compute the Internet checksum of `data`: 0 over what holds a right checksum already (RFC 1071 section 1).

    Octets are paired in network order, an odd last one with a zero. To fill in a checksum, compute it with the
    checksum's own field at zero.

    Raises:
        TypeError: `data` is not a bytes-like object.
    """
    octets = to_octets(data, "data")
    # 2**16 leaves the remainder 1 modulo 65535, so the whole string, read as one number, has the remainder of the sum
    # of its 16-bit words; that is four times as fast as adding them up.
    number = int.from_bytes(octets, "big") << 8 * (len(octets) % 2)
    remainder = number % _ONES
    # A sum with carries folded in is 0 only if every word is; what is a multiple of 65535 otherwise folds to all ones.
    folded = _ONES if number and not remainder else remainder
    return folded ^ _ONES


def with_checksum(message: bytes) -> bytes:
    """Fill in the checksum of an ICMP or IGMP message, which stands in its third and fourth octet, and is 0 there.

    RFC 792; RFC 9776 section 4.1.2.
    """
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]


def checked_message(data: object, shortest: Mapping[int, int]) -> bytes:
    """Return the octets of an ICMP or IGMP message that is long enough for its type, and whose checksum is right.

    Args:
        data: The message, from its type octet on.
        shortest: How many octets a message of a type has at least. Of any other type it is 4: type, code and checksum.

    Raises:
        TypeError: `data` is not a bytes-like object.
        ParseError: It is too short, or the checksum is wrong.
    """
    octets = to_octets(data, "data")
    least = shortest.get(octets[0], _START_LEN) if octets else _START_LEN
    if len(octets) < least:
        raise ParseError(f"the message has {least} octets at least, got {len(octets)}", offset=len(octets))
    if internet_checksum(octets):
        raise ParseError(f"the checksum of the message is wrong: 0x{octets[2:4].hex()}", offset=2)
    return octets
