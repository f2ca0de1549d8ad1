"""The pure parts of `trio-ipv4 send`: the schedule, lateness, payloads, routes, words."""

from __future__ import annotations

import itertools
import math
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from cyclopts import CycloptsError
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_ipv4._cli.arguments import Rate
from trio_ipv4._cli.probe import parse_probe
from trio_ipv4._cli.route import Way, marshal_request, parse_answer
from trio_ipv4._cli.send.pacing import PATIENCE, Lateness, Pacer
from trio_ipv4._cli.send.payloads import Lines, Pieces, Probes
from trio_ipv4._cli.send.records import Start, Summary, bits, duration, per_second, reach, refused

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.pure

UNHURRIED = settings(deadline=None)
"""A busy machine is no failure."""
PAUSES = st.lists(st.floats(0, 3), min_size=1, max_size=50)
GROUP = IPv4Address("239.1.2.3")


def take_due(pacer: Pacer, now: float, *, octets: int = 100) -> int:
    """Do as a sender does that wakes up: count all that is due."""
    pacer.forgive(now)
    number = 0
    while pacer.due <= now:
        pacer.count(octets)
        number += 1
    return number


@UNHURRIED
@given(rate=st.floats(0.01, 1e4), number=st.integers(0, 10**9), start=st.floats(0, 1e6))
def test_the_nth_datagram_is_due_n_intervals_after_the_start(rate: float, number: int, start: float) -> None:
    pacer = Pacer(Rate(datagrams=rate), start)
    pacer._units = number
    assert pacer.due == pytest.approx(start + number / rate, rel=1e-12)


@UNHURRIED
@given(rate=st.floats(0.1, 1e3), pauses=st.lists(st.floats(0, PATIENCE * 0.9), min_size=1, max_size=20))
def test_whoever_wakes_up_in_time_has_sent_exactly_what_the_rate_says(rate: float, pauses: list[float]) -> None:
    pacer, sent = Pacer(Rate(datagrams=rate), 0), 0
    for now in itertools.accumulate(pauses):
        sent += take_due(pacer, now)
        assert abs(sent - (math.floor(now * rate) + 1)) <= 1  # A float may round at the very moment.
        assert sent <= now * rate * (1 + 1e-9) + 1
    assert pacer.behind == 0


@UNHURRIED
@given(rate=st.floats(0.01, 2000), pauses=PAUSES)
def test_no_burst_is_longer_than_one_datagram_or_what_the_patience_is_worth(rate: float, pauses: list[float]) -> None:
    pacer, sent = Pacer(Rate(datagrams=rate), 0), 0
    for now in itertools.accumulate(pauses):
        burst = take_due(pacer, now)
        sent += burst
        assert burst <= max(1, PATIENCE * rate + 1) * (1 + 1e-9)
        assert sent <= (now + 1e-9) * rate * (1 + 1e-9) + 1  # Never ahead of the rate.
    # What is lacking is what the schedule was moved by.
    assert (now - pacer.behind) * rate - sent <= 1 + 1e-3


def test_a_slow_rate_keeps_its_beat_over_a_pause() -> None:
    pacer = Pacer(Rate(datagrams=1), 0)
    assert [take_due(pacer, now) for now in (0, 1, 4.25)] == [1, 1, 1]
    assert pacer.due == 5
    assert pacer.behind == 2


@UNHURRIED
@given(rate=st.floats(1e3, 1e8), sizes=st.lists(st.integers(0, 65507), min_size=1, max_size=50))
def test_a_rate_of_bits_waits_for_the_bits_before(rate: float, sizes: list[int]) -> None:
    pacer, bits_before = Pacer(Rate(bits=rate), 7), 0
    for size in sizes:
        assert pacer.due == pytest.approx(7 + bits_before / rate)
        pacer.count(size)
        bits_before += 8 * max(size, 1)


def test_nobody_is_late_after_a_wait_for_something_to_send() -> None:
    pacer = Pacer(Rate(datagrams=100), 0)
    assert take_due(pacer, 0) == 1
    pacer.resume(50)
    assert (take_due(pacer, 50 + 1e-9), pacer.behind) == (1, 0)
    assert pacer.due == pytest.approx(50.01)


