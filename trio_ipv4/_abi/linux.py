"""Linux: the option table, each number with its header file.

CPython's `socket` lacks most of these names in 3.11 to 3.13, so the numbers stand here. They are those of the generic
ABI (x86, ARM, RISC-V, POWER, s390); the `SOL_SOCKET` ones of MIPS, SPARC, Alpha and PA-RISC differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from trio_ipv4._abi.platform import Layout, Option, Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

IPPROTO_IP: Final = 0  # linux/in.h
IPPROTO_UDP: Final = 17  # linux/in.h
SOL_SOCKET: Final = 1  # asm-generic/socket.h
SOL_RAW: Final = 255  # linux/socket.h
SOL_NETLINK: Final = 270  # linux/socket.h

_OPTIONS: Final[Mapping[str, Option]] = {
    # linux/in.h
    "IP_TOS": Option(IPPROTO_IP, 1),
    "IP_TTL": Option(IPPROTO_IP, 2),
    "IP_HDRINCL": Option(IPPROTO_IP, 3),
    "IP_PKTINFO": Option(IPPROTO_IP, 8),
    "IP_MTU_DISCOVER": Option(IPPROTO_IP, 10),
    "IP_RECVERR": Option(IPPROTO_IP, 11),
    "IP_RECVTTL": Option(IPPROTO_IP, 12),
    "IP_RECVTOS": Option(IPPROTO_IP, 13),
    "IP_MTU": Option(IPPROTO_IP, 14),
    "IP_MINTTL": Option(IPPROTO_IP, 21),
    "IP_RECVERR_RFC4884": Option(IPPROTO_IP, 26),
    "IP_MULTICAST_IF": Option(IPPROTO_IP, 32, Layout.STRUCT),
    "IP_MULTICAST_TTL": Option(IPPROTO_IP, 33),
    "IP_MULTICAST_LOOP": Option(IPPROTO_IP, 34),
    "IP_MSFILTER": Option(IPPROTO_IP, 41, Layout.STRUCT),
    "MCAST_JOIN_GROUP": Option(IPPROTO_IP, 42, Layout.STRUCT),
    "MCAST_BLOCK_SOURCE": Option(IPPROTO_IP, 43, Layout.STRUCT),
    "MCAST_UNBLOCK_SOURCE": Option(IPPROTO_IP, 44, Layout.STRUCT),
    "MCAST_LEAVE_GROUP": Option(IPPROTO_IP, 45, Layout.STRUCT),
    "MCAST_JOIN_SOURCE_GROUP": Option(IPPROTO_IP, 46, Layout.STRUCT),
    "MCAST_LEAVE_SOURCE_GROUP": Option(IPPROTO_IP, 47, Layout.STRUCT),
    "MCAST_MSFILTER": Option(IPPROTO_IP, 48, Layout.STRUCT),
    "IP_MULTICAST_ALL": Option(IPPROTO_IP, 49),
    # linux/icmp.h
    "ICMP_FILTER": Option(SOL_RAW, 1, Layout.STRUCT),
    # linux/netlink.h
    "NETLINK_ADD_MEMBERSHIP": Option(SOL_NETLINK, 1),
    # linux/udp.h
    "UDP_SEGMENT": Option(IPPROTO_UDP, 103),
    "UDP_GRO": Option(IPPROTO_UDP, 104),
    # asm-generic/socket.h
    "SO_REUSEADDR": Option(SOL_SOCKET, 2),
    "SO_TYPE": Option(SOL_SOCKET, 3),
    "SO_ERROR": Option(SOL_SOCKET, 4),
    "SO_BROADCAST": Option(SOL_SOCKET, 6),
    "SO_SNDBUF": Option(SOL_SOCKET, 7, Layout.DOUBLED),
    "SO_RCVBUF": Option(SOL_SOCKET, 8, Layout.DOUBLED),
    "IP_OPTIONS": Option(IPPROTO_IP, 4),
    "SO_SNDBUFFORCE": Option(SOL_SOCKET, 32, Layout.DOUBLED),
    "SO_RCVBUFFORCE": Option(SOL_SOCKET, 33, Layout.DOUBLED),
    "SO_REUSEPORT": Option(SOL_SOCKET, 15),
    "SO_BINDTODEVICE": Option(SOL_SOCKET, 25, Layout.STRUCT),
    "SO_ATTACH_FILTER": Option(SOL_SOCKET, 26, Layout.STRUCT),
    "SO_DETACH_FILTER": Option(SOL_SOCKET, 27),
    "SO_PROTOCOL": Option(SOL_SOCKET, 38),
    "SO_DOMAIN": Option(SOL_SOCKET, 39),
    "SO_RXQ_OVFL": Option(SOL_SOCKET, 40),
    "SO_MEMINFO": Option(SOL_SOCKET, 55, Layout.STRUCT),
    "SO_BINDTOIFINDEX": Option(SOL_SOCKET, 62),
    "SO_NETNS_COOKIE": Option(SOL_SOCKET, 71, Layout.STRUCT),
}

_CONTROL: Final[Mapping[str, tuple[int, int]]] = {
    # The type of a received control message is the number of its option (linux/in.h, asm-generic/socket.h).
    "IP_TOS": (IPPROTO_IP, 1),
    "IP_TTL": (IPPROTO_IP, 2),
    "IP_PKTINFO": (IPPROTO_IP, 8),
    "IP_RECVERR": (IPPROTO_IP, 11),
    "SO_RXQ_OVFL": (SOL_SOCKET, 40),
    "UDP_SEGMENT": (IPPROTO_UDP, 103),
    "UDP_GRO": (IPPROTO_UDP, 104),
}

_NUMBERS: Final[Mapping[str, int]] = {
    "rtnetlink": 16,  # AF_NETLINK, linux/socket.h. Its protocol, NETLINK_ROUTE, is 0 (linux/netlink.h).
    "MSG_ERRQUEUE": 0x2000,  # linux/socket.h
    "POLLRDHUP": 0x2000,  # asm-generic/poll.h. PyPy's `select` lacks it.
    # linux/net_tstamp.h
    "SOF_TIMESTAMPING_TX_HARDWARE": 1 << 0,
    "SOF_TIMESTAMPING_TX_SOFTWARE": 1 << 1,
    "SOF_TIMESTAMPING_RX_HARDWARE": 1 << 2,
    "SOF_TIMESTAMPING_SOFTWARE": 1 << 4,
    "SOF_TIMESTAMPING_RAW_HARDWARE": 1 << 6,
    "SOF_TIMESTAMPING_OPT_ID": 1 << 7,
    "SOF_TIMESTAMPING_TX_SCHED": 1 << 8,
    "SOF_TIMESTAMPING_OPT_TSONLY": 1 << 11,
    "SOF_TIMESTAMPING_OPT_RX_FILTER": 1 << 17,  # Since Linux 6.12.
    # linux/sockios.h
    "SIOCGIFNAME": 0x8910,
    "SIOCGIFCONF": 0x8912,
    "SIOCGIFFLAGS": 0x8913,
    "SIOCGIFINDEX": 0x8933,
}


def linux(*, word: Literal[4, 8] = 8, byte_order: Literal["little", "big"] = "little") -> Platform:
    """Describe Linux on a machine with pointers of `word` octets."""
    # SO_TIMESTAMPNS_OLD carries a timespec of two longs; where those are too short for 2038, the _NEW one (since
    # Linux 5.1) carries two 64-bit integers. So the data is always 16 octets (asm-generic/socket.h).
    timestamp = Option(SOL_SOCKET, 35 if word == 8 else 64)
    stamps = Option(SOL_SOCKET, 37 if word == 8 else 65)  # SO_TIMESTAMPING_OLD and _NEW, for the same reason.
    return Platform(
        name="linux",
        options={**_OPTIONS, "SO_TIMESTAMPNS": timestamp, "SO_TIMESTAMPING": stamps},
        control={
            **_CONTROL,
            "SO_TIMESTAMPNS": (timestamp.level, timestamp.name),
            "SO_TIMESTAMPING": (stamps.level, stamps.name),
        },
        numbers=_NUMBERS,
        word=word,
        byte_order=byte_order,
        cmsg_alignment=word,
        cmsg_length_size=word,
        has_mmsg=True,
    )


LINUX: Final = linux()
"""Linux with 64-bit pointers, little-endian: the one that most machines run."""
