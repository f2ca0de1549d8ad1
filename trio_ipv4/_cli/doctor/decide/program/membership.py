"""What a socket is a member of, and which sources its filter lets in."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from trio_ipv4._cli.doctor.decide.finding import WITH_PID, Finding, Unknown, in_the_program
from trio_ipv4._cli.doctor.decide.program.sockets import MEMBERSHIP
from trio_ipv4._cli.doctor.decide.view import SOURCE_SPECIFIC, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._cli.doctor.decide.program.sockets import Sock
    from trio_ipv4._cli.doctor.decide.view import View
    from trio_ipv4._cli.doctor.evidence import Held
    from trio_ipv4._cli.merge import Filter


def judge_membership(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """Judge whether it is a member, where, and whether its filter lets the sources in."""
    if view.memberships is None or view.question.ifindex is None:
        return
    if socket.memberships is None:
        yield from _seen_from_outside(view, socket)
        return
    ours = [each for each in socket.memberships if each.group == view.question.group]
    here = [each for each in ours if each.ifindex == view.question.ifindex]
    dead = [each for each in ours if view.member(each.ifindex) is None]
    if dead and not [each for each in here if each not in dead]:
        where = view.name(dead[0].ifindex)
        said = (
            f"The socket of {socket.label} says that it is a member on {where}; /proc/net/igmp has no such membership."
        )
        yield in_the_program("dead-membership", said)
    elif here:
        yield from _own_filter(view, socket, here[0])
    elif socket.multicast_all is False or not _hears_by_others(view):
        yield from _no_membership(view, socket, ours)


def _hears_by_others(view: View) -> bool:
    """Tell whether other programs' memberships on the interface let the sources in."""
    merged = view.filter()
    return merged is not None and (not view.sources or any(_accepts(merged.filter, each) for each in view.sources))


def _accepts(hears: Filter | Held, source: IPv4Address) -> bool:
    return (source in hears.sources) == (hears.mode == "include")


def _own_filter(view: View, socket: Sock, held: Held) -> Iterator[Finding | Unknown]:
    if held.mode == "include" and not held.sources:
        yield in_the_program("member-of-nobody", f"The filter of {socket.label} is INCLUDE with no source.")
        return
    if not view.sources or any(_accepts(held, source) for source in view.sources):
        return
    refused = listed(view.sources)
    said = f"The filter of {socket.label} is {held.mode.upper()} {{{listed(held.sources)}}}: it refuses {refused}."
    if held.mode == "exclude":
        yield in_the_program("source-excluded", said)
    elif len(held.sources) >= view.settings.get("igmp_max_msf", 10):
        limit = f"It holds {len(held.sources)} sources: net.ipv4.igmp_max_msf allows no more."
        yield in_the_program("source-limit", said, limit)
    else:
        yield in_the_program("source-not-included", said, cure=_join_source(view))


def _join_source(view: View) -> tuple[str, ...]:
    """Return what is to be done if a filter lacks the source that sends."""
    join = f"Join the source that sends: {listed(view.sources)}."
    # 232.0.0.0/8 is for source-specific multicast alone (RFC 4607 section 1).
    return (join,) if view.question.group in SOURCE_SPECIFIC else (join, "Or join the group with every source.")


