"""RawConn: IP headers and payloads in and out, with their control messages."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._abi import structs
from trio_ipv4._conn.caches import Tables
from trio_ipv4._conn.codec import control_lost, header_length
from trio_ipv4._conn.inbox import Inbox
from trio_ipv4._conn.memberships import Memberships
from trio_ipv4._conn.options import SocketOptions
from trio_ipv4._conn.outbox import Outbox
from trio_ipv4._conn.reports import ErrorReports
from trio_ipv4._conn.switches import switched_on
from trio_ipv4._conn.traffic import Traffic
from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import bpf, calls, options
from trio_ipv4._values.datagram import RawDatagram
from trio_ipv4._values.header import Header, from_kernel_order, to_kernel_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Columns, Received
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.bpf import RawInstruction
    from trio_ipv4._values.control import ControlFlags


@final
class RawConn(SocketOptions, Memberships, ErrorReports, Traffic[RawDatagram]):
    """Send and receive IP packets with their headers (IP_HDRINCL; raw(7)).

    It is a `trio.abc.Channel` of `RawDatagram`. Turns, closing, memberships and errors are as for `PacketConn`.
    `max_bytes` bounds the payload: there is always room for the header. Of UDP and TCP, Linux may hand over several
    segments as one packet, longer than the MTU, and checksums that are unfinished.

    When sending, TTL and TOS come from the header. The properties `ttl`, `multicast_ttl` and `tos` have no effect. In a
    control message these fields are a `ValueError`. Linux does not fragment: more than the MTU is an `OSError`
    (EMSGSIZE).

    Args:
        socket: A trio socket of AF_INET and SOCK_RAW. IP_HDRINCL is set; no other option is changed.

    Raises:
        TypeError: Anything else, a socket of the standard library included.
    """

    _kinds = (structs.SOCK_RAW,)
    _kind_names = "SOCK_RAW"

    def _compose(self, facts: ControlFlags | None) -> None:
        socket = self._socket
        if facts is None:
            options.set_integer(socket, "IP_HDRINCL", 1)  # On a new socket, `open_raw` has done that.
        self._outbox = Outbox(socket, self._owned)
        tables = Tables(socket.system.platform, switched_on(socket) if facts is None else facts)
        self._codec = PacketCodec(tables, self._outbox)
        self._inbox = Inbox(socket, self._codec, self._owned.errors, self._ledger.warn_of_forgotten)
        self._bpf = _Programs(socket)


@final
class PacketCodec:
    """IP packets: header and payload. Arguments as for `DatagramCodec`."""

    def __init__(self, tables: Tables, outbox: Outbox) -> None:
        self._tables: Final = tables
        self.facts = tables.facts
        self.header_room: Final = calls.HEADER_ROOM
        self.recipe: Final = None
        self.is_coalesced: Final = False
        self._outbox: Final = outbox

    def use_facts(self, facts: ControlFlags, /) -> None:
        self.facts = facts
        self._tables.use_facts(facts)

    def decode_whole(self, _received: Received, /) -> list[RawDatagram] | None:
        return None

    def decode(self, received: Received, /) -> Iterator[RawDatagram | Exception]:
        platform, controls = self._tables.platform, self._tables.controls_of(received)
        flags = received.flags or itertools.repeat(0)
        for packet, control, flag in zip(received.payloads, controls, flags):  # noqa: B905  # May have no end.
            if flag & calls.MSG_CTRUNC:
                yield control_lost()
                continue
            try:
                header, payload = _parse(platform, packet)
            except ParseError as error:
                yield error
            else:
                yield RawDatagram(header, payload, control=control, truncated=bool(flag & calls.MSG_TRUNC))

    def bounded(self, value: RawDatagram, max_bytes: int, /) -> RawDatagram:
        if len(value.payload) <= max_bytes:
            return value
        return RawDatagram(value.header, value.payload[:max_bytes], control=value.control, truncated=True)

    def encode(self, value: RawDatagram, /) -> tuple[bytes, bytes, bytes]:
        if not isinstance(value, RawDatagram):
            raise TypeError(f"pass a RawDatagram, not {value!r}: RawDatagram(header, payload)")
        control = value.control
        if control.ttl is not None or control.tos is not None:
            raise ValueError(f"control must have no ttl and no tos when the header is sent too, got {control}")
        header, platform = value.header.marshal(), self._tables.platform
        if platform.header_in_host_order:
            header = to_kernel_order(header, platform.byte_order)
        name = structs.sockaddr_in(platform, value.header.dst.packed, 0)
        if self._outbox.complete is not None and value.header.dst.is_multicast:
            control = self._outbox.complete(control)
        return header + value.payload, name, self._tables.request(control)

    def encode_all(self, values: tuple[RawDatagram, ...], /) -> Columns:
        payloads, names, controls = zip(*map(self.encode, values), strict=True)
        return payloads, names, controls


@final
class _Programs:
    """BPF programs on a raw socket."""

    def __init__(self, socket: Socket) -> None:
        self._socket: Final = socket

    def attach(self, program: tuple[RawInstruction, ...], /) -> None:
        bpf.attach_filter(self._socket, program)

    def detach(self) -> None:
        bpf.detach_filter(self._socket)


def _parse(platform: Platform, packet: bytes) -> tuple[Header, bytes]:
    start = header_length(packet)
    if platform.header_in_host_order:
        excludes = platform.length_excludes_header
        packet = from_kernel_order(packet, platform.byte_order, length_excludes_header=excludes)
    return Header.parse(packet), packet[start:]
