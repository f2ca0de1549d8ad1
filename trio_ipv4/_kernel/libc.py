"""The three calls that Python's `socket` does not offer: recvmmsg, sendmmsg, and getsockopt with an input buffer."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def mmsg_calls() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return recvmmsg(2) and sendmmsg(2). They return -1 and set ctypes' errno on failure."""
    receive, send = _libc().recvmmsg, _libc().sendmmsg
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


@functools.cache
def memcmp() -> Callable[..., int]:
    """Return the comparison of memory with octets (memcmp(3)), which copies nothing first, as a slice would."""
    # The interpreter's lock is not worth releasing for it; PyPy's ctypes always does.
    compare = getattr(ctypes, "PyDLL", ctypes.CDLL)(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
    return compare


def getsockopt(descriptor: int, level: int, name: int, value: bytes) -> bytes:
    """Get an option with `value` in the buffer, as reading a source filter needs, and return the answer.

    Raises:
        OSError: The kernel refused.
    """
    buffer, start = memory_with(value)
    size = ctypes.c_uint32(len(value))  # socklen_t
    if _libc().getsockopt(descriptor, level, name, ctypes.c_void_p(start), ctypes.byref(size)) != 0:
        raise last_error()
    return bytes(buffer[: size.value])


def memory_with(octets: bytes) -> tuple[bytearray, int]:
    """Return memory that holds a copy of `octets`, and its address. `octets` must not be empty.

    The address is good as long as the memory lives and keeps its size.
    """
    memory = bytearray(octets)  # PyPy fills ctypes' own buffers one octet at a time.
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def last_error() -> OSError:
    """Return the `OSError` for the call that failed just now."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
