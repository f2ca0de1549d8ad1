"""What `trio-ipv4 doctor` hears: the wire, receivers of its own, the test join, and its probes.

The test's own namespace has the interface "en0". A cable leads from it to "far0", in another namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from support.capabilities import NET_RAW, without
from support.igmp_script import packet
from support.links import ip
from support.wire import need_tshark, summed
from trio_ipv4 import (
    GroupRecord,
    GroupRecordType,
    IGMPLeave,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    open_udp,
    parse_igmp,
)
from trio_ipv4._cli.doctor.evidence import (
    Duplicated,
    Flow,
    HeardFrom,
    Link,
    Links,
    Member,
    Memberships,
    OwnReceiver,
    Question,
    SourceCount,
    Wire,
)
from trio_ipv4._cli.doctor.witnesses import counters, fragments, fresh_join, probe
from trio_ipv4._cli.doctor.witnesses.frames import Packet
from trio_ipv4._cli.doctor.witnesses.receivers import OwnReceiverWitness, TwinsWitness
from trio_ipv4._cli.doctor.witnesses.wire import WireWitness, open_wire
from trio_ipv4.testing import igmp_groups
from trio_ipv4.testing._namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from conftest import Eventually, WaitUntil

GROUP, OTHER_GROUP, SPECIFIC = IPv4Address("239.1.2.3"), IPv4Address("239.9.2.3"), IPv4Address("232.1.2.3")
PORT = 5000
NEAR, FAR = "198.18.0.2", "198.18.0.1"
FAR_MAC, NEAR_MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:63"
MARK = IPv4Address("239.255.255.250")
NO_REPORTS = "table ip t { chain c { type filter hook output priority 0; ip protocol igmp counter drop; }; }"
OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h


@pytest.fixture
def far(wait_until: WaitUntil) -> Iterator[Namespace]:
    """The namespace at the other end of the cable."""
    with Namespace() as there:
        ip(
            f"link add en0 index 7 address {NEAR_MAC} type veth peer name far0 address {FAR_MAC} netns {there.path}",
            f"address add {NEAR}/24 dev en0",
            "link set en0 up",
        )
        there.call(ip, f"address add {FAR}/24 dev far0", "link set far0 up")
        wait_until(lambda: state_of("en0")["operstate"] == "UP")
        yield there


def state_of(name: str) -> dict[str, Any]:
    done = subprocess.run(["ip", "-d", "-j", "link", "show", name], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found[0]


def rename(old: str, new: bytes) -> None:
    for words in ([old, "down"], [old, "name", new], [new, "up"]):
        subprocess.run(["ip", "link", "set", *words], check=True)


def nft(words: str) -> str:
    return subprocess.run(["nft", words], capture_output=True, text=True, check=True).stdout


def set_sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net/ipv4/conf", name).write_text(str(value), encoding="ascii")


def question(**changes: Any) -> Question:
    return attrs.evolve(Question(GROUP, PORT, "en0", 7), **changes)


# Frames that a test writes itself


def udp(
    payload: bytes = b"datagram",
    *,
    source: str = FAR,
    group: object = GROUP,
    port: int = PORT,
    ttl: int = 1,
    ident: int = 1,
    bad_udp: bool = False,
    no_sum: bool = False,
    bad_ip: bool = False,
    bad_length: bool = False,
    options: bytes = b"",
    part: str = "",
) -> bytes:
    """Return an IP packet with a datagram, or with the "first" or "last" part of one."""
    ends = IPv4Address(source).packed + IPv4Address(str(group)).packed
    length = 8 + len(payload)
    segment = struct.pack("!HHHH", 40000, port, length + 9 * bad_length, 0) + payload
    # With a pseudo header before it (RFC 768), the sum is that of a message whose checksum is elsewhere.
    total = int.from_bytes(summed(b"\0\0\0\0" + ends + struct.pack("!BBH", 0, 17, length) + segment)[2:4], "big")
    total = 0 if no_sum else (total or 0xFFFF) ^ (0x1111 * bad_udp)
    segment = segment[:6] + total.to_bytes(2, "big") + segment[8:]
    half = len(segment) // 2 & ~7
    begin, end = {"": (0, len(segment)), "first": (0, half), "last": (half, len(segment))}[part]
    fragment = begin // 8 | (0x2000 if end < len(segment) else 0)
    body = segment[begin:end]
    size = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 + size // 4, 0, size + len(body), ident, fragment, ttl, 17, 0) + ends
    header += options
    right = int.from_bytes(summed(b"\0\0\0\0" + header)[2:4], "big")
    return header[:10] + (right ^ (0x1111 * bad_ip)).to_bytes(2, "big") + header[12:] + body


def frame(content: bytes, *, to: str | None = None, tags: tuple[int, ...] = ()) -> bytes:
    """Return an Ethernet frame with an IP packet."""
    low = int.from_bytes(content[16:20], "big") & 0x7F_FFFF
    station = bytes.fromhex(to.replace(":", "")) if to else (0x0100_5E00_0000 | low).to_bytes(6, "big")
    marked = b"".join(struct.pack("!HH", 0x8100, number) for number in tags)
    return station + bytes.fromhex(FAR_MAC.replace(":", "")) + marked + struct.pack("!H", 0x0800) + content


def send_frames(name: str, *every: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as own:
        own.bind((name, 0))
        for each in every:
            own.send(each)


def mark() -> bytes:
    """A frame that comes last."""
    return frame(packet(IGMPQuery(MARK), FAR))


@contextlib.contextmanager
def wire(**changes: Any) -> Iterator[WireWitness]:
    with open_wire(question(**changes)) as witness:
        yield witness


def is_marked(witness: WireWitness) -> bool:
    return any(MARK in each.groups for each in witness.messages())


def flows(seen: Wire, group: IPv4Address = GROUP) -> list[Flow]:
    return [each for each in seen.flows if each.destination == group]


async def see(witness: WireWitness, eventually: Eventually, far: Namespace, *every: bytes) -> Wire:
    """Send frames from the far end, and return what the witness saw."""
    far.call(send_frames, "far0", *every, mark())
    await eventually(lambda: is_marked(witness))
    return witness.take("before")[0]


@contextlib.asynccontextmanager
async def running(*witnesses: Any) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for witness in witnesses:
            nursery.start_soon(witness.run)
        yield
        nursery.cancel_scope.cancel()


# The wire

KINDS = {
    "plain": frame(udp()),
    "higher TTL": frame(udp(ttl=9)),
    "options": frame(udp(options=bytes([0x94, 4, 0, 0]))),
    "without a checksum": frame(udp(no_sum=True)),
    "odd length": frame(udp(b"odd")),
    "wrong UDP checksum": frame(udp(bad_udp=True)),
    "wrong IP checksum": frame(udp(bad_ip=True)),
    "wrong UDP length": frame(udp(bad_length=True)),
    "tag": frame(udp(), tags=(5,)),
    "two tags": frame(udp(), tags=(5, 6)),
    "for another station": frame(udp(), to=OTHER_MAC),
    "for this station alone": frame(udp(), to=NEAR_MAC),
    "other port": frame(udp(port=5001)),
    "first fragment": frame(udp(bytes(64), part="first")),
    "later fragment": frame(udp(bytes(64), part="last")),
}
DIRECTIONS: dict[str, Any] = {"for another station": "other_host", "for this station alone": "unicast"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_frame_is_read_as_tshark_reads_it(
    far: Namespace, eventually: Eventually, tmp_path: Path, kind: str
) -> None:
    with wire() as witness:
        seen = await see(witness, eventually, far, KINDS[kind])
    (flow,) = flows(seen)
    assert flow == attrs.evolve(
        read_by_tshark(KINDS[kind], tmp_path), direction=DIRECTIONS.get(kind, "in"), ifindex=7, number=1
    )


def read_by_tshark(content: bytes, tmp_path: Path) -> Flow:
    """Return what tshark says of a frame."""
    need_tshark()
    capture = tmp_path / "frame.pcap"
    # A pcap file (draft-ietf-opsawg-pcap) with link type 1, Ethernet.
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    capture.write_bytes(head + struct.pack("<IIII", 0, 0, len(content), len(content)) + content)
    argv = ["tshark", "-r", str(capture), "-n", "-T", "json", "-o", "ip.check_checksum:TRUE"]
    argv += ["-o", "udp.check_checksum:TRUE", "-o", "ip.defragment:FALSE"]
    done = subprocess.run(argv, capture_output=True, check=True)
    (found,) = json.loads(done.stdout, object_pairs_hook=first_of_each)
    layers = found["_source"]["layers"]
    header, udp_header = layers["ip"], layers.get("udp", {})
    offset, more = int(header["ip.frag_offset"]), "ip.flags_tree" in header and is_set(header["ip.flags_tree"])
    faults: list[Any] = []
    if header["ip.checksum.status"] == "0":
        faults.append("ip_checksum")
    if not more and udp_header.get("udp.checksum.status") == "0":
        faults.append("udp_checksum")
    if "udp.length" in udp_header and int(udp_header["udp.length"]) > int(header["ip.len"]) - header_length(header):
        faults = ["udp_length"] if not more else []
    return Flow(
        0,
        "in",
        IPv4Address(header["ip.src"]),
        IPv4Address(header["ip.dst"]),
        int(udp_header["udp.dstport"]) if udp_header else None,
        int(header["ip.ttl"]),
        0,
        int(header["ip.proto"]),
        int(layers["vlan"]["vlan.id"]) if "vlan" in layers else None,
        "later" if offset else "first" if more else None,
        tuple(faults),
        layers["eth"]["eth.dst"],
    )


def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of several layers with one name, tags, keep the outermost."""
    return dict(reversed(pairs))


