"""`trio-ipv4 groups`: against /proc, the kernel's input route, and what other programs joined."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.records import Kept
from support.terminal import on_terminal
from trio_ipv4._cli import diag, foreign, groups, netlink, pidfd, processes
from trio_ipv4._cli.groups import report, witness
from trio_ipv4._cli.groups.records import GroupListed, NobodyThere, ProcessShown, SocketShown, Summary
from trio_ipv4._cli.kernel_tables import read_groups, read_source_counts
from trio_ipv4._cli.merge import Filter, merge
from trio_ipv4._cli.output import lay_out
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import AsNobody, WaitUntil

COMMAND = [sys.executable, "-m", "trio_ipv4", "groups"]
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
LO = 1
GROUP = "239.1.1.1"
OTHER = "239.1.1.2"
SOURCES = ["198.18.0.7", "198.18.0.8", "198.18.0.9"]
# Linux's numbers (linux/in.h).
IP_BLOCK_SOURCE = 38
MCAST_MSFILTER = 48
MEMBER = """
import os, socket, struct, sys
family, port, children, *joins = sys.argv[1:]
made = socket.socket(getattr(socket, family), socket.SOCK_DGRAM)
if port != "0":
    made.bind(("", int(port)))
for join in joins:
    group, _, source = join.partition(",")
    if source:
        addresses = map(socket.inet_aton, [group, "127.0.0.1", source])
        made.setsockopt(socket.IPPROTO_IP, 39, b"".join(addresses))  # IP_ADD_SOURCE_MEMBERSHIP
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + struct.pack("=4xi", 1))
for _ in range(int(children)):
    if not (child := os.fork()):
        break
    print(child, end=" ")
else:
    print("ready", flush=True)
sys.stdin.read()
"""


class Collected(Kept):
    """What was shown."""

    @property
    def rows(self) -> dict[str, GroupListed]:
        return {str(row.group): row for row in self.records if isinstance(row, GroupListed)}

    @property
    def summary(self) -> Summary:
        summary = self.records[-1]
        assert isinstance(summary, Summary)
        return summary


def look(*wanted: str) -> Collected:
    collected = Collected()
    groups.main(collected, (), [IPv4Address(group) for group in wanted])
    return collected


def run(*arguments: str, by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*by, *COMMAND, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE, env=PLAIN)


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def group_of(done: subprocess.CompletedProcess[str], group: str) -> dict[str, Any]:
    (found,) = (each for each in objects(done) if each.get("group") == group)
    return found


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[tuple[int, str]]:
    """Run a program that says a line when it is ready, until its standard input ends; give its number, and the line."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield program.pid, program.stdout.readline()
        finally:
            program.communicate()


def member(*joins: str, family: str = "AF_INET", port: int = 0, children: int = 0) -> list[str]:
    return [sys.executable, "-c", MEMBER, family, str(port), str(children), *joins]


