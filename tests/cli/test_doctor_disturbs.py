"""`trio-ipv4 doctor` changes nothing that it doesn't say, and leaves nothing behind.

The test's own namespace has the interface "en0". A cable leads from it to "far0", in another namespace, where all that
leaves is captured. No switch is between, so that nothing is on the wire but what this host sends. What settings, rules
and sockets are is told by the kernel, by iproute2 and nft, and by the program itself; what was sent, by tshark.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from support.links import ip
from support.wire import need_tshark
from trio_ipv4.testing import igmp_groups, source_filters
from trio_ipv4.testing._namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from conftest import WaitUntil
    from trio_ipv4.testing import Lab

DEADLINE: Final = 90
"""Seconds: no measure of anything, but an end."""
INDEX: Final = 7
NEAR, FAR = "198.18.0.2", "198.18.0.1"
NEAR_MAC: Final = "02:00:00:00:00:02"
GROUP: Final = IPv4Address("239.1.2.3")
PORT: Final = 20000 + os.getpid() % 12000
"""None that tests have open at the same time, in other networks of this machine."""
TO: Final = f"{GROUP}:{PORT}"
NOBODYS: Final = IPv4Network("233.252.0.0/24")  # RFC 6676 section 2: MCAST-TEST-NET
DISCARD: Final = "9"  # RFC 863
MARK: Final = "TRIO_IPV4_TEST_MARK"
ETH_P_ALL, OUTGOING = 3, 4  # linux/if_ether.h; PACKET_OUTGOING, linux/if_packet.h
BPF = {"x86_64": 321}.get(os.uname().machine, 280)
BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID = 13, 14  # linux/bpf.h
IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE = "2", "3", "4"  # RFC 9776 section 4.2.13
PROGRAM: Final = """
import ctypes, fcntl, json, select, socket, struct, sys
libc = ctypes.CDLL(None)
port, index, source = int(sys.argv[1]), socket.if_nametoindex(sys.argv[2]), sys.argv[3]
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
own.bind(("", port))
group = socket.inet_aton("239.1.2.3")
member = group + struct.pack("=4si", bytes(4), index)
if source == "*":
    own.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
else:
    # MCAST_JOIN_SOURCE_GROUP, linux/in.h
    parts = [struct.pack("@HH4s120x", socket.AF_INET, 0, each) for each in (group, socket.inet_aton(source))]
    own.setsockopt(socket.IPPROTO_IP, 46, struct.pack("@I0P", index) + b"".join(parts))
own.setblocking(False)
heard = []
# What the kernel counts, and what each look at it changes: SO_ERROR, SO_INCOMING_CPU, SO_MEMINFO, SO_INCOMING_NAPI_ID.
counted = {(socket.SOL_SOCKET, each) for each in (4, 49, 55, 56)}

def options():
    for level in (socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_UDP):
        for name in range(110):
            try:
                value = own.getsockopt(level, name, 256).hex()
            except OSError as error:
                value = error.errno
            if (level, name) not in counted:
                yield f"{level} {name}", value

def held():
    # MCAST_MSFILTER on each interface
    for each in range(1, 40):
        length = ctypes.c_uint32(144 + 4 * 128)
        asked = ctypes.create_string_buffer(struct.pack("@I0PHH4s120xII", each, 2, 0, group, 0, 4), length.value)
        if not libc.getsockopt(own.fileno(), socket.IPPROTO_IP, 48, asked, ctypes.byref(length)):
            yield each, asked.raw[:length.value].hex()

def flags():
    return [fcntl.fcntl(own, each) for each in (fcntl.F_GETFL, fcntl.F_GETFD, fcntl.F_GETOWN, 11)]  # F_GETSIG

print(json.dumps("ready"), flush=True)
while True:
    readable, _, _ = select.select([sys.stdin] + [own] * (own.fileno() >= 0), [], [])
    if own in readable:
        try:
            while True:
                heard.append(int(own.recv(100)))
        except BlockingIOError:
            pass
        continue
    match sys.stdin.readline().strip():
        case "state":
            told = [dict(options()), flags(), own.getsockname(), list(held())]
        case "heard":
            told = heard
        case "close":
            own.close()
            told = True
        case _:
            break
    print(json.dumps(told), flush=True)
"""
SENDER: Final = """
import select, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
    interface = bytes(8) + struct.pack("=i", socket.if_nametoindex(sys.argv[2]))
    own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    number = 0
    while not select.select([sys.stdin], [], [], 0.004)[0]:
        own.sendto(b"%d" % number, ("239.1.2.3", int(sys.argv[1])))
        number += 1
    print(number, flush=True)
