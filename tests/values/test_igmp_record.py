from __future__ import annotations

import pickle
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._errors import ParseError
from trio_ipv4._values.igmp_record import GroupRecord, GroupRecordType, parse_records
from trio_ipv4._values.source_filter import INCLUDE_NEVER, FilterMode, SourceFilter

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP = IPv4Address("239.1.2.3")
A, B, C, D = (IPv4Address("192.0.2.1") + n for n in range(4))

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = GroupRecordType

# RFC 9776 section 4.2.5's figure, filled in.
VECTORS = [
    ("01 00 0000 ef010203", GroupRecord(IS_IN, GROUP)),
    ("02 00 0000 e0000001", GroupRecord(2, "224.0.0.1")),
    ("03 00 0001 ef010203 c0000201", GroupRecord(TO_IN, GROUP, ["192.0.2.1"])),
    ("04 00 0000 efffffff", GroupRecord(TO_EX, "239.255.255.255")),
    ("05 00 0002 ef010203 c0000202 c0000201", GroupRecord(ALLOW, GROUP, [B, A])),
    ("06 01 0001 ef010203 ffffffff 61626364", GroupRecord(BLOCK, GROUP, ["255.255.255.255"], auxiliary=b"abcd")),
    ("00 00 0000 ef010203", GroupRecord(0, GROUP)),
    ("ff 02 0000 ef010203 0000000000000000", GroupRecord(255, GROUP, auxiliary=bytes(8))),
]

GROUPS = st.integers(0xE000_0000, 0xEFFF_FFFF).map(IPv4Address)
ADDRESSES = st.integers(0, 0xFFFF_FFFF).map(IPv4Address)
RECORDS = st.builds(
    GroupRecord,
    st.integers(0, 0xFF),
    GROUPS,
    st.lists(ADDRESSES, max_size=5),
    auxiliary=st.sampled_from([b"", b"abcd", bytes(8), bytes(1020)]),
)
# Few sources, so that filters overlap.
FILTERS = st.builds(SourceFilter, st.sampled_from(FilterMode), st.frozensets(st.sampled_from([A, B, C, D])))


@pytest.mark.parametrize(("octets", "record"), VECTORS)
def test_a_record_has_the_octets_of_the_rfc(octets: str, record: GroupRecord) -> None:
    assert record.marshal() == bytes.fromhex(octets)
    assert parse_records(bytes.fromhex(octets), 0, 1) == (record,)


@given(st.lists(RECORDS, max_size=4), st.binary(max_size=9), st.binary(max_size=9))
def test_records_come_back_as_they_were(records: list[GroupRecord], before: bytes, behind: bytes) -> None:
    wire = b"".join(record.marshal() for record in records)
    assert parse_records(before + wire + behind, len(before), len(records)) == tuple(records)


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        ("", 0, "a group record has 8 octets at least, got 0"),
        ("01000000 ef0102", 7, "a group record has 8 octets at least, got 7"),
        ("01000000 df010203", 4, "the group must be a multicast address, got 223.1.2.3"),
        ("01000000 00000000", 4, "the group must be a multicast address, got 0.0.0.0"),
        ("01000002 ef010203 c0000201 c00002", 15, "the sources have 8 octets, got 7"),
        ("0100ffff ef010203", 8, "the sources have 262140 octets, got 0"),
        ("01020001 ef010203 c0000201 61626364 616263", 19, "the auxiliary data have 8 octets, got 7"),
        ("01ff0000 ef010203", 8, "the auxiliary data have 1020 octets, got 0"),
    ],
)
def test_a_parse_error_says_where_and_what(octets: str, offset: int, message: str) -> None:
    for before in (b"", b"12345678", VECTORS[4][1].marshal()):
        count = 2 if len(before) > 8 else 1
        with pytest.raises(ParseError) as caught:
            parse_records(before + bytes.fromhex(octets), 0 if count == 2 else len(before), count)
        assert (caught.value.message, caught.value.offset) == (message, len(before) + offset)


