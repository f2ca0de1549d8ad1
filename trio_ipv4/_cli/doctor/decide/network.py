"""Nothing comes in: the wire shows something else, this host sends it itself, or it does not come here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide import kernel
from trio_ipv4._cli.doctor.decide.finding import NEEDS_WIRE, Finding, Unknown, in_the_network
from trio_ipv4._cli.doctor.decide.view import FEW, LINK_LOCAL, LOOKS, SOURCE_SPECIFIC, View, duration, listed, total
from trio_ipv4._cli.doctor.evidence import (
    Bridges,
    Counters,
    Flow,
    FreshJoin,
    IGMPSeen,
    Links,
    OwnReport,
    Rule,
    Rules,
    Sockets,
    UDPSocket,
    Unicast,
)
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator


_NEEDS_PROBE: Final = "To find out whether a switch has forgotten this host, let this command send a report: --probe."
_SAME_MAC: Final = 0x007F_FFFF
"""RFC 1112 section 6.4: of a group's 28 bits, the hardware address has the lower 23."""
_CLOUDS: Final = {"Amazon EC2": "Amazon's cloud", "Google": "Google's cloud"}
"""As /sys/class/dmi/id/sys_vendor has them. Microsoft's name is on laptops, too."""
_REPORT: Final = "the report of our join"
_JOIN: Final = "our join"
"""No report is needed for groups that stay on the link."""
_LONG: Final = 60.0
"""In seconds, chosen: what sends more rarely than that is no flow."""
_QUERIER: Final = 125.0
"""In seconds: a querier's interval (RFC 9776 section 8.2)."""
_FORGOTTEN: Final = ("snooping-without-querier", "pruned-by-another", "igmp-queries-blocked")


def find(view: View) -> Iterator[Finding | Unknown]:
    """Tell why our own receiver hears nothing, where the wire doesn't show the datagrams either."""
    if not view.deaf or view.wire_count:
        return
    near = list(_near(view)) or list(_of_this_host(view))
    yield from near
    if near:
        return
    if (blocked := _reports_blocked(view)) is not None:
        yield blocked
    elif dropping := [rule for rule in _igmp_rules(view, "prerouting", "input") if rule.certain]:
        yield _queries_dropped(view, dropping)
    elif view.wire_silent:
        yield from _silent(view)
    elif view.flows("joined") is None and _counters_silent(view):
        yield from _silent_as_far_as_seen(view)


# The wire shows something near it


def _near(view: View) -> Iterator[Finding]:
    if not view.wire_silent:
        return
    flows = [flow for phase in LOOKS for flow in view.flows(phase) or () if flow.direction != "out"]
    group = [flow for flow in flows if flow.destination == view.question.group and flow.protocol == 17]
    elsewhere = [flow for flow in group if flow.port == view.question.port and not view.is_incoming(flow)]
    ports = [flow for flow in group if flow.port not in {None, view.question.port} and view.is_incoming(flow)]
    twins = [flow for flow in flows if _shares_mac(view, flow) and view.is_incoming(flow)]
    below = [flow for flow in elsewhere if _is_port_of(view, flow)]
    if total(below) >= FEW:
        yield _lost_in_the_bridge(view, below)
    elif total(ports) >= FEW:
        said = f"The wire showed {_datagrams(ports)} to port {listed({flow.port for flow in ports})} of the group, and"
        yield _near_it(view, "other-port", f"{said} none to {view.question.port}.")
    elif total(apart := [flow for flow in elsewhere if _is_apart(view, flow)]) >= FEW:
        where = listed({view.name(flow.ifindex) for flow in apart})
        said = f"The wire showed {_datagrams(apart)} on {where}, and none on {view.interface}."
        yield _near_it(view, "joined-on-another-interface", said, cure=(f"Join on {where}, by its name or index.",))
    elif total(twins) >= FEW:
        named = listed({flow.destination for flow in twins})
        said = f"The wire showed {_datagrams(twins)} to {named}, whose hardware address is the same, and none to"
        yield _near_it(view, "same-mac-other-group", f"{said} {view.question.group}.")


def _near_it(view: View, code: str, said: str, *, cure: tuple[str, ...] = ()) -> Finding:
    """It may be another flow that has nothing to do with it. A program that was named makes it no surer."""
    others = ("not-on-the-wire", *_FORGOTTEN) if view.was_member is not False else ("not-on-the-wire",)
    return in_the_network(code, said, sure=False, others=others, cure=cure)


