"""What `trio-ipv4 doctor` reads from the kernel's tables: against iproute2, sysctl, ss, nstat, and /proc."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli import diag, kernel_tables, netlink, processes
from trio_ipv4._cli.doctor.evidence import Counters, Link, UDPSocket, Way
from trio_ipv4._cli.doctor.witnesses import (
    counters,
    elsewhere,
    input_routes,
    links,
    memberships,
    router,
    routes,
    settings,
    sockets,
)
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import AsNobody, WaitUntil
    from trio_ipv4.testing import Lab, LabHost

GROUP = IPv4Address("239.1.2.3")
OTHER = IPv4Address("239.1.2.4")
NEIGHBOUR = IPv4Address("198.18.0.66")
PORT = 5000
LO = 1
ALL_HOSTS = IPv4Address("224.0.0.1")
# Linux's numbers (linux/in.h).
MULTICAST_ALL = 49
# A program with a socket on a port: it prints its inode, and obeys the lines that it reads: a number of datagrams to
# read, or anything else to end.
PROGRAM = """
import os, socket, struct, sys
family, address, port, *words = sys.argv[1:]
made = socket.socket(getattr(socket, family), socket.SOCK_DGRAM)
for word in words:
    name, _, value = word.partition("=")
    if name == "join":
        group, index, *source = value.split(",")
        if source:
            addresses = [(socket.AF_INET, 0, socket.inet_aton(each)) for each in (group, *source)]
            packed = b"".join(struct.pack("=HH4s120x", *each) for each in addresses)
            made.setsockopt(0, 46, struct.pack("@IP", int(index), 0)[:-8] + packed)  # MCAST_JOIN_SOURCE_GROUP
        else:
            made.setsockopt(0, 35, socket.inet_aton(group) + struct.pack("=4xi", int(index)))  # IP_ADD_MEMBERSHIP
    elif name == "connect":
        made.connect((value, 9))
    elif name == "device":
        made.setsockopt(1, 25, value.encode())  # SO_BINDTODEVICE
    elif name == "bind":
        made.bind((address, int(port)))
    else:
        level, option = map(int, name.split("."))
        made.setsockopt(level, option, int(value))
print(os.fstat(made.fileno()).st_ino, flush=True)
for line in sys.stdin:
    if not line.strip().isdecimal():
        break
    for _ in range(int(line)):
        made.recv(65536)
    print("read", flush=True)
"""


@attrs.frozen
class Program:
    """A program that runs: its process, and its socket's inode."""

    process: subprocess.Popen[str]
    inode: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self, number: int) -> None:
        """Let it read datagrams, and wait until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "read\n"


@contextlib.contextmanager
def running(
    *words: str, family: str = "AF_INET", address: str = "", port: int = PORT, by: Sequence[str] = ()
) -> Iterator[Program]:
    """Run a program. `words`: bind, join=GROUP,INDEX[,SOURCE], connect=ADDRESS, device=NAME, LEVEL.OPTION=NUMBER."""
    argv = [*by, sys.executable, "-c", PROGRAM, family, address, str(port), *(words or ("bind",))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Program(process, int(process.stdout.readline()))
        finally:
            process.kill()


@contextlib.contextmanager
def joined(group: IPv4Address, index: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        request = group.packed + struct.pack("=4xi", index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        yield made


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    return [each for each in json.loads(ip("-json", "-details", *arguments)) if each]


def cable(name: str = "en0", *, peer: str = "far0") -> int:
    """Make an interface that is up, and return its index."""
    ip("link", "add", name, "type", "veth", "peer", "name", peer)
    ip("link", "set", name, "up")
    ip("link", "set", peer, "up")
    return socket.if_nametoindex(name)


def link_named(name: str) -> Link:
    (found,) = (each for each in links.look().links if each.name == name)
    return found


# Links


def as_iproute2_says(shown: dict[str, Any]) -> Link:
    """Return the link that `ip -details -json address` shows, of a namespace whose links are all here."""
    info = shown.get("linkinfo", {})
    slave = info.get("info_slave_data", {}) if info.get("info_slave_kind") == "bridge" else {}
    kind = info.get("info_kind")
    below = None if kind == "veth" else shown.get("link")
    modes = {1: "native", 2: "generic"}
    return Link(
        index=shown["ifindex"],
        name=shown["ifname"],
        up="UP" in shown["flags"],
        # iproute2 shows neither for an interface that is down.
        carrier="LOWER_UP" in shown["flags"],
        loopback="LOOPBACK" in shown["flags"],
        multicast="MULTICAST" in shown["flags"],
        mtu=shown["mtu"],
        kind=kind,
        port_kind=info.get("info_slave_kind"),
        mode=info.get("info_data", {}).get("mode"),
        master=socket.if_nametoindex(shown["master"]) if "master" in shown else None,
        lower=socket.if_nametoindex(below) if below else None,
        hardware_address=shown["address"],
        addresses=tuple(
            IPv4Interface((each["local"], each["prefixlen"])) for each in shown["addr_info"] if each["family"] == "inet"
        ),
        xdp=modes[shown["xdp"]["mode"]] if "xdp" in shown else None,  # type: ignore[arg-type]  # One of the two.
        isolated=slave.get("isolated", False),
    )


def without_what_iproute2_says_otherwise(link: Link) -> Link:
    return attrs.evolve(link, promiscuous=False, carrier=link.carrier and link.up)


def test_links_are_those_that_iproute2_shows() -> None:
    cable()
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "far0", "master", "br0")
    ip("link", "set", "far0", "type", "bridge_slave", "isolated", "on")
    cable("x.5", peer="down0")
    ip("link", "set", "down0", "mtu", "9000", "down", "multicast", "off")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("address", "add", "198.18.0.2/24", "dev", "en0")
    ip("address", "add", "198.18.7.1", "peer", "198.18.7.2/32", "dev", "en0")
    for number, mode in enumerate(("private", "vepa", "bridge", "source")):
        ip("link", "add", f"mac{number}", "link", "en0", "type", "macvlan", "mode", mode)
    ip("link", "set", "mac0", "up")
    ip("link", "add", "mac4", "link", "x.5", "type", "macvlan", "mode", "passthru")
    found = links.look().links
    assert [each.index for each in found] == sorted(each.index for each in found)
    shown = [as_iproute2_says(each) for each in ip_json("address")]
    assert [without_what_iproute2_says_otherwise(each) for each in found] == shown
    by_name = {each.name: each for each in found}
    assert by_name["far0"].isolated
    assert not by_name["en0"].isolated
    assert (by_name["mac1"].mode, by_name["mac1"].lower) == ("vepa", by_name["en0"].index)
    # A pair's other end is not below, though iproute2 shows both by the same attribute.
    assert by_name["en0"].lower is None
    assert not any(each.promiscuous for each in found)


def test_a_carrier_that_is_missing_is_seen() -> None:
    cable()
    assert link_named("en0").carrier
    ip("link", "set", "far0", "down")
    assert (link_named("en0").up, link_named("en0").carrier) == (True, False)


def test_what_is_below_in_another_namespace_has_no_index_here(needs_lab: None) -> None:
    with open_lab() as lab:
        (end,) = lab["a"].interfaces
        lab["a"].ip("link", "add", "mac0", "link", "en0", "netns", lab["b"].namespace, "type", "macvlan")
        found = lab["b"].call(link_named, "mac0")
        assert "link_netnsid" in json.loads(lab["b"].ip("-json", "link", "show", "mac0"))[0]
        assert (found.kind, found.lower) == ("macvlan", None)
        # On its own host it would have one.
        lab["a"].ip("link", "add", "mac1", "link", "en0", "type", "macvlan")
        assert lab["a"].call(link_named, "mac1").lower == end.index


@pytest.mark.parametrize("where", ["en0", "far0"])
def test_somebody_who_listens_to_all_frames_is_told_from_a_bridge_and_a_macvlan(where: str) -> None:
    cable()
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "br0", "up")
    ip("link", "set", "far0", "master", "br0")
    ip("link", "add", "mac0", "link", "en0", "type", "macvlan", "mode", "bridge")
    ip("link", "set", "mac0", "up")
    # Both want all frames of the devices below them.
    assert {each["ifname"]: each["promiscuity"] for each in ip_json("link")} | {"far0": 1, "en0": 1} == {
        each["ifname"]: each["promiscuity"] for each in ip_json("link")
    }
    assert not any(each.promiscuous for each in links.look().links)
    ip("link", "set", where, "promisc", "on")
    assert [each.name for each in links.look().links if each.promiscuous] == [where]


BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""The number of bpf(2)."""
XDP_PASS = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
"""r0 = XDP_PASS; exit (linux/bpf.h)."""


