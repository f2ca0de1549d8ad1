"""The groups that interfaces are in, as rtnetlink's messages add up to them, and the changes that each one makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

import attrs

from trio_ipv4._codec.rtnetlink import Message, NewGroup, NewLink, RemovedGroup, RemovedLink
from trio_ipv4._values.host_membership import MembershipChangeKind
from trio_ipv4._values.interface import IPV4_MIN_MTU

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Address

Key: TypeAlias = "tuple[int, IPv4Address]"
"""An interface's index, and a group."""


@final
@attrs.frozen
class GroupChange:
    """An interface joined a group, or left one that it had joined at `stamp` (`NewGroup`)."""

    kind: MembershipChangeKind
    index: int
    group: IPv4Address
    stamp: int


@final
class MembershipTable:
    """The groups that messages, applied in order, add up to. Not immutable: it follows the kernel.

    Where IPv4 ends on a link, its memberships end, and the kernel does not tell of each (linux net/ipv4/igmp.c,
    `ip_mc_destroy_dev`). It tells that the link was deleted, or moved to another namespace, which is as good; or that
    it has an MTU below IPv4's minimum. The latter proves nothing: the link may have had it from the beginning, and
    memberships besides. Then the table says that everything has to be read anew.

    Args:
        messages: The first messages, such as a dump.
    """

    __slots__ = ("_groups",)

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._groups: dict[int, dict[IPv4Address, int]] = {}
        self.apply_all(messages)

    @property
    def memberships(self) -> Mapping[Key, int]:
        """A snapshot: for each interface and group when it was joined."""
        return {(index, group): stamp for index, groups in self._groups.items() for group, stamp in groups.items()}

    def apply_all(self, messages: Iterable[Message]) -> bool:
        """Take many messages in. Return whether the table is right after that."""
        is_right = True
        for message in messages:
            is_right &= self.apply(message) is not None
        return is_right

    def apply(self, message: Message) -> Sequence[GroupChange] | None:
        """Take a message in, and return the changes that it makes; `None` if everything has to be read anew."""
        match message:
            case NewGroup():
                return self._join(message)
            case RemovedGroup():
                stamp = self._groups.get(message.index, {}).pop(message.group, None)
                return () if stamp is None else (_left(message.index, message.group, stamp),)
            case RemovedLink():
                gone = self._groups.pop(message.index, {})
                return tuple(_left(message.index, group, stamp) for group, stamp in gone.items())
            case NewLink() if message.mtu < IPV4_MIN_MTU and self._groups.get(message.index):
                return None
            case _:
                return ()

    def _join(self, message: NewGroup) -> Sequence[GroupChange]:
        groups = self._groups.setdefault(message.index, {})
        known = groups.get(message.group)
        if known == message.stamp:
            return ()
        groups[message.group] = message.stamp
        joined = _joined(message.index, message.group, message.stamp)
        return (joined,) if known is None else (_left(message.index, message.group, known), joined)


def difference(old: Mapping[Key, int], new: Mapping[Key, int]) -> list[GroupChange]:
    """Return the changes from one snapshot to a later one, as after an overflow: first what was left.

    They are by interface and group. A group that was left, and joined again, has another stamp.
    """
    left = [_left(*key, stamp) for key, stamp in sorted(old.items()) if new.get(key) != stamp]
    return left + [_joined(*key, stamp) for key, stamp in sorted(new.items()) if old.get(key) != stamp]


def _joined(index: int, group: IPv4Address, stamp: int) -> GroupChange:
    return GroupChange(MembershipChangeKind.JOINED, index, group, stamp)


def _left(index: int, group: IPv4Address, stamp: int) -> GroupChange:
    return GroupChange(MembershipChangeKind.LEFT, index, group, stamp)
