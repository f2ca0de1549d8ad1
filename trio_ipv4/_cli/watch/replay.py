"""`watch --read`: a capture instead of the wire. Its times are the only clock.

A thread reads it, since a pipe may make it wait for any time. It hands over what it has before it waits, so that
packets of a pipe show as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._cli.capture import read_capture
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.watch.live import summary, tell_state
from trio_ipv4._cli.watch.records import Watching
from trio_ipv4._cli.watch.show import Options, Show
from trio_ipv4._cli.watch.watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ipv4._cli.capture import Captured
    from trio_ipv4._cli.output import Output

_PACKETS: Final = 100
"""So many are handed over at most, so that Ctrl-C gets its turn."""


async def main(output: Output, options: Options, path: Path) -> int:
    """Read a capture as if it came from the wire, and return the exit status."""
    replay = _Replay(output, options)
    send, receive = trio.open_memory_channel["list[Captured]"](0)
    async with until_stopped() as stop, receive, trio.open_nursery() as nursery:
        nursery.start_soon(_Reader(path, send).run)
        async for packets in receive:
            replay.take(packets)
            if replay.is_done:
                stop.now()
        await trio.lowlevel.checkpoint()  # A signal may have come meanwhile.
    replay.sum_up()
    return stop.status(replay.status)


@final
class _Replay:
    """Watches what is read."""

    def __init__(self, output: Output, options: Options) -> None:
        self._output: Final = output
        self._until_querier: Final = options.until_querier
        self._show: Final = Show(output, options.groups)
        self._watcher: Final = Watcher()
        self._is_told = False
        self._first: int | None = None
        self._last = 0

    @property
    def is_done(self) -> bool:
        """Whether what was to be waited for has come."""
        return self._until_querier and self._watcher.has_querier()

    @property
    def status(self) -> Status:
        """The exit status at the end."""
        return Status.NEGATIVE if self._until_querier and not self._watcher.has_querier() else Status.DONE

    def take(self, packets: list[Captured]) -> None:
        """Take in packets, up to the one that is waited for. The first call tells that there is a capture."""
        if not self._is_told:
            self._is_told = True
            self._output.show(Watching("file", ()))
        for each in packets:
            if not self.is_done:
                self._first = each.timestamp_ns if self._first is None else self._first
                self._last = each.timestamp_ns
                self._show.records(self._watcher.hear(self._last, each.interface, each.packet))

    def sum_up(self) -> None:
        """Show the state and the summary."""
        if self._first is not None:
            self._show.records(self._watcher.advance(self._last))
        tell_state(self._show, self._watcher)
        self._output.show(summary(self._watcher, self._last - (self._first or self._last), 0))


@final
class _Reader:
    """Reads packets in a thread, and sends them."""

    def __init__(self, path: Path, send: trio.MemorySendChannel[list[Captured]]) -> None:
        self._path: Final = path
        self._send: Final = send
        self._packets: list[Captured] = []
        self._was_read = False

    async def run(self) -> None:
        async with self._send:
            # Abandoned, the thread ends with the program, or when there is something to read.
            await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> None:
        try:
            for captured in read_capture(self._path, self._before_waiting):
                self._packets.append(captured)
                if len(self._packets) >= _PACKETS:
                    self._hand_over()
        except OSError:
            if self._packets:  # What came before the fault counts.
                self._hand_over()
            raise
        self._hand_over()

    def _before_waiting(self) -> None:
        if self._was_read:
            self._hand_over()
        self._was_read = True

    def _hand_over(self) -> None:
        packets, self._packets = self._packets, []
        trio.from_thread.run(self._send.send, packets)
