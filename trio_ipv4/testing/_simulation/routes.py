"""Where a packet goes, and from which address: linux net/ipv4/route.c and net/ipv4/fib_frontend.c.

The routes are those of the addresses, and those that were added. There is one table, no rules, and no metrics.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4.testing._simulation.packets import ANY, IGMP, LIMITED_BROADCAST, is_group, is_link_scoped
from trio_ipv4.testing._simulation.refuse import refuse

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine

LOOPBACK: Final = 1
"""The index of the loopback interface."""
_LOCALHOST: Final = b"\x7f\0\0\1"
_UNIVERSE: Final = 0
_LINK: Final = 253
_HOST: Final = 254
"""RT_SCOPE_*, linux/rtnetlink.h."""


class Hop(NamedTuple):
    """The next hop to a destination: the interface, and the gateway, if there is one."""

    device: Device
    gateway: bytes | None


class Flow(NamedTuple):
    """The way of a socket's packets to a destination."""

    device: Device
    seen: Device
    """The interface that IP_PKTINFO tells for what stays on this host."""
    source: bytes
    destination: bytes
    next_hop: bytes
    is_local: bool
    is_broadcast: bool
    is_shared: bool
    """Whether it goes out as multicast or broadcast."""


@final
class Routes:
    """The routes of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine: Final = machine
        self._added: list[tuple[IPv4Network, Hop]] = []

    def add(self, network: IPv4Network, device: Device, gateway: bytes | None) -> None:
        """Add a route."""
        self._added.append((network, Hop(device, gateway)))

    def remove(self, network: IPv4Network, device: Device) -> None:
        """Take an added route away."""
        self._added = [each for each in self._added if (each[0], each[1].device) != (network, device)]

    def forget(self, device: Device) -> None:
        """Take away the added routes over an interface: it is down, or gone."""
        self._added = [each for each in self._added if each[1].device is not device]

    def find(self, destination: bytes, device: Device | None = None) -> Hop | None:
        """Find the hop to a destination that is none of this host's addresses; with a device, over that only."""
        best: Hop | None = None
        length = -1
        for each in (device,) if device is not None else self._machine.devices.values():
            if each.is_up and not each.is_loopback:
                for address in each.addresses:
                    if address.length > length and not address.is_secondary and address.covers(destination):
                        best, length = Hop(each, None), address.length
        for network, hop in self._added:
            is_better = network.prefixlen > length and device in (None, hop.device)
            if is_better and IPv4Address(destination) in network:
                best, length = hop, network.prefixlen
        return best

    def select_source(self, device: Device, peer: bytes, scope: int = _UNIVERSE) -> bytes:
        """Choose a source address for an interface (`inet_select_addr`): its own, or else another interface's."""
        found = device.address_for(peer, scope)
        if found is not None:
            return found
        for each in self._machine.devices.values():
            found = each.address_for(ANY, scope)
            if found is not None:
                return found
        return ANY

    def answer_source(self, device: Device, peer: bytes) -> bytes:
        """Return the address that this host would use towards a sender (`fib_compute_spec_dst`)."""
        if peer == ANY:
            return self.select_source(device, peer, _LINK)
        owner = self._machine.owner(peer)
        if owner is not None and not self._machine.is_shared(peer):
            return owner.preferred_source(peer)
        hop = self.find(peer)
        return self.select_source(device, peer) if hop is None else self.select_source(hop.device, hop.gateway or peer)

    def towards(self, destination: bytes) -> Device | None:
        """Return the interface on which a packet leaves if nothing else is said."""
        try:
            return self.flow(destination, ANY, 0, 0).device
        except OSError:
            return None

    def flow(self, destination: bytes, source: bytes, index: int, protocol: int, *, any_source: bool = False) -> Flow:
        """Decide on the way of a socket's packet (`ip_route_output_key_hash_rcu`).

        Args:
            destination: Where to; 0.0.0.0 is this host.
            source: The address asked for; 0.0.0.0 lets the routes choose.
            index: The interface asked for; 0 lets the routes choose.
            protocol: The IP protocol.
            any_source: Whether the source need not be an address of this host (raw(7): IP_HDRINCL).

        Raises:
            OSError: EINVAL, ENETUNREACH, ENODEV: there is no way.
        """
        machine = self._machine
        wide = is_group(destination) or destination == LIMITED_BROADCAST
        owner = self._check_source(source, any_source=any_source and (bool(index) or not wide))
        device = owner if wide and not index else None
        if index:
            device = self._usable(index)
            if source == ANY:
                source = self._early_source(device, destination, protocol)
        if destination == ANY:
            destination = source = source if source != ANY else _LOCALHOST
            loopback = machine.devices[LOOPBACK]
            return self._make(loopback, destination, source, destination, device or loopback)
        if device is None or not wide:
            return self._look_up(destination, source, device)
        if source == ANY:
            source = self.select_source(device, ANY)
        return self._make(device, destination, source, destination)

    def _check_source(self, source: bytes, *, any_source: bool) -> Device | None:
        """Return the interface that has the source address that was asked for."""
        if source == ANY:
            return None
        if is_group(source) or source == LIMITED_BROADCAST:
            refuse(errno.EINVAL)
        owner = self._machine.owner(source)
        if owner is None and not any_source:
            refuse(errno.ENETUNREACH)
        return owner

    def _usable(self, index: int) -> Device:
        """Return the interface that was asked for."""
        device = self._machine.devices.get(index)
        if device is None:
            refuse(errno.ENODEV)
        if not device.is_up or not device.has_ipv4:
            refuse(errno.ENETUNREACH)
        return device

    def _early_source(self, device: Device, destination: bytes, protocol: int) -> bytes:
        """Choose a source before the routes are asked; 0.0.0.0 if they are to choose."""
        if is_link_scoped(destination) or destination == LIMITED_BROADCAST or protocol == IGMP:
            return self.select_source(device, ANY, _LINK)
        if is_group(destination):
            return self.select_source(device, ANY)
        return self.select_source(device, ANY, _HOST) if destination == ANY else ANY

    def _look_up(self, destination: bytes, source: bytes, device: Device | None) -> Flow:
        machine = self._machine
        shared = machine.broadcast_device(destination)
        if shared is not None and device in (None, shared):
            source = source if source != ANY else self.select_source(shared, destination, _HOST)
            return self._make(shared, destination, source, destination)
        owner = machine.owner(destination)
        if owner is not None and device in (None, owner):
            source = source if source != ANY else owner.preferred_source(destination)
            return self._make(machine.devices[LOOPBACK], destination, source, destination, owner)
        hop = self.find(destination, device)
        if hop is None:
            if device is None:
                refuse(errno.ENETUNREACH)
            # "Apparently, routing tables are wrong. Assume, that the destination is on link."
            source = source if source != ANY else self.select_source(device, ANY, _LINK)
            return self._make(device, destination, source, destination)
        source = source if source != ANY else self.select_source(hop.device, hop.gateway or destination)
        next_hop = destination if is_group(destination) else hop.gateway or destination
        return self._make(hop.device, destination, source, next_hop)

    def _make(
        self, device: Device, destination: bytes, source: bytes, next_hop: bytes, seen: Device | None = None
    ) -> Flow:
        """Check the result (`__mkroute_output`)."""
        if not device.has_ipv4 or (source[0] == 127 and not device.is_loopback):
            refuse(errno.EINVAL)
        is_broadcast = destination == LIMITED_BROADCAST or (seen is None and device.is_broadcast(destination))
        is_local = device.is_loopback and not is_broadcast
        is_shared = is_broadcast or is_group(destination)
        return Flow(device, seen or device, source, destination, next_hop, is_local, is_broadcast, is_shared)
