"""Ten tests of ssdp_search.py on a simulated network, as a program's own test suite would have them.

    python -m pytest test_ssdp_search.py

Each test has to take the fixture `autojump_clock` itself: pytest-trio looks for a clock among a test's own arguments.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import ssdp_search
import trio
import trio.testing

from trio_ipv4 import Interface, open_udp, serve_group
from trio_ipv4.testing import SimulatedNetwork, simulate

pytestmark = pytest.mark.trio
GROUP, PORT = ssdp_search.GROUP, ssdp_search.PORT
Clock = trio.testing.MockClock
Found = Callable[[], list[str]]


@pytest.fixture
def net() -> Iterator[SimulatedNetwork]:
    """A control point and a device, on two links."""
    with simulate(seed=1900) as net:
        for link in (net.link(), net.link()):
            for number, name in enumerate(("control", "device"), 1):
                host = net[name] if name in net else net.host(name)
                host.attach(link, link.name.replace("link", "en"), f"198.18.{link.name[4:]}.{number}/24")
        yield net


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Found:
    """What the control point has printed since the last look."""
    return lambda: [line for line in capsys.readouterr().out.splitlines() if " is uuid" in line]


def serves(interface: Interface) -> bool:
    return not interface.is_loopback and interface.is_up and bool(interface.addresses)


@contextlib.asynccontextmanager
async def running(net: SimulatedNetwork, *devices: str) -> AsyncIterator[None]:
    """Let devices answer, and the control point search."""
    async with trio.open_nursery() as nursery:
        for name in devices or ("device",):
            answer = functools.partial(ssdp_search.answer, f"http://{name}/description.xml")
            serve = functools.partial(serve_group, answer, GROUP, PORT, where=serves)
            await nursery.start(net[name].run, serve)
        search = functools.partial(ssdp_search.search, "ssdp:all")
        await nursery.start(net["control"].run, functools.partial(serve_group, search, GROUP, PORT, where=serves))
        yield
        nursery.cancel_scope.cancel()


async def test_a_device_is_found_on_each_interface(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    async with running(net):
        await trio.sleep(5)
    assert sorted(line.split(":")[0] for line in found()) == ["en0", "en1"]


async def test_its_answer_comes_from_the_address_on_that_link(
    autojump_clock: Clock, net: SimulatedNetwork, found: Found
) -> None:
    async with running(net):
        await trio.sleep(5)
    assert sorted(line.split()[1] for line in found()) == ["198.18.0.2", "198.18.1.2"]


async def test_two_devices_are_two(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    net.host("lamp").attach(net.links[0], "en0", "198.18.0.3/24")
    async with running(net, "device", "lamp"):
        await trio.sleep(5)
    assert sum("en0" in line for line in found()) == 2


async def test_a_device_that_comes_late_is_found_if_it_announces_itself(
    autojump_clock: Clock, net: SimulatedNetwork, found: Found
) -> None:
    async def announce() -> None:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            notify = f"NOTIFY * HTTP/1.1\r\nNT: {ssdp_search.DEVICE}\r\nNTS: ssdp:alive\r\nUSN: uuid:late\r\n\r\n"
            await conn.send_to(notify.encode(), (GROUP, PORT))

    async with running(net):
        await trio.sleep(60)
        found()
        await net["device"].run(announce)
        await trio.sleep(1)
        assert found() == ["en0: 198.18.0.2 is uuid:late, see ?"]


async def test_the_search_survives_a_flap(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    async with running(net):
        await trio.sleep(5)
        found()
        net["control"].detach("en0")
        await trio.sleep(60)
        assert found() == []
        net["control"].attach(net.links[0], "en0", "198.18.0.1/24")
        await trio.sleep(5)
        assert [line.split(":")[0] for line in found()] == ["en0"]


async def test_the_device_survives_a_flap(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    net["device"].set_up("en0", False)
    async with running(net):
        await trio.sleep(0.5)
        net["device"].set_up("en0", True)
        await trio.sleep(5)  # The control point asks three times.
    assert sorted(line.split(":")[0] for line in found()) == ["en0", "en1"]


async def test_a_partition_that_heals_only_delays(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    net.links[0].partition("control", "device")
    async with running(net):
        await trio.sleep(1.5)
        assert [line.split(":")[0] for line in found()] == ["en1"]
        net.links[0].heal()
        await trio.sleep(5)
        assert [line.split(":")[0] for line in found()] == ["en0"]


async def test_a_loss_of_30_per_cent_is_survived(autojump_clock: Clock, net: SimulatedNetwork, found: Found) -> None:
    for link in net.links:
        link.set(loss=0.3, latency=0.01)
    async with running(net):
        await trio.sleep(5)
    assert sorted(line.split(":")[0] for line in found()) == ["en0", "en1"]


async def test_answers_that_come_twice_are_shown_once(
    autojump_clock: Clock, net: SimulatedNetwork, found: Found
) -> None:
    for link in net.links:
        link.set(duplicate=1, jitter=0.1)
    async with running(net):
        await trio.sleep(5)
    assert len(found()) == 2


async def test_after_renumbering_it_asks_from_the_new_address(
    autojump_clock: Clock, net: SimulatedNetwork, found: Found
) -> None:
    asked = []

    async def listen() -> None:
        async with open_udp("0.0.0.0", PORT, share_port=True) as conn, conn.joined("en0", GROUP):
            while True:
                asked.append((await conn.receive()).peer[0])

    async with running(net), trio.open_nursery() as nursery:
        await trio.sleep(5)
        nursery.start_soon(net["device"].run, listen)
        await trio.testing.wait_all_tasks_blocked()
        net["control"].remove_address("en0", "198.18.0.1/24")
        net["control"].add_address("en0", "198.18.0.77/24")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert set(asked) == {"198.18.0.77"}
    assert len([line for line in found() if line.startswith("en0")]) == 2