@contextlib.contextmanager
def xdp_program() -> Iterator[int]:
    """Load an XDP program that does nothing."""
    if (number := BPF.get(platform.machine())) is None:
        pytest.skip(f"the number of bpf(2) on {platform.machine()} is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    code, license_ = ctypes.create_string_buffer(XDP_PASS), ctypes.create_string_buffer(b"GPL")
    # union bpf_attr (linux/bpf.h): BPF_PROG_TYPE_XDP, instructions, their place, the licence; the rest is 0.
    attributes = struct.pack("=IIQQ", 6, 2, ctypes.addressof(code), ctypes.addressof(license_)).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(attributes)
    descriptor = libc.syscall(number, 5, buffer, len(attributes))  # BPF_PROG_LOAD
    if descriptor < 0:
        pytest.skip(f"no BPF program can be loaded here: {os.strerror(ctypes.get_errno())}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach_xdp(descriptor: int, ifindex: int, flags: int) -> None:
    # IFLA_XDP, nested, with IFLA_XDP_FD and IFLA_XDP_FLAGS (linux/if_link.h), by RTM_SETLINK.
    nested = netlink.marshal_attribute(1, struct.pack("=i", descriptor))
    nested += netlink.marshal_attribute(3, struct.pack("=I", flags))
    body = struct.pack("=BxHiII", 0, 0, ifindex, 0, 0) + netlink.marshal_attribute(43 | 0x8000, nested)
    netlink.ask(socket.NETLINK_ROUTE, 19, 4, body)  # NLM_F_ACK


@pytest.mark.parametrize(("mode", "flags"), [("native", 1 << 2), ("generic", 1 << 1)])
def test_the_mode_of_an_xdp_program_is_told(mode: str, flags: int) -> None:
    index = cable()
    with xdp_program() as program:
        attach_xdp(program, index, flags)
    assert link_named("en0").xdp == mode
    (shown,) = ip_json("address", "show", "dev", "en0")
    assert as_iproute2_says(shown).xdp == mode
    ip("link", "set", "en0", "xdpgeneric" if mode == "generic" else "xdpdrv", "off")
    assert link_named("en0").xdp is None


def test_hints_about_the_machine_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(links, "_VENDOR", tmp_path / "vendor")
    monkeypatch.setattr(links, "_VERSION", tmp_path / "version")
    assert (links.look().vendor, links.look().wsl) == (None, False)
    (tmp_path / "vendor").write_text("Amazon EC2\n")
    (tmp_path / "version").write_text("Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host)\n")
    assert (links.look().vendor, links.look().wsl) == ("Amazon EC2", True)


# Settings


def sysctl(name: str) -> int:
    return int(subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", ["en0", "en0.5", "a\u2003b"])
def test_settings_are_those_that_sysctl_shows(name: str) -> None:
    cable(name)
    conf = Path("/proc/sys/net/ipv4/conf")
    for number, each in enumerate(("rp_filter", "force_igmp_version", "accept_local", "drop_unicast_in_l2_multicast")):
        (conf / "all" / each).write_text(str(number % 2))
        (conf / name / each).write_text(str((number + 1) % 2))
    (conf.parent / "igmp_max_memberships").write_text("77")
    values = settings.look(name).values
    # Where the parts of a sysctl's name are separated by dots, a dot in a part is written as a slash (sysctl(8)).
    of_name = f"net.ipv4.conf.{name.replace('.', '/')}."
    places = {key: key.replace("interface.", of_name).replace("conf.all.", "net.ipv4.conf.all.") for key in values}
    places |= {key: f"net.ipv4.{key}" for key in values if "." not in key} | {"rmem_max": "net.core.rmem_max"}
    assert values == {key: sysctl(place) for key, place in places.items()}
    assert values["interface.rp_filter"] == 1
    assert values["igmp_max_memberships"] == 77
    assert set(values) == {
        *(f"{where}.{each}" for where in ("conf.all", "interface") for each in settings._OF_AN_INTERFACE),
        *settings._OF_ALL,
    }


def test_settings_are_those_of_the_thread_s_namespace(needs_lab: None) -> None:
    with open_lab() as lab:
        for host, value in (("a", 1), ("b", 2)):
            lab[host].set_sysctl("net.ipv4.conf.en0.rp_filter", value)
            lab[host].set_sysctl("net.ipv4.igmp_max_msf", 10 + value)
        for host, value in (("a", 1), ("b", 2)):
            values = lab[host].call(settings.look, "en0").values
            assert (values["interface.rp_filter"], values["igmp_max_msf"]) == (value, 10 + value)
        assert lab["a"].call(router.look).forwarding is False
        lab["a"].set_sysctl("net.ipv4.ip_forward", 1)
        assert (lab["a"].call(router.look).forwarding, lab["b"].call(router.look).forwarding) == (True, False)


@pytest.mark.parametrize("name", [None, "nix"])
def test_an_interface_that_is_not_there_has_no_settings(name: str | None) -> None:
    values = settings.look(name).values
    assert values["conf.all.rp_filter"] == sysctl("net.ipv4.conf.all.rp_filter")
    assert not any(key.startswith("interface.") for key in values)


# Routes


def way_by_iproute2(destination: str, *more: str) -> Way:
    (shown,) = json.loads(ip("-json", "route", "get", destination, *more))
    return Way(
        IPv4Address(destination),
        socket.if_nametoindex(shown["dev"]),
        IPv4Address(shown["gateway"]) if "gateway" in shown else None,
        IPv4Address(shown["prefsrc"]),
        shown.get("type") == "local",
    )


def test_ways_are_those_that_iproute2_shows() -> None:
    cable("en0", peer="far0")
    cable("en1", peer="far1")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("address", "add", "198.18.1.1/24", "dev", "en1")
    ip("route", "add", "239.0.0.0/8", "dev", "en1")
    ip("route", "add", "10.0.0.0/8", "via", "198.18.0.254")
    addresses = ["239.1.2.3", "198.18.0.9", "198.18.1.1", "10.1.2.3", "127.0.0.1"]
    (*ways,) = routes.look(map(IPv4Address, addresses)).ways
    assert ways == [way_by_iproute2(each) for each in addresses]
    assert [each.local for each in ways] == [False, False, True, False, True]
    assert ways[3].gateway == IPv4Address("198.18.0.254")
    index = socket.if_nametoindex("en0")
    assert routes.look([GROUP], oif=index).ways == (way_by_iproute2(str(GROUP), "oif", "en0"),)
    assert ways[0].ifindex != index
    # A group whose member this host is, is no address of its own.
    with joined(GROUP, index):
        assert not routes.look([GROUP], oif=index).ways[0].local


def test_a_way_may_lead_over_an_ipv6_router() -> None:
    cable()
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("route", "add", "10.0.0.0/8", "via", "inet6", "fe80::1", "dev", "en0")
    (way,) = routes.look([IPv4Address("10.0.0.1")]).ways
    assert (way.ifindex, way.gateway, way.error) == (socket.if_nametoindex("en0"), None, None)


@pytest.mark.parametrize(
    ("route", "error", "said"),
    [
        (None, "ENETUNREACH", "Network is unreachable"),
        ("unreachable", "EHOSTUNREACH", "No route to host"),
        ("blackhole", "EINVAL", "Invalid argument"),
        ("prohibit", "EACCES", "Permission denied"),
    ],
)
def test_a_way_that_is_closed_says_why(route: str | None, error: str, said: str) -> None:
    if route is not None:
        ip("route", "add", route, "239.0.0.0/8")
    assert routes.look([GROUP, GROUP]).ways == (Way(GROUP, error=error),)
    done = subprocess.run(["ip", "route", "get", str(GROUP)], capture_output=True, text=True, check=False)
    assert said in done.stderr


def test_an_interface_that_is_not_there_leads_nowhere() -> None:
    assert routes.look([GROUP], oif=77).ways == (Way(GROUP, error="ENODEV"),)


def test_other_refusals_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "a sandbox")

    monkeypatch.setattr(routes, "ask_way", refuse)
    with pytest.raises(PermissionError):
        routes.look([GROUP])


# Input routes


def refused_by_iproute2(group: IPv4Address, source: IPv4Address, interface: str) -> bool:
    argv = ["ip", "route", "get", str(group), "from", str(source), "iif", interface]
    return subprocess.run(argv, capture_output=True, check=False).returncode != 0


def input_answers(index: int, *sources: str, neighbour: IPv4Address | None = None) -> dict[str, tuple[str, str, bool]]:
    found = input_routes.look(index, GROUP, map(IPv4Address, sources), neighbour)
    return {str(each.source): (each.group, each.all_hosts, each.neighbour) for each in found.answers}


def test_an_input_route_is_asked_about_each_source_and_the_neighbour() -> None:
    index = cable()
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    sources = ["10.0.0.1", "198.18.0.1", "0.0.0.0", "127.0.0.1"]
    before = input_answers(index, *sources, neighbour=NEIGHBOUR)
    assert before == {
        "10.0.0.1": ("refused", "local", False),
        "198.18.0.1": ("refused", "refused", False),
        "0.0.0.0": ("refused", "local", False),
        "127.0.0.1": ("refused", "refused", False),
        "198.18.0.66": ("refused", "local", True),
    }
    with joined(GROUP, index):
        during = input_answers(index, *sources, neighbour=NEIGHBOUR)
        for source, (group, all_hosts, _) in during.items():
            for asked, answer in ((GROUP, group), (ALL_HOSTS, all_hosts)):
                assert (answer == "refused") == refused_by_iproute2(asked, IPv4Address(source), "en0")
    assert during["10.0.0.1"] == ("local", "local", False)
    assert during["198.18.0.66"] == ("local", "local", True)
    with running("bind", f"join={GROUP},{index},10.0.0.1"):
        assert input_answers(index, "10.0.0.1", "10.0.0.1", neighbour=NEIGHBOUR) == {
            "10.0.0.1": ("local", "local", False),
            "198.18.0.66": ("refused", "local", True),
        }


def test_the_reverse_path_filter_refuses_a_source_whatever_the_group() -> None:
    index = cable()
    cable("en1", peer="far1")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("address", "add", "198.18.1.1/24", "dev", "en1")
    Path("/proc/sys/net/ipv4/conf/en0/rp_filter").write_text("1")
    with joined(GROUP, index):
        assert input_answers(index, "198.18.1.9", "198.18.0.9") == {
            "198.18.1.9": ("refused", "refused", False),
            "198.18.0.9": ("local", "local", False),
        }


def test_an_interface_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="77"):
        input_routes.look(77, GROUP, [NEIGHBOUR], None)


@pytest.mark.pure
@given(st.integers(0x01000000, 0xDFFFFFFF), st.integers(0, 31))
def test_a_neighbour_is_a_host_on_the_interface_s_network(address: int, length: int) -> None:
    own = IPv4Interface((address, length))
    neighbour = input_routes.neighbour_of(Link(2, "en0", True, True, addresses=(own,)))
    assert neighbour is not None
    assert neighbour in own.network
    assert neighbour != own.ip
    if length < 31:
        assert neighbour not in {own.network.network_address, own.network.broadcast_address}


@pytest.mark.pure
@pytest.mark.parametrize(
    ("addresses", "neighbour"),
    [
        ([], None),
        (["198.18.0.1/32"], None),
        (["198.18.0.1/32", "198.18.1.1/24"], "198.18.1.65"),
        (["198.18.0.0/31"], "198.18.0.1"),
        (["198.18.0.1/30"], "198.18.0.2"),
        (["198.18.0.1/30", "198.18.0.2/30"], None),
        (["198.18.0.1/24", "198.18.0.65/24"], "198.18.0.2"),
        (["198.18.0.64/24"], "198.18.0.1"),
        (["198.18.0.191/24"], "198.18.0.1"),
    ],
)
def test_a_neighbour_is_none_of_the_interface_s_own_addresses(addresses: list[str], neighbour: str | None) -> None:
    link = Link(2, "en0", True, True, addresses=tuple(map(IPv4Interface, addresses)))
    assert input_routes.neighbour_of(link) == (neighbour and IPv4Address(neighbour))
    assert input_routes.neighbour_of(attrs.evolve(link, loopback=True)) is None


# Memberships


def test_memberships_are_those_that_iproute2_shows() -> None:
    index = cable()
    with joined(GROUP, index), joined(GROUP, index), joined(GROUP, LO), joined(OTHER, index):
        found = memberships.look(GROUP)
        shown = {
            (socket.if_nametoindex(each["ifname"]), each["address"]): each.get("users", 1)
            for interface in json.loads(ip("-json", "maddress"))
            for each in ({**entry, "ifname": interface["ifname"]} for entry in interface["maddr"])
            if each.get("family") == "inet"
        }
    assert {(each.ifindex, str(each.group)): each.users for each in found.members} == shown
    assert shown[index, str(GROUP)] == 2
    assert found.sources == ()


def test_sources_are_counted_of_the_group_that_was_asked_for() -> None:
    index = cable()
    with (
        running("bind", "1.2=1", f"join={GROUP},{index},10.0.0.1", f"join={GROUP},{index},10.0.0.2"),
        running("1.2=1", "bind", f"join={GROUP},{index},10.0.0.1", port=PORT + 1),
        running("1.2=1", "bind", f"join={OTHER},{index},10.0.0.3", port=PORT + 2),
    ):
        found = memberships.look(GROUP)
    counted = {(each.ifindex, str(each.source)): (each.including, each.excluding) for each in found.sources}
    assert counted == {(index, "10.0.0.1"): (2, 0), (index, "10.0.0.2"): (1, 0)}
    assert {each.group for each in found.members if each.ifindex == index} == {GROUP, OTHER, ALL_HOSTS}


def test_the_version_that_an_interface_speaks_is_told() -> None:
    indexes = [cable(f"en{version}", peer=f"far{version}") for version in (1, 2, 3)]
    for version in (1, 2, 3):
        Path(f"/proc/sys/net/ipv4/conf/en{version}/force_igmp_version").write_text(str(version))
    versions = memberships.look(GROUP).versions
    assert [versions[str(index)] for index in indexes] == [1, 2, 3]
    assert versions[str(LO)] == 3


def test_the_age_of_a_membership_is_told(wait_until: WaitUntil) -> None:
    def seconds() -> dict[IPv4Address, float]:
        members = memberships.look(GROUP).members
        return {each.group: each.seconds for each in members if each.ifindex == index and each.seconds is not None}

    index = cable()
    tick = 0.03  # In seconds: the kernel counts in ticks of at most 1/100 s, and both of us round.
    began = time.monotonic()
    with joined(GROUP, index):
        first = time.monotonic()
        wait_until(lambda: time.monotonic() > first + 0.3)
        between = time.monotonic()
        # Another member of the first group changes nothing: the interface has been one all the time.
        with joined(OTHER, index), joined(GROUP, index):
            second = time.monotonic()
            found = seconds()
    assert between - first - tick <= found[GROUP] - found[OTHER] <= second - began + tick
    assert 0 <= found[OTHER] <= second - between + tick
    assert found[ALL_HOSTS] >= found[GROUP]


def test_an_older_kernel_tells_no_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise UnsupportedError("RTM_GETMULTICAST", "Linux before 6.15")

    monkeypatch.setattr(memberships, "host_memberships", refuse)
    with joined(GROUP, LO):
        assert [each.seconds for each in memberships.look(GROUP).members if each.group == GROUP] == [None]


# Sockets


def by_ss() -> dict[int, str]:
    """Return what `ss` shows of each UDP socket, by inode."""
    argv = ["ss", "--no-header", "--udp", "--all", "--numeric", "--extended", "--memory", "--oneline"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {int(match[1]): line for line in shown.splitlines() if (match := re.search(r"\bino:([0-9]+)", line))}


def found_socket(program: Program, port: int = PORT) -> UDPSocket:
    (found,) = (each for each in sockets.look(port).sockets if each.inode == program.inode)
    return found


def test_a_socket_is_described_as_ss_does(as_nobody: AsNobody, wait_until: WaitUntil) -> None:
    index = cable()
    with running("0.49=0", "bind", f"join={GROUP},{index}", address=str(GROUP), by=as_nobody([])) as program:
        wait_until(lambda: found_socket(program).states == ("S",))  # It waits for us.
        found, shown = found_socket(program), by_ss()[program.inode]
        name = Path(f"/proc/{program.pid}/comm").read_text(encoding="ascii").strip()
    memory = dict(re.findall(r"([a-z]+)([0-9]+)", shown.partition("skmem:(")[2].partition(")")[0]))
    assert found == UDPSocket(
        inode=program.inode,
        family=4,
        local=str(GROUP),
        port=PORT,
        uid=65534,
        queued=int(memory["r"]),
        buffer=int(memory["rb"]),
        drops=int(memory["d"]),
        option_memory=int(memory["o"]),
        multicast_all=False,
        multicast_loop=True,
        pids=(program.pid,),
        names=(name,),
        states=("S",),
    )
    assert "uid:65534" in shown
    assert found.option_memory
    assert f"{GROUP}:{PORT}" in shown


def test_sockets_on_the_port_and_those_that_do_not_loop_back_are_told() -> None:
    index = cable()
    with (
        running("1.2=1", "bind") as plain,
        running("1.2=1", "bind", address="127.0.0.1", port=PORT + 1) as other,
        running("0.34=0", "bind", port=PORT + 2) as deaf_to_itself,
        running("1.2=1", "41.26=1", "bind", family="AF_INET6", address="::") as only_ipv6,
        running("1.2=1", "bind", "connect=127.0.0.1", address="127.0.0.1") as connected,
        running("1.2=1", "device=en0", "bind") as on_device,
    ):
        found = {each.inode: each for each in sockets.look(PORT).sockets}
        fewer = {each.inode for each in sockets.look(PORT, without=[plain.inode, connected.inode]).sockets}
    assert set(found) == {each.inode for each in (plain, deaf_to_itself, only_ipv6, connected, on_device)}
    assert other.inode not in found
    assert fewer == set(found) - {plain.inode, connected.inode}
    assert (found[plain.inode].local, found[plain.inode].peer, found[plain.inode].option_memory) == ("0.0.0.0", None, 0)
    assert (found[plain.inode].multicast_loop, found[plain.inode].multicast_all) == (True, True)
    assert (found[deaf_to_itself.inode].multicast_loop, found[deaf_to_itself.inode].port) == (False, PORT + 2)
    assert (found[only_ipv6.inode].family, found[only_ipv6.inode].local) == (6, "::")
    assert found[only_ipv6.inode].only_ipv6 is True
    assert (found[connected.inode].local, found[connected.inode].peer) == ("127.0.0.1", "127.0.0.1")
    assert (found[on_device.inode].ifindex, found[plain.inode].ifindex) == (index, None)


def test_a_dual_stack_socket_is_told_from_one_of_ipv6_alone() -> None:
    with running("41.26=0", "bind", family="AF_INET6", address="::") as program:
        found = found_socket(program)
    # An IPv6 socket has IP_MULTICAST_ALL 0 from the beginning: it hears only groups that it has joined itself.
    assert (found.family, found.only_ipv6, found.multicast_all) == (6, False, False)


def test_sockets_of_this_command_are_left_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("", PORT))
        assert os.fstat(own.fileno()).st_ino in by_ss()
        assert sockets.look(PORT).sockets == ()
        with sockets.Sampler(PORT) as sampler:
            assert sampler.take("before").sockets == ()


def test_a_program_that_is_stopped_is_seen_to_be(wait_until: WaitUntil) -> None:
    with running() as program:
        program.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: found_socket(program).states == ("T",))
        program.process.send_signal(signal.SIGCONT)
        wait_until(lambda: found_socket(program).states == ("S",))


