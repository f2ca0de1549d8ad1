"""The examples in raw IP, mDNS and packet filters. The oracles: the kernel's own replies, the wire, tshark."""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from support import capabilities
from support.files import load
from support.labels import EXTENSIONS, answer_probes
from trio_ipv4 import (
    ControlMessage,
    Datagram,
    ErrorOrigin,
    Header,
    HeaderFlags,
    ICMPEcho,
    ICMPExtension,
    ICMPOther,
    ICMPRedirect,
    ICMPType,
    InterfaceInformation,
    InterfaceRole,
    PacketConn,
    RawDatagram,
    RawInstruction,
    SocketError,
    internet_checksum,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4.testing import Lab, cancel_at_each_checkpoint, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from trio_ipv4.testing import LabHost

    Eventually = Callable[[Callable[[], object]], Any]

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
ETH_P_ALL: Final = 3  # linux/if_ether.h
SECONDS: Final = 30


def example(name: str) -> Any:
    return load(EXAMPLES / f"{name}.py", f"example_{name}")


ping = sys.modules["ping"] = example("ping")  # traceroute.py imports it.
traceroute, mdns, filters = map(example, ("traceroute", "mdns_responder", "filter_by_payload"))


@pytest.fixture
def routed(needs_lab: None) -> Iterator[Lab]:
    with open_lab({"a": (0,), "b": (1,)}, router=True) as lab:
        yield lab


async def run(host: LabHost, *argv: str, prefix: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
    """Run an example in a host; return its exit status, the lines that it prints, and its errors."""
    name, *arguments = argv
    command = host.command([*prefix, sys.executable, str(EXAMPLES / f"{name}.py"), *arguments])
    with trio.fail_after(SECONDS):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


def wire(host: LabHost, name: str = "en0") -> socket.socket:
    """A socket that hears every frame on an interface, and has heard from now on."""

    def make() -> socket.socket:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listening.bind((name, ETH_P_ALL))
        return listening

    return host.call(make)


def frames(listening: socket.socket) -> list[bytes]:
    """What the wire has carried so far."""
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(listening.recv(65535, socket.MSG_DONTWAIT))
    return heard


def tshark(captured: list[bytes], folder: Path, display_filter: str, *options: str) -> str:
    """What tshark says of frames."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    pcap = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)  # LINKTYPE_ETHERNET
    pcap += b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in captured)
    path = folder / "capture.pcap"
    path.write_bytes(pcap)
    argv = ["tshark", "-n", "-r", str(path), "-Y", display_filter, "-o", "ip.check_checksum:TRUE", *options]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env={"HOME": str(folder)}).stdout


def fields(captured: list[bytes], folder: Path, display_filter: str, *names: str) -> list[list[str]]:
    """Fields of the packets that a display filter selects, as tshark reads them."""
    wanted = [option for name in names for option in ("-e", name)]
    text = tshark(captured, folder, display_filter, "-T", "fields", *wanted)
    return [line.split("\t") for line in text.splitlines()]


# ping


NOWHERE: Final = "203.0.113.1"
REPLY: Final = r"reply from {}, 64 octets, ttl 64, ([0-9.]+) ms"


async def test_the_kernel_answers_ping(lab: Lab) -> None:
    address = str(lab["b"].addresses[0])
    status, lines, _ = await run(lab["a"], "ping", address, "--interval", "0.1", "--seconds", "10")
    assert status == 0
    assert len(lines) == 5
    times = []
    for sequence, line in enumerate(lines[:3], 1):
        match = re.fullmatch(rf"{address}  {sequence}  {REPLY.format(address)}", line)
        assert match, line
        times.append(float(match[1]))
    assert 0 < min(times) <= max(times) < 10_000
    least, middle, most = sorted(times)
    summary = f"{address}  3 sent, 3 received, 0% lost, min/median/max {least:.3f}/{middle:.3f}/{most:.3f} ms"
    assert lines[3:] == ["", summary]


async def test_ping_by_default_stays_on_the_loopback_interface(lab: Lab) -> None:
    with wire(lab["a"], "lo") as lo, wire(lab["a"]) as en0:
        status, lines, _ = await run(lab["a"], "ping", "--count", "1", "--seconds", "10")
        assert status == 0
        assert "reply from 127.0.0.1" in lines[0]
        assert frames(lo)
        assert not [frame for frame in frames(en0) if b"\x7f\0\0\1" in frame]


WITHOUT_NET_RAW: Final = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-all")
EVERYBODY: Final = "0 2147483647"


def allow_ping_sockets(groups: str = "0 0") -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text(groups, encoding="ascii")


async def test_ping_needs_no_capability_where_ping_sockets_are_allowed(lab: Lab) -> None:
    lab["a"].call(allow_ping_sockets)
    address = str(lab["b"].addresses[0])
    arguments = ("ping", address, "--interval", "0", "--seconds", "10")
    status, lines, errors = await run(lab["a"], *arguments, prefix=WITHOUT_NET_RAW)
    assert (status, len(lines), errors) == (0, 5, "")
    expected = {rf"{address}  {sequence}  {REPLY.format(address)}" for sequence in (1, 2, 3)}
    assert [sum(bool(re.fullmatch(each, line)) for line in lines) for each in expected] == [1, 1, 1]


async def test_ping_without_any_right_says_what_to_do(lab: Lab) -> None:
    for name, arguments in (("ping", ()), ("traceroute", ("--icmp",))):
        status, lines, errors = await run(lab["a"], name, *arguments, prefix=WITHOUT_NET_RAW)
        assert (status, lines) == (2, [])
        assert errors.startswith(f"{name}: one of two ways must be open:\n- ")
        assert "net.ipv4.ping_group_range" in errors
        assert "CAP_NET_RAW" in errors
        assert "Traceback" not in errors


async def test_ping_may_be_told_to_use_a_raw_socket(lab: Lab) -> None:
    lab["a"].call(allow_ping_sockets)
    status, lines, errors = await run(lab["a"], "ping", "--raw", prefix=WITHOUT_NET_RAW)
    assert (status, lines) == (2, [])
    assert "CAP_NET_RAW" in errors
    assert "ping_group_range" not in errors
    assert (await run(lab["a"], "ping", "--raw", "--count", "1"))[0] == 0


async def test_ping_gives_up_when_nobody_answers(lab: Lab) -> None:
    lab["b"].set_sysctl("net.ipv4.icmp_echo_ignore_all", 1)
    arguments = ("198.18.0.2", "--count", "2", "--seconds", "0.1", "--interval", "0.2")
    status, lines, _ = await run(lab["a"], "ping", *arguments)
    expected = ["198.18.0.2  1  no answer in 0.1 s", "198.18.0.2  2  no answer in 0.1 s", ""]
    assert (status, lines) == (1, [*expected, "198.18.0.2  2 sent, 0 received, 100% lost"])


async def test_a_request_that_this_host_refuses_to_send_is_no_end(lab: Lab) -> None:
    arguments = (NOWHERE, "198.18.0.2", "--count", "1")
    status, lines, errors = await run(lab["a"], "ping", *arguments)
    assert (status, errors) == (1, "")
    assert f"{NOWHERE}  1  not sent: Network is unreachable" in lines
    assert f"{NOWHERE}  1 sent, 0 received, 100% lost" in lines
    assert re.search(r"^198\.18\.0\.2   1  reply from", "\n".join(lines), re.MULTILINE)


async def test_ttl_and_size_are_those_of_the_arguments(routed: Lab, tmp_path: Path) -> None:
    arguments = ("--count", "1", "--ttl", "1", "--size", "3000")
    with wire(routed["a"]) as wire_of_a:
        status, lines, _ = await run(routed["a"], "ping", "198.18.1.2", "198.18.0.254", *arguments)
        captured = frames(wire_of_a)
    assert status == 1
    assert any(re.fullmatch(r"198.18.1.2    1  time exceeded, says 198.18.0.254, \S+ ms", line) for line in lines)
    assert any(line.startswith("198.18.0.254  1  reply from 198.18.0.254, 3008 octets, ttl 64, ") for line in lines)
    assert {ttl for (ttl,) in fields(captured, tmp_path, "icmp.type == 8 and !icmp.type == 11", "ip.ttl")} == {"1"}


@pytest.mark.parametrize("arguments", [("--ttl", "0"), ("--ttl", "256"), ("--size", "7"), ("--count", "-1"), ("host",)])
async def test_ping_refuses_nonsense_in_a_line(lab: Lab, arguments: tuple[str, ...]) -> None:
    status, lines, errors = await run(lab["a"], "ping", *arguments)
    assert (status, lines) == (2, [])
    assert errors.splitlines()[-1].startswith("ping.py: error: argument ")


KINDS_OF_ROUTE: Final = {
    "unreachable": ("host unreachable", "!H"),
    "prohibit": ("communication prohibited", "!X"),
    None: ("net unreachable", "!N"),
}


@pytest.mark.parametrize("kind", KINDS_OF_ROUTE)
@pytest.mark.parametrize("is_raw", [False, True], ids=["unprivileged", "raw"])
async def test_an_unreachable_address_is_told_at_once(routed: Lab, kind: str | None, is_raw: bool) -> None:
    if kind is not None:
        routed["router"].ip("route", "add", kind, f"{NOWHERE}/32")
    routed["a"].call(allow_ping_sockets, EVERYBODY)
    prefix = () if is_raw else WITHOUT_NET_RAW
    with trio.fail_after(SECONDS):  # Less than the ping would wait.
        arguments = (NOWHERE, "198.18.1.2", "--count", "1", "--seconds", "100", *(["--raw"] if is_raw else []))
        status, lines, errors = await run(routed["a"], "ping", *arguments, prefix=prefix)
    assert (status, errors) == (1, "")
    said, own = KINDS_OF_ROUTE[kind][0], {line.split()[0]: line for line in lines[:2]}
    assert re.fullmatch(rf"{NOWHERE}  1  {said}, says 198\.18\.0\.254, [0-9.]+ ms", own[NOWHERE])
    assert own["198.18.1.2"].startswith("198.18.1.2   1  reply from 198.18.1.2, 64 octets, ttl 63, ")
    assert all(len(line) <= 80 for line in lines)


async def test_a_neighbour_that_is_not_there_is_told_by_this_host(lab: Lab) -> None:
    lab["a"].call(allow_ping_sockets, EVERYBODY)
    lab["a"].set_sysctl("net.ipv4.neigh.en0.retrans_time_ms", 20)  # ARP asks three times.
    status, lines, _ = await run(lab["a"], "ping", "198.18.0.99", "--count", "1", "--seconds", "20")
    assert status == 1
    assert re.fullmatch(r"198\.18\.0\.99  1  host unreachable, says 198\.18\.0\.1, [0-9.]+ ms", lines[0])


async def test_a_smaller_mtu_on_the_way_is_told(routed: Lab) -> None:
    routed["router"].set_mtu("en1", 1000)
    status, lines, _ = await run(routed["a"], "ping", "198.18.1.2", "--count", "1", "--size", "1200")
    assert status == 1
    assert lines[0].startswith("198.18.1.2  1  fragmentation needed, mtu 1000, says 198.18.0.254, ")


async def test_two_pings_of_one_connection_are_not_mixed_up(routed: Lab) -> None:
    # As any user: one connection, four pings at once. The host that lives answers last.
    routed["b"].set_sysctl("net.ipv4.icmp_echo_ignore_all", 1)
    routed["router"].ip("route", "add", "unreachable", f"{NOWHERE}/32")
    routed["a"].call(allow_ping_sockets, EVERYBODY)
    alive, told = str(routed["b"].addresses[0]), {}

    async def ask(address: str, sequence: int) -> None:
        answer = await asker.ask(ping.echo(address, identifier, sequence))
        told[address, sequence] = answer.type, answer.peer

    with capabilities.without(capabilities.NET_RAW):
        conn, identifier = routed["a"].call(ping.open_unprivileged)
    with trio.fail_after(SECONDS):
        echo = routed["b"].call(open_ip, 1)
        async with echo, conn, ping.open_asker(conn) as asker, trio.open_nursery() as nursery:
            nursery.start_soon(ask, alive, 1)
            first = await echo.receive()
            nursery.start_soon(ask, alive, 2)
            second = await echo.receive()
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, NOWHERE, 1)
                inner.start_soon(ask, NOWHERE, 2)
            await trio.testing.wait_all_tasks_blocked(0.01)
            unreachable = ICMPType.DESTINATION_UNREACHABLE, "198.18.0.254"
            assert told == {(NOWHERE, 1): unreachable, (NOWHERE, 2): unreachable}
            await echo.send(second.reply(to_reply(second.payload)))
            await echo.send(second.reply(to_reply(second.payload)))  # A duplicate changes nothing.
            while (alive, 2) not in told:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert (alive, 1) not in told
            await echo.send(first.reply(to_reply(first.payload)))
    assert told[alive, 1] == told[alive, 2] == (ICMPType.ECHO_REPLY, alive)


async def test_a_ping_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async def ask() -> None:
        assert (await asker.ask(ping.echo("127.0.0.1", 1, 1))).type is ICMPType.ECHO_REPLY

    async with raw_ping() as conn, ping.open_asker(conn) as asker:
        assert await cancel_at_each_checkpoint(ask, after_each=lambda: check(asker._waiting == [])) > 2
        await ask()
    async with raw_ping() as conn:
        await cancel_at_each_checkpoint(lambda: ping_once(conn, 1))
        assert await ping_once(conn, 1) is ICMPType.ECHO_REPLY


def check(condition: bool) -> None:
    assert condition


async def test_a_redirect_is_no_answer(lab: Lab) -> None:
    # Linux puts it into the error queue of an unprivileged socket. The reply comes after it.
    lab["a"].call(allow_ping_sockets, EVERYBODY)
    lab["b"].set_sysctl("net.ipv4.icmp_echo_ignore_all", 1)
    told = []

    async def ask() -> None:
        told.append(await ping.ping(conn, "198.18.0.2", identifier, 1))

    conn, identifier = lab["a"].call(ping.open_unprivileged)
    with trio.fail_after(SECONDS):
        async with conn, lab["b"].call(open_ip, 1) as other, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            asked = await other.receive()
            quoted = Header(src="198.18.0.1", dst="198.18.0.2", ttl=64, protocol=1).with_checksum().marshal()
            for error in (ICMPRedirect(1, "198.18.0.3", quoted + asked.payload), ICMPOther(4, 0, bytes(4) + quoted)):
                await other.send(asked.reply(error.marshal()))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert told == []
            await other.send(asked.reply(to_reply(asked.payload)))
    assert told[0].type is ICMPType.ECHO_REPLY


ROUTER_ALERT: Final = bytes([148, 4, 0, 0])  # RFC 2113


@pytest.mark.parametrize("way", ["unprivileged", "raw", "udp"])
async def test_the_request_is_found_behind_quoted_ip_options(routed: Lab, way: str) -> None:
    routed["a"].call(allow_ping_sockets, EVERYBODY)
    opener = {"unprivileged": ping.open_unprivileged, "raw": ping.open_privileged, "udp": traceroute.open_conn}[way]
    conn, identifier = routed["a"].call(opener)
    conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, ROUTER_ALERT)
    with trio.fail_after(SECONDS), wire(routed["a"]) as listening:
        async with conn, traceroute.open_tracer(conn, NOWHERE, identifier) as tracer:
            answer = await tracer.probe(9)
        assert any(ROUTER_ALERT in frame[34 + 8 + 20 :] for frame in frames(listening))  # It is in the quote.
    assert (answer.peer, answer.type) == ("198.18.0.254", ICMPType.DESTINATION_UNREACHABLE)


# Answers that belong to somebody else


ERRORS: Final = (ICMPType.DESTINATION_UNREACHABLE, ICMPType.TIME_EXCEEDED, ICMPType.PARAMETER_PROBLEM)


def with_checksum(message: bytes) -> bytes:
    blank = message[:2] + b"\0\0" + message[4:]
    return blank[:2] + internet_checksum(blank).to_bytes(2, "big") + blank[4:]


def to_reply(request: bytes) -> bytes:
    return with_checksum(b"\0" + request[1:])


def to_error(kind: int, quoted: bytes, *, destination: tuple[str, int]) -> SocketError:
    return SocketError(errno.EHOSTUNREACH, ErrorOrigin.ICMP, kind, 0, 0, "192.0.2.1", destination, quoted)


def to_request(address: str, identifier: int, sequence: int, data: bytes) -> Any:
    asked = ICMPEcho(identifier, sequence, data)
    reply = ICMPEcho(identifier, sequence, data, is_reply=True)
    return ping.Request((address, 0), asked.marshal(), reply.marshal(), 0.0)


numbers = st.integers(0, 0xFFFF)
octets_of_data = st.binary(min_size=1, max_size=40)


@pytest.mark.pure
@given(st.binary(max_size=100), st.sampled_from([0, 3, 5, 8, 11, 12]))
def test_no_icmp_message_is_too_strange(data: bytes, kind: int) -> None:
    request = to_request("192.0.2.2", 1, 1, b"data")
    for message in (data, with_checksum(bytes([kind, 0, 0, 0]) + data)):
        assert not ping.answers(Datagram(message, ("192.0.2.2", 0)), request)
        is_quote = request.octets.startswith(message[: len(request.octets)])
        error = to_error(kind, message, destination=("192.0.2.2", 0))
        assert ping.answers(error, request) is (is_quote and kind in ERRORS)


@pytest.mark.pure
@given(
    kind=st.sampled_from(ERRORS),
    identifier=numbers,
    sequence=numbers,
    data=octets_of_data,
    quoted=st.integers(8, 60),
    field=st.sampled_from(["identifier", "sequence", "data", "type", "destination", "kind"]),
    difference=st.integers(1, 255),
)
def test_an_error_is_taken_for_the_request_that_it_quotes_and_for_no_other(
    kind: ICMPType, identifier: int, sequence: int, data: bytes, quoted: int, field: str, difference: int
) -> None:
    address = "192.0.2.2"
    mine = to_request(address, identifier, sequence, data)
    request = mine.octets
    assert ping.answers(to_error(kind, request[:quoted], destination=(address, 0)), mine)
    # RFC 4884: zeros up to 128 octets, before an extension.
    assert ping.answers(to_error(kind, (request + bytes(128))[:128], destination=(address, 0)), mine)

    other, destination = request, address
    if field == "identifier":
        other = to_request(address, identifier ^ difference, sequence, data).octets
    elif field == "sequence":
        other = to_request(address, identifier, sequence ^ difference, data).octets
    elif field == "data":  # One octet that is another always changes the checksum.
        other = to_request(address, identifier, sequence, bytes([data[0] ^ difference]) + data[1:]).octets
    elif field == "type":
        other = bytes([request[0] ^ difference]) + request[1:]
    elif field == "destination":
        destination = str(IPv4Address(int(IPv4Address(address)) ^ difference))
    else:
        kind = ICMPType.REDIRECT
    assert not ping.answers(to_error(kind, other[:quoted], destination=(destination, 0)), mine)


@pytest.mark.pure
@given(identifier=numbers, sequence=numbers, data=octets_of_data, difference=st.integers(1, 255))
def test_a_reply_is_taken_for_the_request_that_it_returns_and_for_no_other(
    identifier: int, sequence: int, data: bytes, difference: int
) -> None:
    def is_answer(message: bytes) -> bool:
        found = ping.answers(Datagram(message, ("192.0.2.2", 0)), mine)
        assert isinstance(found, bool)
        return found

    mine = to_request("192.0.2.2", identifier, sequence, data)
    assert is_answer(to_reply(mine.octets))
    for others in (
        ICMPEcho(identifier ^ difference, sequence, data),
        ICMPEcho(identifier, sequence ^ difference, data),
        ICMPEcho(identifier, sequence, bytes([data[0] ^ difference]) + data[1:]),
        ICMPEcho(identifier, sequence, data[1:]),
        ICMPEcho(identifier, sequence, data + b"\0"),
    ):
        assert not is_answer(to_reply(others.marshal()))
    assert not is_answer(mine.octets)  # The loopback interface shows requests, too.


@pytest.mark.pure
@given(port=st.integers(1, 0xFFFF), other=st.integers(1, 0xFFFF), quoted=st.integers(0, 40))
def test_over_udp_each_probe_has_its_port(port: int, other: int, quoted: int) -> None:
    mine = ping.Request(("192.0.2.2", port), bytes(range(32)), None, 0.0)
    error = to_error(11, mine.octets[:quoted], destination=("192.0.2.2", other))
    assert ping.answers(error, mine) is (port == other)
    assert ping.answers(Datagram(b"", ("192.0.2.2", other)), mine) is (port == other)
    assert not ping.answers(Datagram(b"", ("192.0.2.3", port)), mine)
    assert not ping.answers(to_error(11, b"x", destination=("192.0.2.2", port)), mine)


class Echoes:
    """Replies to echo requests when it is told to, in the kernel's place, on the loopback interface."""

    def __init__(self, conn: PacketConn) -> None:
        self._conn: Final = conn
        self._heard: Final[list[Datagram]] = []

    async def hear(self) -> None:
        """Wait for one request more."""
        async for datagram in self._conn:
            if datagram.payload[0] == ICMPType.ECHO:
                self._heard.append(datagram)
                return

    async def reply_to(self, number: int) -> None:
        """Reply to one of the requests, and let everybody take who would."""
        asked = self._heard[number]
        await self._conn.send(asked.reply(to_reply(asked.payload)))
        await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
async def echoes() -> AsyncIterator[Echoes]:
    Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("1", encoding="ascii")
    async with open_ip(1) as conn:
        yield Echoes(conn)


async def ping_once(conn: PacketConn, identifier: int) -> ICMPType:
    answer = await ping.ping(conn, "127.0.0.1", identifier, 1)
    return ICMPType(answer.type)


async def probe_once(conn: PacketConn, identifier: int) -> ICMPType:
    async with traceroute.open_tracer(conn, "127.0.0.1", identifier) as tracer:
        return ICMPType((await tracer.probe(1)).type)


def raw_ping() -> PacketConn:
    conn, _ = ping.open_privileged()
    assert isinstance(conn, PacketConn)
    return conn


ASKERS: Final = {"ping": ping_once, "traceroute": probe_once}


@pytest.mark.parametrize("second", ASKERS)
@pytest.mark.parametrize("first", ASKERS)
async def test_two_who_chose_the_same_numbers_take_their_own_replies(echoes: Echoes, first: str, second: str) -> None:
    done: list[int] = []

    async def ask(number: int, name: str) -> None:
        async with raw_ping() as conn:
            assert await ASKERS[name](conn, 0x1234) is ICMPType.ECHO_REPLY
        done.append(number)

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for number, name in enumerate((first, second)):
                nursery.start_soon(ask, number, name)
                await echoes.hear()
            await echoes.reply_to(1)
            assert done == [1]
            await echoes.reply_to(0)
    assert done == [1, 0]


@pytest.mark.parametrize("name", ASKERS)
async def test_the_late_reply_to_an_earlier_request_is_not_the_next_ones(echoes: Echoes, name: str) -> None:
    done = trio.Event()

    async def ask(conn: PacketConn) -> None:
        await ASKERS[name](conn, 0x1234)
        done.set()

    with trio.fail_after(SECONDS):
        async with raw_ping() as conn:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, conn)
                await echoes.hear()
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, conn)
                await echoes.hear()
                await echoes.reply_to(0)
                assert not done.is_set()
                await echoes.reply_to(1)
                assert done.is_set()


