"""Receive queues: the packets that have come in, and the memory that they count (linux net/ipv4/udp.c)."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.packets import Packet


class Arrived(NamedTuple):
    """A packet in a queue, and what was noted when it came."""

    packet: Packet
    data: bytes
    interface: int
    local: bytes
    drops: int
    stamp: int | None
    memory: int


@final
class Queue:
    """The packets that have come in, and the memory that they count (`__udp_enqueue_schedule_skb`)."""

    def __init__(self, size: int, *, is_udp: bool) -> None:
        self.size: int = size
        """SO_RCVBUF, in octets of the kernel's memory."""
        self.used = 0
        self.drops = 0
        self._is_udp: Final = is_udp
        self._arrived: collections.deque[Arrived] = collections.deque()
        self._reading: collections.deque[Arrived] = collections.deque()
        self._read = 0

    def __bool__(self) -> bool:
        return bool(self._reading or self._arrived)

    def has_room(self, memory: int) -> bool:
        """Tell whether a packet fits, and count a drop if not. Into an empty queue of UDP any packet does."""
        fits = not self.used or self.used + memory <= self.size if self._is_udp else self.used < self.size
        self.drops += not fits
        return fits

    def charge(self, memory: int) -> bool:
        """Count the memory of an error's message, if there is room (`sock_queue_err_skb`)."""
        has_room = self.used + memory < self.size
        self.used += memory * has_room
        return has_room

    def release(self, memory: int) -> None:
        """Give the memory of an error's message back."""
        self.used -= memory

    def put(self, arrived: Arrived) -> None:
        """Take a packet in."""
        self.used += arrived.memory
        self._arrived.append(arrived)

    def take(self) -> Arrived:
        """Hand the first packet out."""
        if not self._reading:
            self._reading, self._arrived = self._arrived, self._reading
        arrived = self._reading.popleft()
        self._read += arrived.memory
        # UDP gives memory back in quarters of the buffer, or when it has handed out all (`udp_rmem_release`).
        if not self._is_udp or not self._reading or self._read >= self.size >> 2:
            self.used -= self._read
            self._read = 0
        return arrived

    def clear(self) -> None:
        """Forget everything."""
        self._arrived.clear()
        self._reading.clear()
