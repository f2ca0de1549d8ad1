"""market_data.py and market_data_feed.py: two feeds on two links, and what is lost there and in the host."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support import here
from support.avahi import running
from support.examples import example, is_member, module
from support.wire import fields_of, need_tshark, write_capture
from trio_ipv4 import Header, open_udp
from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Eventually
    from support.avahi import Program
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab

PORT: Final = 26400
FEEDS: Final = {"A": ("en0", "239.1.2.3"), "B": ("en1", "239.1.2.4")}


@pytest.fixture
def cables(needs_lab: None) -> Iterator[Lab]:
    """Two hosts on two links that forward everything."""
    with here.lab_hosts(2) as lab:
        yield lab


def has_joined(lab: Lab) -> bool:
    return all(is_member(lab["a"], *feed) for feed in FEEDS.values())


def mold(number: int, *texts: bytes) -> bytes:
    """Lay out a datagram of MoldUDP64 whose messages begin with a time, which is 0."""
    blocks = [struct.pack("!HQ", 8 + len(text), 0) + text for text in texts]
    return struct.pack("!10sQH", b"SESSION   ", number, len(texts)) + b"".join(blocks)


def receive_queue(lab: Lab, group: str) -> tuple[int, int]:
    """Octets in the queue of the socket that is bound to a group, and its drops, as the kernel's table has them."""
    (number,) = struct.unpack("=I", socket.inet_aton(group))
    address = f"{number:08X}:{PORT:04X}"
    for line in lab["a"].call(Path("/proc/thread-self/net/udp").read_text).splitlines()[1:]:
        columns = line.split()
        if columns[1] == address:
            return int(columns[4].split(":")[1], 16), int(columns[-1])
    raise AssertionError(f"nobody is bound to {address}")


async def test_each_feed_fills_the_gaps_of_the_other(cables: Lab, eventually: Eventually) -> None:
    async with running(example(cables["a"], "market_data", "en0", "en1")) as receiver:
        await eventually(lambda: has_joined(cables))
        lost = ["--lose-a", "3", "--lose-b", "5", "--lose-a", "7", "--lose-b", "7"]
        send = ["en0", "en1", "--count", "9", "--interval", "0", *lost]
        # Datagram 3 has message 6, datagram 5 has 9 to 11, datagram 7 has 13 and 14; there are 18 messages.
        async with running(example(cables["b"], "market_data_feed", *send)) as sender:
            await sender.line_with("sent 18 messages")
        lines = [await receiver.line_with("") for _ in range(16 + 5)]
        assert [int(line.split(":")[0]) for line in lines if line[0].isdecimal()] == [*range(1, 13), *range(15, 19)]
        assert sorted(line for line in lines if not line[0].isdecimal()) == [
            "A: no 13 to 14, lost on the way",
            "A: no 6 to 6, lost on the way",
            "B: no 13 to 14, lost on the way",
            "B: no 9 to 11, lost on the way",
            "no feed had 13 to 14",
        ]
        a, b = await receiver.line_with("A: 15 messages"), await receiver.line_with("B: 13 messages")
        firsts = [int(line.split(", ")[1].removesuffix(" first")) for line in (a, b)]
        assert sum(firsts) == 16
        assert firsts[0] >= 3
        assert firsts[1] >= 1
        for line in (a, b):
            latency_us = int(line.split("latency ")[1].split()[0])
            assert 0 < latency_us < 1_000_000
        assert await receiver.line_with("both") == "both: 16 messages, 2 lost"


@contextlib.asynccontextmanager
async def receiving(cables: Lab, eventually: Eventually) -> AsyncIterator[tuple[Program, PacketConn]]:
    """Let the example receive on `a`, and return it with a connection that sends on feed A from `b`."""
    async with running(example(cables["a"], "market_data", "en0", "en1")) as receiver:
        await eventually(lambda: has_joined(cables))
        async with cables["b"].call(open_udp) as conn:
            conn.multicast_interface = "en0"
            yield receiver, conn


