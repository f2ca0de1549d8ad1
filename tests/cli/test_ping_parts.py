"""The parts of `trio-ipv4 ping` that need no network: ssmping's messages, the figures, the limit, the words."""

from __future__ import annotations

import contextlib
import statistics as reference
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import ParseError, UnreachableCode
from trio_ipv4._cli.arguments import MAX_PAYLOAD
from trio_ipv4._cli.ends import Status
from trio_ipv4._cli.ping import protocol, read_interval, read_sizes, read_target
from trio_ipv4._cli.ping.allowance import Allowance
from trio_ipv4._cli.ping.asking import STATUSES, time_in_queue, to_hops
from trio_ipv4._cli.ping.plan import Asking, Course, advise, describe_group
from trio_ipv4._cli.ping.protocol import (
    Field,
    FieldType,
    Kind,
    Message,
    find_number,
    make_answer,
    make_request,
    may_answer_in,
    parse_message,
)
from trio_ipv4._cli.ping.records import (
    Answer,
    ClientCame,
    Hint,
    Loss,
    MulticastCame,
    PingStarted,
    PingSummary,
    ResponderFound,
    ServingStarted,
    ServingSummary,
)
from trio_ipv4._cli.ping.statistics import Book, Finding, Spread

pytestmark = pytest.mark.pure

ASMPING = bytes.fromhex("51 0001 0004 000001e2 0002 0004 00000001 0003 0008 6b0cd833 000e9251 0004 0005 01 ef0102ea")
"""A request of Debian's asmping 0.9.1 for group 239.1.2.3, as tcpdump saw it."""
ANSWERED = bytes.fromhex("41") + ASMPING[1:]
"""What its ssmpingd answered."""
RESPONDER, OTHER = IPv4Address("198.18.0.2"), IPv4Address("198.18.0.3")
GROUP = IPv4Address("239.1.2.234")
VERSION = "trio-ipv4 1.0"

groups = st.integers(0xE000_0000, 0xEFFF_FFFF).map(IPv4Address)
words = st.integers(0, 0xFFFF_FFFF)
unknown_fields = st.builds(Field, st.integers(9, 0xFFFF), st.binary(max_size=40))
known_fields = st.one_of(
    *(
        st.binary(min_size=size, max_size=size).map(lambda value, kind=kind: Field(kind, value))
        for kind, size in ((1, 4), (2, 4), (3, 8), (7, 2))
    ),
    groups.map(lambda group: Field(4, b"\1" + group.packed)),
    st.just(Field(5)),
    st.binary(max_size=40).map(lambda value: Field(6, value)),
    st.binary(max_size=40).map(lambda value: Field(8, value)),
)
messages = st.builds(Message, st.sampled_from(Kind), st.lists(known_fields | unknown_fields, max_size=12).map(tuple))


# The messages


def test_a_request_of_asmping_is_read() -> None:
    request = parse_message(ASMPING)
    assert (request.kind, request.run, request.number, request.group) == (Kind.REQUEST, 0x1E2, 1, GROUP)
    assert not request.wants_version
    assert (request.version, request.reply_size) == (None, None)
    assert request.marshal() == ASMPING


def test_it_is_answered_with_the_octets_of_ssmpingd() -> None:
    assert make_answer(parse_message(ASMPING), VERSION).marshal() == ANSWERED


def test_our_request_has_what_asmping_s_has_in_its_order() -> None:
    # The seconds and the microseconds that asmping wrote.
    ours = make_request(0x1E2, 1, 0x6B0CD833 * 10**9 + 0xE9251 * 1000 + 999, GROUP)
    without_version = [field for field in ours.fields if field.type != FieldType.WANTS_VERSION]
    assert Message(Kind.REQUEST, tuple(without_version)).marshal() == ASMPING
    # ssmpingd reads nothing behind the group.
    assert ours.fields[-1].type == FieldType.GROUP


@given(messages)
def test_a_message_comes_back_as_it_was_written(message: Message) -> None:
    octets = message.marshal()
    assert parse_message(octets) == message
    assert parse_message(octets).marshal() == octets


