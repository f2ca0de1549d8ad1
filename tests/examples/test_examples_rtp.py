"""sap_browser.py and rtp_listener.py: against ffmpeg, tshark's analysis, and the lab's own senders."""

from __future__ import annotations

import shutil
import struct
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support.avahi import running
from support.examples import example, is_member, join_two_hosts, module
from support.peers import ffmpeg
from support.wire import need_tshark, tshark
from trio_ipv4 import open_udp
from trio_ipv4.testing import open_lab, simulate, source_filters

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Eventually
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab

GROUP: Final = "239.1.2.3"
PORT: Final = 5004
SAP: Final = "239.255.255.255"
SESSION: Final = "v=0\r\no=- 7 7 IN IP4 198.18.0.2\r\ns=Studio\r\nc=IN IP4 239.1.2.3/1\r\nt=0 0\r\n"
SDP: Final = SESSION + "{more}m=audio 5004 RTP/AVP 0\r\n"


def announcement(sdp: str, *, flags: int = 0x20, identity: int = 7, kind: bytes = b"application/sdp\0") -> bytes:
    """Lay out a packet of SAP from 198.18.0.2 (RFC 2974 section 6)."""
    return struct.pack("!BBH4B", flags, 0, identity, 198, 18, 0, 2) + kind + sdp.encode()


def rtp(number: int, stamp: int, ssrc: int = 0xABCD) -> bytes:
    """Lay out a packet of RTP with 160 octets of payload type 0 (RFC 3550 section 5.1)."""
    return struct.pack("!BBHII", 0x80, 0, number & 0xFFFF, stamp & 0xFFFF_FFFF, ssrc) + bytes(160)


def sender(lab: Lab, name: str) -> PacketConn:
    conn = lab[name].call(open_udp)
    conn.multicast_interface = "en0"
    return conn


async def test_ffmpeg_is_found_and_measured_and_its_end_is_noticed(lab: Lab, eventually: Eventually) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    lab["b"].add_route("224.0.0.0/4", interface="en0")
    async with running(example(lab["a"], "rtp_listener", "en0", "--interval", "1")) as listener:
        await eventually(lambda: is_member(lab["a"], "en0", SAP) and is_member(lab["a"], "en0", "224.2.127.254"))
        async with running(lab["b"].command(ffmpeg(3))):
            assert await listener.line_with("A tone") == f"A tone: {GROUP}:{PORT}, 8000 Hz, any source"
            await listener.line_with(f"{GROUP}:{PORT} from 198.18.0.2", " received, 0 lost, jitter ")
            assert is_member(lab["a"], "en0", GROUP)
            await listener.line_with("A tone: deleted")
        final = await listener.line_with(f"{GROUP}:{PORT} from 198.18.0.2", " received, 0 lost, jitter ")
        # 3 seconds of 8,000 octets each, at most 1,460 in a packet; those before the join are not heard.
        assert int(final.split(": ")[1].split()[0]) > 10
        await eventually(lambda: not is_member(lab["a"], "en0", GROUP))


