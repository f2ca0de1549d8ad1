"""`trio-ipv4 send`: what is on the wire is what was asked for, and what is said about it is true."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing
from cyclopts import CycloptsError

from support.records import Kept
from support.wire import fields_of, need_tshark
from trio_ipv4 import _cli, open_udp
from trio_ipv4._cli.arguments import Destination, Rate
from trio_ipv4._cli.route import Way
from trio_ipv4._cli.send import sender
from trio_ipv4._cli.send.plan import FileGiven, PayloadGiven, Plan, ProbesWanted
from trio_ipv4._cli.send.run import main
from trio_ipv4._cli.send.sender import Sender
from trio_ipv4._cli.send.streams import read
from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import AsNobody, Eventually
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Host, Lab, LabHost

GROUP, PORT = "239.1.2.3", 5000
COMMAND = [sys.executable, "-m", "trio_ipv4", "send"]
PROBE = struct.Struct("!8sIQQ")


class Notes(Kept):
    """What was shown, as dictionaries."""

    def of(self, event: str) -> list[dict[str, Any]]:
        return [attrs.asdict(each) for each in self.records if each.event == event]


@attrs.frozen
class Packet:
    """What was on the wire."""

    source: str
    destination: str
    ttl: int
    tos: int
    may_be_fragmented: bool
    payload: bytes


class Wire:
    """The UDP datagrams to our port that come in on an interface of a host: packet(7) tells, not the library."""

    def __init__(self, host: LabHost, name: str = "en0") -> None:
        self.socket = host.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.bind((name, 0x0800))  # ETH_P_IP, linux/if_ether.h
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE, asm-generic/socket.h
        self.socket.setblocking(False)
        self.packets: list[Packet] = []

    def look(self) -> list[Packet]:
        with contextlib.suppress(BlockingIOError):
            while True:
                octets, (_, _, kind, *_) = self.socket.recvfrom(65535)
                if kind != socket.PACKET_OUTGOING and octets[9] == 17 and octets[22:24] == PORT.to_bytes(2, "big"):
                    self.packets.append(
                        Packet(
                            source=socket.inet_ntoa(octets[12:16]),
                            destination=socket.inet_ntoa(octets[16:20]),
                            ttl=octets[8],
                            tos=octets[1],
                            may_be_fragmented=not octets[6] & 0x40,
                            payload=octets[28 : 20 + int.from_bytes(octets[24:26], "big")],
                        )
                    )
        return self.packets


@contextlib.contextmanager
def wire(host: LabHost, name: str = "en0") -> Iterator[Wire]:
    each = Wire(host, name)
    with each.socket:
        yield each


def plan(*interfaces: str, to: str = GROUP, **more: Any) -> Plan:
    options: dict[str, Any] = {"what": PayloadGiven(b"hello"), "count": 1, **more}
    return Plan(to=Destination(IPv4Address(to), PORT), interfaces=interfaces, **options)


async def send(host: Host | None, asked: Plan) -> tuple[int, Notes]:
    notes = Notes()
    run = functools.partial(main, notes, asked)
    with trio.fail_after(60):
        return await (run() if host is None else host.run(run)), notes


def numbers(payloads: list[bytes]) -> list[int]:
    return [PROBE.unpack_from(payload)[2] for payload in payloads]


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@contextlib.asynccontextmanager
async def running(argv: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """Run a program, and end it with the block."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = await trio.lowlevel.open_process(argv, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


async def read_until(stream: trio.abc.ReceiveStream | None, wanted: bytes) -> bytes:
    assert stream is not None
    said = b""
    with trio.move_on_after(60):
        while wanted not in said and (chunk := await stream.receive_some()):
            said += chunk
    assert wanted in said, said.decode()
    return said


