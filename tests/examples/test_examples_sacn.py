"""sacn_receiver.py: against the library sacn in a lab, and by hand on a simulated network."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support.avahi import running
from support.examples import example, is_member, join_two_hosts, module
from support.peers import sacn
from trio_ipv4 import open_udp
from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Eventually
    from trio_ipv4.testing import Lab, SimulatedNetwork


async def test_the_sources_of_sacn_are_heard_by_their_priority(lab: Lab, eventually: Eventually) -> None:
    pytest.importorskip("sacn")
    lab["b"].add_route("224.0.0.0/4", interface="en0")

    listen = example(lab["a"], "sacn_receiver", "en0", "--universe", "1", "--universe", "258")
    async with running(listen) as receiver:
        await eventually(lambda: all(is_member(lab["a"], "en0", f"239.255.{low}") for low in ("0.1", "1.2")))
        async with running(lab["b"].command(sacn("Backup", 50, 1, 0, 3))):
            await receiver.line_with("universe 258: 1=1 3=3")
            async with running(lab["b"].command(sacn("Desk", 200, 255, 128))):
                await receiver.line_with("universe 1: 'Desk' from 198.18.0.2 has priority 200")
                await receiver.line_with("universe 1: 1=255 2=128")
            # It was killed, and said nothing of its end.
            await receiver.line_with("universe 1: 'Desk' is silent")
            assert await receiver.line_with("universe 1: ") == "universe 1: 1=1 3=3"


async def test_a_source_of_sacn_says_that_it_stops(lab: Lab, eventually: Eventually) -> None:
    pytest.importorskip("sacn")
    lab["b"].add_route("224.0.0.0/4", interface="en0")
    async with running(example(lab["a"], "sacn_receiver", "en0")) as receiver:
        await eventually(lambda: is_member(lab["a"], "en0", "239.255.0.1"))
        async with running(lab["b"].command(sacn("Desk", 100, 7, stays=False))):
            lines = [await receiver.line_with("universe 1: ") for _ in range(5)]
    assert lines == [
        "universe 1: 'Desk' from 198.18.0.2 has priority 100",
        "universe 1: 1=7",
        "universe 1: 1=9",
        "universe 1: 'Desk' has stopped",
        "universe 1: dark",
    ]


# By hand


def packet(
    sequence: int,
    *levels: int,
    name: bytes = b"x",
    priority: int = 100,
    options: int = 0,
    universe: int = 1,
    start_code: int = 0,
) -> bytes:
    """Lay out a data packet, layer by layer (ANSI E1.31-2018 sections 5, 6 and 7). The name makes the identity."""
    setting = struct.pack("!BBHHHB", 2, 0xA1, 0, 1, 1 + len(levels), start_code) + bytes(levels)
    setting = struct.pack("!H", 0x7000 | len(setting) + 2) + setting
    framing = struct.pack("!I64sBHBBH", 2, name, priority, 0, sequence & 0xFF, options, universe) + setting
    framing = struct.pack("!H", 0x7000 | len(framing) + 2) + framing
    root = struct.pack("!I16s", 4, name) + framing
    return struct.pack("!HH12s", 0x10, 0, b"ASC-E1.17") + struct.pack("!H", 0x7000 | len(root) + 2) + root


@pytest.fixture
def net() -> Iterator[SimulatedNetwork]:
    with simulate() as net:
        join_two_hosts(net)
        yield net


async def heard(
    net: SimulatedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *payloads: bytes | float,
) -> list[str]:
    """Send packets, with seconds to wait in between, and return what the receiver says of it."""
    receiver = module(monkeypatch, "sacn_receiver")
    monkeypatch.setattr(sys, "argv", ["sacn_receiver", "en0"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(net["a"].run, receiver.main)
        await trio.testing.wait_all_tasks_blocked()
        conn = net["b"].call(open_udp)
        conn.multicast_interface = net["b"].interfaces[0].index
        for payload in payloads:
            if isinstance(payload, bytes):
                await conn.send_to(payload, ("239.255.0.1", 5568))
            else:
                await trio.sleep(payload)
        await trio.sleep(0.01)
        conn.close()
        nursery.cancel_scope.cancel()
    return [line.removeprefix("universe 1: ") for line in capsys.readouterr().out.splitlines()]


FIRST: Final = "'x' from 198.18.0.2 has priority 100"


@pytest.mark.parametrize(
    ("payloads", "lines"),
    [
        ([packet(1, 5), packet(2, 5), packet(3, 6)], [FIRST, "1=5", "1=6"]),
        ([packet(255, 5), packet(0, 6), packet(3, 7)], [FIRST, "1=5", "1=6", "2 packets of 'x' are missing", "1=7"]),
        ([packet(30, 5), packet(30, 6), packet(29, 7), packet(11, 8)], [FIRST, "1=5"]),
        ([packet(30, 5), packet(10, 8)], [FIRST, "1=5", "235 packets of 'x' are missing", "1=8"]),
        ([packet(1, 5), 2.4], [FIRST, "1=5"]),
        ([packet(1, 5), 2.6], [FIRST, "1=5", "'x' is silent", "dark"]),
        ([packet(1, 5), 2.4, packet(2, 5), 2.4], [FIRST, "1=5"]),
        ([packet(1, 5), *(packet(n, 5, options=0x40) for n in (2, 3, 4))], [FIRST, "1=5", "'x' has stopped", "dark"]),
        ([packet(1, *range(10))], [FIRST, "2=1 3=2 4=3 5=4 6=5 7=6 8=7 9=8 ..."]),
        (
            [packet(1, 5, 9), packet(1, 7, 2, 1, name=b"y")],
            [FIRST, "1=5 2=9", "'y' from 198.18.0.2 has priority 100", "1=7 2=9 3=1"],
        ),
        (
            [packet(1, 5, 9), packet(1, 1, name=b"y", priority=101), packet(2, 4, priority=102)],
            [FIRST, "1=5 2=9", "'y' from 198.18.0.2 has priority 101", "1=1", FIRST[:-1] + "2", "1=4"],
        ),
        ([packet(1, 5, options=0x80), packet(1, 5, universe=2), packet(1, 5, start_code=0xDD)], []),
        ([b"", packet(1, 5)[:-2], packet(1, 5).replace(b"E1.17", b"E1.18"), b"\xff" * 126], []),
    ],
    ids=[
        "in order",
        "gap",
        "out of order",
        "from the start",
        "not yet silent",
        "silent",
        "again",
        "end",
        "many",
        "highest level",
        "priority",
        "not for the stage",
        "nonsense",
    ],
)
async def test_by_the_rules_of_the_standard(
    net: SimulatedNetwork,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    payloads: list[bytes | float],
    lines: list[str],
) -> None:
    assert await heard(net, monkeypatch, capsys, *payloads) == lines