async def test_tshark_measures_the_same(lab: Lab, eventually: Eventually, tmp_path: Path) -> None:
    need_tshark()
    capture = tmp_path / "rtp.pcap"
    tcpdump = f"exec tcpdump -U --immediate-mode -i en0 -w {capture} udp port {PORT} 2>&1"
    # The second sender begins before the sequence numbers and the timestamps wrap around.
    packets = [rtp(n, 160 * n) for n in range(1, 41) if n not in (9, 20, 21)]
    packets += [rtp(0xFFF0 + n, 0xFFFF_FF00 + 160 * n, 0xEF01) for n in range(30) if n != 12]
    async with (
        sender(lab, "b") as conn,
        running(lab["a"].command(["sh", "-c", tcpdump])) as dump,
        running(example(lab["a"], "rtp_listener", "en0", "--interval", "100")) as listener,
    ):
        await dump.line_with("listening on en0")
        await eventually(lambda: is_member(lab["a"], "en0", SAP))
        await conn.send_to(announcement(SDP.format(more="")), (SAP, 9875))
        await eventually(lambda: is_member(lab["a"], "en0", GROUP))
        for number, packet in enumerate(packets):
            await conn.send_to(packet, (GROUP, PORT))
            await trio.sleep(0.001 * (number % 7))
        gaps = [await listener.line_with(" missing before ") for _ in range(3)]
        await eventually(lambda: capture.stat().st_size == 24 + len(packets) * (16 + 14 + 20 + 8 + 172))
        await conn.send_to(announcement(SDP.format(more=""), flags=0x24), (SAP, 9875))
        found = [await listener.line_with(" received, ") for _ in range(2)]
    first, second = f"{GROUP}:{PORT} from 198.18.0.2, 0x0000abcd", f"{GROUP}:{PORT} from 198.18.0.2, 0x0000ef01"
    assert gaps == [
        f"{first}: 1 missing before 10",
        f"{first}: 2 missing before 22",
        f"{second}: 1 missing before 65533",
    ]
    shown = tshark(capture, "-d", f"udp.port=={PORT},rtp", "-q", "-z", "rtp,streams").splitlines()
    for line, ssrc in zip(found, ("0x0000ABCD", "0x0000EF01"), strict=True):
        (row,) = [row.split() for row in shown if ssrc in row]
        received, lost, highest = row[8], row[9], float(row[16])
        assert f": {received} received, {lost} lost, " in line
        assert float(line.split("highest ")[1].split()[0]) == pytest.approx(highest, abs=0.002)


async def test_only_the_sources_of_the_description_are_heard(needs_lab: None, eventually: Eventually) -> None:
    with open_lab(("a", "b", "c")) as lab:
        wanted = f"a=source-filter: incl IN IP4 * {lab['b'].addresses[0]}\r\n"
        async with (
            sender(lab, "b") as b,
            sender(lab, "c") as c,
            running(example(lab["a"], "rtp_listener", "en0", "--interval", "0.1")) as listener,
        ):
            await eventually(lambda: is_member(lab["a"], "en0", SAP))
            await b.send_to(announcement(SDP.format(more=wanted)), (SAP, 9875))
            await listener.line_with(f"Studio: {GROUP}:{PORT}, 8000 Hz, include 198.18.0.2")
            key = lab["a"].interfaces[0].index, IPv4Address(GROUP)
            await eventually(lambda: lab["a"].call(source_filters).get(key) == {IPv4Address("198.18.0.2"): (1, 0)})
            await c.send_to(rtp(1, 0, 0xCCCC), (GROUP, PORT))
            await b.send_to(rtp(1, 0, 0xBBBB), (GROUP, PORT))
            assert "0x0000bbbb: 1 received" in await listener.line_with(" received")
            await b.send_to(announcement(SDP.format(more=wanted), flags=0x24), (SAP, 9875))
            await listener.line_with("Studio: deleted")
            assert "0x0000bbbb: 1 received" in await listener.line_with(" received")
            await eventually(lambda: lab["a"].call(source_filters).get(key) is None)


async def test_a_stream_that_nobody_can_join_ends_no_other(lab: Lab, eventually: Eventually) -> None:
    many = " ".join(f"192.0.2.{n}" for n in range(1, 100))  # sysctl net.ipv4.igmp_max_msf is 10.
    bad = [SDP.format(more=f"a=source-filter: incl IN IP4 * {many}\r\n"), SDP.format(more="").replace("5004", "99999")]
    async with sender(lab, "b") as conn, running(example(lab["a"], "rtp_listener", "en0")) as listener:
        await eventually(lambda: is_member(lab["a"], "en0", SAP))
        for identity, sdp in enumerate([*bad, SDP.format(more="")]):
            await conn.send_to(announcement(sdp, identity=identity), (SAP, 9875))
        lines = [await listener.line_with("") for _ in range(5)]
        too_many, no_port = sorted(line for line in lines if line.startswith(GROUP))
        assert too_many.startswith(f"{GROUP}:5004: ")
        assert "igmp_max_msf" in too_many
        assert no_port.startswith(f"{GROUP}:99999: port must be ")
        await eventually(lambda: is_member(lab["a"], "en0", GROUP))


