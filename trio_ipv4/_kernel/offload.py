"""Segmentation offload of UDP: many datagrams through the stack as one (udp(7): UDP_SEGMENT, UDP_GRO)."""

from __future__ import annotations

import errno
import itertools
import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.system import Socket

MAX_PAYLOAD: Final = 65507
"""The longest payload of a UDP datagram: 65,535 less an IP header (20) and a UDP header (8)."""
MAX_COALESCED: Final = 65535
"""Coalesced datagrams are no longer than an IP packet."""
_MAX_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS (linux/udp.h) of older kernels; 128 since Linux 6.9."""
REFUSALS: Final = frozenset(
    {
        errno.EINVAL,  # The segment is longer than the MTU, or the socket sends no checksums.
        errno.EIO,  # The interface can't compute checksums (net/ipv4/udp.c: udp_send_skb).
        errno.EMSGSIZE,  # The path's MTU is shorter.
        errno.EOPNOTSUPP,
        errno.ENOPROTOOPT,
    }
)
"""The errnos by which a kernel, an interface or a route refuses UDP_SEGMENT, where plain datagrams may pass."""


def is_on(socket: Socket) -> bool:
    """Tell whether UDP_GRO is on; `False` if the socket does not support it."""
    return bool(options.find_integer(socket, "UDP_GRO"))


def can_segment(socket: Socket) -> bool:
    """Tell whether the kernel cuts long payloads of this socket.

    On an ICMP datagram socket (icmp(7)) it takes the request and ignores it; only there the option can't be read.
    """
    return options.find_integer(socket, "UDP_SEGMENT") is not None


def segments_per_call(size: int) -> int:
    """Return how many segments of `size` octets one call may carry."""
    return max(1, min(_MAX_SEGMENTS, MAX_PAYLOAD // size))


def segment_request(platform: Platform, size: int) -> bytes:
    """Return the control message that asks for segments of `size` octets."""
    option = platform.option("UDP_SEGMENT")
    return structs.cmsg(platform, option.level, option.name, struct.pack(platform.prefix + "H", size))


def segment_size(platform: Platform, control: bytes) -> int:
    """Read the segment size of a coalesced datagram from its control messages; 0 if it was not coalesced."""
    kind = platform.control.get("UDP_GRO")
    for _, level, number, content in structs.iterate_cmsgs(platform, control):
        if (level, number) == kind:
            return int.from_bytes(content, platform.byte_order)
    return 0


def split(payload: bytes, size: int) -> Iterable[bytes]:
    """Cut a payload into segments of `size` octets, the last one shorter if need be."""
    whole = len(payload) - len(payload) % size
    segments = itertools.chain.from_iterable(struct.iter_unpack(f"{size}s", payload[:whole]))
    return itertools.chain(segments, (payload[whole:],)) if whole < len(payload) else segments
