"""Every trap of Linux's multicast that a caller could step into is made safe, or refused with a message that helps.

After each refusal, `memberships`, the kernel's own tables and the socket's filter are what they were before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
import warnings
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from support.filters import kernel_filter, spell
from support.links import ip
from trio_ipv4 import (
    Conn,
    DeafMembershipWarning,
    MembershipWarning,
    PacketConn,
    SourceFilter,
    SourceSpecificRangeWarning,
    interface_by_name,
    open_udp,
)
from trio_ipv4._kernel import groups
from trio_ipv4.testing import igmp_groups, source_filters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_ipv4.testing import Lab

GROUP = IPv4Address("239.1.2.3")
SSM_GROUP = IPv4Address("232.7.8.9")
LO, EN0 = 1, 77
HERE, THERE = (LO, GROUP), (EN0, GROUP)
ANY, NONE = SourceFilter.any(), SourceFilter.none()
INCLUDE, EXCLUDE = SourceFilter.include, SourceFilter.exclude
A, B, FAR = "127.0.0.1", "127.0.0.2", "198.18.0.2"
TEN = [f"10.0.0.{last}" for last in range(1, 11)]
TEN_MORE = [f"10.0.1.{last}" for last in range(1, 11)]
MCAST_JOIN_SOURCE_GROUP = 46  # linux/in.h
SOCKADDR = struct.Struct("=HH4s120x")  # struct sockaddr_in in a sockaddr_storage


def check(conn: PacketConn, expected: SourceFilter, key: tuple[int, IPv4Address] = HERE) -> None:
    """Socket, kernel's table and `memberships` agree. No other socket is a member here."""
    assert kernel_filter(conn, key) == spell(expected)
    assert conn.memberships.get(key, NONE) == expected
    assert igmp_groups().get(key, 0) == (expected != NONE)


@contextlib.contextmanager
def refused(conn: PacketConn, number: int, *words: str) -> Iterator[None]:
    """Expect a refusal whose message has these words, and after which everything is as it was."""
    before = dict(conn.memberships), igmp_groups(), source_filters()
    filters = {key: kernel_filter(conn, key) for key in (HERE, THERE, *before[0])}
    with pytest.raises(OSError, match=r"^\[Errno \d+\] can't .+: .+ \(.+\)$") as caught:
        yield
    assert caught.value.errno == number
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert (dict(conn.memberships), igmp_groups(), source_filters()) == before
    assert {key: kernel_filter(conn, key) for key in (HERE, THERE, *before[0])} == filters


def set_sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")


def make_en0(index: int = EN0) -> None:
    ip(
        f"link add en0 index {index} type veth peer name en1",
        "address add 198.18.0.1/24 dev en0",
        "link set en1 up",
        "link set en0 up",
    )
    for name in ("all", "en0"):
        set_sysctl(f"ipv4/conf/{name}/rp_filter", 0)


def remove_en0() -> None:
    ip("link delete en0")


def recreate_en0() -> None:
    """The trap: what was joined on it is dead, although its index is back."""
    remove_en0()
    make_en0()
    assert THERE not in igmp_groups()


def route_groups(device: str) -> None:
    ip(f"route replace 224.0.0.0/4 dev {device}")


@pytest.fixture
async def conn() -> AsyncIterator[PacketConn]:
    async with open_udp() as conn:
        yield conn


@pytest.fixture
def en0() -> None:
    """A second interface, index 77, with an address; its other end is en1."""
    make_en0()


async def assert_heard(conn: PacketConn, source: str = FAR) -> None:
    """Put a datagram on the wire to en0, and wait until the connection has it."""
    port = conn.local_endpoint[1]
    payload = os.urandom(8)
    udp = struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload
    header = bytearray(
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 1, 17, 0, IPv4Address(source).packed, GROUP.packed)
    )
    total = sum(struct.unpack("!10H", header))
    header[10:12] = struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF)
    frame = bytes([1, 0, 0x5E, GROUP.packed[1] & 0x7F, *GROUP.packed[2:], 2, 0, 0, 0, 0, 9, 8, 0]) + header + udp
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire, trio.fail_after(20):
        wire.bind(("en1", 0))
        while True:
            wire.send(frame)  # Again and again: a cable that was put in just now may still lose it.
            with trio.move_on_after(0.05):
                while (await conn.receive()).payload != payload:
                    pass
                return


