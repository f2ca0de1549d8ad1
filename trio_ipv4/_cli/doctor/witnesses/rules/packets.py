"""What is looked for, as a firewall sees it: packets of which some facts are known, and others are not.

A fact has a set of values that it may have; `None` is any. So a question about a fact has three answers: yes, no, and
`None`: it depends.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ipv4._cli.doctor.evidence import Question

Value: TypeAlias = "IPv4Address | str | int | tuple[Value, ...]"
Values: TypeAlias = "frozenset[Value] | None"
NEVER: Final[frozenset[Value]] = frozenset()
"""No packet of the kind has such a fact."""
INCOMING: Final = ("ingress", "prerouting", "input")
OUTGOING: Final = ("output", "postrouting", "egress")
HOOKS: Final = ("ingress", "prerouting", "input", "forward", "output", "postrouting", "egress")
"""In the order in which a packet comes by."""
_ALL_HOSTS: Final = IPv4Address("224.0.0.1")  # RFC 3376 section 4.1.12: general queries go there.
_ALL_ROUTERS: Final = IPv4Address("224.0.0.2")  # RFC 2236 section 3: IGMPv2's leaves.
_IGMPV3_ROUTERS: Final = IPv4Address("224.0.0.22")  # RFC 3376 section 4.2.14: IGMPv3's reports.


@attrs.frozen
class Packet:
    """Packets of one kind, on one way through this host.

    Args:
        kind: What a rule that drops them drops.
        hooks: Where they come by.
        destinations: Where they may go.
        source: Who sent them, if that is known.
        port: To which port they go; of UDP alone.
        interface: By which interface they come or go, if that is known.
    """

    kind: Literal["udp", "igmp"]
    hooks: tuple[str, ...]
    destinations: frozenset[IPv4Address]
    source: IPv4Address | None = None
    port: int | None = None
    interface: str | None = None

    @property
    def protocol(self) -> int:
        """Its number (linux/in.h)."""
        return socket.IPPROTO_UDP if self.kind == "udp" else socket.IPPROTO_IGMP


def packets_of(question: Question) -> tuple[Packet, ...]:
    """Return what must come through for the group to be received, sent or forwarded."""
    group, interface = question.group, question.interface
    ways = {"receiver": INCOMING, "sender": OUTGOING, "router": (*INCOMING, "forward", "postrouting", "egress")}
    source = None if question.role == "sender" else question.source
    return (
        Packet("udp", ways[question.role], frozenset({group}), source, question.port, interface),
        Packet("igmp", INCOMING, frozenset({_ALL_HOSTS, group}), interface=interface),
        Packet("igmp", OUTGOING, frozenset({_IGMPV3_ROUTERS, _ALL_ROUTERS, group}), interface=interface),
    )


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Return yes if one answer is yes, no if all are no, else `None`."""
    given = set(answers)
    return True if True in given else None if None in given else False


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Return no if one answer is no, yes if all are yes, else `None`."""
    given = set(answers)
    return False if False in given else None if None in given else True


def ask(values: Values, question: Callable[[Value], bool | None]) -> bool | None:
    """Ask the question of each value that a fact may have: yes or no if all agree, else `None`."""
    if values is None:
        return None
    answers = {question(value) for value in values}
    if not answers:
        return False
    return answers.pop() if len(answers) == 1 else None


def negate(answer: bool | None) -> bool | None:
    """Return the opposite."""
    return None if answer is None else not answer