@contextlib.contextmanager
def joined(*memberships: tuple[str, int], family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> Iterator[Any]:
    with socket.socket(family, kind, socket.IPPROTO_UDP) as made:
        for group, index in memberships:
            join(made, group, index)
        yield made


def join(joining: socket.socket, group: str, index: int) -> None:
    request = socket.inet_aton(group) + struct.pack("=4xi", index)
    joining.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


def pids(row: GroupListed, certainty: str = "proven") -> list[int | None]:
    return [each.pid for each in row.processes if each.certainty == certainty]


# Who


def test_nobody_but_the_kernel_is_in_a_group_of_a_new_network() -> None:
    (row, summary) = look().records
    assert isinstance(row, GroupListed)
    assert (row.interface, row.ifindex, str(row.group), row.sockets, row.kernel) == ("lo", LO, "224.0.0.1", 0, True)
    assert row.processes == ()
    assert row.style() == "dim"
    assert isinstance(summary, Summary)
    assert summary.text() == "No socket is a member."


def test_a_socket_in_the_kernel_s_group_is_told_from_the_kernel() -> None:
    with joined(("224.0.0.1", LO)):
        row = look().rows["224.0.0.1"]
    assert (row.sockets, row.kernel, pids(row), row.unseen) == (1, True, [os.getpid()], 0)
    assert row.cells()[-1] == f"the kernel; {processes.describe(os.getpid()).name}[{os.getpid()}]"


def test_the_kernel_is_no_member_on_an_interface_that_is_down() -> None:
    ip("link", "set", "lo", "down")
    with joined(("224.0.0.1", LO)):
        row = look().rows["224.0.0.1"]
    assert (row.sockets, row.kernel) == (1, False)


def test_two_programs_are_named_with_their_ports_and_filters() -> None:
    with (
        running(member(GROUP, f"{OTHER},10.0.0.1", port=5000)) as (first, _),
        running(member(GROUP, port=0)) as (second, _),
    ):
        rows = look().rows
    assert pids(rows[GROUP]) == sorted([first, second])
    assert pids(rows[OTHER]) == [first]
    assert (rows[GROUP].sockets, rows[GROUP].unseen) == (2, 0)
    shown = {each.pid: each for each in rows[GROUP].processes}
    # A socket without a port is in no table of the kernel's.
    assert shown[second].sockets == (SocketShown("udp", None, "exclude", ()),)
    assert shown[first].sockets == (SocketShown("udp", 5000, "exclude", ()),)
    assert (shown[first].name, shown[first].user) == (Path(sys.executable).name[:15], "root")
    assert rows[OTHER].processes[0].sockets == (SocketShown("udp", 5000, "include", (IPv4Address("10.0.0.1"),)),)
    assert rows[OTHER].cells()[3] == "only 10.0.0.1"


def test_socat_is_named(wait_until: WaitUntil) -> None:
    argv = ["socat", "-u", f"UDP4-RECV:5001,ip-add-membership={GROUP}:lo", "-"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as program:
        try:
            wait_until(lambda: GROUP in look().rows)
            row = look().rows[GROUP]
        finally:
            program.kill()
    assert [(each.pid, each.name) for each in row.processes] == [(program.pid, "socat")]


def test_a_socket_that_two_processes_share_is_counted_once() -> None:
    with running(member(GROUP, children=1)) as (parent, line):
        row = look().rows[GROUP]
    child = int(line.split()[0])
    assert (row.sockets, row.unseen, pids(row)) == (1, 0, sorted([parent, child]))


def test_two_sockets_of_a_process_are_counted() -> None:
    with joined((GROUP, LO)), joined((GROUP, LO)):
        (process,) = look().rows[GROUP].processes
    assert len(process.sockets) == 2
    assert str(process).endswith(f"[{os.getpid()}] (2 sockets)")


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(socket.AF_INET6, socket.SOCK_DGRAM, "udp6"), (socket.AF_INET, socket.SOCK_RAW, "raw")],
)
def test_other_kinds_of_sockets_are_members_too(family: int, kind: int, protocol: str) -> None:
    with joined((GROUP, LO), family=family, kind=kind):
        (process,) = look().rows[GROUP].processes
    assert process.sockets == (SocketShown(protocol, None, "exclude", ()),)


def test_a_socket_of_another_network_is_not_shown(needs_lab: None) -> None:
    with (
        open_lab() as lab,
        joined((GROUP, LO)),
        lab["a"].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        join(there, GROUP, LO)
        here, elsewhere = look().rows[GROUP], Collected()
        lab["a"].call(groups.main, elsewhere, (), [IPv4Address(GROUP)])
    assert len(here.processes[0].sockets) == len(elsewhere.rows[GROUP].processes[0].sockets) == 1


def test_a_bridge_that_snoops_is_a_member_by_itself() -> None:
    ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "1")
    ip("link", "set", "br0", "up")
    row = look().rows["224.0.0.106"]
    assert (row.interface, row.sockets, row.kernel, row.unseen) == ("br0", 0, True, 0)


def test_what_no_process_here_holds_is_said_to_be_unseen() -> None:
    ip("address", "add", f"{GROUP}/32", "dev", "lo", "autojoin")
    collected = look(GROUP)
    assert collected.rows[GROUP].unseen == 1
    assert collected.rows[GROUP].cells()[-1].startswith("1 not seen")


