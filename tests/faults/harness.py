"""A world in which everything can fail: what a scenario needs, what must hold whatever happens, and refusals on order.

The oracles are the kernel's tables, read here by ctypes and from /proc, and never the library's bookkeeping.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import ctypes
import errno
import os
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from support.filters import kernel_filter, spell
from support.links import ip
from trio_ipv4 import PacketConn, RawConn, SourceFilter, open_udp
from trio_ipv4._kernel import batch, groups, libc, lookup
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    import pytest


ALL_HOSTS = IPv4Address("224.0.0.1")
NOTHING = SourceFilter.none()
GETSOCKOPT = socket.socket.getsockopt


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
            if conn.socket.fileno() < 0:
                continue
            memberships = conn.memberships
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
    "sendto": (errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.ECONNREFUSED),
}
SO_NETNS_COOKIE = 71  # asm-generic/socket.h
MEMBERSHIP = {42: "join", 46: "join", 45: "leave", 48: "filter"}
"""MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_GROUP, MCAST_MSFILTER (linux/in.h)."""


class Refusals:
    """Stand at the kernel's door: count the library's calls, and refuse the n-th one with an errno.

    Only what `trio_ipv4` calls counts, trio's own calls and the tests' do not.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._seen: collections.Counter[str] = collections.Counter()
        self._active = False
        self._refused: tuple[str, int] | None = None
        self._errno = 0
        for name in ("bind", "recvmsg", "recv", "sendto"):
            self._wrap(monkeypatch, socket.socket, name)
        self._wrap(monkeypatch, socket.socket, "getsockopt", self._kind_of_reading)
        self._wrap(monkeypatch, socket.socket, "setsockopt", self._kind_of_option)
        self._wrap(monkeypatch, socket.socket, "__init__", self._kind_of_socket)
        self._wrap(monkeypatch, socket, "if_nameindex")
        self._wrap(monkeypatch, lookup, "ioctl", self._kind_of_ioctl)
        monkeypatch.setattr(groups, "open", builtins.open, raising=False)
        self._wrap(monkeypatch, groups, "open")
        receive, send = libc.mmsg_calls()
        calls = self._c_call(receive, "recvmmsg"), self._c_call(send, "sendmmsg")
        monkeypatch.setattr(libc, "mmsg_calls", lambda: calls)
        if batch.compiled is not None:
            monkeypatch.setattr(batch, "compiled", _Compiled(batch.compiled, self._next))
        read = libc.getsockopt

        def read_filter(*arguments: Any) -> bytes:
            if number := self._next("read filter"):
                raise OSError(number, os.strerror(number))
            return read(*arguments)

        monkeypatch.setattr(libc, "getsockopt", read_filter)

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

    def _next(self, kind: str) -> int:
        if not self._active:
            return 0
        ordinal = self._seen[kind]
        self._seen[kind] += 1
        self.calls.append(kind)
        return self._errno if (kind, ordinal) == self._refused else 0

    def _wrap(
        self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind_of: Callable[..., str | None] | None = None
    ) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            kind = name if kind_of is None else kind_of(*arguments, **keywords)
            if kind is not None and is_ours() and (number := self._next(kind)):
                raise OSError(number, os.strerror(number))
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    def _c_call(self, original: Callable[..., int], kind: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if number := self._next(kind):
                ctypes.set_errno(number)
                return -1
            return original(*arguments)

        return call

    @staticmethod
    def _kind_of_option(_: socket.socket, level: int, option: int, *_value: Any) -> str:
        return MEMBERSHIP.get(option, "setsockopt") if level == socket.IPPROTO_IP else "setsockopt"

    @staticmethod
    def _kind_of_reading(_: socket.socket, level: int, option: int, *_size: int) -> str:
        return "cookie" if (level, option) == (socket.SOL_SOCKET, SO_NETNS_COOKIE) else "getsockopt"

    @staticmethod
    def _kind_of_ioctl(_: int, request: int, *_value: Any) -> str:
        return "SIOCGIFCONF" if request == lookup.SIOCGIFCONF else "ioctl"

    @staticmethod
    def _kind_of_socket(_: socket.socket, *_arguments: Any, fileno: int | None = None) -> str | None:
        return "socket" if fileno is None else None


class _Compiled:
    """`_mmsg`, with refusals. What it does itself, in C, is done here: EINTR is tried again, an empty queue is 0."""

    def __init__(self, original: Any, next_refusal: Callable[[str], int]) -> None:
        self.values, self.columns = original.values, original.columns
        self._original = original
        self._next = next_refusal

    def receive(self, *arguments: Any) -> int:
        number = self._next("recvmmsg")
        return 0 if number == errno.EAGAIN else self._try(number, self._original.receive, *arguments)

    def send(self, *arguments: Any) -> int:
        return self._try(self._next("sendmmsg"), self._original.send, *arguments)

    @staticmethod
    def _try(number: int, original: Callable[..., int], *arguments: Any) -> int:
        if number and number != errno.EINTR:
            raise OSError(number, os.strerror(number))
        return original(*arguments)


def is_ours() -> bool:
    """Tell whether the library makes this call, by itself or through trio's socket."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "trio._socket":
        frame = frame.f_back  # type: ignore[assignment]
    name = str(frame.f_globals.get("__name__", "")) if frame is not None else ""
    return name.startswith("trio_ipv4.") and not name.startswith("trio_ipv4.testing")
