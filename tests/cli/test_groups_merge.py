"""What an interface hears, inferred from the kernel's counts: against the merge of filters that are known."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import FilterMode, SourceFilter
from trio_ipv4._cli.merge import Filter, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.pure

SOURCES = [IPv4Address(f"198.18.0.{number}") for number in range(1, 5)]
filters = st.builds(Filter, st.sampled_from(["include", "exclude"]), st.frozensets(st.sampled_from(SOURCES)))
members = st.lists(filters.filter(lambda each: each != Filter("include")), min_size=1, max_size=6)
"""INCLUDE {} is to be no member at all."""


def count(sockets: Sequence[Filter]) -> dict[IPv4Address, tuple[int, int]]:
    """What /proc/net/mcfilter says of these sockets."""
    counts = {}
    for source in SOURCES:
        modes = [each.mode for each in sockets if source in each.sources]
        if modes:
            counts[source] = modes.count("include"), modes.count("exclude")
    return counts


def truth(sockets: Sequence[Filter]) -> SourceFilter:
    return SourceFilter.merge(SourceFilter(FilterMode[each.mode.upper()], each.sources) for each in sockets)


def as_library(found: Filter) -> SourceFilter:
    return SourceFilter(FilterMode[found.mode.upper()], found.sources)


@given(members)
def test_with_every_filter_known_it_is_the_merge(sockets: list[Filter]) -> None:
    found = merge(len(sockets), count(sockets), sockets)
    assert found.certain
    assert as_library(found.filter) == truth(sockets)


@given(members, st.data())
def test_what_is_certain_is_true_and_what_is_not_lets_more_through(sockets: list[Filter], data: st.DataObject) -> None:
    known = sockets[: data.draw(st.integers(0, len(sockets)))]
    found, true = merge(len(sockets), count(sockets), known), truth(sockets)
    if found.certain:
        assert as_library(found.filter) == true
    else:
        assert all(true.accepts(source) for source in SOURCES if as_library(found.filter).accepts(source))


@pytest.mark.parametrize(
    ("sockets", "counts", "mode", "sources", "certain"),
    [
        (1, {}, "exclude", [], True),
        (1, {0: (1, 0)}, "include", [0], True),
        (1, {0: (1, 0), 1: (1, 0)}, "include", [0, 1], True),
        (2, {0: (1, 0)}, "exclude", [], True),
        (2, {0: (1, 0), 1: (1, 0)}, "include", [0, 1], False),
        (1, {0: (0, 1)}, "exclude", [0], True),
        (2, {0: (0, 1), 1: (1, 0)}, "exclude", [0], True),
        (2, {0: (0, 1)}, "exclude", [], True),
        (3, {0: (0, 1), 1: (1, 0), 2: (1, 0)}, "exclude", [0], False),
    ],
)
def test_the_counts_alone(
    sockets: int, counts: dict[int, tuple[int, int]], mode: str, sources: list[int], *, certain: bool
) -> None:
    found = merge(sockets, {SOURCES[number]: pair for number, pair in counts.items()})
    assert (found.filter.mode, sorted(found.filter.sources), found.certain) == (
        mode,
        [SOURCES[number] for number in sources],
        certain,
    )


def test_a_socket_that_includes_nobody_is_known_only_by_itself() -> None:
    assert merge(1, {}).filter == Filter("exclude")
    assert merge(1, {}, [Filter("include")]).filter == Filter("include")


@pytest.mark.parametrize("known", [[Filter("exclude")] * 2, [Filter("include", frozenset(SOURCES[:1]))]])
def test_sockets_that_contradict_the_counts_are_of_another_moment(known: list[Filter]) -> None:
    assert merge(1, {}, known) == merge(1, {})
