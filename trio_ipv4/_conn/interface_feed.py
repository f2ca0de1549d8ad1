"""Changes of interfaces, for several readers (`feeds.py`): watchers, followers, servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from trio_ipv4._codec.interface_table import InterfaceTable, difference
from trio_ipv4._conn.feeds import Feed
from trio_ipv4._kernel import netlink
from trio_ipv4._values.interface import Interface, InterfaceChange, InterfaceChangeKind

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.system import Socket, System

InterfaceFeed: TypeAlias = "Feed[InterfaceTable, int, Interface, InterfaceChange]"


def open_interface_feed(system: System) -> InterfaceFeed:
    """Open a feed of the interfaces in the network in which a system makes sockets now."""
    return Feed(system, _INTERFACES, "the interfaces are watched no longer")


@final
class _Interfaces:
    """The topic."""

    def subscribe(self, system: System) -> Socket:
        return netlink.subscribe(system)

    def read(self, asking: Socket) -> Iterator[InterfaceTable | None]:
        return netlink.read_interfaces(asking)

    def apply(self, table: InterfaceTable, message: Message) -> Sequence[InterfaceChange]:
        change = table.apply(message)
        return () if change is None else (change,)

    def apply_all(self, table: InterfaceTable, messages: Sequence[Message]) -> bool:
        table.apply_all(messages)
        return True

    def rows(self, table: InterfaceTable) -> Mapping[int, Interface]:
        return table.interfaces

    def index(self, key: int) -> int:
        return key

    def difference(
        self, old: Mapping[int, Interface], new: Mapping[int, Interface], ended: Container[int] = ()
    ) -> list[InterfaceChange]:
        return difference(old, new, ended)

    def note(self, told: dict[int, Interface], change: InterfaceChange) -> None:
        if change.kind is InterfaceChangeKind.REMOVED:
            told.pop(change.interface.index, None)
        else:
            told[change.interface.index] = change.interface


_INTERFACES: Final = _Interfaces()
