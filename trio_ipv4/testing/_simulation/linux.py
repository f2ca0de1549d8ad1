"""The platform that a simulated host is: Linux, without the options that are not simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._abi import linux
from trio_ipv4.testing._simulation.refuse import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ipv4._abi.platform import Platform

_NOT_SIMULATED: Final = frozenset({"UDP_SEGMENT", "UDP_GRO"})

LINUX: Final[Platform] = attrs.evolve(
    linux.LINUX,
    name=NAME,
    options={name: option for name, option in linux.LINUX.options.items() if name not in _NOT_SIMULATED},
    control={name: kind for name, kind in linux.LINUX.control.items() if name not in _NOT_SIMULATED},
    numbers={name: number for name, number in linux.LINUX.numbers.items() if name not in _NOT_SIMULATED},
)
"""64-bit pointers, little-endian, on whatever machine this runs: octets of the structures come and go the same."""

INCLUDE: Final = 1
EXCLUDE: Final = 0
"""MCAST_INCLUDE and MCAST_EXCLUDE, linux/in.h."""

SYSCTLS: Final[Mapping[str, str]] = {
    # The defaults of Linux 6.18 that the library quotes, or that the simulation obeys (ip-sysctl.rst, net.rst).
    "net.core.optmem_max": "131072",
    "net.core.rmem_default": "212992",
    "net.core.rmem_max": "212992",
    "net.core.wmem_default": "212992",
    "net.core.wmem_max": "212992",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.icmp_ratelimit": "1000",
    "net.ipv4.igmp_max_memberships": "20",
    "net.ipv4.igmp_max_msf": "10",
    "net.ipv4.ip_default_ttl": "64",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.ip_no_pmtu_disc": "0",
    "net.ipv4.ip_unprivileged_port_start": "1024",
    "net.ipv4.ping_group_range": "1\t0",
    "net.ipv4.route.min_pmtu": "552",
    "net.ipv4.route.mtu_expires": "600",
}

SMALLEST: Final = 832
"""What the shortest message counts, one without octets included."""
_STEPS: Final = (205, SMALLEST), (653, 1280), (1677, 2304), (3725, 4352), (7837, 8448), (16014, 16640)
"""Up to how many octets above the IP header a buffer of the kernel counts how many (measured on Linux 6.18)."""
_TAIL: Final = 212
"""A second fragment of up to so many octets fits into the first one's buffer."""


def memory_of(length: int, mtu: int, *, is_looped: bool = False) -> int:
    """Return what a datagram counts in a receive buffer (`skb->truesize`): more than its octets.

    Args:
        length: The octets above the IP header.
        mtu: That of the sender's interface, which decides on fragments.
        is_looped: Whether it never was on a link, so that nothing had to be reassembled.
    """
    room = (mtu - 20) // 8 * 8
    if length <= mtu - 20:
        return _memory_of_one(length)
    whole, rest = divmod(length, room)
    parts = [room] * whole + ([rest] if rest else [])
    counted = [_memory_of_one(part) for part in parts]
    if len(parts) == 2 and parts[1] <= _TAIL and not is_looped:
        counted.pop()
    return sum(counted)


def memory_of_first(length: int, mtu: int) -> int:
    """Return what a datagram counts that a BPF program has cut short: no later fragment (`skb_condense`)."""
    return _memory_of_one(min(length, (mtu - 20) // 8 * 8))


def _memory_of_one(length: int) -> int:
    for most, memory in _STEPS:
        if length <= most:
            return memory
    return length - 8 + SMALLEST