def _no_membership(view: View, socket: Sock, ours: Sequence[Held]) -> Iterator[Finding | Unknown]:
    held = len(socket.memberships or ())
    most = view.settings.get("igmp_max_memberships", 20)
    if ours:
        yield from _elsewhere(view, f"The socket of {socket.label} is a member on {view.name(ours[0].ifindex)}.")
    elif max(held, (socket.option_memory or 0) // MEMBERSHIP) >= most:
        said = f"The socket of {socket.label} holds {most} memberships: net.ipv4.igmp_max_memberships allows no more."
        yield in_the_program("membership-limit", said, cure=_more_memberships(most))
    else:
        yield from _not_a_member(view, socket)


def _more_memberships(most: int) -> tuple[str, ...]:
    return (
        f"sysctl -w net.ipv4.igmp_max_memberships={max(256, 2 * most)}",
        f"Use another socket for each {most} groups.",
    )


def _elsewhere(view: View, said: str, *, sure: bool = True) -> Iterator[Finding]:
    """It is joined on another interface. That is a fault if the datagrams come in by this one."""
    came = view.received or bool(view.wire_count)
    if came:
        here = f"The datagrams come in by {view.interface}."
        yield in_the_program("joined-on-another-interface", said, here, sure=sure)


def _not_a_member(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    link = view.link
    who = socket.label
    if view.was_member and socket.multicast_all is False:
        said = f"The socket of {who} is no member of {view.question.group}, and has IP_MULTICAST_ALL 0."
        yield in_the_program(
            "socket-not-a-member", said, f"Another socket on this host is a member on {view.interface}."
        )
    elif link is not None and not link.addresses:
        said = f"{link.name} has no IPv4 address, and the socket of {who} is no member there."
        yield in_the_program("no-address", said, sure=False, others=("not-a-member",))
    else:
        others = [each for each in socket.memberships or () if each.group != view.question.group]
        more = (f"It is a member of {listed({each.group for each in others})}.",) if others else ()
        nobody = () if view.was_member else (f"Nobody on this host was a member on {view.interface} before this look.",)
        said = f"The socket of {who} is no member of {view.question.group}."
        # An interface without an address, and a port that somebody keeps to himself, look the same.
        sure = link is not None and view.own is not None
        yield in_the_program("not-a-member", said, *more, *nobody, sure=sure)


def _seen_from_outside(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """The socket itself can't be asked. Its option memory tells whether it is a member of anything."""
    memory = socket.option_memory
    if memory == 0 and (socket.multicast_all is False or not view.was_member):
        if view.members_elsewhere and socket.multicast_all is not False:
            where = listed(view.name(each.ifindex) for each in view.members_elsewhere)
            yield from _elsewhere(view, f"On this host the group is joined on {where} only.", sure=False)
        else:
            yield from _not_a_member(view, socket)
    elif view.was_member:
        yield from _merged_filter(view)
    elif view.members_elsewhere:
        where = listed(view.name(each.ifindex) for each in view.members_elsewhere)
        yield from _elsewhere(view, f"On this host the group is joined on {where} only.")
    elif memory is not None and memory >= MEMBERSHIP * view.settings.get("igmp_max_memberships", 20):
        most = view.settings.get("igmp_max_memberships", 20)
        said = f"The socket of {socket.label} holds {memory} octets of options: {most} memberships, as many as it may."
        yield in_the_program("membership-limit", said, sure=False, cure=_more_memberships(most))
    elif view.link is not None and not view.link.addresses:
        yield from _not_a_member(view, socket)
    else:
        said = (
            f"Nobody on this host was a member on {view.interface}, though the socket holds some membership or filter."
        )
        yield Unknown(("not-a-member", "dead-membership"), (said,), (WITH_PID,))


def _merged_filter(view: View) -> Iterator[Finding | Unknown]:
    """The interface's filter is that of all members together: if it refuses the source, so does each of them."""
    merged, neighbour = view.filter(), view.neighbour
    if merged is None:
        return
    nobody = neighbour is not None and neighbour.group == "refused" and neighbour.all_hosts != "refused"
    if nobody and not merged.filter.sources:
        said = f"The kernel refuses any source of the group on {view.interface}, though it is joined there."
        yield in_the_program("member-of-nobody", said)
        return
    if not view.sources or any(_accepts(merged.filter, source) for source in view.sources):
        return
    shown, refused = listed(merged.filter.sources), listed(view.sources)
    said = f"The members' filter on {view.interface} is {merged.filter.mode.upper()} {{{shown}}}: it refuses {refused}."
    if merged.filter.mode == "exclude":
        yield in_the_program("source-excluded", said, sure=merged.certain)
    elif len(merged.filter.sources) >= view.settings.get("igmp_max_msf", 10):
        limit = f"net.ipv4.igmp_max_msf allows {view.settings.get('igmp_max_msf', 10)} sources."
        yield in_the_program("source-limit", said, limit, sure=False)
    else:
        yield in_the_program("source-not-included", said, sure=merged.certain, cure=_join_source(view))
