"""Try two programs in a network of their own: a listener on host a, talk.py on host b.

    python -m trio_ipv4.testing python in_a_lab.py

Root needs no `python -m trio_ipv4.testing`. Nothing reaches the machine's own interfaces, and nothing is left behind.
"""

import sys
from ipaddress import IPv4Address
from pathlib import Path

import trio

from trio_ipv4 import open_udp
from trio_ipv4.testing import igmp_groups, open_lab

GROUP = IPv4Address("239.1.2.3")
TALK = Path(__file__).with_name("talk.py")


async def main() -> None:
    with trio.fail_after(30), open_lab(("a", "b")) as lab:
        a, b = lab["a"], lab["b"]
        (en0,) = a.interfaces
        # A socket belongs to the host in which it was made, wherever the program is later.
        async with a.call(open_udp, "0.0.0.0", 5000) as conn:
            async with conn.joined("en0", GROUP):
                assert (en0.index, GROUP) in a.call(igmp_groups)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.run_process, b.command([sys.executable, str(TALK), "en0"]))
                    datagram = await conn.receive()
                    nursery.cancel_scope.cancel()
            assert (en0.index, GROUP) not in a.call(igmp_groups)
    print(f"a heard {datagram.payload!r} from b, {datagram.peer[0]}")


if __name__ == "__main__":
    trio.run(main)