def test_a_process_that_has_ended_has_no_state() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert processes.state_of(gone.pid) == ""


def test_another_user_s_sockets_are_seen_but_not_who_holds_them(as_nobody: AsNobody) -> None:
    program = (
        "from trio_ipv4._cli.doctor.witnesses import sockets\n"
        f"for each in sockets.look({PORT}).sockets: print(each.inode, each.pids, each.buffer > 0)"
    )
    with running() as held:
        done = subprocess.run(as_nobody([sys.executable, "-c", program]), capture_output=True, text=True, check=True)
    assert done.stdout == f"{held.inode} () True\n"


def test_without_sock_diag_sockets_are_read_from_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        running("1.2=1", "bind") as plain,
        running("1.2=1", "bind", "connect=::ffff:127.0.0.1", family="AF_INET6", address="::ffff:127.0.0.1") as mapped,
        running("bind", port=PORT + 1),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        sending.sendto(b"x" * 1000, ("127.0.0.1", PORT))
        listed = {each.inode: each for each in sockets.look(PORT).sockets}
        monkeypatch.setattr(diag, "_SOCK_DIAG_BY_FAMILY", 9999)
        read = {each.inode: each for each in sockets.look(PORT).sockets}
    unknown: dict[str, Any] = {
        "buffer": 0,
        "option_memory": None,
        "multicast_all": None,
        "multicast_loop": None,
        "only_ipv6": None,
    }
    assert set(read) == {plain.inode, mapped.inode}
    assert read == {inode: attrs.evolve(each, **unknown) for inode, each in listed.items()}
    assert read[plain.inode].queued > 1000
    assert read[mapped.inode].peer == "::ffff:127.0.0.1"


