"""How a host tells of its groups: by IGMPv3 (RFC 9776 section 5; linux net/ipv4/igmp.c)."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4.testing._simulation import igmp
from trio_ipv4.testing._simulation.packets import ALL_SYSTEMS, ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from trio_ipv4 import GroupRecord
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.packets import Packet

_MOMENT: Final = 0.01
"""How long changes are gathered before they are reported, in seconds (`igmp_ifc_start_timer`: two or three ticks)."""
_TIMES: Final = 2
"""The robustness variable: how often a change is reported (RFC 9776 section 8.1)."""


class _Change(NamedTuple):
    """What has happened to a group since the last report about it."""

    state: igmp.State
    has_new_mode: bool = False
    """Whether the mode has changed meanwhile, be it forth and back (`pmc->crcount`)."""
    touched: frozenset[bytes] = frozenset()
    """Sources that came or went meanwhile (`psf->sf_crcount`)."""

    def then(self, state: igmp.State) -> _Change:
        """Return the change after one more."""
        (mode, sources), (new_mode, new_sources) = self.state, state
        return _Change(state, self.has_new_mode or mode != new_mode, self.touched | (sources ^ new_sources))

    @property
    def before(self) -> igmp.State:
        """A state from which the records that Linux sends are those of a change to this one."""
        mode, sources = self.state
        return (1 - mode, frozenset()) if self.has_new_mode else (mode, sources ^ self.touched)


@final
class Reports:
    """The reports of one host."""

    def __init__(self, machine: Machine, chance: Random) -> None:
        self._machine: Final = machine
        self._chance: Final = chance
        self._changes: Final[dict[tuple[Device, bytes], _Change]] = {}
        """Changes that are still to be reported."""
        self._reported: Final[collections.Counter[tuple[Device, bytes]]] = collections.Counter()
        """How many changes of each group were reported."""

    def note(self, device: Device, group: bytes) -> None:
        """Report what has changed about a group of an interface, in a moment and once more (RFC 9776 section 5.1)."""
        if device.link is None or not device.is_up or group == ALL_SYSTEMS:
            return
        if not self._changes:
            self._machine.clock.after(_MOMENT, self._report_changes)
        counts = device.groups.get(group)
        change = self._changes.get((device, group)) or _Change(device.announced.get(group, igmp.NOTHING))
        self._changes[device, group] = change.then(igmp.NOTHING if counts is None else counts.state())

    def hear(self, device: Device, packet: Packet) -> None:
        """Answer a query for all groups, some time within the response interval (RFC 9776 section 5.2)."""
        if igmp.is_general_query(packet.payload) and device.link is not None:
            self._later(igmp.QUERY_RESPONSE_INTERVAL, lambda: self._answer(device))

    def _answer(self, device: Device) -> None:
        self._send(device, [igmp.current(group, state) for group, state in device.announced.items()])

    def _report_changes(self) -> None:
        changes = dict(self._changes)
        self._changes.clear()
        for device in {device: None for device, _ in changes}:
            if device.is_up:
                self._report(device, {group: change for (each, group), change in changes.items() if each is device})

    def _report(self, device: Device, changes: Mapping[bytes, _Change]) -> None:
        """Report changes of groups in one message, and once more those of groups that have not changed again."""
        records = {group: self._announce(device, group, change) for group, change in changes.items()}
        numbers = {group: self._reported[device, group] for group in changes}

        def send() -> None:
            last = [group for group in changes if self._reported[device, group] == numbers[group]]
            self._send(device, [record for group in last for record in records[group]])

        send()
        for _ in range(_TIMES - 1):
            self._later(igmp.UNSOLICITED_REPORT_INTERVAL, send)

    def _announce(self, device: Device, group: bytes, change: _Change) -> Sequence[GroupRecord]:
        """Return the records that announce a change."""
        self._reported[device, group] += 1
        if group in device.groups:
            device.announced[group] = change.state
        else:
            device.announced.pop(group, None)
        return igmp.announce(group, change.before, change.state)

    def _send(self, device: Device, records: Sequence[GroupRecord]) -> None:
        if not records:
            return
        source = self._machine.routes.select_source(device, ANY)
        source = source if device.owns(source) else ANY  # RFC 9776 section 4.2.14.
        self._machine.transmit(device, igmp.report(source, records), igmp.ALL_ROUTERS)

    def _later(self, within: float, call: Callable[[], None]) -> None:
        self._machine.clock.after(self._chance.random() * within, call)
