"""Which way the kernel's routes lead (rtnetlink(7), RTM_GETROUTE).

It needs no privilege, and disturbs nothing: nothing is sent but a question to the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

from trio_ipv4._cli.doctor.evidence import Routes, Way
from trio_ipv4._cli.route import ask_way

_ANSWERS: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.ENODEV})
"""Errnos that say something about the route. `fib_props` in net/ipv4/fib_semantics.c has those of the routes' types."""


def look(destinations: Iterable[IPv4Address], *, oif: int | None = None) -> Routes:
    """Ask for the ways to some addresses.

    Args:
        destinations: The addresses. Each is asked for once.
        oif: The index of the interface that the sender's socket has chosen; by default none.

    Raises:
        OSError: rtnetlink is refused, as in some sandboxes.
    """
    return Routes(ways=tuple(_ask(each, oif) for each in dict.fromkeys(destinations)))


def _ask(destination: IPv4Address, oif: int | None) -> Way:
    try:
        way = ask_way(destination, oif=oif)
    except OSError as error:
        if error.errno not in _ANSWERS:
            raise
        return Way(destination, error=errno.errorcode[error.errno])
    return Way(destination, way.ifindex, way.gateway, way.source, way.is_local)