# The queues


def by_proc(program: Program) -> tuple[int, int]:
    """Return the octets in a socket's queue, and its drops."""
    rows = [line.split() for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]]
    ((queued, drops),) = (
        (int(row[4].partition(":")[2], 16), int(row[12])) for row in rows if row[9] == str(program.inode)
    )
    return queued, drops


async def test_a_queue_is_watched(autojump_clock: trio.testing.MockClock, wait_until: WaitUntil) -> None:
    datagram, there = b"x" * 500, ("127.0.0.1", PORT)
    with (
        running("1.8=4096", "bind") as small,  # SO_RCVBUF
        running("bind", port=PORT + 1) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        sockets.Sampler(PORT) as sampler,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sampler.run)
            sending.sendto(datagram, ("127.0.0.1", PORT + 1))
            wait_until(lambda: by_proc(other)[0])
            await trio.sleep(0.35)
            (quiet,) = sampler.take("before").sockets
            for _ in range(30):
                sending.sendto(datagram, there)
            wait_until(lambda: by_proc(small)[1])
            await trio.sleep(0.35)
            (full,) = sampler.take("joined").sockets
            queued, drops = by_proc(small)
            # The queue gets shorter, and as long again: only who looks in between can see that.
            small.read(2)
            emptier, _ = by_proc(small)
            await trio.sleep(0.15)
            for _ in range(2):
                sending.sendto(datagram, there)
            wait_until(lambda: by_proc(small)[0] == queued)
            (read,) = sampler.take("probe").sockets
            (again,) = sampler.take("after").sockets
            nursery.cancel_scope.cancel()
    assert (quiet.inode, quiet.peak, quiet.low, quiet.dropped, quiet.fell) == (small.inode, 0, 0, 0, False)
    assert full.peak == full.queued == queued > 500
    assert (full.low, full.dropped, full.drops, full.fell) == (0, drops, drops, False)
    assert (read.peak, read.low, read.dropped, read.fell) == (queued, emptier, 0, True)
    assert (again.peak, again.low, again.dropped, again.fell) == (queued, queued, 0, False)
    assert again.pids == (small.pid,)


