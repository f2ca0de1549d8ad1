"""The datagrams come to this host, and our own receiver is deaf: between the driver and the socket they are lost.

Each rule goes by what the wire shows of the flow itself. The kernel's counters count all flows, so they support a
verdict, and never make one. What can be told without the wire is in `quiet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, found
from trio_ipv4._cli.doctor.decide.view import FEW, listed, total
from trio_ipv4._cli.doctor.evidence import Counters, Drop, Flow, Rule, Rules, Wire
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from ipaddress import IPv4Address

    from trio_ipv4._cli.doctor.decide.view import View

_XDP: Final = frozenset({"veth_xdp_rcv_skb", "veth_xdp_rcv_one", "do_xdp_generic", "bpf_prog_run_generic_xdp"})
"""Functions in which drivers and the kernel drop for an XDP program (drivers/net/veth.c, net/core/dev.c)."""


def find(view: View) -> Iterator[Finding | Unknown]:
    """Find the layer that loses the datagrams."""
    yield from _xdp(view)
    if not view.deaf:
        return
    yield from _asked_source(view)
    if not view.wire_count:
        return
    layers = (_of_the_frames, _of_the_sources, _of_the_layers)
    first = next(filter(None, (list(look(view)) for look in layers)), None)
    if first is None:
        yield _somewhere(view)
    else:
        yield from first


def _wire_showed(view: View, flows: Sequence[Flow]) -> str:
    sources = listed({flow.source for flow in flows})
    number = many(total(flows) or sum(flow.number for flow in flows), "datagram")
    got = view.heard or "none"
    return f"The wire showed {number} from {sources} on {view.interface}; our own receiver got {got}."


# Faults that the frames themselves show


def _of_the_frames(view: View) -> Iterator[Finding]:
    """If no datagram is whole, the frames have a fault. The most frequent one is told."""
    if view.good:
        return
    flows = view.incoming(view.look) or []
    tests: list[tuple[str, Callable[[Flow], bool], Callable[[list[Flow]], str]]] = [
        ("vlan-tagged", lambda flow: bool(flow.vlan), _tags),
        ("frame-for-another-mac", lambda flow: flow.direction == "other_host", _other_macs),
        ("bad-ip-checksum", lambda flow: "ip_checksum" in flow.faults, lambda _: "The IP header's checksum is wrong."),
        ("bad-udp-length", lambda flow: "udp_length" in flow.faults, lambda _: "UDP's length is more than there is."),
        ("bad-udp-checksum", lambda flow: "udp_checksum" in flow.faults, lambda _: "The UDP checksum is wrong."),
    ]
    for code, is_it, say in tests:
        faulty = [flow for flow in flows if is_it(flow)]
        if faulty and code == "vlan-tagged" and (above := _vlan_above(view)):
            said = f"{above} takes the tag off, and shows them."
            yield found("joined-on-another-interface", _tags(faulty), said, cure=(f"Join on {above}.",))
            return
        if faulty and 2 * total(faulty) >= total(flows):
            yield found(code, _wire_showed(view, faulty), say(faulty))
            return
    wire = view.case.get(Wire, view.look)
    if wire is not None and wire.broken and not wire.whole:
        evidence = (
            _wire_showed(view, flows),
            f"They come in fragments, and of {many(wire.broken, 'datagram')} fragments are missing; none is whole.",
            f"Ip ReasmReqds grew by {view.counter('Ip.ReasmReqds')}, ReasmOKs by {view.counter('Ip.ReasmOKs')}.",
        )
        yield found("fragments-lost", *evidence)


def _vlan_above(view: View) -> str | None:
    """Return the VLAN interface on this one that shows the datagrams without a tag."""
    above = {link.index for link in view.links.values() if link.lower == view.question.ifindex and link.kind == "vlan"}
    shown = [flow.ifindex for flow in view.flows(view.look) or () if view.is_asked(flow) and flow.ifindex in above]
    return view.name(shown[0]) if shown else None


def _tags(flows: list[Flow]) -> str:
    return f"The frames are tagged for VLAN {listed({flow.vlan for flow in flows})}."


def _other_macs(flows: list[Flow]) -> str:
    return f"The frames are addressed to {listed({flow.hardware_address for flow in flows})}, which is not ours."


# Sources that the kernel refuses


def _of_the_sources(view: View) -> Iterator[Finding]:
    flows = [flow for flow in view.incoming(view.look) or [] if not flow.faults]
    martian = [flow for flow in flows if view.is_martian(flow.source)]
    own = [flow for flow in flows if flow.source in view.own_addresses]
    # If other sources are valid, their datagrams must arrive. So all of them must be refused.
    if martian and len(martian) == len(flows):
        said = f"No datagram may come from {listed({flow.source for flow in martian})}."
        yield found("martian-source", _wire_showed(view, martian), said)
    elif own and len(own) == len(flows) and not _accepts_local(view):
        said = f"{listed({flow.source for flow in own})} is this host's own address."
        yield found("source-is-own-address", _wire_showed(view, own), said)
    else:
        yield from _reverse_path(view, flows)


def _accepts_local(view: View) -> bool:
    """Tell whether datagrams from this host's own addresses may come in: if either setting says so, or on loopback."""
    either = any(view.settings.get(f"{whose}.accept_local") for whose in ("conf.all", "interface"))
    return either or (view.link is not None and view.link.loopback)


