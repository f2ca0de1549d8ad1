"""What a socket sends and receives: control messages, and the rules of linux net/ipv4/udp.c, raw.c and ping.c."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, final

from trio_ipv4 import ParseError
from trio_ipv4._abi import structs
from trio_ipv4._conn.caches import Remembered
from trio_ipv4._kernel.calls import MSG_TRUNC, Received
from trio_ipv4._kernel.calls.columns import take_apart
from trio_ipv4.testing._simulation import bpf, errors, path_mtu, ping, stamps
from trio_ipv4.testing._simulation.linux import LINUX, memory_of, memory_of_first
from trio_ipv4.testing._simulation.packets import ANY, ICMP, Packet, is_group, parse_packet
from trio_ipv4.testing._simulation.queues import Arrived
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse
from trio_ipv4.testing._simulation.world import remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.internet import InternetSocket
    from trio_ipv4.testing._simulation.path_mtu import PathMTU
    from trio_ipv4.testing._simulation.routes import Flow

_PKTINFO: Final = LINUX.control["IP_PKTINFO"]
_TTL: Final = LINUX.control["IP_TTL"]
_TOS: Final = LINUX.control["IP_TOS"]
_TIMESTAMP: Final = LINUX.control["SO_TIMESTAMPNS"]
_DROPS: Final = LINUX.control["SO_RXQ_OVFL"]
_UDP_HEADER: Final = 8
_ICMP_TYPE: Final = 2
_IP_HEADER: Final = 20
_MAX_PACKET: Final = 65535
_MANY: Final = 1024
_ETH_P_IP: Final = 0x0800


class Request(NamedTuple):
    """What a control message asks for (`ip_cmsg_send`)."""

    source: bytes | None = None
    interface: int = 0
    ttl: int | None = None
    tos: int | None = None


class Way(NamedTuple):
    """The way of datagrams to one destination with one control message, while nothing changes."""

    generation: int
    flow: Flow
    port: int
    ttl: int
    tos: int
    is_looped: bool
    leaves: bool
    path: PathMTU
    mtu: int
    """What is longer is fragmented, or refused."""
    sizes: dict[int, tuple[int, int, bool]]
    """By length of the payload: the memory that it counts, and if it is looped; whether it must not be fragmented."""


@final
class Traffic:
    """What one socket sends and receives; it is the `Receiver` and the `Sender` of the seam."""

    columns = staticmethod(take_apart)

    def __init__(self, socket: InternetSocket) -> None:
        self._socket: Final = socket
        self._names: Final = _Names()
        self._controls: Final[dict[tuple[Any, ...], bytes]] = {}
        self._requests: Final = _Requests()
        self._ways: Final[dict[tuple[Any, ...], Way]] = {}

    # Receiving

    def take_in(self, device: Device, packet: Packet, local: bytes) -> bool:
        """Queue a packet that has come in, if the socket's filters let it pass and there is room."""
        socket = self._socket
        queue, memory = socket.queue, packet.memory
        if socket.is_raw:
            if self._is_filtered_icmp(packet):
                return False
            data = packet.octets()
        else:
            data = packet.payload
        if socket.program:
            kept = self._filter(device, packet, data)
            if kept is None:
                queue.drops += socket.is_udp
                return False
            if len(kept) < len(data):
                memory = min(memory, memory_of_first(packet.above, packet.mtu))
            data = kept
        if not queue.has_room(memory):
            return False
        options = socket.options
        index, local = (device.index, local) if options["IP_PKTINFO"] else (0, ANY)
        stamp = socket.system.clock.nanoseconds() if options["SO_TIMESTAMPNS"] else None
        drops = queue.drops if options["SO_RXQ_OVFL"] and not socket.is_ping else 0
        queue.put(Arrived(packet, data, index, local, drops, stamp, memory))
        return True

    def _is_filtered_icmp(self, packet: Packet) -> bool:
        """Tell whether the socket's ICMP_FILTER stops a packet (raw(7), `icmp_filter`)."""
        if packet.protocol != ICMP or not packet.payload:
            return False
        kind = packet.payload[0]
        return kind < 32 and bool(int.from_bytes(self._socket.icmp_filter, LINUX.byte_order) >> kind & 1)

    def _filter(self, device: Device, packet: Packet, data: bytes) -> bytes | None:
        """Run the BPF program: `None` if it refuses a packet, else what it keeps of it (`sk_filter_trim_cap`)."""
        socket = self._socket
        octets, header = (data if socket.is_raw else packet.octets()), _UDP_HEADER if socket.is_udp else 0
        program = octets if socket.is_raw else packet.body()
        kept = bpf.run(
            socket.program, program, octets, protocol=_ETH_P_IP, interface=device.index, byte_order=LINUX.byte_order
        )
        if not kept:
            return None
        return data[: max(kept, header) - header]

    def receive(self, _descriptor: int, limit: int, max_bytes: int, _recipe: object = None, /) -> Received | None:
        socket = self._socket
        socket.require_open()
        if socket.errors.pending:
            socket.errors.raise_pending()
        queue = socket.queue
        if not queue:
            return None
        payloads: list[bytes] = []
        names: list[bytes] = []
        controls: list[bytes] = []
        flags: list[int] = []
        take, switches = queue.take, self._switches()
        known_names, known_controls = self._names, self._controls
        for _ in range(min(limit, _MANY)):
            if not queue:
                break
            packet, data, index, local, drops, stamp, _ = take()
            cut = len(data) > max_bytes
            payloads.append(data[:max_bytes] if cut else data)
            flags.append(MSG_TRUNC if cut else 0)
            names.append(known_names[packet.src, packet.sport])
            facts = packet.dst, index, local, packet.ttl, packet.tos, drops, stamp, switches
            control = known_controls.get(facts)
            controls.append(self._control(*facts) if control is None else control)
        return Received(payloads, names, controls, flags if any(flags) else None)

    def _switches(self) -> tuple[int, ...]:
        options = self._socket.options
        return tuple(options[name] for name in ("SO_TIMESTAMPNS", "IP_PKTINFO", "IP_RECVTTL", "IP_RECVTOS"))

    def _control(
        self,
        dst: bytes,
        index: int,
        local: bytes,
        ttl: int,
        tos: int,
        drops: int,
        stamp: int | None,
        switches: tuple[int, ...],
    ) -> bytes:
        """Write the control messages of a packet, in Linux's order (`sock_recv_cmsgs`, `ip_cmsg_recv`)."""
        with_stamp, with_info, with_ttl, with_tos = switches
        parts: list[bytes] = []
        if with_stamp:
            # What came before stamps were asked for has the time of reading (`__sock_recv_timestamp`).
            noted = self._socket.system.clock.nanoseconds() if stamp is None else stamp
            parts.append(structs.cmsg(LINUX, *_TIMESTAMP, struct.pack("<qq", *divmod(noted, 10**9))))
        if drops:
            parts.append(structs.cmsg(LINUX, *_DROPS, struct.pack("<I", drops & 0xFFFF_FFFF)))
        if with_info:
            parts.append(structs.cmsg(LINUX, *_PKTINFO, structs.in_pktinfo(LINUX, index, local, dst)))
        if with_ttl:
            parts.append(structs.cmsg(LINUX, *_TTL, struct.pack("<i", ttl)))
        if with_tos:
            parts.append(structs.cmsg(LINUX, *_TOS, bytes([tos])))
        made = b"".join(parts)
        if not with_stamp:
            remember(self._controls, (dst, index, local, ttl, tos, drops, stamp, switches), made)
        return made

    # Sending

    def send(
        self, _descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]:
        """Send in one call (sendmmsg(2)). If some are sent, the reason why not all comes out only on the next call."""
        socket = self._socket
        sent = 0
        try:
            socket.require_open()
            socket.bind_somewhere()
            send_one = self._send_with_header if socket.options["IP_HDRINCL"] else self._send_one
            if socket.is_ping:
                send_one = self._send_echo
            for payload, name, control in zip(payloads, names, controls, strict=True):
                send_one(payload, name, control)
                sent += 1
        except OSError as error:
            return sent, None if sent else error
        return sent, None

    def _send_one(self, payload: bytes, name: bytes, control: bytes) -> None:
        """Send a payload (`udp_sendmsg`, `raw_sendmsg`)."""
        socket = self._socket
        if len(payload) > _MAX_PACKET:
            refuse(errno.EMSGSIZE)
        way = self._ways.get((name, control))
        if way is None or way.generation != socket.system.generation:
            way = self._find_way(name, control)
        if socket.is_raw and socket.protocol == ICMP and len(payload) < _ICMP_TYPE:
            refuse(errno.EFAULT)  # Linux reads type and code for its firewall (`raw_probe_proto_opt`).
        flow = way.flow
        memory, looped, is_whole = way.sizes.get(len(payload)) or self._size(way, len(payload))
        if socket.errors.pending and not socket.is_raw:  # Raw IP asks for memory in another way (`__ip_append_data`).
            socket.errors.raise_pending()
        packet = Packet(
            flow.source,
            flow.destination,
            socket.protocol,
            payload,
            way.ttl,
            way.tos,
            socket.port,
            way.port,
            is_whole,
            0 if is_whole else socket.system.new_number() & 0xFFFF,
            socket.ip_options,
            looped,
            way.mtu,
        )
        self._emit(way, packet, memory)

    def _send_echo(self, payload: bytes, name: bytes, control: bytes) -> None:
        """Send an echo request (`ping_v4_sendmsg`)."""
        self._send_one(ping.complete(payload, self._socket.identifier), name, control)

    def _size(self, way: Way, length: int) -> tuple[int, int, bool]:
        """Work out what a payload of so many octets takes."""
        socket, mtu, mode = self._socket, way.mtu, self._socket.options["IP_MTU_DISCOVER"]
        above = length + (_UDP_HEADER if socket.is_udp else 0)
        whole = above + _IP_HEADER + len(socket.ip_options)
        if whole > _MAX_PACKET or (whole > mtu and not path_mtu.may_cut(mode)):
            self._refuse_length(way, mtu - len(socket.ip_options))
        is_whole = path_mtu.forbids_cutting(mode, whole, way.path)
        found = way.sizes[length] = memory_of(above, mtu), memory_of(above, mtu, is_looped=True), is_whole
        return found

    def _refuse_length(self, way: Way, mtu: int) -> NoReturn:
        """Refuse a packet that is too long, and report the MTU (`ip_local_error`)."""
        socket = self._socket
        if socket.options["IP_RECVERR"]:
            socket.report(errors.local(errno.EMSGSIZE, way.flow.destination, socket.peer_port, mtu))
        refuse(errno.EMSGSIZE)

    def _send_with_header(self, payload: bytes, name: bytes, control: bytes) -> None:
        """Send a packet with its header, in which the kernel fills in some fields (raw(7), `raw_send_hdrinc`)."""
        machine = self._socket.system
        if len(payload) > _MAX_PACKET:
            refuse(errno.EMSGSIZE)
        given = payload[12:16].ljust(4, b"\0")
        way = self._find_way(name, control, any_source=True)
        if len(payload) > way.flow.device.mtu:
            self._refuse_length(way, way.flow.device.mtu)
        if len(payload) >= _IP_HEADER:
            self._socket.errors.raise_pending()
        if len(payload) < _IP_HEADER or 4 * (payload[0] & 0xF) > len(payload):
            refuse(errno.EINVAL)
        source = given if given != ANY else way.flow.source
        octets = payload[:2] + len(payload).to_bytes(2, "big") + payload[4:12] + source + payload[16:]
        try:
            packet = parse_packet(octets)
        except ParseError as error:
            raise not_simulated(f"this IP header: {error}") from None
        if not packet.id and not packet.dont_fragment:
            packet.id = machine.new_number() & 0xFFFF
        packet.memory, packet.mtu = memory_of(len(payload) - _IP_HEADER, way.mtu), way.mtu
        if packet.dont_fragment and len(payload) > way.mtu:  # `ip_fragment`
            machine.input.refuse_length(packet, way.mtu)
            refuse(errno.EMSGSIZE)
        self._emit(way._replace(leaves=_leaves(way.flow, packet.ttl)), packet, packet.memory)

    def _emit(self, way: Way, packet: Packet, memory: int) -> None:
        """Let a packet go: first to this host, if it is looped (`ip_mc_output`)."""
        socket, flow = self._socket, way.flow
        machine, is_stamped = socket.system, socket.options["SO_TIMESTAMPING"]
        if is_stamped and flow.is_local:
            self._stamp(way, packet)
        if way.is_looped:
            machine.input.deliver(flow.seen, packet, is_shared=flow.is_shared)
        if is_stamped and not flow.is_local:
            self._stamp(way, packet)
        if way.leaves:
            packet.memory = memory
            machine.transmit(flow.device, packet, flow.next_hop)

    def _stamp(self, way: Way, packet: Packet) -> None:
        """Take transmit timestamps, unless the packet gets nowhere."""
        device, link = way.flow.device, way.flow.device.link
        is_known = link is None or link.has_receiver(device, packet, way.flow.next_hop)
        stamps.stamp(self._socket, is_out=way.flow.is_local or (way.leaves and is_known))

    def _find_way(self, name: bytes, control: bytes, *, any_source: bool = False) -> Way:
        socket = self._socket
        machine, options = socket.system, socket.options
        request = self._requests[control]
        destination, port = structs.parse_sockaddr_in(name)
        if not port and socket.is_udp:
            refuse(errno.EINVAL)
        group = is_group(destination)
        # IP_PKTINFO without an address does away with the bound one, too.
        source = socket.source if request.source is None else request.source
        index = request.interface or socket.device
        if group:
            index = index or socket.out_index
            source = source if source != ANY else socket.out_address
        flow = machine.routes.flow(destination, source, index, socket.protocol, any_source=any_source)
        if flow.is_broadcast and not options["SO_BROADCAST"]:
            refuse(errno.EACCES)
        unicast_ttl = options["IP_TTL"] or machine.sysctl_number("net.ipv4.ip_default_ttl")
        ttl = request.ttl or (options["IP_MULTICAST_TTL"] if group else unicast_ttl)
        heard = group and flow.device.hears(flow.destination, flow.source)
        if flow.is_local:
            looped = heard or not group
        else:
            looped = flow.is_broadcast or (heard and bool(options["IP_MULTICAST_LOOP"]))
        path = machine.paths.find(flow.destination, flow.device)
        way = Way(
            machine.generation,
            flow,
            port if socket.is_udp else 0,
            ttl,
            options["IP_TOS"] if request.tos is None else request.tos,
            looped,
            _leaves(flow, ttl),
            path,
            path.mtu if path_mtu.goes_by_path(options["IP_MTU_DISCOVER"]) else flow.device.mtu,
            {},
        )
        return way if any_source else remember(self._ways, (name, control), way)


