from __future__ import annotations

import pickle
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._errors import ParseError
from trio_ipv4._values.header import Header, HeaderFlags, from_kernel_order, to_kernel_order

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# The vector of Go's header tests.
WIRE = bytes.fromhex("4501beef cafe45dc ff01dead ac10fefe c0a80001")
GO = Header(
    src="172.16.254.254",
    dst="192.168.0.1",
    tos=1,
    total_len=0xBEEF,
    id=0xCAFE,
    flags=HeaderFlags.DONT_FRAGMENT,
    fragment_offset=1500,
    ttl=255,
    protocol=1,
    checksum=0xDEAD,
)
ROUTER_ALERT = bytes.fromhex("94040000")  # RFC 2113
IGMP = Header(src="0.0.0.0", dst="224.0.0.22", tos=0xC0, total_len=40, ttl=1, protocol=2, options=ROUTER_ALERT)

ADDRESSES = st.builds(IPv4Address, st.integers(0, 2**32 - 1))
OCTET = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
OPTIONS = st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))
HEADERS = st.builds(
    Header,
    src=ADDRESSES,
    dst=ADDRESSES,
    tos=OCTET,
    total_len=WORD,
    id=WORD,
    flags=st.builds(HeaderFlags, st.integers(0, 7)),
    fragment_offset=st.integers(0, 0x1FFF),
    ttl=OCTET,
    protocol=OCTET,
    checksum=WORD,
    options=OPTIONS,
)
BYTE_ORDERS = st.sampled_from(["little", "big"])


def outcome(parse: Callable[..., T], *arguments: Any) -> T | ParseError:
    try:
        return parse(*arguments)
    except ParseError as error:
        return error


def make(**fields: Any) -> Header:
    return Header(**{"src": "192.0.2.1", "dst": "192.0.2.2", **fields})


def test_a_header_has_the_octets_that_go_gives_it() -> None:
    assert GO.marshal() == WIRE
    assert Header.parse(WIRE) == GO


@given(HEADERS, st.binary(max_size=8))
def test_a_header_comes_back_as_it_was_whatever_follows(header: Header, payload: bytes) -> None:
    wire = header.marshal()
    assert len(wire) == header.header_len
    assert Header.parse(wire + payload) == header
    assert hash(Header.parse(wire + payload)) == hash(header)


@given(st.binary(max_size=80))
def test_any_octets_are_a_header_or_a_parse_error(data: bytes) -> None:
    header = outcome(Header.parse, data)
    if isinstance(header, ParseError):
        assert 0 <= header.offset <= len(data)
    else:
        assert data.startswith(header.marshal())


@given(st.integers(5, 15), st.binary(min_size=59, max_size=70))
def test_any_octets_after_a_right_first_one_are_a_header(words: int, rest: bytes) -> None:
    data = bytes([0x40 | words]) + rest
    assert Header.parse(data).marshal() == data[: 4 * words]


@given(HEADERS)
def test_a_parsed_header_is_as_valid_as_a_constructed_one(header: Header) -> None:
    parsed = Header.parse(header.marshal())
    for field in attrs.fields(Header):
        value = getattr(parsed, field.name)
        assert type(value) is type(getattr(header, field.name))
    assert attrs.evolve(parsed) == header


def test_any_bytes_like_object_can_be_parsed() -> None:
    assert Header.parse(bytearray(WIRE)) == GO
    assert Header.parse(memoryview(WIRE + b"payload")) == GO
    assert type(Header.parse(bytearray(IGMP.marshal())).options) is bytes


@pytest.mark.parametrize("data", ["4501", None, 20, True])
def test_what_is_not_bytes_cannot_be_parsed(data: Any) -> None:
    with pytest.raises(TypeError, match="data must be bytes, got "):
        Header.parse(data)


