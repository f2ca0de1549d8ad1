"""Say how datagrams leave: TOS, TTL, multicast interface and multicast TTL, for a connection and for one datagram.

    python send_options.py [FIRST SECOND NEIGHBOUR]

FIRST and SECOND are interfaces, NEIGHBOUR is the address of a host to send unicast to. Without arguments everything
stays on the loopback interface. Watch it with `tcpdump -i lo -v udp port 5000`.
"""

import functools
import sys

import trio

from trio_ipv4 import ControlMessage, interface_by_name, open_udp

GROUP = "239.1.2.3"
PORT = 5000
AF11 = 0x28  # RFC 2597
EF = 0xB8  # RFC 3246


async def main(first: str = "lo", second: str = "lo", neighbour: str = "127.0.0.1") -> None:
    with trio.fail_after(10):
        async with open_udp() as conn:
            # For everything that this connection sends:
            conn.tos = AF11
            conn.ttl = 5  # Unicast: at most five hops.
            conn.multicast_interface = first
            conn.multicast_ttl = 2  # Multicast has its own; by default it is 1, so that it stays on its link.
            await conn.send_to(b"unicast", (neighbour, PORT))
            await conn.send_to(b"multicast", (GROUP, PORT))

            # For one datagram:
            request = ControlMessage(tos=EF, ttl=3, ifindex=interface_by_name(second))
            await conn.send_to(b"by request", (GROUP, PORT), control=request)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
