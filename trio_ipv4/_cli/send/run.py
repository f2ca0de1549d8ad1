"""One run: an interface each in a task of its own, rows while they send, and the summary."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.send import streams
from trio_ipv4._cli.send.payloads import Lines, Pieces, Probes, Repeated, Source
from trio_ipv4._cli.send.plan import FileGiven, PayloadGiven, Plan, ProbesWanted
from trio_ipv4._cli.send.records import InterfaceFacts, InterfaceSummary, Progress, Summary
from trio_ipv4._cli.send.sender import Sender

if TYPE_CHECKING:
    from trio_ipv4._cli.output import Output, Redraw


async def main(output: Output, plan: Plan) -> int:
    """Send as planned, and show the summary. Return the exit status.

    Raises:
        OSError: The file can't be read.
        CycloptsError: The file is longer than a datagram can be.
    """
    are_probes = isinstance(plan.what, ProbesWanted)
    names = plan.interfaces or (None,)
    senders = [Sender(output, plan, name, secrets.randbits(32) if are_probes else None) for name in names]
    async with until_stopped(plan.seconds) as stop:
        what = plan.what
        if isinstance(what, FileGiven) and not what.is_cut:
            what = PayloadGiven(await streams.read_whole(what.name))
        await _send(output, plan.every, what, senders)
    if len(senders) == 1 and senders[0].datagrams <= 1:
        output.show(senders[0].summary(InterfaceFacts))  # The summary has all that a table would have.
    else:
        output.table([sender.summary(InterfaceSummary) for sender in senders])
    output.show(_sum_up(senders))
    return stop.status(Status.FAILED if any(sender.reason for sender in senders) else Status.DONE)


async def _send(
    output: Output, every: float, what: PayloadGiven | ProbesWanted | FileGiven, senders: Sequence[Sender]
) -> None:
    with output.live() as redraw:
        async with trio.open_nursery() as others:
            others.start_soon(_hurry_at_the_end, senders)
            others.start_soon(_show_progress, redraw, every, senders)
            async with trio.open_nursery() as sending:
                sources = _sources(what, senders, others)
                # One after the other, so that what they tell comes in the order of the command line.
                for sender, source in zip(senders, sources, strict=True):
                    await sending.start(sender.run, source)
            others.cancel_scope.cancel()


def _sources(
    what: PayloadGiven | ProbesWanted | FileGiven, senders: Sequence[Sender], nursery: trio.Nursery
) -> Sequence[Source]:
    """Return a source for each sender. A file is read by a task in the nursery."""
    if isinstance(what, FileGiven):
        queues = [streams.Queue() for _ in senders]
        nursery.start_soon(streams.pump, what.name, _cutter(what), queues)
        return queues
    if isinstance(what, PayloadGiven):
        return [Repeated(what.payload) for _ in senders]
    return [Probes(sender.stream or 0, what.size) for sender in senders]


def _cutter(what: FileGiven) -> Lines | Pieces:
    return Lines() if what.size is None else Pieces(what.size)


async def _hurry_at_the_end(senders: Sequence[Sender]) -> None:
    """Set the end of the last batches: they are shielded, and see no cancellation. This task does."""
    try:
        await trio.sleep_forever()
    finally:
        for sender in senders:
            sender.hurry()


async def _show_progress(redraw: Redraw, every: float, senders: Sequence[Sender]) -> None:
    start = last = trio.current_time()
    before = [(0, 0) for _ in senders]
    while True:
        await trio.sleep_until(last + every)
        now = trio.current_time()
        redraw(
            [
                _progress(sender, *earlier, now - start, now - last)
                for sender, earlier in zip(senders, before, strict=True)
            ]
        )
        last, before = now, [(sender.datagrams, sender.octets) for sender in senders]


def _progress(sender: Sender, datagrams: int, octets: int, seconds: float, since: float) -> Progress:
    return Progress(
        seconds=seconds,
        interface=sender.interface,
        datagrams=sender.datagrams,
        octets=sender.octets,
        datagrams_per_second=(sender.datagrams - datagrams) / since,
        bits_per_second=8 * (sender.octets - octets) / since,
        refused=sender.refused,
    )


def _sum_up(senders: Sequence[Sender]) -> Summary:
    return Summary(
        datagrams=sum(sender.datagrams for sender in senders),
        octets=sum(sender.octets for sender in senders),
        refused=sum(sender.refused for sender in senders),
        seconds=max(sender.seconds for sender in senders),
        interfaces=len(senders),
        interface=senders[0].interface if len(senders) == 1 else None,
        interfaces_refused=sum(sender.reason is not None for sender in senders),
        behind_seconds=max(sender.behind for sender in senders),
    )