@pytest.mark.parametrize(
    ("data", "offset", "message"),
    [
        (b"", 0, "an IPv4 header has at least 20 octets, got 0 (at offset 0)"),
        (WIRE[:19], 19, "an IPv4 header has at least 20 octets, got 19 (at offset 19)"),
        (b"\x65" + WIRE[1:], 0, "the version must be 4, got 6 (at offset 0)"),
        (b"\x05" + WIRE[1:], 0, "the version must be 4, got 0 (at offset 0)"),
        (b"\x44" + WIRE[1:], 0, "the header length must be from 20 to 60 octets, got 16 (at offset 0)"),
        (b"\x40" + WIRE[1:], 0, "the header length must be from 20 to 60 octets, got 0 (at offset 0)"),
        (b"\x46" + WIRE[1:], 20, "the header has 24 octets by its length field, got 20 (at offset 20)"),
        (b"\x4f" + WIRE[1:] + bytes(39), 59, "the header has 60 octets by its length field, got 59 (at offset 59)"),
    ],
)
def test_a_parse_error_says_where_and_what(data: bytes, offset: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        Header.parse(data)
    assert caught.value.offset == offset
    assert str(caught.value) == message


def test_the_header_length_follows_the_options() -> None:
    assert make().header_len == 20
    assert make(options=ROUTER_ALERT).header_len == 24
    assert make(options=bytes(40)).header_len == 60
    assert make(header_len=24, options=ROUTER_ALERT) == make(options=ROUTER_ALERT)
    assert attrs.evolve(make(), options=ROUTER_ALERT).header_len == 24


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"version": 6}, ValueError, "version must be 4, got 6"),
        ({"version": True}, TypeError, "version must be an integer from 0 to 15, got True"),
        ({"header_len": 24}, ValueError, "header_len must be 20 with options of 0 octets, got 24"),
        (
            {"header_len": 20, "options": ROUTER_ALERT},
            ValueError,
            "header_len must be 24 with options of 4 octets, got 20",
        ),
        ({"header_len": 5}, ValueError, "header_len must be from 20 to 60, got 5"),
        ({"header_len": 64}, ValueError, "header_len must be from 20 to 60, got 64"),
        ({"tos": 256}, ValueError, "tos must be from 0 to 255, got 256"),
        ({"tos": True}, TypeError, "tos must be an integer from 0 to 255, got True"),
        ({"total_len": 65536}, ValueError, "total_len must be from 0 to 65535, got 65536"),
        ({"total_len": -1}, ValueError, "total_len must be from 0 to 65535, got -1"),
        ({"id": 70000}, ValueError, "id must be from 0 to 65535, got 70000"),
        ({"flags": 8}, ValueError, "flags must be from 0 to 7, got 8"),
        ({"flags": "DF"}, TypeError, "flags must be an integer from 0 to 7, got 'DF'"),
        ({"fragment_offset": 8192}, ValueError, "fragment_offset must be from 0 to 8191, got 8192"),
        ({"ttl": 300}, ValueError, "ttl must be from 0 to 255, got 300"),
        ({"protocol": 256}, ValueError, "protocol must be from 0 to 255, got 256"),
        ({"protocol": 1.0}, TypeError, "protocol must be an integer from 0 to 255, got 1.0"),
        ({"checksum": 0x10000}, ValueError, "checksum must be from 0 to 65535, got 65536"),
        ({"options": b"\1\1\1"}, ValueError, "options must have from 0 to 40 octets, a multiple of 4, got 3"),
        ({"options": bytes(44)}, ValueError, "options must have from 0 to 40 octets, a multiple of 4, got 44"),
        ({"options": "nop"}, TypeError, "options must be bytes, got 'nop'"),
        ({"options": 4}, TypeError, "options must be bytes, got 4"),
        ({"src": "localhost"}, ValueError, "src must be a numeric IPv4 address such as '192.0.2.1', got 'localhost'"),
        ({"src": "::1"}, ValueError, "src must be a numeric IPv4 address such as '192.0.2.1', got '::1'"),
        ({"dst": IPv6Address("::1")}, TypeError, "dst must be an IPv4Address or a dotted string"),
        ({"dst": True}, TypeError, "dst must be an IPv4Address or a dotted string such as '192.0.2.1', got True"),
        ({"dst": None}, TypeError, "dst must be an IPv4Address or a dotted string such as '192.0.2.1', got None"),
    ],
)
def test_a_header_names_field_range_and_value(fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "highest"),
    [  # RFC 791 section 3.1: the widths in bits
        ("tos", 2**8 - 1),
        ("total_len", 2**16 - 1),
        ("id", 2**16 - 1),
        ("flags", 2**3 - 1),
        ("fragment_offset", 2**13 - 1),
        ("ttl", 2**8 - 1),
        ("protocol", 2**8 - 1),
        ("checksum", 2**16 - 1),
    ],
)
def test_a_field_holds_what_its_bits_can_say_and_is_zero_by_default(name: str, highest: int) -> None:
    assert getattr(make(), name) == getattr(make(**{name: 0}), name) == 0
    assert getattr(Header.parse(make(**{name: highest}).marshal()), name) == highest
    for value in (-1, highest + 1):
        with pytest.raises(ValueError, match=f"^{name} must be from 0 to {highest}, got {value}$"):
            make(**{name: value})


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (-1, "version must be from 0 to 15, got -1"),
        (0, "version must be 4, got 0"),
        (3, "version must be 4, got 3"),
        (5, "version must be 4, got 5"),
        (15, "version must be 4, got 15"),
        (16, "version must be from 0 to 15, got 16"),
    ],
)
def test_the_version_is_four(version: int, message: str) -> None:
    assert make().version == make(version=4).version == 4
    with pytest.raises(ValueError, match="version") as caught:
        make(version=version)
    assert str(caught.value) == message


