"""PacketConn: payloads in and out, with their control messages."""

from __future__ import annotations

import errno
import ipaddress
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from trio_ipv4._abi.structs import SOCK_RAW
from trio_ipv4._conn.caches import SegmentSizes, Tables
from trio_ipv4._conn.codec import control_lost, header_length
from trio_ipv4._conn.inbox import Inbox
from trio_ipv4._conn.memberships import Memberships
from trio_ipv4._conn.offload import Offload
from trio_ipv4._conn.options import SocketOptions
from trio_ipv4._conn.outbox import Outbox, partial_send
from trio_ipv4._conn.reports import ErrorReports
from trio_ipv4._conn.switches import switched_on
from trio_ipv4._conn.traffic import Traffic
from trio_ipv4._conn.turns import require_trio
from trio_ipv4._conn.where import ask, can_hear_multicast, require_predicate
from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import calls, netlink, offload
from trio_ipv4._kernel.explain import refusal
from trio_ipv4._values.control import EMPTY, ControlFlags, ControlMessage
from trio_ipv4._values.datagram import Datagram, make_datagram
from trio_ipv4._values.fields import to_bool, to_integer, to_octets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ipv4._conn.where import InterfacePredicate
    from trio_ipv4._kernel.calls import Columns, Received
    from trio_ipv4._values.fields import EndpointLike
    from trio_ipv4._values.interface import Interface

_CALLS_AT_ONCE: Final = 32
"""How many trains of segments, each up to 64 KiB, to send before other tasks run."""
_KIND: Final = calls.Kind(Datagram, (Datagram.payload, Datagram.peer, Datagram.control, Datagram.truncated))


