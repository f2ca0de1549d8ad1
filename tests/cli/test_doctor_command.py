"""`trio-ipv4 doctor` as a command: its options, its course, what it shows, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest
import trio

from support.capabilities import NET_ADMIN, NET_RAW, without
from support.records import Kept
from support.terminal import on_terminal
from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.doctor import capabilities, evidence, examination, looks, status_of
from trio_ipv4._cli.doctor.case import Case, read_case
from trio_ipv4._cli.doctor.causes import CAUSES
from trio_ipv4._cli.doctor.decide import decide
from trio_ipv4._cli.doctor.evidence import (
    Counters,
    Evidence,
    InputRoutes,
    Links,
    OwnReceiver,
    OwnReport,
    Privileges,
    Program,
    Question,
    Routes,
    Skipped,
    Sockets,
    Unicast,
    Wire,
)
from trio_ipv4._cli.doctor.journal import Journal
from trio_ipv4._cli.doctor.records import Looking, conclude
from trio_ipv4._cli.doctor.tables import Tables
from trio_ipv4._cli.doctor.verdict import Verdict
from trio_ipv4._cli.doctor.witnesses import (
    counters,
    elsewhere,
    fresh_join,
    input_routes,
    links,
    memberships,
    probe,
    program,
    router,
    routes,
    rules,
    settings,
    sockets,
)
from trio_ipv4._cli.output import JSONLines, Text
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import AsNobody, WaitUntil
    from trio_ipv4._cli.doctor.evidence import Phase
    from trio_ipv4._cli.output import Record
    from trio_ipv4.testing import Lab

COMMAND = [sys.executable, "-m", "trio_ipv4", "doctor"]
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
GROUP = IPv4Address("239.1.2.3")
PORT = 40000 + os.getpid() % 20000
"""None that tests have open at the same time, in other networks of this machine."""
TO = f"{GROUP}:{PORT}"
SENDER = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
    own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
    while True:
        own.sendto(b"x", ("239.1.2.3", int(sys.argv[2])))
        time.sleep(0.02)
"""
ESCAPE = "\x1b"


def run(*arguments: str, by: Sequence[str] = (), text: str | None = None) -> subprocess.CompletedProcess[str]:
    argv = [*by, *COMMAND, *arguments]
    return subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, timeout=DEADLINE, env=PLAIN, cwd="/"
    )


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the looks be short: what comes is not what the test is about."""
    monkeypatch.setattr(looks, "_LEAST_JOINED", 0.05)
    monkeypatch.setattr(fresh_join, "_LONG_ENOUGH", 0.05)
    monkeypatch.setattr(probe, "_LONG_ENOUGH", 0.05)


@pytest.fixture
def en0() -> int:
    """An interface in this test's own network, whose other end is silent; its index."""
    ip("link", "add", "en0", "type", "veth", "peer", "name", "far")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("link", "set", "far", "up")
    ip("link", "set", "en0", "up")
    return socket.if_nametoindex("en0")


@pytest.fixture
def sending(lab: Lab) -> Iterator[Lab]:
    """A lab whose host "b" sends to the group."""
    with running(lab["b"].command([sys.executable, "-c", SENDER, "198.18.0.2", str(PORT)])):
        yield lab


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv) as program:
        try:
            yield program
        finally:
            program.kill()


