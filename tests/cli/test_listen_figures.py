"""`trio-ipv4 listen` without a network: what was lost, statistics of flows, rebuilt packets, words and tables."""

from __future__ import annotations

import itertools
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import Header
from trio_ipv4._cli.arguments import GroupPort
from trio_ipv4._cli.listen import flows as flows_module
from trio_ipv4._cli.listen.figures import show_rate, show_seconds
from trio_ipv4._cli.listen.flows import Flow, FlowKey, FlowTable
from trio_ipv4._cli.listen.rebuild import rebuild
from trio_ipv4._cli.listen.records import (
    DatagramShown,
    Nothing,
    Resumed,
    Stalled,
    Summary,
    ask_doctor,
    show_flow,
    total_flow,
)
from trio_ipv4._cli.listen.sequence import ProbeSequence, RTPSequence, Sequence, Streams, is_plausible_rtp
from trio_ipv4._cli.output import lay_out
from trio_ipv4._cli.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.pure

GROUP, SOURCE = IPv4Address("239.1.2.3"), IPv4Address("198.18.0.1")
KEY = FlowKey(GROUP, 5000, SOURCE, "en0")
SECOND = 10**9


def counted(numbers: list[int]) -> Sequence:
    sequence = Sequence(numbers[0])
    for number in numbers[1:]:
        sequence.note(number)
    return sequence


def facts(sequence: Sequence) -> tuple[int, int, int, int]:
    return sequence.expected, sequence.lost, sequence.duplicates, sequence.reordered


def rtp(number: int, *, ssrc: int = 0x1234, payload_type: int = 11, size: int = 160) -> bytes:
    return struct.pack("!BBHII", 0x80, payload_type, number % 65536, number * 80 % 2**32, ssrc).ljust(size, b"\x55")


def prefixes(numbers: list[int]) -> Iterator[tuple[list[int], int]]:
    """Each number but the first, with those before it."""
    return ((numbers[:place], numbers[place]) for place in range(1, len(numbers)))


# Numbers of a stream


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3], (4, 0, 0, 0)),
        ([7, 8, 11], (5, 2, 0, 0)),
        ([0, 2, 1], (3, 0, 0, 1)),
        ([0, 0, 1, 1, 1], (2, 0, 3, 0)),
        ([0, 3, 2, 2, 1, 1], (4, 0, 2, 2)),
        ([5, 4, 4, 6], (3, 0, 1, 1)),
        ([5, 3, 6], (3, 0, 0, 1)),  # 4 may have come before anybody listened: it is not lost.
    ],
)
def test_lost_duplicate_and_late_numbers_are_told_apart(
    numbers: list[int], expected: tuple[int, int, int, int]
) -> None:
    assert facts(counted(numbers)) == expected


@given(st.lists(st.integers(0, 60), max_size=80))
def test_the_counts_are_those_of_somebody_who_remembers_everything(numbers: list[int]) -> None:
    first = 30
    heard = [first, *numbers]
    sequence = counted(heard)
    unique = set(heard)
    above = {number for number in unique if number >= first}
    assert sequence.lost == max(unique) - first + 1 - len(above)
    assert sequence.duplicates == len(heard) - len(unique)
    late = sum(number not in before and number < max(before) for before, number in prefixes(heard))
    assert sequence.reordered == late
    assert len(heard) == sequence.expected - sequence.lost + sequence.duplicates


def test_of_many_gaps_the_oldest_are_lost_for_good() -> None:
    sequence = counted(list(range(0, 2000, 2)))
    before = sequence.lost
    sequence.note(1)  # Nobody can tell any more whether it is late or a duplicate.
    assert (sequence.lost, sequence.duplicates) == (before, 1)
    sequence.note(1997)
    assert (sequence.lost, sequence.reordered) == (before - 1, 1)


def test_a_gap_of_any_size_takes_no_room() -> None:
    sequence = counted([0, 10**12])
    sequence.note(10**11)
    assert facts(sequence) == (10**12 + 1, 10**12 - 2, 0, 1)


