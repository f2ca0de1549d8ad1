"""Find the routers on the way to an address, by TTL. It uses ping.py, beside it.

    python traceroute.py [ADDRESS] [--hops N] [--seconds SECONDS] [--probes N] [--icmp]

Linux. The probes are UDP datagrams, which need no privilege. Each goes to a port of its own, from 33434 on, where
nobody should listen. With --icmp they are echo requests, which need what ping.py needs.

The router at which a probe's time to live ends says "time exceeded", the destination "port unreachable". The kernel
puts both into the error queue of the socket, with the address and the port of the probe that they are about.

Marks are those of traceroute(8): !N, !H, !P for network, host, protocol unreachable; !X for prohibited.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import secrets
import sys
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio
from ping import Answer, Asker, Request, echo, open_asker, open_icmp, within

from trio_ipv4 import (
    ICMPExtensionObject,
    ICMPType,
    InterfaceInformation,
    MPLSLabelStack,
    PacketConn,
    SocketError,
    open_udp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

FIRST_PORT = 33434
SIZE = 32  # Octets of data. A probe has 60 with its headers, as that of traceroute(8).
IN_FLIGHT = 6  # Linux sends 6 ICMP errors at once to a host, then one a second (sysctl net.ipv4.icmp_ratelimit).
MARKS = ("!N", "!H", "!P", "", "!F", "!S", "!N", "!H", "!N", "!X", "!X", "!N", "!H", "!X", "!V", "!C")  # By code.


class Hop:
    """What answered the probes with one TTL: `None` for silence, an error if this host refused to send the probe."""

    def __init__(self, ttl: int, probes: int) -> None:
        self.ttl = ttl
        self.answers: list[Answer | OSError | None] = [None] * probes
        self.missing = probes
        self.complete = trio.Event()

    def set(self, number: int, answer: Answer | OSError | None) -> None:
        """Note what answered a probe."""
        self.answers[number] = answer
        self.missing -= 1
        if not self.missing:
            self.complete.set()

    @property
    def is_last(self) -> bool:
        """Whether a probe ended here for another reason than its time to live."""
        return any(
            each is not None and (isinstance(each, OSError) or each.type is not ICMPType.TIME_EXCEEDED)
            for each in self.answers
        )

    def lines(self) -> Iterator[str]:
        """Show it. Each router that answered has a line."""
        line, peer = f"{self.ttl:2}", ""
        for answer in self.answers:
            if answer is None:
                line += "  *"
                continue
            if isinstance(answer, OSError):
                line += f"  not sent: {os.strerror(answer.errno or 0)}"
                break
            if answer.peer != peer:
                if peer:
                    yield line
                    line = "  "
                peer = answer.peer
                line += f"  {peer}"
            line += f"  {1000 * answer.seconds:.3f} ms {mark(answer)}".rstrip()
        yield line
        for extension in dict.fromkeys(self._extensions()):
            yield from (f"      {text}" for text in explain(extension))

    def _extensions(self) -> Iterator[ICMPExtensionObject]:
        for answer in self.answers:
            if isinstance(answer, Answer) and isinstance(answer.told, SocketError):
                yield from answer.told.extensions


def mark(answer: Answer) -> str:
    """Mark an answer as traceroute(8) does."""
    error = answer.told
    if not isinstance(error, SocketError) or error.icmp_type == ICMPType.TIME_EXCEEDED:
        return ""
    code = error.icmp_code or 0
    if error.icmp_type != ICMPType.DESTINATION_UNREACHABLE or code >= len(MARKS):
        return f"!<{error.icmp_type:d}-{code}>"
    return MARKS[code] if error.mtu is None else f"{MARKS[code]}-{error.mtu}"


def explain(extension: ICMPExtensionObject) -> Iterator[str]:
    """Say what a router told beside the error (RFC 4950, RFC 5837)."""
    match extension:
        case MPLSLabelStack(labels=labels):
            for each in labels:
                bottom = ", bottom of stack" if each.bottom_of_stack else ""
                yield f"MPLS label {each.label}, class {each.traffic_class}, ttl {each.ttl}{bottom}"
        case InterfaceInformation(name=name, ifindex=index, address=address, mtu=mtu):
            # The name is a stranger's, and may have any characters.
            facts = (("", name and ascii(name)), ("index ", index), ("", address), ("mtu ", mtu))
            told = ", ".join(f"{title}{fact}" for title, fact in facts if fact is not None)
            yield f"interface, {extension.role.name.lower().replace('_', ' ')}: {told}"
        case _:
            yield f"extension of class {extension.class_num}, type {extension.c_type}: {len(extension.data)} octets"


class Tracer:
    """Probes of one address. `identifier` is that of echo requests; `None` over UDP."""

    def __init__(self, asker: Asker, address: str, identifier: int | None) -> None:
        self._asker = asker
        self._address = address
        self._identifier = identifier
        self._numbers = itertools.count()

    async def probe(self, ttl: int) -> Answer:
        """Send a probe, and wait for its answer as long as the caller's cancel scope allows."""
        number = next(self._numbers)
        if self._identifier is None:
            destination = (self._address, FIRST_PORT + number)
            return await self._asker.ask(Request(destination, secrets.token_bytes(SIZE), None), ttl=ttl)
        return await self._asker.ask(echo(self._address, self._identifier, number, SIZE), ttl=ttl)

    async def probe_all(self, hops: Iterable[Hop], seconds: float) -> None:
        """Send the probes of each hop, in order, a few at once."""
        in_flight = trio.Semaphore(IN_FLIGHT)

        async def probe_once(hop: Hop, number: int) -> None:
            answer: Answer | OSError | None = None
            with trio.move_on_after(seconds):
                try:
                    answer = await self.probe(hop.ttl)
                except OSError as refusal:
                    answer = refusal
            in_flight.release()
            hop.set(number, answer)

        async with trio.open_nursery() as nursery:
            for hop in hops:
                for number in range(hop.missing):
                    await in_flight.acquire()
                    nursery.start_soon(probe_once, hop, number)


