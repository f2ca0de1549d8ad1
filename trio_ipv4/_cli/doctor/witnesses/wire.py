"""The wire: multicast and IGMP on every interface, as packet sockets hear them (packet(7)).

What it sees: frames after XDP, and before tc, nftables, bridges, VLANs and IP. A BPF program in the kernel lets only
multicast IPv4 and IGMP through, also behind a VLAN tag, and whatever the hardware address is. A second socket hears IP
alone: what this host's ingress rules have left. So the difference is what they took away.

Privilege: CAP_NET_RAW. What it disturbs: nothing. It never sets an interface to promiscuous mode, which would cure a
fault that should be found. On a flood it costs time; then frames are lost, and counted.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import attrs
import trio

from trio_ipv4 import (
    IGMPLeave,
    IGMPMessage,
    IGMPQuery,
    IGMPv1Report,
    IGMPv2Report,
    IGMPv3Report,
    ParseError,
    RawInstruction,
    parse_igmp,
)
from trio_ipv4._cli.doctor.evidence import IGMP, Flow, IGMPSeen, Phase, Question, Wire
from trio_ipv4._cli.doctor.witnesses import frames
from trio_ipv4._cli.doctor.witnesses.fragments import Fragments
from trio_ipv4._cli.packet_socket import (
    ANCILLARY,
    ETH_P_ALL,
    ETH_P_IP,
    ETHERNET,
    LOOPBACK,
    NOTHING,
    OTHER_HOST,
    OUTGOING,
    SOL_PACKET,
    Receiver,
    open_packet_socket,
    take_dropped,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from typing import Self

    from trio_ipv4._cli.doctor.witnesses.frames import Frame, Packet

Count: TypeAlias = dict[Flow, int]

_PORTION: Final = 64
"""So many frames are looked at before other tasks run."""
_QUEUED: Final = 16_384
"""More frames than the socket's buffer of 8 MiB holds: one takes 768 octets at least (SKB_TRUESIZE, linux/skbuff.h)."""
_LONGEST: Final = 65_536 + 64
"""In octets: the longest IP packet, and the link's header with its tags."""
_MOST_FLOWS: Final = 4096
"""Kinds of datagrams that are kept apart; anybody can forge more. Others are counted with the dropped frames."""
_MOST_OF_OTHERS: Final = 3072
"""So many of them may belong to other groups."""
_MOST_MESSAGES: Final = 4096
_NETWORK: Final = 0xFFF0_0000
"""SKF_NET_OFF (linux/filter.h): loads from here on read from the network's header on."""
_KIND: Final = ANCILLARY + 4  # SKF_AD_PKTTYPE, linux/filter.h
_LINK: Final = ANCILLARY + 28  # SKF_AD_HATYPE
_MULTICAST: Final = (
    # X: where the IP header begins. A program's own offsets reach all of a frame, the network's not every driver's.
    RawInstruction(0x01, 0, 0, _NETWORK),  # ldx
    RawInstruction(0x28, 0, 0, _LINK),  # ldh
    RawInstruction(0x15, 1, 0, ETHERNET),  # jeq
    RawInstruction(0x15, 0, 1, LOOPBACK),
    RawInstruction(0x01, 0, 0, 14),
    RawInstruction(0x28, 0, 0, ANCILLARY),  # ldh: SKF_AD_PROTOCOL
    RawInstruction(0x15, 7, 0, ETH_P_IP),
    RawInstruction(0x15, 1, 0, 0x8100),  # ETH_P_8021Q, linux/if_ether.h
    RawInstruction(0x15, 0, 11, 0x88A8),  # ETH_P_8021AD
    RawInstruction(0x48, 0, 0, 2),  # ldh [x + 2]: what is behind the tag
    RawInstruction(0x15, 0, 9, ETH_P_IP),
    RawInstruction(0x87, 0, 0, 0),  # txa
    RawInstruction(0x04, 0, 0, 4),  # add: the tag's length
    RawInstruction(0x07, 0, 0, 0),  # tax
    RawInstruction(0x50, 0, 0, 9),  # ldb [x + 9]: the protocol (RFC 791 section 3.1)
    RawInstruction(0x15, 3, 0, frames.IGMP),
    RawInstruction(0x50, 0, 0, 16),  # ldb [x + 16]: the destination's first octet
    RawInstruction(0x54, 0, 0, 0xF0),  # and
    RawInstruction(0x15, 0, 1, 0xE0),  # RFC 1112 section 4: 224 to 239
    RawInstruction(0x06, 0, 0, _LONGEST),  # ret: the frame
    *NOTHING,
)


