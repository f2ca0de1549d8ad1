"""Filters of traffic control that may take packets away as they come in: `tc filter show`. No privilege is needed.

Of what a filter compares, u32's octets of the IP header and flower's keys are read; any other filter may match.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any, Final, Literal

from trio_ipv4._cli.doctor.evidence import Rule
from trio_ipv4._cli.doctor.witnesses.rules.packets import all_of
from trio_ipv4._cli.doctor.witnesses.rules.tools import ToolError, run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet

_PROTOCOLS: Final = {"all", "ip", "802.1Q", "802.1q", "802.1ad"}
"""Of filters that see IPv4; the tag of a VLAN may be within the frame still."""
_TAKES: Final = {"drop", "shot", "stolen", "trap", "queued"}
"""What an action may do at its end: TC_ACT_SHOT and others (linux/pkt_cls.h)."""
_CHANGES: Final = {"pedit", "nat", "ct", "police", "bpf", "skbmod"}
"""Actions that may drop, or make something else of a packet."""
_PORT_AT: Final = 22
"""Of UDP's destination, if the IP header has no options."""


def look(devices: Collection[str], packets: Collection[Packet]) -> list[Rule]:
    """Return the filters on the devices that may take one of the packets.

    Raises:
        ToolError: The tool is missing, or fails for every device.
    """
    rules, failed = [], 0
    for device in devices:
        for hook in ("ingress", "egress"):
            passing = [packet for packet in packets if hook in packet.hooks]
            try:
                output = run("tc", "-s", "-j", "filter", "show", "dev", device, hook) if passing else "[]"
                rules += list(_read(output, device, hook, passing))
            except (ToolError, ValueError):
                failed += 1  # Or the interface is gone.
    if failed and failed >= len(devices):
        raise ToolError
    return rules


def _read(output: str, device: str, hook: str, packets: Collection[Packet]) -> Iterator[Rule]:
    # u32 repeats the key "match".
    filters = json.loads(output or "[]", object_pairs_hook=_gather)
    if not isinstance(filters, list):
        raise ToolError
    for each in filters:
        options = each.get("options", {})
        does, counted = _describe(each.get("kind", ""), options)
        kinds: tuple[Literal["udp", "igmp"], ...] = tuple(
            packet.kind for packet in packets if _matches(each, options, packet) is not False
        )
        if does and kinds:
            words = f"dev {device} {hook} protocol {each['protocol']} pref {each['pref']}"
            words += f" chain {each['chain']}" if each.get("chain") else ""
            handle = options.get("fh") or options.get("handle")
            one = f"{words} handle {handle} {each['kind']}" if handle else words
            text = f"filter {words} {each['kind']}: {does}"
            yield Rule("tc", text, hook, f"tc filter del {one}", counted, kinds)


def _gather(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; what has the key "match" is a list."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key == "match":
            made.setdefault(key, []).append(value)
        else:
            made[key] = value
    return made


def _describe(kind: str, options: dict[str, Any]) -> tuple[str, int | None]:
    """Return what the filter does that may take a packet away, or an empty text; and how many it did it to."""
    for action in options.get("actions", ()):
        name = action.get("kind", "")
        end = str(action.get("control_action", {}).get("type", ""))
        redirects = str(action.get("mirred_action", "")).startswith("redirect")
        if redirects or end in _TAKES or name in _CHANGES:
            words = [name, action.get("mirred_action", ""), action.get("to_dev", ""), end]
            packets = action.get("stats", {}).get("packets")
            return " ".join(filter(None, words)), packets
    return ("a program decides", None) if kind == "bpf" and options else ("", None)


def _matches(each: dict[str, Any], options: dict[str, Any], packet: Packet) -> bool | None:
    if each.get("protocol", "all") not in _PROTOCOLS:
        return False
    if each.get("kind") == "u32":
        return all_of(_octets_match(match, packet) for match in options.get("match", ()))
    if each.get("kind") == "flower":
        return all_of(_keys_match(options.get("keys", {}), packet))
    return None


def _octets_match(match: dict[str, Any], packet: Packet) -> bool | None:
    """Compare four octets, as far as they are known, with those that the filter wants."""
    if match.get("offmask") or "off" not in match:
        return None
    value, mask = (int(match[each], 16).to_bytes(4, "big") for each in ("value", "mask"))
    known = {9: packet.protocol}
    if packet.source is not None:
        known |= dict(enumerate(packet.source.packed, 12))
    if len(packet.destinations) == 1:
        known |= dict(enumerate(next(iter(packet.destinations)).packed, 16))
    if packet.port is not None:
        known |= dict(enumerate(packet.port.to_bytes(2, "big"), _PORT_AT))
    wanted = [(int(match["off"]) + place, value[place], mask[place]) for place in range(4) if mask[place]]
    return all_of(known[at] & bits == octet if at in known else None for at, octet, bits in wanted)


def _keys_match(keys: dict[str, Any], packet: Packet) -> Iterator[bool | None]:
    for key, value in keys.items():
        if key == "ip_proto":
            yield str(value) in {packet.kind, str(packet.protocol)}
        elif key == "dst_ip":
            answers = {address in IPv4Network(value, strict=False) for address in packet.destinations}
            yield answers.pop() if len(answers) == 1 else None
        elif key == "dst_port" and str(value).isdecimal():
            yield packet.port == int(value)
        elif key != "eth_type":
            yield None