@given(st.binary(max_size=200) | messages.map(Message.marshal).flatmap(lambda o: st.just(o[:-1]) | st.just(o + b"\0")))
def test_any_octets_give_a_message_or_a_parse_error(data: bytes) -> None:
    with contextlib.suppress(ParseError):
        message = parse_message(data)
        assert message.marshal() == data
        for each in ("run", "number", "group", "version", "reply_size", "wants_version"):
            getattr(message, each)


@given(st.lists(unknown_fields, max_size=5))
def test_fields_of_unknown_types_are_kept(fields: list[Field]) -> None:
    assert parse_message(Message(Kind.ANSWER, tuple(fields)).marshal()).fields == tuple(fields)


@pytest.mark.parametrize(
    ("octets", "complaint", "offset"),
    [
        ("", "'Q' or 'A'", 0),
        ("58", "'Q' or 'A'", 0),
        ("51 0001 00", "4 octets before its value, got 3", 1),
        ("51 0005 0000 0008 0004 000000", "4 octets must be there whole, got 3", 5),
        ("51 0001 0003 000000", "field 1 must have 4 octets, got 3", 1),
        ("51 0003 0004 00000000", "field 3 must have 8 octets, got 4", 1),
        ("51 0007 0001 00", "field 7 must have 2 octets, got 1", 1),
        ("51 0004 0005 02 00000000", "family 1, IPv4, got 2", 1),
        ("51 0004 0011 02" + "00" * 16, "field 4 must have 5 octets, got 17", 1),
    ],
)
def test_octets_that_contradict_themselves_are_refused(octets: str, complaint: str, offset: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse_message(bytes.fromhex(octets))
    assert complaint in str(caught.value)
    assert caught.value.offset == offset


def test_a_version_that_is_no_text_is_spelled() -> None:
    assert Message(Kind.ANSWER, (Field(6, b"0.9\xff"),)).version == "0.9\\xff"


@given(words, words, st.integers(0, 1 << 70), groups, st.integers(protocol.SMALLEST, MAX_PAYLOAD) | st.none())
def test_a_request_has_the_size_that_is_asked_for(
    run: int, number: int, now: int, group: IPv4Address, size: int | None
) -> None:
    request = make_request(run, number, now, group, size=size)
    octets = request.marshal()
    assert len(octets) == (size or protocol.SMALLEST)
    assert parse_message(octets) == request
    assert (request.run, request.number, request.group) == (run, number, group)
    assert request.wants_version == (size is None)


@given(words, words, groups, st.integers(17, 60), words)
def test_an_icmp_error_tells_the_request_by_its_beginning(
    run: int, number: int, group: IPv4Address, quoted: int, other: int
) -> None:
    octets = make_request(run, number, 0, group).marshal()[:quoted]
    assert find_number(octets, run) == number
    assert find_number(octets, run ^ 1) is None
    assert find_number(octets[:16], run) is None
    assert find_number(b"A" + octets[1:], run) is None


@given(messages)
def test_an_answer_repeats_its_request_and_is_never_much_longer(request: Message) -> None:
    octets, answer = request.marshal(), make_answer(request, VERSION).marshal()
    assert answer[:1] == b"A"
    assert answer[1 : len(octets)] == octets[1:]
    assert len(answer) <= max(len(octets), min(protocol.LONGEST_PADDED, 3 * len(octets)))
    if not request.wants_version and request.reply_size is None:
        assert len(answer) == len(octets)
    assert parse_message(answer).fields[: len(request.fields)] == request.fields


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (20, 20),
        (22, 21),  # More than a responder is to be abused for.
        (1024, 21),
        (65535, 21),
        (6 + 1 + 4, 6 + 1 + 4),  # The shortest filling is none.
        (6 + 1 + 3, 6 + 1),  # No room for a field.
        (0, 6 + 1),
    ],
)
def test_an_answer_has_the_size_that_is_asked_for_within_three_times_its_request(asked: int, size: int) -> None:
    request = Message(Kind.REQUEST, (Field(FieldType.REPLY_SIZE, asked.to_bytes(2, "big")),))
    assert len(make_answer(request, VERSION).marshal()) == size