def is_set(flags: dict[str, str]) -> bool:
    return flags["ip.flags.mf"] in {"1", "True", True}


def header_length(header: dict[str, str]) -> int:
    return int(header["ip.hdr_len"])


async def test_the_kernel_finds_the_same_checksums_wrong(far: Namespace, eventually: Eventually) -> None:
    async with open_udp(GROUP, PORT, bind_group=True) as conn, conn.joined("en0", GROUP):
        before = counters.read()
        with wire() as witness:
            sent = [frame(udp(bad_ip=True))] * 2 + [frame(udp(bad_udp=True))] * 3 + [frame(udp())] * 4
            seen = await see(witness, eventually, far, *sent)
        with trio.fail_after(10):
            for _ in range(4):
                await conn.receive()  # The kernel may check a datagram only when it is read.
        grown = counters.growth(before, counters.read(), 0.0, "before").grown
    assert {each.faults: each.number for each in flows(seen)} == {("ip_checksum",): 2, ("udp_checksum",): 3, (): 4}
    assert (grown["Ip.InHdrErrors"], grown["Udp.InCsumErrors"]) == (2, 3)


async def test_what_this_host_sends_is_outgoing_and_its_checksum_is_not_judged(far: Namespace) -> None:
    with wire() as witness:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            conn.multicast_ttl = 3
            await conn.send_to(b"mine", (str(GROUP), PORT))
        seen, _ = witness.take("before")
        send_frames("en0", frame(udp(bad_udp=True, bad_ip=True), tags=(5,)))
        by_hand, _ = witness.take("before")
    (flow,), (other,) = flows(seen), flows(by_hand)
    assert (flow.direction, flow.ttl, flow.source, flow.faults, flow.ifindex) == ("out", 3, IPv4Address(NEAR), (), 7)
    assert (other.direction, other.faults, other.vlan) == ("out", (), 5)


