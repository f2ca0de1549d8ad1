"""follow_group and serve_group: stay joined, and run a handler, on every interface that matches, as they come and go.

Both are tasks that the caller starts. The changes of interfaces, and a predicate, become steps: an interface matches no
longer, another one does. Messages are lost when the kernel's buffer overflows, and an interface that was deleted and
made anew meanwhile may look the same as before; so after that, each membership is looked at, and one that the kernel no
longer has is a step too.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeAlias, final

import trio

from trio_ipv4._abi.structs import SOCK_DGRAM
from trio_ipv4._conn import open as _open
from trio_ipv4._conn.memberships import Memberships
from trio_ipv4._conn.packet import PacketConn
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel import groups, namespaces, sockets
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.control import DEFAULT_FLAGS, ControlFlags
from trio_ipv4._values.fields import UNSPECIFIED, to_group, to_integer
from trio_ipv4._values.interface import IPV4_MIN_MTU, InterfaceChangeKind
from trio_ipv4._values.source_filter import SourceFilter, to_sources
from trio_ipv4._watch import Feed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._conn.membership import Membership
    from trio_ipv4._conn.raw import RawConn
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface, InterfaceChange

InterfacePredicate: TypeAlias = "Callable[[Interface], bool]"
InterfaceHandler: TypeAlias = "Callable[[PacketConn, Interface], Awaitable[object]]"

_ANY: Final = SourceFilter.any()


def is_up_and_multicast(interface: Interface) -> bool:
    """Tell whether an interface is set up and supports multicast: what the helpers look for by default."""
    return interface.is_up and interface.is_multicast


@trio.lowlevel.enable_ki_protection
async def follow_group(
    conn: PacketConn | RawConn,
    group: AddressLike,
    *,
    sources: SourceFilter = _ANY,
    where: InterfacePredicate = is_up_and_multicast,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Keep a connection joined to a group on every interface that matches, as they come and go.

        await nursery.start(follow_group, conn, "239.1.2.3")

    `start` returns once the group is joined on every interface that matches now. It runs until it is cancelled, and
    then leaves what it joined; what others hold on the same connection, by `joined` or otherwise, stays as it is. It
    needs no privilege.

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
    _require_predicate(where)
    following = _Following(conn, to_group(group, "group"), to_sources(sources))
    with contextlib.closing(Feed()) as feed:
        conn._require_open()
        if not namespaces.are_same(conn._socket, feed.socket):
            raise ValueError("conn belongs to another network namespace than the one that is current")
        await feed.begin()
        matching = _Matching(feed, where, following.is_deaf)
        try:
            await following.take(await matching.receive())
            task_status.started()
            while True:
                await following.take(await matching.receive())
        except BaseException as error:
            await following.leave_all(error)
            raise


@trio.lowlevel.enable_ki_protection
async def serve_group(
    handler: InterfaceHandler,
    group: AddressLike,
    port: int,
    *,
    sources: SourceFilter = _ANY,
    where: InterfacePredicate = is_up_and_multicast,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[tuple[Interface, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run `await handler(conn, interface)` in a task of its own for every interface that matches, as they come and go.

        interfaces = await nursery.start(serve_group, handler, "239.1.2.3", 5000)

    Each `conn` is a `PacketConn` on the port, bound to the interface's device (SO_BINDTOIFINDEX), so that it hears only
    what arrives there, unicast included; it is joined there already, and what it sends to the group leaves there,
    unless a control message names another interface. It is closed when the handler ends. The port is shared: several
    programs may serve it. No privilege is needed; before Linux 5.7, CAP_NET_RAW is.

    A handler is cancelled when its interface goes, or matches no longer. One that returns is done until its interface
    goes and comes back; the next one begins only after the last has ended. A send may fail because the interface is
    just about to go (ENETUNREACH, ENODEV, ENXIO): that is an exception of the handler's as any other.

    `start` returns once every interface that matches now is joined, with their tuple, which may be empty. It runs until
    it is cancelled.

    Args:
        handler: An asynchronous function of a `PacketConn` and an `Interface`.
        group: A multicast address.
        port: A UDP port, 1 to 65535.
        sources: As for `follow_group`.
        where: As for `follow_group`.
        control_flags: As for `open_udp`.
        handler_nursery: The nursery in which to run the handlers, as for `trio.serve_tcp`: when `serve_group` alone is
            cancelled they go on, and their interfaces are watched no longer. By default one that ends with it.
        task_status: For `nursery.start`.

    Raises:
        OSError: The kernel refused to open or join on an interface that matches at the start, such as EADDRINUSE.
        BaseExceptionGroup: What handlers raised, and what the kernel refused later, unless there is a
            `handler_nursery`, which gets these.
        UnsupportedError: This is not Linux.
        ValueError: The port is 0, or `group` is not a multicast address.
    """
    require_trio()
    current_system().check_home()
    number = to_integer(port, "port", 1, 0xFFFF)
    _require_predicate(where)
    _require_handler(handler)
    with contextlib.closing(Feed()) as feed:
        fanout = _Fanout(feed, handler, to_group(group, "group"), number, to_sources(sources), control_flags)
        await feed.begin()
        matching = _Matching(feed, where, fanout.is_deaf)
        first = await matching.receive()
        with contextlib.ExitStack() as opened:
            services = [fanout.open_now(step.came, opened) for step in first if step.came is not None]
            async with trio.open_nursery() as own:
                fanout.start(services, handler_nursery or own)
                opened.pop_all()  # From here on each handler's task closes its connection.
                task_status.started(tuple(service.interface for service in services if service.conn is not None))
                try:
                    while True:
                        fanout.take(await matching.receive(), handler_nursery or own)
                finally:
                    fanout.cancel_waiting()
    raise AssertionError("serving ends by an exception")