def open_conn(*, icmp: bool = False) -> tuple[PacketConn, int | None]:
    """Return a connection for probes, and the identifier of echo requests; `None` over UDP."""
    conn, identifier = open_icmp() if icmp else (open_udp(), None)
    conn.report_errors = True
    return conn, identifier


@contextlib.asynccontextmanager
async def open_tracer(conn: PacketConn, address: str, identifier: int | None = None) -> AsyncIterator[Tracer]:
    """Probe over a connection, as long as the block lasts."""
    async with open_asker(conn) as asker:
        yield Tracer(asker, address, identifier)


async def main(arguments: argparse.Namespace) -> int:
    """Print each hop, and return 0 if the address was reached."""
    try:
        conn, identifier = open_conn(icmp=arguments.icmp)
    except OSError as error:
        sys.stderr.write(f"traceroute: {error.strerror}\n")
        return 2
    address = str(arguments.address)
    hops = [Hop(ttl, arguments.probes) for ttl in range(1, arguments.hops + 1)]
    async with conn, open_tracer(conn, address, identifier) as tracer, trio.open_nursery() as nursery:
        nursery.start_soon(tracer.probe_all, hops, arguments.seconds)
        for hop in hops:
            await hop.complete.wait()
            print(*hop.lines(), sep="\n", flush=True)
            if hop.is_last:
                break
        nursery.cancel_scope.cancel()
    return 0 if any(isinstance(each, Answer) and each.peer == address for each in hop.answers) else 1


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Find the routers on the way to an address.")
    parser.add_argument("address", nargs="?", type=IPv4Address, default=IPv4Address("127.0.0.1"))
    parser.add_argument("--hops", type=partial(within, 1, 255), default=30, help="the most routers to look for")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to wait for each answer")
    parser.add_argument("--probes", type=partial(within, 1, 10), default=3, help="how many probes for each hop")
    parser.add_argument("--icmp", action="store_true", help="probe by ICMP echo instead of UDP")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(trio.run(main, read_arguments()))
