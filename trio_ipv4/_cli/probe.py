"""The payload of our own probes: `send` writes it, and `listen` finds out by it what was lost on the way.

The numbers of one stream have no gaps: they count the datagrams of one `send`, on one interface, from 0 on. Integers
are in network order. What follows the fields is filling.

    octets  0-7   "trioipv4"
            8-11  the stream, a random number
           12-19  the number of the datagram
           20-27  the sender's clock when it was sent, in nanoseconds since the epoch
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

_MAGIC: Final = b"trioipv4"
_PROBE: Final = struct.Struct("!8sIQQ")
PROBE_SIZE: Final = _PROBE.size
"""In octets."""


@attrs.frozen
class Probe:
    """A probe's fields."""

    stream: int
    number: int
    sent_ns: int

    def marshal(self, size: int = PROBE_SIZE) -> bytes:
        """Return a payload of this size, in octets, which is at least `PROBE_SIZE`."""
        return _PROBE.pack(_MAGIC, self.stream, self.number, self.sent_ns).ljust(size, b"\0")


def parse_probe(payload: bytes) -> tuple[int, int, int] | None:
    """Read a probe's stream, number and time; return `None` if the payload is something else.

    To make a `Probe` of them would take three times as long.
    """
    if not payload.startswith(_MAGIC) or len(payload) < PROBE_SIZE:
        return None
    _, stream, number, sent_ns = _PROBE.unpack_from(payload)
    return stream, number, sent_ns
