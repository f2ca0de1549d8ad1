"""Current-state reports of one group, as a host sends them when it is asked (RFC 9776 section 4.2; RFC 2236)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._values.checksum import with_checksum
from trio_ipv4._values.source_filter import FilterMode, SourceFilter

if TYPE_CHECKING:
    from ipaddress import IPv4Address

_TYPES: Final = {1: 0x12, 2: 0x16}
"""Version 1 and 2 Membership Report."""
_VERSION_3: Final = 0x22
_MODE_IS_INCLUDE: Final = 1
_MODE_IS_EXCLUDE: Final = 2


def igmp_report(version: int, group: IPv4Address, sources: SourceFilter) -> bytes:
    """Write a report that asks for no less than `sources`.

    It speaks for one socket, and there may be others: so a filter that excludes sources is reported without them, lest
    others miss these. Before version 3 a report names no sources.
    """
    if version in _TYPES:
        return with_checksum(struct.pack(">BBH4s", _TYPES[version], 0, 0, group.packed))
    include = sources.mode is FilterMode.INCLUDE
    named = sorted(source.packed for source in sources.sources) if include else []
    header = struct.pack(">BBHHH", _VERSION_3, 0, 0, 0, 1)
    kind = _MODE_IS_INCLUDE if include else _MODE_IS_EXCLUDE
    return with_checksum(header + struct.pack(">BBH4s", kind, 0, len(named), group.packed) + b"".join(named))
