"""Socket options of UDP, raw and ping sockets, as linux net/ipv4/ip_sockglue.c and net/core/sock.c have them.

One row for each: a switch is on or off and needs no function; the others have one that sets, or gets, or both.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4.testing._simulation import path_mtu, stamps
from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE, LINUX
from trio_ipv4.testing._simulation.packets import ANY, ICMP, is_group
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4.testing._simulation.internet import InternetSocket

_NAMES: Final = {(option.level, option.name): name for name, option in LINUX.options.items()}
_SOL_SOCKET: Final = 1
_MIN_BUFFER: Final = 2304
"""SOCK_MIN_RCVBUF, include/net/sock.h; twice that for sending."""
_GROUP_FILTER: Final = structs.group_filter_size(LINUX, 0)
_SWITCHES: Final = (
    *("IP_PKTINFO", "IP_RECVTTL", "IP_RECVTOS", "IP_MULTICAST_LOOP", "IP_RECVERR"),
    *("SO_REUSEADDR", "SO_REUSEPORT", "SO_BROADCAST", "SO_TIMESTAMPNS", "SO_RXQ_OVFL"),
)
DEFAULTS: Final = dict.fromkeys(_SWITCHES, 0) | {
    "IP_TOS": 0,
    "IP_TTL": 0,  # The sysctl's.
    "IP_MULTICAST_TTL": 1,
    "IP_MULTICAST_LOOP": 1,
    "IP_MULTICAST_ALL": 1,
    "IP_HDRINCL": 0,
    "IP_RECVERR_RFC4884": 0,
    "IP_MTU_DISCOVER": path_mtu.WANT,
    "IP_MINTTL": 0,  # Obeyed by TCP alone.
    "SO_TIMESTAMPING": 0,
}
"""The integer options of a new socket."""


def set_option(socket: InternetSocket, level: int, name: int, value: bytes) -> None:
    """Set an option."""
    option = _NAMES.get((level, name), "")
    setter = _SETTERS.get(option)
    if setter is not None:
        setter(socket, value)
    elif option in _SWITCHES:
        socket.options[option] = int(_integer(value, level) != 0)
    else:
        raise not_simulated(f"to set {option or f'option {name} of level {level}'}")


def get_option(socket: InternetSocket, level: int, name: int, value: bytes) -> bytes:
    """Get an option into a buffer that holds `value`."""
    option = _NAMES.get((level, name), "")
    getter = _GETTERS.get(option)
    if getter is not None:
        return getter(socket, value)
    if option not in socket.options:
        raise not_simulated(f"to get {option or f'option {name} of level {level}'}")
    return socket.options[option].to_bytes(4, LINUX.byte_order)[: len(value)]


def _set_multicast_interface(socket: InternetSocket, value: bytes) -> None:
    """IP_MULTICAST_IF: a `struct ip_mreqn`, an `ip_mreq`, or an address (`do_ip_setsockopt`)."""
    if len(value) < 4:
        refuse(errno.EINVAL)
    _, address, index = struct.unpack("<4s4si", value[:12].ljust(12, b"\0")) if len(value) >= 8 else (b"", value, 0)
    if not index:
        if address == ANY:
            socket.out_index, socket.out_address = 0, ANY
            return
        owner = socket.system.owner(address)
        index = 0 if owner is None else owner.index
    if index not in socket.system.devices:
        refuse(errno.EADDRNOTAVAIL)
    if socket.device not in (0, index):
        refuse(errno.EINVAL)
    socket.out_index, socket.out_address = index, address


def _integer(value: bytes, level: int) -> int:
    """Read an integer: options of IP take a single octet, too (`do_ip_setsockopt`)."""
    if len(value) >= 4:
        return int.from_bytes(value[:4], LINUX.byte_order, signed=True)
    if not value or level == _SOL_SOCKET:
        refuse(errno.EINVAL)
    return value[0]


def _set_within(name: str, allowed: range, default: int) -> Callable[[InternetSocket, bytes], None]:
    """Return the setter of an integer option in a range; -1 stands for the default."""

    def set_option(socket: InternetSocket, value: bytes) -> None:
        number = _integer(value, 0)
        if number != -1 and number not in allowed:
            refuse(errno.EINVAL)
        socket.options[name] = default if number == -1 else number

    return set_option


def _set_tos(socket: InternetSocket, value: bytes) -> None:
    socket.options["IP_TOS"] = _integer(value, 0) & 0xFF


def _set_strictly(name: str, allowed: range) -> Callable[[InternetSocket, bytes], None]:
    """Return the setter of an integer option in a range."""

    def set_option(socket: InternetSocket, value: bytes) -> None:
        number = _integer(value, 0)
        if number not in allowed:
            refuse(errno.EINVAL)
        socket.options[name] = number

    return set_option


def _set_reporting(socket: InternetSocket, value: bytes) -> None:
    """IP_RECVERR: switched off, it forgets what is queued."""
    socket.options["IP_RECVERR"] = int(_integer(value, 0) != 0)
    if not socket.options["IP_RECVERR"]:
        socket.errors.purge()


def _get_path_mtu(socket: InternetSocket) -> int:
    if socket.peer is None:
        refuse(errno.ENOTCONN)
    return socket.system.paths.find(socket.peer.destination, socket.peer.device).mtu


def _set_header_included(socket: InternetSocket, value: bytes) -> None:
    if not socket.is_raw:
        refuse(errno.ENOPROTOOPT)
    socket.options["IP_HDRINCL"] = int(_integer(value, 0) != 0)


def _set_receive_buffer(socket: InternetSocket, value: bytes) -> None:
    most = socket.system.sysctl_number("net.core.rmem_max")
    socket.queue.size = max(_MIN_BUFFER, 2 * min(_integer(value, _SOL_SOCKET) & 0xFFFF_FFFF, most))


def _force_receive_buffer(socket: InternetSocket, value: bytes) -> None:
    if not socket.system.privileged:
        refuse(errno.EPERM)
    socket.queue.size = max(_MIN_BUFFER, 2 * max(0, _integer(value, _SOL_SOCKET)))


def _set_send_buffer(socket: InternetSocket, value: bytes) -> None:
    most = socket.system.sysctl_number("net.core.wmem_max")
    socket.send_buffer = max(2 * _MIN_BUFFER, 2 * min(_integer(value, _SOL_SOCKET) & 0xFFFF_FFFF, most))


def _force_send_buffer(socket: InternetSocket, value: bytes) -> None:
    if not socket.system.privileged:
        refuse(errno.EPERM)
    socket.send_buffer = max(2 * _MIN_BUFFER, 2 * max(0, _integer(value, _SOL_SOCKET)))


def _bind_to_index(socket: InternetSocket, value: bytes) -> None:
    index = _integer(value, _SOL_SOCKET)
    if index < 0:
        refuse(errno.EINVAL)
    if socket.device and not socket.system.privileged:
        refuse(errno.EPERM)
    socket.device = index


def _bind_to_name(socket: InternetSocket, value: bytes) -> None:
    name = value.partition(b"\0")[0].decode()
    device = socket.system.named(name)
    if name and device is None:
        refuse(errno.ENODEV)
    if socket.device and not socket.system.privileged:
        refuse(errno.EPERM)
    socket.device = 0 if device is None else device.index


def _group(value: bytes) -> tuple[int, bytes]:
    """Read a `struct group_req` (`ip_mcast_join_leave`)."""
    if len(value) < len(structs.group_req(LINUX, 0, ANY)):
        refuse(errno.EINVAL)
    index, family = struct.unpack_from("<I4xH", value)
    if family != structs.AF_INET:
        refuse(errno.EINVAL)
    return index, value[12:16]


def _join(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.join(*_group(value))


def _leave(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.leave(*_group(value))


def _group_and_source(value: bytes) -> tuple[int, bytes, bytes]:
    """Read a `struct group_source_req` (`do_mcast_group_source`)."""
    if len(value) != len(structs.group_source_req(LINUX, 0, ANY, ANY)):
        refuse(errno.EINVAL)
    index, family = struct.unpack_from("<I4xH", value)
    (other_family,) = struct.unpack_from("<H", value, 136)
    if family != structs.AF_INET or other_family != structs.AF_INET:
        refuse(errno.EADDRNOTAVAIL)
    return index, value[12:16], value[140:144]


def _join_source(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.join_source(*_group_and_source(value))


def _leave_source(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.remove_source(*_group_and_source(value), INCLUDE)


def _block_source(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.add_source(*_group_and_source(value), EXCLUDE)


def _unblock_source(socket: InternetSocket, value: bytes) -> None:
    socket.memberships.remove_source(*_group_and_source(value), EXCLUDE)


def _set_filter(socket: InternetSocket, value: bytes) -> None:
    """MCAST_MSFILTER (`ip_set_mcast_msfilter`)."""
    if len(value) < _GROUP_FILTER:
        refuse(errno.EINVAL)
    if len(value) > socket.system.sysctl_number("net.core.optmem_max"):
        refuse(errno.ENOBUFS)
    index, family = struct.unpack_from("<I4xH", value)
    mode, count = struct.unpack_from("<II", value, _GROUP_FILTER - 8)
    if count > socket.system.sysctl_number("net.ipv4.igmp_max_msf"):
        refuse(errno.ENOBUFS)
    if len(value) < structs.group_filter_size(LINUX, count):
        refuse(errno.EINVAL)
    if family != structs.AF_INET:
        refuse(errno.EADDRNOTAVAIL)
    _, _, sources = structs.parse_group_filter(LINUX, value)
    socket.memberships.replace(index, value[12:16], mode, list(sources))


def _get_filter(socket: InternetSocket, value: bytes) -> bytes:
    """MCAST_MSFILTER (`ip_get_mcast_msfilter`)."""
    index, _ = struct.unpack_from("<I4xH", value)
    group = value[12:16]
    if not is_group(group):
        refuse(errno.EINVAL)
    (capacity,) = struct.unpack_from("<I", value, _GROUP_FILTER - 4)
    mode, sources = socket.memberships.read(index, group)
    found = b"".join(structs.sockaddr_storage(LINUX, each) for each in sources[:capacity])
    return value[: _GROUP_FILTER - 8] + struct.pack("<II", mode, len(sources)) + found


def _get_filter_by_route(socket: InternetSocket, value: bytes) -> bytes:
    """IP_MSFILTER (`ip_mc_msfget`)."""
    group = value[:4]
    if not is_group(group):
        refuse(errno.EINVAL)
    (capacity,) = struct.unpack_from("<I", value, 12)
    mode, sources = socket.memberships.read_by_route(group)
    return value[:8] + struct.pack("<II", mode, len(sources)) + b"".join(sources[:capacity])


def _set_icmp_filter(socket: InternetSocket, value: bytes) -> None:
    if not socket.is_raw or socket.protocol != ICMP:
        refuse(errno.EOPNOTSUPP if socket.is_raw else errno.ENOPROTOOPT)
    socket.icmp_filter = value[:4].ljust(4, b"\0")


def _get_icmp_filter(socket: InternetSocket, value: bytes) -> bytes:
    if not socket.is_raw or socket.protocol != ICMP:
        refuse(errno.EOPNOTSUPP)
    return socket.icmp_filter[: len(value)]


def _set_ip_options(socket: InternetSocket, value: bytes) -> None:
    if len(value) > 40:
        refuse(errno.EINVAL)
    socket.ip_options = value.ljust(-(-len(value) // 4) * 4, b"\0")


def _detach_program(socket: InternetSocket, _value: bytes) -> None:
    if not socket.program:
        refuse(errno.ENOENT)
    socket.program = ()


def _get_program(socket: InternetSocket, value: bytes) -> bytes:
    # The length that comes back is the number of instructions (`sk_get_filter`).
    return bytes(min(len(socket.program), len(value)))


def _get_memory(socket: InternetSocket, value: bytes) -> bytes:
    """SO_MEMINFO (linux/sock_diag.h)."""
    queue = socket.queue
    return struct.pack("<9I", queue.used, queue.size, 0, socket.send_buffer, 0, 0, 0, 0, queue.drops & 0xFFFF_FFFF)[
        : len(value)
    ]


def _number(read: Callable[[InternetSocket], int]) -> Callable[[InternetSocket, bytes], bytes]:
    def get_option(socket: InternetSocket, value: bytes) -> bytes:
        return read(socket).to_bytes(4, LINUX.byte_order, signed=True)[: len(value)]

    return get_option


_SETTERS: Final[dict[str, Callable[[InternetSocket, bytes], None]]] = {
    "IP_TOS": _set_tos,
    "IP_TTL": _set_within("IP_TTL", range(1, 256), 0),
    "IP_MULTICAST_TTL": _set_within("IP_MULTICAST_TTL", range(256), 1),
    "IP_MULTICAST_ALL": _set_strictly("IP_MULTICAST_ALL", range(2)),
    "IP_MTU_DISCOVER": _set_strictly("IP_MTU_DISCOVER", range(6)),
    "IP_MINTTL": _set_strictly("IP_MINTTL", range(256)),
    "IP_RECVERR": _set_reporting,
    "IP_RECVERR_RFC4884": _set_strictly("IP_RECVERR_RFC4884", range(2)),
    "IP_MULTICAST_IF": _set_multicast_interface,
    "IP_HDRINCL": _set_header_included,
    "IP_OPTIONS": _set_ip_options,
    "SO_RCVBUF": _set_receive_buffer,
    "SO_RCVBUFFORCE": _force_receive_buffer,
    "SO_SNDBUF": _set_send_buffer,
    "SO_SNDBUFFORCE": _force_send_buffer,
    "SO_TIMESTAMPING": lambda socket, value: stamps.switch(socket, _integer(value, _SOL_SOCKET)),
    "SO_BINDTOIFINDEX": _bind_to_index,
    "SO_BINDTODEVICE": _bind_to_name,
    "SO_DETACH_FILTER": _detach_program,
    "ICMP_FILTER": _set_icmp_filter,
    "MCAST_JOIN_GROUP": _join,
    "MCAST_LEAVE_GROUP": _leave,
    "MCAST_JOIN_SOURCE_GROUP": _join_source,
    "MCAST_LEAVE_SOURCE_GROUP": _leave_source,
    "MCAST_BLOCK_SOURCE": _block_source,
    "MCAST_UNBLOCK_SOURCE": _unblock_source,
    "MCAST_MSFILTER": _set_filter,
}
_GETTERS: Final[dict[str, Callable[[InternetSocket, bytes], bytes]]] = {
    "IP_TTL": _number(
        lambda socket: socket.options["IP_TTL"] or socket.system.sysctl_number("net.ipv4.ip_default_ttl")
    ),
    "IP_MTU": _number(_get_path_mtu),
    "IP_MULTICAST_IF": lambda socket, value: socket.out_address[: len(value)],
    "IP_MSFILTER": _get_filter_by_route,
    "IP_OPTIONS": lambda socket, value: socket.ip_options[: len(value)],
    "SO_RCVBUF": _number(lambda socket: socket.queue.size),
    "SO_SNDBUF": _number(lambda socket: socket.send_buffer),
    "SO_ERROR": _number(lambda socket: socket.errors.take_pending()),
    "SO_TYPE": _number(lambda socket: socket.kind),
    "SO_DOMAIN": _number(lambda _socket: structs.AF_INET),
    "SO_PROTOCOL": _number(lambda socket: socket.protocol),
    "SO_BINDTOIFINDEX": _number(lambda socket: socket.device),
    "SO_NETNS_COOKIE": lambda socket, _value: socket.system.cookie,
    "SO_MEMINFO": _get_memory,
    "SO_ATTACH_FILTER": _get_program,
    "ICMP_FILTER": _get_icmp_filter,
    "MCAST_MSFILTER": _get_filter,
}
