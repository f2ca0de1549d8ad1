"""Mark what an accepted TCP connection sends as AF11 (RFC 2597), under trio.serve_tcp.

    python mark_tcp.py [PORT]

It listens on 127.0.0.1 alone, for half a minute. Connect from another terminal (`nc 127.0.0.1 7000`), and watch the
type of service on the wire: `tcpdump -i lo -v tcp port 7000` shows "tos 0x28".
"""

import functools
import sys

import trio

from trio_ipv4 import Conn

AF11 = 0x28  # Class 1, low drop precedence: code point 10, above the two ECN bits.


async def answer(stream: trio.SocketStream) -> None:
    # What was sent before the connection was accepted, the SYN-ACK, is not marked.
    Conn(stream).tos = AF11
    await stream.send_all(b"marked\n")


async def main(port: str = "7000") -> None:
    with trio.move_on_after(30):
        print(f"listening on 127.0.0.1, port {port}")
        await trio.serve_tcp(answer, int(port), host="127.0.0.1")


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
