"""Capabilities of this thread: capget(2) and capset(2), which `os` does not have."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.pack("=Ii", 0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, linux/capability.h
NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 10, 12, 13  # linux/capability.h


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Give back at the end the capabilities that were dropped meanwhile."""
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(24)
    assert libc.capget(ctypes.create_string_buffer(_HEADER), before) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.create_string_buffer(_HEADER), before) == 0


def drop(*numbers: int) -> None:
    """Use these capabilities no more."""
    libc, state = ctypes.CDLL(None), ctypes.create_string_buffer(24)
    assert libc.capget(ctypes.create_string_buffer(_HEADER), state) == 0
    effective, *others = struct.unpack("=6I", state.raw)
    for number in numbers:
        effective &= ~(1 << number)
    changed = struct.pack("=6I", effective, *others)
    assert libc.capset(ctypes.create_string_buffer(_HEADER), ctypes.create_string_buffer(changed, 24)) == 0


@contextlib.contextmanager
def without(*numbers: int) -> Iterator[None]:
    """Do without these capabilities for a while; without any, if none is named."""
    with kept():
        drop(*(numbers or range(32)))
        yield
