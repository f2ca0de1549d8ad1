"""Send made-up market data twice: each datagram on feed A and on feed B.

    python market_data_feed.py [A B] [--group-a 239.1.2.3] [--group-b 239.1.2.4] [--port 26400] [--count 20]

A and B are interfaces, both the loopback by default. Datagrams are MoldUDP64 (Nasdaq), with one to three messages each,
which begin with the time of sending. --lose-a and --lose-b name datagrams to leave out there, from 1; either may be
repeated. Prints how many messages it has sent. market_data.py receives them.
"""

import argparse
import struct
import time

import trio

from trio_ipv4 import open_udp

HEADER = struct.Struct("!10s Q H")  # The session; the number of the first message, or the next; how many there are.
LENGTH = struct.Struct("!H")  # Of the message that follows.
TIME = struct.Struct("!Q")  # Nanoseconds since the epoch.
SESSION = b"EXAMPLE001"
HEARTBEAT, END_OF_SESSION = 0, 0xFFFF  # Counts of datagrams without messages.


def pack(number: int, texts: list[bytes]) -> bytes:
    """Lay out a datagram with these messages, the first of which has the number."""
    messages = [TIME.pack(time.time_ns()) + text for text in texts]
    blocks = [LENGTH.pack(len(message)) + message for message in messages]
    return HEADER.pack(SESSION, number, len(texts)) + b"".join(blocks)


def unpack(payload: bytes) -> tuple[int, list[tuple[int, bytes]], bool] | None:
    """Return the number of the first message, the messages with their times, and whether the session ends."""
    try:
        _, number, count = HEADER.unpack_from(payload)
        messages, offset = [], HEADER.size
        for _ in range(0 if count == END_OF_SESSION else count):
            (length,) = LENGTH.unpack_from(payload, offset)
            (sent_ns,) = TIME.unpack_from(payload, offset + LENGTH.size)
            offset += LENGTH.size + length
            messages.append((sent_ns, payload[offset - length + TIME.size : offset]))
    except struct.error:
        return None  # Something else.
    return number, messages, count == END_OF_SESSION


async def main() -> None:
    parser = argparse.ArgumentParser(description="Send two copies of a feed of made-up market data.")
    parser.add_argument("a", nargs="?", default="lo", help="the interface of feed A")
    parser.add_argument("b", nargs="?", default="lo", help="the interface of feed B")
    parser.add_argument("--group-a", default="239.1.2.3")
    parser.add_argument("--group-b", default="239.1.2.4")
    parser.add_argument("--port", type=int, default=26400)
    parser.add_argument("--count", type=int, default=20, help="how many datagrams to send")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds after each")
    parser.add_argument("--lose-a", type=int, action="append", default=[], metavar="N")
    parser.add_argument("--lose-b", type=int, action="append", default=[], metavar="N")
    options = parser.parse_args()
    async with open_udp() as a, open_udp() as b:
        a.multicast_interface, b.multicast_interface = options.a, options.b
        feeds = [(a, options.group_a, options.lose_a), (b, options.group_b, options.lose_b)]

        async def send(payload: bytes, which: int = 0) -> None:
            for conn, group, lost in feeds:
                if which not in lost:
                    await conn.send_to(payload, (group, options.port))

        number = 1
        for which in range(1, options.count + 1):
            texts = [b"%d at 100.%02d" % (each, which % 100) for each in range(which % 3 + 1)]
            await send(pack(number, texts), which)
            number += len(texts)
            await trio.sleep(options.interval)
        # What was lost last is noticed only now.
        await send(HEADER.pack(SESSION, number, HEARTBEAT))
        await send(HEADER.pack(SESSION, number, END_OF_SESSION))
        print(f"sent {number - 1} messages", flush=True)


if __name__ == "__main__":
    trio.run(main)
