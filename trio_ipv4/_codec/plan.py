"""From one source filter of a socket to the next: the calls of the kernel that lead there (RFC 3678 section 5).

A pure function plans, and the ledger carries out. The plan holds three rules:

* The socket is never wider on the way than the old and the new filter together. So a source-specific join never passes
  through an any-source one, and a first EXCLUDE {a} begins as INCLUDE of a source that nobody has.
* Leaving is MCAST_LEAVE_GROUP. On a dead interface the other ways out, LEAVE_SOURCE and MSFILTER INCLUDE {}, give
  ENODEV and keep the entry.
* A filter changes at once, by MCAST_MSFILTER: without a gap, and without an order of single sources to get right.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_ipv4._values.source_filter import ANY, INCLUDE_NEVER, NEVER, NONE, FilterMode, SourceFilter

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform


class Verb(enum.Enum):
    """The option that makes a call."""

    JOIN = "MCAST_JOIN_GROUP"
    JOIN_SOURCE = "MCAST_JOIN_SOURCE_GROUP"
    SET = "MCAST_MSFILTER"
    LEAVE = "MCAST_LEAVE_GROUP"


class Call(NamedTuple):
    """One call of the kernel, and the filter that the socket has after it."""

    verb: Verb
    after: SourceFilter


_JOIN: Final = (Call(Verb.JOIN, ANY),)
_LEAVE: Final = (Call(Verb.LEAVE, NONE),)


def plan(platform: Platform, old: SourceFilter, new: SourceFilter) -> tuple[Call, ...]:
    """Return the calls that lead from `old` to `new`. INCLUDE {} is to be no member.

    Raises:
        UnsupportedError: The platform lacks one of the calls. So nothing is begun that can't be finished.
    """
    if old == new:
        return ()
    calls: tuple[Call, ...]
    if new == NONE:
        calls = _LEAVE
    elif old != NONE:
        calls = (Call(Verb.SET, new),)
    elif new == ANY:
        calls = _JOIN
    else:
        calls = _join_sources(new)
    for call in calls:
        platform.option(call.verb.value)
    return calls


def _join_sources(new: SourceFilter) -> tuple[Call, ...]:
    """Begin with a single source, which INCLUDE of it alone makes no wider than `new`; then set the rest."""
    first = min(new.sources) if new.mode is FilterMode.INCLUDE else NEVER
    begun = INCLUDE_NEVER if first == NEVER else SourceFilter.include(first)
    begin = Call(Verb.JOIN_SOURCE, begun)
    return (begin,) if begun == new else (begin, Call(Verb.SET, new))
