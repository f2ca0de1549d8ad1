"""ICMP errors (RFC 792): each quotes the datagram that it is about.

The quote is the header and at least 8 octets more (RFC 792). Routers should quote more, up to a message of 576 octets
(RFC 1812 section 4.3.2.3).

Three kinds may have extensions behind the quote (RFC 4884 section 4). The sixth octet then gives the length of the
quote in 32-bit words, and zeros pad the quote to 128 octets or more. Routers older than that RFC give no length: they
quote exactly 128 octets (section 5). Their extensions are read, too, if the checksum is there and right, and every
object is well-formed. RFC 792 left the sixth octet unused, so a length that no quote can have counts as none.
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import struct
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.checksum import with_checksum
from trio_ipv4._values.fields import to_address, to_integer, to_octets, to_optional_integer
from trio_ipv4._values.header import Header
from trio_ipv4._values.icmp import ICMPType
from trio_ipv4._values.icmp_extension import marshal_extensions, read_extensions, to_extensions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.icmp_extension import ICMPExtensionObject

_ERROR: Final = struct.Struct("!BBxxBBH")
"""Type, code, pointer (RFC 792), length of the quote (RFC 4884 section 4), next-hop MTU (RFC 1191 section 4)."""
_REDIRECT: Final = struct.Struct("!BBxx4s")
"""Type, code, gateway (RFC 792)."""
_QUOTE_AT: Final = 8  # RFC 792: every error quotes from its ninth octet on.
_LENGTH_AT: Final = 5  # RFC 4884 sections 4.1 to 4.3
_MIN_EXTENDED: Final = 128
"""The octets that a quote has at least if extensions follow (RFC 4884 section 3)."""
_MAX_EXTENDED: Final = 4 * 0xFF
"""The octets that the length can tell: it is one octet, and counts 32-bit words (RFC 4884 section 4)."""


class UnreachableCode(enum.IntEnum):
    """Why a destination is unreachable (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1).

    `str()` gives the name in lower case: "port unreachable".
    """

    NET_UNREACHABLE = 0
    HOST_UNREACHABLE = 1
    PROTOCOL_UNREACHABLE = 2
    PORT_UNREACHABLE = 3
    FRAGMENTATION_NEEDED = 4
    SOURCE_ROUTE_FAILED = 5
    NET_UNKNOWN = 6
    HOST_UNKNOWN = 7
    SOURCE_HOST_ISOLATED = 8
    NET_PROHIBITED = 9
    HOST_PROHIBITED = 10
    NET_UNREACHABLE_FOR_TOS = 11
    HOST_UNREACHABLE_FOR_TOS = 12
    COMMUNICATION_PROHIBITED = 13
    HOST_PRECEDENCE_VIOLATION = 14
    PRECEDENCE_CUTOFF = 15

    def __str__(self) -> str:
        return self.name.replace("_", " ").lower()


_CODES: Final = {int(each): each for each in UnreachableCode}


class _Quoting:
    """The part that all errors share: a quote of the datagram."""

    __slots__ = ()
    quoted: bytes

    @property
    def header(self) -> Header | None:
        """The header at the start of `quoted`, or `None` if these octets are no IPv4 header."""
        with contextlib.suppress(ParseError):
            return Header.parse(self.quoted)
        return None

    @property
    def quoted_payload(self) -> bytes:
        """The octets of `quoted` behind that header, with any padding. Without a header, there are none."""
        header = self.header
        return b"" if header is None else self.quoted[header.header_len :]


@final
@attrs.frozen(init=False)
class ICMPDestinationUnreachable(_Quoting):
    """A datagram could not be delivered (RFC 792).

    Args:
        code: Why, 0 to 255. A number that has a name is stored as an `UnreachableCode`.
        quoted: The first octets of the datagram. With extensions, or if its octets from the 129th on could be read as
            extensions, zeros are appended up to 128 octets and a multiple of 4, and 1020 octets are the most.
        mtu: The longest packet that the next hop takes, in octets, 1 to 65535. Only `FRAGMENTATION_NEEDED` can have one
            (RFC 1191 section 4), and from older routers it has none.
        extensions: The objects that the router appended (RFC 4884).

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, there is an MTU with another code, or `quoted` is too long.
    """

    type: ClassVar[ICMPType] = ICMPType.DESTINATION_UNREACHABLE
    code: UnreachableCode | int
    quoted: bytes
    mtu: int | None
    extensions: tuple[ICMPExtensionObject, ...]

    def __init__(
        self,
        code: UnreachableCode | int,
        quoted: bytes,
        *,
        mtu: int | None = None,
        extensions: Iterable[ICMPExtensionObject] = (),
    ) -> None:
        number = to_integer(code, "code", 0, 0xFF)
        if mtu is not None and number != UnreachableCode.FRAGMENTATION_NEEDED:
            raise ValueError(
                f"mtu must be None with code {number}, got {mtu!r}: only code 4 (fragmentation needed) has one"
            )
        objects = to_extensions(extensions)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            _CODES.get(number, number),
            _to_quoted(quoted, objects),
            to_optional_integer(mtu, "mtu", 1, 0xFFFF),
            objects,
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return _marshal_error(self, mtu=self.mtu or 0)


@final
@attrs.frozen(init=False)
class ICMPTimeExceeded(_Quoting):
    """A datagram was dropped because its time was up (RFC 792).

    Args:
        code: 0 to 255. 0 says that its time to live ended on the way, 1 that fragments were missing at the destination.
        quoted: As in `ICMPDestinationUnreachable`.
        extensions: The objects that the router appended (RFC 4884).

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or `quoted` is too long.
    """

    type: ClassVar[ICMPType] = ICMPType.TIME_EXCEEDED
    code: int
    quoted: bytes
    extensions: tuple[ICMPExtensionObject, ...]

    def __init__(self, code: int, quoted: bytes, *, extensions: Iterable[ICMPExtensionObject] = ()) -> None:
        objects = to_extensions(extensions)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(code, "code", 0, 0xFF), _to_quoted(quoted, objects), objects
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return _marshal_error(self)


@final
@attrs.frozen(init=False)
class ICMPParameterProblem(_Quoting):
    """A datagram was dropped because of its header (RFC 792).

    Args:
        code: 0 to 255. 0 says that `pointer` tells the octet at fault, 1 that an option is missing (RFC 1122 section
            3.2.2.5), 2 that a length is wrong (IANA, "ICMP Parameters").
        quoted: As in `ICMPDestinationUnreachable`.
        pointer: Which octet of `quoted` is at fault, 0 to 255, counted from 0. It has a meaning with code 0 only.
        extensions: The objects that the router appended (RFC 4884).

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or `quoted` is too long.
    """

    type: ClassVar[ICMPType] = ICMPType.PARAMETER_PROBLEM
    code: int
    quoted: bytes
    pointer: int
    extensions: tuple[ICMPExtensionObject, ...]

    def __init__(
        self, code: int, quoted: bytes, *, pointer: int = 0, extensions: Iterable[ICMPExtensionObject] = ()
    ) -> None:
        objects = to_extensions(extensions)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(code, "code", 0, 0xFF),
            _to_quoted(quoted, objects),
            to_integer(pointer, "pointer", 0, 0xFF),
            objects,
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return _marshal_error(self, pointer=self.pointer)


@final
@attrs.frozen(init=False)
class ICMPRedirect(_Quoting):
    """A shorter way for datagrams such as the quoted one (RFC 792).

    Args:
        code: 0 to 255. 0 is for the destination's network, 1 for the host, 2 and 3 for these with this type of service.
        gateway: The router to send them to.
        quoted: The first octets of the datagram.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    type: ClassVar[ICMPType] = ICMPType.REDIRECT
    code: int
    gateway: ipaddress.IPv4Address
    quoted: bytes

    def __init__(self, code: int, gateway: AddressLike, quoted: bytes) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(code, "code", 0, 0xFF), to_address(gateway, "gateway"), to_octets(quoted, "quoted")
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return with_checksum(_REDIRECT.pack(self.type, self.code, self.gateway.packed) + self.quoted)


