from __future__ import annotations

import pickle
from functools import reduce
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._values.source_filter import FilterMode, SourceFilter, to_sources

A, B, C, D, E, F = (str(IPv4Address("192.0.2.1") + n) for n in range(6))

# Few sources, so that filters overlap; the stranger is in no list.
SOURCES = st.sampled_from([A, B, C, D, E])
STRANGER = F
FILTERS = st.builds(SourceFilter, st.sampled_from(FilterMode), st.frozensets(SOURCES))
EVERYONE = (A, B, C, D, E, STRANGER)


def heard(source_filter: SourceFilter) -> set[str]:
    return {source for source in EVERYONE if source_filter.accepts(source)}


@pytest.mark.parametrize(
    ("filters", "merged"),
    [
        # RFC 3376 section 3.2, its two examples; the second of them with a fourth socket.
        (
            [SourceFilter.exclude(A, B, C, D), SourceFilter.exclude(B, C, D, E), SourceFilter.include(D, E, F)],
            SourceFilter.exclude(B, C),
        ),
        (
            [
                SourceFilter.exclude(A, B, C, D),
                SourceFilter.exclude(B, C, D, E),
                SourceFilter.include(D, E, F),
                SourceFilter.any(),
            ],
            SourceFilter.any(),
        ),
        (
            [SourceFilter.include(A, B, C), SourceFilter.include(B, C, D), SourceFilter.include(E, F)],
            SourceFilter.include(A, B, C, D, E, F),
        ),
        ([], SourceFilter.none()),
        ([SourceFilter.none()], SourceFilter.none()),
        ([SourceFilter.none(), SourceFilter.any()], SourceFilter.any()),
    ],
)
def test_merging_follows_the_rfcs_examples(filters: list[SourceFilter], merged: SourceFilter) -> None:
    assert SourceFilter.merge(filters) == merged
    assert SourceFilter.merge(reversed(filters)) == merged


@given(st.lists(FILTERS, max_size=5))
def test_a_merge_hears_exactly_what_one_of_the_filters_hears(filters: list[SourceFilter]) -> None:
    assert heard(SourceFilter.merge(filters)) == set[str]().union(*map(heard, filters))


@given(st.lists(FILTERS, max_size=5))
def test_a_merge_excludes_only_if_one_of_the_filters_does(filters: list[SourceFilter]) -> None:
    excludes = any(each.mode is FilterMode.EXCLUDE for each in filters)
    assert (SourceFilter.merge(filters).mode is FilterMode.EXCLUDE) == excludes


@given(FILTERS, FILTERS)
def test_merging_is_commutative(one: SourceFilter, other: SourceFilter) -> None:
    assert SourceFilter.merge([one, other]) == SourceFilter.merge([other, one])


@given(FILTERS, FILTERS, FILTERS)
def test_merging_is_associative(one: SourceFilter, other: SourceFilter, third: SourceFilter) -> None:
    merge = SourceFilter.merge
    assert merge([merge([one, other]), third]) == merge([one, merge([other, third])]) == merge([one, other, third])


@given(st.lists(FILTERS, max_size=5))
def test_merging_all_at_once_equals_merging_one_by_one(filters: list[SourceFilter]) -> None:
    one_by_one = reduce(lambda merged, each: SourceFilter.merge([merged, each]), filters, SourceFilter.none())
    assert SourceFilter.merge(filters) == one_by_one


@given(FILTERS)
def test_merging_is_idempotent(source_filter: SourceFilter) -> None:
    assert SourceFilter.merge([source_filter]) == source_filter
    assert SourceFilter.merge([source_filter, source_filter]) == source_filter


@given(FILTERS)
def test_none_is_neutral_and_any_absorbs(source_filter: SourceFilter) -> None:
    assert SourceFilter.merge([source_filter, SourceFilter.none()]) == source_filter
    assert SourceFilter.merge([source_filter, SourceFilter.any()]) == SourceFilter.any()


@given(FILTERS, st.lists(SOURCES))
def test_allowing_hears_these_sources_too_and_changes_no_other(source_filter: SourceFilter, new: list[str]) -> None:
    assert heard(source_filter.allow(*new)) == heard(source_filter) | set(new)
    assert source_filter.allow(*new).mode is source_filter.mode


@given(FILTERS, st.lists(SOURCES))
def test_blocking_hears_these_sources_no_longer_and_changes_no_other(
    source_filter: SourceFilter, old: list[str]
) -> None:
    assert heard(source_filter.block(*old)) == heard(source_filter) - set(old)
    assert source_filter.block(*old).mode is source_filter.mode


