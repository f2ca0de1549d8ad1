"""The objects that routers append to ICMP errors (RFC 4884), among them MPLS labels and interfaces.

An extension structure is a header of 4 octets and one or more objects (RFC 4884 section 7). The header has the version,
which is 2, and a checksum of the whole structure. Each object has a header of 4 octets, too: its length, its class, and
its type within the class (section 8).

Two classes have a value of their own here. Class 1 is the stack of MPLS labels that the datagram had (RFC 4950). Class
2 tells about an interface of the router (RFC 5837). An object of any other class keeps its octets.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.checksum import internet_checksum, with_checksum
from trio_ipv4._values.fields import to_address, to_bool, to_integer, to_octets, to_optional_integer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._values.fields import AddressLike

HEADER_LEN: Final = 4
"""The octets of the structure's header (RFC 4884 section 7), and of an object's (section 8)."""

_VERSION: Final = 2  # RFC 4884 section 7
_STRUCTURE: Final = struct.Struct("!BxH")
"""Version and reserved bits, more reserved bits, checksum (RFC 4884 section 7)."""
_OBJECT: Final = struct.Struct("!HBB")
"""Length with this header, class, type within the class (RFC 4884 section 8)."""
_MAX_DATA_LEN: Final = 0xFFFC - HEADER_LEN
"""An object is whole 32-bit words, and its length has 16 bits (RFC 4884 section 8)."""

_MPLS_CLASS, _MPLS_INCOMING = 1, 1  # RFC 4950 section 3
_LABEL_LEN: Final = 4  # RFC 3032 section 2.1
_INTERFACE_CLASS: Final = 2  # RFC 5837 section 4
_ROLE_SHIFT: Final = 6  # RFC 5837 section 4.1: the role is in the two highest bits of the type.
_HAS_IFINDEX, _HAS_ADDRESS, _HAS_NAME, _HAS_MTU = 8, 4, 2, 1  # RFC 5837 section 4.1
_IPV4, _IPV6 = 1, 2  # RFC 5837 section 4.2, and IANA's "Address Family Numbers"
_ADDRESS_LENS: Final = {_IPV4: 4, _IPV6: 16}
_MAX_NAME_LEN: Final = 63  # RFC 5837 section 4.3


@final
@attrs.frozen(init=False)
class MPLSLabel:
    """One entry of an MPLS label stack (RFC 3032 section 2.1).

    Args:
        label: The label, 0 to 2**20 - 1.
        ttl: Time to live, in hops, 0 to 255.
        traffic_class: The three bits that were once "experimental" (RFC 5462), 0 to 7.
        bottom_of_stack: Whether this is the last entry of its stack.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    label: int
    ttl: int
    traffic_class: int
    bottom_of_stack: bool

    def __init__(self, label: int, *, ttl: int, traffic_class: int = 0, bottom_of_stack: bool = False) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(label, "label", 0, 0xF_FFFF),
            to_integer(ttl, "ttl", 0, 0xFF),
            to_integer(traffic_class, "traffic_class", 0, 7),
            to_bool(bottom_of_stack, "bottom_of_stack"),
        )


@final
@attrs.frozen(init=False)
class MPLSLabelStack:
    """The MPLS labels that a datagram had when it came to the router (RFC 4950 section 3).

    Args:
        labels: The entries, the top of the stack first. There are at most 16382.

    Raises:
        TypeError: `labels` are not `MPLSLabel` values.
        ValueError: There are too many.
    """

    class_num: ClassVar[int] = _MPLS_CLASS
    c_type: ClassVar[int] = _MPLS_INCOMING
    labels: tuple[MPLSLabel, ...]

    def __init__(self, labels: Iterable[MPLSLabel]) -> None:
        entries = tuple(labels)
        for index, entry in enumerate(entries):
            if not isinstance(entry, MPLSLabel):
                raise TypeError(f"labels[{index}] must be an MPLSLabel, got {entry!r}")
        if len(entries) > _MAX_DATA_LEN // _LABEL_LEN:
            raise ValueError(f"labels must have from 0 to {_MAX_DATA_LEN // _LABEL_LEN} entries, got {len(entries)}")
        self.__attrs_init__(entries)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def data(self) -> bytes:
        """The octets after the object's header, 4 for each entry."""
        return b"".join(_marshal_label(entry) for entry in self.labels)