@contextlib.contextmanager
def member(index: int) -> Iterator[socket.socket]:
    """A program's socket that has joined the group."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("", PORT))
        request = GROUP.packed + struct.pack("=4xi", index)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        yield own


def asking(index: int | None, **more: Any) -> Question:
    """A question about en0."""
    known = {"group": GROUP, "port": PORT, "interface": "en0", "ifindex": index, "named": True, "seconds": 0.05}
    known["privileges"] = capabilities.look()
    return Question(**{**known, **more})


async def examined(question: Question, at: Callable[[Record], object] = lambda _: None) -> tuple[Case, Kept]:
    """Examine, and return all that was found and shown. Something may be done at each record."""
    kept = Kept()

    def show(record: Record) -> None:
        kept.show(record)
        at(record)

    return await examination.examine(question, show), kept


def needs(case: Case) -> dict[str, str]:
    return {each.witness: each.needs for each in case.skipped}


def witnesses(case: Case, phase: Phase | None = None) -> list[str]:
    return [each.witness for each in case.evidence if phase in {None, each.phase}]


# Usage


@pytest.mark.pure
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name GROUP:PORT"),
        (("239.1.2.3",), "GROUP:PORT"),
        (("198.18.0.1:5000",), "must be a group"),
        ((TO, "--source", "239.1.1.1"), "must be the address of one host"),
        ((TO, "--receiver", "198.18.0.2"), "--receiver goes with --sender"),
        ((TO, "--sender", "--router"), "--sender and --router can't go together"),
        ((TO, "--sender", "--probe"), "--probe is for the host that should receive"),
        ((TO, "--router", "--probe"), "--probe is for the host that should receive"),
        ((TO, "--pid", "0"), "from 1 to 4194304"),
        ((TO, "--pid", "4194304"), "there is no process 4194304"),  # PID_MAX_LIMIT: numbers stay below it.
        ((TO, "--interface", ""), "must be the name of an interface, as en0, got ''"),
        ((TO, "--for", "0s"), "must be a duration"),
        ((TO, "--read", "stored"), "GROUP:PORT is what the file of --read says already"),
        *(
            (("--read", "stored", *option.split()), f"{option.split()[0]} is what the file of --read says already")
            for option in (
                "--interface en0",
                "--source 198.18.0.1",
                "--pid 1",
                "--for 3s",
                "--sender",
                "--receiver 198.18.0.1",
                "--router",
                "--probe",
            )
        ),
    ],
)
def test_wrong_usage_is_told_before_anything_is_looked_at(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.pure
def test_the_status_says_whether_a_cause_is_named() -> None:
    def status(code: str, certainty: Any) -> list[int]:
        return [status_of(Verdict(code, certainty, ""), strict=strict) for strict in (False, True)]

    assert status("healthy", "proved") == status("healthy", "likely") == [0, 0]
    assert status("reverse-path-filter", "proved") == [1, 1]
    assert status("reverse-path-filter", "likely") == [1, 3]
    assert status("cannot-tell", "cannot-tell") == [3, 3]


# What it shows

FOUND = Verdict(
    "snooping-without-querier",
    "likely",
    "239.1.2.3:5000 on en0: not received. Cause: a switch that snoops, and nobody queries (likely).",
    ("The wire showed nothing, before and after our own join, in all the time that it was looked at.", "No query."),
    others=("pruned-by-another", "not-yet-known"),
    needs=("trio-ipv4 doctor 239.1.2.3:5000 --interface en0 --source 198.18.0.1 --for 130s", "Look at the switch."),
    fix=("Turn on the IGMP querier of the switch, or turn its snooping off, or both of them.", "ip link set br0"),
    in_any_case=("receive-buffer-overflow",),
    disturbed=("Our report has revived the flow.",),
)
LOOKED = Case(
    Question(GROUP, PORT),
    (Wire(), evidence.IGMP(), Links(), Sockets(phase="joined"), evidence.Rules(phase="after")),
    (Skipped("program", "--pid"), Skipped("rules", "CAP_NET_ADMIN")),
)
TOLD = f"""\
{FOUND.text}

  {FOUND.evidence[0]}
  No query.

  It could also be: {CAUSES["pruned-by-another"].title}; not-yet-known.
  To be sure:
    trio-ipv4 doctor 239.1.2.3:5000 --interface en0 --source 198.18.0.1 --for 130s
    Look at the switch.
  To mend it, one of these:
    {FOUND.fix[0]}
    ip link set br0
  Also wrong: {CAUSES["receive-buffer-overflow"].title}.

  Our report has revived the flow.

  Looked at: tables, wire.
  Not looked at: program (needs --pid), firewall rules (needs CAP_NET_ADMIN).