async def test_a_checksum_that_is_not_filled_in_yet_is_not_wrong(far: Namespace, eventually: Eventually) -> None:
    async with far.call(open_udp) as conn:
        conn.multicast_interface = 2
        with wire() as witness:
            await conn.send_to(b"by a program", (str(GROUP), PORT))
            await eventually(lambda: witness.arrived(7))
            seen, _ = witness.take("before")
    (flow,) = flows(seen)
    assert (flow.direction, flow.faults) == ("in", ())


async def test_on_loopback_a_datagram_comes_once(eventually: Eventually) -> None:
    with open_wire(Question(GROUP, PORT, "lo", 1)) as witness:
        async with open_udp() as conn:
            conn.multicast_interface = "lo"
            await conn.send_to(b"mine", (str(GROUP), PORT))
        await eventually(lambda: witness.arrived(1))
        (flow,) = flows(witness.take("before")[0])
    assert (flow.ifindex, flow.direction, flow.number, flow.hardware_address) == (1, "in", 1, None)


async def test_a_link_without_hardware_addresses_is_read_too(eventually: Eventually) -> None:
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
        ip("link set tun0 up")
        with wire() as witness:
            os.write(tunnel, udp(ttl=4))
            os.write(tunnel, packet(IGMPQuery(), FAR))
            await eventually(witness.messages)
            seen, igmp = witness.take("before")
    finally:
        os.close(tunnel)
    (flow,) = flows(seen)
    assert (flow.direction, flow.ttl, flow.port, flow.hardware_address, flow.faults) == ("in", 4, PORT, None, ())
    assert [each.kind for each in igmp.messages] == ["query"]


async def test_an_interface_whose_name_is_no_text_is_heard(far: Namespace, eventually: Eventually) -> None:
    rename("en0", b"e\xff")
    with wire() as witness:
        far.call(send_frames, "far0", frame(udp()))
        await eventually(lambda: witness.arrived(7))


async def test_unicast_and_other_protocols_are_left_out(far: Namespace, eventually: Eventually) -> None:
    everybody = frame(udp(group="255.255.255.255"), to="ff:ff:ff:ff:ff:ff")
    others = [frame(udp(group=NEAR), to=NEAR_MAC), everybody, frame(udp())[:12] + b"\x86\xdd" + udp()]
    with wire() as witness:
        seen = await see(witness, eventually, far, *others)
    assert not seen.flows


async def test_what_the_ingress_rules_drop_is_missing_behind_them(far: Namespace, eventually: Eventually) -> None:
    nft("table netdev t { chain c { type filter hook ingress device en0 priority 0; ip ttl 2 counter drop; }; }")
    with wire() as witness:
        sent = [frame(udp(ttl=2))] * 3 + [frame(udp())] * 4 + [frame(udp(), to=OTHER_MAC), frame(udp(port=5001))]
        # Where a header would be, the later fragment has the port.
        later = frame(udp(PORT.to_bytes(2, "big") * 32, part="last"))
        sent += [frame(udp(group=OTHER_GROUP)), frame(udp(), tags=(5,)), later]
        sent += [frame(udp(options=bytes([0x94, 4, 0, 0]))), frame(udp(bytes(64), part="first"))]
        seen = await see(witness, eventually, far, *sent)
    assert "counter packets 3 " in nft("list ruleset")
    assert seen.passed_ingress == {"7": 6}  # 4 plain ones, one with options, and a first fragment.
    assert sum(each.number for each in flows(seen)) == len(sent) - 1


