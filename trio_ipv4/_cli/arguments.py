"""What people write on the command line, and what it means: endpoints, durations, rates.

Each reader takes the text and returns the value, or raises a `ValueError` that says what is right. `reads` makes a
parameter of it.
"""

from __future__ import annotations

import functools
import math
import os
import re
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import attrs
from cyclopts import CoercionError, CycloptsError, Parameter

from trio_ipv4 import Interface, interfaces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cyclopts import Token

MAX_PAYLOAD: Final = 65507
"""Octets of a UDP payload: 65,535 without an IP and a UDP header (RFC 791, RFC 768)."""
_ALTERNATIVE_NAME_SIZE: Final = 128
"""ALTIFNAMSIZ (linux/if.h), with the zero at the end."""
_NO_HOSTS: Final = (IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"))
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIMES: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_DSCP: Final = {
    # IANA's registry "Differentiated Services Field Codepoints", by their names.
    **{f"cs{number}": 8 * number for number in range(8)},  # RFC 2474
    **{f"af{number}{drop}": 8 * number + 2 * drop for number in range(1, 5) for drop in range(1, 4)},  # RFC 2597
    "ef": 46,  # RFC 3246
    "va": 44,  # RFC 5865
    "le": 1,  # RFC 8622
}


@attrs.frozen
class GroupPort:
    """A group, and a port; `None` for every port."""

    group: IPv4Address
    port: int | None = None

    def __str__(self) -> str:
        return str(self.group) if self.port is None else f"{self.group}:{self.port}"


@attrs.frozen
class Destination:
    """A group, with a port."""

    group: IPv4Address
    port: int

    def __str__(self) -> str:
        return f"{self.group}:{self.port}"


@attrs.frozen
class Rate:
    """How fast to send: so many datagrams, or so many bits of payload, in a second. One of them is `None`."""

    datagrams: float | None = None
    bits: float | None = None


def reads(read: Callable[[str], Any], metavar: str) -> Parameter:
    """Return a parameter whose text is read by a function. For an option that may be repeated, see `reads_each`.

    Args:
        read: The function.
        metavar: What the help calls the text.
    """

    def convert(_: type, tokens: Sequence[Token]) -> Any:
        return read(tokens[0].value)

    functools.update_wrapper(convert, read, assigned=("__name__", "__qualname__"))
    return Parameter(converter=convert, n_tokens=1, metavar=metavar, accepts_keys=False)


def reads_each(read: Callable[[str], Any], metavar: str) -> Parameter:
    """Return a parameter that may be repeated, and each of whose texts is read by a function: it is a tuple of values.

    It annotates the tuple: cyclopts does not ask a converter that stands within, at the tuple's elements.
    """

    def convert(_: type, tokens: Sequence[Token]) -> tuple[Any, ...]:
        return tuple(map(read_token, tokens))

    def read_token(token: Token) -> Any:
        try:
            return read(token.value)
        except ValueError as error:
            raise CoercionError(msg=str(error), token=token) from None

    functools.update_wrapper(convert, read, assigned=("__name__", "__qualname__"))
    return Parameter(converter=convert, n_tokens=1, metavar=metavar, accepts_keys=False)


def wrong_usage(command: str, message: str) -> CycloptsError:
    """Return the error for options that can't go together. The message says what to write instead."""
    return CycloptsError(msg=message, command_chain=tuple(command.split()))


def is_named(interface: Interface, names: Collection[str]) -> bool:
    """Tell whether one of the names, which may be an alternative one, is the interface's."""
    return not {interface.name, *interface.alternative_names}.isdisjoint(names)


def read_address(text: str) -> IPv4Address:
    """Read an IPv4 address."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ValueError(f"must be an IPv4 address, as 198.18.0.1, got {text!r}") from None


def read_host(text: str) -> IPv4Address:
    """Read the address of one host."""
    address = read_address(text)
    if address.is_multicast or address in _NO_HOSTS:
        raise ValueError(f"must be the address of one host, as 198.18.0.1, got {text!r}")
    return address


def read_group(text: str) -> IPv4Address:
    """Read a multicast address."""
    address = read_address(text)
    if not address.is_multicast:
        raise ValueError(f"must be a group, from 224.0.0.0 to 239.255.255.255, got {text!r}")
    return address


def read_group_port(text: str) -> GroupPort:
    """Read a group, with a port or without: 239.1.2.3:5000."""
    address, colon, port = text.partition(":")
    if not colon:
        return GroupPort(read_group(address))
    if not _is_port(port):
        raise ValueError(f"must be GROUP:PORT with a port from 1 to 65535, as 239.1.2.3:5000, got {text!r}")
    return GroupPort(read_group(address), int(port))


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def read_destination(text: str) -> Destination:
    """Read a group with its port: 239.1.2.3:5000."""
    read = read_group_port(text)
    if read.port is None:
        raise ValueError(f"must be GROUP:PORT, as {text}:5000, got {text!r}")
    return Destination(read.group, read.port)


def read_duration(text: str) -> float:
    """Read a duration: 3s, 500ms, 2m, 1h, or a bare number of seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([a-z]*)", text)
    seconds = float(match[1]) * _SECONDS.get(match[2] or "s", 0) if match else 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"must be a duration of more than 0, as 3s, 500ms, 2m or 1h, got {text!r}")
    return seconds


