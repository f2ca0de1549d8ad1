"""A thousand links under continuous change, and four hundred with memberships: bounds, and other tasks run meanwhile.

The bounds have room for a machine that others use too: whoever lists, joins or leaves waits for a lock of the kernel's
that all namespaces share (RTNL), such as those that other tests are just taking down. `tools/benchmarks/links.py`
measures.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from support.links import ip
from support.weather import Pauses, changing, make_pairs, weather
from trio_ipv4 import InterfaceChangeKind, follow_group, interfaces, open_udp, watch_interfaces
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from conftest import Eventually

GROUP = IPv4Address("239.7.7.7")
BOUND = 5.0
"""Seconds for `interfaces` and `watch_interfaces`. Their docstrings say less than one; alone, it is a tenth."""
PAUSE = 5.0
"""Seconds that other tasks may have to wait here. Measured alone, it is some hundredths."""
CHANGES = 500
"""A second."""


async def test_a_thousand_links_under_continuous_change() -> None:
    make_pairs(500)
    steady = {f"v{number}" for number in range(500)} | {f"w{number}" for number in range(500)}
    pauses = Pauses()
    async with trio.open_nursery() as nursery:
        with changing(weather(), CHANGES):
            for _ in range(5):
                begin = time.perf_counter()
                found = interfaces()
                assert time.perf_counter() - begin < BOUND
                assert steady <= {each.name for each in found}
            nursery.start_soon(pauses.note)
            for _ in range(3):
                begin = time.perf_counter()
                async with watch_interfaces() as changes:
                    assert time.perf_counter() - begin < BOUND
                    first = [await anext(changes) for _ in range(1000)]
                    assert {each.kind for each in first} == {InterfaceChangeKind.ADDED}
                    with trio.move_on_after(0.5):
                        async for _ in changes:
                            pass
            assert pauses.longest < PAUSE
        known = {each.interface.index: each.interface for each in first}
        async with watch_interfaces() as changes:  # Now that it is calm, both tell the same.
            count = len(interfaces())
            last = {each.index: each for each in [(await anext(changes)).interface for _ in range(count)]}
        assert last == {each.index: each for each in interfaces()}
        assert steady <= {each.name for each in last.values()}
        assert len(known) >= 1000
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("room")
async def test_four_hundred_memberships_and_an_overflow(eventually: Eventually) -> None:
    make_pairs(200)
    pauses = Pauses()

    def members() -> int:
        return sum(group == GROUP for _, group in igmp_groups())

    async with open_udp() as conn, trio.open_nursery() as nursery:
        nursery.start_soon(pauses.note)
        started = await nursery.start(follow_group, conn, GROUP)
        assert len(started) == members() == 400
        for _ in range(2):
            # More than a buffer holds; and one that is made anew among it.
            flood = [f"link set lo mtu {1000 + number % 400}" for number in range(3000)]
            again = ["link delete v0", "link add v0 type veth peer name w0", "link set v0 up", "link set w0 up"]
            ip(*flood, *again, *flood)
            pauses.begin()  # What iproute2 took does not count.
            await eventually(lambda: members() == len(conn.memberships) == 400)
            assert pauses.longest < PAUSE
        await trio.to_thread.run_sync(ip, *(f"link delete v{number}" for number in range(200)))
        await eventually(lambda: members() == 0)
        assert pauses.longest < PAUSE
        nursery.cancel_scope.cancel()


@pytest.fixture
def room() -> None:
    Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("500", encoding="ascii")