"""


class Talker:
    """A program with which the test speaks by lines.

    Args:
        argv: The program.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, words: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def program(by: Callable[[list[str]], list[str]] = list, source: str = "*") -> Iterator[Talker]:
    """A program that is a member of the group on en0, and reads what comes."""
    with Talker(by([sys.executable, "-c", PROGRAM, str(PORT), "en0", source])) as talker:
        assert talker.answer() == "ready"
        yield talker


@contextlib.contextmanager
def sender(by: Callable[[list[str]], list[str]], interface: str) -> Iterator[Talker]:
    """A program that sends numbers, until it is asked how many."""
    with Talker(by([sys.executable, "-c", SENDER, str(PORT), interface])) as talker:
        yield talker


@pytest.fixture
def far(wait_until: WaitUntil) -> Iterator[Namespace]:
    """The namespace at the other end of the cable. Here are rules and settings of all kinds, which must stay."""
    with Namespace() as there:
        no_ipv6()
        there.call(no_ipv6)
        ip(
            f"link add en0 index {INDEX} address {NEAR_MAC} type veth peer name far0 netns {there.path}",
            f"address add {NEAR}/24 dev en0",
            "link set en0 up",
            "rule add from 198.18.77.0/24 lookup 77",
            "route add 198.18.77.0/24 dev en0 table 77",
            "route add 224.0.0.0/4 dev en0",
            f"neighbour add {FAR} lladdr 02:00:00:00:00:01 dev en0 nud permanent",
        )
        there.call(
            ip, "link set lo up", "link set far0 address 02:00:00:00:00:01", f"address add {FAR}/24 dev far0",
            "link set far0 up",
        )  # fmt: skip
        policy = ["src", "198.18.88.0/24", "dst", "198.18.99.0/24", "dir", "in", "priority", "7", "action", "block"]
        subprocess.run(["ip", "xfrm", "policy", "add", *policy], check=True)
        subprocess.run(["tc", "qdisc", "add", "dev", "en0", "clsact"], check=True)
        rules = "table ip t { chain c { type filter hook input priority 0; ip saddr 198.18.66.6 drop; }; }"
        subprocess.run(["nft", rules], check=True)
        wait_until(lambda: flags_of("en0")["operstate"] == "UP")
        yield there


def no_ipv6() -> None:
    """Its addresses come a second later than the link, and it says so on the wire."""
    with contextlib.suppress(FileNotFoundError):
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def there_by(far: Namespace) -> Callable[[list[str]], list[str]]:
    return lambda argv: ["nsenter", f"--net={far.path}", "--", *argv]


