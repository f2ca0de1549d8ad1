"""`trio-ipv4 lab`: a private network from the command line, for root and for a plain user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from support.records import Kept
from support.terminal import on_terminal
from trio_ipv4 import _cli
from trio_ipv4._cli import lab as lab_command
from trio_ipv4._cli.lab import hold, notes, privilege, running, way_in, words
from trio_ipv4._cli.lab.hold import Plan
from trio_ipv4._cli.lab.lines import LONGEST, Lines
from trio_ipv4._cli.lab.notes import Note, own_note, written
from trio_ipv4._cli.lab.records import ErrorLine, Exited, HostInterface, Line
from trio_ipv4._cli.lab.words import HostCommand, HostNames
from trio_ipv4._cli.output import JSONLines, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import AsNobody

    Call = Callable[..., tuple[int, str, str]]
    from trio_ipv4._cli.output import Record

LAB = [sys.executable, "-m", "trio_ipv4", "lab"]
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
# Root without CAP_SYS_ADMIN, as in a container; who maps root must have CAP_SETFCAP (user_namespaces(7)).
AS_CONTAINER_ROOT = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]

MEMBER = """
import socket, time
conn = socket.socket(type=socket.SOCK_DGRAM)
group, own = map(socket.inet_aton, ('239.1.2.3', '198.18.0.1'))
conn.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
time.sleep(60)
"""

needs_lab = pytest.mark.usefixtures("needs_lab")
pure = pytest.mark.pure


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the notes of this test's labs apart."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("TRIO_IPV4_LABS", "TRIO_IPV4_LAB", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return runtime / "trio-ipv4"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; return its exit status, and what it wrote."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # It is set there.
        monkeypatch.setattr(sys, "argv", ["trio-ipv4", "lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            _cli.run()
        assert isinstance(ended.value.code, int)
        return (int(ended.value.code), *capsys.readouterr())

    return call


class Collected(Kept):
    """What was shown; somebody is called for each record."""

    def __init__(self, react: Callable[[Record], object] = lambda _: None) -> None:
        super().__init__()
        self._react = react

    def show(self, record: Record) -> None:
        super().show(record)
        self._react(record)

    def lines(self, host: str, stream: str = "stdout") -> list[str]:
        found = [each for each in self.records if isinstance(each, Line)]
        return [each.line for each in found if (each.host, each.stream) == (host, stream)]

    def events(self) -> list[str]:
        return [each.event for each in self.records]


def run(*arguments: str, argv: Sequence[str] = LAB, **options: Any) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": DEADLINE, **options}
    return subprocess.run([*argv, *arguments], check=False, **settings)


@contextlib.contextmanager
def running_lab(*arguments: str, argv: Sequence[str] = LAB, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Hold a lab in the background; it may not be there yet when the block begins."""
    process = subprocess.Popen(
        [*argv, "up", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_the_lab(lab: subprocess.Popen[str]) -> str:
    """Wait for the first line; the lab's note is written then."""
    assert lab.stdout is not None
    return lab.stdout.readline()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # Empty: ended, and not yet reaped.
    except (FileNotFoundError, ProcessLookupError):
        return False


def namespaces() -> set[str]:
    """The network namespaces that a process is in or has open."""
    found = set()
    for link in [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]:
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()) if "/ns/" in str(link) else _namespace(link))
    return found - {""}


def _namespace(descriptor: Path) -> str:
    target = str(descriptor.readlink())
    return f"net:[{descriptor.stat().st_ino}]" if target.endswith("/ns/net") or target.startswith("net:[") else ""


# A lab, and commands in it


