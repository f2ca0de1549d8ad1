"""Rules that drop, or may drop, what is looked for: of firewalls, of traffic control, of IPsec, of bridges.

It runs the programs that show them (nft, iptables-save, tc, ip), and changes nothing. Firewalls and IPsec need
CAP_NET_ADMIN. It is generous: a rule is told that may match. One that surely does not, is not: another group, another
port, another protocol, another interface; and one behind a rule that surely accepts.
"""

# From the top:
#
#   nft, iptables, tc, ipsec, bridges
#                     one for each kind
#   facts             what nftables' expressions say of a packet
#   chains            which rules of a firewall a packet comes by
#   packets           what is looked for
#   tools             runs a program

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from trio_ipv4._cli.doctor.evidence import Bridges, Rules
from trio_ipv4._cli.doctor.witnesses.rules import bridges, ipsec, iptables, nft, tc
from trio_ipv4._cli.doctor.witnesses.rules.packets import packets_of
from trio_ipv4._cli.doctor.witnesses.rules.tools import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._cli.doctor.evidence import Link, Links, Question, Rule


def look(question: Question, links: Links) -> tuple[Rules, Bridges]:
    """Look for the rules that may drop what was asked about.

    Args:
        question: What was asked.
        links: The interfaces of this network namespace.
    """
    packets, near = packets_of(question), _near(question, links)
    named = [link.name for link in near]
    devices = named if question.ifindex is not None else None
    bridged = any("bridge" in {link.kind, link.port_kind} for link in near)
    told: list[Bridges] = []

    def look_at_bridges() -> list[Rule]:
        found, rules = bridges.look(named)
        told.append(Bridges(found, phase="after"))
        return rules

    looks: dict[str, Callable[[], list[Rule]]] = {
        "nftables": lambda: nft.look(packets, devices, bridged=bridged),
        "iptables": lambda: iptables.look(packets),
        "tc": lambda: tc.look(named, packets),
        "ipsec": lambda: ipsec.look(packets),
        "bridge": look_at_bridges,
    }
    if not question.privileges.net_admin:
        for kind in ("nftables", "iptables", "ipsec"):
            del looks[kind]
    found: dict[str, list[Rule]] = {}
    for kind, look_at in looks.items():
        with contextlib.suppress(ToolError, OSError):
            found[kind] = look_at()
    rules = sorted((rule for each in found.values() for rule in each), key=_order)
    return Rules(tuple(rules), tuple(found), phase="after"), told[0] if told else Bridges(phase="after")


def _order(rule: Rule) -> tuple[bool, bool]:
    """What certainly drops comes first; what counts, and has counted nothing so far, comes last."""
    return not rule.certain, rule.counted == 0


def _near(question: Question, links: Links) -> list[Link]:
    """Return the interface and the devices below it: what a packet comes by until IP sees it; or all, if none is known.

    Below a bridge, and whatever else has ports, are its ports.
    """
    there = {link.index: link for link in links.links}
    if question.ifindex not in there:
        return list(links.links)
    found = [question.ifindex]
    for index in found:  # It grows meanwhile.
        below = [port.index for port in links.links if port.master == index]
        if (lower := there[index].lower) in there:
            below.append(lower)
        found += [each for each in below if each not in found]
    return [there[index] for index in found]
