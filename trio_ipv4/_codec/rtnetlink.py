"""Links, addresses and groups as the kernel tells of them over rtnetlink (rtnetlink(7)).

Of links and addresses only the fields of an `Interface` are read. Other messages and attributes are ignored: kernels
add some every year. Integers are in the host's order, addresses in network order. A kernel serves one dump at a time
per socket: ask for the links, read up to `Done`, then ask for the addresses.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
import sys
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.interface import MAX_IFINDEX, InterfaceFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ByteOrder: TypeAlias = Literal["little", "big"]

_HEADER: Final = "IHHII"
"""`struct nlmsghdr` (linux/netlink.h): length, type, flags, sequence, port."""
_HEADER_LEN: Final = 16
_LINK: Final = "BxHiII"
"""`struct ifinfomsg` (linux/rtnetlink.h): family, padding, device type, index, flags, change mask."""
_ADDRESS: Final = "BBBBI"
"""`struct ifaddrmsg` (linux/if_addr.h): family, prefix length, flags, scope, index. Groups have it, too."""
_CACHEINFO: Final = "IIII"
"""`struct ifa_cacheinfo` (linux/if_addr.h): two lifetimes, the time of creation, that of the last change."""
_SETTINGS: Final = "B"
"""`struct netconfmsg` (linux/netconf.h): family."""
_ROUTE: Final = "BBBBBBBBI"
"""`struct rtmsg` (linux/rtnetlink.h): family, prefix lengths, TOS, table, protocol, scope, type, flags."""
_ATTRIBUTE: Final = "HH"
"""`struct nlattr` (linux/netlink.h): length, type."""
_ATTRIBUTE_LEN: Final = 4

# linux/netlink.h
_NLM_F_REQUEST: Final = 0x01
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSG_OVERRUN: Final = 4
_NLA_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

# linux/rtnetlink.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26
RTM_NEWNETCONF: Final = 80
RTM_NEWMULTICAST: Final = 56
RTM_DELMULTICAST: Final = 57
RTM_GETMULTICAST: Final = 58
RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_IIF: Final = 3
RTA_IP_PROTO: Final = 27

RTCF_LOCAL: Final = 0x8000_0000  # linux/in_route.h

# linux/netconf.h
_NETCONFA_IFINDEX: Final = 1

# linux/if_link.h
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_EXT_MASK: Final = 29
_IFLA_PROP_LIST: Final = 52
_IFLA_ALT_IFNAME: Final = 53
# In IFLA_LINKINFO
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_SLAVE_KIND: Final = 4
_RTEXT_FILTER_SKIP_STATS: Final = 1 << 3  # linux/rtnetlink.h; an older kernel sends the statistics all the same.

# linux/if_addr.h
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
IFA_CACHEINFO: Final = 6
IFA_MULTICAST: Final = 7
_IFA_F_SECONDARY: Final = 0x01

# linux/socket.h
_AF_UNSPEC: Final = 0
_AF_INET: Final = 2
_IPPROTO_UDP: Final = 17  # linux/in.h


@final
@attrs.frozen
class NewLink:
    """A link exists, and this is how it is now."""

    sequence: int
    index: int
    name: str
    mtu: int
    flags: InterfaceFlags
    kind: str | None = None
    master: int | None = None
    master_kind: str | None = None
    alternative_names: tuple[str, ...] = ()
    hardware_address: bytes = b""


@final
@attrs.frozen
class RemovedLink:
    """A link is gone from this network namespace."""

    sequence: int
    index: int


@final
@attrs.frozen
class NewAddress:
    """A link has an address, whether it is new or something about it is.

    `peer` is the other end of a point-to-point link, elsewhere the address itself; the kernel tells addresses apart by
    both. By `scope` (RT_SCOPE_*, linux/rtnetlink.h) and `is_secondary` it orders them.
    """

    sequence: int
    index: int
    address: ipaddress.IPv4Interface
    peer: ipaddress.IPv4Address
    scope: int
    is_secondary: bool


@final
@attrs.frozen
class RemovedAddress:
    """A link has an address no longer."""

    sequence: int
    index: int
    address: ipaddress.IPv4Interface
    peer: ipaddress.IPv4Address


@final
@attrs.frozen
class NewGroup:
    """An interface is in a group (RTM_NEWMULTICAST; in a dump RTM_GETMULTICAST), whoever joined it.

    `stamp` is when it joined: the kernel's uptime in 1/100 s, modulo 2 ** 32 (linux net/ipv4/igmp.c,
    `inet_fill_ifmcaddr`).
    """

    sequence: int
    index: int
    group: ipaddress.IPv4Address
    stamp: int


@final
@attrs.frozen
class RemovedGroup:
    """An interface has left a group: its last member has. Of a link whose IPv4 ends, this does not tell."""

    sequence: int
    index: int
    group: ipaddress.IPv4Address


@final
@attrs.frozen
class NewSettings:
    """A link has IPv4 settings (RTM_NEWNETCONF): it has just got IPv4, was renamed, or somebody changed a setting."""

    sequence: int
    index: int


@final
@attrs.frozen
class Route:
    """The route that was asked for (RTM_NEWROUTE). `is_local`: this host itself takes the packet (RTCF_LOCAL)."""

    sequence: int
    is_local: bool


@final
@attrs.frozen
class Done:
    """The dump with this sequence number is complete."""

    sequence: int


@final
@attrs.frozen
class Failure:
    """The request with this sequence number was refused, or its dump broke off."""

    sequence: int
    errno: int


@final
@attrs.frozen
class Interrupted:
    """Something changed in the middle of the dump (NLM_F_DUMP_INTR), so that it may contradict itself: repeat it."""

    sequence: int


@final
@attrs.frozen
class Overrun:
    """Messages were lost (NLMSG_OVERRUN). A socket usually says so by ENOBUFS instead."""

    sequence: int


_Answer: TypeAlias = "Route | Done | Failure | Interrupted | Overrun"
Message: TypeAlias = (
    "NewLink | RemovedLink | NewAddress | RemovedAddress | NewGroup | RemovedGroup | NewSettings | _Answer"
)


def link_dump_request(sequence: int, byte_order: ByteOrder = sys.byteorder) -> bytes:
    """Write a request for all links of the namespace (RTM_GETLINK)."""
    body = _struct(_LINK, byte_order).pack(_AF_UNSPEC, 0, 0, 0, 0)
    body += _struct(_ATTRIBUTE + "I", byte_order).pack(8, _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return _dump_request(_RTM_GETLINK, body, sequence, byte_order)


def address_dump_request(sequence: int, byte_order: ByteOrder = sys.byteorder) -> bytes:
    """Write a request for all IPv4 addresses of the namespace (RTM_GETADDR)."""
    body = _struct(_ADDRESS, byte_order).pack(_AF_INET, 0, 0, 0, 0)
    return _dump_request(_RTM_GETADDR, body, sequence, byte_order)


def group_dump_request(sequence: int, byte_order: ByteOrder = sys.byteorder) -> bytes:
    """Write a request for all groups that interfaces of the namespace are in (RTM_GETMULTICAST)."""
    body = _struct(_ADDRESS, byte_order).pack(_AF_INET, 0, 0, 0, 0)
    return _dump_request(RTM_GETMULTICAST, body, sequence, byte_order)


def input_route_request(
    sequence: int,
    index: int,
    source: ipaddress.IPv4Address,
    destination: ipaddress.IPv4Address,
    byte_order: ByteOrder = sys.byteorder,
) -> bytes:
    """Write a question how a UDP datagram that comes in on an interface is routed (RTM_GETROUTE with RTA_IIF)."""
    body = _struct(_ROUTE, byte_order).pack(_AF_INET, 32, 32, 0, 0, 0, 0, 0, 0)
    for kind, value in (
        (RTA_DST, destination.packed),
        (RTA_SRC, source.packed),
        (RTA_IIF, index.to_bytes(4, byte_order)),
        (RTA_IP_PROTO, bytes([_IPPROTO_UDP])),
    ):
        head = _struct(_ATTRIBUTE, byte_order).pack(_ATTRIBUTE_LEN + len(value), kind)
        body += head + value.ljust(_aligned(len(value)), b"\0")
    header = _struct(_HEADER, byte_order).pack(_HEADER_LEN + len(body), RTM_GETROUTE, _NLM_F_REQUEST, sequence, 0)
    return header + body


def parse_messages(data: bytes, byte_order: ByteOrder = sys.byteorder) -> tuple[Message, ...]:
    """Read the messages of one datagram of a netlink socket, in order.

    `Interrupted` comes before the message that carries its flag. What is about neither links, IPv4 addresses nor
    routes is left out.

    Raises:
        ParseError: A message or an attribute is shorter than its header, or longer than what holds it; or a field has a
            value that no kernel gives it.
    """
    messages: list[Message] = []
    header = _struct(_HEADER, byte_order)
    offset = 0
    while offset < len(data):
        left = len(data) - offset
        if left < _HEADER_LEN:
            raise ParseError(f"a netlink message has at least 16 octets, got {left}", offset=offset)
        length, kind, flags, sequence, _port = header.unpack_from(data, offset)
        if not _HEADER_LEN <= length <= left:
            raise ParseError(f"the length of a netlink message must be from 16 to {left}, got {length}", offset=offset)
        if flags & _NLM_F_DUMP_INTR:
            messages.append(Interrupted(sequence))
        body = _Body(data, offset + _HEADER_LEN, offset + length, kind, sequence, byte_order)
        message = _READERS.get(kind, _read_nothing)(body)
        if message is not None:
            messages.append(message)
        offset += _aligned(length)
    return tuple(messages)


@final
@attrs.frozen
class _Body:
    """The body of one message: `data` from `start` to `end`."""

    data: bytes
    start: int
    end: int
    kind: int
    sequence: int
    byte_order: ByteOrder

    def fields(self, layout: str) -> tuple[int, ...]:
        """Read the fixed part."""
        fixed = _struct(layout, self.byte_order)
        if self.end - self.start < fixed.size:
            raise ParseError(
                f"a netlink message of type {self.kind} has at least {fixed.size} octets after its header, "
                f"got {self.end - self.start}",
                offset=self.start,
            )
        return fixed.unpack_from(self.data, self.start)

    def attributes(self, layout: str) -> dict[int, tuple[int, int]]:
        """Find the attributes behind the fixed part: where the value of each type starts and ends, the last one's."""
        return dict(self.nested((self.start + _aligned(struct.calcsize("=" + layout)), self.end)))

    def nested(self, span: tuple[int, int] | None) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the type of each attribute in a part of the message, and where its value starts and ends."""
        if span is None:
            return
        header = _struct(_ATTRIBUTE, self.byte_order)
        offset, end = span
        while offset < end:
            left = end - offset
            if left < _ATTRIBUTE_LEN:
                raise ParseError(f"an attribute has at least 4 octets, got {left}", offset=offset)
            length, kind = header.unpack_from(self.data, offset)
            if not _ATTRIBUTE_LEN <= length <= left:
                raise ParseError(f"the length of an attribute must be from 4 to {left}, got {length}", offset=offset)
            yield kind & _NLA_TYPE_MASK, (offset + _ATTRIBUTE_LEN, offset + length)
            offset += _aligned(length)

    def text(self, span: tuple[int, int]) -> str:
        """Read an attribute that holds a string, as os.fsdecode does.

        Any octets but '/' and white space are a name (linux net/core/dev.c, dev_valid_name).
        """
        start, end = span
        return self.data[start:end].partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def value(self, span: tuple[int, int], byte_order: ByteOrder) -> int:
        """Read an attribute that holds 32 bits."""
        start, end = span
        octets = self.data[start:end]
        if len(octets) != 4:
            raise ParseError(f"an attribute of 32 bits must have 4 octets, got {len(octets)}", offset=start)
        return int.from_bytes(octets, byte_order)

    def created(self, attributes: Mapping[int, tuple[int, int]]) -> int:
        """Read when something was created (IFA_CACHEINFO)."""
        start, end = attributes.get(IFA_CACHEINFO, (self.end, self.end))
        layout = _struct(_CACHEINFO, self.byte_order)
        if end - start < layout.size:
            raise ParseError(f"IFA_CACHEINFO must have {layout.size} octets or more, got {end - start}", offset=start)
        created: int
        _preferred, _valid, created, _changed = layout.unpack_from(self.data, start)
        return created


def _read_link(body: _Body) -> Message | None:
    family, _type, index, flags, _changed = body.fields(_LINK)
    if family != _AF_UNSPEC:
        return None  # A bridge tells of its ports in the same types, with the family AF_BRIDGE: the links live on.
    _check_index(index, body.start + 4)
    attributes = body.attributes(_LINK)
    if body.kind == RTM_DELLINK:
        return RemovedLink(body.sequence, index)
    if _IFLA_IFNAME not in attributes or _IFLA_MTU not in attributes:
        return None  # An event of a wireless driver (net/wireless/wext-core.c), which says nothing of the link.
    information = dict(body.nested(attributes.get(_IFLA_LINKINFO)))
    names = body.nested(attributes.get(_IFLA_PROP_LIST))
    master = body.value(attributes[_IFLA_MASTER], body.byte_order) if _IFLA_MASTER in attributes else 0
    start, end = attributes.get(_IFLA_ADDRESS, (0, 0))
    return NewLink(
        body.sequence,
        index,
        name=body.text(attributes[_IFLA_IFNAME]),
        mtu=body.value(attributes[_IFLA_MTU], body.byte_order),
        flags=InterfaceFlags(flags),
        kind=body.text(information[_IFLA_INFO_KIND]) if _IFLA_INFO_KIND in information else None,
        master=master if 1 <= master <= MAX_IFINDEX else None,
        master_kind=body.text(information[_IFLA_INFO_SLAVE_KIND]) if _IFLA_INFO_SLAVE_KIND in information else None,
        alternative_names=tuple(body.text(span) for kind, span in names if kind == _IFLA_ALT_IFNAME),
        hardware_address=body.data[start:end],
    )


def _read_address(body: _Body) -> Message | None:
    family, prefix_len, flags, scope, index = body.fields(_ADDRESS)
    if family != _AF_INET:
        return None
    _check_index(index, body.start + 4)
    if prefix_len > ipaddress.IPV4LENGTH:
        raise ParseError(f"the prefix length must be from 0 to 32, got {prefix_len}", offset=body.start + 1)
    attributes = body.attributes(_ADDRESS)
    # IFA_ADDRESS is the peer on a point-to-point link, and the address itself elsewhere (linux/if_addr.h).
    spans = [attributes[kind] for kind in (_IFA_LOCAL, _IFA_ADDRESS) if kind in attributes]
    if not spans:
        return None
    address = ipaddress.IPv4Interface((body.value(spans[0], "big"), prefix_len))
    peer = ipaddress.IPv4Address(body.value(spans[-1], "big"))
    if body.kind == _RTM_DELADDR:
        return RemovedAddress(body.sequence, index, address, peer)
    return NewAddress(body.sequence, index, address, peer, scope, bool(flags & _IFA_F_SECONDARY))


def _read_group(body: _Body) -> Message | None:
    family, *_, index = body.fields(_ADDRESS)
    attributes = body.attributes(_ADDRESS)
    if family != _AF_INET or IFA_MULTICAST not in attributes:
        return None
    _check_index(index, body.start + 4)
    group = ipaddress.IPv4Address(body.value(attributes[IFA_MULTICAST], "big"))
    if not group.is_multicast:
        return None
    if body.kind == RTM_DELMULTICAST:
        return RemovedGroup(body.sequence, index, group)
    return NewGroup(body.sequence, index, group, body.created(attributes))


def _read_settings(body: _Body) -> Message | None:
    (family,) = body.fields(_SETTINGS)
    span = body.attributes(_SETTINGS).get(_NETCONFA_IFINDEX)
    index = 0 if span is None else body.value(span, body.byte_order)
    # "all" and "default" have negative indexes (linux/netconf.h).
    return NewSettings(body.sequence, index) if family == _AF_INET and 1 <= index <= MAX_IFINDEX else None


def _read_route(body: _Body) -> Message:
    *_, flags = body.fields(_ROUTE)
    return Route(body.sequence, bool(flags & RTCF_LOCAL))


def _read_outcome(body: _Body) -> Message | None:
    (code,) = body.fields("i")
    if code < 0:  # "Negative errno or 0 for acknowledgements" (netlink(7)).
        return Failure(body.sequence, -code)
    return Done(body.sequence) if body.kind == _NLMSG_DONE else None


def _read_overrun(body: _Body) -> Message:
    return Overrun(body.sequence)


def _read_nothing(_body: _Body) -> None:
    return None


_READERS: Final[Mapping[int, Callable[[_Body], Message | None]]] = {
    _NLMSG_ERROR: _read_outcome,
    _NLMSG_DONE: _read_outcome,
    _NLMSG_OVERRUN: _read_overrun,
    RTM_NEWLINK: _read_link,
    RTM_DELLINK: _read_link,
    _RTM_NEWADDR: _read_address,
    _RTM_DELADDR: _read_address,
    RTM_NEWMULTICAST: _read_group,
    RTM_DELMULTICAST: _read_group,
    RTM_GETMULTICAST: _read_group,  # The answers to a request for all have its own type.
    RTM_NEWNETCONF: _read_settings,
    RTM_NEWROUTE: _read_route,
}


def _check_index(index: int, offset: int) -> None:
    if not 1 <= index <= MAX_IFINDEX:
        raise ParseError(f"an interface index must be from 1 to {MAX_IFINDEX}, got {index}", offset=offset)


def _dump_request(kind: int, body: bytes, sequence: int, byte_order: ByteOrder) -> bytes:
    header = _struct(_HEADER, byte_order)
    return header.pack(_HEADER_LEN + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + body


def _aligned(length: int) -> int:
    """Round up to 4 octets (NLMSG_ALIGN, NLA_ALIGN: linux/netlink.h)."""
    return (length + 3) & ~3


@functools.cache
def _struct(layout: str, byte_order: ByteOrder) -> struct.Struct:
    return struct.Struct(("<" if byte_order == "little" else ">") + layout)