@needs_lab
async def test_the_hosts_have_the_addresses_that_are_shown() -> None:
    output = Collected()
    plan = Plan(("a", "b"), links=2, router=True, on=(HostCommand("b", "ip -json -4 address show scope global"),))
    assert await hold.main(output, plan) == 0
    rows = [each for each in output.records if isinstance(each, HostInterface)]
    assert [each.host for each in rows] == ["a", "a", "b", "b", "router", "router"]
    told = json.loads("".join(output.lines("b")))
    seen = [(each["ifname"], each["ifindex"], each["addr_info"][0]["local"]) for each in told if each]
    assert seen == [(each.interface, each.index, str(each.address.ip)) for each in rows if each.host == "b"]
    assert [each.bridge for each in rows] == ["br0", "br1"] * 3
    assert output.events()[-2:] == ["exited", "down"]


@needs_lab
async def test_commands_run_at_once_on_their_hosts(tmp_path: Path) -> None:
    # Each waits for the other one: a pipe with a name opens when both ends do.
    os.mkfifo(tmp_path / "pipe")
    on = (
        HostCommand("a", f"cat {tmp_path}/pipe"),
        HostCommand("b", f"echo $TRIO_IPV4_HOST >{tmp_path}/pipe"),
    )
    output = Collected()
    assert await hold.main(output, Plan(on=on)) == 0
    assert output.lines("a") == ["b"]


@needs_lab
async def test_the_switch_shows_who_joined() -> None:
    watch = "until bridge mdb show | grep 239.1.2.3; do sleep 0.05; done"
    on = (HostCommand("a", f'exec {sys.executable} -c "{MEMBER}"'), HostCommand("switch", watch))
    output = Collected(lambda each: each.event == "output" and signal.raise_signal(signal.SIGINT))
    assert await hold.main(output, Plan(on=on)) == 130
    assert "port a-0 grp 239.1.2.3" in output.lines("switch")[0]


@needs_lab
async def test_the_status_is_the_first_failure_in_the_order_of_the_options() -> None:
    on = (HostCommand("a", "true"), HostCommand("b", "exit 4"), HostCommand("a", "exit 3"))
    output = Collected()
    assert await hold.main(output, Plan(on=on)) == 4
    statuses = {each.command: each.status for each in output.records if isinstance(each, Exited)}
    assert statuses == {"true": 0, "exit 4": 4, "exit 3": 3}


@needs_lab
async def test_a_command_that_a_signal_ended_has_a_shell_s_status() -> None:
    assert await hold.main(Collected(), Plan(on=(HostCommand("a", "kill -9 $$"),))) == 128 + 9


@needs_lab
async def test_lines_are_told_by_host_and_stream() -> None:
    output = Collected()
    await hold.main(output, Plan(on=(HostCommand("a", "echo out; echo err >&2; printf 'no end'"),)))
    assert output.lines("a") == ["out", "no end"]
    assert output.lines("a", "stderr") == ["err"]


@needs_lab
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_ends_the_commands_which_have_last_words(number: int, status: int) -> None:
    def react(record: Record) -> None:
        if isinstance(record, Line) and record.line.isdecimal():
            signal.raise_signal(number)

    output = Collected(react)
    command = "trap 'echo last words; exit 9' TERM; sleep 1000 & echo $!; wait"
    assert await hold.main(output, Plan(on=(HostCommand("a", command),))) == status
    child, *rest = output.lines("a")
    assert rest == ["last words"]
    assert not is_running(int(child))
    assert [(each.status, each.by_itself) for each in output.records if isinstance(each, Exited)] == [(9, False)]


@needs_lab
async def test_it_ends_in_time_and_that_is_no_failure() -> None:
    output = Collected()
    assert await hold.main(output, Plan(on=(HostCommand("a", "exec sleep 1000"),), seconds=0.2)) == 0
    assert [each.status for each in output.records if isinstance(each, Exited)] == [143]
    assert await hold.main(output, Plan(seconds=0.01)) == 0


