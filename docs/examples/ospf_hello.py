"""OSPF Hello packets to all routers of a link (Go's example "advertisingOSPFHello").

    python ospf_hello.py [--interface NAME] [--router-id ADDRESS] [--count N] [--interval SECONDS]

Sends Hello packets (RFC 2328 appendix A.3.2) with their IP header made here, as OSPF wants it: protocol 89, TTL 1, and
the precedence "internetwork control" (RFC 2328 appendix A.1). Prints every Hello that the link carries meanwhile, its
own included. Needs CAP_NET_RAW. Don't advertise on a link whose routers are not yours.
"""

from __future__ import annotations

import argparse
import struct
import sys
from ipaddress import IPv4Address, IPv4Interface

import trio

from trio_ipv4 import (
    ControlMessage,
    Header,
    RawConn,
    RawDatagram,
    interface_by_name,
    internet_checksum,
    open_raw,
)

OSPF = 89  # IANA, Protocol Numbers: OSPFIGP
ALL_SPF_ROUTERS = IPv4Address("224.0.0.5")  # RFC 2328 appendix A.1
CS6 = 0xC0  # RFC 2474 section 4.2.2.2: the class selector that was the precedence "internetwork control"

PACKET = struct.Struct("!BB H 4s 4s HH 8x")
"""RFC 2328 appendix A.3.1: version, type, length; router, area; checksum, type of authentication, authentication."""
HELLO = struct.Struct("!4s HBB I 4s 4s")
"""RFC 2328 appendix A.3.2: network mask; interval, options, priority; dead interval; the designated routers."""
AUTHENTICATION = slice(16, 24)
EXTERNAL_ROUTING = 0x02  # RFC 2328 appendix A.2: the E-bit


def hello(own: IPv4Interface, router_id: IPv4Address, *, interval: int = 10, dead_interval: int = 40) -> bytes:
    """Lay out a Hello of a router that has heard no neighbour, in the backbone area, without authentication."""
    body = HELLO.pack(own.netmask.packed, interval, EXTERNAL_ROUTING, 1, dead_interval, bytes(4), bytes(4))
    length = PACKET.size + len(body)
    blank = PACKET.pack(2, 1, length, router_id.packed, bytes(4), 0, 0) + body
    # RFC 2328 appendix D.4.1: the checksum of everything but the authentication field.
    checksum = internet_checksum(blank[: AUTHENTICATION.start] + blank[AUTHENTICATION.stop :])
    return PACKET.pack(2, 1, length, router_id.packed, bytes(4), checksum, 0) + body


def packet(own: IPv4Interface, ifindex: int, payload: bytes) -> RawDatagram:
    """Put an IP header before an OSPF packet."""
    # Linux computes the total length and the checksum, and chooses the identification (raw(7)).
    header = Header(src=own.ip, dst=ALL_SPF_ROUTERS, tos=CS6, ttl=1, protocol=OSPF)
    return RawDatagram(header, payload, control=ControlMessage(ifindex=ifindex))


async def print_hellos(conn: RawConn) -> None:
    """Print every Hello to all routers of the link."""
    async for datagram in conn:
        header, payload = datagram.header, datagram.payload
        if header.dst != ALL_SPF_ROUTERS:
            continue  # Unicast may come from another link.
        if len(payload) >= PACKET.size + HELLO.size and payload[:2] == b"\x02\x01":
            router_id = IPv4Address(payload[4:8])
            print(f"hello of router {router_id} from {header.src}: ttl {header.ttl}, tos {header.tos:#x}", flush=True)


async def main(arguments: argparse.Namespace) -> int:
    """Send and hear Hello packets."""
    interface = interface_by_name(arguments.interface)
    if not interface.addresses:
        sys.stderr.write(f"{interface.name} has no IPv4 address\n")
        return 1
    own = interface.addresses[0]
    router_id = IPv4Address(arguments.router_id or own.ip)
    datagram = packet(own, interface.index, hello(own, router_id))
    async with open_raw(OSPF) as conn, conn.joined(interface, ALL_SPF_ROUTERS), trio.open_nursery() as nursery:
        nursery.start_soon(print_hellos, conn)
        for _ in range(arguments.count):
            await conn.send(datagram)
            await trio.sleep(arguments.interval)
        nursery.cancel_scope.cancel()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send OSPF Hello packets, and print those that are heard.")
    parser.add_argument("--interface", default="lo")
    parser.add_argument("--router-id", help="by default the interface's address")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds after each Hello; a router has 10")
    sys.exit(trio.run(main, parser.parse_args()))