async def test_the_frames_of_a_bridge_s_port_show_on_both_and_pass_only_on_the_bridge(
    far: Namespace, eventually: Eventually, wait_until: WaitUntil
) -> None:
    ip("link add br0 index 9 type bridge mcast_snooping 0", "link set br0 up", "link set en0 master br0")
    wait_until(lambda: state_of("en0")["linkinfo"]["info_slave_data"]["state"] == "forwarding", seconds=40)
    with wire() as witness:
        seen = await see(witness, eventually, far, *[frame(udp())] * 3)
        assert {each.ifindex: each.number for each in flows(seen)} == {7: 3, 9: 3}
    assert seen.passed_ingress == {"9": 3}


async def test_messages_of_igmp_are_told(far: Namespace, eventually: Eventually) -> None:
    one, two = GroupRecord(2, GROUP), GroupRecord(1, OTHER_GROUP, [FAR])
    sent: list[Any] = [
        IGMPQuery(version=1),
        IGMPQuery(version=2),
        IGMPQuery(GROUP, [FAR]),
        IGMPv1Report(GROUP),
        IGMPv2Report(GROUP),
        IGMPLeave(GROUP),
        IGMPv3Report([one, two]),
    ]
    with wire() as witness:
        async with running(witness):
            broken = packet(b"\x11\0\0\0", FAR)
            tagged = frame(packet(IGMPQuery(OTHER_GROUP), FAR), tags=(5,))
            # RFC 9776 section 4.1.12: a host accepts a query that is addressed to it alone.
            alone = frame(packet(IGMPQuery(OTHER_GROUP, version=2), FAR, dst=NEAR), to=NEAR_MAC)
            far.call(
                send_frames, "far0", *(frame(packet(each, FAR)) for each in sent), frame(broken), tagged, alone, mark()
            )
            await eventually(lambda: is_marked(witness))
            _, igmp = witness.take("joined")
    assert igmp.phase == "joined"
    assert [(each.kind, each.version, each.groups) for each in igmp.messages[:-1]] == [
        ("query", 1, ()),
        ("query", 2, ()),
        ("query", 3, (GROUP,)),
        ("v1_report", 1, (GROUP,)),
        ("v2_report", 2, (GROUP,)),
        ("leave", 2, (GROUP,)),
        ("v3_report", 3, (GROUP, OTHER_GROUP)),
        ("query", 3, (OTHER_GROUP,)),
        ("query", 2, (OTHER_GROUP,)),
    ]
    assert {(each.ifindex, each.outgoing, str(each.source)) for each in igmp.messages} == {(7, False, FAR)}
    times = [each.seconds for each in igmp.messages]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= igmp.seconds


async def test_a_report_of_this_host_s_own_is_outgoing(far: Namespace, eventually: Eventually) -> None:
    with wire() as witness:
        async with open_udp() as conn, conn.joined("en0", GROUP):
            await eventually(lambda: [each for each in witness.messages() if GROUP in each.groups])
        (first, *_) = [each for each in witness.take("before")[1].messages if GROUP in each.groups]
    assert (first.kind, first.outgoing, first.ifindex) == ("v3_report", True, 7)


async def test_a_look_begins_anew(far: Namespace, eventually: Eventually) -> None:
    with wire() as witness:
        first = await see(witness, eventually, far, frame(udp()))
        second, igmp = witness.take("joined")
    assert [each.number for each in flows(first)] == [1]
    assert (second.phase, second.flows, second.passed_ingress, igmp.messages) == ("joined", (), {}, ())
    assert second.seconds < first.seconds


async def test_forged_sources_don_t_fill_the_memory(far: Namespace, eventually: Eventually) -> None:
    def forged(group: IPv4Address, number: int) -> Iterator[bytes]:
        return (frame(udp(source=str(IPv4Address(0x0A00_0000 + each)), group=group)) for each in range(number))

    with wire() as witness:
        async with running(witness):
            far.call(send_frames, "far0", *forged(OTHER_GROUP, 3200))
            await eventually(lambda: witness._of_others == 3072 and witness._unread)
            seen = await see(witness, eventually, far, *forged(GROUP, 1100))
    assert (len(seen.flows), len(flows(seen)), len(flows(seen, OTHER_GROUP))) == (4096, 1024, 3072)
    assert seen.dropped == 3200 - 3072 + 1100 - 1024


async def test_frames_that_come_too_fast_are_counted(far: Namespace) -> None:
    sent = 20_000
    with wire(group=OTHER_GROUP) as witness:
        far.call(send_frames, "far0", *[frame(udp())] * sent)
        seen, _ = witness.take("before")
    assert seen.dropped > 0
    assert seen.dropped + sum(each.number for each in seen.flows) == sent


