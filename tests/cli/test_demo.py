"""`trio-ipv4 demo`: the real command in a private network, and what it says where the kernel disagrees."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ipv4
from trio_ipv4 import ControlMessage, PacketConn, open_udp
from trio_ipv4._cli.demo import story as demo
from trio_ipv4._cli.demo.events import Check, Received, Verdict
from trio_ipv4._cli.demo.page import Page
from trio_ipv4._cli.output import JSONLines
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4._cli.demo.events import Event

DEMO = [sys.executable, "-m", "trio_ipv4", "demo"]
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
CONFIRMED = "Verdict: the kernel confirms every step, in 9 checks."
INTERRUPTED = """
import signal, sys
from trio_ipv4 import _cli
from trio_ipv4._cli.output import JSONLines
from trio_ipv4.testing import igmp_groups

def interrupt(self, event):
    if event.event == "memberships" and event.when == "during":
        print(len(igmp_groups()))
        signal.raise_signal(signal.SIGINT)

JSONLines.show = interrupt
sys.argv = ["trio-ipv4", "demo", "--json"]
try:
    _cli.run()
finally:
    print(len(igmp_groups()))
"""


def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "env": PLAIN, **options}
    return subprocess.run(argv, text=True, check=False, timeout=DEADLINE, **settings)


@functools.cache
def run_once(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo, in the network of the test that asks first, where all that is asked is what it says."""
    return run([*DEMO, *arguments])


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ends_with_a_true_verdict() -> None:
    done = run_once()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == CONFIRMED
    assert "FAILED" not in done.stdout


def test_json_is_one_object_a_line_and_the_verdict_the_last() -> None:
    done = run_once("--json")
    assert (done.returncode, done.stderr) == (0, "")
    events = lines_of(done)
    assert [name for name, _ in itertools.groupby(each["event"] for each in events)] == [
        *["start", "step", "memberships", "check", "step", "memberships", "check", "step", "sent", "check"],
        *["step", "received", "check", "step", "memberships", "check", "verdict"],
    ]
    verdict = events[-1]
    assert verdict.pop("text")
    assert verdict == {"event": "verdict", "ok": True, "checks": 9, "failed": 0}
    assert sum(each["event"] == "check" and each["ok"] for each in events) == 9


def test_json_tells_each_datagram_with_its_facts() -> None:
    events = lines_of(run_once("--json"))
    (start,) = (each for each in events if each["event"] == "start")
    sent = {each["number"]: each for each in events if each["event"] == "sent"}
    received = [each for each in events if each["event"] == "received"]
    # 3 and 5 are what 127.0.0.2 sent to the groups whose receivers do not want to hear it.
    assert sorted(each["number"] for each in received) == [1, 2, 4, 6]
    assert [number for number, each in sent.items() if not each["should_arrive"]] == [3, 5]
    names = {group["address"]: group["name"] for group in start["groups"]}
    for each in received:
        origin = sent[each["number"]]
        for key in "source", "destination", "port", "ttl", "tos":
            assert each[key] == origin[key]
        assert each["receiver"] == names[each["destination"]]
        assert (each["interface"], each["ifindex"]) == ("lo", 1)
        assert each["timestamp_ns"] > 10**18
    assert len({each["ttl"] for each in sent.values()}) == 6


def test_json_tells_the_kernel_s_memberships() -> None:
    events = lines_of(run_once("--json"))
    tables = {each["when"]: each["memberships"] for each in events if each["event"] == "memberships"}
    assert (tables["before"], tables["after"]) == ([], [])
    assert [(each["interface"], each["ifindex"], each["sockets"]) for each in tables["during"]] == [("lo", 1, 1)] * 3
    assert [(each["mode"], each["sources"]) for each in tables["during"]] == [
        ("exclude", []),
        ("include", ["127.0.0.1"]),
        ("exclude", ["127.0.0.2"]),
    ]
    assert [each["group"].split(".")[0] for each in tables["during"]] == ["239", "232", "239"]


async def test_the_text_says_what_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    assert await demo.run_demo(events.append) == 0
    as_json, as_text = JSONLines().show, Page().show
    for event in events:
        as_json(event)
    lines = capsys.readouterr().out.splitlines()
    for event in events:
        as_text(event)
    text = in_one_line(capsys.readouterr().out)
    for line in map(json.loads, lines):
        # A check that passed needs no proof in the text; a time is shown as a clock's.
        hidden = {"event", "when", "mode", "ok", "should_arrive", "timestamp_ns", "source_port"}
        hidden |= {"expected", "seen"} if line["event"] == "check" else {"failed"}
        for value in leaves(line, hidden):
            assert in_one_line(f"{value:#04x}" if value == line.get("tos") else str(value)) in text


def leaves(value: object, hidden: set[str]) -> Iterator[object]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, hidden) if key not in hidden else ()
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, hidden)
    else:
        yield value


