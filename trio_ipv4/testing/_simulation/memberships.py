"""The memberships of one socket: the rules of linux net/ipv4/igmp.c, one function each.

A socket's memberships and an interface's groups are two tables. Only an index connects them. That is why Linux answers
for memberships of interfaces that are gone, and why their leave counts against another interface.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final, final

from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE
from trio_ipv4.testing._simulation.packets import is_group
from trio_ipv4.testing._simulation.refuse import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine


@final
class Member:
    """A membership of a socket (`struct ip_mc_socklist`, linux/igmp.h)."""

    def __init__(self, index: int, group: bytes, mode: int) -> None:
        self.index: Final = index
        self.group: Final = group
        self.mode = mode
        self.sources: list[bytes] | None = None
        """`None` and an empty list differ: without a list, the mode may still change."""


@final
class Memberships:
    """The memberships of one socket of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine: Final = machine
        self._members: Final[list[Member]] = []

    def allows(self, index: int, group: bytes, source: bytes, *, otherwise: bool) -> bool:
        """Tell whether the socket wants a datagram (`ip_mc_sf_allow`); `otherwise`: if it has not joined."""
        member = self._find(index, group)
        if member is None:
            return otherwise
        return (source in (member.sources or ())) == (member.mode == INCLUDE)

    def read(self, index: int, group: bytes) -> tuple[int, Sequence[bytes]]:
        """Return mode and sources (`ip_mc_gsfget`)."""
        member = self._find(index, group)
        if member is None:
            refuse(errno.EADDRNOTAVAIL)
        return member.mode, member.sources or ()

    def read_by_route(self, group: bytes) -> tuple[int, Sequence[bytes]]:
        """Return mode and sources on the interface that the routes choose (`ip_mc_msfget`)."""
        return self.read(self._require_device(0, group).index, group)

    def join(self, index: int, group: bytes, mode: int = EXCLUDE) -> int:
        """Join, and return the index of the interface (`__ip_mc_join_group`)."""
        if not is_group(group):
            refuse(errno.EINVAL)
        device = self._require_device(index, group)
        if self._find(device.index, group) is not None:
            refuse(errno.EADDRINUSE)
        if len(self._members) >= self._machine.sysctl_number("net.ipv4.igmp_max_memberships"):
            refuse(errno.ENOBUFS)
        self._members.insert(0, Member(device.index, group, mode))
        found = device.groups.get(group)
        if found is None:
            self._machine.enter(device, group, mode)
        else:
            found.users += 1
            found.modes[mode] += 1
        self._machine.note_group(device, group)
        return device.index

    def leave(self, index: int, group: bytes) -> None:
        """Leave (`ip_mc_leave_group`)."""
        device = self._device(index, group)
        if not index and device is None:
            refuse(errno.ENODEV)
        member = self._find(index or (device.index if device else 0), group)
        if member is None:
            refuse(errno.EADDRNOTAVAIL)
        self._members.remove(member)
        self._drop(member, device)

    def leave_all(self) -> None:
        """Leave everything, as closing does (`ip_mc_drop_socket`)."""
        while self._members:
            member = self._members.pop()
            self._drop(member, self._machine.usable_device(member.index))

    def join_source(self, index: int, group: bytes, source: bytes) -> None:
        """Join from one source, or add one (MCAST_JOIN_SOURCE_GROUP)."""
        try:
            index = self.join(index, group, INCLUDE)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        self.add_source(index, group, source, INCLUDE)

    def add_source(self, index: int, group: bytes, source: bytes, mode: int) -> None:
        """Add a source to the filter (`ip_mc_source`)."""
        member, device = self._to_change(index, group, mode)
        sources = member.sources or []
        if len(sources) >= self._machine.sysctl_number("net.ipv4.igmp_max_msf"):
            refuse(errno.ENOBUFS)
        member.sources = sources
        if source in sources:
            refuse(errno.EADDRNOTAVAIL)
        sources.append(source)
        with contextlib.suppress(OSError):
            _add(device, group, mode, [source], counts=False)
        self._machine.note_group(device, group)

    def remove_source(self, index: int, group: bytes, source: bytes, mode: int) -> None:
        """Take a source out of the filter (`ip_mc_source`). INCLUDE without its last source is a leave."""
        member, device = self._to_change(index, group, mode)
        sources = member.sources or []
        if source not in sources:
            refuse(errno.EADDRNOTAVAIL)
        if len(sources) == 1 and mode == INCLUDE:
            self.leave(device.index, group)
            return
        _remove(device, group, mode, [source], counts=False)
        sources.remove(source)
        self._machine.note_group(device, group)

    def replace(self, index: int, group: bytes, mode: int, sources: list[bytes]) -> None:
        """Replace the filter (`ip_mc_msfilter`). INCLUDE {} is a leave."""
        if not is_group(group) or mode not in (INCLUDE, EXCLUDE):
            refuse(errno.EINVAL)
        device = self._require_device(index, group)
        if mode == INCLUDE and not sources:
            self.leave(index, group)
            return
        member = self._find(device.index, group)
        if member is None:
            refuse(errno.EINVAL)
        # For a group that the interface doesn't know, Linux says so only if the filter names sources.
        with contextlib.nullcontext() if sources else contextlib.suppress(OSError):
            _add(device, group, mode, sources, counts=True)
        _remove(device, group, member.mode, member.sources or (), counts=True)
        member.mode, member.sources = mode, sources or None
        self._machine.note_group(device, group)

    def _to_change(self, index: int, group: bytes, mode: int) -> tuple[Member, Device]:
        """Return the membership of which a source is to change. It has to have the mode."""
        if not is_group(group):
            refuse(errno.EINVAL)
        device = self._require_device(index, group)
        member = self._find(device.index, group)
        if member is None or (member.sources is not None and member.mode != mode):
            refuse(errno.EINVAL)
        if member.mode != mode:
            with contextlib.suppress(OSError):
                _add(device, group, mode, (), counts=True)
            _remove(device, group, member.mode, (), counts=True)
            member.mode = mode
            self._machine.note_group(device, group)
        return member, device

    def _drop(self, member: Member, device: Device | None) -> None:
        if device is None:
            return
        _remove(device, member.group, member.mode, member.sources or (), counts=True)
        found = device.groups.get(member.group)
        if found is not None:
            found.users -= 1
            if found.users == 0:
                self._machine.quit(device, member.group)
        self._machine.note_group(device, member.group)

    def _find(self, index: int, group: bytes) -> Member | None:
        for member in self._members:
            if member.index == index and member.group == group:
                return member
        return None

    def _device(self, index: int, group: bytes) -> Device | None:
        """Find the interface (`ip_mc_find_dev`)."""
        return self._machine.usable_device(index) if index else self._machine.device_towards(group)

    def _require_device(self, index: int, group: bytes) -> Device:
        device = self._device(index, group)
        if device is None:
            refuse(errno.ENODEV)
        return device


def _add(device: Device, group: bytes, mode: int, sources: Sequence[bytes], *, counts: bool) -> None:
    """Count one socket more for sources, and with `counts` for the mode (`ip_mc_add_src`)."""
    found = device.groups.get(group)
    if found is None:
        refuse(errno.ESRCH)
    found.modes[mode] += counts
    for source in sources:
        found.sources.setdefault(source, [0, 0])[mode] += 1


def _remove(device: Device, group: bytes, mode: int, sources: Sequence[bytes], *, counts: bool) -> None:
    """Count one socket less (`ip_mc_del_src`). What was never counted is passed over, as callers in Linux do."""
    found = device.groups.get(group)
    if found is None or (counts and not found.modes[mode]):
        return
    found.modes[mode] -= counts
    for source in sources:
        numbers = found.sources.get(source)
        if numbers is not None and numbers[mode]:
            numbers[mode] -= 1
            if numbers == [0, 0]:
                del found.sources[source]
