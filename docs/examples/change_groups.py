"""Leave one group and join another, in two ways: one after the other, and make-before-break.

    python change_groups.py [INTERFACE]

One after the other: there is a moment in which neither is joined. It is the right way if the two together would be too
much to receive.

Make-before-break: the old group is left only when the first datagram of the new one has arrived. Switches and routers
take a while to let a new group through, and nothing is missed meanwhile.

Without an argument it stays on the loopback interface. Talk to both groups from two other terminals:
`python talk.py lo 239.1.2.3` and `python talk.py lo 239.1.2.4`.
"""

import contextlib
import functools
import sys

import trio

from trio_ipv4 import PacketConn, open_udp

OLD = "239.1.2.3"
NEW = "239.1.2.4"
PORT = 5000


async def one_after_the_other(conn: PacketConn, interface: str) -> None:
    async with conn.joined(interface, OLD):
        await hear(conn, OLD)
    # Here neither is joined.
    async with conn.joined(interface, NEW):
        await hear(conn, NEW)


async def make_before_break(conn: PacketConn, interface: str) -> None:
    async with contextlib.AsyncExitStack() as old:
        await old.enter_async_context(conn.joined(interface, OLD))
        await hear(conn, OLD)
        async with conn.joined(interface, NEW):
            # Here both are joined.
            await hear(conn, NEW)
            await old.aclose()  # Leaves the old group now, before the end of its block.
            await hear(conn, NEW)


async def hear(conn: PacketConn, group: str) -> None:
    """Wait for a datagram of that group; others may come in between."""
    async for datagram in conn:
        print(f"{datagram.payload!r} for {datagram.control.dst}")
        if str(datagram.control.dst) == group:
            return


async def main(interface: str = "lo") -> None:
    with trio.move_on_after(30):
        async with open_udp("0.0.0.0", PORT) as conn:
            await one_after_the_other(conn, interface)
            await make_before_break(conn, interface)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
