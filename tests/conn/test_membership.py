"""Scopes and explicit operations: what the kernel says at each step.

The oracles are `/proc/thread-self/net/igmp` and `mcfilter`, and getsockopt of MCAST_MSFILTER, read here by ctypes.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from support.filters import kernel_filter, spell
from support.here import BOTH, igmp_groups, set_sysctl, source_filters
from support.links import bridge, ip
from trio_ipv4 import GroupReq, PacketConn, RawConn, SourceFilter, interface_by_name, open_ip, open_raw, open_udp
from trio_ipv4._kernel import groups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_ipv4._conn.membership import Membership

pytestmark = BOTH

GROUP = IPv4Address("239.1.2.3")
OTHER = IPv4Address("239.1.2.4")
LO = 1
HERE = LO, GROUP
ANY, NONE = SourceFilter.any(), SourceFilter.none()
INCLUDE, EXCLUDE = SourceFilter.include, SourceFilter.exclude
A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def check(conn: PacketConn | RawConn, expected: SourceFilter, key: tuple[int, IPv4Address] = HERE) -> None:
    """Kernel, kernel's tables and `memberships` say the same. No other socket is a member here."""
    assert kernel_filter(conn, key) == spell(expected)
    assert conn.memberships.get(key, NONE) == expected
    assert igmp_groups().get(key, 0) == (expected != NONE)
    listed = source_filters().get(key, {})
    assert sorted(map(str, listed)) == sorted(map(str, expected.sources))
    assert all(counts == ((1, 0) if expected.mode.value == "include" else (0, 1)) for counts in listed.values())


@pytest.fixture
async def conn() -> AsyncIterator[PacketConn]:
    async with open_udp() as conn:
        yield conn


@pytest.fixture
def en0() -> int:
    """A second interface, with an address; its other end is en1."""
    for line in (
        "link add en0 type veth peer name en1",
        "address add 198.18.0.1/24 dev en0",
        "link set en0 up",
        "link set en1 up",
    ):
        ip(line)
    return interface_by_name("en0").index


# Scopes


async def test_is_a_member_inside_the_block_and_not_after(conn: PacketConn) -> None:
    check(conn, NONE)
    async with conn.joined(LO, GROUP) as membership:
        check(conn, ANY)
        assert (membership.interface, membership.group, membership.sources) == (LO, GROUP, ANY)
    check(conn, NONE)


@pytest.mark.parametrize("sources", [ANY, INCLUDE(A), INCLUDE(A, B), EXCLUDE(A), EXCLUDE(A, B), NONE], ids=repr)
async def test_joins_with_the_filter_that_was_asked_for(conn: PacketConn, sources: SourceFilter) -> None:
    async with conn.joined(LO, GROUP, sources=sources):
        check(conn, sources)
    check(conn, NONE)


async def test_takes_an_interface_by_value_name_index_and_address(conn: PacketConn, en0: int) -> None:
    for interface in (interface_by_name("en0"), "en0", en0, IPv4Address("198.18.0.1")):
        async with conn.joined(interface, str(GROUP)) as membership:
            assert membership.interface == en0
            check(conn, ANY, (en0, GROUP))
        check(conn, NONE, (en0, GROUP))


async def test_none_joins_where_the_routes_choose(conn: PacketConn, en0: int) -> None:
    ip("route add 224.0.0.0/4 dev en0")
    for sources in (ANY, INCLUDE(A, B), EXCLUDE(A), NONE):
        async with conn.joined(None, GROUP, sources=sources) as membership:
            assert membership.interface == en0
            check(conn, sources, (en0, GROUP))
        assert not conn.memberships
        check(conn, NONE, (en0, GROUP))


async def test_takes_a_group_request(conn: PacketConn) -> None:
    for request in (GroupReq(LO, GROUP), GroupReq(interface_by_name("lo"), GROUP, sources=INCLUDE(A))):
        async with conn.joined(request) as membership:
            assert (membership.interface, membership.group) == HERE
            check(conn, request.sources)
        check(conn, NONE)


