"""Sockets that are known by their descriptors alone."""

from __future__ import annotations

import contextlib
import select
import socket as stdlib_socket
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[stdlib_socket.socket]:
    """Look at a descriptor as a socket of the standard library, and give it back without closing it."""
    socket = stdlib_socket.socket(fileno=descriptor)
    try:
        socket.setblocking(False)  # noqa: FBT003  # Positional only. A program may have set a default timeout.
        yield socket
    finally:
        socket.detach()


@final
class ErrorWatch:
    """A descriptor that can be read while a socket has an error, and not because of datagrams (epoll(7); Linux).

    A socket itself can be read in both cases, so a task that waits for errors alone would wake for each datagram.
    """

    def __init__(self, descriptor: int) -> None:
        self._epoll: Final = select.epoll()
        # EPOLLERR is told unasked.
        self._epoll.register(descriptor, 0)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()


def close_descriptor(descriptor: int) -> None:
    """Close a socket by its descriptor, without trio's help."""
    stdlib_socket.close(descriptor)
