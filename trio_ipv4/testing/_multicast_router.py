"""Let the lab's router forward multicast: the kernel does it, and asks here for the way.

Linux forwards a group only by entries (source, group, interface it comes from) that a daemon gave it, through a raw
IGMP socket (linux/mroute.h; the interface that mrouted has used since 4.3BSD). For a datagram without an entry the
kernel keeps it and asks on that socket. The answer here is always "to all other links", as with a dense-mode protocol
before anybody has pruned: the bridges behind know who wants it. The kernel's (*, *) entries would do without a daemon,
but they forward to one upstream link only.

A thread, not a process: it ends with the lab, however the lab ends, and needs no way to report its errors. It stays in
whatever namespace it was started: its socket is what belongs to the router.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# linux/mroute.h
MRT_INIT: Final = 200
MRT_ADD_VIF: Final = 202
MRT_ADD_MFC: Final = 204
VIFF_USE_IFINDEX: Final = 0x8
IGMPMSG_NOCACHE: Final = 1
MAXVIFS: Final = 32
VIFCTL: Final = struct.Struct("=HBBIi4s")
MFCCTL: Final = struct.Struct(f"=4s4sH{MAXVIFS}s2xIIIi")
IGMPMSG: Final = struct.Struct("=8xBBBB4s4s")

_THRESHOLD: Final = 1
"""A datagram is forwarded if its TTL is greater: those sent with TTL 1 stay on their link (RFC 1112 section 6.1)."""


def igmp_socket() -> socket.socket:
    """Make the socket through which the kernel is told of routes; it belongs to the thread's namespace, for good."""
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)


@contextlib.contextmanager
def forward_multicast(igmp: socket.socket, ifindexes: Sequence[int]) -> Iterator[None]:
    """Forward every group that arrives on one of these interfaces to all others, while the block runs.

    The way in of a source is the interface where it was first heard. Its packets from elsewhere are dropped.

    Raises:
        OSError: The kernel refused; ENOPROTOOPT: it can't route multicast.
    """
    _start_routing(igmp, ifindexes)
    stop, stopped = socket.socketpair()
    with stop, stopped:
        thread = threading.Thread(
            target=_answer, args=(igmp, stopped, len(ifindexes)), name="trio_ipv4 lab router", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.close()
            thread.join()


def _start_routing(igmp: socket.socket, ifindexes: Sequence[int]) -> None:
    try:
        igmp.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        raise OSError(error.errno, "this kernel can't route multicast: it was built without CONFIG_IP_MROUTE") from None
    for vif, ifindex in enumerate(ifindexes):
        request = VIFCTL.pack(vif, VIFF_USE_IFINDEX, _THRESHOLD, 0, ifindex, bytes(4))
        igmp.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, request)


def _answer(igmp: socket.socket, stopped: socket.socket, vifs: int) -> None:
    poll = select.poll()
    poll.register(igmp, select.POLLIN)
    poll.register(stopped, select.POLLIN)
    while all(descriptor != stopped.fileno() for descriptor, _ in poll.poll()):
        message = igmp.recv(2048)
        if len(message) < IGMPMSG.size:
            continue
        kind, protocol, low, high, source, group = IGMPMSG.unpack_from(message)
        if protocol != 0 or kind != IGMPMSG_NOCACHE:  # Where an IP header has its protocol: this is a real IGMP packet.
            continue
        vif = low | high << 8
        ttls = bytes(_THRESHOLD if out < vifs and out != vif else 255 for out in range(MAXVIFS))  # 255: never
        igmp.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, MFCCTL.pack(source, group, vif, ttls, 0, 0, 0, 0))
