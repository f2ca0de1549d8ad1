"""bpf(2), as far as it is needed: a map, a program, a tracepoint. The descriptors are closed on exec by the kernel."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.libc import last_error, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}
"""The system call's number (asm/unistd.h). Other architectures have other numbers, or another order of octets."""
_MAP_CREATE: Final = 0  # linux/bpf.h: enum bpf_cmd, and those below.
_MAP_LOOKUP: Final = 1
_MAP_NEXT_KEY: Final = 4
_PROG_LOAD: Final = 5
_RAW_TRACEPOINT_OPEN: Final = 17
_HASH: Final = 1  # BPF_MAP_TYPE_HASH
_RAW_TRACEPOINT: Final = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT
# union bpf_attr (linux/bpf.h), a part for each command; what is missing at the end is 0.
_CREATION: Final = struct.Struct("=IIII")
"""Type of the map, octets of a key and of a value, number of entries."""
_ENTRY: Final = struct.Struct("=I4xQQ")
"""Map, key, and where to write the value, or the next key."""
_LOADING: Final = struct.Struct("=IIQQ24x16s")
"""Type of the program, number of instructions, these, licence; no log; name."""
_OPENING: Final = struct.Struct("=QI")
"""Name, program."""
_INSTRUCTION: Final = 8
_LICENCE: Final = b"Dual MIT/GPL"
"""The functions that read the kernel's memory are for such programs alone (linux/license.h)."""


def create_map(key: int, value: int, entries: int) -> int:
    """Create a map from keys to values, of so many octets each; return its descriptor."""
    return _call(_MAP_CREATE, _CREATION.pack(_HASH, key, value, entries))


def load_program(code: bytes, name: str) -> int:
    """Load a program for a raw tracepoint; return its descriptor."""
    instructions, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(_LICENCE)
    places = ctypes.addressof(instructions), ctypes.addressof(licence)
    return _call(_PROG_LOAD, _LOADING.pack(_RAW_TRACEPOINT, len(code) // _INSTRUCTION, *places, name.encode()))


def attach(program: int, tracepoint: str) -> int:
    """Attach a program to a raw tracepoint; return the descriptor. When that is closed the program is detached."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    return _call(_RAW_TRACEPOINT_OPEN, _OPENING.pack(ctypes.addressof(name), program))


def read_map(descriptor: int, key: int, value: int) -> Iterator[tuple[bytes, bytes]]:
    """Return a map's keys and values. Nothing may be taken out meanwhile: the kernel would begin again."""
    at, following, found = (ctypes.create_string_buffer(length) for length in (key, key, value))
    start = 0
    while _try(_MAP_NEXT_KEY, _ENTRY.pack(descriptor, start, ctypes.addressof(following))):
        at.raw, start = following.raw, ctypes.addressof(at)
        _call(_MAP_LOOKUP, _ENTRY.pack(descriptor, start, ctypes.addressof(found)))
        yield at.raw, found.raw


def _try(command: int, attributes: bytes) -> bool:
    """Call, and tell whether there was anything."""
    try:
        _call(command, attributes)
    except FileNotFoundError:
        return False
    return True


def _call(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    length = ctypes.c_uint(len(attributes))
    while True:
        done = int(libc().syscall(_number(), command, buffer, length))
        if done >= 0:
            return done
        # The verifier gives up when a signal comes (linux: bpf_check, EAGAIN).
        if ctypes.get_errno() not in {errno.EAGAIN, errno.EINTR}:
            raise last_error()


@functools.cache
def _number() -> int:
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _BPF or struct.calcsize("P") != 8:
        raise UnsupportedError("bpf(2)", f"{sys.platform} on {machine}")
    return _BPF[machine]
