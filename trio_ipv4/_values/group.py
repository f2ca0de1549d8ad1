"""A request to join a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from trio_ipv4._values.fields import to_group
from trio_ipv4._values.interface import to_ifindex
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


@final
@attrs.frozen(init=False)
class GroupReq:
    """A multicast group on an interface, and the sources to hear in it (RFC 3678's `group_req`, with its filter).

    Args:
        interface: An index, 1 or more, or an `Interface`, of which the index is kept; `None` lets the kernel choose by
            its routes.
        group: A multicast address.
        sources: The sources to hear; every one by default.

    Raises:
        TypeError: `interface` is a name or an address: only a connection can resolve those.
        ValueError: `group` is not a multicast address, or an index is out of range.
    """

    interface: int | None
    group: IPv4Address
    sources: SourceFilter

    def __init__(self, interface: Interface | int | None, group: AddressLike, *, sources: SourceFilter = ANY) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_ifindex(interface, "interface"), to_group(group, "group"), to_sources(sources)
        )
