"""Packet sockets: what comes in and goes out on every interface, before this host's own rules see it (packet(7))."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4 import RawInstruction, UnsupportedError
from trio_ipv4._cli.libc import last_error, libc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ETH_P_ALL: Final = 3  # linux/if_ether.h: only this one shows what this host sends, too.
ETH_P_IP: Final = 0x0800
SOL_PACKET: Final = 263  # linux/socket.h
HOST: Final = 0  # PACKET_HOST and what follows: linux/if_packet.h
OTHER_HOST: Final = 3
OUTGOING: Final = 4
ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h
LOOPBACK: Final = 772  # ARPHRD_LOOPBACK
ANCILLARY: Final = 0xFFFF_F000
"""SKF_AD_OFF (linux/filter.h): loads from here on read facts about the packet."""
BUFFER: Final = 4 << 20
"""In octets, for bursts: a query makes a whole network report within seconds."""
NOTHING: Final = (RawInstruction(0x06, 0, 0, 0),)
"""Return 0: drop the packet."""
_STATISTICS: Final = 6  # PACKET_STATISTICS, linux/if_packet.h
_COUNTS: Final = struct.Struct("II")
"""struct tpacket_stats: packets, drops."""
_WORD: Final = struct.calcsize("N")
_ADDRESS: Final = struct.Struct("=HHiHBB8x")
"""struct sockaddr_ll (linux/if_packet.h): family, protocol in network order, index, kind of link, direction."""
_CONTROL_HEADER: Final = struct.Struct("@Nii")
"""struct cmsghdr (linux/socket.h)."""
_ATTACH_FILTER: Final = 26  # SO_ATTACH_FILTER: asm-generic/socket.h
_RCVBUFFORCE: Final = 33  # SO_RCVBUFFORCE
_INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter (linux/filter.h)."""


def open_packet_socket(
    kind: int,
    protocol: int,
    program: Sequence[RawInstruction],
    set_up: Callable[[socket.socket], object] | None = None,
) -> socket.socket:
    """Open a non-blocking socket that hears all interfaces of this network namespace.

    Args:
        kind: SOCK_RAW: from the link's header on. SOCK_DGRAM: from the network's header on.
        protocol: `ETH_P_ALL`, or the one protocol that is heard.
        program: The BPF program that lets packets through.
        set_up: Sets further options, before the first packet comes.

    Raises:
        PermissionError: CAP_NET_RAW is missing.
        UnsupportedError: This is not Linux.
    """
    if sys.platform != "linux":
        raise UnsupportedError("AF_PACKET", sys.platform)
    own = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    try:
        own.settimeout(0)
        # What came before the program was there must not pass for its choice: first nothing comes, then the program's.
        _attach(own, NOTHING)
        _drain(own)
        if set_up is not None:
            set_up(own)
        _enlarge(own)
        _attach(own, program)
    except BaseException:
        own.close()
        raise
    return own


def take_dropped(own: socket.socket) -> int:
    """Return how many packets came too fast for the socket since the last call."""
    _, dropped = _COUNTS.unpack(own.getsockopt(SOL_PACKET, _STATISTICS, _COUNTS.size))
    return int(dropped)


class Frame(NamedTuple):
    """What a packet socket received: the octets, control messages, and where it came in.

    `protocol` is as in the socket's own; `link` the kind of link (ARPHRD_*), and `kind` HOST, OUTGOING and so on.
    """

    octets: bytes
    control: list[tuple[int, int, bytes]]
    ifindex: int
    protocol: int
    link: int
    kind: int


class _Vector(ctypes.Structure):
    """struct iovec (linux/uio.h)."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]  # As ctypes reads it.


class _Header(ctypes.Structure):
    """struct msghdr (linux/socket.h), as the C library has it."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("number", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


@final
class Receiver:
    """Receives by recvmsg(2) itself. Python's own tells an interface by its name, and fails if that is no UTF-8.

    Args:
        own: The socket.
        longest: How many octets of a packet are wanted.
        room: For control messages, in octets.
    """

    def __init__(self, own: socket.socket, longest: int, room: int = 0) -> None:
        self._own: Final = own
        self._octets: Final = ctypes.create_string_buffer(longest)
        self._control: Final = ctypes.create_string_buffer(max(1, room))
        self._address: Final = ctypes.create_string_buffer(_ADDRESS.size)
        self._vector: Final = _Vector(ctypes.addressof(self._octets), longest)
        self._room: Final = room
        self._header: Final = _Header(ctypes.addressof(self._address))
        self._header.vectors, self._header.number = ctypes.addressof(self._vector), 1
        self._header.control = ctypes.addressof(self._control)
        self._receive: Final = libc().recvmsg

    def receive(self) -> Frame:
        """Return the next packet, without waiting.

        Raises:
            BlockingIOError: There is none.
            OSError: The kernel refused.
        """
        self._header.name_length, self._header.control_length = _ADDRESS.size, self._room
        length = self._receive(self._own.fileno(), ctypes.byref(self._header), 0)
        if length < 0:
            raise last_error()
        _, protocol, ifindex, link, kind, _ = _ADDRESS.unpack(self._address.raw)
        control = self._control.raw[: self._header.control_length]
        return Frame(
            bytes(memoryview(self._octets)[:length]), _split(control), ifindex, socket.ntohs(protocol), link, kind
        )


def _split(control: bytes) -> list[tuple[int, int, bytes]]:
    messages, start = [], 0
    while start + _CONTROL_HEADER.size <= len(control):
        length, level, kind = _CONTROL_HEADER.unpack_from(control, start)
        if length < _CONTROL_HEADER.size:
            break
        messages.append((level, kind, control[start + _CONTROL_HEADER.size : start + length]))
        start += (length + _WORD - 1) & -_WORD
    return messages


def _enlarge(own: socket.socket) -> None:
    """Give a socket a large receive buffer: with CAP_NET_ADMIN also beyond net.core.rmem_max (socket(7))."""
    try:
        own.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, BUFFER)
    except PermissionError:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def _attach(own: socket.socket, program: Sequence[RawInstruction]) -> None:
    octets = b"".join(_INSTRUCTION.pack(each.op, each.jt, each.jf, each.k) for each in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    # struct sock_fprog (linux/filter.h): a number, and a pointer at its natural place.
    own.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))


def _drain(own: socket.socket) -> None:
    try:
        while True:
            own.recv(1)
    except BlockingIOError:
        pass
