"""Ask many peers over one connection, and learn at once, not by a timeout, which of them are not there.

    python ask_many.py [ADDRESS:PORT ...]

If a peer is not there, an ICMP error comes back, which says whom it is about. Without an argument it asks two peers
on the loopback interface: a server of its own, and a port where nobody listens.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import trio

from trio_ipv4 import Datagram, Endpoint, PacketConn, SocketError, open_udp

Outcomes: TypeAlias = "dict[Endpoint, Datagram | SocketError]"


async def ask(conn: PacketConn, question: bytes, peers: set[Endpoint], seconds: float = 2) -> Outcomes:
    """Ask, and return for each peer its answer, or the reason why there is none. A silent peer has no entry."""
    outcomes: Outcomes = {}
    conn.report_errors = True

    async def hear_answers() -> None:
        async for answer in conn:
            tell(answer.peer, answer)

    async def hear_errors() -> None:
        while True:
            error = await conn.receive_error()
            tell(error.destination, error)

    def tell(peer: Endpoint | None, outcome: Datagram | SocketError) -> None:
        if peer in peers:
            outcomes.setdefault(peer, outcome)
        if len(outcomes) == len(peers):
            nursery.cancel_scope.cancel()

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_answers)
            nursery.start_soon(hear_errors)
            # An error of one peer stops neither the batch nor an answer.
            await conn.send_batch([Datagram(question, peer) for peer in peers])
    return outcomes


async def serve(conn: PacketConn) -> None:
    """Answer every question."""
    async for datagram in conn:
        await conn.send(datagram.reply(b"yes"))


async def main(*arguments: str) -> None:
    async with open_udp() as conn, open_udp("127.0.0.1") as server, trio.open_nursery() as nursery:
        nursery.start_soon(serve, server)
        peers = {to_endpoint(text) for text in arguments} or {server.local_endpoint, ("127.0.0.1", 9)}
        outcomes = await ask(conn, b"are you there?", peers)
        for peer in sorted(peers):
            print(f"{peer[0]}:{peer[1]}", describe(outcomes.get(peer)), flush=True)
        nursery.cancel_scope.cancel()


def describe(outcome: Datagram | SocketError | None) -> str:
    """Say in a few words what came back."""
    if outcome is None:
        return "is silent"
    if isinstance(outcome, Datagram):
        return f"answers {outcome.payload!r}"
    return f"{outcome.reason}, says {outcome.offender}"


def to_endpoint(text: str) -> Endpoint:
    """Read ADDRESS:PORT."""
    address, _, port = text.rpartition(":")
    return address, int(port)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