@pytest.mark.parametrize("open_conn", [lambda: open_ip(253), lambda: open_raw(253)], ids=["open_ip", "open_raw"])
async def test_raw_connections_have_scopes_too(open_conn: Callable[[], PacketConn | RawConn]) -> None:
    async with open_conn() as conn:
        async with conn.joined("lo", GROUP, sources=EXCLUDE(A)) as membership:
            check(conn, EXCLUDE(A))
            membership.allow(A)
            check(conn, ANY)
        check(conn, NONE)


async def test_the_bodys_exception_arrives_as_it_was_raised(conn: PacketConn) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with conn.joined(LO, GROUP):
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    check(conn, NONE)


async def test_leaves_when_cancelled(conn: PacketConn) -> None:
    with trio.CancelScope() as scope:
        async with conn.joined(LO, GROUP):
            scope.cancel()
            check(conn, ANY)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    check(conn, NONE)


async def test_leaves_when_its_nursery_is_cancelled(conn: PacketConn) -> None:
    async def member(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with conn.joined(LO, GROUP):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(member)
        check(conn, ANY)
        nursery.cancel_scope.cancel()
    check(conn, NONE)


async def test_leaves_when_a_task_beside_it_fails(conn: PacketConn) -> None:
    async def fail() -> None:
        check(conn, ANY)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with conn.joined(LO, GROUP), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
    assert caught.group_contains(LookupError)
    check(conn, NONE)


async def test_a_cancelled_task_never_joins(conn: PacketConn, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(*args: object) -> None:
        pytest.fail("it joined")

    monkeypatch.setattr(groups, "join_group", joined)
    monkeypatch.setattr(groups, "join_source_group", joined)
    with trio.CancelScope() as scope:
        scope.cancel()
        for sources in (ANY, EXCLUDE(A)):
            async with conn.joined(LO, GROUP, sources=sources):
                pytest.fail("it entered")
    assert scope.cancelled_caught
    check(conn, NONE)


async def test_a_membership_that_was_cancelled_before_it_joined_can_be_entered(conn: PacketConn) -> None:
    membership = conn.joined(LO, GROUP)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with membership:
            pytest.fail("it entered")
    async with membership:
        check(conn, ANY)
    check(conn, NONE)


async def test_entering_is_a_checkpoint_and_leaving_is_none(conn: PacketConn) -> None:
    membership = conn.joined(LO, GROUP)
    with trio.testing.assert_checkpoints():
        await membership.__aenter__()
    with trio.testing.assert_no_checkpoints():
        await membership.__aexit__(None, None, None)
    check(conn, NONE)


async def test_closing_inside_the_block_leaves_and_the_block_ends_quietly(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP) as membership:
        conn.close()
        assert HERE not in igmp_groups()
        for operation in operations_of(membership):
            with pytest.raises(trio.ClosedResourceError):
                operation()
    with pytest.raises(trio.ClosedResourceError):
        _ = conn.memberships


async def test_closing_the_trio_socket_inside_the_block_is_no_error(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP) as membership:
        conn.socket.close()
        with pytest.raises(trio.ClosedResourceError):
            membership.allow(A)
    assert HERE not in igmp_groups()


@pytest.mark.kernel_only("descriptors")
async def test_closing_leaves_although_a_duplicate_lives(conn: PacketConn) -> None:
    duplicate = os.dup(conn.socket.fileno())
    try:
        conn.join_group(LO, OTHER)
        async with conn.joined(LO, GROUP, sources=EXCLUDE(A)):
            check(conn, EXCLUDE(A))
            conn.close()
            assert igmp_groups().keys().isdisjoint({HERE, (LO, OTHER)})
    finally:
        os.close(duplicate)


async def test_a_closed_connection_never_joins(conn: PacketConn) -> None:
    membership = conn.joined(LO, GROUP)
    conn.close()
    with pytest.raises(trio.ClosedResourceError):
        async with membership:
            pytest.fail("it entered")


async def test_entering_twice_is_an_error_and_changes_nothing(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP) as membership:
        with pytest.raises(RuntimeError, match="only once"):
            async with membership:
                pytest.fail("it entered")
        check(conn, ANY)
    with pytest.raises(RuntimeError, match="only once"):
        async with membership:
            pytest.fail("it entered")
    check(conn, NONE)


async def test_entering_in_two_tasks_at_once_is_an_error_in_one(conn: PacketConn) -> None:
    membership = conn.joined(LO, GROUP)
    outcomes = []

    async def enter() -> None:
        try:
            async with membership:
                check(conn, ANY)
                await trio.testing.wait_all_tasks_blocked()
        except RuntimeError:
            outcomes.append("refused")
        else:
            outcomes.append("entered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        nursery.start_soon(enter)
    assert sorted(outcomes) == ["entered", "refused"]
    check(conn, NONE)


async def test_before_the_block_there_is_no_interface_and_nothing_to_change(conn: PacketConn) -> None:
    membership = conn.joined(LO, GROUP, sources=EXCLUDE(A))
    assert (membership.group, membership.sources) == (GROUP, EXCLUDE(A))
    with pytest.raises(RuntimeError, match="async with"):
        _ = membership.interface
    for operation in operations_of(membership):
        with pytest.raises(RuntimeError):
            operation()
    assert membership.sources == EXCLUDE(A)
    check(conn, NONE)


async def test_after_the_block_changes_raise_and_change_nothing(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP), conn.joined(LO, OTHER):
        async with conn.joined(LO, GROUP, sources=INCLUDE(A)) as membership:
            pass
        for operation in operations_of(membership):
            with pytest.raises(trio.ClosedResourceError):
                operation()
        assert membership.sources == INCLUDE(A)
        assert dict(conn.memberships) == {HERE: ANY, (LO, OTHER): ANY}
    check(conn, NONE)


def operations_of(membership: Membership) -> list[Callable[[], None]]:
    return [lambda: membership.set_sources(ANY), lambda: membership.allow(B), lambda: membership.block(B)]


async def test_nested_joins_of_one_group_leave_with_the_last(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP):
        async with conn.joined("lo", GROUP):
            check(conn, ANY)
        check(conn, ANY)
    check(conn, NONE)


@pytest.mark.parametrize("first_to_leave", [0, 1])
async def test_the_first_of_two_tasks_to_leave_takes_nothing_from_the_other(
    conn: PacketConn, first_to_leave: int
) -> None:
    asked = [INCLUDE(A, B), INCLUDE(B, C)]
    ends = [trio.Event(), trio.Event()]
    left = [trio.Event(), trio.Event()]

    async def member(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with conn.joined(LO, GROUP, sources=asked[number]):
            task_status.started()
            await ends[number].wait()
        left[number].set()

    async with trio.open_nursery() as nursery:
        await nursery.start(member, 0)
        await nursery.start(member, 1)
        check(conn, INCLUDE(A, B, C))
        ends[first_to_leave].set()
        await left[first_to_leave].wait()
        check(conn, asked[1 - first_to_leave])
        ends[1 - first_to_leave].set()
    check(conn, NONE)


SIX = [f"10.0.0.{last}" for last in range(1, 7)]


@pytest.mark.parametrize(
    ("asked", "merged"),
    [
        # The examples of RFC 3376 section 3.2, a to f being the sources, and its rule at its edges.
        ([EXCLUDE(*SIX[:4]), EXCLUDE(*SIX[1:5]), INCLUDE(*SIX[3:])], EXCLUDE(*SIX[1:3])),
        ([EXCLUDE(*SIX[:4]), EXCLUDE(*SIX[1:5]), INCLUDE(*SIX[3:]), ANY], ANY),
        ([INCLUDE(*SIX[:3]), INCLUDE(*SIX[1:4]), INCLUDE(*SIX[4:])], INCLUDE(*SIX)),
        ([INCLUDE(A), ANY], ANY),
        ([EXCLUDE(A), INCLUDE(A)], ANY),
        ([EXCLUDE(A), EXCLUDE(B)], ANY),
        ([EXCLUDE(A, B), EXCLUDE(B), NONE], EXCLUDE(B)),
        ([NONE, NONE], NONE),
        ([NONE, INCLUDE(A)], INCLUDE(A)),
    ],
)
async def test_different_filters_are_merged_whatever_the_order(
    conn: PacketConn, asked: list[SourceFilter], merged: SourceFilter
) -> None:
    for order in (asked, asked[::-1]):
        async with AsyncExitStack() as stack:
            for sources in order:
                await stack.enter_async_context(conn.joined(LO, GROUP, sources=sources))
            check(conn, merged)
        check(conn, NONE)


async def test_changes_of_a_scope_reach_the_kernel_at_once(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=INCLUDE(A)) as membership:
        membership.allow(B)
        check(conn, INCLUDE(A, B))
        membership.block(A, C)
        check(conn, INCLUDE(B))
        membership.set_sources(EXCLUDE(B))
        check(conn, EXCLUDE(B))
        membership.block(IPv4Address(C))
        check(conn, EXCLUDE(B, C))
        membership.allow(B, C)
        check(conn, ANY)
        membership.set_sources(ANY)
        check(conn, ANY)
        membership.set_sources(INCLUDE(C))
        check(conn, INCLUDE(C))
        assert membership.sources == INCLUDE(C)
    check(conn, NONE)


async def test_a_scope_that_hears_nobody_is_no_member_and_joins_anew_when_it_widens(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=NONE) as membership:
        for wider in (INCLUDE(A), EXCLUDE(A), ANY):
            check(conn, NONE)
            membership.set_sources(wider)
            check(conn, wider)
            membership.set_sources(NONE)
        check(conn, NONE)
        membership.allow(A)
        check(conn, INCLUDE(A))
        membership.block(A)
        check(conn, NONE)
        assert membership.sources == NONE
    check(conn, NONE)


async def test_changes_of_one_scope_leave_the_other_scopes_theirs(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=EXCLUDE(A)) as wide:
        async with conn.joined(LO, GROUP, sources=INCLUDE(A, B)) as narrow:
            check(conn, ANY)
            narrow.block(A)
            check(conn, EXCLUDE(A))
            wide.set_sources(NONE)
            check(conn, INCLUDE(B))
            narrow.set_sources(NONE)
            check(conn, NONE)
            wide.set_sources(EXCLUDE(C))
            check(conn, EXCLUDE(C))
            assert (wide.sources, narrow.sources) == (EXCLUDE(C), NONE)
        check(conn, EXCLUDE(C))
    check(conn, NONE)


async def test_memberships_is_a_snapshot(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP) as membership:
        before = conn.memberships
        membership.set_sources(INCLUDE(A))
        assert dict(before) == {HERE: ANY}
        assert dict(conn.memberships) == {HERE: INCLUDE(A)}
        with pytest.raises(TypeError):
            before[HERE] = NONE  # type: ignore[index]
    assert dict(before) == {HERE: ANY}
    assert dict(conn.memberships) == {}


async def test_connections_interfaces_and_groups_are_apart(conn: PacketConn, en0: int) -> None:
    async with open_udp() as other, other.joined(LO, GROUP, sources=INCLUDE(C)):
        async with conn.joined(LO, GROUP, sources=INCLUDE(A)), conn.joined(en0, GROUP), conn.joined(LO, OTHER) as last:
            last.block(B)
            assert dict(conn.memberships) == {HERE: INCLUDE(A), (en0, GROUP): ANY, (LO, OTHER): EXCLUDE(B)}
            assert kernel_filter(conn, HERE) == spell(INCLUDE(A))
            assert kernel_filter(other, HERE) == spell(INCLUDE(C))
            check(conn, ANY, (en0, GROUP))
            check(conn, EXCLUDE(B), (LO, OTHER))
            assert igmp_groups()[HERE] == 2
        check(other, INCLUDE(C))
        assert dict(conn.memberships) == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((LO, "10.0.0.1"), ValueError, "group must be a multicast address"),
        ((LO, "router.example"), ValueError, "host names are not looked up"),
        ((LO, 5), TypeError, "group"),
        ((LO,), TypeError, "group"),
        ((GroupReq(LO, GROUP), GROUP), TypeError, "GroupReq"),
    ],
)
async def test_nonsense_is_refused_before_the_block(
    conn: PacketConn, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        conn.joined(*arguments)  # type: ignore[call-overload]


async def test_sources_must_be_a_filter(conn: PacketConn) -> None:
    with pytest.raises(TypeError, match="SourceFilter"):
        conn.joined(LO, GROUP, sources=[A])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="GroupReq"):
        conn.joined(GroupReq(LO, GROUP), sources=INCLUDE(A))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("interface", "error"), [(True, TypeError), (0, ValueError), (-1, ValueError), (b"lo", TypeError)]
)
async def test_a_nonsense_interface_is_refused(conn: PacketConn, interface: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="interface"):
        async with conn.joined(interface, GROUP):  # type: ignore[call-overload]
            pytest.fail("it entered")
    check(conn, NONE)


async def test_set_sources_takes_only_a_filter(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP) as membership:
        with pytest.raises(TypeError, match="SourceFilter"):
            membership.set_sources({A})  # type: ignore[arg-type]
        check(conn, ANY)


async def test_a_refused_leave_is_a_note_on_the_bodys_exception_or_raised_alone(
    conn: PacketConn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOMEM, "can't leave")

    async def stay(*errors: Exception) -> None:
        with monkeypatch.context() as patch:
            async with conn.joined(LO, GROUP):
                patch.setattr(groups, "leave_group", refuse)
                for error in errors:
                    raise error

    with pytest.raises(LookupError) as caught:
        await stay(LookupError())
    assert "can't leave" in caught.value.__notes__[0]
    check(conn, ANY)
    with pytest.raises(OSError, match="can't leave"):
        await stay()
    async with conn.joined(LO, GROUP):
        pass
    check(conn, NONE)


# The explicit operations


def explicit(conn: PacketConn) -> dict[str, Callable[[], None]]:
    """The operations that the tables below name, each with its source."""
    return {
        "join": lambda: conn.join_group(LO, GROUP),
        "leave": lambda: conn.leave_group("lo", GROUP),
        "join A": lambda: conn.join_source_specific_group(LO, GROUP, A),
        "join B": lambda: conn.join_source_specific_group(LO, GROUP, IPv4Address(B)),
        "leave A": lambda: conn.leave_source_specific_group(LO, GROUP, A),
        "leave B": lambda: conn.leave_source_specific_group(LO, GROUP, B),
        "exclude A": lambda: conn.exclude_source_specific_group(LO, GROUP, A),
        "include A": lambda: conn.include_source_specific_group(LO, GROUP, A),
    }


async def test_explicit_operations_do_what_go_s_do(conn: PacketConn) -> None:
    steps = explicit(conn)
    for step, expected in {
        "join": ANY,
        "exclude A": EXCLUDE(A),
        "include A": ANY,
        "leave": NONE,
        "join A": INCLUDE(A),
        "join B": INCLUDE(A, B),
        "leave A": INCLUDE(B),
        "leave B": NONE,
    }.items():
        steps[step]()
        check(conn, expected)
    for step, expected in {"join A": INCLUDE(A), "leave": NONE, "join": ANY}.items():
        steps[step]()
        check(conn, expected)


ILLEGAL = [
    # The steps before, the illegal one, Linux's errno (facts of Linux, RFC 3678 section 4.1.3), what is held.
    ((), "leave", errno.EADDRNOTAVAIL, NONE),
    ((), "leave A", errno.EINVAL, NONE),
    ((), "exclude A", errno.EINVAL, NONE),
    ((), "include A", errno.EINVAL, NONE),
    (("join",), "join", errno.EADDRINUSE, ANY),
    (("join",), "join A", errno.EINVAL, ANY),
    (("join",), "leave A", errno.EINVAL, ANY),
    (("join",), "include A", errno.EADDRNOTAVAIL, ANY),
    (("join", "exclude A"), "exclude A", errno.EADDRNOTAVAIL, EXCLUDE(A)),
    (("join", "exclude A"), "join", errno.EADDRINUSE, EXCLUDE(A)),
    (("join", "exclude A"), "join A", errno.EINVAL, EXCLUDE(A)),
    (("join", "exclude A"), "join B", errno.EINVAL, EXCLUDE(A)),
    (("join", "exclude A"), "leave A", errno.EINVAL, EXCLUDE(A)),
    (("join", "exclude A", "include A"), "join A", errno.EINVAL, ANY),
    (("join", "exclude A", "include A"), "include A", errno.EADDRNOTAVAIL, ANY),
    (("join A",), "join", errno.EADDRINUSE, INCLUDE(A)),
    (("join A",), "join A", errno.EADDRNOTAVAIL, INCLUDE(A)),
    (("join A",), "leave B", errno.EADDRNOTAVAIL, INCLUDE(A)),
    (("join A",), "exclude A", errno.EINVAL, INCLUDE(A)),
    (("join A",), "include A", errno.EINVAL, INCLUDE(A)),
    (("join A", "leave A"), "leave A", errno.EINVAL, NONE),
]


@pytest.mark.parametrize(("before", "step", "number", "held"), ILLEGAL)
@pytest.mark.parametrize("scope", [None, ANY, INCLUDE(A), INCLUDE(C), EXCLUDE(A), NONE], ids=repr)
async def test_an_illegal_step_has_linux_s_errno_and_changes_nothing(
    conn: PacketConn, before: tuple[str, ...], step: str, number: int, held: SourceFilter, scope: SourceFilter | None
) -> None:
    steps = explicit(conn)
    async with AsyncExitStack() as stack:
        if scope is not None:  # Scopes beside it are no business of the explicit operations'.
            await stack.enter_async_context(conn.joined(LO, GROUP, sources=scope))
        for each in before:
            steps[each]()
        merged = SourceFilter.merge([held, scope or NONE])
        check(conn, merged)
        with pytest.raises(OSError, match=re.escape(str(GROUP))) as caught:
            steps[step]()
        assert caught.value.errno == number
        assert "(" in str(caught.value), "there is advice"
        check(conn, merged)
    check(conn, held)


async def test_the_message_of_an_illegal_step_names_group_and_interface(conn: PacketConn) -> None:
    with pytest.raises(OSError, match=r"239\.1\.2\.3 on lo"):
        conn.leave_group("lo", GROUP)


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "server.example", "10.0.0.300"]
)
async def test_explicit_operations_refuse_what_is_no_source(conn: PacketConn, source: str) -> None:
    conn.join_group(LO, OTHER)
    for operation in (
        conn.join_source_specific_group,
        conn.leave_source_specific_group,
        conn.exclude_source_specific_group,
        conn.include_source_specific_group,
    ):
        for group in (GROUP, OTHER):
            with pytest.raises(ValueError, match="source must be"):
                operation(LO, group, source)
    check(conn, NONE)
    check(conn, ANY, (LO, OTHER))