async def test_unprivileged_pings_and_a_privileged_one_with_their_number_take_their_own_replies(echoes: Echoes) -> None:
    allow_ping_sockets()
    done: list[int] = []

    async def ask(number: int, conn: PacketConn, identifier: int) -> None:
        assert await ping_once(conn, identifier) is ICMPType.ECHO_REPLY
        done.append(number)

    (one, number_of_one), (other, number_of_other) = [ping.open_unprivileged() for _ in range(2)]
    assert number_of_one != number_of_other
    with trio.fail_after(SECONDS):
        async with one, other, raw_ping() as raw, trio.open_nursery() as nursery:
            for number, (conn, identifier) in enumerate(
                [(one, number_of_one), (other, number_of_other), (raw, number_of_one)]
            ):
                nursery.start_soon(ask, number, conn, identifier)
                await echoes.hear()
            for number in (2, 1, 0):
                await echoes.reply_to(number)
                assert done[-1] == number
    assert done == [2, 1, 0]


async def test_each_connection_has_an_identifier_of_its_own() -> None:
    identifiers = set()
    for _ in range(20):
        conn, identifier = ping.open_privileged()
        async with conn:
            identifiers.add(identifier)
    assert len(identifiers) > 10


async def test_an_error_about_udp_to_the_same_address_is_not_for_a_ping(echoes: Echoes) -> None:
    done: list[ICMPType] = []

    async def ask(conn: PacketConn) -> None:
        done.append(await ping_once(conn, 1))

    with trio.fail_after(SECONDS):
        async with raw_ping() as conn, open_ip(1) as watching, open_udp() as udp, trio.open_nursery() as nursery:
            nursery.start_soon(ask, conn)
            await echoes.hear()
            await udp.send_to(b"?", ("127.0.0.1", 9))
            while (await watching.receive()).payload[:2] != bytes([ICMPType.DESTINATION_UNREACHABLE, 3]):
                pass
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not done
            await echoes.reply_to(0)
    assert done == [ICMPType.ECHO_REPLY]


