"""`trio-ipv4 listen` as a command: pipes, terminals, signals, files, wrong usage, and users without privilege."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.terminal import on_terminal
from trio_ipv4 import _cli
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import AsNobody, WaitUntil

pytestmark = pytest.mark.usefixtures("loopback")

GROUP, TO = "239.1.2.3", "239.1.2.3:5000"
LISTEN = [sys.executable, "-m", "trio_ipv4", "listen"]
BENCHMARK = Path(__file__).parents[2] / "tools" / "benchmarks" / "listen.py"
DEADLINE = 60
"""Seconds: no measure of anything, but an end."""
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


@pytest.fixture
def loopback(needs_lab: None) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextlib.contextmanager
def running(*arguments: str, argv: list[str] = LISTEN, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run the command on loopback until the end of the block, once it has joined."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": PLAIN, "text": True, **options}
    with subprocess.Popen([*argv, *arguments], **settings) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[Any]) -> str:
    """Return what it says on standard error at first: what it listens to."""
    assert process.stderr is not None
    return process.stderr.readline()


def send(*payloads: bytes) -> None:
    """Send from Python's own socket, in this test's network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for payload in payloads:
            sender.sendto(payload, (GROUP, 5000))


def is_member() -> bool:
    return GROUP in {str(group) for _, group in igmp_groups()}


def test_a_pipe_gets_one_line_for_each_record_and_remarks_go_elsewhere() -> None:
    with running(TO, "--interface", "lo", "--count", "3", "--print", "text") as process:
        assert said(process) == f"Listening to {TO} on lo.\n"
        send(b"one", b"two\n", b"\x1b[31m\xff")
        out, err = process.communicate(timeout=DEADLINE)
    lines = out.splitlines()
    assert [line.partition(": ")[2] for line in lines[:3]] == ["one", r"two\n", r"\x1b[31m\xff"]
    assert " 127.0.0.1:" in lines[0]
    assert f" > {TO} lo TTL 1 0x00 3: one" in lines[0]
    assert lines[3].split() == [
        *("group", "source", "interface", "datagrams/s", "bit/s", "datagrams", "lost", "dup.", "reordered"),
        *("jitter", "longest", "gap", "TTL", "TOS", "octets"),
    ]
    assert lines[4].split()[:3] == [TO, "127.0.0.1", "lo"]
    assert lines[5].startswith("3 datagrams, 13 octets, of 1 flow in ")
    assert (len(lines), err, process.returncode) == (6, "", 0)


