"""`trio-ipv4 ping` on the wire: both sides of it, against each other and against Debian's ssmping and ssmpingd."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from support.records import Kept
from support.terminal import on_terminal
from trio_ipv4 import ControlMessage, Datagram, Header, _cli, open_udp
from trio_ipv4._cli.ping.asking import ask
from trio_ipv4._cli.ping.plan import Asking
from trio_ipv4._cli.ping.protocol import Field, FieldType, Kind, Message, make_request, parse_message
from trio_ipv4._cli.ping.records import (
    Answer,
    ClientCame,
    Hint,
    Loss,
    MulticastCame,
    PingStarted,
    PingSummary,
    ResponderFound,
    ServingStarted,
    ServingSummary,
    Statistics,
)
from trio_ipv4._cli.ping.serving import Serving, serve
from trio_ipv4._cli.ping.statistics import Book
from trio_ipv4.testing import igmp_groups, open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from conftest import AsNobody, Eventually, WaitUntil
    from trio_ipv4.testing import Host, Lab, LabHost, SimulatedNetwork

COMMAND = [sys.executable, "-m", "trio_ipv4", "ping"]
A, B, C = (IPv4Address(f"198.18.0.{number}") for number in (1, 2, 3))
SPECIFIC, ANY = IPv4Address("232.43.211.234"), IPv4Address("239.1.2.234")
ASKED = IPv4Address("239.7.7.7")
PORT = 4321
DEADLINE = 60
"""Seconds: no measure of anything, but an end."""

needs_lab = pytest.mark.usefixtures("needs_lab")


class Collected(Kept):
    """What was shown."""

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]

    def answers(self, kind: str, responder: IPv4Address = B) -> list[Answer]:
        return [each for each in self.of(Answer) if (each.kind, each.responder) == (kind, responder)]

    @property
    def summary(self) -> PingSummary:
        assert isinstance(self.records[-1], PingSummary | Hint)
        (found,) = self.of(PingSummary)
        return found

    def figures(self, responder: IPv4Address = B) -> tuple[Statistics, Statistics]:
        unicast, multicast = (each for each in self.of(Statistics) if each.responder == responder)
        assert (unicast.kind, multicast.kind) == ("unicast", "multicast")
        return unicast, multicast


def asking(target: IPv4Address, **changes: Any) -> Asking:
    usual = {"group": target if target.is_multicast else SPECIFIC, "port": PORT, "interfaces": (), "count": 5}
    more = {"interval": 0.05, "sizes": (), "ttl": 1 if target.is_multicast else 64, "wait": 1.0, "seconds": None}
    return Asking(target, **{**usual, **more, **changes})


async def ping(host: Host, target: IPv4Address, **changes: Any) -> tuple[int, Collected]:
    """Ask from a host. Return the exit status, and what was shown."""
    output = Collected()
    status = await host.run(functools.partial(ask, output, asking(target, **changes)))
    return status, output


@contextlib.asynccontextmanager
async def serving(host: Host, *groups: IPv4Address, **changes: Any) -> AsyncIterator[Collected]:
    """Have our responder on a host."""
    output = Collected()
    options = {"interfaces": (), "port": PORT, "limit": 1000, "seconds": None, **changes}
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, functools.partial(serve, output, Serving(groups, **options)))
        yield output
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def ssmpingd(host: LabHost, eventually: Eventually) -> AsyncIterator[list[str]]:
    """Have Debian's responder on a host; the lines that it has printed are there behind the block."""
    process = await trio.lowlevel.open_process(host.command(["ssmpingd"]), stdout=subprocess.PIPE)
    said: list[str] = []
    try:
        await eventually(lambda: PORT in bound(host))
        yield said
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            assert process.stdout is not None
            said += b"".join([chunk async for chunk in process.stdout]).decode().splitlines()
            await process.wait()


def bound(host: LabHost) -> set[int]:
    """The UDP ports that are bound on a host."""
    table = host.call(Path("/proc/thread-self/net/udp").read_text).splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in table}


async def program(host: LabHost, *argv: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE):
        return await trio.run_process(host.command(argv), capture_stdout=True, capture_stderr=True, check=False)


def packets(path: Path) -> Iterator[bytes]:
    """The IP packets of a capture: a pcap file of this machine's order, with Ethernet frames or IP packets."""
    octets = path.read_bytes()
    ahead, at = {1: 14, 101: 0}[struct.unpack_from("=I", octets, 20)[0]], 24
    while at + 16 <= len(octets):
        size = struct.unpack_from("=I", octets, at + 8)[0]
        yield octets[at + 16 : at + 16 + size][ahead:]
        at += 16 + size


def drop(host: LabHost, rule: str, hook: str = "input") -> None:
    """Have the firewall of a host drop what fits a rule."""
    chain = f"add table ip t; add chain ip t c {{ type filter hook {hook} priority 0; }};"
    subprocess.run(host.command(["nft", f"{chain} add rule ip t c {rule} drop"]), check=True)


def route_groups(*hosts: LabHost) -> None:
    """Give hosts a route for groups, without which ssmping and ssmpingd find no interface."""
    for host in hosts:
        host.ip("route", "add", "224.0.0.0/4", "dev", "en0")


# Debian's programs


