"""Measure the offset from a clock and the delay of the path to it, by PTP (IEEE 1588-2019, over UDP).

    python ptp_delay.py [INTERFACE] [--domain 0] [--count 5] [--interval SECONDS]

Listens to the masters on an interface, by default the loopback, and sends a Delay_Req each interval. The kernel stamps
what it receives and what it sends. Prints each master, and for each answer the offset (positive if this host is ahead)
and the mean delay of one way. Sets no clock. The ports 319 and 320 need root or CAP_NET_BIND_SERVICE.
"""

import argparse
import secrets
import struct
from typing import NamedTuple

import trio

from trio_ipv4 import ControlFlags, PacketConn, Timestamping, open_udp

GROUP, EVENTS, GENERAL = "224.0.1.129", 319, 320  # IEEE 1588 annex C
SYNC, DELAY_REQ, FOLLOW_UP, DELAY_RESP, ANNOUNCE = 0x0, 0x1, 0x8, 0x9, 0xB  # The type of a message.
TWO_STEP, PTP_TIMESCALE = 0x0200, 0x0008  # Flags: a Follow_Up has the time; times are TAI, not UTC.
# Type, version, length; domain, flags, correction; source, number, two more.
HEADER = struct.Struct("!BBHBxHq4x10sHBb")
TIME = struct.Struct("!HII")  # 48 bits of seconds, 32 of nanoseconds.


class Message(NamedTuple):
    kind: int
    flags: int
    correction: int  # Nanoseconds.
    source: bytes
    number: int
    time: int  # Nanoseconds since 1970, in UTC or TAI.
    rest: bytes


def read(payload: bytes, domain: int) -> Message | None:
    """Read a message of version 2. None for anything else, and for other domains."""
    if len(payload) < HEADER.size + TIME.size or payload[1] & 0xF != 2 or payload[4] != domain:
        return None
    kind, _, _, _, flags, correction, source, number, *_ = HEADER.unpack_from(payload)
    high, low, nanoseconds = TIME.unpack_from(payload, HEADER.size)
    time, rest = (high << 32 | low) * 1_000_000_000 + nanoseconds, payload[HEADER.size + TIME.size :]
    return Message(kind & 0xF, flags, correction >> 16, source, number, time, rest)


class Client:
    """Compares the clock of this host with those of the masters of a domain."""

    def __init__(self, domain: int) -> None:
        self.domain, self.identity = domain, secrets.token_bytes(8) + b"\0\1"
        self.tai_ns: dict[bytes, int] = {}  # By master: how far its time is ahead of UTC.
        self.syncs: dict[bytes, tuple[int, int]] = {}  # By master: the number of a Sync, and its arrival.
        self.there_ns: dict[bytes, int] = {}  # By master: from its time of sending to ours of arrival.
        self.answers, self.answered = trio.open_memory_channel[Message](float("inf"))

    async def hear(self, conn: PacketConn) -> None:
        """Take in the messages to one port."""
        async for datagram in conn:
            if (message := read(datagram.payload, self.domain)) is None:
                continue
            master = message.source
            if message.kind == ANNOUNCE:
                if master not in self.tai_ns:
                    print(f"{master.hex()} at {datagram.peer[0]} is a master", flush=True)
                seconds = int.from_bytes(message.rest[:2], "big", signed=True) if message.flags & PTP_TIMESCALE else 0
                self.tai_ns[master] = seconds * 1_000_000_000
            elif message.kind == DELAY_RESP and message.rest[:10] == self.identity:
                self.answers.send_nowait(message)
            elif message.kind == SYNC:
                arrived_ns = (datagram.control.timestamp_ns or 0) - message.correction
                if message.flags & TWO_STEP:
                    self.syncs[master] = message.number, arrived_ns
                else:
                    self.there_ns[master] = arrived_ns - message.time
            elif message.kind == FOLLOW_UP and self.syncs.get(master, (None,))[0] == message.number:
                self.there_ns[master] = self.syncs[master][1] - message.time - message.correction

    async def ask(self, events: PacketConn, number: int, interval: float) -> None:
        """Send a Delay_Req, and compare the answers. It left when the driver was given it."""
        header = HEADER.pack(DELAY_REQ, 2, 44, self.domain, 0, 0, self.identity, number, 1, 0x7F)
        await events.send_to(header + bytes(TIME.size), (GROUP, EVENTS))
        with trio.move_on_after(interval):
            while (stamp := await events.receive_error()).number != number:
                pass  # That is an earlier one's.
            async for answer in self.answered:
                there, tai = self.there_ns.get(answer.source), self.tai_ns.get(answer.source)
                if answer.number == number and there is not None and tai is not None:
                    back = answer.time - answer.correction - (stamp.timestamp_ns or 0)
                    offset, delay = (there - back + 2 * tai) / 2000, (there + back) / 2000
                    print(f"{answer.source.hex()}: offset {offset:.3f} µs, delay {delay:.3f} µs", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the offset from PTP masters, and the delay.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--domain", type=int, default=0)
    parser.add_argument("--count", type=int, default=5, help="how many times to ask")
    parser.add_argument("--interval", type=float, default=1, help="seconds to wait for answers")
    options = parser.parse_args()
    client, interface = Client(options.domain), options.interface
    async with (
        open_udp(GROUP, EVENTS, bind_group=True, interface=interface, control_flags=ControlFlags.TIMESTAMP) as events,
        open_udp(GROUP, GENERAL, bind_group=True, interface=interface) as general,
        events.joined(interface, GROUP),
        general.joined(interface, GROUP),
        trio.open_nursery() as nursery,
    ):
        events.timestamping = Timestamping.TX_SOFTWARE
        nursery.start_soon(client.hear, events)
        nursery.start_soon(client.hear, general)
        for number in range(options.count):
            await client.ask(events, number, options.interval)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