async def read_all(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([chunk async for chunk in stream]).decode()


# On the wire


async def test_the_wire_has_what_was_asked_for(two_links: Lab, tmp_path: Path, eventually: Eventually) -> None:
    need_tshark()
    capture = tmp_path / "capture"
    watch = two_links["b"].command(["tcpdump", "-i", "en0", "-U", "-w", str(capture), "udp"])
    async with running(watch) as process:
        await read_until(process.stderr, b"listening on")
        asked = plan("en0", ttl=5, tos=0xB8, count=20, rate=Rate(datagrams=200))
        status, notes = await send(two_links["a"], asked)
        await eventually(lambda: capture.stat().st_size > 20 * 47)
        process.send_signal(signal.SIGINT)
        await process.wait()
    fields = ("ip.src", "ip.dst", "ip.ttl", "ip.dsfield", "udp.dstport", "data")
    found = fields_of(capture, fields)
    assert found == [["198.18.0.1", GROUP, "5", "0xb8", str(PORT), b"hello".hex()]] * 20
    times = [float(time) for (time,) in fields_of(capture, ["frame.time_epoch"])]
    assert times[-1] - times[0] == pytest.approx(19 / 200, abs=0.1)
    assert status == 0
    (start,), (total,) = notes.of("start"), notes.of("summary")
    assert (start["ttl"], start["tos"], start["reach"], start["stream"]) == (5, 0xB8, "routers", None)
    assert (total["datagrams"], total["octets"], total["refused"]) == (20, 100, 0)


async def test_each_interface_sends_its_own_probes_from_its_own_address(two_links: Lab, eventually: Eventually) -> None:
    with wire(two_links["b"], "en0") as first, wire(two_links["b"], "en1") as second:
        asked = plan("en0", "en1", what=ProbesWanted(100), count=5, rate=Rate(datagrams=500), loop=False)
        status, notes = await send(two_links["a"], asked)
        await eventually(lambda: len(first.look()) >= 5 and len(second.look()) >= 5)
    streams = set()
    for each, address in ((first, "198.18.0.1"), (second, "198.18.1.1")):
        assert {(packet.source, packet.ttl, len(packet.payload)) for packet in each.packets} == {(address, 1, 100)}
        assert numbers([packet.payload for packet in each.packets]) == [0, 1, 2, 3, 4]
        streams |= {PROBE.unpack_from(packet.payload)[1] for packet in each.packets}
    assert status == 0
    assert len(streams) == 2
    assert {each["stream"] for each in notes.of("start")} == streams
    assert [each["loopback"] for each in notes.of("start")] == [False, False]
    rows = [(each["interface"], str(each["source"]), each["datagrams"]) for each in notes.of("interface_summary")]
    assert rows == [("en0", "198.18.0.1", 5), ("en1", "198.18.1.1", 5)]


async def test_socat_has_the_payload(two_links: Lab, eventually: Eventually) -> None:
    a, b = two_links["a"], two_links["b"]
    argv = b.command(["socat", "-u", f"UDP4-RECV:{PORT},ip-add-membership={GROUP}:198.18.0.2", "-"])
    async with running(argv) as process:
        await eventually(lambda: (b.interfaces[0].index, IPv4Address(GROUP)) in b.groups())
        async with running(a.command([*COMMAND, f"{GROUP}:{PORT}", "grüße", "--interface", "en0"])) as ours:
            assert await ours.wait() == 0
        assert await read_until(process.stdout, "grüße".encode())


async def test_mcfirst_hears_the_probes(two_links: Lab) -> None:
    argv = two_links["b"].command(["mcfirst", "-4", "-I", "en0", "-c", "3", GROUP, str(PORT)])
    async with running(argv, stderr=subprocess.STDOUT) as process, trio.open_nursery() as nursery:
        asked = plan("en0", what=ProbesWanted(), count=None, rate=Rate(datagrams=50), seconds=30)
        nursery.start_soon(send, two_links["a"], asked)
        said = await read_all(process.stdout)
        nursery.cancel_scope.cancel()
    assert "198.18.0.1" in said, said


async def test_an_own_address_is_the_source_wherever_it_leaves(two_links: Lab, eventually: Eventually) -> None:
    with wire(two_links["b"], "en1") as second:
        await send(two_links["a"], plan("en1", source=IPv4Address("198.18.0.1")))
        await send(two_links["a"], plan(source=IPv4Address("198.18.1.1")))
        await eventually(lambda: len(second.look()) == 2)
    assert [packet.source for packet in second.packets] == ["198.18.0.1", "198.18.1.1"]


# Files


@pytest.mark.parametrize(
    ("asked", "content", "expected"),
    [
        ({}, b"a\nb", [b"a\nb"]),
        ({}, b"", [b""]),
        ({"size": 4}, b"abcdefghij", [b"abcd", b"efgh", b"ij"]),
        ({"lines": True}, b"one\n\nthree\nfour", [b"one", b"", b"three", b"four"]),
    ],
)
async def test_a_file_is_one_datagram_or_cut(
    asked: dict[str, Any], content: bytes, expected: list[bytes], two_links: Lab, tmp_path: Path, eventually: Eventually
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    what = FileGiven(str(path), **asked)
    with wire(two_links["b"], "en0") as first, wire(two_links["b"], "en1") as second:
        count = None if what.is_cut else 1
        status, notes = await send(two_links["a"], plan("en0", "en1", what=what, count=count, rate=None))
        await eventually(lambda: len(first.look()) + len(second.look()) == 2 * len(expected))
    assert [packet.payload for packet in first.packets] == expected
    assert [packet.payload for packet in second.packets] == expected
    assert status == 0
    assert notes.of("summary")[0]["octets"] == 2 * sum(map(len, expected))
    assert notes.of("interface_summary")[0]["late_p99_seconds"] is None  # Without a rate nothing is late.


async def test_a_count_ends_a_file_that_has_no_end(two_links: Lab) -> None:
    what = FileGiven("/dev/zero", size=1000)
    status, notes = await send(two_links["a"], plan("en0", what=what, count=100, rate=Rate(bits=80e6)))
    assert (status, notes.of("summary")[0]["octets"]) == (0, 100_000)


async def test_lines_wait_for_their_writer_and_come_at_once(two_links: Lab, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    conn = two_links["b"].call(open_udp, "0.0.0.0", PORT)
    async with conn, conn.joined("en0", GROUP), trio.open_nursery() as nursery:
        what = FileGiven(str(fifo), lines=True)
        nursery.start_soon(send, two_links["a"], plan("en0", what=what, count=2, rate=Rate(datagrams=1000)))
        descriptor = await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY)
        for line in (b"one\n", b"two\n"):
            os.write(descriptor, line)
            with trio.fail_after(60):
                assert (await conn.receive()).payload == line[:-1]
    os.close(descriptor)  # The sender has ended before, by its count.


async def test_a_file_that_is_too_long_or_missing_says_so(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(CycloptsError, match="65,507 octets, and /dev/zero has more: cut it")):
        await send(None, plan("lo", what=FileGiven("/dev/zero")))
    missing = FileGiven(str(tmp_path / "missing"), lines=True)
    with pytest.RaisesGroup(FileNotFoundError, flatten_subgroups=True):
        await send(None, plan("lo", what=missing))


# Refusals


async def test_an_interface_that_refuses_does_not_stop_the_others(two_links: Lab, eventually: Eventually) -> None:
    a = two_links["a"]
    a.ip("address", "flush", "dev", "en1")
    with wire(two_links["b"], "en0") as first:
        status, notes = await send(a, plan("missing", "en1", "en0", count=3, rate=Rate(datagrams=100)))
        await eventually(lambda: len(first.look()) == 3)
    assert status == 5
    missing, bare = notes.of("refused")
    assert (missing["interface"], missing["errno"], missing["given_up"]) == ("missing", "ENODEV", True)
    assert (bare["interface"], bare["errno"]) == ("en1", "EADDRNOTAVAIL")
    assert "--source" in bare["reason"]
    assert [each["datagrams"] for each in notes.of("interface_summary")] == [0, 0, 3]
    assert notes.of("summary")[0]["interfaces_refused"] == 2


@pytest.mark.parametrize(
    ("first", "datagrams", "refused", "given_up"),
    [
        ("EMSGSIZE", 3, 1, False),
        ("ENOBUFS", 2, 2, False),
        ("EPERM", 3, 1, False),
        ("ENETUNREACH", 0, 1, True),
        ("EADDRNOTAVAIL", 0, 1, True),
    ],
)
async def test_an_interface_is_given_up_only_for_what_stays(
    first: str, datagrams: int, refused: int, given_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_bytes(b"one\ntwo\nthree\nfour\n")
    left = [getattr(errno, first)] * refused
    try_it = Sender._try

    async def refuse(self: Sender, conn: PacketConn, batch: list[bytes]) -> tuple[int, OSError | None]:
        return (0, OSError(left.pop(), "no")) if left else await try_it(self, conn, batch)

    monkeypatch.setattr(Sender, "_try", refuse)
    what = FileGiven(str(tmp_path / "lines"), lines=True)
    status, notes = await send(None, plan("lo", what=what, count=None, rate=None))
    (refusal,), (row,) = notes.of("refused"), notes.of("interface_summary")
    assert (status, refusal["errno"], refusal["given_up"]) == (5, first, given_up)
    assert (row["datagrams"], row["refused"]) == (datagrams, refused)


async def test_the_first_line_that_is_too_long_for_the_mtu_costs_one_line(
    two_links: Lab, tmp_path: Path, eventually: Eventually
) -> None:
    (tmp_path / "lines").write_bytes(b"x" * 1473 + b"\nshort\n")
    with wire(two_links["b"], "en0") as first:
        what = FileGiven(str(tmp_path / "lines"), lines=True)
        status, notes = await send(two_links["a"], plan("en0", what=what, count=None, rate=None, fragment=False))
        await eventually(lambda: first.look())
    (refusal,) = notes.of("refused")
    assert [packet.payload for packet in first.packets] == [b"short"]
    assert (status, refusal["errno"], refusal["given_up"]) == (5, "EMSGSIZE", False)
    assert "of the batch" not in refusal["reason"]


async def test_a_firewall_that_refuses_the_first_ten_refuses_all(two_links: Lab) -> None:
    a = two_links["a"]
    rule = "table ip t { chain o { type filter hook output priority 0; udp dport 5000 drop; }; }"
    await trio.run_process(a.command(["nft", rule]))
    asked = plan("en0", what=ProbesWanted(), count=None, rate=Rate(datagrams=1000))
    status, notes = await send(a, asked)
    refusals = [(each["errno"], each["given_up"]) for each in notes.of("refused")]
    assert (status, refusals) == (5, [("EPERM", False), ("EPERM", True)])
    assert notes.of("refused")[1]["reason"] == "nothing was sent, 10 times in a row, and it is given up"
    assert notes.of("summary")[0]["refused"] == 10


@pytest.mark.parametrize("words", [["--file", "-"], ["--file", "-", "--lines"]])
def test_a_closed_standard_input_is_an_error_and_no_payload(words: list[str]) -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", *words]
    closing = ["sh", "-c", 'exec "$@" <&-', "sh", *argv]
    done = subprocess.run(closing, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    assert "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["--interface", "missing"], "missing"), (["--interface", "lo", "--source", "198.18.0.77"], "198.18.0.77")],
)
def test_what_does_not_exist_is_told_without_a_table(words: list[str], reason: str) -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "hello", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (5, "Nothing was sent.\n")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_help_has_examples_and_names_the_payload(capsys: pytest.CaptureFixture[str]) -> None:
    _cli.app(["send", "--help"], result_action="return_value")
    said = capsys.readouterr().out
    assert "trio-ipv4 send 239.1.2.3:5000 hello --interface en0" in said
    assert said.startswith("Usage: trio-ipv4 send [OPTIONS] GROUP:PORT [PAYLOAD]\n")
    assert re.search(r"^\S +PAYLOAD +The payload, as text", said, re.MULTILINE)


async def test_a_foreign_source_is_refused(two_links: Lab) -> None:
    status, notes = await send(two_links["a"], plan("en0", source=IPv4Address("198.18.0.77")))
    (refusal,) = notes.of("refused")
    assert (status, refusal["errno"]) == (5, "EADDRNOTAVAIL")
    assert "198.18.0.77" in refusal["reason"]
    assert "no interface of this host has that address" in refusal["reason"]


async def test_what_is_longer_than_the_mtu_may_be_refused_with_the_mtu(two_links: Lab, eventually: Eventually) -> None:
    what = PayloadGiven(bytes(1473))
    status, notes = await send(two_links["a"], plan("en0", what=what, fragment=False))
    (refusal,) = notes.of("refused")
    assert (status, refusal["errno"]) == (5, "EMSGSIZE")
    assert "1,500 octets" in refusal["reason"]
    with wire(two_links["b"], "en0") as first:
        assert (await send(two_links["a"], plan("en0", what=PayloadGiven(bytes(1472)), fragment=False)))[0] == 0
        await eventually(lambda: first.look())
    assert [packet.may_be_fragmented for packet in first.packets] == [False]


async def test_a_firewall_that_refuses_one_line_costs_one_line(
    two_links: Lab, tmp_path: Path, eventually: Eventually
) -> None:
    a, path = two_links["a"], tmp_path / "lines"
    path.write_bytes(b"\n".join([b"a", b"a", b"refused", b"b", b"refused", b"c"]))
    rule = "table ip t { chain o { type filter hook output priority 0; udp length 15 drop; }; }"
    await trio.run_process(a.command(["nft", rule]))
    with wire(two_links["b"], "en0") as first:
        what = FileGiven(str(path), lines=True)
        status, notes = await send(a, plan("en0", what=what, count=None, rate=None))
        await eventually(lambda: len(first.look()) == 4)
    assert [packet.payload for packet in first.packets] == [b"a", b"a", b"b", b"c"]
    (refusal,) = notes.of("refused")  # The second one is counted.
    assert (status, refusal["errno"], refusal["given_up"]) == (5, "EPERM", False)
    assert "a firewall on this host" in refusal["reason"]
    (row,) = notes.of("interface_summary")
    assert (row["datagrams"], row["refused"]) == (4, 2)


async def test_sending_goes_on_when_a_link_comes_back(two_links: Lab, eventually: Eventually) -> None:
    a, notes = two_links["a"], Notes()
    asked = plan("en0", what=ProbesWanted(), count=None, rate=Rate(datagrams=200), seconds=60)
    with wire(two_links["b"], "en0") as first:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run, functools.partial(main, notes, asked))
            await eventually(lambda: len(first.look()) > 5)
            a.set_up("en0", False)
            await eventually(lambda: notes.of("refused"))
            before = numbers([packet.payload for packet in first.look()])
            a.set_up("en0", True)
            await eventually(lambda: len(first.look()) > len(before) + 5)
            os.kill(os.getpid(), signal.SIGINT)
        (row,) = notes.of("interface_summary")
        # It went on sending until the signal came.
        await eventually(lambda: len(first.look()) == row["datagrams"])
    (refusal,) = notes.of("refused")
    assert (refusal["errno"], refusal["given_up"]) == ("ENETUNREACH", False)
    after = numbers([packet.payload for packet in first.packets])
    assert row["refused"] > 0
    # The numbers of those that were refused are missing, so that `listen` counts them as lost.
    assert after[len(before)] > before[-1] + 1
    assert max(after) + 1 == row["datagrams"] + row["refused"], after


async def test_a_refused_option_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[PacketConn] = []

    def refuse(_: Sender, conn: PacketConn) -> None:
        opened.append(conn)
        raise PermissionError(errno.EPERM, "a sandbox")

    monkeypatch.setattr(Sender, "_set_options", refuse)
    status, notes = await send(None, plan("lo"))
    (refusal,) = notes.of("refused")
    assert (status, refusal["errno"], refusal["reason"]) == (5, "EPERM", "a sandbox")
    assert [conn.socket.fileno() for conn in opened] == [-1]


@pytest.mark.pure
def test_an_interface_that_has_gone_is_nobody_s() -> None:
    assert sender._interface_of(Way(ifindex=2**30)) is None


# The way that the routes choose


@pytest.mark.usefixtures("needs_lab")
@pytest.mark.parametrize("source", [None, "198.18.1.1"])
@pytest.mark.parametrize("to", [GROUP, "224.0.0.251", "239.255.0.1"])
async def test_the_way_is_the_one_that_ip_route_tells(to: str, source: str | None) -> None:
    for number in (0, 1):
        ip("link", "add", f"en{number}", "type", "veth", "peer", "name", f"far{number}")
        ip("address", "add", f"198.18.{number}.1/24", "dev", f"en{number}")
        ip("link", "set", f"en{number}", "up")
        ip("link", "set", f"far{number}", "up")
    ip("route", "add", "224.0.0.0/4", "dev", "en0")
    ip("route", "add", "239.255.0.0/16", "dev", "en1")
    from_it = [] if source is None else ["from", source]
    (route,) = json.loads(ip("-json", "route", "get", to, *from_it, "ipproto", "udp", "dport", str(PORT)))
    asked = plan(to=to, source=None if source is None else IPv4Address(source))
    status, notes = await send(None, asked)
    (start,) = notes.of("start")
    assert (start["interface"], str(start["source"])) == (route["dev"], route.get("prefsrc", source))
    assert start["ifindex"] == socket.if_nametoindex(route["dev"])
    assert status == 0


@pytest.mark.usefixtures("needs_lab")
async def test_without_a_route_it_says_how_to_name_the_interface() -> None:
    status, notes = await send(None, plan())
    (start,), (refusal,) = notes.of("start"), notes.of("refused")
    assert (start["interface"], start["source"]) == (None, None)
    assert (status, refusal["errno"], refusal["given_up"]) == (5, "ENETUNREACH", True)
    assert "--interface" in refusal["reason"]


# The pace


def paced(asked: Plan, *, latency: float = 0) -> tuple[list[float], Notes]:
    """Send on a simulated network, in virtual time; return when each datagram came."""

    async def go() -> tuple[list[float], Notes]:
        times: list[float] = []
        with simulate() as net:
            link = net.link(latency=latency)
            for last, name in enumerate(("a", "b"), 1):
                net.host(name).attach(link, "en0", f"198.18.0.{last}/24")

            async def hear() -> None:
                async for _ in conn:
                    times.append(trio.current_time() - start)  # noqa: PERF401  # As they come.

            start = trio.current_time()
            conn = net["b"].call(open_udp, "0.0.0.0", PORT)
            async with conn, conn.joined("en0", GROUP), trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                notes = Notes()
                assert await net["a"].run(functools.partial(main, notes, asked)) == 0
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
        return times, notes

    return trio.run(go, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.pure
def test_an_hour_at_a_rate_has_no_drift() -> None:
    asked = plan("en0", what=ProbesWanted(), rate=Rate(datagrams=0.7), count=None, seconds=3600, every=600)
    times, notes = paced(asked)
    # A datagram that is due at the very end may be sent or not.
    assert len(times) in (2520, 2521)
    assert times == pytest.approx([number / 0.7 for number in range(len(times))], abs=1e-6)
    assert [round(each["seconds"]) for each in notes.of("progress")] == [600, 1200, 1800, 2400, 3000]
    assert [each["datagrams_per_second"] for each in notes.of("progress")] == [pytest.approx(0.7, rel=0.01)] * 5
    (row,) = notes.of("interface_summary")
    assert (row["datagrams"], row["datagrams_per_second"]) == (len(times), pytest.approx(0.7))
    assert (row["behind_seconds"], row["late_most_seconds"]) == (0, pytest.approx(0, abs=1e-6))


@pytest.mark.pure
def test_a_rate_of_bits_is_one_of_payload() -> None:
    times, notes = paced(plan("en0", what=PayloadGiven(bytes(125)), rate=Rate(bits=10_000), count=51))
    assert times == pytest.approx([number / 10 for number in range(51)], abs=1e-6)
    assert notes.of("interface_summary")[0]["bits_per_second"] == pytest.approx(10_000)


async def test_a_high_rate_is_kept_by_batches(two_links: Lab, eventually: Eventually) -> None:
    with wire(two_links["b"], "en0") as first:
        asked = plan("en0", what=ProbesWanted(), rate=Rate(datagrams=4000), count=2000)
        status, notes = await send(two_links["a"], asked)
        await eventually(lambda: len(first.look()) >= 2000)
    assert status == 0
    assert numbers([packet.payload for packet in first.packets]) == [*range(2000)]
    (row,) = notes.of("interface_summary")
    sent = [PROBE.unpack_from(packet.payload)[3] for packet in first.packets]
    seconds = (sent[-1] - sent[0]) / 1e9
    # Faster or slower only by as much as it admits. The clocks are two.
    assert abs(seconds - 1999 / 4000 - row["behind_seconds"]) < row["late_most_seconds"] + 0.01
    assert row["late_median_seconds"] <= row["late_p99_seconds"] <= row["late_most_seconds"]


async def test_a_send_buffer_that_stays_full_does_not_hold_up_the_end(two_links: Lab) -> None:
    a = two_links["a"]
    # A queue that lets one packet of the two go, and then none for an hour.
    shape = "tc qdisc add dev en0 root tbf rate 8bit burst 1600 limit 10000000"
    await trio.run_process(a.command(shape.split()))
    asked = plan("en0", what=PayloadGiven(bytes(1400)), rate=Rate(datagrams=100_000), count=None, seconds=0.2)
    start = trio.current_time()
    status, notes = await send(a, asked)
    assert trio.current_time() - start < 10
    assert status == 0
    assert notes.of("interface_summary")[0]["interface"] == "en0"


# As a command


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_json_lines_come_while_it_runs_and_ctrl_c_ends_with_the_summary() -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--rate", "100/s", "--every", "100ms", "--json"]
    async with running(argv) as process:
        said = await read_until(process.stdout, b'"progress"')
        assert records(said.decode().splitlines()[0])[0]["reach"] == "host"
        process.send_signal(signal.SIGINT)
        rest = await read_all(process.stdout)
        assert await process.wait() == 130
        assert await read_all(process.stderr) == ""
    *_, row, total = records(said.decode() + rest)
    assert (row["event"], total["event"]) == ("interface_summary", "summary")
    assert row["datagrams"] == total["datagrams"] > 0


async def test_sigterm_ends_with_the_summary_and_a_pipe_has_a_line_for_each_record() -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--rate", "100/s", "--every", "200ms"]
    async with running(argv) as process:
        said = await read_until(process.stdout, b"lo ")
        process.send_signal(signal.SIGTERM)
        said += (await read_all(process.stdout)).encode()
        assert await process.wait() == 143
        remarks = await read_all(process.stderr)
    assert remarks == f"Sending to {GROUP}:{PORT} by lo from 127.0.0.1, TTL 1 (stays on this host)\n"
    *rows, row, last = [line for line in said.decode().splitlines() if " datagrams " not in line]
    assert all(re.fullmatch(r" *\d\.\d s  lo +\d+ +\d+ .*", line) for line in rows), rows
    assert re.match(r"lo +127\.0\.0\.1 +\d+ ", row)
    assert re.match(r"Sent \d+ datagrams, [\d,]+ octets by lo in ", last)


async def test_whoever_stops_reading_ends_it() -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--rate", "100/s", "--every", "100ms", "--json"]
    async with running(argv) as process:
        await read_until(process.stdout, b"start")
        assert process.stdout is not None
        await process.stdout.aclose()
        with trio.fail_after(60):
            assert await process.wait() == 141
        assert await read_all(process.stderr) == ""


async def test_endless_lines_of_standard_input_end_at_the_time() -> None:
    reading, writing = os.pipe()
    async with running(["yes"], stdout=writing):
        os.close(writing)
        argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--file", "-", "--lines", "--json"]
        with trio.fail_after(60):
            argv += ["--rate", "1000/s", "--for", "1s"]
            done = await trio.run_process(argv, stdin=reading, capture_stdout=True)
        os.close(reading)
    total = records(done.stdout.decode())[-1]
    assert done.returncode == 0
    assert total["octets"] == total["datagrams"]  # Each line is a "y".
    assert 1 < total["datagrams"] <= 1001


async def test_ctrl_c_ends_it_while_standard_input_is_silent() -> None:
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--file", "-", "--lines"]
    async with running(argv, stdin=subprocess.PIPE) as process:
        await read_until(process.stderr, b"stays on this host")
        process.send_signal(signal.SIGINT)
        with trio.fail_after(60):
            assert await process.wait() == 130
        assert await read_all(process.stdout) != ""


@pytest.mark.parametrize("columns", [60, 200])
def test_it_fits_the_terminal(columns: int) -> None:
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    argv = [*COMMAND, f"{GROUP}:{PORT}", "--interface", "lo", "--rate", "50/s", "--every", "200ms", "--for", "500ms"]
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    env.pop("COLUMNS", None)
    with subprocess.Popen(argv, stdout=terminal, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(terminal)
        said = b""
        try:
            with contextlib.suppress(OSError):  # EIO: the other end was closed.
                while chunk := os.read(main_end, 65536):
                    said += chunk
        except BaseException:
            process.kill()  # It would wait for a reader for ever.
            raise
    os.close(main_end)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "\n")
    assert process.returncode == 0
    assert max(map(len, plain.splitlines())) <= columns
    assert "datagrams/s" in plain
    assert ("late (median)" in plain) == (columns == 200)


def test_a_plain_user_may_send(as_nobody: AsNobody) -> None:
    argv = as_nobody([*COMMAND, f"{GROUP}:{PORT}", "hello", "--interface", "lo", "--tos", "EF", "--dont-fragment"])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Sent 1 datagram, 5 octets by lo.\n"  # No table of one.
    assert "TOS 0xb8" in done.stderr


def test_hexadecimal_digits_are_octets(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((GROUP, 0))
        receiver.settimeout(20)
        membership = struct.pack("=4s4si", socket.inet_aton(GROUP), bytes(4), socket.if_nametoindex("lo"))
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        to = [f"{GROUP}:{receiver.getsockname()[1]}", "--interface", "lo"]
        for words in (["de ad be ef", "--hex"], ["text", "--for", "200ms", "--rate", "20/s"]):
            assert _cli.app(["send", *to, *words], result_action="return_value") == 0
        received = [receiver.recv(100) for _ in range(4)]
    assert received == [bytes.fromhex("deadbeef"), b"text", b"text", b"text"]
    assert "(stays on this host)" in capsys.readouterr().err


@pytest.mark.pure
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "requires an argument|GROUP:PORT"),
        (["239.1.2.3"], r"must be GROUP:PORT, as 239\.1\.2\.3:5000"),
        (["198.18.0.2:5000"], "must be a group, from 224.0.0.0 to 239.255.255.255"),
        (["239.1.2.3:5000", "x", "--file", "y"], "a payload and --file contradict each other"),
        (["239.1.2.3:5000", "--lines"], "--lines needs a file to read: --file FILE, or --file -"),
        (["239.1.2.3:5000", "--file", "-", "--lines", "--size", "9"], "--lines and --size contradict each other"),
        (["239.1.2.3:5000", "--file", "--lines"], "must be a file, or - for standard input"),
        (["239.1.2.3:5000", "--hex"], "--hex says how the payload is written"),
        (["239.1.2.3:5000", "xyz", "--hex"], "must be pairs of hexadecimal digits, as 'de ad be ef', got 'xyz'"),
        (["239.1.2.3:5000", "x", "--size", "9"], "--size is for --file and for probes"),
        (["239.1.2.3:5000", "--size", "27"], "--size must be at least 28"),
        (["239.1.2.3:5000", "--size", "65508"], "from 1 to 65507"),
        (["239.1.2.3:5000", "x" * 65508], "at most 65,507 octets, and the payload has 65,508"),
        (["239.1.2.3:5000", "--ttl", "0"], "from 1 to 255"),
        (["239.1.2.3:5000", "--rate", "fast"], "must be a rate"),
    ],
)
def test_wrong_usage_says_what_is_right(words: list[str], message: str) -> None:
    with pytest.raises(CycloptsError, match=message):
        _cli.app(["send", *words], exit_on_error=False, print_error=False, result_action="return_value")


async def test_a_read_ends_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb", buffering=0) as file:
        assert [await read(file.fileno()) for _ in range(2)] == [b"x", b""]
