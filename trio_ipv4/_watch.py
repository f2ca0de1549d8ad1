"""watch_interfaces: links and IPv4 addresses, first as they are, then as they change (rtnetlink(7)).

One netlink socket is subscribed to changes, another one asks for everything. Subscribing comes first, so no change is
missed. A change that lands between subscribing and the dump is reported twice, which is harmless: messages carry whole
states.

Nothing runs in the background: unread messages wait in the kernel's socket buffer. When the buffer overflows, the
kernel throws messages away and says so (ENOBUFS). Then everything is read again, as at the start.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._codec.interface_table import InterfaceTable, difference
from trio_ipv4._codec.rtnetlink import Overrun
from trio_ipv4._conn.turns import OwnedSocket, require_trio, to_trio
from trio_ipv4._kernel import netlink, options
from trio_ipv4._kernel.native import current_system

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.interface import InterfaceChange

_BUFFER: Final = 1 << 20


def watch_interfaces() -> InterfaceWatch:
    """Return a context manager for `async with`, whose target iterates over the changes of interfaces.

        async with watch_interfaces() as changes:
            async for change in changes:
                print(change.kind, change.interface)

    First comes an ADDED for each interface that exists, then each change of an `Interface` once, in order, as the
    kernel tells of it (rtnetlink(7)). A slow reader loses intermediate states, but never the last one: it then gets
    the difference to the state that it knows. An interface that was deleted and re-created with the same index in the
    meantime may look unchanged.

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
        self._feed = Feed()
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
        while not (taken := await self._feed.receive(1)):
            pass
        return taken[0]


@final
class Feed:
    """The changes in batches, for those who must know when messages were lost. Made in the namespace that it is about.

    `resyncs` counts how often everything was read: once when it begins, then after each overflow. An interface that was
    made anew with the same index in between can't be told from one that changed, or did not.
    """

    def __init__(self) -> None:
        self.resyncs = 0
        self.system: Final = current_system()
        self._netlink: Final = netlink.open_netlink(self.system, netlink.RTMGRP_LINK | netlink.RTMGRP_IPV4_IFADDR)
        try:
            # Linux gives at most twice net.core.rmem_max, and unasked about half of that: 50 to 100 links.
            options.set_integer(self._netlink, "SO_RCVBUF", _BUFFER)
            self._asking: Final = netlink.open_netlink(self.system, 0)
        except BaseException:
            self._netlink.close()
            raise
        self._owned: Final = OwnedSocket(self._netlink, to_trio(self._netlink), has_error_queue=False)
        self._table = InterfaceTable()
        self._in_step = False
        self._pending: Final[collections.deque[InterfaceChange]] = collections.deque()

    @property
    def socket(self) -> Socket:
        """The socket that is subscribed: it knows the network namespace that all this is about."""
        return self._netlink

    async def begin(self) -> None:
        """Read everything, once. A checkpoint."""
        while not self.resyncs:
            await self.receive(0)

    async def receive(self, limit: int = 2**31) -> list[InterfaceChange]:
        """Return up to `limit` new changes; none if the messages made no difference.

        A checkpoint; cancelled, it has taken nothing.
        """
        return await self._owned.receive(self._take, limit, 0)

    def close(self) -> None:
        """Close the sockets, and wake everybody who waits."""
        self._owned.close()
        self._asking.close()

    def _take(self, _descriptor: int, limit: int, _max_bytes: int) -> list[InterfaceChange] | None:
        if not self._pending:
            if self._in_step:
                messages = self._read()
                if messages is None:
                    return None
                changes = (self._table.apply(message) for message in messages)
                self._pending.extend(change for change in changes if change is not None)
            else:
                self._catch_up()
        return [self._pending.popleft() for _ in range(min(limit, len(self._pending)))]

    def _read(self) -> tuple[Message, ...] | None:
        self._in_step = False  # A message that can't be read is as good as lost.
        messages = netlink.receive_messages(self._netlink)
        self._in_step = messages is None or not any(isinstance(message, Overrun) for message in messages)
        return messages

    def _catch_up(self) -> None:
        """Read everything, if nothing changes meanwhile: then the next call may have more luck, after others' turns."""
        if not netlink.drain(self._netlink):
            return
        table = netlink.try_dump(self._asking)
        if table is not None:
            self._pending.extend(difference(self._table.interfaces, table.interfaces))
            self._table = table
            self._in_step = True
            self.resyncs += 1
