"""DatagramConn: send and receive. PacketConn and RawConn say how a value is made of what the kernel hands over."""

from __future__ import annotations

import abc
import collections
import errno
import functools
import ipaddress
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar, cast

import trio

from trio_ipv4._abi import structs
from trio_ipv4._abi.structs import SOCK_RAW
from trio_ipv4._conn.multicast import MulticastConn
from trio_ipv4._conn.turns import MORE, Progress, require_trio
from trio_ipv4._errors import ParseError, PartialSendError
from trio_ipv4._kernel import calls
from trio_ipv4._kernel.causes import Attempt, explain_sending
from trio_ipv4._kernel.explain import explain
from trio_ipv4._values.control import (
    EMPTY,
    FACTS,
    ControlFlags,
    ControlMessage,
    LeadingTimestamp,
    parse_control,
    stamped,
)
from trio_ipv4._values.fields import to_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Columns, Received, Sender
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.fields import Endpoint

ValueT = TypeVar("ValueT")
KeyT = TypeVar("KeyT")
MadeT = TypeVar("MadeT")
MAX_BYTES: Final = 65535
"""The longest IP packet (RFC 791: total length has 16 bits)."""
MAX_LIMIT: Final = 2**31 - 1
CACHED: Final = 1024
"""How many addresses, and how many control messages, a connection remembers. A sender that varies its source can make
it parse again, but not grow."""


