"""Chains of rules, as nftables and iptables have them: which rules may drop a packet.

A packet goes through a chain rule by rule. A rule that surely accepts it ends the chain. One that may drop it is noted,
and the packet goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import attrs

from trio_ipv4._cli.doctor.evidence import Rule
from trio_ipv4._cli.doctor.witnesses.rules.packets import HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet

Does: TypeAlias = Literal["drop", "accept", "return", "jump", "goto"]
_DEEPEST: Final = 16
"""NFT_JUMP_STACK_SIZE (net/netfilter/nf_tables.h); so a ruleset that was read while it changed has an end, too."""


@attrs.frozen
class Verdict:
    """What a rule does with a packet, if it matches: yes, or it depends (`None`).

    Args:
        matches: Whether it does.
        does: What it does then.
        target: The chain that a jump leads to.
    """

    matches: bool | None
    does: Does
    target: str = ""


class ChainRule(Protocol):
    """A rule in a chain."""

    @property
    def text(self) -> str:
        """As its tool writes it."""
        raise NotImplementedError

    @property
    def remove(self) -> str:
        """The command that takes it away."""
        raise NotImplementedError

    @property
    def counted(self) -> int | None:
        """Packets that it counted."""

    def judge(self, packet: Packet, hook: str) -> Iterator[Verdict]:
        """Return what it may do with the packet; nothing, if it surely doesn't match."""
        raise NotImplementedError


@attrs.frozen
class Chain:
    """A chain.

    Args:
        rules: In their order.
        hook: Where packets come in; `None`: from other chains alone.
        priority: The chain with the lowest one comes first.
        policy: How the tool writes that it drops what comes to the end; `None`: it does not.
        accept: Makes the command that accepts a kind of packet before that.
        told_as: The hook under which it is told, if that is another.
    """

    rules: Sequence[ChainRule]
    hook: str | None = None
    priority: int = 0
    policy: str | None = None
    accept: Callable[[Packet], str] | None = None
    told_as: str | None = None


@attrs.define
class _Noted:
    """A rule, or a policy, that may drop packets, and which."""

    rule: Rule
    packets: list[Packet] = attrs.field(factory=list)
    certain: bool = False

    def finish(self) -> Rule:
        kinds = tuple(dict.fromkeys(packet.kind for packet in self.packets))
        return attrs.evolve(self.rule, matches=kinds, certain=self.certain)


def find_drops(
    kind: Literal["nftables", "iptables"], chains: Mapping[str, Chain], packets: Iterable[Packet]
) -> list[Rule]:
    """Return the rules and policies that may drop one of the packets.

    Args:
        kind: Whose the chains are.
        chains: By their names.
        packets: What is looked for.
    """
    walk = _Walk(kind, chains)
    bases = [chain for chain in chains.values() if chain.hook is not None]
    bases.sort(key=lambda chain: (HOOKS.index(chain.hook or ""), chain.priority))
    for base in bases:
        for packet in packets:
            if base.hook in packet.hooks:
                walk.enter(base, packet)
    return [noted.finish() for noted in walk.noted.values()]


class _Walk:
    def __init__(self, kind: Literal["nftables", "iptables"], chains: Mapping[str, Chain]) -> None:
        self._kind: Final = kind
        self._chains: Final = chains
        self.noted: Final[dict[tuple[object, ...], _Noted]] = {}

    def enter(self, base: Chain, packet: Packet) -> None:
        """Let a packet through a base chain."""
        if not self._go(base, packet, base, certain=True, depth=0) and base.policy is not None and base.accept:
            rule = Rule(self._kind, base.policy, base.told_as or base.hook, base.accept(packet))
            self._note((id(base), packet.kind), rule, packet, certain=True)

    def _go(self, chain: Chain, packet: Packet, base: Chain, *, certain: bool, depth: int) -> bool:
        """Return whether the packet surely doesn't come back from the chain."""
        for rule in chain.rules:
            for verdict in rule.judge(packet, base.hook or ""):
                sure = certain and verdict.matches is True
                ended = verdict.does in {"drop", "accept"}
                if verdict.does == "drop":
                    self._drop(rule, packet, base, certain=sure)
                elif verdict.does in {"jump", "goto"} and depth < _DEEPEST and verdict.target in self._chains:
                    target = self._chains[verdict.target]
                    ended = self._go(target, packet, base, certain=sure, depth=depth + 1)
                if verdict.matches is True and (ended or verdict.does in {"return", "goto"}):
                    return ended
        return False

    def _drop(self, rule: ChainRule, packet: Packet, base: Chain, *, certain: bool) -> None:
        told = Rule(self._kind, rule.text, base.told_as or base.hook, rule.remove, rule.counted)
        self._note((id(rule), base.hook), told, packet, certain=certain)

    def _note(self, key: tuple[object, ...], rule: Rule, packet: Packet, *, certain: bool) -> None:
        noted = self.noted.setdefault(key, _Noted(rule))
        noted.packets.append(packet)
        noted.certain |= certain
