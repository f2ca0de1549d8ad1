"""The facts of an interface that records have, under the records' names for them."""

from __future__ import annotations

from typing import Any

from trio_ipv4 import Interface, InterfaceFlags


def facts_of(interface: Interface) -> dict[str, Any]:
    """Return all but its name, which some records have under another key."""
    return {
        "index": interface.index,
        "up": interface.is_up,
        "multicast": interface.is_multicast,
        "mtu": interface.mtu,
        "flags": tuple(flag.name or hex(flag) for flag in InterfaceFlags if flag in interface.flags),
        "addresses": tuple(map(str, interface.addresses)),
    }
