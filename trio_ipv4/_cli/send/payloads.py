"""What is sent: sources of payloads. Pure.

A source that is a file, or standard input, gets its payloads from elsewhere: see `streams`.
"""

from __future__ import annotations

import struct
import time
from typing import Final, Protocol, final

from trio_ipv4._cli.arguments import MAX_PAYLOAD, wrong_usage
from trio_ipv4._cli.probe import PROBE_SIZE, Probe

_NUMBER_AND_TIME: Final = struct.Struct("!QQ")
_AT: Final = 12
"""Where they stand in a probe: see `trio_ipv4._cli.probe`."""


class Source(Protocol):
    """Payloads for one interface."""

    @property
    def is_ready(self) -> bool:
        """Whether `take` has a payload."""
        raise NotImplementedError

    def take(self) -> bytes:
        """Return the next payload."""
        raise NotImplementedError

    async def wait(self) -> bool:
        """Wait until `take` has a payload; return `False` if there are no more."""
        raise NotImplementedError

    def close(self) -> None:
        """Say that nobody takes payloads any more."""


class _Endless:
    """A source that never waits."""

    @property
    def is_ready(self) -> bool:
        """Whether `take` has a payload."""
        return True

    async def wait(self) -> bool:
        return True

    def close(self) -> None:
        pass


@final
class Repeated(_Endless):
    """The same payload over and over."""

    def __init__(self, payload: bytes) -> None:
        self._payload: Final = payload

    def take(self) -> bytes:
        """Return it."""
        return self._payload


@final
class Probes(_Endless):
    """Our own probes, numbered from 0 on.

    Args:
        stream: The number of the stream.
        size: The size of each, in octets.
    """

    def __init__(self, stream: int, size: int = PROBE_SIZE) -> None:
        # One value for each would cost as much time as all the rest of a datagram.
        self._octets: Final = bytearray(Probe(stream, 0, 0).marshal(size))
        self._number = 0

    def take(self) -> bytes:
        """Return the next one, with the time of day."""
        _NUMBER_AND_TIME.pack_into(self._octets, _AT, self._number, time.time_ns())
        self._number += 1
        return bytes(self._octets)


class Cutter(Protocol):
    """Cuts octets into payloads, as they come."""

    def feed(self, octets: bytes) -> list[bytes]:
        """Take more octets; return the payloads that are complete."""
        raise NotImplementedError

    def end(self) -> list[bytes]:
        """Return what is left when there are no more octets."""
        raise NotImplementedError


@final
class Lines:
    """Cuts octets into lines; the character that ends a line is not sent.

    No more is kept than what a datagram carries and what came last: a file may have no end, and no line either.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, octets: bytes) -> list[bytes]:
        """Take more octets; return the lines that are complete.

        Raises:
            CycloptsError: A line is longer than a datagram can be.
        """
        self._rest += octets
        lines: list[bytes] = []
        if b"\n" in octets:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if any(len(line) > MAX_PAYLOAD for line in (*lines, self._rest)):
            raise wrong_usage("send", f"a line has more than {MAX_PAYLOAD:,} octets: cut the file by --size")
        return lines

    def end(self) -> list[bytes]:
        """Return a last line that nothing ends."""
        return [bytes(self._rest)] if self._rest else []


@final
class Pieces:
    """Cuts octets into pieces of one size; the last one is what is left.

    Args:
        size: In octets.
    """

    def __init__(self, size: int) -> None:
        self._size: Final = size
        self._rest = b""

    def feed(self, octets: bytes) -> list[bytes]:
        """Take more octets; return the pieces that are complete."""
        rest, size = self._rest + octets, self._size
        whole = len(rest) - len(rest) % size
        self._rest = rest[whole:]
        return [rest[at : at + size] for at in range(0, whole, size)]

    def end(self) -> list[bytes]:
        """Return the last piece."""
        return [self._rest] if self._rest else []