def _lost_in_the_bridge(view: View, below: list[Flow]) -> Finding:
    port = listed({view.name(flow.ifindex) for flow in below})
    said = f"The wire showed {_datagrams(below)} on {port}, a port of {view.interface}, and none on {view.interface}."
    rules = kernel.rules_of(view, "ingress")
    sure = any(rule.certain for rule in rules)
    return in_the_network("dropped-at-ingress", said, *kernel.tell(rules), sure=sure, cure=kernel.removals(rules))


def _is_port_of(view: View, flow: Flow) -> bool:
    link = view.links.get(flow.ifindex)
    return link is not None and link.master == view.question.ifindex


def _is_apart(view: View, flow: Flow) -> bool:
    """Tell whether a flow came by another interface, and by no part of this one, nor by a port or the loopback."""
    own, link = view.link, view.links.get(flow.ifindex)
    if own is None or link is None or link.loopback or link.master is not None:
        return False
    return own.index != link.lower and link.index not in {own.master, own.lower}


def _shares_mac(view: View, flow: Flow) -> bool:
    different = int(flow.destination) ^ int(view.question.group)
    same_port = flow.protocol == 17 and flow.port == view.question.port
    return same_port and different != 0 and different & _SAME_MAC == 0


def _datagrams(flows: list[Flow]) -> str:
    return many(total(flows), "datagram")


# This host sends it itself


def _of_this_host(view: View) -> Iterator[Finding]:
    out = view.outgoing()
    if out is None:
        yield from _loopback_off_unseen(view)
        return
    own = [flow for flow in out if flow.source in view.own_addresses]  # Others are sent on, by a router or a bridge.
    by_it = [flow for flow in own if flow.ifindex == view.question.ifindex]
    if total(by_it) >= FEW:
        said = f"This host itself sends the group by {view.interface}: the wire showed {_datagrams(by_it)} going out."
        deaf = "No receiver on this host hears them."
        silent = [each for each in _all_sockets(view) if each.multicast_loop is False]
        said += "".join(
            f" The socket of {each.names[0]} (pid {each.pids[0]}) has the loop off." for each in silent[:3] if each.pids
        )
        yield in_the_network(
            "loopback-off", said, deaf, sure=bool(silent), others=() if silent else ("firewall-input",)
        )
    elif total(own) >= FEW:
        where = listed({view.name(flow.ifindex) for flow in own})
        said = (
            f"This host itself sends the group by {where}, not by {view.interface}: {_datagrams(own)} went out there."
        )
        yield in_the_network("sends-on-another-interface", said, sure=False, others=("not-on-the-wire",))


def _loopback_off_unseen(view: View) -> Iterator[Finding]:
    """Without the wire: datagrams go out, none come in, and a socket has the loop off."""
    silent = [each for each in _all_sockets(view) if each.multicast_loop is False]
    sent = view.counter("IpExt.OutMcastPkts", "before")
    if silent and sent >= 5 and not view.counter("IpExt.InMcastPkts"):
        said = f"This host sent {many(sent, 'multicast datagram')}, and a socket of it has IP_MULTICAST_LOOP 0."
        yield in_the_network("loopback-off", said, sure=False, needs=(NEEDS_WIRE,))


def _all_sockets(view: View) -> tuple[UDPSocket, ...]:
    found = view.case.get(Sockets)
    return found.sockets if found else ()


# Nothing comes here


def _reports_blocked(view: View) -> Finding | None:
    join = view.case.get(FreshJoin, "test_join")
    if join is None or join.refused or join.requests < 1 or (view.link is not None and view.link.loopback):
        return None
    # The counters are moved by all that this host sends, the wire's count is not.
    if join.on_wire if join.on_wire is not None else join.sent:
        return None
    rules = _igmp_rules(view, "output", "postrouting", "egress")
    said = "We joined another group. The kernel made reports of it, and none left."
    return in_the_network("igmp-reports-blocked", said, *kernel.tell(rules), cure=kernel.removals(rules))


def _queries_dropped(view: View, rules: list[Rule]) -> Finding:
    """A rule drops IGMP. That is what keeps the group away if a report of ours brings it."""
    report = view.case.get(OwnReport, "probe")
    revived = report is not None and report.revived
    said = f"After an IGMP report of ours {many(report.revived, 'datagram')} came." if report and revived else ""
    evidence = (*kernel.tell(rules), "Queries are not answered then, and a switch forgets this host.", said)
    needs = () if revived else (_NEEDS_PROBE,)
    others = () if revived else ("not-on-the-wire",)
    return in_the_network(
        "igmp-queries-blocked",
        *filter(None, evidence),
        sure=bool(revived),
        others=others,
        needs=needs,
        cure=kernel.removals(rules),
    )


