"""`trio-ipv4 doctor`: the kernel's drops, a program's sockets, and others' rules, each against another witness."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from support.links import bridge, ip, veth
from trio_ipv4 import UnsupportedError, input_route
from trio_ipv4._cli import foreign, netlink, pidfd, processes
from trio_ipv4._cli.doctor.evidence import Drop, Held, Link, Links, Privileges, Program, ProgramSocket, Question, Rule
from trio_ipv4._cli.doctor.witnesses import drops, links, program, rules
from trio_ipv4._cli.doctor.witnesses.drops import btf, symbols, syscalls
from trio_ipv4._cli.doctor.witnesses.rules import iptables, tools
from trio_ipv4._cli.doctor.witnesses.rules.chains import find_drops
from trio_ipv4._cli.doctor.witnesses.rules.facts import Sets
from trio_ipv4._cli.doctor.witnesses.rules.packets import packets_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import AsNobody, WaitUntil
    from trio_ipv4.testing import Lab

GROUP = IPv4Address("239.1.2.3")
PORT = 5000
LO = 1
EN0 = 10
OWN = "198.18.10.2"
SOURCE = "198.18.10.1"
DEADLINE = 60
"""Seconds: no measure of anything, but an end."""
# Linux's numbers.
IP_MULTICAST_ALL, IP_MTU_DISCOVER, IP_PMTUDISC_DO = 49, 10, 2  # linux/in.h
MCAST_JOIN_GROUP, MCAST_BLOCK_SOURCE, MCAST_LEAVE_SOURCE_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 43, 47, 46  # linux/in.h
SO_ATTACH_FILTER, SO_MEMINFO, SO_BINDTOIFINDEX = 26, 55, 62  # asm-generic/socket.h
BPF = {"x86_64": 321}.get(os.uname().machine, 280)
BPF_PROG_GET_NEXT_ID = 11  # linux/bpf.h


# What others say


def counters() -> dict[str, int]:
    """Read /proc/net/snmp and netstat: a line of names, and one of numbers."""
    found = {}
    for table in ("snmp", "netstat"):
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()
        for names, numbers in zip(lines[::2], lines[1::2], strict=True):
            kind, *fields = names.split()
            found.update(
                {f"{kind}{field}": int(value) for field, value in zip(fields, numbers.split()[1:], strict=True)}
            )
    return found


def sockets_drops(of: socket.socket) -> int:
    return int(struct.unpack("=9I", of.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8])


def nft(*commands: str) -> None:
    subprocess.run(["nft", "-f", "-"], input="\n".join(commands), text=True, check=True)


def nft_packets(handle: int) -> int:
    ruleset = json.loads(subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout)
    rule = next(each["rule"] for each in ruleset["nftables"] if each.get("rule", {}).get("handle") == handle)
    return int(next(each["counter"]["packets"] for each in rule["expr"] if "counter" in each))


# Frames and sockets


def packet(
    source: str = SOURCE,
    port: int = PORT,
    *,
    group: IPv4Address = GROUP,
    protocol: int = socket.IPPROTO_UDP,
    checksum: int = 0,
    offset: int = 0,
    options: bytes = b"",
    payload: bytes = b"x",
) -> bytes:
    """Return an IPv4 packet to the group (RFC 791 section 3.1, RFC 768). A UDP checksum of 0 is none."""
    datagram = struct.pack("!HHHH", 40000, port, 8 + len(payload), checksum) + payload
    words = 5 + len(options) // 4
    fields = 0x40 | words, 0, 4 * words + len(datagram), 1, offset, 1, protocol, 0
    header = struct.pack("!BBHHHBBH4s4s", *fields, socket.inet_aton(source), group.packed) + options
    # The checksum stands eight octets further behind than in an ICMP message.
    total = sum(word for (word,) in struct.iter_unpack("!H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", 0xFFFF - (total & 0xFFFF) - (total >> 16)) + header[12:] + datagram


def inject(*packets: bytes, destination: bytes = b"\1\0\x5e\1\2\3") -> None:
    """Let frames come in by en0: its far end, in the same namespace, sends them."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far:
        far.bind(("far-en0", 0))
        for each in packets:
            far.send(destination + far.getsockname()[4] + b"\x08\0" + each)


@pytest.fixture
def en0() -> None:
    """An interface whose far end the test has, and on which nobody else says anything."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    ip("link set lo up", *veth("en0", EN0), f"address add {OWN}/24 dev en0")
    for name in ("all", "en0"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")


def request(group: IPv4Address, index: int, *sources: str) -> bytes:
    """Return a struct group_req, or group_source_req (linux/in.h)."""
    addresses = [group.packed, *map(socket.inet_aton, sources)]
    return struct.pack("@I0P", index) + b"".join(
        struct.pack("@HH4s120x", socket.AF_INET, 0, each) for each in addresses
    )


@contextlib.contextmanager
def receiver(index: int = EN0, group: IPv4Address = GROUP, port: int = PORT) -> Iterator[socket.socket]:
    """Open a socket that is a member of the group, and never blocks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind(("", port))
        made.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(group, index))
        yield made


def heard(by: socket.socket) -> int:
    number = 0
    with contextlib.suppress(BlockingIOError):
        while by.recv(65536):
            number += 1
    return number


class Seen:
    """Adds up what a witness says of this network; other tests, in other networks, use the same group."""

    def __init__(self, witness: drops.DropsWitness) -> None:
        self.witness = witness
        self.numbers: dict[Drop, int] = {}

    def look(self) -> dict[Drop, int]:
        for drop in filter(lambda each: each.here, self.witness.take("before").drops):
            kind = attrs.evolve(drop, number=0)
            self.numbers[kind] = self.numbers.get(kind, 0) + drop.number
        return self.numbers


def seen_of(witness: drops.DropsWitness) -> dict[Drop, int]:
    return Seen(witness).look()


def drop(reason: str, place: str, *, source: str = SOURCE, port: int | None = PORT, ifindex: int = EN0) -> Drop:
    return Drop(reason, place, ifindex, IPv4Address(source), 0, port=port)


# Drops


def test_a_fragmented_datagram_is_dropped_once(en0: None, wait_until: WaitUntil) -> None:
    first = packet(offset=0x2000, payload=bytes(16))  # More fragments follow; three units of eight octets.
    with receiver(port=7777), drops.open_drops(GROUP) as witness:
        inject(first, packet(offset=3, payload=b""))
        wait_until(lambda: counters()["Ip:ReasmOKs"] == counters()["Udp:IgnoredMulti"] == 1)
        assert [(each.here, each.number) for each in witness.take("before").drops if str(each.source) == SOURCE] == [
            (True, 1)
        ]


def test_drops_that_no_socket_wanted_have_their_port(en0: None, wait_until: WaitUntil) -> None:
    before = counters()
    with receiver(port=7777) as other, drops.open_drops(GROUP) as witness:
        seen = Seen(witness)
        inject(*[packet()] * 3, packet(port=5001), packet(port=7777))
        wait_until(lambda: heard(other))
        wait_until(lambda: counters()["Udp:IgnoredMulti"] - before["Udp:IgnoredMulti"] == 4)
        assert seen.look() == {
            drop("NOT_SPECIFIED", "__udp4_lib_rcv"): 3,
            drop("NOT_SPECIFIED", "__udp4_lib_rcv", port=5001): 1,
        }
        assert seen_of(witness) == {}
        inject(packet())
        wait_until(lambda: len(seen.look()) == 2 and sum(seen.numbers.values()) == 5)


def test_drops_of_the_reverse_path_filter(en0: None, wait_until: WaitUntil) -> None:
    Path("/proc/sys/net/ipv4/conf/en0/rp_filter").write_text("1")
    with receiver(), drops.open_drops(GROUP) as witness:
        inject(*[packet("10.9.9.9")] * 4)
        wait_until(lambda: counters()["TcpExt:IPReversePathFilter"] == 4)
        assert seen_of(witness) == {drop("IP_RPFILTER", "ip_rcv_finish_core", source="10.9.9.9"): 4}


def test_drops_of_a_firewall(en0: None, wait_until: WaitUntil) -> None:
    nft("add table ip fw", "add chain ip fw in { type filter hook input priority 0; }")
    nft(f"add rule ip fw in ip daddr {GROUP} counter drop")
    with receiver() as made, drops.open_drops(GROUP) as witness:
        inject(*[packet(options=b"\x94\4\0\0")] * 2)  # Router Alert: the port is four octets further behind.
        wait_until(lambda: nft_packets(2) == 2)
        assert seen_of(witness) == {drop("NETFILTER_DROP", "nft_do_chain"): 2}
        assert heard(made) == 0