def test_without_a_rate_all_is_due_and_nothing_is_late() -> None:
    pacer = Pacer(None, 0)
    pacer.count(100)
    pacer.forgive(10)
    assert (pacer.due, pacer.behind, pacer.is_paced) == (0, 0, False)


@UNHURRIED
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 1]))
def test_a_quantile_is_at_most_a_class_too_great(values: list[float], share: float) -> None:
    late = Lateness()
    for each in values:
        late.add(each)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    found = late.quantile(share)
    assert found is not None
    assert exact * (1 - 1e-9) <= max(found, 1e-6)
    assert found <= max(exact * 2 ** (1 / 16) * (1 + 1e-9), 1e-6)
    assert late.most == max(values)


def test_lateness_of_nothing_is_unknown() -> None:
    assert (Lateness().quantile(0.5), Lateness().most) == (None, None)


@UNHURRIED
@given(st.lists(st.text("ab\n", max_size=8)))
def test_lines_are_those_of_the_whole_however_it_comes(chunks: list[str]) -> None:
    lines = Lines()
    found = [line for chunk in chunks for line in lines.feed(chunk.encode())] + lines.end()
    expected = "".join(chunks).encode().split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize(
    "chunks", [[b"x" * 65536], [b"x" * 40000] * 2, [b"x" * 65507, b"x\n"], [b"a\n" + b"x" * 65508]]
)
def test_a_line_that_is_longer_than_a_datagram_is_wrong_usage(chunks: list[bytes]) -> None:
    lines = Lines()
    with pytest.raises(CycloptsError, match=r"a line has more than 65,507 octets: cut the file by --size"):  # noqa: PT012
        for chunk in chunks:
            lines.feed(chunk)


def test_a_line_as_long_as_a_datagram_can_be_is_whole() -> None:
    lines = Lines()
    assert lines.feed(b"x" * 65507) == []
    assert lines.feed(b"\n") == [b"x" * 65507]


@UNHURRIED
@given(st.lists(st.binary(max_size=20)), st.integers(1, 9))
def test_pieces_are_the_whole_in_order(chunks: list[bytes], size: int) -> None:
    pieces = Pieces(size)
    found = [piece for chunk in chunks for piece in pieces.feed(chunk)] + pieces.end()
    assert b"".join(found) == b"".join(chunks)
    assert all(len(piece) == size for piece in found[:-1])
    assert all(0 < len(piece) <= size for piece in found)


@pytest.mark.parametrize("size", [28, 29, 1400])
def test_probes_are_numbered_from_0_without_gaps_and_have_the_size(size: int) -> None:
    probes = Probes(77, size)
    payloads = [probes.take() for _ in range(3)]
    found = [parse_probe(payload) for payload in payloads]
    assert [each[:2] for each in found if each] == [(77, 0), (77, 1), (77, 2)]
    times = [each[2] for each in found if each]
    assert times == sorted(times)
    assert {len(payload) for payload in payloads} == {size}


@UNHURRIED
@given(st.binary(max_size=200))
def test_no_octets_of_an_answer_are_too_odd(octets: bytes) -> None:
    assert isinstance(parse_answer(octets), Way)
    as_route = struct.pack("=IHHII", 28 + len(octets), 24, 0, 1, 0) + bytes(12) + octets
    assert isinstance(parse_answer(as_route), Way)


def test_a_request_is_as_long_as_it_says() -> None:
    for source in (None, IPv4Address("198.18.0.1")):
        request = marshal_request(GROUP, 5000, source=source, tos=0xBB, user=1000)
        assert struct.unpack_from("=I", request) == (len(request),)
        assert request[16 + 3] == 0xB8  # The ECN bits aside.


