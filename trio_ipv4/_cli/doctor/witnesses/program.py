"""What the sockets of a running program are: asked through duplicates of their descriptors (pidfd_getfd(2)).

Needs the program's own user (and Yama's consent, kernel.yama.ptrace_scope), or CAP_SYS_PTRACE. While a duplicate is
open, the program's close() does not leave its groups: each is open for well under a millisecond for each group. Nothing
is set on it, and nothing is read from its queue.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from trio_ipv4._cli import processes
from trio_ipv4._cli.doctor.evidence import Held, Phase, Program, ProgramSocket
from trio_ipv4._cli.foreign import Question, classes_of, duplicate, filter_length, memory_of, most_memberships
from trio_ipv4._cli.netlink import network_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_GUESSED: Final = range(256)
"""Descriptors to try where /proc doesn't list them: CAP_SYS_PTRACE alone lets them be duplicated all the same."""
_LEAST_INDEXES: Final = 64
_MORE_INDEXES: Final = 8
"""An interface that is gone had an index up to somewhat more than the highest one: indexes are given in order."""
_MOST_INDEXES: Final = 1024
"""Each question takes a microsecond or two, and a busy host of containers has had many interfaces."""
_MOST_OTHERS: Final = 1024
_SO_BINDTOIFINDEX: Final = 62  # asm-generic/socket.h
_IP_MULTICAST_ALL: Final = 49  # linux/in.h
_IP_MTU_DISCOVER: Final = 10  # linux/in.h
_MREQN: Final = 12
"""In octets: struct ip_mreqn (linux/in.h): group, address, interface index."""
_INDEX: Final = struct.Struct("=i")
_INDEX_AT: Final = 8
_REFUSALS: Final = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH}
"""Errors that the next descriptor will have as well. Any other: the descriptor is closed by now, or is no socket."""


def look(
    pid: int,
    group: IPv4Address,
    ifindexes: Collection[int],
    others: Collection[tuple[int, IPv4Address]] = (),
    network: bytes | None = None,
    phase: Phase = "before",
) -> Program:
    """Ask the UDP sockets of a process.

    Args:
        pid: The process, or one of its threads.
        group: What to ask about, on every interface.
        ifindexes: The interfaces that exist. Others are asked about, too: a membership outlives its interface.
        others: The other memberships of this host, by interface and group.
        network: What identifies this network namespace (`netlink.network_of`).
        phase: When this is.
    """
    state = processes.state_of(pid)
    if not state:
        return Program(pid, refused="ESRCH", phase=phase)
    keys = [*((index, group) for index in _indexes(ifindexes)), *sorted(others)[:_MOST_OTHERS]]
    sockets, refused = _ask(processes.process_of(pid), [Question(*key) for key in keys], network)
    name, here = processes.describe(pid).name, processes.find_network(pid)
    return Program(pid, name, state, here, refused, tuple(sockets), phase=phase)


def _indexes(existing: Collection[int]) -> list[int]:
    """Return the interfaces that are, and those that may have been: indexes are given in ascending order."""
    highest = max(_LEAST_INDEXES, max(existing, default=0) + _MORE_INDEXES)
    return sorted({*existing, *range(max(1, highest - _MOST_INDEXES), highest + 1)})


def _ask(pid: int, questions: list[Question], network: bytes | None) -> tuple[list[ProgramSocket], str | None]:
    """Return the sockets, and the errno by which they could not be asked."""
    found: list[ProgramSocket] = []
    if classes_of(pid) != classes_of(os.getpid()):
        return found, "EXDEV"  # It would put the sockets into our class.
    for number, inode in _descriptors(pid):
        try:
            with duplicate(pid, number, inode) as duplicated:
                if _is_udp(duplicated):
                    found.append(_describe(duplicated, number, questions, network))
        except OSError as error:
            if error.errno in _REFUSALS:
                return found, errno.errorcode[error.errno or 0]
    return found, None


def _descriptors(pid: int) -> Iterator[tuple[int, int | None]]:
    """Return a process's descriptors of sockets with their inodes, or all that it may have, without."""
    try:
        yield from sorted(processes.descriptors(pid))
    except PermissionError:
        yield from ((number, None) for number in _GUESSED)
    except OSError:
        return  # It has ended.


def _is_udp(of: socket.socket) -> bool:
    return of.family in {socket.AF_INET, socket.AF_INET6} and (of.type, of.proto) == (
        socket.SOCK_DGRAM,
        socket.IPPROTO_UDP,
    )


def _describe(of: socket.socket, number: int, questions: list[Question], network: bytes | None) -> ProgramSocket:
    local, port, *_ = of.getsockname()
    memory = memory_of(of)
    own = network_of(of)
    address, index = _multicast_interface(of)
    return ProgramSocket(
        number,
        os.fstat(of.fileno()).st_ino,
        4 if of.family == socket.AF_INET else 6,
        local,
        port,
        here=None if network is None or own is None else own == network,
        peer=_peer(of),
        ifindex=_option(of, socket.SOL_SOCKET, _SO_BINDTOIFINDEX) or None,
        multicast_all=_switch(of, socket.IPPROTO_IP, _IP_MULTICAST_ALL),
        only_ipv6=_switch(of, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) if of.family == socket.AF_INET6 else None,
        filter_length=filter_length(of),
        queued=memory.queued,
        buffer=memory.buffer,
        drops=memory.drops,
        option_memory=memory.options,
        multicast_ttl=_option(of, socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
        multicast_loop=_switch(of, socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP),
        multicast_interface=address,
        multicast_ifindex=index,
        path_mtu_discovery=_option(of, socket.IPPROTO_IP, _IP_MTU_DISCOVER),
        memberships=tuple(_memberships(of, questions)),
    )


def _memberships(of: socket.socket, questions: list[Question]) -> Iterator[Held]:
    # Options at the level of IPv4 are the same for a socket of IPv6 (ipv6_getsockopt in net/ipv6/ipv6_sockglue.c).
    left = most_memberships(of)
    for question in questions:
        if left <= 0:
            return
        if (held := question.put(of.fileno())) is not None:
            left -= 1
            yield Held(question.ifindex, question.group, held.mode, tuple(sorted(held.sources)))


def _peer(of: socket.socket) -> str | None:
    with contextlib.suppress(OSError):
        return str(of.getpeername()[0])
    return None


def _multicast_interface(of: socket.socket) -> tuple[str | None, int | None]:
    """Return IP_MULTICAST_IF as an address and, from a kernel that tells it, as an index. Linux 6.18 does not."""
    with contextlib.suppress(OSError):
        answer = of.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN)
        if len(answer) < _MREQN:
            return str(IPv4Address(answer[:4])), None
        return str(IPv4Address(answer[4:8])), _INDEX.unpack_from(answer, _INDEX_AT)[0] or None
    return None, None


def _option(of: socket.socket, level: int, option: int) -> int | None:
    with contextlib.suppress(OSError):
        return of.getsockopt(level, option)
    return None


def _switch(of: socket.socket, level: int, option: int) -> bool | None:
    value = _option(of, level, option)
    return None if value is None else bool(value)