def test_the_gaps_that_are_remembered_are_bounded_however_they_are_filled() -> None:
    sequence = counted([0, 10**6])
    for number in range(2, 2000, 2):  # Each makes two gaps of one.
        sequence.note(number)
    sequence.note(3)  # Of one that is forgotten.
    assert (sequence.duplicates, sequence.reordered) == (1, 999)
    sequence.note(1999)
    assert (sequence.duplicates, sequence.reordered) == (1, 1000)


# Probes


def probed(numbers: list[int]) -> Sequence:
    sequence = ProbeSequence(numbers[0])
    for number in numbers[1:]:
        sequence.note(number)
    return sequence.counts


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([5, 6, 2**64 - 1, 7, 2**63, 9], (5, 1, 0, 0)),
        ([5, 6, 10_000, 10_001], (9997, 9993, 0, 0)),  # A long silence of the network.
        ([5, 6, 3005], (3001, 2998, 0, 0)),
        ([10**6, 10**6 + 1, 3, 10**6 + 2], (3, 0, 0, 0)),
        ([0, 4000, 9000, 3], (4, 2, 0, 0)),
        ([300, 44, 43], (2, 0, 0, 1)),
    ],
)
def test_a_probe_far_from_all_others_is_believed_only_with_its_successor(
    numbers: list[int], expected: tuple[int, int, int, int]
) -> None:
    assert facts(probed(numbers)) == expected
    assert probed(numbers).restarts == 0


def test_a_first_probe_that_was_forged_is_followed_by_the_true_ones() -> None:
    counts = probed([2**64 - 1, 0, 1, 2, 4])
    assert facts(counts) == (6, 1, 0, 0)
    assert counts.restarts == 1


def test_one_forged_probe_ruins_neither_loss_nor_jitter() -> None:
    arrivals = [(each + 0.5, Probe(1, each, each * SECOND).marshal()) for each in range(20)]
    arrivals.insert(10, (9.6, Probe(1, 2**64 - 1, 2**64 - 1).marshal()))
    total = total_flow(flow_of(arrivals))
    assert (total.expected, total.lost, total.duplicates) == (20, 0, 0)
    assert total.jitter_seconds == 0


# RTP


@given(st.integers(0, 65535), st.integers(1, 3), st.integers(2, 200))
def test_rtp_s_numbers_wrap_around(first: int, step: int, count: int) -> None:
    sequence = RTPSequence(first)
    numbers = range(first, first + step * count, step)
    for number in numbers[1:]:
        sequence.note(number % 65536)
    assert facts(sequence.counts) == (numbers[-1] - first + 1, (step - 1) * (count - 1), 0, 0)


def test_a_late_number_before_the_wrap_is_no_loss() -> None:
    sequence = RTPSequence(65533)
    for number in (65534, 1, 65535, 0, 0, 2):
        sequence.note(number)
    assert facts(sequence.counts) == (6, 0, 1, 2)


def test_a_stream_that_restarts_begins_anew() -> None:
    sequence = RTPSequence(100)
    for number in (101, 103, 30000, 30001, 30003):
        sequence.note(number)
    assert facts(sequence.counts) == (8, 2, 0, 0)
    assert sequence.counts.restarts == 1


def test_a_stray_number_is_no_restart() -> None:
    sequence = RTPSequence(100)
    for number in (101, 30000, 102, 50000, 103):
        sequence.note(number)
    assert facts(sequence.counts) == (4, 0, 0, 0)
    assert sequence.counts.restarts == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x0b",
        b"text that is longer than twelve octets",
        struct.pack("!BBHII", 0x80, 200, 1, 2, 3),  # A sender report of RTCP.
        struct.pack("!BBHII", 0x8F, 11, 1, 2, 3),  # Fifteen sources that are not there.
        struct.pack("!BBHIIHH", 0x90, 11, 1, 2, 3, 0xBEDE, 9),  # An extension that is longer than the packet.
        struct.pack("!BBHII", 0xA0, 11, 1, 2, 255),  # More padding than there is.
        b"\xff" * 40,
    ],
)
def test_what_can_t_be_rtp_is_not_taken_for_it(payload: bytes) -> None:
    assert not is_plausible_rtp(payload)


