"""The table of facts: its laws, what a table does with any rows, and that no field is lost on the way."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ControlFlags, ControlMessage, OtherControl, ParseError, UnsupportedError
from trio_ipv4._abi import structs
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.linux import LINUX, linux
from trio_ipv4._abi.platform import Option, Platform
from trio_ipv4._conn.caches import Controls
from trio_ipv4._kernel.calls import CONTROL_SIZE
from trio_ipv4._values.control import FACTS, marshal_control, parse_control, stamped
from trio_ipv4._values.facts import Fact, Request, Table, read_number, write_integer

if TYPE_CHECKING:
    from collections.abc import Iterable

LINUXES = {f"{word}-{order}": linux(word=word, byte_order=order) for word in (4, 8) for order in ("little", "big")}
each_linux = pytest.mark.parametrize("platform", LINUXES.values(), ids=LINUXES)
FIELDS = [field.name for field in attrs.fields(ControlMessage) if field.name != "other"]
each_field = pytest.mark.parametrize("name", FIELDS)
ALL = ~ControlFlags(0)
FLAGS = st.integers(0, int(ALL)).map(ControlFlags)

# One example of everything that the kernel tells. A new fact belongs here too.
SENDER = b"\xc0\0\2\1"
CONTENTS = {
    "SO_TIMESTAMPNS": struct.pack("<qq", 1_700_000_000, 123_456_789),
    "IP_PKTINFO": struct.pack("<i4s4s", 7, b"\xc0\0\2\2", b"\xef\1\2\3"),
    "IP_TTL": struct.pack("<i", 64),
    "IP_TOS": b"\xb9",
    "SO_RXQ_OVFL": struct.pack("<I", 5),
    "SO_TIMESTAMPING": struct.pack("<6q", 1, 2, 0, 0, 1_600_000_000, 987_654_321),
}
VALUES = {
    "ttl": 64,
    "src": IPv4Address("192.0.2.1"),
    "dst": IPv4Address("239.1.2.3"),
    "ifindex": 7,
    "tos": 0xB9,
    "local": IPv4Address("192.0.2.2"),
    "timestamp_ns": 1_700_000_000_123_456_789,
    "drops": 5,
    "hardware_timestamp_ns": 1_600_000_000_987_654_321,
}
FILLED = {
    "SO_TIMESTAMPNS": ["timestamp_ns"],
    "IP_PKTINFO": ["dst", "ifindex", "local"],
    "IP_TTL": ["ttl"],
    "IP_TOS": ["tos"],
    "SO_RXQ_OVFL": ["drops"],
    "SO_TIMESTAMPING": ["hardware_timestamp_ns"],
}


def buffer(platform: Platform, messages: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join(structs.cmsg(platform, *platform.control[name], content) for name, content in messages)


# The laws of the table


@pytest.mark.parametrize("flag", ControlFlags)
def test_every_flag_has_exactly_one_row(flag: ControlFlags) -> None:
    assert len([fact for fact in FACTS.rows if fact.flags & flag]) == 1


def test_no_row_has_a_flag_that_does_not_exist() -> None:
    for fact in FACTS.rows:
        assert bool(ControlFlags(fact.flags)) is (fact.switch is not None)


@each_field
def test_every_field_is_filled_by_exactly_one_row(name: str) -> None:
    assert sum(fact.fields.count(name) for fact in FACTS.rows) == 1


def test_rows_fill_fields_of_control_messages_alone() -> None:
    assert {name for fact in FACTS.rows for name in fact.fields} == set(FIELDS)
    assert set(FIELDS) > FACTS.requested > set()


@each_linux
@pytest.mark.parametrize("fact", FACTS.rows, ids=lambda fact: fact.title)
def test_linux_knows_the_switch_and_the_message_of_every_row(platform: Platform, fact: Fact) -> None:
    assert fact.switch is None or fact.switch in platform.options
    assert fact.message is None or fact.message in platform.control


def test_every_message_has_one_row_and_an_example() -> None:
    assert sorted(fact.message for fact in FACTS.rows if fact.message) == sorted(CONTENTS)
    assert list(VALUES) == FIELDS


@pytest.mark.parametrize("platform", [*LINUXES.values(), DARWIN], ids=[*LINUXES, "darwin"])
def test_a_connection_has_room_for_all_facts_at_once(platform: Platform) -> None:
    segment_size = 4  # UDP_GRO is no fact, and comes beside them: an int (udp(7)).
    sizes = [segment_size, *(max(fact.sizes) for fact in FACTS.rows if fact.message)]
    assert sum(structs.cmsg_space(platform, size) for size in sizes) <= CONTROL_SIZE


def test_the_switches_are_those_of_the_flags() -> None:
    assert FACTS.switches == {
        "IP_PKTINFO": ControlFlags.SRC | ControlFlags.DST | ControlFlags.INTERFACE,
        "IP_RECVTTL": ControlFlags.TTL,
        "IP_RECVTOS": ControlFlags.TOS,
        "SO_TIMESTAMPNS": ControlFlags.TIMESTAMP,
        "SO_RXQ_OVFL": ControlFlags.DROPS,
    }


# No field is lost on the way


@each_field
@pytest.mark.parametrize("leading", [True, False])
def test_every_field_survives_reading_and_stamping_and_completion(name: str, leading: bool) -> None:
    messages = sorted(CONTENTS.items(), key=lambda each: (each[0] == "SO_TIMESTAMPNS") is not leading)
    controls = Controls(LINUX, ALL)
    for _ in range(2):
        control = controls[buffer(LINUX, messages) + SENDER]
        assert getattr(control, name) == VALUES[name]
    assert ControlMessage(**VALUES) == control


@each_field
def test_every_field_survives_a_timestamp(name: str) -> None:
    message = ControlMessage(**{name: VALUES[name]})
    assert stamped(message, 9) == attrs.evolve(message, timestamp_ns=9)
    for other in set(FIELDS) - {"timestamp_ns"}:
        assert getattr(stamped(message, 9), other) == getattr(message, other)


@given(FLAGS, st.lists(st.sampled_from(sorted(CONTENTS)), unique=True))
def test_what_came_is_there_and_what_was_asked_for_is_completed(flags: ControlFlags, names: list[str]) -> None:
    expected = {field: VALUES[field] for name in names for field in FILLED[name]}
    if ControlFlags.SRC in flags:
        expected["src"] = VALUES["src"]
    if ControlFlags.DROPS in flags:
        expected.setdefault("drops", 0)
    controls = Controls(LINUX, flags)
    octets = buffer(LINUX, [(name, CONTENTS[name]) for name in names])
    assert controls.with_sender == (ControlFlags.SRC in flags)
    assert controls[octets + SENDER * controls.with_sender] == ControlMessage(**expected)


@given(FLAGS, st.lists(st.tuples(st.integers(-5, 300), st.integers(-5, 300), st.binary(max_size=40)), max_size=4))
def test_messages_of_other_kinds_pass_through_in_order(
    flags: ControlFlags, messages: list[tuple[int, int, bytes]]
) -> None:
    known = set(LINUX.control.values())
    others = [each for each in messages if each[:2] not in known]
    octets = b"".join(structs.cmsg(LINUX, *each) for each in others) + buffer(LINUX, [("IP_TTL", CONTENTS["IP_TTL"])])
    controls = Controls(LINUX, flags)
    control = controls[octets + SENDER * controls.with_sender]
    assert control.other == tuple(OtherControl(*each) for each in others)
    assert control.ttl == 64
    assert parse_control(LINUX, marshal_control(LINUX, ControlMessage(other=control.other))).other == control.other


def test_messages_that_the_library_sends_and_reads_itself_are_no_others() -> None:
    for name in set(LINUX.control) - {fact.message for fact in FACTS.rows}:
        assert parse_control(LINUX, buffer(LINUX, [(name, b"\1\0\0\0")])).other == ()


def test_a_sender_without_an_address_is_absent() -> None:
    assert Controls(LINUX, ControlFlags.SRC)[bytes(4)] == ControlMessage()


def contents_of(fact: Fact) -> st.SearchStrategy[tuple[Fact, bytes]]:
    sizes = st.sampled_from(sorted(fact.sizes)) | st.integers(0, 20)
    octets = sizes.flatmap(lambda size: st.binary(min_size=size, max_size=size))
    return octets.map(lambda content: (fact, content))


RECORDS = st.lists(st.sampled_from([fact for fact in FACTS.rows if fact.message]).flatmap(contents_of), max_size=5)


@given(st.sampled_from(list(LINUXES.values())), RECORDS, FLAGS)
def test_a_buffer_is_read_as_its_rows_read_its_messages(
    platform: Platform, records: list[tuple[Fact, bytes]], flags: ControlFlags
) -> None:
    controls = Controls(platform, flags)
    data = buffer(platform, [(str(fact.message), content) for fact, content in records])
    key = data + SENDER * controls.with_sender
    expected: dict[str, Any] = {"drops": 0} if ControlFlags.DROPS in flags else {}
    if controls.with_sender:
        expected["src"] = VALUES["src"]
    try:
        for fact, content in records:
            expected.update(fact.values(platform, content, 0))
    except ParseError as error:
        with pytest.raises(ParseError) as caught:
            controls[key]
        assert str(caught.value).split(" (")[0] == str(error).split(" (")[0]
        assert data[caught.value.offset :].startswith(content)
    else:
        assert controls[key] == ControlMessage(**expected)


# Requests


@each_linux
@each_field
def test_a_field_that_a_row_requests_makes_one_message_and_comes_back(platform: Platform, name: str) -> None:
    message = ControlMessage(**{name: VALUES[name]})
    rows = [fact for fact in FACTS.rows if fact.request is not None and name in fact.request.fields]
    if not rows:
        with pytest.raises(ValueError, match=f"^{name} must be None when sending, got "):
            marshal_control(platform, message)
        return
    (fact,) = rows
    octets = marshal_control(platform, message)
    ((_, level, kind, content),) = structs.iterate_cmsgs(platform, octets)
    assert (level, kind) == platform.control[str(fact.message)]
    assert len(content) in fact.sizes
    back = "local" if name == "src" else name  # The source that is asked for stands where the local address comes.
    assert parse_control(platform, octets) == ControlMessage(**{back: VALUES[name]})


# A table with any rows

ODD = Platform(
    name="odd",
    options={"ONE": Option(1, 100), "TWO": Option(2, 200), "THREE": Option(3, 300)},
    control={"ONE": (1, 10), "TWO": (2, 20)},
    byte_order="big",
)


def read_both(platform: Platform, content: bytes, offset: int) -> tuple[int, int]:
    return content[0], offset


TABLE = Table(
    Fact(1, "SET_ONE", "ONE", "the first", ("one",), (2, 3), read_number("one", 999), absent=0),
    Fact(2 | 4, "SET_TWO", "TWO", "the second", ("two", "at"), (1,), read_both),
    Fact(8, "SET_ONE", None, "the sender", ("sender",), (4,), lambda _p, content, offset: (content + bytes([offset]),)),
    Fact(16, "SET_THREE", "THREE", "the third", ("three",), (1,), read_both, Request(("three",), lambda _p, _c: b"3")),
    Fact(32, "SET_NONE", "NONE", "none", ("none",), (1,), read_both, Request(("none",), lambda _p, c: c.none)),
    Fact(64, "SET_ONE", "ONE", "a request", (), (), read_both, Request(("one", "more"), write_integer("one", 2, 4))),
)


class Asked:
    def __init__(self, *, one: int | None = None, none: bytes | None = None) -> None:
        self.one = one
        self.none = none


def read(data: bytes, flags: int = 0, sender: bytes = b"") -> dict[str, Any]:
    rows = [row for row in TABLE.rows if row.title != "a request"]
    return Table(*rows).read(ODD, data, flags, sender)


def test_switches_and_requested_fields_follow_from_the_rows() -> None:
    assert TABLE.switches == {"SET_ONE": 1 | 8 | 64, "SET_TWO": 2 | 4, "SET_THREE": 16, "SET_NONE": 32}
    assert TABLE.requested == {"three", "none", "one", "more"}
    assert [TABLE.needs_sender(flags) for flags in (0, 1, 8, 9, 7)] == [False, False, True, True, False]
    assert TABLE.needs_sender(ControlFlags(8)) is True


def test_messages_fill_the_fields_of_their_rows() -> None:
    first, second = structs.cmsg(ODD, 1, 10, b"\3\xe7"), structs.cmsg(ODD, 2, 20, b"\7")
    assert read(b"") == Table(TABLE.rows[0]).read(ODD, b"") == {}
    assert read(first) == read(first, 2) == {"one": 999}
    assert read(first + second) == {"one": 999, "two": 7, "at": len(first) + 16}
    assert read(structs.cmsg(ODD, 1, 10, b"\0\0\1") + first + structs.cmsg(ODD, 1, 20, b"")) == {"one": 999}


def test_facts_that_were_asked_for_are_completed() -> None:
    first = structs.cmsg(ODD, 1, 10, b"\0\1")
    assert read(b"", 1) == read(b"", ControlFlags(1)) == {"one": 0}
    assert read(first, 1) == {"one": 1}
    assert read(b"", 2 | 4 | 16) == read(b"", 0, b"1234") == {}
    assert read(first, 8, b"1234") == {"one": 1, "sender": b"1234" + bytes([len(first)])}
    assert read(b"", ControlFlags(8), b"1234") == {"sender": b"1234\0"}


def test_a_message_of_a_wrong_size_or_value_is_refused_where_it_is() -> None:
    for content, message in (
        (b"\1", "the first must have 2 or 3 octets, got 1"),
        (bytes(4), "the first must have 2 or 3 octets, got 4"),
        (b"\3\xe8", "one must be from 0 to 999, got 1000"),
    ):
        with pytest.raises(ParseError, match=message) as caught:
            read(structs.cmsg(ODD, 2, 20, b"\7") + structs.cmsg(ODD, 1, 10, content))
        assert caught.value.offset == 24 + 16
    with pytest.raises(ParseError, match="the sender must have 4 octets, got 3") as caught:
        read(b"", 8, b"123")
    assert caught.value.offset == 0


def test_a_row_that_reads_more_or_fewer_values_than_it_has_fields_is_an_error() -> None:
    for fields in ((), ("one", "two", "three")):
        fact = Fact(1, "ONE", "ONE", "the first", fields, (1,), read_both)
        with pytest.raises(ValueError, match="zip"):
            dict(fact.values(ODD, b"1", 0))


def test_a_request_has_the_messages_that_its_fields_ask_for() -> None:
    table = Table(TABLE.rows[5], TABLE.rows[4])
    known = attrs.evolve(ODD, options={**ODD.options, "NONE": Option(4, 400)}, control={**ODD.control, "NONE": (5, 5)})
    first, last = structs.cmsg(known, 1, 100, b"\0\0\0\3"), structs.cmsg(known, 4, 400, b"x")
    assert table.write(known, Asked()) == b""
    assert table.write(known, Asked(one=3)) == first
    assert table.write(known, Asked(none=b"x")) == last
    assert table.write(known, Asked(one=3, none=b"x")) == first + last
    assert table.write(known, Asked(none=b"")) == structs.cmsg(known, 4, 400, b"")
    with pytest.raises(UnsupportedError) as caught:
        table.write(ODD, Asked(none=b"x"))
    assert (caught.value.option, caught.value.platform) == ("NONE", "odd")


@pytest.mark.parametrize(("number", "accepted"), [(1, False), (2, True), (4, True), (5, False)])
def test_an_integer_is_written_if_it_is_in_range(number: int, accepted: bool) -> None:
    write = write_integer("one", 2, 4)
    if accepted:
        assert write(ODD, Asked(one=number)) == struct.pack(">i", number)
        assert write(LINUX, Asked(one=number)) == struct.pack("<i", number)
    else:
        with pytest.raises(ValueError, match=f"one must be from 2 to 4 when sending, got {number}"):
            write(ODD, Asked(one=number))
