"""The longest packet that reaches a destination whole, as the kernel knows by now (ip(7): IP_MTU; RFC 1191)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import namespaces, options
from trio_ipv4._kernel.explain import explain

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4._kernel.system import Socket

_DISCARD: Final = 9
"""A port: any will do, since nothing is sent (RFC 863)."""


def path_mtu(socket: Socket, destination: IPv4Address, source: IPv4Address, interface: int | None) -> int:
    """Return the path MTU towards a destination, in octets with the IP header.

    The kernel tells it of connected sockets only, and a connected socket hears its peer alone. So another one is
    connected, for a moment.

    Args:
        socket: The socket that would send.
        destination: Where to.
        source: The source address; 0.0.0.0 lets the routes choose.
        interface: The index of the interface; `None` lets the routes choose.

    Raises:
        OSError: There is no route.
        ValueError: The socket belongs to another network namespace than the current one.
    """
    system = socket.system
    with contextlib.closing(system.socket(structs.AF_INET, structs.SOCK_DGRAM, 0)) as probe:
        if not namespaces.are_same(socket, probe):
            raise ValueError("the connection belongs to another network namespace than the current one")
        try:
            options.set_integer(probe, "SO_BROADCAST", 1)
            if interface is not None:
                options.set_integer(probe, "SO_BINDTOIFINDEX", interface)
            probe.bind((str(source), 0))
            probe.connect((str(destination), _DISCARD))
            return options.get_integer(probe, "IP_MTU")
        except OSError as error:
            raise explain(error, "path", f"find the path MTU to {destination}", socket) from None