def send_on_loopback(conn: PacketConn, source: str) -> None:
    """Delivery on loopback is synchronous: what is heard is queued when this returns."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        request = struct.pack("=4s4si", bytes(4), IPv4Address(A).packed, LO)  # struct ip_mreqn
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        sender.sendto(source.encode(), (str(GROUP), conn.local_endpoint[1]))


def heard(conn: PacketConn, *sources: str) -> list[str]:
    """Send from each source on loopback, and return which of them the connection hears."""
    for source in sources:
        send_on_loopback(conn, source)
    queued = []
    with contextlib.suppress(BlockingIOError):
        while True:
            queued.append(os.read(conn.socket.fileno(), 100).decode())
    return queued


# Steps that Linux takes although they are illegal, or refuses without leaving things as they were


async def test_joining_a_source_never_narrows_an_any_source_membership(conn: PacketConn) -> None:
    conn.join_group(LO, GROUP)
    with refused(conn, errno.EINVAL, str(GROUP)):
        conn.join_source_specific_group(LO, GROUP, A)
    async with conn.joined(LO, GROUP, sources=INCLUDE(A)):
        check(conn, ANY)
        assert heard(conn, A, B) == [A, B]
    check(conn, ANY)


@pytest.mark.parametrize("join", ["join_group", "set_source_filter"])
async def test_leaving_a_source_never_makes_an_any_source_member_deaf(conn: PacketConn, join: str) -> None:
    if join == "join_group":
        conn.join_group(LO, GROUP)
    else:
        conn.set_source_filter(LO, GROUP, ANY)
    with refused(conn, errno.EINVAL, str(GROUP)):
        conn.leave_source_specific_group(LO, GROUP, A)
    check(conn, ANY)
    assert heard(conn, A, B) == [A, B]


async def test_blocking_twice_is_refused_and_blocks_once(conn: PacketConn) -> None:
    conn.join_group(LO, GROUP)
    conn.exclude_source_specific_group(LO, GROUP, A)
    with refused(conn, errno.EADDRNOTAVAIL, str(GROUP)):
        conn.exclude_source_specific_group(LO, GROUP, A)
    conn.include_source_specific_group(LO, GROUP, A)
    check(conn, ANY)
    async with conn.joined(LO, GROUP, sources=NONE) as membership:
        conn.leave_group(LO, GROUP)
        membership.set_sources(EXCLUDE(A))
        membership.block(A)  # For a scope it is a state, not a step.
        check(conn, EXCLUDE(A))
        membership.allow(A)
        check(conn, ANY)


async def test_a_source_specific_join_never_passes_through_an_any_source_one(
    conn: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined(*args: object) -> None:
        pytest.fail("it joined from any source")

    monkeypatch.setattr(groups, "join_group", joined)
    for sources in (INCLUDE(A, B), EXCLUDE(A), EXCLUDE(B, "127.0.0.3")):
        async with conn.joined(LO, GROUP, sources=sources):
            assert heard(conn, A, B) == [each for each in (A, B) if sources.accepts(each)]


async def test_leaving_the_last_source_leaves_and_the_ledger_knows(conn: PacketConn) -> None:
    conn.join_source_specific_group(LO, GROUP, A)
    conn.leave_source_specific_group(LO, GROUP, A)
    check(conn, NONE)
    conn.join_group(LO, GROUP)
    check(conn, ANY)


async def test_setting_a_filter_joins_and_leaves_as_rfc_3678_says(conn: PacketConn) -> None:
    for sources in (NONE, INCLUDE(A, B), NONE, EXCLUDE(A), NONE, ANY, NONE, NONE):
        conn.set_source_filter(LO, GROUP, sources)
        check(conn, sources)


@pytest.mark.parametrize("source", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3"])
async def test_what_is_no_unicast_address_is_refused_as_a_source(conn: PacketConn, source: str) -> None:
    async with conn.joined(LO, GROUP) as membership:
        for attempt in (membership.allow, membership.block, INCLUDE, EXCLUDE, ANY.allow, ANY.block):
            with pytest.raises(ValueError, match=f"sources? must be a unicast address, got {re.escape(source)}"):
                attempt(source)
        assert membership.sources == ANY
        check(conn, ANY)


async def test_the_same_source_twice_is_one(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=INCLUDE(A, IPv4Address(A), A)) as membership:
        assert kernel_filter(conn, HERE) == ("include", [A])
        membership.allow(A, B, B)
        assert kernel_filter(conn, HERE) == ("include", [A, B])
    check(conn, NONE)


async def test_duplicates_made_on_the_bare_socket_are_read_as_one(conn: PacketConn) -> None:
    conn.join_group(LO, GROUP)
    request = struct.pack("=4s4sII", GROUP.packed, IPv4Address(A).packed, 0, 2)  # struct ip_msfilter: EXCLUDE
    conn.socket.setsockopt(socket.IPPROTO_IP, 41, request + IPv4Address(B).packed * 2)  # IP_MSFILTER, linux/in.h
    assert kernel_filter(conn, HERE) == ("exclude", [B, B])
    assert conn.source_filter(LO, GROUP) == EXCLUDE(B)


# Limits


async def test_the_21st_membership_is_refused(conn: PacketConn) -> None:
    words = str(GROUP), "lo", "net.ipv4.igmp_max_memberships is 20"
    for last in range(20):
        conn.join_group(LO, f"239.9.9.{last}")
    for sources in (ANY, INCLUDE(A), EXCLUDE(A)):
        with refused(conn, errno.ENOBUFS, *words):
            conn.set_source_filter(LO, GROUP, sources)
        with refused(conn, errno.ENOBUFS, *words):
            async with conn.joined("lo", GROUP, sources=sources):
                pytest.fail("it entered")
    with refused(conn, errno.ENOBUFS, *words):
        conn.join_group(LO, GROUP)
    with refused(conn, errno.ENOBUFS, *words):
        conn.join_source_specific_group(LO, GROUP, A)
    set_sysctl("ipv4/igmp_max_memberships", 21)
    conn.join_group(LO, GROUP)
    with refused(conn, errno.ENOBUFS, "239.9.9.99", "net.ipv4.igmp_max_memberships is 21"):
        conn.join_group(LO, "239.9.9.99")


async def test_the_21st_membership_by_route_is_refused(conn: PacketConn) -> None:
    route_groups("lo")
    for last in range(20):
        conn.join_group(None, f"239.9.9.{last}")
    with refused(conn, errno.ENOBUFS, str(GROUP), "net.ipv4.igmp_max_memberships is 20"):
        async with conn.joined(None, GROUP):
            pytest.fail("it entered")


async def test_the_11th_source_is_refused(conn: PacketConn) -> None:
    words = str(GROUP), "lo", "net.ipv4.igmp_max_msf is 10"
    for wide in (INCLUDE(*TEN, A), EXCLUDE(*TEN, A)):
        with refused(conn, errno.ENOBUFS, *words):
            async with conn.joined(LO, GROUP, sources=wide):
                pytest.fail("it entered")
        with refused(conn, errno.ENOBUFS, *words):
            conn.set_source_filter(LO, GROUP, wide)
    async with conn.joined(LO, GROUP, sources=INCLUDE(*TEN)) as membership:
        with refused(conn, errno.ENOBUFS, *words):
            membership.allow(A)
        with refused(conn, errno.ENOBUFS, *words):
            membership.set_sources(EXCLUDE(*TEN, A))
        with refused(conn, errno.ENOBUFS, *words):
            conn.join_source_specific_group(LO, GROUP, A)
        with refused(conn, errno.ENOBUFS, *words):
            async with conn.joined(LO, GROUP, sources=INCLUDE(A)):
                pytest.fail("it entered")
        assert membership.sources == INCLUDE(*TEN)
    conn.set_source_filter(LO, GROUP, EXCLUDE(*TEN))
    with refused(conn, errno.ENOBUFS, *words):
        conn.exclude_source_specific_group(LO, GROUP, A)
    set_sysctl("ipv4/igmp_max_msf", 11)
    conn.exclude_source_specific_group(LO, GROUP, A)
    check(conn, EXCLUDE(*TEN, A))


async def test_a_filter_that_the_kernel_has_no_memory_for_is_refused(conn: PacketConn) -> None:
    set_sysctl("ipv4/igmp_max_msf", 10_000)
    many = INCLUDE(*(IPv4Address(0x0A00_0000 + number) for number in range(1, 5001)))
    conn.join_group(LO, GROUP)
    with refused(conn, errno.ENOBUFS, str(GROUP), "lo"):
        conn.set_source_filter(LO, GROUP, many)


async def test_the_refusal_for_lack_of_option_memory_names_its_sysctl(conn: PacketConn) -> None:
    set_sysctl("ipv4/igmp_max_msf", 10_000)
    many = INCLUDE(*(IPv4Address(0x0A00_0000 + number) for number in range(1, 5001)))
    with refused(conn, errno.ENOBUFS, "net.core.optmem_max"):
        conn.set_source_filter(LO, GROUP, many)


async def test_the_refusal_names_what_the_filter_was_to_be(conn: PacketConn) -> None:
    with refused(conn, errno.ENOBUFS, "10.0.0.10", A):
        conn.set_source_filter(LO, GROUP, INCLUDE(*TEN, A))


# The kernel's refusal of a narrower filter at the end of a scope


async def test_a_narrower_filter_that_is_refused_at_exit_keeps_the_wider_one_and_warns(conn: PacketConn) -> None:
    wide = conn.joined(LO, GROUP)
    await wide.__aenter__()
    async with conn.joined(LO, GROUP, sources=INCLUDE(*TEN)):
        async with conn.joined(LO, GROUP, sources=INCLUDE(*TEN_MORE[:9], A)) as second:
            with pytest.warns(
                MembershipWarning, match=r"lo .*net\.ipv4\.igmp_max_msf is 10.*keeps SourceFilter\.any"
            ) as caught:
                await wide.__aexit__(None, None, None)
            assert caught[0].filename == __file__
            check(conn, ANY)  # No open scope hears less than it asked for.
            assert heard(conn, A, B) == [A, B]
            set_sysctl("ipv4/igmp_max_msf", 20)
            second.block(TEN_MORE[0])  # The next change tries again.
            check(conn, INCLUDE(*TEN, *TEN_MORE[1:9], A))
            assert heard(conn, A, B) == [A]
        check(conn, INCLUDE(*TEN))
    check(conn, NONE)


async def test_the_warning_made_an_error_arrives_and_the_scope_has_ended(conn: PacketConn) -> None:
    wide = conn.joined(LO, GROUP)
    await wide.__aenter__()
    async with conn.joined(LO, GROUP, sources=INCLUDE(*TEN)), conn.joined(LO, GROUP, sources=INCLUDE(*TEN_MORE)):
        with pytest.raises(MembershipWarning):
            await wide.__aexit__(None, None, None)
        with pytest.raises(trio.ClosedResourceError):
            wide.allow(A)
        check(conn, ANY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await enter_and_leave(conn)
    check(conn, NONE)


async def enter_and_leave(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP):
        check(conn, ANY)


async def test_the_bodys_exception_is_not_replaced_by_the_warning(conn: PacketConn) -> None:
    async with AsyncExitStack() as stack:
        wide = conn.joined(LO, GROUP)
        await wide.__aenter__()
        await stack.enter_async_context(conn.joined(LO, GROUP, sources=INCLUDE(*TEN)))
        await stack.enter_async_context(conn.joined(LO, GROUP, sources=INCLUDE(*TEN_MORE)))
        error = LookupError()
        await wide.__aexit__(LookupError, error, None)
        assert "net.ipv4.igmp_max_msf is 10" in error.__notes__[0]


async def test_where_a_narrower_filter_was_refused_smaller_changes_pass_with_the_same_warning(conn: PacketConn) -> None:
    wide = conn.joined(LO, GROUP)
    await wide.__aenter__()
    async with (
        conn.joined(LO, GROUP, sources=INCLUDE(*TEN)),
        conn.joined(LO, GROUP, sources=INCLUDE(*TEN_MORE)) as second,
    ):
        with pytest.warns(MembershipWarning):
            await wide.__aexit__(None, None, None)
        with pytest.warns(MembershipWarning, match="igmp_max_msf is 10"):
            second.block(TEN_MORE[0])
        assert second.sources == INCLUDE(*TEN_MORE[1:])
        check(conn, ANY)
        with pytest.warns(MembershipWarning):
            async with conn.joined(LO, GROUP, sources=INCLUDE(A)):
                assert heard(conn, A) == [A]
        second.set_sources(NONE)  # Now it fits.
        check(conn, INCLUDE(*TEN))
    check(conn, NONE)


# Index 0: the routes choose


async def test_without_a_route_joining_by_route_says_to_name_an_interface(conn: PacketConn) -> None:
    for sources in (ANY, INCLUDE(A)):
        with refused(conn, errno.ENODEV, str(GROUP), "no route", "name one"):
            async with conn.joined(None, GROUP, sources=sources):
                pytest.fail("it entered")
        with refused(conn, errno.ENODEV, str(GROUP), "no route"):
            conn.set_source_filter(None, GROUP, sources)
    with refused(conn, errno.ENODEV, str(GROUP), "no route"):
        conn.leave_group(None, GROUP)


@pytest.mark.parametrize("sources", [ANY, INCLUDE(A, B), EXCLUDE(A)], ids=repr)
async def test_a_scope_leaves_where_it_joined_when_the_route_has_moved(
    conn: PacketConn, en0: None, sources: SourceFilter
) -> None:
    for move in (lambda: route_groups("en0"), lambda: ip("route delete 224.0.0.0/4")):
        route_groups("lo")
        async with conn.joined(None, GROUP, sources=sources) as membership:
            assert membership.interface == LO
            move()
            membership.block(B)
            check(conn, sources.block(B))
        check(conn, NONE)
        check(conn, NONE, THERE)


async def test_the_explicit_operations_stay_where_they_joined_when_the_route_has_moved(
    conn: PacketConn, en0: None
) -> None:
    for move in (lambda: route_groups("en0"), lambda: ip("route delete 224.0.0.0/4")):
        route_groups("lo")
        conn.join_group(None, GROUP)
        move()
        conn.exclude_source_specific_group(None, GROUP, A)
        check(conn, EXCLUDE(A))
        conn.leave_group(None, GROUP)
        check(conn, NONE)
        check(conn, NONE, THERE)


async def test_leaving_on_another_interface_does_not_forget_where_the_routes_chose(conn: PacketConn, en0: None) -> None:
    route_groups("lo")
    conn.join_group(None, GROUP)
    conn.join_group(EN0, GROUP)
    conn.leave_group(EN0, GROUP)
    route_groups("en0")
    conn.leave_group(None, GROUP)
    check(conn, NONE)


async def test_the_filter_is_read_where_the_routes_chose(conn: PacketConn, en0: None) -> None:
    route_groups("lo")
    conn.set_source_filter(None, GROUP, INCLUDE(A))
    route_groups("en0")
    assert conn.source_filter(None, GROUP) == INCLUDE(A)


async def test_joining_by_route_finds_the_membership_that_is_there(conn: PacketConn, en0: None) -> None:
    route_groups("en0")
    async with conn.joined(EN0, GROUP, sources=INCLUDE(FAR)), conn.joined(LO, GROUP):
        async with conn.joined(None, GROUP, sources=INCLUDE(A)) as membership:
            assert membership.interface == EN0
            check(conn, INCLUDE(FAR, A), THERE)
            check(conn, ANY)
        check(conn, INCLUDE(FAR), THERE)
        assert conn.source_filter(None, GROUP) == INCLUDE(FAR)
        conn.join_group(None, GROUP)
        check(conn, ANY, THERE)
    check(conn, ANY, THERE)
    check(conn, NONE)
    conn.leave_group("en0", GROUP)
    check(conn, NONE, THERE)


async def test_joining_by_route_beside_another_interface_joins_where_the_routes_lead(
    conn: PacketConn, en0: None
) -> None:
    route_groups("en0")
    async with conn.joined(LO, GROUP, sources=EXCLUDE(A)):
        async with conn.joined(None, GROUP, sources=EXCLUDE(B)) as membership:
            assert membership.interface == EN0
            check(conn, EXCLUDE(B), THERE)
            check(conn, EXCLUDE(A))
        check(conn, NONE, THERE)
        check(conn, EXCLUDE(A))


async def test_when_two_memberships_look_alike_joining_by_route_is_refused(conn: PacketConn, en0: None) -> None:
    route_groups("en0")
    async with conn.joined(LO, GROUP), conn.joined(EN0, GROUP):
        before = dict(conn.memberships)
        with pytest.raises(OSError, match=r"which interface the routes choose for 239\.1\.2\.3"):
            async with conn.joined(None, GROUP):
                pytest.fail("it entered")
        assert dict(conn.memberships) == before


async def test_that_refusal_says_to_name_an_interface(conn: PacketConn, en0: None) -> None:
    route_groups("en0")
    async with conn.joined(LO, GROUP), conn.joined(EN0, GROUP):
        with refused(conn, errno.EADDRINUSE, str(GROUP), "name"):
            async with conn.joined(None, GROUP):
                pytest.fail("it entered")


async def test_a_refused_join_by_route_leaves_nothing_beside_a_scope_that_hears_nobody(conn: PacketConn) -> None:
    route_groups("lo")
    async with conn.joined(LO, GROUP, sources=NONE):
        with refused(conn, errno.ENOBUFS, str(GROUP)):
            conn.set_source_filter(None, GROUP, INCLUDE(*TEN, A))


# Interfaces that go away


async def test_an_unknown_interface_is_refused_by_name_index_and_address(conn: PacketConn) -> None:
    for interface, number in (("en7", errno.ENODEV), (4242, errno.ENODEV), (IPv4Address(FAR), errno.EADDRNOTAVAIL)):
        with refused(conn, number, str(interface), "interfaces() lists them"):
            async with conn.joined(interface, GROUP):
                pytest.fail("it entered")
        with refused(conn, number, str(interface)):
            conn.join_group(interface, GROUP)


async def test_leaving_on_an_interface_that_is_gone_is_no_error(conn: PacketConn, en0: None) -> None:
    for sources in (ANY, INCLUDE(FAR), EXCLUDE(FAR)):
        async with conn.joined(EN0, GROUP, sources=sources):
            remove_en0()
        assert kernel_filter(conn, THERE) is None
        assert dict(conn.memberships) == {}
        make_en0()


async def test_scopes_of_interfaces_that_went_away_do_not_use_up_the_limit(conn: PacketConn) -> None:
    for index in range(100, 122):
        make_en0(index)
        async with conn.joined(index, GROUP):
            remove_en0()
    assert dict(conn.memberships) == {}


async def test_dead_explicit_memberships_do_not_use_up_the_limit(conn: PacketConn) -> None:
    for index in range(100, 122):
        make_en0(index)
        conn.join_group(index, GROUP)
        remove_en0()
    assert dict(conn.memberships) == {}
    conn.join_group(LO, GROUP)
    assert kernel_filter(conn, HERE) == ("exclude", [])
    conn.leave_group(100, GROUP)
    with refused(conn, errno.EADDRNOTAVAIL, "index 100"):
        conn.leave_group(100, GROUP)


async def test_changes_on_an_interface_that_is_gone_are_refused(conn: PacketConn, en0: None) -> None:
    async with conn.joined(EN0, GROUP) as membership:
        remove_en0()
        for change in (membership.block, lambda address: membership.set_sources(INCLUDE(address))):
            with refused(conn, errno.ENODEV, str(GROUP), "index 77", "gone"):
                change(FAR)
        assert membership.sources == ANY
        with refused(conn, errno.ENODEV, str(GROUP), "index 77"):
            async with conn.joined(EN0, GROUP):
                pytest.fail("it entered")
        membership.set_sources(NONE)
        assert kernel_filter(conn, THERE) is None
        with refused(conn, errno.ENODEV, str(GROUP), "index 77"):
            membership.allow(FAR)
        assert membership.sources == NONE


@pytest.mark.parametrize("sources", [ANY, INCLUDE(FAR), EXCLUDE(A)], ids=repr)
async def test_joining_again_on_a_recreated_interface_is_heard(
    conn: PacketConn, en0: None, sources: SourceFilter
) -> None:
    async with conn.joined(EN0, GROUP, sources=sources):
        await assert_heard(conn)
        recreate_en0()
        async with conn.joined(EN0, GROUP, sources=sources):
            check(conn, sources, THERE)
            await assert_heard(conn)
        check(conn, sources, THERE)
        await assert_heard(conn)
    check(conn, NONE, THERE)


@pytest.mark.parametrize("sources", [ANY, INCLUDE(FAR), EXCLUDE(A)], ids=repr)
async def test_an_explicit_join_beside_a_dead_scope_is_heard(
    conn: PacketConn, en0: None, sources: SourceFilter
) -> None:
    async with conn.joined(EN0, GROUP, sources=sources):
        recreate_en0()
        conn.join_group("en0", GROUP)
        check(conn, ANY, THERE)
        await assert_heard(conn)
    check(conn, ANY, THERE)


async def test_changing_a_dead_membership_by_name_of_a_source_joins_anew(conn: PacketConn, en0: None) -> None:
    async with conn.joined(EN0, GROUP) as membership:
        recreate_en0()
        membership.block(A)
        check(conn, EXCLUDE(A), THERE)
        await assert_heard(conn)


@pytest.mark.parametrize("sources", [ANY, INCLUDE(FAR), EXCLUDE(A)], ids=repr)
async def test_repair_joins_again_what_is_dead(conn: PacketConn, en0: None, sources: SourceFilter) -> None:
    async with conn.joined(EN0, GROUP, sources=sources), conn.joined(LO, GROUP, sources=EXCLUDE(B)):
        conn.repair_memberships()
        recreate_en0()
        conn.repair_memberships()
        check(conn, sources, THERE)
        check(conn, EXCLUDE(B))
        await assert_heard(conn)
        conn.repair_memberships()
        check(conn, sources, THERE)
    assert dict(conn.memberships) == {}
    assert not {HERE, THERE} & igmp_groups().keys()


async def test_repair_waits_for_an_interface_that_is_gone(conn: PacketConn, en0: None) -> None:
    async with conn.joined(EN0, GROUP, sources=EXCLUDE(A)):
        remove_en0()
        conn.repair_memberships()
        assert dict(conn.memberships) == {}
        make_en0()
        conn.repair_memberships()
        check(conn, EXCLUDE(A), THERE)
        await assert_heard(conn)


async def test_repair_does_the_others_when_one_is_refused(conn: PacketConn, en0: None) -> None:
    other = IPv4Address("239.1.2.4")
    async with conn.joined(EN0, GROUP), conn.joined(EN0, other):
        recreate_en0()
        set_sysctl("ipv4/igmp_max_memberships", 1)
        with pytest.raises(OSError, match=r"igmp_max_memberships is 1"):
            conn.repair_memberships()
        assert len({THERE, (EN0, other)} & igmp_groups().keys()) == 1


async def test_a_repair_that_was_refused_can_be_tried_again(conn: PacketConn, en0: None) -> None:
    async with conn.joined(EN0, GROUP):
        recreate_en0()
        set_sysctl("ipv4/igmp_max_memberships", 0)
        with pytest.raises(OSError, match=r"igmp_max_memberships is 0"):
            conn.repair_memberships()
        set_sysctl("ipv4/igmp_max_memberships", 20)
        conn.repair_memberships()
        check(conn, ANY, THERE)


async def test_a_scope_that_ends_on_a_dead_membership_that_cannot_be_joined_anew_warns(
    conn: PacketConn, en0: None
) -> None:
    async with conn.joined(EN0, GROUP, sources=INCLUDE(A)):
        ending = conn.joined(EN0, GROUP, sources=INCLUDE(B))
        await ending.__aenter__()
        recreate_en0()
        set_sysctl("ipv4/igmp_max_memberships", 0)
        with pytest.warns(MembershipWarning, match="igmp_max_memberships is 0"):
            await ending.__aexit__(None, None, None)


async def test_a_membership_survives_renaming_and_down_and_up(conn: PacketConn, en0: None) -> None:
    async with conn.joined("en0", GROUP):
        ip("link set en0 down", "link set en0 name wan0", "link set wan0 up", "link set wan0 name en0")
        check(conn, ANY, THERE)
        await assert_heard(conn)
    check(conn, NONE, THERE)


# Memberships that the caller made on the bare socket


def bare_any(conn: PacketConn, index: int) -> None:
    request = struct.pack("=4s4si", GROUP.packed, bytes(4), index)  # struct ip_mreqn
    conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def bare_source(conn: PacketConn, index: int) -> None:
    request = struct.pack("=I4x", index) + SOCKADDR.pack(socket.AF_INET, 0, GROUP.packed)
    request += SOCKADDR.pack(socket.AF_INET, 0, IPv4Address(A).packed)
    conn.socket.setsockopt(socket.IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, request)


@pytest.mark.parametrize("bare", [bare_any, bare_source])
async def test_what_the_caller_joined_on_the_bare_socket_is_neither_changed_nor_left(
    conn: PacketConn, en0: None, bare: Callable[[PacketConn, int], None]
) -> None:
    bare(conn, LO)
    words = str(GROUP), "lo", "this connection did not make", "leave there first"
    for sources in (ANY, INCLUDE(A), INCLUDE(B), EXCLUDE(A)):
        with refused(conn, errno.EADDRINUSE, *words):
            async with conn.joined(LO, GROUP, sources=sources):
                pytest.fail("it entered")
        with refused(conn, errno.EADDRINUSE, *words):
            conn.set_source_filter(LO, GROUP, sources)
    with refused(conn, errno.EADDRINUSE, *words):
        conn.join_group(LO, GROUP)
    with refused(conn, errno.EADDRINUSE, *words):
        conn.join_source_specific_group(LO, GROUP, B)
    with refused(conn, errno.EADDRNOTAVAIL, str(GROUP)):
        conn.leave_group(LO, GROUP)
    with refused(conn, errno.EINVAL, str(GROUP)):
        conn.exclude_source_specific_group(LO, GROUP, B)
    before = kernel_filter(conn, HERE)
    conn.set_source_filter(LO, GROUP, NONE)
    conn.repair_memberships()
    async with conn.joined(EN0, GROUP, sources=EXCLUDE(FAR)), conn.joined(LO, GROUP, sources=NONE):
        check(conn, EXCLUDE(FAR), THERE)
        assert kernel_filter(conn, HERE) == before
    assert kernel_filter(conn, HERE) == before
    assert dict(conn.memberships) == {}
    assert conn.source_filter(LO, GROUP) == (ANY if bare is bare_any else INCLUDE(A))
    duplicate = os.dup(conn.socket.fileno())
    conn.close()
    assert igmp_groups()[HERE] == 1, "closing leaves what the ledger has, and nothing else"
    os.close(duplicate)


async def test_a_scope_that_widens_into_a_bare_membership_is_refused(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=NONE) as membership:
        bare_any(conn, LO)
        with refused(conn, errno.EADDRINUSE, str(GROUP), "did not make"):
            membership.allow(A)
        assert membership.sources == NONE
    assert kernel_filter(conn, HERE) == ("exclude", [])


async def test_a_membership_that_the_caller_left_on_the_bare_socket_is_joined_anew_by_the_next_change(
    conn: PacketConn,
) -> None:
    async with conn.joined(LO, GROUP, sources=INCLUDE(A)) as membership:
        request = struct.pack("=4s4si", GROUP.packed, bytes(4), LO)
        conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)
        membership.allow(B)
        check(conn, INCLUDE(A, B))
        conn.socket.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)
    check(conn, NONE)


@pytest.mark.parametrize("bare", [bare_any, bare_source])
async def test_joining_by_route_does_not_take_a_bare_membership_for_its_own(
    conn: PacketConn, en0: None, bare: Callable[[PacketConn, int], None]
) -> None:
    route_groups("en0")
    bare(conn, LO)
    before = kernel_filter(conn, HERE)
    async with conn.joined(None, GROUP, sources=EXCLUDE(FAR)) as membership:
        assert membership.interface == EN0
        check(conn, EXCLUDE(FAR), THERE)
        assert kernel_filter(conn, HERE) == before
    check(conn, NONE, THERE)
    assert kernel_filter(conn, HERE) == before


async def test_joining_by_route_into_a_bare_membership_is_refused_although_ours_elsewhere_looks_alike(
    conn: PacketConn, en0: None
) -> None:
    route_groups("en0")
    bare_any(conn, EN0)
    async with conn.joined(LO, GROUP):
        with pytest.raises(OSError, match=re.escape(str(GROUP))):
            async with conn.joined(None, GROUP):
                pytest.fail("it entered")


# Sockets that hear nothing of what they join, and what they are not


async def test_a_socket_bound_to_a_unicast_address_or_another_group_warns() -> None:
    for address in (A, "239.1.2.4"):
        async with open_udp(address, bind_group=address != A) as conn:
            with pytest.warns(DeafMembershipWarning, match=rf"bound to {re.escape(address)}.*239\.1\.2\.3") as caught:
                async with conn.joined(LO, GROUP):
                    assert heard(conn, A, B) == []
            assert caught[0].filename == __file__
            with pytest.warns(DeafMembershipWarning) as caught:
                conn.set_source_filter(LO, GROUP, EXCLUDE(A))
            assert caught[0].filename == __file__


async def test_a_socket_bound_to_the_group_or_to_nothing_does_not_warn() -> None:
    for address in (str(GROUP), "0.0.0.0"):
        async with open_udp(address, bind_group=address != "0.0.0.0") as conn, conn.joined(LO, GROUP):
            assert heard(conn, A, B) == [A, B]


async def test_any_source_in_the_source_specific_range_warns(conn: PacketConn) -> None:
    key = LO, SSM_GROUP
    for sources in (ANY, EXCLUDE(A)):
        with pytest.warns(SourceSpecificRangeWarning, match=r"232\.7\.8\.9.*SourceFilter\.include") as caught:
            async with conn.joined(LO, SSM_GROUP, sources=sources):
                check(conn, sources, key)
        assert [each.filename for each in caught] == [__file__]
        with pytest.warns(SourceSpecificRangeWarning) as caught:
            conn.set_source_filter(LO, SSM_GROUP, sources)
        assert [each.filename for each in caught] == [__file__]
        conn.leave_group(LO, SSM_GROUP)
    async with conn.joined(LO, SSM_GROUP, sources=INCLUDE(A)):  # No warning: it would be an error here.
        check(conn, INCLUDE(A), key)


async def test_turning_to_any_source_in_the_source_specific_range_warns(conn: PacketConn) -> None:
    async with conn.joined(LO, SSM_GROUP, sources=INCLUDE(A)) as membership:
        with pytest.warns(SourceSpecificRangeWarning):
            membership.set_sources(ANY)


async def test_with_warnings_as_errors_nothing_is_joined(conn: PacketConn) -> None:
    route_groups("lo")
    before = igmp_groups()
    for interface in (LO, None):
        with pytest.raises(SourceSpecificRangeWarning):
            conn.join_group(interface, SSM_GROUP)
        with pytest.raises(SourceSpecificRangeWarning):
            async with conn.joined(interface, SSM_GROUP):
                pytest.fail("it entered")
    async with open_udp(A) as deaf:
        with pytest.raises(DeafMembershipWarning):
            async with deaf.joined(LO, GROUP):
                pytest.fail("it entered")
        assert dict(deaf.memberships) == {}
    assert dict(conn.memberships) == {}
    assert igmp_groups() == before


async def test_a_script_that_is_run_by_its_path_is_warned_too(conn: PacketConn) -> None:
    script = compile("conn.join_group(1, '232.7.8.9')", "script.py", "exec")
    with pytest.warns(SourceSpecificRangeWarning) as caught:
        exec(script, {"__name__": "__main__", "__package__": None, "conn": conn})
    assert caught[0].filename == "script.py"


async def test_a_package_whose_name_begins_alike_is_a_caller_too(conn: PacketConn) -> None:
    script = compile("conn.join_group(1, '232.7.8.9')", "theirs.py", "exec")
    with pytest.warns(SourceSpecificRangeWarning) as caught:
        exec(script, {"__name__": "trio_ipv4_tools.main", "__package__": "trio_ipv4_tools", "conn": conn})
    assert caught[0].filename == "theirs.py"


async def test_tcp_sockets_can_be_no_members() -> None:
    with trio.socket.socket() as stream:
        with pytest.raises(TypeError, match="SOCK_DGRAM"):
            PacketConn(stream)
        assert not hasattr(Conn(stream), "joined")


# Another network namespace


@pytest.fixture
async def far(lab: Lab) -> AsyncIterator[PacketConn]:
    """A connection that belongs to host a, used from the test's own namespace."""
    async with lab["a"].call(open_udp) as conn:
        yield conn


