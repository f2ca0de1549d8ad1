"""The network that a test is on: the kernel's, in a namespace of its own, or one host of a simulated network.

A test file whose tests run on both has `pytestmark = here.BOTH`. What it asks of the network, it asks through this
module. A test that only the kernel can answer has the marker `kernel_only`, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ipv4 import testing
from trio_ipv4._abi import structs
from trio_ipv4._kernel.calls import Received
from trio_ipv4._kernel.native import current_system
from trio_ipv4._kernel.system import CURRENT
from trio_ipv4.testing import open_lab, simulate
from trio_ipv4.testing._simulation import netlink
from trio_ipv4.testing._simulation.devices import Device
from trio_ipv4.testing._simulation.links import Conditions, SimulatedLink
from trio_ipv4.testing._simulation.linux import EXCLUDE, INCLUDE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4 import PacketConn, RawConn
    from trio_ipv4.testing import Lab, Network, SimulatedHost, SimulatedNetwork
    from trio_ipv4.testing._simulation.machine import Machine

BOTH = pytest.mark.both_networks

Key = tuple[int, IPv4Address]

_current: list[SimulatedHost] = []


@contextlib.contextmanager
def simulated_host() -> Iterator[SimulatedHost]:
    """Be on a host of a simulated network, with a loopback interface and nothing else."""
    with simulate() as network:
        host = network.host("here")
        token = CURRENT.set(host._machine)
        _current.append(host)
        try:
            yield host
        finally:
            _current.pop()
            CURRENT.reset(token)


def machine() -> Machine | None:
    """Return the simulated host's kernel, if the test is on one."""
    return _current[-1]._machine if _current else None


@contextlib.contextmanager
def two_hosts(links: int) -> Iterator[Network]:
    """Make the hosts "a" and "b" on links that are plain cables, in a lab or simulated, as the test is."""
    with lab_hosts(links) if machine() is None else simulated_hosts(links) as network:
        yield network


@contextlib.contextmanager
def lab_hosts(links: int) -> Iterator[Lab]:
    """Make them in a lab."""
    with open_lab(links=links) as lab:
        for link in lab.links:
            # A slow machine must not make the bridge wait for reports before it forwards.
            lab.switch.ip("link", "set", link.name, "type", "bridge", "mcast_snooping", "0")
        yield lab


@contextlib.contextmanager
def simulated_hosts(links: int) -> Iterator[SimulatedNetwork]:
    """Make them simulated."""
    with simulate() as network:
        for number in range(links):
            link = network.link()
            for last, name in enumerate(("a", "b"), 1):
                host = network[name] if name in network else network.host(name)
                host.attach(link, f"en{number}", f"198.18.{number}.{last}/24")
        yield network


def igmp_groups() -> dict[Key, int]:
    """Return how many users each group has here."""
    return dict(_current[-1].groups()) if _current else testing.igmp_groups()


def source_filters() -> dict[Key, dict[IPv4Address, tuple[int, int]]]:
    """Return for each group here how many sockets include and exclude each source."""
    own = machine()
    if own is None:
        return testing.source_filters()
    return {
        (device.index, IPv4Address(group)): {
            IPv4Address(source): (numbers[INCLUDE], numbers[EXCLUDE]) for source, numbers in counts.sources.items()
        }
        for device in own.devices.values()
        for group, counts in device.groups.items()
        if counts.sources
    }


def set_sysctl(name: str, value: int | str) -> None:
    """Set a sysctl such as "net.ipv4.igmp_max_msf"."""
    if _current:
        _current[-1].set_sysctl(name, value)
    else:
        Path("/proc/sys", *name.split(".")).write_text(str(value), encoding="ascii")


def get_sysctl(name: str) -> str:
    """Read a sysctl."""
    own = machine()
    return Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip() if own is None else own.sysctls[name]


_VERBS = {"del": "delete"}


def take(conn: PacketConn | RawConn) -> list[bytes]:
    """Take what is queued for a connection, behind its back, as octets."""
    found: list[bytes] = []
    receiver = conn._socket.receiver()
    while (received := receiver.receive(conn._socket.fileno(), 64, 65535)) is not None:
        assert isinstance(received, Received)
        found += received.payloads
    return found


