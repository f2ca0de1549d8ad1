"""ICMP messages (RFC 792), from the type octet on.

Every message begins with a type, a code, and a checksum of the whole. What follows depends on the type. A query has an
identifier and a sequence number, which its reply repeats. An error quotes a datagram (icmp_error.py). A message of any
other type keeps its octets.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias, final

import attrs

from trio_ipv4._values.checksum import checked_message, with_checksum
from trio_ipv4._values.fields import to_bool, to_integer, to_octets
from trio_ipv4._values.icmp import ICMPType
from trio_ipv4._values.icmp_error import (
    ICMPDestinationUnreachable,
    ICMPParameterProblem,
    ICMPRedirect,
    ICMPTimeExceeded,
    parse_error,
    parse_redirect,
)

_START: Final = struct.Struct("!BBxx")
"""Type and code, and the checksum's place (RFC 792)."""
_QUERY: Final = struct.Struct("!BBxxHH")
"""The same, identifier, sequence number (RFC 792, "Echo" and "Timestamp")."""
_TIMESTAMP: Final = struct.Struct("!BBxxHHIII")
"""The same, and the times: originate, receive, transmit (RFC 792, "Timestamp")."""
_OWN: Final[dict[int, str]] = {
    ICMPType.ECHO_REPLY: "ICMPEcho",
    ICMPType.DESTINATION_UNREACHABLE: "ICMPDestinationUnreachable",
    ICMPType.REDIRECT: "ICMPRedirect",
    ICMPType.ECHO: "ICMPEcho",
    ICMPType.TIME_EXCEEDED: "ICMPTimeExceeded",
    ICMPType.PARAMETER_PROBLEM: "ICMPParameterProblem",
    ICMPType.TIMESTAMP: "ICMPTimestamp",
    ICMPType.TIMESTAMP_REPLY: "ICMPTimestamp",
}
"""The types that have a value of their own."""
_SHORTEST: Final[dict[int, int]] = {
    **dict.fromkeys(_OWN, 8),
    ICMPType.TIMESTAMP: _TIMESTAMP.size,
    ICMPType.TIMESTAMP_REPLY: _TIMESTAMP.size,
}
"""The octets of their shortest messages (RFC 792). One of any other type has 4."""
_TYPES: Final = {int(each): each for each in ICMPType}


@final
@attrs.frozen(init=False)
class ICMPEcho:
    """An echo request, or the reply to one (RFC 792).

    Args:
        identifier: Tells the requests of one program from those of others, 0 to 65535. Over
            `open_unprivileged_icmp` the kernel writes its own, the port of `local_endpoint`.
        sequence: Tells one request from the next, 0 to 65535.
        data: Octets that the reply repeats.
        is_reply: Whether this is a reply.
        code: 0 by RFC 792, but 0 to 255 may arrive.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    identifier: int
    sequence: int
    data: bytes
    is_reply: bool
    code: int

    def __init__(
        self, identifier: int, sequence: int, data: bytes = b"", *, is_reply: bool = False, code: int = 0
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(identifier, "identifier", 0, 0xFFFF),
            to_integer(sequence, "sequence", 0, 0xFFFF),
            to_octets(data, "data"),
            to_bool(is_reply, "is_reply"),
            to_integer(code, "code", 0, 0xFF),
        )

    @property
    def type(self) -> ICMPType:
        """`ICMPType.ECHO`, or `ECHO_REPLY`."""
        return ICMPType.ECHO_REPLY if self.is_reply else ICMPType.ECHO

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return with_checksum(_QUERY.pack(self.type, self.code, self.identifier, self.sequence) + self.data)


@final
@attrs.frozen(init=False)
class ICMPTimestamp:
    """A timestamp request, or the reply to one (RFC 792).

    Times are milliseconds since midnight UTC. A time with the highest of its 32 bits set is in another unit, or counted
    from another moment. A time of 0 is midnight: the RFC has no value for an absent one.

    Args:
        identifier: As of an echo, 0 to 65535.
        sequence: As of an echo, 0 to 65535.
        originate: When the request left, 0 to 2**32 - 1.
        receive: When the request arrived, likewise. It is 0 in a request.
        transmit: When the reply left, likewise. It is 0 in a request.
        is_reply: Whether this is a reply.
        code: 0 by RFC 792, but 0 to 255 may arrive.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    identifier: int
    sequence: int
    originate: int
    receive: int
    transmit: int
    is_reply: bool
    code: int

    def __init__(
        self,
        identifier: int,
        sequence: int,
        *,
        originate: int = 0,
        receive: int = 0,
        transmit: int = 0,
        is_reply: bool = False,
        code: int = 0,
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(identifier, "identifier", 0, 0xFFFF),
            to_integer(sequence, "sequence", 0, 0xFFFF),
            to_integer(originate, "originate", 0, 0xFFFF_FFFF),
            to_integer(receive, "receive", 0, 0xFFFF_FFFF),
            to_integer(transmit, "transmit", 0, 0xFFFF_FFFF),
            to_bool(is_reply, "is_reply"),
            to_integer(code, "code", 0, 0xFF),
        )

    @property
    def type(self) -> ICMPType:
        """`ICMPType.TIMESTAMP`, or `TIMESTAMP_REPLY`."""
        return ICMPType.TIMESTAMP_REPLY if self.is_reply else ICMPType.TIMESTAMP

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        query = (self.type, self.code, self.identifier, self.sequence)
        return with_checksum(_TIMESTAMP.pack(*query, self.originate, self.receive, self.transmit))


