"""The way from Go: the tables of docs/explanation/from-go.md, and that what Go gets wrong is right here.

tests/go_names.txt is every exported name of Go's package, printed by tests/peers/go_names.go.
"""

from __future__ import annotations

import ast
import errno
import importlib
import os
import re
import shutil
import socket
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio

import trio_ipv4
from trio_ipv4 import (
    Conn,
    ControlFlags,
    ControlMessage,
    Datagram,
    Header,
    ICMPFilter,
    ICMPType,
    PacketConn,
    ParseError,
    PartialSendError,
    RawConn,
    RawDatagram,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._values.control import parse_control
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Callable

HERE: Final = Path(__file__).parent
PAGE: Final = (HERE.parents[1] / "docs" / "explanation" / "from-go.md").read_text(encoding="utf-8")
GO_NAMES: Final = (HERE / "go_names.txt").read_text(encoding="ascii").split()
GO_PACKAGE: Final = Path("/usr/share/gocode/src/golang.org/x/net/ipv4")
GROUP: Final = "239.1.2.3"
PROTOCOL: Final = 253  # RFC 3692: for experiments
LO: Final = 1


def rows(first_heading: str) -> list[list[str]]:
    """The rows of every table of the page whose first column is headed so."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        heading, _, *lines = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
        ]
        if heading[0] == first_heading:
            found += lines
    assert found
    return found


def resolve(name: str) -> object:
    """Find what a Python name stands for: one of trio_ipv4, or of a module that it begins with."""
    first, *rest = name.split(".")
    if hasattr(trio_ipv4, first):
        assert first in trio_ipv4.__all__
        value: Any = getattr(trio_ipv4, first)
    else:
        value = importlib.import_module(first)
    for part in rest:
        value = getattr(value, part)
    return value


# The tables


@pytest.mark.pure
def test_every_name_of_go_has_a_row() -> None:
    named = [name for row in rows("Go") for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(named) == sorted(set(named)), "a name has two rows"
    assert sorted(named) == sorted(GO_NAMES)


@pytest.mark.pure
def test_every_python_name_exists() -> None:
    names = re.findall(r"\{py:obj\}`([^`]+)`", PAGE)
    assert len(names) > len(GO_NAMES)
    for name in names:
        resolve(name)


@pytest.mark.pure
def test_every_row_has_a_counterpart_or_a_reason() -> None:
    for go, here, differs in rows("Go"):
        assert differs, f"{go} has no third column"
        assert re.search(r"\{py:obj\}`", here) or (here == "—" and len(differs) > 40), go


@pytest.mark.pure
def test_the_list_is_what_gos_package_exports(tmp_path: Path) -> None:
    if shutil.which("go") is None or not GO_PACKAGE.exists():
        pytest.skip("Go and its x/net are not installed (Debian: golang-go, golang-golang-x-net-dev)")
    mode = {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "GOCACHE": str(tmp_path),
    }
    argv = ["go", "run", str(HERE / "go_names.go")]
    printed = subprocess.run(argv, env={**os.environ, **mode}, capture_output=True, text=True, check=True).stdout
    assert sorted(set(printed.split()) - set(GO_NAMES)) == []


@pytest.mark.pure
def test_every_error_of_go_leads_to_a_test_and_every_test_to_an_error() -> None:
    shown = [name for row in rows("In Go") for name in re.findall(r"`(test_\w+)`", row[2])]
    assert len(shown) == len(rows("In Go"))
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [node.name for node in functions if node.name.startswith("test_")]
    own = tests[: tests.index("test_every_error_of_go_leads_to_a_test_and_every_test_to_an_error") + 1]
    assert sorted(shown) == sorted(set(tests) - set(own))


# Where Go errs


@pytest.mark.parametrize("value", [None, "", "::1", "example.org", ("239.1.2.3", 5000), b"\xef\1\2\3", 0xEF010203])
async def test_what_is_no_address_is_refused_by_name(value: Any) -> None:
    async with open_udp() as conn:
        before = igmp_groups()
        with pytest.raises((TypeError, ValueError), match="group"):
            conn.join_group(LO, value)
        with pytest.raises((TypeError, ValueError), match="source"):
            conn.join_source_specific_group(LO, "232.1.2.3", value)
        assert igmp_groups() == before


async def test_nothing_but_a_filter_is_a_filter() -> None:
    async with open_ip(1) as conn:
        for value in (None, 0, ICMPFilter):
            with pytest.raises(TypeError, match="icmp_filter must be an ICMPFilter"):
                conn.icmp_filter = value  # type: ignore[assignment]
        assert conn.icmp_filter == ICMPFilter.accept_all()


async def test_an_empty_program_is_refused() -> None:
    async with open_udp() as conn:
        with pytest.raises(ValueError, match="a program must have from 1 to 4096 instructions, got 0"):
            conn.attach_filter(())


async def test_batches_of_nothing_are_harmless() -> None:
    async with open_udp("127.0.0.1") as conn:
        await conn.send_batch(())
        with pytest.raises(ValueError, match="limit"):
            await conn.receive_batch(0)
        await conn.send_to(b"still there", conn.local_endpoint)
        assert [datagram.payload for datagram in await conn.receive_batch()] == [b"still there"]


async def test_the_wrong_kind_of_socket_is_refused_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain, trio.socket.socket() as stream:
        udp = trio.socket.from_stdlib_socket(plain)
        for kind, value in (
            (Conn, None),
            (PacketConn, None),
            (PacketConn, plain),
            (PacketConn, stream),
            (RawConn, udp),
        ):
            with pytest.raises(TypeError, match="pass a "):
                kind(value)  # type: ignore[operator]


async def loopback_pair(options: bytes) -> tuple[RawConn, RawDatagram]:
    header = Header(src="127.0.0.1", dst="127.0.0.1", ttl=9, protocol=PROTOCOL, options=options)
    return open_raw(PROTOCOL), RawDatagram(header, b"HELLO")


@pytest.mark.parametrize("options", [b"", b"\1" * 4, b"\1" * 40], ids=["0", "4", "40"])
async def test_a_short_buffer_cuts_the_payload_never_the_header(options: bytes) -> None:
    conn, sent = await loopback_pair(options)
    async with conn:
        for max_bytes in (1, 4, 5):
            await conn.send(sent)
            heard = await conn.receive(max_bytes)
            assert heard.header.options == options
            assert heard.header.checksum_ok
            assert (heard.payload, heard.truncated) == (b"HELLO"[:max_bytes], max_bytes < 5)


@pytest.mark.parametrize("options", [b"", b"\1" * 4, b"\1" * 40], ids=["0", "4", "40"])
async def test_ip_options_are_stripped_in_single_and_batch_calls(options: bytes) -> None:
    sender, sent = await loopback_pair(options)
    async with sender, open_ip(PROTOCOL) as conn:
        await sender.send_batch([sent] * 3)
        assert (await conn.receive()).payload == b"HELLO"
        assert [datagram.payload for datagram in await conn.receive_batch()] == [b"HELLO"] * 2


async def test_the_multicast_interface_reads_back() -> None:
    async with open_udp() as conn:
        conn.multicast_interface = LO
        assert conn.multicast_interface == LO
        conn.multicast_interface = None
        assert conn.multicast_interface is None


@pytest.mark.parametrize(
    ("name", "value"), [("tos", 256), ("tos", -1), ("ttl", 0), ("ttl", -1), ("ttl", 256), ("multicast_ttl", 256)]
)
async def test_options_are_never_masked(name: str, value: int) -> None:
    async with open_udp() as conn:
        before = getattr(conn, name)
        with pytest.raises(ValueError, match=f"{name} must be from"):
            setattr(conn, name, value)
        assert getattr(conn, name) == before


async def test_without_the_source_the_destination_still_comes() -> None:
    async with open_udp("127.0.0.1") as conn:
        conn.control_flags = ControlFlags.SRC | ControlFlags.DST | ControlFlags.INTERFACE
        conn.control_flags &= ~ControlFlags.SRC
        await conn.send_to(b"", conn.local_endpoint)
        control = (await conn.receive()).control
        assert (control.src, control.dst, control.ifindex) == (None, IPv4Address("127.0.0.1"), LO)


async def test_truncation_is_told() -> None:
    async with open_udp("127.0.0.1") as conn:
        for _ in range(2):
            await conn.send_to(b"12345", conn.local_endpoint)
        datagram = await conn.receive(4)
        assert (datagram.payload, datagram.truncated) == (b"1234", True)
        datagram = await conn.receive(5)
        assert (datagram.payload, datagram.truncated) == (b"12345", False)


async def test_a_datagram_without_facts_has_an_empty_control_message() -> None:
    async with open_udp("127.0.0.1", control_flags=ControlFlags(0)) as conn:
        await conn.send_to(b"", conn.local_endpoint)
        assert (await conn.receive()).control == ControlMessage()


@pytest.mark.pure
def test_the_ttl_is_right_on_a_big_endian_machine() -> None:
    octets = struct.pack(">QiiI4x", 20, 0, 2, 64)  # struct cmsghdr of 64 bits, IPPROTO_IP, IP_TTL
    assert parse_control(attrs.evolve(LINUX, byte_order="big", word=8), octets).ttl == 64


@pytest.mark.pure
def test_blocking_a_type_of_32_or_more_is_refused() -> None:
    for kind in (ICMPType.PHOTURIS, ICMPType.EXTENDED_ECHO_REQUEST, ICMPType.EXTENDED_ECHO_REPLY, 32, 255):
        with pytest.raises(ValueError, match="type must be from 0 to 31"):
            ICMPFilter().block(kind)


@pytest.mark.pure
def test_a_header_that_contradicts_itself_is_refused() -> None:
    good = Header(src="192.0.2.1", dst="192.0.2.2", options=b"\1\1\1\1").marshal()
    for first in (0x40, 0x44, 0x47, 0x4F, 0x56, 0x66, 0x06):  # A short or long header length; another version
        with pytest.raises(ParseError):
            Header.parse(bytes([first]) + good[1:])
    with pytest.raises(ParseError):
        Header.parse(b"")
    assert Header.parse(good).options == b"\1\1\1\1"
    assert Header.parse(b"\x45" + good[1:]).options == b""


@pytest.mark.pure
@pytest.mark.parametrize(
    "fields",
    [
        *({name: value} for name in ("tos", "ttl", "protocol") for value in (-1, 256)),
        *({name: value} for name in ("total_len", "id", "checksum") for value in (-1, 65536)),
        {"fragment_offset": 8192},
        {"flags": 8},
        {"version": 6},
        {"options": bytes(3)},
        {"options": bytes(44)},
        {"header_len": 24},
        {"src": "::1"},
    ],
    ids=str,
)
def test_a_header_out_of_range_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Header(**{"src": "192.0.2.1", "dst": "192.0.2.2", **fields})


async def test_a_quoted_header_is_in_wire_order() -> None:
    """That the kernel of Darwin wants another order is RawConn's affair: tests/values/test_header.py has the octets."""
    request = Header(src="127.0.0.1", dst="127.0.0.1", ttl=1, protocol=PROTOCOL, id=0x1234, tos=8)
    async with open_raw(PROTOCOL) as sender, open_ip(1) as conn:
        # Nobody listens on this protocol: "destination unreachable", with the header quoted.
        unheard = attrs.evolve(request, protocol=PROTOCOL + 1)
        await sender.send(RawDatagram(unheard, b"12345678"))
        with trio.fail_after(10):
            error = (await conn.receive()).payload
    assert error[0] == ICMPType.DESTINATION_UNREACHABLE
    quoted = Header.parse(error[8:])
    assert quoted.checksum_ok
    assert attrs.evolve(quoted, checksum=0, total_len=0) == unheard
    assert quoted.total_len == 28


async def test_a_batch_sent_in_part_says_how_many_and_why() -> None:
    async with open_udp("127.0.0.1") as conn:
        good, bad = (Datagram(bytes(size), conn.local_endpoint) for size in (1, 65508))  # 65507 fit into IP.
        with pytest.raises(PartialSendError) as caught:
            await conn.send_batch([good, good, bad, good, good])
        assert (caught.value.sent, caught.value.errno) == (2, errno.EMSGSIZE)
        assert len(await conn.receive_batch()) == 2


async def test_a_group_can_be_bound_to() -> None:
    async with open_udp(GROUP, bind_group=True) as conn, open_udp() as sender:
        address, port = conn.local_endpoint
        assert address == GROUP
        async with conn.joined(LO, GROUP):
            sender.multicast_interface = LO
            await sender.send_to(b"to the host", ("127.0.0.1", port))
            await sender.send_to(b"to the group", (GROUP, port))
            assert [datagram.payload for datagram in await conn.receive_batch()] == [b"to the group"]


@pytest.mark.parametrize("opener", [open_udp, lambda: open_udp(GROUP), lambda: open_udp(GROUP, bind_group=True)])
async def test_multicast_loopback_stays_as_the_kernel_has_it(opener: Callable[[], PacketConn]) -> None:
    async with opener() as conn:
        assert conn.multicast_loopback is True
        assert conn.socket.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 1


async def test_only_what_this_connection_joined_is_heard() -> None:
    async with open_udp("224.0.0.0", multicast_all=True) as joining:
        _, port = joining.local_endpoint
        async with open_udp("224.0.0.0", port) as conn, joining.joined(LO, GROUP), conn.joined(LO, "239.1.2.4"):
            conn.multicast_interface = LO
            await conn.send_to(b"not ours", (GROUP, port))
            await conn.send_to(b"ours", ("239.1.2.4", port))
            assert [datagram.payload for datagram in await conn.receive_batch()] == [b"ours"]
            assert [datagram.payload for datagram in await joining.receive_batch()] == [b"not ours", b"ours"]
