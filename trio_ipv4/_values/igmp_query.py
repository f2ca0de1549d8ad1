"""IGMP queries: a router, or a switch, asks the hosts of its link which groups they hear.

The versions share the first 8 octets: type, code, checksum, group. The code is the longest time until an answer. It is
0 in version 1, where that time is 10 seconds (RFC 1112 appendix I). In version 2 it counts tenths of a second (RFC 2236
section 2.2). Version 3 counts these, too, and can tell longer times: codes from 128 on are floating-point numbers, with
three bits of exponent and four of mantissa (RFC 9776 section 4.1.1). Only version 3 has more fields behind.

So the length and the code tell the version (RFC 9776 section 7.1).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.checksum import with_checksum
from trio_ipv4._values.fields import to_bool, to_group, to_integer, to_optional_integer
from trio_ipv4._values.igmp_record import marshal_addresses, parse_addresses, parse_group, to_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._values.fields import AddressLike

_START: Final = struct.Struct("!BBxx4s")
"""Type, code, group (RFC 2236 section 2)."""
_GROUP_AT: Final = 4
_VERSION_3: Final = struct.Struct("!BBH")
"""The fields of version 3: flags, S and QRV; QQIC; number of sources (RFC 9776 section 4.1)."""
_SOURCES_AT: Final = 12
_SUPPRESS: Final = 8  # RFC 9776 section 4.1.5: S is the fifth bit of its octet,
_ROBUSTNESS: Final = 7  # and section 4.1.6: QRV is the last three.
_MAX_ROBUSTNESS: Final = 7

_NUMBERS: Final = tuple(
    code if code < 0x80 else (code & 0x0F | 0x10) << (code >> 4 & 7) + 3  # RFC 9776 sections 4.1.1 and 4.1.7
    for code in range(0x100)
)
"""The numbers that a code of version 3 can tell, by the code. They only rise, so no number has two codes."""
_FIRST_CODES: Final = {1: 0, 2: 1, 3: 0}
"""The lowest code of each version. A query of 8 octets with the code 0 is one of version 1 (RFC 9776 section 7.1)."""
_TIMES: Final = {
    1: (10.0,),  # RFC 1112 appendix I: hosts answer within D, 10 seconds.
    2: tuple(code / 10 for code in range(1, 0x100)),  # RFC 2236 section 2.2
    3: tuple(number / 10 for number in _NUMBERS),  # RFC 9776 section 4.1.1
}
"""The times that a version can tell, in seconds, from the lowest code on."""


@final
@attrs.frozen(init=False)
class IGMPQuery:
    """A question which groups are heard on a link, of any version of IGMP.

    Codes of one octet tell the two times, and not every time has a code. One that has none is stored as the next
    shorter time that has (RFC 9776 section 8.8). In version 3, each tenth of a second has a code up to a response time
    of 12.8 seconds, and each second up to an interval of 128. Of longer ones there are 127 each.

    Args:
        group: The group in question, or `None` for all. Version 1 asks for all.
        sources: The sources in question, at most 65535, in the order of the message. A query for all groups has none.
        version: 1, 2 or 3. Versions 1 and 2 know neither sources nor the three fields at the end.
        max_response_time: How long hosts may take to answer, in seconds. It is 10 in version 1, 0.1 to 25.5 in version
            2, and 0 to 3174.4 in version 3.
        suppress_router_processing: Whether other routers leave their timers alone: the S flag.
        robustness: How many times each message is sent, because some may be lost, 1 to 7; `None` if the querier does
            not say: QRV.
        query_interval: The time from one query for all groups to the next, in whole seconds, 1 to 31744, or `None` if
            the querier does not say: QQIC.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field is out of its range, or the version does not have it.
    """

    type: ClassVar[int] = 0x11  # RFC 9776 section 4
    group: IPv4Address | None
    sources: tuple[IPv4Address, ...]
    version: int
    max_response_time: float
    suppress_router_processing: bool
    robustness: int | None
    query_interval: int | None

    def __init__(
        self,
        group: AddressLike | None = None,
        sources: Iterable[AddressLike] = (),
        *,
        version: int = 3,
        max_response_time: float = 10.0,
        suppress_router_processing: bool = False,
        robustness: int | None = None,
        query_interval: int | None = None,
    ) -> None:
        number = to_integer(version, "version", 1, 3)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            None if group is None else to_group(group, "group"),
            to_addresses(sources, "sources"),
            number,
            _to_time(max_response_time, number),
            to_bool(suppress_router_processing, "suppress_router_processing"),
            to_optional_integer(robustness, "robustness", 1, _MAX_ROBUSTNESS),
            _to_interval(query_interval),
        )
        _check(self)

    def marshal(self) -> bytes:
        """Write the message with its checksum."""
        code = _FIRST_CODES[self.version] + _TIMES[self.version].index(self.max_response_time)
        message = _START.pack(self.type, code, bytes(4) if self.group is None else self.group.packed)
        if self.version == 3:
            flags = self.suppress_router_processing * _SUPPRESS | (self.robustness or 0)
            message += _VERSION_3.pack(flags, _NUMBERS.index(self.query_interval or 0), len(self.sources))
        return with_checksum(message + marshal_addresses(self.sources))


def parse_query(octets: bytes) -> IGMPQuery:
    """Read a query of 8 octets or more, whose checksum is right.

    Version 3 ignores octets behind the sources (RFC 9776 section 4.1.10), and the flags that it does not define.
    """
    _, code, group = _START.unpack_from(octets)
    if len(octets) == _START.size and code == 0:
        return IGMPQuery(version=1)  # RFC 1112 appendix I: the group is ignored.
    asked = parse_group(octets, _GROUP_AT) if any(group) else None
    if len(octets) == _START.size:
        return IGMPQuery(asked, version=2, max_response_time=_TIMES[2][code - _FIRST_CODES[2]])
    if len(octets) < _SOURCES_AT:
        raise ParseError(f"a query has 8 octets, or 12 and more, got {len(octets)}", offset=len(octets))
    flags, interval, count = _VERSION_3.unpack_from(octets, _START.size)
    if count and asked is None:
        raise ParseError(f"a query for all groups has no sources, got {count}", offset=_SOURCES_AT - 2)
    return IGMPQuery(
        asked,
        parse_addresses(octets, _SOURCES_AT, count),
        max_response_time=_TIMES[3][code],
        suppress_router_processing=bool(flags & _SUPPRESS),
        robustness=flags & _ROBUSTNESS or None,  # RFC 9776 sections 4.1.6 and 4.1.7: 0 tells nothing.
        query_interval=_NUMBERS[interval] or None,
    )


def _to_time(value: object, version: int) -> float:
    """Convert to the longest time that the version can tell, and that is not longer (RFC 9776 section 8.8)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"max_response_time must be a number of seconds, got {value!r}")
    times = _TIMES[version]
    if not times[0] <= value <= times[-1]:
        raise ValueError(
            f"max_response_time must be from {times[0]} to {times[-1]} with version {version}, got {value!r}"
        )
    return times[bisect_right(times, value) - 1]


def _to_interval(value: object) -> int | None:
    seconds = to_optional_integer(value, "query_interval", 1, _NUMBERS[-1])
    return None if seconds is None else _NUMBERS[bisect_right(_NUMBERS, seconds) - 1]


def _check(query: IGMPQuery) -> None:
    """Refuse fields that contradict each other."""
    if query.version == 1 and query.group is not None:
        raise ValueError(f"group must be None with version 1, got {query.group}: version 1 asks for all groups")
    if query.version < 3:
        for name, absent in (
            ("sources", ()),
            ("suppress_router_processing", False),
            ("robustness", None),
            ("query_interval", None),
        ):
            value = getattr(query, name)
            if value != absent:
                raise ValueError(
                    f"{name} must be {absent} with version {query.version}, got {value!r}: only version 3 has it"
                )
    if query.sources and query.group is None:
        raise ValueError(f"sources must be () without a group, got {len(query.sources)} addresses")