async def test_a_ping_of_nowhere_does_not_end_another_ones_wait(routed: Lab) -> None:
    # The router says at once that the one can't be reached. The other one answers after that.
    alive, nowhere = str(routed["b"].addresses[0]), "198.19.0.1"
    routed["router"].ip("route", "add", "unreachable", f"{nowhere}/32")
    routed["b"].call(Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text, "1", encoding="ascii")
    told = {}

    async def ask(address: str) -> None:
        conn, identifier = routed["a"].call(ping.open_privileged)
        async with conn:
            told[address] = (await ping.ping(conn, address, identifier, 1)).type

    with trio.fail_after(SECONDS):
        async with routed["b"].call(open_ip, 1) as conn, trio.open_nursery() as nursery:
            nursery.start_soon(ask, alive)
            asked = await conn.receive()
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, nowhere)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert told == {nowhere: ICMPType.DESTINATION_UNREACHABLE}
            await conn.send(asked.reply(to_reply(asked.payload)))
    assert told[alive] is ICMPType.ECHO_REPLY


async def test_many_traceroutes_and_pings_at_once_find_what_each_would_alone(routed: Lab) -> None:
    router, alive, nowhere = "198.18.0.254", str(routed["b"].addresses[0]), "198.19.0.1"
    routed["router"].ip("route", "add", "unreachable", f"{nowhere}/32")
    expected = {
        (router, 1): (router, ICMPType.ECHO_REPLY),
        (router, 2): (router, ICMPType.ECHO_REPLY),
        (alive, 1): (router, ICMPType.TIME_EXCEEDED),
        (alive, 2): (alive, ICMPType.ECHO_REPLY),
        (nowhere, 2): (router, ICMPType.DESTINATION_UNREACHABLE),
    }
    found = []

    async def trace(conn: PacketConn, identifier: int, address: str, hops: int) -> None:
        async with traceroute.open_tracer(conn, address, identifier) as tracer:
            answer = await tracer.probe(hops)
        found.append(((address, hops), (answer.peer, answer.type)))

    async def ask(conn: PacketConn, identifier: int, address: str) -> None:
        answer = await ping.ping(conn, address, identifier, 2)
        found.append(((address, 2), (answer.peer, answer.type)))

    # A Linux router sends one host at most 6 errors at once. Those about unreachable routes have a limit of their own,
    # 5 (route/error_burst), which can't be lifted in a namespace. icmp_ratelimit=0 would empty the bucket of both.
    routed["router"].call(Path("/proc/sys/net/ipv4/icmp_ratemask").write_text, "0", encoding="ascii")
    with trio.fail_after(SECONDS):
        async with contextlib.AsyncExitStack() as opened:
            tasks: list[Callable[[], Awaitable[None]]] = []
            for _ in range(2):
                for address, hops in expected:
                    conn, identifier = routed["a"].call(ping.open_privileged)
                    await opened.enter_async_context(conn)
                    tasks.append(functools.partial(trace, conn, identifier, address, hops))
                for address in (router, alive, nowhere):
                    conn, identifier = routed["a"].call(ping.open_privileged)
                    tasks.append(functools.partial(ask, await opened.enter_async_context(conn), identifier, address))
            # All are open before the first one asks: so each hears the answers of all.
            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(task)
    assert len(found) == 2 * 8
    assert [each for each in found if expected[each[0]] != each[1]] == []