def output_of(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def flags_of(name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(output_of("ip", "-d", "-j", "link", "show", name))
    return found[0]


def settings() -> dict[str, str]:
    """Every setting of this namespace's network: /proc/sys shows those of who looks."""
    # A process is all in one namespace, and threads of this one are not.
    argv = ["find", "/proc/sys/net", "-type", "f", "-perm", "/444", "-exec", "grep", "-H", "", "{}", "+"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) > 200
    # Statistics of what the machine does, and what is drawn anew at each look.
    volatile = ("random", "nf_conntrack_count", "/route/flush", "fib_notify", "flow_limit_cpu")
    return dict(line.partition(":")[::2] for line in lines if not any(each in line for each in volatile))


def tables(*, with_neighbours: bool = True) -> dict[str, object]:
    """What others would find changed, as other programs and the kernel show it."""
    found: dict[str, object] = {
        "settings": settings(),
        "nft": output_of("nft", "-a", "list", "ruleset"),
        "qdisc": output_of("tc", "qdisc", "show"),
        "ingress": output_of("tc", "filter", "show", "dev", "en0", "ingress"),
        "egress": output_of("tc", "filter", "show", "dev", "en0", "egress"),
        "rules": output_of("ip", "rule"),
        "routes": output_of("ip", "route", "show", "table", "all"),
        "policies": output_of("ip", "xfrm", "policy"),
        "states": output_of("ip", "xfrm", "state"),
        "links": [{**each, "stats64": None} for each in json.loads(output_of("ip", "-d", "-j", "link"))],
        "addresses": output_of("ip", "-o", "address"),
        "igmp": igmp_groups(),
        "mcfilter": source_filters(),
        "packet sockets": Path("/proc/thread-self/net/packet").read_text().splitlines()[1:],
        "raw sockets": Path("/proc/thread-self/net/raw").read_text().splitlines()[1:],
        "udp sockets": sorted(
            line.split()[1] for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
        ),
    }
    if with_neighbours:
        found["neighbours"] = output_of("ip", "neighbour")
    return found


# A run of doctor


class Doctor:
    """A run of doctor, whose records are read as they come.

    Args:
        arguments: Its options.
        by: What runs it elsewhere.
        path: Where it looks for other programs first.
    """

    def __init__(self, *arguments: str, by: Callable[[list[str]], list[str]] = list, path: Path | None = None) -> None:
        self.mark = secrets.token_hex()
        search = os.environ["PATH"] if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
        argv = by([sys.executable, "-W", "error", "-m", "trio_ipv4", "doctor", TO, "--json", *arguments])
        environment = {**os.environ, MARK: self.mark, "PATH": search}
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/"
        )
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)
        for each in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def read(self) -> Iterator[dict[str, Any]]:
        """Read its records until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.records.append(json.loads(line))
            yield self.records[-1]

    def read_until(self, moment: str) -> None:
        """Read until it looks in this phase, or until this witness has said something."""
        for record in self.read():
            if moment in {f"{record['event']} {record.get('phase')}", f"{record.get('witness')} {record.get('phase')}"}:
                return
        pytest.fail(f"it never came to {moment!r}: {self.records[-1:]}")

    def finish(self) -> dict[str, Any]:
        """Read the rest, and return the verdict."""
        for _ in self.read():
            pass
        _, told = self.process.communicate(timeout=DEADLINE)
        assert told == ""
        assert self.process.returncode in {0, 1, 3}
        assert self.records[-1]["event"] == "verdict"
        return self.records[-1]

    def said(self, witness: str, phase: str) -> dict[str, Any] | None:
        return next(
            (each for each in self.records if (each.get("witness"), each.get("phase")) == (witness, phase)), None
        )

    def processes(self) -> list[int]:
        """Return the processes that it started, and itself, by what they have in their environment."""
        found = []
        for each in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if each.name.isdecimal() and self.mark.encode() in (each / "environ").read_bytes():
                    found.append(int(each.name))
        return found


def bpf_objects(pid: int) -> set[tuple[int, int]]:
    """Return the BPF programs and maps that a process holds: how to ask for each, and its number."""
    found = set()
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for line in each.read_text().splitlines():
                key, _, value = line.partition(":")
                if key in {"prog_id", "map_id"}:
                    found.add((BPF_PROG_GET_FD_BY_ID if key == "prog_id" else BPF_MAP_GET_FD_BY_ID, int(value)))
    return found


def is_there(command: int, number: int) -> bool:
    """Tell whether the kernel still has a BPF program or map (bpf(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", number, 0, 0, 0), 16)
    descriptor = libc.syscall(BPF, command, attributes, 16)
    if descriptor >= 0:
        os.close(descriptor)
        return True
    assert ctypes.get_errno() == errno.ENOENT
    return False


# What stays as it is

ROLES: Final = {
    "receiver": [],
    "with its program": ["--pid", "PID"],
    "with a probe": ["--pid", "PID", "--probe"],
    "a source": ["--pid", "PID", "--probe", "--source", FAR],
    "without an interface": ["--pid", "PID"],
    "sender": ["--sender", "--pid", "PID", "--receiver", FAR],
    "router": ["--router"],
}


def options(role: str, pid: int) -> list[str]:
    named = [] if role == "without an interface" else ["--interface", "en0"]
    return [*named, "--for", "300ms", *(str(pid) if each == "PID" else each for each in ROLES[role])]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("silent", [False, True], ids=["flowing", "silent"])
def test_nothing_is_changed_and_no_datagram_is_lost(
    far: Namespace, role: str, silent: bool, wait_until: WaitUntil
) -> None:
    with program() as receiving, contextlib.ExitStack() as stack:
        sending = None if silent else stack.enter_context(sender(there_by(far), "far0"))
        if sending is not None:
            wait_until(lambda: receiving.ask("heard"))
        before, socket_before = tables(), receiving.ask("state")
        with Doctor(*options(role, receiving.pid)) as doctor:
            for record in doctor.read():
                if record["event"] == "looking":
                    # Meanwhile, too: promiscuity would cure what is to be found.
                    link = flags_of("en0")
                    assert (link["promiscuity"], link["allmulti"]) == (0, 0)
                    assert "PROMISC" not in link["flags"]
                    assert receiving.ask("state") == socket_before
            doctor.finish()
        assert receiving.ask("state") == socket_before
        after = tables()
        assert {key: value for key, value in after.items() if value != before[key]} == {}
        if sending is not None:
            number = sending.ask("end")
            first = receiving.ask("heard")[0]
            # The program came a moment later than the sender, and hears each from then on, once and in order.
            wait_until(lambda: receiving.ask("heard")[-1] == number - 1)
            assert receiving.ask("heard") == list(range(first, number))
            assert number - first > 50


def test_a_member_of_one_source_alone_goes_on_hearing_it_behind_a_switch(lab: Lab, wait_until: WaitUntil) -> None:
    """Our own join wants every source, and changes the filter that the host reports: there, and back again."""
    here, there = lab["a"].command, lab["b"].command
    with program(here, source="198.18.0.2") as receiving, sender(there, "en0") as sending:
        wait_until(lambda: receiving.ask("heard"))
        before = lab["a"].call(igmp_groups), lab["a"].call(source_filters)
        with Doctor("--interface", "en0", "--for", "300ms", "--pid", str(receiving.pid), by=here) as doctor:
            doctor.finish()
        assert (lab["a"].call(igmp_groups), lab["a"].call(source_filters)) == before
        number = sending.ask("end")
        wait_until(lambda: receiving.ask("heard")[-1] == number - 1)
        heard = receiving.ask("heard")
        assert heard == list(range(heard[0], number))


@pytest.mark.parametrize("moment", ["looking before", "looking joined"])
def test_a_program_that_closes_its_socket_leaves_while_doctor_looks(
    far: Namespace, moment: str, wait_until: WaitUntil
) -> None:
    key = INDEX, GROUP
    with program() as receiving:
        arguments = ["--interface", "en0", "--pid", str(receiving.pid), "--for", "2s"]
        with Doctor(*arguments) as doctor:
            doctor.read_until(moment)
            if moment == "looking joined":
                wait_until(lambda: igmp_groups()[key] == 3)  # The program, our receiver, and its raw socket.
            assert receiving.ask("close")
            others = 2 if moment == "looking joined" else 0
            wait_until(lambda: igmp_groups().get(key, 0) == others, seconds=1)
            assert doctor.process.poll() is None
            doctor.finish()
    assert key not in igmp_groups()


# What stays behind

MOMENTS: Final = (
    "start None",
    "looking before",
    "looking joined",
    "own_receiver joined",
    "looking test_join",
    "looking probe",
    "own_report probe",
    "unicast probe",
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", MOMENTS)
def test_however_it_is_ended_nothing_stays(
    far: Namespace, number: signal.Signals, moment: str, wait_until: WaitUntil
) -> None:
    with program() as receiving:
        before = tables()
        arguments = ["--interface", "en0", "--for", "200ms", "--pid", str(receiving.pid), "--probe", "--source", FAR]
        with Doctor(*arguments) as doctor:
            doctor.read_until(moment)
            held = bpf_objects(doctor.process.pid)
            doctor.process.send_signal(number)
            doctor.process.communicate(timeout=DEADLINE)
            assert doctor.process.returncode == (-number if number == signal.SIGKILL else 128 + number)
            # The kernel frees them after a grace period.
            wait_until(lambda: not any(is_there(*each) for each in held))
            wait_until(lambda: doctor.processes() == [])
        if not held and moment in {"looking before", "looking joined", "looking probe"}:
            pytest.skip("drops can't be counted here")
        wait_until(lambda: igmp_groups() == before["igmp"])
        after = tables()
        assert {key: value for key, value in after.items() if value != before[key]} == {}


def test_what_it_holds_meanwhile_is_gone_at_its_end(far: Namespace, wait_until: WaitUntil) -> None:
    with Doctor("--interface", "en0", "--for", "100ms") as doctor:
        doctor.read_until("looking before")
        held = bpf_objects(doctor.process.pid)
        if "drops" in {each.get("witness") for each in doctor.records if each["event"] == "skipped"}:
            pytest.skip("drops can't be counted here")
        assert {command for command, _ in held} == {BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID}
        assert all(is_there(*each) for each in held)
        assert len(doctor.processes()) == 1
        doctor.finish()
        wait_until(lambda: not any(is_there(*each) for each in held))
        assert doctor.processes() == []


def test_a_program_that_shows_rules_does_not_outlive_it(far: Namespace, tmp_path: Path, wait_until: WaitUntil) -> None:
    """nft may hang, as behind a lock. A service manager's signal reaches doctor alone."""
    hanging = tmp_path / "nft"
    hanging.write_text(f"#!/bin/sh\nexec sleep {DEADLINE}\n")
    hanging.chmod(0o755)
    with Doctor("--router", "--interface", "en0", "--for", "100ms", path=tmp_path) as doctor:
        wait_until(lambda: len(doctor.processes()) > 1)
        doctor.process.send_signal(signal.SIGTERM)
        doctor.process.communicate(timeout=DEADLINE)
        assert doctor.process.returncode == 128 + signal.SIGTERM
        wait_until(lambda: doctor.processes() == [], seconds=1)


def test_when_nobody_reads_any_more_it_ends(far: Namespace) -> None:
    with Doctor("--interface", "en0", "--for", "100ms") as doctor:
        doctor.read_until("start None")
        assert doctor.process.stdout is not None
        doctor.process.stdout.close()
        assert doctor.process.wait(DEADLINE) == 141
    assert (INDEX, GROUP) not in igmp_groups()


# What is sent


@attrs.frozen
class Sent:
    """A frame that left this host, as tshark reads it."""

    protocol: str
    destination: str
    port: str
    length: str
    kind: str
    groups: tuple[tuple[str, str], ...]
    """Of an IGMPv3 report: kinds of records, and their groups."""


class Capture:
    """What comes out of the cable.

    Args:
        far: The namespace at its end.
        file: Where it is kept.
    """

    def __init__(self, far: Namespace, file: Path) -> None:
        self._file = file
        self._socket = far.call(self._open)

    @staticmethod
    def _open() -> socket.socket:
        own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        own.bind(("far0", ETH_P_ALL))
        own.setblocking(False)
        return own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def sent(self) -> list[Sent]:
        """Return all that came so far."""
        # A pcap file (draft-ietf-opsawg-pcap) with link type 1, Ethernet.
        octets = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(65535)
                if address[2] != OUTGOING:
                    octets += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
        self._file.write_bytes(octets)
        names = ["_ws.col.Protocol", "ip.dst", "udp.dstport", "udp.length", "igmp.type", "igmp.record_type"]
        names += ["igmp.maddr"]
        words = [word for name in names for word in ("-e", name)]
        argv = ["tshark", "-r", str(self._file), "-n", "-T", "fields", *words]
        found = []
        for line in output_of(*argv).splitlines():
            protocol, to, port, length, kind, records, groups = line.split("\t")
            pairs = zip(records.split(","), groups.split(","), strict=True) if records else ()
            found.append(Sent(protocol, to, port, length, kind, tuple(pairs)))
        return found


@pytest.fixture
def capture(far: Namespace, tmp_path: Path) -> Iterator[Capture]:
    need_tshark()
    with Capture(far, tmp_path / "sent.pcap") as capturing:
        yield capturing


def divide(sent: Sequence[Sent]) -> tuple[list[tuple[str, str]], list[Sent]]:
    """Return the records of the reports, in their order, and whatever else was sent."""
    reports = [each for each in sent if each.protocol == "IGMPv3"]
    assert {each.kind for each in reports} <= {"0x22"}
    return [pair for each in reports for pair in each.groups], [each for each in sent if each not in reports]


def of_nobodys(records: Sequence[tuple[str, str]]) -> list[str]:
    """Return the kinds of the records of a group of nobody's, which is one and the same in all of them."""
    found = [(kind, group) for kind, group in records if IPv4Address(group) in NOBODYS]
    assert len({group for _, group in found}) <= 1
    return [kind for kind, _ in found]


def of_group(records: Sequence[tuple[str, str]]) -> list[str]:
    return [kind for kind, group in records if group == str(GROUP)]


@contextlib.contextmanager
def reported_program(capture: Capture, wait_until: WaitUntil) -> Iterator[Talker]:
    """A member whose own reports are over: the kernel sends two for a change (RFC 9776 section 8.1)."""
    found: list[Sent] = []

    def reported() -> bool:
        found.extend(capture.sent())
        return of_group(divide(found)[0]) == [TO_EXCLUDE, TO_EXCLUDE]

    with program() as receiving:
        wait_until(reported)
        yield receiving


def assert_joined_and_left(kinds: Sequence[str]) -> None:
    """A change is reported twice (RFC 9776 section 8.1), if no other one follows before."""
    joined, left = kinds.count(TO_EXCLUDE), kinds.count(TO_INCLUDE)
    assert list(kinds) == [TO_EXCLUDE] * joined + [TO_INCLUDE] * left
    assert 1 <= joined <= 2
    assert 1 <= left <= 2


def test_where_nobody_is_a_member_our_joins_are_reported_and_nothing_else(capture: Capture) -> None:
    with Doctor("--interface", "en0", "--for", "100ms", "--probe") as doctor:
        doctor.finish()
    records, others = divide(capture.sent())
    assert others == []
    assert {group for _, group in records if IPv4Address(group) not in NOBODYS} == {str(GROUP)}
    assert_joined_and_left(of_group(records))
    assert_joined_and_left(of_nobodys(records))


def test_where_a_program_is_a_member_nothing_of_the_group_is_reported(capture: Capture, wait_until: WaitUntil) -> None:
    with reported_program(capture, wait_until) as receiving:
        with Doctor("--interface", "en0", "--for", "100ms", "--pid", str(receiving.pid)) as doctor:
            doctor.finish()
        records, others = divide(capture.sent())
    assert others == []
    assert {IPv4Address(group) in NOBODYS for _, group in records} == {True}
    assert_joined_and_left(of_nobodys(records))


def test_what_comes_needs_no_test_join(far: Namespace, capture: Capture, wait_until: WaitUntil) -> None:
    with reported_program(capture, wait_until) as receiving, sender(there_by(far), "far0"):
        wait_until(lambda: receiving.ask("heard"))
        with Doctor("--interface", "en0", "--for", "100ms", "--probe", "--source", FAR) as doctor:
            doctor.finish()
        assert capture.sent() == []


def test_a_probe_says_twice_that_this_host_is_a_member(capture: Capture, wait_until: WaitUntil) -> None:
    with reported_program(capture, wait_until):
        with Doctor("--interface", "en0", "--for", "100ms", "--probe") as doctor:
            verdict = doctor.finish()
        records, others = divide(capture.sent())
    assert others == []
    assert of_group(records) == [IS_EXCLUDE, IS_EXCLUDE]  # By a socket, and as a frame that passes the firewall.
    assert {group for _, group in records if IPv4Address(group) not in NOBODYS} == {str(GROUP)}
    assert_joined_and_left(of_nobodys(records))
    assert verdict["code"] == "not-on-the-wire"


def test_the_source_gets_one_empty_datagram(capture: Capture) -> None:
    with Doctor("--interface", "en0", "--for", "100ms", "--source", FAR) as doctor:
        verdict = doctor.finish()
    records, others = divide(capture.sent())
    datagrams = [each for each in others if each.protocol != "ARP"]
    assert [(each.destination, each.port, each.length) for each in datagrams] == [(FAR, DISCARD, "8")]
    assert verdict["disturbed"]
    assert doctor.said("unicast", "probe") == {
        "event": "evidence",
        "witness": "unicast",
        "phase": "probe",
        "answer": "ECONNREFUSED",
        "hop": FAR,
        "neighbour": "permanent",
    }
    assert {group for _, group in records if IPv4Address(group) not in NOBODYS} == {str(GROUP)}


@pytest.mark.parametrize("arguments", [["--sender"], ["--sender", "--receiver", FAR], ["--router"]])
@pytest.mark.parametrize("interface", [["--interface", "en0"], []], ids=["named", "by route"])
def test_senders_and_routers_send_nothing(capture: Capture, arguments: list[str], interface: list[str]) -> None:
    with Doctor(*arguments, *interface, "--for", "100ms", "--source", FAR) as doctor:
        doctor.finish()
    assert capture.sent() == []


def test_without_an_interface_nothing_is_sent(capture: Capture) -> None:
    with Doctor("--interface", "none", "--for", "100ms", "--probe", "--source", FAR) as doctor:
        assert doctor.finish()["code"] == "no-such-interface"
    assert capture.sent() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_it_is_ended_the_network_is_told_of_the_leave(
    capture: Capture, number: signal.Signals, wait_until: WaitUntil
) -> None:
    found: list[Sent] = []

    def left() -> bool:
        found.extend(capture.sent())
        return TO_INCLUDE in of_group(divide(found)[0])

    with Doctor("--interface", "en0", "--for", "200ms") as doctor:
        doctor.read_until("looking test_join")
        doctor.process.send_signal(number)
        doctor.process.communicate(timeout=DEADLINE)
    wait_until(left)
    assert divide(found)[1] == []