async def test_names_and_addresses_are_those_of_the_connections_namespace(lab: Lab, far: PacketConn) -> None:
    host = lab["a"]
    index = host.interfaces[0].index
    key = index, GROUP
    with pytest.raises(OSError, match="en0"):
        interface_by_name("en0")
    own = igmp_groups()
    for interface in ("en0", index, host.addresses[0], host.interfaces[0]):
        async with far.joined(interface, GROUP, sources=EXCLUDE(B)) as membership:
            assert membership.interface == index
            assert key in host.call(igmp_groups)
            assert kernel_filter(far, key) == ("exclude", [B])
        assert key not in host.call(igmp_groups)
    far.join_group("en0", GROUP)
    assert key in host.call(igmp_groups)
    far.leave_group(host.addresses[0], GROUP)
    assert key not in host.call(igmp_groups)
    assert igmp_groups() == own
    ip("link add en9 index 900 type veth peer name en8")  # Ours, not the host's.
    with pytest.raises(OSError, match="en9") as caught:
        far.join_group("en9", GROUP)
    assert caught.value.errno == errno.ENODEV


async def test_routes_are_those_of_the_connections_namespace(lab: Lab, far: PacketConn) -> None:
    host = lab["a"]
    route_groups("lo")  # Ours, not the host's.
    with pytest.raises(OSError, match="no route"):
        far.join_group(None, GROUP)
    host.ip("route", "add", "224.0.0.0/4", "dev", "en0")
    async with far.joined(None, GROUP, sources=EXCLUDE(A)) as membership:
        assert membership.interface == host.interfaces[0].index
        assert (membership.interface, GROUP) in host.call(igmp_groups)


