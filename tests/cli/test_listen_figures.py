"""`trio-ipv4 listen` without a network: what was lost, statistics of flows, rebuilt packets, words and tables."""

from __future__ import annotations

import itertools
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import Header
from trio_ipv4._cli.listen import flows as flows_module
from trio_ipv4._cli.listen.figures import show_rate, show_seconds
from trio_ipv4._cli.listen.flows import Flow, FlowKey, FlowTable
from trio_ipv4._cli.listen.rebuild import rebuild
from trio_ipv4._cli.listen.records import Nothing, Resumed, Stalled, Summary, show_flow, total_flow
from trio_ipv4._cli.listen.sequence import RTPSequence, Sequence, Streams, is_plausible_rtp
from trio_ipv4._cli.output import lay_out
from trio_ipv4._cli.probe import Probe, parse_probe, unpack_probe

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


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_both_ways_to_read_a_probe_agree(tail: bytes, stream: int, number: int) -> None:
    for payload in (tail, b"trioipv4" + tail, Probe(stream, number, 5).marshal() + tail):
        probe = parse_probe(payload)
        assert unpack_probe(payload) == (None if probe is None else (probe.stream, probe.number, probe.sent_ns))


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
    assert (shown.ttl, shown.tos, shown.ecn, shown.cells()[-3]) == ((), (), (), "-")


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
    assert total_flow(list(table.all())[-1]).cells()[1:3] == ("others", "-")


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


def test_in_60_columns_group_source_interface_and_rate_remain() -> None:
    flow = Flow(FlowKey(GROUP, 50000, IPv4Address("198.18.100.100"), "enp0s31f6"))
    for each in range(100_000):
        flow.note(4000, b"x", 1, 0, each)
    heading, row = (line.plain for line in lay_out([show_flow(flow, 0.01)], 60))
    assert len(heading) <= 60
    assert len(row) <= 60
    assert row.split()[:4] == ["239.1.2.3:50000", "198.18.100.100", "enp0s31f6", "10.0M"]
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


def test_the_summary_says_whether_anything_was_lost() -> None:
    quiet = Summary(3.0, 0, 0, 0, 0, None, None, None, None, ("239.1.2.3:5000",))
    assert quiet.text() == (
        "0 datagrams, 0 octets, of 0 flows in 3.0 s. The kernel dropped none. "
        "Less than expected came to 239.1.2.3:5000."
    )
    unknown = Summary(3.0, 1, 1000, 5000, 7, None, None, None, None, ())
    assert unknown.text() == (
        "1,000 datagrams, 5,000 octets, of 1 flow in 3.0 s. The kernel dropped 7 more. "
        "Loss on the way is not known: the payload has no numbers, as our own probes and RTP do."
    )
    known = Summary(3.0, 1, 1000, 5000, 0, 1003, 4, 1, 2, ())
    assert known.text().endswith("The kernel dropped none. Lost 4 of 1,003. 1 duplicate, 2 late.")
    assert [each.style() for each in (quiet, unknown, known)] == ["bold red"] * 3


def test_silence_says_what_to_look_at() -> None:
    assert "'trio-ipv4 watch'" in Nothing(("239.1.2.3:5000",), 3.0).text()