# traceroute


TIMES: Final = r"(?:  [0-9.]+ ms)"
WAYS: Final = {
    "udp": ((), "1 0", WITHOUT_NET_RAW),
    "icmp": (("--icmp",), EVERYBODY, WITHOUT_NET_RAW),
    "raw": (("--icmp",), "1 0", ()),
}
"""Arguments, net.ipv4.ping_group_range, and what takes the privilege away."""


@pytest.fixture
def path(needs_lab: None) -> Iterator[Lab]:
    """A path of five routers from "a" to "b". Link i is between host i and the next one."""
    names = ["a", "r1", "r2", "r3", "r4", "r5", "b"]
    links = {name: [link for link in (each - 1, each) if 0 <= link < 6] for each, name in enumerate(names)}
    with open_lab(links) as lab:
        for position, host in enumerate(lab.values()):
            if host.name.startswith("r"):
                host.set_sysctl("net.ipv4.ip_forward", 1)
            for link in range(6):
                if link < position - 1:
                    host.add_route(f"198.18.{link}.0/24", via=f"198.18.{position - 1}.{position}")
                elif link > position:
                    host.add_route(f"198.18.{link}.0/24", via=f"198.18.{position}.{position + 2}")
        yield lab


HOPS_OF_PATH: Final = [f"198.18.{link}.{link + 2}" for link in range(6)]


