"""watch_interfaces and watch_memberships: what there is, then each change, as the kernel tells of it (rtnetlink(7)).

All watches of one kind in a run share one subscription: see `_conn/feeds.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, final

import trio

from trio_ipv4._conn.interface_feed import InterfaceFeed, open_interface_feed
from trio_ipv4._conn.membership_feed import MembershipFeed, open_membership_feed
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel.memberships import age
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.host_membership import HostMembership, MembershipChange

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trio_ipv4._conn.feeds import Feed
    from trio_ipv4._kernel.system import System
    from trio_ipv4._values.interface import InterfaceChange

FeedT = TypeVar("FeedT", bound="Feed[Any, Any, Any, Any]")


def watch_interfaces() -> InterfaceWatch:
    """Return a context manager for `async with`, whose target iterates over the changes of interfaces.

        async with watch_interfaces() as changes:
            async for change in changes:
                print(change.kind, change.interface)

    First comes an ADDED for each interface that exists, then each change of an `Interface` once, in order, as the
    kernel tells of it (rtnetlink(7)). Where changes come faster than they are read, intermediate states get lost, but
    never the last one: then the difference to the state that is known comes. An interface that was deleted and
    re-created with the same index is a REMOVED and an ADDED then, too; only for a reader who is 5,000 changes behind it
    may be a CHANGED, or nothing.

    With 1,000 interfaces and 500 changes a second, entering takes less than a second, and other tasks run meanwhile.
    Any number of watches costs one subscription, and one reading of each change.

    It speaks of the network namespace in which it is entered. It can be entered once. Entering is a checkpoint, leaving
    is not. Each step of the iteration is one; cancelled, it has taken nothing. Several tasks may iterate, and each
    change goes to one of them. After the block they get `trio.ClosedResourceError`. It needs no privilege.

    Raises:
        OSError: On entering, or iterating: the kernel refused, such as EMFILE.
        UnsupportedError: On entering: not on Linux.
    """
    return InterfaceWatch()


def watch_memberships() -> MembershipWatch:
    """Return a context manager for `async with`, whose target iterates over the joins and leaves of interfaces.

        async with watch_memberships() as changes:
            async for change in changes:
                print(change.kind, change.membership)

    First comes a JOINED for each group that an interface is in (`host_memberships`), by interface and group. Then comes
    a JOINED when an interface joins a group for its first member, whatever the program, and a LEFT after its last one,
    in order, as the kernel tells of it (rtnetlink(7): RTNLGRP_IPV4_MCADDR). Further members of a group, and other
    sources for it, change nothing here. An interface that goes up or down joins or leaves 224.0.0.1; one that is
    deleted, or gets an MTU below 68 octets, has left all.

    Where changes come faster than they are read, intermediate states get lost, but never the last one: then the
    difference to the state that is known comes. A group that was left, and joined again, is a LEFT and a JOINED then,
    too, unless both happened within 0.01 seconds.

    It speaks of the network namespace in which it is entered. It can be entered once. Entering is a checkpoint, leaving
    is not. Each step of the iteration is one; cancelled, it has taken nothing. Several tasks may iterate, and each
    change goes to one of them. After the block they get `trio.ClosedResourceError`. Any number of watches costs one
    subscription. It needs Linux 6.15 or later, and no privilege.

    Raises:
        OSError: On entering, or iterating: the kernel refused, such as EMFILE.
        UnsupportedError: On entering: not on Linux, or the kernel is too old.
    """
    return MembershipWatch()


class _Watch(Generic[FeedT]):
    """A watch: a context manager, and in its block an iterator. It can be entered once."""

    __slots__ = ("__weakref__", "_feed", "_of", "_open")

    def __init__(self, open_feed: Callable[[System], FeedT], of: str) -> None:
        self._open: Final = open_feed
        self._of: Final = of
        self._feed: FeedT | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._feed is not None:
            raise RuntimeError(f"a watch can be entered only once: call watch_{self._of}() again")
        require_trio()
        self._feed = self._open(current_system())
        try:
            await self._feed.begin()
        except BaseException:
            self._feed.close()
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not a checkpoint: closing can't block.
        self._entered().close()

    def __aiter__(self) -> Self:
        return self

    def _entered(self) -> FeedT:
        if self._feed is None:
            raise RuntimeError(f"{self._of} are watched only inside 'async with'")
        return self._feed


@final
class InterfaceWatch(_Watch[InterfaceFeed]):
    """The changes of interfaces: a context manager, and in its block an iterator. It can be entered once."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(open_interface_feed, "interfaces")

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> InterfaceChange:
        """Wait for the next change. A checkpoint; cancelled, it has taken nothing.

        Several tasks may wait; they take turns, and each change goes to one of them.

        Raises:
            OSError: The kernel refused.
            trio.ClosedResourceError: After the block.
        """
        (change,) = await self._entered().receive(1)
        return change


@final
class MembershipWatch(_Watch[MembershipFeed]):
    """The joins and leaves of interfaces: a context manager, and in its block an iterator. It can be entered once."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(open_membership_feed, "memberships")

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> MembershipChange:
        """Wait for the next change. A checkpoint; cancelled, it has taken nothing.

        Several tasks may wait; they take turns, and each change goes to one of them.

        Raises:
            OSError: The kernel refused.
            trio.ClosedResourceError: After the block.
        """
        feed = self._entered()
        (change,) = await feed.receive(1)
        joined_for = age(feed.socket.system, change.stamp)
        return MembershipChange(change.kind, HostMembership(change.index, change.group, age=joined_for))
