from __future__ import annotations

import pickle
import re
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.wire import fields_of, need_tshark, summed, tshark, write_capture
from trio_ipv4._errors import ParseError
from trio_ipv4._values.header import Header
from trio_ipv4._values.igmp import (
    IGMPLeave,
    IGMPMessage,
    IGMPOther,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    parse_igmp,
)
from trio_ipv4._values.igmp_query import IGMPQuery
from trio_ipv4._values.igmp_record import GroupRecord, GroupRecordType

if TYPE_CHECKING:
    from pathlib import Path

GROUP = IPv4Address("239.1.2.3")
SOURCES = ["192.0.2.1", "192.0.2.9"]

# The RFCs' figures, filled in; the checksums were added up by hand from 16-bit words.
VECTORS: list[tuple[str, IGMPMessage]] = [
    # RFC 1112 appendix I
    ("1100 eeff 00000000", IGMPQuery(version=1)),
    ("1200 fcfa ef010203", IGMPv1Report(GROUP)),
    # RFC 2236 section 2
    ("1164 ee9b 00000000", IGMPQuery(version=2)),
    ("110a fdf0 ef010203", IGMPQuery(GROUP, version=2, max_response_time=1)),
    ("11ff fcfb ef010203", IGMPQuery(GROUP, version=2, max_response_time=25.5)),
    ("1600 f8fa ef010203", IGMPv2Report(GROUP)),
    ("1700 f7fa ef010203", IGMPLeave("239.1.2.3")),
    # RFC 9776 section 4.1
    ("1164 ec1e 00000000 027d0000", IGMPQuery(robustness=2, query_interval=125)),
    ("1100 eeff 00000000 00000000", IGMPQuery(max_response_time=0)),
    ("110a faf0 ef010203 03000000", IGMPQuery(GROUP, max_response_time=1, robustness=3)),
    (
        "11ff 695e ef010203 0f900002 c0000201 c0000209",
        IGMPQuery(
            GROUP,
            SOURCES,
            max_response_time=3174.4,
            suppress_router_processing=True,
            robustness=7,
            query_interval=256,
        ),
    ),
    # RFC 9776 section 4.2
    ("2200 ddff 0000 0000", IGMPv3Report([])),
    ("2200 e8f9 0000 0001  04000000 ef010203", IGMPv3Report([GroupRecord(4, GROUP)])),
    (
        "2200 6b28 0000 0002  01000001 ef010203 c0000201  09010000 ef010204 61626364",
        IGMPv3Report([GroupRecord(1, GROUP, SOURCES[:1]), GroupRecord(9, "239.1.2.4", auxiliary=b"abcd")]),
    ),
    # RFC 4286 section 3: a router advertises itself, every 20 seconds; and solicits.
    ("3014 cfe6 0002 0003", IGMPOther(0x30, 20, b"\0\2\0\3")),
    ("3100 ceff", IGMPOther(0x31, 0, b"")),
    ("1301 ecfe", IGMPOther(0x13, 1, b"")),
]

OCTET = st.integers(0, 0xFF)
TYPES = [0x11, 0x12, 0x16, 0x17, 0x22]
GROUPS = st.integers(0xE000_0000, 0xEFFF_FFFF).map(IPv4Address)
ADDRESSES = st.integers(0, 0xFFFF_FFFF).map(IPv4Address)
RECORDS = st.builds(
    GroupRecord, OCTET, GROUPS, st.lists(ADDRESSES, max_size=3), auxiliary=st.sampled_from([b"", b"1234"])
)
QUERIES = (
    st.just(IGMPQuery(version=1))
    | st.builds(IGMPQuery, st.none() | GROUPS, version=st.just(2), max_response_time=st.floats(0.1, 25.5))
    | st.builds(
        lambda group, sources, **rest: IGMPQuery(group, sources if group else (), **rest),
        st.none() | GROUPS,
        st.lists(ADDRESSES, max_size=3),
        max_response_time=st.floats(0, 3174.4),
        suppress_router_processing=st.booleans(),
        robustness=st.none() | st.integers(1, 7),
        query_interval=st.none() | st.integers(1, 31744),
    )
)
REPORTS = (
    st.builds(IGMPv1Report, GROUPS)
    | st.builds(IGMPv2Report, GROUPS)
    | st.builds(IGMPLeave, GROUPS)
    | st.builds(IGMPv3Report, st.lists(RECORDS, max_size=3))
)
OTHERS = st.builds(IGMPOther, OCTET.filter(lambda number: number not in TYPES), OCTET, st.binary(max_size=20))
MESSAGES = QUERIES | REPORTS | OTHERS