@pytest.mark.parametrize("way", WAYS)
async def test_traceroute_finds_every_router_of_a_path_in_order(path: Lab, way: str) -> None:
    # The routers have their defaults: each sends this host 6 errors at once (icmp_ratelimit), and 3 are asked of it.
    # The destination is asked by all later probes, too, but those of the hop at which it is found come first.
    arguments, groups, prefix = WAYS[way]
    path["a"].call(allow_ping_sockets, groups)
    arguments = (HOPS_OF_PATH[-1], "--seconds", "10", *arguments)
    status, lines, errors = await run(path["a"], "traceroute", *arguments, prefix=prefix)
    assert (status, errors) == (0, "")
    assert [line.split()[:2] for line in lines] == [[str(ttl), peer] for ttl, peer in enumerate(HOPS_OF_PATH, 1)]
    assert all(re.fullmatch(rf" \d  [0-9.]+{TIMES}{{3}}", line) for line in lines), lines
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(("name", "count"), [("traceroute", 18), ("ping", 4)])
async def test_any_user_may_trace_and_ping(
    path: Lab, as_nobody: Callable[[list[str]], list[str]], name: str, count: int
) -> None:
    path["a"].call(allow_ping_sockets, EVERYBODY)
    argv = as_nobody([sys.executable, str(EXAMPLES / f"{name}.py"), HOPS_OF_PATH[-1]])
    with trio.fail_after(SECONDS):
        done = await trio.run_process(path["a"].command(argv), capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().count(" ms") == count


async def test_traceroute_lists_the_router_then_the_destination(routed: Lab, tmp_path: Path) -> None:
    destination = str(routed["b"].addresses[0])
    with wire(routed["a"]) as wire_of_a:
        arguments = (destination, "--seconds", "10", "--icmp", "--probes", "1", "--hops", "2")
        status, lines, _ = await run(routed["a"], "traceroute", *arguments)
        captured = frames(wire_of_a)
    assert status == 0
    assert [line.split()[:2] for line in lines] == [["1", "198.18.0.254"], ["2", destination]]
    assert all(float(line.split()[2]) > 0 for line in lines)
    probes = fields(captured, tmp_path, "icmp.type == 8 and !icmp.type == 11", "ip.ttl", "icmp.checksum.status")
    assert probes == [["1", "1"], ["2", "1"]]  # A status of 1 is good.


async def test_over_udp_each_probe_goes_to_a_port_of_its_own(routed: Lab, tmp_path: Path) -> None:
    with wire(routed["a"]) as wire_of_a:
        assert (await run(routed["a"], "traceroute", "198.18.1.2", "--hops", "2"))[0] == 0
        captured = frames(wire_of_a)
    probes = fields(captured, tmp_path, "udp and !icmp", "ip.ttl", "udp.dstport", "udp.length", "udp.srcport")
    assert [each[:3] for each in probes] == [[str(1 + n // 3), str(33434 + n), "40"] for n in range(6)]
    assert len({source for *_, source in probes}) == 1


async def test_traceroute_shows_a_hop_that_does_not_answer(lab: Lab) -> None:
    lab["a"].add_route("0.0.0.0/0", via="198.18.0.2")  # It is no router.
    for way in ((), ("--icmp",)):
        arguments = (NOWHERE, "--hops", "2", "--seconds", "0.1", *way)
        assert await run(lab["a"], "traceroute", *arguments) == (1, [" 1  *  *  *", " 2  *  *  *"], "")


async def test_traceroute_stops_where_this_host_refuses_to_send(lab: Lab) -> None:
    expected = (1, [" 1  not sent: Network is unreachable"], "")
    assert await run(lab["a"], "traceroute", NOWHERE) == expected


async def test_a_port_where_somebody_answers_ends_the_trace(lab: Lab) -> None:
    async with lab["b"].call(open_udp, port=33434) as server, trio.open_nursery() as nursery:

        async def answer() -> None:
            async for datagram in server:
                await server.send(datagram.reply(b"hello"))

        nursery.start_soon(answer)
        status, lines, _ = await run(lab["a"], "traceroute", "198.18.0.2", "--probes", "1")
        nursery.cancel_scope.cancel()
    assert status == 0
    assert re.fullmatch(rf" 1  198\.18\.0\.2{TIMES}", "\n".join(lines))


@pytest.mark.parametrize("kind", KINDS_OF_ROUTE)
@pytest.mark.parametrize("way", WAYS)
async def test_an_unreachable_address_has_the_mark_of_traceroute_8(routed: Lab, kind: str | None, way: str) -> None:
    if kind is not None:
        routed["router"].ip("route", "add", kind, f"{NOWHERE}/32")
    arguments, groups, prefix = WAYS[way]
    routed["a"].call(allow_ping_sockets, groups)
    arguments = (NOWHERE, "--probes", "1", "--seconds", "10", *arguments)
    status, lines, errors = await run(routed["a"], "traceroute", *arguments, prefix=prefix)
    assert (status, errors, len(lines)) == (1, "", 1)
    assert re.fullmatch(rf" 1  198\.18\.0\.254{TIMES} {KINDS_OF_ROUTE[kind][1]}", lines[0])


@pytest.mark.parametrize("way", WAYS)
async def test_a_prohibiting_firewall_shows_as_x(routed: Lab, way: str) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    rules = "type filter hook forward priority 0\nip daddr 198.18.1.2 reject with icmp type admin-prohibited"
    script = f"table ip t {{\nchain c {{\n{rules}\n}}\n}}\n"
    routed["router"].call(subprocess.run, ["nft", "-f", "-"], input=script, text=True, check=True)
    arguments, groups, prefix = WAYS[way]
    routed["a"].call(allow_ping_sockets, groups)
    arguments = ("198.18.1.2", "--probes", "2", "--seconds", "10", *arguments)
    status, lines, errors = await run(routed["a"], "traceroute", *arguments, prefix=prefix)
    assert (status, errors, len(lines)) == (1, "", 2)
    assert re.fullmatch(rf" 1  198\.18\.0\.254{TIMES}{{2}}", lines[0])
    assert re.fullmatch(r" 2  198\.18\.0\.254(?:  [0-9.]+ ms !X){2}", lines[1])


ODD: Final = (
    InterfaceInformation(InterfaceRole.NEXT_HOP, name="\x1b[31mred", address=IPv6Address("2001:db8::1")),
    ICMPExtension(9, 1, b"\0\0\0\1"),
)
SHOWN: Final = [
    "      MPLS label 16014, class 4, ttl 1",
    "      MPLS label 17, class 0, ttl 255, bottom of stack",
    "      interface, incoming: 'xe-0/0/1', index 7, 192.0.2.9, mtu 9000",
    "      interface, next hop: '\\x1b[31mred', 2001:db8::1",
    "      extension of class 9, type 1: 4 octets",
]


@pytest.mark.parametrize("way", WAYS)
async def test_mpls_labels_and_interfaces_are_shown_if_the_router_tells_them(lab: Lab, way: str) -> None:
    # A host that answers by hand: two routers in turn at the first hop, nobody at the second one, then the destination.
    arguments, groups, prefix = WAYS[way]
    lab["a"].call(allow_ping_sockets, groups)
    lab["a"].add_route("0.0.0.0/0", via="198.18.0.2")
    with wire(lab["b"]) as listening:
        async with lab["b"].call(open_raw, 1) as conn, trio.open_nursery() as nursery:
            routers = "198.51.100.1", "198.51.100.2"
            nursery.start_soon(answer_probes, listening, conn, routers, (*EXTENSIONS, *ODD))
            # The second hop is silent until its time is up.
            arguments = (NOWHERE, "--probes", "2", "--seconds", "3", *arguments)
            status, lines, errors = await run(lab["a"], "traceroute", *arguments, prefix=prefix)
            nursery.cancel_scope.cancel()
    assert (status, errors) == (0, "")
    first, second, *rest = lines
    # Which of the two probes was answered first does not matter.
    assert {first[:4], second[:4]} == {" 1  ", "    "}
    assert {first[4:].split()[0], second[4:].split()[0]} == {"198.51.100.1", "198.51.100.2"}
    assert rest[:-2] == SHOWN
    assert rest[-2] == " 2  *  *"
    assert re.fullmatch(rf" 3  203\.0\.113\.1{TIMES}{{2}}", rest[-1])
    assert all(len(line) <= 80 for line in lines)


def heard(kind: int, code: int, info: int = 0, peer: str = "192.0.2.1") -> Any:
    destination = ("192.0.2.2", 33434)
    return ping.Answer(SocketError(113, ErrorOrigin.ICMP, kind, code, info, peer, destination), 0.0015)


@pytest.mark.pure
def test_the_marks_are_those_of_traceroute_8() -> None:
    marks = " ".join(traceroute.mark(heard(3, code)) or "-" for code in range(17))
    assert marks == "!N !H !P - !F !S !N !H !N !X !X !N !H !X !V !C !<3-16>"
    assert traceroute.mark(heard(3, 4, 1400)) == "!F-1400"
    assert traceroute.mark(heard(11, 0)) == ""
    assert traceroute.mark(heard(12, 0)) == "!<12-0>"


@pytest.mark.pure
def test_each_router_of_a_hop_has_a_line() -> None:
    hop = traceroute.Hop(7, 5)
    hop.answers = [None, heard(11, 0), None, heard(3, 1, peer="192.0.2.3"), heard(11, 0)]
    assert [*hop.lines()] == [
        " 7  *  192.0.2.1  1.500 ms  *",
        "    192.0.2.3  1.500 ms !H",
        "    192.0.2.1  1.500 ms",
    ]
    assert hop.is_last
    hop.answers = [None, heard(11, 0)]
    assert not hop.is_last


async def test_what_the_page_shows_asks_the_third_router(path: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXAMPLES.parent / "how-to" / "ping-and-traceroute.md").read_text(encoding="utf-8")
    assert all(hasattr(ping, name) for name in re.findall(r"ping\.py\n:pyobject: (\w+)", page))
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"open_udp": functools.partial(path["a"].call, open_udp), "ControlMessage": ControlMessage}
    exec("async def main():\n" + textwrap.indent(block, "    "), names)
    main: Any = names["main"]
    with trio.fail_after(SECONDS):
        await main()
    assert capsys.readouterr().out == f"{HOPS_OF_PATH[2]} ('{HOPS_OF_PATH[-1]}', 33434) ()\n"


async def test_a_few_probes_are_in_flight_at_once(lab: Lab) -> None:
    lab["a"].add_route("0.0.0.0/0", via="198.18.0.2")  # It is no router.
    conn, _ = lab["a"].call(traceroute.open_conn)
    async with conn, ping.open_asker(conn) as asker, trio.open_nursery() as nursery:
        tracer = traceroute.Tracer(asker, NOWHERE, None)
        nursery.start_soon(tracer.probe_all, [traceroute.Hop(ttl, 3) for ttl in range(1, 31)], SECONDS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [port for _, port in (each.destination for each in asker._waiting)] == [*range(33434, 33440)]
        nursery.cancel_scope.cancel()


async def test_a_trace_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async def trace() -> None:
        conn, identifier = traceroute.open_conn()
        async with conn, traceroute.open_tracer(conn, "127.0.0.1", identifier) as tracer:
            hop = traceroute.Hop(1, 2)
            await tracer.probe_all([hop], SECONDS)
            assert [each.peer for each in hop.answers] == ["127.0.0.1"] * 2

    assert await cancel_at_each_checkpoint(trace) > 10


# OSPF


async def test_tshark_reads_the_ospf_hello(lab: Lab, tmp_path: Path) -> None:
    arguments = ("--interface", "en0", "--router-id", "10.9.8.7", "--count", "1", "--interval", "0.1")
    with wire(lab["b"]) as wire_of_b:
        status, lines, _ = await run(lab["a"], "ospf_hello", *arguments)
        captured = frames(wire_of_b)
    assert status == 0
    assert lines == ["hello of router 10.9.8.7 from 198.18.0.1: ttl 1, tos 0xc0"]  # Its own, looped back.
    expected = {
        "eth.dst": "01:00:5e:00:00:05",
        "ip.src": "198.18.0.1",
        "ip.dst": "224.0.0.5",
        "ip.ttl": "1",
        "ip.dsfield": "0xc0",
        "ip.proto": "89",
        "ip.len": "64",
        "ip.checksum.status": "1",
        "ospf.version": "2",
        "ospf.msg": "1",
        "ospf.packet_length": "44",
        "ospf.srcrouter": "10.9.8.7",
        "ospf.area_id": "0.0.0.0",
        "ospf.auth.type": "0",
        "ospf.hello.network_mask": "255.255.255.0",
        "ospf.hello.hello_interval": "10",
        "ospf.hello.router_priority": "1",
        "ospf.hello.router_dead_interval": "40",
        "ospf.hello.designated_router": "0.0.0.0",
        "ospf.v2.options.e": "1",
        "_ws.malformed": "",
    }
    [found] = fields(captured, tmp_path, "ospf", *expected)
    assert dict(zip(expected, found, strict=True)) == expected
    assert re.search(r"Checksum: 0x[0-9a-f]{4} \[correct\]", tshark(captured, tmp_path, "ospf", "-V", "-O", "ospf"))


async def test_ospf_hellos_of_others_are_printed(lab: Lab) -> None:
    hello = example("ospf_hello")
    neighbour = lab["b"].interfaces[0]
    async with lab["b"].call(open_raw, 89) as conn, trio.open_nursery() as nursery:
        datagram = hello.packet(
            neighbour.addresses[0],
            neighbour.index,
            hello.hello(neighbour.addresses[0], IPv4Address("10.1.1.1")),
        )

        async def keep_sending() -> None:
            while True:
                await conn.send(datagram)
                await trio.sleep(0.02)

        nursery.start_soon(keep_sending)
        status, lines, _ = await run(lab["a"], "ospf_hello", "--interface", "en0", "--count", "1")
        nursery.cancel_scope.cancel()
    assert status == 0
    assert "hello of router 10.1.1.1 from 198.18.0.2: ttl 1, tos 0xc0" in lines


async def test_an_ospf_hello_by_unicast_from_another_link_is_not_printed(needs_lab: None) -> None:
    hello = example("ospf_hello")
    with open_lab(links=2) as lab:
        own = lab["b"].interfaces[1].addresses[0]
        payload = hello.hello(own, IPv4Address("10.1.1.1"))
        header = attrs.evolve(hello.packet(own, 1, payload).header, dst=lab["a"].addresses[1])
        with wire(lab["a"], "en1") as wire_of_a:
            async with lab["b"].call(open_raw, 89) as conn, trio.open_nursery() as nursery:

                async def keep_sending() -> None:
                    while True:
                        await conn.send(RawDatagram(header, payload))
                        await trio.sleep(0.02)

                nursery.start_soon(keep_sending)
                status, lines, _ = await run(lab["a"], "ospf_hello", "--interface", "en0", "--interval", "0.2")
                nursery.cancel_scope.cancel()
            assert any(payload in frame for frame in frames(wire_of_a))
    assert status == 0
    assert set(lines) == {"hello of router 198.18.0.1 from 198.18.0.1: ttl 1, tos 0xc0"}


# mDNS


@contextlib.asynccontextmanager
async def responder(host: LabHost, *arguments: str) -> AsyncIterator[trio.Process]:
    argv = host.command([sys.executable, str(EXAMPLES / "mdns_responder.py"), *arguments])
    async with trio.open_nursery() as nursery:
        start = functools.partial(trio.run_process, argv, stdout=subprocess.PIPE)
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        with trio.fail_after(SECONDS):
            line = await process.stdout.receive_some()
        assert line.startswith(b"joined 224.0.0.251 on ")
        yield process
        nursery.cancel_scope.cancel()


def query(name: str = "trio.local", *, kind: int = 1, of_class: int = 1, identifier: int = 0, flags: int = 0) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", identifier, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, of_class)


def ask(host: LabHost, messages: list[bytes], *, port: int, name: str = "en0") -> socket.socket:
    """Send messages to the group from `port`, by a socket of the standard library; return it."""
    asking = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    asking.bind(("0.0.0.0", port))
    index = next(interface.index for interface in host.interfaces if interface.name == name)
    asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
    for message in messages:
        asking.sendto(message, ("224.0.0.251", 5353))
    return asking


MDNS_FIELDS: Final = (
    *("ip.src", "ip.dst", "ip.ttl", "udp.srcport", "dns.id", "dns.flags.response", "dns.flags.authoritative"),
    *("dns.count.queries", "dns.count.answers", "dns.resp.name", "dns.a", "dns.resp.cache_flush", "dns.resp.ttl"),
    "_ws.malformed",
)


@pytest.mark.parametrize(
    ("port", "of_class", "to", "queries", "flush", "ttl", "identifier"),
    [
        (5353, 0x8001, "198.18.0.1", "0", "1", "120", "0x0000"),
        (5353, 0x0001, "224.0.0.251", "0", "1", "120", "0x0000"),
        (40000, 0x0001, "198.18.0.1", "1", "", "10", "0xabcd"),
    ],
    ids=["unicast wanted", "multicast", "another port"],
)
async def test_the_responder_answers(
    lab: Lab,
    tmp_path: Path,
    eventually: Eventually,
    port: int,
    of_class: int,
    to: str,
    queries: str,
    flush: str,
    ttl: str,
    identifier: str,
) -> None:
    captured: list[bytes] = []

    def answered() -> bool:
        captured.extend(frames(wire_of_a))
        return any(b"\x84\x00\x00" in frame for frame in captured)

    with wire(lab["a"]) as wire_of_a:
        async with responder(lab["b"], "--interface", "en0", "--answers", "1") as process:
            with ask(lab["a"], [query(of_class=of_class, identifier=0xABCD)], port=port):
                await eventually(answered)
                with trio.fail_after(SECONDS):
                    assert await process.wait() == 0  # One answer was asked of it.
    answer = [identifier, "1", "1", queries, "1", "trio.local", "198.18.0.2", flush or "False", ttl, ""]
    [found] = fields(captured, tmp_path, "dns.flags.response == 1", *MDNS_FIELDS)
    # tshark knows the bit on port 5353 only.
    found[MDNS_FIELDS.index("dns.resp.cache_flush")] = flush or "False"
    assert found == ["198.18.0.2", to, "255", "5353", *answer]
    if port != 5353:
        [classes] = fields(captured, tmp_path, "dns.flags.response == 1", "dns.resp.class", "dns.qry.class")
        assert classes == ["0x0001", "0x0001"]


async def test_the_responder_ignores_what_is_not_asked_of_it(lab: Lab, eventually: Eventually) -> None:
    ignored = [
        query("other.local"),
        query("xtrio.local"),
        query(kind=28),
        query(of_class=3),
        query(flags=0x8400),  # A response
        query()[:-1],
        b"\xff" * 40,
        struct.pack("!6H", 0, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # A name that points at itself
        b"",
    ]
    async with responder(lab["b"], "--interface", "en0", "--answers", "1"):
        with ask(lab["a"], [*ignored, query("TRIO.local", kind=255, of_class=255, identifier=7)], port=40000) as asking:
            await eventually(lambda: select.select([asking], [], [], 0)[0])
            answer = asking.recv(1500)
    assert answer[:2] == b"\0\7"
    assert answer.endswith(lab["b"].addresses[0].packed)


async def test_the_responder_answers_with_the_address_of_the_interface_on_which_it_was_asked(
    needs_lab: None, eventually: Eventually
) -> None:
    with open_lab(links=2) as lab:
        async with responder(lab["b"], "--interface", "all", "--answers", "2"):
            for link, name in enumerate(("en0", "en1")):
                with ask(lab["a"], [query()], port=40000, name=name) as asking:
                    await eventually(lambda asking=asking: select.select([asking], [], [], 0)[0])
                    answer, (source, port) = asking.recvfrom(1500)
                assert answer.endswith(lab["b"].addresses[link].packed)
                assert (source, port) == (str(lab["b"].addresses[link]), 5353)


async def test_the_responder_ends_when_its_time_is_up(lab: Lab) -> None:
    status, lines, _ = await run(lab["a"], "mdns_responder", "--seconds", "0.1")
    assert (status, lines) == (0, ["joined 224.0.0.251 on 1 interfaces"])


@pytest.mark.pure
@given(st.binary(max_size=200), st.integers(0, 5))
def test_no_query_is_too_strange(data: bytes, count: int) -> None:
    for message in (data, struct.pack("!6H", 1, 0, count, 0, 0, 0) + data):
        mdns.read_query(message)


@pytest.mark.pure
def test_names_may_point_back() -> None:
    message = query("a.trio.local") + b"\1b\xc0\x0e" + struct.pack("!2H", 1, 0x8001)
    message = message[:4] + b"\0\2" + message[6:]
    _, questions = mdns.read_query(message)
    assert [(each.name, each.wants_unicast) for each in questions] == [("a.trio.local", False), ("b.trio.local", True)]


# Packet filters


@pytest.mark.pure
@pytest.mark.parametrize(
    ("expression", "constant"),
    [
        ("link[8:4] = 0x4d2d5345", "SEARCHES"),
        ("icmp[0] = 0 and icmp[4:2] = 4660", "REPLIES_TO_4660"),
    ],
)
def test_tcpdump_prints_the_programs_of_the_example(expression: str, constant: str) -> None:
    if shutil.which("tcpdump") is None:
        pytest.skip("tcpdump is not installed")
    argv = ["tcpdump", "-ddd", "-y", "RAW", expression]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    numbers = [tuple(map(int, line.split())) for line in printed.splitlines()[1:]]
    assert [(each.op, each.jt, each.jf, each.k) for each in getattr(filters, constant)] == numbers
    source = (EXAMPLES / "filter_by_payload.py").read_text(encoding="utf-8")
    assert f"# tcpdump -ddd -y RAW '{expression}'\n{constant} = " in source


async def test_the_example_prints_what_passes(lab: Lab) -> None:
    assert await run(lab["a"], "filter_by_payload") == (0, ["M-SEARCH * HTTP/1.1", "anything"], "")


@pytest.mark.parametrize("prefix", [b"", b"A", b"\0\xff\x80", bytes(range(127))], ids=len)
async def test_a_program_by_hand_accepts_what_starts_so(prefix: bytes) -> None:
    async with open_udp("127.0.0.1") as conn:
        conn.attach_filter(filters.starts_with(prefix))
        for payload in (b"X" + prefix, prefix[:-1] + b"X", prefix[:-1], prefix, prefix + b"more"):
            await conn.send_to(payload, conn.local_endpoint)
        await trio.testing.wait_all_tasks_blocked()
        heard = [datagram.payload for datagram in await conn.receive_batch()]
    expected = [b"X" + prefix, prefix[:-1] + b"X", prefix[:-1], prefix, prefix + b"more"]
    assert heard == [payload for payload in expected if payload.startswith(prefix)]


async def test_what_was_queued_before_a_filter_passes_unless_it_is_discarded() -> None:
    async with open_udp("127.0.0.1") as conn:
        await conn.send_to(b"before", conn.local_endpoint)
        conn.attach_filter(filters.SEARCHES)
        assert (await conn.receive()).payload == b"before"

        conn.detach_filter()
        for number in range(100):  # More than a batch.
            await conn.send_to(b"before %d" % number, conn.local_endpoint)
        await filters.change_filter(conn, filters.SEARCHES)
        await conn.send_to(b"after", conn.local_endpoint)
        await conn.send_to(b"M-SE", conn.local_endpoint)
        assert [datagram.payload for datagram in await conn.receive_batch()] == [b"M-SE"]


async def test_a_filter_from_before_binding_lets_nothing_else_into_the_queue() -> None:
    async with await filters.open_for_searches(0) as conn, open_udp() as sender:
        _, port = conn.local_endpoint
        for payload in (b"NOTIFY", b"M-SEARCH", b"M-S"):
            await sender.send_to(payload, ("127.0.0.1", port))
        assert [datagram.payload for datagram in await conn.receive_batch()] == [b"M-SEARCH"]


async def test_a_membership_after_the_filter_brings_nothing_that_was_not_filtered(lab: Lab) -> None:
    async with lab["b"].call(open_udp, port=5000) as conn, lab["a"].call(open_udp) as sender:
        sender.multicast_interface = "en0"
        await sender.send_to(b"not a member", ("239.1.2.3", 5000))
        conn.attach_filter(filters.SEARCHES)
        async with conn.joined("en0", "239.1.2.3"):
            await sender.send_to(b"not wanted", ("239.1.2.3", 5000))
            await sender.send_to(b"M-SEARCH", ("239.1.2.3", 5000))
            with trio.fail_after(10):
                assert [(await conn.receive()).payload for _ in range(1)] == [b"M-SEARCH"]


async def test_a_program_cuts_a_datagram_and_nobody_tells() -> None:
    async with open_udp("127.0.0.1") as conn:
        conn.attach_filter([RawInstruction(0x06, 0, 0, 8 + 5)])
        await conn.send_to(b"0123456789", conn.local_endpoint)
        datagram = await conn.receive()
        assert (datagram.payload, datagram.truncated) == (b"01234", False)


async def test_a_raw_filter_sees_the_ip_header() -> None:
    async with filters.open_for_replies() as conn, open_ip(1) as sender:
        for identifier in (1, 4660, 2):
            await sender.send_to(ICMPEcho(identifier, 1).marshal(), ("127.0.0.1", 0))
        with trio.fail_after(10):
            heard = await conn.receive_batch()
        assert [datagram.payload[:6:5] for datagram in heard] == [b"\0\x34"]


async def test_a_raw_filter_skips_ip_options() -> None:
    async with filters.open_for_replies() as conn, open_raw(1) as sender:
        for options in (b"", b"\1" * 40):
            reply = bytearray(ICMPEcho(4660, 1).marshal())
            reply[0] = 0
            header = Header(src="127.0.0.1", dst="127.0.0.1", ttl=1, protocol=1, options=options)
            await sender.send(RawDatagram(header, bytes(reply)))
        with trio.fail_after(10):
            assert len(await conn.receive_batch()) == 2


@pytest.mark.pure
def test_the_page_shows_the_examples_functions() -> None:
    page = (EXAMPLES.parent / "how-to" / "filter-by-payload.md").read_text(encoding="utf-8")
    shown = set(re.findall(r":pyobject: (\w+)", page))
    assert shown == {"open_for_searches", "change_filter", "open_for_replies"}
    assert all(callable(getattr(filters, name)) for name in shown)


# What how-to/raw-ip.md says


async def test_more_than_the_mtu_goes_in_fragments_without_headers_and_not_at_all_with(lab: Lab) -> None:
    a, b = (str(lab[name].addresses[0]) for name in "ab")
    here, there = lab["a"].call, lab["b"].call
    async with here(open_ip, 253) as plain, here(open_raw, 253) as raw, there(open_ip, 253) as conn:
        header = Header(src=a, dst=b, ttl=9, protocol=253)
        await raw.send(RawDatagram(header, bytes(1480)))
        with pytest.raises(OSError) as caught:  # noqa: PT011  # The errno follows.
            await raw.send(RawDatagram(header, bytes(1481)))
        assert caught.value.errno == errno.EMSGSIZE
        await plain.send_to(bytes(5000), (b, 0))
        with trio.fail_after(10):
            assert [len((await conn.receive()).payload) for _ in range(2)] == [1480, 5000]


async def test_linux_fills_in_what_the_page_says_and_no_more() -> None:
    async with open_raw(253) as conn:
        for source, identification in (("0.0.0.0", 0), ("127.0.0.2", 0x1234)):
            sent = Header(
                src=source,
                dst="127.0.0.1",
                id=identification,
                tos=0xFC,
                ttl=7,
                protocol=253,
                flags=HeaderFlags.DONT_FRAGMENT | HeaderFlags.RESERVED,
                total_len=9,
                checksum=1,
                options=b"\x94\x04\0\0",
            )
            await conn.send(RawDatagram(sent, b"HELLO"))
            heard = (await conn.receive()).header
            assert heard.total_len == 29
            assert heard.checksum_ok
            assert heard.id == (identification or heard.id)
            assert heard.src == IPv4Address("127.0.0.1" if source == "0.0.0.0" else source)
            assert attrs.evolve(
                heard, total_len=9, checksum=1, id=identification, src=source, header_len=24
            ) == attrs.evolve(sent, header_len=24)


@pytest.mark.parametrize("opener", [lambda: open_ip(253), lambda: open_udp(port=5000)], ids=["ip", "udp"])
async def test_ip_options_are_an_option_of_the_socket_where_the_kernel_makes_the_header(
    opener: Callable[[], PacketConn],
) -> None:
    router_alert = bytes([148, 4, 0, 0])
    with wire_of_loopback() as listening:
        async with opener() as conn:
            conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, router_alert)
            await conn.send_to(b"HELLO", ("127.0.0.1", 5000 if conn.socket.type == socket.SOCK_DGRAM else 0))
            assert (await conn.receive()).payload == b"HELLO"
        headers = [Header.parse(frame[14:]) for frame in frames(listening)]
    assert headers
    assert {header.options for header in headers} == {router_alert}


def wire_of_loopback() -> socket.socket:
    listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listening.bind(("lo", ETH_P_ALL))
    return listening


async def test_each_raw_socket_gets_a_copy_of_what_is_for_its_address() -> None:
    async with open_ip(253) as one, open_ip(253) as other, open_ip(253, "127.0.0.2") as elsewhere:
        await one.send_to(b"HELLO", ("127.0.0.1", 0))
        await one.send_to(b"THERE", ("127.0.0.2", 0))
        for conn in (one, other):
            assert [datagram.payload for datagram in await conn.receive_batch()] == [b"HELLO", b"THERE"]
        assert [datagram.payload for datagram in await elsewhere.receive_batch()] == [b"THERE"]


@pytest.mark.parametrize("somebody_speaks_it", [True, False])
async def test_a_protocol_that_nobody_speaks_is_unreachable(lab: Lab, somebody_speaks_it: bool) -> None:
    speaker = lab["b"].call(open_ip, 253 if somebody_speaks_it else 254)
    async with speaker, lab["a"].call(open_ip, 253) as sender, lab["a"].call(open_ip, 1) as errors:
        await sender.send_to(b"HELLO", (str(lab["b"].addresses[0]), 0))
        # The reply to an echo request comes after.
        await errors.send_to(ICMPEcho(1, 1).marshal(), (str(lab["b"].addresses[0]), 0))
        kinds = []
        with trio.fail_after(10):
            while ICMPType.ECHO_REPLY not in kinds:
                kinds.append((await errors.receive()).payload[0])
    assert (ICMPType.DESTINATION_UNREACHABLE in kinds) is not somebody_speaks_it


async def test_an_ambient_capability_is_enough(lab: Lab) -> None:
    # Without securebits' "noroot", exec would give root every capability (capabilities(7)).
    plain = ("setpriv", "--securebits", "+noroot,+noroot_locked", "--inh-caps")
    ambient = (*plain, "-all,+net_raw", "--ambient-caps", "-all,+net_raw")
    for prefix, expected in ((ambient, 0), ((*plain, "-all"), 2)):
        status, _, errors = await run(lab["a"], "ping", "--count", "1", "--seconds", "10", prefix=prefix)
        assert status == expected, errors
        assert ("CAP_NET_RAW" in errors) is bool(expected)
