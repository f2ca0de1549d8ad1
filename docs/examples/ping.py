"""Ping hosts by ICMP echo (RFC 792): several at once, over one connection.

    python ping.py [ADDRESS ...] [--count N] [--seconds SECONDS] [--interval SECONDS] [--ttl N] [--size OCTETS] [--raw]

Linux. No privilege is needed where the group of the process is within sysctl net.ipv4.ping_group_range (icmp(7)).
Elsewhere, and with --raw, a raw socket is used, which needs CAP_NET_RAW.

One task receives the replies, another one the ICMP errors, and each ping waits for its own answer. A raw socket hears
what answers every program of this host. So a reply must return the identifier, the sequence number and the random data
of the request; an error must be about its destination, and quote its octets.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import secrets
import statistics
import sys
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio

from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Endpoint,
    ICMPEcho,
    ICMPFilter,
    ICMPType,
    PacketConn,
    SocketError,
    open_ip,
    open_unprivileged_icmp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIZE = 56  # Octets of data, as ping(8) has them.
# The kernel tells of redirects, too. They are no answer: the router has sent the request on.
ERRORS = (ICMPType.DESTINATION_UNREACHABLE, ICMPType.TIME_EXCEEDED, ICMPType.PARAMETER_PROBLEM)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What answered a request: a reply, or an ICMP error."""

    told: Datagram | SocketError
    seconds: float

    @property
    def type(self) -> ICMPType:
        """The type of the ICMP message."""
        return ICMPType.ECHO_REPLY if isinstance(self.told, Datagram) else ICMPType(self.told.icmp_type or 0)

    @property
    def peer(self) -> str:
        """Who answered."""
        return self.told.peer[0] if isinstance(self.told, Datagram) else str(self.told.offender)

    def __str__(self) -> str:
        if isinstance(self.told, Datagram):
            text = f"reply from {self.peer}, {len(self.told.payload)} octets, ttl {self.told.control.ttl}"
        else:
            text = f"{self.told.reason}, says {self.peer}"
        return f"{text}, {1000 * self.seconds:.3f} ms"


@dataclasses.dataclass
class Request:
    """A request that waits for its answer. `reply` has the octets of the right reply; `None` if any will do."""

    destination: Endpoint
    octets: bytes
    reply: bytes | None
    begin: float = dataclasses.field(default_factory=trio.current_time)
    answer: Answer | None = None
    answered: trio.Event = dataclasses.field(default_factory=trio.Event)


class Asker:
    """Any number of requests at once, over one connection. Nobody else may receive from it."""

    def __init__(self, conn: PacketConn) -> None:
        self._conn = conn
        self._waiting: list[Request] = []

    async def ask(self, request: Request, *, ttl: int | None = None) -> Answer:
        """Send a request, and wait for its answer as long as the caller's cancel scope allows."""
        self._waiting.append(request)
        try:
            await self._conn.send_to(request.octets, request.destination, control=ControlMessage(ttl=ttl))
            await request.answered.wait()
        finally:
            self._waiting.remove(request)
        assert request.answer is not None
        return request.answer

    async def receive_replies(self) -> None:
        """Hand each reply to its request."""
        async for datagram in self._conn:
            self._hand_over(datagram)

    async def receive_errors(self) -> None:
        """Hand each ICMP error to the request that it is about."""
        while True:
            self._hand_over(await self._conn.receive_error())

    def _hand_over(self, told: Datagram | SocketError) -> None:
        for request in self._waiting:
            if request.answer is None and answers(told, request):
                request.answer = Answer(told, trio.current_time() - request.begin)
                request.answered.set()


def answers(told: Datagram | SocketError, request: Request) -> bool:
    """Tell whether a reply, or an ICMP error, is the answer to a request."""
    if isinstance(told, Datagram):
        return told.peer == request.destination if request.reply is None else told.payload == request.reply
    if told.icmp_type not in ERRORS or told.destination != request.destination:
        return False
    # A router quotes as much as it likes. The first 8 octets of a request have its checksum, which covers the data.
    return request.octets.startswith(told.payload[: len(request.octets)])


@contextlib.asynccontextmanager
async def open_asker(conn: PacketConn) -> AsyncIterator[Asker]:
    """Ask over a connection, as long as the block lasts."""
    asker = Asker(conn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.receive_replies)
        nursery.start_soon(asker.receive_errors)
        yield asker
        nursery.cancel_scope.cancel()