@pytest.mark.parametrize("reason", ["SOCKET_RCVBUFF", "SOCKET_FILTER"])
def test_drops_of_a_socket(en0: None, wait_until: WaitUntil, reason: str) -> None:
    with receiver() as made, drops.open_drops(GROUP) as witness:
        if reason == "SOCKET_FILTER":
            attach_filter(made)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        inject(*[packet()] * 20)
        queued = 0 if reason == "SOCKET_FILTER" else 1
        wait_until(lambda: sockets_drops(made) >= 20 - 10 * queued)
        (found,) = (seen := Seen(witness)).look()
        assert attrs.evolve(found, place="") == drop(reason, "")
        assert seen.numbers[found] == sockets_drops(made) == 20 - heard(made)


def attach_filter(to: socket.socket) -> None:
    """Attach a classic BPF program of one instruction, which drops all: return 0."""
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
    program_of = struct.pack("@HP", 1, ctypes.addressof(instruction))
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program_of)


def test_drops_of_a_wrong_checksum_and_of_fragments(en0: None, wait_until: WaitUntil) -> None:
    with receiver(), drops.open_drops(GROUP) as witness:
        inject(packet(checksum=0x1234), packet(offset=5))
        wait_until(lambda: counters()["Udp:InCsumErrors"] == 1 and counters()["Ip:ReasmReqds"] == 1)
        # The fragment waits for the others.
        assert seen_of(witness) == {drop("UDP_CSUM", "__udp4_lib_rcv"): 1}
        Path("/proc/sys/net/ipv4/conf/en0/rp_filter").write_text("1")
        inject(packet("10.9.9.9", offset=5))
        wait_until(lambda: counters()["TcpExt:IPReversePathFilter"] == 1)
        assert seen_of(witness) == {drop("IP_RPFILTER", "ip_rcv_finish_core", source="10.9.9.9", port=None): 1}


def test_a_checksum_that_is_found_wrong_when_a_program_reads(lab: Lab, wait_until: WaitUntil) -> None:
    # Of more than 76 octets the kernel computes it as it copies (udp4_csum_init, CHECKSUM_BREAK).
    long = packet(checksum=0x1234, payload=bytes(100))
    with contextlib.ExitStack() as stack:
        seen = {name: Seen(lab[name].call(stack.enter_context, drops.open_drops(GROUP))) for name in lab}
        index = {each.name: each.index for each in lab["b"].interfaces}["en0"]
        made = lab["b"].call(stack.enter_context, receiver(index))
        far = lab["a"].call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        with far:
            lab["a"].call(far.bind, ("en0", 0))
            far.send(b"\1\0\x5e\1\2\3" + far.getsockname()[4] + b"\x08\0" + long)
        expected = drop("UDP_CSUM", "udp_recvmsg", ifindex=index)

        def read() -> bool:
            lab["b"].call(heard, made)
            return bool(seen["b"].look())

        wait_until(read)
        assert [attrs.evolve(each, place="udp_recvmsg") for each in seen["b"].look()] == [expected]
        assert seen["a"].look() == {}


def test_where_a_fragment_waited_is_not_told(en0: None, wait_until: WaitUntil) -> None:
    Path("/proc/sys/net/ipv4/ipfrag_time").write_text("1")  # In seconds.
    found: list[Drop] = []

    def is_purged() -> bool:
        found.extend(each for each in witness.take("before").drops if str(each.source) == "198.18.10.99")
        return bool(found)

    with receiver(), drops.open_drops(GROUP) as witness:
        inject(packet("198.18.10.99", offset=5))
        wait_until(is_purged)
        (purged,) = found
        assert (purged.reason, purged.here, purged.port) == ("FRAG_REASM_TIMEOUT", None, None)


def test_what_is_no_drop_of_the_group_is_left_out(en0: None, wait_until: WaitUntil) -> None:
    other = IPv4Address("239.1.2.4")
    with drops.open_drops(GROUP) as witness:
        with receiver() as made:
            inject(packet(), packet())
            wait_until(lambda: len(made.recv(1, socket.MSG_PEEK)) == 1)
            inject(packet(group=other), packet(protocol=socket.IPPROTO_IGMP))
            wait_until(lambda: counters()["Ip:InReceives"] >= 4)
            assert len(made.recv(1)) == 1
        # The second one was still in its queue.
        with contextlib.suppress(OSError):
            input_route(EN0, "240.0.0.1", GROUP)
        assert seen_of(witness) == {}
        inject(packet())  # Nobody is a member any more: that one is a drop.
        wait_until(lambda: len(seen_of(witness)) == 1)


def test_drops_of_another_network_are_left_out(lab: Lab, wait_until: WaitUntil) -> None:
    a, b = lab["a"], lab["b"]
    index = {each.name: each.index for each in b.interfaces}["en0"]
    with contextlib.ExitStack() as stack:
        at_a = a.call(stack.enter_context, drops.open_drops(GROUP))
        at_b = b.call(stack.enter_context, drops.open_drops(GROUP))
        made = b.call(stack.enter_context, receiver(index))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        sender = a.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        stack.enter_context(sender)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, a.addresses[0].packed)
        for _ in range(20):
            sender.sendto(b"x", (str(GROUP), PORT))
        # A packet in a socket's queue names no device; so the socket says where it is.
        wait_until(lambda: sockets_drops(made) >= 10)
        (found,) = (seen := Seen(at_b)).look()
        assert (found.reason, found.ifindex, found.port) == ("SOCKET_RCVBUFF", index, PORT)
        wait_until(lambda: seen.look()[found] == sockets_drops(made))
        assert seen_of(at_a) == {}


def test_drops_of_what_this_host_sends(wait_until: WaitUntil) -> None:
    ip("link set lo up", *bridge("br0", EN0), "route add default via 198.18.10.9 dev br0")
    with (
        receiver(),
        drops.open_drops(GROUP) as witness,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        sender.sendto(b"x", (str(GROUP), PORT))
        seen = Seen(witness)
        wait_until(lambda: seen.look())
        # With a member here, a TTL of 0 does not leave.
        assert seen.look() == {drop("NOT_SPECIFIED", "ip_mc_output", source="198.18.10.1"): 1}


def is_loaded(number: int) -> bool:
    """Tell whether the kernel still has the program with this number (union bpf_attr: start, next)."""
    attributes = ctypes.create_string_buffer(struct.pack("=III", number - 1, 0, 0), 12)
    done = ctypes.CDLL(None, use_errno=True).syscall(BPF, BPF_PROG_GET_NEXT_ID, attributes, ctypes.c_uint(12))
    return done == 0 and bool(struct.unpack("=III", attributes.raw)[1] == number)


def own_descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def own_programs() -> list[int]:
    """Read the numbers of the BPF programs that this process holds (proc_pid_fdinfo(5))."""
    found = []
    for each in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            lines = dict(line.split(":\t", 1) for line in each.read_text().splitlines() if ":\t" in line)
            if "prog_id" in lines and "prog_tag" in lines and "link_id" not in lines:
                found.append(int(lines["prog_id"]))
    return found


def test_nothing_of_it_is_left_behind(monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil) -> None:
    before = own_descriptors()
    with contextlib.suppress(KeyError), drops.open_drops(GROUP):
        (loaded,) = own_programs()
        assert is_loaded(loaded)
        raise KeyError
    assert own_descriptors() == before
    wait_until(lambda: not is_loaded(loaded))
    for place in ("attach", "load_program", "read_types"):
        with monkeypatch.context() as patched:
            patched.setattr(f"trio_ipv4._cli.doctor.witnesses.drops.witness.{place}", refuse)
            with pytest.raises(OSError, match="refused"), drops.open_drops(GROUP):
                pytest.fail("it was opened")
        assert own_descriptors() == before


def refuse(*_: object) -> None:
    raise OSError(22, "refused")


def say(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)


OPEN = """
import socket, sys
from ipaddress import IPv4Address
from trio_ipv4._cli.doctor.witnesses.drops import open_drops
try:
    with open_drops(IPv4Address("239.1.2.3")) as witness, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, 32, bytes(8) + bytes([1, 0, 0, 0]))
        sender.sendto(b"x", ("239.1.2.3", 5000))
        print([(each.reason, each.place) for each in witness.take("before").drops])
except PermissionError:
    print("PermissionError")
"""


def with_capabilities(become: list[str], *names: str) -> list[str]:
    """Let the other user keep these capabilities alone."""
    place = become.index("--inh-caps=-all")
    named = ",".join(f"+{name}" for name in names)
    return [*become[:place], f"--inh-caps={named}", f"--ambient-caps={named}", *become[place + 2 :]]


def test_two_capabilities_are_enough_and_none_is_not(as_nobody: AsNobody) -> None:
    ip("link set lo up")
    become = as_nobody([sys.executable, "-c", OPEN])
    said = say(become)
    assert (said.stdout, said.stderr) == ("PermissionError\n", "")
    said = say(with_capabilities(become, "bpf", "perfmon"))
    # The names of the kernel's functions are hidden.
    assert (said.stdout, said.stderr) == ("[('NOT_SPECIFIED', '')]\n", "")


@pytest.mark.pure
def test_another_architecture_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    syscalls._number.cache_clear()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "uname", lambda: type("Uname", (), {"machine": "s390x"}))
            with pytest.raises(UnsupportedError, match="s390x"), drops.open_drops(GROUP):
                pytest.fail("it was opened")
    finally:
        syscalls._number.cache_clear()


