"""The steps of RFC 3678's delta API (sections 4.1 and 5.1), which Go's six operations are: from one filter to the next.

Each takes the filter of a hold, `None` if there is none, and returns the new one. An illegal step has the errno that
Linux gives, as measured on memberships whose mode has a history.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeAlias

from trio_ipv4._values.source_filter import ANY, NONE, FilterMode, SourceFilter

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

Step: TypeAlias = "Callable[[SourceFilter | None], SourceFilter | None]"


class IllegalStep(Exception):  # Not ...Error: the ledger makes it the OSError that the caller sees.
    """Raised by a step that is not legal in the present state."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno: Final = number


def join(hold: SourceFilter | None) -> SourceFilter:
    """Join from any source."""
    _require(hold is None, errno.EADDRINUSE)
    return ANY


def leave(hold: SourceFilter | None) -> None:
    """Leave, whatever the filter."""
    _require(hold is not None, errno.EADDRNOTAVAIL)


def join_source(source: IPv4Address) -> Step:
    """Hear one source, or one more."""

    def step(hold: SourceFilter | None) -> SourceFilter:
        hold = NONE if hold is None else hold
        _require(hold.mode is FilterMode.INCLUDE, errno.EINVAL)
        _require(source not in hold.sources, errno.EADDRNOTAVAIL)
        return hold.allow(source)

    return step


def leave_source(source: IPv4Address) -> Step:
    """Hear one source less; the last one leaves."""

    def step(hold: SourceFilter | None) -> SourceFilter | None:
        if hold is None or hold.mode is not FilterMode.INCLUDE:
            raise IllegalStep(errno.EINVAL)
        _require(source in hold.sources, errno.EADDRNOTAVAIL)
        return _or_nothing(hold.block(source))

    return step


def exclude_source(source: IPv4Address) -> Step:
    """Block one source."""

    def step(hold: SourceFilter | None) -> SourceFilter:
        if hold is None or hold.mode is not FilterMode.EXCLUDE:
            raise IllegalStep(errno.EINVAL)
        _require(source not in hold.sources, errno.EADDRNOTAVAIL)
        return hold.block(source)

    return step


def include_source(source: IPv4Address) -> Step:
    """Unblock one source."""

    def step(hold: SourceFilter | None) -> SourceFilter:
        if hold is None or hold.mode is not FilterMode.EXCLUDE:
            raise IllegalStep(errno.EINVAL)
        _require(source in hold.sources, errno.EADDRNOTAVAIL)
        return hold.allow(source)

    return step


def replace(sources: SourceFilter) -> Step:
    """Replace everything; INCLUDE {} leaves, and is no error without a membership (RFC 3678 section 5.2)."""

    def step(_: SourceFilter | None) -> SourceFilter | None:
        return _or_nothing(sources)

    return step


def _or_nothing(sources: SourceFilter) -> SourceFilter | None:
    return None if sources == NONE else sources


def _require(legal: bool, number: int) -> None:
    if not legal:
        raise IllegalStep(number)