def send(endpoint: tuple[str, int], *payloads: bytes) -> None:
    """Send from another socket."""
    with contextlib.closing(current_system().socket(structs.AF_INET, structs.SOCK_DGRAM, 0)) as sender:
        for payload in payloads:
            sender.sendto(payload, endpoint)


def is_empty(conn: PacketConn | RawConn) -> bool:
    """Tell whether nothing is queued for a connection."""
    if machine() is not None:
        return not conn._socket.has_something  # type: ignore[attr-defined]
    with socket.socket(fileno=os.dup(conn.socket.fileno())) as look:
        try:
            look.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
    return False


def is_closed(conn: PacketConn | RawConn) -> bool:
    """Tell whether a connection's socket is closed."""
    return conn._socket.fileno() < 0


def subscribers(groups: int) -> int:
    """Count the netlink sockets that are subscribed to just these groups (RTMGRP_*)."""
    own = machine()
    if own is not None:
        return sum(each.getsockname()[1] == groups for each in own.netlinks)
    rows = [line.split() for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]]
    return sum(row[1] == "0" and int(row[3], 16) == groups for row in rows)


class SimulatedIp:
    """The lines of `ip` that tests use, for a simulated host."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host, self.machine = host, host._machine

    def carry_out(self, line: str) -> None:
        kind, verb, *words = line.replace("broadcast + ", "").split()
        getattr(self, f"{kind}_{_VERBS.get(verb, verb)}")(*words)

    def link_add(self, name: str, *words: str) -> None:
        index = int(words[1]) if words[0] == "index" else self.machine.next_index()
        self.add(name, index, *words[words.index("type") + 1 :])

    def link_set(self, name: str, what: str, value: str = "") -> None:
        device = self.device(name)
        if what in ("up", "down"):
            self.machine.set_up(device, up=what == "up")
        elif what == "mtu":
            self.machine.set_mtu(device, int(value))
        elif what == "name":
            self.machine.rename(device, value)
        else:
            assert what == "multicast"
            self.machine.set_multicast(device, on=value == "on")

    def address_add(self, address: str, dev: str, name: str) -> None:
        assert dev == "dev"
        self.machine.add_address(self.device(name), IPv4Interface(address))

    def address_replace(self, address: str, dev: str, name: str, *lifetimes: str) -> None:
        assert dev == "dev", lifetimes
        device = self.device(name)
        for each in device.addresses:
            if each.interface == IPv4Interface(address):
                self.machine.tell(netlink.new_address(device, each))
                return
        self.address_add(address, dev, name)

    address_change = address_replace

    def address_delete(self, address: str, dev: str, name: str) -> None:
        assert dev == "dev"
        self.host.remove_address(name, address)

    def address_flush(self, dev: str, name: str) -> None:
        assert dev == "dev"
        device = self.device(name)
        while device.addresses:
            self.machine.remove_address(device, device.addresses[0])

    def route_add(self, network: str, dev: str, name: str) -> None:
        assert dev == "dev"
        self.host.add_route(network, interface=name)

    def route_delete(self, network: str, dev: str, name: str) -> None:
        assert dev == "dev"
        self.machine.routes.remove(IPv4Network(network), self.device(name))
        self.machine.changed()

    def add(self, name: str, index: int, kind: str, *more: str) -> None:
        """Make a bridge without ports, on a link of its own, or both ends of a cable."""
        link = SimulatedLink(self.host._world, name, Conditions())
        self.machine.attach(Device(self.machine, index, name, 1500, link))
        if kind == "veth":
            assert more[:2] == ("peer", "name"), more
            self.machine.attach(Device(self.machine, self.machine.next_index(), more[2], 1500, link))

    def link_delete(self, name: str) -> None:
        device = self.device(name)
        for each in list(self.machine.devices.values()):
            if each.link is device.link:
                self.machine.detach(each)

    def device(self, name: str) -> Device:
        return self.host._device(name)


def simulated_ip() -> SimulatedIp | None:
    """Return what stands for `ip` on a simulated host, if the test is on one."""
    return SimulatedIp(_current[-1]) if _current else None
