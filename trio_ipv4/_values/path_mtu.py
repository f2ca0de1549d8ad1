"""How a socket deals with packets that are longer than the path allows (ip(7): IP_MTU_DISCOVER; RFC 1191)."""

from __future__ import annotations

import enum


class PathMTUDiscovery(enum.IntEnum):
    """Whether a socket's datagrams may be fragmented, and what the kernel learns of the path (linux/in.h).

    The *path MTU* is the longest packet that reaches a destination whole, in octets with the IP header. Routers that
    must not fragment a longer one tell it by an ICMP error, "fragmentation needed".
    """

    DONT = 0
    """Never set "don't fragment" in the header. This host and routers cut what is too long."""
    WANT = 1
    """Set it on all that fits the path MTU, and cut what is longer on this host. The default."""
    DO = 2
    """Always set it. More than the path MTU is an `OSError` (EMSGSIZE)."""
    PROBE = 3
    """Always set it, and send up to the interface's MTU, whatever is known of the path."""
    INTERFACE = 4
    """Never set it, go by the interface's MTU, and believe no router. Longer datagrams are refused (EMSGSIZE)."""
    OMIT = 5
    """As INTERFACE, but this host cuts longer datagrams."""
