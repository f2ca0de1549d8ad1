"""follow_group: stay joined to a group on every interface that matches, as they come and go."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from trio_ipv4._conn.memberships import Memberships
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel import namespaces
from trio_ipv4._matching import InterfacePredicate, Matching, is_dead, is_up_and_multicast, require_predicate
from trio_ipv4._values.fields import to_group
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources
from trio_ipv4._watch import Feed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._conn.membership import Membership
    from trio_ipv4._conn.packet import PacketConn
    from trio_ipv4._conn.raw import RawConn
    from trio_ipv4._kernel import groups
    from trio_ipv4._matching import Step
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


@trio.lowlevel.enable_ki_protection
async def follow_group(
    conn: PacketConn | RawConn,
    group: AddressLike,
    *,
    sources: SourceFilter = ANY,
    where: InterfacePredicate = is_up_and_multicast,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Keep a connection joined to a group on every interface that matches, as they come and go.

        await nursery.start(follow_group, conn, "239.1.2.3")

    `start` returns once the group is joined on every interface that matches now. It runs until it is cancelled, and
    then leaves its memberships. Other memberships of the connection stay as they are. It needs no privilege.

    Args:
        conn: A `PacketConn` or `RawConn` of the present network namespace.
        group: A multicast address.
        sources: The sources to hear; every one by default.
        where: Which interfaces match. It is asked about each new state of each interface: flags, name, MTU, addresses.
            Default: those that are set up and support multicast, so not Linux's loopback. One that can't carry IPv4,
            its MTU being below 68 octets (RFC 791), never matches.
        task_status: For `nursery.start`.

    Raises:
        OSError: The kernel refused a join, such as ENOBUFS for one too many. That an interface has just vanished is no
            error.
        TypeError: `conn` is no such connection.
        UnsupportedError: This is not Linux.
        trio.ClosedResourceError: The connection is closed; noticed at the next join.
        ValueError: `conn` belongs to another network namespace, so that indexes mean other interfaces there; before
            Linux 5.14 nobody can tell (SO_NETNS_COOKIE). Or `group` is not a multicast address.
    """
    if not isinstance(conn, Memberships):
        raise TypeError(f"conn must be a PacketConn or a RawConn, got {conn!r}")
    require_trio()
    require_predicate(where)
    following = _Following(conn, to_group(group, "group"), to_sources(sources))
    with contextlib.closing(Feed()) as feed:
        conn._require_open()
        if not namespaces.are_same(conn._socket, feed.socket):
            raise ValueError("conn belongs to another network namespace than the one that is current")
        await feed.begin()
        matching = Matching(feed, where, following.is_deaf)
        try:
            await following.take(await matching.receive())
            task_status.started()
            while True:
                await following.take(await matching.receive())
        except BaseException as error:
            await following.leave_all(error)
            raise


@final
class _Following:
    """The scopes of one connection, by interface index."""

    def __init__(self, conn: Memberships, group: IPv4Address, sources: SourceFilter) -> None:
        self._conn: Final = conn
        self._group: Final = group
        self._sources: Final = sources
        self._scopes: Final[dict[int, Membership]] = {}

    async def take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.went in self._scopes:
                # Also if the interface is gone: a dead membership counts towards igmp_max_memberships.
                await self._scopes.pop(step.went).__aexit__(None, None, None)
            if step.came is not None:
                await self._join(step.came)

    async def leave_all(self, error: BaseException) -> None:
        """Leave all memberships, at the end. Not a checkpoint. A refusal becomes a note of `error`."""
        for scope in self._scopes.values():
            await scope.__aexit__(type(error), error, error.__traceback__)

    def is_deaf(self, index: int, table: groups.InterfaceGroups | None) -> bool:
        if index not in self._scopes:
            return True  # It had vanished when it was to be joined.
        return is_dead(self._conn, index, self._group, table)

    async def _join(self, interface: Interface) -> None:
        scope = self._conn.joined(interface.index, self._group, sources=self._sources)
        try:
            await scope.__aenter__()
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            # It is gone again; the next message says so.
        else:
            self._scopes[interface.index] = scope
