"""RawConn: IP headers and payloads in and out, with their control messages."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, final

from trio_ipv4._abi import structs
from trio_ipv4._conn.traffic import DatagramConn, control_lost, header_length
from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import calls, options
from trio_ipv4._values.datagram import RawDatagram
from trio_ipv4._values.header import Header, from_kernel_order, to_kernel_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Received


@final
class RawConn(DatagramConn[RawDatagram]):
    """Send and receive IP packets with their headers (IP_HDRINCL; raw(7)).

    It is a `trio.abc.Channel` of `RawDatagram`. Turns, closing, memberships and errors are as for `PacketConn`.
    `max_bytes` bounds the payload: there is always room for the header. Of UDP and TCP, Linux may hand over several
    segments as one packet, longer than the MTU, and checksums that are unfinished.

    What is sent has the TTL and the TOS of its header: `ttl`, `multicast_ttl` and `tos` have no say, and in a control
    message they are a `ValueError`. Linux does not fragment it: more than the MTU is an `OSError`, EMSGSIZE.

    Args:
        socket: A trio socket of AF_INET and SOCK_RAW. IP_HDRINCL is set; no other option is changed.

    Raises:
        TypeError: Anything else, a socket of the standard library included.
    """

    _kinds = (structs.SOCK_RAW,)
    _kind_names = "SOCK_RAW"

    def __init__(self, socket: trio.socket.SocketType) -> None:
        super().__init__(socket)
        options.set_integer(self._socket, "IP_HDRINCL", 1)

    def _decode(self, received: Received) -> Iterator[RawDatagram | Exception]:
        flags = received.flags or itertools.repeat(0)
        for packet, control, flag in zip(received.payloads, self._controls_of(received), flags):  # noqa: B905
            if flag & calls.MSG_CTRUNC:
                yield control_lost()
                continue
            try:
                header, payload = _parse(self._platform, packet)
            except ParseError as error:
                yield error
            else:
                yield RawDatagram(header, payload, control=control, truncated=bool(flag & calls.MSG_TRUNC))

    def _bounded(self, value: RawDatagram, max_bytes: int) -> RawDatagram:
        if len(value.payload) <= max_bytes:
            return value
        return RawDatagram(value.header, value.payload[:max_bytes], control=value.control, truncated=True)

    def _encode(self, value: RawDatagram) -> tuple[bytes, bytes, bytes]:
        if not isinstance(value, RawDatagram):
            raise TypeError(f"pass a RawDatagram, not {value!r}: RawDatagram(header, payload)")
        control = value.control
        if control.ttl is not None or control.tos is not None:
            raise ValueError(f"control must have no ttl and no tos when the header is sent too, got {control}")
        header = value.header.marshal()
        platform = self._platform
        if platform.header_in_host_order:
            header = to_kernel_order(header, platform.byte_order)
        name = structs.sockaddr_in(platform, value.header.dst.packed, 0)
        return header + value.payload, name, self._request(control)


def _parse(platform: Platform, packet: bytes) -> tuple[Header, bytes]:
    start = header_length(packet)
    if platform.header_in_host_order:
        excludes = platform.length_excludes_header
        packet = from_kernel_order(packet, platform.byte_order, length_excludes_header=excludes)
    return Header.parse(packet), packet[start:]
