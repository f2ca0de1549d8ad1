"""Make and bind sockets. Binding to a numeric address can't block."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket as stdlib_socket
from typing import TYPE_CHECKING, Final, TypeAlias

from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import options
from trio_ipv4._kernel.explain import explain, read_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
    kind_name = "raw" if kind == SOCK_RAW else "udp"
    what = f"a raw socket for protocol {protocol}" if kind == SOCK_RAW else "a UDP socket"
    try:
        socket = stdlib_socket.socket(stdlib_socket.AF_INET, kind, protocol)
    except OSError as error:
        raise explain(error, f"make {kind_name}", f"make {what}") from None
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only.
        for name, value in settings:
            _set(socket, name, value)
        try:
            bind = _bind_shared if share_port else stdlib_socket.socket.bind
            bind(socket, (str(address), port))
        except OSError as error:
            topic = _bind_topic(port, error, share_port=share_port, is_raw=kind == SOCK_RAW)
            raise explain(error, topic, f"bind {what} to {address}, port {port}", socket) from None
    except BaseException:
        socket.close()
        raise
    return socket


def _set(socket: stdlib_socket.socket, name: str, value: int) -> None:
    try:
        options.set_integer(socket, name, value)
    except OSError as error:
        # Some sandboxes (gVisor) lack this one. Then more is heard than was joined, as on platforms without it.
        if name != "IP_MULTICAST_ALL" or error.errno not in options.LACKING:
            raise


def _bind_topic(port: int, error: OSError, *, share_port: bool, is_raw: bool) -> str:
    """Return the part of `ADVICE` that applies to what was passed."""
    if error.errno == errno.EACCES:
        lowest = read_sysctl("net.ipv4.ip_unprivileged_port_start") or "1024"
        return "bind low" if 0 < port < int(lowest) else "bind"
    if port == 0 and not is_raw:
        return "bind any"
    return "bind shared" if share_port else "bind"


def _bind_shared(socket: stdlib_socket.socket, endpoint: tuple[str, int]) -> None:
    """Bind to a port that others have, or may have, too. A port that the kernel is to choose is one that nobody has.

    SO_REUSEADDR binds beside those that set it, with or without SO_REUSEPORT. Beside one that sets SO_REUSEPORT alone,
    only that will do, and it is set only then: of sockets of one user that have it, Linux picks one by a hash when
    exactly one of them has joined the group of a datagram, and not always that one. Early demultiplexing finds the
    member, and `inet_steal_sock` (include/net/inet_hashtables.h) then takes it for a socket that a BPF program chose,
    which SO_REUSEPORT may overrule.
    """
    if endpoint[1] == 0:
        # With SO_REUSEADDR the kernel could choose a port that another such socket has.
        socket.bind(endpoint)
        options.set_integer(socket, "SO_REUSEADDR", 1)
        return
    options.set_integer(socket, "SO_REUSEADDR", 1)
    try:
        socket.bind(endpoint)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        options.set_integer(socket, "SO_REUSEPORT", 1)
        socket.bind(endpoint)


def this_process() -> int:
    """Return the number of this process: a forked child has another one than what it inherited."""
    return os.getpid()


def close_descriptor(descriptor: int) -> None:
    """Close a socket by its descriptor, without trio's help."""
    stdlib_socket.close(descriptor)


def discard_errors(descriptor: int) -> bool:
    """Throw away what waits in the error queue (recvmsg(2): MSG_ERRQUEUE; Linux), and tell whether anything did.

    ICMP errors (IP_RECVERR) and transmit timestamps (SO_TIMESTAMPING) wait there, and make a socket readable that has
    nothing to receive.
    """
    if this_platform().name != "linux":
        return False
    discarded = False
    with borrowed(descriptor) as socket, contextlib.suppress(BlockingIOError):
        for _ in range(_MAX_DISCARDED):
            socket.recvmsg(0, 0, stdlib_socket.MSG_ERRQUEUE | stdlib_socket.MSG_DONTWAIT)
            discarded = True
    return discarded


def is_shut_down(descriptor: int) -> bool:
    """Tell whether a socket was shut down for receiving, so that it is readable for ever, and empty (poll(2))."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return any(events & select.POLLRDHUP for _, events in poll.poll(0))


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[stdlib_socket.socket]:
    """Look at a descriptor as a socket of the standard library, and give it back without closing it."""
    socket = stdlib_socket.socket(fileno=descriptor)
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only. A program may have set a default timeout.
        yield socket
    finally:
        socket.detach()


_MAX_DISCARDED: Final = 1000
"""In one go, so that other tasks run while errors flow in."""
StdlibSocket: TypeAlias = stdlib_socket.socket
AF_INET = int(stdlib_socket.AF_INET)
SOCK_STREAM = int(stdlib_socket.SOCK_STREAM)
SOCK_DGRAM = int(stdlib_socket.SOCK_DGRAM)
SOCK_RAW = int(stdlib_socket.SOCK_RAW)
