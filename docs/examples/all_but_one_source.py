"""Hear a group from everybody but one source ('exclude' mode), step by step: join, exclude, include, leave.

    python all_but_one_source.py [INTERFACE [SOURCE]]

These are the explicit operations, for programs whose memberships are not scoped: each holds until the next. In a scope,
`membership.block(source)` and `membership.allow(source)` do the same.

The group is not in 232.0.0.0/8, on purpose. In the source-specific range a group is joined together with the sources
that are wanted; "everybody but one" says nothing there, and routers must ignore it (RFC 4607, RFC 4604 section 2.1).

Without arguments it stays on the loopback interface, and SOURCE is 127.0.0.2. Talk from two other terminals:
`python talk.py lo 239.7.8.9 127.0.0.1` and `python talk.py lo 239.7.8.9 127.0.0.2`.
"""

import functools
import sys

import trio

from trio_ipv4 import PacketConn, open_udp

GROUP = "239.7.8.9"
PORT = 5000


async def hear(conn: PacketConn, state: str) -> None:
    datagram = await conn.receive()
    print(f"{state}: {datagram.payload!r} from {datagram.peer[0]}")


async def main(interface: str = "lo", source: str = "127.0.0.2") -> None:
    with trio.move_on_after(30):
        async with open_udp("0.0.0.0", PORT) as conn:
            conn.join_group(interface, GROUP)
            await hear(conn, "joined")
            conn.exclude_source_specific_group(interface, GROUP, source)
            await hear(conn, f"without {source}")  # What was queued before still arrives.
            conn.include_source_specific_group(interface, GROUP, source)
            await hear(conn, f"with {source} again")
            conn.leave_group(interface, GROUP)
            print("left")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
