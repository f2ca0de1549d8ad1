"""Messages of netlink(7), taken apart and put together, and the network that a socket belongs to."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio

REQUEST: Final = 0x1  # linux/netlink.h: NLM_F_REQUEST, and those below
DUMP: Final = 0x300
ERROR: Final = 2
DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")  # linux/netlink.h: struct nlmsghdr
_ATTRIBUTE: Final = struct.Struct("=HH")  # linux/netlink.h: struct nlattr
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h, since Linux 5.14


def marshal_message(kind: int, flags: int, body: bytes) -> bytes:
    """Lay out a message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def marshal_attribute(kind: int, value: bytes) -> bytes:
    """Lay out an attribute."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def split_messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    """Split what a socket received into messages: kind and body."""
    return _split(part, _HEADER)


def split_attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Split the end of a body into attributes: kind and value."""
    return _split(octets, _ATTRIBUTE)


def _split(octets: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Split what begins with its length, and stands at a multiple of four octets (NLMSG_ALIGN, NLA_ALIGN)."""
    start = 0
    while start + head.size <= len(octets):
        length, kind, *_ = head.unpack_from(octets, start)
        length = max(length, head.size)  # Else a length of 0 would have no end.
        yield kind, octets[start + head.size : start + length]
        start += (length + 3) & ~3


def network_of(of: socket.socket | trio.socket.SocketType) -> bytes | None:
    """Return what identifies a socket's network namespace; `None` on kernels before Linux 5.14."""
    try:
        return of.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
