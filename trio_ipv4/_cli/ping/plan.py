"""What to ask, and what to look at when answers stay away."""

from __future__ import annotations

import time
from ipaddress import IPv4Address

import attrs

from trio_ipv4 import SourceFilter
from trio_ipv4._cli.ping.protocol import LAST_OCTET, Message, make_request
from trio_ipv4._cli.ping.statistics import Finding


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
        """Whom to hear in the group. In 232/8, receivers have to name their sources (RFC 4607 section 1)."""
        is_specific = self.group.packed[0] == 232 and not self.target.is_multicast
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


def advise(finding: Finding, asking: Asking) -> str:
    """Say what to look at next."""
    if finding is Finding.NOTHING and asking.target.is_multicast:
        return (
            f"Members that run 'trio-ipv4 ping --serve {asking.target}' answer; ssmpingd hears no groups. The requests "
            f"had TTL {asking.ttl} (--ttl)."
        )
    if finding is Finding.NOTHING:
        return f"Does a responder run on {asking.target}? 'trio-ipv4 ping --serve' is one, and ssmpingd."
    if finding is Finding.MULTICAST_ONLY:
        return "The requests arrive, and unicast from the responder does not get here: a firewall may drop it."
    return (
        f"The responder runs, and not all of its multicast to {asking.group} gets here. Routers on the way may not "
        "forward multicast, a switch may have forgotten this host (snooping without a querier), or a firewall drops it."
    )