@needs_lab
async def test_a_command_that_does_not_want_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE", 0.2)
    output = Collected(lambda each: each.event == "output" and signal.raise_signal(signal.SIGINT))
    command = "trap '' TERM; sleep 1000 & echo $!; while :; do wait; sleep 1000; done"
    assert await hold.main(output, Plan(on=(HostCommand("a", command),))) == 130
    assert [each.status for each in output.records if isinstance(each, Exited)] == [137]
    assert not is_running(int(output.lines("a")[0]))


@needs_lab
async def test_what_a_command_leaves_behind_ends_with_it() -> None:
    output = Collected()
    assert await hold.main(output, Plan(on=(HostCommand("a", "sleep 1000 & echo $!"),))) == 0
    assert not is_running(int(output.lines("a")[0]))


@needs_lab
async def test_who_left_the_session_and_holds_the_pipe_does_not_keep_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE", 0.2)
    monkeypatch.setattr(running, "_LAST_WORDS", 0.1)
    output = Collected()
    with trio.fail_after(30):
        command = "setsid sh -c 'echo $$; exec sleep 60' & wait"
        output._react = lambda each: each.event == "output" and signal.raise_signal(signal.SIGTERM)
        assert await hold.main(output, Plan(on=(HostCommand("a", command),))) == 143
    os.kill(int(output.lines("a")[0]), signal.SIGKILL)


@needs_lab
async def test_under_nohup_the_end_of_the_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        output = Collected(lambda each: each.event == "output" and signal.raise_signal(signal.SIGHUP))
        assert await hold.main(output, Plan(on=(HostCommand("a", "echo out; exit 6"),))) == 6
    finally:
        signal.signal(signal.SIGHUP, before)


@needs_lab
async def test_the_network_of_the_caller_stays_as_it_is() -> None:
    def look() -> list[str]:
        seen = [subprocess.run(["ip", "-json", *what], capture_output=True, text=True, check=True).stdout
                for what in (["address"], ["route", "show", "table", "all"], ["netns"])]  # fmt: skip
        settings = sorted(each for each in Path("/proc/sys/net/ipv4").rglob("*") if each.is_file())
        for each in settings:
            with contextlib.suppress(OSError):
                seen.append(f"{each} {each.read_text()}")
        return seen

    before = look()
    during: list[list[str]] = []
    output = Collected(lambda each: each.event == "up" and during.append(look()))
    await hold.main(output, Plan(("a", "b"), 2, router=True, seconds=0.01))
    assert [before] == during
    assert before == look()


async def test_where_no_lab_can_be_made_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "lab_available", lambda: "no lab here")
    with pytest.raises(BaseExceptionGroup) as caught:
        await hold.main(Collected(), Plan())
    assert caught.group_contains(OSError, match="no lab here")


async def test_what_ip_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(2, "ip")

    monkeypatch.setattr(hold, "lab_available", lambda: None)
    monkeypatch.setattr(hold, "open_lab", refuse)
    with pytest.raises(BaseExceptionGroup) as caught:
        await hold.main(Collected(), Plan())
    assert caught.group_contains(OSError, match="no such lab can be made here: Command 'ip'")


# Notes


@needs_lab
async def test_two_labs_can_t_have_one_name(own_directory: Path) -> None:
    with written(own_note("lab", {})):
        with pytest.raises(BaseExceptionGroup) as caught:
            await hold.main(Collected(), Plan(seconds=0.01))
        expected = f"'lab' is up already, in process {os.getpid()}: end it, or .* as --name lab2"
        assert caught.group_contains(OSError, match=expected)
        assert await hold.main(Collected(), Plan(name="lab2", seconds=0.01)) == 0
        assert {each.name for each in own_directory.iterdir()} == {"lab"}
    assert [*own_directory.iterdir()] == []


