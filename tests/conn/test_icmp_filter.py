from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.here import BOTH, take
from support.systems import on
from trio_ipv4 import (
    ICMPFilter,
    ICMPType,
    PacketConn,
    RawConn,
    RawInstruction,
    UnsupportedError,
    internet_checksum,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._kernel.native import NativeSystem

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = BOTH

ICMP = socket.IPPROTO_ICMP
HERE = ("127.0.0.1", 0)
SOL_RAW, ICMP_FILTER = 255, 1  # linux/socket.h, linux/icmp.h


def echo(number: int, kind: int = ICMPType.ECHO) -> bytes:
    """An ICMP message (RFC 792)."""
    fields = struct.pack(">BBHHH", kind, 0, 0, 1, number)
    return fields[:2] + internet_checksum(fields).to_bytes(2, "big") + fields[4:]


def heard(conn: PacketConn | RawConn) -> list[int]:
    """The types of the messages that are queued; loopback delivers, and the kernel answers, before sending returns."""
    return [packet[(packet[0] & 0xF) * 4] for packet in take(conn)]


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_a_blocked_type_does_not_arrive(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(ICMP) as conn, open_ip(ICMP) as sender:
        sender.icmp_filter = ICMPFilter.block_all()
        await sender.send_to(echo(1), HERE)
        assert heard(conn) == [ICMPType.ECHO, ICMPType.ECHO_REPLY]
        conn.icmp_filter = ICMPFilter().block(ICMPType.ECHO)
        await sender.send_to(echo(2), HERE)
        assert heard(conn) == [ICMPType.ECHO_REPLY]
        conn.icmp_filter = ICMPFilter.block_all().accept(ICMPType.ECHO)
        await sender.send_to(echo(3), HERE)
        assert heard(conn) == [ICMPType.ECHO]
        conn.icmp_filter = ICMPFilter.accept_all()
        await sender.send_to(echo(4), HERE)
        assert heard(conn) == [ICMPType.ECHO, ICMPType.ECHO_REPLY]
        assert heard(sender) == []


async def test_types_above_31_are_never_filtered() -> None:
    async with open_ip(ICMP) as conn:
        conn.icmp_filter = ICMPFilter.block_all()
        await conn.send_to(echo(1), HERE)
        await conn.send_to(echo(1, ICMPType.EXTENDED_ECHO_REQUEST), HERE)
        assert heard(conn)[:1] == [ICMPType.EXTENDED_ECHO_REQUEST]


@pytest.mark.parametrize("opener", [open_ip, open_raw])
async def test_what_is_set_is_what_the_kernel_has(opener: Callable[[int], PacketConn | RawConn]) -> None:
    async with opener(ICMP) as conn:
        assert conn.icmp_filter == ICMPFilter.accept_all()
        for mask in (1 << 8, 0xFFFF_FFFF, 0x8000_0000, 1, 0):
            conn.icmp_filter = ICMPFilter(mask)
            assert struct.unpack("=I", conn.socket.getsockopt(SOL_RAW, ICMP_FILTER, 4)) == (mask,)
            assert conn.icmp_filter == ICMPFilter(mask)
        conn.socket.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFF_FEFF))
        assert conn.icmp_filter == ICMPFilter.block_all().accept(ICMPType.ECHO)


@pytest.mark.parametrize("opener", [open_udp, lambda: open_ip(253), lambda: open_raw(253)])
async def test_other_sockets_have_none_and_say_which_have(opener: Callable[[], Any]) -> None:
    refusals = (errno.EOPNOTSUPP, errno.ENOPROTOOPT)
    async with opener() as conn:
        with pytest.raises(OSError, match=r"can't get the ICMP filter: .*open_ip\(1\) or open_raw\(1\)") as caught:
            conn.icmp_filter  # noqa: B018
        assert caught.value.errno in refusals
        with pytest.raises(OSError, match=r"can't set the ICMP filter: .*open_ip\(1\) or open_raw\(1\)") as caught:
            conn.icmp_filter = ICMPFilter()
        assert caught.value.errno in refusals


@pytest.mark.parametrize("value", [None, 0, 0xFF, "echo", ICMPType.ECHO])
async def test_what_is_no_filter_is_refused(value: Any) -> None:
    async with open_ip(ICMP) as conn:
        conn.icmp_filter = ICMPFilter(5)
        with pytest.raises(TypeError, match="icmp_filter must be an ICMPFilter, got"):
            conn.icmp_filter = value
        assert conn.icmp_filter == ICMPFilter(5)


async def test_a_platform_without_the_filter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    system = NativeSystem()
    with on(system):
        conn = open_ip(ICMP)
    async with conn:
        with monkeypatch.context() as patch:
            patch.setattr(system, "platform", DARWIN)
            with pytest.raises(UnsupportedError, match="ICMP_FILTER is not available on darwin"):
                conn.icmp_filter  # noqa: B018
            with pytest.raises(UnsupportedError, match="ICMP_FILTER is not available on darwin"):
                conn.icmp_filter = ICMPFilter()
            with pytest.raises(UnsupportedError, match="SO_ATTACH_FILTER is not available on darwin"):
                conn.attach_filter([RawInstruction(6, 0, 0, 0)])


async def test_a_closed_connection_has_none() -> None:
    conn = open_ip(ICMP)
    conn.close()
    with pytest.raises(trio.ClosedResourceError):
        conn.icmp_filter = ICMPFilter()
