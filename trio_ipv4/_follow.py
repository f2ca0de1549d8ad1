"""follow_group: stay joined to a group on every interface that matches, as they come and go."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from trio_ipv4._conn.interface_feed import open_interface_feed
from trio_ipv4._conn.memberships import Memberships
from trio_ipv4._conn.turns import require_trio, soon
from trio_ipv4._conn.where import InterfacePredicate, can_hear_multicast, require_predicate
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.native import current_system
from trio_ipv4._matching import Matching, RefusalHandler, Refusals, require_refusal_handler, warn_of_refusal
from trio_ipv4._values.fields import to_group
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._conn.membership import Membership
    from trio_ipv4._conn.packet import PacketConn
    from trio_ipv4._conn.raw import RawConn
    from trio_ipv4._matching import Step
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


@trio.lowlevel.enable_ki_protection
async def follow_group(
    conn: PacketConn | RawConn,
    group: AddressLike,
    *,
    sources: SourceFilter = ANY,
    where: InterfacePredicate = can_hear_multicast,
    on_refusal: RefusalHandler = warn_of_refusal,
    task_status: trio.TaskStatus[tuple[Interface, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Keep a connection joined to a group on every interface that matches, as they come and go.

        interfaces = await nursery.start(follow_group, conn, "239.1.2.3")

    `start` returns once the group is joined on every interface that matches now, with their tuple. If none matches,
    that warns (`NoInterfaceWarning`). It runs until it is cancelled or the connection is closed, and leaves its
    memberships then: it waits, and so it is a checkpoint. Other memberships of the connection stay as they are. It
    needs no privilege.

    An interface on which the kernel refuses the join is left out and told of, and tried again whenever an interface
    changes. The others are not concerned.

    Args:
        conn: A `PacketConn` or `RawConn` of the present network namespace.
        group: A multicast address.
        sources: The sources to hear; every one by default.
        where: Which interfaces match. It is asked about each new state of each interface. Default: those that are set
            up and support multicast, so not Linux's loopback, and that are no port of a bridge, bond or team
            (`Interface.is_port`). One that can't carry IPv4, its MTU being below 68 octets (RFC 791), never matches.
        on_refusal: A synchronous function of an `Interface` and the `OSError`, called once for each reason in a row,
            such as ENOBUFS for one membership too many. Default: it warns (`RefusedInterfaceWarning`).
        task_status: For `nursery.start`.

    Raises:
        BaseException: What `where` or `on_refusal` raises.
        OSError: rtnetlink is refused here, as in some sandboxes.
        TypeError: `conn` is no such connection.
        UnsupportedError: This is neither Linux nor a simulated network.
        trio.ClosedResourceError: The connection is closed.
        ValueError: `conn` belongs to another network namespace, so that indexes mean other interfaces there; before
            Linux 5.14 nobody can tell (SO_NETNS_COOKIE). Or `group` is not a multicast address.
    """
    if not isinstance(conn, Memberships):
        raise TypeError(f"conn must be a PacketConn or a RawConn, got {conn!r}")
    require_trio()
    require_predicate(where)
    require_refusal_handler(on_refusal)
    address, wanted = to_group(group, "group"), to_sources(sources)
    with contextlib.closing(open_interface_feed(current_system())) as feed:
        conn._require_open()
        if not namespaces.are_same(conn._socket, feed.socket):
            raise ValueError("conn belongs to another network namespace than the one that is current")
        following = _Following(conn, address, wanted, Refusals(feed, on_refusal))
        matching = Matching(feed, where)
        close = soon(functools.partial(feed.close, "this connection was closed"))
        conn._ledger.at_close.add(close)
        try:
            await following.take(await matching.begin())
            task_status.started(following.joined)
            while True:
                await following.take(await matching.receive())
        except BaseException as error:
            await following.leave_all(error)
            raise
        finally:
            conn._ledger.at_close.discard(close)


@final
class _Following:
    """The interfaces that match, and the scopes of one connection on them, by interface index."""

    def __init__(self, conn: Memberships, group: IPv4Address, sources: SourceFilter, refusals: Refusals) -> None:
        self._conn: Final = conn
        self._group: Final = group
        self._sources: Final = sources
        self._refusals: Final = refusals
        self._matching: Final[dict[int, Interface]] = {}
        self._scopes: Final[dict[int, Membership]] = {}

    @property
    def joined(self) -> tuple[Interface, ...]:
        """The interfaces on which the group is joined."""
        return tuple(each for index, each in self._matching.items() if index in self._scopes)

    async def take(self, steps: Iterable[Step]) -> None:
        """Leave where an interface went, and join where one came, or refused before."""
        for step in steps:
            if step.went is not None:
                self._refusals.forget(step.went)
                del self._matching[step.went]
                await self._leave(step.went)
            if step.came is not None:
                self._matching[step.came.index] = step.came
        for index in [index for index, scope in self._scopes.items() if scope._is_lost]:
            await self._leave(index)
        for interface in [each for index, each in self._matching.items() if index not in self._scopes]:
            await self._join(interface)

    async def leave_all(self, error: BaseException) -> None:
        """Leave all memberships, at the end. Not a checkpoint. A refusal becomes a note of `error`."""
        for scope in self._scopes.values():
            await scope.__aexit__(type(error), error, error.__traceback__)

    async def _leave(self, index: int) -> None:
        if index in self._scopes:
            await self._scopes.pop(index).__aexit__(None, None, None)
            await trio.lowlevel.checkpoint()  # Many may go at once.

    async def _join(self, interface: Interface) -> None:
        scope = self._conn.joined(interface.index, self._group, sources=self._sources)
        try:
            await scope.__aenter__()
        except OSError as error:
            self._refusals.note(interface, error)
        else:
            self._scopes[interface.index] = scope
            self._refusals.forget(interface.index)