class _Step(NamedTuple):
    """An interface matches no longer, or another one does; both for one that was made anew."""

    went: int | None
    came: Interface | None


@final
class _Matching:
    """Which interfaces match, as steps."""

    def __init__(
        self,
        feed: Feed,
        where: InterfacePredicate,
        is_deaf: Callable[[int, groups.InterfaceGroups | None], bool],
    ) -> None:
        self._feed: Final = feed
        self._where: Final = where
        self._is_deaf: Final = is_deaf
        self._matching: Final[dict[int, Interface]] = {}
        self._resyncs = feed.resyncs

    async def receive(self) -> list[_Step]:
        """Wait for changes, and return what follows from them; the first time, a step for each that matches now."""
        changes = await self._feed.receive()
        steps = [step for change in changes if (step := self._step(change)) is not None]
        if self._resyncs != self._feed.resyncs:
            self._resyncs = self._feed.resyncs
            new = {step.came.index for step in steps if step.came is not None}
            unchanged = [each for index, each in self._matching.items() if index not in new]
            table = groups.read_table(self._feed.socket)
            steps += [_Step(each.index, each) for each in unchanged if self._is_deaf(each.index, table)]
        return steps

    def _step(self, change: InterfaceChange) -> _Step | None:
        interface = change.interface
        matched = self._matching.pop(interface.index, None) is not None
        exists = change.kind is not InterfaceChangeKind.REMOVED
        matches = exists and interface.mtu >= IPV4_MIN_MTU and _ask(self._where, interface)
        if matches:
            self._matching[interface.index] = interface
        if matches == matched:
            return None
        return _Step(None, interface) if matches else _Step(interface.index, None)


@final
class _Following:
    """The scopes of one connection, by interface index."""

    def __init__(self, conn: Memberships, group: IPv4Address, sources: SourceFilter) -> None:
        self._conn: Final = conn
        self._group: Final = group
        self._sources: Final = sources
        self._scopes: Final[dict[int, Membership]] = {}

    async def take(self, steps: Iterable[_Step]) -> None:
        for step in steps:
            if step.went in self._scopes:
                # Also if the interface is gone: a dead membership counts towards igmp_max_memberships.
                await self._scopes.pop(step.went).__aexit__(None, None, None)
            if step.came is not None:
                await self._join(step.came)

    async def leave_all(self, error: BaseException) -> None:
        """Leave what was joined, at the end. Not a checkpoint; what is refused becomes a note of `error`."""
        for scope in self._scopes.values():
            await scope.__aexit__(type(error), error, error.__traceback__)

    def is_deaf(self, index: int, table: groups.InterfaceGroups | None) -> bool:
        if index not in self._scopes:
            return True  # It had vanished when it was to be joined.
        return _is_dead(self._conn, index, self._group, table)

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


@final
class _Service:
    """One handler: its connection, if it has one, and the service that has to end before it begins."""

    def __init__(self, interface: Interface, predecessor: _Service | None = None) -> None:
        self.interface: Final = interface
        self.predecessor = predecessor
        self.conn: PacketConn | None = None
        self.scope: Final = trio.CancelScope()
        self.ended: Final = trio.Event()


