"""The seam: every call that the library makes to a system, as two protocols; and which system a program is on.

A program's sockets belong to one system: the network of this process (`native.py`), a host of the lab, or a host that
exists only in the process. A context variable says which. It is asked only where something is opened, listed or
watched: an open socket remembers its system. Tasks and worker threads copy the context (PEP 567), so a program that is
started on a host stays there with all the tasks that it starts.

Values cross the seam as the octets of the kernel's structures, without pointers. Nothing blocks: where there is nothing
to read, or no room to write, a call raises `BlockingIOError`. A refusal is the `OSError` of the kernel, without advice.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Receiver, Sender


class System(Protocol):
    """A host: it makes sockets, and answers a few questions without one."""

    # How this system spells things.
    @property
    def platform(self) -> Platform: ...

    # Make a socket that does not block (socket(2)); or use a trio socket that somebody else made on this system.
    def socket(self, family: int, kind: int, protocol: int, /) -> Socket: ...
    def adopt(self, handle: Any, /) -> Socket: ...

    # Indexes and names of the interfaces (if_nameindex(3)).
    def if_nameindex(self) -> list[tuple[int, str]]: ...

    # A setting, such as "net.ipv4.igmp_max_msf", and the table of groups, /proc/net/igmp; `None` if it can't be read.
    def sysctl(self, name: str, /) -> str | None: ...
    def igmp_table(self) -> str | None: ...

    # The kernel's time, in seconds since it began, as its stamps have it (linux/jiffies.h): modulo 2 ** 32 / 100.
    def uptime(self) -> float: ...

    # The number of this process. A forked child has another one, and shares the sockets (getpid(2)).
    def process(self) -> int: ...

    # Raise a `RuntimeError` if a program that acts on all interfaces would act on the wrong ones here.
    def check_home(self) -> None: ...


class Socket(Protocol):
    """One socket of a system. The methods are Python's own, where Python has them."""

    # The system that it belongs to, for good.
    @property
    def system(self) -> System: ...

    # Python's socket for it, or a trio socket. A socket that is no file descriptor has a `trio.socket.SocketType` here
    # with four things more: `system_socket`, which is this, and the coroutines `wait_readable()`, `wait_writable()`,
    # `wait_error()`.
    @property
    def handle(self) -> Any: ...

    # SOCK_DGRAM, SOCK_RAW, SOCK_STREAM.
    @property
    def kind(self) -> int: ...

    # A number, which `receiver()` and `sender()` take; -1 once it is closed.
    def fileno(self) -> int: ...
    def bind(self, address: Any, /) -> None: ...
    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
    def setsockopt(self, level: int, name: int, value: bytes, /) -> None: ...

    # Get an option into a buffer that holds `value`, and return the answer (getsockopt(2)).
    def getsockopt(self, level: int, name: int, value: bytes, /) -> bytes: ...

    # Ask about an interface by a `struct ifreq`, and list names and addresses by an array of them (netdevice(7)).
    def ioctl(self, request: int, value: bytes, /) -> bytes: ...
    def ifconf(self) -> bytes: ...

    # Attach a classic BPF program, an array of `struct sock_filter` (socket(7): SO_ATTACH_FILTER).
    def attach_bpf(self, program: bytes, /) -> None: ...

    # Receive one message: its octets, its flags (MSG_TRUNC), its sender (recvmsg(2)); and send one.
    def recvmsg(self, size: int, flags: int = 0, /) -> tuple[bytes, int, Any]: ...
    def sendto(self, data: bytes, address: Any, /) -> int: ...

    # Take a message from the error queue (recvmsg(2): MSG_ERRQUEUE): its octets, its control messages, and the
    # destination of the datagram that it is about, if the kernel tells.
    def receive_error(self) -> tuple[bytes, bytes, Any]: ...

    # Set the peer of a UDP socket (connect(2)). Nothing is sent.
    def connect(self, address: Any, /) -> None: ...

    # Whether it was shut down for receiving: it is readable for ever then, and empty (poll(2): POLLRDHUP).
    def is_shut_down(self) -> bool: ...

    # Parts that receive and send many datagrams in one call (recvmmsg(2), sendmmsg(2)), with buffers of their own.
    def receiver(self) -> Receiver: ...
    def sender(self) -> Sender: ...
    def close(self) -> None: ...


CURRENT: Final[contextvars.ContextVar[System]] = contextvars.ContextVar("system")
"""The system that a program is on; `native.current_system()` reads it, and knows the default."""