def decoded(code: int) -> int:
    """The number that a code of version 3 tells, as RFC 9776 section 4.1.1 writes it."""
    if code < 128:
        return code
    exp, mant = (code & 0b0111_0000) >> 4, code & 0b0000_1111
    return int((mant | 0x10) << (exp + 3))


def parsed_query(octets: bytes) -> IGMPQuery:
    message = parse_igmp(summed(octets))
    assert isinstance(message, IGMPQuery)
    return message


def error_of(data: bytes) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_igmp(data)
    return caught.value


@pytest.mark.parametrize(("octets", "message"), VECTORS)
def test_a_message_has_the_octets_of_the_rfcs(octets: str, message: IGMPMessage) -> None:
    assert message.marshal() == bytes.fromhex(octets)
    assert parse_igmp(bytes.fromhex(octets)) == message
    assert message.type == bytes.fromhex(octets)[0]


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: IGMPMessage) -> None:
    wire = message.marshal()
    assert wire == summed(wire)
    back = parse_igmp(wire)
    assert back == message
    assert type(back) is type(message)
    assert hash(back) == hash(message)


@given(st.binary(max_size=40), st.sampled_from([*TYPES, 0x13, 0x30, 0]))
def test_any_octets_are_a_message_or_a_parse_error(data: bytes, kind: int) -> None:
    for octets in (data, summed(data.ljust(4, b"\0")), summed(bytes([kind]) + data.ljust(3, b"\0"))):
        try:
            message = parse_igmp(octets)
        except ParseError as error:
            assert 0 <= error.offset <= len(octets)
        else:
            assert parse_igmp(message.marshal()) == message


@given(MESSAGES, st.data())
def test_damage_that_the_checksum_hides_gives_a_message_or_a_parse_error(
    message: IGMPMessage, data: st.DataObject
) -> None:
    wire = bytearray(message.marshal())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(1, len(wire) - 1))] = data.draw(OCTET)
    octets = summed(bytes(wire[: data.draw(st.integers(4, len(wire)))]))
    try:
        again = parse_igmp(octets)
    except ParseError as error:
        assert 4 <= error.offset <= len(octets)
    else:
        assert parse_igmp(again.marshal()) == again