def test_sockets_that_come_and_go_during_a_look_are_no_error() -> None:
    with sockets.Sampler(PORT) as sampler:
        with running("1.2=1", "bind"):
            sampler._sample()
        with running("1.2=1", "bind") as late:
            (found,) = sampler.take("before").sockets
        assert (found.inode, found.peak, found.dropped) == (late.inode, 0, 0)
        assert sampler.take("joined").sockets == ()


# Other namespaces


def test_another_namespace_in_which_the_port_is_open_is_found(lab: Lab) -> None:
    # On this machine, others may have a port open; so the port is our own, and so are the processes.
    port = 40_000 + os.getpid() % 20_000
    there = lab["b"].command([])
    (end,) = lab["b"].interfaces
    with (
        subprocess.Popen([*there, "cat"], stdin=subprocess.PIPE) as bystander,
        running("bind", port=port + 1, by=there) as on_another_port,
    ):
        with running("bind", f"join={GROUP},{end.index}", port=port, by=there) as member:
            found = {each.pid: each for each in lab["a"].call(elsewhere.look, GROUP, port).processes}
            others = {each.pid: each for each in lab["a"].call(elsewhere.look, OTHER, port).processes}
            at_home = {each.pid for each in lab["b"].call(elsewhere.look, GROUP, port).processes}
        afterwards = {each.pid for each in lab["a"].call(elsewhere.look, GROUP, port).processes}
        bystander.communicate()
    assert member.pid in found
    # It is one of its namespace: the one that holds the socket.
    assert bystander.pid not in found
    assert (found[member.pid].member, others[member.pid].member) == (True, False)
    assert found[member.pid].name == Path(sys.executable).name[:15]
    assert member.pid not in at_home
    assert afterwards.isdisjoint({member.pid, bystander.pid, on_another_port.pid})


