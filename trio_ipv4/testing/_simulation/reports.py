"""How a host tells of its groups: by IGMPv3 (RFC 3376 section 5; linux net/ipv4/igmp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from trio_ipv4.testing._simulation import igmp
from trio_ipv4.testing._simulation.packets import ALL_SYSTEMS, ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.packets import Packet

_TIMES: Final = 2
"""The robustness variable: how often a change is reported (RFC 3376 section 8.1)."""


@final
class Reports:
    """The reports of one host."""

    def __init__(self, machine: Machine, chance: Random) -> None:
        self._machine: Final = machine
        self._chance: Final = chance

    def note(self, device: Device, group: bytes) -> None:
        """Report what has changed about a group of an interface, now and once more (RFC 3376 section 5.1)."""
        if device.link is None or not device.is_up or group == ALL_SYSTEMS:
            return
        counts = device.groups.get(group)
        before = device.announced.pop(group, igmp.NOTHING)
        after = igmp.NOTHING if counts is None else counts.state()
        if counts is not None:
            device.announced[group] = after
        self._send(device, list(igmp.changes(group, before, after)), _TIMES)

    def hear(self, device: Device, packet: Packet) -> None:
        """Answer a query for all groups, some time within the response interval (RFC 3376 section 5.2)."""
        if igmp.is_general_query(packet.payload) and device.link is not None:
            self._later(igmp.QUERY_RESPONSE_INTERVAL, lambda: self._answer(device))

    def _answer(self, device: Device) -> None:
        self._send(device, [igmp.current(group, state) for group, state in device.announced.items()], 1)

    def _send(self, device: Device, records: Sequence[igmp.Record], times: int) -> None:
        if not records:
            return
        source = self._machine.routes.select_source(device, ANY)
        source = source if device.owns(source) else ANY  # RFC 3376 section 4.2.13.
        self._machine.transmit(device, igmp.report(source, records), igmp.ALL_ROUTERS)
        if times > 1:
            self._later(igmp.UNSOLICITED_REPORT_INTERVAL, lambda: self._send(device, records, times - 1))

    def _later(self, within: float, call: Callable[[], None]) -> None:
        self._machine.clock.after(self._chance.random() * within, call)