@given(MESSAGES, st.data())
def test_any_other_damage_is_a_parse_error(message: IGMPMessage, data: st.DataObject) -> None:
    wire = message.marshal()
    index, flip = data.draw(st.integers(0, len(wire) - 1)), data.draw(st.integers(1, 0xFF))
    error_of(wire[:index] + bytes([wire[index] ^ flip]) + wire[index + 1 :])


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        ("", 0, "the message has 4 octets at least, got 0"),
        ("3100ce", 3, "the message has 4 octets at least, got 3"),
        ("1100eeff 000000", 7, "the message has 8 octets at least, got 7"),
        ("1200edff", 4, "the message has 8 octets at least, got 4"),
        ("1600e9ff 000000", 7, "the message has 8 octets at least, got 7"),
        ("1700e8ff 0000", 6, "the message has 8 octets at least, got 6"),
        ("2200ddff 000000", 7, "the message has 8 octets at least, got 7"),
        ("1200fcfb ef010203", 2, "the checksum of the message is wrong: 0xfcfb"),
        ("00000000 00000000", 2, "the checksum of the message is wrong: 0x0000"),
    ],
)
def test_a_parse_error_says_where_and_what(octets: str, offset: int, message: str) -> None:
    error = error_of(bytes.fromhex(octets))
    assert (error.message, error.offset) == (message, offset)


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        ("11640000 00000000 00", 9, "a query has 8 octets, or 12 and more, got 9"),
        ("11000000 ef010203 0000", 10, "a query has 8 octets, or 12 and more, got 10"),
        ("11640000 00000000 000000", 11, "a query has 8 octets, or 12 and more, got 11"),
        ("11640000 0a000001", 4, "the group must be a multicast address, got 10.0.0.1"),
        ("11640000 0a000001 00000000", 4, "the group must be a multicast address, got 10.0.0.1"),
        ("11640000 00000000 00000001 c0000201", 10, "a query for all groups has no sources, got 1"),
        ("11640000 ef010203 00000002 c0000201 c00002", 19, "the sources have 8 octets, got 7"),
        ("12000000 00000000", 4, "the group must be a multicast address, got 0.0.0.0"),
        ("16000000 c0000201", 4, "the group must be a multicast address, got 192.0.2.1"),
        ("17000000 f0000000", 4, "the group must be a multicast address, got 240.0.0.0"),
        ("22000000 00000001", 8, "a group record has 8 octets at least, got 0"),
        ("22000000 0000ffff 01000000ef010203", 16, "a group record has 8 octets at least, got 0"),
        ("22000000 00000001 01000000 e00000", 15, "a group record has 8 octets at least, got 7"),
        ("22000000 00000001 01000001 ef010203", 16, "the sources have 4 octets, got 0"),
        ("22000000 00000002 01000000 ef010203 01010000 ef010203", 24, "the auxiliary data have 4 octets, got 0"),
        ("22000000 00000002 01000000 ef010203 01000000 c0000201", 20, "the group must be a multicast address, got 192"),
    ],
)
def test_a_message_that_contradicts_itself_is_a_parse_error(octets: str, offset: int, message: str) -> None:
    error = error_of(summed(bytes.fromhex(octets)))
    assert error.message.startswith(message)
    assert error.offset == offset


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        # RFC 1112 appendix I: "unused", "ignored when received".
        ("11000000 ef010203", IGMPQuery(version=1)),
        ("11000000 0a000001", IGMPQuery(version=1)),
        ("12ff0000 ef010203", IGMPv1Report(GROUP)),
        # RFC 2236 sections 2.2 and 2.5: the time of all but queries; octets past the first 8.
        ("16ff0000 ef010203", IGMPv2Report(GROUP)),
        ("17ff0000 ef010203", IGMPLeave(GROUP)),
        ("12000000 ef010203 ff", IGMPv1Report(GROUP)),
        ("16000000 ef010203 ffff", IGMPv2Report(GROUP)),
        ("17000000 ef010203 ffffff", IGMPLeave(GROUP)),
        # RFC 9776 sections 4.1.4 and 4.1.10, 4.2.1, 4.2.3 and 4.2.12.
        ("11000000 00000000 f0000000", IGMPQuery(max_response_time=0)),
        ("11000000 ef010203 00000001 c0000201 ff", IGMPQuery(GROUP, SOURCES[:1], max_response_time=0)),
        ("22ff0000 ffff0001 02000000 ef010203", IGMPv3Report([GroupRecord(2, GROUP)])),
        ("22000000 00000001 02000000 ef010203 0200", IGMPv3Report([GroupRecord(2, GROUP)])),
        ("22000000 00000000 02000000 ef010203", IGMPv3Report([])),
    ],
)
def test_what_the_rfcs_ignore_is_ignored(octets: str, message: IGMPMessage) -> None:
    assert parse_igmp(summed(bytes.fromhex(octets))) == message


def test_any_bytes_like_object_can_be_parsed() -> None:
    mutable: Any = bytearray(b"x")
    wire = IGMPOther(0x99, 0, mutable).marshal()
    for data in (bytearray(wire), memoryview(wire)):
        message = parse_igmp(data)
        assert message == IGMPOther(0x99, 0, b"x")
        assert isinstance(message, IGMPOther)
        assert type(message.body) is bytes
    with pytest.raises(TypeError, match="data must be bytes, got '1100'"):
        parse_igmp("1100")  # type: ignore[arg-type]


