"""watch_interfaces: links and IPv4 addresses, first as they are, then as they change (rtnetlink(7)).

All watches of a run share one subscription: see `_conn/monitor.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trio_ipv4._conn.monitor import Feed
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel.native import current_system

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ipv4._values.interface import InterfaceChange


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


@final
class InterfaceWatch:
    """The changes of interfaces: a context manager, and in its block an iterator. It can be entered once."""

    __slots__ = ("__weakref__", "_feed")

    def __init__(self) -> None:
        self._feed: Feed | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> InterfaceWatch:
        if self._feed is not None:
            raise RuntimeError("a watch can be entered only once: call watch_interfaces() again")
        require_trio()
        self._feed = Feed(current_system())
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
        assert self._feed is not None
        self._feed.close()

    def __aiter__(self) -> InterfaceWatch:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> InterfaceChange:
        """Wait for the next change. A checkpoint; cancelled, it has taken nothing.

        Several tasks may wait; they take turns, and each change goes to one of them.

        Raises:
            OSError: The kernel refused.
            trio.ClosedResourceError: After the block.
        """
        if self._feed is None:
            raise RuntimeError("interfaces are watched only inside 'async with'")
        (change,) = await self._feed.receive(1)
        return change
