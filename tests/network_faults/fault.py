"""What a fault is: the network, the programs, what is done to them, and what `doctor` should say.

A fault has two variants. The *healthy* one is the same network with the programs made right; the *faulty* one has
`before`, `after` and the faulty programs besides. Some faults are none: set-ups that look odd and are healthy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

Role: TypeAlias = Literal["receiver", "sender", "router"]
Hears: TypeAlias = Literal["nothing", "less", "more", "all"]
Step: TypeAlias = tuple[str, str]
"""A host, and a script for bash that is run in its network (`Network.run` says what the script finds there)."""
Steps: TypeAlias = tuple[Step, ...]

HEALTHY: Final = "healthy"
NOT_RUN: Final = "not run"
"""In place of a program's options: there is no such program."""


def on(host: str, *commands: str) -> Step:
    """Have a host carry out commands, until one fails."""
    return host, "\n".join(commands)


def nft(*commands: str) -> str:
    """Have nftables carry out commands, all of them or none."""
    return f"nft '{'; '.join(commands)}'"


@attrs.frozen(kw_only=True)
class Topology:
    """Hosts on switches. Host "a" has the address 198.18.N.1 on en<N>, at the switch of link N; "b" 198.18.N.2 ..."""

    hosts: Mapping[str, tuple[int, ...]] = attrs.field(factory=lambda: {"a": (0,), "b": (0,)})
    """Each host's links."""
    router: bool = False
    """A host "r" is on every link, 198.18.N.254, and forwards unicast."""
    querier: bool = True
    snooping: bool = True
    bridge: str = ""
    """More options of the switches, for `ip link add ... type bridge`."""


@attrs.frozen
class Beside:
    """Another program: one of this folder's modules."""

    name: str
    host: str
    module: str
    options: str = ""


@attrs.frozen(kw_only=True)
class Fault:
    """A row of the table."""

    name: str
    title: str
    codes: tuple[str, ...]
    """The verdicts that are right."""
    codes_without_pid: tuple[str, ...] = ()
    """Those that are right besides, where the program can't be asked."""

    # How doctor is called.
    where: str = "b"
    target: str = "239.1.2.3:5000"
    interface: str | None = "en0"
    source: str | None = None
    role: Role = "receiver"
    receiver_address: str | None = None
    pid: str | None = "receive"
    """The program whose pid doctor may be told: receive, transmit, or the name of one beside."""
    probe: bool = False

    # The network and the programs.
    topology: Topology = Topology()
    prepare: Steps = ()
    """In both variants, before the programs start."""
    receive_on: str = "b"
    transmit_on: str = "a"
    receive: str = ""
    """Options of receive.py."""
    transmit: str = ""
    beside: tuple[Beside, ...] = ()
    beside_healthy: tuple[Beside, ...] = ()

    # What is wrong.
    faulty_receive: str | None = None
    """`None`: it is as the right one."""
    faulty_transmit: str | None = None
    faulty_receive_on: str | None = None
    faulty_transmit_on: str | None = None
    in_filtered_group: bool = False
    """The receiver runs in a control group whose BPF program drops everything."""
    beside_faulty: tuple[Beside, ...] = ()
    before: Steps = ()
    """Before the programs start."""
    after: Steps = ()
    """After they have, and once the switch forwards groups to members only."""
    again: Steps = ()
    """Before each look at it, the first one too: what heals by itself."""
    settle: float = 0.2
    """Seconds until the fault shows."""
    between: float = 0.0
    """Seconds until another look may follow: what the last one revived has to age out."""

    # What is true of it, whatever doctor says (doctor_matrix.py --check).
    hears: Hears = "nothing"
    """How much the receiver gets of the datagrams that are sent."""
    sends: bool = True
    """The sender's calls succeed."""
    fails: bool = False
    """The receiver's bind or join fails."""
    cure: Steps = ()
    """What mends it. The programs that are wrong are started anew besides, made right."""
    restart: bool = False
    """The cure needs the receiver to be started anew, though it is right."""
