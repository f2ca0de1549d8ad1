from __future__ import annotations

import errno
import pickle
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4 import (
    ControlMessage,
    ErrorOrigin,
    ICMPExtension,
    ICMPType,
    MPLSLabel,
    MPLSLabelStack,
    OtherControl,
    ParseError,
    PathMTUDiscovery,
    SocketError,
    Timestamping,
    marshal_extensions,
)
from trio_ipv4._abi import structs
from trio_ipv4._abi.linux import LINUX, linux
from trio_ipv4._values.socket_error import parse_socket_error
from trio_ipv4._values.timestamps import stamping_flags, wanted_stamps

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform

LINUXES = {f"{word}-{order}": linux(word=word, byte_order=order) for word in (4, 8) for order in ("little", "big")}
ROUTER = IPv4Address("198.18.0.2")
THERE = ("198.18.1.9", 5000)
REFUSED = SocketError(errno.ECONNREFUSED, ErrorOrigin.ICMP, 3, 3, 0, ROUTER, THERE, b"hello")

# As Linux 6.18 writes them (recvmsg(2) with MSG_ERRQUEUE), on 64 bits, little-endian.
PORT_UNREACHABLE = bytes.fromhex(
    "3000000000000000 00000000 0b000000 6f000000 02030300 00000000 00000000 0200 0000 c6120002 0000000000000000"
)
STAMP = bytes.fromhex(
    "4000000000000000 01000000 25000000 7ba50c6b00000000 f405f83200000000 00000000000000000000000000000000"
    "00000000000000000000000000000000"
    "3000000000000000 00000000 0b000000 2a000000 04000000 00000000 07000000 00000000000000000000000000000000"
)


def message(
    number: int,
    origin: int,
    kind: int = 0,
    code: int = 0,
    info: int = 0,
    data: int = 0,
    offender: bytes = structs.ANY,
    platform: Platform = LINUX,
) -> bytes:
    error = structs.ExtendedError(number, origin, kind, code, info, data, offender).octets(platform)
    return structs.cmsg(platform, *platform.control["IP_RECVERR"], error)


def test_an_icmp_error_is_read() -> None:
    assert parse_socket_error(LINUX, b"hello", PORT_UNREACHABLE, THERE) == REFUSED
    assert REFUSED.icmp_type is ICMPType.DESTINATION_UNREACHABLE


def test_a_transmit_timestamp_is_read() -> None:
    stamp = parse_socket_error(LINUX, b"", STAMP)
    assert stamp == SocketError(
        errno.ENOMSG, ErrorOrigin.TIMESTAMPING, timestamp_ns=0x6B0CA57B * 10**9 + 0x32F805F4, number=7
    )
    assert (stamp.destination, stamp.offender, stamp.icmp_type, stamp.icmp_code) == (None, None, None, None)


@pytest.mark.parametrize("platform", LINUXES.values(), ids=LINUXES)
def test_every_linux_lays_out_errors_and_stamps_its_own_way(platform: Platform) -> None:
    stamps = structs.scm_timestamping(platform, 1_700_000_000_123_456_789, 1_600_000_000_987_654_321)
    control = structs.cmsg(platform, *platform.control["SO_TIMESTAMPING"], stamps)
    stamp = parse_socket_error(platform, b"", control + message(42, 4, info=1, data=9, platform=platform))
    assert (stamp.timestamp_ns, stamp.hardware_timestamp_ns) == (1_700_000_000_123_456_789, 1_600_000_000_987_654_321)
    assert (stamp.number, stamp.info) == (9, 1)
    error = parse_socket_error(platform, b"", message(111, 2, 3, 3, offender=ROUTER.packed, platform=platform), THERE)
    assert error == attrs.evolve(REFUSED, payload=b"")


def test_an_error_has_the_time_at_which_it_came() -> None:
    stamp = structs.cmsg(LINUX, *LINUX.control["SO_TIMESTAMPNS"], struct.pack("<qq", 1_700_000_000, 5))
    error = parse_socket_error(LINUX, b"hello", stamp + PORT_UNREACHABLE, THERE)
    assert error == attrs.evolve(REFUSED, timestamp_ns=1_700_000_000_000_000_005)


