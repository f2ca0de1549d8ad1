"""Darwin (macOS, iOS): its options and its layouts. Numbers from XNU's bsd/netinet/in.h, bsd/sys/socket.h.

It has no IP_MULTICAST_ALL, no SO_TIMESTAMPNS, no ICMP filter, no classic BPF on sockets, no recvmmsg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._abi.platform import Layout, Option, Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

IPPROTO_IP: Final = 0
SOL_SOCKET: Final = 0xFFFF

_OPTIONS: Final[Mapping[str, Option]] = {
    # bsd/netinet/in.h
    "IP_HDRINCL": Option(IPPROTO_IP, 2),
    "IP_TOS": Option(IPPROTO_IP, 3),
    "IP_TTL": Option(IPPROTO_IP, 4),
    "IP_MULTICAST_IF": Option(IPPROTO_IP, 9, Layout.STRUCT),
    "IP_MULTICAST_TTL": Option(IPPROTO_IP, 10, Layout.OCTET),
    "IP_MULTICAST_LOOP": Option(IPPROTO_IP, 11),
    "IP_RECVTTL": Option(IPPROTO_IP, 24),
    "IP_PKTINFO": Option(IPPROTO_IP, 26),  # IP_RECVPKTINFO has the same number.
    "IP_RECVTOS": Option(IPPROTO_IP, 27),
    "MCAST_JOIN_GROUP": Option(IPPROTO_IP, 80, Layout.STRUCT),
    "MCAST_LEAVE_GROUP": Option(IPPROTO_IP, 81, Layout.STRUCT),
    "MCAST_JOIN_SOURCE_GROUP": Option(IPPROTO_IP, 82, Layout.STRUCT),
    "MCAST_LEAVE_SOURCE_GROUP": Option(IPPROTO_IP, 83, Layout.STRUCT),
    "MCAST_BLOCK_SOURCE": Option(IPPROTO_IP, 84, Layout.STRUCT),
    "MCAST_UNBLOCK_SOURCE": Option(IPPROTO_IP, 85, Layout.STRUCT),
    # bsd/sys/socket.h
    "SO_REUSEADDR": Option(SOL_SOCKET, 0x0004),
    "SO_BROADCAST": Option(SOL_SOCKET, 0x0020),
    "SO_REUSEPORT": Option(SOL_SOCKET, 0x0200),
    "SO_SNDBUF": Option(SOL_SOCKET, 0x1001),
    "SO_RCVBUF": Option(SOL_SOCKET, 0x1002),
    "SO_TYPE": Option(SOL_SOCKET, 0x1008),
}

_CONTROL: Final[Mapping[str, tuple[int, int]]] = {
    # A received control message has the number of the IP_RECV* option, a sent one that of the plain option.
    "IP_TOS": (IPPROTO_IP, 27),
    "IP_TTL": (IPPROTO_IP, 24),
    "IP_PKTINFO": (IPPROTO_IP, 26),
}


def darwin() -> Platform:
    """Describe Darwin, on any of its machines (all little-endian, 64-bit)."""
    return Platform(
        name="darwin",
        options=_OPTIONS,
        control=_CONTROL,
        cmsg_alignment=4,  # __DARWIN_ALIGN32 (bsd/sys/socket.h)
        cmsg_length_size=4,
        packed_group_req=True,  # #pragma pack(4)
        has_sa_len=True,
        mcast_exclude=2,
        header_in_host_order=True,
        length_excludes_header=True,
    )


DARWIN: Final = darwin()
