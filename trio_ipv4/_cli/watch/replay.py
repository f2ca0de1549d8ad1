"""`watch --read`: a capture instead of the wire. Its times are the only clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_ipv4._cli.capture import read_capture
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.watch.live import summary, tell_state
from trio_ipv4._cli.watch.records import Watching
from trio_ipv4._cli.watch.show import Options, Show
from trio_ipv4._cli.watch.watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ipv4._cli.output import Output

_PACKETS: Final = 100
"""So many are read before other tasks, such as the one that waits for Ctrl-C, get their turn."""


async def main(output: Output, options: Options, path: Path) -> int:
    """Read a capture as if it came from the wire, and return the exit status."""
    show, watcher = Show(output, options.groups), Watcher()
    first = last = None
    async with until_stopped() as stop:
        output.show(Watching("file", ()))
        for number, captured in enumerate(read_capture(path)):
            first = captured.timestamp_ns if first is None else first
            last = captured.timestamp_ns
            show.records(watcher.hear(last, captured.interface, captured.packet))
            if options.until_querier and watcher.has_querier():
                break
            if number % _PACKETS == 0:
                await trio.lowlevel.checkpoint()
        if last is not None:
            show.records(watcher.advance(last))
    tell_state(show, watcher)
    output.show(summary(watcher, (last or 0) - (first or 0), 0))
    if options.until_querier and not watcher.has_querier():
        return stop.status(Status.NEGATIVE)
    return stop.status(Status.DONE)
