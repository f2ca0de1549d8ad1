"""Send: to a sink that costs the sender's side little, a bridge without ports, which drops what it is given.

The datagrams go through the sender's socket, the routing and the neighbour table, and end in the bridge's transmit
function. (On loopback the sender would pay for the receiver's half too; a `dummy` interface would do as well, but not
every kernel has it.) A UDP_SEGMENT packet ends there in one piece, so that nobody pays for the cutting.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contestants import SEND, Answer, Contestant, Failed, Peer, Programs
from turns import Plan, take_turns

if TYPE_CHECKING:
    from report import Series

SINK: Final = "sink"
ADDRESS: Final = "10.99.0.2"
COMMANDS: Final = (
    f"link add {SINK} type bridge",
    f"link set {SINK} up",
    f"address add 10.99.0.1/24 dev {SINK}",
    f"neighbour add {ADDRESS} lladdr 02:00:00:00:00:02 dev {SINK} nud permanent",
)


def run(programs: Programs, plan: Plan, missing: dict[str, str]) -> list[Series]:
    for command in COMMANDS:
        subprocess.run(["ip", *command.split()], check=True)
    try:
        return take_turns(programs, SEND, "send", plan, functools.partial(send, plan.count), missing)
    finally:
        subprocess.run(["ip", "link", "delete", SINK], check=True)


def send(count: int, contestant: Contestant, peer: Peer, payload: int, limit: int) -> Answer:
    before = transmitted()
    answer = peer.do("send", count, limit, payload, ADDRESS, 9)
    sent = transmitted() - before
    # Ethernet, IP and UDP headers. A segmented packet is counted before it is cut, with one set of them.
    each = payload + 14 + 20 + 8
    if not (count * payload <= sent if contestant.offload else count * each <= sent):
        raise Failed(f"{sent} octets reached the sink instead of {count * each}")
    return answer


def transmitted() -> int:
    """How many octets the sink took."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.split()[0] == f"{SINK}:")
