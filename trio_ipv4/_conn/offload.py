"""Receive offload (UDP_GRO), and BPF programs, which it must not meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from trio_ipv4._kernel import bpf, options
from trio_ipv4._values.bpf import RawInstruction

if TYPE_CHECKING:
    from trio_ipv4._conn.inbox import Inbox
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.datagram import Datagram

_NOTHING: Final = (RawInstruction(0x06, 0, 0, 0),)
"""A BPF program that keeps nothing: BPF_RET of 0 (linux/bpf_common.h)."""


class Splits(Protocol):
    """A codec that splits coalesced datagrams."""

    @property
    def is_coalesced(self) -> bool: ...
    def coalesce(self, *, on: bool) -> None: ...


@final
class Offload:
    """Whether the kernel coalesces on one socket. It does not while a BPF program is attached.

    The kernel would run a program once for all datagrams that it coalesced.

    Args:
        socket: The socket.
        codec: It splits coalesced datagrams.
        inbox: Where they wait.
        is_on: Whether somebody has switched it on already.
    """

    def __init__(self, socket: Socket, codec: Splits, inbox: Inbox[Datagram], *, is_on: bool) -> None:
        self._socket: Final = socket
        self._codec: Final = codec
        self._inbox: Final = inbox
        self.is_wanted = is_on
        if is_on:
            codec.coalesce(on=True)

    def want(self, on: bool) -> None:
        """Switch it on. Once on, it stays on in the kernel: see `PacketConn.receive_offload`."""
        if on and not self._codec.is_coalesced:
            options.get_integer(self._socket, "UDP_GRO")  # An error, if this socket can't.
            if not bpf.has_program(self._socket):
                self._switch(on=True)
        self.is_wanted = on

    def attach(self, program: tuple[RawInstruction, ...], /) -> None:
        """Attach a BPF program."""
        bpf.attach_filter(self._socket, program)
        if self._codec.is_coalesced:
            # Datagrams that are coalesced already can't be split once UDP_GRO is off, so they are read before;
            # meanwhile nothing may come. Each program is detached before the next one is attached: option memory may
            # have room for one.
            bpf.detach_filter(self._socket)
            bpf.attach_filter(self._socket, _NOTHING)
            try:
                self._inbox.read_queue()
                self._switch(on=False)
            finally:
                bpf.detach_filter(self._socket)
                bpf.attach_filter(self._socket, program)

    def detach(self) -> None:
        """Detach the BPF program."""
        bpf.detach_filter(self._socket)
        if self.is_wanted:
            self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        options.set_integer(self._socket, "UDP_GRO", on)
        self._codec.coalesce(on=on)