def _igmp_rules(view: View, *hooks: str) -> list[Rule]:
    """Return the rules that may drop IGMP in one of these hooks."""
    found = view.case.get(Rules, "after")
    return [rule for rule in (found.rules if found else ()) if rule.hook in hooks and "igmp" in rule.matches]


def _silent(view: View) -> Iterator[Finding | Unknown]:
    """The wire is silent. Either nobody sends, or a switch does not forward."""
    silent = f"The wire showed nothing of it for {duration(_watched(view))}, before and after our own join."
    silent += _others_send(view) + _hints(view)
    report = view.case.get(OwnReport, "probe")
    if report is not None and (report.revived or report.revived_by_frame):
        yield _revived(view, report)
        return
    if (old := _old_version(view, silent)) is not None:
        yield old
        return
    sent_report = report is not None and (not report.refused or report.revived_by_frame is not None)
    # Switches don't prune groups of the link alone (RFC 4541 section 2.1.2).
    told = view.was_member is False or sent_report or _was_asked_for(view) or view.question.group in LINK_LOCAL
    if not told or any(each is None for each in (view.link, view.memberships, view.case.get(FreshJoin, "test_join"))):
        member = f"This host has been a member on {view.interface}{view.for_how_long()}, so our join sent no report."
        said = (silent, member, _queries(view)) if view.was_member else (silent, _queries(view))
        # Where somebody queries, it is not that nobody does.
        forgotten = _FORGOTTEN[1:] if _general_queries(view) else _FORGOTTEN
        yield Unknown(("not-on-the-wire", *forgotten), said, (_NEEDS_PROBE,))
        return
    if view.link is not None and view.link.xdp is not None:
        attached = f"An XDP program is attached to {view.interface}, which comes before every look."
        yield Unknown(("not-on-the-wire", "dropped-by-xdp"), (silent, attached))
        return
    after = "a report of our own" if report is not None else _JOIN if view.question.group in LINK_LOCAL else _REPORT
    evidence = [silent, f"After {after}, still nothing came.", *_about_the_source(view)]
    # A slow sender may have been between two datagrams.
    sure = _watched(view) >= _LONG
    needs = () if sure else ("If it sends rarely, look for longer: --for 1m.",)
    yield in_the_network("not-on-the-wire", *evidence, sure=sure, needs=needs)


def _others_send(view: View) -> str:
    """Say who sends, where only another source was asked about."""
    flows = [flow for phase in LOOKS for flow in view.flows(phase) or () if view.is_incoming(flow)]
    key = view.question.group, view.question.port
    sources = {flow.source for flow in flows if (flow.destination, flow.port) == key}
    return f" Others send there: {listed(sources)}, not {view.question.source}." if sources else ""


def _hints(view: View) -> str:
    """Say what is known of the surroundings, and proves nothing."""
    said = []
    links = view.case.get(Links)
    if links is not None and links.vendor in _CLOUDS:
        said.append(f"This is a machine of {_CLOUDS[links.vendor]}, whose networks carry no multicast by themselves.")
    if links is not None and links.wsl:
        said.append("This is WSL: multicast from outside does not pass its NAT.")
    if view.link is not None and view.link.promiscuous:
        said.append(f"Somebody listens to all frames on {view.interface}, as tcpdump without -p: that may cure it.")
    bridges = view.case.get(Bridges, "after")
    said += [
        f"The bridge {view.name(bridge.ifindex)} on this host snoops, and is no querier."
        for bridge in (bridges.bridges if bridges else ())
        if bridge.snooping and not bridge.querier and view.question.ifindex in {bridge.ifindex, *bridge.ports}
    ]
    return "".join(f" {each}" for each in said)


def _watched(view: View) -> float:
    return sum(each.seconds for each in view.case.evidence if isinstance(each, Counters))


def _was_asked_for(view: View) -> bool:
    """Tell whether a query came while we watched: then this host has answered, and the switch knows it."""
    heard = view.igmp()
    answers = [
        each for each in (heard.messages if heard else ()) if each.outgoing and view.question.group in each.groups
    ]
    return bool(_general_queries(view)) and bool(answers)