def test_a_membership_of_an_interface_that_was_made_anew_is_dead() -> None:
    def make() -> None:
        ip("link", "add", "en0", "index", "77", "type", "veth", "peer", "name", "en1")
        ip("link", "set", "en0", "up")

    make()
    with joined((GROUP, 77)):
        ip("link", "delete", "en0")
        make()
        assert GROUP not in look().rows
        with joined((GROUP, 77)):
            row = look().rows[GROUP]
    assert (row.sockets, row.dead, row.unseen, len(row.processes[0].sockets)) == (1, 1, 0, 2)
    assert row.cells()[-1].endswith("; 1 of them dead: the interface was made anew")


# What it leaves alone


def test_the_sockets_it_asks_are_unchanged() -> None:
    with joined((GROUP, LO)) as made:
        made.setsockopt(
            socket.IPPROTO_IP, IP_BLOCK_SOURCE, socket.inet_aton(GROUP) + bytes([127, 0, 0, 1, 10, 0, 0, 1])
        )
        made.bind(("", 0))

        def state() -> tuple[object, ...]:
            options = tuple(
                _option(made, level, name) for level in (socket.SOL_SOCKET, socket.IPPROTO_IP) for name in range(90)
            )
            return (
                fcntl.fcntl(made, fcntl.F_GETFL),
                fcntl.fcntl(made, fcntl.F_GETFD),
                options,
                made.getsockname(),
                Path("/proc/thread-self/net/igmp").read_text().split("\n")[:3],
                read_source_counts(),
                len(list(Path("/proc/self/fd").iterdir())),
            )

        before = state()
        assert pids(look().rows[GROUP]) == [os.getpid()]
        assert state() == before
        assert made.getblocking()


def _option(of: socket.socket, level: int, name: int) -> bytes | int | None:
    try:
        return of.getsockopt(level, name, 64)
    except OSError as error:
        return error.errno


# What an interface hears


def set_filter(of: socket.socket, index: int, wanted: Filter) -> None:
    header = struct.pack(
        "@I0PHH4s120xII",
        index,
        socket.AF_INET,
        0,
        socket.inet_aton(GROUP),
        wanted.mode == "include",
        len(wanted.sources),
    )
    sources = b"".join(struct.pack("@HH4s120x", socket.AF_INET, 0, each.packed) for each in wanted.sources)
    of.setsockopt(socket.IPPROTO_IP, MCAST_MSFILTER, header + sources)


