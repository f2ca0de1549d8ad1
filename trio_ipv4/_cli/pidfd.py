"""Processes by a descriptor (pidfd_open(2), pidfd_getfd(2)).

A number comes to mean another process once its own has ended. A descriptor doesn't.
"""

from __future__ import annotations

import errno
import sys
from typing import Final

from trio_ipv4._cli.libc import last_error, libc

_PIDFD_OPEN: Final = 434
_PIDFD_GETFD: Final = 438
"""Their numbers on every architecture but Alpha (asm-generic/unistd.h), since Linux 5.3 and 5.6."""


def pidfd_open(pid: int) -> int:
    """Return a descriptor for a process. It is readable when the process has ended.

    PyPy's `os` has no such function.

    Raises:
        OSError: The process is gone (ESRCH); an older kernel, or a sandbox (ENOSYS, EPERM).
    """
    return _call(_PIDFD_OPEN, pid, 0)


def pidfd_getfd(process: int, descriptor: int) -> int:
    """Return a duplicate of a process's descriptor.

    Raises:
        OSError: EPERM: not allowed. ENOSYS: an older kernel, a sandbox, or PyPy. EBADF: there is no such descriptor.
    """
    if sys.implementation.name == "pypy":
        # Its socket(fileno=...) clears O_NONBLOCK, which the duplicate shares with its owner's descriptor.
        raise OSError(errno.ENOSYS, "PyPy can't look at another process's socket and leave it as it is")
    return _call(_PIDFD_GETFD, process, descriptor, 0)


def _call(*arguments: int) -> int:
    descriptor: int = libc().syscall(*arguments)
    if descriptor < 0:
        raise last_error()
    return descriptor
