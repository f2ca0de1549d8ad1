"""ssdp_responder.py: against MiniSSDPd and MiniUPnPc in a lab, and by hand on a simulated network."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from support.avahi import running
from support.examples import example, is_member, join_two_hosts, module
from support.peers import upnpc
from trio_ipv4 import open_udp
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Eventually
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab, SimulatedNetwork

GROUP: Final = "239.255.255.250"
UUID: Final = "01234567-89ab-cdef-0123-456789abcdef"
GATEWAY: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
KINDS: Final = ("upnp:rootdevice", GATEWAY)
NAMES: Final = [f"uuid:{UUID}", *(f"uuid:{UUID}::{kind}" for kind in KINDS)]
ARGUMENTS: Final = ["--interface", "en0", "--interface", "en1", "--uuid", UUID, "--type", GATEWAY]


async def test_a_daemon_knows_the_device_until_it_says_goodbye(
    lab: Lab, tmp_path: Path, eventually: Eventually
) -> None:
    if shutil.which("minissdpd") is None:
        pytest.skip("minissdpd is not installed")
    files = f"-s {tmp_path}/socket -p {tmp_path}/pid"
    daemon = lab["b"].command(["sh", "-c", f"exec minissdpd -d -i en0 {files} 2>&1"])
    async with running(daemon) as known:
        await eventually(lambda: is_member(lab["b"], "en0", GROUP))
        async with running(example(lab["a"], "ssdp_responder", *ARGUMENTS)) as responder:
            await responder.line_with(f"en0: here is uuid:{UUID}")
            for name in NAMES:
                await known.line_with(f"new device discovered : {name}")
            lab["a"].set_up("en0", False)
            lab["a"].set_up("en0", True)
            await responder.line_with(f"en0: here is uuid:{UUID}")
            for name in NAMES:
                await known.line_with(f"device updated : {name}")
            responder.send_signal(signal.SIGTERM)
            for name in NAMES:
                await known.line_with(f"remove device : {name}")
            assert await responder.wait() == 0


async def test_a_strangers_search_is_answered(lab: Lab) -> None:
    if shutil.which("upnpc") is None:
        pytest.skip("upnpc is not installed")
    async with running(example(lab["a"], "ssdp_responder", *ARGUMENTS)) as responder:
        await responder.line_with("en0: here is")
        async with running(lab["b"].command(upnpc())) as searcher:
            assert await searcher.line_with("desc: ") == " desc: http://198.18.0.1:8080/description.xml"
            # It gives up after 2 seconds, and then searches for others, at last for any.
            assert (await searcher.line_with("st: ")).removeprefix(" st: ") in KINDS
        assert await responder.line_with("en0: told") == f"en0: told 198.18.0.2 of {GATEWAY}"


def search(target: str, *, wait: str = "MX: 3\r\n", man: str = '"ssdp:discover"') -> bytes:
    return f"M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:1900\r\nMAN: {man}\r\n{wait}ST: {target}\r\n\r\n".encode()


def fields(payload: bytes) -> dict[str, str]:
    """The fields of a message, and its first line as "first"."""
    first, *lines = payload.decode().removesuffix("\r\n\r\n").split("\r\n")
    return {"first": first, **dict(line.split(": ") for line in lines)}


async def test_on_each_link_its_own_address_is_told(needs_lab: None) -> None:
    with open_lab(links=2) as lab:
        async with running(example(lab["a"], "ssdp_responder", *ARGUMENTS)) as responder:
            for _ in range(2):
                await responder.line_with(": here is")
            for link in range(2):
                async with lab["b"].call(open_udp) as conn:
                    conn.multicast_interface = f"en{link}"
                    await conn.send_to(search("upnp:rootdevice", wait="MX: 0\r\n"), (GROUP, 1900))
                    with trio.fail_after(20):
                        answer = await conn.receive()
                assert fields(answer.payload)["LOCATION"] == f"http://198.18.{link}.1:8080/description.xml"
                assert answer.peer[0] == f"198.18.{link}.1"


# On a simulated network


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNetwork]:
    monkeypatch.setattr(sys, "argv", ["example", *ARGUMENTS])
    with simulate(seed=3) as net:
        join_two_hosts(net)
        yield net


async def heard(conn: PacketConn, seconds: float) -> list[tuple[float, dict[str, str]]]:
    """Return what comes in so many seconds, with its time."""
    found: list[tuple[float, dict[str, str]]] = []
    with trio.move_on_after(seconds):
        async for datagram in conn:
            found += [(trio.current_time(), fields(datagram.payload))]
    return found


async def test_announcements_are_repeated_in_time_and_taken_back(
    net: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    responder = module(monkeypatch, "ssdp_responder")
    async with net["b"].call(lambda: open_udp("0.0.0.0", 1900)) as conn, conn.joined(net["b"].interfaces[0], GROUP):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net["a"].run, responder.main)
            alive = await heard(conn, 3600)
            nursery.cancel_scope.cancel()
        gone = await heard(conn, 1)
    times = [time for time, each in alive if each["USN"] == NAMES[0]]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] < 1
    assert len(pauses) >= 4
    assert all(450 <= pause <= 900.01 for pause in pauses[1:])  # Under a half of what CACHE-CONTROL says.
    for each in (fields for _, fields in alive):
        assert each["first"] == "NOTIFY * HTTP/1.1"
        assert (each["NTS"], each["HOST"], each["CACHE-CONTROL"]) == ("ssdp:alive", f"{GROUP}:1900", "max-age=1800")
        assert each["USN"] in NAMES
    assert [(each["NTS"], each["USN"]) for _, each in gone] == [("ssdp:byebye", name) for name in NAMES]


@pytest.mark.parametrize(
    ("request_", "answers", "within"),
    [
        (search("ssdp:all"), NAMES, 3),
        (search("upnp:rootdevice"), NAMES[1:2], 3),
        (search(f"uuid:{UUID}"), NAMES[:1], 3),
        (search(GATEWAY, wait="mx:1\r\n"), NAMES[2:], 1),
        (search(GATEWAY, wait="MX: 120\r\n"), NAMES[2:], 5),
        (search(GATEWAY, wait=f"MX: {'9' * 5000}\r\n"), NAMES[2:], 5),
        (search(GATEWAY, wait=""), [], 0),
        (search(GATEWAY, wait="MX: soon\r\n"), [], 0),
        (search(GATEWAY, man="ssdp:update"), [], 0),
        (search("urn:schemas-upnp-org:device:Printer:1"), [], 0),
        (b"\xff\0\r\n", [], 0),
        (b"", [], 0),
    ],
    ids=["all", "root", "uuid", "type", "long", "longer", "no MX", "bad MX", "MAN", "other", "nonsense", "empty"],
)
async def test_a_search_is_answered_by_its_rules(
    net: SimulatedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    request_: bytes,
    answers: list[str],
    within: float,
) -> None:
    responder = module(monkeypatch, "ssdp_responder")
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    async with net["b"].call(open_udp) as conn, trio.open_nursery() as nursery:
        conn.multicast_interface = net["b"].interfaces[0].index
        nursery.start_soon(net["a"].run, responder.main)
        await trio.sleep(1)
        await conn.send_to(request_, (GROUP, 1900))
        found = await heard(conn, 20)
        nursery.cancel_scope.cancel()
    assert [each["USN"] for _, each in found] == answers
    for time, each in found:
        assert time == pytest.approx(1 + 0.8 * within, abs=0.01)  # A fifth is left for the way.
        assert each["first"] == "HTTP/1.1 200 OK"
        assert each["USN"].endswith(each["ST"])
        assert each["LOCATION"] == "http://198.18.0.1:8080/description.xml"


async def test_our_own_searcher_finds_it(
    net: SimulatedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    responder, searcher = module(monkeypatch, "ssdp_responder"), module(monkeypatch, "ssdp_search")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(net["a"].run, responder.main)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(sys, "argv", ["ssdp_search", "--interface", "en0"])
        nursery.start_soon(net["b"].run, searcher.main)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert f"en0: 198.18.0.1 is uuid:{UUID}" in capsys.readouterr().out