def lets_through(source: str) -> bool:
    """Ask the kernel how it would route a datagram of the group that came in from there."""
    argv = ["ip", "route", "get", GROUP, "from", source, "iif", "en0"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


filters = st.builds(
    Filter, st.sampled_from(["include", "exclude"]), st.frozensets(st.sampled_from([*map(IPv4Address, SOURCES)]))
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(filters, max_size=4), seen=st.integers(0, 4))
def test_the_filter_is_the_one_that_the_kernel_applies(wanted: list[Filter], seen: int, two_ends: int) -> None:
    with contextlib.ExitStack() as stack:
        for each in wanted:
            made = stack.enter_context(joined((GROUP, two_ends)))
            set_filter(made, two_ends, each)
        row = look(GROUP).rows.get(GROUP)
        truth = {source: lets_through(source) for source in SOURCES}
        if row is None:
            assert not any(truth.values())
            return
        assert row.certain
        listed = {source: source in map(str, row.sources) for source in SOURCES}
        assert truth == {source: listed[source] == (row.mode == "include") for source in SOURCES}
        # And as a user who sees only some of these sockets.
        wanted = [each for each in wanted if each != Filter("include")]
        entry = next(each for each in report.read_entries((), ()) if str(each.group) == GROUP)
        inferred = merge(entry.users, entry.counts, wanted[:seen])
        heard = {s: (IPv4Address(s) in inferred.filter.sources) == (inferred.filter.mode == "include") for s in SOURCES}
        assert heard == truth if inferred.certain else all(truth[source] for source in SOURCES if heard[source])


@pytest.fixture
def two_ends() -> int:
    ip("link", "add", "en0", "type", "veth", "peer", "name", "en1")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("link", "set", "en0", "up")
    ip("link", "set", "en1", "up")
    return socket.if_nametoindex("en0")


def test_many_sources_are_all_read() -> None:
    Path("/proc/sys/net/ipv4/igmp_max_msf").write_text("100")
    sources = frozenset(IPv4Address(f"10.0.0.{number}") for number in range(1, 61))
    with joined((GROUP, LO)) as made:
        set_filter(made, LO, Filter("exclude", sources))
        row = look().rows[GROUP]
    assert set(row.sources) == set(row.processes[0].sockets[0].sources or ()) == sources


# Another user


def test_a_user_sees_only_the_user_s_own_processes(as_nobody: AsNobody) -> None:
    nobody = as_nobody([])
    with running(member(GROUP, port=5000)), running([*nobody, *member(GROUP)]) as (own, _):
        done = run("--json", by=nobody)
        text = run("--group", GROUP, by=nobody)
    found = group_of(done, GROUP)
    assert (found["sockets"], found["unseen"]) == (2, 1)
    proven, possible = found["processes"]
    assert (proven["pid"], proven["user"], proven["certainty"]) == (own, "nobody", "proven")
    assert possible == {
        "pid": None,
        "name": None,
        "user": "root",
        "certainty": "possible",
        "sockets": [{"protocol": "udp", "port": 5000, "mode": None, "sources": None}],
    }
    summary = objects(done)[-1]
    assert (summary["event"], summary["unseen"], summary["refused"]) == ("summary", 1, 0)
    assert summary["unreadable"] >= 1
    assert summary["needs"] == ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    assert "1 not seen, perhaps a process of root" in text.stdout
    assert "could not be looked into. Root sees more (CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)." in text.stdout


def test_the_capabilities_that_it_names_show_all(as_nobody: AsNobody) -> None:
    kept = "+sys_ptrace,+dac_read_search"
    replaced = {"--inh-caps=-all": f"--inh-caps={kept}", "--bounding-set=-all": f"--ambient-caps={kept}"}
    become = [replaced.get(each, each) for each in as_nobody([])]
    with running(member(GROUP)) as (pid, _):
        found = group_of(run("--json", by=become), GROUP)
    assert [each["pid"] for each in found["processes"]] == [pid]
    assert found["unseen"] == 0


def test_processes_that_show_their_descriptors_and_can_t_be_asked_are_suspects(as_nobody: AsNobody) -> None:
    # /proc looks at the effective user, and pidfd_getfd(2) at the real one, as with Yama's restriction (ptrace(2)).
    nobody = as_nobody([])
    at = nobody.index("--reuid=65534")
    half = [*nobody[:at], "--ruid=65533", "--euid=65534", *nobody[at + 1 :]]
    with (
        running([*nobody, *member(GROUP, port=5000)]) as (bound, _),
        running([*nobody, *member(GROUP)]) as (unbound, _),
    ):
        done = run("--json", by=half)
    found = group_of(done, GROUP)
    assert found["unseen"] == 2
    assert [(each["pid"], each["certainty"]) for each in found["processes"]] == [
        (pid, "possible") for pid in sorted([bound, unbound])
    ]
    assert {each["pid"]: each["sockets"][0]["port"] for each in found["processes"]} == {bound: 5000, unbound: None}
    assert objects(done)[-1]["refused"] == 2


def test_a_socket_without_memberships_is_no_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_duplicates(monkeypatch)
    with joined((GROUP, LO)) as one, joined() as none:
        one.bind(("", 5000))
        none.bind(("", 5001))
        (process,) = look().rows[GROUP].processes
    assert process.sockets == (SocketShown("udp", 5000),)
    assert process.certainty == "possible"


def refuse_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> contextlib.AbstractContextManager[socket.socket]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(witness, "duplicate", refuse)


def test_a_process_of_another_network_class_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()
    monkeypatch.setattr(witness, "classes_of", lambda pid: ["7:net_cls:/a"] if pid == own else ["7:net_cls:/b"])
    with running(member(GROUP)) as (pid, _), joined((OTHER, LO)):
        rows = look().rows
    assert (pids(rows[GROUP], "possible"), pids(rows[OTHER])) == ([pid], [own])


@pytest.mark.pure
def test_control_groups_of_the_network_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("9:name=systemd:/\n7:net_cls,net_prio:/a\n0::/b\n")
    monkeypatch.setattr(foreign, "Path", lambda _: tmp_path / "cgroup")
    assert foreign.classes_of(1) == ["7:net_cls,net_prio:/a"]
    monkeypatch.setattr(foreign, "Path", lambda _: tmp_path / "gone")
    assert foreign.classes_of(1) == []


# Processes and sockets that go, and older kernels


def test_what_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined((GROUP, LO)) as made:
        held = processes.find_sockets()
        inode = os.fstat(made.fileno()).st_ino
    # By now the descriptor is closed, or another file's.
    asked = witness.Witness([(LO, IPv4Address(GROUP))], {})
    evidence = asked.look(processes.Held(tuple(each for each in held.sockets if each.inode == inode), 0))
    assert (evidence.members, evidence.suspects, evidence.refused) == ({}, (), 0)
    with subprocess.Popen(["true"]) as gone:
        pass
    assert processes.describe(gone.pid) == processes.Process(gone.pid, "", "")
    assert not processes.shares_network(gone.pid)
    monkeypatch.setattr(processes, "descriptors", lambda _: (_ for _ in ()).throw(ProcessLookupError))
    assert processes.find_sockets() == processes.Held((), 0)


def test_a_descriptor_that_is_another_socket_by_now_is_not_asked() -> None:
    with (
        joined((GROUP, LO)) as made,
        pytest.raises(ProcessLookupError),
        foreign.duplicate(os.getpid(), made.fileno(), 1),
    ):
        pytest.fail("it was asked")


@pytest.mark.parametrize("bound", [False, True])
def test_without_namespace_cookies_the_process_decides(monkeypatch: pytest.MonkeyPatch, *, bound: bool) -> None:
    monkeypatch.setattr(netlink, "_SO_NETNS_COOKIE", 9999)
    with joined((GROUP, LO)) as made:
        if bound:
            made.bind(("", 0))
        row = look().rows[GROUP]
    # This thread's namespace is not that of the process, which is the main thread's.
    assert pids(row) == ([os.getpid()] if bound or processes.shares_network(os.getpid()) else [])


def test_a_suspect_of_another_network_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_duplicates(monkeypatch)
    monkeypatch.setattr(witness, "shares_network", lambda _: False)
    with joined((GROUP, LO)):
        row = look().rows[GROUP]
    assert (row.processes, row.unseen) == ((), 1)


def test_without_sock_diag_sockets_are_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag, "_SOCK_DIAG_BY_FAMILY", 9999)
    with joined((GROUP, LO)) as made:
        made.bind(("", 0))
        assert diag.list_sockets() == {}
        assert pids(look().rows[GROUP]) == [os.getpid()]


