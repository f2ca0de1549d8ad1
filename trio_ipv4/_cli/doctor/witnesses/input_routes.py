"""What the kernel would do with a datagram that comes in (rtnetlink(7), RTM_GETROUTE with RTA_IIF).

It is the best witness before anything has come: the kernel runs the code that decides about real datagrams. The
firewall is not asked. It needs no privilege, and disturbs nothing, but on a multicast router: there the kernel asks the
routing daemon about each source that it doesn't know, and keeps the answer (`ipmr_get_route` in net/ipv4/ipmr.c). So on
a router, the neighbour is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

from trio_ipv4 import InputRoute, input_route
from trio_ipv4._cli.doctor.evidence import InputAnswer, InputRoutes, Link, Route
from trio_ipv4._cli.doctor.witnesses import router

_ALL_HOSTS: Final = IPv4Address("224.0.0.1")
"""Every interface is a member of it, without a filter (RFC 1112 section 4)."""
_ROUTES: Final[dict[InputRoute, Route]] = {
    InputRoute.LOCAL: "local",
    InputRoute.FORWARD: "forward",
    InputRoute.REFUSED: "refused",
}
_BESIDE: Final = 64
"""How far the neighbour's address is from the interface's own: chosen, so that it is seldom anybody's."""


def look(
    ifindex: int, group: IPv4Address, sources: Iterable[IPv4Address], neighbour: IPv4Address | None
) -> InputRoutes:
    """Ask about each source, and about a neighbour that may be nobody.

    If a source is refused for 224.0.0.1, too, the kernel refuses the source. If it is not, the membership does. If the
    neighbour is refused for the group alone, nobody is a member, or only of sources.

    An interface that is down is no member of 224.0.0.1, either, and refuses every source.

    Raises:
        OSError: ENODEV: there is no such interface. Others: rtnetlink is refused, as in some sandboxes.
    """

    def ask(source: IPv4Address, destination: IPv4Address) -> Route:
        return _ROUTES[input_route(ifindex, source, destination)]

    asked = [(each, False) for each in dict.fromkeys(sources)]
    if neighbour is not None and not router.look().vifs:
        asked.append((neighbour, True))
    return InputRoutes(
        answers=tuple(
            InputAnswer(source, ask(source, group), ask(source, _ALL_HOSTS), neighbour=is_neighbour)
            for source, is_neighbour in asked
        )
    )


def neighbour_of(link: Link) -> IPv4Address | None:
    """Return an address that a neighbour on the interface's network may have, whether anybody has it or not.

    It is neither the interface's own, nor the network's, nor its broadcast address. `None`: the interface has no
    address, or no network; or it is the loopback interface, where all addresses are this host's own.
    """
    if link.loopback:
        return None
    own = {address.ip for address in link.addresses}
    for address in link.addresses:
        network = address.network
        # In a network of two addresses both are hosts' (RFC 3021), and `hosts` returns both.
        reserved = {network.network_address, network.broadcast_address} if network.prefixlen < 31 else set()
        beside = IPv4Address(int(address.ip) ^ _BESIDE)
        for candidate in itertools.chain([beside], network.hosts()):
            if candidate in network and candidate not in own | reserved:
                return candidate
    return None
