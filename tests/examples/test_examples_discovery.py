"""The mDNS browser and the SSDP searcher of the documentation, against each other and against Avahi."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from support.avahi import SECONDS, SERVICE, Program, avahi, running
from trio_ipv4 import Header
from trio_ipv4.testing import Lab, igmp_groups, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Eventually
    from trio_ipv4.testing import LabHost

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
MDNS: Final = [sys.executable, str(EXAMPLES / "mdns_browser.py")]
SSDP: Final = [sys.executable, str(EXAMPLES / "ssdp_search.py")]
RESPONDER: Final = [sys.executable, str(EXAMPLES / "mdns_responder.py")]
MDNS_GROUP: Final = "224.0.0.251"
SSDP_GROUP: Final = "239.255.255.250"
PTR: Final = 12  # RFC 1035 section 3.2.2


async def test_the_browser_and_avahi_find_each_other_and_again_after_the_cable_was_out(
    lab: Lab, needs_avahi: None, tmp_path: Path, eventually: Eventually
) -> None:
    browse = [*MDNS, "--interface", "en0", "--service", f"{SERVICE}.local"]
    look = ["avahi-browse", "--resolve", "--parsable", SERVICE]
    found_by_us = "en0", "Published by Avahi", "avahi-host.local:7777"

    def announce(title: str) -> list[str]:
        return lab["a"].command([*browse, "--announce", title, "--port", "8888"])

    def is_member() -> bool:
        return any(group == IPv4Address("224.0.0.251") for _, group in lab["a"].call(igmp_groups))

    async with (
        avahi(lab["b"], tmp_path) as env,
        running(lab["a"].command(browse)) as browser,
        running(announce("First")) as first,
        running(lab["b"].command(look), env) as avahi_browser,
    ):
        await browser.line_with(*found_by_us)
        await first.line_with("announced")
        await avahi_browser.line_with("=;en0;IPv4;First;", ";198.18.0.1;8888;")
        assert is_member()
        lab["a"].ip("link", "set", "en0", "down")
        await eventually(lambda: not is_member())
        async with running(announce("Second")):  # Avahi can't know this one from before.
            lab["a"].ip("link", "set", "en0", "up")
            await browser.line_with(*found_by_us)
            await first.line_with("announced")
            await avahi_browser.line_with("=;en0;IPv4;Second;", ";198.18.0.1;8888;")


async def test_the_browser_finds_what_is_announced_on_the_loopback(needs_lab: None) -> None:
    async with running([*MDNS, "--announce", "Here"]) as announcer, running(MDNS) as browser:
        await announcer.line_with("lo: announced Here._http._tcp.local")
        line = await browser.line_with("lo: Here._http._tcp.local")
    assert line == "lo: Here._http._tcp.local at here.local:8080"


async def test_a_device_answers_where_it_was_asked(lab: Lab) -> None:
    location = "http://192.0.2.1/description.xml"
    async with running(lab["b"].command([*SSDP, "--interface", "en0", "--answer", location])) as device:
        await device.line_with("en0: ready")
        async with running(lab["a"].command([*SSDP, "--interface", "en0"])) as searcher:
            line = await searcher.line_with("en0: 198.18.0.2 is uuid:")
            assert line.endswith(f"see {location}")
            lab["b"].ip("link", "set", "en0", "down")
            lab["b"].ip("link", "set", "en0", "up")
            await device.line_with("en0: ready")
        async with running(lab["a"].command([*SSDP, "--interface", "en0"])) as searcher:
            await searcher.line_with("en0: 198.18.0.2 is uuid:")


async def test_a_searcher_shows_devices_of_its_target_that_stay(lab: Lab, eventually: Eventually) -> None:
    def notify(name: str, target: str, state: str) -> bytes:
        return f"NOTIFY * HTTP/1.1\r\nNT: {target}\r\nNTS: ssdp:{state}\r\nUSN: uuid:{name}\r\n\r\n".encode()

    def is_member() -> bool:
        return any(group == IPv4Address(SSDP_GROUP) for _, group in lab["a"].call(igmp_groups))

    search = [*SSDP, "--interface", "en0", "--target", "upnp:rootdevice"]
    with asking(lab["b"], "en0") as device:
        async with running(lab["a"].command(search)) as searcher:
            await eventually(is_member)
            for message in (
                notify("leaves", "upnp:rootdevice", "byebye"),
                notify("another", "urn:schemas-upnp-org:service:Dimming:1", "alive"),
                notify("stays", "upnp:rootdevice", "alive"),
            ):
                device.sendto(message, (SSDP_GROUP, 1900))
            assert "is uuid:stays, " in await searcher.line_with("en0: ")


async def test_the_browser_shows_no_goodbye_and_nothing_from_another_port(lab: Lab, eventually: Eventually) -> None:
    def response(title: str, lifetime: int) -> bytes:
        service = to_name("_http._tcp.local")
        data = bytes([len(title)]) + title.encode() + service
        return (
            struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0)
            + service
            + struct.pack("!HHIH", 12, 1, lifetime, len(data))
            + data
        )

    def is_member() -> bool:
        return any(group == IPv4Address(MDNS_GROUP) for _, group in lab["a"].call(igmp_groups))

    with asking(lab["b"], "en0") as stranger, asking(lab["b"], "en0", 5353) as responder:
        async with running(lab["a"].command([*MDNS, "--interface", "en0"])) as browser:
            await eventually(is_member)
            stranger.sendto(response("Strange", 120), (MDNS_GROUP, 5353))
            responder.sendto(response("Leaves", 0), (MDNS_GROUP, 5353))
            responder.sendto(response("Stays", 120), (MDNS_GROUP, 5353))
            assert "Stays._http._tcp.local" in await browser.line_with("en0: ")


# One prefix on two links: two interfaces without a configured address, say, or Wi-Fi beside a wire in one LAN.

WRONG: Final = "169.254.0.1"
RIGHT: Final = "169.254.0.2"
"""The addresses of "a" on en0 and on en1. Its route to the prefix is by en0."""
ON_LINK: Final = {"d": ("en0", "169.254.0.8", WRONG), "c": ("en1", "169.254.0.9", RIGHT)}
"""Who asks, on which link, from which address, and the address of "a" there."""
ZEROCONF: Final = """\
import socket, sys, time
from zeroconf import DNSOutgoing, DNSQuestion, IPVersion, RecordUpdateListener, Zeroconf

