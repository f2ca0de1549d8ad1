"""Files and standard input, read as they come, for several interfaces at once.

A thread reads. To make the file descriptor non-blocking instead would make it so for every program that has the same
terminal or pipe (fcntl(2): the flag belongs to the open file description), and epoll(7) takes no regular files.
A read that nobody waits for any more ends with the process.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._cli.arguments import MAX_PAYLOAD, wrong_usage
from trio_ipv4._cli.send.payloads import Cutter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_CHUNK: Final = 1 << 16
"""In octets: as much as a pipe holds (pipe(7))."""


@contextlib.asynccontextmanager
async def open_file(name: str) -> AsyncIterator[int]:
    """Open a file to read, and return its descriptor; ``-`` is standard input. A FIFO waits for its writer.

    Raises:
        OSError: It can't be opened.
    """
    if name == "-":
        # Python has no `sys.stdin` if it was closed (`<&-`), and the number may be another file's by now.
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input is closed")
        yield sys.stdin.fileno()
        return
    descriptor = await trio.to_thread.run_sync(os.open, name, os.O_RDONLY | os.O_CLOEXEC, abandon_on_cancel=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def read(descriptor: int) -> bytes:
    """Read what there is, at least an octet; nothing at the end."""
    return await trio.to_thread.run_sync(os.read, descriptor, _CHUNK, abandon_on_cancel=True)


async def read_whole(name: str) -> bytes:
    """Read a file as one payload.

    Raises:
        OSError: It can't be read.
        CycloptsError: It is longer than a datagram can be.
    """
    whole = bytearray()
    async with open_file(name) as descriptor:
        while octets := await read(descriptor):
            whole += octets
            if len(whole) > MAX_PAYLOAD:
                limit = f"a datagram carries at most {MAX_PAYLOAD:,} octets, and {describe(name)} has more"
                raise wrong_usage("send", f"{limit}: cut it by --size or --lines")
    return bytes(whole)


async def pump(name: str, cutter: Cutter, queues: Sequence[Queue]) -> None:
    """Read a file, cut it into payloads, and put each into every queue. The slowest that is open sets the pace.

    Raises:
        OSError: It can't be read.
    """
    async with open_file(name) as descriptor:
        while octets := await read(descriptor):
            await _put(cutter.feed(octets), queues)
    await _put(cutter.end(), queues)
    for queue in queues:
        queue.end()


async def _put(payloads: list[bytes], queues: Sequence[Queue]) -> None:
    if payloads:
        for queue in queues:
            await queue.put(payloads)


def describe(name: str) -> str:
    """Name a file for a message."""
    return "standard input" if name == "-" else name


@final
class Queue:
    """A source of payloads that come from a file."""

    def __init__(self) -> None:
        # What is read with one call waits here until the interface has sent what was read with the last one.
        self._sender, self._receiver = trio.open_memory_channel[list[bytes]](0)
        self._payloads: Final[collections.deque[bytes]] = collections.deque()

    @property
    def is_ready(self) -> bool:
        """Whether there is a payload."""
        return bool(self._payloads)

    def take(self) -> bytes:
        """Return the next payload."""
        return self._payloads.popleft()

    async def wait(self) -> bool:
        """Wait until there is a payload; return `False` if there are no more."""
        try:
            self._payloads.extend(await self._receiver.receive())
        except trio.EndOfChannel:
            return False
        return True

    async def put(self, payloads: list[bytes]) -> None:
        """Add payloads, unless nobody takes them any more. Wait until those before are taken."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._sender.send(payloads)

    def end(self) -> None:
        """Say that there are no more."""
        self._sender.close()

    def close(self) -> None:
        """Take no more."""
        self._receiver.close()
