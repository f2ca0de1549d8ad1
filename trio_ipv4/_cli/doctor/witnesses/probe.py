"""Probes: a report of our own that this host is a member, and a datagram to the source. Both send.

The report tells a switch that has forgotten this host. If the group comes then, that was the fault. It says nothing
but what is true. Privilege: CAP_NET_RAW. What it disturbs: the group comes for up to 260 seconds (RFC 9776 section
8.4), as it should; so it is sent only if the user wants it.

The datagram is empty, and goes to the source's discard port (RFC 863). A host that is alive refuses it. Privilege:
none. What it disturbs: an ICMP error comes back, and the next hop is in the neighbour table.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_ipv4 import (
    ControlMessage,
    GroupRecord,
    GroupRecordType,
    Header,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    RawDatagram,
    open_raw,
)
from trio_ipv4._cli.doctor.evidence import OwnReport, Unicast
from trio_ipv4._cli.doctor.witnesses.frames import IGMP
from trio_ipv4._cli.merge import merge
from trio_ipv4._cli.netlink import DUMP, ask, split_attributes
from trio_ipv4._cli.packet_socket import ETH_P_IP

if TYPE_CHECKING:
    from trio_ipv4._cli.doctor.evidence import Link, Links, Memberships, Question
    from trio_ipv4._cli.doctor.witnesses.wire import WireWitness

_REPORTS: Final = IPv4Address("224.0.0.22")  # RFC 9776 section 4.2.14
_ROUTER_ALERT: Final = bytes([0x94, 4, 0, 0])  # RFC 2113
_TOS: Final = 0xC0  # RFC 9776 section 4: internetwork control.
_LONG_ENOUGH: Final = 1.0
"""In seconds: a switch forwards at once what it was asked for."""
_DISCARD: Final = 9  # RFC 863
_IP_RECVERR: Final = 11  # linux/in.h; Python has it since 3.14.
_RTM_GETNEIGH: Final = 30  # linux/rtnetlink.h
_NDA_DST: Final = 1  # linux/neighbour.h, as what follows
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_STATES: Final = {
    # The best first.
    0x02: "reachable",
    0x80: "permanent",
    0x40: "noarp",
    0x08: "delay",
    0x10: "probe",
    0x04: "stale",
    0x01: "incomplete",
    0x20: "failed",
    0x00: "none",
}


async def report(question: Question, members: Memberships, links: Links, wire: WireWitness) -> OwnReport:
    """Say that this host is a member, and look for a second whether the group comes.

    If it does not, say it again by a frame that passes this host's firewall.

    Args:
        question: What was asked.
        members: The memberships, as they are now. The interface is a member of the group.
        links: The interfaces.
        wire: What hears the wire. It keeps what it hears.

    Raises:
        PermissionError: CAP_NET_RAW is missing.
        ValueError: The interface is no member: the report would not be true.
    """
    (link,) = (each for each in links.links if each.index == question.ifindex)
    packet = _make_packet(question, members, link)
    before = wire.arrived(link.index)
    refused = await _send(packet, link)
    await trio.sleep(_LONG_ENOUGH)
    revived, by_frame = wire.arrived(link.index) - before, None
    if not revived:
        with contextlib.suppress(OSError):
            _send_frame(packet, link)
            await trio.sleep(_LONG_ENOUGH)
            by_frame = wire.arrived(link.index) - before
    return OwnReport(phase="probe", revived=revived, revived_by_frame=by_frame, refused=refused)


def _make_packet(question: Question, members: Memberships, link: Link) -> RawDatagram:
    """Return the report: what the kernel itself answers to a query."""
    group = question.group
    users = sum(each.users for each in members.members if (each.ifindex, each.group) == (link.index, group))
    if not users:
        raise ValueError(f"{link.name} is no member of {group}: a report would not be true")
    version = members.versions.get(str(link.index), 3)
    if version < 3:
        message, to = (IGMPv1Report, IGMPv2Report)[version == 2](group).marshal(), group
    else:
        message, to = IGMPv3Report([_make_record(group, users, members, link)]).marshal(), _REPORTS
    header = Header(
        src=link.addresses[0].ip if link.addresses else "0.0.0.0",
        dst=to,
        ttl=1,
        tos=_TOS,
        id=secrets.randbelow(0xFFFF) + 1,
        protocol=IGMP,
        options=_ROUTER_ALERT,
    )
    total = header.header_len + len(message)
    return RawDatagram(attrs.evolve(header, total_len=total).with_checksum(), message)


def _make_record(group: IPv4Address, users: int, members: Memberships, link: Link) -> GroupRecord:
    counts = {each.source: (each.including, each.excluding) for each in members.sources if each.ifindex == link.index}
    heard = merge(users, counts).filter
    kind = GroupRecordType.MODE_IS_INCLUDE if heard.mode == "include" else GroupRecordType.MODE_IS_EXCLUDE
    return GroupRecord(kind, group, sorted(heard.sources))


async def _send(packet: RawDatagram, link: Link) -> str | None:
    """Send a packet by a raw socket, and return the errno if the kernel refused."""
    async with open_raw(IGMP) as conn:
        conn.multicast_loopback = False
        request = attrs.evolve(packet, control=ControlMessage(ifindex=link.index))
        try:
            await conn.send(request)
        except OSError as error:
            return _name(error)
    return None


def _send_frame(packet: RawDatagram, link: Link) -> None:
    """Send a packet below IP, and so below the firewall. The kernel writes the link's header, if it has one.

    Raises:
        OSError: The kernel refused.
    """
    group = int(packet.header.dst) & 0x7F_FFFF
    station = (0x0100_5E00_0000 | group).to_bytes(6, "big")  # RFC 1112 section 6.4
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as own:
        own.settimeout(0)
        own.sendto(packet.header.marshal() + packet.payload, (link.name, ETH_P_IP, 0, 0, station))


async def unicast(source: IPv4Address, hop: IPv4Address | None) -> Unicast:
    """Knock at the source, and look whether the next hop is there.

    Args:
        source: Where to knock.
        hop: The router on the way; `None`: the source is on this link.
    """
    answer = await _knock(source)
    return Unicast(phase="probe", answer=answer, hop=hop or source, neighbour=_find_neighbour(hop or source))


async def _knock(source: IPv4Address) -> str | None:
    """Send an empty datagram, and return the errno that comes back within a second; `None`: no answer."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # Else only a refusal is told (ip(7)).
        try:
            with trio.move_on_after(_LONG_ENOUGH):
                await own.connect((str(source), _DISCARD))
                await own.send(b"")
                await own.recv(1)
        except OSError as error:
            return _name(error)
    return None


def _find_neighbour(hop: IPv4Address) -> str | None:
    """Return the state of a neighbour; the best, if several interfaces have one with that address."""
    found = set()
    with contextlib.suppress(OSError):
        for body in ask(socket.NETLINK_ROUTE, _RTM_GETNEIGH, DUMP, _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0)):
            if dict(split_attributes(body[_NEIGHBOUR.size :])).get(_NDA_DST) == hop.packed:
                found.add(_NEIGHBOUR.unpack_from(body)[2])
    return next((name for state, name in _STATES.items() if state in found), None)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
