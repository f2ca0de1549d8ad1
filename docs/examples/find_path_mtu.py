"""Find the longest packet that reaches an address whole (path MTU discovery, RFC 1191).

    python find_path_mtu.py [ADDRESS]

Routers with a link for which a packet is too long say so by an ICMP error, and the kernel remembers it. Some firewalls
swallow these errors. Then the answer is too large, and long packets vanish.

Without an argument it asks for the loopback interface.
"""

from __future__ import annotations

import functools
import sys

import trio

from trio_ipv4 import PacketConn, PathMTUDiscovery, open_udp

HEADERS = 28  # IP and UDP, octets (RFC 791, RFC 768)
DISCARD = 9  # A port: what is sent there is meant to be thrown away (RFC 863).


async def find_path_mtu(conn: PacketConn, address: str, *, seconds: float = 1.0) -> int:
    """Send the longest datagram that may pass, until no router refuses it for so many seconds; return its length."""
    conn.report_errors = True
    conn.path_mtu_discovery = PathMTUDiscovery.DO
    while True:
        mtu = conn.path_mtu(address)
        await conn.send_to(bytes(mtu - HEADERS), (address, DISCARD))
        with trio.move_on_after(seconds):
            while (error := await conn.receive_error()).destination != (address, DISCARD):
                pass
            if error.mtu is not None:
                continue
        return mtu


async def main(address: str = "127.0.0.1") -> None:
    async with open_udp() as conn:
        print(f"{await find_path_mtu(conn, address)} octets, IP header included")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