# What announces a filter


@pytest.mark.parametrize(
    ("before", "after", "records"),
    [
        # The table of RFC 9776 section 5.1.
        (SourceFilter.include(A, B), SourceFilter.include(B, C), [(ALLOW, [C]), (BLOCK, [A])]),
        (SourceFilter.exclude(A, B), SourceFilter.exclude(B, C), [(ALLOW, [A]), (BLOCK, [C])]),
        (SourceFilter.include(A, B), SourceFilter.exclude(B, C), [(TO_EX, [B, C])]),
        (SourceFilter.exclude(A, B), SourceFilter.include(B, C), [(TO_IN, [B, C])]),
        # "If the computed source list ... is empty, that record is omitted".
        (SourceFilter.include(A), SourceFilter.include(A, B), [(ALLOW, [B])]),
        (SourceFilter.include(A, B), SourceFilter.include(A), [(BLOCK, [B])]),
        (SourceFilter.exclude(A), SourceFilter.exclude(A, B), [(BLOCK, [B])]),
        (SourceFilter.exclude(A, B), SourceFilter.exclude(A), [(ALLOW, [B])]),
        # A host that is no member has INCLUDE {}.
        (SourceFilter.none(), SourceFilter.any(), [(TO_EX, [])]),
        (SourceFilter.any(), SourceFilter.none(), [(TO_IN, [])]),
        (SourceFilter.none(), SourceFilter.include(B, A), [(ALLOW, [A, B])]),
        (SourceFilter.include(A), SourceFilter.none(), [(BLOCK, [A])]),
    ],
)
def test_a_change_is_announced_by_the_table_of_the_rfc(
    before: SourceFilter, after: SourceFilter, records: list[tuple[GroupRecordType, list[IPv4Address]]]
) -> None:
    expected = tuple(GroupRecord(kind, GROUP, sources) for kind, sources in records)
    assert GroupRecord.between(GROUP, before, after) == expected
    assert GroupRecord.between(str(GROUP), before, after) == expected


def applied(heard: SourceFilter, records: Iterable[GroupRecord]) -> SourceFilter:
    """What a listener makes of the records, with the algebra of filters."""
    for record in records:
        match record.type:
            case GroupRecordType.CHANGE_TO_INCLUDE_MODE | GroupRecordType.MODE_IS_INCLUDE:
                heard = SourceFilter.include(*record.sources)
            case GroupRecordType.CHANGE_TO_EXCLUDE_MODE | GroupRecordType.MODE_IS_EXCLUDE:
                heard = SourceFilter.exclude(*record.sources)
            case GroupRecordType.ALLOW_NEW_SOURCES:
                heard = heard.allow(*record.sources)
            case GroupRecordType.BLOCK_OLD_SOURCES:
                heard = heard.block(*record.sources)
    return heard


@given(FILTERS, FILTERS)
def test_whoever_applies_the_records_to_the_filter_before_gets_the_one_after(
    before: SourceFilter, after: SourceFilter
) -> None:
    assert applied(before, GroupRecord.between(GROUP, before, after)) == after


@given(FILTERS, FILTERS, FILTERS)
def test_changes_add_up(one: SourceFilter, other: SourceFilter, third: SourceFilter) -> None:
    steps = GroupRecord.between(GROUP, one, other) + GroupRecord.between(GROUP, other, third)
    assert applied(one, steps) == third