"""


@pytest.mark.pure
def test_in_a_pipe_the_finding_comes_first_and_each_sentence_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Text().show(conclude(LOOKED, FOUND))
    assert capsys.readouterr() == (TOLD, "")


@pytest.mark.pure
def test_what_is_left_out_leaves_no_gap(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = Verdict("cannot-tell", "cannot-tell", "Cannot tell.", others=("not-on-the-wire",), needs=("Ask root.",))
    Text().show(conclude(Case(LOOKED.question), verdict))
    title = CAUSES["not-on-the-wire"].title
    assert capsys.readouterr().out == (f"Cannot tell.\n\n  It is one of: {title}.\n  This would tell:\n    Ask root.\n")
    Text().show(conclude(Case(LOOKED.question), Verdict("healthy", "proved", "Received.")))
    assert capsys.readouterr().out == "Received.\n"


@pytest.mark.pure
def test_a_narrow_terminal_breaks_sentences_and_no_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    Text().show(conclude(LOOKED, FOUND))
    shown = capsys.readouterr().out
    assert f"{ESCAPE}[1;33m" in shown.splitlines()[0]
    lines = re.sub(rf"{ESCAPE}\[[0-9;]*m", "", shown).splitlines()
    command = f"    {FOUND.needs[0]}"
    assert command in lines
    assert max(len(line) for line in lines if line != command) <= 60
    assert all(line == line.rstrip() for line in lines)
    # Whatever stands further right goes on there, and every word is there.
    assert [line for line in lines if line.startswith("    ") and "snooping off, or both" in line]
    assert " ".join(" ".join(lines).split()) == " ".join(TOLD.split())


@pytest.mark.pure
def test_as_json_it_is_one_object_with_what_was_concluded(capsys: pytest.CaptureFixture[str]) -> None:
    JSONLines().show(conclude(LOOKED, FOUND))
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert shown.pop("event") == "verdict"
    assert shown.pop("looked_at") == ["tables", "wire"]
    assert shown.pop("not_looked_at") == ["program (needs --pid)", "firewall rules (needs CAP_NET_ADMIN)"]
    assert shown == json.loads(json.dumps(attrs.asdict(FOUND)))


@pytest.mark.pure
@pytest.mark.parametrize(
    ("code", "certainty", "style"),
    [
        ("healthy", "proved", "bold green"),
        ("interface-down", "proved", "bold red"),
        ("interface-down", "likely", "bold yellow"),
        ("cannot-tell", "cannot-tell", "bold"),
    ],
)
def test_colours_say_how_sure_it_is(code: str, certainty: Any, style: str) -> None:
    assert conclude(LOOKED, Verdict(code, certainty, "x")).lines()[0].style == style


@pytest.mark.pure
def test_every_witness_has_a_name_for_people() -> None:
    kinds = [kind for kind in vars(evidence).values() if isinstance(kind, type) and issubclass(kind, Evidence)]
    seen = tuple(kind() for kind in kinds if kind is not Evidence)
    for each in seen:
        assert len(conclude(Case(LOOKED.question, (each,)), FOUND).looked_at) == 1, each
    names = conclude(Case(LOOKED.question, seen), FOUND).looked_at
    assert (len(set(names)), names[0]) == (len(names), "tables")


@pytest.mark.pure
def test_the_manual_has_every_key_of_every_witness() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/cli/doctor.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    for kind in vars(evidence).values():
        if isinstance(kind, type) and issubclass(kind, Evidence) and kind is not Evidence:
            witness = attrs.fields_dict(kind)["witness"].default
            missing = keys_of(kind) - {"witness", "phase"} - set(re.findall(r"`(\w+)`", rows[witness]))
            assert not missing, (witness, missing)


def keys_of(kind: type) -> set[str]:
    """The keys of a class's objects, and of those within."""
    found = set()
    for field in attrs.fields(attrs.resolve_types(kind)):
        found.add(field.name)
        for inner in getattr(field.type, "__args__", ()):
            if attrs.has(inner):
                found |= keys_of(inner)
    return found


