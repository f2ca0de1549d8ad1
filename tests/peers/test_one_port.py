"""What docs/how-to/one-port-with-avahi.md says of a port that several programs have: its table, its code, and Avahi."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from support.avahi import avahi
from trio_ipv4 import open_udp

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab, LabHost

PAGE: Final = (Path(__file__).parents[2] / "docs/how-to/one-port-with-avahi.md").read_text(encoding="utf-8")
MDNS, PORT = "224.0.0.251", 5353
IDENTIFIER: Final = b"\x12\x34"
NAME: Final = b"\x0a_trio-ipv4\x04_tcp\x05local\0"
QUESTION: Final = IDENTIFIER + b"\0\0" + b"\0\1" + bytes(6) + NAME + b"\0\x0c\0\1"
"""For pointers (RFC 1035 section 4.1)."""
WAYS: Final = {
    "neither option": (),
    "SO_REUSEADDR": (socket.SO_REUSEADDR,),
    "SO_REUSEPORT": (socket.SO_REUSEPORT,),
    "both": (socket.SO_REUSEADDR, socket.SO_REUSEPORT),
}


def function(name: str) -> Any:
    """Return a function of a block of code of the page."""
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f"def {name}(" in each]
    names: dict[str, Any] = {}
    exec(block, names)
    return names[name]


def bind(way: str) -> socket.socket | PacketConn:
    """Open a socket on the port, in one of the ways of the table."""
    if way == "`share_port=True`":
        return open_udp("0.0.0.0", PORT, share_port=True)
    bare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for option in WAYS[way]:
            bare.setsockopt(socket.SOL_SOCKET, option, 1)
        bare.setblocking(False)
        bare.bind(("0.0.0.0", PORT))
    except OSError:
        bare.close()
        raise
    return bare


def can_bind(way: str) -> str:
    try:
        bind(way).close()
    except OSError:
        return "no"
    return "yes"


def rows() -> list[list[str]]:
    lines = re.findall(r"^\| (.*(?:yes|no)) \|$", PAGE, re.MULTILINE)
    assert len(lines) == 5
    return [line.split(" | ") for line in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
async def test_who_binds_beside_whom_is_as_the_page_has_it(row: list[str]) -> None:
    first, *answers = row
    with contextlib.closing(bind(re.sub(r", same user| \(.*\)", "", first))):
        then = ("SO_REUSEADDR", "SO_REUSEPORT", "both", "`share_port=True`")
        assert [can_bind(way) for way in then] == answers


@pytest.mark.parametrize("order", list(itertools.permutations(("SO_REUSEADDR", "both", "`share_port=True`"))))
async def test_of_equals_the_last_to_bind_gets_unicast(order: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(contextlib.closing(bind(way))) for way in order]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(10):
                stranger.sendto(b"x", ("127.0.0.1", PORT))
        assert [queued(each) for each in bound] == [0, 0, 10]


def queued(each: socket.socket | PacketConn) -> int:
    """Count what has arrived."""
    with socket.socket(
        fileno=socket.dup(each.fileno() if isinstance(each, socket.socket) else each.socket.fileno())
    ) as s:
        for number in itertools.count():
            try:
                s.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return number
    raise AssertionError


# Beside Avahi


async def reaches_avahi(a: LabHost, b: LabHost, *, within: float = 20) -> bool:
    """Ask Avahi by unicast, from a port of one's own; only for a test of silence, wait a second."""
    async with a.call(open_udp) as conn:
        await conn.send_to(QUESTION, (b.addresses[0], PORT))
        with trio.move_on_after(within):
            while (await conn.receive()).peer[0] != "198.18.0.2":
                pass
            return True
    return False


async def test_who_is_bound_to_the_group_takes_no_unicast_from_avahi(
    lab: Lab, needs_avahi: None, tmp_path: Path
) -> None:
    a, b = lab["a"], lab["b"]
    async with avahi(b, tmp_path):
        assert await reaches_avahi(a, b)
        async with b.call(open_udp, MDNS, PORT, bind_group=True) as conn, conn.joined("en0", MDNS):
            assert await reaches_avahi(a, b)
        # All other ways to share the port take it away.
        async with b.call(open_udp, "0.0.0.0", PORT, share_port=True) as conn:
            assert not await reaches_avahi(a, b, within=1)
            assert (await conn.receive()).payload == QUESTION
        async with b.call(open_udp, "0.0.0.0", PORT, share_port=True, interface="en0"):
            assert not await reaches_avahi(a, b, within=1)
        assert await reaches_avahi(a, b)


async def test_avahi_started_later_takes_unicast_from_us(lab: Lab, needs_avahi: None, tmp_path: Path) -> None:
    a, b = lab["a"], lab["b"]
    async with b.call(open_udp, "0.0.0.0", PORT, share_port=True), avahi(b, tmp_path):
        assert await reaches_avahi(a, b)


async def printed_by(capsys: pytest.CaptureFixture[str], *run: Any, until: Callable[[str], bool]) -> str:
    """Run a function until it has printed what is waited for."""
    said = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(*run)
        with trio.fail_after(20):
            while not until(said):
                await trio.sleep(0.02)
                said += capsys.readouterr().out
        nursery.cancel_scope.cancel()
    return said


async def test_the_page_s_browser_sends_from_port_5353_and_hears_avahi(
    lab: Lab, needs_avahi: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = lab["a"], lab["b"]
    async with avahi(b, tmp_path):
        browse = function("browse")
        said = await printed_by(capsys, a.run, browse, "en0", QUESTION, until=lambda said: "198.18.0.2" in said)
    # Its own question comes back to it: that it came from port 5353, and from the interface's address.
    assert f"('198.18.0.1', 5353) {len(QUESTION)}\n" in said


async def test_the_page_s_legacy_question_is_answered_to_its_port_with_its_identifier(
    lab: Lab, needs_avahi: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = lab["a"], lab["b"]
    async with avahi(b, tmp_path):
        await a.run(function("ask_once"), "en0", QUESTION)
    assert re.match(r"\('198\.18\.0\.2', 5353\) b'\\x124\\x84", capsys.readouterr().out)


async def test_the_page_s_handlers_hear_avahi_announce_itself(
    lab: Lab, needs_avahi: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = lab["a"], lab["b"]

    async def announce() -> None:
        async with avahi(b, tmp_path):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        await printed_by(capsys, a.run, function("main"), until=lambda said: "en0 ('198.18.0.2', 5353)" in said)
        nursery.cancel_scope.cancel()
