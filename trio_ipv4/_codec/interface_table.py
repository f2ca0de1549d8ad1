"""The interfaces that rtnetlink's messages add up to, and the change that each message makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never, final

from trio_ipv4._codec.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    NewAddress,
    NewGroup,
    NewLink,
    NewSettings,
    Overrun,
    RemovedAddress,
    RemovedGroup,
    RemovedLink,
    Route,
)
from trio_ipv4._values.interface import Interface, InterfaceChange, InterfaceChangeKind

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Interface

_Key: TypeAlias = "tuple[IPv4Interface, IPv4Address]"
"""What identifies an address on a link: the address with its prefix, and the peer."""


@final
class InterfaceTable:
    """The interfaces that messages, applied in order, add up to. Not immutable: it follows the kernel.

    Args:
        messages: The first messages, such as a dump of the links and then of the addresses.
    """

    __slots__ = ("_addresses", "_interfaces", "_links")

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._links: dict[int, NewLink] = {}
        self._addresses: dict[int, dict[_Key, NewAddress]] = {}
        for message in messages:
            self._learn(message)
        self._interfaces = {index: self._build(index) for index in self._links}

    @property
    def interfaces(self) -> Mapping[int, Interface]:
        """A snapshot of the interfaces by their indices, in the order in which they became known."""
        return dict(self._interfaces)

    def apply_all(self, messages: Iterable[Message]) -> None:
        """Take many messages in. It takes less time than one by one, and tells of no changes."""
        for index in dict.fromkeys(map(self._learn, messages)):
            if index is not None:
                self._renew(index)

    def apply(self, message: Message) -> InterfaceChange | None:
        """Take a message in, and return the change that it makes; `None` if nothing that an `Interface` holds differs.

        A removed interface comes with its last known state. An address of an unknown interface is left out: the kernel
        names an interface before its addresses.
        """
        index = self._learn(message)
        if index is None:
            return None
        old = self._interfaces.get(index)
        self._renew(index)
        return _change(old, self._interfaces.get(index))

    def _renew(self, index: int) -> None:
        if index in self._links:
            self._interfaces[index] = self._build(index)
        else:
            self._interfaces.pop(index, None)

    def _learn(self, message: Message) -> int | None:
        """Take a message in; return the index of the interface that it is about, if it is about one."""
        match message:
            case NewLink():
                self._links[message.index] = message
                self._addresses.setdefault(message.index, {})
            case RemovedLink():
                self._links.pop(message.index, None)
                self._addresses.pop(message.index, None)
            case NewAddress():
                self._learn_address(message)
            case RemovedAddress():
                self._addresses.get(message.index, {}).pop((message.address, message.peer), None)
            case NewGroup() | RemovedGroup() | NewSettings():
                return None
            case Route() | Done() | Failure() | Interrupted() | Overrun():
                return None
            case _:
                assert_never(message)
        return message.index

    def _learn_address(self, message: NewAddress) -> None:
        known = self._addresses.get(message.index)
        if known is None:
            return
        key = (message.address, message.peer)
        if key in known and known[key].is_secondary and not message.is_secondary:
            del known[key]  # It was promoted: the kernel moves it behind the primary ones.
        known[key] = message

    def _build(self, index: int) -> Interface:
        link = self._links[index]
        ranked = sorted(self._addresses[index].values(), key=_rank)
        addresses = dict.fromkeys(each.address for each in ranked)  # Once each, whatever the number of peers.
        return Interface(
            index,
            link.name,
            link.mtu,
            link.flags,
            addresses,
            kind=link.kind,
            master=link.master,
            master_kind=link.master_kind,
            alternative_names=link.alternative_names,
            hardware_address=link.hardware_address,
        )


def difference(
    old: Mapping[int, Interface], new: Mapping[int, Interface], recreated: Container[int] = ()
) -> list[InterfaceChange]:
    """Return the changes from one snapshot to a later one, as after an overflow: removals first.

    By themselves, snapshots can't tell an interface that was deleted and made anew with the same index from one that
    changed, or did not. `recreated` has the indexes of those.
    """
    kept = {index: interface for index, interface in old.items() if index in new and index not in recreated}
    removed = [_change(interface, None) for index, interface in old.items() if index not in kept]
    others = [_change(kept.get(index), interface) for index, interface in new.items()]
    return [change for change in removed + others if change is not None]


def _change(old: Interface | None, new: Interface | None) -> InterfaceChange | None:
    if new is None:
        return None if old is None else InterfaceChange(InterfaceChangeKind.REMOVED, old)
    if old is None:
        return InterfaceChange(InterfaceChangeKind.ADDED, new)
    return None if old == new else InterfaceChange(InterfaceChangeKind.CHANGED, new)


def _rank(address: NewAddress) -> tuple[bool, int]:
    """Order addresses as the kernel does: primary before secondary, those by falling scope, then as they came.

    linux net/ipv4/devinet.c, `__inet_insert_ifa`: a primary address goes behind the last primary one whose scope is not
    lower, a secondary one to the end of the list.
    """
    return address.is_secondary, 0 if address.is_secondary else -address.scope
