"""Enumerate and resolve interfaces; through a given socket where there is one, since that may belong elsewhere."""

from __future__ import annotations

import array
import errno
import ipaddress
import os
import socket as stdlib_socket
import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi.this import this_platform
from trio_ipv4._errors import UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.errors import explain, refusal
from trio_ipv4._values.fields import to_address, to_integer
from trio_ipv4._values.interface import MAX_IFINDEX, Interface, InterfaceFlags
from trio_ipv4._values.interface_table import InterfaceTable
from trio_ipv4._values.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    Overrun,
    address_dump_request,
    link_dump_request,
    parse_messages,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.socket_like import SocketLike
    from trio_ipv4._values.interface import InterfaceLike
    from trio_ipv4._values.rtnetlink import Message

if TYPE_CHECKING or this_platform().name == "linux":
    from fcntl import ioctl  # Windows has no such module; `_require_linux` lets nothing come that far there.

NETLINK_ROUTE: Final = 0  # linux/netlink.h
KERNEL: Final = 0
"""The kernel's port (netlink(7)): nobody else can have it."""
MAX_NETLINK: Final = 1 << 16
"""Larger than any message of the kernel's dumps (NLMSG_GOODSIZE is at most 32 KiB)."""
# linux/sockios.h
SIOCGIFNAME: Final = 0x8910
SIOCGIFCONF: Final = 0x8912
SIOCGIFFLAGS: Final = 0x8913
SIOCGIFINDEX: Final = 0x8933
IFNAMSIZ: Final = 16  # linux/if.h
_IFREQ_SIZE: Final = 40 if struct.calcsize("P") == 8 else 32  # linux/if.h: struct ifreq


def interfaces() -> tuple[Interface, ...]:
    """List the interfaces of this thread's network namespace, by index. Not a checkpoint: the kernel answers at once.

    Raises:
        UnsupportedError: Not on Linux.
    """
    _require_linux("rtnetlink")
    with open_netlink(0) as netlink:
        found = dump(netlink)
    return tuple(found.interfaces[index] for index in sorted(found.interfaces))


def interface_by_name(name: str) -> Interface:
    """Return the interface with that name, in this thread's network namespace.

    Raises:
        OSError: ENODEV: there is none.
    """
    for interface in interfaces():
        if interface.name == name:
            return interface
    raise refusal(errno.ENODEV, "interface", f"find the interface named {name!r}")


def interface_by_index(index: int) -> Interface:
    """Return the interface with that index, in this thread's network namespace.

    Raises:
        OSError: ENODEV: there is none.
    """
    to_integer(index, "index", 1, MAX_IFINDEX)
    for interface in interfaces():
        if interface.index == index:
            return interface
    raise refusal(errno.ENODEV, "interface", f"find the interface with index {index}")


def open_netlink(groups: int) -> stdlib_socket.socket:
    """Open a socket to the kernel's routing tables (rtnetlink(7)), subscribed to a mask of groups (RTMGRP_*)."""
    _require_linux("rtnetlink")
    try:
        socket = stdlib_socket.socket(stdlib_socket.AF_NETLINK, stdlib_socket.SOCK_RAW, NETLINK_ROUTE)
    except OSError as error:
        raise explain(error, "open", "make a netlink socket") from None
    try:
        socket.bind((KERNEL, groups))
    except BaseException:
        socket.close()
        raise
    return socket


def dump(socket: stdlib_socket.socket) -> InterfaceTable:
    """Read all links and addresses through a netlink socket without subscriptions. It does not block."""
    while (table := try_dump(socket)) is None:
        pass
    return table


def try_dump(socket: stdlib_socket.socket) -> InterfaceTable | None:
    """Read all links and addresses, once; `None` if something changed meanwhile, so that they may not fit together."""
    messages: list[Message] = []
    # One dump at a time: a kernel serves no more per socket.
    for request in (link_dump_request, address_dump_request):
        if not _dump(socket, request(1), messages):
            return None
    return InterfaceTable(messages)


def receive_messages(socket: stdlib_socket.socket) -> tuple[Message, ...] | None:
    """Read one datagram of the kernel's; `()` if somebody else sent it, `None` if there is none.

    That messages were lost, for lack of room, is an `Overrun`.
    """
    try:
        data, _, flags, sender = socket.recvmsg(MAX_NETLINK)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return (Overrun(0),)
    # Root may send to any netlink socket, but only the kernel has port 0 (netlink(7)).
    if sender[0] != KERNEL:
        return ()
    return (Overrun(0),) if flags & stdlib_socket.MSG_TRUNC else parse_messages(data)


