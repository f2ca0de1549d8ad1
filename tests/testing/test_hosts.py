"""One shape for the lab's hosts and the simulated ones: each test runs on both, from the pytest plugin's fixture."""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ipv4 import NoInterfaceWarning, follow_group, interfaces, open_udp

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Eventually
    from trio_ipv4.testing import Host, Network

pytestmark = pytest.mark.usefixtures("private_net")
GROUP = IPv4Address("239.1.2.3")
PORT = 5000


def names(host: Host) -> list[str]:
    return [each.name for each in host.interfaces]


def test_a_host_begins_with_one_interface(network: Network) -> None:
    host = network["a"]
    (en0,) = host.interfaces
    assert (host.name, en0.name, en0.mtu, en0.is_up) == ("a", "en0", 1500, True)
    assert host.addresses == (IPv4Address("198.18.0.1"),)
    assert [each.name for each in host.call(interfaces)] == ["lo", "en0"]
    assert host.groups() == {(1, IPv4Address("224.0.0.1")): 1, (en0.index, IPv4Address("224.0.0.1")): 1}
    with pytest.raises(KeyError, match="no host 'x'"):
        network["x"]


async def test_an_interface_that_is_attached_can_be_used_at_once(network: Network) -> None:
    a, b = network["a"], network["b"]
    made = a.attach(network.links[0], "en1", "198.18.77.1/24", index=77, mtu=1400)
    assert (made.index, made.name, made.mtu) == (77, "en1", 1400)
    assert made.addresses == (IPv4Interface("198.18.77.1/24"),)
    assert a.interfaces == (*a.interfaces[:1], made)
    b.add_address("en0", "198.18.77.2/24")
    async with b.call(open_udp, "0.0.0.0", PORT) as hears, a.call(open_udp) as tells:
        await tells.send_to(b"x", ("198.18.77.2", PORT))
        with trio.fail_after(20):
            assert (await hears.receive()).peer[0] == "198.18.77.1"


def test_a_link_can_be_named_by_its_number(network: Network) -> None:
    assert network["a"].attach(0, "en1", "198.18.1.1/24") in network["a"].interfaces


def test_what_is_detached_is_gone_with_its_addresses_and_groups(network: Network) -> None:
    a = network["a"]
    conn = a.call(open_udp)
    conn.join_group("en0", GROUP)
    assert a.groups()[a.interfaces[0].index, GROUP] == 1
    a.detach("en0")
    assert (a.interfaces, a.addresses) == ((), ())
    assert set(a.groups()) == {(1, IPv4Address("224.0.0.1"))}
    conn.close()


def test_interfaces_can_be_changed(network: Network) -> None:
    a = network["a"]
    a.rename("en0", "lan0")
    a.set_mtu("lan0", 1400)
    a.add_address("lan0", "198.18.0.9/24")
    a.add_address("lan0", "198.19.0.1/16")
    a.remove_address("lan0", "198.18.0.9/24")
    (lan0,) = a.interfaces
    assert (lan0.name, lan0.mtu) == ("lan0", 1400)
    assert [str(each) for each in lan0.addresses] == ["198.18.0.1/24", "198.19.0.1/16"]
    a.set_up("lan0", False)
    assert not a.interfaces[0].is_up
    a.set_up("lan0", True)
    assert a.interfaces == (lan0,)


def test_with_a_primary_address_the_secondary_ones_go(network: Network) -> None:
    a = network["a"]
    a.add_address("en0", "198.18.0.9/24")
    a.remove_address("en0", "198.18.0.1/24")
    assert a.addresses == ()


async def test_a_route_decides(network: Network) -> None:
    a, b = network["a"], network["b"]
    async with a.call(open_udp) as conn, b.call(open_udp, "0.0.0.0", PORT) as hears:
        with pytest.raises(OSError, match="no route"):
            await conn.send_to(b"x", (str(GROUP), PORT))
        a.add_route("224.0.0.0/4", interface="en0")
        hears.join_group("en0", GROUP)
        await conn.send_to(b"x", (str(GROUP), PORT))
        with trio.fail_after(20):
            assert (await hears.receive()).peer[0] == "198.18.0.1"


async def test_a_host_does_not_hear_itself_over_the_link(network: Network) -> None:
    """A packet from elsewhere with a source of this host's own is dropped (linux net/ipv4/fib_frontend.c)."""
    a, b = network["a"], network["b"]
    a.attach(network.links[0], "en1", "198.19.0.1/24")
    async with (
        a.call(open_udp, "0.0.0.0", PORT) as own,
        b.call(open_udp, "0.0.0.0", PORT) as other,
        a.call(open_udp) as tells,
        own.joined("en1", GROUP),
        other.joined("en0", GROUP),
    ):
        tells.multicast_interface = "en0"
        other.multicast_interface = "en0"
        with trio.fail_after(20):
            await tells.send_to(b"from a", (str(GROUP), PORT))
            assert (await other.receive()).payload == b"from a"
            await other.send_to(b"from b", (str(GROUP), PORT))
            heard = await own.receive()
        assert (heard.payload, heard.control.ifindex) == (b"from b", a.interfaces[1].index)


