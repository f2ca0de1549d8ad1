"""Fragments on the wire: of which datagrams all came, and of which some are missing.

The kernel's counters tell of a datagram that is not whole only after 30 seconds (net.ipv4.ipfrag_time).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from trio_ipv4._cli.doctor.witnesses.frames import Packet

Key: TypeAlias = tuple[object, ...]
PATIENCE: Final = 0.3
"""In seconds. A datagram is called broken this long after its first piece at the earliest: others may be on the way."""
_MOST_PIECES: Final = 65_536
"""So many are kept: enough for any look, and anybody can forge more."""


@attrs.define
class _Datagram:
    """The pieces of a datagram: where each begins, and how long it is."""

    since: float
    pieces: dict[int, int] = attrs.field(factory=dict)
    length: int | None = None
    is_whole: bool = False

    def add(self, packet: Packet) -> bool:
        """Take a piece, and tell whether it made the datagram whole."""
        self.pieces[packet.offset] = len(packet.body)
        if not packet.is_more:
            self.length = packet.offset + len(packet.body)
        if self.is_whole or self.length is None or sum(self.pieces.values()) < self.length:
            return False
        end = 0
        for start, size in sorted(self.pieces.items()):
            if start != end:
                return False
            end += size
        self.is_whole = end == self.length
        return self.is_whole


@final
class Fragments:
    """Puts fragments together."""

    def __init__(self) -> None:
        self._datagrams: dict[Key, _Datagram] = {}
        self._whole = 0
        self._pieces = 0

    def add(self, packet: Packet, ifindex: int, now: float) -> None:
        """Take a fragment that came in by an interface."""
        if self._pieces == _MOST_PIECES:
            return
        self._pieces += 1
        # RFC 791 section 3.2: these tell which fragments belong together.
        key = (ifindex, packet.source, packet.destination, packet.protocol, packet.identification)
        self._whole += self._datagrams.setdefault(key, _Datagram(now)).add(packet)

    def take(self, now: float) -> tuple[int, int]:
        """Return how many datagrams were whole, and how many were not, since the last call."""
        young = {key: each for key, each in self._datagrams.items() if now - each.since < PATIENCE}
        broken = sum(not each.is_whole for key, each in self._datagrams.items() if key not in young)
        whole, self._whole = self._whole, 0
        self._datagrams = young
        self._pieces = sum(len(each.pieces) for each in young.values())
        return whole, broken
