"""IPsec's policies that drop what comes unprotected: `ip xfrm policy`. Needs CAP_NET_ADMIN.

The policy with the lowest priority number that matches counts. One that blocks, drops; one with templates wants the
packet to have come through IPsec, and drops it if it did not.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.doctor.evidence import Rule
from trio_ipv4._cli.doctor.witnesses.rules.packets import all_of
from trio_ipv4._cli.doctor.witnesses.rules.tools import ToolError, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet

_DIRECTIONS: Final = {"input": "in", "forward": "fwd", "output": "out"}
"""Where policies are looked up, by the hook that is next to it."""


@attrs.frozen
class _Policy:
    """A policy.

    Args:
        selector: What it is about, as the tool shows it and takes it.
        marks: What else, as the tool takes it: a mark, an interface of IPsec's own.
        direction: in, out, or fwd.
        priority: The lowest one counts.
        drops: It drops what comes unprotected.
        text: All that the tool shows.
    """

    selector: str
    marks: str
    direction: str
    priority: int
    drops: bool
    text: str

    @property
    def remove(self) -> str:
        words = ("ip xfrm policy delete", self.selector, "dir", self.direction, self.marks)
        return " ".join(filter(None, words))

    def matches(self, packet: Packet) -> bool | None:
        """Tell whether it is about the packet."""
        words = dict(zip(*[iter(self.selector.split())] * 2, strict=False))
        return all_of([*_compare(words, packet, self.direction), None if self.marks else True])


def look(packets: Iterable[Packet]) -> list[Rule]:
    """Return the policies that may drop one of the packets.

    Raises:
        ToolError: The tool is missing, or refuses.
    """
    policies = sorted(_parse(run("ip", "xfrm", "policy")), key=lambda policy: policy.priority)
    defaults = _read_defaults()
    found: dict[str, Rule] = {}
    for packet in packets:
        for direction in [way for hook, way in _DIRECTIONS.items() if hook in packet.hooks]:
            for rule in _find(policies, defaults, packet, direction):
                before = found.setdefault(rule.text, rule)
                kinds = tuple(dict.fromkeys((*before.matches, *rule.matches)))
                found[rule.text] = attrs.evolve(before, matches=kinds, certain=before.certain or rule.certain)
    return list(found.values())


def _find(policies: Iterable[_Policy], defaults: str, packet: Packet, direction: str) -> Iterable[Rule]:
    for policy in policies:
        matches = policy.matches(packet) if policy.direction == direction else False
        if matches is not False and policy.drops:
            yield Rule("ipsec", policy.text, None, policy.remove, matches=(packet.kind,), certain=matches is True)
        if matches is True:
            return
    if re.search(rf"^\s*{direction}:\s*block", defaults, re.MULTILINE):
        text = f"Default policies: {direction}: block"
        remove = f"ip xfrm policy setdefault {direction} accept"
        yield Rule("ipsec", text, None, remove, matches=(packet.kind,), certain=True)


def _read_defaults() -> str:
    try:
        return run("ip", "xfrm", "policy", "getdefault")
    except ToolError:
        return ""  # An older kernel, or an older tool: there are none.


def _parse(output: str) -> Iterable[_Policy]:
    for block in re.split(r"^(?=src )", output, flags=re.MULTILINE):
        selector, _, rest = block.partition("\n")
        # "socket in": the policy of a single socket of somebody's.
        if not (match := re.search(r"^\s+dir (in|out|fwd) ", rest, re.MULTILINE)) or ":" in selector:
            continue
        priority = re.search(r" priority ([0-9]+)", rest)
        mark = re.search(r"^\s+mark (\w+)/(\w+)", rest, re.MULTILINE)
        own = re.search(r"^\s+if_id (\w+)", rest, re.MULTILINE)
        # A template that is optional (level use) lets unprotected packets pass.
        templates = len(re.findall(r"^\s+tmpl ", rest, re.MULTILINE)) - len(re.findall(r"\blevel use\b", rest))
        yield _Policy(
            selector.strip(),
            (f"mark {mark[1]} mask {mark[2]} " if mark else "") + (f"if_id {own[1]}" if own else ""),
            match[1],
            int(priority[1]) if priority else 0,
            " action block" in rest or templates > 0,
            " ".join(block.split()),
        )


def _compare(words: Mapping[str, str], packet: Packet, direction: str) -> Iterable[bool | None]:
    destinations = {address in IPv4Network(words["dst"], strict=False) for address in packet.destinations}
    yield destinations.pop() if len(destinations) == 1 else None
    sources = IPv4Network(words["src"], strict=False)
    yield True if sources.prefixlen == 0 else None if packet.source is None else packet.source in sources
    for word, value in words.items():
        if word == "proto":
            yield value.lower() in {packet.kind, str(packet.protocol)}
        elif word == "dport":
            yield packet.port is not None and int(value.split("/")[0], 0) == packet.port
        elif word == "dev":
            # The device of the packet's route: of what comes in for this host, that is the loopback (measured).
            yield value == "lo" if direction == "in" else None
        elif word not in {"src", "dst"}:
            yield None