def open_unprivileged() -> tuple[PacketConn, int]:
    """Return a connection that needs no privilege, and the identifier that the kernel gave it."""
    conn = open_unprivileged_icmp(control_flags=ControlFlags.TTL)
    conn.report_errors = True
    return conn, conn.local_endpoint[1]


def open_privileged() -> tuple[PacketConn, int]:
    """Return a connection over a raw ICMP socket, and a random identifier."""
    conn = open_ip(trio.socket.IPPROTO_ICMP, control_flags=ControlFlags.TTL)
    # Errors come by `receive_error`. On the loopback interface a raw socket would hear its own requests, too.
    conn.icmp_filter = ICMPFilter.block_all().accept(ICMPType.ECHO_REPLY)
    conn.report_errors = True
    return conn, secrets.randbits(16)


def open_icmp() -> tuple[PacketConn, int]:
    """Return a connection that needs no privilege if the kernel lets us, else one over a raw socket."""
    try:
        return open_unprivileged()
    except PermissionError as error:
        unprivileged = error
    try:
        return open_privileged()
    except PermissionError as raw:
        text = f"one of two ways must be open:\n- {unprivileged.strerror}\n- {raw.strerror}"
        raise PermissionError(raw.errno, text) from None


def echo(address: str, identifier: int, sequence: int, size: int = SIZE) -> Request:
    """Make an echo request."""
    # Two programs may choose the same identifier. Random data tells their replies apart, and late ones from new ones.
    request = ICMPEcho(identifier, sequence, secrets.token_bytes(size))
    reply = ICMPEcho(identifier, sequence, request.data, is_reply=True)
    return Request((address, 0), request.marshal(), reply.marshal())


async def ping(conn: PacketConn, address: str, identifier: int, sequence: int) -> Answer:
    """Ping once, over a connection that does nothing else."""
    async with open_asker(conn) as asker:
        return await asker.ask(echo(address, identifier, sequence))


def summarize(sent: int, times: list[float]) -> str:
    """Say how many requests were lost, and how long the replies took."""
    text = f"{sent} sent, {len(times)} received, {(sent - len(times)) / sent:.0%} lost"
    if not times:
        return text
    figures = (1000 * each for each in (min(times), statistics.median(times), max(times)))
    return f"{text}, min/median/max {'/'.join(f'{each:.3f}' for each in figures)} ms"


async def main(arguments: argparse.Namespace) -> int:
    """Ping, and return 0 if there was a reply from each address."""
    try:
        conn, identifier = open_privileged() if arguments.raw else open_icmp()
    except OSError as error:
        sys.stderr.write(f"ping: {error.strerror}\n")
        return 2
    times: dict[str, list[float]] = {str(address): [] for address in arguments.addresses}
    width = max(map(len, times))

    async def ping_once(address: str, number: int) -> None:
        text = f"no answer in {arguments.seconds:g} s"
        request = echo(address, identifier, number & 0xFFFF, arguments.size)
        with trio.move_on_after(arguments.seconds):
            try:
                answer = await asker.ask(request, ttl=arguments.ttl)
            except OSError as error:  # This host refuses to send it.
                text = f"not sent: {os.strerror(error.errno or 0)}"
            else:
                text = str(answer)
                if answer.type is ICMPType.ECHO_REPLY:
                    times[address].append(answer.seconds)
        print(f"{address:{width}}  {number}  {text}", flush=True)

    async with conn, open_asker(conn) as asker, trio.open_nursery() as pings:
        for number in range(1, arguments.count + 1):
            for address in times:
                pings.start_soon(ping_once, address, number)
            if number < arguments.count:
                await trio.sleep(arguments.interval)
    print()
    for address, taken in times.items():
        print(f"{address:{width}}  {summarize(arguments.count, taken)}")
    return 0 if all(times.values()) else 1


def within(least: int, most: int, text: str) -> int:
    """Read an argument that has bounds."""
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {text}")
    return int(text)


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ping hosts by ICMP echo.")
    parser.add_argument("addresses", nargs="*", type=IPv4Address, default=[IPv4Address("127.0.0.1")], metavar="ADDRESS")
    parser.add_argument("--count", type=partial(within, 1, 10**9), default=3, help="how many requests to each address")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to wait for each answer")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds from one request to the next")
    parser.add_argument("--ttl", type=partial(within, 1, 255), help="how many hops a request may take")
    parser.add_argument("--size", type=partial(within, 8, 65_507), default=SIZE, help="octets of data in a request")
    parser.add_argument("--raw", action="store_true", help="use a raw socket in any case")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(trio.run(main, read_arguments()))