def test_json_lines_come_while_it_runs_and_the_summary_last() -> None:
    with running(TO, "--interface", "lo", "--json", "--print", "hex", "--every", "100ms", "--for", "30s") as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert (started["event"], started["groups"], started["interfaces"]) == ("start", [TO], ["lo"])
        send(b"\x00\xff", b"")
        events = {}
        while not {"datagram", "flow"} <= events.keys():
            record = json.loads(process.stdout.readline())
            events[record["event"]] = record
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE)
    last = [json.loads(line) for line in out.splitlines()]
    assert events["datagram"]["payload"] in {"00ff", ""}
    assert events["datagram"]["payload_text"] is None
    assert (events["flow"]["source"], events["flow"]["interface"]) == ("127.0.0.1", "lo")
    assert [each["event"] for each in last[-2:]] == ["flow_total", "summary"]
    assert (last[-1]["datagrams"], last[-1]["dropped"], last[-1]["missed"]) == (2, 0, [])
    assert (process.returncode, err) == (143, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_summary_and_no_membership(number: int, status: int) -> None:
    with running(TO, "--interface", "lo") as process:
        said(process)
        assert is_member()
        process.send_signal(number)
        out, _ = process.communicate(timeout=DEADLINE)
    assert out.startswith(f"Nothing came to {TO} in ")
    assert process.returncode == status
    assert not is_member()


def test_raw_payloads_alone_go_to_standard_output() -> None:
    payloads = [bytes(range(256)), b"", b"two\n"]
    with running(TO, "--interface", "lo", "--count", "3", "--raw", text=False) as process:
        assert process.stderr is not None
        process.stderr.readline()
        send(*payloads)
        out, err = process.communicate(timeout=DEADLINE)
    assert out == b"".join(payloads)
    assert b"3 datagrams, 260 octets" in err
    assert process.returncode == 0


@pytest.mark.parametrize("how", ["--raw", "--print=hex"])
def test_it_ends_when_nobody_reads_any_more(how: str) -> None:
    with running(TO, "--interface", "lo", how) as process:
        said(process)
        assert process.stdout is not None
        process.stdout.close()
        send(b"x", b"y")
        assert process.wait(DEADLINE) == 141
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert not is_member()


def test_a_capture_is_read_by_tshark_without_complaint(tmp_path: Path) -> None:
    path = tmp_path / "heard.pcap"
    payloads = [b"one", b"", bytes(1472), bytes(9000)]
    with running(TO, "--interface", "lo", "--count", "4", "--pcap", str(path)) as process:
        said(process)
        send(*payloads)
        process.communicate(timeout=DEADLINE)
    fields = [
        *("ip.src", "ip.dst", "udp.dstport", "ip.ttl", "udp.length"),
        *("ip.checksum.status", "udp.checksum.status", "_ws.expert"),
    ]
    argv = ["tshark", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields"]
    done = subprocess.run(
        [*argv, *(word for field in fields for word in ("-e", field))], capture_output=True, text=True, check=True
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    # A checksum's status 1 is "good" (epan/proto.h: PROTO_CHECKSUM_E_GOOD).
    assert [row[:-1] for row in rows] == [
        ["127.0.0.1", GROUP, "5000", "1", str(8 + len(payload)), "1", "1"] for payload in payloads
    ]
    complaints = {complaint for row in rows for complaint in row[-1].split(",") if complaint}
    # A TTL of 1 is notable to it elsewhere than in 224.0.0.0/24.
    assert complaints <= {'"Time To Live" only 1'}, complaints


def test_a_terminal_of_60_columns_shows_who_sends_how_fast(wait_until: WaitUntil) -> None:
    arguments = [TO, "--interface", "lo", "--every", "100ms", "--for", "30s"]
    shown = {}
    for columns in (60, 160):
        with on_terminal([*LISTEN, *arguments], columns=columns, env={**PLAIN, "TERM": "xterm"}) as terminal:
            terminal.read_until("Listening to")
            send(b"x" * 100)
            terminal.read_until("127.0.0.1")
            terminal.type("\x03")
            shown[columns] = terminal.read_to_end()
        assert terminal.process.returncode == 130
    narrow, wide = shown[60], shown[160]
    for text in (narrow, wide):
        assert all(
            word in text for word in ("group", "source", "interface", "datagrams/s", TO, "127.0.0.1", "1 datagram,")
        )
    assert "longest gap" not in narrow
    assert "longest gap" in wide


def test_a_port_needs_no_privilege_and_every_port_says_what_does(as_nobody: AsNobody) -> None:
    with running("--interface=lo", "--count=1", "--json", TO, argv=as_nobody(LISTEN)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "start"
        send(b"x")
        out, err = process.communicate(timeout=DEADLINE)
    assert (json.loads(out.splitlines()[-1])["datagrams"], process.returncode, err) == (1, 0, "")


def test_every_port_without_privilege_says_what_to_do(as_nobody: AsNobody) -> None:
    done = subprocess.run(as_nobody([*LISTEN, GROUP]), capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (5, "")
    assert "needs CAP_NET_RAW: name a port, as 239.1.2.3:5000, or run as root\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "requires an argument"),
        (["198.18.0.1:5000"], "must be a group, from 224.0.0.0 to 239.255.255.255"),
        ([f"{GROUP}:0"], "must be GROUP:PORT with a port from 1 to 65535"),
        ([TO, "--source", "198.18.0.1", "--exclude", "198.18.0.2"], "--source alone hears nobody else"),
        ([TO, "--source", "nobody"], "must be an IPv4 address"),
        ([TO, "--raw", "--json"], "--json --print hex has the payloads, too"),
        ([TO, GROUP], f"{GROUP} without a port has all of {TO} already: name one of them"),
        ([TO, "--count", "0"], "must be a whole number from 1"),
        ([TO, "--expect", "-1"], "must be a whole number from 0"),
        ([TO, "--print", "octal"], "octal"),
        ([TO, "--buffer", "0"], "must be a whole number from 1"),
        ([TO, "--source", GROUP], "must be the address of one host"),
    ],
)
def test_wrong_usage_says_what_is_right(
    arguments: list[str], advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-ipv4", "listen", *arguments])
    with pytest.raises(SystemExit) as end:
        _cli.run()
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert advice in shown.err
    assert "trio-ipv4 listen --help" in shown.err


def test_a_new_user_finds_in_the_help_who_sends_here_and_whether_anything_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-ipv4", "listen", "--help"])
    with pytest.raises(SystemExit) as end:
        _cli.run()
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "trio-ipv4 listen 239.1.2.3:5000     who sends here? is anything lost?" in shown
    for option in ("interface", "source", "exclude", "count", "for", "every", "expect", "print", "raw", "pcap", "json"):
        assert f"--{option}" in shown


def test_the_benchmark_runs_and_finds_every_datagram() -> None:
    argv = [sys.executable, BENCHMARK, "--seconds", "0.2", "--rates", "1000"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert re.findall(r"(\d+) counted +0 dropped", done.stdout) == re.findall(r"(\d+) counted", done.stdout)
    assert done.stdout.count("ns of processor time each") == 2
