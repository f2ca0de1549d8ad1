"""Source filters and their algebra (RFC 3376 sections 2 and 3.2; the same in RFC 9776)."""

from __future__ import annotations

import enum
import ipaddress
from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._values.fields import to_address, to_unicast

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._values.fields import AddressLike


class FilterMode(enum.Enum):
    """How a list of sources is meant (RFC 3376 section 2)."""

    INCLUDE = "include"
    """Only these are heard."""
    EXCLUDE = "exclude"
    """All but these are heard."""


@final
@attrs.frozen(init=False)
class SourceFilter:
    """Which sources of a group are heard.

    Args:
        mode: Whether `sources` are the ones that are heard, or the ones that are not.
        sources: Unicast addresses; a multicast or unspecified one is a `ValueError`, since the kernel would take it and
            never match it.

    Raises:
        TypeError: `mode` is not a `FilterMode`, or a source is neither an address nor a string.
        ValueError: A source is not a unicast address.
    """

    mode: FilterMode
    sources: frozenset[IPv4Address]

    def __init__(self, mode: FilterMode, sources: Iterable[AddressLike] = ()) -> None:
        if not isinstance(mode, FilterMode):
            raise TypeError(f"mode must be FilterMode.INCLUDE or FilterMode.EXCLUDE, got {mode!r}")
        if isinstance(sources, str):
            raise TypeError(f"sources must be a collection of addresses, got the single string {sources!r}")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            mode, frozenset(to_unicast(source, "sources") for source in sources)
        )

    @classmethod
    def any(cls) -> SourceFilter:
        """Return the filter that hears every source: EXCLUDE {}."""
        return cls(FilterMode.EXCLUDE)

    @classmethod
    def none(cls) -> SourceFilter:
        """Return the filter that hears no source: INCLUDE {}, which is to be no member at all."""
        return cls(FilterMode.INCLUDE)

    @classmethod
    def include(cls, *sources: AddressLike) -> SourceFilter:
        """Return a filter that hears these sources and no other."""
        return cls(FilterMode.INCLUDE, sources)

    @classmethod
    def exclude(cls, *sources: AddressLike) -> SourceFilter:
        """Return a filter that hears every source but these."""
        return cls(FilterMode.EXCLUDE, sources)

    def allow(self, *sources: AddressLike) -> SourceFilter:
        """Return a filter that hears these sources too, whatever the mode (RFC 3376: ALLOW_NEW_SOURCES)."""
        new = SourceFilter.include(*sources).sources
        return _checked(self.mode, self.sources | new if self.mode is FilterMode.INCLUDE else self.sources - new)

    def block(self, *sources: AddressLike) -> SourceFilter:
        """Return a filter that hears these sources no longer, whatever the mode (RFC 3376: BLOCK_OLD_SOURCES)."""
        old = SourceFilter.include(*sources).sources
        return _checked(self.mode, self.sources - old if self.mode is FilterMode.INCLUDE else self.sources | old)

    def accepts(self, source: AddressLike) -> bool:
        """Tell whether a datagram from `source` is heard."""
        listed = to_address(source, "source") in self.sources
        return listed if self.mode is FilterMode.INCLUDE else not listed

    @staticmethod
    def merge(filters: Iterable[SourceFilter]) -> SourceFilter:
        """Return the filter that hears what at least one of `filters` hears, and nothing else; of nothing: `none()`.

        RFC 3376 section 3.2: "If any of the records has a filter mode of EXCLUDE, then the filter mode of the
        interface record is EXCLUDE, and the source list is the intersection of the source lists of all records in
        EXCLUDE mode, minus those source addresses that appear in any of the records in INCLUDE mode"; otherwise
        "INCLUDE, and the source list is the union of the source lists of all of the records".
        """
        included: set[IPv4Address] = set()
        excluded: frozenset[IPv4Address] | None = None
        for each in filters:
            if not isinstance(each, SourceFilter):
                raise TypeError(f"filters must be SourceFilter values, got {each!r}")
            if each.mode is FilterMode.INCLUDE:
                included |= each.sources
            else:
                excluded = each.sources if excluded is None else excluded & each.sources
        if excluded is None:
            return _checked(FilterMode.INCLUDE, frozenset(included))
        return _checked(FilterMode.EXCLUDE, excluded - included)

    def __repr__(self) -> str:
        if not self.sources:
            return "SourceFilter.any()" if self.mode is FilterMode.EXCLUDE else "SourceFilter.none()"
        sources = ", ".join(repr(str(source)) for source in sorted(self.sources))
        return f"SourceFilter.{self.mode.value}({sources})"


def to_sources(value: object) -> SourceFilter:
    """Let only a `SourceFilter` pass, as the argument `sources`."""
    if not isinstance(value, SourceFilter):
        raise TypeError(
            f"sources must be a SourceFilter, got {value!r}: SourceFilter.include('192.0.2.1', ...) hears these sources"
        )
    return value


def _checked(mode: FilterMode, sources: frozenset[IPv4Address]) -> SourceFilter:
    """Make a filter of sources that come from other filters: they need no check."""
    made = SourceFilter.__new__(SourceFilter)
    made.__attrs_init__(mode, sources)  # pyright: ignore[reportAttributeAccessIssue]
    return made


ANY: Final = SourceFilter.any()
NONE: Final = SourceFilter.none()
NEVER: Final = ipaddress.IPv4Address("255.255.255.255")
"""A source that no datagram has (RFC 1122 section 3.2.1.3; Linux drops it as a martian)."""
INCLUDE_NEVER: Final = _checked(FilterMode.INCLUDE, frozenset({NEVER}))
"""A membership that hears nobody, unlike INCLUDE {}, which is none."""
EXCLUDE_NEVER: Final = _checked(FilterMode.EXCLUDE, frozenset({NEVER}))
"""A membership that hears everybody, although it names a source."""