def parse_error(octets: bytes) -> ICMPDestinationUnreachable | ICMPTimeExceeded | ICMPParameterProblem:
    """Read an error of these three types, of 8 octets or more, whose checksum is right."""
    kind, code, pointer, _, mtu = _ERROR.unpack_from(octets)
    quoted, extensions = _split(octets)
    if kind == ICMPType.TIME_EXCEEDED:
        return ICMPTimeExceeded(code, quoted, extensions=extensions)
    if kind == ICMPType.PARAMETER_PROBLEM:
        return ICMPParameterProblem(code, quoted, pointer=pointer, extensions=extensions)
    # Routers older than RFC 1191 leave the MTU 0.
    known = mtu or None if code == UnreachableCode.FRAGMENTATION_NEEDED else None
    return ICMPDestinationUnreachable(code, quoted, mtu=known, extensions=extensions)


def parse_redirect(octets: bytes) -> ICMPRedirect:
    """Read a redirect of 8 octets or more, whose checksum is right."""
    _, code, gateway = _REDIRECT.unpack_from(octets)
    return ICMPRedirect(code, ipaddress.IPv4Address(gateway), octets[_QUOTE_AT:])


def _split(octets: bytes) -> tuple[bytes, tuple[ICMPExtensionObject, ...]]:
    """Tell the quote from the extensions behind it (RFC 4884 section 5)."""
    quoted, length = octets[_QUOTE_AT:], 4 * octets[_LENGTH_AT]
    if length == len(quoted):
        return quoted, ()
    if _MIN_EXTENDED <= length < len(quoted):
        return quoted[:length], read_extensions(octets, _QUOTE_AT + length)
    extensions = _unannounced(quoted)
    return quoted[:_MIN_EXTENDED] if extensions else quoted, extensions


