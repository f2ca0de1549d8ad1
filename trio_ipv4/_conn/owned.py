"""OwnedConn: the root of a datagram connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

from trio_ipv4._abi.structs import SOCK_DGRAM, SOCK_RAW
from trio_ipv4._conn.conn import Conn, unwrap
from trio_ipv4._conn.ledger import Ledger
from trio_ipv4._conn.turns import OwnedSocket, to_system, to_trio

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.control import ControlFlags


class OwnedConn(Conn):
    """A connection that owns its socket and its memberships: closing leaves every group, then closes the socket.

    The parts of `PacketConn` and `RawConn` stand on it, side by side: options, memberships, traffic, reports.

    Args:
        socket: A trio socket of AF_INET, of a kind that the subclass takes. None of its options is changed.

    Raises:
        TypeError: Anything else.
    """

    _kinds: tuple[int, ...] = (SOCK_DGRAM, SOCK_RAW)
    _kind_names = "SOCK_DGRAM or SOCK_RAW"

    def __init__(self, socket: trio.socket.SocketType) -> None:
        trio_socket = unwrap(socket)
        if trio_socket is not socket or trio_socket.type not in self._kinds:  # It may be a stream's.
            raise TypeError(f"pass a trio socket of type {self._kind_names}, not {socket!r}")
        self._take_socket(to_system(trio_socket), trio_socket)
        self._owned.errors.note_switches()
        self._compose(None)

    @classmethod
    def _of_new_socket(cls, socket: Socket, facts: ControlFlags) -> Self:
        """Make a connection of a socket that nobody else has used, and that receives `facts`."""
        conn = cls.__new__(cls)
        conn._take_socket(socket, to_trio(socket))
        conn._compose(facts)
        return conn

    def _take_socket(self, socket: Socket, trio_socket: trio.socket.SocketType) -> None:
        super()._take_socket(socket, trio_socket)
        self._owned = OwnedSocket(socket, trio_socket)
        self._ledger = Ledger(socket)

    def _compose(self, facts: ControlFlags | None) -> None:
        """Make the parts. `facts` are those that the socket receives; `None` if the socket has to be asked."""
        raise NotImplementedError

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._owned.note_run()
        return self

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Leave every membership, then close the socket. Tasks that wait on it wake with `trio.ClosedResourceError`.

        Leaving comes first, so that a duplicated or inherited descriptor keeps no membership of this connection. A
        forked child that closes leaves nothing: the memberships are its parent's.
        Not a checkpoint. It works from any thread, and where trio does not run.
        """
        if not self._closed:
            self._closed = True
            try:
                self._ledger.close()
            finally:
                self._owned.close()
