"""The IPv4 header (RFC 791 section 3.1), in wire order and as some kernels spell it."""

from __future__ import annotations

import enum
import functools
import ipaddress
import struct
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.checksum import internet_checksum
from trio_ipv4._values.fields import to_address, to_integer, to_octets, to_optional_integer

if TYPE_CHECKING:
    from trio_ipv4._values.fields import AddressLike

ByteOrder: TypeAlias = Literal["little", "big"]

VERSION: Final = 4
HEADER_LEN: Final = 20
"""The octets of a header without options (RFC 791 section 3.1: "the minimum value for a correct header is 5" words)."""
MAX_OPTIONS_LEN: Final = 40
"""What the length field can say at most, 15 words of 4 octets, less the fixed part."""

_FIXED: Final = struct.Struct("!BBHHHBBHII")
"""Version and length, TOS, total length; identification, flags and offset; TTL, protocol, checksum; addresses."""
_OFFSET_BITS: Final = 13
_MAX_FRAGMENT_OFFSET: Final = (1 << _OFFSET_BITS) - 1


class HeaderFlags(enum.IntFlag, boundary=enum.STRICT):
    """The flags of an IPv4 header (RFC 791 section 3.1)."""

    MORE_FRAGMENTS = 1
    DONT_FRAGMENT = 2
    RESERVED = 4
    """"Bit 0: reserved, must be zero"; what arrives may have it set all the same."""


_FLAGS: Final = tuple(HeaderFlags(bits) for bits in range(8))
_NO_FLAGS: Final = HeaderFlags(0)


@final
@attrs.frozen(init=False)
class Header:
    """An IPv4 header. Every field is as it stands in the header, and nothing is filled in: kernels do that on sending.

    Linux fills in the total length and the checksum always, the source when it is zero, the identification when it is
    zero and fragmenting is allowed (raw(7)).

    Args:
        src: The source; 0.0.0.0 is a legitimate one.
        dst: The destination.
        version: 4, and nothing else.
        header_len: The octets of the header with its options, 20 to 60. Computed from `options`; when given, it must
            agree with them.
        tos: Type of service, 0 to 255: DSCP and ECN (RFC 2474, RFC 3168).
        total_len: The octets of header and payload, 0 to 65535.
        id: Identification, the same in all fragments of a datagram, 0 to 65535.
        flags: Whether there are more fragments, and whether there may be any.
        fragment_offset: Where this fragment's payload belongs, in units of 8 octets, 0 to 8191.
        ttl: Time to live, in hops, 0 to 255.
        protocol: What the payload is, 0 to 255 (IANA's Protocol Numbers).
        checksum: As found or as given; `with_checksum` computes it.
        options: The options as octets, a multiple of 4, at most 40.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or `header_len` contradicts `options`.
    """

    src: ipaddress.IPv4Address
    dst: ipaddress.IPv4Address
    version: int
    tos: int
    total_len: int
    id: int
    flags: HeaderFlags
    fragment_offset: int
    ttl: int
    protocol: int
    checksum: int
    options: bytes

    def __init__(
        self,
        *,
        src: AddressLike,
        dst: AddressLike,
        version: int = VERSION,
        header_len: int | None = None,
        tos: int = 0,
        total_len: int = 0,
        id: int = 0,  # noqa: A002  # The RFC's field is "identification", which Go and the contract call ID.
        flags: HeaderFlags = _NO_FLAGS,
        fragment_offset: int = 0,
        ttl: int = 0,
        protocol: int = 0,
        checksum: int = 0,
        options: bytes = b"",
    ) -> None:
        octets = _to_options(options)
        _check_header_len(header_len, octets)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_address(src, "src"),
            to_address(dst, "dst"),
            _to_version(version),
            to_integer(tos, "tos", 0, 0xFF),
            to_integer(total_len, "total_len", 0, 0xFFFF),
            to_integer(id, "id", 0, 0xFFFF),
            _FLAGS[to_integer(flags, "flags", 0, 7)],
            to_integer(fragment_offset, "fragment_offset", 0, _MAX_FRAGMENT_OFFSET),
            to_integer(ttl, "ttl", 0, 0xFF),
            to_integer(protocol, "protocol", 0, 0xFF),
            to_integer(checksum, "checksum", 0, 0xFFFF),
            octets,
        )

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Header:
        """Read a header in wire order; what follows it is ignored, and so is whether its checksum is right.

        Raises:
            ParseError: Fewer octets than the header says that it has, a version other than 4, or a header length
                under 20.
        """
        octets = data if isinstance(data, bytes) else to_octets(data, "data")
        if len(octets) < HEADER_LEN:
            raise ParseError(f"an IPv4 header has at least 20 octets, got {len(octets)}", offset=len(octets))
        first, tos, total_len, identification, fragment, ttl, protocol, checksum, src, dst = _FIXED.unpack_from(octets)
        header_len = _parse_header_len(first, len(octets))
        header = cls.__new__(cls)  # Every field is in range by its width: nothing to validate, once per datagram.
        header.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            _address(src),
            _address(dst),
            VERSION,
            tos,
            total_len,
            identification,
            _FLAGS[fragment >> _OFFSET_BITS],
            fragment & _MAX_FRAGMENT_OFFSET,
            ttl,
            protocol,
            checksum,
            octets[HEADER_LEN:header_len],
        )
        return header

    def marshal(self) -> bytes:
        """Write the header in wire order, the checksum as it is."""
        fixed = _FIXED.pack(
            self.version << 4 | self.header_len >> 2,
            self.tos,
            self.total_len,
            self.id,
            self.flags << _OFFSET_BITS | self.fragment_offset,
            self.ttl,
            self.protocol,
            self.checksum,
            int(self.src),
            int(self.dst),
        )
        return fixed + self.options

    @property
    def header_len(self) -> int:
        """The octets of the header with its options, 20 to 60."""
        return HEADER_LEN + len(self.options)

    @property
    def checksum_ok(self) -> bool:
        """Whether the checksum is right for the header as it is marshalled.

        Linux writes into a received Record Route without mending it.
        """
        return internet_checksum(self.marshal()) == 0

    def with_checksum(self) -> Header:
        """Return this header with the checksum computed (RFC 1071)."""
        blank = attrs.evolve(self, checksum=0)
        return attrs.evolve(self, checksum=internet_checksum(blank.marshal()))

    def __str__(self) -> str:
        line = (
            f"version={self.version} header_len={self.header_len} tos={self.tos:#x} total_len={self.total_len} "
            f"id={self.id:#x} flags={self.flags:#x} fragment_offset={self.fragment_offset:#x} ttl={self.ttl} "
            f"protocol={self.protocol} checksum={self.checksum:#x} src={self.src} dst={self.dst}"
        )
        return f"{line} options={self.options.hex()}" if self.options else line