def test_rtp_with_all_its_parts_is_plausible() -> None:
    assert is_plausible_rtp(rtp(1, size=12))
    assert is_plausible_rtp(struct.pack("!BBHIIIHHI", 0x91, 11, 1, 2, 3, 4, 0xBEDE, 1, 0) + b"x")


@given(st.lists(st.binary(min_size=12, max_size=40), max_size=40))
def test_random_payloads_are_no_streams(payloads: list[bytes]) -> None:
    streams = Streams()
    for payload in payloads:
        assert streams.note(1, b"\x80" + payload[1:], 0) is None
    # A counter in the right place is what RTP has. Nothing else makes five in a row.
    if len({payload[8:12] for payload in payloads}) == len(payloads):
        assert streams.totals()["lost"] is None


def test_five_in_a_row_with_one_ssrc_are_a_stream_from_the_first_on() -> None:
    streams = Streams()
    for number in (10, 11, 12, 12, 13):
        streams.note(5004, rtp(number), 0)
    assert (streams.names(), streams.totals()["lost"]) == ((), None)
    for number in (14, 16):
        streams.note(5004, rtp(number), 0)
    assert streams.names() == ("RTP 00001234",)
    assert streams.totals() == {"expected": 7, "lost": 1, "duplicates": 0, "reordered": 0, "restarts": 0}


def test_numbers_that_are_not_in_a_row_are_no_stream() -> None:
    streams = Streams()
    for number in range(0, 100, 3):
        streams.note(5004, rtp(number), 0)
    assert streams.names() == ()


def test_two_ssrcs_from_one_port_are_two_streams() -> None:
    streams = Streams()
    for number, ssrc in itertools.product(range(6), (1, 2)):
        streams.note(5004, rtp(number + 1000 * ssrc, ssrc=ssrc), 0)
    assert streams.names() == ("RTP 00000001", "RTP 00000002")
    assert streams.totals()["expected"] == 12


def test_candidates_are_bounded() -> None:
    streams = Streams()
    for number, ssrc in itertools.product(range(6), range(100)):
        streams.note(5004, rtp(number, ssrc=ssrc), 0)
    assert streams.names() == ()


def test_of_too_many_streams_the_counts_stay() -> None:
    streams = Streams()
    for stream in range(30):
        for number in (0, 1, 3):
            streams.note(4000, Probe(stream, number, 5).marshal(), stream)
    for number in range(6):
        streams.note(4000, rtp(number), 100)
    assert len(streams.names()) == 16
    assert streams.totals() == {"expected": 126, "lost": 30, "duplicates": 0, "reordered": 0, "restarts": 0}
    for stream in range(30, 60):
        streams.note(4000, Probe(stream, 0, 5).marshal(), stream + 200)
    assert streams.totals()["expected"] == 156


# Flows


def flow_of(arrivals: list[tuple[float, bytes]], *, ttl: int = 1, tos: int = 0) -> Flow:
    flow = Flow(KEY)
    for seconds, payload in arrivals:
        flow.note(4000, payload, ttl, tos, round(seconds * SECOND))
    return flow


def test_jitter_of_arrivals_is_how_much_two_gaps_differ() -> None:
    even = flow_of([(each, b"x") for each in range(20)])
    assert total_flow(even).jitter_seconds == 0
    assert total_flow(even).jitter_by == "arrival"
    # Gaps of 1 s and 2 s: D is 1 s each time, and J += (1 - J) / 16 (RFC 3550 section 6.4.1).
    times = list(itertools.accumulate([1, 2] * 10))
    jitter = 0.0
    for _ in range(len(times) - 2):
        jitter += (1 - jitter) / 16
    assert total_flow(flow_of([(each, b"x") for each in times])).jitter_seconds == pytest.approx(jitter)


def test_jitter_of_probes_is_by_their_sender_s_clock() -> None:
    times = list(itertools.accumulate([1, 2] * 10))
    probes = [(each + 0.5, Probe(1, number, each * SECOND).marshal()) for number, each in enumerate(times)]
    total = total_flow(flow_of(probes))
    assert (total.jitter_seconds, total.jitter_by, total.longest_gap_seconds) == (0, "sender", 2)


