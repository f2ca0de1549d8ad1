"""A small multicast router: it forwards every group from where it is heard first to all other interfaces."""

from __future__ import annotations

import argparse
import select
import socket
import struct

from network_faults.programs import Life, tell

# linux/mroute.h
MRT_INIT = 200
MRT_ADD_VIF = 202
MRT_ADD_MFC = 204
VIFF_USE_IFINDEX = 0x8
IGMPMSG_NOCACHE = 1
MAXVIFS = 32
NEVER = 255
"""As a threshold: no datagram's TTL is greater."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interfaces", nargs="+")
    parser.add_argument("--iif", help="expect every source on this interface, whereever it is heard")
    parser.add_argument("--threshold", type=int, default=1)
    options = parser.parse_args()
    router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    router.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
    for number, name in enumerate(options.interfaces):
        request = struct.pack("=HBBIi4s", number, VIFF_USE_IFINDEX, 1, 0, socket.if_nametoindex(name), bytes(4))
        router.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, request)
    tell(ready=True, fail=None)
    life = Life(900)
    while life.goes_on():
        if select.select([router], [], [], 0.5)[0]:
            answer(router, router.recv(2048), options)


def answer(router: socket.socket, message: bytes, options: argparse.Namespace) -> None:
    """Say where a flow goes, which the kernel asks by an igmpmsg."""
    if len(message) < 20 or message[9] != 0 or message[8] != IGMPMSG_NOCACHE:
        return
    source, group, heard = message[12:16], message[16:20], message[10] | message[11] << 8
    incoming = options.interfaces.index(options.iif) if options.iif else heard
    ways = range(len(options.interfaces))
    thresholds = bytes(options.threshold if n in ways and n != incoming else NEVER for n in range(MAXVIFS))
    entry = struct.pack("=4s4sH32s2xIIIi", source, group, incoming, thresholds, 0, 0, 0, 0)
    router.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, entry)


if __name__ == "__main__":
    main()
