"""The routers on the way to an address, found by TTL (Go's example "tracingIPPacketRoute").

    python traceroute.py [ADDRESS] [--hops N] [--seconds SECONDS]

Each ICMP echo request has a time to live of one hop more than the last. The router at which it ends says "time
exceeded", and quotes the request's IP header and at least 8 octets of what follows (RFC 792). A raw socket hears what
answers every program of this host, so each answer is compared with the request. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import struct
import sys
from ipaddress import IPv4Address

import trio

from trio_ipv4 import (
    ControlMessage,
    Header,
    ICMPFilter,
    ICMPType,
    PacketConn,
    ParseError,
    internet_checksum,
    open_ip,
)

ECHO = struct.Struct("!BBHHH")  # RFC 792: type, code, checksum, identifier, sequence number


@dataclasses.dataclass(frozen=True)
class Hop:
    """Who answered a probe, how, and after how long."""

    hops: int
    peer: str
    type: ICMPType
    seconds: float


def open_tracer() -> PacketConn:
    """Open a connection that hears what can answer a probe, and nothing else."""
    conn = open_ip(trio.socket.IPPROTO_ICMP)
    conn.icmp_filter = ICMPFilter.block_all().accept(
        ICMPType.ECHO_REPLY, ICMPType.TIME_EXCEEDED, ICMPType.DESTINATION_UNREACHABLE
    )
    return conn


async def probe(conn: PacketConn, address: str, hops: int, *, identifier: int | None = None) -> Hop:
    """Send a probe that lives for `hops`, and wait for its answer as long as the caller's cancel scope allows.

    The identifier is random by default. Use one for all probes of a connection.
    """
    identifier = secrets.randbits(16) if identifier is None else identifier
    # Two programs may choose the same identifier. Random data tells their answers apart, and late ones from new ones.
    data = secrets.token_bytes(16)
    begin = trio.current_time()
    # The TTL goes with this datagram alone.
    await conn.send_to(echo_request(identifier, hops, data), (address, 0), control=ControlMessage(ttl=hops))
    async for datagram in conn:
        kind = answers(datagram.payload, address, identifier, hops, data)
        if kind is not None:
            return Hop(hops, datagram.peer[0], kind, trio.current_time() - begin)
    raise AssertionError("a connection's iteration ends by an exception only")


def echo_request(identifier: int, sequence: int, data: bytes = b"") -> bytes:
    """Lay out an echo request (RFC 792)."""
    blank = ECHO.pack(ICMPType.ECHO, 0, 0, identifier, sequence) + data
    return blank[:2] + internet_checksum(blank).to_bytes(2, "big") + blank[4:]


def answers(message: bytes, address: str, identifier: int, sequence: int, data: bytes = b"") -> ICMPType | None:
    """Return the type of an ICMP message, if it answers this probe."""
    if len(message) < ECHO.size or internet_checksum(message) != 0:
        return None
    kind, request = message[0], echo_request(identifier, sequence, data)
    if kind == ICMPType.ECHO_REPLY:
        # Identifier, sequence number and data come back; type and checksum are the reply's own.
        return ICMPType.ECHO_REPLY if message[4:] == request[4:] else None
    if kind not in (ICMPType.TIME_EXCEEDED, ICMPType.DESTINATION_UNREACHABLE):
        return None
    try:
        header = Header.parse(message[8:])  # As it stood on the wire, on every platform.
    except ParseError:
        return None
    quoted = message[8 + header.header_len :][: len(request)]
    if header.protocol != trio.socket.IPPROTO_ICMP or header.dst != IPv4Address(address) or len(quoted) < ECHO.size:
        return None
    # A router quotes as much as it likes. The first 8 octets have the checksum, which covers the data.
    return ICMPType(kind) if quoted == request[: len(quoted)] else None


async def main(arguments: argparse.Namespace) -> int:
    """Print a line for each hop, and return 0 if the address was reached."""
    identifier = secrets.randbits(16)
    async with open_tracer() as conn:
        for hops in range(1, arguments.hops + 1):
            hop = None
            with trio.move_on_after(arguments.seconds):
                hop = await probe(conn, arguments.address, hops, identifier=identifier)
            if hop is None:
                print(f"{hops}  *", flush=True)
                continue
            print(f"{hops}  {hop.peer}  {hop.type}  {hop.seconds * 1000:.3f} ms", flush=True)
            if hop.type is not ICMPType.TIME_EXCEEDED:
                return 0 if hop.type is ICMPType.ECHO_REPLY else 1
    return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find the routers on the way to an address.")
    parser.add_argument("address", nargs="?", default="127.0.0.1")
    parser.add_argument("--hops", type=int, default=30, help="the most routers to look for, up to 255")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to wait at each hop")
    sys.exit(trio.run(main, parser.parse_args()))
