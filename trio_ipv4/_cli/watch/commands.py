"""`--exec`: a command for the first and the last member of a group, one at a time, in order.

A command has a session of its own, so that Ctrl-C on the terminal does not reach it past us, and what it has started
ends with it: the process group is told to end (SIGTERM), and is killed if it does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._cli.pidfd import pidfd_open
from trio_ipv4._cli.watch.records import CommandTold, Member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._cli.output import Output

WAITING: Final = 1000
"""So many commands wait for their turn."""
GRACE: Final = 5.0
"""In seconds: how long a command may take to end."""
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
        """Run what is offered, until it is cancelled. Then the command that is running is ended."""
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
            process = await trio.lowlevel.open_process(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # Standard output is for records.
                start_new_session=True,
                env={**os.environ, **told},
            )
        except OSError as error:
            self._tell(record, f"can't be run: {error}")
            return
        try:
            # Readable when the process has ended. It is not reaped then, so the number of its group is still its own.
            ended = pidfd_open(process.pid)
            try:
                await trio.lowlevel.wait_readable(ended)
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(record, process.pid, ended)
                os.close(ended)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
        if process.returncode:
            self._tell(record, f"failed, with the status {process.returncode}")

    async def _end(self, record: Member, group: int, ended: int) -> None:
        """Tell what is left of a command to end, and wait for it."""
        os.killpg(group, signal.SIGTERM)
        with trio.move_on_after(GRACE) as patience:
            await trio.lowlevel.wait_readable(ended)
        if patience.cancelled_caught:
            self._tell(record, f"did not end within {GRACE:g} s of SIGTERM, and was killed")

    def _tell(self, record: Member, failure: str) -> None:
        self._output.show(CommandTold(record.group, record.change, failure))