async def test_an_interface_without_an_address_can_be_chosen_there(lab: Lab, far: PacketConn) -> None:
    host = lab["a"]
    host.ip("link", "add", "en7", "index", "907", "type", "veth", "peer", "name", "en8")
    host.ip("link", "set", "en7", "up")
    host.ip("route", "add", "224.0.0.0/4", "dev", "en7")
    async with far.joined(None, GROUP) as membership:
        assert membership.interface == 907


async def test_the_message_there_names_the_sysctl_and_not_our_value_of_it(lab: Lab, far: PacketConn) -> None:
    set_sysctl("ipv4/igmp_max_memberships", 1)  # Ours, not the host's.
    for last in range(20):
        far.join_group("en0", f"239.9.9.{last}")
    with pytest.raises(OSError, match=r"en0 .*sysctl net\.ipv4\.igmp_max_memberships;") as caught:
        far.join_group("en0", GROUP)
    assert caught.value.errno == errno.ENOBUFS


@pytest.mark.parametrize("sources", [ANY, INCLUDE(FAR), EXCLUDE(A)], ids=repr)
async def test_dead_memberships_are_found_there_too(lab: Lab, far: PacketConn, sources: SourceFilter) -> None:
    host = lab["a"]
    host.call(make_en9)
    key = 99, GROUP
    async with far.joined("en9", GROUP, sources=sources):
        for revive in ("repair", "join"):
            host.ip("link", "delete", "en9")
            host.call(make_en9)
            assert key not in host.call(igmp_groups)
            if revive == "repair":
                far.repair_memberships()
            else:
                async with far.joined("en9", GROUP, sources=sources):
                    pass
            assert key in host.call(igmp_groups)
            assert kernel_filter(far, key) == spell(sources)
            assert far.memberships[key] == sources


def make_en9() -> None:
    ip("link add en9 index 99 type veth peer name en8", "link set en9 up")


async def test_looking_for_dead_memberships_there_never_stops_hearing_anybody(
    lab: Lab, far: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    set_filter = groups.set_filter

    def note(*args: object) -> None:
        written.append(args[3])
        set_filter(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(groups, "set_filter", note)
    async with far.joined("lo", GROUP), far.joined("lo", GROUP):
        pass
    assert all(each.accepts(source) for each in written for source in (A, B, FAR, "10.0.0.1"))