@pytest.mark.parametrize(
    ("error", "mtu"),
    [
        (SocketError(errno.EMSGSIZE, ErrorOrigin.ICMP, 3, 4, 1400), 1400),
        (SocketError(errno.EMSGSIZE, ErrorOrigin.LOCAL, info=1500), 1500),
        (SocketError(errno.EMSGSIZE, ErrorOrigin.ICMP, 3, 4, 0), None),  # Routers before RFC 1191 tell none.
        (SocketError(errno.EPROTO, ErrorOrigin.ICMP, 12, 0, 20), None),
        (SocketError(errno.EHOSTUNREACH, ErrorOrigin.ICMP, 3, 13, 7), None),
        (SocketError(errno.ENOBUFS, ErrorOrigin.LOCAL, info=7), None),
    ],
)
def test_an_mtu_is_told_by_fragmentation_needed_and_by_the_kernel(error: SocketError, mtu: int | None) -> None:
    assert error.mtu == mtu


def test_extensions_are_cut_off_and_read() -> None:
    stack = MPLSLabelStack([MPLSLabel(16001, ttl=1, bottom_of_stack=True)])
    extensions = marshal_extensions([stack])
    error = parse_socket_error(LINUX, b"q" * 100 + extensions, message(113, 2, 11, 0, data=100))
    assert (error.payload, error.extensions) == (b"q" * 100, (stack,))


@pytest.mark.parametrize(
    ("data", "tail"),
    [
        (0, b"tail"),  # Without IP_RECVERR_RFC4884, or without extensions.
        (100 | 1 << 16, b"tail"),  # SO_EE_RFC4884_FLAG_INVALID: the checksum is wrong.
        (100, b"tail"),  # Not what the kernel took it for.
        (900, b"tail"),  # Cut off.
    ],
)
def test_extensions_that_cannot_be_read_stay_in_the_payload(data: int, tail: bytes) -> None:
    error = parse_socket_error(LINUX, b"q" * 100 + tail, message(113, 2, 11, 0, data=data))
    assert (error.payload, error.extensions) == (b"q" * 100 + tail, ())


def test_the_kernels_number_of_a_local_error_is_no_extension_and_no_number() -> None:
    error = parse_socket_error(LINUX, b"payload", message(90, 1, info=1500, data=3))
    assert error == SocketError(errno.EMSGSIZE, ErrorOrigin.LOCAL, info=1500, payload=b"payload")


def test_an_origin_that_nobody_knows_is_none_of_the_known() -> None:
    assert parse_socket_error(LINUX, b"", message(5, 99)).origin is ErrorOrigin.NONE


def test_an_icmp_type_without_a_name_stays_a_number() -> None:
    error = parse_socket_error(LINUX, b"", message(5, 2, 99, 1))
    assert error.icmp_type == 99
    assert error.reason == "ICMP type 99, code 1"


@pytest.mark.parametrize(
    "control",
    [b"", structs.cmsg(LINUX, 0, 2, bytes(4)), structs.cmsg(LINUX, *LINUX.control["IP_RECVERR"], bytes(31))],
)
def test_a_message_that_tells_of_no_error_is_refused(control: bytes) -> None:
    with pytest.raises(ParseError, match="IP_RECVERR must have at least 32 octets, got") as caught:
        parse_socket_error(LINUX, b"", control)
    assert caught.value.offset == len(control)


@given(st.sampled_from(list(LINUXES.values())), st.binary(max_size=200), st.binary(max_size=200))
def test_any_octets_are_a_value_or_a_parse_error(platform: Platform, control: bytes, payload: bytes) -> None:
    try:
        error = parse_socket_error(platform, payload, control)
    except ParseError as refused:
        assert 0 <= refused.offset <= len(control)
    else:
        assert payload.startswith(error.payload)


ERRORS = st.builds(
    SocketError,
    st.integers(0, 200),
    st.sampled_from(ErrorOrigin),
    st.none() | st.integers(0, 255),
    st.none() | st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.none() | st.builds(IPv4Address, st.integers(1, 2**32 - 1)),
    st.none() | st.tuples(st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.integers(0, 65535)),
    st.binary(max_size=20),
    st.none() | st.integers(0, 2**63),
    extensions=st.lists(
        st.builds(ICMPExtension, st.integers(3, 255), st.integers(0, 255), st.just(b"data")), max_size=2
    ),
    number=st.none() | st.integers(0, 2**32 - 1),
    hardware_timestamp_ns=st.none() | st.integers(0, 2**63),
)


