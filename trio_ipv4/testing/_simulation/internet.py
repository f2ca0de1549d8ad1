"""Sockets of UDP, of raw IP, and ping sockets: binding, and which packets are for whom."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from trio_ipv4._abi import structs
from trio_ipv4.testing._simulation import bpf, errors, options, path_mtu, ping
from trio_ipv4.testing._simulation.datagrams import Traffic
from trio_ipv4.testing._simulation.linux import LINUX
from trio_ipv4.testing._simulation.memberships import Memberships
from trio_ipv4.testing._simulation.packets import ANY, ICMP, LIMITED_BROADCAST, UDP, is_group
from trio_ipv4.testing._simulation.queues import Queue
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse
from trio_ipv4.testing._simulation.sockets import BaseSocket

if TYPE_CHECKING:
    from trio_ipv4._kernel.calls import Receiver, Sender
    from trio_ipv4.testing._simulation import icmp
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.packets import Packet
    from trio_ipv4.testing._simulation.routes import Flow

_EPHEMERAL: Final = range(32768, 61000)
"""net.ipv4.ip_local_port_range."""
_IPPROTO_RAW: Final = 255


@final
class InternetSocket(BaseSocket):
    """A socket of UDP, of raw IP, or a ping socket."""

    def __init__(self, machine: Machine, kind: int, protocol: int) -> None:
        super().__init__(machine, structs.AF_INET, kind, protocol)
        self.is_raw: Final = kind == structs.SOCK_RAW
        self.is_ping: Final = not self.is_raw and protocol == ICMP
        self.is_udp: Final = not self.is_raw and protocol == UDP
        self.address: bytes = ANY
        self.source: bytes = ANY
        """The source address that the socket was bound to; none, if that was no address of a host (`inet_bind`)."""
        self.port = 0
        self.identifier = 0
        """What a ping socket has for a port."""
        self.peer: Flow | None = None
        self.peer_port = 0
        self.precedence_number = 0
        self.device: int = 0
        self.out_index: int = 0
        self.out_address: bytes = ANY
        self.memberships: Final = Memberships(machine)
        self.options: Final[dict[str, int]] = dict(options.DEFAULTS)
        if not self.is_udp:  # INET_PROTOSW_REUSE, linux net/ipv4/af_inet.c.
            self.options["SO_REUSEADDR"] = 1
        # A raw socket of protocol 255 writes its own headers from the start (raw(7)).
        self.options["IP_HDRINCL"] = int(self.is_raw and protocol == _IPPROTO_RAW)
        if machine.sysctl_number("net.ipv4.ip_no_pmtu_disc"):
            self.options["IP_MTU_DISCOVER"] = path_mtu.DONT
        self.send_buffer: int = machine.sysctl_number("net.core.wmem_default")
        self.ip_options: bytes = b""
        self.icmp_filter: bytes = bytes(4)
        self.program: tuple[bpf.Instruction, ...] = ()
        self.next_stamp = 0
        self.queue: Final[Queue] = Queue(machine.sysctl_number("net.core.rmem_default"), is_udp=self.is_udp)
        self.errors: Final[errors.ErrorQueue] = errors.ErrorQueue(self.queue)
        self.traffic: Final = Traffic(self)
        if self.is_raw:
            machine.sockets.append(self)
            machine.changed()

    @property
    def has_something(self) -> bool:
        return bool(self.queue)

    @property
    def has_error(self) -> bool:
        return bool(self.errors)

    def release(self) -> None:
        self.memberships.leave_all()
        if self in self.system.sockets:
            self.system.sockets.remove(self)
        self.queue.clear()
        self.system.changed()

    # Binding

    def getsockname(self) -> tuple[str, int]:
        if not self.is_open:
            refuse(errno.EBADF)
        return str(IPv4Address(self.address)), self.protocol if self.is_raw else self.port or self.identifier

    def getpeername(self) -> tuple[str, int]:
        if self.peer is None:
            refuse(errno.ENOTCONN)
        return str(IPv4Address(self.peer.destination)), self.peer_port

    def bind(self, address: Any, /) -> None:
        """Bind (`inet_bind`, `raw_bind`, `ping_bind`)."""
        self.require_open()
        machine = self.system
        local, port = IPv4Address(address[0]).packed, int(address[1])
        if not self._can_have(local):
            refuse(errno.EADDRNOTAVAIL)
        if not self.is_raw:
            if self.port or self.identifier:
                refuse(errno.EINVAL)
            lowest = machine.sysctl_number("net.ipv4.ip_unprivileged_port_start")
            if self.is_udp and 0 < port < lowest and not machine.privileged:
                refuse(errno.EACCES)
            self._take_port(local, port)
        self.address = local
        self.source = ANY if machine.is_shared(local) else local
        machine.changed()

    def bind_somewhere(self) -> None:
        """Take a port, if there is none yet (`inet_autobind`)."""
        if not self.port and not self.identifier and not self.is_raw:
            self._take_port(self.address, 0)
            self.system.changed()

    def connect(self, address: Any, /) -> None:
        """Set the peer (`__ip4_datagram_connect`). The routes choose the source, if the socket has none yet."""
        if not self.is_udp:
            super().connect(address)
        self.require_open()
        self.bind_somewhere()
        destination = IPv4Address(address[0]).packed
        index, source = self.device, self.source
        if is_group(destination):
            index, source = index or self.out_index, source if source != ANY else self.out_address
        flow = self.system.routes.flow(destination, source, index, self.protocol)
        if flow.is_broadcast and not self.options["SO_BROADCAST"]:
            refuse(errno.EACCES)
        self.peer, self.peer_port = flow, int(address[1])
        self.source = flow.source if self.source == ANY else self.source
        self.address = flow.source if self.address == ANY else self.address
        self.system.changed()

    def _take_port(self, local: bytes, port: int) -> None:
        if self.is_ping:
            self.identifier = ping.choose(self.system, port, shared=bool(self.options["SO_REUSEADDR"]))
        else:
            self._take_udp_port(local, port)
        self.precedence_number = self.system.new_number()
        self.system.sockets.append(self)

    def _take_udp_port(self, local: bytes, port: int) -> None:
        if port == 0:
            taken = {each.port for each in self.system.sockets}
            first = self.system.next_port
            rotated = (*range(first, _EPHEMERAL.stop), *range(_EPHEMERAL.start, first))
            free = next((each for each in rotated if each not in taken), None)
            if free is None:
                refuse(errno.EADDRINUSE)
            port, self.system.next_port = free, free + 1
        elif self._is_taken(local, port):
            refuse(errno.EADDRINUSE)
        self.port = port

    def _can_have(self, local: bytes) -> bool:
        machine = self.system
        if self.is_ping:  # `ping_check_bind_addr`
            return local == ANY or machine.is_local(local)
        shared = local in (ANY, LIMITED_BROADCAST) or is_group(local)
        return shared or machine.owner(local) is not None or machine.broadcast_device(local) is not None

    def _is_taken(self, local: bytes, port: int) -> bool:
        """Tell whether another socket keeps this one from an address and port (`udp_lib_lport_inuse`).

        Linux asks the one that was bound last first, and no more once it has found one that shares by SO_REUSEPORT.
        """
        for other in reversed(self.system.sockets):
            if other.port != port or (self.device and other.device and self.device != other.device):
                continue
            if ANY not in (local, other.address) and local != other.address:
                continue
            if self.options["SO_REUSEADDR"] and other.options["SO_REUSEADDR"]:
                continue
            return not (self.options["SO_REUSEPORT"] and other.options["SO_REUSEPORT"])
        return False

    # Receiving

    def matches(self, device: Device, packet: Packet) -> bool:
        """Tell whether a packet is for this socket (`__udp_is_mcast_sock`, `raw_v4_match`, `compute_score`)."""
        if self.is_raw:
            if self.protocol != packet.protocol:
                return False
        elif self.port != packet.dport or not packet.is_datagram or not self._has_peer(packet.src, packet.sport):
            return False
        if self.address not in (ANY, packet.dst) or self.device not in (0, device.index):
            return False
        if not is_group(packet.dst):
            return True
        otherwise = bool(self.options["IP_MULTICAST_ALL"])
        return self.memberships.allows(device.index, packet.dst, packet.src, otherwise=otherwise)

    def _has_peer(self, address: bytes, port: int) -> bool:
        """Tell whether the socket hears a peer."""
        return self.peer is None or (self.peer.destination, self.peer_port) == (address, port)

    def hears_raw_error(self, device: Device, error: icmp.Error) -> bool:
        """Tell whether this raw socket hears an ICMP error (`raw_icmp_error`)."""
        return self.is_raw and self.protocol == error.protocol and self._could_send(device, error)

    def hears_udp_error(self, device: Device, error: icmp.Error, port: int, peer_port: int) -> bool:
        """Tell whether this UDP socket hears an ICMP error (`__udp4_lib_err`)."""
        is_mine = 0 < self.port == port and self._could_send(device, error)
        return is_mine and self._has_peer(error.dst, peer_port)

    def _could_send(self, device: Device, error: icmp.Error) -> bool:
        """Tell whether a packet may be this socket's, by its source, and the interface where the error came in."""
        return self.address in (ANY, error.src) and self.device in (0, device.index)

    def precedence(self, destination: bytes) -> tuple[bool, bool, bool, int]:
        """Return by what a unicast datagram is given to one of several sockets (`compute_score`): the greatest has it.

        Of equals Linux takes the one that was bound last, unless one was read on the processor where the datagram came
        in. That is not simulated.
        """
        return self.address == destination, self.peer is not None, self.device != 0, self.precedence_number

    def enqueue(self, device: Device, packet: Packet, local: bytes) -> None:
        """Take a packet in; `local` is the address of this host that it was for, or that an answer would have."""
        if self.traffic.take_in(device, packet, local) and self._lot:
            self.wake()

    def report(self, entry: errors.Entry) -> None:
        """Queue an error, if there is room."""
        if self.errors.put(entry):
            self.wake_all()

    def fail(self, number: int) -> None:
        """Let an error be pending."""
        self.errors.pending = number
        self.wake_all()

    def receive_error(self) -> tuple[bytes, bytes, Any]:
        self.require_open()
        entry = self.errors.take()
        if entry is None:
            refuse(errno.EAGAIN)
        control = errors.control_of(entry, self.options, self.system.clock.nanoseconds())
        return entry.payload, control, entry.destination

    def receiver(self) -> Receiver:
        return self.traffic

    def sender(self) -> Sender:
        return self.traffic

    def recvmsg(self, _size: int, _flags: int = 0, /) -> NoReturn:
        raise not_simulated("recvmsg on the bare socket")

    def sendto(self, data: bytes, address: Any, /) -> int:
        name = structs.sockaddr_in(LINUX, IPv4Address(address[0]).packed, int(address[1]))
        _, error = self.traffic.send(self.fileno(), [data], [name], [b""])
        if error is not None:
            raise error
        return len(data)

    # Options

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        self.require_open()
        self.system.changed()
        options.set_option(self, level, name, value)

    def getsockopt(self, level: int, name: int, value: bytes, /) -> bytes:
        self.require_open()
        return options.get_option(self, level, name, value)

    def attach_bpf(self, program: bytes, /) -> None:
        self.require_open()
        self.program = bpf.load(program, LINUX.byte_order)

    def ioctl(self, request: int, value: bytes, /) -> bytes:
        """Answer about an interface (netdevice(7))."""
        self.require_open()
        devices = self.system.devices
        if request == LINUX.number("SIOCGIFNAME"):
            device = devices.get(struct.unpack_from("<16xi", value)[0])
            if device is None:
                refuse(errno.ENODEV)
            return device.name.encode().ljust(16, b"\0") + value[16:]
        name = value[:16].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        device = self.system.named(name)
        if device is None:
            refuse(errno.ENODEV)
        if request == LINUX.number("SIOCGIFINDEX"):
            return value[:16] + struct.pack("<i", device.index) + value[20:]
        if request == LINUX.number("SIOCGIFFLAGS"):
            return value[:16] + struct.pack("<H", device.flags & 0xFFFF) + value[18:]
        raise not_simulated(f"ioctl {request:#x}")

    def ifconf(self) -> bytes:
        """List names and addresses (netdevice(7): SIOCGIFCONF)."""
        self.require_open()
        size = structs.ifreq_size(LINUX)
        return b"".join(
            (device.name.encode().ljust(16, b"\0") + structs.sockaddr_in(LINUX, each.packed, 0)).ljust(size, b"\0")
            for device in self.system.devices.values()
            for each in device.addresses
        )
