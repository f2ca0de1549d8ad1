from __future__ import annotations

import pickle
import struct
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ControlFlags, ControlMessage, Interface, InterfaceFlags, OtherControl, ParseError
from trio_ipv4._abi import structs
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX, linux
from trio_ipv4._abi.this import this_platform
from trio_ipv4._conn.caches import Controls
from trio_ipv4._values.control import (
    LeadingTimestamp,
    marshal_control,
    parse_control,
    stamped_by_class,
    stamped_by_slots,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._abi.platform import Platform

EN0 = Interface(7, "en0", 1500, InterfaceFlags.UP)
FACTS = ControlMessage(
    ttl=0,
    src="192.0.2.1",
    dst="239.1.2.3",
    ifindex=2,
    tos=0xB9,
    local="192.0.2.2",
    timestamp_ns=1_700_000_000_123_456_789,
    drops=3,
    hardware_timestamp_ns=1_600_000_000_987_654_321,
    other=[OtherControl(41, 67, b"label")],
)
ADDRESSES = st.builds(IPv4Address, st.integers(1, 2**32 - 1))
REQUESTS = st.builds(
    ControlMessage,
    ttl=st.none() | st.integers(1, 255),
    src=st.none() | ADDRESSES,
    ifindex=st.none() | st.integers(1, 2**31 - 1),
    tos=st.none() | st.integers(0, 255),
)
MESSAGES = st.builds(
    ControlMessage,
    ttl=st.none() | st.integers(0, 255),
    src=st.none() | ADDRESSES,
    dst=st.none() | ADDRESSES,
    ifindex=st.none() | st.integers(1, 2**31 - 1),
    tos=st.none() | st.integers(0, 255),
    local=st.none() | ADDRESSES,
    timestamp_ns=st.none() | st.integers(0, 2**63 - 1),
    drops=st.none() | st.integers(0, 2**32 - 1),
    hardware_timestamp_ns=st.none() | st.integers(0, 2**63 - 1),
    other=st.lists(
        st.builds(OtherControl, st.integers(0, 300), st.integers(0, 300), st.binary(max_size=9)), max_size=2
    ),
)


def hexadecimal(text: str) -> bytes:
    return bytes.fromhex(text.replace("[", "").replace("]", ""))


# Measured with Go's x/net/ipv4 on 64-bit, little-endian Linux.
GO_SENDS = hexadecimal("1c00000000000000 00000000 08000000 07000000 7f000001 00000000 00000000")
GO_TTL = hexadecimal("1400000000000000 00000000 02000000 40000000 [00000000]")
GO_PKTINFO = hexadecimal("1c00000000000000 00000000 08000000 01000000 7f000001 e00000fb")


def test_a_request_is_laid_out_as_go_lays_it_out() -> None:
    assert marshal_control(LINUX, ControlMessage(src="127.0.0.1", ifindex=7)) == GO_SENDS
    assert marshal_control(LINUX, ControlMessage(ifindex=EN0, src=IPv4Address("127.0.0.1"))) == GO_SENDS
    assert marshal_control(LINUX, ControlMessage()) == b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GO_TTL, ControlMessage(ttl=64)),
        (GO_TTL[:20], ControlMessage(ttl=64)),
        (GO_PKTINFO, ControlMessage(ifindex=1, local="127.0.0.1", dst="224.0.0.251")),
        (GO_TTL + GO_PKTINFO, ControlMessage(ttl=64, ifindex=1, local="127.0.0.1", dst="224.0.0.251")),
        (b"", ControlMessage()),
        (bytes(15), ControlMessage()),
        # The TOS arrives as one octet, the TTL of some kernels too.
        (hexadecimal("1100000000000000 00000000 01000000 b8"), ControlMessage(tos=0xB8)),
        (hexadecimal("1100000000000000 00000000 02000000 40"), ControlMessage(ttl=64)),
        # Other levels and types are not ours, and pass through.
        (
            hexadecimal("1400000000000000 01000000 02000000 40000000 00000000"),
            ControlMessage(other=[OtherControl(1, 2, b"@\0\0\0")]),
        ),
        (
            hexadecimal("1400000000000000 00000000 63000000 40000000 00000000"),
            ControlMessage(other=[OtherControl(0, 99, b"@\0\0\0")]),
        ),
        # A datagram that was queued before IP_PKTINFO was on.
        (hexadecimal("1c00000000000000 00000000 08000000 00000000 00000000 00000000"), ControlMessage()),
        # SO_TIMESTAMPNS and SO_RXQ_OVFL.
        (
            hexadecimal("2000000000000000 01000000 23000000 00f1536500000000 15cd5b0700000000"),
            ControlMessage(timestamp_ns=1_700_000_000_123_456_789),
        ),
        (
            hexadecimal("2000000000000000 01000000 23000000 0000000000000080 0000000000000000"),
            ControlMessage(timestamp_ns=-9_223_372_036_854_775_808_000_000_000),
        ),
        (
            hexadecimal("2000000000000000 01000000 23000000 ffffffffffffff7f ffc99a3b00000000"),
            ControlMessage(timestamp_ns=9_223_372_036_854_775_807_999_999_999),
        ),
        (hexadecimal("1400000000000000 01000000 28000000 ffffffff"), ControlMessage(drops=2**32 - 1)),
    ],
)
def test_received_octets_are_read(data: bytes, expected: ControlMessage) -> None:
    assert parse_control(LINUX, data) == expected