async def test_an_address_is_answered_for_on_any_interface(network: Network) -> None:
    """The weak host model (RFC 1122 section 3.3.4.2)."""
    a, b = network["a"], network["b"]
    a.set_up("en0", False)
    a.attach(network.links[0], "en1", "198.18.0.99/24")
    async with a.call(open_udp, "0.0.0.0", PORT) as hears, b.call(open_udp) as tells:
        await tells.send_to(b"x", ("198.18.0.1", PORT))
        with trio.fail_after(20):
            heard = await hears.receive()
        assert (str(heard.control.dst), heard.control.ifindex) == ("198.18.0.1", a.interfaces[1].index)


def test_a_sysctl_can_be_set(network: Network) -> None:
    a = network["a"]
    a.set_sysctl("net.ipv4.igmp_max_memberships", 0)
    conn = a.call(open_udp)
    with pytest.raises(OSError, match="igmp_max_memberships"):
        conn.join_group("en0", GROUP)
    conn.close()


async def test_a_program_and_its_tasks_follow_what_the_host_does(network: Network, eventually: Eventually) -> None:
    a = network["a"]

    def members() -> list[int]:
        return sorted(index for index, group in a.groups() if group == GROUP)

    async with a.call(open_udp, "0.0.0.0", PORT) as conn, trio.open_nursery() as nursery:
        (en0,) = await nursery.start(a.run, functools.partial(follow_group, conn, GROUP))
        en1 = a.attach(network.links[0], "en1")
        await eventually(lambda: members() == [en0.index, en1.index])
        a.detach("en0")
        await eventually(lambda: members() == [en1.index])
        a.attach(network.links[0], "en0", index=en0.index)
        await eventually(lambda: members() == [en0.index, en1.index])
        a.set_up("en1", False)
        await eventually(lambda: members() == [en0.index])
        nursery.cancel_scope.cancel()
    assert members() == []


async def test_start_hands_the_task_status_on(network: Network) -> None:
    async def program(*, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("begun")

    async with trio.open_nursery() as nursery:
        assert await nursery.start(network["a"].run, program) == "begun"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda host, link: host.attach(link, "en0"), ValueError, "a has an interface 'en0' already"),
        (lambda host, link: host.attach(link, "a/b"), ValueError, "1 to 15 octets"),
        (lambda host, link: host.attach(7, "x"), TypeError, "a link of this network, or its number, 0 to 0, got 7"),
        (lambda host, link: host.attach(link, "x", "198.18.0.9"), ValueError, "with its prefix length"),
        (lambda host, link: host.rename("en0", "lo"), ValueError, "a has an interface 'lo' already"),
        (lambda host, link: host.add_address("en0", "198.18.0.1/24"), ValueError, "already"),
        (lambda host, link: host.remove_address("en0", "198.18.0.9/24"), KeyError, "no address"),
        (lambda host, link: host.add_route("10.0.0.0/8"), ValueError, "a route needs a gateway"),
        (lambda host, link: host.add_route("10.0.0.0/8", via="10.0.0.1"), ValueError, "in no network"),
        (lambda host, link: host.set_sysctl("net.ipv4.nothing", 1), KeyError, "net.ipv4.nothing"),
        (lambda host, link: host.call(trio.sleep, 0), TypeError, "synchronous"),
        *(
            (lambda host, link, what=what: what(host, "x"), KeyError, "has no interface 'x', only lo, en0")
            for what in (
                lambda host, name: host.detach(name),
                lambda host, name: host.set_up(name),
                lambda host, name: host.set_mtu(name, 1400),
                lambda host, name: host.rename(name, "y"),
                lambda host, name: host.add_address(name, "198.18.0.9/24"),
                lambda host, name: host.add_route("10.0.0.0/8", interface=name),
            )
        ),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    network: Network, change: Callable[[Host, object], object], error: type[Exception], message: str
) -> None:
    before = network["a"].interfaces
    with pytest.raises(error, match=message):
        change(network["a"], network.links[0])
    assert network["a"].interfaces == before


async def test_nothing_that_matches_is_told(network: Network) -> None:
    a = network["a"]
    a.detach("en0")
    async with a.call(open_udp) as conn, trio.open_nursery() as nursery:
        with pytest.warns(NoInterfaceWarning):
            assert await nursery.start(a.run, functools.partial(follow_group, conn, GROUP)) == ()
        nursery.cancel_scope.cancel()
