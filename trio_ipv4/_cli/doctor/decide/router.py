"""A multicast router's side: does it route the group, and from where does it expect it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, in_the_tables
from trio_ipv4._cli.doctor.decide.view import FEW, listed, total
from trio_ipv4._cli.doctor.evidence import CacheEntry, Router
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.view import View


def find(view: View) -> Iterator[Finding | Unknown]:
    """Judge the routing tables, and the TTL with which datagrams come in."""
    router = view.case.get(Router) or view.case.get(Router, "after")
    if router is None:
        return
    if not router.vifs:
        said = "/proc/net/ip_mr_vif is empty: no multicast routing daemon runs here."
        yield in_the_tables("router-without-multicast", said)
        return
    names = {vif.number: vif.interface for vif in router.vifs}
    entries = entries_of(view, router)
    wrong = [entry for entry in entries if names.get(entry.incoming) not in {None, view.question.interface}]
    if wrong and (view.question.named or view.incoming("before")):
        first = wrong[0]
        said = f"The group from {first.origin} is expected on {names[first.incoming]}, not on {view.interface}."
        counted = f"{first.wrong} of its packets came by another interface."
        yield in_the_tables("wrong-incoming-interface", said, counted, sure=bool(first.wrong))
        return
    yield from _ttl(view, entries, names)


def entries_of(view: View, router: Router) -> list[CacheEntry]:
    """Return the router's flows of the group, from the source that was asked for, or from those that were seen."""
    found = [entry for entry in router.cache if entry.group == view.question.group]
    return [entry for entry in found if not view.sources or entry.origin in view.sources]


def forwards(view: View) -> str | None:
    """Say what shows that it is forwarded; `None`: nothing does."""
    out = [flow for flow in view.outgoing() or () if flow.ifindex != view.question.ifindex]
    out = [flow for flow in out if flow.source not in view.own_addresses]
    if out:
        return f"{many(total(out), 'datagram')} went out by {listed({view.name(flow.ifindex) for flow in out})}."
    forwarded = view.counter("Ip.ForwDatagrams", "before")
    router = view.case.get(Router) or view.case.get(Router, "after")
    if (
        view.outgoing() is None
        and forwarded >= FEW
        and router
        and any(each.outgoing for each in entries_of(view, router))
    ):
        return f"The group has a way out, and this host forwarded {many(forwarded, 'datagram')} (Ip ForwDatagrams)."
    return None


def _ttl(view: View, entries: list[CacheEntry], names: dict[int, str]) -> Iterator[Finding | Unknown]:
    flows = view.incoming("before")
    if flows is None:
        needs = ("With CAP_NET_RAW the TTL of what comes in can be seen.",)
        if not forwards(view):
            yield Unknown(("ttl-too-small", "not-on-the-wire", "wrong-incoming-interface"), (), needs)
        return
    if not flows:
        yield Unknown(("not-on-the-wire",), (f"Nothing of the group came in by {view.interface}.",))
        return
    ttl = max(flow.ttl for flow in flows)
    came = f"{total(flows)} datagrams came in by {view.interface} with TTL {ttl}"
    if ttl <= 1:
        yield in_the_tables("ttl-too-small", f"{came}: a router forwards none of them.")
        return
    for entry in entries:
        least = [threshold for _, threshold in entry.outgoing]
        if least and ttl <= min(least) and min(least) > 1:
            said = f"{came}, and {names.get(entry.outgoing[0][0], 'the way out')} demands more than {min(least)}."
            yield in_the_tables("ttl-too-small", said)
            return
