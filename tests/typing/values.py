"""What a user's type checker makes of the values. Checked by mypy and pyright; never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from ipaddress import IPv4Address, IPv4Interface
from typing import assert_never, assert_type

from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    FilterMode,
    GroupReq,
    Header,
    HeaderFlags,
    ICMPFilter,
    ICMPType,
    Interface,
    InterfaceChange,
    InterfaceChangeKind,
    InterfaceFlags,
    ParseError,
    PartialSendError,
    RawDatagram,
    RawInstruction,
    SourceFilter,
    UnsupportedError,
)

ADDRESS = IPv4Address("192.0.2.1")
GROUP = IPv4Address("233.252.0.1")


def interfaces() -> None:
    interface = Interface(2, "en0", 1500, InterfaceFlags.UP | InterfaceFlags.MULTICAST, [IPv4Interface("192.0.2.1/24")])
    assert_type(interface.index, int)
    assert_type(interface.name, str)
    assert_type(interface.mtu, int)
    assert_type(interface.flags, InterfaceFlags)
    assert_type(interface.addresses, tuple[IPv4Interface, ...])
    assert_type(interface.is_up, bool)
    assert_type(interface.is_multicast, bool)
    assert_type(interface.is_loopback, bool)
    assert_type({interface: 1}, dict[Interface, int])  # hashable

    interface.index = 3  # type: ignore[misc]
    Interface(2, "en0", 1500, InterfaceFlags.UP, ["192.0.2.1/24"])  # type: ignore[list-item]


def changes(change: InterfaceChange) -> str:
    assert_type(change.interface, Interface)
    match change.kind:
        case InterfaceChangeKind.ADDED | InterfaceChangeKind.CHANGED:
            return "here"
        case InterfaceChangeKind.REMOVED:
            return "gone"
        case _:
            assert_never(change.kind)


def group_requests(interface: Interface) -> None:
    request = GroupReq(interface, "233.252.0.1", sources=SourceFilter.include(ADDRESS))
    assert_type(request.interface, int | None)
    assert_type(request.group, IPv4Address)
    assert_type(request.sources, SourceFilter)
    GroupReq(2, GROUP)
    GroupReq(None, GROUP)

    GroupReq("en0", GROUP)  # type: ignore[arg-type]
    GroupReq(2, GROUP, SourceFilter.any())  # type: ignore[call-arg]
    request.group = GROUP  # type: ignore[misc]


def source_filters() -> None:
    assert_type(SourceFilter.any(), SourceFilter)
    assert_type(SourceFilter.none(), SourceFilter)
    assert_type(SourceFilter.include("192.0.2.1", ADDRESS), SourceFilter)
    assert_type(SourceFilter.exclude(), SourceFilter)
    some = SourceFilter(FilterMode.INCLUDE, {ADDRESS})
    assert_type(some.mode, FilterMode)
    assert_type(some.sources, frozenset[IPv4Address])
    assert_type(some.allow("192.0.2.2").block(ADDRESS), SourceFilter)
    assert_type(some.accepts("192.0.2.2"), bool)
    assert_type(SourceFilter.merge(each for each in (some, some)), SourceFilter)

    SourceFilter("include", [ADDRESS])  # type: ignore[arg-type]
    SourceFilter.include([ADDRESS])  # type: ignore[arg-type]
    some.accepts(0xC0000201)  # type: ignore[arg-type]


def control_messages(interface: Interface) -> None:
    assert_type(ControlFlags.TTL | ControlFlags.DST, ControlFlags)
    control = ControlMessage(src="192.0.2.1", ifindex=interface, ttl=1, tos=0xB8)
    assert_type(control.ttl, int | None)
    assert_type(control.src, IPv4Address | None)
    assert_type(control.dst, IPv4Address | None)
    assert_type(control.ifindex, int | None)
    assert_type(control.tos, int | None)
    assert_type(control.local, IPv4Address | None)
    assert_type(control.timestamp_ns, int | None)
    assert_type(control.drops, int | None)
    assert_type(control.ecn, int | None)
    assert_type(control.dscp, int | None)
    assert_type(control.marshal(), bytes)
    assert_type(ControlMessage.parse(b""), ControlMessage)

    ControlMessage(1)  # type: ignore[call-arg]
    ControlMessage(ifindex="en0")  # type: ignore[arg-type]


def datagrams() -> None:
    datagram = Datagram(b"hello", (GROUP, 5000))
    assert_type(datagram.payload, bytes)
    assert_type(datagram.peer, tuple[str, int])
    assert_type(datagram.control, ControlMessage)
    assert_type(datagram.truncated, bool)
    assert_type(datagram.reply(b"hello", tos=0), Datagram)

    Datagram("hello", (GROUP, 5000))  # type: ignore[arg-type]
    Datagram(b"hello", GROUP)  # type: ignore[arg-type]


def raw_datagrams() -> None:
    header = Header(src=ADDRESS, dst="233.252.0.1", flags=HeaderFlags.DONT_FRAGMENT, ttl=1, protocol=1)
    assert_type(header.src, IPv4Address)
    assert_type(header.header_len, int)
    assert_type(header.flags, HeaderFlags)
    assert_type(header.options, bytes)
    assert_type(header.marshal(), bytes)
    assert_type(header.with_checksum(), Header)
    assert_type(header.checksum_ok, bool)
    assert_type(Header.parse(b""), Header)
    datagram = RawDatagram(header, b"hello")
    assert_type(datagram.header, Header)
    assert_type(datagram.payload, bytes)


def filters() -> None:
    assert_type(ICMPFilter.block_all().accept(ICMPType.ECHO, 3), ICMPFilter)
    assert_type(ICMPFilter().will_block(ICMPType.ECHO), bool)
    assert_type(RawInstruction(0x06, 0, 0, 0).k, int)


def parse_errors(error: ParseError) -> ValueError:
    assert_type(error.offset, int)
    return error


def unsupported_errors(error: UnsupportedError) -> NotImplementedError:
    assert_type(error.option, str)
    assert_type(error.platform, str)
    return error


def partial_send_errors(error: PartialSendError) -> OSError:
    assert_type(error.sent, int)
    return error
