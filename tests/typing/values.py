"""What a user's type checker makes of the values. Checked by mypy and pyright; never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import assert_never, assert_type

from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    FilterMode,
    GroupRecord,
    GroupRecordType,
    GroupReq,
    Header,
    HeaderFlags,
    ICMPDestinationUnreachable,
    ICMPEcho,
    ICMPExtension,
    ICMPExtensionObject,
    ICMPFilter,
    ICMPMessage,
    ICMPOther,
    ICMPParameterProblem,
    ICMPRedirect,
    ICMPTimeExceeded,
    ICMPTimestamp,
    ICMPType,
    IGMPLeave,
    IGMPMessage,
    IGMPOther,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    Interface,
    InterfaceChange,
    InterfaceChangeKind,
    InterfaceFlags,
    InterfaceInformation,
    InterfaceRole,
    MPLSLabel,
    MPLSLabelStack,
    ParseError,
    PartialSendError,
    RawDatagram,
    RawInstruction,
    SourceFilter,
    UnreachableCode,
    UnsupportedError,
    marshal_extensions,
    parse_extensions,
    parse_icmp,
    parse_igmp,
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


def icmp_messages(data: bytes) -> bytes:
    message = parse_icmp(data)
    assert_type(message, ICMPMessage)
    assert_type(message.marshal(), bytes)
    if isinstance(message, ICMPMessage):
        assert_type({message: 1}, dict[ICMPMessage, int])  # hashable
    match message:
        case ICMPEcho() | ICMPTimestamp():
            assert_type(message.type, ICMPType)
            assert_type(message.is_reply, bool)
            return b""
        case ICMPDestinationUnreachable():
            assert_type(message.code, UnreachableCode | int)
            assert_type(message.mtu, int | None)
            return message.quoted
        case ICMPTimeExceeded() | ICMPParameterProblem():
            assert_type(message.extensions, tuple[ICMPExtensionObject, ...])
            return message.quoted
        case ICMPRedirect():
            assert_type(message.gateway, IPv4Address)
            assert_type(message.header, Header | None)
            assert_type(message.quoted_payload, bytes)
            return message.quoted
        case ICMPOther():
            assert_type(message.type, ICMPType | int)
            return message.body
        case _:
            assert_never(message)


def icmp_extensions(data: bytes) -> None:
    stack = MPLSLabelStack([MPLSLabel(16, ttl=1, bottom_of_stack=True)])
    information = InterfaceInformation(InterfaceRole.INCOMING, address="192.0.2.1", name="en0")
    assert_type(stack.labels, tuple[MPLSLabel, ...])
    assert_type(information.address, IPv4Address | IPv6Address | None)
    assert_type(marshal_extensions([stack, information, ICMPExtension(3, 2, b"\0\0\0\1")]), bytes)
    for extension in parse_extensions(data):
        assert_type(extension, ICMPExtensionObject)
        assert_type(extension.class_num, int)
        assert_type(extension.c_type, int)
        assert_type(extension.data, bytes)
    ICMPTimeExceeded(0, data, extensions=[stack])

    ICMPTimeExceeded(0, data, extensions=stack)  # type: ignore[arg-type]
    ICMPEcho(1, 2, "hello")  # type: ignore[arg-type]
    ICMPEcho(1, 2, b"hello", True)  # type: ignore[call-arg]
    MPLSLabel(16, 1)  # type: ignore[call-arg]


def igmp_messages(data: bytes) -> IPv4Address | None:
    message = parse_igmp(data)
    assert_type(message, IGMPMessage)
    assert_type(message.type, int)
    assert_type(message.marshal(), bytes)
    if isinstance(message, IGMPMessage):
        assert_type({message: 1}, dict[IGMPMessage, int])  # hashable
    match message:
        case IGMPQuery():
            assert_type(message.version, int)
            assert_type(message.max_response_time, float)
            assert_type(message.suppress_router_processing, bool)
            assert_type(message.robustness, int | None)
            assert_type(message.query_interval, int | None)
            assert_type(message.sources, tuple[IPv4Address, ...])
            return message.group
        case IGMPv1Report() | IGMPv2Report() | IGMPLeave():
            return message.group
        case IGMPv3Report():
            assert_type(message.records, tuple[GroupRecord, ...])
            return message.records[0].group
        case IGMPOther():
            assert_type(message.code, int)
            assert_type(message.body, bytes)
            return None
        case _:
            assert_never(message)


def group_records(before: SourceFilter, after: SourceFilter) -> None:
    record = GroupRecord(GroupRecordType.ALLOW_NEW_SOURCES, "233.252.0.1", [ADDRESS, "192.0.2.2"], auxiliary=b"1234")
    assert_type(record.type, GroupRecordType | int)
    assert_type(record.group, IPv4Address)
    assert_type(record.sources, tuple[IPv4Address, ...])
    assert_type(record.auxiliary, bytes)
    assert_type(record.marshal(), bytes)
    assert_type(GroupRecord.current(GROUP, after), GroupRecord)
    assert_type(GroupRecord.between(GROUP, before, after), tuple[GroupRecord, ...])
    assert_type(IGMPv3Report(GroupRecord.between(GROUP, before, after)).marshal(), bytes)
    IGMPQuery(GROUP, ["192.0.2.1"], version=3, max_response_time=1, query_interval=125)

    GroupRecord(1, GROUP, [ADDRESS], b"1234")  # type: ignore[call-arg]
    IGMPv3Report(record)  # type: ignore[arg-type]
    IGMPQuery(GROUP, query_interval=12.5)  # type: ignore[arg-type]
    record.group = GROUP  # type: ignore[misc]


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
