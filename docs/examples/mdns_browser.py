"""Browse for services with multicast DNS on every interface that is named, as they come and go; or announce one.

    python mdns_browser.py [--interface NAME ...] [--service _http._tcp.local]
    python mdns_browser.py [--interface NAME ...] [--service _http._tcp.local] --announce "My printer" --port 8080

Each interface has a handler of its own, so that what arrives on one is answered there, with the address that this host
has there. A cable that is pulled out ends its handler; when it is back, another one asks, or announces, anew.

Without --interface it stays on the loopback. To try it: announce in one terminal, browse in another. It is a sketch of
RFC 6762 and RFC 6763: it keeps no cache, and does not make sure that its name is unique.
"""

import argparse
import contextlib
import functools
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

import trio

from trio_ipv4 import Interface, PacketConn, serve_group

GROUP = "224.0.0.251"
PORT = 5353
A, PTR, TXT, SRV = 1, 12, 16, 33
IN = 1
FLUSH = 0x8000  # In a class: "this is all there is of that name", or, in a question, "answer by unicast".
RESPONSE = 0x8400  # An authoritative answer.
HEADER = struct.Struct("!6H")
LIFETIME = 120  # seconds


class Record(NamedTuple):
    name: str
    kind: int
    data: bytes | str


async def browse(service: str, conn: PacketConn, interface: Interface) -> None:
    """Ask, and print what is found on one interface."""
    conn.multicast_ttl = 255  # RFC 6762 section 11
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, conn, service)
        known: set[str] = set()
        async for datagram in conn:
            if datagram.peer[1] != PORT:
                continue  # RFC 6762 section 6: every response comes from that port.
            records = list(read(datagram.payload))
            found = {str(record.data) for record in records if (record.name.lower(), record.kind) == (service, PTR)}
            for instance in sorted(found - known):
                places = [str(record.data) for record in records if (record.name, record.kind) == (instance, SRV)]
                print(f"{interface.name}: {instance} at {', '.join(places) or 'a place to be asked for'}", flush=True)
            known |= found


async def ask(conn: PacketConn, service: str) -> None:
    """Ask now, after a second, and then ever more seldom (RFC 6762 section 5.2)."""
    pause = 1
    while True:
        await send(conn, HEADER.pack(0, 0, 1, 0, 0, 0) + to_name(service) + struct.pack("!HH", PTR, IN))
        await trio.sleep(pause)
        pause = min(2 * pause, 3600)


async def announce(service: str, title: str, port: int, conn: PacketConn, interface: Interface) -> None:
    """Tell of a service twice, and then whenever somebody asks, on one interface."""
    conn.multicast_ttl = 255
    host = "".join(letter if letter.isalnum() else "-" for letter in title.lower()) + ".local"
    instance = f"{title}.{service}"
    answers = [
        answer(service, PTR, IN, to_name(instance)),
        answer(instance, SRV, IN | FLUSH, struct.pack("!HHH", 0, 0, port) + to_name(host)),
        answer(instance, TXT, IN | FLUSH, b"\0"),
        answer(host, A, IN | FLUSH, interface.addresses[0].ip.packed),
    ]
    response = HEADER.pack(0, RESPONSE, 0, len(answers), 0, 0) + b"".join(answers)
    names = {service, instance.lower(), host}
    for _ in range(2):  # RFC 6762 section 8.3
        await send(conn, response)
        await trio.sleep(1)
    print(f"{interface.name}: announced {instance}", flush=True)
    async for datagram in conn:
        if names.intersection(name.lower() for name in questions(datagram.payload)):
            await send(conn, response)


async def send(conn: PacketConn, message: bytes) -> None:
    # An interface that is just about to go may refuse; then this handler is about to be cancelled.
    with contextlib.suppress(OSError):
        await conn.send_to(message, (GROUP, PORT))


def to_name(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def answer(name: str, kind: int, rrclass: int, data: bytes) -> bytes:
    return to_name(name) + struct.pack("!HHIH", kind, rrclass, LIFETIME, len(data)) + data


def questions(message: bytes) -> list[str]:
    with contextlib.suppress(ValueError, IndexError, struct.error):
        _, flags, count, *_ = HEADER.unpack_from(message)
        found, offset = [], HEADER.size
        for _ in range(0 if flags & 0x8000 else count):
            name, offset = read_name(message, offset)
            found.append(name)
            offset += 4
        return found
    return []


def read(message: bytes) -> Iterator[Record]:
    """Read the records of a response, as far as they make sense."""
    with contextlib.suppress(ValueError, IndexError, struct.error):
        _, flags, asked, *counts = HEADER.unpack_from(message)
        offset = HEADER.size
        for _ in range(asked):
            offset = read_name(message, offset)[1] + 4
        for _ in range(sum(counts) if flags & 0x8000 else 0):
            name, offset = read_name(message, offset)
            kind, _, lifetime, length = struct.unpack_from("!HHIH", message, offset)
            offset += 10
            if lifetime > 0:  # RFC 6762 section 10.1: 0 says goodbye.
                yield Record(name, kind, read_data(message, kind, offset, length))
            offset += length


def read_data(message: bytes, kind: int, offset: int, length: int) -> bytes | str:
    if kind == PTR:
        return read_name(message, offset)[0]
    if kind == SRV:
        (port,) = struct.unpack_from("!4xH", message, offset)
        return f"{read_name(message, offset + 6)[0]}:{port}"
    if kind == A:
        return str(IPv4Address(message[offset : offset + length]))
    return message[offset : offset + length]


def read_name(message: bytes, offset: int) -> tuple[str, int]:
    """Read a name, and return where it ends. A pointer must lead back, so that there is an end (RFC 1035)."""
    labels: list[str] = []
    end = None
    while length := message[offset]:
        if length < 64:
            labels.append(message[offset + 1 : offset + 1 + length].decode(errors="replace"))
            offset += 1 + length
            continue
        target = struct.unpack_from("!H", message, offset)[0] & 0x3FFF
        end = offset + 2 if end is None else end
        if target >= offset:
            raise ValueError("a pointer that leads forward")
        offset = target
    return ".".join(labels), offset + 1 if end is None else end


async def main() -> None:
    parser = argparse.ArgumentParser(description="Browse for services with multicast DNS, or announce one.")
    parser.add_argument("--interface", action="append", help="the interfaces to use; the loopback if there is none")
    parser.add_argument("--service", default="_http._tcp.local")
    parser.add_argument("--announce", metavar="TITLE")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    names = options.interface or ["lo"]

    def where(interface: Interface) -> bool:
        return interface.name in names and interface.is_up and bool(interface.addresses)

    if options.announce:
        handler = functools.partial(announce, options.service, options.announce, options.port)
    else:
        handler = functools.partial(browse, options.service)
    await serve_group(handler, GROUP, PORT, where=where)


if __name__ == "__main__":
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        pass  # Ctrl-C is how it ends.
