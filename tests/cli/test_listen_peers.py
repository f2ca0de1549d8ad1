"""`trio-ipv4 listen` hears other programs: iperf 2, socat and ffmpeg's RTP. nftables counts what comes to the host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from support.listening import Shown, as_cables, listening, wanted
from trio_ipv4._cli.listen.records import DatagramShown, FlowTotal, Summary

if TYPE_CHECKING:
    from trio_ipv4.testing import Lab, LabHost

GROUP, TO = "239.1.2.3", "239.1.2.3:5000"
RULES = """
table ip counted {{
    counter came {{ }}
    counter lost {{ }}
    chain input {{
        type filter hook prerouting priority 0;
        udp dport {port} counter name came
        {loss}
    }}
}}
"""
LOSS = "udp dport 5004 numgen inc mod 40 == 20 counter name lost drop"
"""Lose every 40th datagram (nft(8))."""


async def count(host: LabHost, port: int, loss: str = "") -> None:
    """Let the host's nftables count what comes to a port."""
    await run(host, "nft", "-f", "-", stdin=RULES.format(port=port, loss=loss).encode())


async def counted(host: LabHost) -> dict[str, int]:
    """Return how many datagrams came, and how many of them nftables has dropped."""
    found = json.loads(await run(host, "nft", "--json", "list", "counters"))["nftables"]
    return {each["counter"]["name"]: each["counter"]["packets"] for each in found if "counter" in each}


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"the program `{program}` is missing")


@pytest.fixture
def cable(lab: Lab) -> Lab:
    lab["b"].add_route("224.0.0.0/4", interface="en0")
    return as_cables(lab)


async def run(host: LabHost, *argv: str, stdin: bytes = b"") -> str:
    """Run a program on a host, and return what it says."""
    done = await trio.run_process(
        host.command(argv), capture_stdout=True, stderr=subprocess.STDOUT, stdin=stdin, check=False
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout.decode())


@needs("iperf")
async def test_iperf_s_datagrams_are_counted_as_it_reports_them(cable: Lab) -> None:
    reports = []
    await count(cable["a"], 5000)

    async def act(_: Shown) -> None:
        # Without a server it asks ten times for a report, with the last datagram.
        client = ["iperf", "-c", GROUP, "-u", "-p", "5000", "-n", "147000", "-l", "1470", "-b", "10M", "-T", "3"]
        reports.append(await run(cable["b"], *client))

    _, kept = await listening(cable["a"], wanted(TO), act, interrupt=True)
    sent = re.search(r"Sent (\d+) datagrams", reports[0])
    assert sent is not None, reports
    (total,) = kept.of(FlowTotal)
    assert total.datagrams == (await counted(cable["a"]))["came"]
    # It has a count of its own for the last one, with which it asks for a report.
    assert abs(total.datagrams - int(sent[1])) <= 1
    assert (total.octets_least, total.octets_most, total.ttl) == (1470, 1470, (3,))
    assert (str(total.source), total.interface, total.lost) == ("198.18.0.2", "en0", None)


@needs("socat")
async def test_socat_s_datagrams_are_shown_as_it_sent_them(cable: Lab) -> None:
    async def act(_: Shown) -> None:
        for text in (b"hello", b"from socat\n"):
            await run(cable["b"], "socat", "-u", "STDIN", f"UDP4-DATAGRAM:{TO},ip-multicast-ttl=7", stdin=text)

    _, kept = await listening(cable["a"], wanted(TO, count=2, printed_as="text"), act)
    assert [(each.payload_text, each.ttl) for each in kept.of(DatagramShown)] == [("hello", 7), ("from socat\n", 7)]


@needs("ffmpeg")
@pytest.mark.parametrize("loses", [False, True])
async def test_the_rtp_of_ffmpeg_is_recognised_and_what_the_network_loses_is_lost(loses: bool, cable: Lab) -> None:
    host = cable["a"]
    await count(host, 5004, LOSS if loses else "")

    async def act(_: Shown) -> None:
        tone = ["-re", "-f", "lavfi", "-i", "sine=sample_rate=44100", "-t", "1.5", "-c:a", "pcm_s16be"]
        target = f"rtp://{GROUP}:5004?localaddr=198.18.0.2"
        await run(cable["b"], "ffmpeg", "-nostdin", "-loglevel", "error", *tone, "-f", "rtp", target)

    _, kept = await listening(host, wanted(f"{GROUP}:5004"), act, interrupt=True)
    packets = await counted(host)
    (total,) = kept.of(FlowTotal)
    assert total.datagrams == packets["came"] - packets["lost"]
    assert re.fullmatch("RTP [0-9a-f]{8}", total.streams[0])
    assert len(total.streams) == 1
    # What was lost after the last one that came has no successor that tells.
    assert total.expected in {packets["came"], packets["came"] - 1}
    assert total.lost == total.expected - total.datagrams
    assert (packets["lost"] > 0) is loses
    assert (total.duplicates, total.reordered, total.restarts) == (0, 0, 0)
    assert kept.of(Summary)[0].dropped == 0
