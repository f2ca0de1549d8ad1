"""The buffers of recvmmsg(2), which both ways to call it share.

The buffers are made once and reused. Payloads, names and control messages are copied out before they are handed out,
so nothing aliases the buffers. They are anonymous memory: pages that no datagram touched cost nothing. They are
private: after a fork, parent and child have their own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import mmap
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import libc
from trio_ipv4._kernel.calls import CONTROL_SIZE, MAX_BATCH, Received, one_by_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Receiver, Recipe, Sender


class Way(Protocol):
    """The part in which the two ways differ."""

    # Let the kernel fill up to `limit` slots, and return how many it filled: 0 if nothing is queued.
    def fill(self, slots: Slots, descriptor: int, limit: int, /) -> int: ...

    # Make values of the first slots, where that is quicker than by columns; `None` where it is not.
    def values(self, slots: Slots, count: int, recipe: Recipe, /) -> list[Any] | None: ...


@final
class MmsgReceiver:
    """The receive buffers of one connection, and recvmmsg(2)."""

    def __init__(self, platform: Platform, way: Way) -> None:
        self._platform: Final = platform
        self._way: Final = way
        # By the room of each slot, a power of two: a program that asks for few octets, then for many, and then for few
        # again, finds the buffers of before.
        self._slots: Final[dict[int, Slots]] = {}
        self._instead: Receiver | None = None
        """Receives where a sandbox lacks the call that the platform has."""

    def receive(
        self, descriptor: int, limit: int, max_bytes: int, recipe: Recipe | None = None, /
    ) -> list[Any] | Received | None:
        if self._instead is not None:
            return self._instead.receive(descriptor, limit, max_bytes)
        limit = min(limit, MAX_BATCH)
        room = 1 << (max_bytes - 1).bit_length()
        slots = self._slots.get(room)
        if slots is None or slots.count < limit:
            # At least doubled, so that limits that rise step by step don't make buffers at each step.
            count = limit if slots is None else max(limit, min(2 * slots.count, MAX_BATCH))
            slots = self._slots[room] = Slots(self._platform, count, room)
        slots.bound(limit, max_bytes)
        try:
            count = self._way.fill(slots, descriptor, limit)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            self._instead = one_by_one.OneByOne(self._platform).receiver()
            return self._instead.receive(descriptor, limit, max_bytes)
        if not count:
            return None
        if recipe is not None and (values := self._way.values(slots, count, recipe)) is not None:
            return values
        return slots.columns(count)


@final
class MmsgSender:
    """sendmmsg(2), and one datagram at a time where a sandbox lacks it."""

    def __init__(self, platform: Platform, way: Sender) -> None:
        self._platform: Final = platform
        self._way = way
        self.columns = way.columns

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]:
        sent, refused = self._way.send(descriptor, payloads, names, controls)
        if refused is None or refused.errno != errno.ENOSYS:
            return sent, refused
        self._way = one_by_one.OneByOne(self._platform).sender()
        return self._way.send(descriptor, payloads, names, controls)


@final
class Slots:
    """An array of `struct mmsghdr`, each with room for a sender, control messages and a payload of `room` octets."""

    def __init__(self, platform: Platform, count: int, room: int) -> None:
        self.count: Final = count
        header = struct.Struct(structs.mmsghdr_format(platform))
        self._vector: Final = structs.iovec_format(platform)
        vector_size = struct.calcsize(self._vector)
        self.header_size: Final = header.size
        # A stride of whole pages would put the start of every payload into the same cache set.
        self._stride: Final = room + 64
        self._vectors: Final = count * header.size
        self._names: Final = self._vectors + count * vector_size
        self._controls: Final = self._names + count * structs.SOCKADDR_IN_SIZE
        self._payloads: Final = self._controls + count * CONTROL_SIZE
        self.memory: Final = private_memory(self._payloads + count * self._stride)
        self.base: Final = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self._bounded = 0, 0
        """How many slots, from the first on, take how many octets."""
        self.bound(count, room)
        self.template: Final = b"".join(
            header.pack(
                self.base + self._names + i * structs.SOCKADDR_IN_SIZE,
                structs.SOCKADDR_IN_SIZE,
                self.base + self._vectors + i * vector_size,
                1,
                self.base + self._controls + i * CONTROL_SIZE,
                CONTROL_SIZE,
                0,
                0,
            )
            for i in range(count)
        )
        self.memory[: len(self.template)] = self.template
        # The fields that the kernel writes: the control messages' length, the flags, the payload's length.
        self._result: Final = structs.mmsghdr_result_format(platform)
        self._last: tuple[bytes, Received, struct.Struct] | None = None
        """Of the last full batch: the memory before the payloads, its columns, and the cutter of its payloads."""
        # Found before anything is received: a failure later would lose a batch.
        self._compare: Final = libc.memcmp()

    def bound(self, limit: int, max_bytes: int) -> None:
        """Let the first `limit` slots take up to `max_bytes` octets of payload each."""
        slots, octets = self._bounded
        if octets == max_bytes and limit <= slots:
            return
        self._bounded = 0, 0  # An interrupt may leave some of each.
        first = self.base + self._payloads
        starts = range(first, first + limit * self._stride, self._stride)
        vectors = itertools.chain.from_iterable((start, max_bytes) for start in starts)
        repeated(self._vector, limit).pack_into(self.memory, self._vectors, *vectors)
        self._bounded = limit, max_bytes

    def columns(self, count: int) -> Received:
        """Copy out the first slots."""
        if count == self.count and self._last is not None:
            # Most full batches differ from the one before in nothing but the payloads: one comparison shows it.
            facts, last, cutter = self._last
            if self._compare(self.base, facts, self._payloads) == 0:
                payloads = cutter.unpack_from(self.memory, self._payloads)
                return Received(payloads, last.names, last.controls, last.flags)
        return self._take_apart(count)

    def _take_apart(self, count: int) -> Received:
        memory = self.memory
        results = repeated(self._result, count).unpack_from(memory)
        if count == 1:
            control, flag, length = results
            return Received(
                (memory[self._payloads : self._payloads + length],),
                memory[self._names : self._names + structs.SOCKADDR_IN_SIZE],
                memory[self._controls : self._controls + control],
                results[1:2] if flag else None,
            )
        controls, flags, lengths = results[0::3], results[1::3], results[2::3]
        received = Received(
            self._cut(self._payloads, self._stride, lengths),
            self._cut_equal(self._names, structs.SOCKADDR_IN_SIZE, (structs.SOCKADDR_IN_SIZE,) * count),
            self._cut_equal(self._controls, CONTROL_SIZE, controls),
            flags if any(flags) else None,
        )
        if count == self.count and lengths.count(lengths[0]) == count and isinstance(received.controls, bytes):
            cutter = _cutter(lengths[0], self._stride, count)
            self._last = memory[: self._payloads], received._replace(payloads=()), cutter
        return received

    def _cut(self, start: int, stride: int, lengths: Sequence[int]) -> Sequence[bytes]:
        """Copy out the beginning of each slot."""
        count, first = len(lengths), lengths[0]
        memory = self.memory
        if lengths.count(first) == count:
            return _cutter(first, stride, count).unpack_from(memory, start)
        starts = range(start, start + stride * count, stride)
        return [memory[at : at + length] for at, length in zip(starts, lengths, strict=True)]

    def _cut_equal(self, start: int, stride: int, lengths: Sequence[int]) -> bytes | Sequence[bytes]:
        """Copy out the beginning of each slot; if the slots are equal, as they are in most batches, of one."""
        count, first = len(lengths), lengths[0]
        slot = self.memory[start : start + stride]
        if lengths.count(first) == count and self.memory[start : start + count * stride] == slot * count:
            return slot[:first]
        return self._cut(start, stride, lengths)


def private_memory(size: int) -> mmap.mmap:
    """Return anonymous memory of this process alone. Python's default is MAP_SHARED: a forked child would share it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _cutter(length: int, stride: int, count: int) -> struct.Struct:
    """Return a format that copies out the beginning of each of `count` slots: the fastest way that Python has."""
    return repeated(f"={length}s{stride - length}x", count)


@functools.lru_cache(maxsize=256)  # At most a few MiB, whatever lengths and counts come.
def repeated(layout: str, count: int) -> struct.Struct:
    """Return the format of `count` structures in a row."""
    return struct.Struct(layout[0] + layout[1:] * count)