def _marshal_passed(group: IPv4Address, port: int) -> tuple[RawInstruction, ...]:
    """Return the program that lets datagrams to a group and a port through, if they are for this host. They are cut."""
    return (
        RawInstruction(0x28, 0, 0, _KIND),  # ldh
        RawInstruction(0x15, 9, 0, OTHER_HOST),  # jeq. Nothing outgoing comes here: that needs ETH_P_ALL.
        RawInstruction(0x30, 0, 0, 9),  # ldb [9]: the protocol
        RawInstruction(0x15, 0, 7, frames.UDP),
        RawInstruction(0x20, 0, 0, 16),  # ld [16]: the destination
        RawInstruction(0x15, 0, 5, int(group)),
        RawInstruction(0x28, 0, 0, 6),  # ldh [6]: the fragment's offset
        RawInstruction(0x45, 3, 0, 0x1FFF),  # jset: a later fragment
        RawInstruction(0xB1, 0, 0, 0),  # ldx 4 * ([0] & 0xf): the header's length
        RawInstruction(0x48, 0, 0, 2),  # ldh [x + 2]: the port
        RawInstruction(0x15, 1, 0, port),
        *NOTHING,
        RawInstruction(0x06, 0, 0, 1),  # ret: an octet of it
    )


def open_wire(question: Question) -> WireWitness:
    """Open the packet sockets.

    Raises:
        PermissionError: CAP_NET_RAW is missing.
        UnsupportedError: This is not Linux.
    """
    with contextlib.ExitStack() as stack:
        every = stack.enter_context(open_packet_socket(socket.SOCK_RAW, ETH_P_ALL, _MULTICAST, _ask_for_more))
        program = _marshal_passed(question.group, question.port)
        passed = stack.enter_context(open_packet_socket(socket.SOCK_DGRAM, ETH_P_IP, program))
        witness = WireWitness(question.group, every, passed)
        stack.pop_all()
    return witness


def _ask_for_more(own: socket.socket) -> None:
    own.setsockopt(SOL_PACKET, frames.AUXILIARY, 1)


