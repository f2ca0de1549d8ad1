"""How many calls of the kernel an operation takes, counted at the seam, which none can pass by."""

from __future__ import annotations

from typing import Any

import pytest

from support.systems import Counted, on
from trio_ipv4 import PacketConn, SourceFilter, open_udp
from trio_ipv4._kernel.native import NativeSystem

GROUP, A, B = "239.1.2.3", "198.18.0.7", "198.18.0.8"


@pytest.fixture
def system() -> Counted:
    return Counted(NativeSystem())


@pytest.fixture
def conn(system: Counted) -> Any:
    with on(system):
        conn = open_udp()
    with conn.socket:
        yield conn
        conn.close()


def test_opening_takes_six_calls(system: Counted) -> None:
    with on(system):
        conn = open_udp()
    conn.close()
    # SO_BROADCAST, IP_PKTINFO and IP_MULTICAST_ALL. trio makes one call more when it takes the socket (FIONBIO).
    assert system.calls[:5] == ["socket", "setsockopt", "setsockopt", "setsockopt", "bind"]
    assert set(system.calls[5:]) <= {"process", "receiver", "sender"}


CATCH_UP = "recvmsg"
"""Whether links have gone: the monitor looks before each change, and after a join."""


def calls(system: Counted) -> list[str]:
    """The calls so far, without getpid(2), which costs next to nothing; and begin anew."""
    found = [call for call in system.calls if call != "process"]
    system.calls.clear()
    return found


async def test_the_first_join_of_a_network_begins_to_watch_its_links(system: Counted, conn: PacketConn) -> None:
    calls(system)
    async with conn.joined(1, GROUP):
        # SO_NETNS_COOKIE; a netlink socket, its buffer twice, its filter, a first look; whether it is the same network.
        watch = ["getsockopt", "socket", "bind", "setsockopt", "setsockopt", "attach_bpf", CATCH_UP]
        compare = ["getsockopt", "getsockopt"]
        assert calls(system) == ["getsockname", *watch, *compare, CATCH_UP, "setsockopt", CATCH_UP]


async def test_a_plain_join_and_leave_take_six_calls(system: Counted, conn: PacketConn) -> None:
    assert conn.memberships == {}
    calls(system)
    async with conn.joined(1, GROUP):
        assert calls(system) == ["getsockname", CATCH_UP, "setsockopt", CATCH_UP]
    assert calls(system) == [CATCH_UP, "setsockopt"]


async def test_the_explicit_operations_take_no_more(system: Counted, conn: PacketConn) -> None:
    assert conn.memberships == {}
    calls(system)
    conn.join_group(1, GROUP)
    conn.leave_group(1, GROUP)
    assert calls(system) == [CATCH_UP, "getsockname", "setsockopt", CATCH_UP, CATCH_UP, "setsockopt"]


async def test_a_join_from_sources_looks_for_a_membership_of_somebody_elses(system: Counted, conn: PacketConn) -> None:
    assert conn.memberships == {}
    calls(system)
    async with conn.joined(1, GROUP, sources=SourceFilter.include(A)):
        assert calls(system) == ["getsockname", CATCH_UP, "getsockopt", "setsockopt", CATCH_UP]


async def test_a_change_of_sources_is_one_call(system: Counted, conn: PacketConn) -> None:
    async with conn.joined(1, GROUP, sources=SourceFilter.include(A)) as membership:
        calls(system)
        membership.allow(B)
        membership.allow(B)  # It is heard already.
        assert calls(system) == [CATCH_UP, "setsockopt", CATCH_UP]


async def test_sending_and_receiving_call_nothing_besides(system: Counted, conn: PacketConn) -> None:
    here = "127.0.0.1", conn.local_endpoint[1]
    system.calls.clear()
    await conn.send_to(b"x", here)
    assert (await conn.receive()).payload == b"x"
    assert system.calls == []  # Beside recvmmsg and sendmmsg themselves.
