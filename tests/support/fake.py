"""A system with nothing of the kernel in it: one host, one loopback interface, groups, and datagrams to them."""

from __future__ import annotations

import collections
import errno
import itertools
import os
import struct
from typing import Any, Final

import trio

from trio_ipv4._abi import structs
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._kernel.calls import Received
from trio_ipv4._kernel.calls.columns import take_apart

JOIN: Final = 0, LINUX.option("MCAST_JOIN_GROUP").name
LEAVE: Final = 0, LINUX.option("MCAST_LEAVE_GROUP").name
ANSWERS: Final = {
    # What goes where in a struct ifreq (linux/if.h).
    LINUX.number("SIOCGIFINDEX"): (16, struct.pack("i", 1)),
    LINUX.number("SIOCGIFNAME"): (0, b"lo\0"),
    LINUX.number("SIOCGIFFLAGS"): (16, struct.pack("H", 0x9)),  # IFF_UP, IFF_LOOPBACK
}


def refuse(number: int) -> Any:
    raise OSError(number, os.strerror(number))


class FakeSystem:
    """One host, whose interface "lo" has index 1."""

    platform = LINUX

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.ports = itertools.count(40000)

    def socket(self, _family: int, kind: int, _protocol: int) -> FakeSocket:
        self.sockets.append(FakeSocket(self, kind))
        return self.sockets[-1]

    def adopt(self, _handle: Any) -> FakeSocket:
        raise TypeError("a fake system has no sockets of anybody else's")

    def if_nameindex(self) -> list[tuple[int, str]]:
        return [(1, "lo")]

    def process(self) -> int:
        return 1

    def nothing(self, *_: Any) -> None:
        pass

    sysctl = igmp_table = uptime = check_home = nothing


class FakeSocket:
    """A UDP socket that hears the groups that it joined."""

    def __init__(self, system: FakeSystem, kind: int) -> None:
        self.system, self.kind = system, kind
        self.handle = FakeTrioSocket(self)
        self.name = "0.0.0.0", 0
        self.groups: set[bytes] = set()
        self.queue: collections.deque[tuple[bytes, bytes]] = collections.deque()
        self.options: dict[tuple[int, int], bytes] = {}

    def fileno(self) -> int:
        return self.system.sockets.index(self) if self in self.system.sockets else -1

    def bind(self, address: Any) -> None:
        self.name = address[0], address[1] or next(self.system.ports)

    def getsockname(self) -> Any:
        return self.name

    def getpeername(self) -> Any:
        return refuse(errno.ENOTCONN)

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        if (change := {JOIN: self.groups.add, LEAVE: self.groups.remove}.get((level, name))) is not None:
            change(value[12:16])  # struct group_req: a sockaddr_in at 8, its address at 4.
        self.options[level, name] = value

    def getsockopt(self, level: int, name: int, _value: bytes) -> bytes:
        return self.options.get((level, name)) or refuse(errno.ENOPROTOOPT)

    def ioctl(self, request: int, value: bytes) -> bytes:
        at, answer = ANSWERS[request]
        return value[:at] + answer + value[at + len(answer) :]

    def unsupported(self, *_: Any) -> Any:
        refuse(errno.EOPNOTSUPP)

    ifconf = attach_bpf = recvmsg = sendto = receive_error = connect = unsupported

    def is_shut_down(self) -> bool:
        return False

    def itself(self) -> FakeSocket:
        return self

    receiver = sender = itself

    def receive(self, _descriptor: int, limit: int, max_bytes: int, _recipe: Any = None) -> Received | None:
        rows = [self.queue.popleft() for _ in range(min(limit, len(self.queue)))]
        return Received([data[:max_bytes] for data, _ in rows], [name for _, name in rows], b"", None) if rows else None

    def send(self, _descriptor: int, payloads: Any, names: Any, _controls: Any) -> tuple[int, OSError | None]:
        source = structs.sockaddr_in(LINUX, bytes([127, 0, 0, 1]), self.name[1])
        for payload, name in zip(payloads, names, strict=True):
            group, port = structs.parse_sockaddr_in(name)
            for each in self.system.sockets:
                if group in each.groups and each.name[1] == port:
                    each.queue.append((payload, source))
                    each.handle.readable.unpark_all()
        return len(payloads), None

    columns = staticmethod(take_apart)

    def close(self) -> None:
        self.system.sockets.remove(self)


class FakeTrioSocket(trio.socket.SocketType):
    """Trio's side of it."""

    family, type = trio.socket.AF_INET, trio.socket.SOCK_DGRAM

    def __init__(self, socket: FakeSocket) -> None:
        self.system_socket, self.readable = socket, trio.lowlevel.ParkingLot()

    def close(self) -> None:
        self.system_socket.close()
        self.readable.unpark_all()

    def fileno(self) -> int:
        return self.system_socket.fileno()

    async def wait_readable(self) -> None:
        await self.readable.park()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
