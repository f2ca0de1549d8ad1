"""The groups that interfaces are in as values, whoever joined them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, final

import attrs

from trio_ipv4._values.fields import to_group
from trio_ipv4._values.interface import Interface, to_ifindex

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4._values.fields import AddressLike


@final
@attrs.frozen(init=False)
class HostMembership:
    """A group that an interface of this host has joined, for whatever programs.

    Two are equal if interface and group are. So `set(later) - set(earlier)` has what was joined between two lists.

    Args:
        interface: The index of the interface, 1 or more; or an `Interface`, of which the index is kept.
        group: A multicast address.
        age: For how long the interface has been in the group, in seconds, when this was told; of one that was left,
            how long it had been. It is exact to 0.02 seconds. Time in which the host was suspended does not count. A
            32-bit kernel tells it wrong from some days of uptime on.

    Raises:
        TypeError: `interface` is a name or an address: `interface_by_name` finds a name.
        ValueError: `group` is not a multicast address, or an index or the age is out of range.
    """

    interface: int
    group: IPv4Address
    age: float = attrs.field(eq=False)

    def __init__(self, interface: Interface | int, group: AddressLike, *, age: float = 0.0) -> None:
        index = to_ifindex(interface, "interface")
        if index is None:
            raise TypeError("interface must be an Interface or an index, got None")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            index, to_group(group, "group"), _seconds(age, "age")
        )


class MembershipChangeKind(enum.Enum):
    """The kinds of change of the groups that an interface is in (RTNLGRP_IPV4_MCADDR, linux/rtnetlink.h)."""

    JOINED = "joined"
    """The interface is in the group now: it has its first member (RTM_NEWMULTICAST)."""
    LEFT = "left"
    """The interface is no longer in the group: its last member has left (RTM_DELMULTICAST)."""


@final
@attrs.frozen(init=False)
class MembershipChange:
    """An interface that joined a group, for its first member, or left one, after its last: see `watch_memberships`.

    Args:
        kind: Which of the two.
        membership: The interface, the group, and for how many seconds it had been in it.

    Raises:
        TypeError: An argument is of another type.
    """

    kind: MembershipChangeKind
    membership: HostMembership

    def __init__(self, kind: MembershipChangeKind, membership: HostMembership) -> None:
        if not isinstance(kind, MembershipChangeKind):
            raise TypeError(f"kind must be a MembershipChangeKind, got {kind!r}")
        if not isinstance(membership, HostMembership):
            raise TypeError(f"membership must be a HostMembership, got {membership!r}")
        self.__attrs_init__(kind, membership)  # pyright: ignore[reportAttributeAccessIssue]


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be 0 seconds or more, got {value}")
    return float(value)
