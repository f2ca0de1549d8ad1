"""The path MTU: what a host learns of it, and which packets must not be fragmented (linux net/ipv4/route.c; ip(7))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.machine import Machine

DONT, WANT, DO, PROBE, INTERFACE, OMIT = range(6)
"""IP_PMTUDISC_*, linux/in.h."""
_MAX_MTU: Final = 65535
"""IP_MAX_MTU, include/net/ip.h."""


class PathMTU(NamedTuple):
    """The longest packet that a path takes."""

    mtu: int
    is_locked: bool = False
    """Whether it is the least that this host believes, since a router told of less. Then packets may be cut."""


class _Learned(NamedTuple):
    path: PathMTU
    until: float


@final
class PathMTUs:
    """What a host knows of paths (`struct fib_nh_exception`)."""

    def __init__(self, machine: Machine) -> None:
        self._machine: Final = machine
        self._learned: Final[dict[tuple[bytes, Device], _Learned]] = {}

    def find(self, destination: bytes, device: Device) -> PathMTU:
        """Return the path MTU to a destination, over an interface (`ip_dst_mtu_maybe_forward`)."""
        learned = self._learned.get((destination, device))
        return learned.path if learned is not None else PathMTU(min(device.mtu, _MAX_MTU))

    def learn(self, destination: bytes, device: Device, mtu: int) -> None:
        """Believe a router (`__ip_rt_update_pmtu`). After net.ipv4.route.mtu_expires seconds that is forgotten."""
        machine, before = self._machine, self.find(destination, device)
        if before.is_locked or before.mtu < mtu:
            return
        least = machine.sysctl_number("net.ipv4.route.min_pmtu")
        path = PathMTU(min(before.mtu, least), is_locked=True) if mtu < least else PathMTU(mtu)
        seconds = machine.sysctl_number("net.ipv4.route.mtu_expires")
        until = machine.clock.now() + seconds
        self._learned[destination, device] = _Learned(path, until)
        machine.changed()
        machine.clock.at(until, lambda: self._expire((destination, device), until))

    def _expire(self, key: tuple[bytes, Device], until: float) -> None:
        learned = self._learned.get(key)
        if learned is not None and learned.until == until:
            del self._learned[key]
            self._machine.changed()

    def note_mtu(self, device: Device, before: int) -> None:
        """Adapt to another MTU of an interface (`nh_update_mtu`, fib_semantics.c:`fib_nhc_update_mtu`)."""
        for key, (path, until) in list(self._learned.items()):
            is_lower = device.mtu <= path.mtu if path.is_locked else device.mtu < path.mtu or path.mtu == before
            if key[1] is device and is_lower:
                self._learned[key] = _Learned(PathMTU(device.mtu), until)

    def forget(self, device: Device) -> None:
        """Forget the paths over an interface: it is down, or gone."""
        for key in [key for key in self._learned if key[1] is device]:
            del self._learned[key]


def goes_by_path(mode: int) -> bool:
    """Tell whether a socket's packets obey the path MTU, rather than the interface's (`ip_sk_use_pmtu`)."""
    return mode < PROBE


def may_cut(mode: int) -> bool:
    """Tell whether this host may fragment a socket's packets (`ip_sk_ignore_df`)."""
    return mode < DO or mode == OMIT


def believes(mode: int) -> bool:
    """Tell whether a socket's errors teach the path MTU (`ip_sk_accept_pmtu`)."""
    return mode not in (INTERFACE, OMIT)


def forbids_cutting(mode: int, length: int, path: PathMTU) -> bool:
    """Tell whether a packet says "don't fragment" (`__ip_make_skb`, `ip_dont_fragment`)."""
    return mode in (DO, PROBE) or (mode == WANT and length <= path.mtu and not path.is_locked)