def _asked_source(view: View) -> Iterator[Finding]:
    """The source that was asked about is refused: that is certain before a datagram has come."""
    source = view.question.source
    if (
        source is None
        or view.link is None
        or not any(each.source == source and each.all_hosts == "refused" for each in view.answers())
    ):
        return
    refuses = f"The kernel's input route refuses {source} on {view.interface}."
    if view.is_martian(source):
        yield found("martian-source", refuses, f"No datagram may come from {source}.")
    elif source in view.own_addresses:
        yield found("source-is-own-address", refuses, f"{source} is this host's own address.")
    elif not view.wire_count and _filters(view):
        yield found("reverse-path-filter", *explain_reverse_path(view, {source}), cure=_routes_back(view))


def _reverse_path(view: View, flows: Sequence[Flow]) -> Iterator[Finding]:
    sources = {flow.source for flow in flows}
    refused = {each.source for each in view.answers() if each.all_hosts == "refused"} & sources
    # Without the tables nobody knows whether the source is this host's own address.
    if not refused or refused != sources or view.link is None or not _filters(view):
        return
    # 224.0.0.1 is joined everywhere, without a filter: the source itself is refused.
    said = (_wire_showed(view, flows), *explain_reverse_path(view, refused))
    yield found("reverse-path-filter", *said, cure=_routes_back(view))


def _filters(view: View) -> bool:
    """Tell whether the reverse-path filter is on, or its settings could not be read."""
    modes = [view.settings.get(f"{whose}.rp_filter") for whose in ("conf.all", "interface")]
    return None in modes or any(modes)


def _routes_back(view: View) -> tuple[str, ...]:
    """Return what mends it where the filter is loose already: a route. Else what the table of causes says."""
    loose = max(view.settings.get(f"{whose}.rp_filter", 0) for whose in ("conf.all", "interface")) == 2
    return tuple(f"ip route add {source} dev {view.interface}" for source in sorted(view.sources)[:3]) if loose else ()


def explain_reverse_path(view: View, refused: Collection[IPv4Address]) -> tuple[str, ...]:
    """Say what the reverse-path filter goes by."""
    neighbour = view.neighbour
    accepted = f" It accepts a neighbour, {neighbour.source}." if neighbour and neighbour.all_hosts != "refused" else ""
    said = [f"The kernel's input route refuses {listed(refused)} on {view.interface}.{accepted}"]
    if grown := view.counter("TcpExt.IPReversePathFilter"):
        said.append(f"IPReversePathFilter grew by {grown}.")
    whole, here = view.settings.get("conf.all.rp_filter"), view.settings.get("interface.rp_filter")
    if whole is not None and here is not None:
        greater = max(whole, here)
        meaning = {0: "off", 1: "strict", 2: "loose"}.get(greater, str(greater))
        said.append(f"rp_filter: all {whole}, {view.interface} {here}. The greater one counts: {greater}, {meaning}.")
    for source in sorted(refused):
        if (way := view.ways(source)) is not None:
            there = "There is no route" if way.error else f"The route to {source} leads out by {view.name(way.ifindex)}"
            said.append(f"{there} to {source}." if way.error else f"{there}.")
    return tuple(said)


