"""Receive market data that is sent twice, and make one sequence of the two copies.

    python market_data.py [A B] [--group-a 239.1.2.3] [--group-b 239.1.2.4] [--port 26400] [--seconds 60]

A and B are the interfaces on which the copies arrive, both the loopback by default. Datagrams are MoldUDP64 (Nasdaq).
Prints the first copy of each message, each gap of a feed with its cause, what no feed had, and a summary at the end.
It ends with the session, or after --seconds. Try it with market_data_feed.py, which has the format, and sends.
"""

import argparse
import collections
import statistics

import trio
from market_data_feed import unpack

from trio_ipv4 import ControlFlags, open_udp

PATIENCE = 0.1  # Seconds to wait for the other feed's copy.


class Feed:
    """One of the copies."""

    def __init__(self, name: str, interface: str, group: str) -> None:
        self.name, self.interface, self.group = name, interface, group
        self.received = self.first = self.drops = self.expected = 0
        self.delays: collections.deque[int] = collections.deque(maxlen=10_000)  # Nanoseconds.
        self.has_ended = False

    def note(self, messages: range, drops: int) -> None:
        """Find a gap. The drop counter tells what this host dropped, as a rule because the receive buffer was full."""
        dropped, self.drops = drops - self.drops, drops
        if self.expected and messages.start > self.expected:
            cause = f"this host dropped {dropped} datagrams meanwhile" if dropped else "lost on the way"
            print(f"{self.name}: no {self.expected} to {messages.start - 1}, {cause}", flush=True)
        self.expected, self.received = max(self.expected, messages.stop), self.received + len(messages)

    def __str__(self) -> str:
        middle = statistics.median(self.delays or [0])
        jitter = statistics.median(abs(each - middle) for each in self.delays or [0])
        counts = f"{self.name}: {self.received} messages, {self.first} first, {self.drops} drops"
        return f"{counts}, latency {middle / 1000:.0f} µs, jitter {jitter / 1000:.0f} µs"


class Arbiter:
    """Makes one sequence of the messages of both feeds."""

    def __init__(self) -> None:
        self.expected = self.end = self.lost = 0  # `end` is the number behind the last message.
        self.waiting: dict[int, bytes] = {}  # They are behind a gap.

    def take(self, feed: Feed, number: int, message: bytes) -> None:
        """Take the first copy of a message, and ignore the second."""
        if number >= self.expected and number not in self.waiting:
            feed.first += 1
            self.waiting[number] = message
            self.deliver()

    def deliver(self) -> None:
        while self.expected in self.waiting:
            print(f"{self.expected}: {self.waiting.pop(self.expected)!r}", flush=True)
            self.expected += 1

    async def skip_gaps(self, feeds: list[Feed]) -> None:
        """Give up each message that no feed has brought in time."""
        while self.expected < self.end or not all(feed.has_ended for feed in feeds):
            before = self.expected
            await trio.sleep(PATIENCE)
            if before == self.expected < self.end:
                self.expected = min(self.waiting, default=self.end)
                print(f"no feed had {before} to {self.expected - 1}", flush=True)
                self.lost += self.expected - before
                self.deliver()


async def receive(feed: Feed, arbiter: Arbiter, port: int, buffer: int) -> None:
    """Receive a feed until its session ends."""
    facts = ControlFlags.TIMESTAMP | ControlFlags.DROPS
    # With a socket for each feed, the drops are its own. Bound to the group, the socket hears nothing else.
    conn = open_udp(feed.group, port, bind_group=True, interface=feed.interface, control_flags=facts)
    async with conn, conn.joined(feed.interface, feed.group):
        conn.receive_buffer_size = buffer
        while not feed.has_ended:
            datagram = await conn.receive()
            found = unpack(datagram.payload)
            if found is None:
                continue
            first, messages, feed.has_ended = found
            feed.note(range(first, first + len(messages)), datagram.control.drops or 0)
            arbiter.expected = arbiter.expected or first  # What came before the first datagram is not missing.
            arbiter.end = max(arbiter.end, first + len(messages))
            for number, (sent_ns, message) in enumerate(messages, first):
                feed.delays.append((datagram.control.timestamp_ns or 0) - sent_ns)
                arbiter.take(feed, number, message)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Receive two copies of a feed of market data.")
    parser.add_argument("a", nargs="?", default="lo", help="the interface of feed A")
    parser.add_argument("b", nargs="?", default="lo", help="the interface of feed B")
    parser.add_argument("--group-a", default="239.1.2.3")
    parser.add_argument("--group-b", default="239.1.2.4")
    parser.add_argument("--port", type=int, default=26400)
    parser.add_argument("--seconds", type=float, default=60, help="how long to wait for the end; by default 60")
    parser.add_argument("--buffer", type=int, default=200_000, help="the receive buffer of each feed, in octets")
    options = parser.parse_args()
    feeds = [Feed("A", options.a, options.group_a), Feed("B", options.b, options.group_b)]
    arbiter = Arbiter()
    with trio.move_on_after(options.seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arbiter.skip_gaps, feeds)
            for feed in feeds:
                nursery.start_soon(receive, feed, arbiter, options.port, options.buffer)
    print(*feeds, f"both: {sum(feed.first for feed in feeds)} messages, {arbiter.lost} lost", sep="\n", flush=True)


if __name__ == "__main__":
    trio.run(main)
