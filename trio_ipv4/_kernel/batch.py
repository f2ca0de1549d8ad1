"""recvmmsg(2) and sendmmsg(2): many datagrams in one call, and one datagram as a batch of one.

The buffers are made once and reused; what is handed out is copied first, so it never aliases them. They are anonymous
memory: pages that no datagram touched cost nothing. They are private: after a fork, parent and child have their own.

There are three ways to call the kernel, and the tests take them all: `_mmsg`, compiled if there was a C compiler when
the package was built; ctypes, which does the same in Python; and, on platforms without these system calls, one datagram
at a time.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import itertools
import mmap
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast, final

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import libc, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_BATCH: Final = 1024
"""The kernel takes no more messages in one call (UIO_MAXIOV, linux/uio.h)."""
CONTROL_SIZE: Final = 256
"""Room for the control messages of one datagram, in octets. All that this library asks for take under 200; the rest
is for options that a caller sets on the bare socket."""
MAX_REQUEST: Final = 256
"""Room for the control messages that all datagrams of one call share."""
MSG_CTRUNC: Final = 0x8  # linux/socket.h
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40


class Received(NamedTuple):
    """What one call received, as columns. A column of equal octets is those octets, once."""

    payloads: Sequence[bytes]
    names: bytes | Sequence[bytes]
    """The sender of each, as a `struct sockaddr_in`."""
    controls: bytes | Sequence[bytes]
    flags: Sequence[int] | None
    """MSG_TRUNC and MSG_CTRUNC of each; `None` if none has any."""


class Kind(NamedTuple):
    """A class of values, and its slots for payload, peer, control message and whether the payload was cut off."""

    type: type[object]
    slots: tuple[object, object, object, object]


class Recipe(NamedTuple):
    """What to make of a datagram, if nothing of it was cut off."""

    kind: Kind
    peers: Mapping[bytes, object]
    """What is made of a `struct sockaddr_in`."""
    controls: Mapping[bytes, object]
    """What is made of control messages."""
    with_source: bool
    """Whether the four octets of the sender's address follow these in the key."""
    sizes: Mapping[bytes, int] | None
    """By control messages, how long the segments are that the kernel handed over as one, 0 if it did not; `None` if it
    never does."""


class Compiled(Protocol):
    """What `_mmsg` offers; see there."""

    def receive(self, descriptor: int, memory: mmap.mmap, limit: int, control_size: int, /) -> int: ...
    def values(self, memory: mmap.mmap, count: int, recipe: Recipe, /) -> list[Any] | None: ...
    def columns(
        self, values: tuple[Any, ...], kind: Kind, names: Mapping[Any, bytes], request: Callable[[Any], bytes], /
    ) -> tuple[list[bytes], list[bytes], list[bytes]] | None: ...
    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> int: ...


def _find_compiled() -> Compiled | None:
    try:
        return cast("Compiled", importlib.import_module("trio_ipv4._kernel._mmsg"))
    except ImportError:
        return None


compiled: Compiled | None = _find_compiled()


@final
class Receiver:
    """The receive buffers of one connection."""

    def __init__(self) -> None:
        # By the room of each slot, a power of two: a program that asks for few octets, then for many, and then for few
        # again, finds the buffers of before.
        self._slots: Final[dict[int, _Slots]] = {}
        self._has_recvmmsg = this_platform().has_mmsg

    def receive(
        self, descriptor: int, limit: int, max_bytes: int, recipe: Recipe | None = None
    ) -> list[Any] | Received | None:
        """Receive up to `limit` datagrams of up to `max_bytes` octets each; `None` if none is queued.

        With a recipe, what comes may be made into values already: if there is `_mmsg`, and nothing was cut off.

        Raises:
            OSError: The kernel refused, or a pending error of the socket was due.
        """
        limit = min(limit, MAX_BATCH)
        if not self._has_recvmmsg:
            return _receive_one_by_one(descriptor, limit, max_bytes)
        room = 1 << (max_bytes - 1).bit_length()
        slots = self._slots.get(room)
        if slots is None or slots.count < limit:
            # At least doubled, so that limits that rise step by step don't make buffers at each step.
            count = limit if slots is None else max(limit, min(2 * slots.count, MAX_BATCH))
            slots = self._slots[room] = _Slots(count, room)
        slots.bound(limit, max_bytes)
        try:
            count = slots.fill(descriptor, limit)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            self._has_recvmmsg = False  # A sandbox may lack what the platform has.
            return _receive_one_by_one(descriptor, limit, max_bytes)
        if not count:
            return None
        if recipe is not None and (values := slots.values(count, recipe)) is not None:
            return values
        return slots.columns(count)


