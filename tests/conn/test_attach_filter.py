from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.here import BOTH, send, take
from trio_ipv4 import (
    Header,
    PacketConn,
    RawConn,
    RawDatagram,
    RawInstruction,
    open_ip,
    open_raw,
    open_udp,
    parse_bpf,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = BOTH

HERE = ("127.0.0.1", 5000)
PROTOCOL = 253
SO_LOCK_FILTER = 44  # asm-generic/socket.h
# linux/bpf_common.h
LOAD_OCTET, JUMP_EQUAL, RETURN = 0x30, 0x15, 0x06
NOTHING = [RawInstruction(RETURN, 0, 0, 0)]
EVERYTHING = [RawInstruction(RETURN, 0, 0, 0xFFFF)]


def begins_with(octet: int, offset: int) -> list[RawInstruction]:
    """Accept what has that octet at that offset."""
    return [
        RawInstruction(LOAD_OCTET, 0, 0, offset),
        RawInstruction(JUMP_EQUAL, 0, 1, octet),
        RawInstruction(RETURN, 0, 0, 0xFFFF),
        RawInstruction(RETURN, 0, 0, 0),
    ]


def queued(conn: PacketConn | RawConn) -> list[bytes]:
    """What the kernel has, without IP headers."""
    return [packet[20:] if conn.socket.type == socket.SOCK_RAW else packet for packet in take(conn)]


def put(*payloads: bytes) -> None:
    send(HERE, *payloads)


@pytest.fixture
def conn() -> PacketConn:
    return open_udp(*HERE)


async def test_over_udp_the_payload_begins_after_the_udp_header(conn: PacketConn) -> None:
    async with conn:
        conn.attach_filter(begins_with(ord("a"), 8))
        put(b"a1", b"b1", b"a2", b"")
        assert queued(conn) == [b"a1", b"a2"]


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_over_raw_ip_it_begins_after_the_ip_header(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(PROTOCOL) as conn, open_raw(255) as sender:
        conn.attach_filter(begins_with(ord("a"), 20))
        for payload in (b"a1", b"b1", b"a2"):
            await sender.send(RawDatagram(Header(src="127.0.0.1", dst="127.0.0.1", protocol=PROTOCOL, ttl=1), payload))
        assert queued(conn) == [b"a1", b"a2"]


async def test_a_program_may_be_any_iterable(conn: PacketConn) -> None:
    async with conn:
        conn.attach_filter(iter(NOTHING))
        put(b"x")
        assert queued(conn) == []


async def test_the_next_program_replaces_it_and_detaching_ends_it(conn: PacketConn) -> None:
    async with conn:
        conn.attach_filter(begins_with(ord("a"), 8))
        conn.attach_filter(begins_with(ord("b"), 8))
        put(b"a", b"b")
        assert queued(conn) == [b"b"]
        conn.detach_filter()
        put(b"a", b"b")
        assert queued(conn) == [b"a", b"b"]


async def test_a_program_may_cut_datagrams_short(conn: PacketConn) -> None:
    async with conn:
        conn.attach_filter([RawInstruction(RETURN, 0, 0, 8 + 3)])
        put(b"12345")
        assert queued(conn) == [b"123"]


async def test_what_was_queued_before_is_let_through(conn: PacketConn) -> None:
    # As the documentation of attach_filter says.
    async with conn:
        put(b"before")
        conn.attach_filter(NOTHING)
        put(b"after")
        assert (await conn.receive()).payload == b"before"
        assert queued(conn) == []


async def test_what_was_queued_before_can_be_discarded(conn: PacketConn) -> None:
    async with conn:
        put(b"before", b"before too")
        conn.attach_filter(NOTHING)
        with trio.move_on_after(0.01):
            while True:
                await conn.receive_batch()
        conn.attach_filter(begins_with(ord("a"), 8))
        put(b"a", b"b")
        assert (await conn.receive()).payload == b"a"


async def test_the_longest_program_is_attached(conn: PacketConn) -> None:
    # A program of 4,096 instructions needs more than net.core.optmem_max may allow, so a refusal for that is told.
    load = RawInstruction(LOAD_OCTET, 0, 0, 0)
    async with conn:
        try:
            conn.attach_filter([load] * 4095 + NOTHING)
        except OSError as error:
            told = error
        else:
            put(b"x")
            assert queued(conn) == []
            return
    assert told.errno == errno.ENOMEM
    assert "net.core.optmem_max" in str(told)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ([], ValueError, "a program must have from 1 to 4096 instructions, got 0"),
        (EVERYTHING * 4097, ValueError, "a program must have from 1 to 4096 instructions, got 4097"),
        ([RawInstruction(LOAD_OCTET, 0, 0, 0)], ValueError, "the last, must be a return"),
        ([RawInstruction(JUMP_EQUAL, 9, 0, 0), *NOTHING], ValueError, "instruction 0 jumps past the end"),
        ([(6, 0, 0, 0)], TypeError, r"instruction 0 must be a RawInstruction, got \(6, 0, 0, 0\)"),
        (None, TypeError, "not iterable"),
        (NOTHING[0], TypeError, "not iterable"),
    ],
)
async def test_what_is_no_program_is_refused_and_changes_nothing(
    conn: PacketConn, program: Any, error: type[Exception], message: str
) -> None:
    async with conn:
        conn.attach_filter(begins_with(ord("a"), 8))
        with pytest.raises(error, match=message):
            conn.attach_filter(program)
        put(b"a", b"b")
        assert queued(conn) == [b"a"]


