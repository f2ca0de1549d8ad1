"""Filters by content: classic BPF on any socket, and the type filter of raw ICMP sockets."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import libc, options
from trio_ipv4._kernel.explain import explain
from trio_ipv4._values.bpf import MAX_INSTRUCTIONS, marshal_program
from trio_ipv4._values.icmp import ICMPFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._kernel.socket_like import SocketLike
    from trio_ipv4._values.bpf import RawInstruction


def attach_filter(socket: SocketLike, program: Sequence[RawInstruction]) -> None:
    """Attach a classic BPF program (SO_ATTACH_FILTER), in place of any earlier one."""
    platform = this_platform()
    platform.option("SO_ATTACH_FILTER")
    instructions = ctypes.create_string_buffer(marshal_program(program, platform.byte_order))
    value = structs.sock_fprog(platform, len(program), ctypes.addressof(instructions))
    try:
        options.set_bytes(socket, "SO_ATTACH_FILTER", value)
    except OSError as error:
        raise explain(error, "bpf", f"attach a filter of {len(program)} instructions", socket) from None


def detach_filter(socket: SocketLike) -> None:
    """Detach the classic BPF program (SO_DETACH_FILTER)."""
    option = this_platform().option("SO_DETACH_FILTER")
    try:
        socket.setsockopt(option.level, option.name, 0)
    except OSError as error:
        raise explain(error, "bpf", "detach the filter", socket) from None


def has_program(socket: SocketLike) -> bool:
    """Tell whether a BPF program is attached, by whomever (SO_GET_FILTER, which has the number of SO_ATTACH_FILTER)."""
    platform = this_platform()
    if "SO_ATTACH_FILTER" not in platform.options:
        return False
    option = platform.option("SO_ATTACH_FILTER")
    try:
        # The length that comes back is the number of instructions.
        return len(libc.getsockopt(socket.fileno(), option.level, option.name, bytes(MAX_INSTRUCTIONS * 8))) > 0
    except OSError as error:
        return error.errno == errno.EACCES  # It is an eBPF program, of which nothing can be told.


def set_icmp_filter(socket: SocketLike, value: ICMPFilter) -> None:
    """Set the type filter of a raw ICMP socket (ICMP_FILTER)."""
    try:
        options.set_bytes(socket, "ICMP_FILTER", value.mask.to_bytes(4, this_platform().byte_order))
    except OSError as error:
        raise explain(error, "icmp", "set the ICMP filter", socket) from None


def get_icmp_filter(socket: SocketLike) -> ICMPFilter:
    """Get the type filter of a raw ICMP socket (ICMP_FILTER)."""
    try:
        mask = options.get_bytes(socket, "ICMP_FILTER", 4)
    except OSError as error:
        raise explain(error, "icmp", "get the ICMP filter", socket) from None
    return ICMPFilter(int.from_bytes(mask, this_platform().byte_order))