# Layers: good datagrams are on the wire, and get lost further up


def _of_the_layers(view: View) -> Iterator[Finding]:
    wire = view.case.get(Wire, view.look)
    if not view.good or wire is None:
        return
    passed = wire.passed_ingress.get(str(view.question.ifindex), 0)
    if 2 * passed >= total(view.good):
        yield from _hooks(view)
    elif not wire.dropped and total(view.good) >= FEW:
        yield from _ingress(view, passed)


def _ingress(view: View, passed: int) -> list[Finding]:
    # Without the tables nobody knows whether it is a port of a bridge.
    if view.link is None:
        return []
    evidence = (
        _wire_showed(view, view.good),
        f"A packet socket behind the ingress rules of {view.interface} saw {passed}.",
    )
    if is_port(view):
        return [found("interface-is-a-bridge-port", *evidence, *port_of(view), cure=join_on(view))]
    rules = rules_of(view, "ingress")
    return [found("dropped-at-ingress", *evidence, *tell(rules), cure=removals(rules))]


def is_port(view: View) -> bool:
    """Tell whether what comes in by the interface goes to a bridge, a bond or a team instead. A VRF leaves it there."""
    link = view.link
    master = view.links.get(link.master) if link is not None and link.master is not None else None
    return link is not None and link.master is not None and (master is None or master.kind != "vrf")


def port_of(view: View) -> tuple[str, ...]:
    """Say of what it is a port."""
    master = view.links.get(view.link.master or 0) if view.link else None
    kind, name = (master.kind or "device", master.name) if master else ("device", "above it")
    return (f"{view.interface} is a port of the {kind} {name}: IP sees the frames there.",)


def join_on(view: View) -> tuple[str, ...]:
    """Say where to join instead."""
    return (f"Join on {view.name(view.link.master if view.link else None)}, and give it the address.",)


def _hooks(view: View) -> list[Finding]:
    """The input route accepts them, or not; a firewall drops them, or IPsec."""
    number = total(view.good)
    raw = view.own.raw if view.own is not None else None
    showed = _wire_showed(view, view.good)
    policy = view.dropped(["XFRM_POLICY"])
    if 2 * policy >= number or (2 * _grew_xfrm(view) >= number and not raw):
        grown = listed(f"{name} {by}" for name, by in _xfrm(view).items())
        return [found("ipsec-policy", showed, f"Grown: {grown}.", sure=bool(policy))]
    own_drops = view.own.drops if view.own is not None else 0
    if max(raw or 0, own_drops) * 2 >= number:
        return []  # It came through IP, and is lost in UDP or at the socket: nothing that a firewall does.
    refused = [each for each in view.answers() if each.group == "refused" and each.all_hosts != "refused"]
    joined = view.own is not None and view.own.refused_what != "join"
    if refused and not joined:
        return []
    firewall = view.dropped(["NETFILTER_DROP"])
    firewall = firewall if 2 * firewall >= number else 0
    if view.knows_drops and not firewall:
        return []
    rules = {hook: rules_of(view, hook) for hook in ("prerouting", "input")}
    if not firewall and _saw_the_firewall(view) and not any(rules.values()):
        return []
    hook = _which_hook(view, rules)
    evidence = [showed]
    if firewall:
        evidence.append(f"The kernel says that a rule of the firewall dropped {firewall} of them.")
    if hook is None:
        return []
    evidence += tell(rules[hook]) or [_by_counters(view, hook)]
    other = "firewall-input" if hook == "prerouting" else "firewall-prerouting"
    sure = bool(firewall) or any(rule.certain for rule in rules[hook])
    return [
        found(
            f"firewall-{hook}",
            *evidence,
            sure=sure,
            others=() if sure else (other,),
            cure=removals(rules[hook]),
        )
    ]


def _which_hook(view: View, rules: dict[str, list[Rule]]) -> str | None:
    """Tell in which hook they are lost: by the rules, if one hook alone has any; else by the counters."""
    having = [hook for hook, found in rules.items() if found]
    if len(having) == 1:
        return having[0]
    number = total(view.good)
    if number < FEW or view.memberships is None or view.case.get(Counters, view.look) is None:
        return None
    others, accepted = _others(view), view.counter("IpExt.InMcastPkts")
    # The counter is moved by all groups. Each of the others' packets may have been accepted, or not.
    if 2 * accepted < number:
        return "prerouting"
    return "input" if 2 * (accepted - others) > number else None