# What may be looked at


@pytest.mark.pure
@pytest.mark.parametrize(
    ("numbers", "allowed"),
    [
        ((), Privileges()),
        ((12,), Privileges(net_admin=True)),
        ((13,), Privileges(net_raw=True)),
        ((19,), Privileges(ptrace=True)),
        ((38,), Privileges()),
        ((39,), Privileges()),
        ((38, 39), Privileges(bpf=True)),
        ((21,), Privileges(bpf=True)),
        (range(41), Privileges(net_raw=True, net_admin=True, bpf=True, ptrace=True)),
    ],
)
def test_the_effective_capabilities_are_read(numbers: Sequence[int], allowed: Privileges) -> None:
    mask = sum(1 << number for number in numbers)
    assert capabilities.parse(f"Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask:016x}\nCapBnd:\tff\n") == allowed


def test_the_privileges_are_those_of_the_user(as_nobody: AsNobody) -> None:
    script = "from trio_ipv4._cli.doctor import capabilities; print(capabilities.look())"
    argv = [sys.executable, "-c", script]
    nobody = subprocess.run(as_nobody(argv), capture_output=True, text=True, check=True).stdout
    assert nobody == f"{Privileges()}\n"
    assert capabilities.look() == Privileges(net_raw=True, net_admin=True, bpf=True, ptrace=True)
    with without(NET_RAW):
        assert capabilities.look() == Privileges(net_admin=True, bpf=True, ptrace=True)


async def test_what_may_not_be_looked_at_is_told_with_what_it_needs(en0: int, quick: None) -> None:
    with without(NET_RAW, NET_ADMIN):
        case, kept = await examined(asking(en0))
    assert {"wire": "CAP_NET_RAW", "rules": "CAP_NET_ADMIN", "program": "--pid"}.items() <= needs(case).items()
    assert [each for each in kept.records if isinstance(each, Skipped)] == list(case.skipped)
    assert case.get(Wire) is None
    heard = case.get(OwnReceiver, "joined")
    assert heard is not None
    assert heard.raw is None


# Its course


async def test_nothing_is_joined_before_the_look_is_over_and_nothing_stays(en0: int, quick: None) -> None:
    there: dict[str, bool] = {}

    def note(record: Record) -> None:
        if isinstance(record, Evidence):
            there[f"{record.witness} {record.phase}"] = (en0, GROUP) in igmp_groups()

    case, _ = await examined(asking(en0), note)
    joined = {name for name, is_joined in there.items() if is_joined}
    assert joined >= {"own_receiver joined", "membership joined", "sockets joined", "test_join test_join"}
    assert not joined & {name for name in there if name.endswith((" before", " after"))}
    assert {"wire before", "twins before", "counters before", "sockets before", "router after"} <= there.keys()
    assert set(igmp_groups()) == {(index, IPv4Address("224.0.0.1")) for _, index in interfaces_up()}
    own = case.get(OwnReceiver, "joined")
    assert own is not None
    assert (own.heard, own.refused, own.members_before) == ((), None, False)


def interfaces_up() -> list[tuple[str, int]]:
    return [(name, index) for index, name in socket.if_nameindex()]


@pytest.mark.parametrize("role", ["sender", "router"])
async def test_on_a_sender_s_host_and_on_a_router_nothing_is_joined(en0: int, role: Any, quick: None) -> None:
    joined: list[Any] = []
    case, _ = await examined(asking(en0, role=role), lambda _: joined.extend(key for key in igmp_groups()))
    assert {str(group) for _, group in joined} == {"224.0.0.1"}
    assert {"wire", "twins", "counters", "sockets", "igmp"} <= set(witnesses(case, "before"))
    assert not {"own_receiver", "test_join", "own_report", "unicast"} & set(witnesses(case))
    assert ("program" in needs(case)) is (role == "sender")