async def test_a_session_may_be_deleted_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = module(monkeypatch, "rtp_listener")
    monkeypatch.setattr(sys, "argv", ["rtp_listener", "en0", "--seconds", "10"])
    with simulate() as net:
        join_two_hosts(net)
        async with trio.open_nursery() as nursery, net["b"].call(open_udp) as conn:
            conn.multicast_interface = "en0"
            nursery.start_soon(net["a"].run, listener.main)
            await trio.testing.wait_all_tasks_blocked()
            for flags in (0x20, 0x24):
                await conn.send_to(announcement(SDP.format(more=""), flags=flags), (SAP, 9875))
    assert capsys.readouterr().out == f"Studio: {GROUP}:{PORT}, 8000 Hz, any source\nStudio: deleted\n"


@pytest.mark.pure
def test_an_announcement_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = module(monkeypatch, "sap_browser")
    more = "a=source-filter: excl IN IP4 239.1.2.3 192.0.2.1 192.0.2.2\r\n"
    sdp = SDP.format(more=more) + "a=rtpmap:0 L16/48000/2\r\nm=video 6000/2 RTP/AVP 33\r\nc=IN IP4 239.9.9.9/4/3\r\n"
    sdp += "m=audio 7000 RTP/AVP 0\r\nc=IN IP4 192.0.2.9\r\nm=text 7002 TCP 0\r\n"
    plain = announcement(sdp)
    authenticated = b"\x20\x01" + plain[2:8] + bytes(4) + plain[8:]
    for payload in (plain, announcement(sdp, kind=b""), authenticated):
        found = browser.read(payload)
        assert (found.name, found.is_deletion) == ("Studio", False)
        assert [str(stream) for stream in found.streams] == [
            "239.1.2.3:5004, 48000 Hz, exclude 192.0.2.1 192.0.2.2",
            "239.9.9.9:6000, 90000 Hz, exclude 192.0.2.1 192.0.2.2",
        ]


@pytest.mark.pure
def test_a_name_can_t_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = SDP.format(more="").replace("Studio", "\x1b[31mStüdio\x07")
    assert module(monkeypatch, "sap_browser").read(announcement(odd)).name == "[31mStüdio"


@pytest.mark.pure
def test_a_clock_that_stands_still_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module(monkeypatch, "sap_browser").read(announcement(SDP.format(more="a=rtpmap:0 PCMU/0\r\n")))
    assert [stream.clock for stream in found.streams] == [8000]


@pytest.mark.pure
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(8),
        announcement("v=0", flags=0x40),
        announcement(SDP.format(more=""), flags=0x30),
        announcement(SDP.format(more=""), flags=0x22),
        announcement(SDP.format(more=""), flags=0x21),
        announcement(SDP.format(more="").replace("239.1.2.3", "239.1.2.3000")),
    ],
    ids=["empty", "no version", "version 2", "IPv6", "encrypted", "compressed", "no address"],
)
def test_what_is_no_announcement_is_ignored(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> None:
    assert module(monkeypatch, "sap_browser").read(payload) is None


async def test_the_browser_shows_each_session_once(lab: Lab, eventually: Eventually) -> None:
    shown = f"Studio: {GROUP}:{PORT}, 8000 Hz, any source"
    async with sender(lab, "b") as conn, running(example(lab["a"], "sap_browser", "en0")) as browser:
        await eventually(lambda: is_member(lab["a"], "en0", SAP))
        for flags in (0x24, 0x20, 0x20, 0x24, 0x24, 0x20):
            await conn.send_to(announcement(SDP.format(more=""), flags=flags), (SAP, 9875))
        assert [await browser.line_with("") for _ in range(3)] == [shown, "Studio: deleted", shown]
