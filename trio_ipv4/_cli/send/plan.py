"""What the command line asks for."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

import attrs

from trio_ipv4._cli.arguments import Destination, Rate
from trio_ipv4._cli.probe import PROBE_SIZE

ONCE_A_SECOND: Final = Rate(datagrams=1)


@attrs.frozen
class PayloadGiven:
    """A payload, sent again and again."""

    payload: bytes


@attrs.frozen
class ProbesWanted:
    """Our own probes, of a size in octets."""

    size: int = PROBE_SIZE


@attrs.frozen
class FileGiven:
    """A file; "-" is standard input. It is one payload, or cut into lines, or into pieces of a size."""

    name: str
    lines: bool = False
    size: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether it is cut."""
        return self.lines or self.size is not None


@attrs.frozen(kw_only=True)
class Plan:
    """What to send, where to, and how fast.

    Args:
        to: The destination.
        what: The payloads.
        interfaces: The names of the interfaces; none: the routes choose.
        source: The source address; `None`: that of the interface.
        ttl: The time to live; `None`: the kernel's default.
        tos: The TOS octet.
        loop: Whether members on this host hear it.
        fragment: Whether it may be fragmented.
        rate: How fast to send on each interface; `None`: as it comes.
        count: How many datagrams to send on each interface; `None`: until the end.
        seconds: For how long.
        every: How long from one row to the next, in seconds.
    """

    to: Destination
    what: PayloadGiven | ProbesWanted | FileGiven = ProbesWanted()
    interfaces: tuple[str, ...] = ()
    source: IPv4Address | None = None
    ttl: int | None = None
    tos: int | None = None
    loop: bool = True
    fragment: bool = True
    rate: Rate | None = ONCE_A_SECOND
    count: int | None = None
    seconds: float | None = None
    every: float = 1
