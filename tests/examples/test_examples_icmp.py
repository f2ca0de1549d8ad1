"""The examples in raw IP, mDNS and packet filters. The oracles: the kernel's own replies, the wire, tshark."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import (
    Datagram,
    Header,
    HeaderFlags,
    ICMPType,
    PacketConn,
    RawDatagram,
    RawInstruction,
    internet_checksum,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4.testing import Lab, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import ModuleType

    from trio_ipv4.testing import LabHost

    Eventually = Callable[[Callable[[], object]], Any]

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
ETH_P_ALL: Final = 3  # linux/if_ether.h
SECONDS: Final = 30


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there.
    spec.loader.exec_module(module)
    return module


ping, traceroute, mdns, filters = map(example, ("ping", "traceroute", "mdns_responder", "filter_by_payload"))


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


async def test_the_kernel_answers_ping(lab: Lab) -> None:
    address = str(lab["b"].addresses[0])
    status, lines, _ = await run(lab["a"], "ping", address, "--count", "3", "--seconds", "10")
    assert status == 0
    assert len(lines) == 3
    for sequence, line in enumerate(lines, 1):
        match = re.fullmatch(rf"{sequence}: echo reply from {address}, 24 octets, ttl 64, ([0-9.]+) ms", line)
        assert match, line
        assert 0 < float(match[1]) < 10_000


async def test_ping_by_default_stays_on_the_loopback_interface(lab: Lab) -> None:
    with wire(lab["a"], "lo") as lo, wire(lab["a"]) as en0:
        status, lines, _ = await run(lab["a"], "ping", "--count", "1", "--seconds", "10")
        assert status == 0
        assert "echo reply from 127.0.0.1" in lines[0]
        assert frames(lo)
        assert not [frame for frame in frames(en0) if b"\x7f\0\0\1" in frame]


WITHOUT_NET_RAW: Final = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-all")


def allow_ping_sockets() -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0", encoding="ascii")


async def test_ping_needs_no_capability_where_ping_sockets_are_allowed(lab: Lab) -> None:
    lab["a"].call(allow_ping_sockets)
    address = str(lab["b"].addresses[0])
    arguments = ("ping", address, "--unprivileged", "--seconds", "10")
    status, lines, errors = await run(lab["a"], *arguments, prefix=WITHOUT_NET_RAW)
    assert (status, len(lines), errors) == (0, 3, "")
    for sequence, line in enumerate(lines, 1):
        assert line.startswith(f"{sequence}: echo reply from {address}, 24 octets, ttl 64, ")


async def test_ping_without_the_capability_says_which(lab: Lab) -> None:
    status, lines, errors = await run(lab["a"], "ping", prefix=WITHOUT_NET_RAW)
    assert (status, lines) == (2, [])
    assert "CAP_NET_RAW" in errors


async def test_ping_gives_up_when_nobody_answers(lab: Lab) -> None:
    status, lines, _ = await run(lab["a"], "ping", "198.18.0.99", "--count", "2", "--seconds", "0.1")
    assert (status, lines) == (1, ["1: no answer in 0.1 s", "2: no answer in 0.1 s"])


async def test_ping_reports_a_routers_error_by_the_header_that_it_quotes(routed: Lab) -> None:
    # The router has no route there. What it quotes ends with our identifier and sequence number.
    status, lines, _ = await run(routed["a"], "ping", "203.0.113.1", "--count", "1", "--seconds", "10")
    assert status == 1
    assert lines[0].startswith("1: destination unreachable from 198.18.0.254, ")


@pytest.mark.pure
@given(st.binary(max_size=100), st.sampled_from([0, 3, 5, 8, 11, 12]))
def test_no_icmp_message_is_too_strange(data: bytes, kind: int) -> None:
    for message in (data, bytes([kind, 0, 0, 0]) + data):
        right = message[:2] + internet_checksum(message[:2] + b"\0\0" + message[4:]).to_bytes(2, "big") + message[4:]
        ping.read_answer(right)
        traceroute.answers(right, "192.0.2.1", 1, 1)


@pytest.mark.pure
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0", bytes(40)], ids=["0", "4", "40"])
def test_the_request_is_found_behind_quoted_ip_options(options: bytes) -> None:
    quoted = Header(src="192.0.2.1", dst="192.0.2.2", ttl=1, protocol=1, options=options).with_checksum().marshal()
    message = bytes([11, 0, 0, 0, 0, 0, 0, 0]) + quoted + traceroute.echo_request(0x1234, 5)
    message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
    assert traceroute.answers(message, "192.0.2.2", 0x1234, 5) is ICMPType.TIME_EXCEEDED
    assert traceroute.answers(message, "192.0.2.2", 0x1234, 6) is None
    assert traceroute.answers(message, "192.0.2.3", 0x1234, 5) is None
    assert ping.read_answer(message) == (ICMPType.TIME_EXCEEDED, 0x1234, 5)


# Answers that belong to somebody else


MATCHERS: Final[dict[str, Callable[..., ICMPType | None]]] = {
    "ping": lambda message, address, *request: ping.answers(message, address, ping.echo_request(*request)),
    "traceroute": traceroute.answers,
}
ERRORS: Final = (ICMPType.DESTINATION_UNREACHABLE, ICMPType.TIME_EXCEEDED)


def with_checksum(message: bytes) -> bytes:
    blank = message[:2] + b"\0\0" + message[4:]
    return blank[:2] + internet_checksum(blank).to_bytes(2, "big") + blank[4:]


def to_reply(request: bytes) -> bytes:
    return with_checksum(b"\0" + request[1:])


def to_error(kind: int, quoted: bytes, *, dst: str | IPv4Address, protocol: int = 1, options: bytes = b"") -> bytes:
    header = Header(src="192.0.2.1", dst=dst, ttl=1, protocol=protocol, options=options).with_checksum()
    return with_checksum(bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + header.marshal() + quoted)


numbers = st.integers(0, 0xFFFF)
octets_of_data = st.binary(min_size=1, max_size=40)


@pytest.mark.pure
@pytest.mark.parametrize("example_name", MATCHERS)
@given(
    kind=st.sampled_from(ERRORS),
    identifier=numbers,
    sequence=numbers,
    data=octets_of_data,
    quoted=st.integers(0, 60),
    field=st.sampled_from(["identifier", "sequence", "data", "type", "destination", "protocol"]),
    difference=st.integers(1, 255),
    options=st.sampled_from([b"", b"\x94\x04\0\0", bytes(40)]),
)
def test_an_error_is_taken_for_the_request_that_it_quotes_and_for_no_other(
    example_name: str,
    kind: ICMPType,
    identifier: int,
    sequence: int,
    data: bytes,
    quoted: int,
    field: str,
    difference: int,
    options: bytes,
) -> None:
    answers = MATCHERS[example_name]
    address = IPv4Address("192.0.2.2")
    mine = str(address), identifier, sequence, data
    request = traceroute.echo_request(identifier, sequence, data)
    enough = quoted >= 8
    own = to_error(kind, request[:quoted], dst=address, options=options)
    assert answers(own, *mine) is (kind if enough else None)
    # RFC 4884: zeros up to 128 octets, before an extension.
    if quoted >= len(request):
        padded = to_error(kind, (request + bytes(128))[:128] + b"\x20\0\0\0", dst=address, options=options)
        assert answers(padded, *mine) is kind

    other, destination, protocol = request, address, 1
    if field == "identifier":
        other = traceroute.echo_request(identifier ^ difference, sequence, data)
    elif field == "sequence":
        other = traceroute.echo_request(identifier, sequence ^ difference, data)
    elif field == "data":  # One octet that is another always changes the checksum.
        other = traceroute.echo_request(identifier, sequence, bytes([data[0] ^ difference]) + data[1:])
    elif field == "type":
        other = bytes([request[0] ^ difference]) + request[1:]
    elif field == "destination":
        destination = IPv4Address(int(address) ^ difference)
    else:
        protocol = 1 ^ difference
    others = to_error(kind, other[: max(quoted, 8)], dst=destination, protocol=protocol, options=options)
    assert answers(others, *mine) is None


@pytest.mark.pure
@pytest.mark.parametrize("example_name", MATCHERS)
@given(identifier=numbers, sequence=numbers, data=octets_of_data, difference=st.integers(1, 255))
def test_a_reply_is_taken_for_the_request_that_it_returns_and_for_no_other(
    example_name: str, identifier: int, sequence: int, data: bytes, difference: int
) -> None:
    answers = MATCHERS[example_name]
    mine = "192.0.2.2", identifier, sequence, data
    request = traceroute.echo_request(identifier, sequence, data)
    assert answers(to_reply(request), *mine) is ICMPType.ECHO_REPLY
    for others in (
        traceroute.echo_request(identifier ^ difference, sequence, data),
        traceroute.echo_request(identifier, sequence ^ difference, data),
        traceroute.echo_request(identifier, sequence, bytes([data[0] ^ difference]) + data[1:]),
        traceroute.echo_request(identifier, sequence, data[1:]),
        traceroute.echo_request(identifier, sequence, data + b"\0"),
    ):
        assert answers(to_reply(others), *mine) is None
    assert answers(request, *mine) is None  # The loopback interface shows requests, too.


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
    hop = await traceroute.probe(conn, "127.0.0.1", 1, identifier=identifier)
    return ICMPType(hop.type)


def raw_ping() -> PacketConn:
    conn, _ = ping.open_privileged()
    assert isinstance(conn, PacketConn)
    return conn


ASKERS: Final = {"ping": (raw_ping, ping_once), "traceroute": (traceroute.open_tracer, probe_once)}


@pytest.mark.parametrize("second", ASKERS)
@pytest.mark.parametrize("first", ASKERS)
async def test_two_who_chose_the_same_numbers_take_their_own_replies(echoes: Echoes, first: str, second: str) -> None:
    done: list[int] = []

    async def ask(number: int, name: str) -> None:
        opener, once = ASKERS[name]
        async with opener() as conn:
            assert await once(conn, 0x1234) is ICMPType.ECHO_REPLY
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
    opener, once = ASKERS[name]
    done = trio.Event()

    async def ask(conn: PacketConn) -> None:
        await once(conn, 0x1234)
        done.set()

    with trio.fail_after(SECONDS):
        async with opener() as conn:
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

    (one, number_of_one), (other, number_of_other) = [await ping.open_unprivileged() for _ in range(2)]
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
        async with raw_ping() as conn, raw_ping() as watching, open_udp() as udp, trio.open_nursery() as nursery:
            nursery.start_soon(ask, conn)
            await echoes.hear()
            await udp.send_to(b"?", ("127.0.0.1", 9))
            assert (await watching.receive()).payload[:2] == bytes([ICMPType.DESTINATION_UNREACHABLE, 3])
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

    async def trace(conn: PacketConn, address: str, hops: int) -> None:
        hop = await traceroute.probe(conn, address, hops)
        found.append(((address, hops), (hop.peer, hop.type)))

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
                    conn = await opened.enter_async_context(routed["a"].call(traceroute.open_tracer))
                    tasks.append(functools.partial(trace, conn, address, hops))
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


async def test_traceroute_lists_the_router_then_the_destination(routed: Lab, tmp_path: Path) -> None:
    destination = str(routed["b"].addresses[0])
    with wire(routed["a"]) as wire_of_a:
        status, lines, _ = await run(routed["a"], "traceroute", destination, "--seconds", "10")
        captured = frames(wire_of_a)
    assert status == 0
    assert [line.split("  ")[:3] for line in lines] == [
        ["1", "198.18.0.254", "time exceeded"],
        ["2", destination, "echo reply"],
    ]
    assert all(float(line.split("  ")[3].removesuffix(" ms")) > 0 for line in lines)
    probes = fields(captured, tmp_path, "icmp.type == 8 and !icmp.type == 11", "ip.ttl", "icmp.checksum.status")
    assert probes == [["1", "1"], ["2", "1"]]  # A status of 1 is good.


async def test_traceroute_shows_a_hop_that_does_not_answer(lab: Lab) -> None:
    status, lines, _ = await run(lab["a"], "traceroute", "198.18.0.99", "--hops", "2", "--seconds", "0.1")
    assert (status, lines) == (1, ["1  *", "2  *"])


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
            await sender.send_to(ping.echo_request(identifier, 1, b""), ("127.0.0.1", 0))
        with trio.fail_after(10):
            heard = await conn.receive_batch()
        assert [datagram.payload[:6:5] for datagram in heard] == [b"\0\x34"]


async def test_a_raw_filter_skips_ip_options() -> None:
    async with filters.open_for_replies() as conn, open_raw(1) as sender:
        for options in (b"", b"\1" * 40):
            reply = bytearray(ping.echo_request(4660, 1, b""))
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
        await errors.send_to(ping.echo_request(1, 1, b""), (str(lab["b"].addresses[0]), 0))
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
