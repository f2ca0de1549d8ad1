"""The sender's side: does this host send the group, by which interface, with which TTL?"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide import kernel, tables
from trio_ipv4._cli.doctor.decide.finding import WITH_PID, Finding, Unknown, in_the_network
from trio_ipv4._cli.doctor.decide.view import FEW, View, listed, total
from trio_ipv4._cli.doctor.evidence import Flow, HeardFrom, Program, ProgramSocket, Twins
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator


_NEEDS_WIRE = "With CAP_NET_RAW what goes out can be heard: run this as root."
_WAYS_OUT: Final = ("output", "postrouting", "egress")
_FIREWALL: Final = frozenset({"NETFILTER_DROP", "NETFILTER_EGRESS"})
_NEVER_FRAGMENTED = frozenset({2, 3})  # IP_PMTUDISC_DO, IP_PMTUDISC_PROBE: linux/in.h


def find(view: View) -> Iterator[Finding | Unknown]:
    """Judge what goes out."""
    yield from _of_the_process(view)
    out = _sent(view)
    by_it = [flow for flow in out or () if flow.ifindex == view.question.ifindex]
    elsewhere = [flow for flow in out or () if flow.ifindex != view.question.ifindex]
    if by_it:
        yield from _too_near(view, min(flow.ttl for flow in by_it), _says(view, by_it))
    elif total(elsewhere) >= FEW:
        where = listed({view.name(flow.ifindex) for flow in elsewhere})
        said = f"{many(total(elsewhere), 'datagram')} went out by {where}, and none by {view.interface}."
        yield in_the_network("sends-on-another-interface", said)
    else:
        yield from _nothing_seen(view, silent=out is not None)


def is_healthy(view: View) -> str | None:
    """Say what shows that this host sends as it should; `None`: nothing does."""
    by_it = [flow for flow in _sent(view) or () if flow.ifindex == view.question.ifindex]
    if by_it:
        return _says(view, by_it)
    heard = [each for each in copies(view) if each.ifindex == view.question.ifindex and each.ttl]
    if heard:
        number = many(sum(each.number for each in heard), "datagram")
        return f"This host heard {number} of its own on {view.interface}, TTL {heard[0].ttl}."
    return None


def _sent(view: View) -> list[Flow] | None:
    """Return what this host sent itself. What comes from elsewhere is sent on, by a router or a bridge."""
    out = view.outgoing()
    own = {*view.own_addresses, IPv4Address("127.0.0.1"), IPv4Address("0.0.0.0")}
    return None if out is None else [flow for flow in out if flow.source in own]


def _says(view: View, flows: list[Flow]) -> str:
    ttls = listed({flow.ttl for flow in flows})
    return f"The wire showed {many(total(flows), 'datagram')} going out by {view.interface}, TTL {ttls}."


def copies(view: View) -> list[HeardFrom]:
    """Return what receivers of ours heard that this host itself had sent."""
    twins = view.case.get(Twins)
    heard = [each for each in (twins.heard if twins else ()) if each.group in {None, view.question.group}]
    heard += view.own.heard if view.own is not None else ()
    return [each for each in heard if each.source in view.own_addresses or each.source.is_loopback]


def _of_the_process(view: View) -> Iterator[Finding | Unknown]:
    program = view.case.get(Program)
    if program is not None and program.state == "T":
        said = f"{program.name} (pid {program.pid}) is in state {program.state}: stopped."
        yield in_the_network("program-stopped", said, cure=(f"kill -CONT {program.pid}",))


def _too_near(view: View, ttl: int, said: str) -> Iterator[Finding]:
    """TTL 1 does not pass a router."""
    receiver = view.question.receiver
    way = view.ways(receiver) if receiver is not None else None
    if ttl == 1 and way is not None and way.gateway is not None:
        yield in_the_network(
            "ttl-too-small", said, f"{receiver} is behind a router: the way to it leads by {way.gateway}."
        )


def _nothing_seen(view: View, *, silent: bool) -> Iterator[Finding | Unknown]:
    """Nothing was seen to go out: by the copies, by the counters and by the socket's options, why?"""
    heard = copies(view)
    if heard and all(each.ttl == 0 for each in heard):
        number = many(sum(each.number for each in heard), "datagram")
        yield in_the_network("ttl-zero", f"This host heard {number} of its own with TTL 0.", *_none_out(silent=silent))
        return
    if heard and not silent:
        here = [each for each in heard if each.ifindex == view.question.ifindex]
        if here:
            ttl = min(each.ttl or 1 for each in here)
            yield from _too_near(view, ttl, f"This host heard its own datagrams, with TTL {ttl}.")
        else:
            where = listed({view.name(each.ifindex) for each in heard})
            yield in_the_network(
                "sends-on-another-interface", f"This host heard its own datagrams on {where}.", sure=False
            )
        return
    found = list(_refused(view, silent=silent))
    yield from found
    if found:
        return
    program = view.case.get(Program)
    if program is not None and program.sockets:
        yield from _by_its_options(view, program, silent=silent)
    else:
        codes = ("not-sending", "larger-than-the-mtu", "firewall-output", "sends-on-another-interface", "ttl-too-small")
        needs = (WITH_PID,) if silent else (_NEEDS_WIRE, WITH_PID)
        yield Unknown(codes[:2] if silent else codes, _none_out(silent=silent), needs)