def _others(view: View) -> int:
    """Count the wire's packets to other groups that are joined on the interface on which they came in."""
    members = {(each.ifindex, each.group) for each in (view.memberships.members if view.memberships else ())}
    return sum(
        flow.number
        for flow in view.flows(view.look) or ()
        if (flow.ifindex, flow.destination) in members and flow.direction != "out" and not view.is_asked(flow)
    )


def _by_counters(view: View, hook: str) -> str:
    accepted = view.counter("IpExt.InMcastPkts")
    if hook == "prerouting":
        return f"The input route accepted {accepted} multicast datagrams of any group meanwhile (InMcastPkts)."
    delivered = view.counter("Ip.InDelivers")
    return f"They reached the input route: InMcastPkts grew by {accepted}. Ip InDelivers grew by {delivered}."


def _xfrm(view: View) -> dict[str, int]:
    names = ("XfrmInNoPols", "XfrmInPolBlock", "XfrmInTmplMismatch", "XfrmInStateMismatch", "XfrmInNoStates")
    return {name: grown for name in names if (grown := view.counter(f"xfrm.{name}"))}


def _grew_xfrm(view: View) -> int:
    return sum(_xfrm(view).values())


def _saw_the_firewall(view: View) -> bool:
    found = view.case.get(Rules, "after")
    return found is not None and "nftables" in found.seen


def rules_of(view: View, *hooks: str) -> list[Rule]:
    """Return the rules that may drop the datagrams in one of these hooks."""
    found = view.case.get(Rules, "after")
    return [rule for rule in (found.rules if found else ()) if rule.hook in hooks and "udp" in rule.matches]


def tell(rules: Sequence[Rule]) -> list[str]:
    """Say what the rules do."""
    return [f"This rule {'drops' if rule.certain else 'may drop'} them: {rule.text}" for rule in rules]


def removals(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the commands that take the rules away."""
    return tuple(rule.remove for rule in rules if rule.remove)


def _somewhere(view: View) -> Unknown:
    evidence = [_wire_showed(view, view.incoming(view.look) or [])]
    drops = sorted(view.drops(), key=lambda drop: -drop.number)[:3]
    evidence += [f"The kernel dropped {drop.number}: {drop.reason}{_at(drop)}." for drop in drops]
    passed_ip = view.own is not None and (view.own.raw or view.own.drops)
    firewall = ("firewall-prerouting", "firewall-input")
    codes: tuple[str, ...] = firewall if view.good or _whole(view) else ("fragments-lost",)
    codes = ("cgroup-filter", "ipsec-policy", "bad-udp-checksum") if passed_ip else codes
    needs = () if view.knows_drops else ("Root sees why the kernel drops them: run the same as root.",)
    return Unknown(codes, tuple(evidence), needs)


def _whole(view: View) -> int:
    wire = view.case.get(Wire, view.look)
    return wire.whole if wire else 0


def _at(drop: Drop) -> str:
    return f" in {drop.place}" if drop.place else ""


# XDP comes before the wire


def _xdp(view: View) -> Iterator[Finding | Unknown]:
    link = view.link
    if link is None or link.xdp is None or view.received or not (view.deaf or view.own is None):
        return
    if view.wire_count:
        return
    attached = f"An XDP program is attached to {link.name} ({link.xdp}). It comes before every other look."
    dropped = view.dropped(places=_XDP) or view.dropped(["XDP"])
    lost = view.counter(f"dev.{link.name}.rx_packets") - view.counter("Ip.InReceives")
    if not dropped and lost < FEW:
        yield Unknown(("dropped-by-xdp", "not-on-the-wire"), (attached,), ("Root sees what XDP drops.",))
        return
    others = () if dropped else ("not-on-the-wire",)
    said = (f"The kernel says that it dropped {many(dropped, 'datagram')}.",) if dropped else ()
    silent = ("The wire, which comes after it, showed nothing.",) if view.wire_silent else ()
    yield found("dropped-by-xdp", attached, *said, *silent, sure=bool(dropped), others=others)