def test_without_the_privilege_nothing_is_opened(far: Namespace) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    with without(NET_RAW), pytest.raises(PermissionError):
        open_wire(question())
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_interfaces_are_not_made_promiscuous(far: Namespace) -> None:
    with wire():
        assert (state_of("en0")["promiscuity"], state_of("en0").get("allmulti", 0)) == (0, 0)


# Fragments


def piece(offset: int, length: int, *, more: bool, ident: int = 1) -> Packet:
    return Packet(IPv4Address(FAR), GROUP, 17, 1, ident, offset, more, b"", bytes(length), True)


@pytest.mark.pure
def test_a_datagram_is_whole_when_all_fragments_came_in_whatever_order() -> None:
    found = fragments.Fragments()
    for each in (piece(16, 4, more=False), piece(0, 8, more=True), piece(8, 8, more=True), piece(8, 8, more=True)):
        found.add(each, 7, 1.0)
    found.add(piece(8, 8, more=True), 7, 1.0)  # A copy breaks nothing.
    assert found.take(1.0) == (1, 0)


@pytest.mark.pure
@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, 8, more=True)],
        [piece(8, 8, more=False)],
        [piece(0, 8, more=True), piece(16, 8, more=False)],
        [piece(0, 8, more=True), piece(8, 8, more=False, ident=2)],
    ],
)
def test_a_datagram_is_broken_when_one_is_missing(pieces: list[Packet]) -> None:
    found = fragments.Fragments()
    for each in pieces:
        found.add(each, 7, 1.0)
    assert found.take(2.0) == (0, len({each.identification for each in pieces}))


@pytest.mark.pure
def test_a_datagram_that_began_a_moment_ago_is_left_for_the_next_look() -> None:
    found = fragments.Fragments()
    found.add(piece(0, 8, more=True), 7, 1.0)
    assert found.take(1.2) == (0, 0)
    found.add(piece(8, 8, more=False), 7, 1.25)
    assert found.take(2.0) == (1, 0)
    assert found.take(3.0) == (0, 0)


async def test_the_wire_tells_whole_datagrams_from_broken_ones(
    far: Namespace, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "PATIENCE", 0.0)
    both = [frame(udp(bytes(64), part=part, ident=5)) for part in ("first", "last")]
    first = frame(udp(bytes(64), part="first", ident=6))
    other = frame(udp(bytes(64), part="first", ident=7, group=OTHER_GROUP))
    with wire() as witness:
        before = counters.read()
        seen = await see(witness, eventually, far, *both, first, other)
        far.call(send_frames, "far0", *both)
        assert witness.arrived(7) == 1
        witness.take("before")
        send_frames("en0", first)  # What this host sends is not judged.
        assert (witness.take("before")[0].broken, seen.whole, seen.broken) == (0, 1, 1)
    assert counters.growth(before, counters.read(), 0.0, "before").grown.get("Ip.ReasmOKs", 0) <= 1


# Twins


def heard(found: tuple[HeardFrom, ...]) -> dict[tuple[str, str, int | None], int]:
    return {(str(each.group), str(each.source), each.ifindex): each.number for each in found}


async def test_twins_hear_what_others_joined_and_nothing_else(far: Namespace, eventually: Eventually) -> None:
    groups = igmp_groups()
    with TwinsWitness(question(), []) as twins:
        far.call(send_frames, "far0", frame(udp()))
        assert igmp_groups() == groups
        assert twins.take("before").heard == ()
        async with open_udp() as member, member.joined("en0", GROUP), running(twins):
            far.call(send_frames, "far0", frame(udp(ttl=9)), frame(udp()), frame(udp(source="198.18.0.9")))
            await eventually(lambda: sum(number for number, _ in twins._heard._found.values()) == 3)
            told = twins.take("before")
        assert twins.take("before").heard == ()
    assert told.refused is None
    assert set(told.heard) == {
        HeardFrom(IPv4Address(FAR), 7, 2, 9, GROUP),
        HeardFrom(IPv4Address("198.18.0.9"), 7, 1, 1, GROUP),
    }


async def test_a_twin_of_another_group_hears_the_port(far: Namespace, eventually: Eventually) -> None:
    with TwinsWitness(question(), [OTHER_GROUP, GROUP, OTHER_GROUP]) as twins:
        async with open_udp() as member, member.joined("en0", OTHER_GROUP), running(twins):
            far.call(send_frames, "far0", frame(udp(group=OTHER_GROUP)), frame(udp(group=OTHER_GROUP, port=5001)))
            await eventually(lambda: twins._heard._found)
            assert heard(twins.take("before").heard) == {(str(OTHER_GROUP), FAR, 7): 1}


