"""A command on a host of the lab: its output line by line, and its end.

A command has a session of its own, so Ctrl-C on the terminal reaches it by us alone, and all that it starts can be
ended with it: the process group is told to end (SIGTERM), and is killed if it does not. If this process is killed, it
can't do that. So beside each command a shell waits for our end, which closes a pipe, and kills the group then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import trio

from trio_ipv4._cli.lab.lines import Lines
from trio_ipv4._cli.lab.records import ErrorLine, Exited, Line
from trio_ipv4._cli.pidfd import pidfd_open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from trio_ipv4._cli.output import Output
    from trio_ipv4.testing import LabHost

GRACE: Final = 5.0
"""In seconds: how long a command may take to end."""
_LAST_WORDS: Final = 1.0
"""In seconds: how long we go on reading after the end, if somebody else holds the other end of the pipe."""


async def run_on(
    host: LabHost, command: str, environment: Mapping[str, str], output: Output, relays: trio.Nursery
) -> int:
    """Run a command on a host, show its lines, and return its exit status, as a shell has it.

    Args:
        host: The host.
        command: For sh(1).
        environment: The command's environment.
        output: Where its lines are shown.
        relays: Where they are read. It must outlive this call, since a command that is told to end has last words.
    """
    process = await trio.lowlevel.open_process(
        host.command(["sh", "-c", command]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    relay = _Relay(process, host.name, output)
    relays.start_soon(relay.run)
    by_itself = False
    try:
        # Readable when the process has ended. It is not reaped then, so the number of its group is still its own.
        ended = pidfd_open(process.pid)
        try:
            async with _guarded(process.pid):
                try:
                    await trio.lowlevel.wait_readable(ended)
                    by_itself = True
                finally:
                    with trio.CancelScope(shield=True):
                        await _end(process, ended, relay)
        finally:
            os.close(ended)
    finally:
        if process.returncode is None:  # It could not be ended in the usual way.
            os.killpg(process.pid, signal.SIGKILL)
            relay.scope.cancel()
            with trio.CancelScope(shield=True):
                await process.wait()
        output.show(Exited(host.name, command, _status(process), by_itself))
    return _status(process)


@contextlib.asynccontextmanager
async def _guarded(group: int) -> AsyncIterator[None]:
    """Let a process group be killed if this process ends within the block."""
    script = 'read -r _ || kill -s KILL -- "-$0"'
    guard: trio.Process | None = None
    with trio.CancelScope(shield=True):
        guard = await trio.lowlevel.open_process(
            ["sh", "-c", script, str(group)], stdin=subprocess.PIPE, start_new_session=True
        )
    assert guard is not None
    assert guard.stdin is not None
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            with contextlib.suppress(trio.BrokenResourceError):
                await guard.stdin.send_all(b"\n")
            await guard.stdin.aclose()
            await guard.wait()


async def _end(process: trio.Process, ended: int, relay: _Relay) -> None:
    """End a command, and what it has left in its group."""
    os.killpg(process.pid, signal.SIGTERM)
    with trio.move_on_after(GRACE):
        await trio.lowlevel.wait_readable(ended)
        await relay.finished.wait()
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    with trio.move_on_after(_LAST_WORDS):
        await relay.finished.wait()
    relay.scope.cancel()
    await relay.finished.wait()


def _status(process: trio.Process) -> int:
    code = process.returncode or 0
    return code if code >= 0 else 128 - code


class _Relay:
    """Show what a process writes, line by line."""

    def __init__(self, process: trio.Process, host: str, output: Output) -> None:
        self.scope: Final = trio.CancelScope()
        self.finished: Final = trio.Event()
        self._process: Final = process
        self._host: Final = host
        self._output: Final = output

    async def run(self) -> None:
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with self.scope:
                async with process.stdout, process.stderr, trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, process.stdout, Line, "stdout")
                    nursery.start_soon(self._read, process.stderr, ErrorLine, "stderr")
        finally:
            self.finished.set()

    async def _read(self, stream: trio.abc.ReceiveStream, kind: type[Line], name: str) -> None:
        lines = Lines()
        async for octets in stream:
            self._show(kind, name, lines.feed(octets))
        self._show(kind, name, lines.end())

    def _show(self, kind: type[Line], name: str, lines: list[str]) -> None:
        for line in lines:
            self._output.show(kind(self._host, name, line))
