"""A simulated host's kernel: its interfaces, what it does with packets that come in, and the system that it is.

It speaks Linux: the rules are those of the sources that each function names. What decides stands in `routes.py` (where
to, from which address), `memberships.py` (groups), `sockets.py` and `datagrams.py` (sockets).
"""

from __future__ import annotations

import errno
import itertools
import os
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, final

from trio_ipv4._abi import structs
from trio_ipv4.testing._simulation import icmp, igmp, netlink
from trio_ipv4.testing._simulation.devices import Address, Device, Group
from trio_ipv4.testing._simulation.internet import InternetSocket
from trio_ipv4.testing._simulation.linux import EXCLUDE, LINUX, SYSCTLS, memory_of
from trio_ipv4.testing._simulation.netlink import NetlinkSocket
from trio_ipv4.testing._simulation.packets import (
    ALL_SYSTEMS,
    ANY,
    ICMP,
    IGMP,
    LIMITED_BROADCAST,
    UDP,
    Packet,
    is_group,
    is_link_scoped,
)
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse
from trio_ipv4.testing._simulation.routes import LOOPBACK, Routes

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4.testing._simulation.world import World

T = TypeVar("T")

_COOKIES: Final = itertools.count(1 << 62)
"""Names of networks (SO_NETNS_COOKIE), which no real one has: the kernel counts from 1."""
_MANY: Final = 4096
_REPORTS: Final = 2
"""The robustness variable: how often a change is reported (RFC 3376 section 8.1)."""