@given(ERRORS)
def test_errors_are_values(error: SocketError) -> None:
    assert (attrs.evolve(error), hash(attrs.evolve(error))) == (error, hash(error))
    assert pickle.loads(pickle.dumps(error)) == error
    assert str(error)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        error.errno = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"errno": -1}, "errno must be from 0 to 4294967295, got -1"),
        ({"errno": True}, "errno must be an integer"),
        ({"origin": 99}, "origin must be from 0 to 6, got 99"),
        ({"icmp_type": 256}, "icmp_type must be from 0 to 255, got 256"),
        ({"icmp_code": -1}, "icmp_code must be from 0 to 255, got -1"),
        ({"info": 2**32}, "info must be from 0 to 4294967295"),
        ({"offender": "router"}, "offender must be a numeric IPv4 address"),
        ({"destination": "198.18.0.1"}, r"destination must be a tuple \(address, port\)"),
        ({"payload": "text"}, "payload must be bytes"),
        ({"extensions": [b"octets"]}, r"extensions\[0\] must be an object of an ICMP extension"),
        ({"number": True}, "number must be an integer"),
    ],
)
def test_nonsense_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SocketError(**{"errno": 1, "origin": ErrorOrigin.ICMP} | arguments)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (REFUSED, "port unreachable, told by 198.18.0.2, about 198.18.1.9, port 5000 (ECONNREFUSED)"),
        (
            SocketError(113, ErrorOrigin.ICMP, 11, 0, 0, ROUTER),
            "time exceeded, told by 198.18.0.2 (EHOSTUNREACH)",
        ),
        (SocketError(errno.EMSGSIZE, ErrorOrigin.ICMP, 3, 4, 1400), "fragmentation needed, mtu 1400 (EMSGSIZE)"),
        (SocketError(errno.EHOSTUNREACH, ErrorOrigin.ICMP, 3, 77), "destination unreachable (EHOSTUNREACH)"),
        (SocketError(errno.EMSGSIZE, ErrorOrigin.LOCAL, info=1500), "refused by this host, mtu 1500 (EMSGSIZE)"),
        (SocketError(42, ErrorOrigin.TIMESTAMPING, number=7), "timestamp, number 7 (ENOMSG)"),
        (SocketError(9999, ErrorOrigin.NONE), "origin NONE (9999)"),
    ],
)
def test_an_error_reads_as_a_line(error: SocketError, line: str) -> None:
    assert str(error) == line


# The values beside it


def test_path_mtu_discovery_has_the_kernels_numbers() -> None:
    # linux/in.h: IP_PMTUDISC_*.
    assert [(each.name, each.value) for each in PathMTUDiscovery] == [
        ("DONT", 0),
        ("WANT", 1),
        ("DO", 2),
        ("PROBE", 3),
        ("INTERFACE", 4),
        ("OMIT", 5),
    ]


@given(st.integers(1, 15).map(Timestamping))
def test_timestamps_that_are_wanted_read_back(wanted: Timestamping) -> None:
    value = stamping_flags(LINUX, wanted)
    assert wanted_stamps(LINUX, value) == wanted
    # linux/net_tstamp.h: SOF_TIMESTAMPING_SOFTWARE, _RAW_HARDWARE, _OPT_ID, _OPT_TSONLY, _OPT_RX_FILTER.
    how = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 17
    assert value & how == how


def test_no_timestamps_are_no_flags() -> None:
    assert stamping_flags(LINUX, Timestamping(0)) == 0
    with pytest.raises(ValueError, match="invalid value"):
        Timestamping(16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (OtherControl(1, 2), "other must be a collection of OtherControl, got OtherControl"),
        ([(1, 2, b"")], r"other must have nothing but OtherControl, got \(1, 2, b''\)"),
        (None, "other must be a collection of OtherControl, got None"),
    ],
)
def test_other_control_messages_are_values_too(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ControlMessage(other=values)


@pytest.mark.parametrize("arguments", [(True, 1), (1, 2**31), (1, 1, "text"), ("1", 1)])
def test_nonsense_in_another_control_message_is_refused(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be"):
        OtherControl(*arguments)