@needs_lab
@pytest.mark.parametrize("group", [SPECIFIC, ANY])
async def test_ssmpingd_answers_us_both_ways(group: IPv4Address, lab: Lab, eventually: Eventually) -> None:
    a, b = lab["a"], lab["b"]
    async with ssmpingd(b, eventually) as said:
        status, output = await ping(a, B, group=group)
    assert status == 0
    assert output.summary.finding == "both"
    assert said == ["received request from 198.18.0.1"] * 5
    start = output.of(PingStarted)[0]
    assert (start.interfaces, start.source_specific) == (("en0",), group == SPECIFIC)
    assert [each.version for each in output.of(ResponderFound)] == ["0.9.1 (20080418) [asm][size]"]
    assert [each.number for each in output.answers("unicast")] == [1, 2, 3, 4, 5]
    # The switch may have let the first ones through to nobody yet.
    heard = [each.number for each in output.answers("multicast")]
    assert heard
    assert heard == list(range(6 - len(heard), 6))
    assert [(each.number, each.responder) for each in output.of(MulticastCame)] == [(heard[0], B)]
    assert {each.hops for each in output.of(Answer)} == {0}
    unicast, multicast = output.figures()
    assert (unicast.sent, unicast.received, unicast.lost) == (5, 5, 0)
    assert (multicast.received, multicast.lost_before_first) == (len(heard), 5 - len(heard))
    assert a.groups().keys() == {(a.interfaces[0].index, IPv4Address("224.0.0.1")), (1, IPv4Address("224.0.0.1"))}


@needs_lab
async def test_ssmpingd_does_not_answer_in_a_group_that_ends_otherwise(lab: Lab, eventually: Eventually) -> None:
    async with ssmpingd(lab["b"], eventually) as said:
        status, output = await ping(lab["a"], B, group=IPv4Address("239.1.2.3"), count=2, wait=0.2)
    assert status == 1
    assert output.summary.finding == "unicast only"
    assert "received request with invalid group address 239.1.2.3" in said
    assert any("as 239.1.2.234" in each.hint for each in output.of(Hint))
    assert "Too early to tell" in output.of(Hint)[-1].hint


@needs_lab
async def test_ssmpingd_returns_each_size(lab: Lab, eventually: Eventually) -> None:
    sizes = (64, 1400, 8000)
    async with ssmpingd(lab["b"], eventually):
        status, output = await ping(lab["a"], B, sizes=sizes, count=9)
    assert status == 0
    assert {each.octets for each in output.answers("unicast")} == set(sizes)
    assert [(each.octets, each.kind, each.sent) for each in output.of(Statistics)] == [
        (size, kind, 3) for size in sizes for kind in ("unicast", "multicast")
    ]


@needs_lab
async def test_ssmpingd_on_our_own_host_answers_both_ways(lab: Lab, eventually: Eventually) -> None:
    async with ssmpingd(lab["b"], eventually):
        for target, interface in ((B, "en0"), (IPv4Address("127.0.0.1"), "lo")):
            status, output = await ping(lab["b"], target, count=2)
            assert status == 0
            assert output.of(PingStarted)[0].interfaces == (interface,)
            assert [each.received for each in output.figures(target)] == [2, 2]


@needs_lab
@pytest.mark.parametrize(
    "argv", [["ssmping", "-v", "-c", "3", "-s", "100", str(B)], ["asmping", "-c", "3", "239.1.2.3", str(B)]]
)
async def test_we_answer_ssmping_and_asmping_both_ways(argv: list[str], lab: Lab) -> None:
    route_groups(lab["a"], lab["b"])
    async with serving(lab["b"]) as output:
        done = await program(lab["a"], *argv)
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")  # 1 without multicast.
    for number in (1, 2, 3):
        assert f"  unicast from 198.18.0.2, seq={number} dist=0 " in said
    assert "multicast from 198.18.0.2, seq=3 dist=0 " in said
    assert "Warning" not in said  # Of a size that was not asked for.
    (client,) = output.of(ClientCame)
    assert (client.client, client.asked, client.interface) == (A, B, "en0")
    if argv[0] == "ssmping":
        assert "Server version: trio-ipv4 " in said
        assert client.group == SPECIFIC
    else:
        assert client.group == ANY


@needs_lab
async def test_runs_beside_each_other_hear_only_their_own_answers(lab: Lab) -> None:
    a = lab["a"]
    route_groups(a)
    done: list[Any] = []
    ours = [*COMMAND, str(B), "--group", str(ANY), "--count", "10", "--interval", "100ms", "--json"]

    async def beside(*argv: str) -> None:
        done.append(await program(a, *argv))

    async with serving(lab["b"]), trio.open_nursery() as nursery:
        nursery.start_soon(beside, "asmping", "-c", "2", str(ANY), str(B))
        nursery.start_soon(beside, *ours)
        status, output = await ping(a, B, group=ANY, count=20, interval=0.1)
    assert status == 0
    assert (output.summary.ignored, output.figures()[0].duplicates, output.figures()[1].duplicates) == (0, 0, 0)
    assert [each.returncode for each in done] == [0, 0]
    (other,) = (json.loads(each.stdout.splitlines()[-1]) for each in done if each.stdout.startswith(b"{"))
    assert (other["finding"], other["ignored"]) == ("both", 0)
    assert all(b"else" not in each.stdout for each in done)  # asmping: "received someone else's".


@needs_lab
async def test_the_wire_has_ssmping_s_messages(lab: Lab, tmp_path: Path, eventually: Eventually) -> None:
    a, path = lab["a"], tmp_path / "wire.pcap"
    argv = a.command(["tcpdump", "-i", "en0", "-U", "-w", str(path), "udp"])
    async with serving(lab["b"]), trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, argv, check=False, stderr=subprocess.DEVNULL)
        nursery.start_soon(run)
        await eventually(lambda: path.exists() and path.stat().st_size >= 24)
        await ping(a, B, group=ANY, count=3)
        await eventually(lambda: len(list(packets(path))) >= 3 + 3 + 1)
        nursery.cancel_scope.cancel()
    requests = [packet for packet in packets(path) if packet[28:29] == b"Q"]
    answers = [packet for packet in packets(path) if packet[28:29] == b"A"]
    assert len(requests) == 3
    port = struct.unpack_from("!H", requests[0], 20)[0]
    for packet in requests:
        assert (packet[8], packet[12:20], packet[20:24]) == (64, A.packed + B.packed, struct.pack("!HH", port, PORT))
    destinations = {packet[16:20] for packet in answers}
    assert destinations == {A.packed, ANY.packed}
    for packet in answers:  # TTL, source, and from port 4321 to the port that asked, by multicast, too.
        assert (packet[8], packet[12:16], packet[20:24]) == (64, B.packed, struct.pack("!HH", PORT, port))
        assert packet[29:][: len(requests[0]) - 29] in {request[29:] for request in requests}