def to_kernel_order(header: bytes, byte_order: ByteOrder) -> bytes:
    """Turn a header from wire order into that of kernels which take total length, flags and offset in host order.

    Those are Darwin, DragonFly, NetBSD, and FreeBSD before 11; on a big-endian host nothing changes. What follows the
    header is kept.
    """
    if byte_order == "big":
        return header
    return b"".join((header[:2], header[3:1:-1], header[4:6], header[7:5:-1], header[8:]))


def from_kernel_order(packet: bytes, byte_order: ByteOrder, *, length_excludes_header: bool) -> bytes:
    """Turn a packet as such a kernel delivers it into wire order.

    Args:
        packet: Header and payload. Too short for a header, it is returned as it is, for `Header.parse` to refuse.
        byte_order: The host's.
        length_excludes_header: Whether the kernel has subtracted the header's octets from the total length, as Darwin,
            DragonFly and NetBSD do, and FreeBSD before 10.

    Raises:
        ParseError: The total length with the header's octets exceeds 65535.
    """
    if len(packet) < HEADER_LEN:
        return packet
    wire = to_kernel_order(packet, byte_order)  # The exchange of octets is its own inverse.
    if not length_excludes_header:
        return wire
    total_len = int.from_bytes(wire[2:4], "big") + 4 * (wire[0] & 0xF)
    if total_len > 0xFFFF:
        raise ParseError(f"total length must be from 0 to 65535, got {total_len} with the header", offset=2)
    return wire[:2] + total_len.to_bytes(2, "big") + wire[4:]


@functools.lru_cache(maxsize=1024)
def _address(number: int) -> ipaddress.IPv4Address:
    """Share equal addresses: a receiver sees the same few again and again, and making one costs more than a look-up."""
    return ipaddress.IPv4Address(number)


def _parse_header_len(first: int, available: int) -> int:
    if first >> 4 != VERSION:
        raise ParseError(f"the version must be 4, got {first >> 4}", offset=0)
    header_len = 4 * (first & 0xF)
    if header_len < HEADER_LEN:
        raise ParseError(f"the header length must be from 20 to 60 octets, got {header_len}", offset=0)
    if header_len > available:
        raise ParseError(f"the header has {header_len} octets by its length field, got {available}", offset=available)
    return header_len


def _to_version(value: object) -> int:
    version = to_integer(value, "version", 0, 0xF)
    if version != VERSION:
        raise ValueError(f"version must be 4, got {version}")
    return version


def _to_options(value: object) -> bytes:
    octets = to_octets(value, "options")
    if len(octets) > MAX_OPTIONS_LEN or len(octets) % 4:
        raise ValueError(f"options must have from 0 to 40 octets, a multiple of 4, got {len(octets)}")
    return octets


def _check_header_len(value: object, options: bytes) -> None:
    given = to_optional_integer(value, "header_len", HEADER_LEN, HEADER_LEN + MAX_OPTIONS_LEN)
    if given is not None and given != HEADER_LEN + len(options):
        raise ValueError(
            f"header_len must be {HEADER_LEN + len(options)} with options of {len(options)} octets, got {given}"
        )
