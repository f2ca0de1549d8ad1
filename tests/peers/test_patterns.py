"""What docs/how-to/several-groups-several-interfaces.md and cloud-networks.md say, and that what they show works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

from support import traffic
from trio_ipv4 import open_udp
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
GROUP, OTHER = "239.1.2.3", "239.1.2.4"
PORT = 5000
SOON = 0.3
"""Seconds: what arrives takes a thousandth of it."""


def page(name: str) -> str:
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def block(name: str, part: str) -> dict[str, Any]:
    """Run a block of code of a page, and return its names."""
    (source,) = [each for each in re.findall(r"```python\n(.*?)```", page(name), re.DOTALL) if part in each]
    names: dict[str, Any] = {}
    exec(source, names)
    return names


@pytest.fixture
def links(private_net: None) -> Iterator[Lab]:
    """Three hosts on two links."""
    with open_lab(("a", "b", "c"), links=2) as lab:
        yield lab


async def send(host: LabHost, interface: str, group: str) -> None:
    async with host.call(open_udp) as conn:
        conn.multicast_interface = interface
        await conn.send_to(f"{group} by {interface}".encode(), (group, PORT))


async def send_all(host: LabHost) -> None:
    """Send to both groups on both links."""
    for interface in ("en0", "en1"):
        for group in (GROUP, OTHER):
            await send(host, interface, group)


async def heard(conn: PacketConn) -> list[str]:
    return [payload.decode() for payload in await traffic.heard(conn, SOON)]


async def test_one_connection_hears_the_pairs_that_it_joined_and_no_others(
    links: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    hear = block("several-groups-several-interfaces", "async def hear")["hear"]
    pairs = (("en0", GROUP), ("en1", OTHER))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links["b"].run, hear, pairs)
        await trio.testing.wait_all_tasks_blocked()
        await send_all(links["a"])
        await trio.sleep(SOON)
        nursery.cancel_scope.cancel()
    lines = [f"{group} {interface} {f'{group} by {interface}'.encode()!r}" for interface, group in pairs]
    assert capsys.readouterr().out.splitlines() == lines


async def test_a_group_that_comes_in_twice_is_heard_twice_and_the_interface_tells(links: Lab) -> None:
    b = links["b"]
    async with b.call(open_udp, port=PORT) as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        await send(links["a"], "en0", GROUP)
        await send(links["a"], "en1", GROUP)
        indexes = {(await conn.receive()).control.ifindex for _ in range(2)}
        assert indexes == {each.index for each in b.interfaces if each.name.startswith("en")}


async def test_bound_to_their_groups_two_connections_share_the_port_and_hear_one_group_each(links: Lab) -> None:
    names = links["b"].call(block, "several-groups-several-interfaces", "feed =")
    async with names["feed"] as feed, names["alarms"] as alarms:
        await send_all(links["a"])
        assert await heard(feed) == await heard(alarms) == []  # It still has to join.
        async with feed.joined("en0", GROUP), alarms.joined("en0", OTHER):
            await send_all(links["a"])
            assert await heard(feed) == [f"{GROUP} by en0"]
            assert await heard(alarms) == [f"{OTHER} by en0"]
            async with links["a"].call(open_udp) as sender:
                await sender.send_to(b"unicast", (links["b"].addresses[0], PORT))
            assert await heard(feed) == await heard(alarms) == []


CROSS_TALK: Final = [
    ({"multicast_all": True}, "yes"),
    ({}, "no"),
    ({"address": GROUP, "bind_group": True}, "no"),
    ({"address": GROUP, "bind_group": True, "multicast_all": True}, "that group"),
]


def test_the_page_has_these_rows_of_cross_talk() -> None:
    rows = re.findall(
        r"^\| bound to [^|]*\| ([^|:,]*?)(?:[:,][^|]*)? \|$", page("several-groups-several-interfaces"), re.MULTILINE
    )
    assert rows == [answer for _, answer in CROSS_TALK]


@pytest.mark.parametrize(("options", "answer"), CROSS_TALK)
async def test_what_another_program_joined_is_heard_as_the_page_has_it(
    links: Lab, options: dict[str, Any], answer: str
) -> None:
    b = links["b"]
    options = {"address": "0.0.0.0", "share_port": True, **options}
    async with (
        b.call(open_udp, port=PORT, share_port=True) as other,
        other.joined("en0", GROUP),
        other.joined("en1", OTHER),
        b.call(open_udp, port=PORT, **options) as conn,
    ):
        await send_all(links["a"])
        everything = [f"{GROUP} by en0", f"{OTHER} by en1"]
        expected = {"yes": everything, "no": [], "that group": everything[:1]}[answer]
        assert await heard(conn) == expected


async def test_the_three_ways_to_send_reach_their_interfaces(links: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = links["a"], links["b"]
    send_everywhere = block("several-groups-several-interfaces", "async def send_everywhere")["send_everywhere"]
    (en1,) = [each for each in a.interfaces if each.name == "en1"]
    async with b.call(open_udp, port=PORT) as conn, conn.joined("en0", GROUP), conn.joined("en1", GROUP):
        async with a.call(open_udp) as sender:
            await a.run(send_everywhere, sender, en1)
            assert sender.multicast_interface == en1.index
        payloads = sorted(await heard(conn))
    assert payloads == ["hello", "who is there?", "who is there?"]
    assert capsys.readouterr().out == "en0 sent\nen1 sent\n"


# In a cloud


async def test_copies_reach_each_receiver(links: Lab) -> None:
    send_to_all = block("cloud-networks", "async def send_to_all")["send_to_all"]
    receivers = [links[name] for name in "bc"]
    async with (
        links["a"].call(open_udp) as sender,
        receivers[0].call(open_udp, port=PORT) as one,
        receivers[1].call(open_udp, port=PORT) as two,
    ):
        await send_to_all(sender, b"x", [str(each.addresses[0]) for each in receivers])
        assert await heard(one) == await heard(two) == ["x"]


def make_vxlan(host: LabHost, number: int) -> None:
    """Run the page's commands on a host: they are those of host 1 of three."""
    (script,) = re.findall(r"<!-- rules: vxlan -->\n\n```sh\n(.*?)```", page("cloud-networks"), re.DOTALL)
    others = [each for each in (1, 2, 3) if each != number]
    swapped = re.sub(r"dst 198\.18\.0\.([23])", lambda match: f"dst 198.18.0.{others[int(match[1]) - 2]}", script)
    swapped = swapped.replace("local 198.18.0.1", f"local 198.18.0.{number}").replace("10.42.0.1", f"10.42.0.{number}")
    done = subprocess.run(host.command(["sh", "-ec", swapped]), capture_output=True, text=True, check=False)
    if "Unknown device type" in done.stderr:
        pytest.skip("this kernel has no VXLAN")
    assert done.returncode == 0, done.stderr


def drop_groups(host: LabHost) -> None:
    """Do as a cloud does."""
    chain = "add chain netdev t c { type filter hook ingress device en0 priority 0; }"
    rules = f"add table netdev t; {chain}; add rule netdev t c ether daddr 01:00:5e:00:00:00/24 drop"
    subprocess.run(host.command(["nft", rules]), check=True)


async def test_over_vxlan_a_group_reaches_every_machine_though_the_network_carries_none(links: Lab) -> None:
    for number, name in enumerate("abc", 1):
        make_vxlan(links[name], number)
        drop_groups(links[name])
    async with (
        links["b"].call(open_udp, port=PORT) as b,
        b.joined("vx0", GROUP),
        b.joined("en0", GROUP),
        links["c"].call(open_udp, port=PORT) as c,
        c.joined("vx0", GROUP),
    ):
        await send(links["a"], "en0", GROUP)
        assert await heard(b) == []
        await send(links["a"], "vx0", GROUP)
        assert await heard(b) == await heard(c) == [f"{GROUP} by vx0"]
        assert {each.mtu for each in links["a"].interfaces if each.name == "vx0"} == {1500 - 50}
