"""The plan from one filter to the next, by its laws, on a model of what the kernel does with each call."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import FilterMode, SourceFilter, UnsupportedError
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._codec.plan import Call, Verb, plan
from trio_ipv4._values.source_filter import NEVER, NONE

SOURCES = [f"192.0.2.{number}" for number in range(1, 6)]
ANY = SourceFilter.any()
FILTERS = st.builds(SourceFilter, st.sampled_from(FilterMode), st.frozensets(st.sampled_from(SOURCES)))
PROBES = [*SOURCES, "198.51.100.1"]
"""The last one stands for all that no filter names."""


def kernel(has: SourceFilter, call: Call) -> SourceFilter:
    """What Linux has after a call, or an error for a call that it refuses (net/ipv4/igmp.c)."""
    if call.verb is Verb.JOIN:
        assert has == NONE, "EADDRINUSE"
        return ANY
    if call.verb is Verb.JOIN_SOURCE:
        # On an any-source member it would succeed, and silently turn EXCLUDE {} into INCLUDE.
        assert has == NONE
        assert call.after.mode is FilterMode.INCLUDE
        assert len(call.after.sources) == 1
        return call.after
    assert has != NONE, "EINVAL, EADDRNOTAVAIL"
    if call.verb is Verb.LEAVE:
        return NONE
    assert call.after != NONE, "INCLUDE {} leaves, and fails on a dead interface"
    return call.after


def hears(sources: SourceFilter) -> set[str]:
    return {source for source in PROBES if sources.accepts(source)}


@given(FILTERS, FILTERS)
def test_a_plan_ends_at_the_new_filter(old: SourceFilter, new: SourceFilter) -> None:
    has = old
    for call in plan(LINUX, old, new):
        has = kernel(has, call)
        assert has == call.after
    assert has == new


@given(FILTERS, FILTERS)
def test_on_the_way_the_socket_is_no_wider_than_both_together(old: SourceFilter, new: SourceFilter) -> None:
    for call in plan(LINUX, old, new):
        assert hears(call.after) <= hears(old) | hears(new)


@given(FILTERS, FILTERS)
def test_on_the_way_of_a_member_nothing_is_lost(old: SourceFilter, new: SourceFilter) -> None:
    if NONE not in (old, new):
        for call in plan(LINUX, old, new):
            assert hears(call.after) >= hears(old) & hears(new)


@given(FILTERS)
def test_to_stay_takes_no_call(sources: SourceFilter) -> None:
    assert plan(LINUX, sources, sources) == ()


@given(FILTERS, FILTERS)
def test_two_calls_are_enough_and_one_for_a_member(old: SourceFilter, new: SourceFilter) -> None:
    calls = plan(LINUX, old, new)
    assert len(calls) <= (2 if old == NONE else 1)


@given(FILTERS)
def test_leaving_is_one_call_whatever_the_filter(old: SourceFilter) -> None:
    assert plan(LINUX, old, NONE) == (() if old == NONE else (Call(Verb.LEAVE, NONE),))


@pytest.mark.parametrize(
    ("new", "verbs", "first"),
    [
        (ANY, [Verb.JOIN], ANY),
        (SourceFilter.include("192.0.2.2"), [Verb.JOIN_SOURCE], SourceFilter.include("192.0.2.2")),
        (SourceFilter.include(*SOURCES), [Verb.JOIN_SOURCE, Verb.SET], SourceFilter.include("192.0.2.1")),
        (SourceFilter.exclude("192.0.2.2"), [Verb.JOIN_SOURCE, Verb.SET], None),
    ],
    ids=["any", "one", "several", "all but one"],
)
def test_how_a_membership_begins(new: SourceFilter, verbs: list[Verb], first: SourceFilter | None) -> None:
    calls = plan(LINUX, NONE, new)
    assert [call.verb for call in calls] == verbs
    if first is None:
        # From the one source that no datagram has: everybody who is excluded stays unheard.
        assert calls[0].after.sources == {NEVER}
        assert calls[0].after.mode is FilterMode.INCLUDE
    else:
        assert calls[0].after == first


@given(FILTERS, FILTERS)
def test_nothing_is_begun_that_the_platform_cannot_finish(old: SourceFilter, new: SourceFilter) -> None:
    wanted = plan(LINUX, old, new)
    if Verb.SET in [call.verb for call in wanted]:
        with pytest.raises(UnsupportedError, match="MCAST_MSFILTER is not available on darwin"):
            plan(DARWIN, old, new)
    else:
        assert plan(DARWIN, old, new) == wanted


@pytest.mark.parametrize("verb", Verb)
def test_each_call_is_an_option_of_the_platform(verb: Verb) -> None:
    lacking = attrs.evolve(LINUX, options={name: at for name, at in LINUX.options.items() if name != verb.value})
    way = {
        Verb.JOIN: (NONE, ANY),
        Verb.JOIN_SOURCE: (NONE, SourceFilter.include("192.0.2.1")),
        Verb.SET: (ANY, SourceFilter.exclude("192.0.2.1")),
        Verb.LEAVE: (ANY, NONE),
    }[verb]
    assert plan(LINUX, *way)[0].verb is verb
    with pytest.raises(UnsupportedError, match=verb.value):
        plan(lacking, *way)
