"""IGMP on the wire: a packet socket that hears it on every interface, once (packet(7)).

The socket gets packets from their IP header on, whatever the kind of link. A BPF program lets only IGMP through. It
leaves out what a VLAN's own interface shows as well. The kernel's own loop of multicast is left out by packet sockets
(PACKET_LOOPBACK), so what this host sends comes once.

The interfaces that are watched are set to receive all multicast, and never promiscuous. The kernel counts who asks for
that, and ends it with the socket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs
import trio

from trio_ipv4 import RawInstruction
from trio_ipv4._cli.packet_socket import ANCILLARY, ETH_P_ALL, ETH_P_IP, NOTHING, OUTGOING, open_packet_socket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_SOL_PACKET: Final = 263  # linux/socket.h
_ADD_MEMBERSHIP: Final = 1  # PACKET_ADD_MEMBERSHIP and what follows: linux/if_packet.h
_DROP_MEMBERSHIP: Final = 2
_STATISTICS: Final = 6
_ALLMULTI: Final = 2  # PACKET_MR_ALLMULTI
_LOOPBACK: Final = 772  # ARPHRD_LOOPBACK, linux/if_arp.h
_MEMBERSHIP_REQUEST: Final = struct.Struct("iHH8x")
"""struct packet_mreq: index, type, length of an address that is not needed."""
_COUNTS: Final = struct.Struct("II")
"""struct tpacket_stats: packets, drops."""
_TIMESTAMPNS: Final = 35  # SO_TIMESTAMPNS: asm-generic/socket.h
_TIMESPEC: Final = struct.Struct("@ll")
_CONTROL: Final = socket.CMSG_SPACE(_TIMESPEC.size) if hasattr(socket, "CMSG_SPACE") else 0  # Not on Windows.
_LONGEST: Final = 65535
_IGMP: Final = (
    RawInstruction(0x28, 0, 0, ANCILLARY + 0),  # ldh [SKF_AD_PROTOCOL]
    RawInstruction(0x15, 0, 6, ETH_P_IP),  # jeq, or skip to the drop
    RawInstruction(0x30, 0, 0, 9),  # ldb [9]: the protocol (RFC 791 section 3.1)
    RawInstruction(0x15, 0, 4, 2),  # IGMP
    RawInstruction(0x28, 0, 0, ANCILLARY + 44),  # ldh [SKF_AD_VLAN_TAG]
    RawInstruction(0x54, 0, 0, 0x0FFF),  # and: the VLAN's number; 0 is none (IEEE 802.1Q)
    RawInstruction(0x15, 0, 1, 0),
    RawInstruction(0x06, 0, 0, _LONGEST),  # ret: the packet
    *NOTHING,
)
STEP: Final = 500_000_000
"""In nanoseconds: a clock that differs by more than this from what it should be was set."""


@attrs.frozen
class Heard:
    """A packet, from its IP header on: when the kernel got it, where, and whether this host sent it."""

    timestamp_ns: int
    interface: str
    packet: bytes
    outgoing: bool


@final
class Clock:
    """The time of day, as it goes on from the start: when somebody sets the clock, this one does not jump.

    So deadlines stay right, and as long as nobody does, times are exactly the kernel's.
    """

    def __init__(self) -> None:
        self._start: Final = self._difference()
        self._set_by = 0

    def steady(self, timestamp_ns: int) -> int:
        """Return a time of day of the kernel's by this clock."""
        return timestamp_ns - self._set_by

    def now(self) -> int:
        """Return the time by this clock."""
        return self.steady(time.time_ns())

    def look(self) -> float | None:
        """Return by how many seconds the clock was set since the last look; `None` if it was not."""
        moved = self._difference() - self._start - self._set_by
        if abs(moved) < STEP:
            return None
        self._set_by += moved
        return moved / 1e9

    @staticmethod
    def _difference() -> int:
        # CLOCK_BOOTTIME goes on while the machine sleeps, as the time of day does.
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@final
class Wire:
    """A socket that hears IGMP. It is a context manager. Made by `open_wire`."""

    def __init__(self, own: socket.socket) -> None:
        self._plain: Final = own
        self._socket: Final = trio.socket.from_stdlib_socket(own)
        self._dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def add(self, index: int) -> None:
        """Receive all multicast on an interface.

        Raises:
            OSError: The interface is gone.
        """
        self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, _MEMBERSHIP_REQUEST.pack(index, _ALLMULTI, 0))

    def remove(self, index: int) -> None:
        """Receive what the interface otherwise does.

        Raises:
            OSError: The interface is gone.
        """
        self._socket.setsockopt(_SOL_PACKET, _DROP_MEMBERSHIP, _MEMBERSHIP_REQUEST.pack(index, _ALLMULTI, 0))

    async def hear(self) -> Heard:
        """Wait for a packet."""
        while True:
            if (heard := _heard(*await self._socket.recvmsg(_LONGEST, _CONTROL))) is not None:
                return heard

    def queued(self, until_ns: int) -> Iterator[Heard]:
        """Return what has come until a time, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while True:
                heard = _heard(*self._plain.recvmsg(_LONGEST, _CONTROL))
                if heard is not None:
                    if heard.timestamp_ns > until_ns:
                        return
                    yield heard

    def dropped(self) -> int:
        """Return how many packets were lost because they came too fast."""
        counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
        self._dropped += _COUNTS.unpack(counts)[1]  # Reading sets it to 0.
        return self._dropped


def open_wire() -> Wire:
    """Open a socket that hears IGMP on all interfaces of this network namespace.

    Raises:
        PermissionError: CAP_NET_RAW is missing.
        UnsupportedError: This is not Linux.
    """
    own = open_packet_socket(socket.SOCK_DGRAM, ETH_P_ALL, _IGMP, _stamp_packets)
    try:
        return Wire(own)
    except BaseException:
        own.close()
        raise


def _stamp_packets(own: socket.socket) -> None:
    own.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)


def _heard(packet: bytes, control: list[tuple[int, int, bytes]], _: int, address: object) -> Heard | None:
    interface, __, kind, link, *__ = cast("tuple[Any, ...]", address)  # Python's form of sockaddr_ll.
    # What is sent on loopback comes back there.
    return (
        None if kind == OUTGOING and link == _LOOPBACK else Heard(_stamp(control), interface, packet, kind == OUTGOING)
    )


def _stamp(control: list[tuple[int, int, bytes]]) -> int:
    """Return the kernel's time of a packet, or the time now, if there is none."""
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds) * 10**9 + int(nanoseconds)
    return time.time_ns()
