"""serve_interfaces: run a handler on every interface that matches, as they come and go, each with its own connection.

serve_group is the case of one group and one port.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Final, Generic, NoReturn, Protocol, TypeAlias, TypeVar, final

import trio

from trio_ipv4._conn import switches
from trio_ipv4._conn.conn import Conn
from trio_ipv4._conn.interface_feed import InterfaceFeed, open_interface_feed
from trio_ipv4._conn.open import open_udp
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._conn.where import InterfacePredicate, can_hear_multicast, require_predicate
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.native import current_system
from trio_ipv4._matching import Matching, RefusalHandler, Refusals, require_refusal_handler, warn_of_refusal
from trio_ipv4._values.control import DEFAULT_FLAGS, ControlFlags
from trio_ipv4._values.fields import to_bool, to_group, to_integer
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_ipv4._conn.packet import PacketConn
    from trio_ipv4._matching import Step
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


class Closable(Protocol):
    """What `serve_interfaces` can open for an interface: a connection, or a `contextlib.ExitStack` of several."""

    def close(self) -> None:
        """Close it. Not a checkpoint."""


ClosableT = TypeVar("ClosableT", bound=Closable)
InterfaceHandler: TypeAlias = "Callable[[PacketConn, Interface], Awaitable[object]]"
"""What `serve_group` runs for an interface, with a connection of its own."""


@trio.lowlevel.enable_ki_protection
async def serve_interfaces(
    handler: Callable[[ClosableT, Interface], Awaitable[object]],
    open_connection: Callable[[Interface], ClosableT],
    *,
    where: InterfacePredicate = can_hear_multicast,
    restart: bool = True,
    on_refusal: RefusalHandler = warn_of_refusal,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[tuple[Interface, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run `await handler(conn, interface)` in a task of its own for every interface that matches, as they come and go.

        def open_connection(interface: Interface) -> PacketConn:
            return open_udp("0.0.0.0", 5000, share_port=True, interface=interface)

        interfaces = await nursery.start(serve_interfaces, handler, open_connection)

    `conn` is what `open_connection(interface)` has returned: a connection with any groups, any ports, over raw IP, or
    for unicast alone. It is closed when the handler ends.

    A handler is cancelled when its interface goes, or matches no longer. By default it is also cancelled when the
    addresses of its interface change, and begins again with the new `Interface`: with the same connection, so that
    nothing in its queue is lost, or with a new one if it has closed that. One that returns is done until its interface
    goes and comes back. The next one begins only after the last has ended. A send may fail because the interface is
    just about to go (ENETUNREACH, ENODEV, ENXIO): that is an exception of the handler's as any other.

    An interface for which `open_connection` raises an `OSError` is left out and told of, and tried again whenever an
    interface changes. The others are not concerned.

    `start` returns once there is a connection for every interface that matches now, with the tuple of those
    interfaces. If none matches, that warns (`NoInterfaceWarning`). It runs until it is cancelled: it waits, and so it
    is a checkpoint.

    Args:
        handler: An asynchronous function of a connection and an `Interface`.
        open_connection: A synchronous function of an `Interface`. If it fails, it must leave nothing open.
        where: As for `follow_group`.
        restart: Whether a handler is to begin again when the addresses of its interface change.
        on_refusal: As for `follow_group`.
        handler_nursery: The nursery in which to run the handlers, as for `trio.serve_tcp`: when this alone is
            cancelled they go on, and their interfaces are watched no longer. By default one that ends with it.
        task_status: For `nursery.start`.

    Raises:
        BaseException: What `where` raises. At the start also what `on_refusal` raises, or `open_connection`, if it is
            no `OSError`.
        BaseExceptionGroup: Exceptions of handlers; after the start also of `on_refusal` and `open_connection`. A
            `handler_nursery`, if there is one, gets them instead.
        OSError: rtnetlink is refused here, as in some sandboxes.
        UnsupportedError: This is neither Linux nor a simulated network.
    """
    require_trio()
    current_system().check_home()
    require_predicate(where)
    require_refusal_handler(on_refusal)
    _require_handler(handler)
    _require_opener(open_connection)
    by_address = to_bool(restart, "restart")
    with contextlib.closing(open_interface_feed(current_system())) as feed:
        matching = Matching(feed, where, by_address=by_address)
        first = await matching.begin()
        with contextlib.ExitStack() as opened:
            fanout = _Fanout(feed, handler, open_connection, Refusals(feed, on_refusal))
            services = fanout.open_now(first, opened)
            error: Exception | None = None
            try:
                async with trio.open_nursery() as own:
                    nursery = handler_nursery or own
                    fanout.start(services, nursery)
                    opened.pop_all()  # From here on each handler's task closes its connection.
                    task_status.started(tuple(service.interface for service in services))
                    try:
                        while True:
                            fanout.take(await matching.receive(), nursery)
                    except Exception as failed:
                        # It is no handler's, so it is not raised in a group, unless handlers fail as well.
                        error = failed
                        own.cancel_scope.cancel()
                    finally:
                        fanout.cancel_waiting()
            except BaseExceptionGroup as group:
                if error is None:
                    raise
                raise BaseExceptionGroup(str(error), [error, *group.exceptions]) from None
            if error is not None:
                raise error
    raise AssertionError("serving ends by an exception")


