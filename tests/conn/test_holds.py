"""Holds: their merge is that of all filters, whatever came and went, and costs what the different ones cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import FilterMode, SourceFilter
from trio_ipv4._conn.holds import Holds

pytestmark = pytest.mark.pure

FILTERS = st.builds(
    SourceFilter, st.sampled_from(FilterMode), st.frozensets(st.sampled_from(["192.0.2.1", "192.0.2.2"]))
)
CHANGES = st.lists(st.tuples(st.integers(0, 4), st.none() | FILTERS))


@given(CHANGES)
def test_the_merge_is_that_of_all_filters(changes: list[tuple[int, SourceFilter | None]]) -> None:
    holds, model = Holds(), dict[int, SourceFilter]()
    for holder, sources in changes:
        assert holds.get(holder) == model.get(holder)
        assert holds.set(holder, sources) == model.pop(holder, None)
        if sources is not None:
            model[holder] = sources
        assert holds.merged() == SourceFilter.merge(model.values())
        assert len(holds) == len(model)
        assert bool(holds) is bool(model)


@given(CHANGES, st.integers(0, 4), st.none() | FILTERS)
def test_a_change_can_be_taken_back(
    changes: list[tuple[int, SourceFilter | None]], holder: int, sources: SourceFilter | None
) -> None:
    holds = Holds()
    for each in changes:
        holds.set(*each)
    before = holds.merged()
    holds.set(holder, holds.set(holder, sources))
    assert holds.merged() == before


def test_equal_filters_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[int] = []
    merge = SourceFilter.merge

    def note(filters: object) -> SourceFilter:
        each = list(filters)  # type: ignore[call-overload]
        merged.append(len(each))
        return merge(each)

    monkeypatch.setattr(SourceFilter, "merge", staticmethod(note))
    holds = Holds()
    for number in range(1000):
        holds.set(number, SourceFilter.any() if number % 2 else SourceFilter.exclude("192.0.2.1"))
    assert holds.merged() == SourceFilter.any()
    assert merged == [2]