@needs_lab
async def test_a_client_that_is_busy_does_not_lengthen_round_trips(lab: Lab, eventually: Eventually) -> None:
    async def be_busy() -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251  # The answers lie in the socket meanwhile.
            await trio.lowlevel.checkpoint()

    async with ssmpingd(lab["b"], eventually), trio.open_nursery() as nursery:
        nursery.start_soon(be_busy)
        _, output = await ping(lab["a"], B, count=3)
        nursery.cancel_scope.cancel()
    assert output.figures()[0].received == 3
    assert output.figures()[0].min_seconds < 0.05


# Findings


@needs_lab
async def test_a_refused_join_is_an_error_and_of_a_group_a_hint(lab: Lab) -> None:
    async with serving(lab["b"], ASKED):
        lab["a"].set_sysctl("net.ipv4.igmp_max_memberships", 0)
        with pytest.raises(ExceptionGroup) as caught:
            await ping(lab["a"], B)
        assert caught.group_contains(OSError, match="igmp_max_memberships")
        status, output = await ping(lab["a"], ASKED, count=1, wait=0.2)
    assert status == 1
    assert "Not joined on en0: " in output.records[0].hint
    assert output.of(PingStarted)[0].interfaces == ()


@needs_lab
async def test_without_a_responder_the_icmp_error_is_shown(lab: Lab) -> None:
    status, output = await ping(lab["a"], B, count=2)
    assert status == 3
    assert output.summary.finding == "nothing"
    errors = output.answers("error")
    assert [(each.number, each.error) for each in errors] == [(number, "port unreachable") for number in (1, 2)]
    assert [each.hint.partition(":")[0] for each in output.of(Hint)] == ["No responder runs on 198.18.0.2, port 4321"]
    assert output.summary.errors == 2
    assert [(each.kind, each.lost) for each in output.of(Statistics)] == [("unicast", 2), ("multicast", 2)]


@needs_lab
@pytest.mark.parametrize(
    ("rule", "status", "finding", "came"),
    [
        ("ip daddr 232.0.0.0/8", 1, "unicast only", [5, 0]),
        (f"udp sport {PORT} ip daddr {A}", 4, "multicast only", [0, None]),
        (f"udp sport {PORT}", 3, "nothing", [0, 0]),
    ],
)
async def test_a_firewall_decides_the_finding(
    rule: str, status: int, finding: str, came: list[int | None], lab: Lab
) -> None:
    drop(lab["a"], rule)
    async with serving(lab["b"]):
        found, output = await ping(lab["a"], B)
    assert (found, output.summary.finding) == (status, finding)
    for figures, expected in zip(output.figures(), came, strict=True):
        assert figures.received == expected or (expected is None and figures.received)
        assert figures.lost == 5 - figures.received
    assert len(output.of(Hint)) == 1


@needs_lab
async def test_behind_a_router_the_hops_are_counted() -> None:
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        far = lab["b"].addresses[0]
        async with serving(lab["b"], ASKED):
            status, output = await ping(lab["a"], far)
            assert status == 0
            assert {each.hops for each in output.of(Answer)} == {1}
            assert {(each.kind, each.hops) for each in output.of(Statistics)} == {("unicast", 1), ("multicast", 1)}
            # A group is asked on the link alone, unless the TTL says otherwise.
            status, output = await ping(lab["a"], ASKED, count=2)
            assert status == 3
            assert "TTL 1" in output.of(Hint)[-1].hint
            status, output = await ping(lab["a"], ASKED, ttl=2)
            assert status == 0
            assert output.summary.responders == (far,)


@needs_lab
async def test_a_group_finds_all_who_serve_it() -> None:
    with open_lab(("a", "b", "c", "d")) as lab:
        async with (
            serving(lab["b"], ASKED),
            serving(lab["c"], ASKED, interfaces=("en0",)),
            serving(lab["d"], ASKED, IPv4Address("239.7.7.8")),
            serving(lab["a"], IPv4Address("239.7.7.8")),
        ):
            status, output = await ping(lab["a"], ASKED)
            assert status == 0
            responders = {B, C, IPv4Address("198.18.0.4")}
            assert set(output.summary.responders) == responders
            for responder in responders:
                unicast, multicast = output.figures(responder)
                assert unicast.received == 5
                assert multicast.received > 0
            # Our own host is a member of the other one.
            _, output = await ping(lab["a"], IPv4Address("239.7.7.8"))
            assert set(output.summary.responders) == {A, IPv4Address("198.18.0.4")}
        status, output = await ping(lab["a"], ASKED, count=2, wait=0.1)
        assert status == 3
        assert output.of(Statistics) == []


@needs_lab
async def test_a_group_is_asked_on_every_link_and_told_of_those_that_refuse() -> None:
    with open_lab(links=2) as lab:
        lab["a"].remove_address("en1", "198.18.1.1/24")
        async with serving(lab["b"], ASKED) as served:
            _, output = await ping(lab["a"], ASKED)
            assert output.of(PingStarted)[0].interfaces == ("en0", "en1")
            assert output.of(Hint)[0].hint.startswith("Not asked on en1: ")
            lab["a"].add_address("en1", "198.18.1.1/24")
            _, output = await ping(lab["a"], ASKED)
            assert set(output.summary.responders) == set(lab["b"].addresses)
            assert {each.interface for each in served.of(ClientCame)} == {"en0", "en1"}
            _, output = await ping(lab["a"], ASKED, interfaces=("en1",))
            assert output.summary.responders == (lab["b"].addresses[1],)


