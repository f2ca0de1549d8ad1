"""What the default predicate takes: ports of bridges hear nothing, and are left out."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from support.links import bridge, ip
from trio_ipv4 import (
    Interface,
    InterfaceFlags,
    PacketConn,
    follow_group,
    interface_by_name,
    open_udp,
    serve_group,
)
from trio_ipv4._conn.where import can_hear_multicast
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from conftest import Eventually

GROUP = IPv4Address("239.7.7.7")
UP = InterfaceFlags.UP | InterfaceFlags.MULTICAST


def joined() -> set[int]:
    return {index for index, group in igmp_groups() if group == GROUP}


@pytest.mark.parametrize(
    ("master", "master_kind", "matches"),
    [
        (None, None, True),
        (7, "bridge", False),
        (7, "bond", False),
        (7, "team", False),
        (7, "openvswitch", False),
        (7, None, False),  # Of a driver's own, as on Hyper-V: the master receives, too.
        (7, "vrf", True),
    ],
)
def test_a_port_is_left_out_and_a_member_of_a_vrf_is_not(
    master: int | None, master_kind: str | None, matches: bool
) -> None:
    interface = Interface(8, "en0", 1500, UP, master=master, master_kind=master_kind)
    assert can_hear_multicast(interface) is matches
    assert interface.is_port is not matches


def test_interfaces_tell_kind_master_and_names() -> None:
    ip(
        *bridge("br0", 10),
        "link add v0 index 11 address 02:00:00:00:00:07 type veth peer name v1 index 12",
        "link set v0 master br0",
        "link property add dev v0 altname a-name-that-is-longer-than-fifteen-octets",
    )
    v0 = interface_by_name("v0")
    assert (v0.kind, v0.master, v0.master_kind, v0.is_port) == ("veth", 10, "bridge", True)
    assert v0.alternative_names == ("a-name-that-is-longer-than-fifteen-octets",)
    assert v0.hardware_address == bytes([2, 0, 0, 0, 0, 7])
    br0, lo = interface_by_name("br0"), interface_by_name("lo")
    assert (br0.kind, br0.master, br0.is_port) == ("bridge", None, False)
    assert (lo.kind, lo.alternative_names) == (None, ())


async def test_what_becomes_a_port_is_left_and_what_is_one_no_longer_is_joined(eventually: Eventually) -> None:
    ip(*bridge("br0", 10), "link add v0 index 11 type veth peer name v1 index 12", "link set v0 up", "link set v1 up")
    async with open_udp() as conn, trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, GROUP)
        assert joined() == {10, 11, 12}
        ip("link set v0 master br0")
        await eventually(lambda: joined() == {10, 12})
        ip("link set v0 nomaster")
        await eventually(lambda: joined() == {10, 11, 12})
        nursery.cancel_scope.cancel()


async def test_thirty_containers_come_and_go_beside_a_follower_and_a_server(eventually: Eventually) -> None:
    served = []

    async def handler(conn: PacketConn, interface: Interface) -> None:
        served.append(interface.name)
        await trio.sleep_forever()

    ip(*bridge("br0", 10))
    async with open_udp() as conn, trio.open_nursery() as nursery:
        started = await nursery.start(follow_group, conn, GROUP)
        assert [each.name for each in started] == ["br0"]
        await nursery.start(serve_group, handler, GROUP, 5007)
        for _ in range(2):
            for number in range(30):
                # The far end would be in the container. Here it stays down, so that only the host's end could match.
                await trio.to_thread.run_sync(
                    ip,
                    f"link add port{number} type veth peer name far{number}",
                    f"link set port{number} master br0",
                    f"link set port{number} up",
                )
                await trio.lowlevel.checkpoint()
            ip("link set lo mtu 1400", "link set lo mtu 1500")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert joined() == {10}
            assert set(conn.memberships) == {(10, GROUP)}
            ip(*(f"link delete port{number}" for number in range(30)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await eventually(lambda: joined() == {10})
        assert served == ["br0"]
        nursery.cancel_scope.cancel()
