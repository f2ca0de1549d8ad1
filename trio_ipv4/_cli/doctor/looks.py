"""The looks, which take time: one that changes nothing, and one while a receiver of our own is joined.

The wire, the kernel's counters and drops, and the queues of sockets are heard all the time. What was heard is taken at
the end of a look. The next one begins there, so that no query is missed between the two.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from trio_ipv4._cli.doctor.evidence import Drops, Links, Memberships, OwnReceiver, Routes, Wire
from trio_ipv4._cli.doctor.records import Looking
from trio_ipv4._cli.doctor.witnesses import counters, fresh_join, links, memberships, probe, sockets
from trio_ipv4._cli.doctor.witnesses.drops import open_drops
from trio_ipv4._cli.doctor.witnesses.receivers import OwnReceiverWitness, TwinsWitness
from trio_ipv4._cli.doctor.witnesses.wire import open_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._cli.doctor.evidence import Evidence, Phase
    from trio_ipv4._cli.doctor.journal import Journal
    from trio_ipv4._cli.doctor.tables import Tables
    from trio_ipv4._cli.doctor.witnesses.drops import DropsWitness
    from trio_ipv4._cli.doctor.witnesses.wire import WireWitness

    class Running(Protocol):
        async def run(self) -> None: ...

    class Hearing(Running, Protocol):
        def take(self, phase: Phase) -> Evidence: ...


_LEAST_JOINED: Final = 1.5
"""In seconds: a switch may take a second to let a new member have the group, and IGMPv3 reports twice within one."""


@contextlib.asynccontextmanager
async def open_looks(journal: Journal, tables: Tables) -> AsyncIterator[Looks]:
    """Let those witnesses hear until the end of the block that hear all the time, as far as they may."""
    asked = journal.question
    wire = drops = sampler = None
    with contextlib.ExitStack() as stack:
        with journal.noting("wire"):
            wire = stack.enter_context(open_wire(asked))
        with journal.noting("drops"):
            drops = stack.enter_context(open_drops(asked.group))
        with journal.noting("sockets"):
            sampler = stack.enter_context(sockets.Sampler(asked.port))
        async with _hearing(journal, wire=wire, sockets=sampler):
            yield Looks(journal, tables, wire, drops, sampler)


@final
class Looks:
    """Looks at what comes. Made by `open_looks`.

    Args:
        journal: Where it is kept.
        tables: The tables that are read along.
        wire: Hears the wire, if it may; so with the others.
        drops: Counts what the kernel throws away.
        sampler: Looks at the queues of sockets.
    """

    def __init__(
        self,
        journal: Journal,
        tables: Tables,
        wire: WireWitness | None,
        drops: DropsWitness | None,
        sampler: sockets.Sampler | None,
    ) -> None:
        self._journal: Final = journal
        self._question: Final = journal.question
        self._tables: Final = tables
        self._wire: Final = wire
        self._drops: Final = drops
        self._sampler: Final = sampler
        self._counted: tuple[float, Mapping[str, int]] | None = None
        """When the counters were read last, and what they were."""

    async def look_only(self) -> None:
        """Look without joining anything."""
        asked, journal, twins = self._question, self._journal, None
        self._tell("before", asked.seconds)
        self._count()
        with contextlib.ExitStack() as stack:
            with journal.noting("twins"):
                groups = sorted({group for _, group in self._tables.members()})
                twins = stack.enter_context(TwinsWitness(asked, groups, journal.get(Links)))
            async with _hearing(journal, twins=twins):
                await trio.sleep(asked.seconds)
            self._read_sockets("before")
            # Once more, to see whether its queue has grown: it says "joined", and is still before the join.
            self._tables.look_at_program("joined")
            self._take("before", twins=twins)

    async def join(self, ifindex: int) -> None:
        """Join with a receiver of our own. If it hears nothing, find out more."""
        asked, journal, own = self._question, self._journal, None
        seconds = max(asked.seconds, _LEAST_JOINED)
        self._tell("joined", seconds)
        known = journal.get(Memberships)
        was_member = None if known is None else (ifindex, asked.group) in self._tables.members()
        async with contextlib.AsyncExitStack() as stack:
            with journal.noting("own_receiver"):
                own = await stack.enter_async_context(OwnReceiverWitness(asked, members_before=was_member))
            async with _hearing(journal, own_receiver=own):
                await trio.sleep(seconds)
                self._take("joined", own_receiver=own)
                self._read_sockets("joined")
                self._tables.read_memberships()
                self._tables.ask_about_sources()
                heard = journal.get(OwnReceiver, "joined")
                if heard is None or not heard.heard:
                    await self._find_out_more(ifindex, was_member=was_member)

    async def _find_out_more(self, ifindex: int, *, was_member: bool | None) -> None:
        """Find out whether reports leave this host; ask the network, if nothing is on the wire."""
        journal = self._journal
        self._tell("test_join")
        with journal.noting("test_join"):
            journal.add(await fresh_join.look(ifindex, wire=self._wire))
        self._take_wire("test_join")
        if self._is_silent(ifindex):
            if was_member:
                await self._report(ifindex)
            await self._knock()

    async def _report(self, ifindex: int) -> None:
        """Say by a report of our own that this host is a member, if that is permitted and still true."""
        asked, journal = self._question, self._journal
        if not asked.probe:
            journal.skip("own_report", "--probe")
        elif self._wire is None:
            journal.skip("own_report", "CAP_NET_RAW")
        else:
            self._tell("probe")
            with journal.noting("own_report"):
                there, now = links.look(), memberships.look(asked.group, "probe")
                is_there = any(each.index == ifindex for each in there.links)
                if is_there and any((each.ifindex, each.group) == (ifindex, asked.group) for each in now.members):
                    journal.add(await probe.report(asked, now, there, self._wire))
            self._take_wire("probe")

    async def _knock(self) -> None:
        """Knock at the source by unicast."""
        asked, journal = self._question, self._journal
        if asked.source is None:
            journal.skip("unicast", "--source")
            return
        with journal.noting("unicast"):
            journal.add(await probe.unicast(asked.source, self._hop(asked.source)))

    def _hop(self, source: IPv4Address) -> IPv4Address | None:
        """Return the router on the way to a source, if there is one."""
        routes = self._journal.get(Routes)
        return next((each.gateway for each in routes.ways if each.destination == source), None) if routes else None

    def _is_silent(self, ifindex: int) -> bool:
        """Tell whether nothing of the group came in. Without the wire our own receiver must do, which heard nothing."""
        wire = self._journal.get(Wire, "joined")
        return wire is None or not any(
            (each.ifindex, each.destination) == (ifindex, self._question.group) and each.direction != "out"
            for each in wire.flows
        )

    # What was heard

    def _take(self, phase: Phase, **receivers: Hearing | None) -> None:
        """Keep what was heard since the last time. Nothing else runs meanwhile, so that the figures fit together."""
        # First what takes a third of a second: to name the kernel's functions. What is dropped meanwhile is left out,
        # else it would be told as if it were after the join.
        drops = self._take_drops(phase)
        self._take_drops(phase)
        for name, receiver in receivers.items():
            with self._journal.noting(name):
                self._journal.add(None if receiver is None else receiver.take(phase))
        self._count(phase)
        self._take_wire(phase)
        self._journal.add(drops)

    def _take_drops(self, phase: Phase) -> Drops | None:
        with self._journal.noting("drops"):
            return None if self._drops is None else self._drops.take(phase)
        return None

    def _count(self, phase: Phase | None = None) -> None:
        with self._journal.noting("counters"):
            since, self._counted = self._counted, (trio.current_time(), counters.read())
            if since is not None and phase is not None:
                now, read = self._counted
                self._journal.add(counters.growth(since[1], read, now - since[0], phase))

    def _take_wire(self, phase: Phase) -> None:
        if self._wire is not None:
            with self._journal.noting("wire"):
                self._journal.add(*self._wire.take(phase))

    def _read_sockets(self, phase: Phase) -> None:
        if self._sampler is not None:
            self._tables.read_sockets(self._sampler, phase)

    def _tell(self, phase: Phase, seconds: float | None = None) -> None:
        asked = self._question
        where = "" if asked.interface is None else f" on {asked.interface}"
        self._journal.show(Looking(phase, seconds, f"{asked.group}:{asked.port}{where}"))


@contextlib.asynccontextmanager
async def _hearing(journal: Journal, **witnesses: Running | None) -> AsyncIterator[None]:
    """Let witnesses hear until the end of the block. One that fails is noted."""

    async def hear(name: str, witness: Running) -> None:
        with journal.noting(name):
            await witness.run()

    async with trio.open_nursery() as nursery:
        for name, witness in witnesses.items():
            if witness is not None:
                nursery.start_soon(hear, name, witness)
        yield
        nursery.cancel_scope.cancel()