def test_fits_80_columns_without_colour_when_piped() -> None:
    done = run_once()
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert done.stdout.isascii()
    assert not re.search(r" $", done.stdout, re.MULTILINE)


def test_is_coloured_when_asked_for() -> None:
    assert "\x1b[" in run(DEMO, env={**PLAIN, "FORCE_COLOR": "1", "TERM": "xterm"}).stdout


@pytest.mark.parametrize("columns", ["30", "300"])
def test_any_width_will_do(columns: str) -> None:
    done = run(DEMO, env={**PLAIN, "COLUMNS": columns})
    assert done.returncode == 0
    assert CONFIRMED in in_one_line(done.stdout)


def test_needs_no_privilege(as_nobody: Callable[[list[str]], list[str]]) -> None:
    done = run(as_nobody([*DEMO, "--json"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(done)[-1]["ok"]


def test_several_can_run_at_once() -> None:
    running = [subprocess.Popen(DEMO, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(DEADLINE) for process in running] == [0, 0, 0]


async def test_other_people_s_memberships_do_not_matter() -> None:
    async with open_udp() as conn, conn.joined("lo", "239.255.0.1"):
        assert run(DEMO).returncode == 0


def test_is_complete_when_nobody_reads_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(DEMO, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_leaves_and_is_status_130() -> None:
    done = run([sys.executable, "-c", INTERRUPTED])
    # The kernel itself is in 224.0.0.1.
    assert (done.returncode, done.stdout, done.stderr) == (130, "4\n1\n", "Interrupted.\n")


def test_a_refused_join_is_told_with_its_sysctl() -> None:
    Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("0")
    done = run(DEMO)
    assert done.returncode == 1
    text = in_one_line(done.stdout)
    assert text.count("net.ipv4.igmp_max_memberships is 0") == 3
    assert "FAILED The receiver of A is a member, and hears everybody. expected: 239.255." in text
    assert text.endswith("Verdict: the kernel does not confirm every step: 3 of 5 checks failed.")
    assert lines_of(run([*DEMO, "--json"]))[-1]["failed"] == 3


def test_a_loopback_that_is_down_is_told() -> None:
    set_loopback_down()
    done = run(DEMO)
    assert (done.returncode, done.stderr) == (1, "")
    assert in_one_line(done.stdout) == (
        "Verdict: the demo could not go on: the loopback interface, lo, is down; "
        "'ip link set lo up', as root, sets it up."
    )
    (verdict,) = lines_of(run([*DEMO, "--json"]))
    assert (verdict["event"], verdict["ok"]) == ("verdict", False)
    assert "lo, is down" in verdict["text"]


def set_loopback_down() -> None:
    import fcntl  # noqa: PLC0415  # Linux.
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, 0x8914, struct.pack("16sH22x", b"lo", 0))  # SIOCSIFFLAGS, linux/sockios.h


# Where the kernel disagrees: each sabotage makes one thing different from what the demo tells, and some check sees it.


def send_everything_from_the_source_that_is_heard(conn: PacketConn, address: str) -> PacketConn:
    if address != "127.0.0.2":
        return conn
    conn.close()
    return open_udp("127.0.0.1")


def hear_one_source_more(conn: PacketConn, address: str) -> PacketConn:
    joined = conn.joined
    conn.joined = lambda *where, sources: joined(*where, sources=sources.allow("127.0.0.2"))  # type: ignore[method-assign]
    return conn


def stay_a_member(conn: PacketConn, address: str) -> PacketConn:
    joined = conn.joined

    def join_and_stay(interface: Any, group: Any, *, sources: Any) -> Any:
        conn.set_source_filter(interface, group, sources)
        return joined(interface, group, sources=sources)

    conn.joined = join_and_stay  # type: ignore[method-assign]
    return conn


def send_without_control(conn: PacketConn, address: str) -> PacketConn:
    send_to = conn.send_to
    conn.send_to = lambda payload, endpoint, **_: send_to(payload, endpoint)  # type: ignore[method-assign]
    return conn


def send_another_tos(conn: PacketConn, address: str) -> PacketConn:
    send_to = conn.send_to
    conn.send_to = lambda payload, endpoint, *, control: send_to(  # type: ignore[method-assign]
        payload, endpoint, control=ControlMessage(ttl=control.ttl, tos=0)
    )
    return conn


def send_to_another_port(conn: PacketConn, address: str) -> PacketConn:
    send_to = conn.send_to
    conn.send_to = lambda payload, endpoint, **_: send_to(payload, (endpoint[0], 9))  # type: ignore[method-assign]
    return conn


def send_to_an_illegal_port(conn: PacketConn, address: str) -> PacketConn:
    send_to = conn.send_to
    conn.send_to = lambda payload, endpoint, **_: send_to(payload, (endpoint[0], 0))  # type: ignore[method-assign]
    return conn


def receive_without_facts(conn: PacketConn, address: str) -> PacketConn:
    conn.control_flags = trio_ipv4.ControlFlags(0)
    return conn


MEMBER = [f"The receiver of {name} is a member, and hears" for name in "ABC"]
HEARD = [f"The receiver of {name} heard" for name in "ABC"]


@pytest.mark.parametrize(
    ("sabotage", "failing"),
    [
        (send_everything_from_the_source_that_is_heard, HEARD),
        (hear_one_source_more, MEMBER[1:]),
        (stay_a_member, ["None of the groups has a member."]),
        (send_without_control, HEARD),
        (send_another_tos, HEARD),
        (send_to_another_port, HEARD),
        (send_to_an_illegal_port, ["The kernel took all 6 datagrams."]),
        (receive_without_facts, HEARD),
    ],
)
async def test_fails_where_the_kernel_disagrees(
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[PacketConn, str], PacketConn],
    failing: list[str],
) -> None:
    def open_sabotaged(address: str = "0.0.0.0", **options: Any) -> PacketConn:
        return sabotage(open_udp(address, **options), address)

    monkeypatch.setattr(demo, "open_udp", open_sabotaged)
    monkeypatch.setattr(demo, "PATIENCE", 0.2)
    events: list[Event] = []
    assert await demo.run_demo(events.append) == 1
    assert_failed(events, failing)


async def test_fails_if_the_kernel_s_clock_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    now = demo.time.time_ns()
    monkeypatch.setattr(demo.time, "time_ns", lambda: now + 120 * 10**9)
    events: list[Event] = []
    assert await demo.run_demo(events.append) == 1
    assert_failed(events, HEARD)
    assert all(" ns" in check.seen[0] for check in events if isinstance(check, Check) and not check.ok)


def assert_failed(events: list[Event], failing: list[str]) -> None:
    failed = [event for event in events if isinstance(event, Check) and not event.ok]
    assert len(failed) == len(failing)
    for check, beginning in zip(failed, failing, strict=True):
        assert check.what.startswith(beginning)
        assert check.expected != check.seen
    assert isinstance(events[-1], Verdict)
    assert (events[-1].ok, events[-1].failed) == (False, len(failing))


async def test_the_failure_is_shown_with_what_was_expected_and_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        demo, "open_udp", lambda *where, **options: receive_without_facts(open_udp(*where, **options), "")
    )
    monkeypatch.setattr(demo, "PATIENCE", 0.2)
    assert await demo.run_demo(Page().show) == 1
    text = in_one_line(capsys.readouterr().out)
    assert "expected: 4 from 127.0.0.1 to 232.1." in text
    assert "seen: 4 from 127.0.0.1 to None on None (None), TTL None, TOS None, stamped at None ns" in text
    assert re.search(r"4 \? 127.0.0.1 \?:\d+ \? \(\?\) \? \?", text)


async def test_what_nobody_sent_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []

    async def send_more(conn: PacketConn, *arguments: Any, **options: Any) -> None:
        await PacketConn.send_to(conn, *arguments, **options)
        await PacketConn.send_to(conn, b"more", *arguments[1:], **options)

    def open_generous(*where: Any, **options: Any) -> PacketConn:
        conn = open_udp(*where, **options)
        conn.send_to = lambda *arguments, **options: send_more(conn, *arguments, **options)  # type: ignore[method-assign]
        return conn

    monkeypatch.setattr(demo, "open_udp", open_generous)
    assert await demo.run_demo(events.append) == 1
    assert None in {event.number for event in events if isinstance(event, Received)}


async def test_without_the_kernel_s_tables_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trio_ipv4._cli.kernel_tables._TABLES", tmp_path)
    assert "in /proc/net, can't be read (No such file or directory)" in await broken_verdict()


async def test_without_loopback_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "interfaces", tuple)
    assert "has no loopback interface" in await broken_verdict()


async def test_it_ends_in_time(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    async def hang(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(demo.Story, "tell", hang)
    assert "it has not ended within 20 seconds" in await broken_verdict()


async def test_errors_of_several_tasks_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise BaseExceptionGroup("", [OSError(5, "one"), ExceptionGroup("", [OSError(5, "two")])])

    monkeypatch.setattr(demo.Story, "tell", fail)
    assert "could not go on: one; two." in await broken_verdict()


async def broken_verdict() -> str:
    events: list[Event] = []
    assert await demo.run_demo(events.append) == 1
    assert isinstance(events[-1], Verdict)
    assert not events[-1].ok
    return events[-1].text


async def test_groups_that_are_taken_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = iter(["239.255.0.1", "239.255.0.2", "232.1.0.1", "239.255.0.2", "239.255.0.3"])
    monkeypatch.setattr(demo, "_random_address", lambda _: next(addresses))
    async with open_udp() as conn, conn.joined("lo", "239.255.0.1"):
        assert len(igmp_groups()) == 2
        groups = demo._choose_groups(dict.fromkeys("ABC", 5000))
    assert [group.address for group in groups] == ["239.255.0.2", "232.1.0.1", "239.255.0.3"]
