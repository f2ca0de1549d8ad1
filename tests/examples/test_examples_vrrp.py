"""vrrp_listener.py: against keepalived in a lab, and by hand on a simulated network."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support.avahi import running
from support.examples import example, is_member, join_two_hosts, module
from support.peers import keepalived
from support.wire import summed
from trio_ipv4 import Header, RawDatagram, open_raw
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Eventually

GROUP: Final = "224.0.0.18"


async def test_masters_come_resign_and_fall_silent(needs_lab: None, eventually: Eventually, tmp_path: Path) -> None:
    if shutil.which("keepalived") is None:
        pytest.skip("keepalived is not installed")
    with open_lab(("a", "b", "c")) as lab:
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        first, second = (
            lab[name].command(keepalived(priority, interval=0.2)) for name, priority in (("b", 150), ("c", 100))
        )
        async with running(example(lab["a"], "vrrp_listener", "en0")) as listener:
            await eventually(lambda: is_member(lab["a"], "en0", GROUP))
            async with running(first, env) as b, running(second, env):
                has = "has 198.18.0.100 198.18.0.101"
                await listener.line_with(f"router 51: 198.18.0.2, priority 150, {has}")
                # The backup has to hear the master before that resigns, or it would wait for its silence.
                await eventually(lambda: is_member(lab["c"], "en0", GROUP))
                b.send_signal(signal.SIGTERM)
                await listener.line_with("router 51: 198.18.0.2 resigns")
                await listener.line_with(f"router 51: 198.18.0.3, priority 100, {has}")
                assert await b.wait() == 0
                lab["c"].set_up("en0", False)
                await listener.line_with("router 51: 198.18.0.3 is silent")


# By hand

TWO: Final = bytes.fromhex("213396010001 8253 c6120064 0000000000000000")
THREE: Final = bytes.fromhex("313396010064 cb4c c6120064")
"""What keepalived 2.2.7 sends from 198.18.0.2: router 51, priority 150, each second, for 198.18.0.100."""
OF_TWO: Final = "router 51: 198.18.0.2, priority 150, has 198.18.0.100"


def version_2(priority: int, interval: int = 1, router: int = 51) -> bytes:
    """Lay out an advertisement (RFC 3768 section 5.1)."""
    start, address = struct.pack("!6B", 0x21, router, priority, 1, 0, interval), IPv4Address("198.18.0.100").packed
    checksum = summed(start[:2] + bytes(2) + start[2:] + address)[2:4]  # The sum is the same in any order.
    return start + checksum + address


@pytest.mark.parametrize(
    ("packets", "lines"),
    [
        ([TWO, 1, TWO, 1, TWO], [OF_TWO]),
        ([THREE, 1, THREE, 1, THREE], [OF_TWO]),
        ([TWO, 3.9], [OF_TWO]),
        ([TWO, 4.1], [OF_TWO, "router 51: 198.18.0.2 is silent"]),
        ([version_2(150, 3), 11.9], [OF_TWO]),
        ([version_2(150), version_2(0), 9], [OF_TWO, "router 51: 198.18.0.2 resigns"]),
        ([version_2(0)], []),
        ([version_2(150), version_2(90)], [OF_TWO, OF_TWO.replace("150", "90")]),
        ([version_2(150), version_2(150, router=7)], [OF_TWO, OF_TWO.replace("51", "7")]),
        ([(TWO, 254, GROUP)], ["discarded, from 198.18.0.2: ttl 254"]),
        ([(TWO, 255, "198.18.0.1")], ["discarded, from 198.18.0.2: sent to 198.18.0.1"]),
        ([TWO[:-1] + b"\1"], ["discarded, from 198.18.0.2: wrong checksum"]),
        ([THREE[:-1] + b"\1"], ["discarded, from 198.18.0.2: wrong checksum"]),
        ([b"", TWO[:7], TWO[:11]], ["discarded, from 198.18.0.2: too short"] * 3),
        ([b"\x41" + TWO[1:]], ["discarded, from 198.18.0.2: not an advertisement of version 2 or 3, 0x41"]),
    ],
    ids=[
        "version 2",
        "version 3",
        "not yet silent",
        "silent",
        "interval",
        "resigns",
        "resigns unknown",
        "priority",
        "two routers",
        "forwarded",
        "unicast",
        "checksum",
        "checksum 3",
        "short",
        "version 4",
    ],
)
async def test_by_the_rules_of_the_standard(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    packets: list[bytes | tuple[bytes, int, str] | float],
    lines: list[str],
) -> None:
    listener = module(monkeypatch, "vrrp_listener")
    monkeypatch.setattr(sys, "argv", ["vrrp_listener", "en0"])
    with simulate() as net:
        join_two_hosts(net)
        async with net["b"].call(lambda: open_raw(112)) as conn, trio.open_nursery() as nursery:
            conn.multicast_interface = net["b"].interfaces[0].index
            nursery.start_soon(net["a"].run, listener.main)
            await trio.testing.wait_all_tasks_blocked()
            for each in packets:
                if isinstance(each, (int, float)):
                    await trio.sleep(each)
                    continue
                payload, ttl, destination = each if isinstance(each, tuple) else (each, 255, GROUP)
                header = Header(src="198.18.0.2", dst=destination, ttl=ttl, protocol=112)
                await conn.send(RawDatagram(header, payload))
                await trio.sleep(0.01)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert capsys.readouterr().out.splitlines() == lines