def test_a_flow_has_no_jitter_before_there_are_two_gaps() -> None:
    assert total_flow(flow_of([(1, b"x")])).longest_gap_seconds is None
    assert total_flow(flow_of([(1, b"x"), (2, b"x")])).jitter_seconds is None
    assert total_flow(flow_of([(1, b"x"), (2, b"x")])).longest_gap_seconds == 1


def test_rates_are_those_of_the_interval_and_totals_those_of_all() -> None:
    flow = flow_of([(each / 10, bytes(100)) for each in range(11)])
    assert (flow.news, flow.octets_of_news) == (11, 1100)
    flow.begin_interval()
    for each in range(11, 16):
        flow.note(4000, bytes(50), 1, 0, each * SECOND // 10)
    shown = show_flow(flow, 0.5)
    assert (shown.datagrams_per_second, shown.bits_per_second, shown.datagrams) == (10, 4000, 16)
    assert (shown.octets, shown.octets_least, shown.octets_most) == (1350, 50, 100)
    total = total_flow(flow)
    assert (total.datagrams_per_second, total.bits_per_second) == (10, pytest.approx(8 * 1350 / 16 * 10))


def test_every_ttl_tos_and_ecn_is_shown() -> None:
    flow = flow_of([(1, b"x")])
    for ttl, tos in ((64, 0xB8), (1, 0xB9), (3, 0x03), (3, 0x10)):
        flow.note(4000, b"", ttl, tos, 2 * SECOND)
    shown = show_flow(flow, 1)
    assert (shown.ttl, shown.tos, shown.ecn) == ((1, 3, 64), (0, 3, 0x10, 0xB8, 0xB9), (0, 1, 3))
    assert shown.cells()[-3:] == ("1-64", "0x00 0x03 CE 0x10 ...", "0-1")


def test_facts_that_did_not_come_are_left_out() -> None:
    flow = Flow(KEY)
    flow.note(4000, b"x", None, None, SECOND)
    shown = total_flow(flow)
    assert (shown.ttl, shown.tos, shown.ecn, shown.cells()[-3:-1]) == ((), (), (), ("-", "-"))
    datagram = DatagramShown(GROUP, 5000, SOURCE, 4000, "en0", SECOND, None, None, 1, b"x", "x")
    assert datagram.text() == "1.000000000 198.18.0.1:4000 > 239.1.2.3:5000 en0 TTL - - 1: x"


def test_a_flow_stops_after_3_s_and_three_times_its_longest_gap() -> None:
    fast, slow, few = (
        flow_of([(gap * each, b"x") for each in range(count)]) for gap, count in ((1, 9), (2, 9), (1, 4))
    )
    for flow in (fast, slow, few):
        assert not flow.has_stopped(100)
    assert not fast.has_stopped(102.9)
    assert fast.has_stopped(103)
    assert not fast.has_stopped(104)  # It is told once.
    assert not slow.has_stopped(105.9)
    assert slow.has_stopped(106)
    assert not few.has_stopped(10**6)


def test_a_flow_that_comes_back_says_after_how_long_and_may_stop_again() -> None:
    flow = flow_of([(each, b"x") for each in range(9)])
    assert not flow.has_stopped(0)
    assert flow.has_stopped(10)
    flow.note(4000, b"x", 1, 0, 60 * SECOND)
    assert flow.resumed_after_ns == 52 * SECOND
    assert not flow.has_stopped(11)
    assert flow.has_stopped(14.1)  # The gap of 52 s is not one of its own.


def test_flows_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows_module, "MAX_FLOWS", 3)
    table = FlowTable()
    for number in range(10):
        table.find(FlowKey(GROUP, 5000, IPv4Address(number + 2**24), "en0")).note(1, b"x", 1, 0, SECOND)
    assert table.is_full
    found = [(flow.key.source, flow.datagrams) for flow in table.all()]
    assert found == [*((IPv4Address(number + 2**24), 1) for number in range(3)), (None, 7)]
    assert total_flow(list(table.all())[-1]).cells()[:3] == ("239.1.2.3", "others", "-")