@final
class PacketConn(SocketOptions, Memberships, ErrorReports, Traffic[Datagram]):
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

    def _compose(self, facts: ControlFlags | None) -> None:
        socket, is_raw = self._socket, self._socket.kind == SOCK_RAW
        is_coalesced = facts is None and not is_raw and offload.is_on(socket)
        self._outbox = Outbox(socket, self._owned)
        tables = Tables(socket.system.platform, switched_on(socket) if facts is None else facts)
        codec = DatagramCodec(tables, self._outbox, is_raw=is_raw)
        self._codec = codec
        self._inbox = Inbox(socket, codec, self._owned.errors, self._ledger.warn_of_forgotten)
        self._bpf = self._offload = Offload(socket, codec, self._inbox, is_on=is_coalesced)
        self._can_segment: bool | None = None  # Found out when it matters.

    @property
    def receive_offload(self) -> bool:
        """Whether the kernel may hand over several datagrams of one flow as one (UDP_GRO, udp(7)). Default `False`.

        Each datagram still comes as one, and `max_bytes` bounds each. With it the kernel is read with room for 64 KiB.
        Coalesced datagrams share one timestamp, and count once among the drops.

        Setting `False` leaves UDP_GRO on in the kernel, because datagrams already coalesced in the queue could not be
        split without it. While a BPF program is attached through this connection it has no effect: the kernel would run
        the program once for all that it coalesced.

        Raises:
            OSError: ENOPROTOOPT: not a UDP socket.
            UnsupportedError: This is neither Linux nor a simulated network.
        """
        self._require_open()
        return self._offload.is_wanted

    @receive_offload.setter
    def receive_offload(self, value: bool) -> None:
        self._require_open()
        self._offload.want(to_bool(value, "receive_offload"))

    async def send_to(self, payload: bytes, endpoint: EndpointLike, *, control: ControlMessage = EMPTY) -> None:
        """Send `payload` to `(address, port)`: short for `send(Datagram(payload, endpoint, control=control))`.

        A checkpoint; errors as `send`.
        """
        await self.send(Datagram(payload, endpoint, control=control))

    async def send_batch_to(
        self, payloads: Iterable[bytes], endpoint: EndpointLike, *, control: ControlMessage = EMPTY
    ) -> None:
        """Send each payload to `(address, port)`, in order.

        It does the same as `send_batch` of as many datagrams with this destination and control message, without the
        cost of making them. A checkpoint; errors as `send_batch`.
        """
        self._require_open()
        require_trio()
        given: object = payloads
        if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | memoryview | str):
            raise TypeError(f"pass a collection of payloads to send_batch_to(), not {given!r}; send_to() takes one")
        every = tuple(payload if type(payload) is bytes else to_octets(payload, "payloads") for payload in payloads)
        _, name, request = self._codec.encode(Datagram(b"", endpoint, control=control))
        await self._outbox.send(_portions(every, name, request))

    async def send_everywhere(
        self, datagram: Datagram, *, where: InterfacePredicate = can_hear_multicast
    ) -> Mapping[Interface, OSError | None]:
        """Send a datagram on every interface that matches, on each from its own address.

        Return the outcome by interface: `None`, or the error with which the kernel refused it there. One that refuses
        does not stop the others. A checkpoint; cancelled, it has sent on some.

        Args:
            datagram: What to send. Its control message names neither `src` nor `ifindex`.
            where: Which interfaces match; as for `follow_group`.

        Raises:
            OSError: rtnetlink is refused here, as in some sandboxes.
            TypeError: Not a `Datagram`.
            UnsupportedError: This is neither Linux nor a simulated network.
            ValueError: The control message names `src` or `ifindex`, or the connection belongs to another network
                namespace than the current one.
        """
        self._require_open()
        require_trio()
        require_predicate(where)
        self._codec.encode(datagram)  # Refuse nonsense before anything is sent.
        control = datagram.control
        if control.src is not None or control.ifindex is not None:
            raise ValueError(f"control must name neither src nor ifindex to be sent everywhere, got {control}")
        found = netlink.list_interfaces(self._socket.system, self._socket)
        await trio.lowlevel.checkpoint()
        outcomes: dict[Interface, OSError | None] = {}
        for interface in found.values():
            if ask(where, interface):
                outcomes[interface] = await self._send_on(interface, datagram)
        return outcomes

    async def _send_on(self, interface: Interface, datagram: Datagram) -> OSError | None:
        if not interface.addresses:
            attempt = f"send {len(datagram.payload)} octets on {interface.name}"
            return refusal(errno.EADDRNOTAVAIL, "send", attempt, advice="it has no IPv4 address to send from")
        control, source = datagram.control, interface.addresses[0].ip
        request = attrs.evolve(control, src=source, ifindex=interface.index)
        try:
            await self.send(Datagram(datagram.payload, datagram.peer, control=request))
        except OSError as error:
            return error
        return None

    async def send_segmented(
        self, payload: bytes, segment_size: int, endpoint: EndpointLike, *, control: ControlMessage = EMPTY
    ) -> None:
        """Send `payload` as datagrams of `segment_size` octets, the last one shorter if need be (UDP_SEGMENT, udp(7)).

        The kernel cuts, up to 64 datagrams at a time, for a fraction of the cost of as many calls. Where it, the
        interface or the route refuses that, or over raw IP, the same datagrams go out as by `send_batch`. A checkpoint,
        as that.

        Args:
            payload: The octets to send. If empty, one empty datagram goes out.
            segment_size: 1 to 65,507 octets. More than the route's MTU allows is sent in fragments, without offload.
            endpoint: `(address, port)`.
            control: As for `send_to`.

        Raises:
            PartialSendError: The kernel refused a datagram after it took `sent` others.
            OSError: The kernel refused the first one.
        """
        size = to_integer(segment_size, "segment_size", 1, offload.MAX_PAYLOAD)
        octets, name, request = self._codec.encode(Datagram(payload, endpoint, control=control))
        sent = 0
        if len(octets) > size and self._segments_in_kernel():
            per_call = size * offload.segments_per_call(size)
            segmented = request + offload.segment_request(self._socket.system.platform, size)
            try:
                await self._outbox.send(_cut(octets, per_call, name, segmented, _CALLS_AT_ONCE))
            except OSError as error:
                sent = getattr(error, "sent", 0) * (per_call // size)
                if error.errno not in offload.REFUSALS:
                    raise partial_send(error, sent) from None
            else:
                return
        try:
            await self._outbox.send(_cut(octets[sent * size :], size, name, request))
        except OSError as error:
            raise partial_send(error, sent + getattr(error, "sent", 0)) from None

    def _segments_in_kernel(self) -> bool:
        if self._can_segment is None:
            self._can_segment = offload.can_segment(self._socket)
        return self._can_segment


@final
class DatagramCodec:
    """Datagrams over UDP, or over raw IP, whose header is stripped.

    Args:
        tables: The connection's tables.
        outbox: Its sender takes values apart, and it completes requests.
        is_raw: Whether a header comes before the payload.
    """

    def __init__(self, tables: Tables, outbox: Outbox, *, is_raw: bool) -> None:
        self._tables: Final = tables
        self._outbox: Final = outbox
        self._is_raw: Final = is_raw
        self.facts = tables.facts
        self.header_room: Final = calls.HEADER_ROOM if is_raw else 0
        self._sizes: SegmentSizes | None = None
        self._make_recipe()

    def use_facts(self, facts: ControlFlags, /) -> None:
        self.facts = facts
        self._tables.use_facts(facts)
        self._make_recipe()

    @property
    def is_coalesced(self) -> bool:
        return self._sizes is not None

    def coalesce(self, *, on: bool) -> None:
        """Expect that the kernel hands over several datagrams as one, or that it does not."""
        self._sizes = SegmentSizes(self._tables.platform) if on else None
        self._make_recipe()

    def _make_recipe(self) -> None:
        controls = self._tables.controls
        recipe = calls.Recipe(_KIND, self._tables.peers, controls, controls.with_sender, self._sizes)
        self.recipe = None if self._is_raw else recipe  # There the payload is behind a header.

    def decode_whole(self, received: Received, /) -> list[Datagram] | None:
        if self._is_raw or received.flags is not None:
            return None
        # The way of nearly every datagram: nothing truncated, nothing to strip.
        tables = self._tables
        return list(map(make_datagram, received.payloads, tables.peers_of(received), tables.controls_of(received)))

    def decode(self, received: Received, /) -> Iterator[Datagram | Exception]:
        # Some of the columns have no end.
        for datagram, size in zip(self._decode_each(received), self._sizes_of(received)):  # noqa: B905
            if isinstance(datagram, Exception) or not 0 < size < len(datagram.payload):
                yield datagram
            else:
                # The parts of a coalesced datagram share peer and control message.
                parts = offload.split(datagram.payload, size)
                peer, control = itertools.repeat(datagram.peer), itertools.repeat(datagram.control)
                yield from map(make_datagram, parts, peer, control)

    def bounded(self, value: Datagram, max_bytes: int, /) -> Datagram:
        if len(value.payload) <= max_bytes:
            return value
        return make_datagram(value.payload[:max_bytes], value.peer, value.control, True)  # noqa: FBT003

    def encode(self, value: Datagram, /) -> tuple[bytes, bytes, bytes]:
        if not isinstance(value, Datagram):
            raise TypeError(f"pass a Datagram, not {value!r}: send_to(payload, endpoint) takes octets")
        control = value.control
        if self._outbox.complete is not None and ipaddress.IPv4Address(value.peer[0]).is_multicast:
            control = self._outbox.complete(control)
        return value.payload, self._tables.names[value.peer], self._tables.request(control)

    def encode_all(self, values: tuple[Datagram, ...], /) -> Columns:
        columns = None
        if self._outbox.complete is None:
            columns = self._outbox.sender.columns(values, _KIND, self._tables.names, self._tables.request)
        if columns is None:
            payloads, names, controls = zip(*map(self.encode, values), strict=True)  # It names the culprit.
            return payloads, names, controls
        return columns

    def _decode_each(self, received: Received) -> Iterator[Datagram | Exception]:
        peers, controls = self._tables.peers_of(received), self._tables.controls_of(received)
        flags = received.flags or itertools.repeat(0)
        for payload, peer, control, flag in zip(received.payloads, peers, controls, flags):  # noqa: B905
            if flag & calls.MSG_CTRUNC:
                yield control_lost()
                continue
            try:
                inside = payload[header_length(payload) :] if self._is_raw else payload
            except ParseError as error:
                yield error
            else:
                yield make_datagram(inside, peer, control, bool(flag & calls.MSG_TRUNC))

    def _sizes_of(self, received: Received) -> Iterable[int]:
        sizes, controls = self._sizes, received.controls
        if sizes is None:
            return itertools.repeat(0)
        return itertools.repeat(sizes[controls]) if isinstance(controls, bytes) else map(sizes.__getitem__, controls)


def _portions(payloads: tuple[bytes, ...], name: bytes, request: bytes) -> Iterator[Columns]:
    """Cut payloads that go to one destination into portions for one call each."""
    for start in range(0, len(payloads), calls.MAX_BATCH):
        portion = payloads[start : start + calls.MAX_BATCH]
        yield portion, [name] * len(portion), [request] * len(portion)


def _cut(octets: bytes, size: int, name: bytes, request: bytes, most: int = calls.MAX_BATCH) -> Iterator[Columns]:
    """Cut octets into datagrams of `size`, the last one shorter if need be, in portions of `most`.

    Of nothing, one empty datagram is made.
    """
    portion = size * most
    for start in range(0, len(octets) or 1, portion):
        here = range(start, min(start + portion, len(octets)) or 1, size)
        payloads = [octets[at : min(at + size, len(octets))] for at in here]
        yield payloads, [name] * len(payloads), [request] * len(payloads)
