"""What a host does with packets: take them in, send them on, answer them (linux net/ipv4/ip_input.c, ip_forward.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4.testing._simulation import icmp, icmp_errors, ping
from trio_ipv4.testing._simulation.linux import memory_of
from trio_ipv4.testing._simulation.packets import (
    ANY,
    ICMP,
    IGMP,
    LIMITED_BROADCAST,
    UDP,
    Packet,
    is_group,
    is_link_scoped,
)
from trio_ipv4.testing._simulation.world import remember

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.internet import InternetSocket
    from trio_ipv4.testing._simulation.machine import Machine

_MAX_MTU: Final = 65535
_ARP_SECONDS: Final = 3.0
"""ARP asks three times, with a second between (net.ipv4.neigh.default.mcast_solicit, retrans_time_ms)."""
_ARP_QUEUE: Final = 212992
"""How much memory may wait for an answer (net.ipv4.neigh.default.unres_qlen_bytes)."""


class Fate(NamedTuple):
    """What becomes of a packet that came in."""

    is_local: bool = False
    is_forwarded: bool = False
    is_shared: bool = False
    """Whether it came as multicast or broadcast."""


class _Delivery(NamedTuple):
    """Who gets a packet, and the address of this host that it was for, or that an answer would have."""

    sockets: list[InternetSocket]
    local: bytes


@final
class Input:
    """The way of packets through one host. The fate of a kind of packet is worked out once, until something changes."""

    def __init__(self, machine: Machine) -> None:
        self._machine: Final = machine
        self._fates: Final[dict[tuple[object, ...], Fate]] = {}
        self._deliveries: Final[dict[tuple[object, ...], _Delivery]] = {}
        self._errors: Final = icmp.ErrorRate(machine.clock)
        self._ways_in: Final[dict[tuple[bytes, bytes], Device]] = {}
        self._unresolved: Final[dict[tuple[Device, bytes], list[Packet]]] = {}
        """The packets that wait for an answer of ARP's, which will not come."""

    def forget(self) -> None:
        """Forget what was worked out: something has changed."""
        self._fates.clear()
        self._deliveries.clear()

    def arrive(self, device: Device, packet: Packet) -> None:
        """Take a packet from a link (`ip_rcv`)."""
        key = device, packet.dst, packet.src, packet.protocol
        fate = self._fates.get(key)
        if fate is None:
            fate = remember(self._fates, key, self._judge(device, packet))
        if fate.is_local:
            self.deliver(device, packet, is_shared=fate.is_shared)
        if fate.is_forwarded:
            (self._forward_group if fate.is_shared else self._forward)(device, packet)

    def _judge(self, device: Device, packet: Packet) -> Fate:
        """Decide what becomes of a packet that came in (`ip_rcv_finish_core`)."""
        return self.route(device, packet) if device.is_alive and device.is_up else Fate()

    def route(self, device: Device, packet: Packet) -> Fate:
        """Decide what becomes of a packet, should it come in (`ip_route_input_rcu`)."""
        source, destination = packet.src, packet.dst
        is_martian = destination == ANY or destination[0] == 127 or not self._is_valid_source(device, packet)
        if not device.has_ipv4 or is_martian:
            return Fate()
        if is_group(destination):
            hears = device.hears(destination, source) or (packet.protocol == IGMP and destination in device.groups)
            return Fate(is_local=hears, is_forwarded=self._machine.is_router, is_shared=True)
        if self._machine.is_shared(destination):
            return Fate(is_local=True, is_shared=True)
        if self._machine.owner(destination) is not None:
            return Fate(is_local=True)
        return Fate(is_forwarded=self._machine.sysctls["net.ipv4.ip_forward"] != "0")

    def deliver(self, device: Device, packet: Packet, *, is_shared: bool) -> None:
        """Hand a packet to the sockets that it is for (`ip_local_deliver`).

        Args:
            device: The interface that they are told.
            packet: The packet.
            is_shared: Whether it came as multicast or broadcast.
        """
        # The port of the sender matters to sockets that have a peer.
        key = device, packet.dst, packet.src, packet.dport, packet.sport, packet.protocol, is_shared
        found = self._deliveries.get(key)
        if found is None:
            found = remember(self._deliveries, key, self._find_receivers(device, packet, is_shared=is_shared))
        for socket in found.sockets:
            socket.enqueue(device, packet, found.local)
        if packet.protocol == IGMP:
            self._machine.reports.hear(device, packet)
        elif is_shared:
            return
        elif packet.protocol == ICMP:
            self._take_icmp(device, packet)
        elif packet.is_datagram:
            if all(each.is_raw for each in found.sockets):
                self._send_error(packet, icmp.PORT_UNREACHABLE, packet.dst)
        elif not found.sockets and packet.protocol != UDP:
            self._send_error(packet, icmp.PROTOCOL_UNREACHABLE, packet.dst)

    def _take_icmp(self, device: Device, packet: Packet) -> None:
        """Answer an echo request, hand a reply over, or tell of an error (`icmp_rcv`)."""
        machine, message = self._machine, packet.payload
        if icmp.is_reply(message):
            found = ping.find(machine.sockets, device, packet.dst, message)
            if found is not None:
                found.enqueue(
                    machine.input_device(device, packet), packet, ANY
                )  # `ping_rcv` looks for no local address.
            return
        answer = icmp.echo_reply(packet)
        if answer is not None:
            self._send_icmp(packet.src, packet.dst, answer, packet.tos)
        else:
            icmp_errors.tell(machine, device, packet)

    def _find_receivers(self, device: Device, packet: Packet, *, is_shared: bool) -> _Delivery:
        matching = [each for each in self._machine.sockets if each.matches(device, packet)]
        if is_shared:
            return _Delivery(matching, self._machine.routes.answer_source(device, packet.src))
        # One UDP socket gets a unicast datagram: one bound to the address, else to the interface, else the last one.
        datagram = [each for each in matching if not each.is_raw]
        best = max(datagram, key=lambda each: each.precedence(packet.dst), default=None)
        return _Delivery([each for each in matching if each.is_raw or each is best], packet.dst)

    def _is_valid_source(self, device: Device, packet: Packet) -> bool:
        """Tell whether a source can be true (`fib_validate_source`, `ip_mc_validate_source`)."""
        source, destination = packet.src, packet.dst
        if is_group(source) or source == LIMITED_BROADCAST or source[0] == 127:
            return False
        if source == ANY:
            may_lack_source = is_link_scoped(destination) or (is_group(destination) and packet.protocol == IGMP)
            return may_lack_source or destination == LIMITED_BROADCAST
        if self._machine.owner(source) is not None:
            return False  # A packet from elsewhere with one of this host's own addresses.
        mode = self._reverse_path_filter(device)
        if not mode:
            return True
        hop = self._machine.routes.find(source)
        return hop is not None and (mode != 1 or hop.device is device)

    def _reverse_path_filter(self, device: Device) -> int:
        """Return the mode of the interface: 0 off, 1 strict, 2 loose (linux Documentation/networking/ip-sysctl.rst)."""
        names = ("all", device.name)
        return max(int(self._machine.sysctls.get(f"net.ipv4.conf.{name}.rp_filter", "0")) for name in names)

    def _forward(self, _device: Device, packet: Packet) -> None:
        """Send a packet on its way (`ip_forward`)."""
        hop = self._machine.routes.find(packet.dst)
        if hop is None:
            if self._errors.allows_about_route(packet.src):
                self._send_error(packet, icmp.NET_UNREACHABLE)
        elif packet.ttl <= 1:
            self._send_error(packet, icmp.TTL_EXCEEDED)
        elif packet.dont_fragment and packet.length(_MAX_MTU) > hop.device.mtu:
            self.refuse_length(packet, hop.device.mtu)
        else:
            self._machine.transmit(hop.device, packet.forwarded(hop.device.mtu), hop.gateway or packet.dst)

    def _forward_group(self, device: Device, packet: Packet) -> None:
        """Send a group's packet to all other links. A source's way in is where it was first heard."""
        if packet.ttl <= 1 or is_link_scoped(packet.dst) or packet.src == ANY:
            return
        way_in = self._ways_in.setdefault((packet.src, packet.dst), device)
        if not way_in.is_alive:
            way_in = self._ways_in[packet.src, packet.dst] = device
        if way_in is not device:
            return
        for each in list(self._machine.devices.values()):
            is_too_long = packet.dont_fragment and packet.length(_MAX_MTU) > each.mtu  # `ipmr_prepare_xmit`
            if each is not device and each.link is not None and not is_too_long:
                self._machine.transmit(each, packet.forwarded(each.mtu), packet.dst)

    # What the host itself sends

    def give_up(self, device: Device, packet: Packet, next_hop: bytes) -> None:
        """Tell the sender, in a while, that nobody has the address (linux net/ipv4/arp.c, `arp_error_report`).

        Packets that come while ARP asks are told of together (net/core/neighbour.c, `neigh_invalidate`).
        """
        key = device, next_hop
        if key not in self._unresolved:
            self._unresolved[key] = []
            self._machine.clock.after(_ARP_SECONDS, lambda: self._fail(key))
        waiting = self._unresolved[key]
        waiting.append(packet)
        while sum(each.memory for each in waiting) > _ARP_QUEUE:
            del waiting[0]

    def _fail(self, key: tuple[Device, bytes]) -> None:
        for packet in self._unresolved.pop(key):
            self._send_error(packet, icmp.HOST_UNREACHABLE)

    def refuse_length(self, packet: Packet, mtu: int) -> None:
        """Tell the sender that a packet is too long, and must not be fragmented (`ip_forward`, `ip_fragment`)."""
        self._send_error(packet, icmp.FRAGMENTATION_NEEDED, info=mtu)

    def _send_error(self, packet: Packet, kind: tuple[int, int], source: bytes = ANY, info: int = 0) -> None:
        """Tell the sender why a packet came in vain (ICMP), from an address that the routes choose by default."""
        message = icmp.error_about(packet, kind, info)
        if message is None or not self._may_send(packet.src):
            return
        # Internetwork control, and the TOS of the packet (linux net/ipv4/icmp.c, `__icmp_send`).
        self._send_icmp(packet.src, source, message, packet.tos & 0x1E | 0xC0)

    def _may_send(self, peer: bytes) -> bool:
        if self._machine.is_local(peer):
            return True
        return self._errors.allows(peer, self._machine.sysctl_number("net.ipv4.icmp_ratelimit"))

    def _send_icmp(self, destination: bytes, source: bytes, message: bytes, tos: int) -> None:
        try:
            flow = self._machine.routes.flow(destination, source, 0, ICMP)
        except OSError:
            return
        ttl, memory = self._machine.sysctl_number("net.ipv4.ip_default_ttl"), memory_of(len(message), flow.device.mtu)
        answer = Packet(flow.source, destination, ICMP, message, ttl, tos, dont_fragment=False, memory=memory)
        if flow.is_local:
            self.deliver(flow.seen, answer, is_shared=False)
        else:
            self._machine.transmit(flow.device, answer, flow.next_hop)
