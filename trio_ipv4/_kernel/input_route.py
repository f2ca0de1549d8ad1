"""The input route: what the kernel would do with a packet, if it came in on an interface now (rtnetlink(7)).

The answer comes from the code that decides about real packets (linux net/ipv4/route.c, `inet_rtm_getroute` and
`ip_route_input_rcu`): for a group, the interface's memberships with their merged filter; for the source, the reverse
path filter and the rules about addresses that can't be true. Nothing is sent.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._codec.rtnetlink import Failure, Route, input_route_request, parse_messages
from trio_ipv4._kernel.explain import explain
from trio_ipv4._kernel.lookup import resolve
from trio_ipv4._kernel.native import current_system
from trio_ipv4._kernel.netlink import KERNEL, open_netlink, receive
from trio_ipv4._values.fields import to_address
from trio_ipv4._values.input_route import InputRoute

if TYPE_CHECKING:
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike

_SEQUENCE: Final = 1
_REFUSALS: Final = frozenset(
    {
        errno.EINVAL,  # `ip_mc_validate_source`, `ip_route_input_mc`; a blackhole
        errno.EXDEV,  # The reverse path filter, in kernels before 6.13
        errno.EHOSTUNREACH,  # Nobody here has the address, and nothing is forwarded; or a route of type unreachable
        errno.ENETUNREACH,  # There is no route to forward by.
        errno.EACCES,  # A route of type prohibit
    }
)


def input_route(interface: InterfaceLike, source: AddressLike, destination: AddressLike) -> InputRoute:
    """Ask what this host would do with a UDP datagram that comes in on an interface. Not a checkpoint.

        if input_route("en0", "198.18.7.1", "239.1.2.3") is InputRoute.REFUSED: ...

    So a program finds out that a source's datagrams are dropped before one has come. To tell why, ask the same about
    224.0.0.1, which every interface has joined: if that is refused, too, it is the source (`rp_filter`, or an address
    that can't come from there); if not, it is the membership or its filter. The firewall is not asked.

    It asks about the memberships of the interface, merged from all sockets, not about one socket. It does not ask
    whether the interface is up. It concerns the current network namespace. Linux; no privilege is needed, and nothing
    is sent. On a multicast router the kernel asks the routing daemon for a route that it lacks, as it does for a
    datagram. (rtnetlink(7): RTM_GETROUTE with RTA_IIF.)

    Args:
        interface: Where the datagram comes in.
        source: Its source address.
        destination: Its destination, a group or any other address.

    Raises:
        OSError: ENODEV: there is no such interface. EPERM, EACCES, EAFNOSUPPORT: rtnetlink is refused here, as in some
            sandboxes.
        TypeError: An argument is of the wrong type.
        UnsupportedError: This is neither Linux nor a simulated network.
        ValueError: An address is not a valid one.
    """
    sender, receiver = to_address(source, "source"), to_address(destination, "destination")
    system = current_system()
    order = system.platform.byte_order
    with contextlib.closing(open_netlink(system, 0)) as asking:
        with contextlib.closing(system.socket(structs.AF_INET, structs.SOCK_DGRAM, 0)) as socket:
            index = resolve(socket, interface)
        if index is None:
            raise TypeError("interface must be an Interface, a name, an index or an IPv4Address, got None")
        asking.sendto(input_route_request(_SEQUENCE, index, sender, receiver, order), (KERNEL, 0))
        # The kernel has put its answer into the queue when sending returns. A multicast router that has no route yet
        # leaves attributes behind the end of the message (`rt_fill_info` in net/ipv4/route.c).
        octets: bytes | tuple[object, ...] | None = ()
        while isinstance(octets, tuple):
            octets = receive(asking)
    assert octets is not None
    (answer,) = parse_messages(octets[: int.from_bytes(octets[:4], order)], order)
    if isinstance(answer, Route):
        return InputRoute.LOCAL if answer.is_local else InputRoute.FORWARD
    assert isinstance(answer, Failure)
    if answer.errno == errno.EMSGSIZE:
        # So says a multicast router about a packet that it would not send on, on an interface on which it does not
        # route: it looks for a route of the group's there in vain (`ipmr_get_route` in net/ipv4/ipmr.c).
        return InputRoute.LOCAL
    if answer.errno in _REFUSALS:
        return InputRoute.REFUSED
    raise explain(OSError(answer.errno, ""), "interface", f"ask for the input route on {interface}")