def test_however_many_ports_there_are_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows_module, "MAX_FLOWS", 3)
    table = FlowTable()
    for port in range(1, 100):
        table.find(FlowKey(GROUP, port, SOURCE, "en0")).note(1, b"x", 1, 0, SECOND)
    assert [(flow.key.endpoint, flow.datagrams) for flow in table.all()] == [
        *((f"239.1.2.3:{port}", 1) for port in range(1, 4)),
        ("239.1.2.3", 96),
    ]


# Packets


@given(
    st.binary(max_size=64), st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
)
def test_a_rebuilt_packet_has_right_checksums(payload: bytes, ttl: int, tos: int, port: int, source: int) -> None:
    packet = rebuild((IPv4Address(source), port), (GROUP, 5000), ttl, tos, payload)
    header = Header.parse(packet)
    assert header.checksum_ok
    assert (int(header.src), header.dst, header.ttl, header.tos, header.protocol) == (source, GROUP, ttl, tos, 17)
    assert header.total_len == len(packet)
    assert packet[28:] == payload
    pseudo = packet[12:20] + struct.pack("!HH", 17, len(packet) - 20) + packet[20:]
    words = struct.unpack(f"!{(len(pseudo) + 1) // 2}H", pseudo + bytes(len(pseudo) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: the sum over all, the checksum included.
    assert packet[26:28] != b"\0\0"  # RFC 768: that would mean that there is none.


# Words and tables


def test_in_60_columns_group_source_interface_and_rate_remain_and_in_80_the_ttl() -> None:
    flow = Flow(FlowKey(GROUP, 50000, IPv4Address("198.18.100.100"), "enp0s31f6"))
    for each in range(100_000):
        flow.note(4000, b"x", 1, 0, each)
    heading, row = (line.plain for line in lay_out([show_flow(flow, 0.01)], 60))
    assert len(heading) <= 60
    assert len(row) <= 60
    assert row.split()[:4] == ["239.1.2.3:50000", "198.18.100.100", "enp0s31f6", "10.0M"]
    middle = lay_out([show_flow(flow, 1)], 80)[0].plain.split()
    assert middle == ["group", "source", "interface", "datagrams/s", "datagrams", "lost", "TTL"]
    wide = lay_out([show_flow(flow, 1)], 200)[0].plain.split("  ")
    assert [each.strip() for each in wide if each][-4:] == ["longest gap", "TTL", "TOS", "octets"]


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0"), (0.25, "0.2"), (9.96, "10.0"), (25, "25"), (99_999, "99,999"), (12_345_678, "12.3M"), (2.5e9, "2.5G")],
)
def test_rates_are_short(rate: float, shown: str) -> None:
    assert show_rate(rate) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 us"),
        (12e-6, "12 us"),
        (0.00123, "1.23 ms"),
        (1.5, "1.5 s"),
        (1234.5, "1,234 s"),
        (0.9996, "1 s"),
        (0.00099949, "999 us"),
    ],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_a_stop_after_260_s_names_what_forgets_members_then() -> None:
    near, far = (Stalled("239.1.2.3:5000", SOURCE, "en0", seconds).text() for seconds in (262.0, 600.0))
    assert near == (
        "198.18.0.1 to 239.1.2.3:5000 on en0 has stopped, 262 s after the start. "
        "A switch that snoops without a querier forgets its members after 260 s."
    )
    assert Stalled("239.1.2.3:5000", SOURCE, "en0", 9.0).style() == "yellow"
    assert far == "198.18.0.1 to 239.1.2.3:5000 on en0 has stopped, 600 s after the start."
    back = Resumed("239.1.2.3:5000", None, None, 12.25)
    assert back.text() == "others to 239.1.2.3:5000 on any interface has come back after 12.2 s."


def summary(**changes: Any) -> Summary:
    facts: dict[str, Any] = {
        "seconds": 3.0,
        "flows": 1,
        "flows_numbered": 0,
        "flows_undecided": 0,
        "datagrams": 1000,
        "octets": 5000,
        "dropped": 0,
        "silent": (),
        "missed": (),
    }
    counts: dict[str, Any] = dict.fromkeys(("expected", "lost", "duplicates", "reordered", "restarts"))
    return Summary(**{**facts, **counts, **changes})