class Printer(RecordUpdateListener):
    def async_update_records(self, zeroconf, now, records):
        for update in records:
            print(update.new.name, socket.inet_ntoa(update.new.address), flush=True)

own, wants_unicast = sys.argv[1:]
with Zeroconf(interfaces=[own], ip_version=IPVersion.V4Only) as zeroconf:
    zeroconf.add_listener(Printer(), None)
    question = DNSQuestion("trio.local.", 1, 1)
    question.unicast = wants_unicast == "True"
    query = DNSOutgoing(0)
    query.add_question(question)
    zeroconf.send(query)
    time.sleep(60)
"""


@pytest.fixture
def one_prefix(needs_lab: None) -> Iterator[Lab]:
    with open_lab({"a": [0, 1], "c": [1], "d": [0]}) as lab:
        ends = [("a", "en0", WRONG), ("a", "en1", RIGHT), *((who, *link[:2]) for who, link in ON_LINK.items())]
        for who, device, address in ends:
            lab[who].ip("address", "flush", "dev", device)
            lab[who].ip("address", "add", f"{address}/16", "dev", device)
        route = lab["a"].ip("route", "get", ON_LINK["c"][1])
        assert f"dev en0 src {WRONG}" in route  # As the kernel's hint will have it.
        yield lab


def asking(
    host: LabHost, device: str, port: int = 0, *, source: str = "0.0.0.0", group: str | None = None
) -> socket.socket:
    """A socket of the standard library that sends to groups on one interface, and doesn't hear itself."""
    index = next(interface.index for interface in host.interfaces if interface.name == device)
    made = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("0.0.0.0", port))
    # struct ip_mreqn: a group, an address of this host, an interface.
    request = struct.pack("=4s4si", bytes(4), socket.inet_aton(source), index)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    if group is not None:
        request = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    return made


