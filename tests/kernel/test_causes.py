"""Why a send, a bind or a join was refused: the message names the cause that is there, and none that is not.

Each row makes one cause real, in the kernel, and names words that must stand in the message and words that must not.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.links import ip
from trio_ipv4 import (
    ControlMessage,
    Datagram,
    Header,
    PacketConn,
    PartialSendError,
    RawDatagram,
    RawInstruction,
    interface_by_name,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import causes

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable

    from trio_ipv4 import RawConn

GROUP = "239.1.2.3"
THERE = ("198.18.0.9", 5000)
IP_RECVERR = 11  # linux/in.h
KEEP_ALL = RawInstruction(0x06, 0, 0, 0xFFFFFFFF)


@pytest.fixture(autouse=True)
def host() -> None:
    """A host with a link that is up, one that is down, and routes of every type."""
    ip(
        "link set lo up",
        "link add en0 index 10 type veth peer name far0",
        "address add 198.18.0.1/24 dev en0",
        "link set far0 up",
        "link set en0 up",
        "link add en1 index 11 type veth peer name far1",
        "address add 198.18.1.1/24 dev en1",
        "link set far1 up",
        "route add blackhole 10.1.0.0/16",
        "route add prohibit 10.2.0.0/16",
        "route add unreachable 10.3.0.0/16",
    )


def plain(**options: object) -> PacketConn:
    return open_udp(**options)  # type: ignore[arg-type]


def without_broadcast() -> PacketConn:
    conn = open_udp()
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
    return conn


def leaving_by(index: int) -> PacketConn:
    conn = open_udp()
    conn.multicast_interface = index
    return conn


def bound_to_device(index: int) -> PacketConn:
    conn = open_udp()
    conn.socket.setsockopt(socket.SOL_SOCKET, 62, index)  # SO_BINDTOIFINDEX, asm-generic/socket.h
    return conn


def small_buffer() -> PacketConn:
    conn = open_udp()
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    return conn


def never_fragmenting() -> PacketConn:
    conn = open_udp()
    conn.socket.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: linux/in.h
    return conn


def icmp() -> PacketConn:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    return PacketConn(trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM, trio.socket.IPPROTO_ICMP))


class Row(NamedTuple):
    name: str
    make: Callable[[], PacketConn]
    to: tuple[str, int]
    errno: int
    says: str
    not_says: tuple[str, ...] = ()
    control: ControlMessage = ControlMessage()
    payload: bytes = b"x"


def bound_to_loopback() -> PacketConn:
    return open_udp("127.0.0.1")


ROWS = [
    Row("port 0", plain, ("198.18.0.9", 0), errno.EINVAL, "the port is 0", ("blackhole", "control message")),
    Row("blackhole", plain, ("10.1.0.1", 5000), errno.EINVAL, "blackhole", ("port is 0", "ICMP", "header")),
    Row("blackhole over raw IP", lambda: open_ip(253), ("10.1.0.1", 0), errno.EINVAL, "blackhole", ("port is 0",)),
    Row("bound to loopback", bound_to_loopback, THERE, errno.EINVAL, "source 127.0.0.1 is a loopback", ("blackhole",)),
    Row(
        "asked for loopback",
        plain,
        THERE,
        errno.EINVAL,
        "source 127.0.0.9 is a loopback",
        ("port is 0",),
        ControlMessage(src="127.0.0.9"),
    ),
    Row(
        "from a group",
        plain,
        THERE,
        errno.EINVAL,
        "239.1.1.1 is not the address of a host",
        (),
        ControlMessage(src="239.1.1.1"),
    ),
    Row(
        "ICMP, no echo request",
        icmp,
        ("198.18.0.9", 0),
        errno.EINVAL,
        "echo requests",
        ("port is 0",),
        payload=bytes(8),
    ),
    Row("prohibit", plain, ("10.2.0.1", 5000), errno.EACCES, "prohibit", ("BROADCAST",)),
    Row(
        "limited broadcast",
        without_broadcast,
        ("255.255.255.255", 9),
        errno.EACCES,
        "set SO_BROADCAST",
        ("prohibit",),
        ControlMessage(ifindex=10),
    ),
    Row("directed broadcast", without_broadcast, ("198.18.0.255", 9), errno.EACCES, "SO_BROADCAST is not set"),
    Row("broadcast over raw IP", lambda: open_ip(253), ("198.18.0.255", 0), errno.EACCES, "SO_BROADCAST is not set"),
    Row("unreachable", plain, ("10.3.0.1", 5000), errno.EHOSTUNREACH, "type unreachable", ("earlier",)),
    Row(
        "no route",
        plain,
        ("10.9.0.1", 5000),
        errno.ENETUNREACH,
        "no route to the destination",
        ("is down", "for a group", "source"),
    ),
    Row("no route to a group", plain, (GROUP, 5000), errno.ENETUNREACH, "name the interface", ("is down", "source")),
    Row(
        "no route to broadcast",
        plain,
        ("255.255.255.255", 9),
        errno.ENETUNREACH,
        "name the interface",
        ("is down", "group"),
    ),
    Row(
        "multicast by a link that is down",
        lambda: leaving_by(11),
        (GROUP, 5000),
        errno.ENETUNREACH,
        r"en1 (interface index 11) is down",
        ("no route", "name the interface"),
    ),
    Row(
        "asked for a link that is down",
        plain,
        (GROUP, 5000),
        errno.ENETUNREACH,
        "en1 (interface index 11) is down",
        ("no route",),
        ControlMessage(ifindex=11),
    ),
    Row(
        "unicast by a link that is down",
        plain,
        ("198.18.1.9", 5000),
        errno.ENETUNREACH,
        "en1 (interface index 11) is down",
        ("no route",),
        ControlMessage(ifindex=11),
    ),
    Row(
        "bound to a device that is down",
        lambda: bound_to_device(11),
        ("198.18.1.9", 5000),
        errno.ENETUNREACH,
        "en1 (interface index 11) is down",
        ("no route",),
    ),
    Row(
        "from another host's address",
        plain,
        THERE,
        errno.ENETUNREACH,
        "source is not an address of this host: 198.18.0.77",
        ("is down",),
        ControlMessage(src="198.18.0.77"),
    ),
    Row(
        "to no host's address",
        plain,
        ("240.0.0.1", 5000),
        errno.ENETUNREACH,
        "hosts have no addresses such as 240.0.0.1",
        ("is down",),
    ),
    Row(
        "no such interface", plain, THERE, errno.ENODEV, "no such interface", ("no route",), ControlMessage(ifindex=99)
    ),
    Row("a small buffer", small_buffer, THERE, errno.ENOBUFS, "SO_SNDBUF is 20,000", ("queue",), payload=bytes(60_000)),
    Row("too long", plain, THERE, errno.EMSGSIZE, "65,508 octets are more than", ("MTU",), payload=bytes(65_508)),
    Row("longer than the MTU", never_fragmenting, THERE, errno.EMSGSIZE, "MTU", ("65,507",), payload=bytes(3000)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_refusal_names_the_cause_and_no_other(row: Row) -> None:
    async with row.make() as conn:
        with pytest.raises(OSError) as caught:  # noqa: PT011  # Its errno follows.
            await conn.send_to(row.payload, row.to, control=row.control)
    assert caught.value.errno == row.errno
    told = str(caught.value)
    assert row.says in told
    for words in row.not_says:
        assert words not in told, told


@pytest.mark.parametrize("row", [row for row in ROWS if "device" not in row.name], ids=lambda row: row.name)
async def test_a_refusal_within_a_batch_names_the_same_cause(row: Row) -> None:
    good = Datagram(b"\x08" + bytes(7), ("127.0.0.1", 9))
    bad = Datagram(row.payload, row.to, control=row.control)
    async with row.make() as conn:
        with pytest.raises(PartialSendError) as caught:
            await conn.send_batch([good, bad])
        assert caught.value.sent == 1
        assert row.says in str(caught.value)
        assert "datagram 1 of the batch" in str(caught.value)


def nft(rule: str) -> None:
    rules = f"table ip t {{\nchain o {{\ntype filter hook output priority 0\n{rule}\n}}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


@pytest.mark.parametrize("verdict", ["drop", "reject"])
async def test_a_firewall_is_named(verdict: str) -> None:
    nft(f"ip daddr 198.18.0.66 {verdict}")
    async with open_udp() as conn:
        with pytest.raises(PermissionError, match="a firewall on this host"):
            await conn.send_to(b"x", ("198.18.0.66", 5000))


async def test_a_header_of_ones_own_changes_nothing_about_the_route() -> None:
    async with open_raw(253) as conn:
        with pytest.raises(OSError, match="blackhole") as caught:
            await conn.send(RawDatagram(Header(src="0.0.0.0", dst="10.1.0.1", ttl=9, protocol=253), b""))
        assert "port is 0" not in str(caught.value)


# Errors of earlier datagrams


@contextlib.asynccontextmanager
async def with_pending_error():  # type: ignore[no-untyped-def]
    """A connection that has sent to a port where nobody listens, and asked to hear of it."""
    async with open_udp("127.0.0.1") as gone:
        nobody = gone.local_endpoint
    async with open_udp("127.0.0.1") as conn:
        conn.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        await conn.send_to(b"x", nobody)
        yield conn, nobody


async def test_a_peer_in_good_health_is_not_blamed_for_an_earlier_datagram() -> None:
    async with with_pending_error() as (conn, nobody), open_udp("127.0.0.1") as healthy:
        with pytest.raises(ConnectionRefusedError) as caught:
            await conn.send_to(b"hello", healthy.local_endpoint)
        told = str(caught.value)
        assert "an earlier datagram, maybe to another peer" in told
        assert "this one was not sent, and can be sent again" in told
        for _, port in (nobody, healthy.local_endpoint):
            assert str(port) not in told
        await conn.send_to(b"hello", healthy.local_endpoint)
        with trio.fail_after(20):
            assert (await healthy.receive()).payload == b"hello"


async def test_within_a_batch_the_datagram_at_hand_can_be_sent_again() -> None:
    async with with_pending_error() as (conn, _), open_udp("127.0.0.1") as healthy:
        batch = [Datagram(bytes([number]), healthy.local_endpoint) for number in range(3)]
        with pytest.raises(ConnectionRefusedError) as caught:
            await conn.send_batch(batch)
        await conn.send_batch(batch[getattr(caught.value, "sent", 0) :])
        heard: list[bytes] = []
        with trio.fail_after(20):
            while len(heard) < 3:
                heard.append((await healthy.receive()).payload)
        assert heard == [b"\0", b"\1", b"\2"]


async def test_what_may_be_an_earlier_error_is_told_as_one_of_two() -> None:
    async with open_udp() as conn:
        conn.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        with pytest.raises(
            OSError, match=r"type unreachable .*; or an earlier datagram, maybe to another peer"
        ) as caught:
            await conn.send_to(b"x", ("10.3.0.1", 5000))
        assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("address", [GROUP, "255.255.255.255"])
async def test_what_a_socket_is_bound_to_is_no_source_if_it_is_no_hosts_address(address: str) -> None:
    conn = open_udp(address, 5000, bind_group=True) if address == GROUP else open_udp(address, 5000)
    async with conn:
        with pytest.raises(OSError, match="type blackhole") as caught:
            await conn.send_to(b"x", ("10.1.0.1", 5000))
        assert "the source" not in str(caught.value)


async def test_a_request_without_option_memory_says_so() -> None:
    async with open_udp() as conn:
        Path("/proc/sys/net/core/optmem_max").write_text("10")
        with pytest.raises(OSError, match=r"option memory: net\.core\.optmem_max is 10") as caught:
            await conn.send_to(b"x", THERE, control=ControlMessage(ifindex=10, ttl=9))
        assert caught.value.errno == errno.ENOBUFS
        assert "SO_SNDBUF" not in str(caught.value)


# Binding and joining


async def test_a_shared_port_that_is_taken_says_who_must_share() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 5000))
        with pytest.raises(OSError, match="with share_port=True on all of them") as caught:
            open_udp("0.0.0.0", 5000)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="does not share it: it needs share_port=True") as caught:
            open_udp("0.0.0.0", 5000, share_port=True)
        assert "on all of them" not in str(caught.value)


async def test_ports_that_are_used_up_say_so() -> None:
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40001")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.callback(open_udp("127.0.0.1").close)
        for share in (False, True):
            with pytest.raises(OSError, match=r"no port is free: net\.ipv4\.ip_local_port_range is 40000 to 40001"):
                open_udp("127.0.0.1", share_port=share)


def fill_option_memory(conn: PacketConn) -> None:
    """Attach the longest program that the kernel takes."""
    for length in range(250, 0, -1):
        with contextlib.suppress(OSError):
            conn.attach_filter([KEEP_ALL] * length)
            return
    raise AssertionError


async def test_a_join_that_lacks_option_memory_says_so() -> None:
    Path("/proc/sys/net/core/optmem_max").write_text("2000")
    async with open_udp() as conn:
        fill_option_memory(conn)
        with pytest.raises(OSError, match=r"net\.core\.optmem_max is 2000"):
            conn.join_group("lo", GROUP)
        assert not conn.memberships
        conn.detach_filter()
        conn.join_group("lo", GROUP)


async def test_a_join_too_many_names_both_limits() -> None:
    Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("1")
    async with open_udp() as conn:
        conn.join_group("lo", GROUP)
        with pytest.raises(OSError, match=r"igmp_max_memberships is 1; .*or source lists .*optmem_max is") as caught:
            conn.join_group("lo", "239.1.2.4")
        assert caught.value.errno == errno.ENOBUFS


async def test_a_device_of_its_own_says_why_another_is_refused() -> None:
    async with bound_to_device(10) as conn:
        with pytest.raises(OSError, match="bound to another device") as caught:
            conn.multicast_interface = "lo"
        assert caught.value.errno == errno.EINVAL


# Whatever is passed, explaining never fails


NUMBERS = sorted({cause.errno for cause in causes._SENDING} | causes.EARLIER | {errno.ENODEV, errno.EIO, 0})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.sampled_from(NUMBERS),
    destination=st.ip_addresses(v=4),
    port=st.integers(0, 65535),
    source=st.none() | st.ip_addresses(v=4).filter(int),
    ifindex=st.sampled_from([None, 1, 10, 11, 99]),
    payload=st.binary(max_size=40),
    kind=st.sampled_from(["udp", "ip", "raw"]),
)
def test_every_refusal_can_be_explained(
    number: int,
    destination: ipaddress.IPv4Address,
    port: int,
    source: ipaddress.IPv4Address | None,
    ifindex: int | None,
    payload: bytes,
    kind: str,
) -> None:
    conn: PacketConn | RawConn = {"udp": open_udp, "ip": lambda: open_ip(253), "raw": lambda: open_raw(253)}[kind]()
    try:
        name = structs.sockaddr_in(this_platform(), destination.packed, port)
        request = ControlMessage(local=source, ifindex=ifindex)
        attempt = causes.Attempt(conn._socket, payload, name, request, ifindex)
        told = causes.explain_sending(OSError(number, "refused"), "1 octets", attempt)
    finally:
        conn.close()
    assert told.errno == number
    assert "{" not in str(told)
    assert type(told) is type(OSError(number, ""))


def test_each_row_of_the_table_is_a_sentence_that_can_be_filled_in() -> None:
    assert len(causes._SENDING) > 15
    for cause in causes._SENDING:
        assert cause.text[0].islower() or cause.text[0] in "{0123456789" or cause.text.startswith("IP")
        assert not cause.text.endswith(".")


# What to pass instead


WRONG_NAMES = [
    ("0.0.0.0", "None lets the kernel choose"),
    ("127.0.0.1", r"pass IPv4Address\('127\.0\.0\.1'\)"),
    (GROUP, "the interface comes first, then the group"),
    ("10", "pass the integer 10"),
    ("a_name_of_more_than_15_octets", "at most 15 octets"),
    ("en7", r"interfaces\(\) lists them"),
]


@pytest.mark.parametrize(("name", "says"), WRONG_NAMES)
async def test_a_name_that_names_nothing_says_what_to_pass(name: str, says: str) -> None:
    async with open_udp() as conn:
        for operation in (
            lambda: conn.join_group(name, GROUP),
            lambda: conn.source_filter(name, GROUP),
            lambda: setattr(conn, "multicast_interface", name),
            lambda: interface_by_name(name),
        ):
            with pytest.raises(OSError, match=says) as caught:
                operation()
            assert caught.value.errno == errno.ENODEV
        with pytest.raises(OSError, match=says):
            async with conn.joined(name, GROUP):
                pass