# Queries: versions and times


@pytest.mark.parametrize("code", [0, 1, 100, 255])
@pytest.mark.parametrize("length", range(8, 17))
def test_length_and_code_tell_the_version_of_a_query(length: int, code: int) -> None:
    # RFC 9776 section 7.1.
    octets = summed(bytes([0x11, code]) + bytes(length - 2))
    if 8 < length < 12:
        assert error_of(octets).offset == length
    else:
        message = parse_igmp(octets)
        assert isinstance(message, IGMPQuery)
        assert message.version == (3 if length >= 12 else 2 if code else 1)


def test_version_1_asks_for_an_answer_within_10_seconds() -> None:
    # RFC 1112 appendix I, and RFC 2236 section 4.
    assert parsed_query(bytes.fromhex("1100000000000000")).max_response_time == 10


@pytest.mark.parametrize("code", range(256))
def test_a_code_of_version_3_tells_the_number_of_the_rfc(code: int) -> None:
    query = parsed_query(bytes([0x11, code, 0, 0]) + bytes(5) + bytes([code, 0, 0]))
    assert query.max_response_time == decoded(code) / 10
    assert query.query_interval == (decoded(code) or None)
    assert query.marshal()[1] == query.marshal()[9] == code


def test_no_two_codes_tell_one_number() -> None:
    numbers = [decoded(code) for code in range(256)]
    assert numbers == sorted(set(numbers))
    assert (numbers[127], numbers[128], numbers[129], numbers[255]) == (127, 128, 136, 31744)


@pytest.mark.parametrize("code", range(1, 256))
def test_a_code_of_version_2_counts_tenths_of_a_second(code: int) -> None:
    query = parsed_query(bytes([0x11, code]) + bytes(6))
    assert query == IGMPQuery(version=2, max_response_time=code / 10)
    assert query.marshal()[1] == code


@given(st.floats(0, 3174.4) | st.integers(0, 3174) | st.integers(0, 31744).map(lambda tenths: tenths / 10))
def test_the_longest_time_that_is_not_longer_is_kept(seconds: float) -> None:
    # RFC 9776 section 8.8: "use the exact value if possible, or the next lower value".
    times = [decoded(code) / 10 for code in range(256)]
    kept = IGMPQuery(max_response_time=seconds).max_response_time
    assert kept == max(time for time in times if time <= seconds)
    assert type(kept) is float
    assert IGMPQuery(max_response_time=kept).max_response_time == kept


@given(st.floats(0.1, 25.5))
def test_version_2_keeps_the_tenth_that_is_not_longer(seconds: float) -> None:
    kept = IGMPQuery(version=2, max_response_time=seconds).max_response_time
    assert kept == max(tenths / 10 for tenths in range(1, 256) if tenths / 10 <= seconds)


@given(st.integers(1, 31744))
def test_the_longest_interval_that_is_not_longer_is_kept(seconds: int) -> None:
    kept = IGMPQuery(query_interval=seconds).query_interval
    assert kept == max(decoded(code) for code in range(256) if decoded(code) <= seconds)
    assert type(kept) is int


def test_each_tenth_that_has_a_code_is_kept_exactly() -> None:
    for tenths in range(129):
        assert IGMPQuery(max_response_time=tenths / 10).marshal()[1] == tenths
        assert IGMPQuery(max_response_time=float(f"{tenths // 10}.{tenths % 10}")).marshal()[1] == tenths


def test_robustness_and_interval_of_0_tell_nothing() -> None:
    # RFC 9776 sections 4.1.6 and 4.1.7.
    query = parsed_query(bytes(12).replace(b"\0", b"\x11", 1))
    assert (query.robustness, query.query_interval) == (None, None)