def test_an_answer_is_never_made_longer_than_a_client_reads() -> None:
    fields = Field(FieldType.REPLY_SIZE, b"\xff\xff"), Field(FieldType.PAD, bytes(500))
    assert len(make_answer(Message(Kind.REQUEST, fields), VERSION).marshal()) == 1024


def test_a_short_request_gets_no_version() -> None:
    assert make_answer(Message(Kind.REQUEST, (Field(FieldType.WANTS_VERSION),)), VERSION).version is None


def test_an_answer_says_the_version_if_asked_and_if_there_is_room() -> None:
    asked = make_request(1, 1, 0, GROUP)
    assert make_answer(asked, VERSION).version == VERSION
    assert make_answer(make_request(1, 1, 0, GROUP, size=60), VERSION).version is None
    full = Message(Kind.REQUEST, (Field(FieldType.WANTS_VERSION), Field(FieldType.PAD, bytes(1010))))
    assert make_answer(full, VERSION).version is None


@pytest.mark.parametrize(
    ("group", "may"),
    [
        ("239.1.2.234", True),
        ("232.43.211.234", True),
        ("239.1.2.3", False),
        ("239.9.9.9", True),
        ("1.2.3.234", False),
    ],
)
def test_answers_go_only_to_groups_that_are_meant_for_it(group: str, may: bool) -> None:
    assert may_answer_in(IPv4Address(group), frozenset([IPv4Address("239.9.9.9")])) == may


# The limit


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=100))
def test_no_more_is_allowed_than_the_limit_in_a_second_beside_a_first_lot(limit: int, pauses: list[float]) -> None:
    now, taken = 0.0, 0
    allowance = Allowance(limit, now)
    for pause in pauses:
        now += pause
        taken += allowance.take(now)
        assert taken <= limit + limit * now + 1e-6


def test_what_is_long_takes_more_of_the_limit() -> None:
    allowance = Allowance(10, 0.0)
    assert [allowance.take(0.0, 4) for _ in range(4)] == [True, True, False, False]
    assert allowance.take(0.0, 2)
    # More than there ever is takes all.
    assert not allowance.take(0.5, 99)
    assert allowance.take(1.0, 99)


def test_the_limit_is_reached() -> None:
    allowance = Allowance(10, 5.0)
    assert sum(allowance.take(5.0) for _ in range(100)) == 10
    assert sum(allowance.take(6.0) for _ in range(100)) == 10
    assert sum(allowance.take(6.5) for _ in range(100)) == 5


# The figures


@given(st.lists(st.floats(0, 100), max_size=50))
def test_the_spread_is_that_of_the_standard_library(numbers: list[float]) -> None:
    spread = Spread()
    for number in numbers:
        spread.add(number)
    if not numbers:
        assert (spread.least, spread.mean, spread.most, spread.deviation) == (None, None, None, None)
        return
    assert (spread.least, spread.most) == (min(numbers), max(numbers))
    assert spread.mean == pytest.approx(reference.fmean(numbers), abs=1e-9)
    assert spread.deviation == pytest.approx(reference.pstdev(numbers), abs=1e-6)


answers = st.tuples(st.integers(0, 12), st.sampled_from([RESPONDER, OTHER]), st.sampled_from(["unicast", "multicast"]))