@pytest.mark.parametrize(
    ("data", "offset", "message"),
    [
        (bytes(16), 0, "the length of a control message must be from 16 to 16, got 0"),
        (hexadecimal("0f00000000000000 00000000 02000000"), 0, "must be from 16 to 16, got 15"),
        (hexadecimal("2000000000000000 00000000 02000000"), 0, "must be from 16 to 16, got 32"),
        (GO_TTL + bytes(16), 24, "must be from 16 to 16, got 0"),
        (hexadecimal("ffffffffffffffff 00000000 02000000"), 0, "got 18446744073709551615"),
        (
            hexadecimal("1800000000000000 00000000 08000000 0700000000000000"),
            16,
            "IP_PKTINFO must have 12 octets, got 8",
        ),
        (hexadecimal("1400000000000000 00000000 02000000 00010000"), 16, "ttl must be from 0 to 255, got 256"),
        (hexadecimal("1400000000000000 00000000 01000000 00010000"), 16, "tos must be from 0 to 255, got 256"),
        (hexadecimal("1200000000000000 00000000 01000000 0001"), 16, "tos must have 1 or 4 octets, got 2"),
        (hexadecimal("1c00000000000000 00000000 08000000 ffffffff 00000000 00000000"), 16, "must not be negative"),
        (hexadecimal("1200000000000000 01000000 23000000 0001"), 16, "a timestamp must have 16 octets, got 2"),
        (
            hexadecimal("2000000000000000 01000000 23000000 0100000000000000 00ca9a3b00000000"),
            16,
            "nanoseconds must be from 0 to 999999999, got 1000000000",
        ),
        (
            hexadecimal("2000000000000000 01000000 23000000 0100000000000000 00943577 00000000"),
            16,
            "nanoseconds must be from 0 to 999999999, got 2000000000",
        ),
        (
            hexadecimal("2000000000000000 01000000 23000000 0100000000000000 ffffffffffffffff"),
            16,
            "nanoseconds must be from 0 to 999999999, got -1",
        ),
        (hexadecimal("1200000000000000 01000000 28000000 0001"), 16, "a drop counter must have 4 octets, got 2"),
        (
            hexadecimal("2000000000000000 00000000 08000000") + bytes(16),
            16,
            "IP_PKTINFO must have 12 octets, got 16",
        ),
        (hexadecimal("2800000000000000 01000000 23000000") + bytes(24), 16, "a timestamp must have 16 octets, got 24"),
        (hexadecimal("1800000000000000 01000000 28000000") + bytes(8), 16, "a drop counter must have 4 octets, got 8"),
    ],
)
def test_octets_that_contradict_themselves_are_refused_where_they_do(data: bytes, offset: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_control(LINUX, data)
    assert caught.value.offset == offset
    assert message in str(caught.value)


@given(st.binary(max_size=300))
def test_any_octets_are_a_message_or_a_parse_error(data: bytes) -> None:
    try:
        assert isinstance(ControlMessage.parse(data), ControlMessage)
    except ParseError as error:
        assert 0 <= error.offset <= len(data)


@given(MESSAGES, st.data())
def test_any_damage_to_good_octets_is_a_message_or_a_parse_error(message: ControlMessage, data: st.DataObject) -> None:
    here = this_platform()
    request = ControlMessage(ttl=message.ttl or None, src=message.src, ifindex=message.ifindex, tos=message.tos)
    octets = bytearray(marshal_control(here, request))
    if octets:
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        ControlMessage.parse(bytes(octets))
    except ParseError as error:
        assert 0 <= error.offset <= len(octets)


@given(REQUESTS)
def test_a_request_comes_back_with_its_source_as_local(request: ControlMessage) -> None:
    expected = ControlMessage(ttl=request.ttl, tos=request.tos, ifindex=request.ifindex, local=request.src)
    assert ControlMessage.parse(request.marshal()) == expected


# A timestamp that comes first is read by itself

SECONDS_AND_NANOSECONDS = st.tuples(
    st.sampled_from([-(2**63), -1, 0, 1_700_000_000, 2**63 - 1]),
    st.sampled_from([-1, 0, 1, 999_999_999, 1_000_000_000]),
)
TIMESTAMPS = SECONDS_AND_NANOSECONDS.map(lambda both: structs.cmsg(LINUX, 1, 35, struct.pack("<qq", *both)))
OTHERS = st.sampled_from([b"", GO_TTL, GO_PKTINFO, GO_PKTINFO + bytes(4) + GO_TTL, b"tail", bytes(16), b"\xff" * 16])


@given(st.binary(max_size=3) | OTHERS | TIMESTAMPS, TIMESTAMPS | OTHERS, OTHERS | TIMESTAMPS, st.integers(0, 120))
def test_what_is_remembered_is_what_is_parsed(first: bytes, second: bytes, third: bytes, length: int) -> None:
    data = (first + second + third)[:length]
    remembered = Controls(this_platform(), ControlFlags(0))
    try:
        expected = parse_control(this_platform(), data)
    except ParseError as error:
        with pytest.raises(ParseError) as caught:
            remembered[data]
        assert (str(caught.value), caught.value.offset) == (str(error), error.offset)
    else:
        assert remembered[data] == expected
        assert hash(remembered[data]) == hash(expected)
        assert type(remembered[data]) is ControlMessage


def test_what_follows_a_timestamp_is_parsed_once() -> None:
    remembered = Controls(this_platform(), ControlFlags.TIMESTAMP)
    rest = GO_PKTINFO + bytes(4) + GO_TTL
    for number in range(5):
        stamp = structs.cmsg(this_platform(), 1, 35, struct.pack("=qq", 1_700_000_000, number))
        assert remembered[stamp + rest] == attrs.evolve(
            parse_control(this_platform(), rest), timestamp_ns=1_700_000_000_000_000_000 + number
        )
    assert list(remembered) == [rest]


@pytest.mark.parametrize("platform", [LINUX, linux(word=4), linux(byte_order="big")])
def test_a_leading_timestamp_is_found_where_linux_puts_it(platform: Platform) -> None:
    def message(seconds: int, nanoseconds: int) -> bytes:
        content = struct.pack(platform.prefix + "qq", seconds, nanoseconds)
        return structs.cmsg(platform, *platform.control["SO_TIMESTAMPNS"], content)

    leading = LeadingTimestamp(platform)
    good = message(3, 999_999_999)
    assert leading.size == len(good)
    assert leading.read(good) == leading.read(good + b"more") == 3_999_999_999
    assert leading.read(message(3, 0)) == 3_000_000_000
    assert leading.read(good[:-1]) is None
    for nanoseconds in (-1, 1_000_000_000, 1_000_000_001):
        assert leading.read(message(3, nanoseconds)) is None
    for i in range(len(good) - 16):
        assert leading.read(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]) is None


