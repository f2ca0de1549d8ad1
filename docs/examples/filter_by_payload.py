"""Let the kernel drop what is not wanted, by a classic BPF program (how-to/filter-by-payload.md).

    python filter_by_payload.py

Sends to itself on the loopback interface, and prints what passes.
"""

from __future__ import annotations

import contextlib

import trio

from trio_ipv4 import PacketConn, RawConn, RawInstruction, open_ip, parse_bpf

# tcpdump -ddd -y RAW 'link[8:4] = 0x4d2d5345'
SEARCHES = parse_bpf("""\
4
32 0 0 8
21 0 1 1294816069
6 0 0 262144
6 0 0 0
""")

# tcpdump -ddd -y RAW 'icmp[0] = 0 and icmp[4:2] = 4660'
REPLIES_TO_4660 = parse_bpf("""\
14
48 0 0 0
84 0 0 240
21 0 10 64
48 0 0 9
21 0 8 1
40 0 0 6
69 6 0 8191
177 0 0 0
80 0 0 0
21 0 3 0
72 0 0 4
21 0 1 4660
6 0 0 262144
6 0 0 0
""")

# linux/bpf_common.h
LOAD_OCTET, JUMP_IF_EQUAL, RETURN = 0x30, 0x15, 0x06
UDP_HEADER = 8  # RFC 768
EVERYTHING = (RawInstruction(RETURN, 0, 0, 0xFFFF_FFFF),)
NOTHING = (RawInstruction(RETURN, 0, 0, 0),)


def starts_with(prefix: bytes) -> tuple[RawInstruction, ...]:
    """Return a program for UDP sockets that accepts payloads that start with `prefix`, of up to 127 octets."""
    program: list[RawInstruction] = []
    for index, octet in enumerate(prefix):
        to_the_end = 2 * (len(prefix) - index - 1) + 1  # Over what is left to compare, and EVERYTHING.
        program += [
            RawInstruction(LOAD_OCTET, 0, 0, UDP_HEADER + index),
            RawInstruction(JUMP_IF_EQUAL, 0, to_the_end, octet),
        ]
    return (*program, *EVERYTHING, *NOTHING)


async def open_for_searches(port: int) -> PacketConn:
    """Open a UDP connection whose queue never held anything but SSDP searches: filtered first, then bound."""
    socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    conn = PacketConn(socket)
    conn.attach_filter(SEARCHES)
    conn.multicast_all = False
    await socket.bind(("0.0.0.0", port))
    return conn


async def change_filter(conn: PacketConn | RawConn, program: tuple[RawInstruction, ...]) -> None:
    """Attach a program to a connection that hears already, and discard what the last one let pass."""
    conn.attach_filter(NOTHING)
    with contextlib.suppress(trio.WouldBlock):
        while True:  # Nothing new can come, so this ends.
            conn.receive_nowait()
    conn.attach_filter(program)


def open_for_replies() -> PacketConn:
    """Open a raw ICMP connection that hears only replies to echo requests with the identifier 4660."""
    conn = open_ip(trio.socket.IPPROTO_ICMP)
    conn.attach_filter(REPLIES_TO_4660)
    return conn


async def main() -> None:
    """Send three datagrams to a connection that wants one of them, then to the same without its filter."""
    async with await open_for_searches(0) as conn:
        _, port = conn.local_endpoint
        for payload in (b"NOTIFY * HTTP/1.1", b"M-", b"M-SEARCH * HTTP/1.1"):
            await conn.send_to(payload, ("127.0.0.1", port))
        print((await conn.receive()).payload.decode())
        conn.detach_filter()
        await conn.send_to(b"anything", ("127.0.0.1", port))
        print((await conn.receive()).payload.decode())


if __name__ == "__main__":
    trio.run(main)