@final
class _Slots:
    """An array of `struct mmsghdr`, each with room for a sender, control messages and a payload of `room` octets."""

    def __init__(self, count: int, room: int) -> None:
        platform = this_platform()
        self.count: Final = count
        header = struct.Struct(structs.mmsghdr_format(platform))
        self._vector: Final = structs.iovec_format(platform)
        vector_size = struct.calcsize(self._vector)
        self._header_size: Final = header.size
        # A stride of whole pages would put the start of every payload into the same cache set.
        self._stride: Final = room + 64
        self._vectors: Final = count * header.size
        self._names: Final = self._vectors + count * vector_size
        self._controls: Final = self._names + count * structs.SOCKADDR_IN_SIZE
        self._payloads: Final = self._controls + count * CONTROL_SIZE
        self._memory: Final = _private_memory(self._payloads + count * self._stride)
        self._base: Final = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._bounded = 0, 0
        """How many slots, from the first on, take how many octets."""
        self.bound(count, room)
        self._template: Final = b"".join(
            header.pack(
                self._base + self._names + i * structs.SOCKADDR_IN_SIZE,
                structs.SOCKADDR_IN_SIZE,
                self._base + self._vectors + i * vector_size,
                1,
                self._base + self._controls + i * CONTROL_SIZE,
                CONTROL_SIZE,
                0,
                0,
            )
            for i in range(count)
        )
        self._memory[: len(self._template)] = self._template
        # Of each header only what the kernel wrote: the control messages' length, the flags, the payload's length.
        self._result: Final = platform.prefix + ("40xQi4xI4x" if platform.word == 8 else "20xIiI")
        self._recvmmsg: Final = libc.mmsg_calls()[0]
        self._last: tuple[bytes, Received, struct.Struct] | None = None
        """What a full batch left in memory before the payloads, what was made of it, and what cuts its payloads."""

    def bound(self, limit: int, max_bytes: int) -> None:
        """Let the first `limit` slots take up to `max_bytes` octets of payload each."""
        slots, octets = self._bounded
        if octets == max_bytes and limit <= slots:
            return
        self._bounded = 0, 0  # An interrupt may leave some of each.
        first = self._base + self._payloads
        starts = range(first, first + limit * self._stride, self._stride)
        vectors = itertools.chain.from_iterable((start, max_bytes) for start in starts)
        _repeated(self._vector, limit).pack_into(self._memory, self._vectors, *vectors)
        self._bounded = limit, max_bytes

    def fill(self, descriptor: int, limit: int) -> int:
        """Let the kernel fill up to `limit` slots, and return how many it filled: 0 if nothing is queued."""
        if compiled is not None:
            return compiled.receive(descriptor, self._memory, limit, CONTROL_SIZE)
        size = limit * self._header_size
        # The kernel overwrites the lengths that say how much room there is.
        self._memory[:size] = self._template[:size] if limit < self.count else self._template
        while (count := self._recvmmsg(descriptor, self._base, limit, MSG_DONTWAIT, None)) < 0:
            error = libc.last_error()
            if error.errno == errno.EAGAIN:
                return 0
            if error.errno != errno.EINTR:
                raise error
        return count

    def values(self, count: int, recipe: Recipe) -> list[Any] | None:
        """Make values of what is in the first slots, where that is quicker than by columns and can be done."""
        return None if compiled is None else compiled.values(self._memory, count, recipe)

    def columns(self, count: int) -> Received:
        """Copy out what is in the first slots."""
        if count == self.count and self._last is not None:
            # Most full batches differ from the one before in nothing but the payloads: one comparison shows it.
            facts, last, cutter = self._last
            if libc.memcmp()(self._base, facts, self._payloads) == 0:
                payloads = cutter.unpack_from(self._memory, self._payloads)
                return Received(payloads, last.names, last.controls, last.flags)
        return self._take_apart(count)

    def _take_apart(self, count: int) -> Received:
        memory = self._memory
        results = _repeated(self._result, count).unpack_from(memory)
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
        memory = self._memory
        if lengths.count(first) == count:
            return _cutter(first, stride, count).unpack_from(memory, start)
        starts = range(start, start + stride * count, stride)
        return [memory[at : at + length] for at, length in zip(starts, lengths, strict=True)]

    def _cut_equal(self, start: int, stride: int, lengths: Sequence[int]) -> bytes | Sequence[bytes]:
        """Copy out the beginning of each slot; if the slots are equal, as they are in most batches, of one."""
        count, first = len(lengths), lengths[0]
        slot = self._memory[start : start + stride]
        if lengths.count(first) == count and self._memory[start : start + count * stride] == slot * count:
            return slot[:first]
        return self._cut(start, stride, lengths)