def test_a_descriptor_that_is_closed_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), foreign.duplicate(os.getpid(), 999_999, 1):
        pytest.fail("there is none")


def test_suspects_without_a_process_are_told_by_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "find_sockets", lambda: processes.Held((), 7))
    with joined((GROUP, LO)) as one, joined((GROUP, LO)) as two:
        one.bind(("", 5000))
        two.bind(("", 5001))
        collected = look(GROUP)
    (process,) = collected.rows[GROUP].processes
    assert (process.pid, process.name, process.user) == (None, None, "root")
    assert {each.port for each in process.sockets} == {5000, 5001}
    assert collected.summary.text() == (
        "The owners of 2 memberships were not seen: 7 processes could not be looked into. "
        "Root sees more (CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)."
    )


def test_sockets_that_joined_in_between_are_looked_at_again() -> None:
    early, late = (report.Entry("lo", LO, IPv4Address(GROUP), users, {}) for users in (1, 2))
    said = witness.Proven((1,), "udp", None, {early.key: Filter("exclude")})
    evidence = witness.Evidence({early.key: [said, said]}, (), 0, 0)
    reads = iter([[early], [late]])
    assert report.gather(lambda: next(reads), lambda _: evidence) == ([late], evidence)


def test_a_user_without_a_name_is_a_number() -> None:
    assert processes.user_name(4_000_000_000) == "4000000000"