def test_a_query_is_for_all_groups_by_default() -> None:
    query = IGMPQuery()
    assert (query.group, query.sources, query.version, query.max_response_time) == (None, (), 3, 10.0)
    assert (query.suppress_router_processing, query.robustness, query.query_interval) == (False, None, None)


# Fields


@pytest.mark.parametrize(
    ("make", "arguments", "options", "error", "message"),
    [
        (IGMPQuery, ("192.0.2.1",), {}, ValueError, "group must be a multicast address"),
        (IGMPQuery, (True,), {}, TypeError, "group must be an IPv4Address or a dotted string"),
        (IGMPQuery, (GROUP, SOURCES[0]), {}, TypeError, "sources must be a collection of addresses, got the single"),
        (IGMPQuery, (GROUP, [None]), {}, TypeError, "sources[0] must be an IPv4Address or a dotted string"),
        (IGMPQuery, (GROUP, SOURCES * 32768), {}, ValueError, "sources must have from 0 to 65535 addresses, got 65536"),
        (IGMPQuery, (None, SOURCES), {}, ValueError, "sources must be () without a group, got 2 addresses"),
        (IGMPQuery, (), {"version": 0}, ValueError, "version must be from 1 to 3, got 0"),
        (IGMPQuery, (), {"version": 4}, ValueError, "version must be from 1 to 3, got 4"),
        (IGMPQuery, (), {"version": True}, TypeError, "version must be an integer from 1 to 3, got True"),
        (
            IGMPQuery,
            (GROUP,),
            {"version": 1},
            ValueError,
            "group must be None with version 1, got 239.1.2.3: version 1 asks for all groups",
        ),
        (
            IGMPQuery,
            (),
            {"version": 1, "max_response_time": 5},
            ValueError,
            "max_response_time must be from 10.0 to 10.0 with version 1, got 5",
        ),
        (
            IGMPQuery,
            (),
            {"version": 2, "max_response_time": 0.05},
            ValueError,
            "max_response_time must be from 0.1 to 25.5 with version 2, got 0.05",
        ),
        (
            IGMPQuery,
            (),
            {"version": 2, "max_response_time": 25.6},
            ValueError,
            "max_response_time must be from 0.1 to 25.5 with version 2, got 25.6",
        ),
        (
            IGMPQuery,
            (),
            {"max_response_time": -0.1},
            ValueError,
            "max_response_time must be from 0.0 to 3174.4 with version 3, got -0.1",
        ),
        (
            IGMPQuery,
            (),
            {"max_response_time": 3174.5},
            ValueError,
            "max_response_time must be from 0.0 to 3174.4 with version 3, got 3174.5",
        ),
        (
            IGMPQuery,
            (),
            {"max_response_time": float("nan")},
            ValueError,
            "max_response_time must be from 0.0 to 3174.4 with version 3, got nan",
        ),
        (
            IGMPQuery,
            (),
            {"max_response_time": float("inf")},
            ValueError,
            "max_response_time must be from 0.0 to 3174.4 with version 3, got inf",
        ),
        (
            IGMPQuery,
            (),
            {"max_response_time": True},
            TypeError,
            "max_response_time must be a number of seconds, got True",
        ),
        (IGMPQuery, (), {"max_response_time": None}, TypeError, "max_response_time must be a number of seconds, got"),
        (IGMPQuery, (), {"max_response_time": "10"}, TypeError, "max_response_time must be a number of seconds, got"),
        # These are not compared exactly with the floats that stand for tenths.
        (IGMPQuery, (), {"max_response_time": Decimal(1)}, TypeError, "max_response_time must be a number of seconds"),
        (IGMPQuery, (), {"max_response_time": Fraction(1)}, TypeError, "max_response_time must be a number of seconds"),
        (
            IGMPQuery,
            (),
            {"suppress_router_processing": 1},
            TypeError,
            "suppress_router_processing must be True or False, got 1",
        ),
        (IGMPQuery, (), {"robustness": 0}, ValueError, "robustness must be from 1 to 7, got 0"),
        (IGMPQuery, (), {"robustness": 8}, ValueError, "robustness must be from 1 to 7, got 8"),
        (IGMPQuery, (), {"robustness": 2.0}, TypeError, "robustness must be an integer from 1 to 7, got 2.0"),
        (IGMPQuery, (), {"query_interval": 0}, ValueError, "query_interval must be from 1 to 31744, got 0"),
        (IGMPQuery, (), {"query_interval": 31745}, ValueError, "query_interval must be from 1 to 31744, got 31745"),
        (
            IGMPQuery,
            (),
            {"query_interval": 12.5},
            TypeError,
            "query_interval must be an integer from 1 to 31744, got 12.5",
        ),
        (IGMPv1Report, ("192.0.2.1",), {}, ValueError, "group must be a multicast address"),
        (IGMPv2Report, ("0.0.0.0",), {}, ValueError, "group must be a multicast address"),
        (IGMPLeave, (None,), {}, TypeError, "group must be an IPv4Address or a dotted string"),
        (IGMPv3Report, ([1],), {}, TypeError, "records[0] must be a GroupRecord, got 1"),
        (
            IGMPv3Report,
            ([GroupRecord(1, GROUP)] * 65536,),
            {},
            ValueError,
            "records must have from 0 to 65535 entries, got 65536",
        ),
        (IGMPOther, (True, 0, b""), {}, TypeError, "type must be an integer from 0 to 255, got True"),
        (IGMPOther, (256, 0, b""), {}, ValueError, "type must be from 0 to 255, got 256"),
        (IGMPOther, (0, -1, b""), {}, ValueError, "code must be from 0 to 255, got -1"),
        (IGMPOther, (0, 0, "x"), {}, TypeError, "body must be bytes, got 'x'"),
    ],
)
def test_a_bad_argument_is_named(
    make: Any, arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make(*arguments, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": SOURCES[:1]}, "sources must be () with version {}, got (IPv4Address('192.0.2.1'),): only ver"),
        ({"suppress_router_processing": True}, "suppress_router_processing must be False with version {}, got True: "),
        ({"robustness": 2}, "robustness must be None with version {}, got 2: only version 3 has it"),
        ({"query_interval": 125}, "query_interval must be None with version {}, got 125: only version 3 has it"),
    ],
)
def test_older_versions_refuse_the_fields_of_version_3(version: int, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message.format(version))):
        IGMPQuery(version=version, **options)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0x11, "IGMPQuery"),
        (0x12, "IGMPv1Report"),
        (0x16, "IGMPv2Report"),
        (0x17, "IGMPLeave"),
        (0x22, "IGMPv3Report"),
    ],
)
def test_a_type_that_has_a_value_of_its_own_is_no_other(number: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^type must not be {number:#x}: {name} is the value for it$"):
        IGMPOther(number, 0, bytes(4))
    group = bytes(4) if number == 0x22 else GROUP.packed
    assert type(parse_igmp(summed(bytes([number, 0, 0, 0]) + group))).__name__ == name


def test_every_kind_is_a_message() -> None:
    assert len({type(message) for _, message in VECTORS}) == 6
    assert all(isinstance(message, IGMPMessage) for _, message in VECTORS)
    assert not isinstance(GroupRecord(1, GROUP), IGMPMessage)


@given(MESSAGES)
def test_messages_are_values(message: IGMPMessage) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
    assert attrs.evolve(message) == message
    assert not hasattr(message, "__dict__")
    for name in ("type", "group", "records", "body", "note"):
        with pytest.raises(AttributeError):
            setattr(message, name, 1)


def test_optional_arguments_are_named() -> None:
    with pytest.raises(TypeError):
        IGMPQuery(GROUP, (), 3)  # type: ignore[call-arg]


def test_messages_of_one_group_differ_by_their_kind() -> None:
    assert len({IGMPv1Report(GROUP), IGMPv2Report(GROUP), IGMPLeave(GROUP)}) == 3


# tshark


def captured(path: Path, messages: list[bytes]) -> Path:
    """Write messages to a file, each in a packet such as IGMP's."""
    router_alert = bytes.fromhex("94040000")  # RFC 2113
    header = Header(src="192.0.2.9", dst="224.0.0.22", tos=0xC0, ttl=1, protocol=2, options=router_alert)
    write_capture(path, header, messages)
    return path


def test_tshark_reads_the_fields_of_each_message(tmp_path: Path) -> None:
    need_tshark()
    some = GroupRecord(GroupRecordType.ALLOW_NEW_SOURCES, GROUP, SOURCES)
    other = GroupRecord(GroupRecordType.CHANGE_TO_EXCLUDE_MODE, "239.1.2.4", auxiliary=b"abcd")
    full: dict[str, Any] = {"suppress_router_processing": True, "robustness": 5, "query_interval": 125}
    wanted: dict[IGMPMessage, dict[str, str]] = {
        IGMPQuery(version=1): {"version": "1", "maddr": "0.0.0.0"},
        IGMPQuery(GROUP, version=2, max_response_time=20): {"version": "2", "maddr": str(GROUP), "max_resp": "200"},
        IGMPQuery(max_response_time=5): {
            "version": "3",
            "maddr": "0.0.0.0",
            "max_resp": "50",
            "s": "0",
            "qrv": "0",
            "qqic": "0",
            "num_src": "0",
        },
        IGMPQuery(GROUP, SOURCES, max_response_time=12.8, **full): {
            "version": "3",
            "maddr": str(GROUP),
            "max_resp": "128",
            "s": "1",
            "qrv": "5",
            "qqic": "125",
            "num_src": "2",
            "saddr": "192.0.2.1,192.0.2.9",
        },
        IGMPv1Report(GROUP): {"version": "1", "maddr": str(GROUP)},
        IGMPv2Report(GROUP): {"version": "2", "maddr": str(GROUP), "max_resp": "0"},
        IGMPLeave(GROUP): {"version": "2", "maddr": str(GROUP), "max_resp": "0"},
        IGMPv3Report([some, other]): {
            "version": "3",
            "num_grp_recs": "2",
            "record_type": "5,4",
            "maddr": "239.1.2.3,239.1.2.4",
            "num_src": "2,0",
            "saddr": "192.0.2.1,192.0.2.9",
            "aux_data_len": "0,1",
            "aux_data": "61626364",
        },
    }
    names = ["version", "maddr", "max_resp", "s", "qrv", "qqic", "num_src", "saddr", "num_grp_recs", "record_type"]
    names += ["aux_data_len", "aux_data", "type", "checksum.status"]
    capture = captured(tmp_path / "messages.pcap", [message.marshal() for message in wanted])
    rows = fields_of(capture, [f"igmp.{name}" for name in names], "-E", "aggregator=,")
    for (message, expected), row in zip(wanted.items(), rows, strict=True):
        seen = {name: value for name, value in zip(names, row, strict=True) if value}
        assert seen == {**expected, "type": f"0x{message.type:02x}", "checksum.status": "1"}


def test_tshark_tells_the_same_times(tmp_path: Path) -> None:
    need_tshark()
    queries = [bytes([0x11, code]) + bytes(6) for code in range(1, 256)]
    queries += [bytes([0x11, code]) + bytes(10) for code in range(256)]
    wire = [summed(query) for query in queries]
    shown = tshark(captured(tmp_path / "times.pcap", wire), "-V", "-O", "igmp")
    seen = [float(time) for time in re.findall(r"Max Resp Time: ([0-9.]+) sec", shown)]
    assert seen == [parsed_query(query).max_response_time for query in wire]


def test_tshark_knows_the_records_by_the_same_names(tmp_path: Path) -> None:
    need_tshark()
    report = IGMPv3Report(GroupRecord(kind, GROUP) for kind in GroupRecordType)
    shown = tshark(captured(tmp_path / "records.pcap", [report.marshal()]), "-V", "-O", "igmp")
    assert [name.lower() for name in re.findall(r"Record Type: (.+) \(\d\)", shown)] == [
        str(kind) for kind in GroupRecordType
    ]