async def test_without_an_interface_it_looks_and_joins_nothing(quick: None) -> None:
    case, _ = await examined(asking(None, interface="nonsense"))
    assert {"wire", "twins", "links", "routes"} <= set(witnesses(case, "before"))
    assert not {"own_receiver", "test_join", "input_route"} & set(witnesses(case))


def test_an_interface_that_is_not_there_is_no_error(en0: int) -> None:
    ip("link", "property", "add", "dev", "en0", "altname", "wan")
    assert examination.choose_interface("en0", GROUP) == ("en0", en0)
    assert examination.choose_interface("wan", GROUP) == ("en0", en0)
    assert examination.choose_interface("nonsense", GROUP) == ("nonsense", None)
    assert examination.choose_interface(None, GROUP) == (None, None)
    ip("route", "add", "224.0.0.0/4", "dev", "en0")
    assert examination.choose_interface(None, GROUP) == ("en0", en0)


async def test_every_kind_of_evidence_comes_once_in_a_phase(en0: int, quick: None) -> None:
    with member(en0):
        case, kept = await examined(asking(en0, probe=True, pid=os.getpid(), source=IPv4Address("198.18.0.9")))
    found = [(each.witness, each.phase) for each in case.evidence]
    assert len(found) == len(set(found))
    assert [each for each in kept.records if isinstance(each, Evidence)] == list(case.evidence)
    begun = [each.phase for each in kept.records if isinstance(each, Looking)]
    assert begun == ["before", "joined", "test_join", "probe"]


@pytest.fixture
def other_program(wait_until: WaitUntil) -> Iterator[int]:
    """A program that holds the port; its number."""
    script = """
import signal, socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
own.bind(("", int(sys.argv[1])))
signal.pause()
"""
    with running([sys.executable, "-c", script, str(PORT)]) as program:
        wait_until(lambda: f":{PORT:04X} " in Path("/proc/thread-self/net/udp").read_text(encoding="ascii"))
        yield program.pid


async def test_our_own_sockets_are_none_of_the_user_s(en0: int, other_program: int, quick: None) -> None:
    case, _ = await examined(asking(en0))
    phases: tuple[Phase, ...] = ("before", "joined")
    for phase in phases:
        found = case.get(Sockets, phase)
        assert found is not None
        assert [each.pids for each in found.sockets] == [(other_program,)]


async def test_the_source_is_asked_about_before_and_after_and_knocked_at(en0: int, quick: None) -> None:
    source = IPv4Address("198.18.0.9")
    case, _ = await examined(asking(en0, source=source))
    for phase in ("before", "joined"):
        answers, ways = case.get(InputRoutes, phase), case.get(Routes, phase)
        assert answers is not None
        assert source in [each.source for each in answers.answers]
        assert ways is not None
        assert source in [each.destination for each in ways.ways]
    knocked = case.get(Unicast, "probe")
    assert knocked is not None
    assert knocked.neighbour in {"incomplete", "failed"}


@pytest.mark.parametrize("probed", [False, True])
async def test_a_report_of_our_own_is_sent_only_if_the_user_wants_it(en0: int, probed: bool, quick: None) -> None:
    with member(en0):
        case, _ = await examined(asking(en0, probe=probed))
    assert (case.get(OwnReport, "probe") is not None) is probed
    assert ("own_report" in needs(case)) is not probed
    sent = case.get(evidence.IGMP, "probe")
    if probed:
        assert sent is not None
        assert [str(group) for each in sent.messages if each.outgoing for group in each.groups].count(str(GROUP)) >= 1
    # Where nobody was a member before, our own join has reported already.
    case, _ = await examined(asking(en0, probe=probed))
    assert "own_report" not in {*witnesses(case), *needs(case)}


async def test_no_report_says_what_is_no_longer_true(en0: int, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "OwnReceiverWitness", failing(OSError(5, "Input/output error")))
    with contextlib.ExitStack() as stack:
        stack.enter_context(member(en0))

        def leave(record: Record) -> None:
            if isinstance(record, Looking) and record.phase == "probe":
                stack.close()

        case, kept = await examined(asking(en0, probe=True), leave)
    assert "probe" in [each.phase for each in kept.records if isinstance(each, Looking)]
    assert "own_report" not in {*witnesses(case), *needs(case)}