def test_an_interface_s_name_may_hold_spaces_that_are_not_ascii_s() -> None:
    ip("link", "add", "en\u2003x", "type", "veth", "peer", "name", "en1")
    ip("link", "set", "en\u2003x", "up")
    index = socket.if_nametoindex("en\u2003x")
    with joined((GROUP, index)) as made:
        set_filter(made, index, Filter("include", frozenset({IPv4Address("10.0.0.1")})))
        assert (IPv4Address(GROUP), "en\u2003x", index, 1) in read_groups()
        assert read_source_counts() == {(index, IPv4Address(GROUP)): {IPv4Address("10.0.0.1"): (1, 0)}}


# The command


def test_in_a_pipe_each_record_has_a_line() -> None:
    with running(member(GROUP)) as (pid, _), joined((OTHER, LO)):
        done = run(GROUP, "--interface", "lo")
    assert (done.returncode, done.stderr) == (0, "")
    heading, row, summary = done.stdout.splitlines()
    assert heading.split() == ["interface", "group", "sockets", "hears", "processes"]
    assert row.split()[:4] == ["lo", GROUP, "1", "everybody"]
    assert row.endswith(f"[{pid}]")
    assert summary == "The owner of 1 membership was seen."


def test_the_help_has_usage_and_examples() -> None:
    said = run("--help").stdout
    assert said.startswith("Usage: trio-ipv4 groups [OPTIONS] [GROUP...]\n")
    assert "trio-ipv4 groups 239.1.2.3 " in said


def test_a_group_without_members_is_a_negative() -> None:
    done = run("--group", GROUP, "--group", "224.0.0.1")
    assert (done.returncode, done.stderr) == (1, f"Nobody here is a member of {GROUP}.\n")
    assert "224.0.0.1" in done.stdout
    # Who asked for nothing else is told once.
    done = run(GROUP)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Nobody here is a member of {GROUP}.\n")
    assert [each["event"] for each in objects(run(GROUP, "--json"))] == ["no_member", "summary"]
    collected = Collected()
    assert groups.main(collected, (), [IPv4Address(GROUP)]) == 1
    assert collected.records[0] == NobodyThere(IPv4Address(GROUP))


