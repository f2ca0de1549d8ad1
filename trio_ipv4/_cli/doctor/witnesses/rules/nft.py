"""Rules of nftables: `nft list ruleset`. Needs CAP_NET_ADMIN.

As JSON the rules can be read (libnftables-json(5)), and as text they can be shown. A rule's handle is in both.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_ipv4._cli.doctor.witnesses.rules.chains import Chain, Does, Verdict, find_drops
from trio_ipv4._cli.doctor.witnesses.rules.facts import Facts, Sets
from trio_ipv4._cli.doctor.witnesses.rules.packets import all_of, any_of
from trio_ipv4._cli.doctor.witnesses.rules.tools import ToolError, run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from trio_ipv4._cli.doctor.evidence import Rule
    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet

    Handle = tuple[str, str, int]
    """Of a chain or a rule: family, table and number."""

_FAMILIES: Final = {"ip", "inet", "netdev", "bridge"}
"""Those that see IPv4."""
_DOES: Final[dict[str, Does]] = {
    "drop": "drop",
    "reject": "drop",
    "queue": "drop",  # To a program, which decides.
    "fwd": "drop",  # It goes out by another interface.
    "accept": "accept",
    "return": "return",
    "jump": "jump",
    "goto": "goto",
}
_DEPENDS: Final = {"limit", "quota", "ct count", "set", "map", "meter", "xt", "last"}
"""Statements behind which a rule may end; "xt": a match of iptables."""
_BEFORE_IP: Final = {"prerouting": "ingress", "input": "ingress"}
"""The bridge's own hooks for what comes to this host: IP has not seen it there."""
_OPENED: Final = re.compile(r"\t?(table|chain|set|map|flowtable) (.*) \{ # handle ([0-9]+)")
_NUMBERED: Final = re.compile(r"\t\t(.*) # handle ([0-9]+)")


@attrs.frozen
class _Rule:
    """A rule."""

    family: str
    table: str
    chain: str
    handle: int
    expressions: tuple[Mapping[str, Any], ...]
    text: str
    sets: Sets

    @property
    def remove(self) -> str:
        return f"nft delete rule {self.family} {self.table} {self.chain} handle {self.handle}"

    @property
    def counted(self) -> int | None:
        for each in self.expressions:
            if isinstance(counter := each.get("counter"), dict):
                return int(counter["packets"])
        return None

    def judge(self, packet: Packet, hook: str) -> Iterator[Verdict]:
        """Compare the packet with its expressions, in their order."""
        facts = Facts(packet, hook, lambda name: self.sets.get(self.family, self.table, name))
        matches: bool | None = True
        for each in self.expressions:
            ((kind, fields), *_) = each.items()
            if kind == "match":
                matches = all_of([matches, facts.match(fields)])
            elif kind == "vmap":
                yield from _judge_map(fields, facts, matches)
            elif kind == "xt" and fields and fields.get("type") == "target":
                if fields.get("name") in {"DROP", "REJECT"}:
                    yield Verdict(matches, "drop")
            elif kind in _DOES:
                yield _verdict(each, matches)
            elif kind in _DEPENDS:
                matches = all_of([matches, None])
            if matches is False:
                return


def _judge_map(fields: Mapping[str, Any], facts: Facts, matches: bool | None) -> Iterator[Verdict]:
    data = fields["data"]
    elements, changing = facts.sets(data) if isinstance(data, str) else (data.get("set", []), False)
    values = facts.values(fields["key"])
    for key, does in elements:
        answer = None if values is None else any_of(facts.equals(value, key) for value in values)
        if answer is not False:
            is_sure = answer is True and not changing and len(values or ()) == 1
            yield _verdict(does, all_of([matches, True if is_sure else None]))


def _verdict(expression: Mapping[str, Any], matches: bool | None) -> Verdict:
    ((kind, fields), *_) = expression.items()
    target = fields.get("target", "") if isinstance(fields, dict) else ""
    return Verdict(matches, _DOES.get(kind, "accept"), target)