def test_a_dual_stack_socket_in_another_namespace_is_found_by_any_user(lab: Lab, as_nobody: AsNobody) -> None:
    port = 40_000 + os.getpid() % 20_000
    program = (
        "from ipaddress import IPv4Address\n"
        "from trio_ipv4._cli.doctor.witnesses import elsewhere\n"
        f"for each in elsewhere.look(IPv4Address('{GROUP}'), {port}).processes: print(each.pid, each.member)"
    )
    looking = as_nobody([sys.executable, "-c", program])
    with running("bind", family="AF_INET6", address="::", port=port, by=lab["b"].command([])) as held:
        done = subprocess.run(lab["a"].command(looking), capture_output=True, text=True, check=True)
        at_home = subprocess.run(lab["b"].command(looking), capture_output=True, text=True, check=True)
    # Another user may not read whose the socket is: it is a process of the namespace, here the only one.
    assert done.stdout == f"{held.pid} False\n"
    assert at_home.stdout == ""


def test_a_process_of_the_namespace_is_preferred_that_holds_the_socket() -> None:
    assert elsewhere._choose([5, 6, 7], [7, 9]) == 7
    assert elsewhere._choose([5, 6, 7], [9]) == 5
    assert elsewhere._choose([5, 6, 7], []) == 5


