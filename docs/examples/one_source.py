"""Join a group from one source: a source-specific membership, in 'include' mode.

    python one_source.py [INTERFACE [SOURCE]]

232.0.0.0/8 is the range for source-specific multicast (RFC 4607): there a group means something only together with the
source, and the network delivers nothing from anybody else. The kernel checks the source again, for this socket.

Without arguments it stays on the loopback interface. From another terminal, `python talk.py lo 232.7.8.9` is heard, and
`python talk.py lo 232.7.8.9 127.0.0.2` is not.
"""

import functools
import sys

import trio

from trio_ipv4 import SourceFilter, open_udp

GROUP = "232.7.8.9"
PORT = 5000


async def main(interface: str = "lo", source: str = "127.0.0.1") -> None:
    wanted = SourceFilter.include(source)
    async with open_udp("0.0.0.0", PORT) as conn, conn.joined(interface, GROUP, sources=wanted):
        with trio.move_on_after(30):
            async for datagram in conn:
                print(f"{datagram.payload!r} from {datagram.peer[0]}")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
