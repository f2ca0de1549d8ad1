"""Programs that know nothing of this library, on the lab's wire: they hear us, we hear them, and they judge us.

iperf 2 and socat are the peers, tshark tells what was on the wire, the bridge what was joined, and a kernel's router
and reverse-path filter what crosses. (Go and avahi have tests of their own.)
"""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ipv4 import Datagram, SourceFilter, open_udp
from trio_ipv4.testing import igmp_groups, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Eventually
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

GROUP, SPECIFIC = "239.1.2.3", "232.1.2.3"
PORT = 5000
CIRCUMSTANCES = {3: "to include", 4: "to exclude", 5: "allow", 6: "block"}
"""Record types of a change (RFC 3376 section 4.2.12); 1 and 2 answer queries."""


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"the program `{program}` is missing")


@contextlib.asynccontextmanager
async def running(host: LabHost, *argv: str, stdin: int = subprocess.DEVNULL) -> AsyncIterator[trio.Process]:
    """Run a program in a host, and end it with the block."""
    process = await trio.lowlevel.open_process(
        host.command(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
            if process.stdin is not None:
                await process.stdin.aclose()


async def read_until(process: trio.Process, wanted: bytes) -> bytes:
    """Return what the program says up to something that it has to say."""
    said = b""
    assert process.stdout is not None
    with trio.move_on_after(15):
        while wanted not in said:
            chunk = await process.stdout.receive_some()
            if not chunk:
                break
            said += chunk
    assert wanted in said, said.decode()
    return said


def sender(host: LabHost) -> PacketConn:
    conn = host.call(open_udp)
    conn.multicast_interface = "en0"
    return conn


def hears(host: LabHost, group: str) -> bool:
    """Whether the group is joined there and the port bound: of options and bind, a program may do either first."""
    table = host.call(Path("/proc/thread-self/net/udp").read_text)
    bound = {int(line.split()[1].rpartition(":")[2], 16) for line in table.splitlines()[1:]}
    return PORT in bound and (host.interfaces[0].index, IPv4Address(group)) in host.call(igmp_groups)


def learned(lab: Lab, port: str, group: str) -> set[str | None]:
    """For which sources the switch forwards a group to a port; `None` stands for any."""
    argv = lab.switch.command(["bridge", "-details", "-json", "mdb", "show"])
    (tables,) = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    entries = [entry for entry in tables["mdb"] if entry["port"] == port and entry["grp"] == group]
    # In INCLUDE mode the group's own entry lists its sources, and hears nothing itself.
    return {each.get("src") for each in entries if each.get("src") or each.get("filter_mode", "exclude") == "exclude"}


# iperf 2


def iperf_payload(number: int) -> bytes:
    """Lay out what iperf 2 sends: a number, seconds, microseconds, the number's upper half; the last is negative.

    iperf 2 include/payloads.h: struct UDP_datagram.
    """
    return struct.pack(">iIIi", number, 1_700_000_000, number & 0xFFFF, -1 if number < 0 else 0).ljust(1470, b"\0")


@needs("iperf")
@pytest.mark.parametrize("specific", [False, True])
async def test_iperf_hears_us(specific: bool, lab: Lab, eventually: Eventually) -> None:
    group = SPECIFIC if specific else GROUP
    source = str(lab["a"].addresses[0])
    only = ["-H", source] if specific else []
    server = ["iperf", "-s", "-u", "-p", str(PORT), "-B", f"{group}%en0", *only, "-l", "1470", "-f", "k"]
    async with running(lab["b"], *server) as process, sender(lab["a"]) as conn:
        await eventually(lambda: hears(lab["b"], group))
        expected = {source} if specific else {None}
        await eventually(lambda: learned(lab, "b-0", group) == expected)
        await conn.send_batch([Datagram(iperf_payload(number), (group, PORT)) for number in range(1, 51)])
        # The last one is sent until it is answered by a report: iperf's clients do so too.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat, conn, Datagram(iperf_payload(-51), (group, PORT)))
            said = await read_until(process, b" 0/51 (0%)")
            nursery.cancel_scope.cancel()
    assert source.encode() in said


async def repeat(conn: PacketConn, datagram: Datagram) -> None:
    while True:
        await conn.send(datagram)
        await trio.sleep(0.1)


@needs("iperf")
@pytest.mark.parametrize("specific", [False, True])
async def test_we_hear_iperf(specific: bool, lab: Lab, eventually: Eventually) -> None:
    group = SPECIFIC if specific else GROUP
    source = str(lab["b"].addresses[0])
    lab["b"].ip("route", "add", "224.0.0.0/4", "dev", "en0")
    sources = SourceFilter.include(source) if specific else SourceFilter.any()
    client = ["iperf", "-c", group, "-u", "-p", str(PORT), "-n", "14700", "-l", "1470", "-b", "10M", "-T", "1"]
    async with lab["a"].call(open_udp, "0.0.0.0", PORT) as conn, conn.joined("en0", group, sources=sources):
        await eventually(lambda: learned(lab, "a-0", group) == ({source} if specific else {None}))
        async with running(lab["b"], *client):
            with trio.fail_after(10):
                datagrams = [await conn.receive() for _ in range(10)]
    numbers = [struct.unpack_from(">i", each.payload)[0] for each in datagrams]
    assert numbers == sorted(numbers)
    assert {(each.peer[0], str(each.control.dst), len(each.payload)) for each in datagrams} == {(source, group, 1470)}


@needs("iperf")
async def test_the_switch_and_the_filter_spare_us_another_source_of_iperf(lab: Lab, eventually: Eventually) -> None:
    lab["b"].ip("route", "add", "224.0.0.0/4", "dev", "en0")
    client = ["iperf", "-c", SPECIFIC, "-u", "-p", str(PORT), "-n", "2940", "-l", "1470", "-b", "10M", "-T", "1"]
    other = SourceFilter.include("198.18.0.77")
    async with lab["a"].call(open_udp, "0.0.0.0", PORT) as conn, conn.joined("en0", SPECIFIC, sources=other):
        await eventually(lambda: learned(lab, "a-0", SPECIFIC) == {"198.18.0.77"})
        async with running(lab["b"], *client) as process, sender(lab["b"]) as last:
            await read_until(process, b"Sent")
            await last.send_to(b"the last", (str(lab["a"].addresses[0]), PORT))
            with trio.fail_after(20):
                assert (await conn.receive()).payload == b"the last"


# socat


@needs("socat")
async def test_socat_hears_us(lab: Lab, eventually: Eventually) -> None:
    receiver = ["socat", "-u", f"UDP4-RECV:{PORT},ip-add-membership={GROUP}:en0,reuseaddr", "STDOUT"]
    async with running(lab["b"], *receiver) as process, sender(lab["a"]) as conn:
        await eventually(lambda: hears(lab["b"], GROUP))
        await conn.send_batch([Datagram(octets, (GROUP, PORT)) for octets in (b"one ", b"two ", b"three\n")])
        assert await read_until(process, b"three\n") == b"one two three\n"


@needs("socat")
async def test_socat_hears_only_the_source_that_it_joined(lab: Lab, eventually: Eventually) -> None:
    lab["a"].ip("address", "add", "198.18.0.102/24", "dev", "en0")
    # IP_ADD_SOURCE_MEMBERSHIP and struct ip_mreq_source (linux/in.h); this way any version of socat can do it.
    request = b"".join(IPv4Address(each).packed for each in (SPECIFIC, "198.18.0.2", "198.18.0.102"))
    option = f"setsockopt-listen=0:39:x{request.hex()}"
    receiver = ["socat", "-u", f"UDP4-RECV:{PORT},{option},reuseaddr", "STDOUT"]
    async with running(lab["b"], *receiver) as process:
        await eventually(lambda: hears(lab["b"], SPECIFIC))
        for source, payload in (("198.18.0.1", b"not this"), ("198.18.0.102", b"but this\n")):
            async with lab["a"].call(open_udp, source) as conn:
                conn.multicast_interface = "en0"
                await conn.send_to(payload, (SPECIFIC, PORT))
        assert await read_until(process, b"\n") == b"but this\n"


@needs("socat")
async def test_we_hear_socat(lab: Lab) -> None:
    address = f"UDP4-DATAGRAM:{GROUP}:{PORT},ip-multicast-if={lab['b'].addresses[0]},ip-multicast-ttl=3"
    async with (
        lab["a"].call(open_udp, "0.0.0.0", PORT) as conn,
        conn.joined("en0", GROUP),
        running(lab["b"], "socat", "-u", "STDIN", address, stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        await process.stdin.send_all(b"hello from socat")
        with trio.fail_after(20):
            datagram = await conn.receive()
    assert (datagram.payload, datagram.peer[0]) == (b"hello from socat", str(lab["b"].addresses[0]))
    assert datagram.control.ifindex == lab["a"].interfaces[0].index


# tshark and the bridge


class Wire:
    """What tshark says of the IGMPv3 reports on a host's link: (circumstance, group, sources)."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._text = b""
        self.reports: list[tuple[str, str, frozenset[str]]] = []

    async def follow(self) -> None:
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            *lines, self._text = (self._text + chunk).split(b"\n")
            for line in lines:
                self._note(line.decode())

    def _note(self, line: str) -> None:
        # What tshark says of itself has no tabs.
        if line.count("\t") == 2:
            kinds, groups, sources = line.split("\t")
            if "," not in kinds and (kind := CIRCUMSTANCES.get(int(kinds or 0))):
                self.reports.append((kind, groups, frozenset(filter(None, sources.split(",")))))


@contextlib.asynccontextmanager
async def watched(host: LabHost, eventually: Eventually) -> AsyncIterator[Wire]:
    fields = ["-T", "fields", "-e", "igmp.record_type", "-e", "igmp.maddr", "-e", "igmp.saddr"]
    only = ["-f", f"igmp and ip src {host.addresses[0]}", "-Y", "igmp.type == 0x22"]
    async with (
        running(host, "tshark", "-i", "en0", "-n", "-l", *only, *fields) as process,
        trio.open_nursery() as nursery,
        host.call(open_udp) as probe,
    ):
        wire = Wire(process)
        nursery.start_soon(wire.follow)
        # It sees everything once it sees the report of a probe.
        with trio.fail_after(20):
            while not wire.reports:
                async with probe.joined("en0", "239.255.0.1"):
                    await trio.sleep(0.2)
        await eventually(lambda: wire.reports[-1][:2] == ("to include", "239.255.0.1"))
        wire.reports.clear()
        yield wire
        nursery.cancel_scope.cancel()


@needs("tshark")
async def test_tshark_and_the_switch_see_each_change_of_a_scope(lab: Lab, eventually: Eventually) -> None:
    first, second = "198.18.0.2", "198.18.0.77"
    host = lab["a"]
    kinds: list[tuple[str, str]] = []

    async with watched(host, eventually) as wire, host.call(open_udp) as conn:

        async def comes(kind: str, group: str, *sources: str, heard: set[str | None]) -> None:
            # What changed a moment ago is reported a second time, together with this (RFC 3376 section 5.1).
            def is_it(report: tuple[str, str, frozenset[str]]) -> bool:
                return report[:2] == (kind, group) and report[2] >= set(sources)

            await eventually(lambda: any(map(is_it, wire.reports)))
            kinds.append((kind, group))
            await eventually(lambda: learned(lab, "a-0", group) == heard)

        async with conn.joined("en0", GROUP):
            await comes("to exclude", GROUP, heard={None})
        await comes("to include", GROUP, heard=set())
        async with conn.joined("en0", SPECIFIC, sources=SourceFilter.include(first)) as membership:
            await comes("allow", SPECIFIC, first, heard={first})
            membership.allow(second)
            await comes("allow", SPECIFIC, second, heard={first, second})
            membership.block(first)
            await comes("block", SPECIFIC, first, heard={second})
        await comes("block", SPECIFIC, second, heard=set())
    mine = {report for report in wire.reports if report[1] in (GROUP, SPECIFIC)}
    # Nothing else, above all no any-source join of the source-specific group on the way.
    assert {report[:2] for report in mine} == set(kinds)
    assert {source for report in mine for source in report[2]} == {first, second}


# A router between two networks


@pytest.fixture
def routed(needs_lab: None) -> Iterator[Lab]:
    with open_lab({"a": [0], "b": [1, 2]}, router=True) as lab:
        yield lab


async def test_ttl_1_stays_on_the_link_and_ttl_2_crosses_one_router(routed: Lab) -> None:
    near = routed["a"].call(open_udp, "0.0.0.0", PORT)
    far = routed["b"].call(open_udp, "0.0.0.0", PORT)
    async with near, far, near.joined("en0", GROUP), far.joined("en1", GROUP), sender(routed["a"]) as conn:
        for hops in (1, 2):
            conn.multicast_ttl = hops
            await conn.send_to(f"{hops}".encode(), (GROUP, PORT))
        with trio.fail_after(20):
            assert [(await near.receive()).payload for _ in range(2)] == [b"1", b"2"]
            # In order: what comes first would have been the other one.
            assert (await far.receive()).payload == b"2"


async def test_the_reverse_path_filter_drops_what_comes_by_another_way_than_the_route(
    routed: Lab, eventually: Eventually
) -> None:
    host = routed["b"]
    one, two = (each.index for each in host.interfaces)
    async with (
        sender(routed["a"]) as away,
        host.call(open_udp, "0.0.0.0", PORT) as conn,
        conn.joined(one, GROUP),
        conn.joined(two, GROUP),
    ):
        away.multicast_ttl = 2
        await away.send_to(b"by both", (GROUP, PORT))
        with trio.fail_after(20):
            assert {(await conn.receive()).control.ifindex for _ in range(2)} == {one, two}
        # Strict: the source's route is by en1 (RFC 3704 section 2.2; the kernel's ip-sysctl.rst).
        host.call(Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text, "1")
        before = dropped_by_path(host)
        await away.send_to(b"by one", (GROUP, PORT))
        with trio.fail_after(20):
            assert (await conn.receive()).control.ifindex == one
        await eventually(lambda: dropped_by_path(host) == before + 1)
        with trio.move_on_after(0.1):
            pytest.fail(f"it came all the same: {await conn.receive()}")


def dropped_by_path(host: LabHost) -> int:
    """How much the reverse-path filter dropped, by the kernel's own count."""
    lines = host.call(Path("/proc/thread-self/net/netstat").read_text).splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))["IPReversePathFilter"])