def _private_memory(size: int) -> mmap.mmap:
    """Return anonymous memory of this process alone. Python's default is MAP_SHARED: a forked child would share it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _cutter(length: int, stride: int, count: int) -> struct.Struct:
    """Return what copies out the beginning of each of `count` slots: the fastest way that Python has."""
    return _repeated(f"={length}s{stride - length}x", count)


@functools.lru_cache(maxsize=256)  # At most a few MiB, whatever lengths and counts come.
def _repeated(layout: str, count: int) -> struct.Struct:
    """Return the format of `count` structures in a row."""
    return struct.Struct(layout[0] + layout[1:] * count)


@final
class Sender:
    """The send buffers of one connection: headers and names; payloads are sent from where they are."""

    def __init__(self) -> None:
        self._headers: _Headers | None = None
        self._has_sendmmsg = this_platform().has_mmsg

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes]
    ) -> tuple[int, OSError | None]:
        """Send datagrams, each to the `struct sockaddr_in` of its name, with its control messages.

        Returns:
            How many the kernel took, and why it stopped, if it did. A full send buffer is the error EAGAIN. When the
            kernel takes a part, the reason comes out only on the next call.
        """
        if self._has_sendmmsg:
            sent, refused = self._send_at_once(descriptor, payloads, names, controls)
            if refused is None or refused.errno != errno.ENOSYS:
                return sent, refused
            self._has_sendmmsg = False  # A sandbox may lack what the platform has.
        return _send_one_by_one(descriptor, payloads, names, controls)

    def _send_at_once(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes]
    ) -> tuple[int, OSError | None]:
        if compiled is not None:
            try:
                return compiled.send(descriptor, payloads, names, controls), None
            except OSError as error:
                return 0, error
        headers = self._headers
        count = min(len(payloads), MAX_BATCH)
        if headers is None or headers.count < count:
            headers = self._headers = _Headers(count)
        return headers.send(descriptor, payloads[:count], names[:count], controls[:count])


@final
class _Headers:
    """An array of `struct mmsghdr` with their vectors and names."""

    def __init__(self, count: int) -> None:
        platform = this_platform()
        self.count: Final = count
        self._header: Final = struct.Struct(structs.mmsghdr_format(platform))
        self._vector: Final = structs.iovec_format(platform)
        self._one_vector: Final = struct.Struct(self._vector)
        self._vector_size: Final = self._one_vector.size
        self._vectors: Final = count * self._header.size
        self._names: Final = self._vectors + count * self._vector_size
        self._control: Final = self._names + count * structs.SOCKADDR_IN_SIZE
        self._memory: Final = _private_memory(self._control + MAX_REQUEST)
        self._base: Final = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        # A pointer to the octets of a bytes object, which it keeps alive, and the same memory as an integer.
        self._pointer: Final = ctypes.c_char_p()
        self._address: Final = ctypes.c_void_p.from_buffer(self._pointer)
        self._laid_out: int | None = None
        self._sendmmsg: Final = libc.mmsg_calls()[1]

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes]
    ) -> tuple[int, OSError | None]:
        count, memory = len(payloads), self._memory
        apart = self._lay_out_controls(controls)
        # Copying payloads into one is cheaper than a pointer for each; a single one is not even copied.
        self._pointer.value = joined = b"".join(payloads)
        start = self._address.value or 0
        if count == 1:
            self._one_vector.pack_into(memory, self._vectors, start, len(joined))
        else:
            lengths = list(map(len, payloads))
            starts = itertools.accumulate(lengths, initial=start)
            vectors = itertools.chain.from_iterable(zip(starts, lengths))  # noqa: B905  # One start too many: the end.
            _repeated(self._vector, count).pack_into(memory, self._vectors, *vectors)
        memory[self._names : self._names + count * structs.SOCKADDR_IN_SIZE] = b"".join(names)
        sent, refused = self._send(descriptor, count)
        # The kernel has read them: let go of what may be megabytes.
        self._pointer.value = None
        del apart
        return sent, refused

    def _send(self, descriptor: int, count: int) -> tuple[int, OSError | None]:
        while (sent := self._sendmmsg(descriptor, self._base, count, MSG_DONTWAIT)) < 0:
            error = libc.last_error()
            if error.errno != errno.EINTR:
                return 0, error
        return sent, None

    def _lay_out_controls(self, controls: Sequence[bytes]) -> object:
        """Lay out the headers with their control messages; return what must live until the kernel has read them."""
        first = controls[0]
        if controls.count(first) == len(controls) and len(first) <= MAX_REQUEST:
            # All headers can point to the same octets.
            self._memory[self._control : self._control + len(first)] = first
            if self._laid_out != len(first):
                self._laid_out = None  # An interrupt may leave some headers of each kind.
                self._lay_out(itertools.repeat(self._base + self._control), itertools.repeat(len(first)))
                self._laid_out = len(first)
            return None
        self._laid_out = None
        apart = ctypes.create_string_buffer(b"".join(controls))
        lengths = list(map(len, controls))
        self._lay_out(itertools.accumulate(lengths, initial=ctypes.addressof(apart)), lengths)
        return apart

    def _lay_out(self, starts: Iterable[int], lengths: Iterable[int]) -> None:
        for i, start, length in zip(range(self.count), starts, lengths):  # noqa: B905  # `repeat` has no end.
            name = self._base + self._names + i * structs.SOCKADDR_IN_SIZE
            vector = self._base + self._vectors + i * self._vector_size
            at = i * self._header.size
            self._header.pack_into(self._memory, at, name, structs.SOCKADDR_IN_SIZE, vector, 1, start, length, 0, 0)


def _receive_one_by_one(descriptor: int, limit: int, max_bytes: int) -> Received | None:
    rows: list[tuple[bytes, bytes, bytes, int]] = []
    while len(rows) < limit:
        try:
            row = one_by_one.receive(descriptor, max_bytes, CONTROL_SIZE)
        except OSError:
            # What was taken already goes first. A pending error is told once, so it is lost then, as with recvmmsg(2).
            if not rows:
                raise
            break
        if row is None:
            break
        payload, name, control, truncated, control_truncated = row
        rows.append((payload, name, control, MSG_TRUNC * truncated | MSG_CTRUNC * control_truncated))
    if not rows:
        return None
    payloads, names, controls, flags = zip(*rows, strict=True)
    return Received(payloads, names, controls, flags if any(flags) else None)


def _send_one_by_one(
    descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes]
) -> tuple[int, OSError | None]:
    for sent, (payload, name, control) in enumerate(zip(payloads, names, controls, strict=True)):
        try:
            one_by_one.send(descriptor, payload, name, control)
        except OSError as error:
            return sent, error
    return len(payloads), None
