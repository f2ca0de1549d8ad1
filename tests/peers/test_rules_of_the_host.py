"""What docs/how-to/firewalls.md and reverse-path-filter.md say of the host's own rules, and that their rules work.

The rules are read from the pages, and taken by the kernel of a host in a lab.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from support.traffic import heard
from trio_ipv4 import InputRoute, input_route, open_ip, open_udp
from trio_ipv4.testing import igmp_groups, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from conftest import Eventually
    from trio_ipv4 import PacketConn
    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
GROUP, PORT = "239.1.2.3", 5000
SEARCHED: Final = ("239.255.255.250", 1900)


def rules(kind: str) -> str:
    """Return the rules of the page on firewalls."""
    page = (HOW_TO / "firewalls.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- rules: {kind} -->\n\n```\w+\n(.*?)```", page, re.DOTALL)
    return str(found)


def without(text: str, *parts: str) -> str:
    """Return the lines that have none of the parts, each of which must be there."""
    assert all(part in text for part in parts)
    return "".join(line for line in text.splitlines(keepends=True) if not any(part in line for part in parts))


def shell(host: LabHost, script: str) -> str:
    done = subprocess.run(host.command(["sh", "-ec", script]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_nft(host: LabHost, *left_out: str) -> None:
    shell(host, f"nft -f - <<'END'\n{without(rules('nft'), *left_out)}\nEND")


def with_iptables(host: LabHost, *left_out: str) -> None:
    policies = "iptables -P INPUT DROP; iptables -P OUTPUT DROP; iptables -A INPUT -i lo -j ACCEPT\n"
    tracking = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
    shell(host, policies + tracking + without(rules("iptables"), *left_out))


FIREWALLS: Final = [
    pytest.param(
        apply, id=name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"`{name}` is not installed")
    )
    for name, apply in (("nft", with_nft), ("iptables", with_iptables))
]
both = pytest.mark.parametrize("firewall", FIREWALLS)


@pytest.fixture
def pair(lab: Lab) -> tuple[LabHost, LabHost]:
    """A host that is reached, and one with a firewall."""
    return lab["a"], lab["b"]


def on_en0(host: LabHost, port: int = 0) -> PacketConn:
    return host.call(open_udp, "0.0.0.0", port, interface="en0")


def query(lab: Lab) -> None:
    """Have the switch ask who is a member."""
    shell(lab.switch, "ip link set br0 type bridge mcast_querier 0; ip link set br0 type bridge mcast_querier 1")


# What has to be let in


@both
async def test_with_the_rules_of_the_page_a_group_is_heard(
    pair: tuple[LabHost, LabHost], firewall: Callable[..., None]
) -> None:
    a, b = pair
    firewall(b)
    async with on_en0(a) as sender, on_en0(b, PORT) as conn, conn.joined("en0", GROUP):
        await sender.send_to(b"x", (GROUP, PORT))
        assert await heard(conn) == [b"x"]


@both
async def test_without_the_rule_for_the_group_nothing_is_heard(
    pair: tuple[LabHost, LabHost], firewall: Callable[..., None]
) -> None:
    a, b = pair
    firewall(b, GROUP)
    async with on_en0(a) as sender, on_en0(b, PORT) as conn, conn.joined("en0", GROUP):
        await sender.send_to(b"x", (GROUP, PORT))
        assert await heard(conn) == []


@both
@pytest.mark.parametrize("lets_igmp_in", [True, False])
async def test_queries_get_in_by_the_rule_for_igmp_alone(
    lab: Lab, firewall: Callable[..., None], lets_igmp_in: bool
) -> None:
    """A raw socket hears only what the firewall lets in."""
    b = lab["b"]
    firewall(b, *(() if lets_igmp_in else ("igmp",)))
    async with b.call(open_ip, 2) as igmp, igmp.joined("en0", "224.0.0.1"):
        query(lab)
        kinds = {payload[0] for payload in await heard(igmp)}
        assert (0x11 in kinds) is lets_igmp_in


async def test_every_igmp_message_has_an_ip_option(lab: Lab) -> None:
    a, b = lab["a"], lab["b"]
    shell(
        b, "nft 'add table t; add chain t c { type filter hook input priority 0; }; add rule t c ip hdrlength > 5 drop'"
    )
    async with (
        a.call(open_ip, 2) as free,
        free.joined("en0", "224.0.0.1"),
        b.call(open_ip, 2) as filtered,
        filtered.joined("en0", "224.0.0.1"),
    ):
        query(lab)
        assert await heard(free)
        assert await heard(filtered) == []


# Answers to a search


async def ask(pair: tuple[LabHost, LabHost], address: str, port: int) -> list[bytes]:
    """Ask from a port; the device answers from its own address."""
    a, b = pair
    device = a.call(open_udp, "0.0.0.0", SEARCHED[1])
    async with device, device.joined("en0", SEARCHED[0]), on_en0(b, port) as asking:
        await asking.send_to(b"who?", (address, SEARCHED[1]))
        question = await device.receive()
        await device.send(question.reply(b"I"))
        return await heard(asking)


@both
async def test_the_answer_to_a_question_to_a_group_gets_in_by_a_rule_of_its_own(
    pair: tuple[LabHost, LabHost], firewall: Callable[..., None]
) -> None:
    firewall(pair[1])
    assert await ask(pair, SEARCHED[0], 40000) == [b"I"]


@both
async def test_connection_tracking_does_not_let_it_in(
    pair: tuple[LabHost, LabHost], firewall: Callable[..., None]
) -> None:
    firewall(pair[1], "40000")
    assert await ask(pair, SEARCHED[0], 40000) == []


async def test_connection_tracking_lets_in_the_answer_to_a_unicast_question(pair: tuple[LabHost, LabHost]) -> None:
    a, b = pair
    with_nft(b, "40000")
    shell(b, "nft add rule inet filter output udp dport 1900 accept")
    assert await ask(pair, str(a.addresses[0]), 40000) == [b"I"]


# What has to be let out


@both
async def test_a_datagram_that_is_not_let_out_is_refused(
    pair: tuple[LabHost, LabHost], firewall: Callable[..., None]
) -> None:
    _, b = pair
    firewall(b, "239.0.0.0/8")
    async with on_en0(b) as conn:
        with pytest.raises(PermissionError) as caught:
            await conn.send_to(b"x", (GROUP, PORT))
        assert caught.value.errno == errno.EPERM


@both
@pytest.mark.parametrize("lets_igmp_out", [True, False])
async def test_a_join_works_and_is_not_reported_where_igmp_is_not_let_out(
    lab: Lab, firewall: Callable[..., None], lets_igmp_out: bool, eventually: Eventually
) -> None:
    b = lab["b"]
    firewall(b, *(() if lets_igmp_out else ("igmp",)))

    def known_to_the_switch() -> bool:
        return GROUP in shell(lab.switch, "bridge mdb show dev br0")

    async with on_en0(b, PORT) as conn, conn.joined("en0", GROUP) as membership:
        assert (membership.interface, membership.group) in b.call(igmp_groups)
        if lets_igmp_out:
            await eventually(known_to_the_switch)
        else:
            await trio.sleep(1.5)  # The second of the two reports comes within a second (RFC 9776 section 8.11).
            assert not known_to_the_switch()


# The reverse-path filter


NAMES: Final = {"off": 0, "strict": 1, "loose": 2}


def effective() -> dict[tuple[int, int], str]:
    """The page's table: (all, en0) to what they come to."""
    page = (HOW_TO / "reverse-path-filter.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*all: (\d)\*\* \| (\w+) \| (\w+) \| (\w+) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    return {(int(every), own): name for every, *names in rows for own, name in enumerate(names)}


@pytest.fixture
def asymmetric() -> Iterator[tuple[LabHost, LabHost]]:
    """Two hosts; the second answers the first one's further address by another interface, if at all."""
    with open_lab(links=2) as lab:
        a, b = lab["a"], lab["b"]
        a.ip("address", "add", "203.0.113.1/32", "dev", "en0")
        b.ip("route", "add", "203.0.113.0/24", "dev", "en1")
        yield a, b


def filter_by(host: LabHost, every: int, own: int) -> None:
    host.set_sysctl("net.ipv4.conf.all.rp_filter", every)
    host.set_sysctl("net.ipv4.conf.en0.rp_filter", own)


async def test_the_greater_setting_counts_as_the_page_has_it(asymmetric: tuple[LabHost, LabHost]) -> None:
    a, b = asymmetric
    table = effective()
    async with (
        on_en0(b, PORT) as conn,
        conn.joined("en0", GROUP),
        a.call(open_udp, "203.0.113.1") as far,
        a.call(open_udp, "198.18.0.1") as near,
    ):
        far.multicast_interface = near.multicast_interface = "en0"
        for every, own in itertools.product(range(3), repeat=2):
            filter_by(b, every, own)
            await far.send_to(b"far", (GROUP, PORT))
            await near.send_to(b"near", (GROUP, PORT))
            payloads = [(await conn.receive()).payload]
            if payloads == [b"far"]:
                payloads.append((await conn.receive()).payload)
            assert (b"far" not in payloads) is (table[every, own] == "strict"), (every, own)
            # The kernel says so before.
            refused = b.call(input_route, "en0", "203.0.113.1", "224.0.0.1") is InputRoute.REFUSED
            assert refused is (table[every, own] == "strict")
    assert {name: max(pair) for pair, name in table.items()} == NAMES


@contextlib.asynccontextmanager
async def far_and_near(a: LabHost, b: LabHost) -> AsyncIterator[tuple[PacketConn, PacketConn]]:
    """Let `a` send from an address that `b` has another way to, and `b` be a member."""
    async with a.call(open_udp, "203.0.113.1") as far, on_en0(b, PORT) as near, near.joined("en0", GROUP):
        far.multicast_interface = "en0"
        yield far, near


@pytest.mark.parametrize("cure", ["route", "loose", "off"])
async def test_each_cure_of_the_page_cures(asymmetric: tuple[LabHost, LabHost], cure: str) -> None:
    a, b = asymmetric
    page = (HOW_TO / "reverse-path-filter.md").read_text(encoding="utf-8")
    commands = re.findall(r"```sh\n((?:ip route add|sysctl -w) .*)\n```", page)
    script = dict(zip(("route", "loose", "off"), commands, strict=True))[cure].replace(
        "198.18.7.0/24", "203.0.113.1/32"
    )
    filter_by(b, 1, 0)
    async with far_and_near(a, b) as (far, conn):
        await far.send_to(b"before", (GROUP, PORT))
        shell(b, script)
        await far.send_to(b"after", (GROUP, PORT))
        assert (await conn.receive()).payload == b"after"


async def test_loose_needs_some_route(asymmetric: tuple[LabHost, LabHost]) -> None:
    a, b = asymmetric
    filter_by(b, 0, 2)
    b.ip("route", "del", "203.0.113.0/24")
    async with far_and_near(a, b) as (far, conn):
        await far.send_to(b"before", (GROUP, PORT))
        b.ip("route", "add", "default", "dev", "en1")
        await far.send_to(b"after", (GROUP, PORT))
        assert (await conn.receive()).payload == b"after"


async def test_a_default_route_by_that_interface_satisfies_a_strict_filter(asymmetric: tuple[LabHost, LabHost]) -> None:
    a, b = asymmetric
    filter_by(b, 1, 1)
    b.ip("route", "del", "203.0.113.0/24")
    b.ip("route", "add", "default", "dev", "en0")
    async with far_and_near(a, b) as (far, conn):
        await far.send_to(b"x", (GROUP, PORT))
        assert (await conn.receive()).payload == b"x"


async def test_the_counter_that_the_page_names_counts(asymmetric: tuple[LabHost, LabHost]) -> None:
    a, b = asymmetric
    filter_by(b, 1, 0)
    async with far_and_near(a, b) as (far, _):
        for _ in range(3):
            await far.send_to(b"x", (GROUP, PORT))
        assert re.search(r"TcpExtIPReversePathFilter +3 ", shell(b, "nstat -asz TcpExtIPReversePathFilter"))


async def test_a_rule_of_the_firewall_does_the_same_and_no_setting_shows_it(
    asymmetric: tuple[LabHost, LabHost],
) -> None:
    a, b = asymmetric
    rule = "fib saddr . iif oif missing drop"
    assert f"`{rule}`" in (HOW_TO / "reverse-path-filter.md").read_text(encoding="utf-8")
    shell(b, f"nft 'add table t; add chain t c {{ type filter hook prerouting priority raw; }}; add rule t c {rule}'")
    async with far_and_near(a, b) as (far, conn):
        await far.send_to(b"x", (GROUP, PORT))
        assert await heard(conn) == []
        assert b.call(input_route, "en0", "203.0.113.1", GROUP) is InputRoute.LOCAL
