"""Who is told of an ICMP error, and what (linux net/ipv4/icmp.c, udp.c, raw.c, ping.c)."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi.structs import ExtendedError
from trio_ipv4.testing._simulation import icmp, path_mtu, ping
from trio_ipv4.testing._simulation.errors import BY_ICMP, Entry
from trio_ipv4.testing._simulation.packets import ICMP, UDP

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.internet import InternetSocket
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.packets import Packet

_CONVERT: Final = (
    # `icmp_err_convert`: the errno, and whether it is hard, of each code of "destination unreachable".
    (errno.ENETUNREACH, False),
    (errno.EHOSTUNREACH, False),
    (errno.ENOPROTOOPT, True),
    (errno.ECONNREFUSED, True),
    (errno.EMSGSIZE, True),
    (errno.EOPNOTSUPP, False),
    (errno.ENETUNREACH, True),
    (errno.EHOSTDOWN, True),
    (getattr(errno, "ENONET", 64), True),  # Linux's alone (asm-generic/errno.h).
    (errno.ENETUNREACH, True),
    (errno.EHOSTUNREACH, True),
    (errno.ENETUNREACH, False),
    (errno.EHOSTUNREACH, False),
    (errno.EHOSTUNREACH, True),
    (errno.EHOSTUNREACH, True),
    (errno.EHOSTUNREACH, True),
)
_EREMOTEIO: Final[int] = getattr(errno, "EREMOTEIO", 121)
"""Linux's alone, too."""
_UDP_HEADER: Final = 8


def tell(machine: Machine, device: Device, packet: Packet) -> None:
    """Tell the sockets that an ICMP error concerns (`icmp_unreach`, `icmp_socket_deliver`).

    Args:
        machine: The host.
        device: The interface that sockets are told.
        packet: The ICMP message.
    """
    mode = machine.sysctl_number("net.ipv4.ip_no_pmtu_disc")
    error = icmp.parse_error(packet.payload)
    if error is None or (error.is_fragmentation and mode > 1):
        return
    if error.is_fragmentation and mode:
        error = error._replace(info=0)
    told = _Telling(machine, machine.input_device(device, packet), packet, error)
    for each in list(machine.sockets):
        if each.hears_raw_error(told.device, error):
            told.tell_raw(each)
    if error.protocol == UDP:
        told.tell_udp()
    elif error.protocol == ICMP and ping.is_supported(error.body):
        found = ping.find(machine.sockets, device, packet.dst, error.body)
        if found is not None:
            told.tell_ping(found)


class _Telling:
    """One ICMP error, on its way to sockets."""

    def __init__(self, machine: Machine, device: Device, packet: Packet, error: icmp.Error) -> None:
        self._machine: Final = machine
        self.device: Final = device
        self._packet: Final = packet
        self._error: Final = error

    def tell_udp(self) -> None:
        """Tell the socket that a UDP datagram came from (`__udp4_lib_err`)."""
        error, machine = self._error, self._machine
        source, destination = (int.from_bytes(error.body[at : at + 2], "big") for at in (0, 2))
        found = [each for each in machine.sockets if each.hears_udp_error(self.device, error, source, destination)]
        if not found or error.kind in (icmp.SOURCE_QUENCH, icmp.REDIRECT):
            return
        socket = max(found, key=lambda each: each.precedence(error.src))
        mode = socket.options["IP_MTU_DISCOVER"]
        if error.is_fragmentation:
            self._learn(socket, mode)
        if not error.is_fragmentation or mode != path_mtu.DONT:
            self._tell(socket, *self._errno(), destination, error.body[_UDP_HEADER:])

    def tell_raw(self, socket: InternetSocket) -> None:
        """Tell a raw socket (`raw_err`)."""
        error, mode = self._error, socket.options["IP_MTU_DISCOVER"]
        if error.is_fragmentation:
            self._learn(socket, mode)
        if error.kind in (icmp.SOURCE_QUENCH, icmp.REDIRECT):
            return
        self._tell(socket, *self._errno(), 0, error.quoted if socket.options["IP_HDRINCL"] else error.body)

    def tell_ping(self, socket: InternetSocket) -> None:
        """Tell a ping socket (`ping_err`)."""
        error, mode = self._error, socket.options["IP_MTU_DISCOVER"]
        if error.is_fragmentation:
            self._learn(socket, mode)
        if not error.is_fragmentation or mode != path_mtu.DONT:
            self._tell(socket, *self._errno(), 0, error.body)

    def _learn(self, socket: InternetSocket, mode: int) -> None:
        """Learn the path MTU (`ipv4_sk_update_pmtu`)."""
        if not path_mtu.believes(mode):
            return
        try:
            flow = self._machine.routes.flow(self._error.dst, self._error.src, socket.device, 0, any_source=True)
        except OSError:
            return
        self._machine.paths.learn(self._error.dst, flow.device, self._error.info)

    def _errno(self) -> tuple[int, bool]:
        """Return the errno, and whether the error is hard."""
        error = self._error
        if error.kind == icmp.UNREACHABLE:
            return _CONVERT[error.code]
        if error.kind == icmp.PARAMETER_PROBLEM:
            return errno.EPROTO, True
        # Of these only ping sockets are told.
        return _EREMOTEIO if error.kind in (icmp.SOURCE_QUENCH, icmp.REDIRECT) else errno.EHOSTUNREACH, False

    def _tell(self, socket: InternetSocket, number: int, is_hard: bool, port: int, payload: bytes) -> None:
        if not socket.options["IP_RECVERR"]:
            if is_hard and socket.peer is not None:
                socket.fail(number)
            return
        error, packet = self._error, self._packet
        data = 0
        if socket.options["IP_RECVERR_RFC4884"]:
            data = icmp.extension_data(packet.payload, len(packet.payload) - len(payload))
        told = ExtendedError(number, BY_ICMP, error.kind, error.code, error.info, data, packet.src)
        stamp = self._machine.clock.nanoseconds() if socket.options["SO_TIMESTAMPNS"] else None
        destination = str(IPv4Address(error.dst)), port
        socket.report(Entry(told, payload, destination, packet, self.device.index, stamp, packet.memory))
        socket.fail(number)