class InterfaceRole(enum.IntEnum):
    """The part that an interface had for the datagram (RFC 5837 section 4.1)."""

    INCOMING = 0
    """The datagram arrived on it."""
    SUB_IP = 1
    """A component below IP of the interface on which the datagram arrived, such as a member of a bundle."""
    OUTGOING = 2
    """The datagram would have left on it."""
    NEXT_HOP = 3
    """The next hop to which the datagram would have gone."""


@final
@attrs.frozen(init=False)
class InterfaceInformation:
    """An interface of the router that sends the error, or the next hop (RFC 5837 section 4).

    Args:
        role: The part that it had for the datagram.
        ifindex: Its number on that router, 0 to 2**32 - 1.
        address: Its address. A string is one of IPv4. An `IPv6Address` is stored without its scope.
        name: Its name, 1 to 63 octets in UTF-8. Octets that are no UTF-8 are kept, as `os.fsdecode` keeps them.
        mtu: The longest packet that it carries, in octets, 0 to 2**32 - 1.

    A field that the router does not tell is `None`.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    class_num: ClassVar[int] = _INTERFACE_CLASS
    role: InterfaceRole
    ifindex: int | None
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    name: str | None
    mtu: int | None

    def __init__(
        self,
        role: InterfaceRole,
        *,
        ifindex: int | None = None,
        address: AddressLike | ipaddress.IPv6Address | None = None,
        name: str | None = None,
        mtu: int | None = None,
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            InterfaceRole(to_integer(role, "role", 0, 3)),
            to_optional_integer(ifindex, "ifindex", 0, 0xFFFF_FFFF),
            None if address is None else _to_any_address(address),
            None if name is None else str(_to_name(name), "utf-8", "surrogateescape"),
            to_optional_integer(mtu, "mtu", 0, 0xFFFF_FFFF),
        )

    @property
    def c_type(self) -> int:
        """The object's type within its class: the role, and which fields are there (RFC 5837 section 4.1)."""
        return self.role << _ROLE_SHIFT | sum(bit for bit, octets in _marshal_fields(self) if octets)

    @property
    def data(self) -> bytes:
        """The octets after the object's header: each field that is there, in the order of the arguments."""
        return b"".join(octets for _, octets in _marshal_fields(self))


@final
@attrs.frozen(init=False)
class ICMPExtension:
    """An object of an ICMP extension that has no value of its own here, as octets (RFC 4884 section 8).

    Args:
        class_num: The class, 0 to 255. Class 2 has `InterfaceInformation` instead.
        c_type: The type within the class, 0 to 255. Type 1 of class 1 has `MPLSLabelStack` instead.
        data: The octets after the object's header, at most 65528, a multiple of 4.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or the object has a value of its own.
    """

    class_num: int
    c_type: int
    data: bytes

    def __init__(self, class_num: int, c_type: int, data: bytes) -> None:
        number, kind = to_integer(class_num, "class_num", 0, 0xFF), to_integer(c_type, "c_type", 0, 0xFF)
        octets = to_octets(data, "data")
        if number == _INTERFACE_CLASS:
            raise ValueError(f"class_num must not be {number}: InterfaceInformation is the value for it")
        if (number, kind) == (_MPLS_CLASS, _MPLS_INCOMING):
            raise ValueError(f"c_type must not be {kind} with class_num {number}: MPLSLabelStack is the value for it")
        if len(octets) > _MAX_DATA_LEN or len(octets) % 4:
            raise ValueError(f"data must have from 0 to {_MAX_DATA_LEN} octets, a multiple of 4, got {len(octets)}")
        self.__attrs_init__(number, kind, octets)  # pyright: ignore[reportAttributeAccessIssue]


ICMPExtensionObject: TypeAlias = MPLSLabelStack | InterfaceInformation | ICMPExtension
"""Any object of an ICMP extension. Each has `class_num`, `c_type` and `data`."""


