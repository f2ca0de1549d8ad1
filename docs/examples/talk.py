"""Talk to a group: ten datagrams, one a second.

    python talk.py [INTERFACE [GROUP [SOURCE]]]

Without arguments it stays on the loopback interface. SOURCE is an address of this host to send from; on loopback every
127.x.y.z is one.
"""

import functools
import sys

import trio

from trio_ipv4 import open_udp


async def main(interface: str = "lo", group: str = "239.1.2.3", source: str = "0.0.0.0") -> None:
    async with open_udp(source) as conn:
        conn.multicast_interface = interface
        for number in range(1, 11):
            await conn.send_to(f"hello {number}".encode(), (group, 5000))
            await trio.sleep(1)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