@given(st.integers(1, 10), st.integers(1, 3), st.lists(st.tuples(answers, st.floats(0, 5)), max_size=40))
def test_the_figures_are_those_of_a_recount(asked: int, sizes: int, heard: list[tuple[Any, float]]) -> None:
    """Requests go out at 1, 2, 3 ...; then answers come, each some time later."""
    book, wait, now = Book(2.0), 2.0, float(asked)
    size_of = {number: 100 + number % sizes for number in range(1, asked + 1)}
    for number, size in size_of.items():
        book.ask(number, size, float(number))
    counted: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], float] = {}
    for (number, responder, kind), later in heard:
        now += later
        taken = book.take(number, responder, kind, now, hops=1)
        assert (taken is not None) == (number in size_of)
        if taken is None:
            continue
        again = counted[number, responder, kind] > 0
        assert (taken.octets, taken.round_trip) == (size_of[number], now - number)
        assert (taken.is_duplicate, taken.is_late) == (again, now - number > wait)
        assert taken.is_first == ((responder, kind) not in {key[1:] for key in counted})
        counted[number, responder, kind] += 1
        first.setdefault((number, responder, kind), now)
    assert book.responders == tuple(dict.fromkeys(responder for _, responder, _ in counted))
    for figures in book.figures(now):
        numbers = [number for number, size in size_of.items() if size == figures.octets]
        here = {number: counted[number, figures.responder, figures.kind] for number in numbers}
        got = [number for number in numbers if here[number]]
        missing = [number for number in numbers if not here[number]]
        assert figures.sent == len(numbers)
        assert figures.received == len(got)
        assert figures.pending == sum(number + wait > now for number in missing)
        assert figures.lost == len(missing) - figures.pending
        assert figures.duplicates == sum(here.values()) - len(got)
        times = [first[number, figures.responder, figures.kind] for number in got]
        assert figures.late == sum(at - number > wait for at, number in zip(times, got, strict=True))
        assert figures.first == min(times, default=None)
        assert figures.first_number == min(got, default=None)
        assert figures.hops == (1 if got else None)
        before = [number for number in missing if number < min(got, default=99)]
        assert figures.lost_before_first == min(len(before), figures.lost)


def test_one_who_is_asked_has_figures_without_having_answered() -> None:
    book = Book(1.0, RESPONDER)
    book.ask(1, 42, 0.0)
    assert [(each.kind, each.sent, each.lost, each.pending) for each in book.figures(0.5)] == [
        ("unicast", 1, 0, 1),
        ("multicast", 1, 0, 1),
    ]
    assert [(each.kind, each.lost, each.pending) for each in book.figures(1.0)] == [
        ("unicast", 1, 0),
        ("multicast", 1, 0),
    ]
    assert book.finding() is Finding.NOTHING
    assert Book(1.0).finding() is Finding.NOTHING


def test_what_could_not_be_sent_is_not_counted() -> None:
    book = Book(1.0, RESPONDER)
    book.ask(1, 42, 0.0)
    book.ask(2, 42, 1.0)
    book.withdraw(2)
    assert book.sent == 1
    assert book.take(2, RESPONDER, "unicast", 1.0, 0) is None


def test_answers_are_awaited_until_the_last_that_may_come() -> None:
    book = Book(3.0, RESPONDER)
    assert book.open_until() == 0
    book.ask(1, 42, 10.0)
    book.ask(2, 42, 11.0)
    assert book.open_until() == 14.0
    book.take(2, RESPONDER, "unicast", 11.5, 0)
    assert book.open_until() == 14.0
    book.take(2, RESPONDER, "multicast", 11.5, 0)
    assert book.open_until() == 13.0
    for kind in ("unicast", "multicast"):
        book.take(1, RESPONDER, kind, 11.5, 0)
    assert book.open_until() == 0
    of_a_group = Book(3.0)
    of_a_group.ask(1, 42, 10.0)
    of_a_group.take(1, RESPONDER, "unicast", 11.5, 0)
    of_a_group.take(1, RESPONDER, "multicast", 11.5, 0)
    assert of_a_group.open_until() == 13.0


def test_only_so_many_requests_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ipv4._cli.ping.statistics.REMEMBERED", 3)
    book = Book(1.0, RESPONDER)
    for number in range(1, 101):
        book.ask(number, 42, float(number))
        book.take(number, RESPONDER, "unicast", float(number), 0)
    assert book.take(97, RESPONDER, "unicast", 101.0, 0) is None
    taken = book.take(98, RESPONDER, "unicast", 101.0, 0)
    assert taken is not None
    assert taken.is_duplicate
    unicast, multicast = book.figures(200.0)
    assert (unicast.received, unicast.lost, multicast.lost) == (100, 0, 100)
    assert all(len(tally.seen) <= 3 for tally in book._tallies.values())


