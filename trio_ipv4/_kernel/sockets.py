"""Make and bind sockets. Binding to a numeric address can't block."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeAlias

from trio_ipv4._abi.structs import AF_INET, IPPROTO_ICMP, SOCK_RAW
from trio_ipv4._kernel import lookup
from trio_ipv4._kernel.explain import explain, refusal
from trio_ipv4._kernel.options import LACKING, set_integer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._errors import Topic
    from trio_ipv4._kernel.system import Socket, System
    from trio_ipv4._values.interface import InterfaceLike

SocketOption: TypeAlias = "tuple[int, int, int | bytes]"
"""Level, name and value of an option, as for setsockopt(2). An integer is a C int."""


def open_socket(
    system: System,
    kind: int,
    protocol: int,
    address: IPv4Address,
    port: int,
    settings: Iterable[tuple[str, int]],
    *,
    share_port: bool = False,
    interface: InterfaceLike = None,
    options: Iterable[SocketOption] = (),
) -> Socket:
    """Make a socket, set its options, and bind it: in that order, so that nothing is queued without them.

    Args:
        system: The system to which it will belong.
        kind: SOCK_DGRAM or SOCK_RAW.
        protocol: The IP protocol's number; over SOCK_DGRAM, 0 for UDP, or ICMP's.
        address: The local address; 0.0.0.0 for all.
        port: The local port; 0 lets the kernel choose, and is the only one for SOCK_RAW.
        settings: Names of options of this platform, and their values.
        share_port: Whether other sockets may have the port too.
        interface: The device to bind to (SO_BINDTOIFINDEX), before the address.
        options: Options as level, name and value, which are set before binding.

    Raises:
        OSError: The kernel refused; nothing is left open.
    """
    topic: Topic = "make udp"
    what = "a UDP socket"
    if kind == SOCK_RAW:
        topic, what = "make raw", f"a raw socket for protocol {protocol}"
    elif protocol == IPPROTO_ICMP:
        topic, what = "make icmp", "an unprivileged ICMP socket"
    try:
        socket = system.socket(AF_INET, kind, protocol)
    except OSError as error:
        raise explain(error, topic, f"make {what}") from None
    try:
        if interface is not None:
            _bind_to_interface(socket, interface)
        for name, value in settings:
            _set(socket, name, value)
        for option in options:
            _set_bare(socket, *option)
        try:
            if share_port:
                _bind_shared(socket, (str(address), port))
            else:
                socket.bind((str(address), port))
        except OSError as error:
            topic = _bind_topic(socket, port, error, share_port=share_port, is_raw=kind == SOCK_RAW)
            raise explain(error, topic, f"bind {what} to {address}, port {port}", socket) from None
    except BaseException:
        socket.close()
        raise
    return socket


def _bind_to_interface(socket: Socket, interface: InterfaceLike) -> None:
    index = lookup.resolve(socket, interface)
    assert index is not None
    if not lookup.exists(socket, index):  # The kernel takes any number.
        raise refusal(errno.ENODEV, "interface", f"bind to the interface with index {index}")
    set_integer(socket, "SO_BINDTOIFINDEX", index)


def _set_bare(socket: Socket, level: int, name: int, value: int | bytes) -> None:
    byte_order = socket.system.platform.byte_order
    octets = value.to_bytes(4, byte_order, signed=value < 0) if isinstance(value, int) else value
    try:
        socket.setsockopt(level, name, octets)
    except OSError as error:
        raise explain(error, "option", f"set the option {name} of level {level} to {value!r}", socket) from None


def _set(socket: Socket, name: str, value: int) -> None:
    try:
        set_integer(socket, name, value)
    except OSError as error:
        # Some sandboxes (gVisor) lack this one. Then more is heard than was joined, as on platforms without it.
        if name != "IP_MULTICAST_ALL" or error.errno not in LACKING:
            raise


def _bind_topic(socket: Socket, port: int, error: OSError, *, share_port: bool, is_raw: bool) -> Topic:
    """Return the topic of `ADVICE` for the arguments."""
    if error.errno == errno.EACCES:
        lowest = socket.system.sysctl("net.ipv4.ip_unprivileged_port_start") or "1024"
        return "bind low" if 0 < port < int(lowest) else "bind"
    if port == 0 and not is_raw:
        return "bind any"
    return "bind shared" if share_port else "bind"


def _bind_shared(socket: Socket, endpoint: tuple[str, int]) -> None:
    """Bind to a port that others have, or may have, too. A port that the kernel is to choose is one that nobody has.

    SO_REUSEADDR binds beside those that set it, with or without SO_REUSEPORT. Beside one that sets SO_REUSEPORT alone,
    only that will do, and it is set only then: of sockets of one user that have it, Linux picks one by a hash when
    exactly one of them has joined the group of a datagram, and not always that one. Early demultiplexing finds the
    member, and `inet_steal_sock` (include/net/inet_hashtables.h) then takes it for a socket that a BPF program chose,
    which SO_REUSEPORT may overrule.
    """
    if endpoint[1] == 0:
        # With SO_REUSEADDR the kernel could choose a port that another such socket has.
        socket.bind(endpoint)
        set_integer(socket, "SO_REUSEADDR", 1)
        return
    set_integer(socket, "SO_REUSEADDR", 1)
    try:
        socket.bind(endpoint)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        set_integer(socket, "SO_REUSEPORT", 1)
        socket.bind(endpoint)