def _general_queries(view: View) -> list[IGMPSeen]:
    """Return the queries about all groups: one about a single group may be the answer to a leave of our own."""
    heard = view.igmp()
    return [
        each
        for each in (heard.messages if heard else ())
        if each.kind == "query" and not each.groups and not each.outgoing and each.ifindex == view.question.ifindex
    ]


def _queries(view: View) -> str:
    number = len(_general_queries(view))
    asked = {0: "No IGMP query", 1: "One IGMP query"}.get(number, f"{number} IGMP queries")
    return f"{asked} came in {duration(_watched(view))}."


def _revived(view: View, report: OwnReport) -> Finding:
    """A report of ours brought it back: the switch had forgotten this host. Why, the queries tell."""
    number = report.revived or report.revived_by_frame or 0
    silent = "The wire showed nothing of it, before our own report."
    brought = f"After an IGMP report of ours {many(number, 'datagram')} came within 1 s: the switch had forgotten us."
    member = f"This host has been a member on {view.interface}{view.for_how_long()}."
    if not report.revived:
        said = "The same report did not bring it at first; sent past this host's firewall, it did."
        return in_the_network("igmp-reports-blocked", silent, brought, said, sure=report.refused is not None)
    heard, queries = view.igmp(), _general_queries(view)
    evidence = (silent, member, brought, _queries(view))
    if queries and not _was_asked_for(view):
        return in_the_network("igmp-queries-blocked", *evidence, "This host did not answer them.", sure=False)
    if queries or view.version() in {1, 2}:
        spoken = f"{view.interface} speaks IGMPv{view.version()}, so a querier is there."
        return in_the_network("pruned-by-another", *evidence, spoken, sure=False, others=("igmp-queries-blocked",))
    others = ("pruned-by-another", "igmp-queries-blocked")
    sure = heard is not None and heard.seconds > _QUERIER
    needs = () if sure else ("Watch for longer than a querier's interval: --for 130s.",)
    return in_the_network("snooping-without-querier", *evidence, sure=sure, others=() if sure else others, needs=needs)


def _old_version(view: View, silent: str) -> Finding | None:
    version, settings = view.version(), view.settings
    asks_sources = view.question.source is not None or view.question.group in SOURCE_SPECIFIC
    if version not in {1, 2} or not asks_sources:
        return None
    speaks = f"{view.interface} speaks IGMPv{version}, which can't name a source."
    whole, here = settings.get("conf.all.force_igmp_version", 0), settings.get("interface.force_igmp_version", 0)
    if whole in {1, 2} or here in {1, 2}:
        forced = f"force_igmp_version: all {whole}, {view.interface} {here}."
        return in_the_network("igmp-version-forced", silent, speaks, forced, sure=False, others=("not-on-the-wire",))
    return in_the_network("old-querier", silent, speaks, sure=False, others=("not-on-the-wire",))


def _about_the_source(view: View) -> list[str]:
    unicast = view.case.get(Unicast, "probe")
    source = view.question.source
    if unicast is None or source is None:
        return []
    if unicast.answer == "ECONNREFUSED":
        return [f"{source} answers unicast: it is alive, and multicast does not pass."]
    if unicast.neighbour in {"incomplete", "failed"} or unicast.answer == "EHOSTUNREACH":
        return [f"{unicast.hop or source} does not even answer ARP: look at the network between, or at that host."]
    via = f" by the router {unicast.hop}" if unicast.hop not in {None, source} else ""
    return [f"{source} does not answer unicast{via}."]


def _counters_silent(view: View) -> bool:
    """Tell whether nothing but a few packets reached IP: so few that none of a flow's can be among them."""
    return view.case.get(Counters, "joined") is not None and view.counter(f"dev.{view.interface}.rx_packets") < 5


def _silent_as_far_as_seen(view: View) -> Iterator[Finding | Unknown]:
    frames = view.counter(f"dev.{view.interface}.rx_packets")
    silent = f"{view.interface} received {many(frames, 'frame')} in {duration(_watched(view))}: nothing of the group."
    if (old := _old_version(view, silent)) is not None:
        yield old
    elif view.was_member:
        member = f"This host has been a member on {view.interface}{view.for_how_long()}, so our join sent no report."
        yield Unknown(("not-on-the-wire", *_FORGOTTEN), (silent, member), (f"{NEEDS_WIRE[:-1]} and --probe.",))
    else:
        evidence = (silent, f"After {_REPORT}, still nothing came.", *_about_the_source(view))
        yield in_the_network("not-on-the-wire", *evidence, sure=False, needs=(NEEDS_WIRE,))
