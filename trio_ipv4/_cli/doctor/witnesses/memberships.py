"""The groups that the interfaces have joined, from the kernel's tables: /proc/net/igmp, /proc/net/mcfilter, rtnetlink.

It needs no privilege, and disturbs nothing.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address

from trio_ipv4 import UnsupportedError, host_memberships
from trio_ipv4._cli.doctor.evidence import Member, Memberships, Phase, SourceCount
from trio_ipv4._cli.kernel_tables import read_groups, read_source_counts, read_versions


def look(group: IPv4Address, phase: Phase = "before") -> Memberships:
    """Look at the groups of all interfaces, and at the sources of one group.

    Raises:
        FileNotFoundError: /proc is not mounted.
    """
    ages = _ages()
    return Memberships(
        members=tuple(Member(index, each, users, ages.get((index, each))) for each, _, index, users in read_groups()),
        sources=tuple(
            SourceCount(index, source, including, excluding)
            for (index, each), counts in read_source_counts().items()
            if each == group
            for source, (including, excluding) in counts.items()
        ),
        versions={str(index): version for index, version in read_versions().items()},
        phase=phase,
    )


def _ages() -> dict[tuple[int, IPv4Address], float]:
    """Return for how many seconds interfaces have been members; older kernels don't tell."""
    with contextlib.suppress(UnsupportedError, OSError):
        return {(each.interface, each.group): round(each.age, 2) for each in host_memberships()}
    return {}