async def test_a_twin_takes_no_datagram_from_a_program(far: Namespace) -> None:
    async with open_udp(port=PORT, share_port=True) as program, program.joined("en0", GROUP):
        with TwinsWitness(question(), [GROUP]) as twins:
            far.call(send_frames, "far0", frame(udp(b"unicast", group=NEAR), to=NEAR_MAC), frame(udp(b"group")))
            with trio.fail_after(10):
                assert {(await program.receive()).payload for _ in "12"} == {b"unicast", b"group"}
            assert heard(twins.take("before").heard) == {(str(GROUP), FAR, 7): 1}


async def test_a_twin_that_can_t_be_bound_says_why(far: Namespace) -> None:
    async with open_udp(GROUP, PORT, bind_group=True) as alone:
        alone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        with TwinsWitness(question(), [OTHER_GROUP]) as twins:
            assert list(twins._twins) == [OTHER_GROUP]
            assert twins.take("before").refused == "EADDRINUSE"


def test_there_are_64_twins_at_most(far: Namespace) -> None:
    with TwinsWitness(question(), [GROUP + number for number in range(100)]) as twins:
        assert len(twins._twins) == 64
        assert GROUP in twins._twins


@pytest.fixture
def second(far: Namespace, wait_until: WaitUntil) -> Iterator[None]:
    """A second cable, from "en1"."""
    ip(f"link add en1 index 8 type veth peer name far1 netns {far.path}", "link set en1 up")
    ip("address add 198.18.1.2/24 dev en1")
    far.call(ip, "link set far1 up")
    for name in ("all", "en1"):
        set_sysctl(f"{name}/rp_filter", 0)
    wait_until(lambda: state_of("en1")["operstate"] == "UP")
    return iter([None])


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("is_bridged", [False, True])
async def test_copies_by_two_interfaces_are_told_unless_one_is_the_other_s_port(
    far: Namespace, eventually: Eventually, is_bridged: bool
) -> None:
    known = Links(links=(Link(7, "en0", True, True, master=8 if is_bridged else None), Link(8, "en1", True, True)))
    with TwinsWitness(question(), [], known) as twins:
        async with open_udp() as member, member.joined("en0", GROUP), member.joined("en1", GROUP), running(twins):
            for number in range(5):
                each = frame(udp(b"%d" % number))
                far.call(send_frames, "far0", each)
                far.call(send_frames, "far1", each)
            await eventually(lambda: sum(number for number, _ in twins._heard._found.values()) == 10)
            told = twins.take("before")
    assert told.duplicated == (() if is_bridged else (Duplicated((7, 8), 5, GROUP),))


async def test_copies_by_one_interface_are_told_but_not_what_a_sender_repeats(
    far: Namespace, eventually: Eventually
) -> None:
    with TwinsWitness(question(), []) as twins:
        async with open_udp() as member, member.joined("en0", GROUP), running(twins):
            twice = [frame(udp(b"%d" % number)) for number in range(3) for _ in "12"]
            far.call(send_frames, "far0", *twice, *[frame(udp(b"alive"))] * 20)
            await eventually(lambda: sum(number for number, _ in twins._heard._found.values()) == 26)
            told = twins.take("before")
    assert told.duplicated == (Duplicated((7,), 3, GROUP),)


# A receiver of our own


async def hear(
    far: Namespace,
    eventually: Eventually,
    asked: Question,
    *every: bytes,
    until: Callable[[OwnReceiverWitness], object],
) -> OwnReceiver:
    async with OwnReceiverWitness(asked, members_before=False) as receiver, running(receiver):
        far.call(send_frames, "far0", *every)
        await eventually(lambda: until(receiver))
        return receiver.take("joined")


def raw_heard(number: int) -> Callable[[OwnReceiverWitness], object]:
    return lambda receiver: receiver._datagrams == number


@pytest.mark.parametrize(("size", "drops"), [(68, 0), (69, 1)])
async def test_the_receiver_hears_what_is_right_and_the_raw_socket_what_udp_drops(
    far: Namespace, eventually: Eventually, size: int, drops: int
) -> None:
    sent = [frame(udp()), frame(udp(ttl=7)), frame(udp(bytes(size), bad_udp=True)), frame(udp(port=5001))]
    told = await hear(far, eventually, question(), *sent, until=raw_heard(3))
    assert told.heard == (HeardFrom(IPv4Address(FAR), 7, 2, 7, GROUP),)
    assert (told.raw, told.refused, told.refused_what, told.members_before) == (3, None, None, False)
    # Linux checks up to 76 octets, with the header, on arrival (CHECKSUM_BREAK, linux/skbuff.h). More it checks when it
    # is read, and counts as dropped by the socket.
    assert told.drops == drops
    assert (7, GROUP) not in igmp_groups()


async def test_a_copy_of_what_this_host_sends_tells_the_sender_s_ttl(far: Namespace, eventually: Eventually) -> None:
    async with OwnReceiverWitness(question()) as receiver, running(receiver), open_udp() as sender:
        sender.multicast_interface, sender.multicast_ttl = "en0", 0
        await sender.send_to(b"mine", (str(GROUP), PORT))
        await eventually(lambda: receiver._heard._found)
        assert receiver.take("joined").heard == (HeardFrom(IPv4Address(NEAR), 7, 1, 0, GROUP),)