def test_a_platform_without_the_option_has_no_leading_timestamp() -> None:
    assert "SO_TIMESTAMPNS" not in DARWIN.control
    for octets in (bytes(100), structs.cmsg(DARWIN, 0, 0, bytes(16)), structs.cmsg(DARWIN, 1, 35, bytes(16))):
        assert LeadingTimestamp(DARWIN).read(octets) is None


@pytest.mark.parametrize("stamped", [stamped_by_class, stamped_by_slots])
@given(message=MESSAGES, timestamp_ns=st.integers(0, 2**63 - 1))
def test_a_stamped_message_is_the_same_but_for_its_timestamp(
    stamped: Callable[[ControlMessage, int], ControlMessage], message: ControlMessage, timestamp_ns: int
) -> None:
    made = stamped(message, timestamp_ns)
    assert type(made) is ControlMessage
    assert made == attrs.evolve(message, timestamp_ns=timestamp_ns)
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.ttl = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["dst", "local", "timestamp_ns", "drops"])
def test_a_fact_is_no_request(name: str) -> None:
    control = ControlMessage(src="192.0.2.1", **{name: getattr(FACTS, name)})
    with pytest.raises(ValueError, match=f"{name} must be None when sending, got .*a received control message is not"):
        control.marshal()


def test_a_ttl_of_0_is_no_request() -> None:
    with pytest.raises(ValueError, match="ttl must be from 1 to 255 when sending, got 0"):
        ControlMessage(ttl=0).marshal()


