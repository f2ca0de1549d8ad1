"""Packet sockets: what comes in and goes out on every interface, before this host's own rules see it (packet(7))."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

from trio_ipv4 import RawInstruction, UnsupportedError

if sys.platform != "win32":
    import fcntl

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
_GET_INDEX: Final = 0x8933  # SIOCGIFINDEX, linux/sockios.h
_REQUEST: Final = struct.Struct("16si20x")
"""struct ifreq (linux/if.h): a name, and what is asked about it."""
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


def find_index(own: socket.socket, name: str) -> int | None:
    """Return an interface's index in the socket's network namespace; `None`, if it is gone."""
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(own, _GET_INDEX, _REQUEST.pack(name.encode(errors="surrogateescape"), 0))
        return int(_REQUEST.unpack(answer)[1])
    return None


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
