from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._codec.membership_table import GroupChange, MembershipTable, difference
from trio_ipv4._codec.rtnetlink import (
    Done,
    Message,
    NewGroup,
    NewLink,
    NewSettings,
    RemovedGroup,
    RemovedLink,
)
from trio_ipv4._values.host_membership import MembershipChangeKind
from trio_ipv4._values.interface import InterfaceFlags

JOINED, LEFT = MembershipChangeKind.JOINED, MembershipChangeKind.LEFT
ONE, TWO = IPv4Address("239.1.2.3"), IPv4Address("239.1.2.4")


def joins(index: int = 2, group: IPv4Address = ONE, stamp: int = 100) -> NewGroup:
    return NewGroup(0, index, group, stamp)


def leaves(index: int = 2, group: IPv4Address = ONE) -> RemovedGroup:
    return RemovedGroup(0, index, group)


def link(mtu: int, index: int = 2) -> NewLink:
    return NewLink(0, index, "eth0", mtu, InterfaceFlags.UP)


def test_a_group_is_joined_and_left() -> None:
    table = MembershipTable()
    assert table.apply(joins()) == (GroupChange(JOINED, 2, ONE, 100),)
    assert table.apply(joins(group=TWO, stamp=110)) == (GroupChange(JOINED, 2, TWO, 110),)
    assert table.memberships == {(2, ONE): 100, (2, TWO): 110}
    assert table.apply(leaves()) == (GroupChange(LEFT, 2, ONE, 100),)
    assert table.memberships == {(2, TWO): 110}


def test_what_is_known_is_no_change() -> None:
    table = MembershipTable([joins()])
    for message in (joins(), leaves(3), leaves(group=TWO), RemovedLink(0, 3), link(1500), link(68), NewSettings(0, 2)):
        assert table.apply(message) == ()
    assert table.apply(Done(1)) == ()
    assert table.memberships == {(2, ONE): 100}


def test_another_stamp_is_another_join() -> None:
    table = MembershipTable([joins()])
    assert table.apply(joins(stamp=99)) == (GroupChange(LEFT, 2, ONE, 100), GroupChange(JOINED, 2, ONE, 99))
    assert table.memberships == {(2, ONE): 99}


def test_a_link_that_is_gone_has_left_all() -> None:
    table = MembershipTable([joins(), joins(3), joins(group=TWO, stamp=0)])
    assert table.apply(RemovedLink(0, 2)) == (GroupChange(LEFT, 2, ONE, 100), GroupChange(LEFT, 2, TWO, 0))
    assert table.memberships == {(3, ONE): 100}


@pytest.mark.parametrize("mtu", [0, 67])
def test_an_mtu_without_ipv4_proves_nothing(mtu: int) -> None:
    """A CAN link has 16 from the beginning, and may have memberships; where it falls to that, they have ended."""
    table = MembershipTable([joins()])
    assert table.apply(link(mtu)) is None
    assert table.memberships == {(2, ONE): 100}
    assert table.apply(link(mtu, 3)) == ()
    table.apply(leaves())
    assert table.apply(link(mtu)) == ()


def test_many_messages_are_taken_in_whatever_the_first_ones_say() -> None:
    table = MembershipTable([joins()])
    assert not table.apply_all([link(67), joins(3), leaves()])
    assert table.memberships == {(3, ONE): 100}
    assert table.apply_all([link(67), joins()])
    assert not table.apply_all([joins(4), link(67)])


def test_the_difference_is_first_what_was_left() -> None:
    old = {(2, TWO): 1, (2, ONE): 1, (3, ONE): 1}
    new = {(4, ONE): 5, (3, ONE): 2, (2, TWO): 1, (1, TWO): 0}
    assert difference(old, new) == [
        GroupChange(LEFT, 2, ONE, 1),
        GroupChange(LEFT, 3, ONE, 1),
        GroupChange(JOINED, 1, TWO, 0),
        GroupChange(JOINED, 3, ONE, 2),
        GroupChange(JOINED, 4, ONE, 5),
    ]
    assert difference(new, new) == []


INDEXES, GROUPS, STAMPS = st.integers(1, 3), st.sampled_from([ONE, TWO]), st.integers(0, 2)
MESSAGES: st.SearchStrategy[Message] = (
    st.builds(joins, INDEXES, GROUPS, STAMPS)
    | st.builds(leaves, INDEXES, GROUPS)
    | st.builds(RemovedLink, st.just(0), INDEXES)
)
HISTORY = st.lists(MESSAGES, max_size=20)


def follow(known: dict[tuple[int, IPv4Address], int], changes: list[GroupChange]) -> None:
    for change in changes:
        key = change.index, change.group
        if change.kind is LEFT:
            assert known.pop(key) == change.stamp
        else:
            assert key not in known
            known[key] = change.stamp


@given(HISTORY, HISTORY)
def test_the_changes_add_up_to_the_table(begin: list[Message], later: list[Message]) -> None:
    table = MembershipTable(begin)
    known = dict(table.memberships)
    for message in later:
        follow(known, list(table.apply(message) or ()))
    assert known == table.memberships == MembershipTable([*begin, *later]).memberships


@given(HISTORY, HISTORY)
def test_the_difference_leads_from_one_to_the_other(one: list[Message], other: list[Message]) -> None:
    old, new = MembershipTable(one).memberships, MembershipTable(other).memberships
    known = dict(old)
    follow(known, difference(old, new))
    assert known == new
