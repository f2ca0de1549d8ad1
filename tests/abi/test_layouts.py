"""Every platform's layouts, round-tripped on whatever machine this is."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ControlMessage, ParseError, UnsupportedError
from trio_ipv4._abi import platform as platform_module
from trio_ipv4._abi import structs
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX, linux
from trio_ipv4._abi.platform import Layout, Platform, this_platform
from trio_ipv4._values.control import marshal_control, parse_control

if TYPE_CHECKING:
    from collections.abc import Sequence

BIG = linux(byte_order="big")
NARROW = linux(word=4)
NARROW_BIG = linux(word=4, byte_order="big")
ALL = {"linux": LINUX, "linux-be": BIG, "linux32": NARROW, "linux32-be": NARROW_BIG, "darwin": DARWIN}
PLATFORMS = st.sampled_from(list(ALL.values()))
PACKED = st.binary(min_size=4, max_size=4)
INDEXES = st.integers(1, 2**31 - 1)
each_platform = pytest.mark.parametrize("platform", ALL.values(), ids=ALL)


@given(PLATFORMS, PACKED, st.integers(0, 0xFFFF))
def test_endpoints_come_back(platform: Platform, address: bytes, port: int) -> None:
    data = structs.sockaddr_in(platform, address, port)
    assert len(data) == structs.SOCKADDR_IN_SIZE
    assert structs.parse_sockaddr_in(data) == (address, port)


@given(PLATFORMS, INDEXES, PACKED, st.integers(0, 2), st.lists(PACKED, max_size=5), st.integers(0, 5))
def test_source_filters_come_back(
    platform: Platform, index: int, group: bytes, mode: int, sources: Sequence[bytes], room: int
) -> None:
    data = structs.group_filter(platform, index, group, mode, sources)
    assert structs.parse_group_filter(platform, data) == (mode, len(sources), tuple(sources))
    cut = data[: structs.group_filter_size(platform, room)]
    assert structs.parse_group_filter(platform, cut) == (mode, len(sources), tuple(sources[:room]))


@given(PLATFORMS, st.binary(max_size=600))
def test_any_octets_are_a_source_filter_or_a_parse_error(platform: Platform, data: bytes) -> None:
    for parse in (structs.parse_group_filter, structs.parse_ip_msfilter):
        try:
            _, total, sources = parse(platform, data)
        except ParseError as error:
            assert error.offset == len(data)
        else:
            assert len(sources) <= total
            assert len(sources) * 4 <= len(data)


@given(PLATFORMS, PACKED, st.integers(0, 2), st.integers(0, 5))
def test_an_ip_msfilter_has_the_room_that_it_says(platform: Platform, group: bytes, mode: int, room: int) -> None:
    data = structs.ip_msfilter(platform, group, mode, room)
    assert structs.parse_ip_msfilter(platform, data) == (mode, room, (structs.ANY,) * room)


RECORDS = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=40))


@given(PLATFORMS, st.lists(RECORDS, max_size=6), st.data())
def test_control_records_come_back(
    platform: Platform, records: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    buffer = b"".join(structs.cmsg(platform, *record) for record in records)
    found = list(structs.iterate_cmsgs(platform, buffer))
    assert [record[1:] for record in found] == records
    assert all(buffer[offset : offset + len(content)] == content for offset, _, _, content in found)
    if records:
        # The padding of the last one may be missing, and a tail that is no header is nothing.
        bare = len(buffer) - structs.cmsg_space(platform, len(records[-1][2]))
        bare += structs.cmsg_header_size(platform) + len(records[-1][2])
        assert len(list(structs.iterate_cmsgs(platform, buffer[:bare]))) == len(records)
    tail = data.draw(st.binary(max_size=structs.cmsg_header_size(platform) - 1))
    assert len(list(structs.iterate_cmsgs(platform, buffer + tail))) == len(records)


@given(PLATFORMS, st.binary(max_size=200))
def test_any_octets_are_control_records_or_a_parse_error(platform: Platform, data: bytes) -> None:
    try:
        records = list(structs.iterate_cmsgs(platform, data))
    except ParseError as error:
        assert 0 <= error.offset < len(data)
    else:
        assert sum(structs.cmsg_header_size(platform) + len(content) for *_, content in records) <= len(data)


ADDRESSES = st.builds(IPv4Address, st.integers(1, 2**32 - 1))
REQUESTS = st.builds(
    ControlMessage,
    ttl=st.none() | st.integers(1, 255),
    src=st.none() | ADDRESSES,
    ifindex=st.none() | INDEXES,
    tos=st.none() | st.integers(0, 255),
)


def as_received(platform: Platform, octets: bytes) -> bytes:
    """Turn the records of a request into those that the platform's kernel would deliver for the same facts."""
    received = {
        (platform.option(name).level, platform.option(name).name): platform.control[name]
        for name in ("IP_TOS", "IP_TTL", "IP_PKTINFO")
    }
    records = structs.iterate_cmsgs(platform, octets)
    return b"".join(structs.cmsg(platform, *received[level, kind], data) for _, level, kind, data in records)


@given(PLATFORMS, REQUESTS)
def test_requests_come_back_on_every_platform(platform: Platform, request: ControlMessage) -> None:
    again = parse_control(platform, as_received(platform, marshal_control(platform, request)))
    assert again == ControlMessage(ttl=request.ttl, tos=request.tos, ifindex=request.ifindex, local=request.src)