async def heard(listening: socket.socket, eventually: Eventually) -> tuple[bytes, tuple[str, int]]:
    """Wait for a datagram; return it and where it came from."""
    got = []

    def has_come() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.append(listening.recvfrom(2000))
        return bool(got)

    await eventually(has_come)
    return got[0]


def to_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def question(name: str, kind: int = 1, of_class: int = 1) -> bytes:
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + to_name(name) + struct.pack("!2H", kind, of_class)


def tap(host: LabHost, device: str) -> socket.socket:
    """A socket that hears the IP packets that arrive on an interface."""
    made = host.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))  # ETH_P_IP
    made.bind((device, 0x0800))
    made.setblocking(False)
    return made


def mdns_sources(tapping: socket.socket) -> set[str]:
    """The sources of the mDNS responses that have arrived."""
    sources = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = tapping.recv(2000)
            udp = packet[(packet[0] & 0xF) * 4 :]
            if packet[9] == socket.IPPROTO_UDP and udp[:2] == struct.pack("!H", 5353) and udp[10:12] == b"\x84\0":
                sources.add(socket.inet_ntoa(packet[12:16]))
    return sources


@contextlib.asynccontextmanager
async def responding(lab: Lab, *arguments: str) -> AsyncIterator[Program]:
    async with running(lab["a"].command([*RESPONDER, "--interface", "all", *arguments])) as responder:
        await responder.line_with("joined 224.0.0.251 on 2 interfaces")
        yield responder


async def test_avahi_is_told_the_address_on_its_own_link(one_prefix: Lab, needs_avahi: None, tmp_path: Path) -> None:
    async with responding(one_prefix), avahi(one_prefix["c"], tmp_path, "en1") as env:
        with tap(one_prefix["c"], "en1") as tapping:
            argv = one_prefix["c"].command(["avahi-resolve", "-4", "-n", "trio.local"])
            async with running(argv, env) as resolver:
                assert await resolver.line_with("trio.local") == f"trio.local\t{RIGHT}"
            assert mdns_sources(tapping) == {RIGHT}


@pytest.mark.parametrize("wants_unicast", [False, True])
async def test_zeroconf_is_told_the_address_on_its_own_link(one_prefix: Lab, wants_unicast: bool) -> None:
    pytest.importorskip("zeroconf")
    device, asker, _ = ON_LINK["c"]
    async with responding(one_prefix):
        with tap(one_prefix["c"], device) as tapping:
            argv = [sys.executable, "-c", ZEROCONF, asker, str(wants_unicast)]
            async with running(one_prefix["c"].command(argv)) as resolver:
                assert await resolver.line_with("trio.local.") == f"trio.local. {RIGHT}"
            assert mdns_sources(tapping) == {RIGHT}


@pytest.mark.parametrize(
    ("port", "of_class"), [(5353, 0x8001), (5353, 1), (0, 1)], ids=["unicast wanted", "multicast", "another port"]
)
async def test_each_link_is_told_the_address_of_its_own(
    one_prefix: Lab, eventually: Eventually, port: int, of_class: int
) -> None:
    async with responding(one_prefix):
        for who in ("c", "d", "c"):
            device, _, own = ON_LINK[who]
            with asking(one_prefix[who], device, port, group=MDNS_GROUP) as asker:
                asker.sendto(question("trio.local", of_class=of_class), (MDNS_GROUP, 5353))
                response, source = await heard(asker, eventually)
            assert source == (own, 5353)
            assert response.endswith(socket.inet_aton(own))


