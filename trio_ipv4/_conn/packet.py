"""PacketConn: payloads in and out, with their control messages."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._abi.structs import SOCK_RAW
from trio_ipv4._conn.traffic import ByControl, DatagramConn, control_lost, header_length, partial_send
from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import bpf, calls, offload, options
from trio_ipv4._values.bpf import RawInstruction
from trio_ipv4._values.control import EMPTY, ControlFlags, ControlMessage
from trio_ipv4._values.datagram import Datagram
from trio_ipv4._values.datagram import received as received_datagram
from trio_ipv4._values.fields import to_bool, to_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import trio

    from trio_ipv4._kernel.calls import Columns, Received
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.fields import EndpointLike


@final
class PacketConn(DatagramConn[Datagram]):
    """Send and receive datagrams over UDP, or over raw IP without the header, which is stripped.

    It is a `trio.abc.Channel` of `Datagram`: `async for datagram in conn` receives until the task is cancelled.
    Several tasks may receive, or send, at the same time; they take turns in the order in which they came. The
    connection owns its socket: closing it, which `async with` does, leaves every membership and closes the socket;
    leaving the block is a checkpoint after that. Every later operation raises `trio.ClosedResourceError`.

    An argument of the wrong type is a `TypeError`, one that is out of range or a host name a `ValueError`, a name or an
    address of no interface an `OSError` (ENODEV, EADDRNOTAVAIL). No operation needs a privilege: only making a raw
    socket does.

    Args:
        socket: A trio socket of AF_INET and SOCK_DGRAM or SOCK_RAW. None of its options is changed.

    Raises:
        TypeError: Anything else, a socket of the standard library included.
    """

    def _set_up(
        self, socket: Socket, trio_socket: trio.socket.SocketType, control_flags: ControlFlags | None = None
    ) -> None:
        super()._set_up(socket, trio_socket, control_flags)
        self._is_raw = socket.kind == SOCK_RAW
        self._can_segment: bool | None = None  # Found out when it matters.
        is_new = control_flags is not None  # Then nobody has switched it on.
        self._coalesced = not self._is_raw and not is_new and offload.is_on(socket)
        self._receive_offload = self._coalesced
        self._segment_sizes = _SegmentSizes(self._platform)
        self._make_recipe()

    @property
    def receive_offload(self) -> bool:
        """Whether the kernel may hand over several datagrams of one flow as one (UDP_GRO, udp(7)). Default `False`.

        Each datagram still comes as one, and `max_bytes` bounds each. With it the kernel is read with room for 64 KiB.
        What the kernel handed over as one has one timestamp, and counts once among the drops.

        Setting `False` leaves UDP_GRO on in the kernel, because datagrams already coalesced in the queue could not be
        split without it. While a BPF program is attached through this connection it has no effect: the kernel would run
        the program once for all that it coalesced.

        Raises:
            OSError: ENOPROTOOPT: not a UDP socket.
            UnsupportedError: This is not Linux.
        """
        self._require_open()
        return self._receive_offload

    @receive_offload.setter
    def receive_offload(self, value: bool) -> None:
        socket = self._usable
        if to_bool(value, "receive_offload") and not self._coalesced:
            options.get_integer(socket, "UDP_GRO")  # An error, if this socket can't.
            if not bpf.has_program(socket):
                self._set_coalescing(on=True)
        self._receive_offload = value

    async def send_to(self, payload: bytes, endpoint: EndpointLike, *, control: ControlMessage = EMPTY) -> None:
        """Send `payload` to `(address, port)`: short for `send(Datagram(payload, endpoint, control=control))`.

        A checkpoint; errors as `send`.
        """
        await self.send(Datagram(payload, endpoint, control=control))

    async def send_segmented(
        self, payload: bytes, segment_size: int, endpoint: EndpointLike, *, control: ControlMessage = EMPTY
    ) -> None:
        """Send `payload` as datagrams of `segment_size` octets, the last one shorter if need be (UDP_SEGMENT, udp(7)).

        The kernel cuts, up to 64 datagrams at a time, for a fraction of the cost of as many calls. Where it, the
        interface or the route refuses that, or over raw IP, the same datagrams go out as by `send_batch`. A checkpoint,
        as that.

        Args:
            payload: What to send; if empty, one empty datagram goes out.
            segment_size: 1 to 65,507 octets. More than the route's MTU allows is sent in fragments, without offload.
            endpoint: `(address, port)`.
            control: As for `send_to`.

        Raises:
            PartialSendError: The kernel refused a datagram after it took `sent` others.
            OSError: The kernel refused the first one.
        """
        size = to_integer(segment_size, "segment_size", 1, offload.MAX_PAYLOAD)
        octets, name, request = self._encode(Datagram(payload, endpoint, control=control))
        sent = 0
        if len(octets) > size and self._segments_in_kernel():
            per_call = size * offload.segments_per_call(size)
            segmented = request + offload.segment_request(self._platform, size)
            try:
                await self._send_all(_cut(octets, per_call, name, segmented, _CALLS_AT_ONCE))
            except OSError as error:
                sent = getattr(error, "sent", 0) * (per_call // size)
                if error.errno not in offload.REFUSALS:
                    raise partial_send(error, sent) from None
            else:
                return
        try:
            await self._send_all(_cut(octets[sent * size :], size, name, request))
        except OSError as error:
            raise partial_send(error, sent + getattr(error, "sent", 0)) from None

    def _attach(self, program: tuple[RawInstruction, ...]) -> None:
        super()._attach(program)
        if self._coalesced:
            # The kernel would judge several datagrams by the first. What is coalesced already can't be split once
            # UDP_GRO is off, so it is read before; meanwhile nothing may come. Each program is detached before the next
            # one is attached: option memory may have room for one.
            super()._detach()
            super()._attach(_NOTHING)
            try:
                self._read_queue()
                self._set_coalescing(on=False)
            finally:
                super()._detach()
                super()._attach(program)

    def _detach(self) -> None:
        super()._detach()
        if self._receive_offload:
            self._set_coalescing(on=True)

    def _set_coalescing(self, *, on: bool) -> None:
        options.set_integer(self._socket, "UDP_GRO", on)
        self._coalesced = on
        self._make_recipe()

    def _read_queue(self) -> None:
        """Make ready what the kernel has queued, errors included."""
        for _ in range(calls.MAX_BATCH):
            try:
                if not self._read_coalesced(_AT_ONCE, self._socket.fileno()):
                    break
            except OSError as error:
                self._ready.append(error)

    def _segments_in_kernel(self) -> bool:
        if self._can_segment is None:
            self._can_segment = offload.can_segment(self._socket)
        return self._can_segment

    def _control_flags_changed(self) -> None:
        super()._control_flags_changed()
        self._make_recipe()

    def _make_recipe(self) -> None:
        if not self._is_raw:  # There the payload is behind a header.
            sizes = self._segment_sizes if self._coalesced else None
            self._recipe = calls.Recipe(_KIND, self._peers, self._controls, self._controls.with_sender, sizes)

    def _take(self, descriptor: int, limit: int, max_bytes: int) -> Sequence[Datagram] | None:
        if self._coalesced:
            return self._take_coalesced(descriptor, limit, max_bytes)
        return super()._take(descriptor, limit, max_bytes)

    def _made_at_once(self, received: Received) -> list[Datagram] | None:
        if self._is_raw or received.flags is not None:
            return None
        # The way of nearly every datagram: nothing truncated, nothing to strip.
        return list(map(received_datagram, received.payloads, self._peers_of(received), self._controls_of(received)))

    def _take_coalesced(self, descriptor: int, limit: int, max_bytes: int) -> Sequence[Datagram] | None:
        enough = min(limit, calls.MAX_BATCH)  # A flood must not keep this call for ever.
        while sum(1 if isinstance(run, Exception) else len(run) for run in self._ready) < enough:
            try:
                # Few at a time: each may hold 64 datagrams, and what this call does not return waits for the next.
                if not self._read_coalesced(min(limit, 8), descriptor):
                    break
            except OSError as error:
                self._ready.append(error)  # After what came before it.
                break
        if not self._ready:
            self._warn_in_vain()
            return None
        return self._hand_over(limit, max_bytes)

    def _read_coalesced(self, limit: int, descriptor: int) -> bool:
        """Make ready up to `limit` of what the kernel coalesced; tell whether there may be more."""
        received = self._receive(descriptor, limit, offload.MAX_COALESCED)
        if received is None:
            return False
        if isinstance(received, list):
            self._last_run().extend(received)
        else:
            self._keep_split(received)
        return True

    def _keep_split(self, received: Received) -> None:
        """Make ready what the kernel handed over, in the parts of which it is, each with the same facts."""
        for datagram, size in zip(self._decode(received), self._sizes_of(received)):  # noqa: B905  # May have no end.
            if isinstance(datagram, Exception) or not 0 < size < len(datagram.payload):
                self._keep((datagram,))
            else:
                parts = offload.split(datagram.payload, size)
                peer, control = itertools.repeat(datagram.peer), itertools.repeat(datagram.control)
                self._last_run().extend(map(received_datagram, parts, peer, control))

    def _sizes_of(self, received: Received) -> Iterable[int]:
        if isinstance(received.controls, bytes):
            return itertools.repeat(self._segment_sizes[received.controls])
        return map(self._segment_sizes.__getitem__, received.controls)

    def _decode(self, received: Received) -> Iterator[Datagram | Exception]:
        peers, controls = self._peers_of(received), self._controls_of(received)
        flags = received.flags or itertools.repeat(0)
        # Some of the columns have no end.
        for payload, peer, control, flag in zip(received.payloads, peers, controls, flags):  # noqa: B905
            if flag & calls.MSG_CTRUNC:
                yield control_lost()
                continue
            try:
                inside = payload[header_length(payload) :] if self._is_raw else payload
            except ParseError as error:
                yield error
            else:
                yield received_datagram(inside, peer, control, bool(flag & calls.MSG_TRUNC))

    def _bounded(self, value: Datagram, max_bytes: int) -> Datagram:
        if len(value.payload) <= max_bytes:
            return value
        return received_datagram(value.payload[:max_bytes], value.peer, value.control, True)  # noqa: FBT003

    def _encode(self, value: Datagram) -> tuple[bytes, bytes, bytes]:
        if not isinstance(value, Datagram):
            raise TypeError(f"pass a Datagram, not {value!r}: send_to(payload, endpoint) takes octets")
        return value.payload, self._names[value.peer], self._request(value.control)

    def _encode_all(self, values: tuple[Datagram, ...]) -> Columns:
        columns = self._sender.columns(values, _KIND, self._names, self._request)
        return super()._encode_all(values) if columns is None else columns  # It names the one that is no datagram.


def _cut(octets: bytes, size: int, name: bytes, request: bytes, most: int = calls.MAX_BATCH) -> Iterator[Columns]:
    """Cut octets into datagrams of `size`, the last one shorter if need be, in portions of `most`.

    Of nothing, one empty datagram is made.
    """
    portion = size * most
    for start in range(0, len(octets) or 1, portion):
        here = range(start, min(start + portion, len(octets)) or 1, size)
        payloads = [octets[at : min(at + size, len(octets))] for at in here]
        yield payloads, [name] * len(payloads), [request] * len(payloads)


_CALLS_AT_ONCE: Final = 32
"""How many trains of segments, each up to 64 KiB, to send before other tasks run."""
_AT_ONCE: Final = 64
"""How many of what the kernel coalesced to read in one call, each up to 64 KiB."""
_NOTHING: Final = (RawInstruction(0x06, 0, 0, 0),)
"""A BPF program that keeps nothing: BPF_RET of 0 (linux/bpf_common.h)."""
_KIND: Final = calls.Kind(Datagram, (Datagram.payload, Datagram.peer, Datagram.control, Datagram.truncated))


class _SegmentSizes(ByControl[int]):
    """Segment sizes by the octets of control messages; 0 where none is told."""

    def _make(self, key: bytes) -> int:
        return offload.segment_size(self._platform, key)