@final
class _Names(Remembered[tuple[bytes, int], bytes]):
    """The `struct sockaddr_in` of each peer."""

    def _make(self, key: tuple[bytes, int]) -> bytes:
        return structs.sockaddr_in(LINUX, *key)


@final
class _Requests(Remembered[bytes, Request]):
    """Requests by their control messages."""

    def _make(self, key: bytes) -> Request:
        """Read a control message (`ip_cmsg_send`)."""
        found = Request()
        try:
            records = list(structs.iterate_cmsgs(LINUX, key))
        except ParseError:
            refuse(errno.EINVAL)
        for _, level, kind, data in records:
            number = int.from_bytes(data, LINUX.byte_order, signed=len(data) > 1)
            if (level, kind) == _PKTINFO and len(data) == structs.IN_PKTINFO_SIZE:
                index, source, _ = structs.parse_in_pktinfo(LINUX, data)
                found = found._replace(interface=index, source=source)
            elif (level, kind) == _TTL and len(data) == 4 and 1 <= number <= 255:
                found = found._replace(ttl=number)
            elif (level, kind) == _TOS and len(data) in (1, 4) and 0 <= number <= 255:
                found = found._replace(tos=number)
            elif level == _PKTINFO[0]:
                refuse(errno.EINVAL)
            else:
                raise not_simulated(f"a control message of level {level} and type {kind}")
        return found


def _leaves(flow: Flow, ttl: int) -> bool:
    """Tell whether a packet leaves this host. A group's with TTL 0 stays only where it is heard (`ip_mc_output`)."""
    if flow.is_local:
        return False
    return ttl > 0 or not (is_group(flow.destination) and flow.device.hears(flow.destination, flow.source))
