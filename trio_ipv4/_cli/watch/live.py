"""`watch` on the wire, and what is left of it without the privilege for that."""

from __future__ import annotations

import errno
import math
import time
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4 import InterfaceChangeKind, interface_by_name, interfaces
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.kernel_tables import read_memberships
from trio_ipv4._cli.watch.commands import Commands
from trio_ipv4._cli.watch.follow import Watched, follow
from trio_ipv4._cli.watch.own import OwnMemberships
from trio_ipv4._cli.watch.records import MISSING, ClockSet, Dropped, NotUp, Summary, Unsure, Watching
from trio_ipv4._cli.watch.show import Options, Show
from trio_ipv4._cli.watch.watcher import Watcher
from trio_ipv4._cli.watch.wire import Clock, Wire, open_wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4 import InterfaceChange
    from trio_ipv4._cli.ends import Stop
    from trio_ipv4._cli.kernel_tables import Member as KernelMember
    from trio_ipv4._cli.output import Output
    from trio_ipv4._cli.watch.wire import Heard

POLL: Final = 0.5
"""Seconds between two looks at the kernel's memberships."""
_SOON: Final = 0.001
"""Seconds: the least time to wait for a packet, so that those that have come go before what is due."""
TELL_DROPS: Final = 1.0
"""Seconds between two looks at what the kernel had to drop."""


async def main(
    output: Output,
    options: Options,
    *,
    wire: Callable[[], Wire] = open_wire,
    memberships: Callable[[], tuple[KernelMember, ...]] = read_memberships,
) -> int:
    """Watch, and return the exit status.

    Args:
        output: Where records are shown.
        options: What was asked for.
        wire: Opens the socket.
        memberships: Reads the kernel's memberships, where there is no privilege for the socket.
    """
    for name in options.interfaces:
        interface_by_name(name)
    commands = Commands(options.command, output) if options.command else None
    show = Show(output, options.groups, commands)
    try:
        opened = wire()
    except PermissionError:
        if options.until_querier:
            raise PermissionError(
                errno.EPERM,
                f"--until-querier needs {MISSING}. Run as root, or give it to Python: setcap cap_net_raw+ep PYTHON",
            ) from None
        return await _watch_own(output, options, show, commands, memberships)
    with opened:
        return await _Live(output, options, show, opened).run(commands)


@final
class _Live:
    """Watches on the wire."""

    def __init__(self, output: Output, options: Options, show: Show, wire: Wire) -> None:
        self._output: Final = output
        self._options: Final = options
        self._show: Final = show
        self._wire: Final = wire
        self._clock: Final = Clock()
        self._watcher: Final = Watcher()
        self._watched: Final = Watched(options, wire, self._watcher, show, self._clock.now)

    async def run(self, commands: Commands | None) -> int:
        there = interfaces()
        for interface in there:
            self._watched.note(interface, is_there=True)
        began = self._clock.now()
        async with until_stopped(self._options.seconds) as stop, trio.open_nursery() as nursery:
            self._output.show(Watching("wire", self._watched.names))
            for interface in there:
                if is_named(interface, self._options.interfaces) and not interface.is_up:
                    self._output.show(NotUp(interface.name))
            nursery.start_soon(self._tell_drops)
            nursery.start_soon(follow, self._show, self._options, self._note, self._clock.now)
            if commands is not None:
                nursery.start_soon(commands.run)
            await self._hear(stop)
        for heard in self._wire.queued(time.time_ns()):
            self._take(heard)
        ended = self._clock.now()
        self._show.records(self._watcher.advance(ended))
        tell_state(self._show, self._watcher)
        self._output.show(summary(self._watcher, ended - began, self._wire.dropped()))
        if self._options.until_querier and not self._watcher.has_querier():
            return stop.status(Status.NEGATIVE)
        return stop.status(Status.DONE)

    def _note(self, change: InterfaceChange) -> None:
        self._watched.note(change.interface, is_there=change.kind is not InterfaceChangeKind.REMOVED)

    async def _hear(self, stop: Stop) -> None:
        """Take in packets, and what is due while none comes."""
        while True:
            if (seconds := self._clock.look()) is not None:
                self._output.show(ClockSet(seconds))
            heard = None
            with trio.move_on_after(self._wait()):
                heard = await self._wire.hear()
            if heard is None:
                self._show.records(self._watcher.advance(self._clock.now()))
            else:
                self._take(heard)
            if self._options.until_querier and self._watcher.has_querier():
                stop.now()

    def _take(self, heard: Heard) -> None:
        if heard.interface in self._watched.names:
            at = self._clock.steady(heard.timestamp_ns)
            self._show.records(self._watcher.hear(at, heard.interface, heard.packet, outgoing=heard.outgoing))

    async def _tell_drops(self) -> None:
        """Tell of packets that were dropped, as they get more."""
        known = 0
        while True:
            await trio.sleep(TELL_DROPS)
            if (dropped := self._wire.dropped()) > known:
                self._output.show(Dropped(self._clock.now(), dropped - known, dropped))
                known = dropped

    def _wait(self) -> float:
        deadline = self._watcher.next_deadline()
        return math.inf if deadline is None else max(_SOON, (deadline - self._clock.now()) / 1e9)


def tell_state(show: Show, watcher: Watcher) -> None:
    """Show who asks, and who is a member."""
    queriers = watcher.querier_states()
    show.table(queriers)
    unsure = [each.silent_seconds for each in queriers if not each.known]
    if unsure:
        show.records([Unsure(min(unsure))])
    show.table(watcher.member_states())


def summary(watcher: Watcher, nanoseconds: int, dropped: int) -> Summary:
    """Return what was seen altogether."""
    return Summary(nanoseconds / 1e9, watcher.messages, watcher.malformed, dropped, *watcher.counts())


async def _watch_own(
    output: Output,
    options: Options,
    show: Show,
    commands: Commands | None,
    memberships: Callable[[], tuple[KernelMember, ...]],
) -> int:
    """Watch this host's memberships, which takes no privilege."""
    own = OwnMemberships(tuple(interface_by_name(name).name for name in options.interfaces))
    began = time.monotonic()

    async def look() -> None:
        while True:  # The kernel tells nobody of memberships before Linux 6.14 (RTNLGRP_IPV4_MCADDR).
            show.records(own.look(time.time_ns(), memberships()))
            await trio.sleep(POLL)

    async with until_stopped(options.seconds) as stop, trio.open_nursery() as nursery:
        output.show(Watching("memberships", options.interfaces, MISSING))
        if commands is not None:
            nursery.start_soon(commands.run)
        if options.changes:
            nursery.start_soon(follow, show, options, lambda _: None, time.time_ns)
        await look()
    show.table(own.states())
    output.show(Summary(time.monotonic() - began, None, 0, 0, *own.counts()))
    return stop.status(Status.DONE)
