"""The kernel's own tables of multicast memberships: an oracle that knows nothing of this library's bookkeeping.

They are read through /proc/thread-self: /proc/net is /proc/self/net, which shows the *main* thread's namespace.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

_TABLES: Final = Path("/proc/thread-self/net")


def igmp_groups() -> dict[tuple[int, IPv4Address], int]:
    """Return the groups that the calling thread's network namespace is a member of, from `/proc/net/igmp`.

    Keys are (interface index, group); values are the kernel's count of users: sockets, and the kernel itself, which
    holds 224.0.0.1 on every interface that is up. Memberships of interfaces that were deleted don't show. While others
    leave groups, a row can be missed. In another
    host of a lab: `lab["b"].call(igmp_groups)`.

    Raises:
        FileNotFoundError: This is not Linux, or its kernel was built without CONFIG_IP_MULTICAST.
    """
    groups: dict[tuple[int, IPv4Address], int] = {}
    index = 0
    for line in _lines("igmp"):
        fields = line.split()
        if line[0].isspace():  # A group of the interface above, the address in the machine's order of octets.
            group = IPv4Address(struct.pack("=I", int(fields[0], 16)))
            groups[index, group] = int(fields[1])
        else:
            index = int(fields[0])
    return groups


def source_filters() -> dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]]:
    """Return the sources that are filtered in the calling thread's network namespace, from `/proc/net/mcfilter`.

    Keys are (interface index, group); values say for each source how many sockets include it and how many exclude it.
    A group that hears every source has no entry here, only in `igmp_groups()`. Linux begins its table at the first
    interface whose newest group names sources, and so may leave out an interface before it.

    Raises:
        FileNotFoundError: This is not Linux, or its kernel was built without CONFIG_IP_MULTICAST.
    """
    filters: dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]] = {}
    for line in _lines("mcfilter"):
        index, _, group, source, included, excluded = line.split()
        sources = filters.setdefault((int(index), IPv4Address(int(group, 16))), {})
        sources[IPv4Address(int(source, 16))] = int(included), int(excluded)
    return filters


def _lines(table: str) -> list[str]:
    try:
        return (_TABLES / table).read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except FileNotFoundError as error:
        error.strerror = "this kernel has no such table, which shows the groups of its interfaces (CONFIG_IP_MULTICAST)"
        raise
