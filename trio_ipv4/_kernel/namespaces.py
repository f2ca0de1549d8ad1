"""Which network namespace a socket belongs to: that in which it was made, for good; a thread's may differ."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import TYPE_CHECKING

from trio_ipv4._abi.this import this_platform

if TYPE_CHECKING:
    from trio_ipv4._kernel.socket_like import SocketLike


def cookie(socket: SocketLike) -> bytes | None:
    """Return what names a socket's network namespace (SO_NETNS_COOKIE, since Linux 5.14), or `None` if unknown."""
    if "SO_NETNS_COOKIE" not in this_platform().options:
        return None
    option = this_platform().option("SO_NETNS_COOKIE")
    with contextlib.suppress(OSError):
        return socket.getsockopt(option.level, option.name, 8)
    return None


def are_same(one: SocketLike, other: SocketLike) -> bool:
    """Tell whether two sockets belong to one network namespace, or nothing can be known of it."""
    known = {cookie(one), cookie(other)}
    return len(known) == 1 or None in known


def are_surely_same(one: SocketLike, other: SocketLike) -> bool:
    """Tell whether two sockets are known to belong to one network namespace."""
    known = cookie(one)
    return known is not None and known == cookie(other)


def is_current(socket: SocketLike) -> bool:
    """Tell whether a socket surely belongs to this thread's network namespace."""
    try:
        here = stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM)
    except OSError:
        return False
    with here:
        return are_surely_same(socket, here)