@pytest.mark.parametrize("octets", [None, b"", b"\0" * 64])
def test_a_kernel_that_does_not_describe_its_types_is_unsupported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, octets: bytes | None
) -> None:
    monkeypatch.setattr(btf, "_FILE", tmp_path / "btf")
    if octets is not None:
        (tmp_path / "btf").write_bytes(octets)
    with pytest.raises(UnsupportedError, match="BTF"), drops.open_drops(GROUP):
        pytest.fail("it was opened")


@pytest.mark.parametrize(("arguments", "supported"), [(0, False), (2, False), (3, True)])
def test_older_kernels_tell_less(monkeypatch: pytest.MonkeyPatch, arguments: int, supported: bool) -> None:
    monkeypatch.setattr(btf.Types, "arguments_of", lambda *_: arguments)
    ip("link set lo up")
    if not supported:
        with pytest.raises(UnsupportedError, match=r"Linux 5\.17"), drops.open_drops(GROUP):
            pytest.fail("it was opened")
        return
    with drops.open_drops(GROUP) as witness, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        send_on_lo(sender)
        assert [each.ifindex for each in witness.take("before").drops] == [LO]


def send_on_lo(sender: socket.socket) -> None:
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), LO))
    sender.sendto(b"x", (str(GROUP), PORT))


@pytest.mark.pure
def test_a_structure_that_a_kernel_lacks_is_unsupported() -> None:
    types = btf.read_types({"sk_buff", "no_such_thing"})
    assert types.offset("sk_buff", "head") % 8 == 0
    for structure, member in (("sk_buff", "no_such_member"), ("no_such_thing", "x")):
        with pytest.raises(UnsupportedError, match=f"{structure}.{member}"):
            types.offset(structure, member)
    assert types.enumerators("no_such_thing") == {}
    assert types.arguments_of("head") == 0 if "btf_trace_head" in types._found else True


@pytest.mark.pure
def test_functions_without_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(symbols, "_FILE", tmp_path / "kallsyms")
    assert symbols.name_functions([5]) == {5: ""}
    (tmp_path / "kallsyms").write_text("0000000000000000 T hidden\n0000000000000000 t hidden2\t[module]\n")
    assert symbols.name_functions([5]) == {5: ""}
    (tmp_path / "kallsyms").write_text(
        "00000030 T late\t[a_module]\n00000010 t early.isra.0\n00000020 d data\n00000018 W weak\n"
    )
    # An address to return to is behind the call: at 0x18, `early` ended with one.
    assert symbols.name_functions([0x10, 0x11, 0x18, 0x19, 0x2F, 0x31]) == {
        0x10: "",
        0x11: "early",
        0x18: "early",
        0x19: "weak",
        0x2F: "weak",
        0x31: "late",
    }


# A program


def look_at(pid: int, *groups: str, ifindexes: Sequence[int] = (LO, EN0)) -> Program:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        network = netlink.network_of(own)
    first, *more = [IPv4Address(group) for group in groups or [str(GROUP)]]
    others = [(index, group) for group in more for index in ifindexes]
    return program.look(pid, first, ifindexes, others, network)


@contextlib.contextmanager
def holding(*sockets: socket.socket, by: Sequence[str] = ()) -> Iterator[int]:
    """Give sockets to another program, which alone has them then, and give its number."""
    argv = [*by, "sleep", str(DEADLINE)]
    with subprocess.Popen(argv, pass_fds=[each.fileno() for each in sockets]) as running:
        for each in sockets:
            each.close()
        try:
            yield running.pid
        finally:
            running.kill()


def udp(family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


def test_what_a_program_has_set_is_told(en0: None, wait_until: WaitUntil) -> None:
    one, two = udp(), udp()
    one.bind((OWN, PORT))
    one.connect((OWN, 7777))
    one.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 7)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(OWN))
    one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    two.bind(("", PORT + 1))
    two.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, EN0)
    attach_filter(two)
    numbers = one.fileno(), two.fileno()
    inodes = [os.fstat(number).st_ino for number in numbers]
    with holding(one, two) as pid:
        wait_until(lambda: look_at(pid).state == "S")
        found = look_at(pid)
        assert (found.pid, found.name, found.state, found.refused) == (pid, "sleep", "S", None)
        first, second = found.sockets
        assert first == ProgramSocket(
            *(numbers[0], inodes[0], 4, OWN, PORT),
            here=True,
            peer=OWN,
            multicast_all=False,
            filter_length=0,
            buffer=20_000,  # The kernel doubles it (socket(7)).
            multicast_ttl=7,
            multicast_loop=False,
            multicast_interface=OWN,
            path_mtu_discovery=IP_PMTUDISC_DO,
        )
        assert (second.ifindex, second.filter_length, second.multicast_all) == (EN0, 1, True)
        assert (second.peer, second.multicast_interface, second.multicast_ttl) == (None, "0.0.0.0", 1)
        # What comes now stays in the queue, or doesn't get there.
        with udp() as sender:
            sender.bind((OWN, 7777))
            sender.sendto(b"x" * 100, (OWN, PORT))
            wait_until(lambda: look_at(pid).sockets[0].queued)
            sent = range(200)
            for _ in sent:
                sender.sendto(b"x" * 100, (OWN, PORT))
            wait_until(lambda: look_at(pid).sockets[0].drops)
            full = look_at(pid).sockets[0]
            assert len(sent) > full.drops > 0
            assert full.queued > full.buffer / 2
            assert counters()["Udp:RcvbufErrors"] == full.drops


def test_memberships_are_told_with_their_sources(en0: None) -> None:
    others = ["198.18.10.7", "198.18.10.8"]
    made = {name: udp() for name in ("any", "include", "exclude", "nobody", "none")}
    for name in ("any", "exclude"):
        made[name].setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, EN0))
    for source in others:
        made["include"].setsockopt(socket.IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, request(GROUP, EN0, source))
        made["exclude"].setsockopt(socket.IPPROTO_IP, MCAST_BLOCK_SOURCE, request(GROUP, EN0, source))
    set_include_nobody(made["nobody"])
    made["any"].setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, LO))
    made["any"].setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(IPv4Address("239.9.9.9"), LO))
    with holding(*made.values()) as pid:
        found = dict(zip(made, look_at(pid).sockets, strict=True))
        sources = tuple(map(IPv4Address, others))
        assert {name: each.memberships for name, each in found.items()} == {
            "any": (Held(LO, GROUP, "exclude"), Held(EN0, GROUP, "exclude")),
            "include": (Held(EN0, GROUP, "include", sources),),
            "exclude": (Held(EN0, GROUP, "exclude", sources),),
            "nobody": (Held(EN0, GROUP, "include"),),
            "none": (),
        }
        assert found["none"].option_memory == 0 < found["any"].option_memory
        assert len(look_at(pid, str(GROUP), "239.9.9.9").sockets[0].memberships) == 3


def set_include_nobody(to: socket.socket) -> None:
    """Be a member that hears no source: leaving one makes the filter INCLUDE {}, and then fails (ip_mc_source)."""
    to.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, EN0))
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
        to.setsockopt(socket.IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, request(GROUP, EN0, SOURCE))


def test_a_membership_of_an_interface_that_is_gone_is_told(en0: None) -> None:
    ip(*bridge("br70", 70))
    made = [udp(), udp()]
    for each, index in zip(made, (EN0, 70), strict=True):
        each.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, index))
    with holding(*made) as pid:
        ip("link delete en0", "link delete br70")
        assert "030201EF" not in Path("/proc/thread-self/net/igmp").read_text()
        held = [each.memberships for each in look_at(pid, ifindexes=[LO, 65]).sockets]
        assert held == [(Held(EN0, GROUP, "exclude"),), (Held(70, GROUP, "exclude"),)]


