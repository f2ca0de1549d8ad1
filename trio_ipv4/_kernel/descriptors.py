"""Sockets that are known by their descriptors alone."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import TYPE_CHECKING

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


def close_descriptor(descriptor: int) -> None:
    """Close a socket by its descriptor, without trio's help."""
    stdlib_socket.close(descriptor)
