"""Join and leave groups, and read and replace source filters, always by interface index (RFC 3678 section 5)."""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import lookup, options
from trio_ipv4._kernel.explain import explain
from trio_ipv4._values.source_filter import EXCLUDE_NEVER, FilterMode, SourceFilter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.system import Socket

ROUTE: Final = 0
"""The index that lets the kernel choose the interface by its routes."""
_CAPACITY: Final = 16
"""How many sources a filter is first read with; net.ipv4.igmp_max_msf is 10 unless raised."""
# A dead index answers for a membership that it had; an index that never was gives ENODEV on newer kernels.
_NO_MEMBER: Final = (errno.EADDRNOTAVAIL, errno.ENODEV)


def join_group(socket: Socket, index: int, group: IPv4Address) -> None:
    """Join from any source: EXCLUDE {}."""
    try:
        options.set_bytes(socket, "MCAST_JOIN_GROUP", _group_req(socket, index, group))
    except OSError as error:
        raise _refused(error, socket, index, f"join {group}") from None


def join_source_group(
    socket: Socket, index: int, group: IPv4Address, source: IPv4Address, wanted: SourceFilter
) -> None:
    """Join from one source, INCLUDE {source}, on the way to `wanted`.

    Never call it on a member: EXCLUDE {} would silently become INCLUDE.
    """
    request = structs.group_source_req(socket.system.platform, index, group.packed, source.packed)
    try:
        options.set_bytes(socket, "MCAST_JOIN_SOURCE_GROUP", request)
    except OSError as error:
        raise _refused(error, socket, index, f"join {group}", f" with {wanted}") from None


def leave_group(socket: Socket, index: int, group: IPv4Address) -> None:
    """Leave, whatever the mode and the sources. That the membership is gone already is no error."""
    try:
        options.set_bytes(socket, "MCAST_LEAVE_GROUP", _group_req(socket, index, group))
    except OSError as error:
        # By a real index, EADDRNOTAVAIL means 'no member'; by index 0 it can mean that the route has moved.
        if error.errno != errno.EADDRNOTAVAIL or index == ROUTE:
            raise explain(error, "join", f"leave {group} on {_where(socket, index)}", socket) from None


def set_filter(socket: Socket, index: int, group: IPv4Address, sources: SourceFilter) -> None:
    """Replace the filter of a member, in one step. INCLUDE {} would leave; it is not for that (see `leave_group`)."""
    platform = socket.system.platform
    mode = platform.mcast_include if sources.mode is FilterMode.INCLUDE else platform.mcast_exclude
    packed = sorted(source.packed for source in sources.sources)
    request = structs.group_filter(platform, index, group.packed, mode, packed)
    try:
        options.set_bytes(socket, "MCAST_MSFILTER", request)
    except OSError as error:
        attempt = f"set the filter of {group} on {_where(socket, index)} to {sources}"
        raise explain(error, "filter", attempt, socket) from None


def get_filter(socket: Socket, index: int, group: IPv4Address) -> SourceFilter | None:
    """Read the filter of a membership by its real index; `None` if there is none, or this platform can't tell.

    It answers for a membership whose interface is gone, too.
    """
    platform = socket.system.platform
    if not options.has_option(socket, "MCAST_MSFILTER"):
        return None
    option = platform.option("MCAST_MSFILTER")
    capacity = _CAPACITY
    while True:
        request = bytearray(structs.group_filter(platform, index, group.packed, 0, ()))
        request[-4:] = capacity.to_bytes(4, platform.byte_order)
        request.extend(bytes(structs.SOCKADDR_STORAGE_SIZE * capacity))
        try:
            answer = socket.getsockopt(option.level, option.name, bytes(request))
        except OSError as error:
            if error.errno in _NO_MEMBER or error.errno in options.LACKING:
                return None
            raise explain(error, "join", f"read the filter of {group} on {_where(socket, index)}", socket) from None
        mode, total, sources = structs.parse_group_filter(platform, answer)
        if total <= capacity:
            return _to_filter(platform, mode, sources)
        capacity = total


def get_filter_by_route(socket: Socket, group: IPv4Address) -> SourceFilter | None:
    """Read the filter of a membership on the interface that the routes choose now; `None` if there is none.

    Raises:
        OSError: ENODEV: there is no route to the group.
    """
    platform = socket.system.platform
    option = platform.option("IP_MSFILTER")
    capacity = _CAPACITY
    while True:
        request = structs.ip_msfilter(platform, group.packed, 0, capacity)
        try:
            answer = socket.getsockopt(option.level, option.name, request)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return None
            raise explain(error, "route", f"find the interface for {group}", socket) from None
        mode, total, sources = structs.parse_ip_msfilter(platform, answer)
        if total <= capacity:
            return _to_filter(platform, mode, sources)
        capacity = total


def memberships(socket: Socket, group: IPv4Address, indexes: Iterable[int]) -> dict[int, SourceFilter]:
    """Return on which of these interfaces a socket is a member of a group, by whatever join, and the filter there."""
    found = ((index, get_filter(socket, index, group)) for index in indexes)
    return {index: sources for index, sources in found if sources is not None}


def seems_dead(socket: Socket, index: int, group: IPv4Address, sources: SourceFilter) -> bool:
    """Tell whether a membership hears nothing, since its interface was deleted and another has its index now.

    This is for where nothing tells of deletions. Reading the filter can't tell: that answers for dead memberships too.
    Writing it again can, if it names a source (ESRCH), unless another socket has joined since. One that names none is
    made to name, for a moment, one that nobody has.
    """
    if not options.has_option(socket, "MCAST_MSFILTER"):
        return False
    probe = sources if sources.sources else EXCLUDE_NEVER
    try:
        set_filter(socket, index, group, probe)
    except OSError as error:
        return error.errno == errno.ESRCH
    if probe != sources:
        set_filter(socket, index, group, sources)
    return False


def _group_req(socket: Socket, index: int, group: IPv4Address) -> bytes:
    return structs.group_req(socket.system.platform, index, group.packed)


def _refused(error: OSError, socket: Socket, index: int, attempt: str, more: str = "") -> OSError:
    """Explain why a join was refused. The interface is asked for its name only now."""
    by_route = index == ROUTE and error.errno == errno.ENODEV
    return explain(error, "route" if by_route else "join", f"{attempt} on {_where(socket, index)}{more}", socket)


def _to_filter(platform: Platform, mode: int, sources: Sequence[bytes]) -> SourceFilter:
    include = mode == platform.mcast_include
    # The kernel keeps duplicates and odd addresses, too. Those never match, so they are left out.
    addresses = {ipaddress.IPv4Address(source) for source in sources}
    hosts = {a for a in addresses if not a.is_multicast and int(a) not in (0, 0xFFFF_FFFF)}
    return SourceFilter(FilterMode.INCLUDE if include else FilterMode.EXCLUDE, hosts)


def _where(socket: Socket, index: int) -> str:
    return "the interface that the routes choose" if index == ROUTE else lookup.describe(socket, index)
