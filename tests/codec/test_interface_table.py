from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._codec.interface_table import InterfaceTable, difference
from trio_ipv4._codec.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    NewAddress,
    NewLink,
    Overrun,
    RemovedAddress,
    RemovedLink,
)
from trio_ipv4._values.interface import Interface, InterfaceChange, InterfaceChangeKind, InterfaceFlags

UP = InterfaceFlags.UP | InterfaceFlags.MULTICAST
DOWN = InterfaceFlags.MULTICAST
HOST, LINK, UNIVERSE = 254, 253, 0  # RT_SCOPE_*, linux/rtnetlink.h


def link(index: int = 2, name: str = "eth0", mtu: int = 1500, flags: InterfaceFlags = UP) -> NewLink:
    return NewLink(0, index, name, mtu, flags)


def address(text: str, *, index: int = 2, peer: str = "", scope: int = UNIVERSE, secondary: bool = False) -> NewAddress:
    owned = IPv4Interface(text)
    return NewAddress(0, index, owned, IPv4Address(peer) if peer else owned.ip, scope, secondary)


def removed(message: NewAddress) -> RemovedAddress:
    return RemovedAddress(0, message.index, message.address, message.peer)


def addresses(table: InterfaceTable, index: int = 2) -> list[str]:
    return [str(each) for each in table.interfaces[index].addresses]


def apply(table: InterfaceTable, *messages: Message) -> list[InterfaceChange | None]:
    return [table.apply(message) for message in messages]


def interface(index: int = 2, name: str = "eth0", flags: InterfaceFlags = UP, *texts: str) -> Interface:
    return Interface(index, name, 1500, flags, map(IPv4Interface, texts))


def test_an_interface_comes_changes_and_goes() -> None:
    table = InterfaceTable()
    assert apply(
        table,
        link(),
        address("192.0.2.1/24"),
        link(flags=DOWN),
        link(name="lan0"),
        removed(address("192.0.2.1/24")),
        RemovedLink(0, 2),
    ) == [
        InterfaceChange(InterfaceChangeKind.ADDED, interface()),
        InterfaceChange(InterfaceChangeKind.CHANGED, interface(2, "eth0", UP, "192.0.2.1/24")),
        InterfaceChange(InterfaceChangeKind.CHANGED, interface(2, "eth0", DOWN, "192.0.2.1/24")),
        InterfaceChange(InterfaceChangeKind.CHANGED, interface(2, "lan0", UP, "192.0.2.1/24")),
        InterfaceChange(InterfaceChangeKind.CHANGED, interface(2, "lan0")),
        InterfaceChange(InterfaceChangeKind.REMOVED, interface(2, "lan0")),
    ]
    assert table.interfaces == {}


def test_what_changes_nothing_is_no_change() -> None:
    table = InterfaceTable([link(), address("192.0.2.1/24")])
    assert apply(table, link(), address("192.0.2.1/24"), removed(address("192.0.2.2/24"))) == [None] * 3
    assert addresses(table) == ["192.0.2.1/24"]


@pytest.mark.parametrize("message", [Done(1), Failure(1, 1), Interrupted(1), Overrun(1)])
def test_what_is_about_no_interface_is_no_change(message: Message) -> None:
    assert InterfaceTable([message, link()]).apply(message) is None


def test_what_is_about_an_unknown_interface_is_no_change() -> None:
    table = InterfaceTable()
    assert apply(table, address("192.0.2.1/24"), removed(address("192.0.2.1/24")), RemovedLink(0, 2)) == [None] * 3
    assert table.interfaces == {}
    assert table.apply(link()) == InterfaceChange(InterfaceChangeKind.ADDED, interface())


def test_a_removed_interface_comes_with_its_last_known_state() -> None:
    table = InterfaceTable([link(), address("192.0.2.1/24")])
    assert table.apply(RemovedLink(0, 2)) == InterfaceChange(
        InterfaceChangeKind.REMOVED, interface(2, "eth0", UP, "192.0.2.1/24")
    )


def test_a_new_interface_with_an_old_index_has_no_old_addresses() -> None:
    table = InterfaceTable([link(), address("192.0.2.1/24"), RemovedLink(0, 2), link(name="eth1")])
    assert table.interfaces == {2: interface(2, "eth1")}


def test_primary_addresses_come_first() -> None:
    table = InterfaceTable([link(), address("10.0.0.1/24"), address("10.0.0.2/24", secondary=True)])
    table.apply(address("10.1.0.1/24"))
    assert addresses(table) == ["10.0.0.1/24", "10.1.0.1/24", "10.0.0.2/24"]


def test_addresses_of_a_narrower_scope_come_first() -> None:
    table = InterfaceTable([link(), address("10.0.0.1/24"), address("169.254.0.1/16", scope=LINK)])
    table.apply(address("127.0.0.2/8", scope=HOST))
    assert addresses(table) == ["127.0.0.2/8", "169.254.0.1/16", "10.0.0.1/24"]


