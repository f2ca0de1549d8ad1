"""What nftables' expressions say of a packet, as libnftables-json(5) writes them."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Final

from trio_ipv4._cli.doctor.witnesses.rules.packets import (
    INCOMING,
    NEVER,
    OUTGOING,
    all_of,
    any_of,
    ask,
    negate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet, Value, Values

_NUMBERS: Final = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "sctp": 132,
}
"""Of protocols (linux/in.h), which nftables writes by their names."""
_OTHERS: Final = {"ip6", "arp", "tcp", "sctp", "dccp", "icmp", "icmpv6", "esp", "ah", "comp", "udplite", "hbh", "rt"}
"""Headers that neither UDP nor IGMP over IPv4 has."""
_ANYWHERE: Final = "*"


class Sets:
    """The named sets of a ruleset, each with its elements and whether packets change it."""

    def __init__(self) -> None:
        self._elements: Final[dict[tuple[str, str, str], tuple[list[Any], bool]]] = {}

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add a set, or a map."""
        flags = fields.get("flags", [])
        changing = bool({"dynamic", "timeout"} & set([flags] if isinstance(flags, str) else flags))
        key = fields["family"], fields["table"], fields["name"]
        self._elements[key] = fields.get("elem", []), changing

    def get(self, family: str, table: str, name: str) -> tuple[list[Any], bool]:
        """Return the elements. A set that is missing may change."""
        return self._elements.get((family, table, name.removeprefix("@")), ([], True))


class Facts:
    """What is known of a packet in a hook, to the rules of a table.

    Args:
        packet: The packet.
        hook: The hook.
        sets: Finds a named set's elements.
    """

    def __init__(self, packet: Packet, hook: str, sets: Callable[[str], tuple[list[Any], bool]]) -> None:
        self._packet: Final = packet
        self._hook: Final = hook
        self.sets: Final = sets

    def match(self, fields: Mapping[str, Any]) -> bool | None:
        """Answer a "match"."""
        values, right, operator = self.values(fields["left"]), fields["right"], fields.get("op", "==")
        if operator in {"==", "in"}:
            return ask(values, lambda value: self.equals(value, right))
        if operator == "!=":
            return ask(values, lambda value: negate(self.equals(value, right)))
        if operator in _ORDERS:
            return ask(values, lambda value: _compare(value, right, _ORDERS[operator]))
        return None

    def equals(self, value: Value, right: Any) -> bool | None:
        """Tell whether a value is what stands at the right, or in it."""
        if isinstance(right, str) and right.startswith("@"):
            elements, changing = self.sets(right)
            found = any_of(self.equals(value, element) for element in elements)
            return None if changing and found is False else found
        if isinstance(right, list):
            return any_of(self.equals(value, each) for each in right)
        if isinstance(right, dict):
            return self._equals_one(value, right)
        return _is(value, right)

    def _equals_one(self, value: Value, right: Mapping[str, Any]) -> bool | None:
        ((kind, inner), *_) = right.items()
        if kind == "set":
            return self.equals(value, inner if isinstance(inner, list) else [inner])
        if kind == "elem":
            return self.equals(value, inner["val"])
        if kind == "prefix" and isinstance(value, IPv4Address):
            network = _network(inner)
            return None if network is None else value in network
        if kind == "range":
            low, high = (_compare(value, inner[place], _ORDERS[order]) for place, order in ((0, ">="), (1, "<=")))
            return all_of([low, high])
        if kind == "concat" and isinstance(value, tuple):
            return all_of(self.equals(one, other) for one, other in zip(value, inner, strict=False))
        return None

    def values(self, left: Any) -> Values:
        """Return the values that an expression may have."""
        if not isinstance(left, dict):
            return None
        ((kind, fields), *_) = left.items()
        if kind == "concat":
            parts = [self.values(part) for part in fields]
            return None if None in parts else frozenset(itertools.product(*(part or () for part in parts)))
        if not isinstance(fields, dict):
            return None
        if kind == "payload":
            return self._header(fields.get("protocol"), fields.get("field"))
        if kind == "meta":
            return self._meta(fields.get("key"))
        if kind == "ct" and fields.get("key") == "state":
            # Nobody answers the group's address, so that such a flow stays new, or it isn't tracked.
            return frozenset({"new", "untracked"})
        if kind == "fib" and fields.get("result") == "type" and fields.get("flags") in ("daddr", ["daddr"]):
            return frozenset({"multicast"})
        return None

    def _header(self, protocol: Any, field: Any) -> Values:
        packet = self._packet
        if protocol == "ip":
            known: dict[Any, Values] = {
                "daddr": frozenset(packet.destinations),
                "saddr": None if packet.source is None else frozenset({packet.source}),
                "protocol": frozenset({packet.protocol}),
                "version": frozenset({4}),
            }
            return known.get(field)
        if protocol in {"udp", "th"} and packet.kind == "udp":
            return frozenset({packet.port}) if field == "dport" and packet.port is not None else None
        if (protocol, field) == ("ether", "type"):
            return frozenset({"ip"})
        return NEVER if protocol in {*_OTHERS, *({"udp", "igmp"} - {packet.kind})} else None

    def _meta(self, key: Any) -> Values:
        known: dict[Any, Values] = {
            "l4proto": frozenset({self._packet.protocol}),
            "protocol": frozenset({"ip"}),
            "nfproto": frozenset({"ipv4"}),
        }
        if key in {"iif", "iifname"}:
            return self._interface(is_there=self._hook in {*INCOMING, "forward"})
        if key in {"oif", "oifname"}:
            return None if self._hook == "forward" else self._interface(is_there=self._hook in OUTGOING)
        if key == "pkttype" and self._hook in INCOMING:
            # An access point may have turned the frame into unicast.
            return frozenset({"multicast", "host", "unicast"})
        return known.get(key)

    def _interface(self, *, is_there: bool) -> Values:
        if not is_there:
            return frozenset({""})  # Of no interface the name is empty (nft_meta_store_ifname).
        return None if self._packet.interface is None else frozenset({self._packet.interface})


def _is(value: Value, right: Any) -> bool | None:
    if isinstance(value, IPv4Address):
        return str(value) == right if isinstance(right, str) else None
    if isinstance(value, int):
        number = _NUMBERS.get(right) if isinstance(right, str) else right
        return None if number is None else value == number
    if isinstance(value, str) and isinstance(right, str):
        return value.startswith(right[:-1]) if right.endswith(_ANYWHERE) else value == right
    return None


_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}


def _compare(value: Value, right: Any, holds: Callable[[Any, Any], bool]) -> bool | None:
    if isinstance(value, IPv4Address) and isinstance(right, str):
        network = _network({"addr": right, "len": 32})
        return None if network is None else holds(value, network.network_address)
    if isinstance(value, int) and isinstance(right, int):
        return holds(value, right)
    return None


def _network(fields: Mapping[str, Any]) -> IPv4Network | None:
    try:
        return IPv4Network((fields["addr"], fields["len"]), strict=False)
    except ValueError:
        return None  # Of IPv6.
