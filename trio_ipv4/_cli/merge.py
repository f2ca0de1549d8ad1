"""What an interface hears of a group, from what its sockets want.

The kernel merges the filters of all sockets, as RFC 9776 section 3.2 says. As soon as one socket is in EXCLUDE mode, so
is the interface, and it shuts out only the sources that every such socket excludes and that no other includes.

The kernel doesn't print the result. It prints how many sockets there are, and for each source how many include it and
how many exclude it. How many are in EXCLUDE mode has to be inferred:

    at least   as many as exclude any one source
    at least   those that are left when each inclusion is one socket's
    at most    those that are left when the most included source is included by one socket each

Where the two ends meet, the filter is certain. Each socket whose own filter is known brings them closer. A socket that
includes no source at all is in no count: it is taken for one that hears everybody, unless its filter is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Address

    Counts: TypeAlias = Mapping[IPv4Address, tuple[int, int]]

Mode: TypeAlias = Literal["include", "exclude"]


@attrs.frozen
class Filter:
    """Which sources a socket, or an interface, hears of a group.

    Not the library's `SourceFilter`, which refuses the impossible sources that another program may have named.
    """

    mode: Mode
    sources: frozenset[IPv4Address] = frozenset()


EVERYBODY = Filter("exclude")


@attrs.frozen
class Merged:
    """What an interface hears. If it is not certain, more sources may be heard than it says."""

    filter: Filter
    certain: bool = True


def merge(sockets: int, counts: Counts, known: Sequence[Filter] = ()) -> Merged:
    """Return what an interface hears of a group.

    Args:
        sockets: How many sockets are members.
        counts: For each source, how many of them include it, and how many exclude it.
        known: The filters of some of them, or of all.
    """
    least, most = _bounds(sockets, counts, known)
    included = frozenset(source for source, (including, _) in counts.items() if including)
    if least == 0:
        return Merged(Filter("include", included), certain=most == 0)
    # No source is excluded by more sockets than there are in EXCLUDE mode, and only one that all exclude is shut out.
    excluded = frozenset(source for source, (_, excluding) in counts.items() if excluding >= least) - included
    return Merged(Filter("exclude", excluded), certain=least == most or not excluded)


def _bounds(sockets: int, counts: Counts, known: Sequence[Filter]) -> tuple[int, int]:
    """Return how many sockets are in EXCLUDE mode: at least, and at most."""
    sources = frozenset(counts).union(*(each.sources for each in known))
    rest = [_without(source, counts.get(source, (0, 0)), known) for source in sources]
    others = sockets - len(known)
    including = [count for count, _ in rest]
    excluding = [count for _, count in rest]
    if others < 0 or min([*including, *excluding], default=0) < 0:
        # The sockets were asked at another moment than the kernel's table.
        return _bounds(sockets, counts, ())
    sure = sum(each.mode == "exclude" for each in known)
    most = others - max(including, default=0)
    least = max([others - sum(including), *excluding, 0])
    return sure + min(least, most), sure + most


def _without(source: IPv4Address, count: tuple[int, int], known: Sequence[Filter]) -> tuple[int, int]:
    modes = [each.mode for each in known if source in each.sources]
    return count[0] - modes.count("include"), count[1] - modes.count("exclude")
