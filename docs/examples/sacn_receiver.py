"""Receive universes of streaming ACN (ANSI E1.31), the DMX512 of stage lighting over multicast.

    python sacn_receiver.py [INTERFACE] [--universe N ...] [--seconds 60]

Joins the group of each universe on an interface; by default universe 1 on the loopback. Prints each source that comes,
stops or falls silent, how many of its packets are missing, and the levels of a universe when they change. Of several
sources those with the highest priority count, and of these the highest level of each slot.
"""

import argparse
import itertools
import struct
from ipaddress import IPv4Address
from typing import NamedTuple

import trio

from trio_ipv4 import open_udp

PORT = 5568
DATA_LOSS = 2.5  # Seconds; E1.31 section 6.7.1.
PACKET = struct.Struct("!16s H I 16s H I 64s B H B B H H B B H H H B")  # E1.31 table 4-1, up to the start code.
KNOWN = (b"\0\x10\0\0ASC-E1.17\0\0\0", 4, 2, 2)  # The preamble, and the vectors of the three layers.
PREVIEW, TERMINATED = 0x80, 0x40  # E1.31 section 6.2.6


class Packet(NamedTuple):
    """The levels of a universe, from one source."""

    source: bytes
    name: str
    priority: int
    sequence: int
    has_ended: bool
    levels: bytes


def read(payload: bytes, universe: int) -> Packet | None:
    """Read a packet. None unless it has levels for the universe that are meant to be shown."""
    if len(payload) < PACKET.size:
        return None
    preamble, _, root, source, _, framing, name, *rest = PACKET.unpack_from(payload)
    priority, _, sequence, options, number, _, layer, *_, count, start_code = rest
    if (preamble, root, framing, layer) != KNOWN or number != universe or start_code or not count or options & PREVIEW:
        return None
    text = name.partition(b"\0")[0].decode(errors="replace")
    return Packet(source, text, priority, sequence, bool(options & TERMINATED), payload[PACKET.size :][: count - 1])


class Universe:
    """The sources of a universe, and what they make of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.latest: dict[bytes, Packet] = {}
        self.deadlines: dict[bytes, float] = {}
        self.levels = b""

    def tell(self, text: str) -> None:
        print(f"universe {self.number}: {text}", flush=True)

    def take(self, packet: Packet, address: str) -> None:
        """Take a packet in, unless a later one of its source came before."""
        before = self.latest.get(packet.source)
        step = packet.sequence - before.sequence & 0xFF if before else 1
        if step == 0 or step > 0x100 - 20 or (packet.has_ended and not before):  # E1.31 section 6.7.2
            return
        if step > 1:
            self.tell(f"{step - 1} packets of {packet.name!r} are missing")
        if before is None or before.priority != packet.priority:
            self.tell(f"{packet.name!r} from {address} has priority {packet.priority}")
        self.latest[packet.source] = packet
        self.deadlines[packet.source] = 0 if packet.has_ended else trio.current_time() + DATA_LOSS

    def settle(self) -> None:
        """Forget the sources that have ended or are silent, and show the levels if they differ."""
        for source in [each for each, deadline in self.deadlines.items() if deadline <= trio.current_time()]:
            packet = self.latest.pop(source)
            self.tell(f"{packet.name!r} {'has stopped' if packet.has_ended else 'is silent'}")
            del self.deadlines[source]
        highest = max((packet.priority for packet in self.latest.values()), default=0)
        heard = [packet.levels for packet in self.latest.values() if packet.priority == highest]
        levels = bytes(map(max, itertools.zip_longest(*heard, fillvalue=0)))
        if levels != self.levels:
            self.levels = levels
            lit = [f"{slot}={level}" for slot, level in enumerate(levels, 1) if level]
            self.tell(" ".join([*lit[:8], "..."] if len(lit) > 8 else lit) or "dark")


async def listen(interface: str, number: int) -> None:
    """Receive one universe."""
    universe = Universe(number)
    group = IPv4Address("239.255.0.0") + number  # E1.31 section 9.3.1
    # A socket for each universe: none is in more groups than a socket may join, and each hears its own group alone.
    conn = open_udp(group, PORT, bind_group=True, interface=interface)
    async with conn, conn.joined(interface, group):
        while True:
            with trio.move_on_at(min(universe.deadlines.values(), default=float("inf"))):
                datagram = await conn.receive()
                packet = read(datagram.payload, number)
                if packet is not None:
                    universe.take(packet, datagram.peer[0])
            universe.settle()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Receive universes of streaming ACN.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--universe", type=int, action="append", help="from 1 to 63999; may be repeated")
    parser.add_argument("--seconds", type=float, default=60, help="how long to listen; by default 60")
    options = parser.parse_args()
    with trio.move_on_after(options.seconds):
        async with trio.open_nursery() as nursery:
            for number in options.universe or [1]:
                nursery.start_soon(listen, options.interface, number)


if __name__ == "__main__":
    trio.run(main)
