"""Enumerate and resolve interfaces; through a given socket where there is one, since that may belong elsewhere."""

from __future__ import annotations

import array
import contextlib
import errno
import ipaddress
import os
import socket as stdlib_socket
import struct
import time
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi.this import this_platform
from trio_ipv4._codec.interface_table import InterfaceTable
from trio_ipv4._codec.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    Overrun,
    address_dump_request,
    is_interrupted,
    link_dump_request,
    parse_messages,
)
from trio_ipv4._errors import ADVICE, UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.explain import explain, refusal
from trio_ipv4._values.fields import to_address, to_integer
from trio_ipv4._values.interface import MAX_IFINDEX, Interface, InterfaceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.socket_like import SocketLike
    from trio_ipv4._values.interface import InterfaceLike

if TYPE_CHECKING or this_platform().name == "linux":
    from fcntl import ioctl  # Windows has no such module; `_require_linux` lets nothing come that far there.

NETLINK_ROUTE: Final = 0  # linux/netlink.h
KERNEL: Final = 0
"""The kernel's port (netlink(7)): nobody else can have it."""
MAX_NETLINK: Final = 1 << 16
"""Larger than any message of the kernel's dumps (NLMSG_GOODSIZE is at most 32 KiB)."""
# linux/rtnetlink.h
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
# linux/sockios.h
SIOCGIFNAME: Final = 0x8910
SIOCGIFCONF: Final = 0x8912
SIOCGIFFLAGS: Final = 0x8913
SIOCGIFINDEX: Final = 0x8933
IFNAMSIZ: Final = 16  # linux/if.h
_PATIENCE: Final = 0.5
"""Seconds in which to read the interfaces while they change."""
_IFREQ_SIZE: Final = 40 if struct.calcsize("P") == 8 else 32  # linux/if.h: struct ifreq


def interfaces() -> tuple[Interface, ...]:
    """List the interfaces of this thread's network namespace, by index. Not a checkpoint.

    The kernel answers at once. It says when something changed while it answered, and then it is asked again, for half a
    second at most.

    Raises:
        OSError: EBUSY: the interfaces changed all that time. EPERM, EACCES, EAFNOSUPPORT: rtnetlink is refused here, as
            in some sandboxes.
        UnsupportedError: Not on Linux.
    """
    _require_linux("rtnetlink")
    with open_netlink(0) as netlink:
        found = dump(netlink)
    return tuple(found.interfaces[index] for index in sorted(found.interfaces))


def interface_by_name(name: str) -> Interface:
    """Return the interface with that name, in this thread's network namespace.

    An alternative name will do, as for connections, if it has at most 15 octets.

    Raises:
        OSError: ENODEV: there is none; others as for `interfaces`.
    """
    _require_linux("rtnetlink")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as socket:
        index = _index_of_name(socket, name)
    return interface_by_index(index)


def interface_by_index(index: int) -> Interface:
    """Return the interface with that index, in this thread's network namespace.

    Raises:
        OSError: ENODEV: there is none; others as for `interfaces`.
    """
    to_integer(index, "index", 1, MAX_IFINDEX)
    for interface in interfaces():
        if interface.index == index:
            return interface
    raise refusal(errno.ENODEV, "interface", f"find the interface with index {index}")


def open_netlink(groups: int) -> stdlib_socket.socket:
    """Open a socket to the kernel's routing tables (rtnetlink(7)), subscribed to a mask of groups (RTMGRP_*).

    It does not block, whatever `socket.setdefaulttimeout` says.
    """
    _require_linux("rtnetlink")
    try:
        socket = stdlib_socket.socket(stdlib_socket.AF_NETLINK, stdlib_socket.SOCK_RAW, NETLINK_ROUTE)
    except OSError as error:
        raise _explain_netlink(error, "make a netlink socket") from None
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only.
        socket.bind((KERNEL, groups))
    except OSError as error:
        socket.close()
        raise _explain_netlink(error, "bind a netlink socket") from None
    return socket


def dump(socket: stdlib_socket.socket) -> InterfaceTable:
    """Read all links and addresses through a netlink socket without subscriptions. It takes half a second at most.

    Raises:
        OSError: EBUSY: they changed in all that time. Others: the kernel refused.
    """
    deadline = time.monotonic() + _PATIENCE
    while (table := try_dump(socket)) is None:
        if time.monotonic() > deadline:
            raise refusal(
                errno.EBUSY,
                "netlink",
                "list the interfaces",
                advice=f"they changed for {_PATIENCE} seconds, while the kernel listed them: try again, or use "
                "watch_interfaces()",
            )
    return table