@pytest.mark.parametrize("only", [False, True])
def test_a_socket_of_ipv6_tells_what_it_has_of_ipv4(en0: None, only: bool) -> None:
    made = udp(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    made.bind(("::", PORT))
    made.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, EN0))
    made.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
    with holding(made) as pid:
        (found,) = look_at(pid).sockets
        assert (found.family, found.local, found.port, found.only_ipv6) == (6, "::", PORT, only)
        assert (found.memberships, found.multicast_all) == ((Held(EN0, GROUP, "exclude"),), False)
        assert (found.multicast_ttl, found.multicast_loop, found.path_mtu_discovery) == (9, True, 1)


def test_other_files_are_no_sockets_of_the_program(en0: None) -> None:
    kinds = [
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP),
        (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
        (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
        (socket.AF_NETLINK, socket.SOCK_DGRAM, 0),
    ]
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    made = [socket.socket(*kind) for kind in kinds]
    with holding(*made, udp()) as pid:
        (found,) = look_at(pid).sockets
        assert (found.family, found.local, found.port) == (4, "0.0.0.0", 0)


def test_a_program_in_another_network_is_not_here(en0: None) -> None:
    with holding(udp(), by=["unshare", "--net"]) as pid:
        wait_for_name(pid, "sleep")
        found = look_at(pid)
        # The socket was made here, and stays here.
        assert (found.here, found.sockets[0].here) == (False, True)
    with holding(udp()) as pid:
        found = look_at(pid)
        assert (found.here, found.sockets[0].here) == (True, True)
        assert program.look(pid, GROUP, [LO]).sockets[0].here is None
        assert program.look(pid, GROUP, [LO], network=b"another!").sockets[0].here is False


def wait_for_name(pid: int, name: str) -> None:
    for _ in range(10_000):
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return
    pytest.fail(f"it never was {name}")


LOOK = """
import attrs, sys
from ipaddress import IPv4Address
from trio_ipv4._cli.doctor.witnesses import program
found = program.look(int(sys.argv[1]), IPv4Address("239.1.2.3"), [1])
print(found.name, found.state, found.here, found.refused, [(each.descriptor, each.port) for each in found.sockets])
"""


def test_only_who_may_trace_a_program_can_ask_it(en0: None, as_nobody: AsNobody) -> None:
    made = udp()
    made.bind(("", PORT))
    number = made.fileno()
    with holding(made) as pid:
        become = as_nobody([sys.executable, "-c", LOOK, str(pid)])
        said = say(become)
        assert (said.stdout, said.stderr) == ("sleep S None EPERM []\n", "")
        # With that capability alone its descriptors are not listed, but can be duplicated.
        become = with_capabilities(become, "sys_ptrace")
        said = say(become)
        assert (said.stdout, said.stderr) == (f"sleep S True None [({number}, {PORT})]\n", "")


def test_processes_that_have_no_sockets(wait_until: WaitUntil) -> None:
    with subprocess.Popen(["true"]) as running:
        wait_until(lambda: look_at(running.pid).state == "Z")
        assert look_at(running.pid) == attrs.evolve(look_at(running.pid), name="true", refused=None, sockets=())
    assert look_at(running.pid) == Program(running.pid, refused="ESRCH")
    with holding() as pid:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: look_at(pid).state == "T")
        assert (look_at(pid).refused, look_at(pid).sockets) == (None, ())
    if Path("/proc/2/comm").read_text() == "kthreadd\n":
        kernel = look_at(2)
        assert (kernel.name, kernel.sockets) == ("kthreadd", ())


def test_a_process_that_ends_meanwhile_has_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    monkeypatch.setattr(processes, "state_of", lambda _: "S")
    assert look_at(gone.pid) == Program(gone.pid, state="S")
    monkeypatch.setattr(program, "_descriptors", lambda _: [(0, 1)])
    assert look_at(gone.pid) == Program(gone.pid, state="S", refused="ESRCH")


def test_a_thread_stands_for_its_process(en0: None, wait_until: WaitUntil) -> None:
    named, done = threading.Event(), threading.Event()
    numbers = []

    def wait() -> None:
        Path("/proc/thread-self/comm").write_text("a (b) R c")
        numbers.append(threading.get_native_id())
        named.set()
        done.wait(DEADLINE)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        with receiver() as made:
            assert named.wait(DEADLINE)
            wait_until(lambda: look_at(numbers[0]).state == "S")
            found = look_at(numbers[0])
            assert (found.name, found.state, found.refused) == ("a (b) R c", "S", None)
            assert made.fileno() in [each.descriptor for each in found.sockets if each.memberships]
    finally:
        done.set()
        thread.join()