# Counters


def by_nstat() -> dict[str, int]:
    done = subprocess.run(["nstat", "--json", "-a", "-z"], capture_output=True, text=True, check=True)
    kernel: dict[str, int] = json.loads(done.stdout)["kernel"]
    return kernel


def test_counters_are_those_that_nstat_and_iproute2_show(lab: Lab) -> None:
    def read() -> tuple[dict[str, int], dict[str, int], list[dict[str, Any]]]:
        # The bridge and the querier talk, too: take one where nothing came between.
        while True:
            found, shown, devices = counters.read(), by_nstat(), json.loads(ip("-json", "-statistics", "link"))
            if {**found, "softnet.dropped": 0} == {**counters.read(), "softnet.dropped": 0}:
                return found, shown, devices

    with lab["b"].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(b"x", (str(lab["a"].addresses[0]), PORT))  # To a port where nobody is.
        found, shown, devices = lab["a"].call(read)
    # nstat shows those of IPv6 besides, and writes the names as one word.
    names = {name.replace(".", ""): value for name, value in found.items() if not re.match("dev|xfrm|softnet", name)}
    wanted = re.compile(r"(Ip|IpExt|Udp|Icmp|IcmpMsg)[A-Z]|TcpExtIPReversePathFilter")
    assert names == {name: value for name, value in shown.items() if wanted.match(name) and "Lite" not in name}
    assert names["UdpNoPorts"] == 1
    for device in devices:
        for way in ("rx", "tx"):
            name, figures = f"dev.{device['ifname']}.{way}_", device["stats64"][way]
            assert (found[f"{name}packets"], found[f"{name}bytes"]) == (figures["packets"], figures["bytes"])


def read_between_packets(host: LabHost) -> dict[str, int]:
    """Read the counters while nothing comes: what comes between two tables is in the later one alone."""
    one = host.call(counters.read)
    while (other := host.call(counters.read)) != one:
        one = other
    return one


def test_growth_is_what_came_meanwhile(lab: Lab) -> None:
    (end,) = lab["b"].interfaces
    group = socket.inet_aton(str(GROUP))
    with (
        lab["b"].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listening,
        lab["a"].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        listening.bind((str(GROUP), PORT))
        listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + struct.pack("=4xi", end.index))
        listening.settimeout(20)
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=8xi", lab["a"].interfaces[0].index))
        before = read_between_packets(lab["b"])
        for number in range(7):
            sending.sendto(bytes([number]), (str(GROUP), PORT))
            assert listening.recv(1) == bytes([number])
        sending.sendto(b"", (str(GROUP), PORT + 1))
        sending.sendto(b"", (str(GROUP), PORT))
        listening.recv(1)
        found = counters.growth(before, lab["b"].call(counters.read), 1.5, "joined")
    assert (found.seconds, found.phase) == (1.5, "joined")
    assert (found.grown["Udp.InDatagrams"], found.grown["Udp.IgnoredMulti"]) == (8, 1)
    # Queries of the bridge's may come at any time.
    assert found.grown["IpExt.InMcastPkts"] >= 9
    assert found.grown["dev.en0.rx_packets"] >= found.grown["Ip.InReceives"] >= 9
    assert "Udp.InErrors" not in found.grown


@pytest.mark.pure
def test_only_what_grew_is_told() -> None:
    before = {"Ip.InReceives": 5, "Udp.InErrors": 1, "dev.en0.rx_packets": 9}
    after = before | {"Ip.InReceives": 7, "dev.en0.rx_packets": 2, "dev.en1.rx_packets": 3, "IcmpMsg.InType3": 4}
    assert counters.growth(before, after, 1, "before") == Counters(
        seconds=1, grown={"Ip.InReceives": 2, "IcmpMsg.InType3": 4}
    )


def test_counters_of_ipsec_are_read_where_there_are_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = Path("/proc/thread-self/net")
    for table in ("snmp", "netstat", "dev", "softnet_stat"):
        (tmp_path / table).write_text((tables / table).read_text())
    monkeypatch.setattr("trio_ipv4._cli.kernel_tables._TABLES", tmp_path)
    assert not any(name.startswith("xfrm.") for name in counters.read())
    (tmp_path / "xfrm_stat").write_text("XfrmInError             \t0\nXfrmInNoPols            \t3\n")
    (tmp_path / "softnet_stat").write_text("0000000a 00000010 00000000\n00000001 00000001 00000000\n")
    found = counters.read()
    assert (found["xfrm.XfrmInNoPols"], found["xfrm.XfrmInError"], found["softnet.dropped"]) == (3, 0, 17)
    (tmp_path / "softnet_stat").unlink()
    assert "softnet.dropped" not in counters.read()


# Routers


def test_a_host_that_is_no_router_says_so() -> None:
    found = router.look()
    assert (found.forwarding, found.vifs, found.cache) == (False, (), ())


