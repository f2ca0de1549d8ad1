"""What the kernel says to octets that no library would write; the simulated network says the same."""

from __future__ import annotations

import contextlib
import errno
import struct
from ipaddress import IPv4Address

import pytest

from support.here import BOTH
from trio_ipv4 import open_ip, open_udp
from trio_ipv4._abi import structs
from trio_ipv4._abi.linux import LINUX

pytestmark = BOTH

GROUP, SOURCE = IPv4Address("239.1.2.3").packed, IPv4Address("192.0.2.1").packed
JOIN = structs.group_req(LINUX, 1, GROUP)
JOIN_SOURCE = structs.group_source_req(LINUX, 1, GROUP, SOURCE)
FILTER = structs.group_filter(LINUX, 1, GROUP, 1, [SOURCE])


def with_family(request: bytes, offset: int) -> bytes:
    """Name another family than AF_INET there: AF_INET6."""
    return request[:offset] + struct.pack("<H", 10) + request[offset + 2 :]


def number(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


SETTINGS: dict[str, tuple[str, bytes, int]] = {
    "a join of nothing": ("MCAST_JOIN_GROUP", b"", errno.EINVAL),
    "a join that is cut off": ("MCAST_JOIN_GROUP", JOIN[:-1], errno.EINVAL),
    "a join of another family": ("MCAST_JOIN_GROUP", with_family(JOIN, 8), errno.EINVAL),
    "a join of a host": ("MCAST_JOIN_GROUP", structs.group_req(LINUX, 1, SOURCE), errno.EINVAL),
    "a join on no interface": ("MCAST_JOIN_GROUP", structs.group_req(LINUX, 99, GROUP), errno.ENODEV),
    "a join without a route": ("MCAST_JOIN_GROUP", structs.group_req(LINUX, 0, GROUP), errno.ENODEV),
    "a leave of nobody": ("MCAST_LEAVE_GROUP", JOIN, errno.EADDRNOTAVAIL),
    "a leave without a route": ("MCAST_LEAVE_GROUP", structs.group_req(LINUX, 0, GROUP), errno.ENODEV),
    "a source that is cut off": ("MCAST_JOIN_SOURCE_GROUP", JOIN_SOURCE[:-1], errno.EINVAL),
    "a source and more": ("MCAST_JOIN_SOURCE_GROUP", JOIN_SOURCE + b"\0", errno.EINVAL),
    "a source of another family": ("MCAST_JOIN_SOURCE_GROUP", with_family(JOIN_SOURCE, 136), errno.EADDRNOTAVAIL),
    "a block of nobody": ("MCAST_BLOCK_SOURCE", JOIN_SOURCE, errno.EINVAL),
    "an unblock of nobody": ("MCAST_UNBLOCK_SOURCE", JOIN_SOURCE, errno.EINVAL),
    "a leave of a source of nobody": ("MCAST_LEAVE_SOURCE_GROUP", JOIN_SOURCE, errno.EINVAL),
    "a filter that is cut off": ("MCAST_MSFILTER", FILTER[:100], errno.EINVAL),
    "a filter without its sources": ("MCAST_MSFILTER", FILTER[:-128], errno.EINVAL),
    "a filter of nobody": ("MCAST_MSFILTER", FILTER, errno.EINVAL),
    "a filter of another family": ("MCAST_MSFILTER", with_family(FILTER, 8), errno.EADDRNOTAVAIL),
    "a filter of too many": (
        "MCAST_MSFILTER",
        structs.group_filter(LINUX, 1, GROUP, 1, [bytes([10, 0, 0, n]) for n in range(1, 12)]),
        errno.ENOBUFS,
    ),
    "a TTL of nothing": ("IP_TTL", b"", errno.EINVAL),
    "a TTL of one octet": ("IP_TTL", b"\5", 0),
    "a switch of the socket's of one octet": ("SO_BROADCAST", b"\1", errno.EINVAL),
    "an interface of three octets": ("IP_MULTICAST_IF", b"\0\0\0", errno.EINVAL),
    "an interface by its address": ("IP_MULTICAST_IF", bytes([127, 0, 0, 1]), 0),
    "an interface by nobody's address": ("IP_MULTICAST_IF", SOURCE, errno.EADDRNOTAVAIL),
    "a device that is not there": ("SO_BINDTODEVICE", b"nope\0", errno.ENODEV),
    "a device": ("SO_BINDTODEVICE", b"lo\0", 0),
    "a device of a negative index": ("SO_BINDTOIFINDEX", number(-1), errno.EINVAL),
    "a program where none is": ("SO_DETACH_FILTER", number(0), errno.ENOENT),
    "a header over UDP": ("IP_HDRINCL", number(1), errno.ENOPROTOOPT),
    "an ICMP filter over UDP": ("ICMP_FILTER", number(0), errno.ENOPROTOOPT),
    "IP options that are too long": ("IP_OPTIONS", bytes(41), errno.EINVAL),
    "IP options": ("IP_OPTIONS", b"\1\1\1\0", 0),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_setting(case: str) -> None:
    name, value, expected = SETTINGS[case]
    option = LINUX.option(name)
    with contextlib.closing(open_udp()) as conn:
        try:
            conn._socket.setsockopt(option.level, option.name, value)
            found = 0
        except OSError as error:
            found = error.errno or 0
    assert errno.errorcode.get(found, found) == errno.errorcode.get(expected, expected)


GETTINGS = {
    "SO_TYPE": 2,
    "SO_DOMAIN": 2,
    "SO_PROTOCOL": 17,
    "SO_BINDTOIFINDEX": 0,
    "SO_RCVBUF": 2304,
    "SO_SNDBUF": 4608,
    "IP_TTL": 64,
    "IP_MULTICAST_TTL": 1,
    "IP_MULTICAST_LOOP": 1,
    "SO_REUSEADDR": 0,
}


@pytest.mark.parametrize("name", GETTINGS)
def test_getting(name: str) -> None:
    option = LINUX.option(name)
    with contextlib.closing(open_udp()) as conn:
        if name in ("SO_RCVBUF", "SO_SNDBUF"):
            conn._socket.setsockopt(option.level, option.name, number(1))  # The smallest is what one gets.
        found = conn._socket.getsockopt(option.level, option.name, bytes(4))
    assert int.from_bytes(found, "little") == GETTINGS[name]


def test_the_filter_of_a_host_or_of_nobody_can_not_be_read() -> None:
    with contextlib.closing(open_udp()) as conn:
        for name, group, expected in (
            ("MCAST_MSFILTER", SOURCE, errno.EINVAL),
            ("MCAST_MSFILTER", GROUP, errno.EADDRNOTAVAIL),
            ("IP_MSFILTER", SOURCE, errno.EINVAL),
            ("IP_MSFILTER", GROUP, errno.ENODEV),
        ):
            option = LINUX.option(name)
            value = (
                structs.group_filter(LINUX, 1, group, 0, ())
                if name == "MCAST_MSFILTER"
                else structs.ip_msfilter(LINUX, group, 0, 0)
            )
            with pytest.raises(OSError) as caught:  # noqa: PT011  # Only the errno counts.
                conn._socket.getsockopt(option.level, option.name, value)
            assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[expected], (name, group)


def test_a_raw_socket_of_another_protocol_has_no_icmp_filter() -> None:
    option = LINUX.option("ICMP_FILTER")
    with contextlib.closing(open_ip(253)) as conn:
        for attempt in (
            lambda: conn._socket.setsockopt(option.level, option.name, number(0)),
            lambda: conn._socket.getsockopt(option.level, option.name, bytes(4)),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011  # Only the errno counts.
                attempt()
            assert caught.value.errno == errno.EOPNOTSUPP