def test_only_sources_of_the_group_that_came_in_are_asked_about(en0: int) -> None:
    def flow(last: int, **more: Any) -> evidence.Flow:
        known = {"direction": "in", "destination": GROUP, "port": PORT, "ttl": 1, "number": 1}
        return evidence.Flow(ifindex=en0, source=IPv4Address(f"198.18.0.{last}"), **{**known, **more})

    journal = Journal(asking(en0), lambda _: None)
    came = (flow(9), flow(8, direction="unicast"), flow(7, port=None, fragment="later"))
    others = (flow(6, direction="out"), flow(5, port=PORT + 1), flow(4, destination=IPv4Address("239.1.2.4")))
    journal.add(Wire(flows=came), Wire(flows=others, phase="joined"))
    journal.add(evidence.Twins(heard=(evidence.HeardFrom(IPv4Address("198.18.0.3"), en0, 1),)))
    Tables(journal).ask_about_sources()
    ways = journal.get(Routes, "joined")
    assert ways is not None
    assert [int(each.destination) & 0xFF for each in ways.ways] == [3, 7, 8, 9]


async def test_behind_a_router_it_is_the_router_that_is_looked_for(en0: int, quick: None) -> None:
    ip("route", "add", "198.18.9.0/24", "via", "198.18.0.66")
    case, _ = await examined(asking(en0, source=IPv4Address("198.18.9.1")))
    knocked = case.get(Unicast, "probe")
    assert knocked is not None
    assert str(knocked.hop) == "198.18.0.66"


async def test_the_program_is_looked_at_twice_before_we_join(en0: int, quick: None) -> None:
    order: list[str] = []

    def note(record: Record) -> None:
        if isinstance(record, Program | Looking):
            order.append(record.phase if isinstance(record, Looking) else f"program {record.phase}")

    with member(en0) as own:
        case, _ = await examined(asking(en0, pid=os.getpid()), note)
        assert order[:4] == ["program before", "before", "program joined", "joined"]
        for phase in ("before", "joined"):
            seen = case.get(Program, phase)
            assert seen is not None
            assert own.fileno() in [each.descriptor for each in seen.sockets]


async def test_a_process_that_is_not_there_is_evidence(en0: int, quick: None) -> None:
    case, _ = await examined(asking(en0, pid=1 << 22))
    seen = case.get(Program)
    assert seen is not None
    assert seen.state == ""
    assert "program" not in needs(case)


async def test_what_is_heard_is_what_was_sent(sending: Lab) -> None:
    """The witnesses agree, and all of it was heard: they began and ended together."""
    done = run(TO, "--interface", "en0", "--for", "300ms", "--json", by=sending["a"].command([]))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [records[0]["event"], records[-1]["event"]] == ["start", "verdict"]
    case = read_case(done.stdout.splitlines())
    heard, wire, counted = case.get(OwnReceiver, "joined"), case.get(Wire, "joined"), case.get(Counters, "joined")
    assert heard is not None
    assert wire is not None
    assert counted is not None
    (ours,) = heard.heard
    assert (str(ours.source), ours.ttl) == ("198.18.0.2", 1)
    assert 1 <= ours.number <= 50 * heard.seconds + 1  # Fifty a second.
    (flow,) = (each for each in wire.flows if each.direction == "in" and each.port == PORT)
    assert abs(flow.number - ours.number) <= 3
    assert abs(counted.grown["Udp.InDatagrams"] - ours.number) <= 3


# Whatever fails


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


