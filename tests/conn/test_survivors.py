"""What mutation testing showed that no other quick test would have noticed, in the ledger of memberships."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import warnings
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.links import bridge, ip
from support.systems import lacking, on_platform
from trio_ipv4 import MembershipWarning, SourceFilter, UnsupportedError, open_udp
from trio_ipv4._conn.ledger import Ledger
from trio_ipv4._kernel import groups, lookup
from trio_ipv4.testing import igmp_groups, source_filters

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP, OTHER = IPv4Address("239.1.2.3"), IPv4Address("239.1.2.4")
A = "198.18.0.7"
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 45, 46  # linux/in.h


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: Any) -> None:
        raise OSError(number, "not this one")

    return refuse


@pytest.fixture
def links() -> None:
    ip(*bridge("en0", 10), *bridge("en1", 11), "route add 224.0.0.0/4 dev en0")


async def test_an_excluded_source_is_never_included_on_the_way(links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    set_option = socket.socket.setsockopt

    def spy(self: socket.socket, level: int, option: int, *value: Any) -> None:
        if option == MCAST_JOIN_SOURCE_GROUP and level == socket.IPPROTO_IP:
            begun.append(IPv4Address(value[0][140:144]))  # struct group_source_req: gsr_source at 136.
        set_option(self, level, option, *value)

    monkeypatch.setattr(socket.socket, "setsockopt", spy)
    async with open_udp() as conn:
        async with conn.joined("en0", GROUP, sources=SourceFilter.exclude(A)):
            assert source_filters()[10, GROUP] == {IPv4Address(A): (0, 1)}
        async with conn.joined("en0", GROUP, sources=SourceFilter.include(A)):
            pass
    assert begun == [IPv4Address("255.255.255.255"), IPv4Address(A)]


async def test_a_route_that_leads_nowhere_to_be_found_leaves_no_membership(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("indexes", "all_indexes"):
        monkeypatch.setattr(lookup, name, lambda _socket: [])
    async with open_udp() as conn:
        with pytest.raises(OSError, match=r"join 239\.1\.2\.3") as refused:
            conn.join_group(None, GROUP)
        assert refused.value.errno == errno.ENODEV
        assert (10, GROUP) not in igmp_groups()


async def test_a_route_that_may_lead_to_either_of_two_leaves_no_membership(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = iter(
        [{}, {10: SourceFilter.any(), 11: SourceFilter.any()}, {10: SourceFilter.any(), 11: SourceFilter.any()}]
    )
    async with open_udp() as conn:
        with monkeypatch.context() as patch:
            patch.setattr(groups, "memberships", lambda *_: next(views))
            with pytest.raises(OSError, match=r"join 239\.1\.2\.3") as refused:
                conn.join_group(None, GROUP)
        assert refused.value.errno == errno.ENODEV
        assert (10, GROUP) not in igmp_groups()


@pytest.mark.parametrize("blind", [False, True])
async def test_a_second_scope_by_route_finds_the_first(
    blind: bool, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another namespace only the interfaces with an address are known at once; the others are tried one by one."""
    tried = []

    def try_all(of: Any) -> list[int]:
        tried.append(of)
        return [10, 11]

    monkeypatch.setattr(lookup, "all_indexes", try_all)
    async with open_udp() as conn, conn.joined(None, GROUP):
        if blind:
            monkeypatch.setattr(lookup, "indexes", lambda _: [])
        async with conn.joined(None, GROUP, sources=SourceFilter.include(A)) as second:
            assert second.interface == 10
        assert bool(tried) is blind


async def test_a_second_scope_by_route_that_is_nowhere_to_be_found_is_refused(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_udp() as conn, conn.joined(None, GROUP) as first:
        for name in ("indexes", "all_indexes"):
            monkeypatch.setattr(lookup, name, lambda _socket: [])
        with pytest.raises(OSError, match="tell which interface the routes choose") as refused:
            await conn.joined(None, GROUP).__aenter__()
        assert refused.value.errno == errno.EADDRINUSE
        assert dict(conn.memberships) == {(first.interface, GROUP): SourceFilter.any()}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENODEV, errno.ENOBUFS])
async def test_a_narrowing_that_is_refused_at_the_end_of_a_scope_is_told_unless_the_interface_is_gone(
    number: int, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP, sources=SourceFilter.include(A)):
        wide = conn.joined("en0", GROUP)
        await wide.__aenter__()
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            patch.setattr(groups, "set_filter", refusing(number))
            await wide.__aexit__(None, None, None)
    expected = [] if number == errno.ENODEV else [MembershipWarning]
    assert [each.category for each in told] == expected


