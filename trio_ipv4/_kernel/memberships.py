"""The kernel's own list of the groups that interfaces are in, and its messages about their changes (rtnetlink(7)).

It tells when an interface joined. It does so in ticks of its clock (linux/jiffies.h), which begins some time after
CLOCK_MONOTONIC, and is no clock of clock_gettime(2): `System.uptime` reads it. On a 32-bit system the kernel's stamps
overflow early (linux net/ipv4/devinet.c, `cstamp_delta`), and ages are wrong then.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4._codec.membership_table import MembershipTable
from trio_ipv4._codec.rtnetlink import group_dump_request
from trio_ipv4._errors import UnsupportedError
from trio_ipv4._kernel import options
from trio_ipv4._kernel.native import current_system
from trio_ipv4._kernel.netlink import RTMGRP_LINK, grow, open_netlink, read_dumps, settle
from trio_ipv4._values.host_membership import HostMembership

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.system import Socket, System

RTNLGRP_IPV4_MCADDR: Final = 37
"""The group for IPv4's groups (linux/rtnetlink.h, since Linux 6.14); bind(2) takes the first 32 only."""
_OLD: Final = "Linux before 6.15"
_ATTEMPT: Final = "list the groups that interfaces are in"
_TICKS: Final = 100
"""Stamps in a second (USER_HZ)."""
_STAMPS: Final = 1 << 32
_NOT_YET: Final = _STAMPS - 60 * _TICKS
"""A stamp of the next minute is one of now: clock and stamp are rounded."""


def host_memberships() -> tuple[HostMembership, ...]:
    """List the groups that interfaces have joined, whoever did it, by interface and group. Not a checkpoint.

        for membership in host_memberships():
            print(membership.interface, membership.group, f"for {membership.age:.0f} s")

    An interface that is up is in 224.0.0.1 by itself (RFC 1112 section 7.1). It is about interfaces, not about sockets:
    which programs are members, and from which sources they hear, the kernel does not tell here. `input_route` asks
    whether a group's datagrams from a source are let in.

    It concerns the current network namespace. Linux 6.15 or later; no privilege is needed. (rtnetlink(7):
    RTM_GETMULTICAST.)

    Raises:
        OSError: EBUSY: the changes came faster than they could be read. EPERM, EACCES, EAFNOSUPPORT: rtnetlink is
            refused here, as in some sandboxes.
        UnsupportedError: Not on Linux, or the kernel is too old.
    """
    system = current_system()
    with contextlib.closing(open_netlink(system, 0)) as asking, contextlib.closing(subscribe(system)) as events:
        found = settle(asking, events, read_memberships, _ATTEMPT, "watch_memberships()").memberships
    return tuple(
        HostMembership(index, group, age=age(system, stamp)) for (index, group), stamp in sorted(found.items())
    )


def subscribe(system: System) -> Socket:
    """Open a socket to which the kernel tells joins and leaves of interfaces, and changes of links."""
    socket = open_netlink(system, RTMGRP_LINK)
    try:
        grow(socket)
        _subscribe_to_groups(socket)
    except BaseException:
        socket.close()
        raise
    return socket


def read_memberships(asking: Socket) -> Iterator[MembershipTable | None]:
    """Read all groups of all interfaces, as `read_interfaces` does.

    The kernel counts through an interface's groups, and does not say so if one that was counted is left between two
    parts of its answer. Then it passes over another one (linux net/ipv4/devinet.c, `in_dev_dump_ifmcaddr`). So answers
    of several parts are asked for again, and add up.
    """
    try:
        yield from read_dumps(asking, (group_dump_request,), MembershipTable, _ATTEMPT, is_marked=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise UnsupportedError("RTM_GETMULTICAST", _OLD) from None
        raise


def age(system: System, stamp: int) -> float:
    """Return for how many seconds there has been something that has a stamp of the kernel's (IFA_CACHEINFO)."""
    ticks = (int(system.uptime() * _TICKS) - stamp) % _STAMPS
    return 0.0 if ticks >= _NOT_YET else ticks / _TICKS


def _subscribe_to_groups(socket: Socket) -> None:
    try:
        options.set_integer(socket, "NETLINK_ADD_MEMBERSHIP", RTNLGRP_IPV4_MCADDR)
    except OSError as error:
        if error.errno in (errno.EINVAL, *options.LACKING):
            raise UnsupportedError("RTNLGRP_IPV4_MCADDR", _OLD) from None
        raise
