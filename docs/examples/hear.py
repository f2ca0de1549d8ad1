"""Hear one group, for half a minute.

    python hear.py [INTERFACE]

Without an argument it stays on the loopback interface. While it runs, start talk.py in another terminal.
"""

import functools
import sys

import trio

from trio_ipv4 import open_udp


async def main(interface: str = "lo") -> None:
    with trio.move_on_after(30):
        async with open_udp("0.0.0.0", 5000) as conn, conn.joined(interface, "239.1.2.3"):
            async for datagram in conn:
                print(datagram.peer, datagram.payload)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
