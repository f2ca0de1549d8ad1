"""Which network namespace a socket belongs to: that in which it was made, for good; a thread's may differ."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from trio_ipv4._abi import structs

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket


def cookie(socket: Socket) -> bytes | None:
    """Return the name of a socket's network namespace (SO_NETNS_COOKIE, since Linux 5.14), or `None` if unknown."""
    option = socket.system.platform.options.get("SO_NETNS_COOKIE")
    if option is None:
        return None
    with contextlib.suppress(OSError):
        return socket.getsockopt(option.level, option.name, bytes(8))
    return None


def are_same(one: Socket, other: Socket) -> bool:
    """Tell whether two sockets belong to one network namespace, or nothing can be known of it."""
    known = {cookie(one), cookie(other)}
    return len(known) == 1 or None in known


def are_surely_same(one: Socket, other: Socket) -> bool:
    """Tell whether two sockets are known to belong to one network namespace."""
    known = cookie(one)
    return known is not None and known == cookie(other)


def is_current(socket: Socket) -> bool:
    """Tell whether a socket surely belongs to the network namespace in which its system makes sockets now."""
    try:
        here = socket.system.socket(structs.AF_INET, structs.SOCK_DGRAM, 0)
    except OSError:
        return False
    with contextlib.closing(here):
        return are_surely_same(socket, here)
