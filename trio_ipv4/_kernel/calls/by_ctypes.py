"""recvmmsg(2) and sendmmsg(2) by ctypes."""

from __future__ import annotations

import ctypes
import errno
import itertools
import struct
from typing import TYPE_CHECKING, Any, Final, final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import libc
from trio_ipv4._kernel.calls import MAX_BATCH, MSG_DONTWAIT
from trio_ipv4._kernel.calls.columns import take_apart
from trio_ipv4._kernel.calls.mmsg import MmsgReceiver, MmsgSender, private_memory, repeated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Receiver, Recipe, Sender
    from trio_ipv4._kernel.calls.mmsg import Slots

MAX_REQUEST: Final = 256
"""Room for the control messages that all datagrams of one call share."""


@final
class ByCtypes:
    """The calls by ctypes, with the loops over datagrams in Python's own C: `struct`, `bytes.join`, `map`."""

    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform

    def receiver(self) -> Receiver:
        return MmsgReceiver(self._platform, _Receiving())

    def sender(self) -> Sender:
        return MmsgSender(self._platform, _Sending(self._platform))


@final
class _Receiving:
    def __init__(self) -> None:
        self._recvmmsg: Final = libc.mmsg_calls()[0]

    def fill(self, slots: Slots, descriptor: int, limit: int, /) -> int:
        size = limit * slots.header_size
        # The kernel overwrites the lengths that say how much room there is.
        slots.memory[:size] = slots.template[:size] if limit < slots.count else slots.template
        while (count := self._recvmmsg(descriptor, slots.base, limit, MSG_DONTWAIT, None)) < 0:
            error = libc.last_error()
            if error.errno == errno.EAGAIN:
                return 0
            if error.errno != errno.EINTR:
                raise error
        return count

    def values(self, _slots: Slots, _count: int, _recipe: Recipe, /) -> list[Any] | None:
        return None


@final
class _Sending:
    """The send buffers of one connection: headers and names; payloads are sent from where they are."""

    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform
        self._headers: _Headers | None = None
        self.columns = take_apart

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]:
        headers = self._headers
        count = min(len(payloads), MAX_BATCH)
        if headers is None or headers.count < count:
            headers = self._headers = _Headers(self._platform, count)
        return headers.send(descriptor, payloads[:count], names[:count], controls[:count])


@final
class _Headers:
    """An array of `struct mmsghdr` with their vectors and names."""

    def __init__(self, platform: Platform, count: int) -> None:
        self.count: Final = count
        self._header: Final = struct.Struct(structs.mmsghdr_format(platform))
        self._vector: Final = structs.iovec_format(platform)
        self._one_vector: Final = struct.Struct(self._vector)
        self._vector_size: Final = self._one_vector.size
        self._vectors: Final = count * self._header.size
        self._names: Final = self._vectors + count * self._vector_size
        self._control: Final = self._names + count * structs.SOCKADDR_IN_SIZE
        self._memory: Final = private_memory(self._control + MAX_REQUEST)
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
            repeated(self._vector, count).pack_into(memory, self._vectors, *vectors)
        memory[self._names : self._names + count * structs.SOCKADDR_IN_SIZE] = b"".join(names)
        sent, refused = self._send(descriptor, count)
        # The kernel has read them, and they may be megabytes: let go.
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
        """Lay out the headers with their control messages; return what has to live until the kernel has read them."""
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
        apart, start = libc.memory_with(b"".join(controls))
        lengths = list(map(len, controls))
        self._lay_out(itertools.accumulate(lengths, initial=start), lengths)
        return apart

    def _lay_out(self, starts: Iterable[int], lengths: Iterable[int]) -> None:
        for i, start, length in zip(range(self.count), starts, lengths):  # noqa: B905  # `repeat` has no end.
            name = self._base + self._names + i * structs.SOCKADDR_IN_SIZE
            vector = self._base + self._vectors + i * self._vector_size
            at = i * self._header.size
            self._header.pack_into(self._memory, at, name, structs.SOCKADDR_IN_SIZE, vector, 1, start, length, 0, 0)