@given(FILTERS, st.lists(SOURCES))
def test_blocking_undoes_allowing_what_was_not_heard(source_filter: SourceFilter, sources: list[str]) -> None:
    new = set(sources) - heard(source_filter)
    assert source_filter.allow(*new).block(*new) == source_filter
    assert source_filter.allow(*new).allow(*new) == source_filter.allow(*new)


@given(FILTERS, SOURCES)
def test_a_filter_stays_as_it_was(source_filter: SourceFilter, source: str) -> None:
    before = (source_filter.mode, source_filter.sources)
    source_filter.allow(source)
    source_filter.block(source)
    assert (source_filter.mode, source_filter.sources) == before


def test_any_hears_everyone_and_none_hears_no_one() -> None:
    assert heard(SourceFilter.any()) == set(EVERYONE)
    assert heard(SourceFilter.none()) == set()
    assert SourceFilter.any() == SourceFilter(FilterMode.EXCLUDE)
    assert SourceFilter.none() == SourceFilter.include()


@given(FILTERS)
def test_repr_evaluates_to_an_equal_filter(source_filter: SourceFilter) -> None:
    assert eval(repr(source_filter)) == source_filter


def test_repr_sorts_by_number() -> None:
    assert repr(SourceFilter.include("192.0.2.10", "192.0.2.9")) == "SourceFilter.include('192.0.2.9', '192.0.2.10')"
    assert repr(SourceFilter.any()) == "SourceFilter.any()"
    assert repr(SourceFilter.none()) == "SourceFilter.none()"


@given(FILTERS)
def test_filters_are_values(source_filter: SourceFilter) -> None:
    same = SourceFilter(source_filter.mode, sorted(source_filter.sources, reverse=True))
    assert same == source_filter
    assert hash(same) == hash(source_filter)
    assert pickle.loads(pickle.dumps(source_filter)) == source_filter


def test_strings_and_addresses_make_the_same_filter() -> None:
    assert SourceFilter.include(A) == SourceFilter.include(IPv4Address(A))
    assert SourceFilter.include(A).accepts(IPv4Address(A))


def test_a_filter_cannot_be_changed() -> None:
    source_filter = SourceFilter.include(A)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        source_filter.mode = FilterMode.EXCLUDE  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del source_filter.sources
    assert type(source_filter.sources) is frozenset


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("224.0.0.1", ValueError, "sources must be a unicast address, got 224.0.0.1"),
        ("0.0.0.0", ValueError, "sources must be a unicast address, got 0.0.0.0"),
        ("255.255.255.255", ValueError, "sources must be a unicast address, got 255.255.255.255"),
        ("speaker.example", ValueError, "sources must be a numeric IPv4 address such as '192.0.2.1', got 'speaker.exa"),
        ("2001:db8::1", ValueError, "sources must be a numeric IPv4 address such as '192.0.2.1', got '2001:db8::1'"),
        (IPv6Address("2001:db8::1"), TypeError, "sources must be an IPv4Address or a dotted string"),
        (True, TypeError, "sources must be an IPv4Address or a dotted string such as '192.0.2.1', got True"),
    ],
)
def test_a_filter_refuses_what_is_no_source(source: Any, error: type[Exception], message: str) -> None:
    for make in (
        SourceFilter.include,
        SourceFilter.exclude,
        SourceFilter.any().block,
        SourceFilter.none().allow,
        lambda each: SourceFilter(FilterMode.INCLUDE, [each]),
    ):
        with pytest.raises(error) as caught:
            make(source)
        assert str(caught.value).startswith(message)


def test_a_lone_string_is_no_collection_of_sources() -> None:
    with pytest.raises(TypeError, match=r"sources must be a collection of addresses, got the single string '192"):
        SourceFilter(FilterMode.INCLUDE, A)


@pytest.mark.parametrize("mode", ["include", True, 0, None])
def test_a_mode_is_a_filter_mode(mode: Any) -> None:
    with pytest.raises(TypeError, match=r"mode must be FilterMode\.INCLUDE or FilterMode\.EXCLUDE, got "):
        SourceFilter(mode, [A])


def test_filters_are_merged_by_the_type_and_by_any_value() -> None:
    either = [SourceFilter.include(A), SourceFilter.none()]
    assert SourceFilter.merge(either) == SourceFilter.any().merge(either) == SourceFilter.include(A)


def test_only_a_filter_is_a_filter() -> None:
    assert to_sources(SourceFilter.any()) == SourceFilter.any()
    for value in (None, A, [A], FilterMode.EXCLUDE):
        with pytest.raises(TypeError, match="sources must be a SourceFilter, got"):
            to_sources(value)