class DatagramConn(MulticastConn, trio.abc.Channel[ValueT], Generic[ValueT]):
    """Send and receive values, singly and in batches, in turns.

    `async for` receives until the connection is closed from another task, which is `trio.ClosedResourceError`.
    """

    def _set_up(
        self, socket: Socket, trio_socket: trio.socket.SocketType, control_flags: ControlFlags | None = None
    ) -> None:
        super()._set_up(socket, trio_socket, control_flags)
        self._platform = socket.system.platform
        # The most octets that the kernel puts before the payload (RFC 791: a header has up to 15 words of 4 octets).
        self._header_room = 60 if socket.kind == SOCK_RAW else 0
        # What to make of a datagram, if it can be made without `_decode`.
        self._recipe: calls.Recipe | None = None
        self._receiver = socket.receiver()
        self._sender = socket.sender()
        # What the kernel has handed over and the caller not got yet: runs of values, with errors between them.
        self._ready: collections.deque[list[ValueT] | Exception] = collections.deque()
        self._peers = Peers()
        self._names = Names(self._platform)
        self._last_request: tuple[ControlMessage, bytes] = EMPTY, b""
        self._controls = Controls(self._platform, self._control_flags)

    async def receive(self, max_bytes: int = MAX_BYTES) -> ValueT:
        """Receive one datagram. A checkpoint; cancelled, it has taken nothing.

        What waits in the socket's error queue (IP_RECVERR, transmit timestamps) is discarded when nothing else is there
        to receive. Otherwise the task would wake for ever.

        Args:
            max_bytes: The longest payload to return, 1 to 65535 octets; of a longer one the rest is lost, and
                `truncated` says so.

        Raises:
            OSError: A pending error of the socket, such as ECONNREFUSED; or EMSGSIZE: the control messages did not fit.
            trio.ClosedResourceError: The connection is closed.
        """
        if max_bytes != MAX_BYTES:
            to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return (await self._owned.receive(self._take, 1, max_bytes))[0]

    async def receive_batch(self, limit: int = 64, *, max_bytes: int = MAX_BYTES) -> Sequence[ValueT]:
        """Wait for one datagram, then take what is queued, in order. Never empty. A checkpoint, as `receive`.

        Errors are those of `receive`; one that comes after datagrams is raised by the next call.

        Args:
            limit: The most datagrams to return, 1 or more. One call of the kernel takes at most 1,024.
            max_bytes: As for `receive`.
        """
        to_integer(limit, "limit", 1, MAX_LIMIT)
        to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return await self._owned.receive(self._take, limit, max_bytes)

    def batches(self, limit: int = 64, *, max_bytes: int = MAX_BYTES) -> Batches[ValueT]:
        """Return an asynchronous iterator of batches: `async for batch in conn.batches()`. Not a generator.

        Each step is a `receive_batch`, with these arguments.
        """
        return Batches(self, limit, max_bytes)

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self, max_bytes: int = MAX_BYTES) -> ValueT:
        """Receive one datagram that is queued already. Not a checkpoint. Arguments and errors are those of `receive`.

        Raises:
            trio.WouldBlock: Nothing is queued, or another task is waiting for it.
        """
        self._require_open()
        to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)
        return self._owned.receive_nowait(self._take, 1, max_bytes)[0]

    async def send(self, value: ValueT) -> None:
        """Send one datagram. A checkpoint; cancelled, it has sent nothing.

        Raises:
            OSError: The kernel refused.
            TypeError: Not a value of this connection's kind.
            ValueError: The control message is not a request.
            UnsupportedError: The platform has no control message for a request.
            trio.ClosedResourceError: The connection is closed.
        """
        self._require_open()
        payload, name, control = self._encode(value)
        await self._send_all([((payload,), (name,), (control,))])

    async def send_batch(self, values: Iterable[ValueT]) -> None:
        """Send all, in order. A checkpoint, and another one for every 1,024 datagrams; cancelled, it has sent a prefix.

        All are looked at first: if one can't be sent (`TypeError`, `ValueError`, as for `send`), nothing is.

        Raises:
            PartialSendError: The kernel refused one after it took `sent` others. Its docstring says where to go on.
            OSError: The kernel refused the first one.
        """
        self._require_open()
        require_trio()
        given: object = values
        if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | memoryview | str):
            raise TypeError(f"pass a collection of datagrams to send_batch(), not {given!r}; send() takes one")
        every = tuple(values)
        portions: list[Columns] = []
        for start in range(0, len(every), calls.MAX_BATCH):
            if start:
                await trio.lowlevel.checkpoint()
            portions.append(self._encode_all(every[start : start + calls.MAX_BATCH]))
        await self._send_all(portions)

    @abc.abstractmethod
    def _decode(self, received: Received) -> Iterable[ValueT | Exception]:
        """Make values of what the kernel handed over, with an error in the place of what can't be one."""

    @abc.abstractmethod
    def _bounded(self, value: ValueT, max_bytes: int) -> ValueT:
        """Cut a payload off after `max_bytes`."""

    @abc.abstractmethod
    def _encode(self, value: ValueT) -> tuple[bytes, bytes, bytes]:
        """Return what goes to the kernel: octets, `struct sockaddr_in`, control messages."""

    def _take(self, descriptor: int, limit: int, max_bytes: int) -> Sequence[ValueT] | None:
        """Take up to `limit` datagrams: those that are ready here, else those that the kernel has."""
        if not self._ready:
            received = self._receive(descriptor, limit, max_bytes + self._header_room)
            if received is None:
                self._warn_in_vain()
                return None
            if isinstance(received, list):
                return received
            if (values := self._made_at_once(received)) is not None:
                return values
            self._keep(self._decode(received))
        return self._hand_over(limit, max_bytes)

    def _made_at_once(self, received: Received) -> list[ValueT] | None:
        """Make the values quicker than `_decode`; `None` unless that can be done and nothing can be wrong with them."""

    def _keep(self, decoded: Iterable[ValueT | Exception]) -> None:
        """Make what was decoded ready."""
        for each in decoded:
            if isinstance(each, Exception):
                self._ready.append(each)
            else:
                self._last_run().append(each)

    def _last_run(self) -> list[ValueT]:
        """Return the run at the end of what is ready, to add to it."""
        if not self._ready or isinstance(self._ready[-1], Exception):
            self._ready.append([])
        return cast("list[ValueT]", self._ready[-1])

    def _hand_over(self, limit: int, max_bytes: int) -> list[ValueT]:
        """Return what is ready, up to the first error; raise that when its turn comes, so that nothing is lost."""
        values: list[ValueT] = []
        while self._ready and len(values) < limit:
            first = self._ready[0]
            if isinstance(first, Exception):
                if values:
                    break
                self._ready.popleft()
                raise first
            room = limit - len(values)
            values += first[:room]
            del first[:room]
            if not first:
                self._ready.popleft()
        return values if max_bytes == MAX_BYTES else [self._bounded(value, max_bytes) for value in values]

    def _receive(self, descriptor: int, limit: int, max_bytes: int) -> list[ValueT] | Received | None:
        try:
            return self._receiver.receive(descriptor, limit, max_bytes, self._recipe)
        except OSError as error:
            raise explain(error, "receive", "receive", self._socket) from None

    def _warn_in_vain(self) -> None:
        """Warn whoever waits, as nothing is queued, for a group that was never joined."""
        if self._ledger.expected:
            self._ledger.warn_of_forgotten()

    def _control_flags_changed(self) -> None:
        self._controls = Controls(self._platform, self._control_flags)

    def _encode_all(self, values: tuple[ValueT, ...]) -> Columns:
        """Return what goes to the kernel."""
        payloads, names, controls = zip(*map(self._encode, values), strict=True)
        return payloads, names, controls

    async def _send_all(self, portions: Iterable[Columns]) -> None:
        """Send portions of at most 1,024 datagrams each, and let other tasks run between them."""
        sending = _Sending(self._sender, portions)
        try:
            await self._owned.send(sending.go_on)
        except _RefusedError as refused:
            raise self._send_error(refused.error, sending) from None

    def _send_error(self, refused: OSError, sending: _Sending) -> OSError:
        payload, name, control = sending.next
        which = f"datagram {sending.sent} of the batch, " if sending.is_batch else ""
        request = parse_control(self._platform, control)
        attempt = Attempt(self._socket, payload, name, request, self._multicast_interface)
        error = explain_sending(refused, f"{which}{len(payload)} octets", attempt)
        return partial_send(error, sending.sent)

    def _request(self, control: ControlMessage) -> bytes:
        """Return the octets of a request. The next datagram's is often the same."""
        last, octets = self._last_request
        if control is not last and control != last:
            octets = control.marshal()
            self._last_request = control, octets
        return octets

    def _peers_of(self, received: Received) -> Iterable[Endpoint]:
        """Return the sender of each datagram, without end if it is the same."""
        if isinstance(received.names, bytes):
            return itertools.repeat(self._peers[received.names])
        return map(self._peers.__getitem__, received.names)

    def _controls_of(self, received: Received) -> Iterable[ControlMessage]:
        """Return the control message of each datagram, without end if it is the same."""
        names, controls, flags = received.names, received.controls, received.flags
        if flags is not None:
            # One that was cut off is not parsed: `_decode` puts an error in its place.
            each = itertools.repeat(controls) if isinstance(controls, bytes) else controls
            controls = [b"" if flag & calls.MSG_CTRUNC else octets for octets, flag in zip(each, flags)]  # noqa: B905
        if self._controls.with_sender:
            each_name = itertools.repeat(names) if isinstance(names, bytes) else names
            each_control = [controls] * len(received.payloads) if isinstance(controls, bytes) else controls
            return [self._controls[control + name[4:8]] for control, name in zip(each_control, each_name)]  # noqa: B905
        if isinstance(controls, bytes):
            return itertools.repeat(self._controls[controls])
        return map(self._controls.__getitem__, controls)