@pytest.mark.parametrize("change", [{"started": 1}, {"pid": 2**22 + 1}])
def test_a_note_of_a_process_that_is_gone_does_not_count(
    change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = attrs.evolve(own_note("lab", {}), **change)
    assert not stale.is_current
    (notes.directory() / "lab").write_text(json.dumps(attrs.asdict(stale)))
    monkeypatch.setattr(way_in, "PATIENCE", 0.1)
    output = Collected()
    with pytest.raises(OSError, match=rf"The lab 'lab' has gone, with its process {stale.pid}\. .* trio-ipv4 lab up$"):
        way_in.find_lab("lab", output)
    assert output.events() == ["waiting"]
    with written(own_note("lab", {})):
        assert way_in.find_lab("lab", output) == own_note("lab", {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"pid": 1}',
        b'{"pid": "x", "started": 1, "hosts": {}}',
        b"[" * 100_000,
        b'{"pid": 1e400, "started": 1, "hosts": {}}',
        b'{"pid": 1, "started": null, "hosts": {}}',
        b'{"pid": 1, "started": 1, "hosts": []}',
        b'{"pid": 1, "started": 1, "hosts": {"a": "x"}}',
        b'{"pid": 1, "started": 1, "hosts": {"a": []}}',
        b'{"pid": 1, "started": 1, "hosts": {"a": [1]}}',
    ],
)
def test_a_note_that_can_t_be_read_is_none(content: bytes) -> None:
    (notes.directory() / "lab").write_bytes(content)
    assert notes.read_note("lab") is None


def test_a_note_that_is_another_s_by_now_stays(own_directory: Path) -> None:
    note = own_note("lab", {})
    with written(note):
        (own_directory / "lab").write_text(json.dumps(attrs.asdict(attrs.evolve(note, pid=1))))
    assert (own_directory / "lab").exists()


def test_entering_waits_for_a_lab_and_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way_in, "PATIENCE", 0.1)
    with pytest.raises(OSError, match=r"No lab named 'x' is up\. To make one: trio-ipv4 lab up --name x"):
        way_in.find_lab("x", Collected())
    note = own_note("x", {})
    stack = contextlib.ExitStack()
    with stack:
        # The lab comes while it waits.
        assert way_in.find_lab("x", Collected(lambda _: stack.enter_context(written(note)))) == note


def test_the_directory_must_be_the_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "labs"
    monkeypatch.setenv("TRIO_IPV4_LABS", str(place))

    def refused(words: str) -> None:
        with pytest.raises(OSError, match=f"the labs' directory {place} {words}.*: remove it, or set TRIO_IPV4_LABS"):
            notes.directory()

    refused("can't be used .No such file")
    place.touch()
    refused("is no directory")
    place.unlink()
    place.symlink_to(tmp_path)
    refused("is no directory")
    place.unlink()
    place.mkdir(mode=0o700)
    assert notes.directory() == place
    place.chmod(0o750)
    refused(r"is open to others \(mode 0750, not 0700\)")
    place.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(place, 65534, 65534)
        refused("belongs to user 65534, not to user 0")