def test_a_multicast_router_s_interfaces_and_flows_are_read(needs_lab: None, wait_until: WaitUntil) -> None:
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        there = lab["router"]
        with lab["a"].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
            for _ in range(3):
                sending.sendto(b"x", (str(GROUP), PORT))
            wait_until(lambda: [each.packets for each in there.call(router.look).cache] == [3])
            found = there.call(router.look)
            (shown,) = json.loads(there.ip("-json", "-statistics", "mroute", "show"))
    assert found.forwarding
    assert sorted(each.interface for each in found.vifs) == ["en0", "en1"]
    by_number = {each.number: each.interface for each in found.vifs}
    (entry,) = found.cache
    assert (str(entry.group), str(entry.origin)) == (shown["dst"], shown["src"])
    assert by_number[entry.incoming] == shown["iif"] == "en0"
    assert {by_number[vif] for vif, _ in entry.outgoing} == {each["oif"] for each in shown["multipath"]}
    assert (entry.packets, entry.wrong) == (shown["packets"], 0)


@pytest.mark.pure
def test_a_multicast_router_s_daemon_is_not_asked_about_a_neighbour_of_nobody_s(needs_lab: None) -> None:
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        there = lab["router"]
        index, *_ = (end.index for end in there.interfaces)
        found = there.call(input_routes.look, index, GROUP, [], NEIGHBOUR)
        assert found.answers == ()
        assert json.loads(there.ip("-json", "mroute", "show")) == []
        # It would be asked, and would keep the answer.
        argv = lab["router"].command(["ip", "route", "get", str(GROUP), "from", str(NEIGHBOUR), "iif", "en0"])
        subprocess.run(argv, check=True, capture_output=True)
        assert [each["src"] for each in json.loads(there.ip("-json", "mroute", "show"))] == [str(NEIGHBOUR)]


def test_a_router_s_tables_are_read_as_the_kernel_writes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trio_ipv4._cli.kernel_tables._TABLES", tmp_path)
    assert (router.look().vifs, router.look().cache) == ((), ())
    # ipmr_vif_seq_show and ipmr_mfc_seq_show in net/ipv4/ipmr.c
    (tmp_path / "ip_mr_vif").write_text(
        "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n"
        " 0 en0             120       3         0       0 00008 00000002 00000000\n"
        " 1 a\u2003b             0       0       120       3 00008 00000003 00000000\n",
        encoding="utf-8",
    )
    group, origin = (f"{int.from_bytes(address.packed, sys.byteorder):08X}" for address in (GROUP, NEIGHBOUR))
    (tmp_path / "ip_mr_cache").write_text(
        "Group    Origin   Iif     Pkts    Bytes    Wrong Oifs\n"
        f"{group} {origin} -1         0        0        0\n"
        f"{group} {origin} 0          3      120        2  1:1    12:255\n",
    )
    found = router.look()
    assert [(each.number, each.interface) for each in found.vifs] == [(0, "en0"), (1, "a\u2003b")]
    waiting, known = found.cache
    assert (waiting.group, waiting.origin, waiting.incoming, waiting.outgoing) == (GROUP, NEIGHBOUR, -1, ())
    assert (known.incoming, known.packets, known.wrong, known.outgoing) == (0, 3, 2, ((1, 1), (12, 255)))


# Questions to the kernel


def test_a_dump_that_was_disturbed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, disturbed = netlink._receive, iter([True, True, True, False])
    monkeypatch.setattr(netlink, "_receive", lambda *args, **more: (receive(*args, **more)[0], next(disturbed)))
    assert [each.name for each in links.look().links] == ["lo"]
    # After three times, the last answer has to do.
    assert next(disturbed) is False


def test_a_refusal_has_its_errno() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        netlink.ask(socket.NETLINK_ROUTE, 9998, netlink.DUMP, bytes(16))


@pytest.mark.pure
def test_the_end_of_a_dump_may_be_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        netlink._raise(struct.pack("=i", -22))
    netlink._raise(struct.pack("=i", 0))
    netlink._raise(b"")


# Tables that another kernel writes

READERS = {
    "igmp": (lambda: kernel_tables.read_groups(), lambda: kernel_tables.read_versions()),
    "mcfilter": (lambda: kernel_tables.read_source_counts(),),
    "udp": (lambda: kernel_tables.read_udp_sockets(),),
    "ip_mr_vif": (router.look,),
    "ip_mr_cache": (router.look,),
    **dict.fromkeys(("snmp", "netstat", "dev", "xfrm_stat", "softnet_stat"), (counters.read,)),
}
"""Who reads which table of /proc/net."""


@pytest.mark.parametrize("table", READERS)
@given(st.data())
def test_a_table_in_a_foreign_format_is_an_error_that_names_it(table: str, data: st.DataObject) -> None:
    genuine = (Path("/proc/net") / table).read_text() if (Path("/proc/net") / table).exists() else ""
    foreign = data.draw(st.one_of(st.text(), st.just(genuine[: len(genuine) // 2]), st.just(genuine.replace("0", "z"))))

    def read_lines(name: str, tables: Path | None = None) -> list[str]:
        return foreign.split("\n") if name == table else genuine_lines(name, tables)

    genuine_lines = kernel_tables.read_lines
    with pytest.MonkeyPatch.context() as patch:
        for module in (kernel_tables, router, counters):
            patch.setattr(module, "read_lines", read_lines)
        for read in READERS[table]:
            with contextlib.suppress(OSError):
                read()


@pytest.mark.parametrize("table", READERS)
def test_a_witness_of_a_foreign_table_could_not_look(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine_lines = kernel_tables.read_lines

    def read_lines(name: str, tables: Path | None = None) -> list[str]:
        return ["what: x y", "another: x y", "kernel: x y"] if name == table else genuine_lines(name, tables)

    for module in (kernel_tables, router, counters):
        monkeypatch.setattr(module, "read_lines", read_lines)
    for read in READERS[table]:
        with pytest.raises(OSError, match=f"^/proc/net/{table} is not in the format of Linux: "):
            read()
