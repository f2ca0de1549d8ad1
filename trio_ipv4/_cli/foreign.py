"""Sockets of other processes: looked at through a duplicate of the descriptor, and never changed.

A duplicate shares all of the socket, O_NONBLOCK too: whatever is set on it is set on the owner's. So nothing is set
here, and no connection of the library is made of it. Closing a duplicate leaves the owner's memberships alone.

The kernel does one thing by itself: whoever receives a socket puts it into the receiver's class of the control groups
`net_cls` and `net_prio` (`__receive_sock` in net/core/sock.c). `classes_of` tells processes of other classes apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.libc import libc
from trio_ipv4._cli.merge import Filter
from trio_ipv4._cli.pidfd import pidfd_getfd, pidfd_open

if TYPE_CHECKING:
    from collections.abc import Iterator

_SO_MEMINFO: Final = 55  # asm-generic/socket.h
_MEMORY: Final = struct.Struct("=9I")
_RMEM: Final = 0  # linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC, and those below
_RCVBUF: Final = 1
_OPTMEM: Final = 6
_DROPS: Final = 8
_SO_GET_FILTER: Final = 26  # asm-generic/socket.h
_MCAST_MSFILTER: Final = 48  # linux/in.h
# struct group_filter (linux/in.h): interface index, group as sockaddr_storage, mode, number of sources; then these.
_GROUP_FILTER: Final = struct.Struct("@I0PHH4s120xII")
_SOURCE: Final = struct.Struct("@HH4s120x")
_MCAST_INCLUDE: Final = 1  # linux/in.h
_CLASSES: Final = {"net_cls", "net_prio"}
_SMALLEST_MEMBERSHIP: Final = 32
"""Octets of a struct ip_mc_socklist (linux/igmp.h): 48 where a pointer has 64 bits, 32 where it has 32."""


@contextlib.contextmanager
def duplicate(pid: int, number: int, inode: int | None) -> Iterator[socket.socket]:
    """Duplicate a descriptor of a process, and give it back at the end.

    Args:
        pid: The process.
        number: The descriptor.
        inode: The socket's. `None`: whichever socket it is.

    Raises:
        OSError: EPERM: not allowed. ENOSYS: an older kernel, a sandbox, or PyPy. ESRCH, EBADF: the process is gone, or
            the descriptor, or it is another socket by now. ENOTSOCK: it is none.
    """
    process = pidfd_open(pid)
    try:
        descriptor = pidfd_getfd(process, number)
    finally:
        os.close(process)
    try:
        duplicated = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)  # It is no socket any more.
        raise
    with duplicated:
        if inode is not None and os.fstat(descriptor).st_ino != inode:
            raise ProcessLookupError
        yield duplicated


def classes_of(pid: int) -> list[str]:
    """Return a process's control groups of those kinds: lines as `7:net_cls,net_prio:/path` (cgroups(7))."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        return [line for line in lines if not _CLASSES.isdisjoint(line.partition(":")[2].partition(":")[0].split(","))]
    return []


@attrs.frozen
class Memory:
    """The memory that a socket takes, in octets: its queue, SO_RCVBUF, its options; and the datagrams it dropped."""

    queued: int
    buffer: int
    options: int
    drops: int


def memory_of(of: socket.socket) -> Memory:
    """Return the memory that a socket takes."""
    fields = _MEMORY.unpack(of.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))
    return Memory(*(fields[place] for place in (_RMEM, _RCVBUF, _OPTMEM, _DROPS)))


def most_memberships(of: socket.socket) -> int:
    """Return how many memberships a socket can have at most, by the memory that its options take."""
    return memory_of(of).options // _SMALLEST_MEMBERSHIP


def filter_length(of: socket.socket) -> int | None:
    """Return how many instructions a socket's BPF program has; 0: it has none.

    One of eBPF counts as 1: its length is not told. `None`: the kernel doesn't say.
    """
    # In instructions; with room for none the kernel tells their number alone (sk_get_filter in net/core/filter.c).
    length = ctypes.c_uint32(0)
    place = ctypes.byref(length)
    if not libc().getsockopt(of.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, place):
        return length.value
    return 1 if ctypes.get_errno() == errno.EACCES else None


class Question:
    """The question what a socket hears of a group on an interface. It can be put to many sockets.

    Args:
        ifindex: The interface's index.
        group: The group.
    """

    def __init__(self, ifindex: int, group: IPv4Address) -> None:
        self.ifindex: Final = ifindex
        self.group: Final = group
        self._fields: Final = ifindex, socket.AF_INET, 0, group.packed, 0
        # A thousand sockets may be asked about hundreds of groups, and nearly all say no: that way is short.
        self._buffer, self._length, self._pointer = self._prepare(0)

    def put(self, descriptor: int) -> Filter | None:
        """Return the socket's filter, or `None` if it is no member there."""
        room = 0
        while not libc().getsockopt(descriptor, socket.IPPROTO_IP, _MCAST_MSFILTER, self._buffer, self._pointer):
            answer = bytes(self._buffer)
            *_, mode, number = _GROUP_FILTER.unpack_from(answer)
            if number <= room:
                self._buffer, self._length, self._pointer = self._prepare(0)
                return _read_filter(mode, answer[_GROUP_FILTER.size :][: number * _SOURCE.size])
            # The kernel told how many sources there are: ask again, with room for them.
            room = number
            self._buffer, self._length, self._pointer = self._prepare(room)
        # EADDRNOTAVAIL, with nothing written.
        return None

    def _prepare(self, room: int) -> tuple[ctypes.Array[ctypes.c_char], ctypes.c_uint32, object]:
        size = _GROUP_FILTER.size + room * _SOURCE.size
        length = ctypes.c_uint32(size)
        return ctypes.create_string_buffer(_GROUP_FILTER.pack(*self._fields, room), size), length, ctypes.byref(length)


def _read_filter(mode: int, sources: bytes) -> Filter:
    return Filter(
        "include" if mode == _MCAST_INCLUDE else "exclude",
        frozenset(IPv4Address(packed) for _, _, packed in _SOURCE.iter_unpack(sources)),
    )