def test_a_descriptor_that_is_closed_meanwhile_is_left_out(en0: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = udp()
    listed = [(999_999, 5), (made.fileno(), 5), (made.fileno(), os.fstat(made.fileno()).st_ino)]
    with holding(made) as pid:
        monkeypatch.setattr(program, "_descriptors", lambda _: listed)
        assert [each.inode for each in look_at(pid).sockets] == [listed[2][1]]


def test_what_forbids_to_ask_is_told(en0: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with holding(udp()) as pid:
        assert len(look_at(pid).sockets) == 1
        with monkeypatch.context() as patched:
            patched.setattr(pidfd, "_PIDFD_GETFD", 9999)  # No system call has this number.
            assert (look_at(pid).refused, look_at(pid).sockets) == ("ENOSYS", ())
        with monkeypatch.context() as patched:
            patched.setattr(program, "classes_of", lambda number: [str(number)])
            assert (look_at(pid).refused, look_at(pid).sockets) == ("EXDEV", ())


def test_options_that_a_kernel_lacks_are_not_told(en0: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_IP_MULTICAST_ALL", 9999)
    monkeypatch.setattr(foreign, "_SO_GET_FILTER", 9999)
    with holding(udp()) as pid:
        (found,) = look_at(pid).sockets
        assert (found.multicast_all, found.filter_length) == (None, None)


def test_a_program_of_ebpf_is_one_too(en0: None) -> None:
    # A socket filter (BPF_PROG_TYPE_SOCKET_FILTER) that says 0: r0 = 0, exit.
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b"MIT")
    attributes = struct.pack("=IIQQ24x", 1, 2, ctypes.addressof(code), ctypes.addressof(licence))
    loaded = ctypes.CDLL(None).syscall(BPF, 5, ctypes.create_string_buffer(attributes), len(attributes))
    made = udp()
    made.setsockopt(socket.SOL_SOCKET, 50, loaded)  # SO_ATTACH_BPF, asm-generic/socket.h
    os.close(loaded)
    with holding(made) as pid:
        assert look_at(pid).sockets[0].filter_length == 1


def test_looking_leaves_no_duplicate(en0: None) -> None:
    made = udp()
    made.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_GROUP, request(GROUP, EN0))
    before = own_descriptors()
    with holding(made) as pid:
        assert look_at(pid).sockets[0].memberships
    assert own_descriptors() < before
    # The program has ended, and so has its membership.
    assert "030201EF" not in Path("/proc/thread-self/net/igmp").read_text()


# Rules


def ask(
    name: str | None = "en0", *, source: str | None = None, role: Any = "receiver", net_admin: bool = True
) -> Question:
    return Question(
        GROUP,
        PORT,
        interface=name,
        ifindex=None if name is None else socket.if_nametoindex(name),
        source=None if source is None else IPv4Address(source),
        role=role,
        privileges=Privileges(net_admin=net_admin),
    )


def find(question: Question | None = None, matching: str = "udp") -> list[Rule]:
    found, _ = rules.look(question or ask(), links.look())
    return [rule for rule in found.rules if matching in rule.matches]


class Traffic:
    """Datagrams to the group that come in by en0, and what becomes of them."""

    def __init__(self, stack: contextlib.ExitStack, wait_until: WaitUntil) -> None:
        self._made = stack.enter_context(receiver())
        self._seen = Seen(stack.enter_context(drops.open_drops(GROUP)))
        self._wait_until = wait_until
        self._heard = self._sent = 0

    def pass_through(self) -> bool:
        """Send three; tell whether they came through, all of them or none."""
        before = self._heard
        inject(*[packet()] * 3)
        self._sent += 3
        self._wait_until(self._all_are_seen)
        assert self._heard - before in {0, 3}
        return self._heard > before

    def _all_are_seen(self) -> bool:
        self._heard += heard(self._made)
        return self._heard + sum(self._seen.look().values()) == self._sent


INPUT = "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in "
OTHER = "add table inet t; add chain inet t other; "
HOOKED = OTHER + "add chain inet t in { type filter hook input priority 0; }; "
SETS = (
    "add table inet t; add set inet t s { type ipv4_addr; flags interval; "
    "elements = { 239.1.0.0/16, 10.0.0.1-10.0.0.9 }; };"
    "add set inet t none { type ipv4_addr; elements = { 239.1.2.4 }; };"
    "add set inet t seen { type ipv4_addr; flags dynamic; };"
    "add map inet t m { type inet_service : verdict; elements = { 5000 : drop, 1 : accept }; };"
    "add chain inet t in { type filter hook input priority 0; }; "
)
SURE = [
    INPUT + "ip daddr 239.1.2.3 udp dport 5000 counter drop",
    INPUT + "udp dport 5000 reject",
    INPUT + "udp dport 4000-5100 drop",
    INPUT + "udp dport { 1, 5000, 6000-7000 } drop",
    INPUT + "udp dport > 4999 drop",
    INPUT + "th dport 5000 drop",
    INPUT + "ip daddr 224.0.0.0/4 drop",
    INPUT + "ip daddr 239.1.2.0-239.1.2.9 drop",
    INPUT + "ip daddr != 239.1.2.4 drop",
    INPUT + "meta l4proto udp drop",
    INPUT + "meta l4proto { tcp, udp } drop",
    INPUT + "ip protocol udp drop",
    INPUT + "meta nfproto ipv4 log drop",
    INPUT + "iif en0 drop",
    INPUT + 'iifname "en*" drop',
    INPUT + "iifname { lo, en0 } drop",
    INPUT + "oifname != en0 drop",
    INPUT + "iifname . udp dport { en0 . 5000 } drop",
    INPUT + "fib daddr type multicast drop",
    INPUT + "ct state established,related accept; add rule inet t in drop",
    INPUT + "ip protocol vmap { tcp : accept, udp : drop }",
    HOOKED + "add rule inet t in udp dport 5000 jump other; add rule inet t other ip daddr 239.1.2.3 drop",
    HOOKED + "add rule inet t in goto other; add rule inet t in accept; add rule inet t other drop",
    HOOKED + "add rule inet t other ip daddr 239.1.2.3 return; add rule inet t in jump other; add rule inet t in drop",
    SETS + "add rule inet t in ip daddr @s drop",
    SETS + "add rule inet t in udp dport vmap @m",
    "add table ip t; add chain ip t in { type filter hook prerouting priority -300; policy drop; }",
    "add table netdev t; add chain netdev t in { type filter hook ingress device en0 priority 0; policy drop; }",
    (
        "add table netdev t; add chain netdev t in { type filter hook ingress devices = { lo, en0 } priority 0; };"
        "add rule netdev t in ip daddr 239.1.2.3 drop"
    ),
    (
        "add table inet t; add chain inet t in { type filter hook ingress device en0 priority 0; };"
        "add rule inet t in udp dport 5000 drop"
    ),
]
"""Rulesets that drop the datagrams, whatever else they may be."""
PERHAPS = [
    INPUT + "meta pkttype multicast drop",
    INPUT + "ip saddr 198.18.10.1 drop",
    INPUT + "ct state new drop",
    INPUT + "limit rate 1000/second drop",
    INPUT + "ip ttl 1 drop",
    INPUT + "udp sport 40000 drop",
    INPUT + "meta mark 0 drop",
    INPUT + "ct state vmap { invalid : accept, new : drop }",
    INPUT + "meta pkttype vmap { multicast : drop, host : accept }",
    SETS + "add rule inet t in add @seen { ip daddr } drop",
    HOOKED + "add rule inet t in ip saddr 198.18.10.1 jump other; add rule inet t other drop",
]
"""Rulesets that drop them, because of something that nobody asked about."""
NEVER = [
    INPUT + "ip daddr 239.1.2.4 drop",
    INPUT + "ip daddr { 239.1.2.4, 239.1.2.5 } drop",
    INPUT + "ip daddr != 224.0.0.0/4 drop",
    INPUT + "ip daddr < 239.0.0.0 drop",
    INPUT + "udp dport 5001 drop",
    INPUT + "udp dport != 5000 drop",
    INPUT + "tcp dport 5000 drop",
    INPUT + "meta l4proto != udp drop",
    INPUT + "ip protocol igmp drop",
    INPUT + "igmp type membership-query drop",
    INPUT + "meta nfproto ipv6 drop",
    INPUT + "ip6 daddr ff02::1 drop",
    INPUT + "iifname lo drop",
    INPUT + "iif != en0 drop",
    INPUT + "oifname en0 drop",
    INPUT + "meta pkttype broadcast drop",
    INPUT + "fib daddr type local drop",
    INPUT + "ct state invalid drop",
    INPUT + "ct state vmap { invalid : drop, established : accept }",
    INPUT + "ip protocol vmap { tcp : drop, udp : accept }; add rule inet t in drop",
    INPUT + "udp dport 5000 accept; add rule inet t in drop",
    INPUT + "ip daddr 239.0.0.0/8 iifname en0 accept; add rule inet t in drop",
    INPUT + "iifname . udp dport { en0 . 5001, lo . 5000 } drop",
    INPUT + "counter",
    SETS + "add rule inet t in ip daddr @none drop",
    HOOKED + "add rule inet t other drop",
    HOOKED + "add rule inet t in udp dport 5001 jump other; add rule inet t other drop",
    HOOKED + "add rule inet t in jump other; add rule inet t in drop; add rule inet t other accept",
    "add table ip6 t; add chain ip6 t in { type filter hook input priority 0; policy drop; }",
    "add table ip t; add chain ip t out { type filter hook output priority 0; policy drop; }",
    (
        "add table ip t; add chain ip t in { type filter hook input priority 0; policy drop; };"
        "add rule ip t in udp dport 5000 accept"
    ),
    "add table netdev t; add chain netdev t in { type filter hook ingress device lo priority 0; policy drop; }",
    "add table bridge t; add chain bridge t in { type filter hook input priority 0; policy drop; }",
]
"""Rulesets that let the datagrams through."""


@pytest.mark.parametrize("ruleset", SURE)
def test_rules_that_drop_the_group_are_told_and_can_be_removed(en0: None, wait_until: WaitUntil, ruleset: str) -> None:
    nft(ruleset)
    with contextlib.ExitStack() as stack:
        traffic = Traffic(stack, wait_until)
        assert not traffic.pass_through()
        first, *_ = find()
        assert first.certain
        assert first.hook == (
            "ingress" if "ingress" in ruleset else "prerouting" if "prerouting" in ruleset else "input"
        )
        remove_all()
        assert traffic.pass_through()


def remove_all() -> None:
    """Carry out what is told to remove rules, until there are none."""
    for _ in range(5):
        for rule in find():
            assert rule.remove is not None
            subprocess.run(shlex.split(rule.remove), check=True)
        if not find():
            return
    pytest.fail(f"there are some still: {find()}")


@pytest.mark.parametrize("ruleset", PERHAPS)
def test_rules_that_may_drop_the_group_are_told_as_such(en0: None, wait_until: WaitUntil, ruleset: str) -> None:
    nft(ruleset)
    with contextlib.ExitStack() as stack:
        traffic = Traffic(stack, wait_until)
        assert not traffic.pass_through()
        assert [rule.certain for rule in find()] == [False]
        remove_all()
        assert traffic.pass_through()


@pytest.mark.parametrize("ruleset", NEVER)
def test_rules_that_let_the_group_through_are_not_told(en0: None, wait_until: WaitUntil, ruleset: str) -> None:
    nft(ruleset)
    with contextlib.ExitStack() as stack:
        assert Traffic(stack, wait_until).pass_through()
    assert find() == []


def test_a_source_that_is_known_makes_a_rule_certain(en0: None) -> None:
    nft(INPUT + f"ip saddr {SOURCE} drop", "add rule inet t in ip saddr 198.18.10.7 drop")
    assert [rule.certain for rule in find()] == [False, False]
    assert [rule.text for rule in find(ask(source=SOURCE))] == [f"ip saddr {SOURCE} drop"]
    assert [rule.certain for rule in find(ask(source=SOURCE))] == [True]


def test_without_an_interface_each_one_is_possible(en0: None) -> None:
    nft(INPUT + "iifname en0 drop", "add rule inet t in oifname en0 drop")
    nft("add table netdev t; add chain netdev t in { type filter hook ingress device en0 priority 0; policy drop; }")
    assert [(rule.hook, rule.certain) for rule in find(ask(None))] == [("ingress", True), ("input", False)]


def test_rules_are_told_in_a_helpful_order(en0: None) -> None:
    nft(
        INPUT + "counter packets 0 bytes 0 ip ttl 1 drop",
        "add rule inet t in ip ttl 2 drop",
        "add rule inet t in ip ttl 3 counter packets 7 bytes 7 drop",
        'add rule inet t in udp dport 5000 drop comment "no # handle 77"',
    )
    assert [(rule.text.split(" comment")[0], rule.counted) for rule in find()] == [
        ("udp dport 5000 drop", None),
        ("ip ttl 2 drop", None),
        ("ip ttl 3 counter packets 7 bytes 7 drop", 7),
        ("counter packets 0 bytes 0 ip ttl 1 drop", 0),
    ]


@pytest.mark.parametrize(
    ("rule", "hook"),
    [
        ("input ip protocol igmp drop", "input"),
        ("input meta l4proto igmp drop", "input"),
        ("input ip daddr 224.0.0.1 drop", "input"),
        ("input igmp type membership-query drop", "input"),
        ("input ip option ra exists drop", "input"),
        ("output ip daddr 224.0.0.22 drop", "output"),
        ("output ip protocol 2 drop", "output"),
        ("output oifname en0 ip protocol != { udp, tcp } drop", "output"),
        ("postrouting ip protocol igmp drop", "postrouting"),
        ("input ip protocol icmp drop", None),
        ("input ip daddr 224.0.0.251 drop", None),
        ("output ip daddr 224.0.0.1 drop", None),
        ("output iifname en0 drop", None),
    ],
)
def test_rules_that_drop_igmp_are_told_as_such(en0: None, rule: str, hook: str | None) -> None:
    chain, _, words = rule.partition(" ")
    nft(f"add table inet t; add chain inet t c {{ type filter hook {chain} priority 0; }}; add rule inet t c {words}")
    found = find(matching="igmp")
    assert [each.hook for each in found] == ([hook] if hook else [])
    for each in found:
        assert ("udp" in each.matches) == ("ra exists" in each.text)
        assert each.remove == f"nft delete rule inet t c handle {2 if '{' not in words else 3}"


def test_a_policy_that_drops_igmp_has_its_own_command(en0: None) -> None:
    nft("add table ip t; add chain ip t in { type filter hook input priority 0; policy drop; }")
    assert [rule.remove for rule in find(matching="igmp")] == ["nft insert rule ip t in ip protocol igmp accept"]
    remove_all()
    (left,) = find(matching="igmp")
    subprocess.run(shlex.split(left.remove or ""), check=True)
    assert find(matching="igmp") == []


@pytest.mark.parametrize(
    ("role", "hooks"),
    [
        ("receiver", ["prerouting", "input"]),
        ("sender", ["output", "postrouting"]),
        ("router", ["prerouting", "input", "forward", "postrouting"]),
    ],
)
def test_each_role_has_its_hooks(en0: None, role: str, hooks: list[str]) -> None:
    for hook in ("prerouting", "input", "forward", "output", "postrouting"):
        nft(f"add table ip {hook}; add chain ip {hook} c {{ type filter hook {hook} priority 0; policy drop; }}")
    assert sorted(rule.hook or "" for rule in find(ask(role=role))) == sorted(hooks)


def test_the_interfaces_of_a_router_are_told_apart(en0: None) -> None:
    nft("add table ip t; add chain ip t c { type filter hook forward priority 0; }")
    nft("add rule ip t c iifname en0 oifname far-en0 drop", "add rule ip t c iifname far-en0 drop")
    assert [(rule.certain, rule.hook) for rule in find(ask(role="router"))] == [(False, "forward")]


def test_a_sender_s_datagrams_that_are_dropped(wait_until: WaitUntil) -> None:
    ip("link set lo up", *bridge("br0", EN0))
    nft("add table ip t; add chain ip t out { type filter hook output priority 0; }")
    nft("add rule ip t out oifname br0 udp dport 5000 drop")
    (rule,) = find(ask("br0", role="sender"))
    assert (rule.hook, rule.certain) == ("output", True)
    with udp() as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.10.1"))
        with pytest.raises(PermissionError):
            sender.sendto(b"x", (str(GROUP), PORT))
        subprocess.run(shlex.split(rule.remove or ""), check=True)
        assert sender.sendto(b"x", (str(GROUP), PORT)) == 1


def test_rules_of_a_bridge_come_before_ip(en0: None) -> None:
    ip(*bridge("br0", 20), "link set en0 master br0")
    nft("add table bridge t; add chain bridge t in { type filter hook input priority 0; }")
    nft("add rule bridge t in ip daddr 239.1.2.3 drop")
    nft("add table netdev t; add chain netdev t c { type filter hook ingress device en0 priority 0; policy drop; }")
    with receiver(20) as made, drops.open_drops(GROUP) as witness:
        inject(packet())
        assert [rule.hook for rule in find(ask("br0"))] == ["ingress", "ingress"]
        # The ports of the bridge are below it; the bridge isn't below its ports, but they are bridged all the same.
        assert [rule.hook for rule in find(ask("en0"))] == ["ingress", "ingress"]
        assert [rule.kind for rule in find(ask("lo"))] == []
        assert heard(made) == 0
        assert witness.take("before") is not None


# Traffic control


def tc(*words: str) -> None:
    subprocess.run(["tc", *words], check=True)


def redirect(*words: str, device: str = "en0", action: str = "redirect") -> None:
    """Add a filter to an interface which sends what it matches elsewhere."""
    tc("filter", "add", "dev", device, "ingress", *words, "action", "mirred", "egress", action, "dev", "lo")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("protocol ip u32 match ip dst 239.1.2.3/32", True),
        ("protocol ip u32 match ip dst 239.0.0.0/8 match ip protocol 17 0xff match ip dport 5000 0xffff", True),
        ("protocol ip u32 match ip src 198.18.10.1/32", None),
        ("protocol all u32 match u32 0 0", True),
        ("protocol ip u32 match u8 0x05 0x0f at 0", None),
        ("protocol ip bpf bytecode '1,6 0 0 4294967295,'", None),
        ("protocol ip u32 match ip dst 239.1.2.4/32", False),
        ("protocol ip u32 match ip protocol 6 0xff", False),
        ("protocol ip u32 match ip dport 5001 0xffff", False),
        ("protocol arp u32 match u32 0 0", False),
    ],
)
def test_filters_of_traffic_control(en0: None, wait_until: WaitUntil, words: str, told: bool | None) -> None:
    tc("qdisc", "add", "dev", "en0", "clsact")
    redirect(*shlex.split(words))
    redirect("protocol", "ip", "pref", "60000", "u32", "match", "u32", "0", "0", action="mirror")  # A copy is no harm.
    found = find()
    assert [(rule.kind, rule.hook, rule.counted) for rule in found] == ([] if told is False else [("tc", "ingress", 0)])
    with receiver() as made:
        inject(packet())
        if not found:
            wait_until(lambda: heard(made) == 1)
            return
        wait_until(lambda: find()[0].counted == 1)
        assert "mirred redirect lo stolen" in found[0].text
        remove_all()
        inject(packet())
        wait_until(lambda: heard(made) == 1)
    assert (
        "mirror"
        in subprocess.run(
            ["tc", "filter", "show", "dev", "en0", "ingress"], capture_output=True, text=True, check=True
        ).stdout.lower()
    )


