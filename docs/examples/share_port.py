"""Let two listeners share a port and join the same group: each hears everything that is sent to it.

    python share_port.py [INTERFACE]

Here they are two tasks; they could be two programs, if every one of them says `share_port=True`. A broadcast reaches
each of them, too. Unicast to the shared port reaches only one of them, and the kernel chooses which.

Without an argument it stays on the loopback interface.
"""

import functools
import sys

import trio

from trio_ipv4 import open_udp

GROUP = "239.1.2.3"
PORT = 5000


async def listen(name: str, interface: str) -> None:
    async with open_udp("0.0.0.0", PORT, share_port=True) as conn, conn.joined(interface, GROUP):
        async for datagram in conn:
            print(f"{name} heard {datagram.payload!r}")


async def main(interface: str = "lo") -> None:
    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, "Alice", interface)
            nursery.start_soon(listen, "Bob", interface)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
