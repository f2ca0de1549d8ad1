"""A membership is announced again. The oracle is the wire, and the bridge's table of members."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio

from support.here import BOTH, igmp_groups
from support.links import bridge, ip
from trio_ipv4 import SourceFilter, open_udp
from trio_ipv4._codec.igmp_report import igmp_report
from trio_ipv4._kernel.native import NativeSystem
from trio_ipv4._values.checksum import internet_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Eventually
    from trio_ipv4.testing import Lab

pytestmark = BOTH

GROUP = IPv4Address("239.1.2.3")
ETH_P_ALL = 3
REPORT_V3, REPORT_V2 = 0x22, 0x16


@pytest.fixture
def wire(lab: Lab) -> Iterator[socket.socket]:
    """What comes from host a, at the switch's port."""
    lab.switch.ip("link", "set", "br0", "type", "bridge", "mcast_querier", "0")
    with lab.switch.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.bind(("a-0", ETH_P_ALL))
        sniffer.setblocking(False)
        yield sniffer


def reports(wire: socket.socket) -> list[bytes]:
    """The IGMP messages about the group so far. Each has TTL 1, precedence 0xC0, and the Router Alert option."""
    found = []
    try:
        while True:
            packet = wire.recv(65536)
            if packet[9:10] == b"\x02" and GROUP.packed in packet[24:]:
                assert (packet[0], packet[1], packet[8], packet[20:24]) == (0x46, 0xC0, 1, b"\x94\x04\0\0")
                assert internet_checksum(packet[24:]) == 0
                found.append(packet[24:])
    except BlockingIOError:
        return found


def known(lab: Lab) -> bool:
    shown = subprocess.run(
        lab.switch.command(["bridge", "-json", "mdb", "show", "dev", "br0"]), capture_output=True, text=True, check=True
    )
    return any(each["grp"] == str(GROUP) for table in json.loads(shown.stdout) for each in table["mdb"])


async def quiet(wire: socket.socket) -> None:
    """Wait until the kernel has repeated its first reports, and throw them away."""
    while True:
        await trio.sleep(1.2)  # Unsolicited reports come within a second of each other (net.ipv4.igmp_qrv of them).
        if not reports(wire):
            return


async def test_the_only_member_leaves_and_joins(lab: Lab, wire: socket.socket, eventually: Eventually) -> None:
    async with lab["a"].call(open_udp) as conn, conn.joined("en0", GROUP) as membership:
        await quiet(wire)
        membership.refresh()
        assert membership.is_alive
        await eventually(lambda: any(each[0] == REPORT_V3 for each in reports(wire)))
        await eventually(lambda: known(lab))


async def test_beside_others_it_sends_a_report_of_its_own(
    lab: Lab, wire: socket.socket, eventually: Eventually
) -> None:
    include = SourceFilter.include("198.18.0.2")
    async with (
        lab["a"].call(open_udp) as conn,
        lab["a"].call(open_udp) as other,
        conn.joined("en0", GROUP, sources=include) as membership,
        other.joined("en0", GROUP, sources=SourceFilter.include("198.18.0.9")),
    ):
        await quiet(wire)
        membership.refresh()
        assert reports(wire) == [igmp_report(3, GROUP, include)]
        assert lab["a"].call(igmp_groups)[membership.interface, GROUP] == 2
        other.refresh_memberships()
        assert len(reports(wire)) == 1


async def test_it_speaks_the_version_of_the_network(lab: Lab, wire: socket.socket) -> None:
    lab["a"].call(force_version_2)
    async with (
        lab["a"].call(open_udp) as conn,
        lab["a"].call(open_udp) as other,
        conn.joined("en0", GROUP) as membership,
        other.joined("en0", GROUP),
    ):
        await trio.sleep(0.01)
        reports(wire)
        membership.refresh()
        assert igmp_report(2, GROUP, SourceFilter.any()) in reports(wire)


def force_version_2() -> None:
    with open("/proc/sys/net/ipv4/conf/all/force_igmp_version", "w", encoding="ascii") as setting:  # noqa: PTH123
        setting.write("2")


@pytest.mark.kernel_only("another system's methods")
async def test_it_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    ip(*bridge("br0", 10))
    real = NativeSystem.socket

    def refuse(self: NativeSystem, family: int, kind: int, protocol: int) -> object:
        if kind == socket.SOCK_RAW and family == socket.AF_INET:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(self, family, kind, protocol)

    monkeypatch.setattr(NativeSystem, "socket", refuse)
    async with open_udp() as conn, open_udp() as other, conn.joined(10, GROUP) as membership:
        membership.refresh()  # It is the only one.
        async with other.joined(10, GROUP):
            for attempt in (membership.refresh, conn.refresh_memberships):
                with pytest.raises(PermissionError, match=r"announce .* again on br0 .*: .*\(2 sockets are mem"):
                    attempt()
        monkeypatch.setattr(NativeSystem, "igmp_table", lambda _: None)
        with pytest.raises(PermissionError, match="nobody can tell whether other sockets are members"):
            membership.refresh()
        assert membership.is_alive


async def test_all_are_announced_although_some_are_refused() -> None:
    ip(*bridge("br0", 10))
    async with open_udp() as conn, conn.joined(10, GROUP) as membership, conn.joined("lo", GROUP):
        conn.refresh_memberships()
        ip("link delete br0")
        conn.refresh_memberships()  # What is dead is no membership.
        with pytest.raises(OSError, match=r"announce .* again on interface index 10: .*no such interface") as caught:
            membership.refresh()
        assert caught.value.errno == errno.ENODEV


async def test_only_inside_the_block() -> None:
    async with open_udp() as conn:
        membership = conn.joined("lo", GROUP)
        with pytest.raises(RuntimeError, match="only after 'async with'"):
            membership.refresh()
        async with membership:
            pass
        with pytest.raises(trio.ClosedResourceError):
            membership.refresh()