class _RefusedError(Exception):
    """Raised on the way out of a send; the caller sees `error`, explained."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error: Final = error


class _Sending:
    """What is left to send of one call, and how many datagrams are out."""

    def __init__(self, sender: Sender, portions: Iterable[Columns]) -> None:
        self._sender: Final = sender
        self._portions: Final = iter(portions)
        self._portion = next(self._portions, _NOTHING)
        self._done = 0
        """How many of the portion are out."""
        self._before = 0
        """How many of the portions before it are."""

    @property
    def sent(self) -> int:
        return self._before + self._done

    @property
    def next(self) -> tuple[bytes, bytes, bytes]:
        """The datagram that the kernel is to take next: octets, `struct sockaddr_in`, control messages."""
        payloads, names, controls = self._portion
        return payloads[self._done], names[self._done], controls[self._done]

    @property
    def is_batch(self) -> bool:
        return self._before > 0 or len(self._portion[0]) > 1

    def go_on(self, descriptor: int) -> Literal[True, Progress.MORE] | None:
        """Let the kernel take what it can of a portion: `None` if its buffer is full, `MORE` if portions are left."""
        payloads, names, controls = self._portion
        count = len(payloads)
        while self._done < count:
            if self._done:
                left = slice(self._done, None)
                sent, refused = self._sender.send(descriptor, payloads[left], names[left], controls[left])
            else:
                sent, refused = self._sender.send(descriptor, payloads, names, controls)
            self._done += sent
            if refused is not None:
                if refused.errno == errno.EAGAIN:
                    return None
                raise _RefusedError(refused)
        portion = next(self._portions, None)
        if portion is None:
            return True
        self._portion, self._before, self._done = portion, self.sent, 0
        return MORE


_NOTHING: Final[Columns] = ((), (), ())


class Batches(Generic[ValueT]):
    """An asynchronous iterator of batches. It holds no turn, and nothing else, between items."""

    def __init__(self, conn: DatagramConn[ValueT], limit: int, max_bytes: int) -> None:
        self._conn: Final = conn
        self._limit: Final = to_integer(limit, "limit", 1, MAX_LIMIT)
        self._max_bytes: Final = to_integer(max_bytes, "max_bytes", 1, MAX_BYTES)

    def __aiter__(self) -> Batches[ValueT]:
        return self

    async def __anext__(self) -> Sequence[ValueT]:
        return await self._conn.receive_batch(self._limit, max_bytes=self._max_bytes)


class Remembered(dict[KeyT, MadeT], abc.ABC):
    """What was made of a key, by that key; it forgets everything when it is full."""

    def __missing__(self, key: KeyT) -> MadeT:
        if len(self) >= CACHED:
            self.clear()
        self[key] = made = self._make(key)
        return made

    @abc.abstractmethod
    def _make(self, key: KeyT) -> MadeT: ...


class Peers(Remembered[bytes, "Endpoint"]):
    """Endpoints by their `struct sockaddr_in`: the kernel hands over the same 16 octets again and again."""

    def _make(self, key: bytes) -> Endpoint:
        address, port = structs.parse_sockaddr_in(key)
        return str(ipaddress.IPv4Address(address)), port


class Names(Remembered["Endpoint", bytes]):
    """The `struct sockaddr_in` of endpoints."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform: Final = platform

    def _make(self, key: Endpoint) -> bytes:
        address, port = key
        return structs.sockaddr_in(self._platform, ipaddress.IPv4Address(address).packed, port)