@trio.lowlevel.enable_ki_protection
async def serve_group(
    handler: InterfaceHandler,
    group: AddressLike,
    port: int,
    *,
    sources: SourceFilter = ANY,
    where: InterfacePredicate = can_hear_multicast,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    restart: bool = True,
    on_refusal: RefusalHandler = warn_of_refusal,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[tuple[Interface, ...]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run `await handler(conn, interface)` on every interface that matches, with a connection that has joined a group.

        interfaces = await nursery.start(serve_group, handler, "239.1.2.3", 5000)

    It is a case of `serve_interfaces`, which says when handlers begin, end and begin again, and what happens if an
    interface refuses. A checkpoint, as that.

    Each `conn` is a `PacketConn` on the port, bound to the interface's device (SO_BINDTOIFINDEX). It hears only
    datagrams that arrive there, unicast included. It has joined there already. Datagrams to the group leave there,
    unless a control message names another interface. The port is shared: several programs may serve it. No privilege is
    needed; before Linux 5.7, CAP_NET_RAW is.

    Args:
        handler: An asynchronous function of a `PacketConn` and an `Interface`.
        group: A multicast address.
        port: A UDP port, 1 to 65535.
        sources: As for `follow_group`.
        where: As for `follow_group`.
        control_flags: As for `open_udp`.
        restart: As for `serve_interfaces`.
        on_refusal: As for `follow_group`; EADDRINUSE, if another program has the port and does not share it.
        handler_nursery: As for `serve_interfaces`.
        task_status: For `nursery.start`.

    Raises:
        BaseException: What `where` raises, and at the start what `on_refusal` raises.
        BaseExceptionGroup: As for `serve_interfaces`.
        OSError: rtnetlink is refused here, as in some sandboxes.
        UnsupportedError: This is neither Linux nor a simulated network.
        ValueError: The port is 0, or `group` is not a multicast address.
    """
    require_trio()
    address, number, heard = to_group(group, "group"), to_integer(port, "port", 1, 0xFFFF), to_sources(sources)
    switches.to_flags(control_flags)  # Before an interface is asked.
    hold = object()

    @trio.lowlevel.enable_ki_protection
    def open_connection(interface: Interface) -> PacketConn:
        with contextlib.ExitStack() as failing:
            # By index: its name may be another's by now.
            conn = open_udp("0.0.0.0", number, share_port=True, interface=interface.index, control_flags=control_flags)
            failing.callback(conn.close)
            conn._ledger.enter(hold, interface.index, address, heard)
            failing.pop_all()
        return conn

    await serve_interfaces(
        handler,
        open_connection,
        where=where,
        restart=restart,
        on_refusal=on_refusal,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )


@final
class _Service(Generic[ClosableT]):
    """One handler: its connection, if it has one, and the service that has to end before it begins."""

    def __init__(self, interface: Interface, predecessor: _Service[ClosableT] | None = None) -> None:
        self.interface = interface
        self.predecessor = predecessor
        self.conn: ClosableT | None = None
        self.was_refused = False
        self.scope: Final = trio.CancelScope()
        self.until_renumbered = trio.CancelScope()
        self.ended: Final = trio.Event()

    def renumber(self, interface: Interface) -> None:
        """Begin again with another state of the interface, if the handler runs."""
        self.interface = interface
        self.until_renumbered.cancel()


@final
class _Fanout(Generic[ClosableT]):
    """The handlers by interface index: those that run or wait, and those that ended while their interface stayed."""

    def __init__(
        self,
        feed: InterfaceFeed,
        handler: Callable[[ClosableT, Interface], Awaitable[object]],
        open_connection: Callable[[Interface], ClosableT],
        refusals: Refusals,
    ) -> None:
        self._feed: Final = feed
        self._handler: Final = handler
        self._open_connection: Final = open_connection
        self._refusals: Final = refusals
        self._services: Final[dict[int, _Service[ClosableT]]] = {}

    def open_now(self, steps: Iterable[Step], opened: contextlib.ExitStack) -> list[_Service[ClosableT]]:
        """Open the connections with which it begins, and return their services."""
        services: list[_Service[ClosableT]] = []
        for step in steps:
            if step.came is not None:
                service = self._services[step.came.index] = _Service(step.came)
                self._open(service)
                if service.conn is not None:
                    opened.callback(service.conn.close)
                    services.append(service)
                else:
                    service.ended.set()
        return services

    def start(self, services: Iterable[_Service[ClosableT]], nursery: trio.Nursery) -> None:
        for service in services:
            nursery.start_soon(self._run, service, name=self._handler)

    def take(self, steps: Iterable[Step], nursery: trio.Nursery) -> None:
        for step in steps:
            if step.went is not None and step.came is not None:
                self._services[step.went].renumber(step.came)
            elif step.went is not None:
                self._cancel(step.went)
            elif step.came is not None:
                self._begin_after_last(step.came, nursery)
        for service in [service for service in self._services.values() if service.was_refused]:
            self._begin_after_last(service.interface, nursery)

    def cancel_waiting(self) -> None:
        """Let nobody begin who waits for a predecessor: nobody will watch the interface."""
        for service in self._services.values():
            if service.predecessor is not None:
                service.scope.cancel()

    def _begin_after_last(self, interface: Interface, nursery: trio.Nursery) -> None:
        # The last one may be waiting, too: then for the same one.
        last = self._services.get(interface.index)
        predecessor = None if last is None else last.predecessor or last
        service = self._services[interface.index] = _Service(interface, predecessor)
        self.start([service], nursery)

    def _cancel(self, index: int) -> None:
        service = self._services[index]
        service.scope.cancel()
        self._refusals.forget(index)
        if service.ended.is_set():
            self._forget(service)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, service: _Service[ClosableT]) -> None:
        try:
            with service.scope:
                await self._begin(service)
                while service.conn is not None:
                    service.until_renumbered = trio.CancelScope()
                    with service.until_renumbered:
                        await _run_unprotected(self._handler, service.conn, service.interface)
                    if not service.until_renumbered.cancel_called:
                        break
                    self._renew(service)
        finally:
            # Not `async with`: a checkpoint here would put Cancelled in the place of a handler's exception.
            if service.conn is not None:
                service.conn.close()
            service.ended.set()
            self._forget(service)

    async def _begin(self, service: _Service[ClosableT]) -> None:
        if service.predecessor is not None:
            await service.predecessor.ended.wait()
            service.predecessor = None
        await trio.lowlevel.checkpoint_if_cancelled()
        if service.conn is None:
            self._open(service)

    def _renew(self, service: _Service[ClosableT]) -> None:
        """Keep a connection that is open, so that nothing in its queue is lost; replace any other."""
        if service.conn is not None and not (isinstance(service.conn, Conn) and service.conn._is_open):
            service.conn.close()
            service.conn = None
            self._open(service)

    def _forget(self, service: _Service[ClosableT]) -> None:
        """Let go of a service that has ended and whose interface is gone."""
        index = service.interface.index
        if service.scope.cancel_called and self._services.get(index) is service:
            if service.predecessor is None or service.predecessor.ended.is_set():
                del self._services[index]
            else:
                self._services[index] = service.predecessor  # It never began; the next one waits for the same.

    def _open(self, service: _Service[ClosableT]) -> None:
        """Open a connection. If the kernel refuses, tell of it, and leave it to be tried again."""
        try:
            conn = _open_unprotected(self._open_connection, service.interface)
        except OSError as error:
            service.was_refused = True
            self._refusals.note(service.interface, error)
            return
        if isinstance(conn, Conn) and not namespaces.are_same(conn._socket, self._feed.socket):
            conn.close()
            raise RuntimeError("this thread has moved to another network namespace since serving started")
        self._refusals.forget(service.interface.index)
        service.conn = conn


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
def _open_unprotected(open_connection: Callable[[Interface], ClosableT], interface: Interface) -> ClosableT:
    conn = open_connection(interface)
    if not callable(getattr(conn, "close", None)):
        raise TypeError(f"open_connection must return a connection, got {conn!r} from {open_connection!r}")
    return conn


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
async def _run_unprotected(
    handler: Callable[[ClosableT, Interface], Awaitable[object]], conn: ClosableT, interface: Interface
) -> None:
    awaitable = handler(conn, interface)
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"handler must be an asynchronous function of a connection and an Interface, got {handler!r}, which "
            f"returned {awaitable!r}"
        )
    await awaitable


def _require_opener(open_connection: object) -> None:
    if not callable(open_connection) or inspect.iscoroutinefunction(open_connection):
        raise TypeError(f"open_connection must be a synchronous function of an Interface, got {open_connection!r}")


def _require_handler(handler: object) -> None:
    """Check a handler, before anything is opened."""
    if inspect.iscoroutine(handler):
        handler.close()
        raise TypeError("handler must be an asynchronous function, not what calling it returned: pass it without ()")
    if not callable(handler):
        raise TypeError(f"handler must be an asynchronous function of a connection and an Interface, got {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"handler must be an asynchronous function without yield, got {handler!r}")
