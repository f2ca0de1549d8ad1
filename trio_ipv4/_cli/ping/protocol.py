"""ssmping's messages, of version 0.9.1. ssmping, asmping and ssmpingd exchange them, and so does `trio-ipv4 ping`.

    octet 0    "Q": a request, or "A": an answer
    then       fields: type and length of the value, with 16 bits each, and the value

Integers are in network order. An answer repeats the octets of its request behind the first one. Further fields follow.
It is sent from the responder's port, to the client's address and to the group, both times to the client's port.

RFC 6450 describes a later protocol on another port, 9903. Its messages are others.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import IPv4Address
from typing import Final

import attrs

from trio_ipv4 import ParseError

PORT: Final = 4321
"""Where responders listen: ssmpingd(1)."""
DEFAULT_GROUP: Final = IPv4Address("232.43.211.234")
"""The group of requests that name none: ssmping(1)."""
LAST_OCTET: Final = 234
"""How a group ends in which ssmpingd answers: asmping(1)."""
ANSWER_TTL: Final = 64
"""With which TTL every answer is sent, so that the rest of it tells the distance: README of ssmping, "How it works"."""
LONGEST_PADDED: Final = 1024
"""To how many octets an answer is lengthened at most. ssmping and asmping read no more (`recvbuf`, ssmpngcl.c)."""
MOST_TIMES: Final = 3
"""How many times as long as its request an answer is at most: QUIC's limit for strangers (RFC 9000 section 8.1).

ssmping sends 48 octets, and asks for an answer of the size of its `-s`."""

_HEADER: Final = struct.Struct("!HH")
_BEGINNING: Final = struct.Struct("!cHHIHHI")
_IPV4: Final = 1  # IANA's registry "Address Family Numbers"


class Kind(enum.Enum):
    """What a message is: its first octet."""

    REQUEST = b"Q"
    ANSWER = b"A"


class FieldType(enum.IntEnum):
    """The types of fields (ssmping.h: SSMPING_*)."""

    RUN = 1
    """Which run of a client asks. ssmping puts its process number there."""
    NUMBER = 2
    """The number of the request."""
    SENT = 3
    """When it was sent, by the client's clock: seconds and microseconds since the epoch."""
    GROUP = 4
    """Where else to answer: a family, one octet, and an address. ssmpingd reads nothing behind it."""
    WANTS_VERSION = 5
    """The client wants a VERSION in the answer."""
    VERSION = 6
    """The responder's program, as text."""
    REPLY_SIZE = 7
    """How many octets the answer is to have."""
    PAD = 8
    """Filling."""


_SIZES: Final = {
    FieldType.RUN: 4,
    FieldType.NUMBER: 4,
    FieldType.SENT: 8,
    FieldType.GROUP: 5,
    FieldType.REPLY_SIZE: 2,
}
"""How many octets a value has, where that is fixed."""


@attrs.frozen
class Field:
    """A field of a message. Its type may be one that is not known here."""

    type: int
    value: bytes = b""

    def marshal(self) -> bytes:
        """Return its octets."""
        return _HEADER.pack(self.type, len(self.value)) + self.value


@attrs.frozen
class Message:
    """A request, or an answer. Of several fields of one type, the first counts."""

    kind: Kind
    fields: tuple[Field, ...]

    def marshal(self) -> bytes:
        """Return its octets."""
        return self.kind.value + b"".join(field.marshal() for field in self.fields)

    @property
    def run(self) -> int | None:
        """Which run of a client it belongs to."""
        return self._integer(FieldType.RUN)

    @property
    def number(self) -> int | None:
        """The number of the request."""
        return self._integer(FieldType.NUMBER)

    @property
    def group(self) -> IPv4Address | None:
        """The group in which the client expects an answer."""
        value = self._value(FieldType.GROUP)
        return None if value is None else IPv4Address(value[1:])

    @property
    def wants_version(self) -> bool:
        """Whether the answer is to say which program the responder is."""
        return self._value(FieldType.WANTS_VERSION) is not None

    @property
    def version(self) -> str | None:
        """Which program the responder is."""
        value = self._value(FieldType.VERSION)
        return None if value is None else value.decode("utf-8", "backslashreplace")

    @property
    def reply_size(self) -> int | None:
        """How many octets the answer is to have."""
        return self._integer(FieldType.REPLY_SIZE)

    def _integer(self, type: FieldType) -> int | None:  # noqa: A002  # As the field calls it.
        value = self._value(type)
        return None if value is None else int.from_bytes(value, "big")

    def _value(self, type: FieldType) -> bytes | None:  # noqa: A002  # As the field calls it.
        return next((field.value for field in self.fields if field.type == type), None)