@pytest.mark.parametrize(
    ("came", "finding", "status"),
    [
        ([("unicast", RESPONDER), ("multicast", RESPONDER)], "both", 0),
        ([("unicast", RESPONDER)], "unicast only", 1),
        ([("multicast", RESPONDER)], "multicast only", 4),
        ([], "nothing", 3),
        ([("unicast", RESPONDER), ("multicast", RESPONDER), ("unicast", OTHER)], "mixed", 1),
    ],
)
def test_the_exit_status_tells_the_finding(came: list[tuple[str, IPv4Address]], finding: str, status: int) -> None:
    book = Book(1.0)
    book.ask(1, 42, 0.0)
    for kind, responder in came:
        book.take(1, responder, kind, 0.5, 0)
    assert book.finding().value == finding
    assert STATUSES[book.finding()] is Status(status)


def test_sizes_that_fare_differently_are_a_mixed_finding() -> None:
    book = Book(1.0, RESPONDER)
    for number, size in enumerate((64, 8000), 1):
        book.ask(number, size, 0.0)
        book.take(number, RESPONDER, "unicast", 0.5, 0)
    assert book.finding() is Finding.UNICAST_ONLY
    book.take(1, RESPONDER, "multicast", 0.5, 0)
    assert book.finding() is Finding.MIXED


# What is asked, and how it is told

ASKING = Asking(RESPONDER, GROUP, 4321, (), None, 1.0, (), 64, 3.0, None)


def test_sizes_take_turns() -> None:
    asking = attrs.evolve(ASKING, sizes=(64, 1400, 8000))
    assert [len(asking.make_request(1, number).marshal()) for number in range(1, 6)] == [64, 1400, 8000, 64, 1400]
    assert {len(ASKING.make_request(1, number).marshal()) for number in (1, 2, 3)} == {42}


@pytest.mark.parametrize(
    ("target", "group", "sources"),
    [
        ("198.18.0.2", "232.43.211.234", "include"),
        ("198.18.0.2", "239.1.2.234", "exclude"),
        ("239.1.2.234", "239.1.2.234", "exclude"),
    ],
)
def test_a_group_of_232_8_is_joined_for_its_source_alone(target: str, group: str, sources: str) -> None:
    asking = attrs.evolve(ASKING, target=IPv4Address(target), group=IPv4Address(group))
    assert asking.sources.mode.name.lower() == sources
    assert asking.sources.accepts(target if sources == "include" else OTHER)


@pytest.mark.parametrize(("ttl", "hops"), [(64, 0), (63, 1), (1, 63), (0, 64), (65, None), (128, None), (None, None)])
def test_hops_are_what_is_missing_of_64(ttl: int | None, hops: int | None) -> None:
    assert to_hops(ttl) == hops


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [(None, 0.0), (10**18, 0.25), (10**18 + 10**9, 0.0), (10**18 - 10**10, 0.0)],
)
def test_the_time_in_the_queue_is_not_that_of_a_clock_that_was_set(
    stamp: int | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 10**18 + 250_000_000)
    assert time_in_queue(stamp) == pytest.approx(seconds)


def test_targets_sizes_and_intervals_are_read() -> None:
    assert read_target("239.1.2.3") == IPv4Address("239.1.2.3")
    assert read_sizes("64,1400,64") == (64, 1400)
    assert read_interval("10ms") == 0.01
    for read, text in (
        (read_target, "0.0.0.0"),
        (read_target, "255.255.255.255"),
        (read_target, "example.org"),
        (read_sizes, "41"),
        (read_sizes, "64,"),
        (read_sizes, "65508"),
        (read_sizes, ",".join(map(str, range(100, 200)))),
        (read_interval, "9ms"),
    ):
        with pytest.raises(ValueError, match=r"^must be"):
            read(text)


def test_a_host_s_name_is_not_looked_up() -> None:
    with pytest.raises(ValueError, match=r"names are not looked up, got 'example\.org'"):
        read_target("example.org")