def test_only_the_interfaces_that_were_named_are_shown(two_ends: int) -> None:
    with joined((GROUP, two_ends), (GROUP, LO)):
        collected = Collected()
        assert groups.main(collected, ["en0"]) == 0
    assert {row.interface for row in collected.records if isinstance(row, GroupListed)} == {"en0"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("10.0.0.1",), 2, "must be a group, from 224.0.0.0 to 239.255.255.255, got '10.0.0.1'"),
        (("--group", "10.0.0.1"), 2, "must be a group, from 224.0.0.0 to 239.255.255.255, got '10.0.0.1'"),
        (("--interface", "nix"), 5, "interface named 'nix'"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: tuple[str, ...], status: int, words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


# How it is shown


def row(sources: int = 0, **changed: Any) -> GroupListed:
    facts: dict[str, Any] = {
        "interface": "en0",
        "ifindex": 2,
        "group": IPv4Address("239.255.255.250"),
        "mode": "include" if sources else "exclude",
        "sources": tuple(IPv4Address(f"10.0.0.{number}") for number in range(1, sources + 1)),
        "certain": True,
        "sockets": 2,
        "kernel": False,
        "processes": (
            ProcessShown(4711, "python3", "root", "proven", (SocketShown("udp", 5000),)),
            ProcessShown(4712, "avahi-daemon", "avahi", "proven", (SocketShown("udp", 5353),)),
        ),
        "unseen": 0,
        "dead": 0,
    }
    return GroupListed(**facts | changed)


@pytest.mark.pure
def test_in_60_columns_sources_and_processes_are_cut_and_the_sockets_give_way() -> None:
    heading, line = map(str, lay_out([row(sources=9)], 60))
    assert heading.split() == ["interface", "group", "processes"]
    assert line == "en0        239.255.255.250  python3[4711]:5000, avahi-dae..."
    heading, line = map(str, lay_out([row()], 60))
    assert heading.split() == ["interface", "group", "hears", "processes"]
    assert line == "en0        239.255.255.250  everybody  python3[4711]:5000..."
    assert len(line) <= 60


def test_in_a_narrow_terminal_no_address_is_cut_in_the_middle() -> None:
    sources = frozenset(IPv4Address(f"10.0.0.{number}") for number in range(1, 9))
    with joined((GROUP, LO)) as made:
        made.bind(("", 5000))
        set_filter(made, LO, Filter("include", sources))
        for columns, hears in ((70, "only 10.0.0.1, +7"), (200, f"only {', '.join(map(str, sorted(sources)))}")):
            with on_terminal([*COMMAND, GROUP], columns=columns) as terminal:
                shown = terminal.read_to_end()
            assert hears in shown
            assert f"[{os.getpid()}]:5000" in shown
        assert json.loads(run(GROUP, "--json").stdout.splitlines()[0])["sources"] == list(map(str, sorted(sources)))


@pytest.mark.pure
def test_in_46_columns_interface_group_and_processes_remain() -> None:
    heading, _ = map(str, lay_out([row(sources=9)], 46))
    assert heading.split() == ["interface", "group", "processes"]


@pytest.mark.pure
@pytest.mark.parametrize("width", [None, 300])
def test_with_room_nothing_is_cut(width: int | None) -> None:
    _, line = map(str, lay_out([row(sources=9)], width))
    assert "10.0.0.9" in line
    assert line.endswith("python3[4711]:5000, avahi-daemon[4712]:5353")


@pytest.mark.pure
@pytest.mark.parametrize(
    ("mode", "words"),
    [("include", "10.0.0.1, perhaps everybody"), ("exclude", "all but perhaps 10.0.0.1")],
)
def test_a_filter_that_is_not_certain_says_so(mode: str, words: str) -> None:
    assert row(sources=1, mode=mode, certain=False).cells()[3] == words


@pytest.mark.pure
@pytest.mark.parametrize(
    ("unreadable", "refused", "needs", "words"),
    [
        (0, 0, (), "they are the kernel's own, or processes outside this PID namespace."),
        (1, 0, ("A",), "1 process could not be looked into. Root sees more (A)."),
        (0, 2, ("A",), "2 processes can't be asked. Root sees more (A)."),
        (
            3,
            1,
            ("A", "B"),
            "3 processes could not be looked into and 1 process can't be asked. Root sees more (A and B).",
        ),
    ],
)
def test_the_summary_says_what_was_not_seen(unreadable: int, refused: int, needs: tuple[str, ...], words: str) -> None:
    summary = Summary(3, 2, 1, unreadable, refused, needs, can_ask=True)
    assert summary.text() == f"The owner of 1 of 2 memberships was not seen: {words}"


@pytest.mark.pure
def test_the_summary_of_all_seen() -> None:
    for sockets, words in ((1, "owner of 1 membership was"), (2, "owners of both memberships were")):
        assert Summary(3, sockets, 0, 0, 0, (), can_ask=True).text() == f"The {words} seen."
    assert Summary(3, 3, 0, 0, 0, (), can_ask=True).text() == "The owners of all 3 memberships were seen."


@pytest.mark.pure
def test_the_summary_of_none_seen() -> None:
    why = "they are the kernel's own, or processes outside this PID namespace."
    for unseen, words in ((1, "owner of 1 membership was"), (3, "owners of 3 memberships were")):
        assert Summary(3, unseen, unseen, 0, 0, (), can_ask=True).text() == f"The {words} not seen: {why}"


def test_where_the_kernel_lets_nobody_be_asked_no_capability_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfd, "_PIDFD_GETFD", 9999)  # No system call has this number: ENOSYS.
    with joined((GROUP, LO)):
        summary = look(GROUP).summary
    assert (summary.unseen, summary.needs, summary.can_ask) == (1, (), False)
    assert "lets no socket be asked (pidfd_getfd(2), Linux 5.6)" in summary.text()


def test_pypy_asks_no_socket_because_it_would_make_the_owners_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    with joined((GROUP, LO)):
        summary = look(GROUP).summary
    assert (summary.unseen, summary.can_ask) == (1, False)
    assert "PyPy lets no socket be asked" in summary.text()


def test_a_duplicate_that_is_no_socket_any_more_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        before = sorted(Path("/proc/self/fd").iterdir())
        with (
            pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)),
            foreign.duplicate(os.getpid(), file.fileno(), 1),
        ):
            pytest.fail("it is a file")
        assert sorted(Path("/proc/self/fd").iterdir()) == before
