"""The course of it: join, count, show from time to time, leave, drain, sum up."""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import TYPE_CHECKING, Final, NoReturn, final

import attrs
import trio

from trio_ipv4 import FilterMode, NoInterfaceWarning, SourceFilter, follow_group, interfaces
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.listen import sinks
from trio_ipv4._cli.listen.flows import MAX_FLOWS, FlowTable
from trio_ipv4._cli.listen.receivers import AnyPortReceiver, Names, Quota, Receiver, open_connection
from trio_ipv4._cli.listen.records import (
    Dropped,
    Joined,
    Left,
    ManyFlows,
    Nothing,
    Refused,
    Resumed,
    Stalled,
    Started,
    Summary,
    Waiting,
    ask_doctor,
    show_flow,
    total_flow,
)
from trio_ipv4._cli.output import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ipv4 import Interface, PacketConn
    from trio_ipv4._cli.arguments import GroupPort
    from trio_ipv4._cli.listen.receivers import Sink
    from trio_ipv4._cli.listen.sinks import Capture
    from trio_ipv4._cli.output import Output, Redraw

_SHOWN: Final = 100
"""So many flows are shown in an interval, at most: to show more takes so long that datagrams would be dropped."""
_SILENCE: Final = 3.0
"""In seconds: after so long a remark says that nothing has come."""
_LOOK: Final = 1.0
"""In seconds: so often flows are looked at, whether they have stopped."""


@attrs.frozen(kw_only=True)
class Wanted:
    """What is to be listened to, for how long, and what is done with it."""

    groups: tuple[GroupPort, ...]
    interfaces: tuple[str, ...] = ()
    sources: SourceFilter = attrs.field(factory=SourceFilter.any)
    count: int | None = None
    seconds: float | None = None
    every: float | None = 1.0
    """Seconds; `None`: the flows are shown at the end only."""
    expect: int = 1
    """So many datagrams each group has to deliver."""
    printed_as: sinks.PrintedAs | None = None
    raw: bool = False
    pcap: Path | None = None
    buffer: int | None = None


async def listen(output: Output, wanted: Wanted) -> int:
    """Listen, and return the exit status."""
    with contextlib.ExitStack() as stack:
        conns = {endpoint: open_connection(endpoint, wanted.buffer, stack) for endpoint in dict.fromkeys(wanted.groups)}
        capture = sinks.Capture(wanted.pcap) if wanted.pcap else None
        if capture:
            stack.callback(capture.close)
        session = _Session(output, wanted, capture)
        for endpoint, conn in conns.items():
            session.add(endpoint, conn)
        async with until_stopped(wanted.seconds) as stop:
            session.quota.at_end = stop.now
            if capture:
                capture.at_failure = stop.now
            await session.run()
        # All groups were left by now, so that nothing more comes.
        is_enough = session.finish()
    return stop.status(Status.DONE if is_enough else Status.NEGATIVE)