@pytest.mark.parametrize("header_len", [19, 61])
def test_a_header_has_from_20_to_60_octets(header_len: int) -> None:
    with pytest.raises(ValueError, match=f"^header_len must be from 20 to 60, got {header_len}$"):
        make(header_len=header_len)
    assert make(header_len=20).header_len == 20
    assert make(header_len=60, options=bytes(40)).header_len == 60


def test_every_argument_is_named() -> None:
    with pytest.raises(TypeError):
        Header("192.0.2.1", "192.0.2.2")  # type: ignore[call-arg]


def test_what_the_length_excludes_is_named() -> None:
    with pytest.raises(TypeError):
        from_kernel_order(WIRE, "little", True)  # type: ignore[call-arg]


def test_unspecified_addresses_are_legitimate() -> None:
    assert make(src="0.0.0.0", dst="255.255.255.255").src == IPv4Address("0.0.0.0")


def test_a_receiver_makes_each_address_once() -> None:
    # The same few come again and again, and making one costs more than a look-up.
    first, second = Header.parse(WIRE), Header.parse(WIRE)
    assert first.src is second.src
    assert first.dst is second.dst


def test_addresses_are_stored_plain() -> None:
    assert type(make(src=IPv4Interface("192.0.2.1/24")).src) is IPv4Address
    assert make(src=IPv4Interface("192.0.2.1/24")) == make()


def test_flags_are_stored_as_flags() -> None:
    assert make(flags=3).flags == HeaderFlags.MORE_FRAGMENTS | HeaderFlags.DONT_FRAGMENT
    assert isinstance(make(flags=3).flags, HeaderFlags)
    assert [int(each) for each in HeaderFlags] == [1, 2, 4]
    assert make(flags=HeaderFlags.RESERVED).marshal()[6] == 0x80
    assert make(flags=HeaderFlags.DONT_FRAGMENT).marshal()[6] == 0x40
    assert make(flags=HeaderFlags.MORE_FRAGMENTS).marshal()[6] == 0x20


def test_a_known_checksum_is_found() -> None:
    # A header as it was on the wire: ICMP echo from 192.0.2.1 to 192.0.2.2.
    header = make(total_len=84, id=0, flags=HeaderFlags.DONT_FRAGMENT, ttl=64, protocol=1).with_checksum()
    # 4500 + 0054 + 0000 + 4000 + 4001 + 0000 + c000 + 0201 + c000 + 0202, folded and inverted.
    assert header.checksum == 0xB6A5
    assert header.checksum_ok


@given(HEADERS)
def test_a_checksum_computed_is_right_and_changes_nothing_else(header: Header) -> None:
    summed = header.with_checksum()
    assert summed.checksum_ok
    assert summed.with_checksum() == summed
    assert attrs.evolve(summed, checksum=header.checksum) == header
    assert Header.parse(summed.marshal()).checksum_ok


@given(HEADERS, st.integers(1, 0xFFFE))
def test_any_other_checksum_is_wrong(header: Header, error: int) -> None:
    right = header.with_checksum().checksum
    wrong = attrs.evolve(header, checksum=(right + error) & 0xFFFF)
    # In one's complement, 0 and 65535 are the same number.
    assert wrong.checksum_ok == ({right, wrong.checksum} == {0, 0xFFFF})


def test_the_checksum_is_marshalled_as_it_is() -> None:
    assert GO.marshal()[10:12] == b"\xde\xad"
    assert not GO.checksum_ok


