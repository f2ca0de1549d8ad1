"""Flow: a C program sends at a fixed pace; how much is lost, and what CPU time does a datagram cost?"""

from __future__ import annotations

import dataclasses
import functools
import socket
import time
from typing import TYPE_CHECKING, Final

from contestants import FLOOR, FLOW, Answer, Contestant, Failed, Peer, Programs
from turns import Plan, only, take_turns, udp_row

if TYPE_CHECKING:
    from report import Series

PAYLOAD: Final = 256
LIMIT: Final = 64
PATIENCE: Final = 10
"""Seconds for emptying the queue once everything was sent."""
NO_END: Final = 10**9


def run(programs: Programs, plan: Plan, missing: dict[str, str]) -> dict[int, list[Series]]:
    """Return what was measured by rate."""
    floor = next(one for one in FLOW if one.name == FLOOR)
    if reason := programs.missing(floor):
        missing["flow (its sender is the C program)"] = reason
        return {}
    sender = programs.start(floor, "send")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            return {
                rate: take_turns(
                    programs,
                    FLOW,
                    "flow",
                    only(plan, PAYLOAD, LIMIT),
                    functools.partial(flow, sender, stopper, rate, round(rate * plan.seconds)),
                    missing,
                )
                for rate in plan.rates
            }
    finally:
        sender.close()


def flow(
    sender: Peer, stopper: socket.socket, rate: int, count: int, contestant: Contestant, peer: Peer, _: int, limit: int
) -> Answer:
    """Have `count` datagrams sent at `rate` a second; the answer counts those that arrived."""
    peer.start("drain", NO_END, limit)
    paced = sender.do("pace", count, rate, PAYLOAD, "127.0.0.1", peer.port)
    if paced.wall_ns > 1.1e9 * count / rate + 5e6:
        raise Failed(f"the sender kept no pace: {paced.wall_ns / 1e9} s for {count} datagrams at {rate} a second")
    deadline = time.monotonic() + PATIENCE
    while udp_row(peer.port)[0]:
        if time.monotonic() > deadline:
            raise Failed("it stopped receiving")
        time.sleep(0.001)
    # The queue is empty, so this one arrives. It ends the work, and is not counted.
    stopper.sendto(b"x", ("127.0.0.1", peer.port))
    answer = peer.answer()
    return dataclasses.replace(answer, count=answer.count - 1, sent=count)