def _none_out(*, silent: bool) -> tuple[str, ...]:
    return ("The wire showed none going out.",) if silent else ()


def _refused(view: View, *, silent: bool) -> Iterator[Finding]:
    """The kernel refused them: the counters of what goes out are moved by this host alone."""
    discarded, unroutable = view.counter("Ip.OutDiscards", "before"), view.counter("Ip.OutNoRoutes", "before")
    rules = kernel.rules_of(view, *_WAYS_OUT)
    way = view.ways(view.question.group)
    if unroutable >= FEW and way is not None and way.error is not None:
        yield tables.no_route(view, way.error)
        return
    dropped = view.dropped(_FIREWALL)
    if discarded >= FEW or dropped >= FEW or (silent and any(rule.certain for rule in rules)):
        said = [f"Ip OutDiscards grew by {discarded}: that many were refused (EPERM)."] if discarded else []
        said += [f"The kernel says that a rule of the firewall dropped {dropped} of them."] if dropped else []
        sure = dropped >= FEW or (silent and any(rule.certain for rule in rules))
        yield in_the_network(
            "firewall-output",
            *_none_out(silent=silent),
            *said,
            *kernel.tell(rules),
            sure=sure,
            cure=kernel.removals(rules),
        )


def _by_its_options(view: View, program: Program, *, silent: bool) -> Iterator[Finding | Unknown]:
    who = f"{program.name} (pid {program.pid})"
    sockets = [each for each in program.sockets if each.here is not False]
    for socket in sockets:
        found = _of_a_socket(view, who, socket, silent=silent)
        if found is not None:
            yield found
            return
    if silent:
        said = f"None went out, no counter of errors grew, and nothing in the options of {who} forbids it."
        yield in_the_network("not-sending", said, sure=False, others=("larger-than-the-mtu",))
    else:
        yield Unknown(("not-sending", "firewall-output"), (), (_NEEDS_WIRE,))


def _of_a_socket(view: View, who: str, socket: ProgramSocket, *, silent: bool) -> Finding | None:
    # IP_MULTICAST_IF is not read: the kernel tells an address, and not the index by which it was set.
    if socket.multicast_ttl == 0:
        sure = view.was_member is True
        return in_the_network("ttl-zero", f"The socket of {who} has IP_MULTICAST_TTL 0.", sure=sure)
    receiver = view.question.receiver
    leads = view.ways(receiver) if receiver is not None else None
    if socket.multicast_ttl == 1 and leads is not None and leads.gateway is not None:
        said = f"The socket of {who} has IP_MULTICAST_TTL 1, and {receiver} is behind the router {leads.gateway}."
        return in_the_network("ttl-too-small", said)
    if silent and socket.path_mtu_discovery in _NEVER_FRAGMENTED:
        mtu = view.link.mtu if view.link else 0
        said = f"The socket of {who} may not fragment (IP_MTU_DISCOVER), and the MTU of {view.interface} is {mtu}."
        none = "None went out, and no counter grew, as with EMSGSIZE."
        return in_the_network("larger-than-the-mtu", none, said, sure=False, others=("not-sending",))
    return None
