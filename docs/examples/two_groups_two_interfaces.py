"""Hear one group on one interface and another group on another interface, on one connection.

    python two_groups_two_interfaces.py [FIRST SECOND]

The first group is not heard on the second interface, nor the second group on the first: the kernel looks for a
membership of the group on the interface where the datagram arrived.

Without arguments both interfaces are the loopback interface.
"""

import functools
import sys
from ipaddress import IPv4Address

import trio

from trio_ipv4 import open_udp

FIRST_GROUP = IPv4Address("239.1.2.3")
SECOND_GROUP = IPv4Address("239.1.2.4")
PORT = 5000


async def main(first: str = "lo", second: str = "lo") -> None:
    async with (
        open_udp("0.0.0.0", PORT) as conn,
        conn.joined(first, FIRST_GROUP),
        conn.joined(second, SECOND_GROUP),
    ):
        with trio.move_on_after(30):
            async for datagram in conn:
                # Unicast to this port arrives on any interface.
                if datagram.control.dst in (FIRST_GROUP, SECOND_GROUP):
                    print(f"{datagram.payload!r} for {datagram.control.dst}, on interface {datagram.control.ifindex}")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