@needs_lab
async def test_the_responder_of_one_interface_hears_no_other() -> None:
    with open_lab(links=2) as lab:
        near, far = lab["b"].addresses
        async with serving(lab["b"], ASKED, interfaces=("en1",)):
            assert (await ping(lab["a"], near, count=1, wait=0.2))[0] == 3
            assert (await ping(lab["a"], far))[0] == 0
            _, output = await ping(lab["a"], ASKED)
            assert output.summary.responders == (far,)


@needs_lab
async def test_groups_that_a_responder_may_answer_in(lab: Lab) -> None:
    group = IPv4Address("239.9.9.9")
    async with serving(lab["b"]) as output:
        assert (await ping(lab["a"], B, group=group, count=2, wait=0.2))[0] == 1
        assert output.of(ClientCame)[0].answers_in_group is False
        assert "--serve 239.9.9.9" in output.of(Hint)[0].hint
    async with serving(lab["b"], group, IPv4Address("232.9.9.9")) as output:
        assert (await ping(lab["a"], B, group=group))[0] == 0
        assert (await ping(lab["a"], B, group=IPv4Address("232.9.9.9")))[0] == 0
        # In 232/8 nobody can be heard without being named.
        assert {str(address) for _, address in lab["b"].groups()} == {"224.0.0.1", "239.9.9.9"}
    assert {str(address) for _, address in lab["b"].groups()} == {"224.0.0.1"}


# What a responder is not to be abused for


async def answers_to(conn: Any, octets: bytes, target: tuple[str, int] = (str(B), PORT)) -> list[bytes]:
    """Send octets; return what comes back until a request that is answered surely."""
    mark = make_request(0xFFFF_FFFF, 77, 0, IPv4Address("239.1.2.3"), size=50).marshal()
    await conn.send_to(octets, target)
    await conn.send_to(mark, (str(B), PORT))
    found = []
    with trio.fail_after(DEADLINE):
        async for datagram in conn:
            if datagram.payload[1:] == mark[1:]:
                return found
            found.append(datagram.payload)
    raise AssertionError


@needs_lab
async def test_only_requests_are_answered_and_not_by_much_more() -> None:
    request = make_request(1, 1, 0, ANY, size=50)
    greedy = Message(Kind.REQUEST, (Field(FieldType.REPLY_SIZE, b"\xff\xff"), *request.fields))
    with open_lab() as lab:
        a = lab["a"]
        async with serving(lab["b"]) as output, a.call(open_udp) as conn:
            assert await answers_to(conn, request.marshal()) == [b"A" + request.marshal()[1:]]
            (greedily,) = await answers_to(conn, greedy.marshal())
            assert len(greedily) == 3 * len(greedy.marshal())
            for octets in (b"", b"x", b"A" + request.marshal()[1:], request.marshal()[:-1], request.marshal() + b"\0"):
                assert await answers_to(conn, octets) == []
            assert await answers_to(conn, request.marshal(), ("198.18.0.255", PORT)) == []
        assert len(output.of(ClientCame)) == 1


@needs_lab
async def test_senders_that_can_t_be_answered_do_not_end_the_responder(lab: Lab, eventually: Eventually) -> None:
    group = "224.0.0.77"  # Of local groups alone the kernel takes what has no source (`ip_mc_validate_source`).
    request = make_request(1, 1, 0, ANY, size=50).marshal()
    frames = [
        bytes.fromhex("01005e00004d 020000000001 0800") + udp_packet(source, group, port, request)
        for source, port in (("0.0.0.0", 99), (str(A), 0), (str(A), 99))
    ]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("en0", 0))
            for frame in frames:
                wire.send(frame)

    async with serving(lab["b"], IPv4Address(group)) as output:
        lab["a"].call(send)
        await eventually(lambda: output.of(ClientCame))
        assert [(each.client, each.port) for each in output.of(ClientCame)] == [(A, 99)]


def udp_packet(source: str, group: str, port: int, payload: bytes) -> bytes:
    datagram = struct.pack("!HHHH", port, PORT, 8 + len(payload), 0) + payload  # No checksum (RFC 768).
    header = Header(src=source, dst=group, ttl=1, protocol=17, total_len=20 + len(datagram))
    return header.with_checksum().marshal() + datagram


@needs_lab
async def test_requests_over_the_limit_are_not_answered(lab: Lab) -> None:
    request = make_request(1, 1, 0, IPv4Address("239.1.2.3"), size=50).marshal()
    async with lab["a"].call(open_udp) as conn:
        output = Collected()
        serving_for = Serving((), (), PORT, 3, seconds=1.0)
        async with trio.open_nursery() as nursery:
            await nursery.start(lab["b"].run, functools.partial(serve, output, serving_for))
            await conn.send_batch([Datagram(request, (str(B), PORT))] * 20)
            with trio.fail_after(DEADLINE):
                for _ in range(3):
                    assert (await conn.receive()).payload[1:] == request[1:]
    (summary,) = output.of(ServingSummary)
    assert summary is output.records[-1]
    assert summary.requests == 20
    assert summary.answered_by_unicast == 20 - summary.over_limit
    assert 3 <= summary.answered_by_unicast <= 6
    assert (summary.answered_by_multicast, summary.ignored, summary.refused) == (0, 0, 0)
    assert [each.hint for each in output.of(Hint) if "--limit" in each.hint] != []


