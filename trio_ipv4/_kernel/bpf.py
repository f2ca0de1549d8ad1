"""Classic BPF programs on sockets, and the type filter of raw ICMP sockets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from trio_ipv4._abi.structs import SOCK_FILTER_SIZE
from trio_ipv4._kernel import options
from trio_ipv4._kernel.explain import explain
from trio_ipv4._values.bpf import MAX_INSTRUCTIONS, marshal_program
from trio_ipv4._values.icmp import ICMPFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.bpf import RawInstruction


def attach_filter(socket: Socket, program: Sequence[RawInstruction]) -> None:
    """Attach a classic BPF program (SO_ATTACH_FILTER), in place of any earlier one."""
    try:
        socket.attach_bpf(marshal_program(program, socket.system.platform.byte_order))
    except OSError as error:
        raise explain(error, "bpf", f"attach a filter of {len(program)} instructions", socket) from None


def detach_filter(socket: Socket) -> None:
    """Detach the classic BPF program (SO_DETACH_FILTER)."""
    try:
        options.set_bytes(socket, "SO_DETACH_FILTER", bytes(4))
    except OSError as error:
        raise explain(error, "bpf", "detach the filter", socket) from None


def has_program(socket: Socket) -> bool:
    """Tell whether a BPF program is attached, by whomever (SO_GET_FILTER, which has the number of SO_ATTACH_FILTER)."""
    if not options.has_option(socket, "SO_ATTACH_FILTER"):
        return False
    try:
        # The length that comes back is the number of instructions.
        return len(options.get_bytes(socket, "SO_ATTACH_FILTER", MAX_INSTRUCTIONS * SOCK_FILTER_SIZE)) > 0
    except OSError as error:
        return error.errno == errno.EACCES  # It is an eBPF program, of which nothing can be told.


def set_icmp_filter(socket: Socket, value: ICMPFilter) -> None:
    """Set the type filter of a raw ICMP socket (ICMP_FILTER)."""
    try:
        options.set_bytes(socket, "ICMP_FILTER", value.mask.to_bytes(4, socket.system.platform.byte_order))
    except OSError as error:
        raise explain(error, "icmp", "set the ICMP filter", socket) from None


def get_icmp_filter(socket: Socket) -> ICMPFilter:
    """Get the type filter of a raw ICMP socket (ICMP_FILTER)."""
    try:
        mask = options.get_bytes(socket, "ICMP_FILTER", 4)
    except OSError as error:
        raise explain(error, "icmp", "get the ICMP filter", socket) from None
    return ICMPFilter(int.from_bytes(mask, socket.system.platform.byte_order))