@pytest.mark.parametrize("value", [bytearray(GO_TTL), memoryview(GO_TTL)])
def test_any_kind_of_octets_is_read(value: Any) -> None:
    assert ControlMessage.parse(value) == ControlMessage.parse(GO_TTL)


@pytest.mark.parametrize("value", [16, None, "octets", [0] * 15])
def test_what_is_no_octets_is_not_read(value: Any) -> None:
    with pytest.raises(TypeError, match="data must be bytes, got"):
        ControlMessage.parse(value)


@given(st.integers(0, 255))
def test_dscp_and_ecn_are_the_parts_of_the_tos(tos: int) -> None:
    control = ControlMessage(tos=tos)
    assert control.dscp is not None
    assert control.ecn is not None
    assert control.dscp << 2 | control.ecn == tos
    assert 0 <= control.ecn <= 3


def test_well_known_code_points_are_told() -> None:
    # RFC 3246: expedited forwarding is 46; RFC 3168: 1 is ECT(1).
    assert (ControlMessage(tos=0xB9).dscp, ControlMessage(tos=0xB9).ecn) == (46, 1)
    assert (ControlMessage().dscp, ControlMessage().ecn) == (None, None)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"ttl": 256}, ValueError, "ttl must be from 0 to 255, got 256"),
        ({"ttl": -1}, ValueError, "ttl must be from 0 to 255, got -1"),
        ({"ttl": True}, TypeError, "ttl must be an integer from 0 to 255, got True"),
        ({"ttl": 1.0}, TypeError, "ttl must be an integer from 0 to 255, got 1.0"),
        ({"tos": 256}, ValueError, "tos must be from 0 to 255, got 256"),
        ({"tos": "8"}, TypeError, "tos must be an integer from 0 to 255, got '8'"),
        ({"src": "0.0.0.0"}, ValueError, "src must not be 0.0.0.0: None says 'absent'"),
        ({"local": "0.0.0.0"}, ValueError, "local must not be 0.0.0.0"),
        ({"dst": "0.0.0.0"}, ValueError, "dst must not be 0.0.0.0"),
        ({"src": "host.example"}, ValueError, "src must be a numeric IPv4 address .*host names are not looked up"),
        ({"src": "::1"}, ValueError, "src must be a numeric IPv4 address .*looks like an IPv6 address"),
        ({"src": True}, TypeError, "src must be an IPv4Address"),
        ({"src": b"\x7f\0\0\1"}, TypeError, "src must be an IPv4Address"),
        ({"ifindex": 0}, ValueError, "ifindex must be from 1 to 2147483647, got 0"),
        ({"ifindex": "en0"}, TypeError, "ifindex must be an Interface or an index, got 'en0'"),
        ({"ifindex": IPv4Address("192.0.2.1")}, TypeError, "ifindex must be an Interface or an index"),
        ({"drops": 2**32}, ValueError, "drops must be from 0 to 4294967295, got 4294967296"),
        ({"timestamp_ns": 1.5}, TypeError, "timestamp_ns must be an integer"),
        (
            {"timestamp_ns": -9_223_372_036_854_775_808_000_000_001},
            ValueError,
            "from -9223372036854775808000000000 to 9223372036854775807999999999, got -9223372036854775808000000001",
        ),
        (
            {"timestamp_ns": 9_223_372_036_854_775_808_000_000_000},
            ValueError,
            "to 9223372036854775807999999999, got 9223372036854775808000000000",
        ),
    ],
)
def test_nonsense_is_refused_with_field_range_and_value(fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ControlMessage(**fields)


def test_fields_are_named() -> None:
    with pytest.raises(TypeError):
        ControlMessage(64)  # type: ignore[misc]


def test_addresses_are_converted() -> None:
    assert FACTS.src == IPv4Address("192.0.2.1")
    assert ControlMessage(src=IPv4Interface("192.0.2.1/24")) == ControlMessage(src="192.0.2.1")
    assert type(ControlMessage(src=IPv4Interface("192.0.2.1/24")).src) is IPv4Address
    assert ControlMessage(ifindex=EN0).ifindex == 7


def test_absent_is_none() -> None:
    assert attrs.astuple(ControlMessage()) == (*(None,) * 9, ())


@given(MESSAGES)
def test_messages_are_values(message: ControlMessage) -> None:
    same = attrs.evolve(message)
    assert (same, hash(same)) == (message, hash(message))
    assert pickle.loads(pickle.dumps(message)) == message
    assert eval(repr(message)) == message


def test_messages_that_differ_are_unequal() -> None:
    for field in attrs.fields(ControlMessage):
        absent: Any = () if field.name == "other" else None
        assert attrs.evolve(FACTS, **{field.name: absent}) != FACTS
    assert ControlMessage() != ()


def test_the_repr_shows_what_is_there() -> None:
    assert repr(ControlMessage()) == "ControlMessage()"
    assert repr(ControlMessage(ttl=1, src="192.0.2.1")) == "ControlMessage(ttl=1, src='192.0.2.1')"


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(ControlMessage)])
def test_a_message_cannot_be_changed(name: str) -> None:
    before = repr(FACTS)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(FACTS, name, None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        delattr(FACTS, name)
    with pytest.raises((AttributeError, TypeError)):
        FACTS.more = 1  # type: ignore[attr-defined]
    assert repr(FACTS) == before


def test_flags_have_gos_values() -> None:
    named = {"TTL": 1, "SRC": 2, "DST": 4, "INTERFACE": 8, "TOS": 16, "TIMESTAMP": 32, "DROPS": 64}
    assert {flag.name: flag.value for flag in ControlFlags} == named


def test_a_number_in_the_machines_order_is_read_on_this_machine() -> None:
    # The kernel writes the TTL as an int: the first octet alone would be 0 on a big-endian machine.
    here = this_platform()
    level, kind = here.control["IP_TTL"]
    head = struct.pack("@Nii", 0, level, kind)
    record = struct.pack("@Niii", len(head) + 4, level, kind, 64)
    assert ControlMessage.parse(record).ttl == 64
