"""The state machine of `watch`, without any network: what it follows from messages, and from the time."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.igmp_script import packet
from support.wire import summed
from trio_ipv4 import (
    GroupRecord,
    GroupRecordType,
    HeaderFlags,
    IGMPLeave,
    IGMPMessage,
    IGMPOther,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    SourceFilter,
)
from trio_ipv4._cli.output import lay_out
from trio_ipv4._cli.watch.packets import read_packet
from trio_ipv4._cli.watch.records import (
    ClockSet,
    CommandTold,
    Dropped,
    GroupState,
    Limit,
    Member,
    NotUp,
    QuerierChange,
    QuerierState,
    SourceLimit,
    Summary,
    Unsure,
)
from trio_ipv4._cli.watch.timers import Timers
from trio_ipv4._cli.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ipv4._cli.output import Row, Sentence
    from trio_ipv4._cli.watch.messages import Line

pytestmark = pytest.mark.pure

S = 10**9
"""A second."""
START = 1_000_000_000 * S
GROUP, OTHER, SPECIFIC = "239.1.2.3", "239.9.9.9", "232.1.2.3"
A, B, C = "198.18.0.1", "198.18.0.2", "198.18.0.3"
SOURCES = [f"198.18.9.{number}" for number in range(1, 5)]
GENERAL = IGMPQuery(robustness=2, query_interval=125)
JOIN, LEAVE = GroupRecordType.CHANGE_TO_EXCLUDE_MODE, GroupRecordType.CHANGE_TO_INCLUDE_MODE
IS_ANY = GroupRecordType.MODE_IS_EXCLUDE


def report(kind: GroupRecordType, group: str = GROUP, sources: Iterable[str] = ()) -> IGMPv3Report:
    return IGMPv3Report([GroupRecord(kind, group, sources)])


class Told:
    """A watcher, and what it has told."""

    def __init__(self, **options: Any) -> None:
        self.watcher = Watcher(**options)
        self.now = START
        self.records: list[Line] = []

    def hear(self, message: IGMPMessage | bytes, sender: str = A, *, after: float = 0, on: str | None = "en0") -> None:
        self.now += round(after * S)
        self.records += self.watcher.hear(self.now, on, packet(message, sender))

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * S)
        self.records += self.watcher.advance(self.now)

    def of(self, event: str) -> list[Any]:
        return [each for each in self.records if each.event == event]

    def members(self) -> list[tuple[str, str | None]]:
        return [(each.change, each.host) for each in self.of("member")]

    def queriers(self) -> list[tuple[str, str]]:
        return [(each.change, str(each.address)) for each in self.of("querier")]

    def state(self) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
        return {
            (str(each.group), each.host): (each.mode, tuple(map(str, each.sources)))
            for each in self.watcher.member_states()
        }


# The querier


def test_the_lowest_address_is_the_querier() -> None:
    told = Told()
    told.hear(GENERAL, B)
    told.hear(GENERAL, C, after=1)
    told.hear(GENERAL, A, after=1)
    told.hear(GENERAL, B, after=1)
    assert told.queriers() == [("elected", B), ("changed", A)]
    assert told.of("querier")[1].previous == IPv4Address(B)
    assert told.watcher.has_querier()


def test_a_proxy_without_an_address_never_wins() -> None:
    told = Told()
    told.hear(GENERAL, "0.0.0.0")
    told.hear(GENERAL, C, after=1)
    told.hear(GENERAL, "0.0.0.0", after=1)
    assert told.queriers() == [("proxy", "None"), ("elected", C)]


def test_a_querier_is_silent_after_the_other_querier_present_interval() -> None:
    told = Told()
    told.hear(IGMPQuery(robustness=3, query_interval=10, max_response_time=4.0), A)
    told.hear(GENERAL, B)  # It has lost, and sets no interval.
    told.wait(31.9)  # RFC 9776 section 8.5: 3 * 10 + 4 / 2 seconds.
    assert told.queriers() == [("elected", A)]
    told.wait(0.1)
    assert told.queriers()[1:] == [("silent", "None")]
    assert told.of("querier")[1].silent_seconds == 32
    assert not told.watcher.has_querier()
    told.hear(GENERAL, B)
    assert told.queriers()[2:] == [("elected", B)]


def test_that_nobody_asks_is_told_once() -> None:
    told = Told()
    told.watcher.begin(told.now, "en0")
    told.wait(254.9)
    assert told.queriers() == []
    told.wait(1000)
    assert told.queriers() == [("none", "None")]
    assert told.of("querier")[0].timestamp_ns == START + 255 * S
    assert "forgets members after 260 s" in told.of("querier")[0].text()


def test_each_interface_has_a_querier_of_its_own() -> None:
    told = Told()
    told.hear(GENERAL, A, on="en0")
    told.hear(GENERAL, B, on="en1")
    assert told.queriers() == [("elected", A), ("elected", B)]
    assert [(each.interface, str(each.address)) for each in told.watcher.querier_states()] == [("en0", A), ("en1", B)]


# Members


def test_the_first_and_the_last_member_are_told() -> None:
    told = Told()
    told.hear(report(JOIN), A)
    told.hear(report(JOIN), B, after=1)
    told.hear(report(JOIN), B, after=1)
    told.hear(report(LEAVE), A, after=1)
    told.hear(report(LEAVE), B, after=1)
    assert told.members() == [("first", A), ("joined", B), ("left", A), ("left", B)]
    told.wait(2)  # RFC 9776 section 8.10: the Last Member Query Time.
    assert told.members()[4:] == [("last", None)]
    assert told.of("member")[4].reason == "left"
    assert told.state() == {}


def test_a_member_that_is_heard_in_time_keeps_the_group() -> None:
    told = Told()
    told.hear(IGMPv2Report(GROUP), A)
    told.hear(IGMPLeave(GROUP), A, after=1)
    told.hear(IGMPv2Report(GROUP), B, after=1.9)
    told.wait(10)
    assert told.members() == [("first", A), ("left", A), ("joined", B)]


def test_a_leave_of_somebody_unknown_changes_nothing() -> None:
    told = Told()
    told.hear(IGMPLeave(GROUP), A)
    told.hear(report(LEAVE), A)
    told.hear(report(GroupRecordType.BLOCK_OLD_SOURCES, SPECIFIC, SOURCES), A)
    assert told.members() == []


def test_a_member_that_is_not_reported_again_is_forgotten() -> None:
    told = Told()
    told.hear(GENERAL, C)
    told.hear(report(IS_ANY), A)
    told.wait(249.9)
    assert told.of("expiring") == []
    told.wait(0.1)
    (expiring,) = told.of("expiring")
    assert (expiring.seconds, expiring.hosts) == (20, (IPv4Address(A),))
    told.wait(19.9)
    assert told.members() == [("first", A)]
    told.wait(0.1)  # RFC 9776 section 8.4: 2 * 125 + 2 * 10 seconds.
    assert told.members()[1:] == [("left", A), ("last", None)]
    assert told.of("member")[2].reason == "expired"


def test_a_report_puts_the_end_off() -> None:
    told = Told()
    told.hear(report(IS_ANY), A)
    for _ in range(5):
        told.hear(report(IS_ANY), A, after=240)
    assert told.members() == [("first", A)]
    assert told.of("expiring") == []
    told.hear(report(IS_ANY), A, after=260)
    told.wait(249)
    assert len(told.of("expiring")) == 1


def test_the_querier_s_intervals_decide() -> None:
    told = Told()
    told.hear(IGMPQuery(robustness=1, query_interval=5, max_response_time=1.0), C)
    told.hear(report(IS_ANY), A)
    told.wait(7)
    assert told.members()[-1] == ("last", None)
    assert told.of("member")[-1].timestamp_ns == START + 7 * S


def test_a_report_of_an_older_version_speaks_for_all_that_hold_back() -> None:
    told = Told()
    told.hear(IGMPv2Report(GROUP), A)
    told.hear(IGMPv2Report(GROUP), B, after=1)
    for _ in range(5):
        told.hear(IGMPv2Report(GROUP), B, after=200)
    assert set(told.state()) == {(GROUP, A), (GROUP, B)}
    told.wait(250)
    assert told.of("expiring")[0].hosts == (IPv4Address(A), IPv4Address(B))
    assert told.of("expiring")[0].who() == "2 hosts"
    told.wait(20)
    assert told.members()[-3:] == [("left", A), ("left", B), ("last", None)]


def test_who_does_not_answer_a_query_for_the_group_is_no_member() -> None:
    told = Told()
    told.hear(report(IS_ANY), A)
    told.hear(report(IS_ANY), B)
    told.hear(IGMPv2Report(GROUP), C)
    told.hear(IGMPQuery(GROUP, max_response_time=0.5), C, after=1)
    told.hear(IGMPQuery(GROUP, max_response_time=0.5), C, after=0.4)
    told.hear(report(IS_ANY), B, after=0.1)
    told.wait(0.4)
    assert ("left", A) not in told.members()
    told.wait(0.2)
    assert told.members()[3:] == [("left", A), ("left", C)]
    told.hear(IGMPQuery(GROUP, max_response_time=0.5), C, after=1)
    told.wait(1)
    assert told.members()[5:] == [("left", B), ("last", None)]


@pytest.mark.parametrize(
    "query",
    [
        IGMPQuery(GROUP, suppress_router_processing=True, max_response_time=0.5),
        IGMPQuery(GROUP, SOURCES, max_response_time=0.5),
        IGMPQuery(OTHER, max_response_time=0.5),
        GENERAL,
    ],
)
def test_other_queries_leave_the_members_alone(query: IGMPQuery) -> None:
    told = Told()
    told.hear(report(IS_ANY), A)
    told.hear(query, C, after=1)
    told.wait(100)
    assert told.members() == [("first", A)]


def test_an_interface_that_goes_takes_its_groups_with_it() -> None:
    told = Told()
    told.hear(GENERAL, C)
    told.hear(report(IS_ANY), A)
    told.hear(report(IS_ANY), A, on="en1")
    told.hear(IGMPv2Report(OTHER), B)
    told.records += told.watcher.end(told.now, "en0")
    assert told.members()[3:] == [("left", A), ("last", None), ("left", B), ("last", None)]
    assert {each.reason for each in told.of("member")[3:]} == {"interface"}
    assert [each.interface for each in told.watcher.querier_states()] == ["en1"]
    told.wait(1000)
    assert told.queriers() == [("elected", C), ("none", "None")]


def test_a_host_that_changes_its_version_is_one_member() -> None:
    told = Told()
    told.hear(IGMPv2Report(GROUP), A)
    told.hear(report(IS_ANY), A, after=1)
    told.wait(265)
    assert set(told.state()) == {(GROUP, A)}
    told.hear(IGMPv1Report(GROUP), A)
    told.wait(265)
    assert told.members() == [("first", A)]
    told.wait(10)
    assert told.members()[1:] == [("left", A), ("last", None)]
    assert [(each.timestamp_ns - START) // S for each in told.of("expiring")] == [251, 266 + 250]


def test_a_record_of_an_unknown_type_and_sources_that_are_none_are_ignored() -> None:
    told = Told()
    told.hear(IGMPv3Report([GroupRecord(9, GROUP)]))
    told.hear(report(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, ["224.0.0.1", "0.0.0.0", "255.255.255.255"]))
    assert told.members() == []
    told.hear(report(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, ["224.0.0.1", SOURCES[0]]))
    assert told.state() == {(SPECIFIC, A): ("include", (SOURCES[0],))}


filters = st.builds(
    lambda include, sources: SourceFilter.include(*sources) if include else SourceFilter.exclude(*sources),
    st.booleans(),
    st.sets(st.sampled_from(SOURCES)),
)


@given(st.lists(st.tuples(st.sampled_from([A, B]), filters), max_size=12))
def test_what_a_host_announces_is_what_is_known_of_it(changes: list[tuple[str, SourceFilter]]) -> None:
    told = Told()
    heard = {A: SourceFilter.none(), B: SourceFilter.none()}
    for host, after in changes:
        if records := GroupRecord.between(GROUP, heard[host], after):
            told.hear(IGMPv3Report(records), host)
        heard[host] = after
    assert told.state() == {
        (GROUP, host): (each.mode.value, tuple(map(str, sorted(each.sources))))
        for host, each in heard.items()
        if each != SourceFilter.none()
    }


# Versions


@pytest.mark.parametrize("version", [1, 2])
def test_a_querier_of_an_older_version_beside_version_3_is_told_once(version: int) -> None:
    told = Told()
    older = IGMPQuery(version=version)
    told.hear(older, B)
    assert told.of("version") == []
    told.hear(report(IS_ANY), A, after=1)
    told.hear(older, B, after=1)
    told.hear(GENERAL, A, after=1)
    (conflict,) = told.of("version")
    assert (conflict.of, conflict.version, str(conflict.address)) == ("querier", version, B)
    assert "hosts follow it, and no longer name sources" in conflict.text()
    assert ("or tell leaves" in conflict.text()) == (version == 1)
    told.wait(1000)
    told.hear(GENERAL, A)
    told.hear(older, B)
    assert len(told.of("version")) == 2


def test_a_query_for_one_group_makes_no_host_change_its_version() -> None:
    told = Told()
    told.hear(GENERAL, A)
    told.hear(IGMPQuery(GROUP, version=2), B)
    assert told.of("version") == []


@pytest.mark.parametrize(("message", "version"), [(IGMPv1Report(GROUP), 1), (IGMPv2Report(GROUP), 2)])
@pytest.mark.parametrize("version_3_first", [True, False])
def test_a_host_of_an_older_version_beside_version_3_is_told_once(
    message: IGMPMessage, version: int, version_3_first: bool
) -> None:
    told = Told()
    told.hear(report(IS_ANY) if version_3_first else message, A if version_3_first else B)
    told.hear(message if version_3_first else report(IS_ANY), B if version_3_first else A)
    told.hear(message, B, after=1)
    told.hear(report(IS_ANY), A, after=1)
    (conflict,) = told.of("version")
    assert (conflict.of, conflict.version, str(conflict.address), str(conflict.group)) == ("host", version, B, GROUP)
    assert ("sources and leaves do not count" in conflict.text()) == (version == 1)


def test_hosts_that_keep_to_an_older_querier_are_none_to_blame() -> None:
    told = Told()
    told.hear(report(IS_ANY), A)
    told.hear(IGMPQuery(version=2), C)
    told.hear(IGMPv2Report(GROUP), B)
    assert [each.of for each in told.of("version")] == ["querier"]


def test_one_version_alone_is_no_conflict() -> None:
    told = Told()
    told.hear(IGMPQuery(version=2), C)
    told.hear(IGMPv2Report(GROUP), B)
    told.hear(IGMPLeave(GROUP), B)
    assert told.of("version") == []


def test_hosts_keep_to_an_older_querier_for_ten_times_its_response_time() -> None:
    told = Told()
    told.hear(IGMPQuery(version=2, max_response_time=2.0), C)
    told.hear(IGMPv2Report(GROUP), B, after=269.9)  # RFC 9776 section 8.12: 2 * 125 + 10 * 2 seconds.
    told.hear(report(IS_ANY), A)
    told.hear(IGMPv2Report(GROUP), B, after=0.1)
    assert [each.of for each in told.of("version")] == ["querier"]
    told.hear(IGMPv2Report(GROUP), B, after=0.1)
    assert [each.of for each in told.of("version")] == ["querier", "host"]


def test_whether_there_is_a_querier_is_known_after_a_time() -> None:
    told = Told()
    told.watcher.begin(told.now, "en0")
    told.wait(254)
    assert [each.known for each in told.watcher.querier_states()] == [False]
    told.wait(1)
    assert [each.known for each in told.watcher.querier_states()] == [True]
    told.watcher.begin(told.now, "en1")
    told.hear(GENERAL, A, on="en1")
    assert [each.known for each in told.watcher.querier_states()] == [True, True]
    told.wait(255)
    assert [each.known for each in told.watcher.querier_states()] == [True, True]


@pytest.mark.parametrize("message", [report(IS_ANY, "224.0.0.106"), IGMPv2Report("224.0.0.106")])
def test_what_a_switch_wants_for_itself_makes_no_member(message: IGMPMessage) -> None:
    told = Told()
    told.hear(message, "0.0.0.0")
    assert told.records[0].text().endswith("report): a switch's own wish, for multicast router discovery") or (
        told.records[0].text().endswith("(mode is exclude): a switch's own wish, for multicast router discovery")
    )
    assert told.state() == {}
    told.hear(message, A)
    assert told.members() == [("first", A)]
    assert not told.of("report")[1].text().endswith("discovery")


def test_of_a_member_so_many_sources_are_remembered() -> None:
    told = Told()
    many = [str(IPv4Address(0x0A000000 + number)) for number in range(200)]
    for first in range(0, 200, 50):
        told.hear(report(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, many[first : first + 50]), after=1)
    told.hear(report(IS_ANY, GROUP, many))
    assert {len(sources) for _, sources in told.state().values()} == {64}
    assert [(each.sources, str(each.host)) for each in told.of("source_limit")] == [(64, A)]


def test_records_that_change_nothing_cost_little() -> None:
    told = Told(most=10**6)
    for first in range(0, 40_000, 300):
        sources = [str(IPv4Address(0x0A000000 + number)) for number in range(first, first + 300)]
        told.hear(report(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, sources), after=0.01)
    forged = IGMPv3Report([GroupRecord(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, ["10.0.0.1"])] * 120)
    octets = packet(forged)
    began = time.process_time()
    for _ in range(10):
        told.watcher.hear(told.now, "en0", octets)
    assert time.process_time() - began < 1  # It was 1.9 s.


# Messages


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (GENERAL, "general query v3, max response 10 s, QRV 2, interval 125 s"),
        (IGMPQuery(version=1), "general query v1, max response 10 s"),
        (IGMPQuery(GROUP, version=2, max_response_time=1.0), f"query v2 for {GROUP}, max response 1 s"),
        (
            IGMPQuery(SPECIFIC, SOURCES[:2], suppress_router_processing=True, robustness=2, query_interval=120),
            f"query v3 for {SPECIFIC} from {SOURCES[0]}, {SOURCES[1]}, max response 10 s, QRV 2, interval 120 s, S",
        ),
        (report(JOIN), f"wants {GROUP} from everybody (change to exclude mode)"),
        (report(LEAVE), f"leaves {GROUP} (change to include mode)"),
        (report(LEAVE, SPECIFIC, SOURCES[:1]), f"wants {SPECIFIC} from {SOURCES[0]} only (change to include mode)"),
        (report(IS_ANY, GROUP, SOURCES[:1]), f"wants {GROUP} from everybody but {SOURCES[0]} (mode is exclude)"),
        (
            report(GroupRecordType.ALLOW_NEW_SOURCES, SPECIFIC, SOURCES[:1]),
            f"wants {SPECIFIC} from {SOURCES[0]}, too (allow new sources)",
        ),
        (
            report(GroupRecordType.BLOCK_OLD_SOURCES, SPECIFIC, SOURCES[:1]),
            f"wants {SPECIFIC} from {SOURCES[0]} no longer (block old sources)",
        ),
        (report(GroupRecordType.BLOCK_OLD_SOURCES), f"names no source of {GROUP} (block old sources)"),
        (IGMPv3Report([GroupRecord(9, GROUP)]), f"says nothing that is defined of {GROUP} (record type 9)"),
        (IGMPv3Report([]), "reports nothing (v3 report without records)"),
        (IGMPv1Report(GROUP), f"wants {GROUP} from everybody (v1 report)"),
        (IGMPv2Report(GROUP), f"wants {GROUP} from everybody (v2 report)"),
        (IGMPLeave(GROUP), f"leaves {GROUP} (v2 leave)"),
        (IGMPOther(0x13, 1, b"1234"), "DVMRP, code 1, 4 octets behind"),
        (IGMPOther(0x77, 0, b""), "type 0x77, code 0, 0 octets behind"),
        (summed(b"\x16\0\0\0\1\2\3\4"), "malformed: the group must be a multicast address, got 1.2.3.4 (at octet 4)"),
        (b"\x16", "malformed: the message has 8 octets at least, got 1 (at octet 1)"),
    ],
)
def test_a_message_is_told_in_words(message: IGMPMessage | bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.localtime", time.gmtime)
    told = Told()
    told.hear(message, B)
    assert told.records[0].text() == f"01:46:40.000  en0       {B:<15}  {words}"


def test_of_a_long_list_the_first_sources_are_named() -> None:
    told = Told()
    told.hear(report(IS_ANY, GROUP, [f"10.0.0.{number}" for number in range(1, 11)]))
    assert told.of("report")[0].text().endswith(" 10.0.0.7, 10.0.0.8, and 2 more (mode is exclude)")


@pytest.mark.parametrize(
    ("message", "changes", "problems"),
    [
        (GENERAL, {"ttl": 3}, ["TTL 3, not 1"]),
        (GENERAL, {"options": b""}, ["no Router Alert option"]),
        (GENERAL, {"options": b"\1\x94\4\0\0\0\0\0"}, []),
        (GENERAL, {"options": b"\x07\x04\x04\0\0\x94\4\0"}, ["no Router Alert option"]),
        (GENERAL, {"options": b"\x07\x00\x94\x04"}, ["no Router Alert option"]),
        (GENERAL, {"options": b"\1\1\1\x07"}, ["no Router Alert option"]),
        (IGMPQuery(version=1), {"options": b""}, []),
        (IGMPv1Report(GROUP), {"options": b""}, []),
        (IGMPv2Report(GROUP), {"options": b""}, ["no Router Alert option"]),
        (IGMPOther(0x13, 0, b""), {"options": b""}, []),
        (GENERAL, {"dst": GROUP}, [f"sent to {GROUP}, where hosts ignore a query for all groups"]),
        (IGMPQuery(GROUP), {"dst": GROUP}, []),
    ],
)
def test_what_is_wrong_with_the_ip_header_is_told(
    message: IGMPMessage, changes: dict[str, Any], problems: list[str]
) -> None:
    arrival = read_packet(packet(message, **changes))
    assert arrival is not None
    assert list(arrival.problems) == problems
    assert arrival.message == message


def test_a_packet_with_a_wrong_header_checksum_is_told_and_not_followed() -> None:
    octets = bytearray(packet(GENERAL))
    octets[10] ^= 1
    watcher = Watcher()
    (record,) = watcher.hear(START, "en0", bytes(octets))
    assert record.problems == ("the IP header's checksum is wrong",)  # type: ignore[attr-defined]
    assert not watcher.has_querier()


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (packet(GENERAL, flags=HeaderFlags.MORE_FRAGMENTS), "it is a fragment: no message of IGMP comes in parts"),
        (packet(GENERAL, fragment_offset=2), "it is a fragment: no message of IGMP comes in parts"),
        (packet(GENERAL)[:-2], "it is cut short: the packet has 36 octets, got 34"),
        (b"\x44" + packet(GENERAL)[1:], "in the IP header: the header length must be from 20 to 60 octets, got 16"),
    ],
)
def test_packets_that_are_broken_are_malformed(octets: bytes, reason: str) -> None:
    watcher = Watcher()
    (record,) = watcher.hear(START, "en0", octets)
    assert (record.event, record.reason) == ("malformed", reason)  # type: ignore[attr-defined]
    assert (watcher.messages, watcher.malformed) == (1, 1)
    assert reason in record.text()


def test_what_is_behind_the_packet_is_not_read() -> None:
    arrival = read_packet(packet(IGMPOther(0x77, 0, b"")) + b"padding of the frame")
    assert arrival is not None
    assert arrival.message == IGMPOther(0x77, 0, b"")


@pytest.mark.parametrize("octets", [b"", b"\x45", packet(GENERAL)[:9], packet(GENERAL)[:9] + b"\x11" + bytes(30)])
def test_other_packets_are_passed_over(octets: bytes) -> None:
    assert Watcher().hear(START, "en0", octets) == []


def test_each_record_of_a_report_is_told() -> None:
    told = Told()
    told.hear(IGMPv3Report([GroupRecord(JOIN, GROUP), GroupRecord(JOIN, OTHER, auxiliary=b"1234")]))
    first, second = told.of("report")
    assert (first.message, second.message) == (1, 1)
    assert [(each.record, each.records) for each in (first, second)] == [(1, 2), (2, 2)]
    assert second.auxiliary_octets == 4
    told.hear(GENERAL)
    assert told.of("query")[0].message == 2


EN0: dict[str, Any] = {"timestamp_ns": START, "interface": "en0"}
GROUP_ADDRESS, ADDRESS = IPv4Address(GROUP), IPv4Address(A)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            QuerierChange(
                **EN0, change="changed", address=ADDRESS, previous=IPv4Address(B), version=3, silent_seconds=None
            ),
            f"{A:<15}  is the querier now (version 3): it has a lower address than {B}",
        ),
        (
            QuerierChange(**EN0, change="proxy", address=None, previous=None, version=2, silent_seconds=None),
            "the querier is a switch (0.0.0.0), version 2",
        ),
        (
            QuerierChange(**EN0, change="silent", address=None, previous=ADDRESS, version=3, silent_seconds=255.0),
            f"{A:<15}  the querier is silent: no query for 255 s",
        ),
        (
            Member(**EN0, change="last", reason="interface", group=GROUP_ADDRESS, host=None, mode=None, sources=()),
            f"{GROUP} has no member any more: the interface is gone, or down",
        ),
        (
            Limit(**EN0, entries=7),
            "7 groups, members and sources are known: further ones are shown, and not remembered",
        ),
        (ClockSet(-1.5), "The clock was set by -1.500 s. The times here go on by the old one."),
        (CommandTold(GROUP_ADDRESS, "last", "failed"), f"The command for the last member of {GROUP} failed."),
        (
            Summary(10, 3, 1, 2, 1, 1),
            "3 messages in 10.0 s, 1 of them malformed. Groups: 1, members: 1. 2 packets came too fast and were lost.",
        ),
        (
            Summary(9.96, 1, 0, 1, 1, 1),
            "1 message in 10.0 s. Groups: 1, members: 1. 1 packet came too fast and was lost.",
        ),
        (Summary(1, None, 0, 0, 1, 1), "Messages: not heard (CAP_NET_RAW). This host is a member of 1 group."),
        (Dropped(START, 5, 7), "5 packets came too fast and were lost, 7 so far."),
        (NotUp("en9"), "en9: not up yet. It is watched when it comes up."),
        (
            Unsure(12.04),
            "No query in 12.0 s says little: queriers usually ask every 125 s. Watch for 260s or longer to be sure.",
        ),
        (
            SourceLimit(**EN0, group=GROUP_ADDRESS, host=ADDRESS, sources=64),
            f"{A:<15}  names many sources of {GROUP}: of each member 64 are remembered",
        ),
    ],
)
def test_what_follows_is_told_in_words(record: Sentence, words: str) -> None:
    assert record.text().endswith(words)
    assert isinstance(record.style(), str)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (QuerierState("en0", None, None, 300.0, None, True), ("en0", "none", "-", "none in 300 s", "-")),
        (QuerierState("en0", None, None, 12.0, None, False), ("en0", "not heard yet", "-", "none in 12.0 s", "-")),
        (QuerierState(None, None, 3, 7.5, 125.0, True), ("-", "a switch (0.0.0.0)", "3", "7.5 s ago", "125 s")),
        (
            GroupState("en0", GROUP_ADDRESS, "this host", None, "include", (ADDRESS,), None, None),
            ("en0", GROUP, "this host", "-", f"only {A}", "-", "-"),
        ),
        (
            GroupState(None, GROUP_ADDRESS, B, 3, "exclude", (), 5.0, 99.6),
            ("-", GROUP, B, "3", "everybody", "5.0 s ago", "in 99.6 s"),
        ),
        (
            GroupState("en0", GROUP_ADDRESS, B, 3, "exclude", (ADDRESS,) * 4, 0.00382, 9.0),
            ("en0", GROUP, B, "3", f"all but {A}, and 3 more", "just now", "in 9.0 s"),
        ),
    ],
)
def test_the_state_is_told_in_rows(row: Row, cells: tuple[str, ...]) -> None:
    assert row.cells() == cells


def test_a_wide_state_gives_way_to_names_and_addresses() -> None:
    rows = [GroupState("en0", GROUP_ADDRESS, B, 3, "exclude", (ADDRESS,), 5.0, 99.6)]
    heading, line = (each.plain for each in lay_out(rows, 50))
    assert heading.split() == ["interface", "group", "member", "reported"]
    assert line.split() == ["en0", GROUP, B, "5.0", "s", "ago"]


# Laws

anything = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=40).map(lambda octets: packet(octets)),
    st.tuples(st.sampled_from([0x11, 0x12, 0x16, 0x17, 0x22, 0x30]), st.binary(min_size=7, max_size=40)).map(
        lambda parts: packet(summed(bytes([parts[0]]) + parts[1]))
    ),
)


@given(st.lists(st.tuples(st.integers(-5 * S, 300 * S), anything), max_size=20))
def test_no_octets_make_it_fail(arrivals: list[tuple[int, bytes]]) -> None:
    told = Told()
    for after, octets in arrivals:
        told.now += after
        told.records += told.watcher.hear(told.now, "en0", octets)
        for record in told.records:
            assert "\n" not in record.text() + record.style()
    told.records += told.watcher.advance(told.now + 10**7 * S)
    assert told.state() == {}
    assert told.watcher.next_deadline() is None


messages = st.one_of(
    st.sampled_from([GENERAL, IGMPQuery(version=2), IGMPQuery(version=1), IGMPQuery(robustness=1, query_interval=1)]),
    *(
        st.sampled_from([GROUP, OTHER, SPECIFIC]).map(kind)
        for kind in (IGMPv1Report, IGMPv2Report, IGMPLeave, lambda group: IGMPQuery(group, max_response_time=0.5))
    ),
    st.builds(
        lambda kind, group, sources: report(GroupRecordType(kind), group, sorted(sources)),
        st.integers(1, 6),
        st.sampled_from([GROUP, OTHER, SPECIFIC]),
        st.sets(st.sampled_from(SOURCES)),
    ),
)
stories = st.lists(st.tuples(st.floats(0, 90), st.sampled_from([A, B, C, "0.0.0.0"]), messages), max_size=25)


def about(group: str) -> Callable[[Line], bool]:
    return lambda record: str(getattr(record, "group", None)) == group and record.event in {"member", "expiring"}


@given(stories)
def test_messages_about_other_groups_and_other_links_change_nothing(
    story: list[tuple[float, str, IGMPMessage]],
) -> None:
    def concerns(message: IGMPMessage) -> bool:
        if isinstance(message, IGMPv3Report):
            return any(str(each.group) == GROUP for each in message.records)
        return getattr(message, "group", None) in (None, IPv4Address(GROUP))

    alone, among = Told(), Told()
    for after, sender, message in story:
        among.hear(message, sender, after=after)
        among.hear(message, sender, on="en1")
        alone.now = among.now
        # A query for another group may tell the Last Member Query Interval, or elect a querier, so it stays.
        if concerns(message) or isinstance(message, IGMPQuery):
            alone.hear(message, sender)
    alone.wait(1000)
    among.wait(1000)
    wanted = about(GROUP)
    strip = [each for each in among.records if each.interface == "en0" and wanted(each)]
    assert strip == list(filter(wanted, alone.records))


@given(stories)
def test_members_come_before_they_go(story: list[tuple[float, str, IGMPMessage]]) -> None:
    told = Told()
    for after, sender, message in story:
        told.hear(message, sender, after=after)
    told.wait(10**6)
    present: dict[IPv4Address, set[str]] = {}
    for each in told.of("member"):
        hosts = present.setdefault(each.group, set())
        if each.change in {"first", "joined"}:
            assert each.host not in hosts
            hosts.add(each.host)
        elif each.change == "left":
            hosts.remove(each.host)
        else:
            assert hosts == set()
            del present[each.group]
    assert present == {}
    times = [each.timestamp_ns for each in told.records]
    assert times == sorted(times)


def test_a_flood_of_forged_reports_eats_no_memory() -> None:
    told = Told(most=100)
    for number in range(1000):
        group = str(IPv4Address(int(IPv4Address("239.0.0.0")) + number % 300))
        told.hear(report(IS_ANY, group, SOURCES[: number % 4]), str(IPv4Address(0x0A000000 + number)), after=0.01)
        told.hear(IGMPQuery(group, max_response_time=3.0), C)
    (limit,) = told.of("limit")
    assert limit.entries == 100
    states = list(told.watcher.member_states())
    groups, members = told.watcher.counts()
    assert len(states) == members
    assert groups + members + sum(len(each.sources) for each in states) <= 100
    told.wait(1000)
    assert told.state() == {}


def test_room_comes_back_when_members_go() -> None:
    told = Told(most=12)
    for _ in range(10):
        for host in (A, B, C):
            told.hear(report(GroupRecordType.MODE_IS_INCLUDE, SPECIFIC, SOURCES[:2]), host)
        told.hear(report(LEAVE, SPECIFIC, []), C)
        told.hear(IGMPv2Report(GROUP), C)
        assert told.watcher.counts() == (2, 3)
        told.wait(1000)
        assert told.watcher.counts() == (0, 0)
    assert told.of("limit") == []


def test_a_report_at_the_moment_of_the_query_is_an_answer() -> None:
    told = Told()
    told.hear(report(IS_ANY), A)
    told.hear(IGMPv2Report(GROUP), B)
    told.hear(IGMPQuery(GROUP, max_response_time=0.5), C)
    told.wait(10)
    assert set(told.state()) == {(GROUP, A), (GROUP, B)}


def test_a_report_that_needs_no_more_room_is_followed_when_all_is_used() -> None:
    told = Told(most=3)
    told.hear(report(GroupRecordType.MODE_IS_INCLUDE, SPECIFIC, SOURCES[:1]), A)
    told.hear(report(GroupRecordType.MODE_IS_INCLUDE, SPECIFIC, SOURCES[:2]), A, after=200)
    assert told.state() == {(SPECIFIC, A): ("include", (SOURCES[0],))}
    told.hear(report(GroupRecordType.MODE_IS_INCLUDE, SPECIFIC, SOURCES[1:2]), A, after=1)
    assert told.state() == {(SPECIFIC, A): ("include", (SOURCES[1],))}
    assert len(told.of("limit")) == 1


# Timers


@given(st.lists(st.tuples(st.sampled_from(["set", "drop", "pop"]), st.integers(0, 5), st.integers(0, 50))))
def test_timers_are_those_of_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, int] = {}
    for step, key, when in steps:
        if step == "set":
            timers.set(key, when)
            model[key] = when
        elif step == "drop":
            timers.drop(key)
            model.pop(key, None)
        else:
            popped = timers.pop(when)
            if popped is None:
                assert all(each > when for each in model.values())
            else:
                assert popped[0] == model.pop(popped[1]) <= when
                assert all(each >= popped[0] for each in model.values())
        assert timers.next_deadline() == min(model.values(), default=None)
        assert (len(timers), key in timers) == (len(model), key in model)


@settings(max_examples=5)
@given(st.integers(1, 20))
def test_timers_that_are_set_again_and_again_take_no_more_room(keys: int) -> None:
    timers: Timers[int] = Timers()
    for step in range(5000):
        timers.set(step % keys, 10_000 - step if step % 2 else 10_000 + step)
        if step % 7 == 0:
            timers.drop(step % keys)
    assert len(timers._entries) <= 2 * keys + 70