def start(**changes: object) -> Start:
    facts: dict[str, object] = {
        "destination": GROUP,
        "port": 5000,
        "interface": "en0",
        "ifindex": 2,
        "source": IPv4Address("198.18.0.1"),
        "ttl": 1,
        "tos": 0,
        "loopback": True,
        "stream": None,
        "reach": "link",
    }
    return Start(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "239.1.2.3:5000 by en0 from 198.18.0.1, TTL 1 (stays on this link)"),
        (
            {"ttl": 2, "tos": 184, "reach": "routers"},
            "239.1.2.3:5000 by en0 from 198.18.0.1, TTL 2, TOS 0xb8 (crosses at most 1 router)",
        ),
        (
            {"ttl": 9, "destination": IPv4Address("224.0.0.251")},
            (
                "224.0.0.251:5000 by en0 from 198.18.0.1, TTL 9 (stays on this link: routers forward no group of "
                "224.0.0.0/24, whatever the TTL)"
            ),
        ),
        (
            {"interface": "lo", "reach": "host"},
            "239.1.2.3:5000 by lo from 198.18.0.1, TTL 1 (stays on this host)",
        ),
        (
            {"interface": None, "source": None, "ttl": 64, "reach": "routers"},
            "239.1.2.3:5000, TTL 64 (crosses at most 63 routers)",
        ),
    ],
)
def test_the_start_says_where_it_goes(changes: dict[str, object], text: str) -> None:
    assert start(**changes).text() == f"Sending to {text}"


@pytest.mark.parametrize(
    ("destination", "ttl", "by_loopback", "expected"),
    [
        ("239.1.2.3", 1, False, "link"),
        ("239.1.2.3", 2, False, "routers"),
        ("224.0.0.251", 255, False, "link"),
        ("239.1.2.3", 9, True, "host"),
    ],
)
def test_the_reach_follows_from_destination_and_ttl(
    destination: str, ttl: int, by_loopback: bool, expected: str | None
) -> None:
    assert reach(IPv4Address(destination), ttl, by_loopback=by_loopback) == expected


def summary(datagrams: int = 3, refused: int = 0, interfaces: int = 1, hurt: int = 0, behind: float = 0) -> str:
    seconds = 2.0 if datagrams > 1 else 0.0
    name = "en0" if interfaces == 1 else None
    return Summary(datagrams, 100 * datagrams, refused, seconds, interfaces, name, hurt, behind).text()


def test_the_summary_says_what_was_sent_and_what_was_not() -> None:
    assert summary() == "Sent 3 datagrams, 300 octets by en0 in 2.0 s."
    assert summary(1) == "Sent 1 datagram, 100 octets by en0."
    assert summary(0) == "Nothing was sent."
    assert summary(1, 1, 1, 1).endswith("1 datagram was refused.")
    assert summary(2, 3, 2, 1) == (
        "Sent 2 datagrams, 200 octets by 2 interfaces in 2.0 s. 3 datagrams were refused. 1 of 2 interfaces refused."
    )
    assert "fell behind by 1.5 s" in summary(behind=1.5)


@pytest.mark.parametrize(
    ("show", "number", "text"),
    [
        (per_second, None, "-"),
        (per_second, 0.5, "0.5"),
        (per_second, 12345.6, "12,346"),
        (bits, None, "-"),
        (bits, 224, "224"),
        (bits, 7_990, "7.99 k"),
        (bits, 8.1e6, "8.1 M"),
        (bits, 2.5e10, "25 G"),
        (duration, None, "-"),
        (duration, 2.25, "2.2 s"),
        (duration, 0.0015, "1.5 ms"),
        (duration, 0.0000015, "1.5 us"),
    ],
)
def test_numbers_are_short(show: Callable[[float | None], str], number: float | None, text: str) -> None:
    assert show(number) == text


def test_a_refusal_names_its_errno_even_if_there_is_none() -> None:
    assert refused("en0", OSError(1, "no"), given_up=True).errno == "EPERM"
    assert refused(None, OSError(9999, "no"), given_up=True).errno == "9999"
    assert refused(None, OSError("no"), given_up=False).reason == "no"
    batch = OSError(1, "can't send datagram 0 of the batch, 5 octets to 239.1.2.3")
    assert refused(None, batch, given_up=False).reason == "can't send 5 octets to 239.1.2.3"
    assert [refused(name, OSError(1, "no"), given_up=True).text() for name in ("en0", None)] == ["en0: no", "no"]