@final
@attrs.frozen(init=False)
class ICMPOther:
    """A message of a type that has no value of its own here.

    Args:
        type: The type, 0 to 255. A number that has a name is stored as an `ICMPType`.
        code: The code, 0 to 255.
        body: The octets after the checksum. Those of an extended echo request are a word and an extension structure,
            which `parse_extensions` reads (RFC 8335 section 2).

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or the type has a value of its own.
    """

    type: ICMPType | int
    code: int
    body: bytes

    def __init__(self, type: ICMPType | int, code: int, body: bytes) -> None:  # noqa: A002  # The RFC's name.
        number = to_integer(type, "type", 0, 0xFF)
        if number in _OWN:
            raise ValueError(f"type must not be {number}: {_OWN[number]} is the value for it")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            _TYPES.get(number, number), to_integer(code, "code", 0, 0xFF), to_octets(body, "body")
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return with_checksum(_START.pack(self.type, self.code) + self.body)


ICMPMessage: TypeAlias = (
    ICMPEcho
    | ICMPTimestamp
    | ICMPDestinationUnreachable
    | ICMPTimeExceeded
    | ICMPParameterProblem
    | ICMPRedirect
    | ICMPOther
)
"""Any ICMP message. Each has `type`, `code` and `marshal()`."""


def parse_icmp(data: bytes | bytearray | memoryview) -> ICMPMessage:
    """Read an ICMP message, from its type octet on: the payload of an IP packet.

    Octets that RFC 792 calls unused are ignored, and so are those behind a timestamp message.

    Raises:
        TypeError: `data` is not a bytes-like object.
        ParseError: The message is too short for its type, its checksum is wrong, or the extensions that it announces
            are malformed.
    """
    return _parse(checked_message(data, _SHORTEST))


def _parse(octets: bytes) -> ICMPMessage:
    match octets[0]:
        case ICMPType.ECHO | ICMPType.ECHO_REPLY:
            return _parse_echo(octets)
        case ICMPType.TIMESTAMP | ICMPType.TIMESTAMP_REPLY:
            return _parse_timestamp(octets)
        case ICMPType.DESTINATION_UNREACHABLE | ICMPType.TIME_EXCEEDED | ICMPType.PARAMETER_PROBLEM:
            return parse_error(octets)
        case ICMPType.REDIRECT:
            return parse_redirect(octets)
        case other:
            return ICMPOther(other, octets[1], octets[_START.size :])


def _parse_echo(octets: bytes) -> ICMPEcho:
    kind, code, identifier, sequence = _QUERY.unpack_from(octets)
    is_reply = kind == ICMPType.ECHO_REPLY
    return ICMPEcho(identifier, sequence, octets[_QUERY.size :], is_reply=is_reply, code=code)


def _parse_timestamp(octets: bytes) -> ICMPTimestamp:
    kind, code, identifier, sequence, originate, receive, transmit = _TIMESTAMP.unpack_from(octets)
    return ICMPTimestamp(
        identifier,
        sequence,
        originate=originate,
        receive=receive,
        transmit=transmit,
        is_reply=kind == ICMPType.TIMESTAMP_REPLY,
        code=code,
    )