def test_each_finding_but_the_best_has_its_advice() -> None:
    of_group, course = attrs.evolve(ASKING, target=GROUP, ttl=1), Course()
    assert "Does a responder run on 198.18.0.2?" in advise(Finding.NOTHING, ASKING, course)
    assert "'trio-ipv4 ping --serve 239.1.2.234'" in advise(Finding.NOTHING, of_group, course)
    assert "TTL 1" in advise(Finding.NOTHING, of_group, course)
    assert "no multicast to 239.1.2.234 gets here" in advise(Finding.UNICAST_ONLY, ASKING, course)
    assert "querier" in advise(Finding.UNICAST_ONLY, ASKING, course)
    assert "firewall" in advise(Finding.MULTICAST_ONLY, ASKING, course)
    assert "the figures tell which" in advise(Finding.MIXED, ASKING, course)
    assert "239.1.2.234" in describe_group(IPv4Address("239.1.2.3"))


def test_soon_after_the_join_nothing_is_blamed() -> None:
    soon = Course(asked_for=1.9)
    early = "Too early to tell: the join may not have got through yet. Try --count 5"
    assert advise(Finding.UNICAST_ONLY, ASKING, soon) == f"{early}."
    assert advise(Finding.UNICAST_ONLY, attrs.evolve(ASKING, interval=0.1), soon) == f"{early} --interval 1s."
    assert "Too early" not in advise(Finding.UNICAST_ONLY, ASKING, Course(asked_for=2.0))


def test_who_joined_nowhere_can_t_hear() -> None:
    said = advise(Finding.UNICAST_ONLY, ASKING, Course(is_member=False))
    assert said == "This host has joined 239.1.2.234 on no interface, so no multicast to it can come."


@pytest.mark.parametrize(
    ("code", "offender", "words"),
    [
        (UnreachableCode.PORT_UNREACHABLE, RESPONDER, "No responder runs on 198.18.0.2, port 4321"),
        (UnreachableCode.NET_UNREACHABLE, OTHER, "The router 198.18.0.3 knows no way to 198.18.0.2."),
        (UnreachableCode.HOST_UNREACHABLE, OTHER, "The router 198.18.0.3 does not reach 198.18.0.2"),
        (UnreachableCode.HOST_UNREACHABLE, IPv4Address("198.18.0.1"), "198.18.0.2 does not answer on its link"),
        (UnreachableCode.COMMUNICATION_PROHIBITED, OTHER, "198.18.0.3 forbids it"),
        (UnreachableCode.SOURCE_ROUTE_FAILED, OTHER, "Does a responder run"),
    ],
)
def test_an_error_says_why_nothing_came(code: UnreachableCode, offender: IPv4Address, words: str) -> None:
    course = Course(offender=offender, code=code, own=[IPv4Address("198.18.0.1")])
    assert advise(Finding.NOTHING, ASKING, course).startswith(words)


