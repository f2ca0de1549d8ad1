"""serve_group: run a handler on every interface that matches, as they come and go, each with its own connection."""

from __future__ import annotations

import contextlib
import errno
import inspect
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, final

import trio

from trio_ipv4._abi.structs import SOCK_DGRAM
from trio_ipv4._conn import open as _open
from trio_ipv4._conn.packet import PacketConn
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._kernel import groups, namespaces, sockets
from trio_ipv4._kernel.native import current_system
from trio_ipv4._matching import InterfacePredicate, Matching, is_dead, is_up_and_multicast, require_predicate
from trio_ipv4._values.control import DEFAULT_FLAGS, ControlFlags
from trio_ipv4._values.fields import UNSPECIFIED, to_group, to_integer
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources
from trio_ipv4._watch import Feed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._matching import Step
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface

InterfaceHandler: TypeAlias = "Callable[[PacketConn, Interface], Awaitable[object]]"

_VANISHED: Final = (errno.ENODEV, errno.EADDRNOTAVAIL)
"""Errnos of a join, and of IP_MULTICAST_IF, for an index without an interface."""


@trio.lowlevel.enable_ki_protection
async def serve_group(
    handler: InterfaceHandler,
    group: AddressLike,
    port: int,
    *,
    sources: SourceFilter = ANY,
    where: InterfacePredicate = is_up_and_multicast,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[tuple[Interface, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run `await handler(conn, interface)` in a task of its own for every interface that matches, as they come and go.

        interfaces = await nursery.start(serve_group, handler, "239.1.2.3", 5000)

    Each `conn` is a `PacketConn` on the port, bound to the interface's device (SO_BINDTOIFINDEX). It hears only
    datagrams that arrive there, unicast included. It has joined there already. Datagrams to the group leave there,
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
        BaseExceptionGroup: Exceptions of handlers, and later refusals of the kernel. A `handler_nursery`, if there is
            one, gets them instead.
        UnsupportedError: This is not Linux.
        ValueError: The port is 0, or `group` is not a multicast address.
    """
    require_trio()
    current_system().check_home()
    number = to_integer(port, "port", 1, 0xFFFF)
    require_predicate(where)
    _require_handler(handler)
    with contextlib.closing(Feed()) as feed:
        fanout = _Fanout(feed, handler, to_group(group, "group"), number, to_sources(sources), control_flags)
        await feed.begin()
        matching = Matching(feed, where, fanout.is_deaf)
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

    def take(self, steps: Iterable[Step], nursery: trio.Nursery) -> None:
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
        return is_dead(service.conn, index, self._group, table)

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


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
async def _run_unprotected(handler: InterfaceHandler, conn: PacketConn, interface: Interface) -> None:
    awaitable = handler(conn, interface)
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"handler must be an asynchronous function of a PacketConn and an Interface, got {handler!r}, which "
            f"returned {awaitable!r}"
        )
    await awaitable


def _require_handler(handler: object) -> None:
    """Check a handler, before anything is opened."""
    if inspect.iscoroutine(handler):
        handler.close()
        raise TypeError("handler must be an asynchronous function, not what calling it returned: pass it without ()")
    if not callable(handler):
        raise TypeError(f"handler must be an asynchronous function of a PacketConn and an Interface, got {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"handler must be an asynchronous function without yield, got {handler!r}")