def test_a_program_of_traffic_control_may_drop(en0: None) -> None:
    tc("qdisc", "add", "dev", "en0", "clsact")
    tc("filter", "add", "dev", "en0", "ingress", "protocol", "ip", "bpf", "bytecode", "1,6 0 0 0,", "classid", "1:1")
    assert [(rule.text.split(": ")[1], rule.certain) for rule in find()] == [("a program decides", False)]
    remove_all()


@pytest.mark.pure
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"dst_ip": "239.1.2.0/24", "ip_proto": "udp", "eth_type": "ipv4"}, True),
        ({"dst_port": 5000, "src_ip": "10.0.0.1"}, True),
        ({"dst_ip": "239.1.3.0/24"}, False),
        ({"ip_proto": "tcp"}, False),
        ({"ip_proto": "udp", "dst_port": "5001"}, False),
        ({"dst_port": "5001-5002"}, True),
    ],
)
def test_keys_of_flower_are_compared(keys: dict[str, Any], told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # This kernel has no flower: as iproute2 6.1 writes it (tc/f_flower.c).
    action = {"kind": "gact", "control_action": {"type": "drop"}}
    each = {"protocol": "ip", "pref": 1, "kind": "flower", "chain": 2}
    shown = json.dumps([each, {**each, "options": {"handle": 1, "keys": keys, "actions": [action]}}])
    monkeypatch.setattr("trio_ipv4._cli.doctor.witnesses.rules.tc.run", lambda *_: shown)
    question = Question(GROUP, PORT, "en0", EN0)
    found = rules.tc.look(["en0"], packets_of(question)[:1])
    assert [rule.remove for rule in found] == (
        ["tc filter del dev en0 ingress protocol ip pref 1 chain 2 handle 1 flower"] if told else []
    )


# IPsec


@pytest.mark.parametrize(
    ("policies", "certain"),
    [
        (["dir in src 0.0.0.0/0 dst 239.1.2.3/32 proto udp dport 5000 action block"], True),
        (["dir in src 0.0.0.0/0 dst 0.0.0.0/0 tmpl proto esp mode transport"], True),
        (["dir in src 198.18.10.0/24 dst 224.0.0.0/4 action block"], None),
        (["dir in src 0.0.0.0/0 dst 239.1.2.3/32 proto udp sport 40000 action block"], None),
        (["dir in src 0.0.0.0/0 dst 239.1.2.3/32 dev lo action block"], True),
        (["dir in src 0.0.0.0/0 dst 239.1.2.3/32 dev en0 action block"], False),
        (["dir in src 0.0.0.0/0 dst 239.1.2.4/32 action block"], False),
        (["dir in src ::/0 dst ff02::/16 action block"], False),
        (["dir in src 0.0.0.0/0 dst 239.1.2.3/32 proto tcp action block"], False),
        (["dir out src 0.0.0.0/0 dst 239.1.2.3/32 action block"], False),
        (["dir in src 0.0.0.0/0 dst 0.0.0.0/0 tmpl proto esp mode transport level use"], False),
        (
            [
                "dir in src 0.0.0.0/0 dst 239.1.2.3/32 priority 1",
                "dir in src 0.0.0.0/0 dst 0.0.0.0/0 priority 2 action block",
            ],
            False,
        ),
    ],
)
def test_policies_of_ipsec(en0: None, wait_until: WaitUntil, policies: list[str], certain: bool | None) -> None:
    for policy in policies:
        subprocess.run(["ip", "xfrm", "policy", "add", *policy.split()], check=True)
    found = find()
    assert [(rule.kind, rule.certain) for rule in found] == ([] if certain is False else [("ipsec", certain is True)])
    with contextlib.ExitStack() as stack:
        traffic = Traffic(stack, wait_until)
        assert traffic.pass_through() == (not found)
        remove_all()
        assert traffic.pass_through()


def test_the_default_policy_of_ipsec(en0: None, wait_until: WaitUntil) -> None:
    subprocess.run(["ip", "xfrm", "policy", "setdefault", "in", "block"], check=True)
    with contextlib.ExitStack() as stack:
        traffic = Traffic(stack, wait_until)
        assert not traffic.pass_through()
        assert [(rule.text, rule.certain) for rule in find()] == [("Default policies: in: block", True)]
        remove_all()
        assert traffic.pass_through()


# iptables

SAVED = """\
# Generated by iptables-save v1.8.9 on Mon Nov 30 06:56:20 2026
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT DROP [7:700]
[1:2] -A INPUT -d 239.1.2.3/32 -p udp -m udp --dport 5000 -j ACCEPT
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[3:4] -A PREROUTING -p igmp -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:mine - [0:0]
[0:0] -A INPUT -m conntrack --ctstate INVALID -j DROP
[0:0] -A INPUT -i en1 -j DROP
[0:0] -A INPUT -o en0 -j DROP
[0:0] -A INPUT -i en+ -p udp -m udp --dport 5000 -m comment --comment "it\\'s - mine" -j mine
[0:0] -A INPUT -m addrtype --dst-type MULTICAST -j LOG
[0:0] -A INPUT -s 198.18.10.0/24 -m set --match-set bad src -j DROP
[0:0] -A INPUT -g last
[0:0] -A INPUT -j DROP
:last - [0:0]
[0:0] -A last -p udp -m udp ! --dport 1:100 -j REJECT --reject-with icmp-port-unreachable
[0:0] -A mine ! -d 224.0.0.0/4 -j RETURN
[5:6] -A mine -d 239.1.2.3/32 -p udp -m multiport --dports 4000:5100,7 -m state --state NEW -j REJECT
[0:0] -A mine -p tcp -j DROP
COMMIT
"""


def saved(beginning: str) -> str:
    """Return a rule without its counters."""
    return next(rule for line in SAVED.splitlines() if (rule := line.partition(" ")[2]).startswith(beginning))


@pytest.mark.pure
def test_rules_of_iptables_are_read() -> None:
    chains = iptables.parse(SAVED, "iptables-legacy")
    question = Question(GROUP, PORT, "en0", EN0)
    found = find_drops("iptables", chains, packets_of(question))
    assert [(rule.text, rule.hook, rule.counted, rule.matches, rule.certain) for rule in found] == [
        ("-A PREROUTING -p igmp -j DROP", "prerouting", 3, ("igmp",), True),
        ("-P INPUT DROP", "input", None, ("igmp",), True),
        (saved("-A mine -d 239.1.2.3"), "input", 5, ("udp",), False),
        (saved("-A INPUT -s"), "input", 0, ("udp", "igmp"), False),
        (saved("-A last"), "input", 0, ("udp",), True),
    ]
    assert found[0].remove == "iptables-legacy -t raw -D PREROUTING -p igmp -j DROP"
    assert found[1].remove == "iptables-legacy -t mangle -I INPUT -p igmp -j ACCEPT"
    elsewhere = Question(GROUP, 50, source=IPv4Address("10.0.0.1"))
    found = find_drops("iptables", chains, packets_of(elsewhere)[:1])
    assert [(rule.text, rule.certain) for rule in found] == [
        ("-P INPUT DROP", True),
        ("-A INPUT -i en1 -j DROP", False),
    ]
    assert found[0].remove == "iptables-legacy -t mangle -I INPUT -d 239.1.2.3 -p udp --dport 50 -j ACCEPT"
    sent = find_drops("iptables", chains, packets_of(Question(GROUP, PORT, "en0", EN0, role="sender")))
    assert all("udp" not in rule.matches for rule in sent)
    forwarded = find_drops("iptables", chains, packets_of(Question(GROUP, PORT, "en0", EN0, role="router")))
    assert ("-P FORWARD DROP", "forward") in [(rule.text, rule.hook) for rule in forwarded]


@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="iptables is not installed")
def test_rules_of_iptables_drop_the_group(en0: None, wait_until: WaitUntil) -> None:
    for words in (
        "-t raw -A PREROUTING -i en0 -d 239.1.2.3 -p udp --dport 5000 -j DROP",
        "-N mine",
        "-A INPUT -m addrtype --dst-type MULTICAST -j mine",
        "-A mine ! -i lo -j REJECT",
        "-t mangle -P INPUT DROP",
    ):
        subprocess.run(["iptables-legacy", *words.split()], check=True)
    with contextlib.ExitStack() as stack:
        traffic = Traffic(stack, wait_until)
        assert not traffic.pass_through()
        assert {rule.kind for rule in find()} == {"iptables"}
        assert all(rule.certain for rule in find())
        remove_all()
        assert traffic.pass_through()


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("tools_there", "told"),
    [
        ({"iptables-legacy-save": "cat {saved}"}, "iptables-legacy"),
        ({"iptables-save": "test $1 = -c && cat {saved} || echo v1.8.9 '(legacy)'"}, "iptables"),
        ({"iptables-save": "test $1 = -c && cat {saved} || echo v1.8.9 '(nf_tables)'"}, None),
        ({}, None),
    ],
)
def test_which_program_shows_the_old_tables(
    en0: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tools_there: dict[str, str], told: str | None
) -> None:
    (tmp_path / "saved").write_text(SAVED)
    (tmp_path / "names").write_text("filter\n")
    for name, script in tools_there.items():
        tool(tmp_path, name, script.format(saved=tmp_path / "saved"))
    cat = Path(shutil.which("cat") or "").parent
    monkeypatch.setenv("PATH", f"{tmp_path}:{cat}")
    monkeypatch.setattr(tools, "_PLACES", str(tmp_path))
    monkeypatch.setattr(iptables, "_TABLES", tmp_path / "names")
    found, _ = rules.look(ask(), links.look())
    assert ("iptables" in found.seen) == (told is not None)
    if told is not None:
        assert {(rule.remove or "").split()[0] for rule in found.rules if rule.kind == "iptables"} == {told}
    # Where no table was ever used, no program is needed.
    (tmp_path / "names").write_text("")
    found, _ = rules.look(ask(), links.look())
    assert "iptables" in found.seen
    monkeypatch.setattr(iptables, "_TABLES", tmp_path / "none")
    assert "iptables" in rules.look(ask(), links.look())[0].seen
    monkeypatch.setattr(iptables, "_TABLES", tmp_path)  # It can't be read.
    assert "iptables" not in rules.look(ask(), links.look())[0].seen