async def test_explicit_operations_and_scopes_are_beside_each_other(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=INCLUDE(A)):
        conn.join_source_specific_group(LO, GROUP, B)
        check(conn, INCLUDE(A, B))
        conn.leave_group(LO, GROUP)
        check(conn, INCLUDE(A))
        with pytest.raises(OSError, match="explicit") as caught:
            conn.leave_group(LO, GROUP)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        check(conn, INCLUDE(A))
        conn.join_group(LO, GROUP)
        check(conn, ANY)
        conn.exclude_source_specific_group(LO, GROUP, A)
        check(conn, ANY)
    check(conn, EXCLUDE(A))
    conn.leave_group(LO, GROUP)
    check(conn, NONE)


async def test_set_source_filter_replaces_everything(conn: PacketConn) -> None:
    for sources in (
        INCLUDE(A, B),
        EXCLUDE(A),
        INCLUDE(B),
        ANY,
        INCLUDE(C),
        EXCLUDE(C, A),
        NONE,
        NONE,
        EXCLUDE(A),
        NONE,
    ):
        conn.set_source_filter(LO, GROUP, sources)
        check(conn, sources)
    with pytest.raises(TypeError, match="SourceFilter"):
        conn.set_source_filter(LO, GROUP, [A])  # type: ignore[arg-type]