class ByControl(Remembered[bytes, MadeT]):
    """What was made of control messages, by their octets.

    A timestamp at the start differs from datagram to datagram. The octets after it are often the same, so they alone
    are the key.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform

    def __missing__(self, key: bytes) -> MadeT:
        leading = self._leading
        timestamp_ns = leading.read(key)
        if timestamp_ns is not None:
            try:
                made = self[key[leading.size :]]
            except ParseError:
                pass  # Its offset would be that in the rest.
            else:
                return self._stamped(made, timestamp_ns)
        return super().__missing__(key)

    @functools.cached_property
    def _leading(self) -> LeadingTimestamp:
        return LeadingTimestamp(self._platform)

    def _stamped(self, made: MadeT, _timestamp_ns: int) -> MadeT:
        """Return what is made with a timestamp before the rest."""
        return made


class Controls(ByControl[ControlMessage]):
    """Control messages by their octets, for one set of flags."""

    def __init__(self, platform: Platform, flags: ControlFlags) -> None:
        super().__init__(platform)
        self._flags: Final = flags
        self.with_sender: Final = FACTS.needs_sender(flags)
        """Whether the sender's address is a part of a control message. Then its four octets stand at the end of a
        key."""

    def _stamped(self, made: ControlMessage, timestamp_ns: int) -> ControlMessage:
        return stamped(made, timestamp_ns) if made.timestamp_ns is None else made

    def _make(self, key: bytes) -> ControlMessage:
        end = len(key) - 4 if self.with_sender else len(key)
        return ControlMessage(**FACTS.read(self._platform, key[:end], self._flags, key[end:]))


def partial_send(error: OSError, sent: int) -> OSError:
    """Return the error for a batch of which `sent` datagrams are out and the next one was refused."""
    return PartialSendError(error.errno or 0, error.strerror or "", sent) if sent else error


def control_lost() -> OSError:
    """Return the error for control messages that did not fit (MSG_CTRUNC): they are never a shorter message."""
    return OSError(
        errno.EMSGSIZE,
        f"the control messages of a datagram were longer than {calls.CONTROL_SIZE} octets and were cut off "
        "(MSG_CTRUNC): switch off what was switched on through the bare socket",
    )


def header_length(packet: bytes) -> int:
    """Return the length of the IP header that a packet from a raw socket begins with, in octets.

    Raises:
        ParseError: The packet is shorter than its header.
    """
    length = (packet[0] & 0xF) * 4 if packet else 20
    if not 20 <= length <= len(packet):
        raise ParseError(f"an IP header of {length} octets does not fit into {len(packet)}", offset=len(packet))
    return length