def parse_extensions(data: bytes | bytearray | memoryview) -> tuple[ICMPExtensionObject, ...]:
    """Read an extension structure, from its header to its last object (RFC 4884 section 7).

    A checksum of 0 says that the sender computed none (section 7). Reserved bits are ignored, and so are octets of an
    `InterfaceInformation` behind its fields.

    Raises:
        TypeError: `data` is not a bytes-like object.
        ParseError: The version is not 2, the checksum is wrong, there is no object, the length of one contradicts the
            structure, or a known object is malformed.
    """
    return read_extensions(to_octets(data, "data"), 0)


def marshal_extensions(objects: Iterable[ICMPExtensionObject]) -> bytes:
    """Write an extension structure with its checksum (RFC 4884 section 7).

    Raises:
        TypeError: An object is of no kind that `ICMPExtensionObject` names.
        ValueError: There is none. A structure has one object at least.
    """
    extensions = to_extensions(objects, "objects")
    if not extensions:
        raise ValueError("objects must have at least 1 object, got 0")
    parts = [_STRUCTURE.pack(_VERSION << 4, 0)]
    for each in extensions:
        data = each.data
        parts += _OBJECT.pack(HEADER_LEN + len(data), each.class_num, each.c_type), data
    structure = with_checksum(b"".join(parts))
    # In one's complement, all ones are the other zero. UDP writes those, too, where 0 says 'none' (RFC 768).
    return structure if structure[2:4] != b"\0\0" else structure[:2] + b"\xff\xff" + structure[4:]


def to_extensions(value: Iterable[object], name: str = "extensions") -> tuple[ICMPExtensionObject, ...]:
    """Convert the objects of an extension structure, if there are any."""
    objects: list[ICMPExtensionObject] = []
    for index, each in enumerate(value):
        if not isinstance(each, ICMPExtensionObject):
            raise TypeError(f"{name}[{index}] must be an object of an ICMP extension, got {each!r}")
        objects.append(each)
    return tuple(objects)


def read_extensions(octets: bytes, start: int) -> tuple[ICMPExtensionObject, ...]:
    """Read the extension structure from `start` to the end. The offsets of errors count from the first octet."""
    _check_structure(octets, start)
    objects: list[ICMPExtensionObject] = []
    position = start + HEADER_LEN
    while position < len(octets):
        length, class_num, c_type = _parse_object_header(octets, position)
        data = octets[position + HEADER_LEN : position + length]
        objects.append(_parse_object(class_num, c_type, data, position + HEADER_LEN))
        position += length
    return tuple(objects)


def _check_structure(octets: bytes, start: int) -> None:
    available = len(octets) - start
    if available < 2 * HEADER_LEN:
        raise ParseError(f"an extension structure has at least 8 octets, got {available}", offset=len(octets))
    first, checksum = _STRUCTURE.unpack_from(octets, start)
    if first >> 4 != _VERSION:
        raise ParseError(f"the version of an extension structure must be 2, got {first >> 4}", offset=start)
    if checksum and internet_checksum(octets[start:]):
        raise ParseError(f"the checksum of the extension structure is wrong: {checksum:#06x}", offset=start + 2)


def _parse_object_header(octets: bytes, position: int) -> tuple[int, int, int]:
    available = len(octets) - position
    if available < HEADER_LEN:
        raise ParseError(f"the header of an object has 4 octets, got {available}", offset=len(octets))
    length, class_num, c_type = _OBJECT.unpack_from(octets, position)
    if not HEADER_LEN <= length <= available or length % 4:
        raise ParseError(
            f"the length of an object must be from 4 to {available}, a multiple of 4, got {length}", offset=position
        )
    return length, class_num, c_type


def _parse_object(class_num: int, c_type: int, data: bytes, offset: int) -> ICMPExtensionObject:
    if class_num == _INTERFACE_CLASS:
        return _parse_interface(c_type, _Fields(data, offset))
    if (class_num, c_type) == (_MPLS_CLASS, _MPLS_INCOMING):
        return MPLSLabelStack(_parse_label(word) for (word,) in struct.iter_unpack("!I", data))
    return ICMPExtension(class_num, c_type, data)