def _unannounced(quoted: bytes) -> tuple[ICMPExtensionObject, ...]:
    """Find extensions that no length announces (RFC 4884 section 5.5).

    In a long quote without extensions, some payload stands there. Only a right checksum tells the two apart.
    """
    if not any(quoted[_MIN_EXTENDED + 2 : _MIN_EXTENDED + 4]):
        return ()
    with contextlib.suppress(ParseError):
        return read_extensions(quoted, _MIN_EXTENDED)
    return ()


def _marshal_error(
    error: ICMPDestinationUnreachable | ICMPTimeExceeded | ICMPParameterProblem, pointer: int = 0, mtu: int = 0
) -> bytes:
    length = len(error.quoted) // 4 if _needs_length(error.quoted, error.extensions) else 0
    parts = [_ERROR.pack(error.type, error.code, pointer, length, mtu), error.quoted]
    if error.extensions:
        parts.append(marshal_extensions(error.extensions))
    return with_checksum(b"".join(parts))


def _needs_length(quoted: bytes, extensions: tuple[ICMPExtensionObject, ...]) -> bool:
    """Whether the message must tell the length: a quote that looks like extensions would be taken for these."""
    return bool(extensions or _unannounced(quoted))


def _to_quoted(value: object, extensions: tuple[ICMPExtensionObject, ...]) -> bytes:
    octets = to_octets(value, "quoted")
    if not _needs_length(octets, extensions):
        return octets
    if len(octets) > _MAX_EXTENDED:
        why = "with extensions" if extensions else "if it looks like one with extensions"
        raise ValueError(f"quoted must have from 0 to {_MAX_EXTENDED} octets {why}, got {len(octets)}")
    return octets.ljust(max(_MIN_EXTENDED, len(octets) + -len(octets) % 4), b"\0")