async def test_of_several_addresses_the_one_in_the_askers_network_is_told(
    one_prefix: Lab, eventually: Eventually
) -> None:
    one_prefix["a"].ip("address", "add", "192.0.2.1/24", "dev", "en1")
    for address in ("192.0.2.9/24", "203.0.113.9/24"):
        one_prefix["c"].ip("address", "add", address, "dev", "en1")
    async with responding(one_prefix):
        for source, told in ("192.0.2.9", "192.0.2.1"), ("169.254.0.9", RIGHT), ("203.0.113.9", RIGHT):
            with asking(one_prefix["c"], "en1", 5353, source=source, group=MDNS_GROUP) as asker:
                asker.sendto(question("trio.local"), (MDNS_GROUP, 5353))
                response, _ = await heard(asker, eventually)
            assert response.endswith(socket.inet_aton(told))


async def test_an_interface_without_an_address_tells_nothing(one_prefix: Lab, eventually: Eventually) -> None:
    one_prefix["a"].ip("address", "flush", "dev", "en1")
    async with responding(one_prefix, "--answers", "1") as responder:
        with asking(one_prefix["c"], "en1") as unheard, tap(one_prefix["a"], "en1") as tapping:
            unheard.sendto(question("trio.local"), (MDNS_GROUP, 5353))
            while (await heard(tapping, eventually))[0][16:20] != socket.inet_aton(MDNS_GROUP):
                pass
        with asking(one_prefix["d"], "en0") as asker:
            asker.sendto(question("trio.local"), (MDNS_GROUP, 5353))
            response, source = await heard(asker, eventually)
        assert (response[-4:], source) == (socket.inet_aton(WRONG), (WRONG, 5353))
        assert ON_LINK["d"][1] in await responder.line_with("trio.local: told")  # Its first answer.


async def test_nobody_who_cannot_be_answered_ends_the_responder(one_prefix: Lab, eventually: Eventually) -> None:
    device, own, _ = ON_LINK["c"]
    strange = [("0.0.0.0", 5353), ("0.0.0.0", 40000), (own, 0), ("255.255.255.255", 5353), ("224.0.0.1", 5353)]
    async with responding(one_prefix):
        with one_prefix["c"].call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as wire:
            for (source, port), of_class in itertools.product(strange, (1, 0x8001)):
                message = question("trio.local", of_class=of_class)
                udp = struct.pack("!4H", port, 5353, 8 + len(message), 0) + message  # No checksum (RFC 768).
                header = Header(src=source, dst=MDNS_GROUP, ttl=255, protocol=17, total_len=20 + len(udp))
                to_group = b"\x01\x00\x5e\x00\x00\xfb"  # RFC 1112 section 6.4
                wire.sendto(header.with_checksum().marshal() + udp, (device, 0x0800, 0, 0, to_group))
        with asking(one_prefix["c"], device) as asker:
            asker.sendto(question("trio.local"), (MDNS_GROUP, 5353))
            _, source = await heard(asker, eventually)
    assert source == (RIGHT, 5353)


@pytest.mark.parametrize("who", ON_LINK)
async def test_a_device_answers_a_search_from_its_address_on_that_link(
    one_prefix: Lab, eventually: Eventually, who: str
) -> None:
    device, _, own = ON_LINK[who]
    argv = [*SSDP, "--interface", "en0", "--interface", "en1", "--answer", "http://192.0.2.1/"]
    async with running(one_prefix["a"].command(argv)) as answering:
        await answering.line_with("ready")
        await answering.line_with("ready")
        async with running(one_prefix[who].command([*SSDP, "--interface", device])) as searcher:
            await searcher.line_with(f"{device}: {own} is uuid:")


@pytest.mark.parametrize("who", ON_LINK)
async def test_a_searcher_asks_from_its_address_on_that_link(one_prefix: Lab, eventually: Eventually, who: str) -> None:
    device, _, own = ON_LINK[who]
    with asking(one_prefix[who], device, 1900, group=SSDP_GROUP) as listening:
        async with running(one_prefix["a"].command([*SSDP, "--interface", "en0", "--interface", "en1"])):
            search, (source, _) = await heard(listening, eventually)
    assert search.startswith(b"M-SEARCH")
    assert source == own