class _Fate(NamedTuple):
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
class Machine:
    """The kernel of one host; the library's `System`."""

    platform: Platform = LINUX

    def __init__(self, world: World, name: str, *, is_router: bool, privileged: bool) -> None:
        self.name: Final = name
        self.number: Final[int] = len(world.machines) + 1
        self.clock: Final = world.clock
        self.cookie: Final[bytes] = next(_COOKIES).to_bytes(8, LINUX.byte_order)
        self.is_router: Final = is_router
        self.privileged: Final = privileged
        self.sysctls: dict[str, str] = {**SYSCTLS, "net.ipv4.ip_forward": "1" if is_router else "0"}
        self.devices: Final[dict[int, Device]] = {}
        self.routes: Final = Routes(self)
        self.sockets: Final[list[InternetSocket]] = []
        self.netlinks: Final[list[NetlinkSocket]] = []
        self.generation: int = 0
        """Counts the changes that may decide where packets go. What was worked out before one is worth nothing."""
        self._fates: Final[dict[tuple[object, ...], _Fate]] = {}
        self._deliveries: Final[dict[tuple[object, ...], _Delivery]] = {}
        self._numbers: Final = itertools.count(1)
        self._last_index: int = LOOPBACK
        self._chance: Final = world.chance(name)
        self._errors: Final = icmp.ErrorRate(world.clock)
        self.next_port: int = 32768 + self._chance.randrange(20000)
        self._ways_in: Final[dict[tuple[bytes, bytes], Device]] = {}
        self.attach(Device(self, LOOPBACK, "lo", 65536, None))
        self.add_address(self.devices[LOOPBACK], IPv4Interface("127.0.0.1/8"))

    # The system (`trio_ipv4/_kernel/system.py`)

    def socket(self, family: int, kind: int, protocol: int) -> Socket:
        self.clock.catch_up()
        if family == LINUX.number("rtnetlink"):
            return NetlinkSocket(self, kind, protocol)
        if family == structs.AF_INET and kind == structs.SOCK_DGRAM and protocol in (0, UDP):
            return InternetSocket(self, kind, UDP)
        if family != structs.AF_INET or kind != structs.SOCK_RAW:
            raise not_simulated(f"a socket of family {family}, kind {kind}, protocol {protocol}")
        if not self.privileged:
            refuse(errno.EPERM)
        return InternetSocket(self, kind, protocol)

    def adopt(self, handle: Any) -> Socket:
        raise TypeError(
            f"pass a connection of this library, not {handle!r}: the simulated host {self.name!r} has no other sockets"
        )

    def if_nameindex(self) -> list[tuple[int, str]]:
        return [(index, device.name) for index, device in self.devices.items()]

    def sysctl(self, name: str) -> str | None:
        return self.sysctls.get(name)

    def sysctl_number(self, name: str) -> int:
        return int(self.sysctls[name])

    def igmp_table(self) -> str:
        """Return the table of groups as /proc/net/igmp has it."""
        lines = ["Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter"]
        for device in self.devices.values():
            lines.append(f"{device.index}\t{device.name:<10}: {len(device.groups):>5}      V3")
            for group, counts in device.groups.items():
                number = int.from_bytes(group, LINUX.byte_order)
                lines.append(f"\t\t\t\t{number:08X} {counts.users:>5} 0:00000000\t\t0")
        return "\n".join([*lines, ""])

    def process(self) -> int:
        return os.getpid()

    def check_home(self) -> None:
        """A program is on this host because it was put there."""

    # Interfaces

    def next_index(self) -> int:
        """Return the next index that no interface has, after the last that was given so (`dev_index_reserve`)."""
        self._last_index += 1
        while self._last_index in self.devices:
            self._last_index += 1
        return self._last_index

    def new_number(self) -> int:
        """Number something of this machine's."""
        return next(self._numbers)

    def changed(self) -> None:
        """Note that what was worked out before may be wrong now."""
        self.generation += 1
        self._fates.clear()
        self._deliveries.clear()

    def attach(self, device: Device) -> None:
        """Plug an interface in."""
        self.devices[device.index] = device
        if device.link is not None:
            device.link.plug(device)
        self.changed()
        self.tell(netlink.new_settings(device))
        self.tell(netlink.new_link(device))

    def detach(self, device: Device) -> None:
        """Take an interface away, and all that is on it."""
        del self.devices[device.index]
        if device.link is not None:
            device.link.unplug(device)
        self._end_ipv4(device)
        device.is_alive = False
        self.routes.forget(device)
        self.tell(netlink.deleted_link(device))
        self.changed()

    def set_up(self, device: Device, *, up: bool) -> None:
        """Set an interface up, or down. Memberships stay (`ip_mc_up`, `ip_mc_down`)."""
        if device.is_up == up:
            return
        device.is_up = up
        self.changed()
        if up:
            self._begin_groups(device)
            for group in device.groups:
                self.note_group(device, group)
        else:
            device.groups.pop(ALL_SYSTEMS, None)
            device.announced.clear()
            self.routes.forget(device)
        self.tell(netlink.new_link(device))

    def set_mtu(self, device: Device, mtu: int) -> None:
        """Set the MTU. With less than 68 octets there is no IPv4: addresses go, and memberships end."""
        had = device.has_ipv4
        if mtu < 68 and had:
            self._end_ipv4(device)
        device.mtu = mtu
        self.changed()
        self.tell(netlink.new_link(device))
        if device.has_ipv4 and not had:
            self._begin_groups(device)
            self.tell(netlink.new_settings(device))

    def set_multicast(self, device: Device, *, on: bool) -> None:
        """Set or clear an interface's flag IFF_MULTICAST."""
        device.is_multicast = on
        self.tell(netlink.new_link(device))

    def note_carrier(self, device: Device) -> None:
        """Tell that an interface has a carrier now, or none."""
        if device.is_up:
            self.tell(netlink.new_link(device))

    def rename(self, device: Device, name: str) -> None:
        """Give an interface another name."""
        device.name = name
        self.tell(netlink.new_settings(device))
        self.tell(netlink.new_link(device))

    def add_address(self, device: Device, address: IPv4Interface) -> None:
        """Give an interface an address. A second one of a network is secondary (linux net/ipv4/devinet.c)."""
        is_secondary = any(
            each.length == address.network.prefixlen and each.covers(address.ip.packed) for each in device.addresses
        )
        added = Address(address, is_secondary=is_secondary)
        device.addresses.append(added)
        self.changed()
        self.tell(netlink.new_address(device, added))

    def remove_address(self, device: Device, address: Address) -> None:
        """Take an address away; with a primary one, the secondary ones of its network (sysctl promote_secondaries)."""
        gone = [address]
        if not address.is_secondary:
            gone += [each for each in device.addresses if each.is_secondary and each.covers(address.packed)]
        for each in reversed(gone):
            device.addresses.remove(each)
            self.tell(netlink.deleted_address(device, each))
        self.changed()

    def tell(self, message: bytes) -> None:
        """Tell all who listen to changes of interfaces."""
        for each in list(self.netlinks):
            each.push(message)

    def _begin_groups(self, device: Device) -> None:
        if device.is_up and device.has_ipv4:
            device.groups.setdefault(ALL_SYSTEMS, Group(EXCLUDE))

    def _end_ipv4(self, device: Device) -> None:
        for each in list(device.addresses):
            if each in device.addresses:
                self.remove_address(device, each)
        device.groups.clear()
        device.announced.clear()

    # What the routes ask

    def usable_device(self, index: int) -> Device | None:
        """Return an interface that has IPv4 (`inetdev_by_index`)."""
        device = self.devices.get(index)
        return device if device is not None and device.has_ipv4 else None

    def device_towards(self, group: bytes) -> Device | None:
        """Return the interface that the routes choose for a group."""
        device = self.routes.towards(group)
        return device if device is not None and device.has_ipv4 else None

    def owner(self, address: bytes) -> Device | None:
        """Return the interface that has an address. All of 127/8 is the loopback's."""
        if address[0] == 127:
            return self.devices.get(LOOPBACK)
        for device in self.devices.values():
            if device.owns(address):
                return device
        return None

    def is_local(self, address: bytes) -> bool:
        """Tell whether an address is this host's, on whatever interface: the weak host model (RFC 1122 3.3.4.2)."""
        return self.owner(address) is not None and not self.is_shared(address)

    def is_shared(self, address: bytes) -> bool:
        """Tell whether an address is no single host's: multicast, or broadcast."""
        return is_group(address) or address == LIMITED_BROADCAST or self.broadcast_device(address) is not None

    def broadcast_device(self, address: bytes) -> Device | None:
        """Return the interface for which an address is the broadcast address of its network."""
        for device in self.devices.values():
            if device.is_broadcast(address):
                return device
        return None

    # Packets that come in

    def arrive(self, device: Device, packet: Packet) -> None:
        """Take a packet from a link (`ip_rcv`)."""
        key = device, packet.dst, packet.src, packet.protocol
        fate = self._fates.get(key)
        if fate is None:
            fate = _remember(self._fates, key, self._judge(device, packet))
        if fate.is_local:
            self.deliver(device, packet, is_shared=fate.is_shared)
        if fate.is_forwarded:
            (self._forward_group if fate.is_shared else self._forward)(device, packet)

    def _judge(self, device: Device, packet: Packet) -> _Fate:
        """Decide what becomes of a packet that came in (`ip_route_input_slow`)."""
        source, destination = packet.src, packet.dst
        is_usable = device.is_alive and device.is_up and device.has_ipv4
        if not is_usable or not self._is_valid_source(device, packet):
            return _Fate()
        if is_group(destination):
            hears = device.hears(destination, source) or (packet.protocol == IGMP and destination in device.groups)
            return _Fate(is_local=hears, is_forwarded=self.is_router, is_shared=True)
        if self.is_shared(destination):
            return _Fate(is_local=True, is_shared=True)
        if destination[0] != 127 and self.owner(destination) is not None:
            return _Fate(is_local=True)
        return _Fate(is_forwarded=self.sysctls["net.ipv4.ip_forward"] != "0")

    def deliver(self, device: Device, packet: Packet, *, is_shared: bool) -> None:
        """Hand a packet to the sockets that it is for (`ip_local_deliver`).

        Args:
            device: The interface that they are told.
            packet: The packet.
            is_shared: Whether it came as multicast or broadcast.
        """
        key = device, packet.dst, packet.src, packet.dport, packet.protocol, is_shared
        found = self._deliveries.get(key)
        if found is None:
            found = _remember(self._deliveries, key, self._find_receivers(device, packet, is_shared=is_shared))
        for socket in found.sockets:
            socket.enqueue(device, packet, found.local)
        if packet.protocol == IGMP:
            self._hear_igmp(device, packet)
        elif is_shared:
            return
        elif packet.protocol == ICMP:
            self._answer_echo(packet)
        elif packet.is_datagram:
            if all(each.is_raw for each in found.sockets):
                self.send_error(packet, icmp.PORT_UNREACHABLE, packet.dst)
        elif not found.sockets and packet.protocol != UDP:
            self.send_error(packet, icmp.PROTOCOL_UNREACHABLE, packet.dst)

    def _find_receivers(self, device: Device, packet: Packet, *, is_shared: bool) -> _Delivery:
        matching = [each for each in self.sockets if each.matches(device, packet)]
        if is_shared:
            return _Delivery(matching, self.routes.answer_source(device, packet.src))
        # One UDP socket gets a unicast datagram: one bound to the address, else to the interface, else the last one.
        datagram = [each for each in matching if not each.is_raw]
        best = max(datagram, key=lambda each: each.precedence(packet.dst), default=None)
        return _Delivery([each for each in matching if each.is_raw or each is best], packet.dst)

    def _is_valid_source(self, device: Device, packet: Packet) -> bool:
        """Tell whether a source can be true (`fib_validate_source`, `ip_mc_validate_source`)."""
        source, destination = packet.src, packet.dst
        if is_group(source) or source == LIMITED_BROADCAST or source[0] == 127:
            return False
        if source[0] == 0:
            may_lack_source = is_link_scoped(destination) or (is_group(destination) and packet.protocol == IGMP)
            return source == ANY and (may_lack_source or destination == LIMITED_BROADCAST)
        if self.owner(source) is not None:
            return False  # A packet from elsewhere with one of this host's own addresses.
        mode = self._reverse_path_filter(device)
        if not mode:
            return True
        hop = self.routes.find(source)
        return hop is not None and (mode != 1 or hop.device is device)

    def _reverse_path_filter(self, device: Device) -> int:
        """Return the mode of the interface: 0 off, 1 strict, 2 loose (linux Documentation/networking/ip-sysctl.rst)."""
        names = ("all", device.name)
        return max(int(self.sysctls.get(f"net.ipv4.conf.{name}.rp_filter", "0")) for name in names)

    # Packets that go on

    def transmit(self, device: Device, packet: Packet, next_hop: bytes) -> None:
        """Put a packet on an interface's link."""
        if device.link is not None and device.is_up and device.is_alive:
            device.link.transmit(device, packet, next_hop)

    def _forward(self, _device: Device, packet: Packet) -> None:
        """Send a packet on its way (`ip_forward`)."""
        if packet.ttl <= 1:
            self.send_error(packet, icmp.TTL_EXCEEDED)
            return
        hop = self.routes.find(packet.dst)
        if hop is None:
            self.send_error(packet, icmp.NET_UNREACHABLE)
            return
        size = 20 + len(packet.options) + len(packet.body())
        if size > hop.device.mtu and packet.dont_fragment:
            raise not_simulated("a packet that is longer than the MTU of a router's next link")
        self.transmit(hop.device, packet.forwarded(), hop.gateway or packet.dst)

    def _forward_group(self, device: Device, packet: Packet) -> None:
        """Send a group's packet to all other links. A source's way in is where it was first heard."""
        if packet.ttl <= 1 or is_link_scoped(packet.dst) or packet.src == ANY:
            return
        way_in = self._ways_in.setdefault((packet.src, packet.dst), device)
        if not way_in.is_alive:
            way_in = self._ways_in[packet.src, packet.dst] = device
        if way_in is not device:
            return
        for each in list(self.devices.values()):
            if each is not device and each.link is not None:
                self.transmit(each, packet.forwarded(), packet.dst)

    # What the kernel itself sends

    def send_error(self, packet: Packet, kind: tuple[int, int], source: bytes = ANY) -> None:
        """Tell the sender why a packet came in vain (ICMP), from an address that the routes choose by default."""
        message = icmp.error_about(packet, kind)
        if message is None or not (self.is_local(packet.src) or self._errors.allows(packet.src)):
            return
        # Internetwork control, and the TOS of the packet (linux net/ipv4/icmp.c, `__icmp_send`).
        self._send_icmp(packet.src, source, message, packet.tos & 0x1E | 0xC0)

    def _answer_echo(self, packet: Packet) -> None:
        # Those to a group or to broadcast are ignored (net.ipv4.icmp_echo_ignore_broadcasts).
        message = icmp.echo_reply(packet)
        if message is not None:
            self._send_icmp(packet.src, packet.dst, message, packet.tos)

    def _send_icmp(self, destination: bytes, source: bytes, message: bytes, tos: int) -> None:
        try:
            flow = self.routes.flow(destination, source, 0, ICMP)
        except OSError:
            return
        ttl, memory = self.sysctl_number("net.ipv4.ip_default_ttl"), memory_of(len(message), flow.device.mtu)
        answer = Packet(flow.source, destination, ICMP, message, ttl, tos, dont_fragment=False, memory=memory)
        if flow.is_local:
            self.deliver(flow.seen, answer, is_shared=False)
        else:
            self.transmit(flow.device, answer, flow.next_hop)

    # IGMP

    def note_group(self, device: Device, group: bytes) -> None:
        """Report what has changed about a group of an interface, now and once more (RFC 3376 section 5.1)."""
        self.changed()
        if device.link is None or not device.is_up or group == ALL_SYSTEMS:
            return
        counts = device.groups.get(group)
        before = device.announced.pop(group, igmp.NOTHING)
        after = igmp.NOTHING if counts is None else counts.state()
        if counts is not None:
            device.announced[group] = after
        self._report(device, list(igmp.changes(group, before, after)), times=_REPORTS)

    def _report(self, device: Device, records: list[igmp.Record], times: int = 1) -> None:
        if not records:
            return
        source = self.routes.select_source(device, ANY)
        source = source if device.owns(source) else ANY  # RFC 3376 section 4.2.13.
        self.transmit(device, igmp.report(source, records), igmp.ALL_ROUTERS)
        if times > 1:
            when = self.clock.now() + self._chance.random() * igmp.UNSOLICITED_REPORT_INTERVAL
            self.clock.at(when, lambda: self._report(device, records, times - 1))

    def _hear_igmp(self, device: Device, packet: Packet) -> None:
        if igmp.is_general_query(packet.payload) and device.link is not None:
            when = self.clock.now() + self._chance.random() * igmp.QUERY_RESPONSE_INTERVAL
            self.clock.at(when, lambda: self._answer_query(device))

    def _answer_query(self, device: Device) -> None:
        self._report(device, [igmp.current(group, state) for group, state in device.announced.items()])


def _remember(known: dict[tuple[object, ...], T], key: tuple[object, ...], value: T) -> T:
    """Keep what was worked out. Of too much, nothing is kept."""
    if len(known) > _MANY:
        known.clear()
    known[key] = value
    return value
