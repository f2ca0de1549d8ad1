"""The calls of `batch` where recvmmsg and sendmmsg are missing: one datagram at a time."""

from __future__ import annotations

import ipaddress
import socket as stdlib_socket

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._errors import UnsupportedError
from trio_ipv4._kernel.sockets import borrowed


def receive(descriptor: int, max_bytes: int, control_size: int) -> tuple[bytes, bytes, bytes, bool, bool] | None:
    """Receive one datagram: payload, `struct sockaddr_in`, control messages, and whether either was truncated."""
    _require_recvmsg()
    with borrowed(descriptor) as socket:
        try:
            payload, ancillary, flags, name = socket.recvmsg(max_bytes, control_size)
        except BlockingIOError:
            return None
    platform = this_platform()
    control = b"".join(structs.cmsg(platform, level, kind, data) for level, kind, data in ancillary)
    packed = structs.sockaddr_in(platform, ipaddress.IPv4Address(name[0]).packed, name[1])
    truncated = bool(flags & stdlib_socket.MSG_TRUNC)
    return payload, packed, control, truncated, bool(flags & stdlib_socket.MSG_CTRUNC)


def send(descriptor: int, payload: bytes, name: bytes, control: bytes) -> None:
    """Send one datagram; the errors are the kernel's own, a full buffer included."""
    address, port = structs.parse_sockaddr_in(name)
    _require_recvmsg()
    messages = [record[1:] for record in structs.iterate_cmsgs(this_platform(), control)]
    with borrowed(descriptor) as socket:
        socket.sendmsg([payload], messages, 0, (str(ipaddress.IPv4Address(address)), port))


def _require_recvmsg() -> None:
    if not hasattr(stdlib_socket.socket, "recvmsg"):  # pragma: no cover  # Windows.
        raise UnsupportedError("recvmsg", this_platform().name)
