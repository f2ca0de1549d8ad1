"""Drain: fill a receive buffer, then time the emptying, and nothing else."""

from __future__ import annotations

import functools
import socket
import struct
from typing import TYPE_CHECKING, Final

from contestants import DRAIN, Answer, Contestant, Failed, Peer, Programs
from turns import Plan, take_turns, udp_row

if TYPE_CHECKING:
    from report import Series

UDP_SEGMENT: Final = 103  # linux/udp.h
SEGMENTS: Final = 40
"""Segments to one send: 40 of 1,400 octets are just under 64 KiB (and 64 are the most that every kernel takes)."""


def run(programs: Programs, plan: Plan, missing: dict[str, str]) -> list[Series]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        measure = functools.partial(fill_and_drain, sender, plan.count)
        return take_turns(programs, DRAIN, "drain", plan, measure, missing)


def fill_and_drain(
    sender: socket.socket, count: int, contestant: Contestant, peer: Peer, payload: int, limit: int
) -> Answer:
    """Fill the queue of `peer`, have it emptied, and check what came."""
    before = udp_row(peer.port)
    fill(sender, peer.port, count, payload, segmented=contestant.offload)
    if before[0] or udp_row(peer.port)[1] != before[1]:
        raise Failed("the receive buffer was not empty, or too small")
    answer = peer.do("drain", count, limit)
    if (answer.count, answer.length) != (count, payload):
        raise Failed(f"got {answer.count} datagrams, the last of {answer.length} octets")
    # Of what other contestants do not hand over there is nothing to compare.
    if contestant.shows_control and (answer.ttl, answer.ifindex) != (64, 1):
        raise Failed(f"the last came with TTL {answer.ttl} on interface {answer.ifindex}")
    return answer


def fill(sender: socket.socket, port: int, count: int, payload: int, *, segmented: bool) -> None:
    to = ("127.0.0.1", port)
    data = b"x" * payload
    if not segmented:
        for _ in range(count):
            sender.sendto(data, to)
        return
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", payload))]
    for start in range(0, count, SEGMENTS):
        sender.sendmsg([data * min(SEGMENTS, count - start)], control, 0, to)