class Failing:
    """A witness that hears until it fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("", [ExceptionGroup("", [self._error])])

    def take(self, _: Phase) -> Any:
        raise self._error

    def messages(self) -> Any:
        raise self._error


PLACES: dict[str, list[tuple[Any, str]]] = {
    "links": [(links, "look")],
    "settings": [(settings, "look")],
    "routes": [(routes, "look")],
    "membership": [(memberships, "look")],
    "input_route": [(input_routes, "look")],
    "elsewhere": [(elsewhere, "look")],
    "program": [(program, "look")],
    "sockets": [(sockets, "look"), (sockets, "Sampler")],
    "counters": [(counters, "read")],
    "wire": [(looks, "open_wire")],
    "drops": [(looks, "open_drops")],
    "twins": [(looks, "TwinsWitness")],
    "own_receiver": [(looks, "OwnReceiverWitness")],
    "test_join": [(fresh_join, "look")],
    "own_report": [(probe, "report")],
    "unicast": [(probe, "unicast")],
    "rules": [(rules, "look")],
    "router": [(router, "look")],
}
"""Where witnesses are called."""
NEEDING = {
    "wire": {"igmp", "own_report"},
    "links": {"own_report"},
    "membership": {"own_report"},
    "counters": {"test_join"},
    "rules": {"bridges"},
    "router": {"input_route"},
}
"""Who can't look without another."""


