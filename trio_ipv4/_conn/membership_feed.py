"""Changes of the groups that interfaces are in, for several readers (`feeds.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from trio_ipv4._codec.membership_table import GroupChange, Key, MembershipTable, difference
from trio_ipv4._conn.feeds import Feed
from trio_ipv4._kernel import memberships
from trio_ipv4._values.host_membership import MembershipChangeKind

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.system import Socket, System

MembershipFeed: TypeAlias = "Feed[MembershipTable, Key, int, GroupChange]"


def open_membership_feed(system: System) -> MembershipFeed:
    """Open a feed of the groups in the network in which a system makes sockets now."""
    return Feed(system, _MEMBERSHIPS, "the memberships are watched no longer")


@final
class _Memberships:
    """The topic."""

    def subscribe(self, system: System) -> Socket:
        return memberships.subscribe(system)

    def read(self, asking: Socket) -> Iterator[MembershipTable | None]:
        return memberships.read_memberships(asking)

    def apply(self, table: MembershipTable, message: Message) -> Sequence[GroupChange] | None:
        return table.apply(message)

    def apply_all(self, table: MembershipTable, messages: Sequence[Message]) -> bool:
        return table.apply_all(messages)

    def rows(self, table: MembershipTable) -> Mapping[Key, int]:
        return table.memberships

    def index(self, key: Key) -> int:
        return key[0]

    def difference(
        self, old: Mapping[Key, int], new: Mapping[Key, int], _ended: Container[int] = ()
    ) -> list[GroupChange]:
        return difference(old, new)  # By the time of the join it knows what was joined anew.

    def note(self, told: dict[Key, int], change: GroupChange) -> None:
        key = change.index, change.group
        if change.kind is MembershipChangeKind.LEFT:
            told.pop(key, None)
        else:
            told[key] = change.stamp


_MEMBERSHIPS: Final = _Memberships()
