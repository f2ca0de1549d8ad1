"""Which way the kernel's routes send a datagram: by which interface, from which address (rtnetlink(7), RTM_GETROUTE).

Nothing is sent but a question to the kernel, which needs no privilege.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_ipv4 import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4 import PacketConn

_HEADER: Final = struct.Struct("=IHHII")  # linux/netlink.h: struct nlmsghdr
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # linux/rtnetlink.h: struct rtmsg
_ATTRIBUTE: Final = struct.Struct("=HH")  # linux/rtnetlink.h: struct rtattr
_NLM_F_REQUEST: Final = 1  # linux/netlink.h
_RTM_NEWROUTE: Final = 24  # linux/rtnetlink.h, and those below
_RTM_GETROUTE: Final = 26
_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_OIF: Final = 4
_RTA_PREFSRC: Final = 7
_RTA_UID: Final = 25
_RTA_IP_PROTO: Final = 27
_RTA_DPORT: Final = 29
_NOT_ECN: Final = 0xFC  # RFC 3168 section 5. Routes don't depend on those bits, and Linux refuses them here.
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h
_ANSWER: Final = 8192
"""In octets: more than a route takes."""


@attrs.frozen
class Way:
    """By which interface a datagram leaves, and from which address. `None`: nobody can tell."""

    ifindex: int | None = None
    source: IPv4Address | None = None


def find_way(conn: PacketConn, destination: IPv4Address, port: int, *, source: IPv4Address | None, tos: int) -> Way:
    """Ask the kernel which way a datagram would leave by its routes.

    It knows nothing where there is no route, where the connection belongs to another network than this thread, or where
    this is not Linux.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return Way()
    with contextlib.suppress(OSError, UnsupportedError), _netlink() as netlink:
        if _cookie(conn.socket) == _cookie(netlink):
            netlink.sendto(marshal_request(destination, port, source=source, tos=tos, user=os.geteuid()), (0, 0))
            return parse_answer(netlink.recv(_ANSWER))
    return Way()


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _cookie(each: socket.socket | trio.socket.SocketType) -> bytes | None:
    """Return what tells the network namespace of a socket from others; `None` before Linux 5.14."""
    try:
        return each.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None


def marshal_request(destination: IPv4Address, port: int, *, source: IPv4Address | None, tos: int, user: int) -> bytes:
    """Lay out the question: the route of a UDP datagram of a user."""
    attributes = _attribute(_RTA_DST, destination.packed)
    if source is not None:
        attributes += _attribute(_RTA_SRC, source.packed)
    attributes += _attribute(_RTA_UID, struct.pack("=I", user))
    attributes += _attribute(_RTA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
    attributes += _attribute(_RTA_DPORT, struct.pack("!H", port))
    source_length = 0 if source is None else 32
    body = _ROUTE.pack(socket.AF_INET, 32, source_length, tos & _NOT_ECN, 0, 0, 0, 0, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body


def parse_answer(answer: bytes) -> Way:
    """Read the answer; one that is an error, there is no route, tells nothing."""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return Way()
    found = dict(_attributes(answer[_HEADER.size + _ROUTE.size :]))
    index, source = found.get(_RTA_OIF, b""), found.get(_RTA_PREFSRC, b"")
    return Way(
        struct.unpack("=i", index)[0] if len(index) == 4 else None,
        IPv4Address(source) if len(source) == 4 else None,
    )


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        if length < _ATTRIBUTE.size:
            return
        yield kind, octets[_ATTRIBUTE.size : length]
        octets = octets[length + -length % 4 :]
