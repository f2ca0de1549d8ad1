"""The kernel's memberships, read from /proc/net: a witness that knows nothing of this library's bookkeeping."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import attrs

from trio_ipv4._cli.merge import merge

# Not /proc/net, which is /proc/self/net: that shows the network namespace of the process's main thread.
_TABLES: Final = Path("/proc/thread-self/net")


@attrs.frozen
class Member:
    """An entry of the kernel's table: how many sockets want a group, on which interface, from which sources."""

    group: str
    interface: str
    ifindex: int
    sockets: int
    mode: str
    sources: tuple[str, ...]


def read_memberships() -> tuple[Member, ...]:
    """Read which groups this network namespace is in, on every interface, whoever joined them.

    Raises:
        FileNotFoundError: This is not Linux, or /proc is not mounted.
    """
    counts = read_source_counts()
    members = []
    for group, name, index, sockets in read_groups():
        merged = merge(sockets, counts.get((index, group), {})).filter
        members.append(Member(str(group), name, index, sockets, merged.mode, tuple(map(str, sorted(merged.sources)))))
    return tuple(members)


def read_groups() -> list[tuple[IPv4Address, str, int, int]]:
    """Read /proc/net/igmp: a line for each interface, and under it, indented, one for each of its groups."""
    groups = []
    index, name = 0, ""
    for line in _lines("igmp"):
        if line[0].isspace():
            fields = line.split()
            # The kernel prints an address in network order as if it were a number of the machine's.
            groups.append((IPv4Address(struct.pack("=I", int(fields[0], 16))), name, index, int(fields[1])))
        else:
            # A name may hold spaces other than ASCII's, but no colon (dev_valid_name in net/core/dev.c).
            number, _, rest = line.partition("\t")
            index, name = int(number), rest.partition(":")[0].rstrip(" ")
    return groups


def read_source_counts() -> dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]]:
    """Read /proc/net/mcfilter: for each source of a group, how many sockets include it, and how many exclude it.

    The groups are by interface index and address. One without any source has no line there.
    """
    counts: dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]] = {}
    for line in _lines("mcfilter"):
        # Between the index and the group stands the name, or the beginning of it.
        index, *_, group, source, including, excluding = line.split()
        key = int(index), IPv4Address(int(group, 16))
        counts.setdefault(key, {})[IPv4Address(int(source, 16))] = int(including), int(excluding)
    return counts


def _lines(table: str) -> list[str]:
    return (_TABLES / table).read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:-1]
