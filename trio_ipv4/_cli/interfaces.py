"""The list of interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ipv4 import InterfaceFlags, interfaces
from trio_ipv4._cli.events import InterfaceListed

if TYPE_CHECKING:
    from trio_ipv4 import Interface
    from trio_ipv4._cli.show import JSONLines, Page


def show_interfaces(output: JSONLines | Page) -> int:
    """Show every interface of this network namespace, and return the exit status."""
    output.list_interfaces([_listed(interface) for interface in interfaces()])
    return 0


def _listed(interface: Interface) -> InterfaceListed:
    return InterfaceListed(
        index=interface.index,
        name=interface.name,
        up=interface.is_up,
        multicast=interface.is_multicast,
        mtu=interface.mtu,
        flags=tuple(flag.name or hex(flag) for flag in InterfaceFlags if flag in interface.flags),
        addresses=tuple(str(address) for address in interface.addresses),
    )
