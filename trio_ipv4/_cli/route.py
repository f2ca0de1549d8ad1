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

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.netlink import (
    REQUEST,
    ask,
    marshal_attribute,
    marshal_message,
    network_of,
    split_attributes,
    split_messages,
)

if TYPE_CHECKING:
    from trio_ipv4 import PacketConn

_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # linux/rtnetlink.h: struct rtmsg
_TYPE_AT: Final = 7
_RTN_LOCAL: Final = 2  # linux/rtnetlink.h
_RTM_NEWROUTE: Final = 24  # linux/rtnetlink.h, and those below
_RTM_GETROUTE: Final = 26
_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PREFSRC: Final = 7
_RTA_UID: Final = 25
_RTA_IP_PROTO: Final = 27
_RTA_DPORT: Final = 29
_NOT_ECN: Final = 0xFC  # RFC 3168 section 5. Routes don't depend on those bits, and Linux refuses them here.
_ANSWER: Final = 8192
"""In octets: more than a route takes."""


@attrs.frozen
class Way:
    """By which interface a datagram leaves, and from which address. `None`: nobody can tell.

    Args:
        ifindex: The interface's index.
        source: The address from which this host sends.
        gateway: The router, if it goes by one that has an IPv4 address.
        is_local: The destination is an address of this host's own.
    """

    ifindex: int | None = None
    source: IPv4Address | None = None
    gateway: IPv4Address | None = None
    is_local: bool = False


def find_way(conn: PacketConn, destination: IPv4Address, port: int, *, source: IPv4Address | None, tos: int) -> Way:
    """Ask the kernel which way a datagram would leave by its routes.

    It knows nothing where there is no route, where the connection belongs to another network than this thread, or where
    this is not Linux.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return Way()
    with contextlib.suppress(OSError, UnsupportedError), _netlink() as netlink:
        if network_of(conn.socket) == network_of(netlink):
            netlink.sendto(marshal_request(destination, port, source=source, tos=tos, user=os.geteuid()), (0, 0))
            return parse_answer(netlink.recv(_ANSWER))
    return Way()


def ask_way(destination: IPv4Address, *, oif: int | None = None) -> Way:
    """Ask the kernel which way a UDP datagram of this user's would leave, in this thread's network namespace.

    Args:
        destination: Where it goes to.
        oif: The index of the interface that its socket has chosen.

    Raises:
        OSError: ENETUNREACH: there is no route. EHOSTUNREACH, EINVAL, EACCES: the route is of type unreachable,
            blackhole, prohibit. ENODEV: there is no such interface.
    """
    body = _marshal(destination, None, source=None, tos=0, user=os.geteuid(), oif=oif)
    (answer,) = ask(socket.NETLINK_ROUTE, _RTM_GETROUTE, 0, body)
    return _parse(answer)


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def marshal_request(destination: IPv4Address, port: int, *, source: IPv4Address | None, tos: int, user: int) -> bytes:
    """Lay out the question: the route of a UDP datagram of a user."""
    return marshal_message(_RTM_GETROUTE, REQUEST, _marshal(destination, port, source=source, tos=tos, user=user))


def _marshal(
    destination: IPv4Address,
    port: int | None,
    *,
    source: IPv4Address | None,
    tos: int,
    user: int,
    oif: int | None = None,
) -> bytes:
    attributes = marshal_attribute(_RTA_DST, destination.packed)
    if source is not None:
        attributes += marshal_attribute(_RTA_SRC, source.packed)
    if oif is not None:
        attributes += marshal_attribute(_RTA_OIF, struct.pack("=i", oif))
    attributes += marshal_attribute(_RTA_UID, struct.pack("=I", user))
    attributes += marshal_attribute(_RTA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
    if port is not None:
        attributes += marshal_attribute(_RTA_DPORT, struct.pack("!H", port))
    source_length = 0 if source is None else 32
    return _ROUTE.pack(socket.AF_INET, 32, source_length, tos & _NOT_ECN, 0, 0, 0, 0, 0) + attributes


def parse_answer(answer: bytes) -> Way:
    """Read the answer; one that is an error, there is no route, tells nothing."""
    kind, body = next(split_messages(answer), (0, b""))
    return _parse(body) if kind == _RTM_NEWROUTE else Way()


def _parse(body: bytes) -> Way:
    found = dict(split_attributes(body[_ROUTE.size :]))
    index = found.get(_RTA_OIF, b"")
    return Way(
        struct.unpack("=i", index)[0] if len(index) == 4 else None,
        _address(found.get(_RTA_PREFSRC, b"")),
        _address(found.get(_RTA_GATEWAY, b"")),
        body[_TYPE_AT : _TYPE_AT + 1] == bytes([_RTN_LOCAL]),
    )


def _address(octets: bytes) -> IPv4Address | None:
    return IPv4Address(octets) if len(octets) == 4 else None