@needs_lab
async def test_a_refused_answer_does_not_end_the_responder(lab: Lab) -> None:
    b = lab["b"]
    drop(b, f"ip daddr 232.0.0.0/8 udp sport {PORT}", "output")
    async with serving(b) as output:
        assert (await ping(lab["a"], B, count=3, wait=0.2))[0] == 1
    assert [each.hint.partition(":")[0] for each in output.of(Hint)] == ["Not answered"]


@needs_lab
async def test_clients_are_forgotten_in_the_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ipv4._cli.ping.serving._CLIENTS", 1)
    async with serving(lab["b"]) as output, lab["a"].call(open_udp) as first, lab["a"].call(open_udp) as second:
        for conn in (first, second, first, first):
            assert await answers_to(conn, b"") == []
    assert len(output.of(ClientCame)) == 3


@needs_lab
async def test_strange_answers_are_ignored(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    b.add_address("en0", "198.18.0.77/24")
    async with b.call(open_udp, "0.0.0.0", PORT) as conn, b.call(open_udp, "198.18.0.77", PORT + 1) as other:
        output = Collected()
        async with trio.open_nursery() as nursery:
            run = functools.partial(ask, output, asking(B, count=1, wait=DEADLINE))
            nursery.start_soon(a.run, run)
            request = await conn.receive()
            message = parse_message(request.payload)
            assert message.run is not None
            right = b"A" + request.payload[1:]
            wrong = [
                b"",
                request.payload,
                b"A" + make_request(message.run ^ 1, 1, 0, SPECIFIC).marshal()[1:],
                b"A" + make_request(message.run, 2, 0, SPECIFIC).marshal()[1:],
                Message(Kind.ANSWER, tuple(each for each in message.fields if each.type != FieldType.NUMBER)).marshal(),
            ]
            for octets in wrong:
                await conn.send_to(octets, request.peer)
            for _ in range(2):
                await other.send_to(right, request.peer)
            for payload in (right, right):
                await conn.send(request.reply(payload))
            conn.multicast_interface, conn.multicast_ttl = "en0", 200
            await conn.send_to(right, (str(SPECIFIC), request.peer[1]))
    assert output.summary.ignored == len(wrong) + 2
    assert [each.hint for each in output.of(Hint)] == [
        "198.18.0.77 has answered, which was not asked. Does 198.18.0.2 belong to it?"
    ]
    shown = [(each.kind, each.duplicate, each.hops) for each in output.of(Answer)]
    assert shown == [("unicast", False, 0), ("unicast", True, 0), ("multicast", False, None)]
    assert output.summary.finding == "both"


@needs_lab
async def test_strangers_who_answer_are_told_of_a_few_times_only(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    output, strangers = Collected(), [f"198.18.0.{number}" for number in range(100, 140)]
    for address in strangers:
        b.add_address("en0", f"{address}/24")
    async with b.call(open_udp, "0.0.0.0", PORT) as conn, trio.open_nursery() as nursery:
        nursery.start_soon(a.run, functools.partial(ask, output, asking(B, count=1, wait=DEADLINE)))
        request = await conn.receive()
        octets = b"A" + request.payload[1:]
        for address in strangers:
            await conn.send(Datagram(octets, request.peer, control=ControlMessage(src=address)))
        await conn.send(request.reply(octets))
        conn.multicast_interface = "en0"
        await conn.send_to(octets, (str(SPECIFIC), request.peer[1]))
    assert output.summary.ignored == len(strangers)
    hints = [each.hint for each in output.of(Hint)]
    assert len(hints) == 9
    assert hints[-1] == "There is more like this. It is not told, but counted."


@needs_lab
async def test_what_this_host_drops_is_counted(lab: Lab) -> None:
    # Where a datagram is longer than 76 octets (CHECKSUM_BREAK in linux/skbuff.h), the kernel looks at its checksum
    # when it is read, and counts it as the socket's if that is wrong.
    request = make_request(1, 1, 0, ANY, size=200).marshal()
    datagram = struct.pack("!HHHH", 99, PORT, 8 + len(request), 0xBEEF) + request
    header = Header(src=str(A), dst=str(B), ttl=1, protocol=17, total_len=20 + len(datagram))
    packet = header.with_checksum().marshal() + datagram

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (str(B), 0))

    output = Collected()
    async with lab["a"].call(open_udp) as conn, trio.open_nursery() as nursery:
        await nursery.start(lab["b"].run, functools.partial(serve, output, Serving((), (), PORT, 100, seconds=1.0)))
        lab["a"].call(send)
        assert await answers_to(conn, b"") == []
    (summary,) = output.of(ServingSummary)
    assert summary.drops == 1


# Names and interfaces


@needs_lab
async def test_an_alternative_name_of_an_interface_is_one(lab: Lab) -> None:
    for host in (lab["a"], lab["b"]):
        host.ip("link", "property", "add", "dev", "en0", "altname", "enp0s31f6")
    async with serving(lab["b"], ASKED, interfaces=("enp0s31f6",)):
        for target in (B, ASKED):
            status, output = await ping(lab["a"], target, interfaces=("enp0s31f6",))
            assert (status, output.summary.finding) == (0, "both")
            assert output.of(PingStarted)[0].interfaces == ("en0",)


@needs_lab
@pytest.mark.parametrize("target", [B, ASKED])
async def test_an_interface_that_is_down_is_an_error_and_no_diagnosis(target: IPv4Address) -> None:
    with open_lab(links=2) as lab:
        lab["a"].ip("link", "set", "en1", "down")
        async with serving(lab["b"]):
            with pytest.raises(ExceptionGroup) as caught:
                await ping(lab["a"], target, interfaces=("en1",))
    assert caught.group_contains(OSError, match="en1 is not set up: 'ip link set en1 up'")


@needs_lab
async def test_a_responder_knows_the_interfaces_from_the_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def watch_nothing() -> AsyncIterator[AsyncIterator[Any]]:
        async def changes() -> AsyncIterator[Any]:
            await trio.sleep_forever()
            yield

        async with contextlib.aclosing(changes()) as nothing:
            yield nothing

    monkeypatch.setattr("trio_ipv4._cli.ping.serving.watch_interfaces", watch_nothing)
    async with serving(lab["b"]) as output:
        await ping(lab["a"], B, count=1, wait=0.1)
    assert [each.interface for each in output.of(ClientCame)] == ["en0"]
    # One that has come in this moment has a number as yet.
    monkeypatch.setattr("trio_ipv4._cli.ping.serving.interfaces", list)
    async with serving(lab["b"]) as output:
        await ping(lab["a"], B, count=1, wait=0.1)
    assert [each.interface for each in output.of(ClientCame)] == [f"#{lab['b'].interfaces[0].index}"]


@needs_lab
async def test_a_responder_says_how_it_is_asked(lab: Lab) -> None:
    async with serving(lab["b"], interfaces=("en0",)) as output:
        (start,) = output.of(ServingStarted)
        assert start.addresses == (B,)
    async with serving(lab["b"], interfaces=("lo",)) as output:
        assert output.of(ServingStarted)[0].addresses == ()


async def test_multicast_that_does_not_come_for_long_is_blamed_on_the_network(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with simulate() as net:
        two_hosts(net, latency=0.001)
        async with serving(net["b"]):
            for count, words in ((2, "Too early to tell"), (5, "Unicast works, and no multicast to 239.9.9.9")):
                options: dict[str, Any] = {"count": count, "interval": 1.0, "interfaces": ("en0",)}
                status, output = await ping(net["a"], B, group=IPv4Address("239.9.9.9"), **options)
                assert status == 1
                assert output.of(Hint)[-1].hint.startswith(words)


# Time, loss and change, in a simulated network


def two_hosts(net: SimulatedNetwork, **conditions: Any) -> Any:
    link = net.link(**conditions)
    for number, name in enumerate(("a", "b"), 1):
        net.host(name).attach(link, "en0", f"198.18.0.{number}/24")
    return link


def counted(path: Path, source: IPv4Address, kind: bytes) -> list[tuple[int | None, str]]:
    """The requests or answers on the wire: their numbers, and where they go."""
    found = [packet for packet in packets(path) if packet[12:16] == source.packed and packet[28:29] == kind]
    return [(parse_message(packet[28:]).number, str(IPv4Address(packet[16:20]))) for packet in found]


async def test_the_figures_agree_with_the_link(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    with simulate(seed=5) as net:
        two_hosts(net, latency=0.01, loss=0.2)
        with net.capture(path):
            async with serving(net["b"]) as served:
                status, output = await ping(net["a"], B, count=300, interval=1.0, interfaces=("en0",), wait=3.0)
    assert status == 0
    requests, answers = counted(path, A, b"Q"), counted(path, B, b"A")
    assert [number for number, _ in requests] == list(range(1, 301))
    for figures, destination in zip(output.figures(), (str(A), str(SPECIFIC)), strict=True):
        sent = {number for number, to in answers if to == destination}
        heard = {each.number for each in output.answers(figures.kind)}
        assert heard < sent
        assert (figures.sent, figures.received, figures.lost, figures.pending) == (300, len(heard), 300 - len(heard), 0)
        # It may get lost on the way there, and on the way back: 0.64 is left.
        assert 0.5 < figures.received / 300 < 0.8
        assert (figures.min_seconds, figures.max_seconds) == pytest.approx((0.02, 0.02))
        assert figures.deviation_seconds == pytest.approx(0, abs=1e-6)
        assert figures.lost_before_first == min(heard) - 1
    assert len(served.of(ClientCame)) == 1


async def test_duplicates_and_late_answers_are_marked(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        link = two_hosts(net, latency=0.01, duplicate=1.0)
        async with serving(net["b"]):
            _, output = await ping(net["a"], B, count=2, interval=1.0, interfaces=("en0",), wait=1.0)
            # The request came twice, and each of the two answers, too.
            for kind in ("unicast", "multicast"):
                marks = [each.duplicate for each in output.answers(kind) if each.number == 1]
                assert marks == [False, True, True, True]
            assert [each.received for each in output.figures()] == [2, 2]
            assert all(each.duplicates >= 3 for each in output.figures())
            link.set(duplicate=0.0, latency=1.0)
            status, output = await ping(net["a"], B, count=3, interval=1.0, interfaces=("en0",), wait=1.5)
            assert status == 0
    assert [each.late for each in output.answers("unicast")] == [True, True]
    unicast, _ = output.figures()
    assert (unicast.received, unicast.late, unicast.lost) == (2, 2, 1)
    assert unicast.mean_seconds == pytest.approx(2.0)


async def test_duplicates_and_answers_in_a_group_change_nothing_of_what_is_awaited(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To look through all the requests that are remembered takes long: strangers must not make it happen.
    asked: list[float] = []
    was = Book.open_until

    def open_until(book: Book) -> float:
        asked.append(was(book))
        return asked[-1]

    monkeypatch.setattr(Book, "open_until", open_until)
    with simulate() as net:
        two_hosts(net, latency=0.1, duplicate=1.0)
        async with serving(net["b"], ASKED):
            for target, most in ((B, 3), (ASKED, 1)):
                asked.clear()
                _, output = await ping(net["a"], target, count=1, interfaces=("en0",))
                assert len(output.of(Answer)) > most
                assert 1 <= len(asked) <= most


async def test_multicast_that_begins_late_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    # A switch that snoops has to learn: no group is forwarded until it has.
    with simulate() as net:
        two_hosts(net, latency=0.001, snooping=True)
        async with serving(net["b"]):
            _, output = await ping(net["a"], B, count=50, interval=0.001, interfaces=("en0",))
    (came,) = output.of(MulticastCame)
    assert came.number == output.answers("multicast")[0].number > 1
    assert 0 < came.seconds_after_join < 0.1
    assert f"multicast only from #{came.number} on" in came.text()
    _, multicast = output.figures()
    assert multicast.lost == multicast.lost_before_first == came.number - 1
    assert multicast.first_seconds_after_join == came.seconds_after_join
    lost = came.number - 1
    assert output.summary.losses == (Loss("multicast", lost, 50, lost),)


async def test_a_link_that_fails_for_a_while_does_not_end_it(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        two_hosts(net, latency=0.001)
        a = net["a"]

        async def fail() -> None:
            await trio.sleep(1.5)
            a.detach("en0")
            await trio.sleep(1)
            a.attach(net.links[0], "en0", "198.18.0.1/24")

        async with serving(net["b"]), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            status, output = await ping(a, B, count=5, interval=1.0, interfaces=("en0",))
    assert status == 0
    assert [each.number for each in output.answers("multicast")] == [1, 2, 4, 5]
    (error,) = (each for each in output.of(Answer) if each.kind == "error")
    assert (error.number, error.responder) == (3, None)
    assert "Network is unreachable" in error.error
    assert (output.summary.sent, output.figures()[0].lost) == (4, 0)


async def test_where_no_route_leads_a_router_says_so(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        link = net.link()
        net.router("router").attach(link, "en0", "198.18.0.254/24")
        net.host("a").attach(link, "en0", "198.18.0.1/24")
        net["a"].add_route("0.0.0.0/0", via="198.18.0.254")
        status, output = await ping(net["a"], IPv4Address("203.0.113.1"), count=1)
    assert status == 3
    assert output.of(PingStarted)[0].interfaces == ("en0",)
    (error,) = output.of(Answer)
    assert (error.number, error.responder) == (1, IPv4Address("198.18.0.254"))
    assert error.error == "net unreachable"
    (hint,) = output.of(Hint)
    assert hint.hint == "The router 198.18.0.254 knows no way to 203.0.113.1."


async def test_a_responder_follows_interfaces(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        two_hosts(net, latency=0.001)
        b = net["b"]
        async with serving(b, ASKED, interfaces=("en0",)) as output:
            assert (await ping(net["a"], B, interfaces=("en0",)))[0] == 0
            b.detach("en0")
            assert (await ping(net["a"], ASKED, count=1))[0] == 3
            b.attach(net.links[0], "en0", "198.18.0.2/24")
            assert (await ping(net["a"], B, interfaces=("en0",)))[0] == 0
            assert (await ping(net["a"], ASKED))[0] == 0
    assert {each.interface for each in output.of(ClientCame)} == {"en0"}


async def test_after_some_time_it_ends_and_what_is_under_way_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with simulate() as net:
        two_hosts(net, latency=0.4)
        async with serving(net["b"]):
            status, output = await ping(
                net["a"], B, count=None, interval=1.0, interfaces=("en0",), seconds=2.5, wait=3.0
            )
    assert status == 0
    assert output.summary.seconds == pytest.approx(2.5)
    assert [(each.sent, each.received, each.pending, each.lost) for each in output.figures()] == [(3, 2, 1, 0)] * 2


# The command


def run(*arguments: str, argv: Sequence[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*argv, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE)


@contextlib.contextmanager
def started(*arguments: str, argv: Sequence[str] = COMMAND) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*argv, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def ssmpingd_here(wait_until: WaitUntil) -> Iterator[None]:
    """Have Debian's responder in the test's own network."""
    with subprocess.Popen(["ssmpingd"], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: ":10E1 " in Path("/proc/thread-self/net/udp").read_text())  # Port 4321.
            yield
        finally:
            process.terminate()


def read_record(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """Read JSON lines until one is of a kind."""
    assert process.stdout is not None
    for line in process.stdout:
        record: dict[str, Any] = json.loads(line)
        if record["event"] == event:
            return record
    pytest.fail(f"no {event} came: {process.stderr and process.stderr.read()}")


def test_both_sides_end_by_a_signal_with_their_summary() -> None:
    with started("--serve", str(ASKED), "--interface", "lo", "--json") as responder:
        assert read_record(responder, "start")["groups"] == [str(ASKED)]
        assert ASKED in {group for _, group in igmp_groups()}
        with started("127.0.0.1", "--interval", "20ms", "--json") as client:
            assert read_record(client, "start")["interfaces"] == ["lo"]
            for _ in range(4):  # While it runs.
                assert read_record(client, "answer")["responder"] == "127.0.0.1"
            assert SPECIFIC in {group for _, group in igmp_groups()}
            client.send_signal(signal.SIGINT)
            said, complaints = client.communicate(timeout=DEADLINE)
            assert (client.returncode, complaints) == (130, "")
            *_, figures, summary = map(json.loads, said.splitlines())
            assert (figures["event"], figures["kind"]) == ("statistics", "multicast")
            assert (summary["event"], summary["finding"]) == ("summary", "both")
        responder.send_signal(signal.SIGTERM)
        said, complaints = responder.communicate(timeout=DEADLINE)
        assert (responder.returncode, complaints) == (143, "")
        summary = json.loads(said.splitlines()[-1])
        assert (summary["event"], summary["clients"]) == ("summary", 1)
        assert summary["requests"] == summary["answered_by_unicast"] == summary["answered_by_multicast"]
    assert {str(group) for _, group in igmp_groups()} <= {"224.0.0.1"}


def test_a_plain_user_can_be_either_side(as_nobody: AsNobody) -> None:
    argv = as_nobody(COMMAND)
    with started("--serve", "--json", argv=argv) as responder:
        read_record(responder, "start")
        done = run("127.0.0.1", "--count", "2", "--interval", "10ms", argv=argv)
        assert done.returncode == 0
        headings, *lines = done.stdout.splitlines()
        assert headings.split() == ["#", "from", "kind", "ms", "hops", "size", "remark"]
        # One line for each record, without colour.
        assert [line.split()[:3] for line in lines[:4]] == [
            [str(number), "127.0.0.1", kind] for number in (1, 2) for kind in ("unicast", "multicast")
        ]
        assert lines[4].split()[:3] == ["from", "kind", "octets"]
        assert [line.split()[:6] for line in lines[5:7]] == [
            ["127.0.0.1", kind, "42", "2", "2", "0%"] for kind in ("unicast", "multicast")
        ]
        assert lines[7].startswith("Both: unicast and multicast came from 127.0.0.1. 2 requests in ")
        assert len(lines) == 8
        assert "\x1b" not in done.stdout
        assert done.stderr.splitlines()[0].startswith("Asking 127.0.0.1, port 4321: 42 octets. Joined 232.43.211.234")


@pytest.mark.parametrize(
    ("columns", "headings"),
    [
        (60, ["#", "from", "kind", "ms", "hops", "remark"]),
        (120, ["#", "from", "kind", "ms", "hops", "size", "remark"]),
    ],
)
def test_a_narrow_terminal_keeps_the_names(columns: int, headings: list[str], wait_until: WaitUntil) -> None:
    with ssmpingd_here(wait_until), on_terminal([*COMMAND, "127.0.0.1", "--count", "1"], columns=columns) as terminal:
        shown = terminal.read_to_end()
    plain = "".join(itertools.chain.from_iterable(part.partition("m")[2] for part in f"m{shown}".split("\x1b[")))
    lines = plain.splitlines()
    assert headings in [line.split() for line in lines]
    # Sentences are wrapped by the terminal.
    assert all(len(line) <= columns for line in lines if not line.startswith("Both"))


def test_a_taken_port_is_told_of(
    wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssmpingd_here(wait_until):
        assert in_process(["--serve"], monkeypatch) == 5
    said = capsys.readouterr().err
    assert "UDP port 4321 is taken on this host: another responder runs, such as ssmpingd." in said
    assert "--port" in said


async def test_a_port_that_is_not_allowed_is_no_taken_one(simulated: SimulatedNetwork) -> None:
    poor = simulated.host("poor", privileged=False)
    with pytest.raises(ExceptionGroup) as caught:
        await poor.run(functools.partial(serve, Collected(), Serving((), (), 99, 100, None)))
    assert caught.group_contains(PermissionError)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name one ADDRESS or GROUP to ask, or give --serve"),
        (["198.18.0.1", "198.18.0.2"], "got 2"),
        (["232.1.2.3"], "ping ADDRESS --group 232.1.2.3"),
        (["239.1.2.3", "--group", "239.1.2.3"], "--group goes with an ADDRESS"),
        (["198.18.0.1", "--group", "198.18.0.1"], "--group: must be a group"),
        (["198.18.0.1", "--limit", "9"], "--limit goes with --serve"),
        (["--serve", "198.18.0.1"], "--serve takes groups"),
        (["--serve", "--count", "9"], "--count is for who asks"),
        (["198.18.0.1", "--size", "41"], "from 42 to 65507"),
        (["0.0.0.0"], "must be the address of a host"),
    ],
)
def test_wrong_usage_says_what_is_right(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(arguments, monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert complaint in said.err
    assert "try 'trio-ipv4 ping --help'" in said.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["198.18.0.1"], "can't ask 198.18.0.1: Network is unreachable"),
        (["127.0.0.1", "--interface", "nonsense"], "nonsense"),
        (["--serve", "--interface", "nonsense"], "nonsense"),
        (["239.1.2.3"], "no interface is set up and supports multicast: name one by --interface"),
    ],
)
@pytest.mark.filterwarnings("ignore:no interface matches")
def test_what_the_kernel_refuses_is_status_5(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(arguments, monkeypatch) == 5
    assert complaint in capsys.readouterr().err


def test_the_command_asks_and_serves_as_its_options_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"127.0.0.1 --interface lo --count 3 --interval 20ms --size 64,100 --ttl 9 --wait 2s --group {ANY}"
    with started("--serve", "239.7.7.7", "--port", "5321", "--limit", "50", "--for", "60s", "--json") as responder:
        assert read_record(responder, "start")["limit"] == 50
        status = in_process([*words.split(), "--port", "5321", "--json"], monkeypatch)
    assert status == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records[0] == {
        "event": "start",
        "target": "127.0.0.1",
        "port": 5321,
        "group": str(ANY),
        "source_specific": False,
        "interfaces": ["lo"],
        "octets": [64, 100],
        "ttl": 9,
    }
    assert [each["octets"] for each in records if each.get("kind") == "unicast" and "number" in each] == [64, 100, 64]


def test_the_help_has_usage_examples_and_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(["--help"], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "Usage: trio-ipv4 ping [OPTIONS] ADDRESS\n" in said
    assert "trio-ipv4 ping --serve [OPTIONS] [GROUP...]\n" in said
    assert "trio-ipv4 ping 198.18.0.2 --count 5 " in said
    assert "Default: 4321." in said


def test_serving_for_a_time_ends_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(["--serve", "--for", "50ms"], monkeypatch) == 0
    said = capsys.readouterr()
    assert said.out.startswith("0 requests from 0 clients in ")
    assert said.err == "Answering requests to port 4321 of this host: at most 100 in a second.\n"


def in_process(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run the command in this process. Return its exit status."""
    monkeypatch.setattr(sys, "argv", ["trio-ipv4", "ping", *arguments])
    with pytest.raises(SystemExit) as caught:
        _cli.run()
    return caught.value.code