# Bridges, and who may look


def test_bridges_and_what_keeps_multicast_from_a_port(en0: None) -> None:
    ip(
        "link add br0 index 20 type bridge mcast_snooping 1 mcast_querier 0",
        "link add br1 index 21 type bridge mcast_snooping 0 mcast_querier 1",
        "link set en0 master br0",
        "link set en0 type bridge_slave isolated on mcast_flood off",
    )
    shown = json.loads(subprocess.run(["ip", "-d", "-j", "link"], capture_output=True, check=True).stdout)
    oracle = {
        each["ifindex"]: (bool(data["mcast_snooping"]), bool(data["mcast_querier"]))
        for each in shown
        if (data := each.get("linkinfo", {}).get("info_data", {})) and each["linkinfo"]["info_kind"] == "bridge"
    }
    question = ask("en0", net_admin=False)
    _, seen = rules.look(question, links.look())
    assert {each.ifindex: (each.snooping, each.querier) for each in seen.bridges} == oracle
    assert {each.ifindex: each.ports for each in seen.bridges} == {20: (EN0,), 21: ()}
    told = [rule for rule in find(question) if rule.kind == "bridge"]
    assert [rule.text for rule in told] == [
        "br0: mcast_snooping 1 mcast_querier 0",
        "en0: isolated on",
        "en0: mcast_flood off",
    ]
    assert told == [rule for rule in find(ask("br0")) if rule.kind == "bridge"]
    assert find(ask("br1")) == []
    for rule in told:
        subprocess.run(shlex.split(rule.remove or ""), check=True)
    assert find(question) == []