@final
class WireWitness:
    """Hears the wire. It is a context manager. Made by `open_wire`.

    Args:
        group: The group that was asked for.
        every: A packet socket that hears multicast and IGMP.
        passed: One that hears the group and the port, behind this host's ingress rules.
    """

    def __init__(self, group: IPv4Address, every: socket.socket, passed: socket.socket) -> None:
        self._group: Final = group
        self._every: Final = every
        self._passed: Final = passed
        self._fragments: Final = Fragments()
        room = socket.CMSG_SPACE(frames.AUXILIARY_DATA.size)
        self._receive_every: Final = Receiver(every, _LONGEST, room).receive
        self._receive_passed: Final = Receiver(passed, 1).receive
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._every.close()
        self._passed.close()

    async def run(self) -> None:
        """Hear until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, self._every, self._read_frame)
            nursery.start_soon(_hear, self._passed, self._read_passed)

    def take(self, phase: Phase) -> tuple[Wire, IGMP]:
        """Return what was seen since the last call, or since the beginning."""
        self._catch_up()
        now = time.monotonic()
        seconds = now - self._since
        whole, broken = self._fragments.take(now)
        wire = Wire(
            phase=phase,
            seconds=seconds,
            flows=tuple(attrs.evolve(flow, number=number) for flow, number in self._flows.items()),
            passed_ingress={str(index): number for index, number in self._counts.items()},
            whole=whole,
            broken=broken,
            dropped=self._unread + take_dropped(self._every) + take_dropped(self._passed),
        )
        igmp = IGMP(phase=phase, seconds=seconds, messages=tuple(self._messages))
        self._begin()
        return wire, igmp

    def arrived(self, ifindex: int) -> int:
        """Return how many datagrams of the group have come in by an interface since the last `take`, and take none."""
        self._catch_up()
        return sum(
            number
            for flow, number in self._flows.items()
            if flow.ifindex == ifindex
            and flow.destination == self._group
            and flow.direction != "out"
            and flow.fragment != "later"
        )

    def messages(self) -> tuple[IGMPSeen, ...]:
        """Return the IGMP messages since the last `take`, and take none."""
        self._catch_up()
        return tuple(self._messages)

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._flows: Count = {}
        self._of_others = self._unread = 0
        self._counts: dict[int, int] = {}
        self._messages: list[IGMPSeen] = []

    def _catch_up(self) -> None:
        """Read what is queued. On a flood more comes meanwhile: that is left for the next time."""
        _read(self._read_frame, _QUEUED)
        _read(self._read_passed, _QUEUED)

    def _read_passed(self) -> None:
        index = self._receive_passed().ifindex
        self._counts[index] = self._counts.get(index, 0) + 1

    def _read_frame(self) -> None:
        got = self._receive_every()
        if got.kind == OUTGOING and got.link == LOOPBACK:
            return  # What is sent on loopback comes back there.
        frame = frames.parse_frame(got.octets, got.control, got.protocol, got.kind, got.link)
        packet = frames.parse_packet(frame.octets) if frame else None
        if frame is None or packet is None:
            return
        if packet.protocol == frames.IGMP:
            self._note_message(got.ifindex, frame, packet)
        else:
            self._note_datagram(got.ifindex, frame, packet)

    def _note_datagram(self, index: int, frame: Frame, packet: Packet) -> None:
        is_asked_for = packet.destination == self._group
        faults: tuple[frames.Fault, ...] = ()
        if frame.direction != "out":
            faults = frames.judge_header(packet)
            if is_asked_for:
                faults += frames.judge_body(packet, is_summed=frame.is_summed)
                if packet.fragment:
                    self._fragments.add(packet, index, time.monotonic())
        flow = Flow(
            index,
            frame.direction,
            packet.source,
            packet.destination,
            packet.port,
            packet.ttl,
            0,
            packet.protocol,
            frame.vlan,
            packet.fragment,
            faults,
            frame.hardware_address,
        )
        self._count(flow, is_asked_for=is_asked_for)

    def _count(self, flow: Flow, *, is_asked_for: bool) -> None:
        if flow in self._flows:
            self._flows[flow] += 1
        elif len(self._flows) < _MOST_FLOWS and (is_asked_for or self._of_others < _MOST_OF_OTHERS):
            self._flows[flow] = 1
            self._of_others += not is_asked_for
        else:
            self._unread += 1

    def _note_message(self, index: int, frame: Frame, packet: Packet) -> None:
        if packet.fragment or len(self._messages) == _MOST_MESSAGES:
            return
        with contextlib.suppress(ParseError):
            message = parse_igmp(packet.body)
            if (told := _describe(message)) is not None:
                seconds, is_outgoing = time.monotonic() - self._since, frame.direction == "out"
                kind, version, groups = told
                self._messages.append(IGMPSeen(seconds, index, is_outgoing, kind, version, packet.source, groups))


def _describe(message: IGMPMessage) -> tuple[Any, int, tuple[IPv4Address, ...]] | None:
    """Return the kind, the version and the groups of a message; `None`, if it is of another protocol."""
    match message:
        case IGMPQuery():
            return "query", message.version, () if message.group is None else (message.group,)
        case IGMPv1Report():
            return "v1_report", 1, (message.group,)
        case IGMPv2Report():
            return "v2_report", 2, (message.group,)
        case IGMPLeave():
            return "leave", 2, (message.group,)
        case IGMPv3Report():
            return "v3_report", 3, tuple(record.group for record in message.records)
        case _:
            return None


async def _hear(own: socket.socket, read_one: Callable[[], object]) -> None:
    while True:
        await trio.lowlevel.wait_readable(own)
        _read(read_one, _PORTION)


def _read(read_one: Callable[[], object], most: int) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(most):
            read_one()