class Router:
    """A router's state for a group with one host on the link (RFC 9776 section 6.4).

    Nobody else answers its queries, so a source that it queries for is one that the host wants no longer.
    """

    def __init__(self) -> None:
        self.mode = FilterMode.INCLUDE
        self.wanted: set[IPv4Address] = set()  # The RFC's A, or X: sources whose timers run.
        self.blocked: set[IPv4Address] = set()  # Y

    def receive(self, record: GroupRecord) -> None:
        named = set(record.sources)
        match self.mode, record.type:
            case FilterMode.INCLUDE, GroupRecordType.ALLOW_NEW_SOURCES:
                self.wanted |= named  # INCLUDE (A+B)
            case FilterMode.INCLUDE, GroupRecordType.BLOCK_OLD_SOURCES:
                self.wanted -= named  # Q(G, A*B)
            case FilterMode.INCLUDE, GroupRecordType.CHANGE_TO_INCLUDE_MODE:
                self.wanted = named  # INCLUDE (A+B), Q(G, A-B)
            case FilterMode.INCLUDE, GroupRecordType.CHANGE_TO_EXCLUDE_MODE:
                # EXCLUDE (A*B, B-A), Q(G, A*B): in EXCLUDE mode, a source whose timer ends is in Y.
                self.mode, self.wanted, self.blocked = FilterMode.EXCLUDE, set(), named
            case FilterMode.EXCLUDE, GroupRecordType.ALLOW_NEW_SOURCES:
                self.wanted, self.blocked = self.wanted | named, self.blocked - named  # EXCLUDE (X+A, Y-A)
            case FilterMode.EXCLUDE, GroupRecordType.BLOCK_OLD_SOURCES:
                self.wanted, self.blocked = self.wanted - named, self.blocked | named  # EXCLUDE (X+(A-Y), Y), Q(G, A-Y)
            case FilterMode.EXCLUDE, GroupRecordType.CHANGE_TO_EXCLUDE_MODE:
                self.wanted, self.blocked = set(), named  # EXCLUDE (A-Y, Y*A), Q(G, A-Y)
            case FilterMode.EXCLUDE, GroupRecordType.CHANGE_TO_INCLUDE_MODE:
                # EXCLUDE (X+A, Y-A), Q(G, X-A), Q(G): the group's timer ends, and running sources make an INCLUDE.
                self.mode, self.wanted, self.blocked = FilterMode.INCLUDE, named, set()
            case _:
                raise AssertionError(record)

    def forwards(self, source: IPv4Address) -> bool:
        return source in self.wanted if self.mode is FilterMode.INCLUDE else source not in self.blocked


@given(st.lists(FILTERS, max_size=6))
def test_a_router_forwards_what_its_only_host_hears(filters: list[SourceFilter]) -> None:
    router, before = Router(), SourceFilter.none()
    for after in filters:
        for record in GroupRecord.between(GROUP, before, after):
            router.receive(record)
        for source in (A, B, C, D, D + 1):
            assert router.forwards(source) == after.accepts(source)
        before = after


@given(FILTERS, FILTERS)
def test_no_record_is_superfluous(before: SourceFilter, after: SourceFilter) -> None:
    records = GroupRecord.between(GROUP, before, after)
    assert (records == ()) == (before == after)
    assert len(records) <= (1 if before.mode is not after.mode else 2)
    for record in records:
        assert record.group == GROUP
        assert list(record.sources) == sorted(set(record.sources))
        assert record.sources or record.type in (TO_IN, TO_EX)
        assert applied(before, [record]) != before


@given(FILTERS)
def test_the_current_record_tells_the_whole_filter(heard: SourceFilter) -> None:
    record = GroupRecord.current(GROUP, heard)
    assert record.type in (IS_IN, IS_EX)
    assert applied(SourceFilter.include(A), [record]) == applied(SourceFilter.exclude(B), [record]) == heard


def test_the_filter_that_hears_nobody_can_be_announced() -> None:
    never = IPv4Address("255.255.255.255")
    assert GroupRecord.current(GROUP, INCLUDE_NEVER) == GroupRecord(IS_IN, GROUP, [never])
    assert GroupRecord.between(GROUP, SourceFilter.none(), INCLUDE_NEVER) == (GroupRecord(ALLOW, GROUP, [never]),)


# Fields


def test_types_have_the_rfcs_numbers() -> None:
    # RFC 9776 section 4.2.13.
    assert list(GroupRecordType) == [1, 2, 3, 4, 5, 6]
    assert [str(each) for each in GroupRecordType] == [
        "mode is include",
        "mode is exclude",
        "change to include mode",
        "change to exclude mode",
        "allow new sources",
        "block old sources",
    ]


