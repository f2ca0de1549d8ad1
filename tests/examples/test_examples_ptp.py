"""ptp_delay.py: against ptp4l in a lab, and a master with another clock on a simulated network."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support.avahi import running
from support.examples import example, join_two_hosts, module
from support.peers import ptp4l
from trio_ipv4 import ControlFlags, open_udp
from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab

GROUP: Final = "224.0.1.129"
MASTER: Final = bytes.fromhex("00005efffe005301") + b"\0\1"
SECOND: Final = 1_000_000_000


async def test_a_host_with_the_same_clock_is_found_to_have_it(lab: Lab, tmp_path: Path) -> None:
    if shutil.which("ptp4l") is None:
        pytest.skip("ptp4l is not installed")
    async with running(lab["b"].command(ptp4l()), {**os.environ, "TMPDIR": str(tmp_path)}) as master:
        await master.line_with("assuming the grand master role")
        measure = ["en0", "--count", "100", "--interval", "0.2"]
        async with running(example(lab["a"], "ptp_delay", *measure)) as client:
            # The MAC address that the lab gives to the host, as an EUI-64.
            identity = "020000fffe0000020001"
            assert await client.line_with("is a master") == f"{identity} at 198.18.0.2 is a master"
            lines = [await client.line_with(f"{identity}: offset") for _ in range(3)]
    offsets = [abs(float(line.split()[2])) for line in lines]
    delays = [float(line.split()[5]) for line in lines]
    # In microseconds: on a busy machine something may come in between, but not each time.
    assert min(offsets) < 1000
    assert 0 < min(delays) < 1000


class Master:
    """A master whose clock is ahead of this host's, in UTC or in TAI, and corrections, all in nanoseconds.

    The corrections are those of Sync, Follow_Up, and Delay_Resp.
    """

    def __init__(self, ahead: int, *, two_step: bool = True, tai: bool = False, corrections: Sequence[int] = (0, 0, 0)):
        self.ahead, self.two_step, self.corrections = ahead + 37 * SECOND * tai, two_step, corrections
        self.flags = 0x0008 if tai else 0

    def message(self, kind: int, number: int, time: int, rest: bytes = b"", *, correction: int = 0) -> bytes:
        """Lay out a message (IEEE 1588-2019 section 13)."""
        seconds, nanoseconds = divmod(time, SECOND)
        body = seconds.to_bytes(6, "big") + nanoseconds.to_bytes(4, "big") + rest
        flags = self.flags | (0x0200 if kind == 0 and self.two_step else 0)
        head = struct.pack("!BBHBBHqI", kind, 2, 34 + len(body), 0, 0, flags, correction << 16, 0)
        return head + MASTER + struct.pack("!HBb", number, 0, 0) + body

    async def run(self) -> None:
        flags = ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TIMESTAMP
        async with (
            open_udp("0.0.0.0", 319, interface="en0", control_flags=flags) as events,
            open_udp("0.0.0.0", 320, interface="en0") as general,
            events.joined("en0", GROUP),
            trio.open_nursery() as nursery,
        ):
            events.multicast_loopback = False
            nursery.start_soon(self.answer, events, general)
            for number in range(100):
                # The clock of a simulated network begins at 10 to the 9.
                now = SECOND * SECOND + round(trio.current_time() * SECOND) + self.ahead
                await general.send_to(self.message(0xB, number, 0, struct.pack("!h", 37) + bytes(18)), (GROUP, 320))
                sync = self.message(0, number, 0 if self.two_step else now, correction=self.corrections[0])
                await events.send_to(sync, (GROUP, 319))
                if self.two_step:
                    for each in (number, number - 1):  # The second one has a number that does not fit.
                        time = now - SECOND * (each != number)
                        told = self.message(8, each & 0xFFFF, time, correction=self.corrections[1])
                        await general.send_to(told, (GROUP, 320))
                await trio.sleep(0.4)
            nursery.cancel_scope.cancel()

    async def answer(self, events: PacketConn, general: PacketConn) -> None:
        async for datagram in events:
            asked = datagram.payload
            assert len(asked) == 44
            assert asked[:4] == b"\x01\x02\0\x2c"  # Delay_Req, version 2, 44 octets.
            arrived = (datagram.control.timestamp_ns or 0) + self.ahead
            (number,) = struct.unpack_from("!H", asked, 30)
            for identity in (bytes(10), asked[20:30]):  # First an answer to somebody else.
                time = arrived - SECOND * (identity == bytes(10))
                told = self.message(9, number, time, identity, correction=self.corrections[2])
                await general.send_to(told, (GROUP, 320))


@pytest.mark.parametrize(
    ("master", "offset", "delay"),
    [
        (Master(0), 0, 1000),
        (Master(250_000), -250, 1000),
        (Master(-3_000_000_000), 3_000_000, 1000),
        (Master(250_000, two_step=False), -250, 1000),
        (Master(250_000, tai=True), -250, 1000),
        # There it takes 300 less, back 50.
        (Master(0, corrections=(100_000, 200_000, 50_000)), -125, 825),
        (Master(0, corrections=(300_000, 0, 50_000), two_step=False), -125, 825),
    ],
    ids=["equal", "ahead", "behind", "one step", "TAI", "corrections", "corrections in one step"],
)
async def test_offset_and_delay_are_found_to_the_nanosecond(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    master: Master,
    offset: float,
    delay: float,
) -> None:
    client = module(monkeypatch, "ptp_delay")
    monkeypatch.setattr(sys, "argv", ["ptp_delay", "en0", "--count", "3"])
    with simulate() as net:
        join_two_hosts(net)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net["b"].run, master.run)
            await trio.sleep(0.1)
            await net["a"].run(client.main)
            nursery.cancel_scope.cancel()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{MASTER.hex()} at 198.18.0.2 is a master"
    # The first request left before there was a Sync.
    assert lines == [f"{MASTER.hex()}: offset {offset:.3f} µs, delay {delay:.3f} µs"] * 2


@pytest.mark.pure
@pytest.mark.parametrize(
    "payload",
    [b"", b"\0\x02" + bytes(41), b"\0\x01" + bytes(42), b"\0\x02\0\x2c\x05" + bytes(39)],
    ids=["empty", "short", "version 1", "another domain"],
)
def test_what_is_no_message_is_ignored(monkeypatch: pytest.MonkeyPatch, payload: bytes) -> None:
    read = module(monkeypatch, "ptp_delay").read
    assert read(payload, 0) is None
    assert read(b"\0\x02" + bytes(42), 0) is not None