def read_rate(text: str) -> Rate:
    """Read a rate: 100/s, 10kpps, 5Mbit/s, or a bare number of datagrams in a second."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([kmg]?)(/s|pps|bps|bit/s|)", text, re.IGNORECASE)
    if match is None or (number := float(match[1]) * _TIMES[match[2].lower()]) <= 0 or number == math.inf:
        raise ValueError(f"must be a rate of more than 0, as 100/s, 10kpps or 5Mbit/s, got {text!r}")
    return Rate(bits=number) if match[3].lower() in {"bps", "bit/s"} else Rate(datagrams=number)


def read_tos(text: str) -> int:
    """Read a TOS octet: 184, 0xb8, or the name of a DSCP, as EF or AF41."""
    name = text.lower()
    if name in _DSCP:
        return _DSCP[name] << 2  # RFC 2474 section 3: the six upper bits of the octet.
    base = 16 if name.startswith("0x") else 10
    if not re.fullmatch(r"0x[0-9a-f]{1,2}|[0-9]{1,3}", name) or not 0 <= (number := int(name, base)) <= 255:
        raise ValueError(f"must be a TOS octet from 0 to 255, as 0xb8, or a DSCP's name, as EF or AF41, got {text!r}")
    return number


def within(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers that have bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return read


def read_interface_name(text: str) -> str:
    """Read the name of an interface, also an alternative one: up to 127 octets, without a slash or white space.

    Other white space than ASCII's is allowed (`dev_valid_name` in net/core/dev.c; ALTIFNAMSIZ in linux/if.h.)
    """
    if not 0 < len(os.fsencode(text)) < _ALTERNATIVE_NAME_SIZE or text in {".", ".."} or re.search(r"(?a)[/:\s]", text):
        raise ValueError(f"must be the name of an interface, as en0, got {text!r}")
    return text


def _complete_interface(_: object) -> dict[str, str]:
    """Return the interfaces of this network namespace, each with its addresses, for a shell's completion."""
    return {interface.name: " ".join(map(str, interface.addresses)) for interface in interfaces()}


InterfaceName: TypeAlias = Annotated[str, Parameter(completer=_complete_interface), reads(read_interface_name, "NAME")]
InterfaceNames: TypeAlias = Annotated[
    tuple[str, ...], Parameter(completer=_complete_interface), reads_each(read_interface_name, "NAME")
]
Seconds: TypeAlias = Annotated[float, reads(read_duration, "DURATION")]
For: TypeAlias = Annotated[Seconds | None, Parameter(name="--for")]
Address: TypeAlias = Annotated[IPv4Address, reads(read_address, "ADDRESS")]
HostAddress: TypeAlias = Annotated[IPv4Address, reads(read_host, "ADDRESS")]
Group: TypeAlias = Annotated[IPv4Address, reads(read_group, "GROUP")]
Groups: TypeAlias = Annotated[tuple[IPv4Address, ...], reads_each(read_group, "GROUP")]
AnyGroupPort: TypeAlias = Annotated[GroupPort, reads(read_group_port, "GROUP[:PORT]")]
OneGroupPort: TypeAlias = Annotated[Destination, reads(read_destination, "GROUP:PORT")]
SendingRate: TypeAlias = Annotated[Rate, reads(read_rate, "RATE")]
TOS: TypeAlias = Annotated[int, reads(read_tos, "TOS")]
TTL: TypeAlias = Annotated[int, reads(within(1, 255), "TTL")]
Count: TypeAlias = Annotated[int, reads(within(1, 10**18), "N")]
Port: TypeAlias = Annotated[int, reads(within(1, 65535), "PORT")]
AsJSON: TypeAlias = Annotated[bool, Parameter(name="--json", help="Print JSON, one object a line.")]
