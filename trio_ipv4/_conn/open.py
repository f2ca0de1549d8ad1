"""The ways in: open_udp, open_ip, open_raw, and open_unprivileged_icmp.

They are synchronous, since binding to a numeric address can't block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from trio_ipv4._abi.structs import IPPROTO_ICMP, SOCK_DGRAM, SOCK_RAW
from trio_ipv4._conn import switches
from trio_ipv4._conn.packet import PacketConn
from trio_ipv4._conn.raw import RawConn
from trio_ipv4._kernel import sockets
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.control import DEFAULT_FLAGS, ControlFlags
from trio_ipv4._values.fields import UNSPECIFIED, to_address, to_bool, to_integer

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.sockets import SocketOption
    from trio_ipv4._kernel.system import Socket, System
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike

ConnT = TypeVar("ConnT", PacketConn, RawConn)


def open_udp(
    address: AddressLike = "0.0.0.0",
    port: int = 0,
    *,
    share_port: bool = False,
    bind_group: bool = False,
    interface: InterfaceLike = None,
    multicast_all: bool = False,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    options: Iterable[SocketOption] = (),
) -> PacketConn:
    """Open a UDP connection, bound to `address` and `port`. Not a checkpoint. It may send to broadcast (SO_BROADCAST).

    Args:
        address: A local address. A multicast one, such as `"224.0.0.0"`, listens on all addresses with a shared port,
            as Go's `net.ListenPacket` does; with `bind_group`, on the group itself.
        port: 0 lets the kernel choose.
        share_port: Let several sockets that all do so have the port, by SO_REUSEADDR; beside a socket that has
            SO_REUSEPORT alone, by that too. A group then reaches each socket that joined it, and
            broadcast each of them. Unicast reaches one: Linux prefers one that is bound to the address or the device. A
            program that sets SO_REUSEPORT alone can bind only before this one.
        bind_group: Bind to the group that `address` names, so that nothing else is heard, unicast included.
        interface: The interface to which to bind the socket (SO_BINDTOIFINDEX, Linux): it hears only datagrams that
            arrive there, and sends there. It is the `multicast_interface`, too. By default any. It needs no privilege;
            before Linux 5.7, CAP_NET_RAW.
        multicast_all: Whether to hear groups that other sockets of this host joined. By default, of groups only what
            this socket joined arrives, 224.0.0.1 included (IP_MULTICAST_ALL, Linux; ignored where the option doesn't
            exist).
        control_flags: The facts to receive with each datagram, from the first on; only the first timestamps may be the
            time of reading. The default has the facts that `Datagram.reply` needs.
        options: Further options to set before binding: triples of level, name and value as for setsockopt(2), such as
            `(SOL_SOCKET, SO_PRIORITY, 6)`. An integer is passed as a C int, octets as they are.

    Raises:
        OSError: EADDRINUSE, EADDRNOTAVAIL, EMFILE. ENODEV: there is no such interface. EACCES: a port below sysctl
            net.ipv4.ip_unprivileged_port_start (1024) without CAP_NET_BIND_SERVICE.
        UnsupportedError: The platform has no such fact, or is none of Linux and macOS.
        ValueError: A host name; a port out of range; `bind_group` with an address that is not multicast.
    """
    local = to_address(address, "address")
    if to_bool(bind_group, "bind_group") and not local.is_multicast:
        raise ValueError(f"address must be multicast with bind_group=True, got {local}")
    shared = to_bool(share_port, "share_port") or local.is_multicast
    system = current_system()
    settings = [("SO_BROADCAST", 1), *_settings_for(system.platform, multicast_all, control_flags)]
    bound = UNSPECIFIED if local.is_multicast and not bind_group else local
    number = to_integer(port, "port", 0, 0xFFFF)
    bare = _to_options(options)
    socket = sockets.open_socket(
        system, SOCK_DGRAM, 0, bound, number, settings, share_port=shared, interface=interface, options=bare
    )
    return _own(PacketConn, socket, control_flags, interface)


def open_ip(
    protocol: int,
    address: AddressLike = "0.0.0.0",
    *,
    interface: InterfaceLike = None,
    multicast_all: bool = False,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    options: Iterable[SocketOption] = (),
) -> PacketConn:
    """Open a connection over raw IP that sends and receives the payload of IP packets. Not a checkpoint.

    The kernel makes the header when sending, and it is stripped when receiving. The port of a peer is 0.

    Args:
        protocol: The IP protocol's number, 1 to 255 (IANA's registry), such as 1 for ICMP. 255 is one like any other
            here, although as IPPROTO_RAW it means IP_HDRINCL to the kernel otherwise (raw(7)).
        address: A local address, or a group. With another than 0.0.0.0, only packets to that address are received,
            except in the moment before the socket is bound.
        interface: As for `open_udp`.
        multicast_all: As for `open_udp`.
        control_flags: As for `open_udp`.
        options: As for `open_udp`.

    Raises:
        PermissionError: The process lacks CAP_NET_RAW.
        OSError: EADDRNOTAVAIL, EMFILE. ENODEV: there is no such interface.
        UnsupportedError: As for `open_udp`.
        ValueError: A host name; `protocol` is out of range.
    """
    # A raw socket begins with 0, unless its protocol is IPPROTO_RAW (raw(7)).
    return _open_raw(PacketConn, 0, protocol, address, interface, multicast_all, control_flags, options)


def open_raw(
    protocol: int,
    address: AddressLike = "0.0.0.0",
    *,
    interface: InterfaceLike = None,
    multicast_all: bool = False,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    options: Iterable[SocketOption] = (),
) -> RawConn:
    """Open a connection over raw IP that sends and receives headers too (IP_HDRINCL; raw(7)). Not a checkpoint.

    Args:
        protocol: The IP protocol's number, 1 to 255. A packet that is sent has the protocol of its header.
        address: As for `open_ip`.
        interface: As for `open_udp`.
        multicast_all: As for `open_udp`.
        control_flags: As for `open_udp`.
        options: As for `open_udp`.

    Raises:
        PermissionError: The process lacks CAP_NET_RAW.
        OSError: EADDRNOTAVAIL, EMFILE. ENODEV: there is no such interface.
        UnsupportedError: As for `open_udp`.
        ValueError: A host name; `protocol` is out of range.
    """
    return _open_raw(RawConn, 1, protocol, address, interface, multicast_all, control_flags, options)


def open_unprivileged_icmp(
    address: AddressLike = "0.0.0.0",
    identifier: int = 0,
    *,
    interface: InterfaceLike = None,
    control_flags: ControlFlags = DEFAULT_FLAGS,
    options: Iterable[SocketOption] = (),
) -> PacketConn:
    """Open a connection that sends ICMP echo requests and receives the replies, without privilege. Not a checkpoint.

    Payloads are ICMP messages (`ICMPEcho`), without the IP header. The kernel writes the identifier and the checksum,
    and hands over only the replies to this identifier (icmp(7), "ping socket"). The port of a peer is 0. ICMP errors
    come by `receive_error`, after `report_errors = True`. Linux.

    Args:
        address: A local address.
        identifier: The identifier of the requests, 0 to 65535; 0 lets the kernel choose. It is the port of
            `local_endpoint`.
        interface: As for `open_udp`.
        control_flags: As for `open_udp`.
        options: As for `open_udp`.

    Raises:
        PermissionError: The group of the process is not within sysctl net.ipv4.ping_group_range. The kernel's default,
            "1 0", lets nobody, root included; many distributions let everybody.
        OSError: EADDRINUSE: another socket has the identifier. EADDRNOTAVAIL, EMFILE. ENODEV: there is no such
            interface.
        UnsupportedError: As for `open_udp`.
        ValueError: A host name; `identifier` is out of range.
    """
    local, number = to_address(address, "address"), to_integer(identifier, "identifier", 0, 0xFFFF)
    system, bare = current_system(), _to_options(options)
    # Linux lets ping sockets share an identifier unless told otherwise. Then one has the replies to the other.
    settings = [("SO_REUSEADDR", 0), *_settings_of(control_flags)]
    socket = sockets.open_socket(
        system, SOCK_DGRAM, IPPROTO_ICMP, local, number, settings, interface=interface, options=bare
    )
    return _own(PacketConn, socket, control_flags, interface)


def _own(kind: type[ConnT], socket: Socket, control_flags: ControlFlags, interface: InterfaceLike = None) -> ConnT:
    """Make a connection of a socket that was opened with `_settings_for(control_flags)`; close it if that fails.

    If it is bound to an interface, multicast leaves there, from the address by which that was named, if it was.
    """
    try:
        conn = kind._of_new_socket(socket, control_flags)
        if interface is not None:
            conn.multicast_interface = interface
    except BaseException:
        socket.close()
        raise
    return conn


def _open_raw(
    kind: type[ConnT],
    includes_header: int,
    protocol: int,
    address: AddressLike,
    interface: InterfaceLike,
    multicast_all: bool,
    control_flags: ControlFlags,
    options: Iterable[SocketOption],
) -> ConnT:
    number, local, bare = to_integer(protocol, "protocol", 1, 255), to_address(address, "address"), _to_options(options)
    system: System = current_system()
    settings = [("IP_HDRINCL", includes_header), *_settings_for(system.platform, multicast_all, control_flags)]
    socket = sockets.open_socket(system, SOCK_RAW, number, local, 0, settings, interface=interface, options=bare)
    return _own(kind, socket, control_flags, interface)


def _to_options(options: Iterable[SocketOption]) -> list[SocketOption]:
    """Check options before anything is opened."""
    given: object = options
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise TypeError(f"options must be triples of level, name and value, got {given!r}")
    return [_to_option(option) for option in options]


def _to_option(option: object) -> SocketOption:
    if not isinstance(option, tuple) or len(option) != 3:
        raise TypeError(f"an option must be a triple of level, name and value, got {option!r}")
    level, name, value = option
    octets = value if isinstance(value, bytes) else to_integer(value, "an option's value", -(2**31), 2**31 - 1)
    return (
        to_integer(level, "an option's level", 0, 2**31 - 1),
        to_integer(name, "an option's name", 0, 2**31 - 1),
        octets,
    )


def _settings_for(platform: Platform, multicast_all: bool, control_flags: ControlFlags) -> list[tuple[str, int]]:
    """Return the options that every way in sets."""
    settings = _settings_of(control_flags)
    if "IP_MULTICAST_ALL" in platform.options:
        settings.append(("IP_MULTICAST_ALL", int(to_bool(multicast_all, "multicast_all"))))
    return settings


def _settings_of(control_flags: ControlFlags) -> list[tuple[str, int]]:
    """Return the options that switch facts on, on a new socket."""
    return [(name, value) for name, value in switches.settings(switches.to_flags(control_flags)) if value]
