"""Join one group on two interfaces, and tell on which one a datagram arrived.

    python two_interfaces.py [FIRST SECOND]

A membership is of a group *on an interface*: who wants to hear it on two of them joins twice, on one connection.
Without arguments both are the loopback interface; joining twice there does no harm, since memberships are counted.
"""

import functools
import sys
from ipaddress import IPv4Address

import trio

from trio_ipv4 import open_udp

GROUP = IPv4Address("239.1.2.3")
PORT = 5000


async def main(first: str = "lo", second: str = "lo") -> None:
    async with open_udp("0.0.0.0", PORT) as conn, conn.joined(first, GROUP) as one, conn.joined(second, GROUP) as other:
        names = {one.interface: first, other.interface: second}
        with trio.move_on_after(30):
            async for datagram in conn:
                if datagram.control.dst != GROUP:
                    continue  # Unicast to this port arrives on any interface.
                arrived = datagram.control.ifindex
                assert arrived is not None  # open_udp asks for this fact unless told otherwise.
                print(f"{datagram.payload!r} from {datagram.peer[0]}, on {names[arrived]}")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