async def test_set_source_filter_and_the_steps_share_one_hold(conn: PacketConn) -> None:
    conn.set_source_filter(LO, GROUP, EXCLUDE(A))
    conn.include_source_specific_group(LO, GROUP, A)
    check(conn, ANY)
    conn.set_source_filter(LO, GROUP, INCLUDE(A))
    conn.join_source_specific_group(LO, GROUP, B)
    check(conn, INCLUDE(A, B))
    with pytest.raises(OSError, match="explicit"):
        conn.join_group(LO, GROUP)
    conn.leave_group(LO, GROUP)
    check(conn, NONE)


async def test_set_source_filter_leaves_the_scopes_theirs(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=INCLUDE(A)):
        conn.set_source_filter(LO, GROUP, NONE)
        check(conn, INCLUDE(A))
        conn.set_source_filter(LO, GROUP, EXCLUDE(A, B))
        check(conn, EXCLUDE(B))
        conn.set_source_filter(LO, GROUP, NONE)
        check(conn, INCLUDE(A))


async def test_source_filter_reads_the_merge_from_the_kernel(conn: PacketConn) -> None:
    conn.set_source_filter(LO, GROUP, INCLUDE(A))
    async with conn.joined(LO, GROUP, sources=INCLUDE(B)):
        assert conn.source_filter("lo", str(GROUP)) == INCLUDE(A, B)
    assert conn.source_filter(LO, GROUP) == INCLUDE(A)
    conn.leave_group(LO, GROUP)
    with pytest.raises(OSError, match=r"239\.1\.2\.3") as caught:
        conn.source_filter(LO, GROUP)
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_source_filter_reads_more_sources_than_it_first_makes_room_for(conn: PacketConn) -> None:
    set_sysctl("net.ipv4.igmp_max_msf", 60)
    many = EXCLUDE(*(f"10.0.0.{last}" for last in range(1, 61)))
    conn.set_source_filter(LO, GROUP, many)
    assert conn.source_filter(LO, GROUP) == many
    check(conn, many)