NUMBERED = {"flows_numbered": 1, "expected": 1003, "lost": 4, "duplicates": 0, "reordered": 0, "restarts": 0}


def test_the_summary_says_what_came() -> None:
    said = summary(dropped=7)
    assert said.text() == (
        "1,000 datagrams, 5,000 octets, of 1 flow in 3.0 s. The kernel dropped 7 more. "
        "Loss is not known: the payload is neither RTP nor probes of 'trio-ipv4 send'."
    )
    assert said.style() == "bold red"
    assert summary().style() == "bold"


def test_of_silence_the_summary_says_just_that() -> None:
    silent = ("239.1.2.3:5000", "239.1.2.4:5000")
    nothing: dict[str, Any] = {"flows": 0, "datagrams": 0, "octets": 0, "silent": silent, "missed": silent[:1]}
    assert summary(**nothing).text() == "Nothing came to 239.1.2.3:5000, 239.1.2.4:5000 in 3.0 s."
    assert summary(**nothing).style() == "bold red"
    assert summary(**nothing, dropped=3).text().endswith(" in 3.0 s. The kernel dropped 3.")
    said = summary(silent=silent[:1], missed=silent).text()
    assert said.endswith("Nothing came to 239.1.2.3:5000. Less than expected came to 239.1.2.4:5000.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Lost 4 of 1,003, 0.4%."),
        ({"lost": 0}, "Lost 0 of 1,003."),
        ({"expected": 10**6}, "Lost 4 of 1,000,000, less than 0.1%."),
        ({"duplicates": 1, "reordered": 2}, "Lost 4 of 1,003, 0.4%. 1 duplicate, 2 reordered."),
        ({"reordered": 2}, "Lost 4 of 1,003, 0.4%. 2 reordered."),
        (
            {"lost": 8, "expected": 147, "flows": 2},
            "Lost 8 of 147, 5.4% (1 of 2 flows has numbers).",
        ),
        ({"flows": 3, "flows_numbered": 2}, "Lost 4 of 1,003, 0.4% (2 of 3 flows have numbers)."),
        ({"restarts": 1, "lost": 0}, "Lost 0 of 1,003. 1 restart: loss across it is not known."),
        ({"restarts": 2, "lost": 0}, "Lost 0 of 1,003. 2 restarts: loss across them is not known."),
    ],
)
def test_the_summary_says_what_was_lost(changes: dict[str, Any], words: str) -> None:
    assert summary(**{**NUMBERED, **changes}).text().partition("dropped none. ")[2] == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datagrams": 4}, "4 datagrams are too few to recognise RTP."),
        ({"datagrams": 1}, "1 datagram is too few to recognise RTP."),
        ({"flows": 300, "flows_undecided": 299}, "too few datagrams to recognise RTP came by 299 flows."),
    ],
)
def test_why_loss_is_not_known_may_be_that_little_came(changes: dict[str, Any], words: str) -> None:
    assert summary(**{"flows_undecided": 1, **changes}).text().partition("Loss is not known: ")[2] == words


def test_a_flow_is_undecided_while_rtp_has_no_run() -> None:
    def is_undecided(payloads: list[bytes]) -> bool:
        return flow_of([(each, payload) for each, payload in enumerate(payloads)]).is_undecided

    packets = [rtp(number) for number in range(5)]
    assert [is_undecided(packets[:count]) for count in (1, 4, 5)] == [True, True, False]
    assert not is_undecided([b"hello"])
    assert not is_undecided([Probe(1, 0, 0).marshal()])
    assert not is_undecided([rtp(number) for number in range(0, 60, 3)])


def test_silence_says_what_finds_out_why() -> None:
    to = GroupPort(IPv4Address("239.1.2.3"), 5000)
    asking = ask_doctor(to, "my net", IPv4Address("198.18.0.1"))
    assert asking == "trio-ipv4 doctor 239.1.2.3:5000 --interface 'my net' --source 198.18.0.1"
    assert Nothing(("239.1.2.3:5000",), 3.0, (asking, "more")).text().endswith(f"This finds out why: {asking}")
    assert ask_doctor(GroupPort(to.group), None, None) == "trio-ipv4 doctor 239.1.2.3:PORT"
