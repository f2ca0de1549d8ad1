"""Get and set options by name. A refusal keeps its errno, and gets a message that helps."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._abi.platform import Layout
from trio_ipv4._kernel.explain import explain

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Option
    from trio_ipv4._kernel.system import Socket


LACKING: Final = (errno.ENOPROTOOPT, errno.EOPNOTSUPP)
"""Errnos of a kernel, or a sandbox, that lacks an option."""
_DROPS: Final = 8
"""SK_MEMINFO_DROPS, linux/sock_diag.h."""


def set_buffer_size(socket: Socket, name: str, size: int) -> int:
    """Set the size of a buffer in octets, and return the size that the kernel granted.

    Where a sysctl allows less, a privileged option is tried (socket(7): SO_RCVBUFFORCE, SO_SNDBUFFORCE).
    """
    set_integer(socket, name, size)
    granted = _granted(socket, name)
    if granted < size and has_option(socket, f"{name}FORCE"):
        with contextlib.suppress(OSError):
            set_integer(socket, f"{name}FORCE", size)
            granted = _granted(socket, name)
    return granted


def set_integer(socket: Socket, name: str, value: int) -> None:
    """Set an integer option; a truth value is 0 or 1."""
    platform = socket.system.platform
    option = platform.option(name)
    try:
        socket.setsockopt(option.level, option.name, int(value).to_bytes(_width(option), platform.byte_order))
    except OSError as error:
        raise explain(error, "option", f"set {name} to {int(value)}", socket) from None


def get_integer(socket: Socket, name: str) -> int:
    """Get an integer option."""
    platform = socket.system.platform
    option = platform.option(name)
    try:
        octets = socket.getsockopt(option.level, option.name, bytes(_width(option)))
    except OSError as error:
        raise explain(error, "option", f"get {name}", socket) from None
    return int.from_bytes(octets, platform.byte_order, signed=len(octets) > 1)


def find_integer(socket: Socket, name: str) -> int | None:
    """Get an integer option; `None` if this platform or this socket does not have it."""
    if not has_option(socket, name):
        return None
    try:
        return get_integer(socket, name)
    except OSError:
        return None


def set_bytes(socket: Socket, name: str, value: bytes) -> None:
    """Set an option whose value is a structure. The error is the kernel's own: the caller knows the attempt."""
    option = socket.system.platform.option(name)
    socket.setsockopt(option.level, option.name, value)


def get_bytes(socket: Socket, name: str, size: int) -> bytes:
    """Get an option whose value is a structure of at most `size` octets. The error is the kernel's own."""
    option = socket.system.platform.option(name)
    return socket.getsockopt(option.level, option.name, bytes(size))


def get_drops(socket: Socket) -> int:
    """Get the number of datagrams that a socket has dropped (SO_MEMINFO: SK_MEMINFO_DROPS, linux/sock_diag.h)."""
    try:
        counters = get_bytes(socket, "SO_MEMINFO", 4 * (_DROPS + 1))
    except OSError as error:
        raise explain(error, "option", "get SO_MEMINFO", socket) from None
    return int.from_bytes(counters[4 * _DROPS : 4 * (_DROPS + 1)], socket.system.platform.byte_order)


def has_option(socket: Socket, name: str) -> bool:
    """Tell whether a socket's platform has an option."""
    return name in socket.system.platform.options


def set_multicast_interface(socket: Socket, index: int, address: bytes) -> None:
    """Set the interface for outgoing multicast by index; 0 lets the routes choose.

    With an address as well, that becomes the source, also of datagrams that a control message sends to another
    interface. So only loopback gets one, where the source would be 0.0.0.0 without it.
    """
    value = structs.ip_mreqn(socket.system.platform, structs.ANY, address, index)
    try:
        set_bytes(socket, "IP_MULTICAST_IF", value)
    except OSError as error:
        attempt = f"set IP_MULTICAST_IF to the interface with index {index}"
        raise explain(error, "multicast interface", attempt, socket) from None


def get_multicast_interface_address(socket: Socket) -> bytes:
    """Return the kernel's answer for IP_MULTICAST_IF: an address, 0.0.0.0 after setting by index alone."""
    return get_bytes(socket, "IP_MULTICAST_IF", 4)


def _granted(socket: Socket, name: str) -> int:
    got = get_integer(socket, name)
    return got // 2 if socket.system.platform.option(name).layout is Layout.DOUBLED else got


def _width(option: Option) -> int:
    return 1 if option.layout is Layout.OCTET else 4