async def test_the_receiver_with_a_source_hears_only_that_one(far: Namespace, eventually: Eventually) -> None:
    asked = question(group=SPECIFIC, source=IPv4Address(FAR))
    sent = [frame(udp(group=SPECIFIC, source="198.18.0.9")), frame(udp(group=SPECIFIC))]
    told = await hear(far, eventually, asked, *sent, until=raw_heard(1))
    assert heard(told.heard) == {(str(SPECIFIC), FAR, 7): 1}


async def test_no_warning_of_the_library_gets_out(far: Namespace, eventually: Eventually) -> None:
    # Warnings are errors here.
    told = await hear(far, eventually, question(group=SPECIFIC), frame(udp(group=SPECIFIC)), until=raw_heard(1))
    assert heard(told.heard) == {(str(SPECIFIC), FAR, 7): 1}


async def test_a_receiver_whose_port_is_taken_joins_all_the_same(far: Namespace, eventually: Eventually) -> None:
    async with open_udp(port=PORT):
        async with OwnReceiverWitness(question()) as receiver, running(receiver):
            assert igmp_groups()[7, GROUP] == 2
            far.call(send_frames, "far0", frame(udp()))
            await eventually(lambda: receiver._datagrams)
            told = receiver.take("joined")
        with without(NET_RAW):
            async with OwnReceiverWitness(question()) as receiver, running(receiver):
                assert igmp_groups()[7, GROUP] == 1
                assert receiver.take("joined").raw is None
    assert (told.refused, told.refused_what, told.heard, told.raw) == ("EADDRINUSE", "bind", (), 1)
    assert (7, GROUP) not in igmp_groups()


async def test_a_receiver_that_can_t_join_says_why(far: Namespace) -> None:
    async with OwnReceiverWitness(question(ifindex=99)) as receiver, running(receiver):
        told = receiver.take("joined")
    assert (told.refused, told.refused_what, told.heard, told.raw) == ("ENODEV", "join", (), None)


async def test_without_the_privilege_there_is_no_raw_socket(far: Namespace, eventually: Eventually) -> None:
    async with contextlib.AsyncExitStack() as stack:
        with without(NET_RAW):
            receiver = await stack.enter_async_context(OwnReceiverWitness(question()))
        await stack.enter_async_context(running(receiver))
        far.call(send_frames, "far0", frame(udp()))
        await eventually(lambda: receiver._heard._found)
        told = receiver.take("joined")
    assert (told.raw, heard(told.heard)) == (None, {(str(GROUP), FAR, 7): 1})


async def test_the_receiver_counts_what_its_buffer_can_t_hold(far: Namespace) -> None:
    sent = 5000
    async with OwnReceiverWitness(question()) as receiver:
        far.call(send_frames, "far0", *[frame(udp())] * sent)
        told, again = receiver.take("joined"), receiver.take("joined")
    (found,) = told.heard
    assert told.drops > 0
    assert found.number + told.drops == sent
    assert (again.drops, again.heard, again.raw) == (0, (), 0)


# The test join


async def test_the_report_of_a_fresh_group_leaves(far: Namespace, eventually: Eventually) -> None:
    before = igmp_groups()
    with wire() as witness:
        async with running(witness):
            far.call(send_frames, "far0", frame(packet(IGMPv2Report(GROUP), FAR, dst=str(GROUP))))
            await eventually(witness.messages)
            told = await fresh_join.look(7, wire=witness)
    assert (told.phase, told.refused, told.version) == ("test_join", None, 3)
    assert told.on_wire == told.sent == told.requests >= 2
    assert igmp_groups() == before


async def test_a_rule_that_drops_reports_shows_in_the_counters(far: Namespace) -> None:
    nft(NO_REPORTS)
    with wire() as witness:
        told = await fresh_join.look(7, wire=witness)
    plain = await fresh_join.look(7, wire=None)
    assert (told.on_wire, told.sent, told.version) == (0, 0, None)
    assert told.requests >= 2
    assert (plain.on_wire, plain.sent, plain.version) == (None, 0, None)


async def test_a_forced_version_shows_in_the_report(far: Namespace) -> None:
    set_sysctl("en0/force_igmp_version", 2)
    with wire() as witness:
        told = await fresh_join.look(7, wire=witness)
    assert told.version == 2
    assert told.on_wire


async def test_a_join_that_is_refused_says_why() -> None:
    assert (await fresh_join.look(99, wire=None)).refused == "ENODEV"


# Probes


def members(**changes: Any) -> Memberships:
    return attrs.evolve(Memberships(members=(Member(7, GROUP, 1),), versions={"7": 3}), **changes)


EN0 = Links(links=(Link(7, "en0", True, True),))