def test_secondary_addresses_stay_in_the_order_of_their_coming_whatever_their_scope() -> None:
    table = InterfaceTable([link(), address("10.0.0.1/24"), address("10.0.0.2/24", secondary=True)])
    table.apply(address("10.0.0.3/24", scope=HOST, secondary=True))
    assert addresses(table) == ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"]


@pytest.mark.parametrize("secondary", [False, True])
def test_an_address_that_is_told_of_again_keeps_its_place(secondary: bool) -> None:
    first = address("10.0.0.2/24", secondary=secondary)
    table = InterfaceTable([link(), first, address("10.0.0.3/24", secondary=secondary)])
    assert table.apply(first) is None  # As for a new lifetime, of which an interface does not tell.
    assert addresses(table) == ["10.0.0.2/24", "10.0.0.3/24"]


def test_a_promoted_address_takes_its_place_among_the_primary_ones() -> None:
    first, second = address("10.0.0.1/24"), address("10.0.0.3/24", secondary=True)
    table = InterfaceTable([link(), first, address("10.1.0.1/24"), address("10.0.0.2/24", secondary=True), second])
    apply(table, removed(first), address("10.0.0.3/24"))
    assert addresses(table) == ["10.1.0.1/24", "10.0.0.3/24", "10.0.0.2/24"]


def test_a_promoted_address_goes_behind_primary_ones_that_came_after_it() -> None:
    first = address("10.0.0.1/24")
    table = InterfaceTable([link(), first, address("10.0.0.2/24", secondary=True), address("10.1.0.1/24")])
    apply(table, removed(first), address("10.0.0.2/24"))
    assert addresses(table) == ["10.1.0.1/24", "10.0.0.2/24"]


def test_one_address_with_two_peers_is_listed_until_both_are_gone() -> None:
    one, other = address("10.0.0.1/32", peer="10.0.0.2"), address("10.0.0.1/32", peer="10.0.0.3")
    table = InterfaceTable([link(), one, other])
    assert addresses(table) == ["10.0.0.1/32"]
    assert table.apply(removed(one)) is None
    assert table.apply(removed(other)) == InterfaceChange(InterfaceChangeKind.CHANGED, interface())


def test_a_snapshot_does_not_follow() -> None:
    table = InterfaceTable([link()])
    before = table.interfaces
    table.apply(RemovedLink(0, 2))
    assert before == {2: interface()}


def test_a_difference_tells_first_what_went() -> None:
    old = {2: interface(2, "eth0"), 3: interface(3, "eth1"), 4: interface(4, "eth2")}
    new = {3: interface(3, "eth1", DOWN), 4: interface(4, "eth2"), 5: interface(5, "eth0")}
    assert difference(old, new) == [
        InterfaceChange(InterfaceChangeKind.REMOVED, interface(2, "eth0")),
        InterfaceChange(InterfaceChangeKind.CHANGED, interface(3, "eth1", DOWN)),
        InterfaceChange(InterfaceChangeKind.ADDED, interface(5, "eth0")),
    ]
    assert difference(new, new) == []


INDEXES = st.integers(1, 3)
ADDRESSES = st.builds(
    address,
    st.sampled_from(["10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/32"]),
    index=INDEXES,
    peer=st.sampled_from(["", "10.0.0.9"]),
    scope=st.sampled_from([HOST, UNIVERSE]),
    secondary=st.booleans(),
)
MESSAGES = (
    st.builds(link, INDEXES, st.sampled_from(["eth0", "eth1"]), flags=st.sampled_from([UP, DOWN]))
    | ADDRESSES
    | ADDRESSES.map(removed)
    | st.builds(RemovedLink, st.just(0), INDEXES)
)


def follow(known: dict[int, Interface], change: InterfaceChange) -> None:
    """Do what a watcher does, who has only the changes."""
    index = change.interface.index
    if change.kind is InterfaceChangeKind.REMOVED:
        assert known.pop(index) == change.interface
        return
    assert (index in known) == (change.kind is InterfaceChangeKind.CHANGED)
    assert known.get(index) != change.interface
    known[index] = change.interface


@given(st.lists(MESSAGES, max_size=12), st.lists(MESSAGES, max_size=12))
def test_who_follows_the_changes_knows_the_interfaces(begin: list[Message], later: list[Message]) -> None:
    table = InterfaceTable(begin)
    known = dict(table.interfaces)
    for change in apply(table, *later):
        if change is not None:
            follow(known, change)
    assert known == table.interfaces == InterfaceTable([*begin, *later]).interfaces


@given(st.lists(MESSAGES, max_size=12), st.lists(MESSAGES, max_size=12))
def test_who_follows_a_difference_arrives_at_the_later_state(one: list[Message], other: list[Message]) -> None:
    old, new = InterfaceTable(one).interfaces, InterfaceTable(other).interfaces
    known = dict(old)
    for change in difference(old, new):
        follow(known, change)
    assert known == new
