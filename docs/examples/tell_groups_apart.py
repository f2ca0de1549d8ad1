"""Use control messages to tell datagrams for the group that was joined from all others.

    python tell_groups_apart.py [INTERFACE]

A socket on 0.0.0.0 can receive three kinds of datagrams on its port: for a group that it joined, for this host alone
(unicast), and, with `multicast_all=True`, which is the kernel's own default, for groups that *other* sockets of this
host joined. (On a network with broadcasts these are a fourth kind.) The payload doesn't say which. The destination
address in the control message does.

Without an argument it stays on the loopback interface.
"""

import functools
import sys
from ipaddress import IPv4Address

import trio

from trio_ipv4 import open_udp

GROUP = IPv4Address("239.1.2.3")
PORT = 5000


def describe(destination: IPv4Address | None) -> str:
    if destination == GROUP:
        return "for our group"
    if destination is not None and destination.is_multicast:
        return "for somebody else's group"
    return "for this host alone"


async def main(interface: str = "lo") -> None:
    # Leave out multicast_all=True, and the kernel keeps the others' groups away.
    async with open_udp("0.0.0.0", PORT, multicast_all=True) as conn, conn.joined(interface, GROUP):
        with trio.move_on_after(30):
            async for datagram in conn:
                print(f"{datagram.payload!r} {describe(datagram.control.dst)}")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
