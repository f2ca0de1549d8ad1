"""The real system: the network of this process, by Python's `socket`, ioctl(2), and /proc.

Nearly everything passes through unchanged. Where Python's `socket` lacks a call, `libc.py` has it.
"""

from __future__ import annotations

import array
import ctypes
import functools
import importlib
import os
import select
import socket as stdlib_socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import libc
from trio_ipv4._kernel.calls import ERROR_CONTROL_SIZE, MSG_DONTWAIT
from trio_ipv4._kernel.calls.choice import Implementation, choose
from trio_ipv4._kernel.descriptors import borrowed
from trio_ipv4._kernel.system import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Calls, Receiver, Sender
    from trio_ipv4._kernel.system import Socket, System


class NativeSystem:
    """The network of this process; on Linux, the network namespace of the thread that asks.

    Args:
        platform: How to spell things; that of this interpreter by default.
        calls: How to receive and send batches; the fastest way by default.
    """

    def __init__(self, platform: Platform | None = None, calls: Calls | None = None) -> None:
        self.platform: Final = this_platform() if platform is None else platform
        self.calls: Final = choose(self.platform)[0] if calls is None else calls

    def socket(self, family: int, kind: int, protocol: int) -> Socket:
        made = stdlib_socket.socket(family, kind | _NONBLOCK, protocol)
        if not _NONBLOCK:
            made.setblocking(False)  # noqa: FBT003  # Positional only.
        return NativeSocket(self, made, kind)

    def adopt(self, handle: Any) -> Socket:
        return AdoptedSocket(self, handle, int(handle.type))

    def if_nameindex(self) -> list[tuple[int, str]]:
        return stdlib_socket.if_nameindex()

    def sysctl(self, name: str) -> str | None:
        return _read(f"/proc/sys/{name.replace('.', '/')}")

    def igmp_table(self) -> str | None:
        # /proc/net would be that of the main thread.
        return _read("/proc/thread-self/net/igmp")

    def uptime(self) -> float:
        # times(2) reads the same counter as the stamps. A namespace of its own for time does not shift it.
        return os.times().elapsed - _ticks_at_boot()

    def process(self) -> int:
        return os.getpid()

    def check_home(self) -> None:
        """This process's network is where a program is unless it says otherwise."""


class NativeSocket:
    """A socket of Python's, made by a `NativeSystem`."""

    def __init__(self, system: NativeSystem, handle: Any, kind: int) -> None:
        self.system: Final = system
        self.handle: Final = handle
        self.kind: Final = kind

    def fileno(self) -> int:
        return int(self.handle.fileno())

    def bind(self, address: Any, /) -> None:
        self.handle.bind(address)

    def getsockname(self) -> Any:
        return self.handle.getsockname()

    def getpeername(self) -> Any:
        return self.handle.getpeername()

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        self.handle.setsockopt(level, name, value)

    def getsockopt(self, level: int, name: int, value: bytes, /) -> bytes:
        # Python's own call clears the buffer, and takes at most 1,024 octets.
        if any(value) or len(value) > _PYTHON_TAKES:
            return libc.getsockopt(self.fileno(), level, name, value)
        return bytes(self.handle.getsockopt(level, name, len(value)))

    def ioctl(self, request: int, value: bytes, /) -> bytes:
        return bytes(_ioctl()(self.fileno(), request, value))

    def ifconf(self) -> bytes:
        size = 64 * structs.ifreq_size(self.system.platform)
        while True:
            buffer = array.array("B", bytes(size))
            where, _ = buffer.buffer_info()
            request = self.system.platform.number("SIOCGIFCONF")
            (used,) = struct.unpack_from("i", self.ioctl(request, struct.pack("iP", size, where)))
            if used < size:
                return buffer[:used].tobytes()
            size *= 2

    def attach_bpf(self, program: bytes, /) -> None:
        option = self.system.platform.option("SO_ATTACH_FILTER")
        instructions = ctypes.create_string_buffer(program)
        count = len(program) // structs.SOCK_FILTER_SIZE
        value = structs.sock_fprog(self.system.platform, count, ctypes.addressof(instructions))
        self.handle.setsockopt(option.level, option.name, value)

    def recvmsg(self, size: int, flags: int = 0, /) -> tuple[bytes, int, Any]:
        data, _, received_flags, sender = self.handle.recvmsg(size, 0, flags)
        return data, received_flags, sender

    def sendto(self, data: bytes, address: Any, /) -> int:
        return int(self.handle.sendto(data, address))

    def receive_error(self) -> tuple[bytes, bytes, Any]:
        platform = self.system.platform
        flags = platform.number("MSG_ERRQUEUE") | MSG_DONTWAIT
        with borrowed(self.fileno()) as socket:
            data, ancillary, _, destination = socket.recvmsg(_MAX_PACKET, ERROR_CONTROL_SIZE, flags)
        return data, b"".join(structs.cmsg(platform, *message) for message in ancillary), destination

    def connect(self, address: Any, /) -> None:
        self.handle.connect(address)

    def is_shut_down(self) -> bool:
        shut_down = self.system.platform.numbers.get("POLLRDHUP", 0)
        if not shut_down:
            return False
        poll = select.poll()
        poll.register(self.fileno(), shut_down)
        return any(events & shut_down for _, events in poll.poll(0))

    def receiver(self) -> Receiver:
        return self.system.calls.receiver()

    def sender(self) -> Sender:
        return self.system.calls.sender()

    def close(self) -> None:
        self.handle.close()


