"""ICMP echo (RFC 792), over a raw socket or over an unprivileged one.

    python ping.py [ADDRESS] [--count N] [--seconds SECONDS] [--unprivileged]

A raw socket needs CAP_NET_RAW. An unprivileged one (icmp(7), "ping socket") needs the group of the process to be within
sysctl net.ipv4.ping_group_range; the kernel chooses the identifier there, and hands over only the replies to it.

A raw socket hears what answers every program of this host. So each answer is compared with the request: an echo reply
with its identifier, sequence number and random data, an ICMP error with its destination and its octets.
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
    ControlFlags,
    Header,
    ICMPFilter,
    ICMPType,
    PacketConn,
    ParseError,
    internet_checksum,
    open_ip,
)

ECHO = struct.Struct("!BBHHH")  # RFC 792: type, code, checksum, identifier, sequence number
ERRORS = (ICMPType.DESTINATION_UNREACHABLE, ICMPType.TIME_EXCEEDED, ICMPType.PARAMETER_PROBLEM)
FACTS = ControlFlags.TTL | ControlFlags.DST


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for an echo request: an echo reply, or an ICMP error."""

    type: ICMPType
    peer: str
    ttl: int | None
    octets: int
    seconds: float


async def open_unprivileged() -> tuple[PacketConn, int]:
    """Return a connection over an unprivileged ICMP socket, and the identifier that the kernel gave it."""
    socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM, trio.socket.IPPROTO_ICMP)
    conn = PacketConn(socket)
    conn.control_flags = FACTS
    await socket.bind(("0.0.0.0", 0))
    _, identifier = conn.local_endpoint  # Where UDP has its port.
    return conn, identifier


def open_privileged() -> tuple[PacketConn, int]:
    """Return a connection over a raw ICMP socket, and a random identifier."""
    conn = open_ip(trio.socket.IPPROTO_ICMP, control_flags=FACTS)
    # On the loopback interface it would hear its own requests, too.
    conn.icmp_filter = ICMPFilter.block_all().accept(ICMPType.ECHO_REPLY, *ERRORS)
    # The process's number would be the same for every connection of this program.
    return conn, secrets.randbits(16)


async def ping(conn: PacketConn, address: str, identifier: int, sequence: int) -> Answer:
    """Send an echo request, and wait for its answer as long as the caller's cancel scope allows."""
    # Two programs may choose the same identifier. Random data tells their replies apart, and late ones from new ones.
    request = echo_request(identifier, sequence, secrets.token_bytes(16))
    begin = trio.current_time()
    await conn.send_to(request, (address, 0))
    async for datagram in conn:
        kind = answers(datagram.payload, address, request)
        if kind is not None:
            seconds = trio.current_time() - begin
            return Answer(kind, datagram.peer[0], datagram.control.ttl, len(datagram.payload), seconds)
    raise AssertionError("a connection's iteration ends by an exception only")


def echo_request(identifier: int, sequence: int, data: bytes) -> bytes:
    """Lay out an echo request (RFC 792)."""
    blank = ECHO.pack(ICMPType.ECHO, 0, 0, identifier, sequence) + data
    return blank[:2] + internet_checksum(blank).to_bytes(2, "big") + blank[4:]


def answers(message: bytes, address: str, request: bytes) -> ICMPType | None:
    """Return the type of an ICMP message, if it answers this request to this address."""
    answer = read_answer(message)
    if answer is None:
        return None
    kind = answer[0]
    if kind is ICMPType.ECHO_REPLY:
        # Identifier, sequence number and data come back; type and checksum are the reply's own.
        return kind if message[4:] == request[4:] else None
    header = Header.parse(message[8:])
    # A router quotes as much as it likes. The first 8 octets have the checksum, which covers the data.
    quoted = message[8 + header.header_len :][: len(request)]
    return kind if header.dst == IPv4Address(address) and quoted == request[: len(quoted)] else None


def read_answer(message: bytes) -> tuple[ICMPType, int, int] | None:
    """Return what an ICMP message is, and the identifier and sequence number of the request that it answers."""
    if len(message) < ECHO.size or internet_checksum(message) != 0:
        return None
    kind, _, _, identifier, sequence = ECHO.unpack_from(message)
    if kind == ICMPType.ECHO_REPLY:
        return ICMPType.ECHO_REPLY, identifier, sequence
    if kind not in ERRORS:
        return None
    # An error quotes the header of the datagram that it is about, and at least 8 octets of what follows (RFC 792).
    try:
        header = Header.parse(message[8:])
    except ParseError:
        return None
    quoted = message[8 + header.header_len :]
    if header.protocol != trio.socket.IPPROTO_ICMP or len(quoted) < ECHO.size or quoted[0] != ICMPType.ECHO:
        return None
    _, _, _, identifier, sequence = ECHO.unpack_from(quoted)
    return ICMPType(kind), identifier, sequence


async def main(arguments: argparse.Namespace) -> int:
    """Ping, and return 0 if there was a reply."""
    try:
        conn, identifier = await open_unprivileged() if arguments.unprivileged else open_privileged()
    except PermissionError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    replies = 0
    async with conn:
        for sequence in range(1, arguments.count + 1):
            with trio.move_on_after(arguments.seconds) as scope:
                answer = await ping(conn, arguments.address, identifier, sequence)
                print(
                    f"{sequence}: {answer.type} from {answer.peer}, {answer.octets} octets, ttl {answer.ttl}, "
                    f"{answer.seconds * 1000:.3f} ms",
                    flush=True,
                )
                replies += answer.type is ICMPType.ECHO_REPLY
            if scope.cancelled_caught:
                print(f"{sequence}: no answer in {arguments.seconds:g} s", flush=True)
    return 0 if replies else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ping by ICMP echo.")
    parser.add_argument("address", nargs="?", default="127.0.0.1")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to wait for each answer")
    parser.add_argument("--unprivileged", action="store_true", help="use an unprivileged ICMP socket")
    sys.exit(trio.run(main, parser.parse_args()))