def test_a_runtime_directory_of_somebody_else_is_not_used(
    own_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notes.directory() == own_directory
    own_directory.parent.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert notes.directory() == tmp_path / f"trio-ipv4-{os.geteuid()}"
    assert notes.directory().stat().st_mode & 0o777 == 0o700


# The way in


def test_a_shell_is_the_user_s_or_sh(monkeypatch: pytest.MonkeyPatch) -> None:
    note = own_note("lab", {"a": ["/usr/bin/nsenter", "--net=/x", "--"]})
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert way_in.command_line(note, "a", []) == ["/usr/bin/nsenter", "--net=/x", "--", "/bin/zsh"]
    monkeypatch.delenv("SHELL")
    assert way_in.command_line(note, "a", [])[-1] == "/bin/sh"
    assert way_in.command_line(note, "a", ["ls", "-l"])[-2:] == ["ls", "-l"]


def test_the_programs_of_administrators_and_our_own_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin")
    path = way_in.environment_on("lab", "a")["PATH"].split(":")
    assert path == ["/bin", "/usr/sbin", "/sbin", str(Path(sys.executable).parent)]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/sbin")
    if shutil.which("trio-ipv4"):
        assert way_in.environment_on("lab", "a")["PATH"] == f"{Path(sys.executable).parent}:/sbin:/usr/sbin"


def test_entering_becomes_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *what: begun.append(what))
    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    monkeypatch.setattr(way_in, "PATIENCE", 0.1)
    with pytest.raises(OSError, match="No lab named"):
        lab_command.enter("a")
    assert capsys.readouterr().err == "No lab named 'lab' is up. Waiting 0.1 s for it.\n"
    try:
        with written(own_note("lab", {"a": ["/usr/bin/nsenter", "--net=/x", "--"]})):
            lab_command.enter("a", "ls", "--help")
        assert all(signal.getsignal(number) == signal.SIG_DFL for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    [(program, argv, environment)] = begun
    assert program == "/usr/bin/nsenter"
    assert argv == ["/usr/bin/nsenter", "--net=/x", "--", "ls", "--help"]
    assert environment["TRIO_IPV4_HOST"] == "a"


def test_a_lab_of_another_user_namespace_is_entered_by_it() -> None:
    inside = [sys.executable, "-m", "trio_ipv4.testing", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen([*AS_CONTAINER_ROOT, *inside], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        note = Note("lab", process.pid, 0, {"a": ["/usr/bin/nsenter", "--net=/x", "--"]})
        argv = way_in.command_line(note, "a", ["true"])
        process.kill()
    user = f"--user=/proc/{process.pid}/ns/user"
    assert argv == ["/usr/bin/nsenter", user, "--preserve-credentials", "--net=/x", "--", "true"]


@needs_lab
def test_a_script_enters_a_lab_in_its_background(call: Call) -> None:
    with running_lab("--json", "--hosts", "x,y") as lab:
        first = wait_for_the_lab(lab)
        program = "import socket; print([name for _, name in socket.if_nameindex()])"
        done = run("enter", "x", sys.executable, "-c", program, "--help", "--name")
        assert done.stdout == "['lo', 'en0']\n"
        assert done.returncode == 0
        status, out, err = call("enter", "z", "true")
        assert (status, out) == (2, "")
        assert "There is no host 'z' in this lab, only x, y, switch." in err
        assert "try 'trio-ipv4 lab enter --help'" in err
        script = "readlink /proc/self/ns/net; trio-ipv4 lab enter y sh -c 'echo $TRIO_IPV4_HOST $TRIO_IPV4_LAB; exit 7'"
        inside = run("enter", "x", "sh", "-c", script)
        assert inside.returncode == 7
        there, at = inside.stdout.splitlines()
        assert at == "y lab"
        status, out, err = call("up")
        assert (status, out) == (5, "")
        assert f"is up already, in process {lab.pid}" in err

        assert there in namespaces()
        lab.terminate()
        assert lab.stdout is not None
        assert lab.stderr is not None
        # Not by `communicate`, which passes over what came with the first line.
        out, err = lab.stdout.read(), lab.stderr.read()
        lab.wait(DEADLINE)
    assert (lab.returncode, err) == (143, "")
    events = [json.loads(line) for line in [first, *out.splitlines()]]
    assert [each["event"] for each in events] == [
        "host_interface",
        "host_interface",
        "up",
        *["comment", "hint"] * 2,
        "down",
    ]
    assert events[2]["hosts"] == ["x", "y", "switch"]
    assert there not in namespaces()


@needs_lab
def test_after_a_kill_nothing_is_left_but_a_note_that_does_not_count(own_directory: Path, call: Call) -> None:
    with running_lab() as lab:
        wait_for_the_lab(lab)
        there = run("enter", "a", "readlink", "/proc/self/ns/net").stdout.strip()
        assert there in namespaces()
        lab.kill()
        lab.wait(DEADLINE)
        assert there not in namespaces()
    assert (own_directory / "lab").exists()
    assert call("up", "--for", "10ms")[0] == 0


@needs_lab
def test_after_a_kill_the_commands_are_gone(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $$ $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids; wait"
    with running_lab("--on", f"a={script}") as lab:
        deadline = time.monotonic() + DEADLINE
        while not (tmp_path / "pids").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = [int(each) for each in (tmp_path / "pids").read_text().split()]
        assert all(map(is_running, pids))
        lab.kill()
        lab.wait(DEADLINE)
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@needs_lab
async def test_a_command_that_can_t_be_watched_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def refuse(pid: int) -> int:
        begun.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(running, "pidfd_open", refuse)
    monkeypatch.setattr(trio._subprocess, "can_try_pidfd_open", False)
    with pytest.raises(BaseExceptionGroup) as caught:
        await hold.main(Collected(), Plan(on=(HostCommand("a", "sleep 1000"),)))
    assert caught.group_contains(OSError, match="Too many open files")
    assert not is_running(begun[0])


@needs_lab
async def test_a_host_is_on_the_links_that_are_named() -> None:
    output = Collected()
    hosts = words.read_hosts("x:0,y:1,z")
    assert await hold.main(output, Plan(hosts.names, ends=hosts.ends, seconds=0.01)) == 0
    rows = [each for each in output.records if isinstance(each, HostInterface)]
    assert [(each.host, each.interface, each.bridge) for each in rows] == [
        *[("x", "en0", "br0"), ("y", "en1", "br1"), ("z", "en0", "br0"), ("z", "en1", "br1")],
    ]


@needs_lab
def test_as_text_the_lines_have_the_host_before_them_and_go_where_they_came_from(call: Call) -> None:
    status, out, err = call("up", "--on", "a=echo out; echo err >&2", "--on", "b=printf 'x\\ty'; exit 3")
    assert status == 3
    heading, *rows = out.splitlines()
    assert heading.split() == ["host", "interface", "address", "index", "bridge"]
    assert rows[0].split() == ["a", "en0", "198.18.0.1/24", "2", "br0"]
    assert set(rows[2:]) == {"a: out", "b: x       y"}
    told = err.splitlines()
    assert told[0] == "The lab 'lab' is up, until its commands have ended, or Ctrl-C."
    assert {"a: err", "a: ended, exit status 0", "b: ended, exit status 3"} <= set(told)
    assert told[-1].startswith("The lab 'lab' is gone, after ")


@needs_lab
def test_when_nobody_reads_the_commands_end(tmp_path: Path) -> None:
    with running_lab("--on", f"a=echo $$ >{tmp_path}/pid; exec yes") as lab:
        assert lab.stdout is not None
        lab.stdout.readline()
        while not (tmp_path / "pid").exists():
            lab.stdout.readline()
        lab.stdout.close()
        assert lab.wait(DEADLINE) == 141
        assert not is_running(int((tmp_path / "pid").read_text()))
        assert lab.stderr is not None
        assert "Traceback" not in lab.stderr.read()
        lab.stdout = None


@needs_lab
def test_a_shell_has_the_terminal_and_its_prompt_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    with on_terminal([*LAB, "up"]) as lab:
        shown = lab.read_until("239.1.2.3:5000").splitlines()
        assert "trio-ipv4 lab enter a" in shown  # A line of its own.
        assert len(shown) == 8
        with on_terminal([*LAB, "enter", "b"]) as shell:
            shell.read_until("b$ ")
            shell.type("cat\nx\n")
            shell.read_until("x\nx\n")
            shell.type("\x03")  # It ends `cat`, not the shell.
            while shell.shown.count("b$ ") < 2:
                assert shell.read_more()
            shell.type("echo $((6*7)) $TRIO_IPV4_HOST; exit 3\n")
            assert "42 b" in shell.read_to_end()
            assert shell.process.returncode == 3
        lab.type("\x03")
        assert "The lab 'lab' is gone, after" in lab.read_to_end()
        assert lab.process.returncode == 130


# Privilege


@needs_lab
def test_a_plain_user_has_labs_too(as_nobody: AsNobody) -> None:
    runtime = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        os.chown(runtime, 65534, 65534)
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        nobody = as_nobody([])
        with running_lab(argv=[*nobody, *LAB], env=environment) as lab:
            address = "ip -brief address show dev en0"
            wait_for_the_lab(lab)
            script = f"id -u; {address}; trio-ipv4 demo | tail -1; trio-ipv4 lab enter a {address}"
            done = run("enter", "b", "sh", "-c", script, argv=[*nobody, *LAB], env=environment)
            first, own, verdict, other = done.stdout.splitlines()
            assert first == "0"
            assert "198.18.0.2/24" in own
            assert verdict == "Verdict: the kernel confirms every step, in 9 checks."
            assert "198.18.0.1/24" in other
            lab.terminate()
            assert "The lab 'lab' is gone" in lab.communicate(timeout=DEADLINE)[1]
            assert lab.returncode == 143
        assert [*(runtime / "trio-ipv4").iterdir()] == []
    finally:
        shutil.rmtree(runtime)


@needs_lab
def test_root_without_the_capability_has_labs_too() -> None:
    done = run("up", "--on", "a=ip -brief address show dev en0", argv=[*AS_CONTAINER_ROOT, *LAB])
    assert done.returncode == 0
    assert "198.18.0.1/24" in done.stdout.splitlines()[-1]


@needs_lab
def test_where_user_namespaces_are_forbidden_it_says_so() -> None:
    # The limit holds for the user namespace in which it is set and those below: here one that is made for this.
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    here = [*AS_CONTAINER_ROOT, sys.executable, "-m", "trio_ipv4.testing", "sh", "-c", script, "sh"]
    done = run("up", argv=[*here, *AS_CONTAINER_ROOT, *LAB])
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("trio-ipv4: no network lab can be made here: ")
    assert "user.max_user_namespaces is 0; more than 0 allows them" in done.stderr


def test_without_the_privilege_the_program_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(privilege.os, "execve", lambda *what: begun.append(what))
    privilege.get_privilege()
    assert begun == []

    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(privilege, "private_network", refuse)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "trio_ipv4", "lab", "up"])
    privilege.get_privilege()
    [(program, argv, environment)] = begun
    assert program == sys.executable
    assert argv == [sys.executable, "-m", "trio_ipv4.testing", sys.executable, "-m", "trio_ipv4", "lab", "up"]
    assert environment["TRIO_IPV4_LABS"] == str(notes.directory())
    # It does so once.
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(PermissionError):
        privilege.get_privilege()
    assert len(begun) == 1


# Usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["up", "--hosts", "a,a"], "must be different names, and none of them router or switch, as a,b,c, got 'a,a'"),
        (["up", "--on", "a"], """must be HOST="COMMAND", as a="trio-ipv4 demo", got 'a'"""),
        (["up", "--on", "c=true"], "There is no host 'c' in this lab, only a, b, switch."),
        (["up", "--name", "../x"], "must be 1 to 64 letters, digits, _, . or -,"),
        (["up", "--links", "33"], "must be a whole number from 1 to 32, got '33'"),
        (["enter"], "HOST"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], told: str, call: Call) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert f"try 'trio-ipv4 lab {arguments[0]} --help'" in err


# Pure parts


@pure
def test_the_name_of_a_lab_is_a_file_s_name() -> None:
    assert words.read_name("lab-2.x_y") == "lab-2.x_y"
    for text in ("", ".lab", "a/b", "a b", "x" * 65):
        with pytest.raises(ValueError, match="got "):
            words.read_name(text)


@pure
def test_hosts_are_names_with_commas_between() -> None:
    assert words.read_hosts("a,b_2,C").names == ("a", "b_2", "C")
    assert words.read_hosts("a:0,b,c:3+1+1") == HostNames(("a", "b", "c"), {"a": (0,), "c": (1, 3)})
    for text in ("", "a,", "1a", "a b", "abcdefghijkl", "router", "a,switch", "a,b,a", "a:", "a:32", "a:0+", "a:x,b"):
        with pytest.raises(ValueError, match="got "):
            words.read_hosts(text)
    with pytest.raises(ValueError, match="at most 253 names, got 254"):
        words.read_hosts(",".join(f"h{number}" for number in range(254)))


@pure
def test_a_command_is_what_follows_the_first_equals_sign() -> None:
    assert words.read_host_command("a=x=1 y") == HostCommand("a", "x=1 y")
    for text in ("", "a", "a=", "a= ", "=x"):
        with pytest.raises(ValueError, match="got "):
            words.read_host_command(text)


@pure
@pytest.mark.parametrize(
    ("given", "divided"),
    [
        ("lab enter a", "lab enter a"),
        ("lab enter a ls -l --help", "lab enter a -- ls -l --help"),
        ("lab enter --name x a ls --name y", "lab enter --name x a -- ls --name y"),
        ("lab enter --name=x a ls", "lab enter --name=x a -- ls"),
        ("lab enter a -- ls", "lab enter a -- ls"),
        ("lab enter -- a ls", "lab enter -- a ls"),
        ("lab enter --help", "lab enter --help"),
        ("lab enter --name", "lab enter --name"),
        ("lab enter", "lab enter"),
        ("lab up --on a=b --json", "lab up --on a=b --json"),
        ("listen 239.1.2.3 enter", "listen 239.1.2.3 enter"),
    ],
)
def test_words_behind_the_host_are_the_command_s(given: str, divided: str) -> None:
    assert words.divide(given.split()) == divided.split()


@pure
@given(st.lists(st.text(min_size=1)))
def test_no_word_is_lost_or_changed(rest: list[str]) -> None:
    found = words.divide(["lab", "enter", "a", *rest])
    assert found[:3] == ["lab", "enter", "a"]
    assert found[3:] in (["--", *rest], rest)


@pure
@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_the_octets_come(parts: list[bytes]) -> None:
    cutter, whole = Lines(), Lines()
    found = [line for part in parts for line in cutter.feed(part)] + cutter.end()
    assert found == whole.feed(b"".join(parts)) + whole.end()
    assert not any("\n" in line for line in found)
    assert len(found) == len(b"".join(parts).splitlines()) or any(octet in b"".join(parts) for octet in b"\r\v\f\x1c")


@pure
def test_a_line_without_end_comes_in_parts() -> None:
    cutter = Lines()
    assert [len(line) for line in cutter.feed(b"x" * (2 * LONGEST + 5))] == [LONGEST, LONGEST]
    assert cutter.feed(b"\r\n\xff\n") == ["xxxxx", "\\xff"]
    assert cutter.end() == []


@pure
def test_in_60_columns_the_addresses_stay() -> None:
    rows = [
        HostInterface("abcdefghijk", f"en{number}", 2, IPv4Interface("198.18.31.253/24"), "br31") for number in range(2)
    ]
    assert all(len(line.plain) <= 60 for line in lay_out(rows, 60))
    narrow = [line.plain for line in lay_out(rows, 40)]
    assert narrow[0].split() == ["host", "interface", "address"]


@pure
def test_both_streams_have_one_kind_of_record(capsys: pytest.CaptureFixture[str]) -> None:
    JSONLines().show(Line("a", "stdout", "x"))
    JSONLines().show(ErrorLine("a", "stderr", "y"))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "output", "host": "a", "stream": "stdout", "line": "x"}
    assert second == {"event": "output", "host": "a", "stream": "stderr", "line": "y"}


@pure
def test_a_note_names_the_process_by_its_start() -> None:
    assert isinstance(own_note("x", {}), Note)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert own_note("x", {}).started == int(fields[22 - 3])
