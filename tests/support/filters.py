"""What the kernel says that a socket hears, asked by ctypes: an oracle that shares no code with the library."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from support.here import machine

if TYPE_CHECKING:
    from trio_ipv4 import PacketConn, RawConn, SourceFilter

Filter: TypeAlias = "tuple[str, list[str]]"
"""`("include", ["10.0.0.1"])`, the sources in the order of their spelling."""

MCAST_MSFILTER, MCAST_INCLUDE = 48, 1  # linux/in.h
SOCKADDR = struct.Struct("=HH4s120x")  # struct sockaddr_in in a sockaddr_storage
CAPACITY = 64
LIBC = ctypes.CDLL(None, use_errno=True)


def kernel_filter(conn: PacketConn | RawConn, key: tuple[int, IPv4Address]) -> Filter | None:
    """Ask by MCAST_MSFILTER (RFC 3678 section 5.2) what this very socket hears; `None`: it is no member."""
    head = struct.pack("=I4x", key[0]) + SOCKADDR.pack(socket.AF_INET, 0, key[1].packed)
    head += struct.pack("=II", 0, CAPACITY)  # struct group_filter
    try:
        answer = getsockopt(conn, head + bytes(CAPACITY * SOCKADDR.size))
    except OSError as error:
        assert error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV)
        return None
    mode, count = struct.unpack_from("=II", answer, len(head) - 8)
    found = SOCKADDR.iter_unpack(answer[len(head) : len(head) + count * SOCKADDR.size])
    return "include" if mode == MCAST_INCLUDE else "exclude", sorted(str(IPv4Address(packed)) for _, _, packed in found)


def getsockopt(conn: PacketConn | RawConn, value: bytes) -> bytes:
    if machine() is not None:
        return conn.socket.system_socket.getsockopt(socket.IPPROTO_IP, MCAST_MSFILTER, value)
    buffer = ctypes.create_string_buffer(value, len(value))
    size = ctypes.c_uint32(len(buffer))
    if LIBC.getsockopt(conn.socket.fileno(), socket.IPPROTO_IP, MCAST_MSFILTER, buffer, ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw


def spell(sources: SourceFilter) -> Filter | None:
    """Return the same as `kernel_filter` would say it: INCLUDE {} is no membership."""
    excludes = sources.mode.value == "exclude"
    return (sources.mode.value, sorted(map(str, sources.sources))) if excludes or sources.sources else None
