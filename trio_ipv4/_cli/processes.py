"""Which process holds which socket, by /proc.

A process shows its descriptors to its own user, and to root. The file system of sockets tells each one's kind without a
duplicate; so only those are looked at that can be members of a group.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC: Final = Path("/proc")
_SOCKET: Final = re.compile(r"socket:\[([0-9]+)\]")
_KIND: Final = "system.sockprotoname"
"""An extended attribute (net/socket.c): the name of the socket's struct proto."""
_KINDS: Final = {
    b"UDP": "udp",
    b"UDPv6": "udp6",
    b"UDP-Lite": "udplite",
    b"UDPLITEv6": "udplite6",
    b"RAW": "raw",
    b"PING": "icmp",
    b"PINGv6": "icmp6",
}
"""Those that can be members of IPv4 groups, and our names. TCP, packet sockets and IPv6's raw sockets can't."""
_PF_KTHREAD: Final = 0x0020_0000  # linux/sched.h
_FLAGS_AT: Final = 6
"""The place of a process's flags in /proc/PID/stat, from the state on."""


@attrs.frozen
class Process:
    """A process: its name, and its effective user."""

    pid: int
    name: str
    user: str


@attrs.define
class Socket:
    """A socket, and the descriptors by which processes hold it.

    Args:
        inode: Its number, which no other socket on this machine has.
        protocol: Its kind.
        holders: Pairs of process and descriptor.
    """

    inode: int
    protocol: str
    holders: list[tuple[int, int]] = attrs.field(factory=list)

    @property
    def pids(self) -> list[int]:
        """The processes that hold it."""
        return list(dict.fromkeys(pid for pid, _ in self.holders))


@attrs.frozen
class Held:
    """The sockets that were found, and how many processes don't show theirs."""

    sockets: tuple[Socket, ...]
    unreadable: int


def find_sockets() -> Held:
    """Look through all processes for sockets that can be members of IPv4 groups, in whatever network namespace."""
    found: dict[int, Socket | None] = {}
    unreadable = 0
    for pid in sorted(int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()):
        try:
            for number, inode in descriptors(pid):
                if inode not in found:
                    with contextlib.suppress(FileNotFoundError):
                        found[inode] = _identify(pid, number, inode)
                if (socket := found.get(inode)) is not None:
                    socket.holders.append((pid, number))
        except PermissionError:
            unreadable += not _is_kernel_thread(pid)
        except OSError:
            # The process has ended.
            continue
    return Held(tuple(socket for socket in found.values() if socket is not None), unreadable)


def own_sockets() -> frozenset[int]:
    """Return the inodes of this process's own sockets, of whatever kind."""
    return frozenset(inode for _, inode in descriptors("self"))


def describe(pid: int) -> Process:
    """Return a process's name and user; one that has ended meanwhile has neither."""
    name = user = ""
    with contextlib.suppress(OSError):
        name = _read(pid, "comm").rstrip("\n")
        # "Uid:", and the real, effective, saved and file system's user.
        user = user_name(int(_read(pid, "status").partition("\nUid:")[2].split(maxsplit=2)[1]))
    return Process(pid, name, user)


def state_of(pid: int) -> str:
    """Return a process's state, as /proc/PID/stat has it: R, S, D; T: stopped. Empty: it has ended."""
    with contextlib.suppress(OSError):
        return _stat(pid)[0]
    return ""


def is_there(pid: int) -> bool:
    """Tell whether there is such a process, whatever /proc shows of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def user_name(number: int) -> str:
    """Return a user's name, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def find_network(pid: int) -> bool | None:
    """Tell whether a process is in this thread's network namespace; `None`: it doesn't show it."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "ns" / "net").readlink() == (_PROC / "thread-self" / "ns" / "net").readlink()
    return None


def shares_network(pid: int) -> bool:
    """Tell whether a process is in this thread's network namespace, as far as it shows."""
    return find_network(pid) is True


def process_of(pid: int) -> int:
    """Return the process of a thread, which has a number of its own; of one that has ended, the number itself."""
    number = ""
    with contextlib.suppress(OSError):
        number = _read(pid, "status").partition("\nTgid:")[2].partition("\n")[0].strip()
    return int(number) if number else pid


def descriptors(pid: int | str) -> Iterator[tuple[int, int]]:
    """Return a process's descriptors of sockets, each with the socket's inode."""
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := _SOCKET.fullmatch(str(descriptor.readlink())):
                yield int(descriptor.name), int(match[1])


def _identify(pid: int, number: int, inode: int) -> Socket | None:
    kind = os.getxattr(f"{_PROC}/{pid}/fd/{number}", _KIND).rstrip(b"\0")
    return Socket(inode, _KINDS[kind]) if kind in _KINDS else None


def _is_kernel_thread(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(int(_stat(pid)[_FLAGS_AT]) & _PF_KTHREAD)
    return False


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (proc_pid_stat(5))."""
    # The name stands in parentheses, and may hold some.
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, file: str) -> str:
    return (_PROC / str(pid) / file).read_text(encoding="utf-8", errors="surrogateescape")