def try_dump(socket: stdlib_socket.socket) -> InterfaceTable | None:
    """Read all links and addresses, once; `None` if something changed meanwhile, so that they may not fit together."""
    answers: list[bytes] = []
    # One dump at a time: a kernel serves no more per socket. Both are read before anything is parsed, which takes
    # longer: the less time between, the less changes.
    for request in (link_dump_request, address_dump_request):
        if not _dump(socket, request(1), answers):
            return None
    messages = [message for answer in answers for message in parse_messages(answer)]
    for message in messages:
        if isinstance(message, Failure):
            raise _explain_netlink(OSError(message.errno, ""), "list the interfaces")
        if isinstance(message, Overrun | Interrupted):
            return None
    complete = sum(isinstance(message, Done) for message in messages)
    return InterfaceTable(messages) if complete == 2 else None


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


def _dump(socket: stdlib_socket.socket, request: bytes, answers: list[bytes]) -> bool:
    """Read one dump into `answers`; tell whether it was consistent, as far as a glance shows.

    The kernel has put the answer into the queue when sending returns, and more of it whenever some was read, so that
    nothing here waits (linux net/netlink/af_netlink.c, `netlink_dump`).
    """
    if not drain(socket):  # What an overflow of an earlier dump left.
        return False
    try:
        socket.sendto(request, (KERNEL, 0))
        while True:
            data, _, flags, sender = socket.recvmsg(MAX_NETLINK)
            if sender[0] == KERNEL:
                answers.append(data)
            if flags & stdlib_socket.MSG_TRUNC or is_interrupted(data):
                return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise _explain_netlink(error, "list the interfaces") from None
        return False


def _explain_netlink(error: OSError, attempt: str) -> OSError:
    """Say what rtnetlink is needed for, where it is missing."""
    missing = error.errno in _NO_NETLINK
    return explain(error, "netlink", attempt, advice=ADVICE["netlink", errno.EPERM] if missing else None)


_NO_NETLINK: Final = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL),
        *(errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP),
    }
)
"""What sandboxes, and kernels without it, say of rtnetlink."""


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


def exists(socket: SocketLike, index: int) -> bool:
    """Tell whether there is an interface with that index in the socket's namespace; `True` if nobody can tell."""
    try:
        _ioctl(socket, SIOCGIFNAME, struct.pack("=16xi", index))
    except OSError as error:
        return error.errno not in (errno.ENODEV, errno.ENXIO)
    return True


def describe(socket: SocketLike, index: int) -> str:
    """Name an interface in a message."""
    name = name_of(socket, index)
    return f"interface index {index}" if name is None else f"{name} (interface index {index})"


def is_loopback(socket: SocketLike, index: int) -> bool:
    """Tell whether the interface with that index, in the socket's namespace, is a loopback one."""
    flags = flags_of(socket, index)
    return flags is not None and InterfaceFlags.LOOPBACK in flags


def flags_of(socket: SocketLike, index: int) -> InterfaceFlags | None:
    """Return the lower 16 flags of the interface with that index, or `None` if there is none."""
    name = name_of(socket, index)
    if name is None or this_platform().name != "linux":
        return None
    try:
        answer = _ioctl(socket, SIOCGIFFLAGS, os.fsencode(name))
    except OSError:
        return None
    (flags,) = struct.unpack_from("=H", answer, IFNAMSIZ)
    return InterfaceFlags(flags)


def own_addresses(socket: SocketLike) -> set[ipaddress.IPv4Address]:
    """Return the IPv4 addresses of all interfaces in the socket's namespace."""
    return {address for _, address in _addresses(socket)}


def indexes(socket: SocketLike) -> list[int]:
    """Return the indexes of the interfaces in the socket's namespace; elsewhere than here, of those with an address."""
    if namespaces.is_current(socket):
        with contextlib.suppress(OSError):  # It asks by rtnetlink, which some sandboxes refuse.
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
        raise refusal(errno.ENODEV, "interface", attempt, advice=_name_advice(name))
    try:
        answer = _ioctl(socket, SIOCGIFINDEX, encoded)
    except OSError as error:
        raise explain(error, "interface", attempt, advice=_name_advice(name)) from None
    (index,) = struct.unpack_from("=i", answer, IFNAMSIZ)
    return int(index)


def _name_advice(name: str) -> str | None:
    """Say what to pass instead of a string that names no interface."""
    if name.isdecimal():
        return f"a string is a name: for the interface with this index, pass the integer {name}"
    with contextlib.suppress(ValueError):
        if not int(ipaddress.IPv4Address(name)):
            return "a string is a name: None lets the kernel choose the interface"
        if ipaddress.IPv4Address(name).is_multicast:
            return "this is a group: the interface comes first, then the group"
        return f"a string is a name: for the interface that has this address, pass IPv4Address({name!r})"
    if len(os.fsencode(name)) >= IFNAMSIZ:
        return "a name has at most 15 octets; a longer alternative name does not do"
    return None


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
