"""Who asks for which filter of one (interface, group): the holds, and their merge (RFC 3376 section 3.2)."""

from __future__ import annotations

import collections
from typing import Final, final

from trio_ipv4._values.source_filter import NONE, SourceFilter


@final
class Holds:
    """Filters by their holders. Equal filters are counted, so many scopes with the same cost no more than one."""

    def __init__(self) -> None:
        self._by_holder: Final[dict[object, SourceFilter]] = {}
        # Only for two holds and more: to hash a filter takes longer than all the rest.
        self._counts: collections.Counter[SourceFilter] | None = None

    def __len__(self) -> int:
        return len(self._by_holder)

    def get(self, holder: object) -> SourceFilter | None:
        """Return the filter that a holder asks for."""
        return self._by_holder.get(holder)

    def set(self, holder: object, sources: SourceFilter | None) -> SourceFilter | None:
        """Replace the filter that a holder asks for (`None`: nothing), and return the one before."""
        before = self._by_holder.pop(holder, None)
        if sources is not None:
            self._by_holder[holder] = sources
        if len(self._by_holder) < 2:
            self._counts = None
        elif self._counts is None:
            self._counts = collections.Counter(self._by_holder.values())
        else:
            self._count(sources, 1)
            self._count(before, -1)
        return before

    def merged(self) -> SourceFilter:
        """Return the merge of all filters."""
        if self._counts is None:
            return next(iter(self._by_holder.values()), NONE)
        return SourceFilter.merge(self._counts)

    def _count(self, sources: SourceFilter | None, change: int) -> None:
        assert self._counts is not None
        if sources is not None:
            self._counts[sources] += change
            if not self._counts[sources]:
                del self._counts[sources]
