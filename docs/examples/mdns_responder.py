"""A responder for one-shot multicast DNS queries (Go's example "servingOneShotMulticastDNS"; RFC 6762).

    python mdns_responder.py [--name NAME] [--interface NAME ...] [--answers N] [--seconds SECONDS]

Answers questions for one name with the address of the interface on which they were asked. A question that wants a
unicast response (section 5.4), or that comes from another port than 5353 (section 6.7), is answered by unicast, others
by multicast. It does not probe for its name or announce it (section 8), so it suits a name that nobody else claims.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import struct
import sys
from ipaddress import IPv4Address

import trio

from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Interface,
    PacketConn,
    follow_group,
    interface_by_index,
    open_udp,
)

GROUP = IPv4Address("224.0.0.251")
PORT = 5353
A, ANY, IN = 1, 255, 1  # RFC 1035 sections 3.2.2 to 3.2.5
TOP_BIT = 0x8000  # Of a question's class: unicast response wanted (5.4). Of a record's: flush what is cached (10.2).
RESPONSE = 0x8400  # RFC 1035 section 4.1.1: a response, authoritative; RFC 6762 section 18

HEADER = struct.Struct("!HHHHHH")  # RFC 1035 section 4.1.1: id, flags; questions, answers, authorities, additional
RECORD = struct.Struct("!HHIH")  # RFC 1035 section 4.1.3: type, class, TTL, length of the data


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of a query (RFC 1035 section 4.1.2)."""

    name: str
    type: int
    of_class: int

    @property
    def wants_unicast(self) -> bool:
        """Whether the response should come by unicast (RFC 6762 section 5.4)."""
        return bool(self.of_class & TOP_BIT)

    def asks_for(self, name: str) -> bool:
        """Tell whether the address of `name` answers this. Case doesn't matter (RFC 1035 section 2.3.3)."""
        internet = self.of_class & ~TOP_BIT in (IN, ANY)
        return internet and self.type in (A, ANY) and self.name.lower() == name.lower()


def read_query(message: bytes) -> tuple[int, list[Question]] | None:
    """Return the identifier and the questions of a query; `None` for anything else, nonsense included."""
    if len(message) < HEADER.size:
        return None
    identifier, flags, count, *_ = HEADER.unpack_from(message)
    if flags & 0xF80F:  # RFC 6762 section 18: a response, another opcode, or an error
        return None
    questions, offset = [], HEADER.size
    try:
        for _ in range(count):
            name, offset = _read_name(message, offset)
            questions.append(Question(name, *struct.unpack_from("!HH", message, offset)))
            offset += 4
    except (struct.error, IndexError, ValueError):
        return None
    return identifier, questions


def answer(datagram: Datagram, name: str) -> Datagram | None:
    """Return the response to a query for `name`; `None` if this is none, or if the interface has no address."""
    ifindex = datagram.control.ifindex
    query = read_query(datagram.payload)
    if query is None or datagram.control.dst != GROUP or ifindex is None:
        return None
    asked = [question for question in query[1] if question.asks_for(name)]
    asker = IPv4Address(datagram.peer[0])
    address = own_address(ifindex, asker) if asked else None
    if address is None or asker.is_unspecified:  # There is nobody to answer at 0.0.0.0.
        return None
    if datagram.peer[1] != PORT:
        # A plain DNS client: it wants its own identifier and question back, and no bit that it doesn't know (6.7).
        question = _name(asked[0].name) + struct.pack("!HH", asked[0].type, asked[0].of_class & ~TOP_BIT)
        header = HEADER.pack(query[0], RESPONSE, 1, 1, 0, 0)
        return datagram.reply(header + question + _record(name, address, IN, seconds=10))
    response = HEADER.pack(0, RESPONSE, 0, 1, 0, 0) + _record(name, address, IN | TOP_BIT, seconds=120)
    if all(question.wants_unicast for question in asked):
        return datagram.reply(response)
    return Datagram(response, (GROUP, PORT), control=ControlMessage(ifindex=ifindex))


def own_address(ifindex: int, asker: IPv4Address) -> IPv4Address | None:
    """Return this host's address on an interface, if it has one: in the network of the asker, else the first."""
    # `control.local` follows the route back to the asker. Where two links have one prefix, it may be the other link's.
    try:
        addresses = interface_by_index(ifindex).addresses
    except OSError:  # The interface has just gone.
        return None
    near = [address for address in addresses if asker in address.network]
    return next((address.ip for address in (*near, *addresses)), None)


def _record(name: str, address: IPv4Address, of_class: int, *, seconds: int) -> bytes:
    return _name(name) + RECORD.pack(A, of_class, seconds, 4) + address.packed


def _name(name: str) -> bytes:
    labels = (label.encode() for label in name.rstrip(".").split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _read_name(message: bytes, offset: int) -> tuple[str, int]:
    """Return a name, and where what follows it begins (RFC 1035 section 4.1.4)."""
    labels: list[str] = []
    after, before = None, offset
    while length := message[offset]:
        if length >= 0xC0:  # A pointer. One that leads forward could lead in a circle.
            after = after or offset + 2
            offset = (length & 0x3F) << 8 | message[offset + 1]
            if offset >= before:
                raise ValueError("a pointer must lead back")
            before = offset
        elif length > 63 or sum(map(len, labels)) > 255:
            raise ValueError("a label or a name is too long")
        else:
            labels.append(message[offset + 1 : offset + 1 + length].decode())
            offset += 1 + length
    return ".".join(labels), after or offset + 1


async def respond(conn: PacketConn, name: str, answers: int) -> None:
    """Answer so many queries."""
    async for datagram in conn:
        response = answer(datagram, name)
        if response is None:
            continue
        try:
            await conn.send(response)
        except OSError:  # The interface is about to go, or nobody can have that address or port. Others still ask.
            continue
        address, port = response.peer
        print(f"{name}: told {address} port {port}", flush=True)
        answers -= 1
        if answers <= 0:
            return


async def main(arguments: argparse.Namespace) -> int:
    """Join on every interface that is wanted, now and later, and respond."""
    names = arguments.interface or ["lo"]

    def is_wanted(interface: Interface) -> bool:
        is_any = names == ["all"] and interface.is_multicast and not interface.is_port
        return interface.is_up and (interface.name in names or is_any)

    flags = ControlFlags.DST | ControlFlags.INTERFACE
    async with open_udp("0.0.0.0", PORT, share_port=True, control_flags=flags) as conn, trio.open_nursery() as nursery:
        conn.ttl = conn.multicast_ttl = 255  # RFC 6762 section 11
        await nursery.start(functools.partial(follow_group, conn, GROUP, where=is_wanted))
        print(f"joined {GROUP} on {len(conn.memberships)} interfaces", flush=True)
        with trio.move_on_after(arguments.seconds):
            await respond(conn, arguments.name, arguments.answers)
        nursery.cancel_scope.cancel()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer one-shot mDNS queries for one name.")
    parser.add_argument("--name", default="trio.local")
    parser.add_argument("--interface", action="append", help="may be repeated; 'all' for every one; by default lo")
    parser.add_argument("--answers", type=int, default=10, help="how many to give")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to listen")
    sys.exit(trio.run(main, parser.parse_args()))