@pytest.mark.kernel_only("an option of before RFC 3678")
async def test_what_others_changed_on_the_bare_socket_is_read(conn: PacketConn) -> None:
    conn.join_group(LO, GROUP)
    request = GROUP.packed + IPv4Address(A).packed + IPv4Address(B).packed  # struct ip_mreq_source
    conn.socket.setsockopt(socket.IPPROTO_IP, 38, request)  # IP_BLOCK_SOURCE, linux/in.h
    assert conn.source_filter(LO, GROUP) == EXCLUDE(B)


async def test_closed_connections_refuse_every_operation(conn: PacketConn) -> None:
    steps = [*explicit(conn).values(), conn.repair_memberships]
    steps += [lambda: conn.set_source_filter(LO, GROUP, ANY), lambda: conn.source_filter(LO, GROUP) and None]
    steps += [lambda: conn.memberships and None]
    conn.join_group(LO, GROUP)
    conn.close()
    for step in steps:
        with pytest.raises(trio.ClosedResourceError):
            step()
    conn.close()


@pytest.mark.parametrize("how", ["deleted", "mtu"])
async def test_a_further_scope_revives_what_died_meanwhile(how: str) -> None:
    ip(*bridge("en9", 99))
    index = 99 if how == "deleted" else LO
    async with open_udp("0.0.0.0", 5000) as conn, conn.joined(index, GROUP), conn.joined(index, GROUP):
        if how == "deleted":
            ip("link del en9", *bridge("en9", 99))
        else:
            # Below 68 octets there is no IPv4, and what was joined is lost (net/ipv4/devinet.c, inetdev_event).
            ip("link set lo mtu 60", "link set lo mtu 65536")
        assert (index, GROUP) not in igmp_groups()
        async with conn.joined(index, GROUP):
            assert igmp_groups()[index, GROUP] == 1
