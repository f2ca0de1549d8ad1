"""Run `trio-ipv4 listen` in this process, on a host of a lab or of a simulated network, and keep what it shows."""

from __future__ import annotations

import functools
import signal
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from support.records import Kept
from trio_ipv4._cli.arguments import read_group_port
from trio_ipv4._cli.listen.records import Started
from trio_ipv4._cli.listen.session import Wanted, listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ipv4._cli.output import Record
    from trio_ipv4.testing import Host, Lab

R = TypeVar("R")
PATIENCE = 30
"""Seconds: no measure of anything, but an end."""


class Shown(Kept):
    """What was shown; a task can wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._lot = trio.lowlevel.ParkingLot()

    def show(self, record: Record) -> None:
        super().show(record)
        self._lot.unpark_all()

    def of(self, kind: type[R]) -> list[R]:
        """Return the records of just this kind."""
        return [each for each in self.records if type(each) is kind]

    async def wait_for(self, kind: type[R], condition: Callable[[R], object] = lambda _: True) -> R:
        """Wait for a record."""
        with trio.fail_after(PATIENCE):
            while not (found := [each for each in self.of(kind) if condition(each)]):
                await self._lot.park()
        return found[0]


def wanted(*groups: str, **options: Any) -> Wanted:
    return Wanted(groups=tuple(map(read_group_port, groups)), **options)


async def listening(
    host: Host, what: Wanted, act: Callable[[Shown], Awaitable[object]], *, interrupt: bool = False
) -> tuple[int, Shown]:
    """Listen on a host, act once it has joined, and return the exit status with what was shown.

    Args:
        host: Where to listen.
        what: What to listen to.
        act: What happens meanwhile.
        interrupt: Whether Ctrl-C comes then. Otherwise it ends by itself.
    """
    kept = Shown()
    statuses: list[int] = []

    async def run() -> None:
        statuses.append(await host.run(functools.partial(listen, kept, what)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await kept.wait_for(Started)
        await act(kept)
        if interrupt:
            signal.raise_signal(signal.SIGINT)
    return statuses[0], kept


def as_cables(lab: Lab) -> Lab:
    """Let the bridges forward everything: a slow machine must not make them wait for reports first."""
    for link in lab.links:
        lab.switch.ip("link", "set", link.name, "type", "bridge", "mcast_snooping", "0")
    return lab