@final
class _Fanout:
    """The handlers by interface index: those that run or wait, and those that ended while their interface stayed."""

    def __init__(
        self,
        feed: Feed,
        handler: InterfaceHandler,
        group: IPv4Address,
        port: int,
        sources: SourceFilter,
        control_flags: ControlFlags,
    ) -> None:
        self._feed: Final = feed
        self._handler: Final = handler
        self._group: Final = group
        self._port: Final = port
        self._sources: Final = sources
        self._control_flags: Final = control_flags
        self._settings: Final = [
            ("SO_BROADCAST", 1),
            *_open.settings_for(feed.system.platform, multicast_all=False, control_flags=control_flags),
        ]
        self._services: Final[dict[int, _Service]] = {}

    def open_now(self, interface: Interface, opened: contextlib.ExitStack) -> _Service:
        """Prepare a service whose connection is open, unless the interface has vanished."""
        self._services[interface.index] = service = _Service(interface)
        service.conn = self._open(interface)
        if service.conn is None:
            service.ended.set()
        else:
            opened.callback(service.conn.close)
        return service

    def start(self, services: Iterable[_Service], nursery: trio.Nursery) -> None:
        for service in services:
            if not service.ended.is_set():
                nursery.start_soon(self._run, service, name=self._handler)

    def take(self, steps: Iterable[_Step], nursery: trio.Nursery) -> None:
        for step in steps:
            if step.went is not None:
                self._cancel(step.went)
            if step.came is not None:
                # The last one may be waiting, too: then for the same one.
                last = self._services.get(step.came.index)
                service = _Service(step.came, last and (last.predecessor or last))
                self._services[step.came.index] = service
                self.start([service], nursery)

    def cancel_waiting(self) -> None:
        """Let nobody begin who waits for a predecessor: nobody will watch the interface."""
        for service in self._services.values():
            if service.predecessor is not None:
                service.scope.cancel()

    def is_deaf(self, index: int, table: groups.InterfaceGroups | None) -> bool:
        service = self._services[index]
        if service.conn is None:
            return service.ended.is_set()  # It had vanished when it was to be joined.
        return _is_dead(service.conn, index, self._group, table)

    def _cancel(self, index: int) -> None:
        service = self._services[index]
        service.scope.cancel()
        if service.ended.is_set():
            self._forget(service)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, service: _Service) -> None:
        try:
            with service.scope:
                await self._begin(service)
                if service.conn is not None:
                    await _run_unprotected(self._handler, service.conn, service.interface)
        finally:
            # Not `async with`: a checkpoint here would put Cancelled in the place of a handler's exception.
            if service.conn is not None:
                service.conn.close()
            service.ended.set()
            self._forget(service)

    async def _begin(self, service: _Service) -> None:
        if service.predecessor is not None:
            await service.predecessor.ended.wait()
            service.predecessor = None
        await trio.lowlevel.checkpoint_if_cancelled()
        if service.conn is None:
            service.conn = self._open(service.interface)

    def _forget(self, service: _Service) -> None:
        """Let go of a service that has ended and whose interface is gone."""
        index = service.interface.index
        if service.scope.cancel_called and self._services.get(index) is service:
            if service.predecessor is None or service.predecessor.ended.is_set():
                del self._services[index]
            else:
                self._services[index] = service.predecessor  # It never began; the next one waits for the same.

    @trio.lowlevel.enable_ki_protection
    def _open(self, interface: Interface) -> PacketConn | None:
        """Open a connection that is bound to the device and joined; `None` if the interface has vanished."""
        # By index: its name may be another's by now. Before binding, so that nothing from elsewhere is queued.
        settings = [("SO_BINDTOIFINDEX", interface.index), *self._settings]
        system = self._feed.system
        socket = sockets.open_socket(system, SOCK_DGRAM, 0, UNSPECIFIED, self._port, settings, share_port=True)
        conn = _open.own(PacketConn, socket, self._control_flags)
        try:
            self._require_home(conn)
            conn._ledger.enter(self, interface.index, self._group, self._sources)
            conn.multicast_interface = interface.index
        except BaseException as error:
            conn.close()
            if isinstance(error, OSError) and error.errno in _VANISHED:
                return None  # The next message says so.
            raise
        return conn

    def _require_home(self, conn: PacketConn) -> None:
        if not namespaces.are_same(conn._socket, self._feed.socket):
            raise RuntimeError("this thread has moved to another network namespace since serve_group started")


_VANISHED: Final = (errno.ENODEV, errno.EADDRNOTAVAIL)
"""What a join, and IP_MULTICAST_IF, say of an index that is no interface's."""


def _is_dead(conn: Memberships, index: int, group: IPv4Address, table: groups.InterfaceGroups | None) -> bool:
    """Tell whether a membership that the connection has hears nothing, since its interface was made anew."""
    if conn.socket.fileno() < 0:
        return False
    held = conn.memberships.get((index, group))
    return held is not None and groups.is_dead(conn._socket, index, group, held, table)


# The caller's code may be interrupted, as everywhere.


@trio.lowlevel.disable_ki_protection
def _ask(where: InterfacePredicate, interface: Interface) -> bool:
    answer: object = where(interface)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(f"where must be a synchronous function of an Interface, got the asynchronous {where!r}")
    return bool(answer)


@trio.lowlevel.disable_ki_protection
async def _run_unprotected(handler: InterfaceHandler, conn: PacketConn, interface: Interface) -> None:
    awaitable = handler(conn, interface)
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"handler must be an asynchronous function of a PacketConn and an Interface, got {handler!r}, which "
            f"returned {awaitable!r}"
        )
    await awaitable


def _require_predicate(where: object) -> None:
    """Check what the caller wants to be asked, before anything is opened."""
    if not callable(where):
        raise TypeError(f"where must be a function of an Interface, got {where!r}")


def _require_handler(handler: object) -> None:
    """Check what the caller wants to be run, before anything is opened."""
    if inspect.iscoroutine(handler):
        handler.close()
        raise TypeError("handler must be an asynchronous function, not what calling it returned: pass it without ()")
    if not callable(handler):
        raise TypeError(f"handler must be an asynchronous function of a PacketConn and an Interface, got {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"handler must be an asynchronous function without yield, got {handler!r}")
