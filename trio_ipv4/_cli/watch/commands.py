"""`--exec`: a command for the first and the last member of a group, one at a time, in order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._cli.watch.records import CommandTold, Member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._cli.output import Output

WAITING: Final = 1000
"""So many commands wait for their turn."""
_STDERR: Final = 2


@final
class Commands:
    """Runs a command for each record that is offered.

    Args:
        argv: The command and its arguments. There is no shell.
        output: Where failures are told.
    """

    def __init__(self, argv: Sequence[str], output: Output) -> None:
        self._argv: Final = tuple(argv)
        self._output: Final = output
        self._send, self._receive = trio.open_memory_channel[Member](WAITING)
        self._is_full = False

    def offer(self, record: Member) -> None:
        """Run the command for a record, after those that wait. If too many wait, it is told, and not run."""
        try:
            self._send.send_nowait(record)
            self._is_full = False
        except trio.WouldBlock:
            if not self._is_full:
                self._is_full = True
                self._tell(record, f"was not run, nor those after it: {WAITING} are waiting")

    async def run(self) -> None:
        """Run what is offered, until it is cancelled. Then the command that is running is ended (SIGTERM)."""
        async for record in self._receive:
            await self._run(record)

    async def _run(self, record: Member) -> None:
        told = {
            "EVENT": record.change,
            "GROUP": str(record.group),
            "HOST": record.host or "",
            "INTERFACE": record.interface or "",
            "SOURCE": " ".join(map(str, record.sources)) if record.mode == "include" else "",
        }
        try:
            # Standard output is for records.
            done = await trio.run_process(self._argv, stdout=_STDERR, check=False, env={**os.environ, **told})
        except OSError as error:
            self._tell(record, f"can't be run: {error}")
        else:
            if done.returncode:
                self._tell(record, f"failed, with the status {done.returncode}")

    def _tell(self, record: Member, failure: str) -> None:
        self._output.show(CommandTold(record.group, record.change, failure))