async def test_a_join_that_the_platform_cannot_finish_leaves_nothing(links: None) -> None:
    with on_platform(lacking("MCAST_MSFILTER")):
        conn = open_udp()
    async with conn:
        with pytest.raises(UnsupportedError, match="MCAST_MSFILTER"):
            await conn.joined("en0", GROUP, sources=SourceFilter.exclude(A)).__aenter__()
        assert not conn.memberships
        assert (10, GROUP) not in igmp_groups()


async def test_closing_leaves_what_it_can(links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = open_udp()
    conn.join_group("en0", GROUP)
    conn.join_group("en1", GROUP)
    leave, left = groups.leave_group, []

    def refuse(of: Any, index: int, group: IPv4Address) -> None:
        if index == 10:
            raise OSError(errno.ENOBUFS, "no room")
        leave(of, index, group)
        left.append(index)

    monkeypatch.setattr(groups, "leave_group", refuse)
    conn.close()
    assert left == [11]


def test_the_descriptor_of_a_closed_standard_input_is_as_good_as_any(links: None) -> None:
    program = """
import os, trio
from trio_ipv4 import open_udp
from trio_ipv4.testing import igmp_groups

async def main():
    os.close(0)
    async with open_udp() as conn:
        assert conn.socket.fileno() == 0
        async with conn.joined("en0", "239.1.2.3"):
            pass
        conn.join_group("en0", "239.1.2.3")
        os.dup(0)  # The socket lives on; the membership must not.
    assert not [key for key in igmp_groups() if key[0] == 10 and str(key[1]) != "224.0.0.1"]

trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_repair_that_is_refused_does_not_end_the_others(links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        ip("link delete en0", "link delete en1")
        ip(*bridge("new0", 10), *bridge("new1", 11))
        join = groups.join_group

        def refuse(of: Any, index: int, group: IPv4Address) -> None:
            if index == 10:
                raise OSError(errno.ENOBUFS, "no room")
            join(of, index, group)

        monkeypatch.setattr(groups, "join_group", refuse)
        with pytest.raises(OSError, match="no room"):
            conn.repair_memberships()
        assert (11, GROUP) in igmp_groups()


async def test_a_repair_tells_the_first_of_several_refusals(links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        ip("link delete en0", "link delete en1", *bridge("new0", 10), *bridge("new1", 11))

        def refuse(of: Any, index: int, group: IPv4Address) -> None:
            raise OSError({10: errno.ENOBUFS, 11: errno.ENOMEM}[index], "no room")

        monkeypatch.setattr(groups, "join_group", refuse)
        with pytest.raises(OSError, match="no room") as refused:
            conn.repair_memberships()
        assert refused.value.errno == errno.ENOBUFS


@pytest.mark.parametrize(
    ("sources", "join"),
    [(SourceFilter.any(), MCAST_JOIN_GROUP), (SourceFilter.include(A), MCAST_JOIN_SOURCE_GROUP)],
    ids=["any", "one"],
)
async def test_joining_from_any_source_or_one_is_one_call(
    sources: SourceFilter, join: int, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    set_option = socket.socket.setsockopt

    def spy(self: socket.socket, level: int, option: int, *value: Any) -> None:
        written.append(option)
        set_option(self, level, option, *value)

    async with open_udp() as conn:
        assert conn.memberships == {}  # From here on deletions are watched.
        monkeypatch.setattr(socket.socket, "setsockopt", spy)
        async with conn.joined("en0", GROUP, sources=sources):
            assert written == [join]
        assert written == [join, MCAST_LEAVE_GROUP]


async def test_a_membership_says_where_it_is(links: None) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP) as membership:
        assert repr(membership) == "<Membership of 239.1.2.3, SourceFilter.any(), on index 10>"
    assert repr(membership) == "<Membership of 239.1.2.3, SourceFilter.any(), ended>"


async def test_a_scope_joins_changes_and_leaves_without_interrupts(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    protected = []

    def watch(name: str) -> None:
        original = getattr(Ledger, name)

        def step(*arguments: Any) -> Any:
            protected.append((name, trio.lowlevel.currently_ki_protected()))
            return original(*arguments)

        monkeypatch.setattr(Ledger, name, step)

    for name in ("enter", "replace", "release"):
        watch(name)
    async with open_udp() as conn, conn.joined("en0", GROUP) as membership:
        membership.block(A)
    assert protected == [("enter", True), ("replace", True), ("release", True)]


async def test_a_repair_passes_over_an_interface_that_is_gone(links: None) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        ip("link delete en0", "link delete en1", *bridge("new1", 11))
        conn.repair_memberships()
        assert (11, GROUP) in igmp_groups()


async def test_a_route_that_moves_after_a_leave_is_asked_again(links: None) -> None:
    async with open_udp() as conn:
        conn.join_group(None, GROUP)
        conn.leave_group(None, GROUP)
        ip("route replace 224.0.0.0/4 dev en1")
        conn.join_group(None, GROUP)
        assert (11, GROUP) in igmp_groups()
        assert (10, GROUP) not in igmp_groups()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOBUFS])
async def test_a_refused_filter_of_a_living_membership_is_told(
    number: int, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP) as membership:
        with monkeypatch.context() as patch:
            patch.setattr(groups, "set_filter", refusing(number))
            with pytest.raises(OSError, match="not this one"):
                membership.block(A)
        assert membership.sources == SourceFilter.any()
        assert (10, GROUP) in igmp_groups()


EXPLICIT: dict[str, Callable[[Any], object]] = {
    "explicit": lambda conn: conn.join_group("en0", OTHER),
    "repair": lambda conn: conn.repair_memberships(),
    "close": lambda conn: conn.close(),
}


@pytest.mark.parametrize("operation", EXPLICIT)
async def test_what_is_called_from_outside_is_protected_from_interrupts(
    operation: str, links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    protected = []

    def watch(name: str) -> None:
        original = getattr(groups, name)

        def call(*arguments: Any) -> Any:
            protected.append(trio.lowlevel.currently_ki_protected())
            return original(*arguments)

        monkeypatch.setattr(groups, name, call)

    async with open_udp() as conn:
        conn.join_group("en0", GROUP)
        ip("link delete en0", *bridge("new0", 10), "link set new0 name en0 up")
        for name in ("join_group", "leave_group"):
            watch(name)
        EXPLICIT[operation](conn)
    assert protected
    assert all(protected)


async def test_a_join_by_route_from_any_source_is_one_call(links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    set_option = socket.socket.setsockopt

    def spy(self: socket.socket, level: int, option: int, *value: Any) -> None:
        written.append(option)
        set_option(self, level, option, *value)

    async with open_udp() as conn:
        assert conn.memberships == {}  # From here on deletions are watched.
        monkeypatch.setattr(socket.socket, "setsockopt", spy)
        conn.join_group(None, GROUP)
        assert written == [MCAST_JOIN_GROUP]


async def test_one_refused_repair_is_told_by_itself_and_several_are_counted(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        ip("link delete en0", *bridge("new0", 10))
        monkeypatch.setattr(groups, "join_group", refusing(errno.ENOBUFS))
        with pytest.raises(OSError, match="not this one") as one:
            conn.repair_memberships()
        assert "not repaired" not in str(one.value)
        ip("link delete en1", *bridge("new1", 11))
        with pytest.raises(OSError, match=r"2 memberships are not repaired: .*; ") as two:
            conn.repair_memberships()
        assert two.value.errno == errno.ENOBUFS
        monkeypatch.undo()


async def test_a_narrower_filter_that_is_refused_is_an_error_as_long_as_the_socket_is_no_wider_than_asked(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = SourceFilter.include(A, "198.18.0.8")
    async with open_udp() as conn, conn.joined("en0", GROUP, sources=SourceFilter.include(A)):
        membership = await conn.joined("en0", GROUP, sources=both).__aenter__()
        with monkeypatch.context() as patch:
            patch.setattr(groups, "set_filter", refusing(errno.EPERM))
            with pytest.raises(OSError, match="not this one"):
                membership.set_sources(SourceFilter.include(A))
        assert membership.sources == both
        await membership.__aexit__(None, None, None)


async def test_a_refused_leave_is_an_error_beside_a_scope_that_hears_nobody(
    links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_udp() as conn, conn.joined("en0", GROUP, sources=SourceFilter.none()):
        scope = conn.joined("en0", GROUP)
        await scope.__aenter__()
        with monkeypatch.context() as patch:
            patch.setattr(groups, "leave_group", refusing(errno.EPERM))
            with pytest.raises(OSError, match="not this one"):
                await scope.__aexit__(None, None, None)


async def test_only_the_same_group_is_named_where_the_socket_is_a_member(links: None) -> None:
    lower, higher = IPv4Address("239.1.2.2"), IPv4Address("239.1.2.4")
    async with open_udp() as conn, conn.joined("en0", GROUP), conn.joined("lo", lower), conn.joined("lo", higher):
        with pytest.raises(OSError, match=r"only on en0 \(interface index 10\)\)$"):
            conn.source_filter("en1", IPv4Address("239.1.2.3"))