def test_str_is_one_line_without_commas() -> None:
    assert str(GO) == (
        "version=4 header_len=20 tos=0x1 total_len=48879 id=0xcafe flags=0x2 fragment_offset=0x5dc "
        "ttl=255 protocol=1 checksum=0xdead src=172.16.254.254 dst=192.168.0.1"
    )
    assert str(IGMP).endswith("src=0.0.0.0 dst=224.0.0.22 options=94040000")


@given(HEADERS)
def test_str_is_pairs_of_names_and_values(header: Header) -> None:
    pairs = [pair.split("=") for pair in str(header).split(" ")]
    names = ["version", "header_len", "tos", "total_len", "id", "flags", "fragment_offset", "ttl", "protocol"]
    assert [name for name, _ in pairs][:12] == [*names, "checksum", "src", "dst"]
    assert "," not in str(header)


def test_repr_names_every_field() -> None:
    text = repr(IGMP)
    assert all(f"{field.name}=" in text for field in attrs.fields(Header))
    assert text.startswith("Header(src=IPv4Address('0.0.0.0'), dst=IPv4Address('224.0.0.22'), version=4, tos=192,")


@given(HEADERS)
def test_headers_are_values(header: Header) -> None:
    assert pickle.loads(pickle.dumps(header)) == header
    assert attrs.evolve(header, id=header.id ^ 1) != header


def test_a_header_cannot_be_changed() -> None:
    header = Header.parse(WIRE)
    for name in ("ttl", "options", "header_len"):
        with pytest.raises(AttributeError):
            setattr(header, name, 1)
        with pytest.raises(AttributeError):
            delattr(header, name)
    with pytest.raises((AttributeError, TypeError)):
        header.note = "x"  # type: ignore[attr-defined]
    assert header == GO


def test_a_header_has_no_dictionary() -> None:
    assert not hasattr(GO, "__dict__")


@given(HEADERS, st.binary(max_size=8), BYTE_ORDERS)
def test_a_kernels_order_and_back_changes_nothing(
    header: Header, payload: bytes, byte_order: Literal["little", "big"]
) -> None:
    packet = header.marshal() + payload
    kernel = to_kernel_order(packet, byte_order)
    assert from_kernel_order(kernel, byte_order, length_excludes_header=False) == packet


def test_a_kernels_order_is_the_hosts_for_length_flags_and_offset_only() -> None:
    assert to_kernel_order(WIRE, "little") == bytes.fromhex("4501efbe cafedc45 ff01dead ac10fefe c0a80001")
    assert to_kernel_order(WIRE, "big") == WIRE


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_a_length_without_the_header_is_completed(byte_order: Literal["little", "big"]) -> None:
    packet = attrs.evolve(IGMP, total_len=16).marshal() + bytes(16)
    delivered = to_kernel_order(packet, byte_order)
    wire = from_kernel_order(delivered, byte_order, length_excludes_header=True)
    assert Header.parse(wire) == IGMP
    assert wire[24:] == bytes(16)


@given(st.binary(max_size=64), BYTE_ORDERS, st.booleans())
def test_any_packet_in_a_kernels_order_is_turned_or_a_parse_error(
    packet: bytes, byte_order: Literal["little", "big"], excludes: bool
) -> None:
    assert len(to_kernel_order(packet, byte_order)) == len(packet)
    wire = outcome(partial(from_kernel_order, length_excludes_header=excludes), packet, byte_order)
    if isinstance(wire, ParseError):
        assert excludes
        assert wire.offset == 2
    else:
        assert len(wire) == len(packet)


def test_a_length_past_the_field_is_a_parse_error() -> None:
    longest = from_kernel_order(make(total_len=65515).marshal(), "big", length_excludes_header=True)
    assert Header.parse(longest).total_len == 65535
    packet = make(total_len=65516).marshal()
    with pytest.raises(ParseError, match="total length must be from 0 to 65535, got 65536 with the header") as caught:
        from_kernel_order(packet, "big", length_excludes_header=True)
    assert caught.value.offset == 2


def test_a_header_of_the_longest_options_is_completed_by_all_its_octets() -> None:
    packet = make(total_len=8, options=bytes(40)).marshal() + bytes(8)
    wire = from_kernel_order(packet, "big", length_excludes_header=True)
    assert Header.parse(wire).total_len == 68


def test_a_packet_too_short_for_a_header_is_left_to_the_parser() -> None:
    assert from_kernel_order(WIRE[:19], "little", length_excludes_header=True) == WIRE[:19]
