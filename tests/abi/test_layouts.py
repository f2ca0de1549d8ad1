"""Every platform's layouts, round-tripped on whatever machine this is."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ControlMessage, ParseError, UnsupportedError
from trio_ipv4._abi import structs
from trio_ipv4._abi import this as this_module
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX, linux
from trio_ipv4._abi.platform import Layout, Platform
from trio_ipv4._abi.this import this_platform
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


GROUP = IPv4Address("239.1.2.3").packed
# The two widths and the two orders, as a C compiler for such a machine lays them out; the little-endian ones are also
# compared with the compiler of this machine.
OCTETS = {
    "linux": {
        "cmsg": "1100000000000000 02000000 03000000 b8 00000000000000",
        "ip_msfilter": "ef010203 00000000 02000000 01000000 00000000",
        "sock_fprog": "0300 000000000000 0403020100000000",
        "iovec": "0403020100000000 0500000000000000",
        "mmsghdr": """
            0100000000000000 02000000 00000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000
            07000000 00000000 08000000 00000000
        """,
    },
    "linux-be": {
        "cmsg": "0000000000000011 00000002 00000003 b8 00000000000000",
        "ip_msfilter": "ef010203 00000000 00000002 00000001 00000000",
        "sock_fprog": "0003 000000000000 0000000001020304",
        "iovec": "0000000001020304 0000000000000005",
        "mmsghdr": """
            0000000000000001 00000002 00000000 0000000000000003 0000000000000004 0000000000000005 0000000000000006
            00000007 00000000 00000008 00000000
        """,
    },
    "linux32": {
        "cmsg": "0d000000 02000000 03000000 b8 000000",
        "ip_msfilter": "ef010203 00000000 02000000 01000000 00000000",
        "sock_fprog": "0300 0000 04030201",
        "iovec": "04030201 05000000",
        "mmsghdr": "01000000 02000000 03000000 04000000 05000000 06000000 07000000 08000000",
    },
    "linux32-be": {
        "cmsg": "0000000d 00000002 00000003 b8 000000",
        "ip_msfilter": "ef010203 00000000 00000002 00000001 00000000",
        "sock_fprog": "0003 0000 01020304",
        "iovec": "01020304 00000005",
        "mmsghdr": "00000001 00000002 00000003 00000004 00000005 00000006 00000007 00000008",
    },
}


@pytest.mark.parametrize("name", OCTETS)
def test_every_number_has_the_machines_width_and_order(name: str) -> None:
    platform = ALL[name]
    found = {
        "cmsg": structs.cmsg(platform, 2, 3, b"\xb8"),
        "ip_msfilter": structs.ip_msfilter(platform, GROUP, 2, 1),
        "sock_fprog": structs.sock_fprog(platform, 3, 0x01020304),
        "iovec": struct.pack(structs.iovec_format(platform), 0x01020304, 5),
        "mmsghdr": struct.pack(structs.mmsghdr_format(platform), 1, 2, 3, 4, 5, 6, 7, 8),
    }
    assert found == {structure: bytes.fromhex(octets) for structure, octets in OCTETS[name].items()}


# Without sources: index, padding up to the alignment of a pointer, sockaddr_storage, two counts.
GROUP_FILTER_SIZES = {"linux": 144, "linux-be": 144, "linux32": 140, "linux32-be": 140, "darwin": 140}
each_size = pytest.mark.parametrize(("name", "size"), GROUP_FILTER_SIZES.items())


@each_size
def test_a_source_filter_without_its_counts_is_refused(name: str, size: int) -> None:
    assert structs.parse_group_filter(ALL[name], bytes(size)) == (0, 0, ())
    for length in (0, size - 1):
        with pytest.raises(ParseError) as caught:
            structs.parse_group_filter(ALL[name], bytes(length))
        assert str(caught.value) == f"a group_filter needs {size} octets, got {length} (at offset {length})"
    assert structs.parse_ip_msfilter(ALL[name], bytes(16)) == (0, 0, ())
    for length in (0, 15):
        with pytest.raises(ParseError) as caught:
            structs.parse_ip_msfilter(ALL[name], bytes(length))
        assert str(caught.value) == f"an ip_msfilter needs 16 octets, got {length} (at offset {length})"


@each_size
def test_only_whole_sources_are_read(name: str, size: int) -> None:
    platform = ALL[name]
    sources = [IPv4Address(f"192.0.2.{last}").packed for last in range(9)]
    whole = structs.group_filter(platform, 1, GROUP, 2, sources)
    assert len(whole) == size + 9 * 128
    short = structs.ip_msfilter(platform, GROUP, 2, 9)[:16] + b"".join(sources)
    for count in range(10):
        read = (2, 9, tuple(sources[:count]))
        for more in (0, 127) if count < 9 else (0,):
            assert structs.parse_group_filter(platform, whole[: size + 128 * count + more]) == read
        for more in (0, 3) if count < 9 else (0,):
            assert structs.parse_ip_msfilter(platform, short[: 16 + 4 * count + more]) == read
    # What follows as many as the kernel says is no source.
    assert structs.parse_group_filter(platform, whole + bytes(128)) == read
    assert structs.parse_ip_msfilter(platform, short + bytes(4)) == read


@pytest.mark.parametrize(
    ("name", "size"), {"linux": 16, "linux-be": 16, "linux32": 12, "linux32-be": 12, "darwin": 12}.items()
)
def test_a_control_record_ends_after_its_header_and_inside_the_buffer(name: str, size: int) -> None:
    platform = ALL[name]
    first = structs.cmsg(platform, 0, 1, b"")
    assert len(first) == size
    width = platform.cmsg_length_size

    def second(length: int) -> bytes:
        """A record with room for 8 octets that says it has `length` of them, its header counted."""
        return length.to_bytes(width, platform.byte_order) + structs.cmsg(platform, 0, 2, b"8 octets")[width:]

    for length in (size, size + 3, size + 8):
        records = list(structs.iterate_cmsgs(platform, first + second(length)))
        assert records == [(size, 0, 1, b""), (2 * size, 0, 2, b"8 octets"[: length - size])]
    for length in (0, size - 1, size + 9):
        with pytest.raises(ParseError) as caught:
            list(structs.iterate_cmsgs(platform, first + second(length)))
        allowed = f"from {size} to {size + 8}"
        message = f"the length of a control message must be {allowed}, got {length} (at offset {size})"
        assert str(caught.value) == message


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
    ("name", "described"),
    [("linux", True), ("darwin", True), ("aix", False), ("cygwin", False), ("freebsd14", False), ("win32", False)],
)
def test_a_platform_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, described: bool) -> None:
    monkeypatch.setattr("sys.platform", name)
    chosen = this_module._this_platform()
    assert chosen.name == name
    assert bool(chosen.options) is described
    assert chosen.has_mmsg is (name == "linux")


@pytest.mark.parametrize("word", [4, 8])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_linux_is_described_as_the_interpreter_was_built(
    monkeypatch: pytest.MonkeyPatch, word: Literal[4, 8], byte_order: Literal["little", "big"]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.byteorder", byte_order)
    monkeypatch.setattr(this_module, "struct", SimpleNamespace(calcsize={"P": word}.__getitem__))
    assert this_module._this_platform() == linux(word=word, byte_order=byte_order)


@pytest.mark.parametrize(
    ("platform", "facts"),
    [
        (LINUX, ("linux", 8, "little", 8, 8, False, False, 1, 0, False, False, True)),
        (BIG, ("linux", 8, "big", 8, 8, False, False, 1, 0, False, False, True)),
        (NARROW, ("linux", 4, "little", 4, 4, False, False, 1, 0, False, False, True)),
        (NARROW_BIG, ("linux", 4, "big", 4, 4, False, False, 1, 0, False, False, True)),
        (DARWIN, ("darwin", 8, "little", 4, 4, True, True, 1, 2, True, True, False)),
        (Platform(name="plan9"), ("plan9", 8, "little", 8, 8, False, False, 1, 0, False, False, False)),
    ],
    ids=[*ALL, "plan9"],
)
def test_a_platform_shows_its_facts_but_not_its_tables(platform: Platform, facts: tuple[object, ...]) -> None:
    names = [field.name for field in attrs.fields(Platform) if field.name not in {"options", "control", "numbers"}]
    shown = ", ".join(f"{name}={fact!r}" for name, fact in zip(names, facts, strict=True))
    assert repr(platform) == f"Platform({shown})"


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