@pytest.mark.parametrize(
    "instruction",
    [
        RawInstruction(0xFFFF, 0, 0, 0),  # No such opcode.
        RawInstruction(0x34, 0, 0, 0),  # BPF_ALU | BPF_DIV | BPF_K: by zero.
        RawInstruction(0x02, 0, 0, 16),  # BPF_ST: there are 16 slots.
    ],
)
async def test_what_the_kernel_does_not_know_is_refused_and_changes_nothing(
    conn: PacketConn, instruction: RawInstruction
) -> None:
    async with conn:
        conn.attach_filter(begins_with(ord("a"), 8))
        with pytest.raises(
            OSError, match=r"can't attach a filter of 2 instructions: .*doesn't know an instruction"
        ) as it:
            conn.attach_filter([instruction, *NOTHING])
        assert it.value.errno == errno.EINVAL
        put(b"a", b"b")
        assert queued(conn) == [b"a"]


async def test_detaching_nothing_is_refused(conn: PacketConn) -> None:
    async with conn:
        with pytest.raises(FileNotFoundError, match=r"can't detach the filter: .*no BPF program is attached") as caught:
            conn.detach_filter()
        assert caught.value.errno == errno.ENOENT


@pytest.mark.kernel_only("options that are not simulated")
async def test_a_locked_filter_stays(conn: PacketConn) -> None:
    async with conn:
        conn.attach_filter(begins_with(ord("a"), 8))
        conn.socket.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        with pytest.raises(PermissionError, match="SO_LOCK_FILTER") as caught:
            conn.attach_filter(EVERYTHING)
        assert caught.value.errno == errno.EPERM
        with pytest.raises(PermissionError, match="SO_LOCK_FILTER"):
            conn.detach_filter()
        put(b"a", b"b")
        assert queued(conn) == [b"a"]


# tcpdump's own programs


def compiled(expression: str) -> str:
    tcpdump = shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed")
    done = subprocess.run([tcpdump, "-ddd", "-y", "RAW", expression], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("opener", [open_ip, open_raw])
def test_a_program_of_tcpdump_filters_raw_ip(opener: Callable[[int], PacketConn | RawConn]) -> None:
    program = parse_bpf(compiled("ip[20] == 0x61 and src host 127.0.0.1"))

    async def main() -> None:
        async with opener(PROTOCOL) as conn, open_ip(PROTOCOL) as sender:
            conn.attach_filter(program)
            for payload in (b"a1", b"b1", b"a2"):
                await sender.send_to(payload, ("127.0.0.1", 0))
            await sender.send_to(b"a3", ("127.0.0.2", 0))
            heard = queued(conn)
            assert heard[:2] == [b"a1", b"a2"]

    trio.run(main)


def test_a_program_of_tcpdump_filters_udp_from_its_header_on() -> None:
    # Offset 2 of a UDP header is the destination port (RFC 768); tcpdump's offsets are the packet's, which a UDP socket
    # shows without the IP header. `ether[0]` is what begins at 0 for Ethernet.
    tcpdump = shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed")
    asked = [tcpdump, "-ddd", "-y", "EN10MB", "ether[2:2] == 5000 and ether[8] == 0x61"]
    program = parse_bpf(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)

    async def main() -> None:
        async with open_udp(*HERE) as conn:
            conn.attach_filter(program)
            put(b"a", b"b", b"", b"ab")
            assert queued(conn) == [b"a", b"ab"]

    trio.run(main)