async def test_what_this_host_dropped_is_told_apart_from_what_the_network_lost(
    cables: Lab, eventually: Eventually
) -> None:
    _, group = FEEDS["A"]
    async with receiving(cables, eventually) as (receiver, conn):
        await conn.send_to(mold(1, b"first"), (group, PORT))
        await receiver.line_with("1: b'first'")
        receiver.send_signal(signal.SIGSTOP)
        await conn.send_batch_to([mold(number, b"burst") for number in range(2, 3002)], (group, PORT))
        await eventually(lambda: receive_queue(cables, group)[1] > 0)
        receiver.send_signal(signal.SIGCONT)
        await eventually(lambda: receive_queue(cables, group)[0] == 0)
        _, drops = receive_queue(cables, group)
        await conn.send_to(mold(3002, b"after"), (group, PORT))
        line = await receiver.line_with("A: no ")
        assert line == f"A: no {3002 - drops} to 3001, this host dropped {drops} datagrams meanwhile"
        assert await receiver.line_with("no feed had") == f"no feed had {3002 - drops} to 3001"
        await conn.send_to(mold(3004, b"end"), (group, PORT))
        assert await receiver.line_with("A: no ") == "A: no 3003 to 3003, lost on the way"


async def test_nonsense_ends_nothing(cables: Lab, eventually: Eventually) -> None:
    _, group = FEEDS["A"]
    async with receiving(cables, eventually) as (receiver, conn):
        for payload in (b"", b"x", mold(1, b"cut")[:-5], mold(7, b"text")[:-12]):
            await conn.send_to(payload, (group, PORT))
        await conn.send_to(mold(8, b"fine"), (group, PORT))
        await receiver.line_with("8: b'fine'")


async def test_what_came_before_the_first_datagram_is_not_missing(cables: Lab, eventually: Eventually) -> None:
    _, group = FEEDS["A"]
    async with receiving(cables, eventually) as (receiver, conn):
        await conn.send_to(mold(1000), (group, PORT))  # A heartbeat.
        await trio.sleep(0.3)  # The receiver's patience is 0.1.
        await conn.send_to(mold(1000, b"text"), (group, PORT))
        assert await receiver.line_with("") == "1000: b'text'"


async def test_of_two_feeds_that_lose_a_tenth_almost_everything_arrives(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver, feed = module(monkeypatch, "market_data"), module(monkeypatch, "market_data_feed")
    with simulate(seed=1) as net:
        for number, latency in enumerate((0.001, 0.002)):
            link = net.link(loss=0.1, latency=latency)
            for last, name in enumerate("ab", 1):
                host = net[name] if name in net else net.host(name)
                host.attach(link, f"en{number}", f"198.18.{number}.{last}/24")
        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(sys, "argv", ["market_data", "en0", "en1", "--seconds", "120"])
            nursery.start_soon(net["a"].run, receiver.main)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(sys, "argv", ["market_data_feed", "en0", "en1", "--count", "999"])
            nursery.start_soon(net["b"].run, feed.main)
    *lines, a, b, both = capsys.readouterr().out.splitlines()
    delivered = [int(line.split(":")[0]) for line in lines if line[0].isdecimal()]
    assert delivered == sorted(set(delivered))
    missing = {*range(delivered[0], 1999)} - {*delivered}
    assert 0 < len(missing) < 50  # A tenth of a tenth is 20.
    given_up = [[int(word) for word in line.split()[3::2]] for line in lines if line.startswith("no feed had")]
    assert all(first <= last for first, last in given_up)
    assert {each for first, last in given_up for each in range(first, last + 1)} == missing
    assert both == f"both: {len(delivered)} messages, {len(missing)} lost"
    assert all("lost on the way" in line for line in lines if line[0] in "AB")
    assert (a[:2], b[:2]) == ("A:", "B:")


@pytest.mark.pure
def test_tshark_reads_the_datagrams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_tshark()
    feed = module(monkeypatch, "market_data_feed")
    payload = feed.pack(41, [b"one", b"three"])
    udp = struct.pack("!4H", 40000, PORT, 8 + len(payload), 0) + payload  # No checksum (RFC 768).
    write_capture(tmp_path / "mold.pcap", Header(src="192.0.2.1", dst="239.1.2.3", ttl=1, protocol=17), [udp])
    fields = [f"moldudp64.{name}" for name in ("session", "sequence", "count", "msgseq", "msglen")]
    found = fields_of(tmp_path / "mold.pcap", fields, "-d", f"udp.port=={PORT},moldudp64")
    assert found == [["EXAMPLE001", "41", "2", "41,42", "11,13"]]
    first, messages, has_ended = feed.unpack(payload)
    assert (first, [text for _, text in messages], has_ended) == (41, [b"one", b"three"], False)
