"""Sockets of a simulated host: what all kinds have, and the trio socket that a program sees."""

from __future__ import annotations

import contextlib
import errno
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

import trio

from trio_ipv4._conn.turns import this_run
from trio_ipv4.testing._simulation.linux import LINUX
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4.testing._simulation.machine import Machine


class BaseSocket:
    """What all sockets of a simulated host have: an end, and tasks that wait."""

    def __init__(self, machine: Machine, family: int, kind: int, protocol: int) -> None:
        self.system: Final = machine
        self.kind: Final = kind
        self.protocol: Final = protocol
        self.is_open = True
        self._number: Final = machine.new_number()
        self._lot: Final = trio.lowlevel.ParkingLot()
        self._error_lot: Final = trio.lowlevel.ParkingLot()
        self._user: trio.lowlevel.TrioToken | None = None
        self.handle: Final = SimulatedTrioSocket(self, family, kind, protocol)

    def fileno(self) -> int:
        return self._number if self.is_open else -1

    @property
    def has_something(self) -> bool:
        """Whether there is something to receive."""
        raise NotImplementedError

    @property
    def has_error(self) -> bool:
        """Whether there is an error to read."""
        return False

    async def wait_readable(self) -> None:
        """Wait until there is something to receive, or an error to read."""
        await self._wait(self._lot, lambda: self.has_something or self.has_error)

    async def wait_error(self) -> None:
        """Wait until there is an error to read."""
        await self._wait(self._error_lot, lambda: self.has_error)

    async def _wait(self, lot: trio.lowlevel.ParkingLot, condition: Callable[[], bool]) -> None:
        self._user = trio.lowlevel.current_trio_token()
        await self.system.clock.wait(lot, lambda: not self.is_open or condition())
        if not self.is_open:
            raise trio.ClosedResourceError("this connection was closed")

    def wake(self) -> None:
        """Wake the tasks that wait for something to receive. From any thread."""
        self._wake(self._lot)

    def wake_all(self) -> None:
        """Wake all tasks that wait. From any thread."""
        self._wake(self._lot)
        self._wake(self._error_lot)

    def _wake(self, lot: trio.lowlevel.ParkingLot) -> None:
        if self._user is None or not lot:
            return
        if self._user is this_run():
            lot.unpark_all()
            return
        with contextlib.suppress(trio.RunFinishedError):
            self._user.run_sync_soon(lot.unpark_all)

    def close(self) -> None:
        if self.is_open:
            self.system.clock.catch_up()
            self.is_open = False
            self.release()
            self.wake_all()

    def release(self) -> None:
        """Give back what the host holds for the socket."""
        raise NotImplementedError

    def getpeername(self) -> Any:
        refuse(errno.ENOTCONN)

    def receive_error(self) -> tuple[bytes, bytes, Any]:
        refuse(errno.EAGAIN)

    def connect(self, _address: Any, /) -> None:
        raise not_simulated("connect on this kind of socket")

    def is_shut_down(self) -> bool:
        return False

    def require_open(self) -> None:
        """Refuse what is asked of a closed socket, and let happen what is due."""
        if not self.is_open:
            refuse(errno.EBADF)
        self.system.clock.catch_up()


@final
class SimulatedTrioSocket(trio.socket.SocketType):
    """The trio socket of a simulated one. It has options, a name and an end; the connection around it does the rest."""

    def __init__(self, socket: BaseSocket, family: int, kind: int, protocol: int) -> None:
        self.system_socket: Final = socket
        self._family, self._kind, self._protocol = family, kind, protocol

    @property
    def family(self) -> stdlib_socket.AddressFamily:
        return stdlib_socket.AddressFamily(self._family)

    @property
    def type(self) -> stdlib_socket.SocketKind:
        return stdlib_socket.SocketKind(self._kind)

    @property
    def proto(self) -> int:
        return self._protocol

    async def wait_readable(self) -> None:
        await self.system_socket.wait_readable()

    async def wait_error(self) -> None:
        await self.system_socket.wait_error()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.system_socket.close()

    def getsockname(self) -> Any:
        return self.system_socket.getsockname()  # type: ignore[attr-defined]

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:  # noqa: ARG002
        octets = value.to_bytes(4, LINUX.byte_order, signed=value < 0) if isinstance(value, int) else bytes(value)
        self.system_socket.setsockopt(level, optname, octets)  # type: ignore[attr-defined]

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        octets = self.system_socket.getsockopt(level, optname, bytes(buflen or 4))  # type: ignore[attr-defined]
        return int.from_bytes(octets, LINUX.byte_order, signed=len(octets) > 1) if buflen is None else octets

    def fileno(self) -> int:
        if self.system_socket.is_open:
            raise not_simulated("fileno, since there is no file descriptor,")
        return -1

    def detach(self) -> NoReturn:
        raise not_simulated("detach, since there is no file descriptor,")

    def __repr__(self) -> str:
        state = "open" if self.system_socket.is_open else "closed"
        return f"<a simulated socket of {self.system_socket.system.name}, {state}>"


def _refused(name: str) -> Callable[..., NoReturn]:
    def call(_self: object, *_: object, **__: object) -> NoReturn:
        raise not_simulated(f"{name} on the bare socket")

    return call


for _name in (
    *("bind", "connect", "listen", "accept", "shutdown", "getpeername", "dup", "share", "is_readable"),
    *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "send", "sendto", "sendmsg"),
):
    setattr(SimulatedTrioSocket, _name, _refused(_name))