def test_a_type_that_has_a_name_is_stored_by_name() -> None:
    for number in range(256):
        (record,) = parse_records(GroupRecord(number, GROUP).marshal(), 0, 1)
        assert record.type == number
        assert isinstance(record.type, GroupRecordType) == (1 <= number <= 6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GroupRecord(True, GROUP), TypeError, "type must be an integer from 0 to 255, got True"),
        (lambda: GroupRecord(256, GROUP), ValueError, "type must be from 0 to 255, got 256"),
        (lambda: GroupRecord(1, "192.0.2.1"), ValueError, "group must be a multicast address, 224.0.0.0 to"),
        (lambda: GroupRecord(1, None), TypeError, "group must be an IPv4Address or a dotted string"),  # type: ignore[arg-type]
        (lambda: GroupRecord(1, GROUP, "192.0.2.1"), TypeError, "sources must be a collection of addresses, got the"),
        (lambda: GroupRecord(1, GROUP, [A, "host"]), ValueError, "sources[1] must be a numeric IPv4 address such as"),
        (lambda: GroupRecord(1, GROUP, [1]), TypeError, "sources[0] must be an IPv4Address or a dotted string"),  # type: ignore[list-item]
        (
            lambda: GroupRecord(1, GROUP, [A] * 65536),
            ValueError,
            "sources must have from 0 to 65535 addresses, got 65536",
        ),
        (lambda: GroupRecord(1, GROUP, auxiliary="abcd"), TypeError, "auxiliary must be bytes, got 'abcd'"),  # type: ignore[arg-type]
        (
            lambda: GroupRecord(1, GROUP, auxiliary=b"abc"),
            ValueError,
            "auxiliary must have from 0 to 1020 octets, a multiple of 4, got 3",
        ),
        (
            lambda: GroupRecord(1, GROUP, auxiliary=bytes(1024)),
            ValueError,
            "auxiliary must have from 0 to 1020 octets, a multiple of 4, got 1024",
        ),
        (lambda: GroupRecord.current(GROUP, [A]), TypeError, "sources must be a SourceFilter, got [IPv4Address("),  # type: ignore[arg-type]
        (lambda: GroupRecord.current("10.0.0.1", SourceFilter.any()), ValueError, "group must be a multicast address"),
        (
            lambda: GroupRecord.between(GROUP, None, SourceFilter.any()),  # type: ignore[arg-type]
            TypeError,
            "before must be a SourceFilter, got None",
        ),
        (
            lambda: GroupRecord.between(GROUP, SourceFilter.any(), "any"),  # type: ignore[arg-type]
            TypeError,
            "after must be a SourceFilter, got 'any'",
        ),
        (
            lambda: GroupRecord.between("10.0.0.1", SourceFilter.any(), SourceFilter.any()),
            ValueError,
            "group must be a multicast address",
        ),
    ],
)
def test_a_bad_argument_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_as_many_sources_as_the_number_can_tell() -> None:
    record = GroupRecord(IS_EX, GROUP, [A] * 65535, auxiliary=bytes(1020))
    assert parse_records(record.marshal(), 0, 1) == (record,)


def test_any_bytes_like_object_can_be_auxiliary() -> None:
    data: Any = bytearray(b"abcd")
    record = GroupRecord(1, GROUP, auxiliary=data)
    assert type(record.auxiliary) is bytes


@given(RECORDS)
def test_records_are_values(record: GroupRecord) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert attrs.evolve(record) == record
    assert hash(attrs.evolve(record)) == hash(record)
    assert not hasattr(record, "__dict__")
    assert type(record.sources) is tuple
    for name in ("type", "group", "sources", "auxiliary", "note"):
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


def test_auxiliary_data_are_named() -> None:
    with pytest.raises(TypeError):
        GroupRecord(1, GROUP, (), b"abcd")  # type: ignore[call-arg]
