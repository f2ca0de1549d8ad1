"""Converters that every value shares. The result is valid, or the message names field, range and value.

attrs' stock validators let `True` pass for an int, and `IPv4Address(True)` is 0.0.0.1: the converters here refuse both.
They are called from written-out `__init__` methods, since no type checker but one can see through attrs' converters
to the argument's type.
"""

from __future__ import annotations

import functools
import ipaddress
import operator
from typing import Final, TypeAlias

IPv4Address = ipaddress.IPv4Address
AddressLike: TypeAlias = "ipaddress.IPv4Address | str"
"""An IPv4 address, or its dotted string. Host names are refused: nothing is looked up here."""
Endpoint: TypeAlias = "tuple[str, int]"
"""`(address, port)`, the address as a dotted string, as in `socket`."""
EndpointLike: TypeAlias = "tuple[AddressLike, int]"
"""What names an endpoint: a tuple of an address and a port from 0 to 65535."""

UNSPECIFIED: Final = IPv4Address("0.0.0.0")
LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")
SSM_RANGE: Final = ipaddress.IPv4Network("232.0.0.0/8")
"""The source-specific range that hosts must default to (RFC 4604 section 2)."""


def to_address(value: object, name: str) -> IPv4Address:
    """Convert an `IPv4Address` or a dotted string; anything else is an error that names the field.

    An `IPv4Interface`, such as an interface's address, stands for its address: it is an `IPv4Address` by its class, but
    never equal to one, and its string ends in a prefix length.
    """
    if isinstance(value, ipaddress.IPv4Interface):
        return value.ip
    if isinstance(value, IPv4Address):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be an IPv4Address or a dotted string such as '192.0.2.1', got {value!r}")
    try:
        return _parsed(value)
    except ValueError:
        raise ValueError(
            f"{name} must be a numeric IPv4 address such as '192.0.2.1', got {value!r}{_hint(value)}"
        ) from None


@functools.lru_cache(maxsize=1024)
def _parsed(address: str) -> IPv4Address:
    """Parse a dotted string. A program uses the same few addresses again and again."""
    return IPv4Address(address)


def to_group(value: object, name: str) -> IPv4Address:
    """Convert the address of a multicast group: 224.0.0.0 to 239.255.255.255 (RFC 5771)."""
    address = to_address(value, name)
    if not address.is_multicast:
        raise ValueError(f"{name} must be a multicast address, 224.0.0.0 to 239.255.255.255, got {address}")
    return address


def to_unicast(value: object, name: str) -> IPv4Address:
    """Convert the address of one host: the kernel would accept others as a source, and never match them."""
    address = to_address(value, name)
    if address.is_multicast or address in (UNSPECIFIED, LIMITED_BROADCAST):
        raise ValueError(f"{name} must be a unicast address, got {address}")
    return address


def to_integer(value: object, name: str, lowest: int, highest: int) -> int:
    """Convert an integer within a range. `True` and `False` are not integers here, nor are floats."""
    if type(value) is int:
        number = value
    elif isinstance(value, bool):
        raise TypeError(f"{name} must be an integer from {lowest} to {highest}, got {value!r}")
    else:
        try:
            number = operator.index(value)  # type: ignore[arg-type]  # It raises TypeError for values without an index.
        except TypeError:
            raise TypeError(f"{name} must be an integer from {lowest} to {highest}, got {value!r}") from None
    if not lowest <= number <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}, got {number}")
    return number


def to_octets(value: object, name: str) -> bytes:
    """Convert any bytes-like object to immutable bytes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    hint = f": encode it, {value[:20]!r}.encode()" if isinstance(value, str) else ""
    raise TypeError(f"{name} must be bytes, got {value!r}{hint}")


def to_endpoint(value: object, name: str) -> Endpoint:
    """Convert `(address, port)`; the port is 0 to 65535."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must be a tuple (address, port), got {value!r}")
    address, port = value
    if type(port) is not int or not 0 <= port <= 0xFFFF:
        port = to_integer(port, f"the port of {name}", 0, 0xFFFF)
    if type(address) is str:
        return _dotted(address, name), port
    return str(to_address(address, f"the address of {name}")), port


@functools.lru_cache(maxsize=1024)
def _dotted(address: str, name: str) -> str:
    """Check a dotted string. A program sends to the same few addresses again and again."""
    return str(to_address(address, f"the address of {name}"))


def to_bool(value: object, name: str) -> bool:
    """Let only `True` and `False` pass: a 0 or a string here is a mistake about what the argument means."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def to_source(value: object, name: str) -> IPv4Address | None:
    """Convert an address that may be absent: `None` says so, 0.0.0.0 does not."""
    if value is None:
        return None
    address = to_address(value, name)
    if address == UNSPECIFIED:
        raise ValueError(f"{name} must not be 0.0.0.0: None says 'absent'")
    return address


def to_optional_integer(value: object, name: str, lowest: int, highest: int) -> int | None:
    """Convert an integer within a range that may be absent, which `None` says."""
    return None if value is None else to_integer(value, name, lowest, highest)


def _hint(text: str) -> str:
    if not text:
        return " ('0.0.0.0' stands for all addresses)"
    if ":" in text:
        return " (that looks like an IPv6 address)"
    if any(character.isalpha() for character in text):
        return " (host names are not looked up here)"
    return ""
