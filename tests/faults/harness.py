"""A world in which everything can fail: what a scenario needs, what must hold whatever happens, and refusals on order.

The oracles are the kernel's tables, read here by ctypes and from /proc, and never the library's bookkeeping.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import os
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from support.filters import kernel_filter, spell
from support.here import igmp_groups, is_closed
from support.links import ip
from trio_ipv4 import PacketConn, RawConn, SourceFilter, open_udp
from trio_ipv4._kernel import libc
from trio_ipv4._kernel.calls import by_ctypes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    import pytest

    from trio_ipv4._kernel.system import Socket, System


ALL_HOSTS = IPv4Address("224.0.0.1")
NOTHING = SourceFilter.none()


class World(trio.abc.Instrument):
    """Two interfaces, a route for groups, and the connections that a scenario has open.

    As an instrument it looks at every scheduling point: the ledger of each connection that lives equals the kernel's
    tables.
    """

    def __init__(self) -> None:
        ip(
            "link add en0 index 10 type veth peer name far0",
            "link add en1 index 11 type veth peer name far1",
            "address add 198.18.0.1/24 dev en0",
            "address add 198.18.1.1/24 dev en1",
            *(f"link set {name} up" for name in ("en0", "en1", "far0", "far1")),
            "route add 224.0.0.0/4 dev en0",
        )
        self.conns: list[PacketConn | RawConn] = []
        self.problems: list[str] = []
        self.marks: list[str] = []
        self.looks = 0
        self.may_stay = False  # Whether a leave is refused in this run.
        self.sees_all = True  # Whether every connection that a scenario has is in `conns`.
        self.groups = igmp_groups()
        self.descriptors = descriptors()
        self.tasks = trio.lowlevel.current_statistics().tasks_living

    @contextlib.asynccontextmanager
    async def open(self, *, scoped: bool = True, **options: Any) -> AsyncIterator[PacketConn]:
        """Open a connection. At its end, before it closes, all of its scopes have left."""
        async with self.watch(open_udp(**options)) as conn:
            try:
                yield conn
            finally:
                self.look()
                if scoped and not self.may_stay:
                    still = [key for key in self.joined() if kernel_filter(conn, key) is not None]
                    self.problems += [f"{group} on {index} outlived its scope" for index, group in still]

    def watch(self, conn: PacketConn) -> PacketConn:
        self.conns.append(conn)
        return conn

    def reached(self, *marks: str) -> None:
        """Note how far a scenario has come. That it has to come there only holds when nothing is refused."""
        self.marks += marks

    def after_task_step(self, _: trio.lowlevel.Task) -> None:
        try:
            self.look()
        except Exception as error:  # trio would only log it, and call no more.
            self.problems.append(f"could not look: {error!r}")

    def look(self) -> None:
        """Compare every ledger with the kernel's tables. An instrument can't raise, so what differs is noted."""
        self.looks += 1
        ledgers = set()
        for conn in self.conns:
            if is_closed(conn):
                continue
            memberships = {entry.key: entry.has for entry in conn._ledger._members()}
            ledgers |= set(memberships)
            for index, group in {*memberships, *self.joined()}:
                found = kernel_filter(conn, (index, group))
                if found != spell(memberships.get((index, group), NOTHING)):
                    self.problems.append(f"{group} on {index}: kernel {found}, ledger {memberships}")
        if self.sees_all and self.joined() - ledgers:
            self.problems.append(f"nobody's: {self.joined() - ledgers}")

    def joined(self) -> set[tuple[int, IPv4Address]]:
        return set(igmp_groups()) - set(self.groups)

    def check(self) -> None:
        """Check that a run, which has ended, left nothing, and that nothing was wrong on the way."""
        problems, self.problems = self.problems, []
        self.conns.clear()
        assert not problems
        assert igmp_groups() == self.groups
        assert descriptors() == self.descriptors
        assert trio.lowlevel.current_statistics().tasks_living == self.tasks


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What each call may be refused with, as far as the kernel's state does not decide it: EADDRNOTAVAIL for a leave, say,
# would be a lie as long as the membership is there. EPERM comes from seccomp, LSMs and cgroups' BPF programs.
ANY_OPTION = (errno.EPERM, errno.ENOMEM, errno.ENOBUFS)
ERRNOS: Mapping[str, tuple[int, ...]] = {
    "socket": (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EACCES),
    "bind": (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.ENOMEM, errno.EPERM),
    "setsockopt": (*ANY_OPTION, errno.EINVAL, errno.ENOPROTOOPT, errno.ENODEV),
    "getsockopt": (errno.EPERM, errno.EINVAL, errno.ENOPROTOOPT),
    "cookie": (errno.ENOPROTOOPT, errno.EPERM),
    "join": (*ANY_OPTION, errno.ENODEV, errno.EINVAL, errno.EADDRINUSE, errno.EINTR),
    "leave": ANY_OPTION,
    "filter": (*ANY_OPTION, errno.ENODEV, errno.EINVAL, errno.EADDRNOTAVAIL, errno.ESRCH),
    "read filter": (*ANY_OPTION, errno.EINVAL),
    "ioctl": (errno.ENODEV,),
    "SIOCGIFCONF": (errno.EPERM, errno.ENOMEM),
    "if_nameindex": (errno.EMFILE, errno.ENOBUFS),
    "open": (errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    "recvmmsg": (
        errno.EAGAIN,
        errno.EINTR,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EMSGSIZE,
    ),
    "sendmmsg": (
        errno.EAGAIN,
        errno.EINTR,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENOBUFS,
        errno.ENODEV,
        errno.EMSGSIZE,
        errno.EPERM,
        errno.EINVAL,
        errno.EIO,
    ),
    # Netlink. EINTR is hidden by Python (PEP 475).
    "recvmsg": (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM),
    "recv": (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM),
    "receive_error": (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EPERM),
    "connect": (errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EINVAL),
    "sendto": (errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.ECONNREFUSED),
}
READINGS = {(socket.SOL_SOCKET, 71): "cookie"}  # SO_NETNS_COOKIE, asm-generic/socket.h
MEMBERSHIP = {42: "join", 46: "join", 45: "leave", 48: "filter"}
"""MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_GROUP, MCAST_MSFILTER (linux/in.h)."""


class Refusals:
    """Stand at the seam, before the system's own calls: count the library's calls, and refuse the n-th with an errno.

    It is a system itself, for a program to be on. Only what the library calls comes here: trio and the tests call
    Python's sockets.
    """

    def __init__(self, system: System) -> None:
        self.platform = system.platform
        self.calls: list[str] = []
        self._system = system
        self._seen: collections.Counter[str] = collections.Counter()
        self._active = False
        self._refused: tuple[str, int] | None = None
        self._errno = 0

    @contextlib.contextmanager
    def refusing(self, refused: tuple[str, int] | None, with_errno: int = 0) -> Iterator[None]:
        """Refuse the n-th call of a kind, counted from 0; none if `refused` is `None`."""
        self.calls.clear()
        self._seen.clear()
        self._active, self._refused, self._errno = True, refused, with_errno
        try:
            yield
        finally:
            self._active = False

    def next(self, kind: str) -> int:
        """Count a call, and return the errno to refuse it with; 0 to let it pass."""
        if not self._active:
            return 0
        ordinal = self._seen[kind]
        self._seen[kind] += 1
        self.calls.append(kind)
        return self._errno if (kind, ordinal) == self._refused else 0

    def call(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if number := self.next(kind):
            raise OSError(number, os.strerror(number))
        return function(*arguments)

    def stand_before_ctypes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refuse below the way by ctypes, which sees EINTR, tries again, and takes EAGAIN for an empty queue."""
        calls = [
            self._c_call(original, kind)
            for original, kind in zip(libc.mmsg_calls(), ("recvmmsg", "sendmmsg"), strict=True)
        ]
        monkeypatch.setattr(libc, "mmsg_calls", lambda: calls)

    def _c_call(self, original: Callable[..., int], kind: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if number := self.next(kind):
                ctypes.set_errno(number)
                return -1
            return original(*arguments)

        return call

    # The system

    def socket(self, family: int, kind: int, protocol: int) -> Socket:
        return self._watch(self.call("socket", self._system.socket, family, kind, protocol))

    def adopt(self, handle: Any) -> Socket:
        return self._watch(self._system.adopt(handle))

    def if_nameindex(self) -> list[tuple[int, str]]:
        return self.call("if_nameindex", self._system.if_nameindex)  # type: ignore[no-any-return]

    def igmp_table(self) -> str | None:
        return None if self.next("open") else self._system.igmp_table()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def _watch(self, socket: Any) -> Socket:
        watched: Socket = WatchedSocket(self, socket)  # type: ignore[assignment]
        return watched


class WatchedSocket:
    """A socket, with refusals."""

    def __init__(self, system: Refusals, socket: Any) -> None:
        self.system = system
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def bind(self, address: Any) -> None:
        self.system.call("bind", self._socket.bind, address)

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        kind = MEMBERSHIP.get(name, "setsockopt") if level == socket.IPPROTO_IP else "setsockopt"
        self.system.call(kind, self._socket.setsockopt, level, name, value)

    def getsockopt(self, level: int, name: int, value: bytes) -> bytes:
        kind = READINGS.get((level, name), "read filter" if any(value) else "getsockopt")
        return self.system.call(kind, self._socket.getsockopt, level, name, value)  # type: ignore[no-any-return]

    def ioctl(self, request: int, value: bytes) -> bytes:
        return self.system.call("ioctl", self._socket.ioctl, request, value)  # type: ignore[no-any-return]

    def ifconf(self) -> bytes:
        return self.system.call("SIOCGIFCONF", self._socket.ifconf)  # type: ignore[no-any-return]

    def recvmsg(self, size: int, flags: int = 0) -> Any:
        kind = "recv" if flags else "recvmsg"
        return self.system.call(kind, self._socket.recvmsg, size, flags)

    def sendto(self, data: bytes, address: Any) -> int:
        return self.system.call("sendto", self._socket.sendto, data, address)  # type: ignore[no-any-return]

    def receive_error(self) -> Any:
        return self.system.call("receive_error", self._socket.receive_error)

    def connect(self, address: Any) -> None:
        self.system.call("connect", self._socket.connect, address)

    def receiver(self) -> Any:
        receiver = self._socket.receiver()
        return receiver if _is_by_ctypes(receiver) else WatchedReceiver(self.system, receiver)

    def sender(self) -> Any:
        sender = self._socket.sender()
        return sender if _is_by_ctypes(sender) else WatchedSender(self.system, sender)


class WatchedReceiver:
    """The compiled receiver, with refusals. C itself tries EINTR again, and takes EAGAIN for an empty queue."""

    def __init__(self, system: Refusals, receiver: Any) -> None:
        self._system = system
        self._receiver = receiver

    def receive(self, *arguments: Any) -> Any:
        number = self._system.next("recvmmsg")
        if number == errno.EAGAIN:
            return None
        if number and number != errno.EINTR:
            raise OSError(number, os.strerror(number))
        return self._receiver.receive(*arguments)


class WatchedSender:
    """The compiled sender, with refusals."""

    def __init__(self, system: Refusals, sender: Any) -> None:
        self._system = system
        self._sender = sender
        self.columns = sender.columns

    def send(self, *arguments: Any) -> tuple[int, OSError | None]:
        number = self._system.next("sendmmsg")
        if number and number != errno.EINTR:
            return 0, OSError(number, os.strerror(number))
        return self._sender.send(*arguments)  # type: ignore[no-any-return]


def _is_by_ctypes(part: Any) -> bool:
    return type(getattr(part, "_way", None)).__module__ == by_ctypes.__name__
