"""Conn: the options that every IPv4 socket has, TCP streams included."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Self

import trio

from trio_ipv4._abi.structs import AF_INET
from trio_ipv4._conn.option_rows import IntegerOption
from trio_ipv4._conn.turns import require_trio, to_system

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.fields import Endpoint


class Conn:
    """Unicast options of a socket that somebody else made and owns.

    It can be used by `async with`: leaving the block is a checkpoint, after closing. A value of the wrong type is a
    `TypeError`, one out of range a `ValueError`. No option needs a privilege. Options raise `UnsupportedError` on
    platforms other than Linux and macOS.

    Args:
        stream_or_socket: A `trio.SocketStream`, or a trio socket, of AF_INET. None of its options is changed, and it is
            never closed: closing a `Conn` ends the `Conn` alone.

    Raises:
        TypeError: Anything else, a socket of the standard library included.
    """

    def __init__(self, stream_or_socket: trio.SocketStream | trio.socket.SocketType) -> None:
        trio_socket = unwrap(stream_or_socket)
        self._take_socket(to_system(trio_socket), trio_socket)

    def _take_socket(self, socket: Socket, trio_socket: trio.socket.SocketType) -> None:
        """Take both sides of a socket: the system's and trio's."""
        self._socket = socket
        self._trio_socket = trio_socket
        self._closed = False

    tos: IntegerOption = IntegerOption(
        "IP_TOS",
        0,
        255,
        """The type of service of sent packets, 0 to 255: DSCP in the upper six bits, ECN in the lower two (RFC 2474,
        RFC 3168; IP_TOS). Default 0. On TCP, Linux keeps the two ECN bits to itself.

        Raises:
            ValueError: Out of range; the kernel alone would mask it.
        """,
    )
    ttl: IntegerOption = IntegerOption(
        "IP_TTL",
        1,
        255,
        """The time to live of sent unicast packets, 1 to 255 hops (IP_TTL).

        Default: sysctl net.ipv4.ip_default_ttl, 64.
        """,
    )

    min_ttl: IntegerOption = IntegerOption(
        "IP_MINTTL",
        0,
        255,
        """The lowest time to live of packets that are received, 0 to 255 hops (IP_MINTTL, ip(7); Linux). Default 0.

        With 255, only neighbours are heard, since each router takes one off (RFC 5082). Linux obeys it on TCP. UDP and
        raw IP take the value and hear everything (measured on 6.18): there, ask for `ControlFlags.TTL` and look at
        `control.ttl`.

        Raises:
            UnsupportedError: This is neither Linux nor a simulated network.
        """,
    )

    @property
    def socket(self) -> trio.socket.SocketType:
        """The trio socket, also after closing."""
        return self._trio_socket

    @property
    def local_endpoint(self) -> Endpoint:
        """The `(address, port)` that the socket is bound to. Connecting binds it to the address that it sends from.

        On a raw socket the port is its protocol's number, on an unprivileged ICMP socket the identifier.
        """
        address, port = self._usable.getsockname()[:2]
        return str(address), int(port)

    def close(self) -> None:
        """End this connection object. Every later operation raises `trio.ClosedResourceError`. Not a checkpoint."""
        self._closed = True

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Call `close`, as trio's resources have it. A checkpoint, after closing."""
        self.close()
        require_trio()
        await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        try:
            require_trio()
        except RuntimeError:
            self.close()
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __setattr__(self, name: str, value: object) -> None:
        # An attribute that is misspelled must not be set in silence. Subclasses may have more than this module knows.
        if name[:1] != "_" and not hasattr(type(self), name) and type(self).__module__.startswith("trio_ipv4."):
            known = [each for each in dir(type(self)) if not each.startswith("_")]
            closest = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {closest[0]!r}?" if closest else ""
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r} to set{hint}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<{type(self).__name__} (closed)>"
        address, port = self.local_endpoint
        return f"<{type(self).__name__} {address}:{port}>"

    @property
    def _usable(self) -> Socket:
        """The socket, unless this connection was closed."""
        self._require_open()
        return self._socket

    @property
    def _is_open(self) -> bool:
        return not self._closed and self._socket.fileno() >= 0

    def _require_open(self) -> None:
        if not self._is_open:
            raise trio.ClosedResourceError("this connection was closed")


def unwrap(value: object) -> trio.socket.SocketType:
    """Return the trio socket of a stream or socket. Anything else is a `TypeError` that says what to pass."""
    if isinstance(value, trio.SSLStream):
        raise TypeError(f"pass a trio.SocketStream, the transport_stream below TLS, not {value!r}")
    if isinstance(value, trio.SocketListener):
        raise TypeError("pass listener.socket, not the trio.SocketListener")
    socket = value.socket if isinstance(value, trio.SocketStream) else value
    if not isinstance(socket, trio.socket.SocketType):
        raise TypeError(
            f"pass a trio.SocketStream or a trio socket (trio.socket.from_stdlib_socket makes one), not {value!r}"
        )
    if socket.family != AF_INET:
        raise TypeError(f"pass a socket of AF_INET, not of {socket.family!r}")
    return socket
