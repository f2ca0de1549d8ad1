"""The test join: a group of nobody's is joined for a moment, so that the kernel has to report it. Does that leave?

What it sees: how many packets the kernel wanted to send, and how many it sent. The output rules of a firewall are
between the two counters. With the packet socket it also sees the reports themselves, and of which version they are.

Privilege: none. What it disturbs: one group of MCAST-TEST-NET, which is meant for documentation and tests (RFC 6676),
is joined on the interface for 1.25 seconds. The network hears two reports of it, and a leave.
"""

from __future__ import annotations

import errno
import random
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

import trio

from trio_ipv4 import open_udp
from trio_ipv4._cli.doctor.evidence import FreshJoin
from trio_ipv4._cli.doctor.witnesses import counters
from trio_ipv4._cli.kernel_tables import read_groups

if TYPE_CHECKING:
    from trio_ipv4._cli.doctor.evidence import IGMPSeen
    from trio_ipv4._cli.doctor.witnesses.wire import WireWitness

_GROUPS: Final = IPv4Network("233.252.0.0/24")  # RFC 6676 section 2: MCAST-TEST-NET
_LONG_ENOUGH: Final = 1.25
"""In seconds. RFC 9776 section 8.11: a host that joined reports it again within one second."""
_VERSIONS: Final = {"v1_report": 1, "v2_report": 2, "v3_report": 3}


async def look(ifindex: int, *, wire: WireWitness | None) -> FreshJoin:
    """Join a fresh group on an interface for a moment.

    Args:
        ifindex: The interface's index.
        wire: What hears the wire, if that is permitted. It keeps what it hears.

    Raises:
        FileNotFoundError: /proc is not mounted.
    """
    group = _choose_group()
    async with open_udp() as conn:
        before = counters.read()
        try:
            conn.join_group(ifindex, group)
        except OSError as error:
            return FreshJoin(phase="test_join", refused=errno.errorcode.get(error.errno or 0, str(error.errno)))
        await trio.sleep(_LONG_ENOUGH)
        after = counters.read()
        reports = _reports(wire, ifindex, group) if wire else None
    return FreshJoin(
        phase="test_join",
        requests=after.get("Ip.OutRequests", 0) - before.get("Ip.OutRequests", 0),
        sent=after.get("IpExt.OutMcastPkts", 0) - before.get("IpExt.OutMcastPkts", 0),
        on_wire=None if reports is None else len(reports),
        version=_VERSIONS[reports[0].kind] if reports else None,
    )


def _choose_group() -> IPv4Address:
    """Return a group that this host is no member of, on any interface."""
    joined = {group for group, *_ in read_groups()}
    return random.choice([each for each in _GROUPS.hosts() if each not in joined])


def _reports(wire: WireWitness, ifindex: int, group: IPv4Address) -> list[IGMPSeen]:
    """Return the reports of a group that have left by an interface."""
    return [
        each
        for each in wire.messages()
        if each.outgoing and each.ifindex == ifindex and group in each.groups and each.kind in _VERSIONS
    ]