class AdoptedSocket(NativeSocket):
    """A trio socket that somebody else made: where trio's methods would wait, it is called by its descriptor."""

    def recvmsg(self, size: int, flags: int = 0, /) -> tuple[bytes, int, Any]:
        with borrowed(self.fileno()) as socket:
            data, _, received_flags, sender = socket.recvmsg(size, 0, flags)
        return data, received_flags, sender

    def sendto(self, data: bytes, address: Any, /) -> int:
        with borrowed(self.fileno()) as socket:
            return socket.sendto(data, address)


def current_system() -> System:
    """Return the system that this task, or thread, is on: this process's own network, unless it was put elsewhere."""
    return CURRENT.get(_this_process())


def implementation() -> Implementation:
    """Return how this installation receives and sends batches, on every platform. No checkpoint; it raises nothing.

    It is for reports of errors, and for benchmarks. `trio-ipv4 --version` shows it.
    """
    return choose(this_platform())[1]


@functools.cache
def _this_process() -> System:
    return NativeSystem()


@functools.cache
def _ticks_at_boot() -> float:
    """Return what the kernel's counter of ticks showed when it began, in seconds.

    It begins 5 minutes before its lower 32 bits overflow (linux/jiffies.h, INITIAL_JIFFIES). How many ticks a second
    has (CONFIG_HZ), the kernel tells nobody. But the results are months apart, and the one that fits CLOCK_MONOTONIC is
    right.
    """
    elapsed, uptime = os.times().elapsed, time.monotonic()

    def error(start: float) -> float:
        return abs((elapsed - start - uptime + _OVERFLOW / 2) % _OVERFLOW - _OVERFLOW / 2)

    return min((0.0, *((1 << 32) / frequency - 300 for frequency in _FREQUENCIES)), key=error)


@functools.cache
def _ioctl() -> Callable[[int, int, bytes], bytes]:
    """Return ioctl(2). Windows has no such module."""
    return importlib.import_module("fcntl").ioctl  # type: ignore[no-any-return]


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


_FREQUENCIES: Final = (100, 250, 300, 1000)
"""CONFIG_HZ, linux kernel/Kconfig.hz."""
_OVERFLOW: Final = (1 << 32) / 100
"""Seconds after which a count of 1/100 s overflows 32 bits, which is what times(2) has on a 32-bit system."""
_PYTHON_TAKES: Final = 1024
_MAX_PACKET: Final = 65535
_NONBLOCK: Final = int(getattr(stdlib_socket, "SOCK_NONBLOCK", 0))
"""Linux makes a socket that does not block in one call (socket(2))."""