def parse_message(data: bytes) -> Message:
    """Read a message. Fields of unknown types are kept.

    Raises:
        ParseError: It is none, or a length contradicts the octets that are there.
    """
    try:
        kind = Kind(data[:1])
    except ValueError:
        raise ParseError(f"must begin with 'Q' or 'A', got {data[:1]!r}") from None
    fields: list[Field] = []
    at = 1
    while at < len(data):
        fields.append(_parse_field(data, at))
        at += _HEADER.size + len(fields[-1].value)
    return Message(kind, tuple(fields))


def _parse_field(data: bytes, at: int) -> Field:
    if len(data) - at < _HEADER.size:
        raise ParseError(f"a field must have {_HEADER.size} octets before its value, got {len(data) - at}", offset=at)
    kind, size = _HEADER.unpack_from(data, at)
    value = data[at + _HEADER.size :][:size]
    if len(value) < size:
        raise ParseError(f"a field of {size} octets must be there whole, got {len(value)}", offset=at)
    if kind in _SIZES and size != _SIZES[kind]:
        raise ParseError(f"the value of field {kind} must have {_SIZES[kind]} octets, got {size}", offset=at)
    if kind == FieldType.GROUP and value[0] != _IPV4:
        raise ParseError(f"the group must be of family {_IPV4}, IPv4, got {value[0]}", offset=at)
    return Field(kind, value)


def make_request(run: int, number: int, sent_ns: int, group: IPv4Address, *, size: int | None = None) -> Message:
    """Return a request.

    Args:
        run: A number of 32 bits by which this run knows its answers.
        number: The number of the request, of 32 bits.
        sent_ns: The time, in nanoseconds since the epoch.
        group: Where else to answer.
        size: How many octets it has, at least `SMALLEST`. Without, it asks for the responder's version.
    """
    seconds, nanoseconds = divmod(sent_ns, 10**9)
    filling = Field(FieldType.WANTS_VERSION) if size is None else Field(FieldType.PAD, bytes(size - SMALLEST))
    return Message(
        Kind.REQUEST,
        (
            Field(FieldType.RUN, run.to_bytes(4, "big")),
            Field(FieldType.NUMBER, number.to_bytes(4, "big")),
            Field(FieldType.SENT, struct.pack("!II", seconds & 0xFFFF_FFFF, nanoseconds // 1000)),
            filling,
            Field(FieldType.GROUP, bytes([_IPV4]) + group.packed),
        ),
    )


SMALLEST: Final = 1 + sum(_HEADER.size + size for size in (4, 4, 8, 0, 5))
"""In octets: the size of a request of ours without filling."""


def find_number(quoted: bytes, run: int) -> int | None:
    """Return the number of a request of this run, of which an ICMP error may quote no more than the beginning."""
    if len(quoted) < _BEGINNING.size:
        return None
    octet, first, _, found, second, _, number = _BEGINNING.unpack_from(quoted)
    is_ours = octet == Kind.REQUEST.value and (first, found, second) == (FieldType.RUN, run, FieldType.NUMBER)
    return number if is_ours else None


def make_answer(request: Message, version: str) -> Message:
    """Return the answer to a request.

    It is as long as the request. It is longer only if the request asks for the version, or for an answer of some size,
    and then at most `LONGEST_PADDED` octets, and `MOST_TIMES` as long as the request. So nobody can use a responder to
    send much with few octets.
    """
    answer = Message(Kind.ANSWER, request.fields)
    size = len(answer.marshal())
    longest = min(LONGEST_PADDED, MOST_TIMES * size)
    own = Field(FieldType.VERSION, version.encode())
    if request.wants_version and size + len(own.marshal()) <= longest:
        answer = Message(Kind.ANSWER, (*answer.fields, own))
        size += len(own.marshal())
    missing = min(request.reply_size or 0, longest) - size - _HEADER.size
    if missing >= 0:
        answer = Message(Kind.ANSWER, (*answer.fields, Field(FieldType.PAD, bytes(missing))))
    return answer


def is_source_specific(group: IPv4Address) -> bool:
    """Tell whether members of a group have to name their sources: in 232.0.0.0/8 (RFC 4607 section 1)."""
    return group.packed[0] == 232


def may_answer_in(group: IPv4Address, own: frozenset[IPv4Address]) -> bool:
    """Tell whether a responder with these groups of its own may answer in a group.

    Groups that end in .234 are for this protocol, by custom. In others, strangers could make a responder disturb what
    is sent there.
    """
    return group.is_multicast and (group in own or group.packed[-1] == LAST_OCTET)