@final
class _Session:
    """What is known while it runs."""

    def __init__(self, output: Output, wanted: Wanted, capture: Capture | None) -> None:
        self._output: Final = output
        self._wanted: Final = wanted
        self._capture: Final = capture
        self._began = trio.current_time()
        self._flows: Final = FlowTable()
        self._names: Final = Names()
        self.quota: Final = Quota(wanted.count)
        self._joined: dict[Receiver, dict[int, str]] = {}
        self._is_full_told = self._is_crowd_told = False
        self._was_active = False
        self._receivers: Final[list[Receiver]] = []

    def add(self, endpoint: GroupPort, conn: PacketConn) -> None:
        """Take a connection for a group and port."""
        kind = AnyPortReceiver if endpoint.port is None else Receiver
        self._receivers.append(kind(endpoint, conn, self._flows, self._names, self.quota, self._sinks()))

    def _sinks(self) -> list[Sink]:
        found: list[Sink] = []
        if self._wanted.printed_as is not None:
            found.append(sinks.printing(self._output, self._wanted.printed_as))
        if self._wanted.raw:
            found.append(sinks.pass_on)
        if self._capture is not None:
            found.append(self._capture.write)
        return found

    async def run(self) -> None:
        """Join, and count and show until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._names.follow)
            for receiver in self._receivers:
                await self._join(nursery, receiver)
            self._tell_start()
            self._flush()
            self._began = trio.current_time()
            for receiver in self._receivers:
                nursery.start_soon(receiver.run)
            nursery.start_soon(self._tell_silence)
            nursery.start_soon(self._look_for_stalls)
            nursery.start_soon(self._keep_up)
            if self._wanted.every is not None:
                with self._output.live() as redraw:
                    await self._draw_regularly(redraw, self._wanted.every)

    # Joining

    async def _join(self, nursery: trio.Nursery, receiver: Receiver) -> None:
        def tell(interface: Interface, refusal: OSError) -> None:
            self._output.show(Refused(str(receiver.endpoint), interface.name, reason_of(refusal)))

        follow = functools.partial(follow_group, sources=self._wanted.sources, on_refusal=tell)
        if self._wanted.interfaces:
            follow = functools.partial(follow, where=self._is_named)
        with warnings.catch_warnings():
            # A record tells instead.
            warnings.simplefilter("ignore", NoInterfaceWarning)
            joined = await nursery.start(follow, receiver.conn, receiver.endpoint.group)
        self._joined[receiver] = {each.index: each.name for each in joined}

    def _is_named(self, interface: Interface) -> bool:
        return is_named(interface, self._wanted.interfaces)

    def _tell_start(self) -> None:
        names = dict.fromkeys(name for joined in self._joined.values() for name in joined.values())
        sources = self._wanted.sources
        self._output.show(
            Started(
                tuple(str(receiver.endpoint) for receiver in self._receivers),
                tuple(names),
                sources.mode.name.lower(),
                tuple(sorted(sources.sources)),
                self._receivers[0].conn.receive_buffer_size,
            )
        )
        there = {name for each in interfaces() for name in (each.name, *each.alternative_names)}
        for name in self._wanted.interfaces:
            if name not in there:
                self._output.show(Waiting(name))
        if not names and not self._wanted.interfaces:
            self._output.show(Waiting(None))

    def _tell_joins(self) -> None:
        """Tell of interfaces that were joined or left since the last time."""
        for receiver, before in self._joined.items():
            now = {index: self._names[index] for index, _ in receiver.conn.memberships}
            group = str(receiver.endpoint)
            for index in before.keys() - now.keys():
                self._output.show(Left(group, before[index]))
            for index in now.keys() - before.keys():
                self._output.show(Joined(group, now[index]))
            self._joined[receiver] = now

    # Showing

    async def _keep_up(self) -> NoReturn:
        """Tell of joins and drops, and let others read the capture, once a second or more often."""
        while True:
            await trio.sleep(min(_LOOK, self._wanted.every or _LOOK))
            self._tell_joins()
            self._tell_drops()
            self._flush()

    def _flush(self) -> None:
        if self._capture is not None:
            self._capture.flush()

    async def _draw_regularly(self, redraw: Redraw, every: float) -> NoReturn:
        due = trio.current_time()
        while True:
            began, due = trio.current_time(), max(due + every, trio.current_time())
            await trio.sleep_until(due)
            self._draw(redraw, trio.current_time() - began)

    def _draw(self, redraw: Redraw, seconds: float) -> None:
        """Show the flows, unless nothing has come in this interval, and nothing in the one before."""
        flows = list(self._flows.all())
        is_active = any(flow.news for flow in flows)
        if is_active or self._was_active:
            busiest = sorted(flows, key=lambda flow: (flow.news, flow.datagrams), reverse=True)[:_SHOWN]
            shown = set(map(id, busiest))
            redraw([show_flow(flow, seconds) for flow in flows if id(flow) in shown])
        self._was_active = is_active
        for flow in flows:
            flow.begin_interval()
        self._tell_of_many(len(flows))

    def _tell_of_many(self, flows: int) -> None:
        if self._flows.is_full and not self._is_full_told:
            self._is_full_told = True
            self._output.show(ManyFlows(_SHOWN, MAX_FLOWS, is_over=True))
        elif flows > _SHOWN and not self._is_crowd_told and self._wanted.every is not None:
            self._is_crowd_told = True
            self._output.show(ManyFlows(_SHOWN, MAX_FLOWS, is_over=False))

    def _tell_drops(self) -> None:
        for receiver in self._receivers:
            if new := receiver.count_drops():
                size = receiver.conn.receive_buffer_size
                self._output.show(Dropped(str(receiver.endpoint), new, receiver.dropped, size))

    async def _tell_silence(self) -> None:
        await trio.sleep(_SILENCE)
        silent = [receiver for receiver in self._receivers if not receiver.datagrams]
        if silent:
            names = tuple(str(receiver.endpoint) for receiver in silent)
            self._output.show(Nothing(names, _SILENCE, self._ask_doctor(silent)))

    def _ask_doctor(self, silent: list[Receiver]) -> tuple[str, ...]:
        """Return the commands that find out why."""
        sources = self._wanted.sources
        # It joins one source, or every one.
        source = min(sources.sources) if sources.mode is FilterMode.INCLUDE else None
        return tuple(
            ask_doctor(receiver.endpoint, name, source)
            for receiver in silent
            for name in self._joined[receiver].values() or [None]
        )

    async def _look_for_stalls(self) -> NoReturn:
        while True:
            await trio.sleep(_LOOK)
            now = trio.current_time()
            for flow in self._flows.all():
                facts = flow.key.endpoint, flow.key.source, flow.key.interface
                if flow.resumed_after_ns:
                    self._output.show(Resumed(*facts, flow.resumed_after_ns / 1e9))
                    flow.resumed_after_ns = 0
                if flow.has_stopped(now):
                    self._output.show(Stalled(*facts, round(now - self._began, 3)))

    # The end

    def finish(self) -> bool:
        """Count what is still queued, and show the sums. Return whether as much came as was expected."""
        seconds = trio.current_time() - self._began
        for receiver in self._receivers:
            receiver.drain()
        self._tell_drops()
        self._tell_of_many(len(self._flows))
        self._output.table([total_flow(flow) for flow in self._flows.all()])
        missed = tuple(str(each.endpoint) for each in self._receivers if each.datagrams < self._wanted.expect)
        self._output.show(self._sum_up(seconds, missed))
        return not missed and (self._wanted.count is None or self.quota.is_used_up)

    def _sum_up(self, seconds: float, missed: tuple[str, ...]) -> Summary:
        flows = list(self._flows.all())
        totals = [found for flow in flows if (found := flow.streams.totals())["lost"] is not None]

        def total(what: str) -> int | None:
            return sum(each[what] or 0 for each in totals) if totals else None

        return Summary(
            seconds=round(seconds, 3),
            flows=len(flows),
            flows_numbered=len(totals),
            flows_undecided=sum(flow.is_undecided for flow in flows),
            datagrams=sum(receiver.datagrams for receiver in self._receivers),
            octets=sum(flow.octets for flow in flows),
            dropped=sum(receiver.dropped for receiver in self._receivers),
            expected=total("expected"),
            lost=total("lost"),
            duplicates=total("duplicates"),
            reordered=total("reordered"),
            restarts=total("restarts"),
            silent=tuple(str(receiver.endpoint) for receiver in self._receivers if not receiver.datagrams),
            missed=missed,
        )
