"""A host's interfaces, each for as long as it lives: one that is made anew with the same index is another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from trio_ipv4 import InterfaceFlags
from trio_ipv4._values.interface import IPV4_MIN_MTU
from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE
from trio_ipv4.testing._simulation.packets import ALL_SYSTEMS, ANY

if TYPE_CHECKING:
    from ipaddress import IPv4Interface

    from trio_ipv4.testing._simulation.links import SimulatedLink
    from trio_ipv4.testing._simulation.machine import Machine

_RUNNING: Final = InterfaceFlags.RUNNING | InterfaceFlags.LOWER_UP
_RUNNING_LOOPBACK: Final = InterfaceFlags.LOOPBACK | InterfaceFlags.UP | _RUNNING
_SCOPE_GLOBAL: Final = 0
_SCOPE_HOST: Final = 254
"""RT_SCOPE_*, linux/rtnetlink.h."""


@final
class Address:
    """An address of an interface. A later one of the same network is secondary (linux net/ipv4/devinet.c)."""

    def __init__(self, interface: IPv4Interface, *, is_secondary: bool) -> None:
        self.interface: Final = interface
        self.packed: Final = interface.ip.packed
        self.scope: Final = _SCOPE_HOST if interface.ip.is_loopback else _SCOPE_GLOBAL
        self.is_secondary: Final = is_secondary
        length = interface.network.prefixlen
        self.length: Final = length
        self._mask: Final = int(interface.netmask)
        self._network: Final = int(interface.network.network_address)
        self.broadcast: Final = interface.network.broadcast_address.packed if length < 31 else None

    def covers(self, address: bytes) -> bool:
        """Tell whether an address is in the same network."""
        return int.from_bytes(address, "big") & self._mask == self._network


@final
class Group:
    """A group that an interface is in: the counts that Linux keeps of it (`struct ip_mc_list`, linux/igmp.h).

    It knows no sockets. So a leave for a membership of an earlier interface with the same index takes away from these.
    """

    def __init__(self, mode: int, joined_at: float) -> None:
        self.joined_at: Final = joined_at
        """When the interface joined it, by the network's clock."""
        self.users = 1
        self.modes = [0, 0]
        """How many sockets exclude, and include."""
        self.modes[mode] = 1
        self.sources: Final[dict[bytes, list[int]]] = {}
        """How many sockets exclude each source, and include it."""

    def hears(self, source: bytes) -> bool:
        """Tell whether somebody wants a source (linux net/ipv4/igmp.c, `ip_check_mc_rcu`; RFC 3376 section 3.2)."""
        counts = self.sources.get(source)
        if source == ANY:
            return True
        if counts is None:
            return self.modes[EXCLUDE] != 0
        return counts[INCLUDE] != 0 or counts[EXCLUDE] != self.modes[EXCLUDE]

    def state(self) -> tuple[int, frozenset[bytes]]:
        """Return the mode and the sources that a report tells (RFC 3376 section 3.2)."""
        if not self.modes[EXCLUDE]:
            return INCLUDE, frozenset(source for source, counts in self.sources.items() if counts[INCLUDE])
        return EXCLUDE, frozenset(source for source in self.sources if not self.hears(source))


@final
class Device:
    """An interface of a host, on a link or none."""

    def __init__(self, machine: Machine, index: int, name: str, mtu: int, link: SimulatedLink | None) -> None:
        self.machine: Final = machine
        self.index: Final = index
        self.name = name
        self.mtu = mtu
        self.link: Final = link
        number = machine.number.to_bytes(2, "big") + (index & 0xFFFF).to_bytes(2, "big")
        self.hardware_address: Final[bytes] = bytes(6) if link is None else b"\2\0" + number
        self.place: Final = f"{machine.name}.{name}"
        """Its name among all hosts, of which its random numbers come."""
        self.is_loopback: Final = link is None
        self.is_up: bool = self.is_loopback
        self.is_alive = True
        self.is_multicast = True
        """IFF_MULTICAST: what programs go by; it stops nothing."""
        self.addresses: list[Address] = []
        self.groups: dict[bytes, Group] = {}
        self.announced: dict[bytes, tuple[int, frozenset[bytes]]] = {}
        """What the last reports said of each group."""
        if self.is_up:
            self.groups[ALL_SYSTEMS] = Group(EXCLUDE, machine.clock.now())

    @property
    def flags(self) -> InterfaceFlags:
        """The flags, as netdevice(7) has them."""
        if self.is_loopback:
            return _RUNNING_LOOPBACK if self.is_up else InterfaceFlags.LOOPBACK
        has_carrier = self.link is not None and self.link.is_up
        return (
            InterfaceFlags.BROADCAST
            | (InterfaceFlags.MULTICAST if self.is_multicast else InterfaceFlags(0))
            | (InterfaceFlags.UP if self.is_up else InterfaceFlags(0))
            | (_RUNNING if self.is_up and has_carrier else InterfaceFlags(0))
        )

    @property
    def has_ipv4(self) -> bool:
        """Whether the interface has IPv4 at all: not with an MTU of less than 68 (RFC 791)."""
        return self.is_alive and self.mtu >= IPV4_MIN_MTU

    def owns(self, address: bytes) -> bool:
        """Tell whether the interface has an address."""
        return any(each.packed == address for each in self.addresses)

    def preferred_source(self, own: bytes) -> bytes:
        """Return the source towards one of the interface's own addresses: towards a secondary one, its primary.

        All of 127/8 is an interface's that has an address of it (linux net/ipv4/fib_frontend.c, `fib_add_ifaddr`).
        """
        for each in self.addresses:
            if not each.is_secondary and each.covers(own) and not self.is_primary(own):
                return each.packed
        return own

    def is_primary(self, address: bytes) -> bool:
        """Tell whether the interface has an address, and not as a secondary one."""
        return any(each.packed == address and not each.is_secondary for each in self.addresses)

    def is_broadcast(self, address: bytes) -> bool:
        """Tell whether an address is the broadcast address of one of its networks."""
        return self.is_up and any(each.broadcast == address for each in self.addresses)

    def hears(self, group: bytes, source: bytes) -> bool:
        """Tell whether some socket wants a group's datagrams from a source here."""
        found = self.groups.get(group)
        return found is not None and found.hears(source)

    def address_for(self, peer: bytes, scope: int) -> bytes | None:
        """Choose a source address: that of the peer's network, else the first (`inet_select_addr`)."""
        first: bytes | None = None
        for each in self.addresses:
            if each.is_secondary or each.scope > scope:
                continue
            if peer == ANY or each.covers(peer):
                return each.packed
            first = first or each.packed
        return first
