"""The C library: the calls that Python lacks."""

from __future__ import annotations

import ctypes
import functools
import os


@functools.cache
def libc() -> ctypes.CDLL:
    """Return the C library. A call that fails sets ctypes' errno."""
    return ctypes.CDLL(None, use_errno=True)


def last_error() -> OSError:
    """Return the `OSError` for the call that failed just now."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
