"""Two routers and a destination that answer traceroute by hand.

Linux tells neither MPLS labels (RFC 4950) nor interfaces (RFC 5837).

    python labels.py

This stands for them on a host of a lab, on en0. The first router tells labels and an interface. The second one is
silent.
"""

from __future__ import annotations

import itertools
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import trio

from trio_ipv4 import (
    Header,
    ICMPDestinationUnreachable,
    ICMPTimeExceeded,
    InterfaceInformation,
    InterfaceRole,
    MPLSLabel,
    MPLSLabelStack,
    RawDatagram,
    open_raw,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4 import ICMPExtensionObject, RawConn

DESTINATION: Final = "203.0.113.1"
STACK: Final = MPLSLabelStack(
    [MPLSLabel(16014, traffic_class=4, ttl=1), MPLSLabel(17, ttl=255, bottom_of_stack=True)],
)
EXTENSIONS: Final = (
    STACK,
    InterfaceInformation(InterfaceRole.INCOMING, ifindex=7, address="192.0.2.9", name="xe-0/0/1", mtu=9000),
)
ETH_P_ALL: Final = 3  # linux/if_ether.h


async def answer_probes(
    wire: socket.socket,
    conn: RawConn,
    routers: Iterable[str] = ("198.51.100.1",),
    extensions: Iterable[ICMPExtensionObject] = EXTENSIONS,
) -> None:
    """Answer the probes that a packet socket hears. The first router answers from these addresses in turn."""
    sources = itertools.cycle(routers)
    while True:
        await trio.lowlevel.wait_readable(wire)
        frame = wire.recv(65535)
        if frame[12:14] == b"\x08\0" and frame[30:34] == IPv4Address(DESTINATION).packed:
            asked = Header.parse(frame[14:])
            if asked.ttl == 1:
                source, message = next(sources), ICMPTimeExceeded(0, frame[14:], extensions=extensions)
            elif asked.ttl > 2:
                source, message = DESTINATION, ICMPDestinationUnreachable(3, frame[14:])
            else:
                continue
            header = Header(src=source, dst=asked.src, ttl=64, protocol=1)
            await conn.send(RawDatagram(header, message.marshal()))


async def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind(("en0", ETH_P_ALL))
        async with open_raw(1) as conn:
            await answer_probes(wire, conn)


if __name__ == "__main__":
    trio.run(main)