class Switch:
    """The far end: it forwards the group when it hears a report of it."""

    def __init__(self, far: Namespace, number: int) -> None:
        self._far, self._number = far, number
        self._own = far.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._own.setblocking(False)
        self.reports: list[Any] = []
        self.packets: list[bytes] = []
        self.stations: list[bytes] = []

    async def run(self) -> None:
        with self._own as own:
            while True:
                await trio.lowlevel.wait_readable(own)
                content, (_, _, kind, *_) = own.recvfrom(65535)
                if content[23] == 2 and kind != OUTGOING:
                    self._hear(content[:6], content[14:])

    def _hear(self, station: bytes, content: bytes) -> None:
        message: Any = parse_igmp(content[4 * (content[0] & 15) :])
        groups = [each.group for each in message.records] if isinstance(message, IGMPv3Report) else [message.group]
        if GROUP in groups:
            self.reports.append(message)
            self.packets.append(content)
            self.stations.append(station)
            self._far.call(send_frames, "far0", *[frame(udp())] * self._number)


async def test_after_a_report_the_group_comes(far: Namespace, tmp_path: Path) -> None:
    switch = Switch(far, 5)
    with wire() as witness:
        async with running(witness, switch):
            told = await probe.report(question(), members(), EN0, witness)
    assert (told.phase, told.revived, told.revived_by_frame, told.refused) == ("probe", 5, None, None)
    assert switch.reports == [IGMPv3Report([GroupRecord(GroupRecordType.MODE_IS_EXCLUDE, GROUP)])]
    (sent,) = switch.packets
    # RFC 9776 section 4: TTL 1, TOS 0xc0, Router Alert; to 224.0.0.22 (section 4.2.14); from the interface.
    assert (sent[8], sent[1], sent[20:24]) == (1, 0xC0, bytes([0x94, 4, 0, 0]))
    assert (sent[12:16], sent[16:20]) == (IPv4Address(NEAR).packed, IPv4Address("224.0.0.22").packed)


async def test_past_the_firewall_a_frame_brings_the_group(far: Namespace) -> None:
    nft(NO_REPORTS)
    switch = Switch(far, 4)
    with wire() as witness:
        async with running(witness, switch):
            told = await probe.report(question(), members(), EN0, witness)
    assert (told.revived, told.revived_by_frame, told.refused) == (0, 4, "EPERM")
    assert switch.stations == [bytes.fromhex("01005e000016")]  # RFC 1112 section 6.4, of 224.0.0.22.


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (members(versions={"7": 2}), IGMPv2Report(GROUP)),
        (members(versions={"7": 1}), IGMPv1Report(GROUP)),
        (
            members(sources=(SourceCount(7, IPv4Address(FAR), 1, 0), SourceCount(8, IPv4Address(NEAR), 1, 0))),
            IGMPv3Report([GroupRecord(GroupRecordType.MODE_IS_INCLUDE, GROUP, [FAR])]),
        ),
        (
            members(sources=(SourceCount(7, IPv4Address(FAR), 0, 1),)),
            IGMPv3Report([GroupRecord(GroupRecordType.MODE_IS_EXCLUDE, GROUP, [FAR])]),
        ),
    ],
)
async def test_the_report_says_what_is_true(far: Namespace, there: Memberships, expected: Any) -> None:
    switch = Switch(far, 1)
    with wire() as witness:
        async with running(witness, switch):
            told = await probe.report(question(), there, EN0, witness)
    assert told.revived == 1
    assert switch.reports == [expected]


async def test_a_report_that_is_not_true_is_not_sent(far: Namespace) -> None:
    with wire() as witness, pytest.raises(ValueError, match=r"en0 is no member of 239\.1\.2\.3"):
        await probe.report(question(), members(members=(Member(8, GROUP, 1),)), EN0, witness)


async def test_a_host_that_is_alive_refuses_the_datagram(far: Namespace) -> None:
    told = await probe.unicast(IPv4Address(FAR), None)
    assert (told.answer, told.hop, told.neighbour) == ("ECONNREFUSED", IPv4Address(FAR), "reachable")


async def test_a_host_that_is_not_there_has_no_neighbour_entry(far: Namespace) -> None:
    await probe.unicast(IPv4Address(FAR), None)  # Another neighbour is there.
    told = await probe.unicast(IPv4Address("198.18.0.77"), None)
    assert told.answer in {None, "EHOSTUNREACH"}
    assert told.neighbour in {"incomplete", "failed"}


async def test_the_state_is_that_of_the_router_on_the_way(far: Namespace) -> None:
    ip(f"route add 198.18.9.0/24 via {FAR}")
    far.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
    told = await probe.unicast(IPv4Address("198.18.9.1"), IPv4Address(FAR))
    # The router has no route to it.
    assert (told.answer, told.hop, told.neighbour) == ("ENETUNREACH", IPv4Address(FAR), "reachable")


async def test_where_no_route_leads_the_kernel_says_so() -> None:
    assert (await probe.unicast(IPv4Address(FAR), None)).answer == "ENETUNREACH"
