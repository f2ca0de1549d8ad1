"""ICMP message types (RFC 792 and IANA's registry), and the kernel's filter on them."""

from __future__ import annotations

import enum
from typing import Final, final

import attrs

from trio_ipv4._values.fields import to_integer

_MAX_TYPE: Final = 31
_ALL: Final = 0xFFFF_FFFF
"""Every bit of linux/icmp.h's `struct icmp_filter`, one unsigned 32-bit word."""


class ICMPType(enum.IntEnum):
    """The types of ICMP messages (IANA, "ICMP Type Numbers"), those that are not deprecated.

    `str()` gives the registry's name in lower case: "destination unreachable".
    """

    ECHO_REPLY = 0
    DESTINATION_UNREACHABLE = 3
    REDIRECT = 5
    ECHO = 8
    ROUTER_ADVERTISEMENT = 9
    ROUTER_SOLICITATION = 10
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12
    TIMESTAMP = 13
    TIMESTAMP_REPLY = 14
    PHOTURIS = 40
    EXTENDED_ECHO_REQUEST = 42
    EXTENDED_ECHO_REPLY = 43

    def __str__(self) -> str:
        return self.name.replace("_", " ").lower()


@final
@attrs.frozen(init=False)
class ICMPFilter:
    """Which ICMP messages a raw ICMP socket receives, by their types. Linux only.

    Args:
        mask: Bit *n* set blocks type *n* (linux/icmp.h). By default nothing is blocked.

    Raises:
        TypeError: `mask` is not an integer.
        ValueError: `mask` is not from 0 to 2**32 - 1.
    """

    mask: int = attrs.field(repr=hex)

    def __init__(self, mask: int = 0) -> None:
        self.__attrs_init__(to_integer(mask, "mask", 0, _ALL))  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def accept_all(cls) -> ICMPFilter:
        """Return a filter that lets every type pass."""
        return cls(0)

    @classmethod
    def block_all(cls) -> ICMPFilter:
        """Return a filter that blocks every type from 0 to 31; the kernel lets the others pass."""
        return cls(_ALL)

    def accept(self, *types: ICMPType | int) -> ICMPFilter:
        """Return a filter that lets these types pass, too.

        Raises:
            ValueError: A type is not from 0 to 31.
        """
        return ICMPFilter(self.mask & ~_bits(types))

    def block(self, *types: ICMPType | int) -> ICMPFilter:
        """Return a filter that blocks these types, too.

        Raises:
            ValueError: A type is not from 0 to 31.
        """
        return ICMPFilter(self.mask | _bits(types))

    def will_block(self, type: ICMPType | int) -> bool:  # noqa: A002  # The RFC's name of the field.
        """Tell whether messages of this type are blocked.

        Raises:
            ValueError: The type is not from 0 to 31.
        """
        return bool(self.mask & _bits((type,)))


def _bits(types: tuple[object, ...]) -> int:
    bits = 0
    for each in types:
        bits |= 1 << _to_filtered_type(each)
    return bits


def _to_filtered_type(value: object) -> int:
    """Convert a type that the kernel filters. Go shifts by `type & 31`: there, to block 40 is to block 8."""
    number = to_integer(value, "type", 0, 0xFF)
    if number > _MAX_TYPE:
        # linux net/ipv4/raw.c icmp_filter(): "Do not block unknown ICMP types".
        raise ValueError(f"type must be from 0 to {_MAX_TYPE}, got {number}: the kernel never filters the types above")
    return number
