"""Group records: the parts of an IGMPv3 report (RFC 9776 section 4.2.5).

A record is about one group. It has a type, the group, and a list of sources. There are three kinds (section 4.2.13).
Current-state records answer a query: types 1 and 2. A host that changes from INCLUDE to EXCLUDE, or back, sends the
new filter: types 3 and 4. One that changes only its sources sends the difference: types 5 and 6.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.fields import to_address, to_group, to_integer, to_octets
from trio_ipv4._values.source_filter import FilterMode, SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ipv4._values.fields import AddressLike

SourceT = TypeVar("SourceT")
_START: Final = struct.Struct("!BBH4s")
"""Type, length of the auxiliary data, number of sources, group (RFC 9776 section 4.2.5)."""
_GROUP_AT: Final = 4
_ADDRESS_LEN: Final = 4
_WORD_LEN: Final = 4
"""Auxiliary data are counted in 32-bit words (RFC 9776 section 4.2.7)."""
_MAX_AUXILIARY_LEN: Final = _WORD_LEN * 0xFF


class GroupRecordType(enum.IntEnum):
    """What a group record says (RFC 9776 section 4.2.13).

    `str()` gives the name in lower case: "mode is include".
    """

    MODE_IS_INCLUDE = 1
    """The host hears these sources and no other."""
    MODE_IS_EXCLUDE = 2
    """The host hears every source but these."""
    CHANGE_TO_INCLUDE_MODE = 3
    """From now on it hears these sources and no other. Without sources, it has left the group."""
    CHANGE_TO_EXCLUDE_MODE = 4
    """From now on it hears every source but these."""
    ALLOW_NEW_SOURCES = 5
    """From now on it hears these sources, too."""
    BLOCK_OLD_SOURCES = 6
    """From now on it hears these sources no longer."""

    def __str__(self) -> str:
        return self.name.replace("_", " ").lower()


_TYPES: Final = {int(each): each for each in GroupRecordType}
_CURRENT: Final = {
    FilterMode.INCLUDE: GroupRecordType.MODE_IS_INCLUDE,
    FilterMode.EXCLUDE: GroupRecordType.MODE_IS_EXCLUDE,
}
_CHANGE_TO: Final = {
    FilterMode.INCLUDE: GroupRecordType.CHANGE_TO_INCLUDE_MODE,
    FilterMode.EXCLUDE: GroupRecordType.CHANGE_TO_EXCLUDE_MODE,
}


@final
@attrs.frozen(init=False)
class GroupRecord:
    """What a host says of one group in an IGMPv3 report (RFC 9776 section 4.2.5).

    Args:
        type: What is said, 0 to 255. A number that has a name is stored as a `GroupRecordType`. Receivers ignore a
            record of any other type.
        group: A multicast address.
        sources: Addresses, at most 65535, in the order of the message. They should be unicast, but any may arrive.
        auxiliary: Octets behind the sources, at most 1020, a multiple of 4. RFC 9776 defines none, and has receivers
            ignore them.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range.
    """

    type: GroupRecordType | int
    group: IPv4Address
    sources: tuple[IPv4Address, ...]
    auxiliary: bytes

    def __init__(
        self,
        type: GroupRecordType | int,  # noqa: A002  # The RFC's name.
        group: AddressLike,
        sources: Iterable[AddressLike] = (),
        *,
        auxiliary: bytes = b"",
    ) -> None:
        number = to_integer(type, "type", 0, 0xFF)
        octets = to_octets(auxiliary, "auxiliary")
        if len(octets) > _MAX_AUXILIARY_LEN or len(octets) % _WORD_LEN:
            raise ValueError(
                f"auxiliary must have from 0 to {_MAX_AUXILIARY_LEN} octets, a multiple of 4, got {len(octets)}"
            )
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            _TYPES.get(number, number), to_group(group, "group"), to_addresses(sources, "sources"), octets
        )

    @classmethod
    def current(cls, group: AddressLike, sources: SourceFilter) -> GroupRecord:
        """Return the record that answers a query about the group (RFC 9776 section 5.2)."""
        heard = to_sources(sources)
        return cls(_CURRENT[heard.mode], group, sorted(heard.sources))

    @staticmethod
    def between(group: AddressLike, before: SourceFilter, after: SourceFilter) -> tuple[GroupRecord, ...]:
        """Return the records that announce a change of filter: none, one or two (RFC 9776 section 5.1).

        A host that is no member has the filter `SourceFilter.none()`. So a join is a change from it, and a leave a
        change to it.
        """
        address = to_group(group, "group")
        return tuple(
            GroupRecord(kind, address, sorted(sources))
            for kind, sources in changes(*_to_state(before, "before"), *_to_state(after, "after"))
        )

    def marshal(self) -> bytes:
        """Write the record, as it stands in a report."""
        start = _START.pack(self.type, len(self.auxiliary) // _WORD_LEN, len(self.sources), self.group.packed)
        return start + marshal_addresses(self.sources) + self.auxiliary


def parse_records(octets: bytes, start: int, count: int) -> tuple[GroupRecord, ...]:
    """Read so many records from `start` on. Octets behind them are ignored (RFC 9776 section 4.2.12)."""
    records: list[GroupRecord] = []
    for _ in range(count):
        if len(octets) - start < _START.size:
            raise ParseError(f"a group record has 8 octets at least, got {len(octets) - start}", offset=len(octets))
        kind, words, number, _ = _START.unpack_from(octets, start)
        group = parse_group(octets, start + _GROUP_AT)
        start += _START.size
        sources = parse_addresses(octets, start, number)
        start += _ADDRESS_LEN * number
        auxiliary = octets[start : start + _WORD_LEN * words]
        if len(auxiliary) < _WORD_LEN * words:
            raise ParseError(
                f"the auxiliary data have {_WORD_LEN * words} octets, got {len(auxiliary)}", offset=len(octets)
            )
        start += len(auxiliary)
        records.append(GroupRecord(kind, group, sources, auxiliary=auxiliary))
    return tuple(records)


def parse_group(octets: bytes, offset: int) -> IPv4Address:
    """Read the address of a group."""
    address = IPv4Address(octets[offset : offset + _ADDRESS_LEN])
    if not address.is_multicast:
        raise ParseError(f"the group must be a multicast address, got {address}", offset=offset)
    return address


def parse_addresses(octets: bytes, start: int, count: int) -> tuple[IPv4Address, ...]:
    """Read so many source addresses."""
    listed = octets[start : start + _ADDRESS_LEN * count]
    if len(listed) < _ADDRESS_LEN * count:
        raise ParseError(f"the sources have {_ADDRESS_LEN * count} octets, got {len(listed)}", offset=len(octets))
    return tuple(IPv4Address(number) for (number,) in struct.iter_unpack("!I", listed))


def marshal_addresses(addresses: tuple[IPv4Address, ...]) -> bytes:
    """Write source addresses, one after the other."""
    return b"".join(address.packed for address in addresses)


def to_addresses(value: Iterable[object], name: str) -> tuple[IPv4Address, ...]:
    """Convert source addresses, as many as the 16 bits of their number can tell (RFC 9776 section 4.2.8)."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a collection of addresses, got the single string {value!r}")
    addresses = tuple(to_address(each, f"{name}[{index}]") for index, each in enumerate(value))
    if len(addresses) > 0xFFFF:
        raise ValueError(f"{name} must have from 0 to 65535 addresses, got {len(addresses)}")
    return addresses


def changes(
    mode_before: FilterMode, before: frozenset[SourceT], mode: FilterMode, after: frozenset[SourceT]
) -> Iterator[tuple[GroupRecordType, frozenset[SourceT]]]:
    """Yield types and sources that announce a change of filter, by the table of RFC 9776 section 5.1."""
    if mode_before is not mode:
        yield _CHANGE_TO[mode], after
        return
    added, removed = after - before, before - after
    allowed, blocked = (added, removed) if mode is FilterMode.INCLUDE else (removed, added)
    if allowed:
        yield GroupRecordType.ALLOW_NEW_SOURCES, allowed
    if blocked:
        yield GroupRecordType.BLOCK_OLD_SOURCES, blocked


def _to_state(value: object, name: str) -> tuple[FilterMode, frozenset[IPv4Address]]:
    if not isinstance(value, SourceFilter):
        raise TypeError(f"{name} must be a SourceFilter, got {value!r}")
    return value.mode, value.sources
