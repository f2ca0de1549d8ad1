"""The table of errnos in the reference: a test for each row, and a row for each test."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import resource
import socket
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import pytest
import trio

from support import capabilities
from support.links import ip
from trio_ipv4 import (
    ControlMessage,
    Datagram,
    ICMPFilter,
    PacketConn,
    RawInstruction,
    SourceFilter,
    Timestamping,
    input_route,
    interface_by_index,
    interface_by_name,
    open_ip,
    open_raw,
    open_udp,
    open_unprivileged_icmp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Attempt: TypeAlias = Callable[[], object]
    Prepare: TypeAlias = Callable[[PacketConn], Awaitable[Attempt]]

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
GROUP, OTHER = IPv4Address("239.1.2.3"), IPv4Address("239.1.2.4")
LO, EN0, NOWHERE = 1, 77, 4242
A, B = "127.0.0.1", "127.0.0.2"
ANY, INCLUDE, EXCLUDE = SourceFilter.any(), SourceFilter.include, SourceFilter.exclude
TOO_MANY = INCLUDE(*(f"10.0.0.{last}" for last in range(1, 12)))
TEN = EXCLUDE(*(f"10.0.0.{last}" for last in range(1, 11)))
STOLEN = IPv4Address("198.18.0.77")
"""An address that no interface has."""
ROWS: dict[tuple[str, str], Prepare] = {}


def row(number: str, *operations: str) -> Callable[[Prepare], Prepare]:
    """Say which rows of the table a function is for. It prepares, and returns what must be refused."""

    def note(prepare: Prepare) -> Prepare:
        for operation in operations:
            assert (operation, number) not in ROWS
            ROWS[operation, number] = prepare
        return prepare

    return note


def documented() -> list[tuple[str, str]]:
    """The first two columns of the tables' rows: operations in code, separated by commas; an errno."""
    rows = re.findall(r"^\| (`[^|]+`) \| ([A-Z]+) \| [^|]+\| [^|]+\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(operation, number) for operations, number in rows for operation in re.findall(r"`([^`]+)`", operations)]


@pytest.mark.pure
def test_each_row_of_the_table_has_a_test_and_each_test_has_a_row() -> None:
    rows = documented()
    assert len(set(rows)) == len(rows), "a row is there twice"
    assert set(rows) == set(ROWS)
    assert len(rows) > 50


@pytest.mark.pure
def test_each_number_in_the_table_stands_on_the_page_with_the_words_of_the_system() -> None:
    """People search for the words: 'Address already in use'."""
    page = TABLE.read_text(encoding="utf-8")
    for number in {number for _, number in documented()}:
        assert f"{os.strerror(getattr(errno, number))} ({number})" in page


@pytest.fixture
async def conn() -> AsyncIterator[PacketConn]:
    async with open_udp() as conn:
        yield conn


@pytest.fixture
def restored() -> Iterator[None]:
    """What belongs to the process is put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capabilities.kept():
        yield
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", ROWS, ids=lambda key: f"{key[0]}-{key[1]}")


async def test_row(row: tuple[str, str], conn: PacketConn, restored: None) -> None:
    attempt = await ROWS[row](conn)
    memberships = dict(conn.memberships)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] can't .+: .+ \(.+\)$") as caught:  # With advice, always.
        await finish(attempt())
    assert caught.value.errno == getattr(errno, row[1])
    assert dict(conn.memberships) == memberships


async def finish(result: object) -> None:
    if inspect.isawaitable(result):
        await result


# What is needed to be refused


def make_en0() -> None:
    ip(f"link add en0 index {EN0} type veth peer name en1", "link set en1 up", "link set en0 up")


def remove_en0() -> None:
    ip("link delete en0")


def set_sysctl(name: str, value: int | str) -> None:
    Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")


def fill(conn: PacketConn) -> None:
    for last in range(20):
        conn.join_group(LO, f"239.9.9.{last}")


def join_on_the_bare_socket(conn: PacketConn) -> None:
    request = struct.pack("=4s4si", GROUP.packed, bytes(4), LO)  # struct ip_mreqn
    conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def entering(conn: PacketConn, interface: int | str | IPv4Address | None, sources: SourceFilter = ANY) -> Attempt:
    async def enter() -> NoReturn:
        async with conn.joined(interface, GROUP, sources=sources):
            pytest.fail("it entered")

    return enter


# Opening


@row("EADDRINUSE", "open_udp")
async def _port_taken(conn: PacketConn) -> Attempt:
    return lambda: open_udp("0.0.0.0", conn.local_endpoint[1])


@row("EADDRINUSE", "open_unprivileged_icmp")
async def _identifier_taken(conn: PacketConn) -> Attempt:
    set_sysctl("ipv4/ping_group_range", "0 0")
    taken = open_unprivileged_icmp(A, 4711)

    def open_again() -> object:
        with contextlib.closing(taken):
            return open_unprivileged_icmp(A, 4711)

    return open_again


@row("EACCES", "open_unprivileged_icmp")
async def _group_not_within_the_range(conn: PacketConn) -> Attempt:
    set_sysctl("ipv4/ping_group_range", "1 0")
    return open_unprivileged_icmp


@row("EADDRNOTAVAIL", "open_unprivileged_icmp")
async def _no_such_local_address_for_icmp(conn: PacketConn) -> Attempt:
    set_sysctl("ipv4/ping_group_range", "0 0")
    return lambda: open_unprivileged_icmp(STOLEN)


@row("ENODEV", "open_udp", "open_ip", "open_raw", "open_unprivileged_icmp")
async def _no_interface_to_bind_to(conn: PacketConn) -> Attempt:
    set_sysctl("ipv4/ping_group_range", "0 0")
    await finish_refused(lambda: open_unprivileged_icmp(interface=NOWHERE), errno.ENODEV)
    await finish_refused(lambda: open_ip(253, interface=NOWHERE), errno.ENODEV)
    await finish_refused(lambda: open_raw(253, interface=NOWHERE), errno.ENODEV)
    return lambda: open_udp(interface="en7")


@row("EADDRNOTAVAIL", "open_udp")
async def _no_such_local_address(conn: PacketConn) -> Attempt:
    return lambda: open_udp(STOLEN)


@row("EACCES", "open_udp")
async def _low_port(conn: PacketConn) -> Attempt:
    capabilities.drop(capabilities.NET_BIND_SERVICE)
    return lambda: open_udp("0.0.0.0", 80)


@row("EPERM", "open_ip", "open_raw")
async def _no_raw_sockets(conn: PacketConn) -> Attempt:
    capabilities.drop(capabilities.NET_RAW)
    return lambda: open_ip(253)


@row("EADDRNOTAVAIL", "open_ip", "open_raw")
async def _no_such_local_address_either(conn: PacketConn) -> Attempt:
    return lambda: open_raw(253, STOLEN)


@row("EMFILE", "open_udp", "open_ip", "open_raw", "open_unprivileged_icmp")
async def _too_many_files(conn: PacketConn) -> Attempt:
    set_sysctl("ipv4/ping_group_range", "0 0")

    def open_with_no_descriptor_left() -> object:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        for opening in (lambda: open_ip(253), lambda: open_raw(253), open_unprivileged_icmp):
            with pytest.raises(OSError, match="too many open files") as caught:
                opening()
            assert caught.value.errno == errno.EMFILE
        return open_udp()

    return open_with_no_descriptor_left


# Memberships

JOINS = "joined", "join_group", "join_source_specific_group", "set_source_filter"


@row("ENODEV", *JOINS)
async def _no_such_interface(conn: PacketConn) -> Attempt:
    await finish_refused(entering(conn, "en7"), errno.ENODEV)
    await finish_refused(entering(conn, None), errno.ENODEV)
    for refused in (
        lambda: conn.join_group(None, GROUP),
        lambda: conn.join_group(NOWHERE, GROUP),
        lambda: conn.join_source_specific_group(NOWHERE, GROUP, A),
        lambda: conn.set_source_filter(NOWHERE, GROUP, EXCLUDE(A)),
    ):
        await finish_refused(refused, errno.ENODEV)
    return entering(conn, NOWHERE)


async def finish_refused(attempt: Attempt, number: int) -> None:
    """One more attempt of which the row speaks."""
    with pytest.raises(OSError, match="can't") as caught:
        await finish(attempt())
    assert caught.value.errno == number


@row("EADDRNOTAVAIL", "joined", "join_group", "set_source_filter")
async def _no_interface_with_that_address(conn: PacketConn) -> Attempt:
    await finish_refused(entering(conn, STOLEN), errno.EADDRNOTAVAIL)
    await finish_refused(lambda: conn.set_source_filter(STOLEN, GROUP, ANY), errno.EADDRNOTAVAIL)
    return lambda: conn.join_group(STOLEN, GROUP)


@row("EADDRINUSE", "joined", "join_source_specific_group", "set_source_filter")
async def _joined_on_the_bare_socket(conn: PacketConn) -> Attempt:
    join_on_the_bare_socket(conn)
    await finish_refused(lambda: conn.join_source_specific_group(LO, GROUP, A), errno.EADDRINUSE)
    await finish_refused(lambda: conn.set_source_filter(LO, GROUP, ANY), errno.EADDRINUSE)
    return entering(conn, LO)


@row("EADDRINUSE", "join_group")
async def _joined_before(conn: PacketConn) -> Attempt:
    join_on_the_bare_socket(conn)
    await finish_refused(lambda: conn.join_group(LO, GROUP), errno.EADDRINUSE)
    conn.join_group(LO, OTHER)
    return lambda: conn.join_group(LO, OTHER)


@row("ENOBUFS", "join_group", "join_source_specific_group", "joined", "set_source_filter")
async def _too_many_groups(conn: PacketConn) -> Attempt:
    await finish_refused(entering(conn, LO, TOO_MANY), errno.ENOBUFS)
    await finish_refused(lambda: conn.set_source_filter(LO, GROUP, TOO_MANY), errno.ENOBUFS)
    fill(conn)
    await finish_refused(lambda: conn.join_source_specific_group(LO, GROUP, A), errno.ENOBUFS)
    await finish_refused(lambda: conn.join_group(LO, GROUP), errno.ENOBUFS)
    return entering(conn, LO)


async def entered(conn: PacketConn, index: int, sources: SourceFilter) -> Callable[[SourceFilter], None]:
    """A scope that ends with its connection; its `set_sources`."""
    membership = conn.joined(index, GROUP, sources=sources)
    await membership.__aenter__()
    return membership.set_sources


@row("ENOBUFS", "set_sources")
async def _too_many_sources(conn: PacketConn) -> Attempt:
    set_sources = await entered(conn, LO, ANY)
    return lambda: set_sources(TOO_MANY)


@row("ENODEV", "set_sources")
async def _interface_gone(conn: PacketConn) -> Attempt:
    make_en0()
    set_sources = await entered(conn, EN0, ANY)
    remove_en0()
    return lambda: set_sources(EXCLUDE(A))


@row("EADDRINUSE", "set_sources")
async def _joined_on_the_bare_socket_meanwhile(conn: PacketConn) -> Attempt:
    set_sources = await entered(conn, LO, SourceFilter.none())
    join_on_the_bare_socket(conn)
    return lambda: set_sources(ANY)


@row("EADDRNOTAVAIL", "leave_group")
async def _not_joined(conn: PacketConn) -> Attempt:
    await entered(conn, LO, ANY)
    return lambda: conn.leave_group(LO, GROUP)


@row("ENODEV", "leave_group", "leave_source_specific_group")
async def _nothing_to_leave_there(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: conn.leave_group(None, GROUP), errno.ENODEV)
    await finish_refused(lambda: conn.leave_source_specific_group("en7", GROUP, A), errno.ENODEV)
    return lambda: conn.leave_group("en7", GROUP)


@row("EADDRNOTAVAIL", "join_source_specific_group")
async def _source_joined_before(conn: PacketConn) -> Attempt:
    conn.join_source_specific_group(LO, GROUP, A)
    return lambda: conn.join_source_specific_group(LO, GROUP, A)


@row("EINVAL", "join_source_specific_group")
async def _joined_from_any_source(conn: PacketConn) -> Attempt:
    conn.join_group(LO, GROUP)
    return lambda: conn.join_source_specific_group(LO, GROUP, A)


@row("EADDRNOTAVAIL", "leave_source_specific_group")
async def _source_not_joined(conn: PacketConn) -> Attempt:
    conn.join_source_specific_group(LO, GROUP, A)
    return lambda: conn.leave_source_specific_group(LO, GROUP, B)


@row("EINVAL", "leave_source_specific_group")
async def _not_joined_source_by_source(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: conn.leave_source_specific_group(LO, GROUP, A), errno.EINVAL)
    conn.join_group(LO, GROUP)
    return lambda: conn.leave_source_specific_group(LO, GROUP, A)


@row("EADDRNOTAVAIL", "exclude_source_specific_group")
async def _blocked_before(conn: PacketConn) -> Attempt:
    conn.set_source_filter(LO, GROUP, EXCLUDE(A))
    return lambda: conn.exclude_source_specific_group(LO, GROUP, A)


@row("EADDRNOTAVAIL", "include_source_specific_group")
async def _not_blocked(conn: PacketConn) -> Attempt:
    conn.set_source_filter(LO, GROUP, EXCLUDE(A))
    return lambda: conn.include_source_specific_group(LO, GROUP, B)


@row("EINVAL", "exclude_source_specific_group", "include_source_specific_group")
async def _not_joined_from_any_source(conn: PacketConn) -> Attempt:
    for change in (conn.exclude_source_specific_group, conn.include_source_specific_group):
        await finish_refused(lambda change=change: change(LO, GROUP, A), errno.EINVAL)  # type: ignore[misc]
    conn.join_source_specific_group(LO, GROUP, A)
    await finish_refused(lambda: conn.include_source_specific_group(LO, GROUP, A), errno.EINVAL)
    return lambda: conn.exclude_source_specific_group(LO, GROUP, A)


@row("ENOBUFS", "exclude_source_specific_group")
async def _too_many_blocked(conn: PacketConn) -> Attempt:
    conn.set_source_filter(LO, GROUP, TEN)
    return lambda: conn.exclude_source_specific_group(LO, GROUP, A)


@row("ENODEV", "exclude_source_specific_group", "include_source_specific_group")
async def _interface_gone_meanwhile(conn: PacketConn) -> Attempt:
    make_en0()
    conn.set_source_filter(EN0, GROUP, EXCLUDE(A))
    remove_en0()
    await finish_refused(lambda: conn.include_source_specific_group(EN0, GROUP, A), errno.ENODEV)
    return lambda: conn.exclude_source_specific_group(EN0, GROUP, B)


@row("EADDRNOTAVAIL", "source_filter")
async def _no_filter(conn: PacketConn) -> Attempt:
    return lambda: conn.source_filter(LO, GROUP)


@row("ENODEV", "source_filter")
async def _no_interface_to_ask(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: conn.source_filter(None, GROUP), errno.ENODEV)
    return lambda: conn.source_filter("en7", GROUP)


@row("ENODEV", "refresh")
async def _nothing_to_announce(conn: PacketConn) -> Attempt:
    make_en0()
    membership = conn.joined(EN0, GROUP)
    await membership.__aenter__()
    remove_en0()
    return membership.refresh


@row("EPERM", "refresh")
async def _not_the_only_member(conn: PacketConn) -> Attempt:
    membership = conn.joined(LO, GROUP)
    await membership.__aenter__()

    async def refresh() -> None:
        async with open_udp() as other, other.joined(LO, GROUP):
            capabilities.drop(capabilities.NET_RAW)
            membership.refresh()

    return refresh


@row("ENOBUFS", "repair_memberships")
async def _lower_limit_than_when_it_joined(conn: PacketConn) -> Attempt:
    make_en0()
    conn.join_group(LO, GROUP)
    conn.join_group(EN0, OTHER)

    def repair() -> None:
        remove_en0()
        make_en0()
        set_sysctl("ipv4/igmp_max_memberships", 1)
        try:
            conn.repair_memberships()
        finally:
            set_sysctl("ipv4/igmp_max_memberships", 20)
            conn.repair_memberships()

    return repair


# Options


@row("EADDRINUSE", "multicast_interface")
async def _two_interfaces_have_the_address(conn: PacketConn) -> Attempt:
    ip("link add br8 type bridge", f"address add {STOLEN}/32 dev br8", f"address add {STOLEN}/32 dev lo")
    return lambda: setattr(conn, "multicast_interface", STOLEN)


@row("ENODEV", "multicast_interface")
async def _no_interface_of_that_name(conn: PacketConn) -> Attempt:
    return lambda: setattr(conn, "multicast_interface", "en7")


@row("EADDRNOTAVAIL", "multicast_interface")
async def _no_interface_of_that_index(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: setattr(conn, "multicast_interface", STOLEN), errno.EADDRNOTAVAIL)
    return lambda: setattr(conn, "multicast_interface", NOWHERE)


@row("EOPNOTSUPP", "icmp_filter")
async def _not_icmp(conn: PacketConn) -> Attempt:
    return lambda: conn.icmp_filter


@row("ENOPROTOOPT", "icmp_filter")
async def _not_raw(conn: PacketConn) -> Attempt:
    return lambda: setattr(conn, "icmp_filter", ICMPFilter())


ACCEPT = RawInstruction(6, 0, 0, 0xFFFF)  # BPF_RET | BPF_K, linux/bpf_common.h
SO_LOCK_FILTER = 44  # asm-generic/socket.h


@row("EINVAL", "attach_filter")
async def _no_such_instruction(conn: PacketConn) -> Attempt:
    return lambda: conn.attach_filter([RawInstruction(0xFFFF, 0, 0, 0), ACCEPT])


@row("EPERM", "attach_filter", "detach_filter")
async def _locked(conn: PacketConn) -> Attempt:
    conn.attach_filter([ACCEPT])
    conn.socket.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
    await finish_refused(conn.detach_filter, errno.EPERM)
    return lambda: conn.attach_filter([ACCEPT])


@row("ENOMEM", "attach_filter")
async def _no_memory_for_options(conn: PacketConn) -> Attempt:
    set_sysctl("core/optmem_max", 1024)
    return lambda: conn.attach_filter([RawInstruction(0, 0, 0, 0)] * 1000 + [ACCEPT])


@row("ENOENT", "detach_filter")
async def _nothing_attached(conn: PacketConn) -> Attempt:
    return conn.detach_filter


# Sending and receiving


def sending(conn: PacketConn, to: str, port: int = 9, *, size: int = 0, **control: object) -> Attempt:
    message = ControlMessage(**control)  # type: ignore[arg-type]
    return lambda: conn.send(Datagram(bytes(size), (to, port), control=message))


@row("ENETUNREACH", "send")
async def _no_route(conn: PacketConn) -> Attempt:
    await finish_refused(sending(conn, str(GROUP)), errno.ENETUNREACH)
    return sending(conn, "203.0.113.1")


@row("EHOSTUNREACH", "send")
async def _unreachable_by_decree(conn: PacketConn) -> Attempt:
    ip("route add unreachable 203.0.113.0/24")
    return sending(conn, "203.0.113.1")


@row("ENODEV", "send")
async def _to_no_interface(conn: PacketConn) -> Attempt:
    return sending(conn, A, ifindex=NOWHERE)


@row("EMSGSIZE", "send")
async def _too_long(conn: PacketConn) -> Attempt:
    return sending(conn, A, size=65508)


@row("EINVAL", "send")
async def _port_zero(conn: PacketConn) -> Attempt:
    return sending(conn, A, 0)


@row("EACCES", "send")
async def _broadcast(conn: PacketConn) -> Attempt:
    make_en0()
    ip("address add 198.18.0.1/24 broadcast + dev en0")
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
    return sending(conn, "198.18.0.255")


@row("ENOBUFS", "send")
async def _no_room_for_all_fragments(conn: PacketConn) -> Attempt:
    make_en0()
    ip("address add 198.18.0.1/24 dev en0")
    conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return sending(conn, "198.18.0.2", size=60_000)


@row("EPERM", "send")
async def _firewall(conn: PacketConn) -> Attempt:
    rules = "add table ip t\nadd chain ip t o { type filter hook output priority 0; policy drop; }\n"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)  # noqa: ASYNC221
    return sending(conn, A)


@row("ECONNREFUSED", "send", "receive")
async def _nobody_there(conn: PacketConn) -> Attempt:
    await conn.socket.connect((A, 9))
    await sending(conn, A)()  # type: ignore[misc]
    await trio.lowlevel.wait_readable(conn.socket)
    await finish_refused(conn.receive, errno.ECONNREFUSED)
    await sending(conn, A)()  # type: ignore[misc]
    return sending(conn, A)


@row("ECONNREFUSED", "receive_error")
async def _nobody_there_and_no_errors_reported(conn: PacketConn) -> Attempt:
    conn.timestamping = Timestamping.TX_SCHED
    await conn.socket.connect((A, 9))
    await sending(conn, A)()  # type: ignore[misc]
    assert conn.receive_error_nowait().number == 0  # The stamp.
    return conn.receive_error


@row("ENETUNREACH", "path_mtu")
async def _no_path(conn: PacketConn) -> Attempt:
    return lambda: conn.path_mtu(STOLEN)


@row("EHOSTUNREACH", "path_mtu")
async def _path_that_is_unreachable(conn: PacketConn) -> Attempt:
    ip("route add unreachable 198.18.0.0/24")
    return lambda: conn.path_mtu(STOLEN)


@row("EACCES", "path_mtu")
async def _path_that_is_prohibited(conn: PacketConn) -> Attempt:
    ip("route add prohibit 198.18.0.0/24")
    return lambda: conn.path_mtu(STOLEN)


@row("EINVAL", "path_mtu")
async def _path_that_is_a_black_hole(conn: PacketConn) -> Attempt:
    ip("route add blackhole 198.18.0.0/24")
    return lambda: conn.path_mtu(STOLEN)


# Interfaces


@row("ENODEV", "interface_by_name", "interface_by_index")
async def _no_interface(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: interface_by_index(NOWHERE), errno.ENODEV)
    return lambda: interface_by_name("en7")


@row("ENODEV", "input_route")
async def _no_interface_for_input(conn: PacketConn) -> Attempt:
    await finish_refused(lambda: input_route(NOWHERE, "198.18.0.99", GROUP), errno.ENODEV)
    return lambda: input_route("en7", "198.18.0.99", GROUP)
