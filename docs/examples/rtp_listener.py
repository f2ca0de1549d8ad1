"""Join the RTP streams that are announced, and measure loss and jitter.

    python rtp_listener.py [INTERFACE] [--seconds 60] [--interval SECONDS]

Finds the streams by SAP, as sap_browser.py does, on an interface, by default the loopback. Joins each from the sources
that its description names. Prints sessions that begin and end, each gap in the sequence numbers, and every --interval
seconds for each sender what arrived, what was lost, and the jitter by RFC 3550. Anybody can announce anything, so trust
the senders on your network before you run it.
"""

import argparse
import struct

import trio
from sap_browser import Announcement, Stream, browse, show

from trio_ipv4 import ControlFlags, open_udp

RTP = struct.Struct("!BB H I I")  # RFC 3550 section 5.1: flags, payload type; sequence number; timestamp; SSRC.


class Sender:
    """Measures what one sender sends (RFC 3550 appendices A.3 and A.8)."""

    def __init__(self, name: str, clock: int) -> None:
        self.name, self.clock = name, clock
        self.first = self.highest = self.received = self.stamp = self.arrived_ns = 0
        self.jitter = self.most = 0.0  # Seconds.

    def note(self, number: int, stamp: int, arrived_ns: int) -> None:
        if not self.received:
            self.first = self.highest = number
        else:
            step = (number - self.highest + 0x8000 & 0xFFFF) - 0x8000  # Negative if another packet overtook this one.
            if step > 1:
                print(f"{self.name}: {step - 1} missing before {number}", flush=True)
            self.highest += max(step, 0)
            sent = (stamp - self.stamp + 0x8000_0000 & 0xFFFF_FFFF) - 0x8000_0000
            deviation = abs((arrived_ns - self.arrived_ns) / 1e9 - sent / self.clock)
            self.jitter += (deviation - self.jitter) / 16
            self.most = max(self.most, self.jitter)
        self.stamp, self.arrived_ns = stamp, arrived_ns
        self.received += 1

    def __str__(self) -> str:
        lost = self.highest - self.first + 1 - self.received
        jitter = f"jitter {self.jitter * 1000:.3f} ms, highest {self.most * 1000:.3f} ms"
        return f"{self.name}: {self.received} received, {lost} lost, {jitter}"


async def listen(interface: str, stream: Stream, interval: float) -> None:
    """Join a stream, and measure each of its senders."""
    senders: dict[int, Sender] = {}

    async def report() -> None:
        while True:
            try:
                await trio.sleep(interval)
            finally:  # A session may end in between.
                print(*senders.values(), sep="\n", end="\n" if senders else "", flush=True)

    facts = ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TIMESTAMP
    conn = open_udp(stream.group, stream.port, bind_group=True, interface=interface, control_flags=facts)
    async with conn, conn.joined(interface, stream.group, sources=stream.sources), trio.open_nursery() as nursery:
        nursery.start_soon(report)
        async for datagram in conn:
            if len(datagram.payload) >= RTP.size and datagram.payload[0] >> 6 == 2:
                _, _, number, stamp, ssrc = RTP.unpack_from(datagram.payload)
                name = f"{stream.group}:{stream.port} from {datagram.peer[0]}, {ssrc:#010x}"
                sender = senders.setdefault(ssrc, Sender(name, stream.clock))
                sender.note(number, stamp, datagram.control.timestamp_ns or 0)


async def follow(interface: str, stream: Stream, interval: float) -> None:
    """Listen to a stream, if that is possible."""
    try:
        await listen(interface, stream, interval)
    except* (OSError, ValueError) as errors:
        print(f"{stream.group}:{stream.port}:", *errors.exceptions, flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Listen to the RTP streams that are announced.")
    parser.add_argument("interface", nargs="?", default="lo")
    parser.add_argument("--seconds", type=float, default=60, help="how long to listen; by default 60")
    parser.add_argument("--interval", type=float, default=5, help="seconds from one report to the next")
    options = parser.parse_args()
    sessions: dict[bytes, trio.CancelScope] = {}

    async def run(announcement: Announcement, session: trio.CancelScope) -> None:
        with session:
            async with trio.open_nursery() as streams:
                for stream in announcement.streams:
                    streams.start_soon(follow, options.interface, stream, options.interval)

    def tell(announcement: Announcement) -> None:
        show(announcement)
        if announcement.is_deletion:
            sessions.pop(announcement.identity).cancel()
        else:
            session = sessions[announcement.identity] = trio.CancelScope()
            nursery.start_soon(run, announcement, session)

    with trio.move_on_after(options.seconds):
        async with trio.open_nursery() as nursery:
            await browse(options.interface, tell)


if __name__ == "__main__":
    trio.run(main)
