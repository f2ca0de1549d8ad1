"""Three tests of programs on a simulated network. They need no privilege, no Linux, and no patience.

    python -m pytest test_your_program.py

They need pytest-trio, whose fixture `autojump_clock` lets time pass whenever all tasks wait.
"""

from __future__ import annotations

import functools

import hear
import pytest
import talk
import trio
import trio.testing

from trio_ipv4 import SourceFilter, follow_group, open_udp
from trio_ipv4.testing import SimulatedLink, SimulatedNetwork, simulate

GROUP = "239.1.2.3"


def connect(net: SimulatedNetwork, lan: SimulatedLink, *names: str) -> None:
    """Make hosts with the addresses 198.18.0.1, 198.18.0.2 ... on a link."""
    for number, name in enumerate(names, 1):
        net.host(name).attach(lan, "en0", f"198.18.0.{number}/24")


@pytest.mark.trio
async def test_hear_hears_talk(autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    with simulate(seed=7) as net:
        connect(net, net.link(latency=0.002, jitter=0.001), "a", "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net["a"].run, functools.partial(hear.main, "en0"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(net["b"].run, functools.partial(talk.main, "en0"))
    heard = capsys.readouterr().out
    assert heard.count("hello") == 10
    assert "198.18.0.2" in heard
    assert trio.current_time() == 30  # hear.py ends after half a minute, which took some milliseconds.


@pytest.mark.trio
async def test_a_fifth_is_lost_and_one_source_is_not_wanted(autojump_clock: trio.testing.MockClock) -> None:
    heard = []

    async def receive() -> None:
        async with (
            open_udp("0.0.0.0", 5000) as conn,
            conn.joined("en0", GROUP, sources=SourceFilter.exclude("198.18.0.3")),
        ):
            while True:
                datagram = await conn.receive()
                heard.append((datagram.peer[0], int(datagram.payload)))

    async def send() -> None:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            for number in range(1000):
                await conn.send_to(b"%d" % number, (GROUP, 5000))
                await trio.sleep(0.01)

    with simulate(seed=1) as net:
        lan = net.link(loss=0.2, duplicate=0.05, latency=0.001)
        connect(net, lan, "receiver", "wanted", "unwanted")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net["receiver"].run, receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(net["wanted"].run, send)
            nursery.start_soon(net["unwanted"].run, send)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
    numbers = [number for _, number in heard]
    assert {peer for peer, _ in heard} == {"198.18.0.2"}
    assert 750 < len(set(numbers)) < 850
    assert len(numbers) > len(set(numbers))  # Some came twice.


@pytest.mark.trio
async def test_an_hour_in_which_the_cable_is_pulled(autojump_clock: trio.testing.MockClock) -> None:
    heard = []

    async def listen() -> None:
        async with open_udp("0.0.0.0", 5000) as conn, trio.open_nursery() as nursery:
            await nursery.start(follow_group, conn, GROUP)
            while True:
                heard.append(int((await conn.receive()).payload))

    async def tick() -> None:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            for second in range(3600):
                await conn.send_to(b"%d" % second, (GROUP, 5000))
                await trio.sleep(1)

    with simulate() as net:
        connect(net, net.link(latency=0.001), "a", "b")
        a = net["a"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run, listen)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(net["b"].run, tick)
            await trio.sleep(600.5)
            a.detach("en0")  # The network card is gone ...
            await trio.sleep(600)
            a.attach(net.links[0], "en0", "198.18.0.1/24")  # ... and comes back, with another index.
            await trio.sleep(600)
            a.lose_netlink_messages()  # Nobody is told that it goes once more, and comes back with the same one.
            index = a.interfaces[0].index
            a.detach("en0")
            a.attach(net.links[0], "en0", "198.18.0.1/24", index=index)
            await trio.sleep(1900)
            nursery.cancel_scope.cancel()
    assert heard == [*range(601), *range(1201, 3600)]
