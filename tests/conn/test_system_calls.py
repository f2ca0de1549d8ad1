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


async def test_a_plain_join_and_leave_take_four_calls(system: Counted, conn: PacketConn) -> None:
    system.calls.clear()
    async with conn.joined(1, GROUP):
        assert system.calls == ["getsockname", "setsockopt"]
    assert system.calls == ["getsockname", "setsockopt", "process", "setsockopt"]


async def test_the_explicit_operations_take_no_more(system: Counted, conn: PacketConn) -> None:
    system.calls.clear()
    conn.join_group(1, GROUP)
    conn.leave_group(1, GROUP)
    assert system.calls == ["getsockname", "setsockopt", "setsockopt"]


async def test_a_join_from_sources_looks_for_a_membership_of_somebody_elses(system: Counted, conn: PacketConn) -> None:
    system.calls.clear()
    async with conn.joined(1, GROUP, sources=SourceFilter.include(A)):
        assert system.calls == ["getsockname", "getsockopt", "setsockopt"]


async def test_a_change_of_sources_is_one_call(system: Counted, conn: PacketConn) -> None:
    async with conn.joined(1, GROUP, sources=SourceFilter.include(A)) as membership:
        system.calls.clear()
        membership.allow(B)
        membership.allow(B)  # It is heard already.
        assert system.calls == ["setsockopt"]


async def test_sending_and_receiving_call_nothing_besides(system: Counted, conn: PacketConn) -> None:
    here = "127.0.0.1", conn.local_endpoint[1]
    system.calls.clear()
    await conn.send_to(b"x", here)
    assert (await conn.receive()).payload == b"x"
    assert system.calls == []  # Beside recvmmsg and sendmmsg themselves.
