"""The calls of `batch` where recvmmsg and sendmmsg are missing: one datagram at a time."""

from __future__ import annotations

import contextlib
import ipaddress
import socket as stdlib_socket
from typing import TYPE_CHECKING

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator


def receive(descriptor: int, max_bytes: int, control_size: int) -> tuple[bytes, bytes, bytes, bool, bool] | None:
    """Receive one datagram: payload, `struct sockaddr_in`, control messages, and whether either was truncated."""
    with _borrowed(descriptor) as socket:
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
    messages = [record[1:] for record in structs.iterate_cmsgs(this_platform(), control)]
    with _borrowed(descriptor) as socket:
        socket.sendmsg([payload], messages, 0, (str(ipaddress.IPv4Address(address)), port))


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[stdlib_socket.socket]:
    """Look at a descriptor as a socket of the standard library, and give it back without closing it."""
    if not hasattr(stdlib_socket.socket, "recvmsg"):  # pragma: no cover  # Windows.
        raise UnsupportedError("recvmsg", this_platform().name)
    socket = stdlib_socket.socket(fileno=descriptor)
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only. A program may have set a default timeout.
        yield socket
    finally:
        socket.detach()
