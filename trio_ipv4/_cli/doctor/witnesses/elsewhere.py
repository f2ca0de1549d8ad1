"""Other network namespaces on this machine in which the port is open, as those of containers.

/proc/PID/net shows the tables of a process's network namespace to every user. Each namespace has files of its own
there, and so inodes of its own: by them namespaces are told apart, also where /proc/PID/ns/net can't be read. It needs
no privilege, and disturbs nothing. A namespace without any process, and one whose processes this /proc doesn't show, as
from inside a container, is not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from trio_ipv4._cli.doctor.evidence import Elsewhere, OtherNamespace
from trio_ipv4._cli.kernel_tables import read_groups, read_udp_sockets
from trio_ipv4._cli.processes import describe, find_sockets

_PROC: Final = Path("/proc")
_ANY_TABLE: Final = "net/dev"


def look(group: IPv4Address, port: int) -> Elsewhere:
    """Look for sockets on the port in other namespaces, and for members of the group there."""
    found = []
    holders: dict[int, list[int]] | None = None
    for pids in _namespaces():
        tables = _PROC / str(pids[0]) / "net"
        with contextlib.suppress(OSError):  # The process has ended.
            if inodes := {each.inode for each in read_udp_sockets(tables) if each.port == port}:
                member = any(each == group for each, *_ in read_groups(tables))
                if holders is None:
                    holders = {each.inode: each.pids for each in find_sockets().sockets}
                pid = _choose(pids, [holder for inode in inodes for holder in holders.get(inode, ())])
                found.append(OtherNamespace(pid, describe(pid).name, member))
    return Elsewhere(processes=tuple(found))


def _namespaces() -> list[list[int]]:
    """Return the processes of each other network namespace."""
    own = (_PROC / "thread-self" / _ANY_TABLE).stat().st_ino
    namespaces: dict[int, list[int]] = {}
    for pid in sorted(int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()):
        with contextlib.suppress(OSError):  # It has ended.
            inode = (_PROC / str(pid) / _ANY_TABLE).stat().st_ino
            if inode != own:
                namespaces.setdefault(inode, []).append(pid)
    return list(namespaces.values())


def _choose(there: Collection[int], holders: Collection[int]) -> int:
    """Return a process of the namespace: one that holds a socket on the port, as far as that is seen."""
    return min(set(holders).intersection(there) or there)
