"""What to ask, and what to look at when answers stay away."""

from __future__ import annotations

import time
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import Final

import attrs

from trio_ipv4 import SourceFilter, UnreachableCode
from trio_ipv4._cli.ping.protocol import LAST_OCTET, Message, is_source_specific, make_request
from trio_ipv4._cli.ping.statistics import Finding

_SOON: Final = 2.0
"""In seconds after the join. Until then its report may have got lost, or routers may still build a tree: the second
report follows the first within 1 s (RFC 9776 section 8.11)."""
_NO_WAY: Final = {
    UnreachableCode.NET_UNREACHABLE,
    UnreachableCode.NET_UNKNOWN,
    UnreachableCode.NET_UNREACHABLE_FOR_TOS,
}
_HOST_MISSING: Final = {
    UnreachableCode.HOST_UNREACHABLE,
    UnreachableCode.HOST_UNKNOWN,
    UnreachableCode.HOST_UNREACHABLE_FOR_TOS,
}
_FORBIDDEN: Final = {
    UnreachableCode.NET_PROHIBITED,
    UnreachableCode.HOST_PROHIBITED,
    UnreachableCode.COMMUNICATION_PROHIBITED,
}


@attrs.frozen
class Asking:
    """What to ask.

    Args:
        target: The responder, or a group whose members are asked.
        group: The group in which answers are expected.
        port: The responders' port.
        interfaces: The names of the interfaces; none: chosen by the routes, or all for a group.
        count: How many requests; `None`: until stopped.
        interval: From one request to the next, in seconds.
        sizes: The sizes of requests in octets, in turns; none: the smallest.
        ttl: With which TTL requests are sent.
        wait: How long an answer may take, in seconds.
        seconds: How long to go on.
    """

    target: IPv4Address
    group: IPv4Address
    port: int
    interfaces: tuple[str, ...]
    count: int | None
    interval: float
    sizes: tuple[int, ...]
    ttl: int
    wait: float
    seconds: float | None

    @property
    def sources(self) -> SourceFilter:
        """Whom to hear in the group."""
        is_specific = is_source_specific(self.group) and not self.target.is_multicast
        return SourceFilter.include(self.target) if is_specific else SourceFilter.any()

    def make_request(self, run: int, number: int) -> Message:
        """Return a request; its time is the present one."""
        size = self.sizes[number % len(self.sizes) - 1] if self.sizes else None
        return make_request(run, number, time.time_ns(), self.group, size=size)


def describe_group(group: IPv4Address) -> str:
    """Say who answers in a group that does not end as those of ssmpingd do."""
    usual = IPv4Address(group.packed[:-1] + bytes([LAST_OCTET]))
    return (
        f"ssmpingd answers only in groups that end in .{LAST_OCTET}, as {usual}. 'trio-ipv4 ping --serve {group}' "
        "answers in this one, too."
    )


@attrs.frozen
class Course:
    """How it went, as far as advice depends on it.

    Args:
        is_member: Whether the group was joined anywhere.
        asked_for: How long after the join the latest request was sent, in seconds.
        offender: Who told that requests can't be delivered.
        code: Why not; `None`: nobody told that.
        own: The addresses of this host.
    """

    is_member: bool = True
    asked_for: float = 60.0
    offender: IPv4Address | None = None
    code: UnreachableCode | int | None = None
    own: Collection[IPv4Address] = ()


def advise(finding: Finding, asking: Asking, course: Course) -> str:
    """Say what to look at next."""
    if finding is Finding.NOTHING and asking.target.is_multicast:
        return (
            f"Members that run 'trio-ipv4 ping --serve {asking.target}' answer; ssmpingd hears no groups. The requests "
            f"had TTL {asking.ttl} (--ttl)."
        )
    if finding is Finding.NOTHING:
        usual = f"Does a responder run on {asking.target}? 'trio-ipv4 ping --serve' is one, and ssmpingd."
        return _explain(asking, course) or usual
    if finding is Finding.MULTICAST_ONLY:
        return "The requests arrive, and unicast from the responder does not get here: a firewall may drop it."
    if not course.is_member:
        return f"This host has joined {asking.group} on no interface, so no multicast to it can come."
    if finding is Finding.UNICAST_ONLY:
        return _advise_without_multicast(asking, course)
    return (
        "Not every responder, or size, came both ways: the figures tell which. Large datagrams may lose a fragment, "
        "and routers may not forward multicast from everywhere."
    )


def _advise_without_multicast(asking: Asking, course: Course) -> str:
    if course.asked_for < _SOON:
        apart = "" if asking.interval >= 1 else " --interval 1s"
        return f"Too early to tell: the join may not have got through yet. Try --count 5{apart}."
    return (
        f"Unicast works, and no multicast to {asking.group} gets here. Routers on the way may not forward multicast, a "
        "switch may have forgotten this host (snooping without a querier), or a firewall drops it."
    )


def _explain(asking: Asking, course: Course) -> str | None:
    """Say why the requests did not arrive, if somebody has told that."""
    target, offender, code = asking.target, course.offender, course.code
    if code is UnreachableCode.PORT_UNREACHABLE:
        return f"No responder runs on {target}, port {asking.port}: 'trio-ipv4 ping --serve' is one, and ssmpingd."
    if code in _HOST_MISSING and (offender is None or offender in course.own):
        return f"{target} does not answer on its link (ARP). Is it up, and is that its address?"
    if code in _HOST_MISSING:
        return f"The router {offender} does not reach {target}: no host there answers it, or it knows no way."
    if code in _NO_WAY:
        return f"The router {offender} knows no way to {target}."
    return f"{offender} forbids it, as a firewall does." if code in _FORBIDDEN else None