def test_darwin_delivers_other_numbers_than_it_takes() -> None:
    # bsd/netinet/in.h: IP_TOS 3, IP_TTL 4 when sent; IP_RECVTOS 27, IP_RECVTTL 24 on what arrives.
    request = marshal_control(DARWIN, ControlMessage(ttl=7, tos=8))
    assert [record[1:3] for record in structs.iterate_cmsgs(DARWIN, request)] == [(0, 4), (0, 3)]
    arrived = structs.cmsg(DARWIN, 0, 24, b"\x07") + structs.cmsg(DARWIN, 0, 27, b"\x08")
    assert parse_control(DARWIN, arrived) == ControlMessage(ttl=7, tos=8)
    assert parse_control(DARWIN, request) == ControlMessage()


@given(PLATFORMS, st.binary(max_size=200))
def test_any_control_buffer_is_a_value_or_a_parse_error(platform: Platform, data: bytes) -> None:
    try:
        parsed = parse_control(platform, data)
    except ParseError as error:
        assert 0 <= error.offset <= len(data)
    else:
        assert isinstance(parsed, ControlMessage)


@given(PLATFORMS, st.data())
def test_any_content_of_a_known_record_is_a_value_or_a_parse_error(platform: Platform, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(platform.control)))
    content = data.draw(
        st.binary(max_size=24) | st.sampled_from([1, 4, 12, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
    )
    buffer = structs.cmsg(platform, *platform.control[name], content)
    try:
        parse_control(platform, buffer)
    except ParseError as error:
        assert error.offset == structs.cmsg_header_size(platform)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
def test_timestamps_of_any_second_are_read(seconds: int, nanoseconds: int) -> None:
    for platform in (LINUX, BIG, NARROW, NARROW_BIG):
        content = struct.pack(platform.prefix + "qq", seconds, nanoseconds)
        buffer = structs.cmsg(platform, *platform.control["SO_TIMESTAMPNS"], content)
        assert parse_control(platform, buffer).timestamp_ns == seconds * 10**9 + nanoseconds


@given(INDEXES, PACKED, PACKED, st.integers(0, 255))
def test_only_numbers_differ_between_byte_orders(index: int, group: bytes, source: bytes, tos: int) -> None:
    for little, big in ((LINUX, BIG), (NARROW, NARROW_BIG)):
        for one, other, ints in (
            (structs.group_req(little, index, group), structs.group_req(big, index, group), None),
            (structs.in_pktinfo(little, index, group, source), structs.in_pktinfo(big, index, group, source), {0: 4}),
            (structs.ip_mreqn(little, group, source, index), structs.ip_mreqn(big, group, source, index), {8: 4}),
        ):
            swapped = bytearray(one)
            # In a group_req, the address family is a number too.
            for place, width in (ints or {0: 4, len(one) - 128: 2}).items():
                swapped[place : place + width] = reversed(swapped[place : place + width])
            assert bytes(swapped) == other


def test_darwins_layouts_are_packed_and_tell_their_length() -> None:
    # bsd/netinet/in.h: #pragma pack(4); bsd/sys/_types/_sockaddr_storage.h: ss_len, ss_family.
    group, source = IPv4Address("239.1.2.3").packed, IPv4Address("192.0.2.1").packed
    address = bytes([16, 2, 0, 0]) + group
    assert structs.group_req(DARWIN, 5, group) == b"\5\0\0\0" + address.ljust(128, b"\0")
    assert len(structs.group_source_req(DARWIN, 5, group, source)) == 260
    assert structs.sockaddr_in(DARWIN, group, 0x1234) == bytes([16, 2, 0x12, 0x34]) + group + bytes(8)
    assert structs.cmsg(DARWIN, 0, 24, b"\x40") == bytes.fromhex("0d000000 00000000 18000000 40000000")


def test_what_differs_on_darwin_is_told() -> None:
    assert (DARWIN.mcast_include, DARWIN.mcast_exclude) == (1, 2)
    assert DARWIN.option("IP_MULTICAST_TTL").layout is Layout.OCTET
    assert not DARWIN.has_mmsg
    for name in ("IP_MULTICAST_ALL", "SO_TIMESTAMPNS", "ICMP_FILTER", "SO_ATTACH_FILTER", "SO_RXQ_OVFL"):
        with pytest.raises(UnsupportedError, match=f"{name} is not available on darwin"):
            DARWIN.option(name)


@each_platform
def test_every_control_message_that_is_sent_has_an_option(platform: Platform) -> None:
    for name in ("IP_TOS", "IP_TTL", "IP_PKTINFO"):
        assert name in platform.control
        assert platform.option(name).level == 0


@pytest.mark.parametrize(
    ("name", "described"), [("linux", True), ("darwin", True), ("win32", False), ("freebsd14", False)]
)
def test_a_platform_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, described: bool) -> None:
    monkeypatch.setattr("sys.platform", name)
    chosen = platform_module._this_platform()
    assert chosen.name == name
    assert bool(chosen.options) is described
    assert chosen.has_mmsg is (name == "linux")


def test_an_unknown_platform_lacks_every_option() -> None:
    with pytest.raises(UnsupportedError) as caught:
        Platform(name="plan9").option("IP_TTL")
    assert (caught.value.option, caught.value.platform) == ("IP_TTL", "plan9")
    with pytest.raises(UnsupportedError, match="IP_TTL is not available on plan9"):
        marshal_control(Platform(name="plan9"), ControlMessage(ttl=1))
    assert parse_control(Platform(name="plan9"), b"") == ControlMessage()


def test_this_platform_is_this_machines() -> None:
    assert this_platform().byte_order == ("little" if struct.pack("=H", 1)[0] else "big")
    assert this_platform().word == struct.calcsize("P")