def _parse_interface(c_type: int, fields: _Fields) -> InterfaceInformation:
    return InterfaceInformation(
        InterfaceRole(c_type >> _ROLE_SHIFT),
        ifindex=fields.number("the interface index") if c_type & _HAS_IFINDEX else None,
        address=fields.address() if c_type & _HAS_ADDRESS else None,
        name=fields.name() if c_type & _HAS_NAME else None,
        mtu=fields.number("the MTU") if c_type & _HAS_MTU else None,
    )


@final
class _Fields:
    """The fields of an `InterfaceInformation`, read one after the other. `offset` is where they begin in the input."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._rest = data
        self._offset = offset

    def number(self, title: str) -> int:
        return int.from_bytes(self._take(4, title), "big")

    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """Read the family, two reserved octets, and the address (RFC 5837 section 4.2)."""
        family = int.from_bytes(self._take(4, "the address family")[:2], "big")
        length = _ADDRESS_LENS.get(family)
        if length is None:
            raise ParseError(f"the address family must be 1 or 2, got {family}", offset=self._offset - 4)
        return ipaddress.ip_address(self._take(length, "the address"))

    def name(self) -> str:
        """Read the length, which counts itself, and the name with zeros behind (RFC 5837 section 4.3)."""
        length, start = self._rest[0] if self._rest else 4, self._offset
        if not 4 <= length <= _MAX_NAME_LEN + 1 or length % 4:
            raise ParseError(f"the length of a name must be from 4 to 64, a multiple of 4, got {length}", offset=start)
        name = self._take(length, "the name")[1:].rstrip(b"\0")
        if not name or 0 in name:
            raise ParseError(f"a name must have from 1 to 63 octets other than zero, got {name!r}", offset=start + 1)
        return str(name, "utf-8", "surrogateescape")

    def _take(self, count: int, title: str) -> bytes:
        taken, self._rest = self._rest[:count], self._rest[count:]
        if len(taken) < count:
            raise ParseError(f"{title} has {count} octets, got {len(taken)}", offset=self._offset + len(taken))
        self._offset += count
        return taken


def _parse_label(word: int) -> MPLSLabel:
    return MPLSLabel(word >> 12, traffic_class=word >> 9 & 7, bottom_of_stack=bool(word >> 8 & 1), ttl=word & 0xFF)


def _marshal_label(entry: MPLSLabel) -> bytes:
    word = entry.label << 12 | entry.traffic_class << 9 | entry.bottom_of_stack << 8 | entry.ttl
    return word.to_bytes(_LABEL_LEN, "big")


def _marshal_fields(information: InterfaceInformation) -> tuple[tuple[int, bytes], ...]:
    """Write each field, with its bit in the type. One that is absent has no octets."""
    return (
        (_HAS_IFINDEX, _marshal_number(information.ifindex)),
        (_HAS_ADDRESS, _marshal_address(information.address)),
        (_HAS_NAME, _marshal_name(information.name)),
        (_HAS_MTU, _marshal_number(information.mtu)),
    )


def _marshal_number(number: int | None) -> bytes:
    return b"" if number is None else number.to_bytes(4, "big")


def _marshal_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bytes:
    if address is None:
        return b""
    return struct.pack("!Hxx", _IPV4 if address.version == 4 else _IPV6) + address.packed


def _marshal_name(name: str | None) -> bytes:
    if name is None:
        return b""
    octets = _to_name(name)
    length = 4 * (len(octets) // 4 + 1)  # The length counts itself, and the zeros behind the name.
    return bytes([length]) + octets.ljust(length - 1, b"\0")


def _to_name(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"name must be a string, got {value!r}")
    try:
        octets = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"name must be text that UTF-8 can write, got {value!r}") from None
    if not 1 <= len(octets) <= _MAX_NAME_LEN or 0 in octets:
        raise ValueError(f"name must have from 1 to {_MAX_NAME_LEN} octets in UTF-8, none of them zero, got {value!r}")
    return octets


def _to_any_address(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Convert an address of either version. An IPv6 one loses its scope: that has no place in the object."""
    if isinstance(value, ipaddress.IPv6Address):
        return ipaddress.IPv6Address(int(value))
    return to_address(value, "address")
