"""Hear several groups in one scope, and tell them apart.

    python several.py [INTERFACE]

Without an argument it stays on the loopback interface. While it runs, talk to each group from another terminal:
`python talk.py lo 239.1.2.4`.
"""

import contextlib
import functools
import sys

import trio

from trio_ipv4 import open_udp

GROUPS = ["239.1.2.3", "239.1.2.4", "239.1.2.5"]


async def main(interface: str = "lo") -> None:
    with trio.move_on_after(30):
        async with open_udp("0.0.0.0", 5000) as conn, contextlib.AsyncExitStack() as stack:
            for group in GROUPS:
                await stack.enter_async_context(conn.joined(interface, group))
            async for datagram in conn:
                print(datagram.control.dst, datagram.peer, datagram.payload)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
