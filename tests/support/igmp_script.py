"""A script of hosts that speak IGMP, all versions of it and nonsense, on the simulated network and in the lab.

It takes 60 ticks: an hour, or ten seconds. "v3" joins, changes its sources and leaves by the library. "v2" and "v1" do
so by messages that they write themselves. "q2" asks until "q1" does, who has the lower address and falls silent after
half of the time; then "q2" goes on, for a while by older versions. "bad" sends what nobody should send. Everything is
drawn from one seed.
"""

from __future__ import annotations

import contextlib
import json
import random
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from support.wire import summed
from trio_ipv4 import (
    GroupRecord,
    Header,
    IGMPLeave,
    IGMPOther,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    RawDatagram,
    SourceFilter,
    open_raw,
    open_udp,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ipv4 import IGMPMessage, PacketConn, RawConn
    from trio_ipv4.testing import Host, Lab

HOSTS: Final = ("q1", "q2", "v3", "v2", "v1", "bad")
ROUTER_ALERT: Final = bytes([0x94, 4, 0, 0])  # RFC 2113
ALL_SYSTEMS, ALL_ROUTERS, REPORTS = "224.0.0.1", "224.0.0.2", "224.0.0.22"
TICKS: Final = 60
GROUPS: Final = tuple(f"239.1.2.{number}" for number in range(1, 6))
SPECIFIC: Final = tuple(f"232.1.2.{number}" for number in range(1, 4))
SOURCES: Final = tuple(f"198.18.9.{number}" for number in range(1, 8))
MARK: Final = IGMPOther(0xFE, 0, b"mark")
"""The first and the last message: what is between them is compared."""


def make_hub(lab: Lab) -> None:
    """Let the lab's switch pass on everything to everybody, nonsense too, and ask for nothing."""
    for bridge in json.loads(lab.switch.ip("-json", "link", "show", "type", "bridge")):
        lab.switch.ip("link", "set", bridge["ifname"], "type", "bridge", "mcast_snooping", "0", "mcast_querier", "0")


def packet(message: IGMPMessage | bytes, sender: str = "198.18.0.1", **changes: Any) -> bytes:
    """Return the IP packet of a message."""
    octets = message if isinstance(message, bytes) else message.marshal()
    fields = {"dst": ALL_SYSTEMS, "ttl": 1, "options": ROUTER_ALERT, **changes}
    header = Header(src=sender, protocol=2, **fields)
    return attrs.evolve(header, total_len=header.header_len + len(octets)).with_checksum().marshal() + octets


class Speaker:
    """A host that writes its messages itself."""

    def __init__(self, host: Host) -> None:
        self._conn: Final[RawConn] = host.call(open_raw, 2)
        self._conn.multicast_interface = "en0"
        self._address: Final = str(host.addresses[0])

    async def say(
        self, message: bytes, to: str, *, ttl: int = 1, alert: bool = True, source: str | None = None
    ) -> None:
        options = ROUTER_ALERT if alert else b""
        size = 20 + len(options) + len(message)
        header = Header(
            src=source or self._address, dst=to, ttl=ttl, tos=0xC0, protocol=2, options=options, total_len=size
        )
        await self._conn.send(RawDatagram(header, message))

    async def close(self) -> None:
        await self._conn.aclose()


async def play(hosts: Mapping[str, Host], seconds: float, seed: int = 1) -> None:
    """Play the script, in so many seconds."""
    tick = seconds / TICKS
    async with contextlib.AsyncExitStack() as stack:
        speakers = {name: Speaker(hosts[name]) for name in HOSTS}
        for each in speakers.values():
            stack.push_async_callback(each.close)
        await speakers["q1"].say(MARK.marshal(), ALL_SYSTEMS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, speakers["q2"], tick, (0, 8))
            nursery.start_soon(ask, speakers["q1"], tick, (6, 30))
            nursery.start_soon(ask, speakers["q2"], tick, (32, 44))
            nursery.start_soon(ask_by_older, speakers["q2"], tick, 46)
            nursery.start_soon(join_by_library, hosts["v3"], tick, random.Random(f"{seed} v3"))
            nursery.start_soon(report_version_2, speakers["v2"], tick, random.Random(f"{seed} v2"))
            nursery.start_soon(report_version_1, speakers["v1"], tick, random.Random(f"{seed} v1"))
            nursery.start_soon(report_at_length, speakers["v1"], tick, random.Random(f"{seed} many"))
            nursery.start_soon(talk_nonsense, speakers["bad"], tick, random.Random(f"{seed} bad"))
        await speakers["q1"].say(MARK.marshal(), ALL_SYSTEMS)


async def ask(querier: Speaker, tick: float, during: tuple[int, int]) -> None:
    """Ask for all groups every two ticks, and for one after the other between."""
    begin, end = during
    await trio.sleep(tick * begin)
    interval = max(1, round(2 * tick))
    for number in range(begin, end, 2):
        response = max(0.1, min(tick / 3, 10))
        general = IGMPQuery(robustness=2, query_interval=interval, max_response_time=response)
        await querier.say(general.marshal(), ALL_SYSTEMS)
        await trio.sleep(tick)
        group = GROUPS[number // 2 % len(GROUPS)]
        specific = IGMPQuery(group, robustness=2, query_interval=interval, max_response_time=0.1)
        await querier.say(specific.marshal(), group)
        channel = IGMPQuery(
            SPECIFIC[0],
            SOURCES[: number % 4 + 1],
            robustness=7,
            query_interval=interval,
            max_response_time=0.5,
            suppress_router_processing=bool(number % 4),
        )
        await querier.say(channel.marshal(), SPECIFIC[0])
        await trio.sleep(tick)


async def ask_by_older(querier: Speaker, tick: float, begin: int) -> None:
    """Ask by version 3 and by version 2 in turn, and at last by version 1; also without an address, as a proxy."""
    await trio.sleep(tick * begin)
    for _ in range(3):
        await querier.say(
            IGMPQuery(robustness=2, query_interval=31744, max_response_time=3174.4).marshal(), ALL_SYSTEMS
        )
        await trio.sleep(tick)
        await querier.say(IGMPQuery(version=2, max_response_time=0.3).marshal(), ALL_SYSTEMS)
        await querier.say(IGMPQuery(GROUPS[0], version=2, max_response_time=25.5).marshal(), GROUPS[0])
        await trio.sleep(tick)
    await querier.say(IGMPQuery(max_response_time=0.1).marshal(), ALL_SYSTEMS, source="198.18.0.99")
    await querier.say(IGMPQuery(version=1).marshal(), ALL_SYSTEMS, alert=False)


async def join_by_library(host: Host, tick: float, chance: random.Random) -> None:
    """Join, hear other sources, and leave, again and again."""
    async with host.call(open_udp) as conn, trio.open_nursery() as nursery:
        nursery.start_soon(_join_any, conn, tick, random.Random(chance.random()))
        nursery.start_soon(_join_specific, conn, tick, random.Random(chance.random()))


async def _join_any(conn: PacketConn, tick: float, chance: random.Random) -> None:
    for _ in range(12):
        async with conn.joined("en0", chance.choice(GROUPS)) as membership:
            await trio.sleep(tick * chance.uniform(1, 2))
            membership.set_sources(SourceFilter.exclude(*chance.sample(SOURCES, 2)))
            await trio.sleep(tick * chance.uniform(1, 2))
        await trio.sleep(tick / 2)


async def _join_specific(conn: PacketConn, tick: float, chance: random.Random) -> None:
    for _ in range(10):
        sources = SourceFilter.include(*chance.sample(SOURCES, 2))
        async with conn.joined("en0", chance.choice(SPECIFIC), sources=sources) as membership:
            for _ in range(2):
                await trio.sleep(tick * chance.uniform(0.5, 1))
                membership.allow(chance.choice(SOURCES))
                await trio.sleep(tick * chance.uniform(0.5, 1))
                membership.set_sources(SourceFilter.include(*chance.sample(SOURCES, chance.randint(1, 4))))
        await trio.sleep(tick / 2)


async def report_version_2(host: Speaker, tick: float, chance: random.Random) -> None:
    for _ in range(TICKS - 6):
        group = chance.choice(GROUPS)
        await host.say(IGMPv2Report(group).marshal(), group)
        await trio.sleep(tick * chance.uniform(0.3, 0.7))
        if chance.random() < 0.4:
            await host.say(IGMPLeave(group).marshal(), ALL_ROUTERS)
        await trio.sleep(tick * 0.3)


async def report_version_1(host: Speaker, tick: float, chance: random.Random) -> None:
    for _ in range(TICKS // 3 - 2):
        group = chance.choice(GROUPS)
        await host.say(IGMPv1Report(group).marshal(), group, alert=False)
        await trio.sleep(3 * tick)


async def report_at_length(host: Speaker, tick: float, chance: random.Random) -> None:
    """Send reports of many records: all types, those that nobody defined, auxiliary data, long lists."""
    for _ in range(TICKS - 6):
        records = [
            GroupRecord(
                chance.choice((1, 2, 3, 4, 5, 6, 0, 7, 99)),
                chance.choice(GROUPS + SPECIFIC),
                [str(IPv4Address(chance.getrandbits(32))) for _ in range(chance.choice((0, 0, 1, 3, 20)))],
                auxiliary=chance.randbytes(4 * chance.choice((0, 0, 0, 1, 5))),
            )
            for _ in range(chance.choice((0, 1, 1, 2, 6)))
        ]
        behind = b"" if chance.random() < 0.8 else chance.randbytes(5)
        await host.say(summed(IGMPv3Report(records).marshal() + behind), REPORTS)
        await trio.sleep(tick * 0.9)


async def talk_nonsense(host: Speaker, tick: float, chance: random.Random) -> None:
    for number in range(TICKS - 6):
        await host.say(nonsense(number, chance), ALL_SYSTEMS, ttl=chance.choice((1, 1, 2)), alert=chance.random() < 0.7)
        await trio.sleep(tick * 0.4)
        kind = chance.choice((0x13, 0x14, 0x1E, 0x1F, 0x30, 0x31, 0x32, 0x77, 0xFF))
        other = IGMPOther(kind, chance.getrandbits(8), chance.randbytes(chance.choice((0, 4, 12))))
        await host.say(other.marshal(), ALL_SYSTEMS)
        await trio.sleep(tick * 0.4)


def nonsense(number: int, chance: random.Random) -> bytes:
    """Return a message with one thing wrong, each kind in its turn."""
    group, record = chance.choice(GROUPS), GroupRecord(4, GROUPS[0], SOURCES[:3], auxiliary=b"auxiliary...")
    report = IGMPv3Report([record, GroupRecord(3, GROUPS[1])]).marshal()
    kinds = (
        IGMPv2Report(group).marshal()[: chance.randint(1, 7)],  # Too short.
        bytes([report[0], 0, 0xAB, 0xCD]) + report[4:],  # The checksum is wrong.
        bytes([0x16, 0, 0xAB, 0xCD]) + IPv4Address(group).packed,
        summed(bytes([0x16, 0, 0, 0, 198, 18, 0, 1])),  # The group is none.
        summed(bytes([0x17, 0, 0, 0, 0, 0, 0, 0])),
        summed(report[:-4]),  # A record is cut off,
        summed(report[:20]),  # the sources are,
        summed(report[:6] + b"\x00\x09" + report[8:]),  # there are fewer records than it says.
        summed(IGMPQuery(group).marshal()[:10]),  # A query of no version.
        summed(IGMPQuery(group, SOURCES[:4]).marshal()[:-6]),
        summed(bytes([0x11, 50, 0, 0, 0, 0, 0, 0, 2, 125, 0, 1, 198, 18, 0, 1])),  # All groups, with a source.
        summed(bytes([0x11, 50, 0, 0, 198, 18, 0, 1, 2, 125, 0, 0])),
    )
    return kinds[number % len(kinds)]
