"""Messages of netlink(7), taken apart and put together, questions to the kernel, and the network of a socket."""

from __future__ import annotations

import os
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
_INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR
_TYPE: Final = 0x3FFF  # NLA_TYPE_MASK: above it are flags, as NLA_F_NESTED.
_KERNEL: Final = 0  # The kernel's port, which nobody else can have.
_LONGEST: Final = 1 << 16
"""In octets. The kernel makes parts of a dump of at most 32 KiB (netlink_dump in net/netlink/af_netlink.c)."""
_DUMPS: Final = 3
"""How often to ask, if things change while the kernel answers."""
_CODE: Final = struct.Struct("=i")
_HEADER: Final = struct.Struct("=IHHII")  # linux/netlink.h: struct nlmsghdr
_ATTRIBUTE: Final = struct.Struct("=HH")  # linux/netlink.h: struct nlattr
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h, since Linux 5.14


def ask(protocol: int, kind: int, flags: int, body: bytes) -> list[bytes]:
    """Put a question to the kernel, of this thread's network namespace, and return the bodies of the answers.

    A dump during which something changed may lack something (NLM_F_DUMP_INTR): it is asked for again, twice at most.

    Raises:
        OSError: The kernel's refusal, with its errno.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        bodies: list[bytes] = []
        for _ in range(_DUMPS):
            netlink.sendto(marshal_message(kind, REQUEST | flags, body), (_KERNEL, 0))
            bodies, is_interrupted = _receive(netlink, is_dump=flags & DUMP == DUMP)
            if not is_interrupted:
                break
        return bodies


def _receive(netlink: socket.socket, *, is_dump: bool) -> tuple[list[bytes], bool]:
    """Return the bodies of the answers, and whether something changed meanwhile."""
    bodies: list[bytes] = []
    is_interrupted = False
    while True:
        part, (sender, _) = netlink.recvfrom(_LONGEST)
        if sender != _KERNEL:
            continue
        for (_, kind, flags, *_), body in _split(part, _HEADER):
            is_interrupted |= bool(flags & _INTERRUPTED)
            if kind in {ERROR, DONE}:
                _raise(body)
                return bodies, is_interrupted
            bodies.append(body)
            if not is_dump:
                return bodies, is_interrupted


def _raise(body: bytes) -> None:
    """Raise what an error, or the end of a dump, says: a negative errno, or 0."""
    code = -_CODE.unpack_from(body)[0] if len(body) >= _CODE.size else 0
    if code > 0:
        raise OSError(code, os.strerror(code))


def marshal_message(kind: int, flags: int, body: bytes) -> bytes:
    """Lay out a message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def marshal_attribute(kind: int, value: bytes) -> bytes:
    """Lay out an attribute."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def split_messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    """Split what a socket received into messages: kind and body."""
    return ((kind, body) for (_, kind, *_), body in _split(part, _HEADER))


def split_attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Split the end of a body into attributes: kind and value."""
    return ((kind & _TYPE, value) for (_, kind), value in _split(octets, _ATTRIBUTE))


def _split(octets: bytes, head: struct.Struct) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Split what begins with its length, and stands at a multiple of four octets (NLMSG_ALIGN, NLA_ALIGN)."""
    start = 0
    while start + head.size <= len(octets):
        fields = head.unpack_from(octets, start)
        length = max(fields[0], head.size)  # Else a length of 0 would have no end.
        yield fields, octets[start + head.size : start + length]
        start += (length + 3) & ~3


def network_of(of: socket.socket | trio.socket.SocketType) -> bytes | None:
    """Return what identifies a socket's network namespace; `None` on kernels before Linux 5.14."""
    try:
        return of.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