def summary(**changes: Any) -> PingSummary:
    facts = {"finding": "both", "target": RESPONDER, "group": GROUP, "sent": 3, "responders": (RESPONDER,)}
    return PingSummary(**{**facts, "errors": 0, "ignored": 0, "drops": 0, "losses": (), "seconds": 2.04, **changes})


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (summary(), "Both: unicast and multicast came from 198.18.0.2. 3 requests in 2.0 s."),
        (summary(sent=1, seconds=0.0034), "198.18.0.2. 1 request in 3 ms."),
        (summary(drops=1), "in 2.0 s. This host itself has dropped 1 datagram."),
        (
            summary(losses=(Loss("multicast", 1, 2, 1),)),
            "from 198.18.0.2; 1 of 2 multicast answers was lost, before the join took effect. 3 requests",
        ),
        (
            summary(losses=(Loss("unicast", 2, 3, 2), Loss("multicast", 2, 3, 1))),
            "2; 2 of 3 unicast answers were lost; 2 of 3 multicast answers were lost. 3 requests",
        ),
        (
            summary(finding="unicast only"),
            "Unicast only: from 198.18.0.2, no multicast to 239.1.2.234 came. 3 requests",
        ),
        (summary(finding="multicast only", sent=1), "Multicast only: from 198.18.0.2, no unicast came. 1 request in"),
        (
            summary(finding="mixed", responders=(RESPONDER, OTHER)),
            "not all of 198.18.0.2 and 198.18.0.3 came both",
        ),
        (summary(finding="nothing", responders=()), "Nothing: no answer from 198.18.0.2 came. 3 requests in 2.0 s."),
        (PingStarted(RESPONDER, 4321, GROUP, False, ("en0",), (42,), 64), "Joined 239.1.2.234 on en0."),
        (PingStarted(RESPONDER, 4321, GROUP, True, ("en0",), (42,), 64), "239.1.2.234 from 198.18.0.2 alone on en0."),
        (PingStarted(GROUP, 4321, GROUP, False, (), (64, 99), 1), "on no interface, with TTL 1: 64, 99 octets."),
        (Hint("Not asked."), "Not asked."),
        (ResponderFound(RESPONDER, "0.9.1"), "198.18.0.2 is a responder, version 0.9.1."),
        (MulticastCame(RESPONDER, 1, 0.1), "198.18.0.2: multicast from #1 on, 0.100 s after the join."),
        (
            ServingStarted(4321, (), (), 100, ()),
            "requests to port 4321 of this host: at most 100 in a second.",
        ),
        (
            ServingStarted(4321, (GROUP,), ("en0", "en1"), 9, (OTHER, RESPONDER)),
            "of 239.1.2.234, on en0 and en1 alone: at most 9 in a second. On another host: trio-ipv4 ping 198.18.0.3",
        ),
        (ServingStarted(99, (), (), 9, (OTHER,)), "On another host: trio-ipv4 ping 198.18.0.3 --port 99"),
        (ServingSummary(1, 1, 1, 0, 0, 0, 0, 0, 0.5), "1 request from 1 client in 500 ms: 1 answered"),
        (ServingSummary(1, 1, 1, 0, 0, 0, 0, 8, 0.5), "by multicast, 8 dropped by this host itself."),
        (
            summary(responders=(RESPONDER, OTHER, IPv4Address("198.18.0.4"))),
            "came from 198.18.0.2, 198.18.0.3 and 198.18.0.4.",
        ),
        (
            ServingSummary(2, 7, 6, 5, 4, 3, 2, 0, 1.0),
            "7 requests from 2 clients in 1.0 s: 6 answered by unicast, 5 by multicast, 4 ignored, 3 over the limit, 2",
        ),
    ],
)
def test_the_words_of_a_record(record: Any, text: str) -> None:
    assert text in record.text()


def answer(**changes: Any) -> Answer:
    facts = {"number": 7, "responder": RESPONDER, "kind": "unicast", "round_trip_seconds": 0.0012345, "hops": 2}
    more = {"ttl": 62, "octets": 74, "late": False, "duplicate": False, "error": None}
    return Answer(**{**facts, **more, **changes})


def test_the_cells_of_an_answer() -> None:
    assert answer().cells() == ("7", "198.18.0.2", "unicast", "1.234", "2", "74", "")
    assert answer(hops=None, late=True, duplicate=True).cells()[4:] == ("unknown", "74", "late, duplicate")
    failed = answer(
        number=None, kind="error", round_trip_seconds=None, hops=None, octets=None, error="port unreachable"
    )
    assert failed.cells() == ("-", "198.18.0.2", "error", "-", "-", "-", "port unreachable")
    assert [each.style() for each in (answer(), answer(late=True), failed)] == ["", "yellow", "red"]
    summaries = summary(), summary(finding="mixed"), summary(losses=(Loss("unicast", 1, 3, 0),))
    assert [each.style() for each in summaries] == ["green", "red", "yellow"]


def test_a_client_that_gets_no_multicast_is_told_of() -> None:
    client = ClientCame(RESPONDER, 40000, OTHER, "en0", GROUP, answers_in_group=False, octets=38)
    assert client.cells() == ("198.18.0.2:40000", "198.18.0.3", "en0", "unicast only", "38")