@pytest.mark.parametrize(
    ("witness", "error", "said"),
    [
        *((each, OSError(5, "Input/output error"), "Input/output error") for each in PLACES),
        ("wire", PermissionError(1, "Not permitted"), "CAP_NET_RAW"),
        ("own_report", PermissionError(1, "Not permitted"), "CAP_NET_RAW"),
        ("drops", PermissionError(1, "Not permitted"), "CAP_BPF and CAP_PERFMON"),
        ("rules", PermissionError(1, "Not permitted"), "CAP_NET_ADMIN"),
        ("links", PermissionError(1, "Not permitted"), "Not permitted"),
        ("drops", UnsupportedError("BTF", "this"), "BTF"),
        ("counters", UnsupportedError("/proc", "this"), "/proc"),
    ],
)
async def test_a_witness_that_fails_leaves_the_others(
    witness: str, error: Exception, said: str, en0: int, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in PLACES[witness]:
        monkeypatch.setattr(place, name, failing(error))
    source = IPv4Address("198.18.0.9")
    with member(en0):
        case, _ = await examined(asking(en0, probe=True, pid=os.getpid(), source=source))
    skipped = needs(case)
    assert said in skipped.pop(witness)
    # Nobody else is missing, but those that need this one.
    needing = NEEDING.get(witness, set())
    assert skipped.keys() <= needing
    assert witness not in witnesses(case)
    assert {*PLACES, "igmp", "bridges"} - needing - {witness} <= set(witnesses(case))


@pytest.mark.parametrize("witness", ["wire", "twins", "own_receiver", "sockets", "drops"])
async def test_a_witness_may_fail_while_it_hears(
    witness: str, en0: int, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = PLACES[witness][-1]
    monkeypatch.setattr(place, name, lambda *_, **__: Failing(OSError(100, "Network is down")))
    case, _ = await examined(asking(en0))
    assert needs(case)[witness] == "Network is down"
    assert witness not in witnesses(case)
    assert "router" in witnesses(case)


async def test_a_mistake_of_ours_is_not_hidden(en0: int, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_join, "look", failing(KeyError("ours")))
    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        await examined(asking(en0))
    assert (en0, GROUP) not in igmp_groups()


# Stored evidence


async def test_what_is_written_can_be_read_again(
    en0: int, quick: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with member(en0):
        question = asking(en0, probe=True, pid=os.getpid(), source=IPv4Address("198.18.0.9"))
        output = JSONLines()
        output.show(question)
        case = await examination.examine(question, output.show)
        output.show(conclude(case, decide(case)))
    written = capsys.readouterr().out
    assert read_case(written.splitlines(), whole=True) == case
    stored = tmp_path / "evidence.jsonl"
    stored.write_text(written)
    by_name, by_pipe = run("--read", str(stored)), run("--read", "-", text=written)
    assert by_name.stdout == by_pipe.stdout != ""
    assert by_name.stderr == ""
    (verdict,) = map(json.loads, run("--read", str(stored), "--json").stdout.splitlines())
    assert by_name.stdout.startswith(f"{verdict['text']}\n")
    assert verdict["event"] == "verdict"
    # A part of the evidence may suggest what the rest refutes.
    lines = written.splitlines(keepends=True)
    for length in (1, len(lines) // 2, len(lines) - 1):
        stored.write_text("".join(lines[:length]))
        cut = run("--read", str(stored))
        assert (cut.returncode, cut.stdout) == (5, "")
        assert "it ends before the verdict" in cut.stderr


@pytest.mark.pure
@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("", 'there is no line with the event "start"'),
        ("nonsense\n", "line 1"),
        ("[" * 100_000, ""),
        ('{"event": "start"}\n', "line 1"),
        ("\n", "line 1"),
        ("\xff", "line 1"),
    ],
)
def test_a_file_that_is_none_is_told(stored: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "stored"
    path.write_bytes(stored.encode("latin-1"))
    done = run("--read", str(path))
    assert (done.returncode, done.stdout) == (5, "")
    assert "has written" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.pure
def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    missing = run("--read", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (5, "")
    assert "No such file" in missing.stderr


# Its end


def test_on_a_terminal_it_says_what_goes_on_and_then_the_finding(sending: Lab) -> None:
    argv = sending["a"].command([*COMMAND, TO, "--interface", "en0", "--for", "300ms"])
    with on_terminal(argv) as screen:
        shown = screen.read_to_end()
    assert screen.process.returncode in {0, 1, 3}
    plain = re.sub(rf"{ESCAPE}\[[0-9;]*m", "", shown)
    assert plain.startswith(f"Looking at {TO} on en0 for 0.3 s, without joining.\nJoining {TO} on en0 for 1.5 s.\n{TO}")
    assert f"{ESCAPE}[1" in shown


def test_in_a_pipe_progress_is_no_part_of_the_finding(sending: Lab) -> None:
    done = run(TO, "--interface", "en0", "--for", "300ms", by=sending["a"].command([]))
    assert done.stdout.startswith(f"{TO} on en0: ")
    assert ESCAPE not in done.stdout + done.stderr
    assert done.stderr == f"Looking at {TO} on en0 for 0.3 s, without joining.\nJoining {TO} on en0 for 1.5 s.\n"


def test_without_any_privilege_it_works(sending: Lab, as_nobody: AsNobody) -> None:
    argv = sending["a"].command(as_nobody([*COMMAND, TO, "--interface", "en0", "--for", "300ms", "--json"]))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.stderr == ""
    assert done.returncode in {0, 3}
    case = read_case(done.stdout.splitlines())
    assert needs(case) == {
        "wire": "CAP_NET_RAW",
        "drops": "CAP_BPF and CAP_PERFMON",
        "program": "--pid",
        "rules": "CAP_NET_ADMIN",
    }
    heard = case.get(OwnReceiver, "joined")
    assert heard is not None
    assert heard.heard


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_verdict(number: int, status: int, lab: Lab) -> None:
    argv = lab["a"].command([*COMMAND, TO, "--interface", "en0", "--for", "300ms", "--json"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        shown = []
        for line in command.stdout:
            shown.append(json.loads(line))
            if shown[-1].get("phase") == "joined" and shown[-1]["event"] == "looking":
                command.send_signal(number)
        _, told = command.communicate(timeout=DEADLINE)
    assert (command.returncode, told) == (status, "")
    assert "verdict" not in [each["event"] for each in shown]
    assert lab["a"].ip("maddress", "show").find(str(GROUP)) < 0


@pytest.mark.pure
def test_a_file_without_an_end_is_refused_and_not_kept() -> None:
    done = run("--read", "/dev/zero", by=["prlimit", f"--as={2 << 30}"])
    assert done.returncode == 5
    assert "a line has more than" in done.stderr
