"""rtnetlink(7): the kernel's own list of links and IPv4 addresses, and its messages about their changes."""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
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
from trio_ipv4._errors import ADVICE
from trio_ipv4._kernel.calls import MSG_DONTWAIT, MSG_TRUNC
from trio_ipv4._kernel.explain import explain, refusal
from trio_ipv4._kernel.lookup import index_of_name
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.fields import to_integer
from trio_ipv4._values.interface import MAX_IFINDEX, Interface

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket, System

NETLINK_ROUTE: Final = 0  # linux/netlink.h
KERNEL: Final = 0
"""The kernel's port (netlink(7)): nobody else can have it."""
MAX_NETLINK: Final = 1 << 16
"""Larger than any message of the kernel's dumps (NLMSG_GOODSIZE is at most 32 KiB)."""
# linux/rtnetlink.h
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
_PATIENCE: Final = 0.5
"""Seconds in which to read the interfaces while they change."""
_NO_NETLINK: Final = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL),
        *(errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP),
    }
)
"""Errnos of sandboxes, and of kernels without rtnetlink."""


def interfaces() -> tuple[Interface, ...]:
    """List the interfaces of this thread's network namespace, by index. Not a checkpoint.

    The kernel answers at once. It says when something changed while it answered, and then it is asked again, for half a
    second at most.

    Raises:
        OSError: EBUSY: the interfaces changed all that time. EPERM, EACCES, EAFNOSUPPORT: rtnetlink is refused here, as
            in some sandboxes.
        UnsupportedError: Not on Linux.
    """
    with contextlib.closing(open_netlink(current_system(), 0)) as netlink:
        found = dump(netlink)
    return tuple(found.interfaces[index] for index in sorted(found.interfaces))


def interface_by_name(name: str) -> Interface:
    """Return the interface with that name, in this thread's network namespace.

    An alternative name will do, as for connections, if it has at most 15 octets.

    Raises:
        OSError: ENODEV: there is none; others as for `interfaces`.
    """
    system = current_system()
    system.platform.number("rtnetlink")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    with contextlib.closing(system.socket(structs.AF_INET, structs.SOCK_DGRAM, 0)) as socket:
        index = index_of_name(socket, name)
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


def open_netlink(system: System, groups: int) -> Socket:
    """Open a socket to a system's routing tables (rtnetlink(7)), subscribed to a mask of groups (RTMGRP_*)."""
    family = system.platform.number("rtnetlink")
    try:
        socket = system.socket(family, structs.SOCK_RAW, NETLINK_ROUTE)
    except OSError as error:
        raise _explain_netlink(error, "make a netlink socket") from None
    try:
        socket.bind((KERNEL, groups))
    except OSError as error:
        socket.close()
        raise _explain_netlink(error, "bind a netlink socket") from None
    return socket


def dump(socket: Socket) -> InterfaceTable:
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


def try_dump(socket: Socket) -> InterfaceTable | None:
    """Read all links and addresses, once; `None` if something changed meanwhile, so that they may not fit together."""
    answers: list[bytes] = []
    byte_order = socket.system.platform.byte_order
    # One dump at a time: a kernel serves no more per socket. Both are read before anything is parsed, which takes
    # longer: the less time between, the less changes.
    for request in (link_dump_request, address_dump_request):
        if not _dump(socket, request(1, byte_order), answers):
            return None
    messages = [message for answer in answers for message in parse_messages(answer, byte_order)]
    for message in messages:
        if isinstance(message, Failure):
            raise _explain_netlink(OSError(message.errno, ""), "list the interfaces")
        if isinstance(message, Overrun | Interrupted):
            return None
    complete = sum(isinstance(message, Done) for message in messages)
    return InterfaceTable(messages) if complete == 2 else None


def receive_messages(socket: Socket) -> tuple[Message, ...] | None:
    """Read one datagram of the kernel's; `()` if somebody else sent it, `None` if there is none.

    That messages were lost, for lack of room, is an `Overrun`.
    """
    try:
        data, flags, sender = socket.recvmsg(MAX_NETLINK)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return (Overrun(0),)
    # Root may send to any netlink socket, but only the kernel has port 0 (netlink(7)).
    if sender[0] != KERNEL:
        return ()
    return (Overrun(0),) if flags & MSG_TRUNC else parse_messages(data, socket.system.platform.byte_order)


def drain(socket: Socket, limit: int = 1000) -> bool:
    """Empty the queue, up to `limit` datagrams; tell whether nothing is left.

    After an overflow the kernel drops everything until the queue was empty (linux net/netlink/af_netlink.c,
    `netlink_rcv_wake`), and says so once.
    """
    for _ in range(limit):
        try:
            socket.recvmsg(1, MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
    return False


def _dump(socket: Socket, request: bytes, answers: list[bytes]) -> bool:
    """Read one dump into `answers`; tell whether it was consistent, as far as a glance shows.

    The kernel has put the answer into the queue when sending returns, and more of it whenever some was read, so that
    nothing here waits (linux net/netlink/af_netlink.c, `netlink_dump`).
    """
    if not drain(socket):  # The rest of an earlier dump that overflowed.
        return False
    try:
        socket.sendto(request, (KERNEL, 0))
        while True:
            data, flags, sender = socket.recvmsg(MAX_NETLINK)
            if sender[0] == KERNEL:
                answers.append(data)
            if flags & MSG_TRUNC or is_interrupted(data, socket.system.platform.byte_order):
                return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise _explain_netlink(error, "list the interfaces") from None
        return False


def _explain_netlink(error: OSError, attempt: str) -> OSError:
    """Explain an error; where rtnetlink is missing, say which functions need it."""
    missing = error.errno in _NO_NETLINK
    return explain(error, "netlink", attempt, advice=ADVICE["netlink", errno.EPERM] if missing else None)
