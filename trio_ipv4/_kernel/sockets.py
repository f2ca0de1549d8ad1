"""Make and bind sockets. Binding to a numeric address can't block."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from typing import TYPE_CHECKING, TypeAlias

from trio_ipv4._kernel import options
from trio_ipv4._kernel.errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address


def open_socket(
    kind: int,
    protocol: int,
    address: IPv4Address,
    port: int,
    settings: Iterable[tuple[str, int]],
    *,
    share_port: bool = False,
) -> stdlib_socket.socket:
    """Make a socket, set its options, and bind it: in that order, so that nothing is queued without them.

    Args:
        kind: SOCK_DGRAM or SOCK_RAW.
        protocol: The IP protocol's number; 0 for UDP over SOCK_DGRAM.
        address: The local address; 0.0.0.0 for all.
        port: The local port; 0 lets the kernel choose, and is the only one for SOCK_RAW.
        settings: Names of options of this platform, and their values.
        share_port: Whether other sockets may have the port too.

    Raises:
        OSError: The kernel refused; nothing is left open.
    """
    what = f"a raw socket for protocol {protocol}" if kind == SOCK_RAW else "a UDP socket"
    try:
        socket = stdlib_socket.socket(stdlib_socket.AF_INET, kind, protocol)
    except OSError as error:
        raise explain(error, "open", f"make {what}") from None
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only.
        for name, value in settings:
            options.set_integer(socket, name, value)
        try:
            bind = _bind_shared if share_port else stdlib_socket.socket.bind
            bind(socket, (str(address), port))
        except OSError as error:
            raise explain(error, "open", f"bind {what} to {address}, port {port}", socket) from None
    except BaseException:
        socket.close()
        raise
    return socket


def _bind_shared(socket: stdlib_socket.socket, endpoint: tuple[str, int]) -> None:
    """Bind to a port that others have, or may have, too.

    SO_REUSEADDR binds beside those that set it, with or without SO_REUSEPORT. Beside one that sets SO_REUSEPORT alone,
    only that will do, and it is set only then: of sockets of one user that have it, Linux picks one by a hash when
    exactly one of them has joined the group of a datagram, and not always that one. Early demultiplexing finds the
    member, and `inet_steal_sock` (include/net/inet_hashtables.h) then takes it for a socket that a BPF program chose,
    which SO_REUSEPORT may overrule.
    """
    options.set_integer(socket, "SO_REUSEADDR", 1)
    try:
        socket.bind(endpoint)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        options.set_integer(socket, "SO_REUSEPORT", 1)
        socket.bind(endpoint)


StdlibSocket: TypeAlias = stdlib_socket.socket
AF_INET = int(stdlib_socket.AF_INET)
SOCK_STREAM = int(stdlib_socket.SOCK_STREAM)
SOCK_DGRAM = int(stdlib_socket.SOCK_DGRAM)
SOCK_RAW = int(stdlib_socket.SOCK_RAW)
