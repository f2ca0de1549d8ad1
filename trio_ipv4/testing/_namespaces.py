"""Network namespaces without names (network_namespaces(7)), each held by a descriptor.

`ip netns add` would give them names, and a name is a mount: it wants a mount namespace that may be written to, and it
stays when a process is killed. A descriptor goes with its process, and the kernel then removes the namespace, its
interfaces and the bridges they were on.

ctypes, since `os.setns` and `os.unshare` came with Python 3.12.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, final

import trio

from trio_ipv4 import UnsupportedError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET: Final = 0x4000_0000  # linux/sched.h
SIOCSIFFLAGS: Final = 0x8914  # linux/sockios.h
IFF_UP: Final = 0x1  # linux/if.h
_OWN: Final = "/proc/thread-self/ns/net"  # Not /proc/self: that is the main thread's.

UNPRIVILEGED: Final = "run as root, or under `python -m trio_ipv4.testing COMMAND ...`"


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Put the calling thread in a fresh network namespace with its loopback up, and back at the end.

    Sockets and processes that the thread makes meanwhile belong to the private network, sockets for good. So do
    threads that it starts (clone(2)): a worker thread of trio's pool that was started inside *stays* there, and may
    serve the same process after the block. Meant for tests, one event loop each. The block must end in the thread in
    which it began. Linux; needs CAP_SYS_ADMIN, or `python -m trio_ipv4.testing COMMAND ...`.

    Raises:
        OSError: The kernel refused; `PermissionError` without the privilege.
        RuntimeError: The thread can't go back.
        UnsupportedError: This is not Linux.
    """
    unshare, setns = libc().unshare, libc().setns
    with _current() as own:
        back = own.fileno()
        try:
            if unshare(CLONE_NEWNET) != 0:
                raise _refusal()
            set_loopback_up()
            yield
        finally:
            # One call of a C function, as in `Namespace.call`.
            if setns(back, CLONE_NEWNET) != 0 and not _is_current(own):
                raise _stuck()


@final
class Namespace:
    """A new network namespace, its loopback up, that lives until it is closed here and nothing else is in it."""

    def __init__(self) -> None:
        with private_network():
            self._file: Final = _current()

    @property
    def path(self) -> str:
        """A path that opens it, for programs that this process starts.

        Raises:
            trio.ClosedResourceError: It was closed.
        """
        return f"/proc/{os.getpid()}/fd/{self._descriptor()}"

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the calling thread in this namespace, and return what it returns.

        Raises:
            OSError: The kernel refused to enter; or what the function raises.
            RuntimeError: The thread can't go back.
            trio.ClosedResourceError: The namespace was closed.
        """
        setns, there = libc().setns, self._descriptor()
        with _current() as own:
            back = own.fileno()
            # CPython looks for signals *after* it has called a C function, and when a Python function begins. So the
            # way in stands inside `try`, and the way out is one call of a C function, first thing in `finally`: no
            # Ctrl-C can leave the thread behind. A context manager of ours would begin its `__exit__` with that look.
            try:
                if setns(there, CLONE_NEWNET) != 0:
                    raise _refusal()
                return function(*args, **kwargs)
            finally:
                if setns(back, CLONE_NEWNET) != 0 and not _is_current(own):
                    raise _stuck()

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is in it."""
        return _is_current(self._file)

    def close(self) -> None:
        """Let go of the namespace: without sockets or processes in it, the kernel removes it, soon."""
        self._file.close()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _descriptor(self) -> int:
        if self._file.closed:  # Its number may mean another file by now.
            raise trio.ClosedResourceError("this lab has ended")
        return self._file.fileno()


@functools.cache
def libc() -> ctypes.CDLL:
    """Return the C library, whose calls set ctypes' errno."""
    if sys.platform != "linux":
        raise UnsupportedError("unshare(CLONE_NEWNET)", sys.platform)
    return ctypes.CDLL(None, use_errno=True)


def set_loopback_up() -> None:
    """Set up `lo` in the thread's namespace; the kernel then gives it 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = ctypes.create_string_buffer(struct.pack("16sH22x", b"lo", IFF_UP))  # struct ifreq, linux/if.h
        if libc().ioctl(asking.fileno(), ctypes.c_ulong(SIOCSIFFLAGS), request) != 0:
            raise last_error("set up the loopback interface")


def last_error(attempt: str, advice: str = "") -> OSError:
    """Return the `OSError` for the call of `libc` that failed just now in this thread."""
    number = ctypes.get_errno()
    return OSError(number, f"can't {attempt}: {os.strerror(number)}" + (f" ({advice})" if advice else ""))


def _current() -> io.FileIO:
    try:
        return open(_OWN, "rb", buffering=0)  # noqa: PTH123  # A descriptor; callers close it.
    except FileNotFoundError as error:
        raise OSError(error.errno, f"can't find this thread's network namespace: {_OWN} is missing") from None


def _is_current(own: io.FileIO) -> bool:
    return os.path.samestat(os.fstat(own.fileno()), Path(_OWN).stat())


def _refusal() -> OSError:
    advice = {
        errno.EPERM: UNPRIVILEGED,
        errno.ENOSPC: "more would exceed user.max_net_namespaces",
        errno.EINVAL: "the kernel was built without network namespaces, CONFIG_NET_NS",
    }
    return last_error("enter a network namespace", advice.get(ctypes.get_errno(), ""))


def _stuck() -> RuntimeError:
    return RuntimeError(f"this thread is stuck in another network namespace: {os.strerror(ctypes.get_errno())}")