@pytest.mark.parametrize("who", ON_LINK)
async def test_a_service_is_announced_with_and_from_the_address_on_that_link(
    one_prefix: Lab, eventually: Eventually, who: str
) -> None:
    device, _, own = ON_LINK[who]
    with asking(one_prefix[who], device, 5353, group=MDNS_GROUP) as listening:
        argv = [*MDNS, "--interface", "en0", "--interface", "en1", "--announce", "Here"]
        async with running(one_prefix["a"].command(argv)) as announcer:
            for number in range(3):  # Two announcements, and an answer.
                response, source = await heard(listening, eventually)
                assert source == (own, 5353)
                assert response.endswith(socket.inet_aton(own))
                if number == 1:
                    await announcer.line_with(f"{device}: announced")
                    listening.sendto(question("_http._tcp.local", kind=12), (MDNS_GROUP, 5353))


# Renumbering


@pytest.mark.parametrize("new_first", [True, False])
async def test_a_service_is_never_announced_at_an_address_that_is_gone(lab: Lab, new_first: bool) -> None:
    """Ask, again and again, while the address changes: once the old one is gone, an answer has the new one alone."""
    a, b = lab["a"], lab["b"]
    old, new = IPv4Address("198.18.0.1"), IPv4Address("198.18.9.1")
    announce = [*MDNS, "--interface", "en0", "--service", f"{SERVICE}.local", "--announce", "Mine", "--port", "8888"]

    def told(asking: socket.socket) -> set[IPv4Address]:
        asking.sendto(question(f"{SERVICE}.local", PTR), (MDNS_GROUP, 5353))
        found: set[IPv4Address] = set()
        with contextlib.suppress(TimeoutError):
            while True:
                answer = asking.recv(65536)
                if answer[2] >= 0x80:
                    found |= {each for each in (old, new) if each.packed in answer}
        return found

    async with running(a.command(announce)) as program:
        await program.line_with("announced")
        with b.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.bind(("0.0.0.0", 5353))
            index = b.interfaces[0].index
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            group = struct.pack("=4s4si", IPv4Address(MDNS_GROUP).packed, b"", index)
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            asking.settimeout(0.2)
            assert old in told(asking)
            steps = [("add", f"{new}/24"), ("delete", f"{old}/24")]
            for what, address in steps if new_first else reversed(steps):
                a.ip("address", what, address, "dev", "en0")
            await program.line_with("announced")
            with trio.fail_after(SECONDS):
                while not (found := told(asking)) or found == {old, new}:
                    await trio.lowlevel.checkpoint()
            assert found == {new}
            for _ in range(3):
                assert told(asking) <= {new}


@pytest.mark.parametrize("new_first", [True, False])
async def test_a_search_goes_on_from_the_new_address(lab: Lab, new_first: bool) -> None:
    a, b = lab["a"], lab["b"]
    old, new = IPv4Address("198.18.0.1"), IPv4Address("198.18.9.1")

    def hear(hearing: socket.socket) -> str:
        while True:
            payload, (source, _) = hearing.recvfrom(65536)
            if payload.startswith(b"M-SEARCH"):
                return str(source)

    with b.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as hearing:
        hearing.bind(("0.0.0.0", 1900))
        group = struct.pack("=4s4si", IPv4Address(SSDP_GROUP).packed, b"", b.interfaces[0].index)
        hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        hearing.settimeout(SECONDS)
        async with running(a.command([*SSDP, "--interface", "en0"])):
            assert hear(hearing) == str(old)
            steps = [("add", f"{new}/24"), ("delete", f"{old}/24")]
            for what, address in steps if new_first else reversed(steps):
                a.ip("address", what, address, "dev", "en0")
            with trio.fail_after(SECONDS):
                while hear(hearing) != str(new):
                    await trio.lowlevel.checkpoint()
