"""Announce a membership again, for switches and routers that have forgotten it.

The kernel announces when the first socket of a host joins, and answers queries. Where nobody queries, a snooping switch
forgets (RFC 4541 section 2.1.1). If a socket is the only member it can leave and join; if there are others, that tells
nobody, and only a report of our own does.
"""

from __future__ import annotations

import contextlib
import errno
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_ipv4._abi.structs import AF_INET, SOCK_RAW
from trio_ipv4._codec.igmp_report import igmp_report
from trio_ipv4._kernel import lookup, namespaces, options
from trio_ipv4._kernel.explain import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.source_filter import SourceFilter

_IPPROTO_IGMP: Final = 2
_REPORTS: Final = "224.0.0.22"
"""Where version 3 reports go (RFC 9776 section 4.2.15). Those of older versions go to the group."""
_ROUTER_ALERT: Final = bytes([0x94, 4, 0, 0])
"""The IP option of every IGMP message (RFC 2113, RFC 9776 section 4)."""
_TRIES: Final = 3
"""How often to look for a row: the table is read in pieces, and one may be missed."""


class Members(NamedTuple):
    """How many sockets of this host are in a group on an interface, and which version of IGMP is spoken there."""

    users: int
    version: int


def find_members(socket: Socket, index: int, group: IPv4Address) -> Members | None:
    """Look into the kernel's table, /proc/net/igmp; `None` if nobody can tell."""
    if not namespaces.is_current(socket):
        return None
    for _ in range(_TRIES):
        for row_index, row_group, members in _rows(socket):
            if (row_index, row_group) == (index, group):
                return members
    return None


def send_report(socket: Socket, index: int, group: IPv4Address, sources: SourceFilter, members: Members | None) -> None:
    """Send a report of our own (CAP_NET_RAW).

    Raises:
        OSError: EPERM: without the privilege, or the kernel refused.
    """
    version = 3 if members is None else members.version
    attempt = f"announce {group} again on {lookup.describe(socket, index)}"
    try:
        report = socket.system.socket(AF_INET, SOCK_RAW, _IPPROTO_IGMP)
    except OSError as error:
        raise refusal(error.errno or 0, "make raw", attempt, advice=_cannot(members)) from None
    with contextlib.closing(report):
        if not namespaces.are_same(report, socket):
            raise refusal(
                errno.EPERM, "make raw", attempt, advice="the connection belongs to another network namespace"
            )
        try:
            options.set_multicast_interface(report, index, bytes(4))
            options.set_integer(report, "IP_MULTICAST_LOOP", 0)
            options.set_integer(report, "IP_TOS", 0xC0)  # Internetwork control (RFC 9776 section 4).
            options.set_bytes(report, "IP_OPTIONS", _ROUTER_ALERT)
            report.sendto(igmp_report(version, group, sources), (_REPORTS if version == 3 else str(group), 0))
        except OSError as error:
            raise refusal(error.errno or 0, "send", attempt) from None


def _cannot(members: Members | None) -> str:
    why = (
        "nobody can tell whether other sockets are members"
        if members is None
        else f"{members.users} sockets are members"
    )
    return f"{why}, so to leave and join would announce nothing; a report of our own needs CAP_NET_RAW"


def _rows(socket: Socket) -> Iterator[tuple[int, IPv4Address, Members]]:
    index = version = 0
    for line in (socket.system.igmp_table() or "").splitlines()[1:]:
        words = line.split()
        if line[0].isdigit():
            index, version = int(words[0]), int(words[-1].removeprefix("V"))
        else:
            group = IPv4Address(int(words[0], 16).to_bytes(4, socket.system.platform.byte_order))
            yield index, group, Members(int(words[1]), version)
