"""A simulated host's kernel: its interfaces, its addresses, and the system that it is for the library.

It speaks Linux: the rules are those of the sources that each function names. `input.py` has what it does with packets,
`routes.py` where to and from which address they go, `memberships.py` groups.
"""

from __future__ import annotations

import errno
import itertools
import os
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_ipv4._abi import structs
from trio_ipv4.testing._simulation import netlink, ping
from trio_ipv4.testing._simulation.devices import Address, Device, Group
from trio_ipv4.testing._simulation.input import Input
from trio_ipv4.testing._simulation.internet import InternetSocket
from trio_ipv4.testing._simulation.linux import EXCLUDE, LINUX, SYSCTLS
from trio_ipv4.testing._simulation.netlink import NetlinkSocket
from trio_ipv4.testing._simulation.packets import (
    ALL_SYSTEMS,
    ICMP,
    LIMITED_BROADCAST,
    UDP,
    Packet,
    is_group,
)
from trio_ipv4.testing._simulation.path_mtu import PathMTUs
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse
from trio_ipv4.testing._simulation.reports import Reports
from trio_ipv4.testing._simulation.routes import LOOPBACK, Routes

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4.testing._simulation.world import World

_COOKIES: Final = itertools.count(1 << 62)
"""Names of networks (SO_NETNS_COOKIE), which no real one has: the kernel counts from 1."""


@final
class Machine:
    """The kernel of one host; the library's `System`."""

    platform: Platform = LINUX

    def __init__(self, world: World, name: str, *, is_router: bool, privileged: bool) -> None:
        self.name: Final = name
        self._world: Final = world
        self.number: Final[int] = len(world.machines) + 1
        self.clock: Final = world.clock
        self.cookie: Final[bytes] = next(_COOKIES).to_bytes(8, LINUX.byte_order)
        self.is_router: Final = is_router
        self.privileged: Final = privileged
        self.sysctls: dict[str, str] = {**SYSCTLS, "net.ipv4.ip_forward": "1" if is_router else "0"}
        self.devices: Final[dict[int, Device]] = {}
        self.routes: Final = Routes(self)
        self.paths: Final = PathMTUs(self)
        self.sockets: Final[list[InternetSocket]] = []
        self.netlinks: Final[list[NetlinkSocket]] = []
        self.generation: int = 0
        """Counts the changes that may decide where packets go. What was worked out before one is worth nothing."""
        self._numbers: Final = itertools.count(1)
        self._last_index: int = LOOPBACK
        chance = world.chance(name)
        self.reports: Final = Reports(self, chance)
        self.input: Final = Input(self)
        self.next_port: int = 32768 + chance.randrange(20000)
        self.last_identifier: int = self.next_port
        self.attach(Device(self, LOOPBACK, "lo", 65536, None))
        self.add_address(self.devices[LOOPBACK], IPv4Interface("127.0.0.1/8"))

    # The system (`trio_ipv4/_kernel/system.py`)

    def socket(self, family: int, kind: int, protocol: int) -> Socket:
        if self._world.is_over:
            raise trio.ClosedResourceError("the simulated network has ended")
        self.clock.catch_up()
        if family == LINUX.number("rtnetlink"):
            return NetlinkSocket(self, kind, protocol)
        if family == structs.AF_INET and kind == structs.SOCK_DGRAM and protocol in (0, UDP):
            return InternetSocket(self, kind, UDP)
        if family == structs.AF_INET and kind == structs.SOCK_DGRAM and protocol == ICMP:
            ping.check_group(self)
            return InternetSocket(self, kind, ICMP)
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

    def uptime(self) -> float:
        return self.clock.now()

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
        self.input.forget()

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
        self.paths.forget(device)
        self.tell(netlink.deleted_link(device))
        self.changed()

    def set_up(self, device: Device, *, up: bool) -> None:
        """Set an interface up, or down. Memberships stay (`ip_mc_up`, `ip_mc_down`)."""
        if device.is_up == up:
            return
        device.is_up = up
        self.changed()
        self.tell(netlink.new_link(device))
        if up:
            self._begin_groups(device)
            for group in device.groups:
                self.note_group(device, group)
        else:
            self.quit(device, ALL_SYSTEMS)
            device.announced.clear()
            self.routes.forget(device)
            self.paths.forget(device)

    def set_mtu(self, device: Device, mtu: int) -> None:
        """Set the MTU. With less than 68 octets there is no IPv4: addresses go, and memberships end."""
        had, before = device.has_ipv4, device.mtu
        if mtu < 68 and had:
            self._end_ipv4(device)
        device.mtu = mtu
        self.paths.note_mtu(device, before)
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

    def enter(self, device: Device, group: bytes, mode: int) -> None:
        """Let an interface join a group, for its first member (`____ip_mc_inc_group`)."""
        device.groups[group] = Group(mode, self.clock.now())
        self.tell(netlink.new_group(device, group))

    def quit(self, device: Device, group: bytes) -> None:
        """Let an interface leave a group, after its last member (`__ip_mc_dec_group`)."""
        if group in device.groups:
            self.tell(netlink.deleted_group(device, group))
            del device.groups[group]

    def _begin_groups(self, device: Device) -> None:
        if device.is_up and device.has_ipv4 and ALL_SYSTEMS not in device.groups:
            self.enter(device, ALL_SYSTEMS, EXCLUDE)

    def _end_ipv4(self, device: Device) -> None:
        for each in list(device.addresses):
            if each in device.addresses:
                self.remove_address(device, each)
        self.quit(device, ALL_SYSTEMS)
        device.groups.clear()  # Of these Linux tells nothing (`ip_mc_destroy_dev`).
        device.announced.clear()

    # What others ask

    def named(self, name: str) -> Device | None:
        """Return the interface with a name."""
        return next((each for each in self.devices.values() if each.name == name), None)

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

    def input_device(self, device: Device, packet: Packet) -> Device:
        """Return where a packet really came in, of which sockets may be told otherwise (`skb->dev`)."""
        return device if self.owner(packet.src) is None else self.devices[LOOPBACK]

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

    # Packets

    def transmit(self, device: Device, packet: Packet, next_hop: bytes) -> None:
        """Put a packet on an interface's link."""
        if device.link is not None and device.is_up and device.is_alive:
            device.link.transmit(device, packet, next_hop)

    def note_group(self, device: Device, group: bytes) -> None:
        """Note that a group of an interface has changed."""
        self.changed()
        self.reports.note(device, group)
