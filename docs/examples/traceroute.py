"""The routers on the way to an address, found by TTL (Go's example "tracingIPPacketRoute").

    python traceroute.py [ADDRESS] [--hops N] [--seconds SECONDS]

Each ICMP echo request has a time to live of one hop more than the last. The router at which it ends says "time
exceeded", and quotes the request's IP header (RFC 792). Needs CAP_NET_RAW.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import struct
import sys

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


async def probe(conn: PacketConn, address: str, hops: int) -> Hop:
    """Send a probe that lives for `hops`, and wait for its answer as long as the caller's cancel scope allows."""
    identifier = os.getpid() & 0xFFFF
    begin = trio.current_time()
    # The sequence number tells the probes apart; the TTL goes with this datagram alone.
    await conn.send_to(echo_request(identifier, hops), (address, 0), control=ControlMessage(ttl=hops))
    async for datagram in conn:
        kind = answers(datagram.payload, address, identifier, hops)
        if kind is not None:
            return Hop(hops, datagram.peer[0], kind, trio.current_time() - begin)
    raise AssertionError("a connection's iteration ends by an exception only")


def echo_request(identifier: int, sequence: int) -> bytes:
    """Lay out an echo request without data (RFC 792)."""
    blank = ECHO.pack(ICMPType.ECHO, 0, 0, identifier, sequence)
    return ECHO.pack(ICMPType.ECHO, 0, internet_checksum(blank), identifier, sequence)


def answers(message: bytes, address: str, identifier: int, sequence: int) -> ICMPType | None:
    """Return what an ICMP message is, if it answers this probe."""
    if len(message) < ECHO.size or internet_checksum(message) != 0:
        return None
    kind, _, _, *numbers = ECHO.unpack_from(message)
    if kind == ICMPType.ECHO_REPLY:
        return ICMPType.ECHO_REPLY if numbers == [identifier, sequence] else None
    if kind not in (ICMPType.TIME_EXCEEDED, ICMPType.DESTINATION_UNREACHABLE):
        return None
    try:
        header = Header.parse(message[8:])  # As it stood on the wire, on every platform.
    except ParseError:
        return None
    quoted = message[8 + header.header_len :]
    if str(header.dst) != address or len(quoted) < ECHO.size:
        return None
    quoted_kind, _, _, *numbers = ECHO.unpack_from(quoted)
    return ICMPType(kind) if quoted_kind == ICMPType.ECHO and numbers == [identifier, sequence] else None


async def main(arguments: argparse.Namespace) -> int:
    """Print a line for each hop, and return 0 if the address was reached."""
    async with open_tracer() as conn:
        for hops in range(1, arguments.hops + 1):
            hop = None
            with trio.move_on_after(arguments.seconds):
                hop = await probe(conn, arguments.address, hops)
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
