"""Memberships on the interface that the kernel chooses by its routes: it does not tell which one that is."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from trio_ipv4._kernel import groups, lookup
from trio_ipv4._kernel.explain import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._kernel.system import Socket


def find_member(socket: Socket, group: IPv4Address) -> int | None:
    """Return the index of the interface that the routes choose, if the socket is a member there; else `None`.

    Raises:
        OSError: EADDRINUSE: it is a member there, and with the same filter elsewhere. ENODEV: there is no route.
    """
    present = groups.get_filter_by_route(socket, group)
    if present is None:
        return None
    # The kernel tells the filter of the membership that the routes choose, but not its index.
    same: list[int] = []
    for look in (lookup.indexes, lookup.all_indexes):
        members = groups.memberships(socket, group, look(socket))
        same = [index for index, sources in members.items() if sources == present]
        if same:
            break
    if len(same) != 1:
        attempt = f"tell which interface the routes choose for {group}, by its membership there"
        raise refusal(errno.EADDRINUSE, "route", attempt, socket)
    return same[0]


def members(socket: Socket, group: IPv4Address) -> dict[int, bool]:
    """Return on which of the interfaces a socket is a member of a group, by whatever join."""
    known = lookup.indexes(socket)
    joined = groups.memberships(socket, group, known)
    return {index: index in joined for index in known}


def find_new(socket: Socket, group: IPv4Address, before: Mapping[int, bool]) -> int:
    """Return the index of the one interface on which the socket has become a member since `members`.

    Raises:
        OSError: ENODEV: it can't be found.
    """
    for look in (lookup.indexes, lookup.all_indexes):
        # One that has just vanished, too: its membership has to be left.
        candidates = dict.fromkeys((*before, *look(socket)))
        found = [index for index in groups.memberships(socket, group, candidates) if not before.get(index)]
        if len(found) == 1:
            return found[0]
    raise refusal(errno.ENODEV, "route", f"join {group}", socket)