def test_without_privilege_some_kinds_are_not_seen(en0: None) -> None:
    nft(INPUT + "drop")
    found, seen = rules.look(ask(net_admin=False), links.look())
    assert (found.rules, found.seen, found.phase, seen.phase) == ((), ("tc", "bridge"), "after", "after")
    found, _ = rules.look(ask(), links.look())
    assert found.seen == ("nftables", "iptables", "tc", "ipsec", "bridge")


PLAIN = """
import socket
from ipaddress import IPv4Address
from trio_ipv4._cli.doctor.evidence import Privileges, Question
from trio_ipv4._cli.doctor.witnesses import links, rules
question = Question(IPv4Address("239.1.2.3"), 5000, "en0", 10, privileges=Privileges(net_admin=True))
found, bridges = rules.look(question, links.look())
print(found.seen, [rule.text for rule in found.rules], bridges.bridges)
"""


def test_a_program_that_refuses_has_seen_nothing(en0: None, as_nobody: AsNobody) -> None:
    tc("qdisc", "add", "dev", "en0", "clsact")
    redirect("protocol", "ip", "u32", "match", "u32", "0", "0")
    # This user may not look, whatever the question says.
    become = as_nobody([sys.executable, "-c", PLAIN])
    said = say(become)
    assert said.stdout.startswith("('tc', 'bridge') ['filter dev en0 ingress protocol ip pref 49152 u32: mirred")
    assert said.stderr == ""
    become = with_capabilities(become, "net_admin")
    said = say(become)
    # The names of iptables' tables are root's alone.
    assert said.stdout.startswith("('nftables', 'tc', 'ipsec', 'bridge') ")


@pytest.mark.parametrize("script", [None, "exit 1", "echo no JSON", "echo '{}'", "exec sleep 60"])
def test_a_program_that_fails_has_seen_nothing(
    en0: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
) -> None:
    monkeypatch.setattr(tools, "_PLACES", str(tmp_path))
    monkeypatch.setattr(tools, "_SECONDS", 0.5)
    for name in ("nft", "tc", "ip"):
        if script is not None:
            tool(tmp_path, name, script.replace("sleep", shutil.which("sleep") or ""))
    monkeypatch.setenv("PATH", str(tmp_path))
    found, seen = rules.look(ask(), links.look())
    # An answer without policies is one without any.
    assert set(found.seen) <= {"iptables", "bridge", *(["ipsec"] if script and "echo" in script else [])}
    assert "bridge" in found.seen
    assert (found.rules, seen.bridges) == ((), ())


def test_where_the_kernel_lists_no_links_no_bridge_is_seen(en0: None, monkeypatch: pytest.MonkeyPatch) -> None:
    there = links.look()
    monkeypatch.setattr("trio_ipv4._cli.doctor.witnesses.rules.bridges.ask", refuse)
    found, seen = rules.look(ask(net_admin=False), there)
    assert (found.seen, seen.bridges) == (("tc",), ())


@pytest.mark.pure
def test_the_devices_below_an_interface() -> None:
    there = [
        Link(1, "lo", up=True, carrier=True),
        Link(2, "en0", up=True, carrier=True, master=5),
        Link(3, "en1", up=True, carrier=True, master=5),
        Link(4, "en2", up=True, carrier=True),
        Link(5, "bond0", up=True, carrier=True, kind="bond"),
        Link(6, "bond0.7", up=True, carrier=True, kind="vlan", lower=5),
        Link(7, "loop", up=True, carrier=True, lower=7, master=7),
    ]
    near = {
        link.name: [
            each.name for each in rules._near(Question(GROUP, PORT, link.name, link.index), Links(tuple(there)))
        ]
        for link in there
    }
    assert near["bond0.7"] == ["bond0.7", "bond0", "en0", "en1"]
    assert (near["en0"], near["loop"]) == (["en0"], ["loop"])
    assert len(rules._near(Question(GROUP, PORT), Links(tuple(there)))) == 7


def test_a_policy_with_a_mark_can_be_removed(en0: None) -> None:
    words = "dir in src 0.0.0.0/0 dst 239.0.0.0/8 action block mark 5 mask 255 if_id 7"
    subprocess.run(["ip", "xfrm", "policy", "add", *words.split()], check=True)
    assert [rule.certain for rule in find()] == [False]
    remove_all()


@pytest.mark.pure
@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        # What other versions write, or what nobody would.
        ({"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid"]}, False),
        ({"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new", "untracked"]}, True),
        ({"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"set": "239.1.2.3"}}, True),
        ({"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "@gone"}, None),
        ({"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": 5}, None),
        ({"op": "<", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "ff02::1"}, None),
        ({"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"&": [1, 2]}}, None),
        ({"left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"elem": {"val": 5000}}}, True),
        ({"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "commplex-main"}, None),
        ({"op": "==", "left": {"payload": {"protocol": "ip", "field": "version"}}, "right": 4}, True),
        ({"op": "&", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": 1}, None),
        ({"op": "==", "left": {"meta": {"key": "iifname"}}, "right": 5}, None),
        ({"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr"]}}, "right": False}, None),
        ({"op": "==", "left": {"concat": [{"meta": {"key": "mark"}}]}, "right": {"concat": [5]}}, None),
        ({"op": "==", "left": {"meta": "mark"}, "right": 5}, None),
        ({"op": "==", "left": "@ll,0,8", "right": 5}, None),
    ],
)
def test_expressions_of_nftables_are_compared(expression: dict[str, Any], answer: bool | None) -> None:
    question = Question(GROUP, PORT, "en0", EN0)
    judged = [*rule_of({"match": expression}, {"drop": None}).judge(packets_of(question)[0], "input")]
    assert [verdict.matches for verdict in judged] == ([] if answer is False else [answer])


def rule_of(*expressions: dict[str, Any]) -> Any:
    return rules.nft._Rule("ip", "t", "c", 7, expressions, "", Sets())


@pytest.mark.pure
@pytest.mark.parametrize(
    ("expressions", "verdicts"),
    [
        ([{"xt": {"type": "match", "name": "recent"}}, {"xt": {"type": "target", "name": "REJECT"}}], [(None, "drop")]),
        ([{"xt": {"type": "target", "name": "DROP"}}], [(True, "drop")]),
        ([{"xt": {"type": "target", "name": "LOG"}}, {"drop": None}], [(True, "drop")]),
        ([{"xt": None}, {"drop": None}], [(None, "drop")]),
        ([{"queue": {"num": 1}}], [(True, "drop")]),
        ([{"counter": "named"}, {"return": None}], [(True, "return")]),
    ],
)
def test_statements_of_nftables_are_judged(expressions: list[dict[str, Any]], verdicts: list[tuple[Any, str]]) -> None:
    rule = rule_of(*expressions)
    judged = [*rule.judge(packets_of(Question(GROUP, PORT, "en0", EN0))[0], "input")]
    assert [(verdict.matches, verdict.does) for verdict in judged] == verdicts
    assert rule.counted is None