def look(packets: Collection[Packet], devices: Collection[str] | None, *, bridged: bool) -> list[Rule]:
    """Return the rules and policies that may drop one of the packets.

    Args:
        packets: What is looked for.
        devices: Those by which the packets come, from the lowest to the one where IP sees them. `None`: any.
        bridged: One of them is a bridge, or a bridge's port.

    Raises:
        ToolError: The tool is missing, or refuses.
    """
    try:
        objects = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    except (ValueError, KeyError):
        raise ToolError from None
    texts = _read_texts(run("nft", "-a", "list", "ruleset"))
    found = []
    for family, table in _tables(objects):
        if family != "bridge" or bridged:
            mine = [each for each in objects if _is_of(each, family, table)]
            found += find_drops("nftables", _read_chains(mine, texts, devices), packets)
    return found


def _tables(objects: list[dict[str, Any]]) -> list[tuple[str, str]]:
    tables = [each["table"] for each in objects if "table" in each]
    return [(each["family"], each["name"]) for each in tables if each["family"] in _FAMILIES]


def _is_of(each: dict[str, Any], family: str, table: str) -> bool:
    ((_, fields), *_) = each.items()
    return isinstance(fields, dict) and (fields.get("family"), fields.get("table")) == (family, table)


def _read_chains(
    objects: list[dict[str, Any]], texts: Mapping[Handle, str], devices: Collection[str] | None
) -> dict[str, Chain]:
    sets = Sets()
    rules: dict[str, list[_Rule]] = {}
    for each in objects:
        ((kind, fields), *_) = each.items()
        if kind in {"set", "map"}:
            sets.add(fields)
        elif kind == "rule":
            family, table, chain, handle = (fields[name] for name in ("family", "table", "chain", "handle"))
            text = texts.get((family, table, handle), f"handle {handle}")
            rule = _Rule(family, table, chain, handle, tuple(fields.get("expr", ())), text, sets)
            rules.setdefault(chain, []).append(rule)
    chains = [each["chain"] for each in objects if "chain" in each]
    return {each["name"]: _make(each, rules.get(each["name"], []), texts, devices) for each in chains}


def _make(
    fields: Mapping[str, Any], rules: list[_Rule], texts: Mapping[Handle, str], devices: Collection[str] | None
) -> Chain:
    family, table, name = fields["family"], fields["table"], fields["name"]
    told = texts.get((family, table, fields["handle"]), "")
    hook = fields.get("hook")
    here = devices is None or "device" not in told or not _named(told).isdisjoint(devices)
    dropping = f"chain {name} {{ {told} }}" if fields.get("policy") == "drop" else None
    return Chain(
        rules,
        hook if here else None,
        int(fields.get("prio", 0)),
        dropping,
        lambda packet: _accept(f"{family} {table} {name}", packet),
        _BEFORE_IP.get(str(hook)) if family == "bridge" else None,
    )


def _named(told: str) -> set[str]:
    """Return the devices in `device "en0"` or `devices = { en0, en1 }`. The JSON of nftables 1.0.6 lacks them."""
    match = re.search(r'devices? (?:= )?(?:"([^"]*)"|\{ ([^}]*) \})', told)
    return {name.strip(' "') for name in (match[1] or match[2] or "").split(",")} if match else set()


def _accept(chain: str, packet: Packet) -> str:
    what = "ip protocol igmp"
    if packet.kind == "udp":
        what = f"ip daddr {next(iter(packet.destinations))} udp dport {packet.port}"
    return f"nft insert rule {chain} {what} accept"


def _read_texts(output: str) -> dict[Handle, str]:
    """Read what `nft -a list ruleset` shows of each rule; and of each chain, its hook and policy."""
    found: dict[Handle, str] = {}
    family = table = ""
    chain: Handle | None = None
    for line in output.splitlines():
        if match := _OPENED.fullmatch(line):
            if match[1] == "table":
                family, table = match[2].split(" ", 1)
            chain = (family, table, int(match[3])) if match[1] == "chain" else None
        elif chain and line.startswith("\t\ttype "):
            found[chain] = line.strip()
        elif chain and (match := _NUMBERED.fullmatch(line)):
            found[family, table, int(match[2])] = match[1]
    return found
