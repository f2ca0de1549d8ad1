"""Watch which router has a virtual address: VRRP, versions 2 and 3 (RFC 3768, RFC 5798).

    python vrrp_listener.py [INTERFACE] [--seconds 60]

Hears the advertisements on an interface, by default the loopback. Prints each new master with its priority and the
virtual addresses, a master that resigns, and one that is silent for as long as a backup waits at most. Prints also what
routers discard: a TTL that is not 255, since the packet has crossed a router, or a wrong checksum. It only listens, and
needs CAP_NET_RAW.
"""

import argparse
import struct
from ipaddress import IPv4Address
from typing import NamedTuple

import trio

from trio_ipv4 import RawDatagram, internet_checksum, open_raw

GROUP, VRRP = IPv4Address("224.0.0.18"), 112  # RFC 5798 section 5.1.1
HEADER = struct.Struct("!BBBB HH")  # Version and type, router, priority, number of addresses; interval, checksum.


class Advertisement(NamedTuple):
    """What a master says."""

    router: int  # The number of the virtual router.
    master: IPv4Address
    priority: int
    interval: float  # Seconds.
    addresses: tuple[IPv4Address, ...]


def read(datagram: RawDatagram) -> Advertisement | str:
    """Read an advertisement, or return why it is to be discarded (RFC 5798 section 7.1)."""
    header, payload = datagram.header, datagram.payload
    if header.dst != GROUP:
        return f"sent to {header.dst}"
    if header.ttl != 255:
        return f"ttl {header.ttl}"
    if len(payload) < HEADER.size or len(payload) < HEADER.size + 4 * payload[3]:
        return "too short"
    first, router, priority, count, timing, _ = HEADER.unpack_from(payload)
    if first not in (0x21, 0x31):
        return f"not an advertisement of version 2 or 3, {first:#04x}"
    packed = payload[HEADER.size : HEADER.size + 4 * count]
    pseudo, interval = b"", float(timing & 0xFF)  # Version 2: seconds, behind the type of authentication.
    if first == 0x31:  # Version 3: hundredths of a second, and a checksum with a pseudo-header (section 5.2.8).
        pseudo = header.src.packed + header.dst.packed + struct.pack("!BBH", 0, VRRP, len(payload))
        interval = (timing & 0xFFF) / 100
    if internet_checksum(pseudo + payload):
        return "wrong checksum"
    addresses = tuple(IPv4Address(packed[index : index + 4]) for index in range(0, len(packed), 4))
    return Advertisement(router, header.src, priority, interval, addresses)


class Watcher:
    """Knows the master of each virtual router."""

    def __init__(self) -> None:
        self.masters: dict[int, Advertisement] = {}
        self.deadlines: dict[int, float] = {}

    def take(self, found: Advertisement) -> None:
        """Tell what is new in an advertisement."""
        before = self.masters.get(found.router)
        if found.priority == 0:  # RFC 5798 section 6.4.3: it stops.
            if before is not None and before.master == found.master:
                self.forget(found.router, "resigns")
            return
        if found != before:
            addresses = " ".join(map(str, found.addresses))
            print(f"router {found.router}: {found.master}, priority {found.priority}, has {addresses}", flush=True)
        self.masters[found.router] = found
        # Three intervals and the skew time (section 6.1), which is at most one.
        self.deadlines[found.router] = trio.current_time() + 4 * found.interval

    def forget(self, router: int, why: str) -> None:
        print(f"router {router}: {self.masters.pop(router).master} {why}", flush=True)
        del self.deadlines[router]

    async def watch(self, interface: str) -> None:
        """Hear the advertisements on an interface."""
        async with open_raw(VRRP, interface=interface) as conn, conn.joined(interface, GROUP):
            while True:
                with trio.move_on_at(min(self.deadlines.values(), default=float("inf"))):
                    datagram = await conn.receive()
                    found = read(datagram)
                    if isinstance(found, Advertisement):
                        self.take(found)
                    else:
                        print(f"discarded, from {datagram.header.src}: {found}", flush=True)
                for router in [each for each, end in self.deadlines.items() if end <= trio.current_time()]:
                    self.forget(router, "is silent")


async def main() -> None:
    parser = argparse.ArgumentParser(description="Watch the masters of VRRP.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--seconds", type=float, default=60, help="how long to listen; by default 60")
    options = parser.parse_args()
    with trio.move_on_after(options.seconds):
        await Watcher().watch(options.interface)


if __name__ == "__main__":
    trio.run(main)