def drain(socket: stdlib_socket.socket, limit: int = 1000) -> bool:
    """Throw away what is queued, up to `limit` datagrams; tell whether nothing is left.

    After an overflow the kernel drops everything until the queue was empty (linux net/netlink/af_netlink.c,
    `netlink_rcv_wake`), and says so once.
    """
    for _ in range(limit):
        try:
            socket.recv(1, stdlib_socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
    return False


def _dump(socket: stdlib_socket.socket, request: bytes, messages: list[Message]) -> bool:
    """Read one dump into `messages`; tell whether it was consistent."""
    if not drain(socket):  # What an overflow of an earlier dump left.
        return False
    socket.sendto(request, (KERNEL, 0))
    consistent = True
    while True:
        for message in receive_messages(socket) or ():
            if isinstance(message, Done):
                return consistent
            if isinstance(message, Failure):
                raise OSError(message.errno, "the kernel refused to list the interfaces")
            if isinstance(message, Overrun):
                return False
            consistent = consistent and not isinstance(message, Interrupted)
            messages.append(message)


def resolve(socket: SocketLike, interface: InterfaceLike) -> int | None:
    """Return the index of an interface, asking through `socket`; `None` stays `None`.

    Raises:
        OSError: ENODEV: there is no interface of that name or index. EADDRNOTAVAIL: none has that address.
        TypeError: Not an `Interface`, name, index, `IPv4Address` or `None`.
    """
    if interface is None:
        return None
    if isinstance(interface, Interface):
        return interface.index
    if isinstance(interface, str):
        return _index_of_name(socket, interface)
    if isinstance(interface, ipaddress.IPv4Address):
        return _index_of_address(socket, to_address(interface, "interface"))
    return to_integer(interface, "interface", 1, MAX_IFINDEX)


def name_of(socket: SocketLike, index: int) -> str | None:
    """Return the name of the interface with that index in the socket's namespace, or `None` if there is none."""
    try:
        if this_platform().name != "linux":  # Nowhere else can a socket belong to another namespace.
            return stdlib_socket.if_indextoname(index)
        return _text(_ioctl(socket, SIOCGIFNAME, struct.pack("=16xi", index))[:IFNAMSIZ])
    except OSError:
        return None


def describe(socket: SocketLike, index: int) -> str:
    """Name an interface in a message."""
    name = name_of(socket, index)
    return f"interface index {index}" if name is None else f"{name} (interface index {index})"


def is_loopback(socket: SocketLike, index: int) -> bool:
    """Tell whether the interface with that index, in the socket's namespace, is a loopback one."""
    name = name_of(socket, index)
    if name is None or this_platform().name != "linux":
        return False
    (flags,) = struct.unpack_from("=H", _ioctl(socket, SIOCGIFFLAGS, os.fsencode(name)), IFNAMSIZ)
    return InterfaceFlags.LOOPBACK in InterfaceFlags(flags)


def indexes(socket: SocketLike) -> list[int]:
    """Return the indexes of the interfaces in the socket's namespace; elsewhere than here, of those with an address."""
    if namespaces.is_current(socket):
        return [index for index, _ in stdlib_socket.if_nameindex()]
    return sorted({_index_of_name(socket, name) for name, _ in _addresses(socket)})


def all_indexes(socket: SocketLike) -> list[int]:
    """Return the indexes of the interfaces in the socket's namespace, by trying one after the other up to 65,535.

    It takes a tenth of a second.
    """
    return [index for index in range(1, 1 << 16) if name_of(socket, index) is not None]


def _index_of_name(socket: SocketLike, name: str) -> int:
    _require_linux("SIOCGIFINDEX")
    encoded = os.fsencode(name)
    attempt = f"find the interface named {name!r}"
    if not 0 < len(encoded) < IFNAMSIZ or b"\0" in encoded:
        raise refusal(errno.ENODEV, "interface", attempt)
    try:
        answer = _ioctl(socket, SIOCGIFINDEX, encoded)
    except OSError as error:
        raise explain(error, "interface", attempt) from None
    (index,) = struct.unpack_from("=i", answer, IFNAMSIZ)
    return int(index)


def _index_of_address(socket: SocketLike, address: ipaddress.IPv4Address) -> int:
    _require_linux("SIOCGIFCONF")
    for name, owned in _addresses(socket):
        if owned == address:
            return _index_of_name(socket, name)
    raise refusal(errno.EADDRNOTAVAIL, "interface", f"find the interface that has the address {address}")


def _addresses(socket: SocketLike) -> Iterator[tuple[str, ipaddress.IPv4Address]]:
    """Yield name and address of each IPv4 address in the socket's namespace (netdevice(7): SIOCGIFCONF)."""
    _require_linux("SIOCGIFCONF")
    size = 64 * _IFREQ_SIZE
    while True:
        buffer = array.array("B", bytes(size))
        where, _ = buffer.buffer_info()
        ifconf = struct.pack("iP", size, where)
        (used,) = struct.unpack_from("i", ioctl(socket.fileno(), SIOCGIFCONF, ifconf))
        if used < size:
            break
        size *= 2
    for offset in range(0, used, _IFREQ_SIZE):
        request = buffer[offset : offset + _IFREQ_SIZE].tobytes()
        # A label such as "eth0:1" names an address of eth0.
        yield _text(request[:IFNAMSIZ]).partition(":")[0], ipaddress.IPv4Address(request[20:24])


def _ioctl(socket: SocketLike, request: int, value: bytes) -> bytes:
    return ioctl(socket.fileno(), request, value.ljust(_IFREQ_SIZE, b"\0"))


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])


def _require_linux(what: str) -> None:
    if this_platform().name != "linux":
        raise UnsupportedError(what, this_platform().name)
