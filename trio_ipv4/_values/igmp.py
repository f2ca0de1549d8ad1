"""IGMP messages of all three versions, from the type octet on.

Routers and switches ask which groups a link's hosts hear (igmp_query.py). Hosts report that when they are asked, and
when it changes. Before version 3 a report names one group, and a message of its own tells that the group was left. A
report of version 3 has a record for each group, with the sources that are heard (igmp_record.py).

The versions are those of RFC 1112 appendix I, of RFC 2236 and of RFC 9776. Each message begins with a type, a code, and
a checksum of the whole. Other protocols use further types. Their messages keep their octets.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias, final

import attrs

from trio_ipv4._values.checksum import checked_message, with_checksum
from trio_ipv4._values.fields import to_group, to_integer, to_octets
from trio_ipv4._values.igmp_query import IGMPQuery, parse_query
from trio_ipv4._values.igmp_record import GroupRecord, parse_group, parse_records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._values.fields import AddressLike

_START: Final = struct.Struct("!BBxx")
"""Type and code, and the checksum's place (RFC 2236 section 2)."""
_GROUP: Final = struct.Struct("!Bxxx4s")
"""Type, an octet that is 0, checksum, group (RFC 1112 appendix I, RFC 2236 section 2)."""
_GROUP_AT: Final = 4
_REPORT: Final = struct.Struct("!BxxxxxH")
"""Type, an octet that is 0, checksum, flags, number of records (RFC 9776 section 4.2)."""


@attrs.frozen(init=False)
class _OfOneGroup:
    """The part that messages about one group share."""

    type: ClassVar[int]
    group: IPv4Address

    def __init__(self, group: AddressLike) -> None:
        self.__attrs_init__(to_group(group, "group"))  # pyright: ignore[reportAttributeAccessIssue]

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return with_checksum(_GROUP.pack(self.type, self.group.packed))


@final
@attrs.frozen(init=False)
class IGMPv1Report(_OfOneGroup):
    """A host hears this group, by version 1 (RFC 1112 appendix I).

    Args:
        group: A multicast address.

    Raises:
        TypeError: `group` is of the wrong type.
        ValueError: It is not a multicast address.
    """

    type: ClassVar[int] = 0x12  # RFC 1112 appendix I, which splits the octet: version 1, type 2


@final
@attrs.frozen(init=False)
class IGMPv2Report(_OfOneGroup):
    """A host hears this group, by version 2 (RFC 2236).

    Args:
        group: A multicast address.

    Raises:
        TypeError: `group` is of the wrong type.
        ValueError: It is not a multicast address.
    """

    type: ClassVar[int] = 0x16  # RFC 2236 section 2.1


@final
@attrs.frozen(init=False)
class IGMPLeave(_OfOneGroup):
    """A host hears this group no longer, by version 2 (RFC 2236).

    Version 1 has no such message. In version 3, a record of an `IGMPv3Report` says it.

    Args:
        group: A multicast address.

    Raises:
        TypeError: `group` is of the wrong type.
        ValueError: It is not a multicast address.
    """

    type: ClassVar[int] = 0x17  # RFC 2236 section 2.1


@final
@attrs.frozen(init=False)
class IGMPv3Report:
    """What a host hears, or how that changed, by version 3 (RFC 9776 section 4.2).

    Args:
        records: At most 65535. Receivers go through them in order.

    Raises:
        TypeError: `records` are not `GroupRecord` values.
        ValueError: There are too many.
    """

    type: ClassVar[int] = 0x22  # RFC 9776 section 4
    records: tuple[GroupRecord, ...]

    def __init__(self, records: Iterable[GroupRecord]) -> None:
        entries = tuple(records)
        for index, entry in enumerate(entries):
            if not isinstance(entry, GroupRecord):
                raise TypeError(f"records[{index}] must be a GroupRecord, got {entry!r}")
        if len(entries) > 0xFFFF:
            raise ValueError(f"records must have from 0 to 65535 entries, got {len(entries)}")
        self.__attrs_init__(entries)  # pyright: ignore[reportAttributeAccessIssue]

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        start = _REPORT.pack(self.type, len(self.records))
        return with_checksum(start + b"".join(record.marshal() for record in self.records))


_OWN: Final = {each.type: each.__name__ for each in (IGMPQuery, IGMPv1Report, IGMPv2Report, IGMPLeave, IGMPv3Report)}
"""The types that have a value of their own."""
_SHORTEST: Final = dict.fromkeys(_OWN, _GROUP.size)
"""The octets of their shortest messages."""


@final
@attrs.frozen(init=False)
class IGMPOther:
    """A message of a type that has no value of its own here.

    Such are those of DVMRP (type 0x13), version 1 of PIM (0x14), multicast traceroute (0x1e and 0x1f), and multicast
    router discovery (0x30 to 0x32, RFC 4286).

    Args:
        type: The type, 0 to 255.
        code: The code, 0 to 255.
        body: The octets after the checksum.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or the type has a value of its own.
    """

    type: int
    code: int
    body: bytes

    def __init__(self, type: int, code: int, body: bytes) -> None:  # noqa: A002  # The RFC's name.
        number = to_integer(type, "type", 0, 0xFF)
        if number in _OWN:
            raise ValueError(f"type must not be {number:#x}: {_OWN[number]} is the value for it")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            number, to_integer(code, "code", 0, 0xFF), to_octets(body, "body")
        )

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        return with_checksum(_START.pack(self.type, self.code) + self.body)


IGMPMessage: TypeAlias = IGMPQuery | IGMPv1Report | IGMPv2Report | IGMPLeave | IGMPv3Report | IGMPOther
"""Any IGMP message. Each has `type` and `marshal()`."""


def parse_igmp(data: bytes | bytearray | memoryview) -> IGMPMessage:
    """Read an IGMP message, from its type octet on: the payload of an IP packet.

    Pass the payload whole, and nothing more: the length tells versions of queries apart. Reserved octets and flags are
    ignored, and so are octets behind the message (RFC 2236 section 2.5, RFC 9776 sections 4.1.10 and 4.2.12).

    Raises:
        TypeError: `data` is not a bytes-like object.
        ParseError: The message is shorter than its type or its numbers of records and sources demand, its checksum is
            wrong, a group is not a multicast address, or a query is of no version, or has sources without a group.
    """
    return _parse(checked_message(data, _SHORTEST))


def _parse(octets: bytes) -> IGMPMessage:
    match octets[0]:
        case IGMPQuery.type:
            return parse_query(octets)
        case IGMPv1Report.type:
            return IGMPv1Report(parse_group(octets, _GROUP_AT))
        case IGMPv2Report.type:
            return IGMPv2Report(parse_group(octets, _GROUP_AT))
        case IGMPLeave.type:
            return IGMPLeave(parse_group(octets, _GROUP_AT))
        case IGMPv3Report.type:
            _, count = _REPORT.unpack_from(octets)
            return IGMPv3Report(parse_records(octets, _REPORT.size, count))
        case other:
            return IGMPOther(other, octets[1], octets[_START.size :])
