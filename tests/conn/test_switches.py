"""The switches of facts on the real kernel, driven by the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from support.here import BOTH
from trio_ipv4 import ControlFlags, PacketConn, open_udp
from trio_ipv4._kernel import options
from trio_ipv4._values.control import FACTS

if TYPE_CHECKING:
    from trio_ipv4._values.facts import Fact

pytestmark = BOTH

HERE = ("127.0.0.1", 0)
SWITCHED = [fact for fact in FACTS.rows if fact.switch]
each_fact = pytest.mark.parametrize("fact", SWITCHED, ids=lambda fact: fact.title)


@each_fact
async def test_the_kernel_sends_each_fact_to_who_asks_for_it(fact: Fact) -> None:
    async with open_udp(*HERE, control_flags=ControlFlags(fact.flags)) as conn:
        await conn.send_to(b"hello", conn.local_endpoint)
        received = await conn.receive()
    for name in fact.fields:
        assert getattr(received.control, name) is not None


@each_fact
async def test_what_is_switched_on_shows_on_another_connection_to_the_socket(fact: Fact) -> None:
    async with open_udp(*HERE, control_flags=ControlFlags(fact.flags)) as conn:
        assert options.get_integer(conn._socket, fact.switch) == 1
        flags = PacketConn(conn.socket).control_flags
        assert flags == ControlFlags(FACTS.switches[fact.switch])
        conn.control_flags = ControlFlags(0)
        assert options.get_integer(conn._socket, fact.switch) == 0
        assert PacketConn(conn.socket).control_flags == ControlFlags(0)


async def test_all_facts_come_with_one_datagram() -> None:
    async with open_udp(*HERE, control_flags=~ControlFlags(0)) as conn:
        await conn.send_to(b"hello", conn.local_endpoint)
        with trio.fail_after(5):
            received = await conn.receive()
    assert [name for fact in SWITCHED for name in fact.fields if getattr(received.control, name) is None] == []
