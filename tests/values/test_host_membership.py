from __future__ import annotations

import pickle
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from trio_ipv4 import HostMembership, Interface, InterfaceFlags, MembershipChange, MembershipChangeKind

GROUP = IPv4Address("239.1.2.3")
ETH0 = Interface(2, "eth0", 1500, InterfaceFlags.UP)


def test_it_has_an_index_a_group_and_an_age() -> None:
    membership = HostMembership(ETH0, "239.1.2.3", age=7)
    assert (membership.interface, membership.group) == (2, GROUP)
    assert repr(membership.age) == "7.0"
    assert HostMembership(2, GROUP).age == 0
    assert pickle.loads(pickle.dumps(membership)).age == 7
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        membership.age = 8.0  # type: ignore[misc]


def test_the_age_makes_no_difference() -> None:
    assert HostMembership(2, GROUP, age=1) == HostMembership(2, GROUP, age=2)
    assert len({HostMembership(2, GROUP, age=1), HostMembership(2, GROUP, age=2)}) == 1
    assert HostMembership(2, GROUP) != HostMembership(3, GROUP)
    assert HostMembership(2, GROUP) != HostMembership(2, "239.1.2.4")


@pytest.mark.parametrize(
    ("arguments", "age", "error", "message"),
    [
        ((None, GROUP), 0, TypeError, "interface must be an Interface or an index, got None"),
        (("eth0", GROUP), 0, TypeError, "interface must be an Interface or an index, got 'eth0'"),
        ((0, GROUP), 0, ValueError, "interface must be from 1"),
        ((1, "192.0.2.1"), 0, ValueError, "group must be a multicast address"),
        ((1, GROUP), -0.01, ValueError, "age must be 0 seconds or more, got -0.01"),
        ((1, GROUP), float("inf"), ValueError, "age must be 0 seconds or more"),
        ((1, GROUP), float("nan"), ValueError, "age must be 0 seconds or more"),
        ((1, GROUP), True, TypeError, "age must be a number of seconds, got True"),
        ((1, GROUP), "1", TypeError, "age must be a number of seconds, got '1'"),
    ],
)
def test_nonsense_is_refused(arguments: Any, age: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HostMembership(*arguments, age=age)


def test_a_change_has_a_kind_and_a_membership() -> None:
    membership = HostMembership(2, GROUP)
    change = MembershipChange(MembershipChangeKind.LEFT, membership)
    assert (change.kind, change.membership) == (MembershipChangeKind.LEFT, membership)
    assert change != MembershipChange(MembershipChangeKind.JOINED, membership)
    with pytest.raises(TypeError, match="kind must be a MembershipChangeKind, got 'left'"):
        MembershipChange("left", membership)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="membership must be a HostMembership"):
        MembershipChange(MembershipChangeKind.LEFT, GROUP)  # type: ignore[arg-type]
