"""Links between hosts: who hears a packet, when, and whether at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import attrs

from trio_ipv4 import GroupRecordType
from trio_ipv4.testing._simulation import igmp
from trio_ipv4.testing._simulation.packets import IGMP, is_group, is_link_scoped

if TYPE_CHECKING:
    from random import Random

    from trio_ipv4.testing._hosts import Host
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.packets import Packet
    from trio_ipv4.testing._simulation.world import World


_VLAN_HEADER: Final = 4
"""What a cable carries beyond the MTU, in octets (IEEE 802.1Q)."""


def _seconds(_of: object, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{field.name} must be seconds, 0 or more, got {value!r}")


def _probability(_of: object, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{field.name} must be a probability, 0 to 1, got {value!r}")


@final
@attrs.frozen(kw_only=True)
class Conditions:
    """The conditions on a link, as `SimulatedNetwork.link` explains them."""

    latency: float = attrs.field(default=0.0, validator=_seconds)
    jitter: float = attrs.field(default=0.0, validator=_seconds)
    loss: float = attrs.field(default=0.0, validator=_probability)
    duplicate: float = attrs.field(default=0.0, validator=_probability)
    reorder: float = attrs.field(default=0.0, validator=_probability)
    snooping: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    querier: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    up: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))

    @property
    def is_ideal(self) -> bool:
        """Whether every packet arrives at once, and once."""
        return not (self.latency or self.jitter or self.loss or self.duplicate or self.reorder)


class _Member(NamedTuple):
    """What a port wants to hear of a group, and until when."""

    state: igmp.State
    until: float


class _Held(NamedTuple):
    sender: Device
    receiver: Device
    packet: Packet


@final
class SimulatedLink:
    """A link of a simulated network: a cable, or a switch. Made by `SimulatedNetwork.link`. `name` is its name."""

    def __init__(self, world: World, name: str, conditions: Conditions) -> None:
        self.name: Final = name
        self._world: Final = world
        self._clock: Final = world.clock
        self._devices: Final[list[Device]] = []
        self._others: Final[dict[Device, list[Device]]] = {}
        """Who else is there, by who sends."""
        self._cut: Final[set[frozenset[str]]] = set()
        self._held: Final[dict[frozenset[str], list[_Held]]] = {}
        self._streams: Final[dict[tuple[str, str, str], Random]] = {}
        self._latest: Final[dict[tuple[str, str], float]] = {}
        """When the last packet in order arrives, by direction."""
        self._members: Final[dict[tuple[Device, bytes], _Member]] = {}
        """What the switch has learned, by port and group."""
        self._conditions = Conditions()
        self._queries = 0
        self._change(conditions)

    # What a test does

    def set(self, **conditions: Any) -> None:
        """Change conditions, from now on: `link.set(loss=0.3, latency=0.01)`. Packets on their way are not concerned.

        Raises:
            TypeError: There is no such condition.
            ValueError: A value is out of range.
        """
        self._clock.catch_up()
        self._change(attrs.evolve(self._conditions, **conditions))

    def partition(self, one: Host | str, other: Host | str) -> None:
        """Let no packet pass between two hosts, in either direction, until `heal`.

        Raises:
            KeyError: There is no such host.
            ValueError: It is one host twice.
        """
        self._clock.catch_up()
        self._cut.add(self._pair(one, other))

    def heal(self) -> None:
        """Undo all partitions."""
        self._clock.catch_up()
        self._cut.clear()

    def hold(self, one: Host | str, other: Host | str) -> None:
        """Keep all packets between two hosts, in either direction, until `release`. Errors as for `partition`."""
        self._clock.catch_up()
        self._held.setdefault(self._pair(one, other), [])

    def release(self) -> None:
        """Let all held packets go, in their order, and hold no more."""
        self._clock.catch_up()
        held = [each for pair in self._held.values() for each in pair]
        self._held.clear()
        for each in held:
            self._pass_on(*each)

    def __repr__(self) -> str:
        return f"<link {self.name} {self._conditions}>"

    # For hosts

    @property
    def is_up(self) -> bool:
        """Whether the link works."""
        return self._conditions.up

    def plug(self, device: Device) -> None:
        """Plug an interface in."""
        self._devices.append(device)
        self._others.clear()

    def unplug(self, device: Device) -> None:
        """Unplug an interface."""
        self._devices.remove(device)
        self._others.clear()
        for key in [key for key in self._members if key[0] is device]:
            del self._members[key]

    def has_receiver(self, sender: Device, packet: Packet, next_hop: bytes) -> bool:
        """Tell whether a packet can be put on the link: it works, and somebody has the address."""
        if not self._conditions.up or not sender.is_up or not sender.is_alive:
            return False
        if is_group(packet.dst) or sender.machine.is_shared(next_hop):
            return True
        return any(each.is_up and each.machine.is_local(next_hop) for each in self._devices if each is not sender)

    def transmit(self, sender: Device, packet: Packet, next_hop: bytes) -> None:
        """Carry a packet to whom it concerns."""
        conditions = self._conditions
        if not conditions.up:
            return
        self._world.capture(packet)
        if conditions.snooping and packet.protocol == IGMP:
            self._learn(sender, packet)
        is_fast = conditions.is_ideal and not self._cut and not self._held
        for receiver in self._receivers(sender, packet, next_hop):
            # Longer than the receiver's MTU, it is lost (linux net/core/dev.c, `__is_skb_forwardable`).
            if receiver.mtu < sender.mtu and packet.length(sender.mtu) > receiver.mtu + _VLAN_HEADER:
                continue
            if is_fast:
                receiver.machine.input.arrive(receiver, packet)
            else:
                self._carry(sender, receiver, packet)

    # Inside

    def _pair(self, one: Host | str, other: Host | str) -> frozenset[str]:
        names = {self._world.require_host(each if isinstance(each, str) else each.name) for each in (one, other)}
        if len(names) != 2:
            raise ValueError(f"pass two different hosts, got {one!r} and {other!r}")
        return frozenset(names)

    def _change(self, conditions: Conditions) -> None:
        before, self._conditions = self._conditions, conditions
        if conditions.up != before.up:
            for device in self._devices:
                device.machine.note_carrier(device)
        if not conditions.snooping:
            self._members.clear()
        elif not before.snooping:
            for device in self._devices:
                for group, state in device.announced.items():
                    self._members[device, group] = _Member(state, self._clock.now() + igmp.MEMBERSHIP_INTERVAL)
        has_queries = conditions.snooping and conditions.querier and conditions.up
        if has_queries != (before.snooping and before.querier and before.up):
            self._queries += 1
            if has_queries:
                self._query(self._queries)

    def _query(self, number: int) -> None:
        """Ask for members, now and from time to time, until the conditions change."""
        if number == self._queries:
            query = igmp.general_query()
            self._world.capture(query)
            for device in list(self._devices):
                device.machine.input.arrive(device, query)
            self._clock.after(igmp.QUERY_INTERVAL, lambda: self._query(number))

    def _learn(self, device: Device, packet: Packet) -> None:
        """Learn from a report which groups a port wants (RFC 4541 section 2.1.1)."""
        for record in igmp.read_report(packet.payload):
            key = device, record.group.packed
            member = self._members.pop(key, _Member(igmp.NOTHING, 0))
            state = igmp.state_after(record, member.state)
            if state != igmp.NOTHING:
                is_renewed = record.type != GroupRecordType.BLOCK_OLD_SOURCES
                until = self._clock.now() + igmp.MEMBERSHIP_INTERVAL if is_renewed else member.until
                self._members[key] = _Member(state, until)

    def _wants(self, device: Device, group: bytes) -> bool:
        if device.machine.is_router or is_link_scoped(group):
            return True
        member = self._members.get((device, group))
        return member is not None and self._clock.now() <= member.until

    def _receivers(self, sender: Device, packet: Packet, next_hop: bytes) -> list[Device]:
        others = self._others.get(sender)
        if others is None:
            others = self._others[sender] = [each for each in self._devices if each is not sender]
        if is_group(packet.dst):
            return [each for each in others if self._wants(each, packet.dst)] if self._conditions.snooping else others
        # To a broadcast address of whatever interface of the sender (linux net/ipv4/arp.c, `arp_constructor`).
        if sender.machine.is_shared(next_hop):
            return others
        if next_hop[0] == 127:
            return []
        # A host answers for any of its addresses on any interface (ip-sysctl.rst: arp_ignore).
        up = [each for each in others if each.is_up and each.machine.is_local(next_hop)]
        if not up:
            sender.machine.input.give_up(sender, packet, next_hop)
        return sorted(up, key=lambda each: not each.owns(next_hop))[:1]

    def _carry(self, sender: Device, receiver: Device, packet: Packet) -> None:
        pair = frozenset((sender.machine.name, receiver.machine.name))
        if pair in self._cut:
            return
        if pair in self._held:
            self._held[pair].append(_Held(sender, receiver, packet))
            return
        self._pass_on(sender, receiver, packet)

    def _pass_on(self, sender: Device, receiver: Device, packet: Packet) -> None:
        """Let chance decide when a packet arrives, and how often."""
        conditions = self._conditions
        way = sender.place, receiver.place
        # All are drawn for every packet, so that a lost one shifts nothing for the next.
        is_lost = self._draw(*way, "loss", conditions.loss) < conditions.loss
        is_twice = self._draw(*way, "duplicate", conditions.duplicate) < conditions.duplicate
        is_late = self._draw(*way, "reorder", conditions.reorder) < conditions.reorder
        longer = conditions.jitter * self._draw(*way, "jitter", conditions.jitter)
        again = conditions.jitter * self._draw(*way, "second jitter", conditions.jitter)
        if is_lost:
            return
        when = self._clock.now() + conditions.latency + longer
        if is_late:
            when += conditions.latency + conditions.jitter
        else:
            when = max(when, self._latest.get(way, 0.0))
            self._latest[way] = when
        self._clock.at(when, lambda: receiver.machine.input.arrive(receiver, packet))
        if is_twice:
            self._clock.at(when + again, lambda: receiver.machine.input.arrive(receiver, packet))
        self._clock.catch_up()

    def _draw(self, sender: str, receiver: str, condition: str, setting: float) -> float:
        """Return a number of the condition's own, from 0 up to but less than 1; without drawing if it is off."""
        if not setting:
            return 1.0
        key = sender, receiver, condition
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = self._world.chance(self.name, *key)
        return stream.random()
