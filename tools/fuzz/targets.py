"""What strangers' octets meet: one function for each parser. Any octets give a value or `ParseError`, nothing else.

Each also holds what is parsed against what it was parsed from, where that can be written back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from trio_ipv4 import (
    ControlFlags,
    Header,
    ICMPEcho,
    ICMPOther,
    ICMPTimestamp,
    IGMPv3Report,
    ParseError,
    marshal_extensions,
    parse_bpf,
    parse_extensions,
    parse_icmp,
    parse_igmp,
)
from trio_ipv4._abi import structs
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._abi.this import this_platform
from trio_ipv4._codec import membership_table
from trio_ipv4._codec.interface_table import InterfaceTable, difference
from trio_ipv4._codec.membership_table import MembershipTable
from trio_ipv4._codec.rtnetlink import parse_messages
from trio_ipv4._conn.caches import Controls
from trio_ipv4._conn.codec import header_length
from trio_ipv4._kernel import groups, offload
from trio_ipv4._values.bpf import marshal_program
from trio_ipv4._values.checksum import with_checksum
from trio_ipv4._values.control import parse_control
from trio_ipv4._values.header import from_kernel_order, to_kernel_order
from trio_ipv4._values.socket_error import parse_socket_error

if TYPE_CHECKING:
    from collections.abc import Callable

PLATFORMS = (LINUX, DARWIN)


def control(data: bytes) -> None:
    """Control messages of a received datagram."""
    for platform in PLATFORMS:
        with contextlib.suppress(ParseError):
            value = parse_control(platform, data)
            assert value.ttl is None or 0 <= value.ttl <= 255
            assert value.tos is None or value.ecn == value.tos & 3
            repr(value)


def socket_error(data: bytes) -> None:
    """A message of the error queue: how many octets of control messages, these, and octets of a datagram."""
    control, payload = data[1 : 1 + data[0]] if data else b"", data[1 + data[0] :] if data else b""
    with contextlib.suppress(ParseError):
        value = parse_socket_error(LINUX, payload, control)
        assert payload.startswith(value.payload)
        assert value.extensions or value.payload == payload
        str(value)


def cached_control(data: bytes) -> None:
    """The same on the receive path: with the sender's address behind, and segment sizes."""
    with contextlib.suppress(ParseError):
        assert Controls(this_platform(), ControlFlags(0))[data] == parse_control(this_platform(), data)
    with contextlib.suppress(ParseError):
        # The four octets of the sender are the kernel's, and always there.
        Controls(this_platform(), ~ControlFlags(0))[data + b"\x7f\0\0\1"]
    with contextlib.suppress(ParseError):
        assert 0 <= offload.segment_size(this_platform(), data) < 1 << (8 * max(len(data), 1))


def header(data: bytes) -> None:
    """An IP header, of a raw socket or inside an ICMP error."""
    with contextlib.suppress(ParseError):
        value = Header.parse(data)
        assert value.marshal() == data[: value.header_len]
        assert value.with_checksum().checksum_ok
        str(value)


def icmp(data: bytes) -> None:
    """An ICMP message, with the checksum that it came with and with a right one; objects of an extension."""
    for octets in (data, with_checksum(data[:2] + b"\0\0" + data[4:])):
        with contextlib.suppress(ParseError):
            message = parse_icmp(octets)
            assert parse_icmp(message.marshal()) == message
            repr(message)
            if not isinstance(message, ICMPEcho | ICMPTimestamp | ICMPOther):
                assert message.quoted.endswith(message.quoted_payload)
                assert (message.header is None) <= (message.quoted_payload == b"")
    for structure in (data, b"\x20\0\0\0" + data):
        with contextlib.suppress(ParseError):
            objects = parse_extensions(structure)
            assert parse_extensions(marshal_extensions(objects)) == objects


def igmp(data: bytes) -> None:
    """An IGMP message, with the checksum that it came with and with a right one."""
    for octets in (data, with_checksum(data[:2] + b"\0\0" + data[4:])):
        with contextlib.suppress(ParseError):
            message = parse_igmp(octets)
            assert parse_igmp(message.marshal()) == message
            assert len(message.marshal()) <= len(octets)
            repr(message)
            if isinstance(message, IGMPv3Report):
                assert b"".join(record.marshal() for record in message.records) == message.marshal()[8:]


def packet(data: bytes) -> None:
    """A packet of a raw socket: where its payload begins, and the orders of octets that kernels use."""
    with contextlib.suppress(ParseError):
        assert 20 <= header_length(data) <= len(data)
    for byte_order in ("little", "big"):
        for excludes in (False, True):
            with contextlib.suppress(ParseError):
                wire = from_kernel_order(data, byte_order, length_excludes_header=excludes)
                assert len(wire) == len(data)
                if not excludes and len(data) >= 20:
                    assert to_kernel_order(wire, byte_order) == data
                Header.parse(wire)


def rtnetlink(data: bytes) -> None:
    """Messages about links, addresses and groups, and the tables that they add up to."""
    for byte_order in ("little", "big"):
        with contextlib.suppress(ParseError):
            messages = parse_messages(data, byte_order)
            assert len(messages) <= len(data) // 8  # At most two for a header of 16 octets.
            table, followed = InterfaceTable(messages), InterfaceTable()
            for message in messages:
                followed.apply(message)
            assert followed.interfaces == table.interfaces
            assert not difference(table.interfaces, followed.interfaces)
            groups_told = MembershipTable()
            told = [each for message in messages for each in groups_told.apply(message) or ()]
            assert len(told) >= len(groups_told.memberships)
            assert groups_told.memberships == MembershipTable(messages).memberships
            assert not membership_table.difference(groups_told.memberships, MembershipTable(messages).memberships)


def bpf(data: bytes) -> None:
    """The text of a BPF program."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(ParseError):
        program = parse_bpf(text)
        assert len(marshal_program(program)) == 8 * len(program)
        lines = [f"{each.op} {each.jt} {each.jf} {each.k}" for each in program]
        assert parse_bpf("\n".join([str(len(program)), *lines])) == program


def source_filters(data: bytes) -> None:
    """What the kernel answers about a filter: struct group_filter and struct ip_msfilter."""
    for platform in PLATFORMS:
        for parse in (structs.parse_group_filter, structs.parse_ip_msfilter):
            with contextlib.suppress(ParseError):
                mode, total, sources = parse(platform, data)
                assert len(sources) <= min(total, len(data) // 4)
                assert len(groups._to_filter(platform, mode, sources).sources) <= len(sources)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (control, cached_control, header, icmp, igmp, packet, rtnetlink, bpf, socket_error, source_filters)
}
