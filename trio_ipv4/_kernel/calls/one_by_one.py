"""One datagram at a time, where recvmmsg(2) and sendmmsg(2) are missing: recvmsg(2) and sendmsg(2)."""

from __future__ import annotations

import ipaddress
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, Final, final

from trio_ipv4._abi import structs
from trio_ipv4._errors import UnsupportedError
from trio_ipv4._kernel.calls import CONTROL_SIZE, MAX_BATCH, MSG_CTRUNC, MSG_TRUNC, Received
from trio_ipv4._kernel.calls.columns import take_apart
from trio_ipv4._kernel.descriptors import borrowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Receiver, Recipe, Sender


@final
class OneByOne:
    """The calls by Python's own `socket`."""

    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform

    def receiver(self) -> Receiver:
        return _Receiver(self._platform)

    def sender(self) -> Sender:
        return _Sender(self._platform)


@final
class _Receiver:
    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform

    def receive(
        self, descriptor: int, limit: int, max_bytes: int, _recipe: Recipe | None = None, /
    ) -> list[Any] | Received | None:
        rows: list[tuple[bytes, bytes, bytes, int]] = []
        while len(rows) < min(limit, MAX_BATCH):
            try:
                row = self._receive_one(descriptor, max_bytes)
            except OSError:
                # Datagrams that were taken already go first. A pending error is told once, so it is lost then, as with
                # recvmmsg(2).
                if not rows:
                    raise
                break
            if row is None:
                break
            rows.append(row)
        if not rows:
            return None
        payloads, names, controls, flags = zip(*rows, strict=True)
        return Received(payloads, names, controls, flags if any(flags) else None)

    def _receive_one(self, descriptor: int, max_bytes: int) -> tuple[bytes, bytes, bytes, int] | None:
        """Receive payload, `struct sockaddr_in`, control messages, and whether either was truncated."""
        platform = self._platform
        _require_recvmsg(platform)
        with borrowed(descriptor) as socket:
            try:
                payload, ancillary, flags, name = socket.recvmsg(max_bytes, CONTROL_SIZE)
            except BlockingIOError:
                return None
        control = b"".join(structs.cmsg(platform, level, kind, data) for level, kind, data in ancillary)
        packed = structs.sockaddr_in(platform, ipaddress.IPv4Address(name[0]).packed, name[1])
        # Python's flags are the platform's, which are others on Darwin.
        truncated = MSG_TRUNC * bool(flags & stdlib_socket.MSG_TRUNC)
        return payload, packed, control, truncated | MSG_CTRUNC * bool(flags & stdlib_socket.MSG_CTRUNC)


@final
class _Sender:
    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform
        self.columns = take_apart

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]:
        for sent, datagram in enumerate(zip(payloads, names, controls, strict=True)):
            try:
                self._send_one(descriptor, *datagram)
            except OSError as error:
                return sent, error
        return len(payloads), None

    def _send_one(self, descriptor: int, payload: bytes, name: bytes, control: bytes) -> None:
        address, port = structs.parse_sockaddr_in(name)
        _require_recvmsg(self._platform)
        messages = [record[1:] for record in structs.iterate_cmsgs(self._platform, control)]
        with borrowed(descriptor) as socket:
            socket.sendmsg([payload], messages, 0, (str(ipaddress.IPv4Address(address)), port))


def _require_recvmsg(platform: Platform) -> None:
    if not hasattr(stdlib_socket.socket, "recvmsg"):  # pragma: no cover  # Windows.
        raise UnsupportedError("recvmsg", platform.name)
