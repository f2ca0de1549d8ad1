"""The program: how its socket is bound, what it is a member of, and whether it reads.

With `--pid`, its sockets tell it themselves. Without, the sockets on the port are looked at from outside. Then there is
a finding only if all of them have a fault: one that is in order may be the one that is meant.

Everything is judged by what it was before our own join, which makes careless sockets hear as well.
"""

from __future__ import annotations

import functools
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.doctor.causes import CAUSES
from trio_ipv4._cli.doctor.decide.finding import WITH_PID, Finding, Unknown, Where, found
from trio_ipv4._cli.doctor.decide.view import FEW, LOOKS, SOURCE_SPECIFIC, listed
from trio_ipv4._cli.doctor.evidence import Elsewhere, Held, Program, ProgramSocket, Sockets, Twins, UDPSocket
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._cli.doctor.decide.view import View
    from trio_ipv4._cli.merge import Filter

_finding: Final = functools.partial(found, where=Where.PROGRAM)
_NOBODY: Final = "In this one nobody has the port open."

_BINDINGS: Final = frozenset(
    {"ipv6-only-socket", "socket-is-connected", "bound-to-another-address", "bound-to-another-interface"}
)
_MEMBERSHIP: Final = 48
"""Octets of option memory that a membership takes (struct ip_mc_socklist), where a pointer has 64 bits."""
_AT_THE_EDGES: Final = 2
"""In datagrams: two witnesses begin and end a look one after the other."""
_LEAST_TRUESIZE: Final = 512
"""Octets that the smallest datagram takes in a queue: its data and a struct sk_buff (SKB_TRUESIZE, linux/skbuff.h)."""
_START: Final = "Its bind may have failed: look at what it says, and start it again."


@attrs.frozen
class Sock:
    """A socket on the port, from whichever witness. `None`: not known."""

    label: str
    local: str
    family: int
    port: int
    peer: str | None = None
    ifindex: int | None = None
    multicast_all: bool | None = None
    only_ipv6: bool | None = None
    option_memory: int | None = None
    memberships: tuple[Held, ...] | None = None
    filter_length: int | None = None
    sampled: UDPSocket | None = None
    """What its queue did during the looks."""
    states: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()

    @property
    def is_wild(self) -> bool:
        """It is bound to every address."""
        return self.local in {"0.0.0.0", "::"}


def find(view: View) -> Iterator[Finding | Unknown]:
    """Judge the program, or the sockets on the port."""
    program = view.case.get(Program)
    if program is not None:
        stop = list(_of_the_process(view, program))
        yield from stop
        if stop:
            return
    sockets = find_sockets(view)
    if not sockets:
        if view.case.get(Sockets) is not None:
            yield from _without_a_socket(view, program)
        return
    judged = [list(_judge(view, each)) for each in sockets]
    if all(judged):
        # The one that is nearest to right is meant: its binding is in order, at least.
        nearest = min(judged, key=_is_bound_wrong)
        if len(sockets) > 1 and program is None:
            nearest = list(map(_likely, nearest))
        yield from _unless_it_holds_the_port(view, program, nearest)
    yield from _cross_talk(view, sockets)
    yield from _duplicates(view, sockets)


def is_seen_healthy(view: View) -> bool:
    """Tell whether the program's own socket was looked at, and found to be right."""
    program = view.case.get(Program)
    return program is not None and bool(program.sockets) and bool(find_sockets(view))


def why_unseen(view: View) -> str:
    """Say why the program was not looked into."""
    program = view.case.get(Program)
    if program is not None and program.refused is not None:
        name = f"{program.name} (pid {program.pid})"
        return f"{name} can't be asked ({program.refused}): run this as its own user, or as root."
    return "The program itself was not looked at: --pid PID."


def describe(view: View) -> list[str]:
    """Say which sockets were looked at."""
    key = view.question.ifindex, view.question.group
    for each in find_sockets(view)[:1]:
        if any((held.ifindex, held.group) == key for held in each.memberships or ()):
            return [f"The socket of {each.label} is a member on {view.interface}{view.for_how_long()}."]
        return [f"The port is open for {each.label}, and this host is a member{view.for_how_long()}."]
    return []


def _is_bound_wrong(found: list[Finding | Unknown]) -> bool:
    return any(each.code in _BINDINGS for each in found if isinstance(each, Finding))


def _likely(found: Finding | Unknown) -> Finding | Unknown:
    return attrs.evolve(found, sure=False) if isinstance(found, Finding) else found


def _unless_it_holds_the_port(
    view: View, program: Program | None, judged: list[Finding | Unknown]
) -> Iterator[Finding | Unknown]:
    """A non-member that does not share the port is hardly the program that was meant, which could not bind then."""
    unseen = view.question.pid is None or program is None or not program.sockets
    if (
        unseen
        and _port_is_taken(view)
        and any(each.code == "not-a-member" for each in judged if isinstance(each, Finding))
    ):
        yield from _port_in_use(view, sure=False)
    else:
        yield from judged


# The process


def _of_the_process(view: View, program: Program) -> Iterator[Finding | Unknown]:
    if not program.state:
        yield Unknown((), (f"There is no process {program.pid}.",), ("Name the program that runs now: --pid PID.",))
    elif program.state == "T":
        evidence = f"{program.name} (pid {program.pid}) is in state {program.state}: stopped."
        yield _finding("program-stopped", evidence, cure=(f"kill -CONT {program.pid}",))
    elif _is_elsewhere(program):
        evidence = f"{program.name} (pid {program.pid}) is in another network namespace than this command."
        yield _finding("other-network-namespace", evidence, cure=_there(view, program.pid))


def _there(view: View, pid: int) -> tuple[str, ...]:
    """Return what is to be done about a program in another network namespace."""
    there = f"nsenter --target {pid} --net trio-ipv4 doctor {view.question.group}:{view.question.port} --pid {pid}"
    look = f"Or ask why it does not arrive there, as root: {there}"
    return (*CAUSES["other-network-namespace"].cure, look)


def _is_elsewhere(program: Program) -> bool:
    """Tell whether its sockets are in another network namespace; if it has none, whether itself is."""
    return all(each.here is False for each in program.sockets) if program.sockets else program.here is False


def _without_a_socket(view: View, program: Program | None) -> Iterator[Finding | Unknown]:
    """Nobody has the port open here, or not the program."""
    if _port_is_taken(view):
        yield from _port_in_use(view)
        return
    if program is None or not program.sockets:
        there = list(_open_elsewhere(view, program))
        yield from there
        if program is not None and program.refused is None and not there:
            yield Unknown(("not-a-member",), (f"{program.name} (pid {program.pid}) has no UDP socket.",), (_START,))
        return
    ports = {each.port for each in program.sockets if each.port}
    if not ports:
        yield Unknown(
            ("not-a-member",), (f"{program.name} (pid {program.pid}) has no UDP socket that is bound.",), (_START,)
        )
    else:
        has = f"{program.name} (pid {program.pid}) has UDP sockets on port {listed(ports)}"
        yield _finding("other-port", f"{has}, not on {view.question.port}.")


def _open_elsewhere(view: View, program: Program | None) -> Iterator[Finding]:
    """The port is open in another network namespace: for the program that was named, or for members of the group."""
    there = view.case.get(Elsewhere)
    for each in there.processes if there else ():
        its = program is not None and each.pid == program.pid
        if its or each.member:
            member = ", where the group is joined" if each.member else ""
            said = (
                f"{each.name} (pid {each.pid}) has port {view.question.port} open in another network namespace{member}."
            )
            holders = listed({_name_of(each) for each in _listed(view) if each.port == view.question.port})
            here = f"In this one port {view.question.port} is held by {holders}." if holders else _NOBODY
            others = () if its else ("not-a-member",)
            cure = _there(view, each.pid)
            yield _finding("other-network-namespace", said, here, sure=its, others=others, cure=cure)
            return


def _port_is_taken(view: View) -> bool:
    """Tell whether our own receiver could not bind, though it asks to share the port."""
    return view.own is not None and view.own.refused_what == "bind" and view.own.refused == "EADDRINUSE"


def _port_in_use(view: View, *, sure: bool = True) -> Iterator[Finding | Unknown]:
    """Our bind failed. It is a fault if the one who holds the port is not the program, or not a member."""
    if not sure and (there := list(_open_elsewhere(view, None))):
        yield from there  # A proxy holds it for a container.
        return
    holders = [each for each in _listed(view) if each.port == view.question.port]
    named = listed({_name_of(each) for each in holders}) or "somebody whom this user can't see"
    said = f"bind({view.question.group}:{view.question.port}) says EADDRINUSE, though it asks to share the port."
    yield _finding(
        "port-in-use", said, f"The port is held by {named}.", sure=sure, others=() if sure else ("not-a-member",)
    )


# The sockets


def find_sockets(view: View) -> list[Sock]:
    """Return the program's sockets on the port; all those on the port, if no program shows its own."""
    program = view.case.get(Program)
    sampled = {each.inode: each for each in _listed(view)}
    if program is not None and program.sockets:
        its_own = [each for each in program.sockets if each.port == view.question.port and each.here is not False]
        return [_of_program(program, each, sampled.get(each.inode)) for each in its_own]
    on_port = [each for each in sampled.values() if each.port == view.question.port]
    if program is not None and (its := [each for each in on_port if program.pid in each.pids]):
        on_port = its
    state = (program.state,) if program is not None else ()
    return [_of_listed(each, state) for each in on_port]


def _listed(view: View) -> list[UDPSocket]:
    """Return the sockets, each with what all looks say of it."""
    found: dict[int, UDPSocket] = {}
    for each in view.case.evidence:
        for socket in each.sockets if isinstance(each, Sockets) else ():
            before = found.get(socket.inode)
            found[socket.inode] = socket if before is None else _both(before, socket)
    return list(found.values())


def _both(one: UDPSocket, other: UDPSocket) -> UDPSocket:
    peaks = [each.peak for each in (one, other) if each.peak is not None]
    lows = [each.low for each in (one, other) if each.low is not None]
    drops = [each.dropped for each in (one, other) if each.dropped is not None]
    falls = [each.fell for each in (one, other) if each.fell is not None]
    pids = one if one.pids else other
    return attrs.evolve(
        one,
        peak=max(peaks, default=None),
        low=min(lows, default=None),
        dropped=sum(drops) if drops else None,
        fell=any(falls) if falls else None,
        pids=pids.pids,
        names=pids.names,
        states=pids.states,
    )


def _of_program(program: Program, socket: ProgramSocket, sampled: UDPSocket | None) -> Sock:
    return Sock(
        f"{program.name} (pid {program.pid})",
        socket.local,
        socket.family,
        socket.port,
        socket.peer,
        socket.ifindex,
        socket.multicast_all,
        socket.only_ipv6,
        socket.option_memory,
        socket.memberships,
        socket.filter_length,
        sampled,
        (program.state,),
        (program.pid,),
    )


def _of_listed(socket: UDPSocket, state: tuple[str, ...]) -> Sock:
    return Sock(
        _name_of(socket),
        socket.local,
        socket.family,
        socket.port,
        socket.peer,
        socket.ifindex,
        socket.multicast_all,
        socket.only_ipv6,
        socket.option_memory,
        None,
        None,
        socket,
        socket.states or state,
        socket.pids,
    )


def _name_of(socket: UDPSocket) -> str:
    if socket.pids:
        return f"{socket.names[0] if socket.names else 'a program'} (pid {socket.pids[0]})"
    return f"user {socket.uid}"


def _judge(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """Yield the first fault of a socket, in the order in which the kernel matches it."""
    for rule in (_binding, _membership, _reading):
        found = list(rule(view, socket))
        yield from found
        if found:
            return


def _binding(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    group, who = str(view.question.group), socket.label
    names = {group, f"::ffff:{group}"}
    if socket.states and all(state == "T" for state in socket.states):
        yield _finding("program-stopped", f"The program {who} is stopped.", cure=(f"kill -CONT {listed(socket.pids)}",))
    elif socket.only_ipv6:
        yield _finding("ipv6-only-socket", f"The socket of {who} is an IPv6 one with IPV6_V6ONLY 1.")
    elif socket.peer is not None and not (socket.local in names and socket.peer in map(str, view.sources)):
        said = f"The socket of {who} is connected to {socket.peer}; its own address is {socket.local}."
        yield _finding("socket-is-connected", said)
    elif not socket.is_wild and socket.local not in names:
        yield _finding("bound-to-another-address", f"The socket of {who} is bound to {socket.local}, not to {group}.")
    elif socket.ifindex and view.link is not None and socket.ifindex not in {view.link.index, view.link.master}:
        said = f"The socket of {who} is bound to {view.name(socket.ifindex)}, not to {view.interface}."
        yield _finding("bound-to-another-interface", said)


# Memberships


def _membership(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
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
        yield _finding("dead-membership", said)
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
        yield _finding("member-of-nobody", f"The filter of {socket.label} is INCLUDE with no source.")
        return
    if not view.sources or any(_accepts(held, source) for source in view.sources):
        return
    refused = listed(view.sources)
    said = f"The filter of {socket.label} is {held.mode.upper()} {{{listed(held.sources)}}}: it refuses {refused}."
    if held.mode == "exclude":
        yield _finding("source-excluded", said)
    elif len(held.sources) >= view.settings.get("igmp_max_msf", 10):
        limit = f"It holds {len(held.sources)} sources: net.ipv4.igmp_max_msf allows no more."
        yield _finding("source-limit", said, limit)
    else:
        yield _finding("source-not-included", said, cure=_join_source(view))


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
    elif max(held, (socket.option_memory or 0) // _MEMBERSHIP) >= most:
        said = f"The socket of {socket.label} holds {most} memberships: net.ipv4.igmp_max_memberships allows no more."
        yield _finding("membership-limit", said, cure=_more_memberships(most))
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
        yield _finding("joined-on-another-interface", said, here, sure=sure)


def _not_a_member(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    link = view.link
    who = socket.label
    if view.was_member and socket.multicast_all is False:
        said = f"The socket of {who} is no member of {view.question.group}, and has IP_MULTICAST_ALL 0."
        yield _finding("socket-not-a-member", said, f"Another socket on this host is a member on {view.interface}.")
    elif link is not None and not link.addresses:
        said = f"{link.name} has no IPv4 address, and the socket of {who} is no member there."
        yield _finding("no-address", said, sure=False, others=("not-a-member",))
    else:
        others = [each for each in socket.memberships or () if each.group != view.question.group]
        more = (f"It is a member of {listed({each.group for each in others})}.",) if others else ()
        nobody = () if view.was_member else (f"Nobody on this host was a member on {view.interface} before this look.",)
        said = f"The socket of {who} is no member of {view.question.group}."
        # An interface without an address, and a port that somebody keeps to himself, look the same.
        sure = link is not None and view.own is not None
        yield _finding("not-a-member", said, *more, *nobody, sure=sure)


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
    elif memory is not None and memory >= _MEMBERSHIP * view.settings.get("igmp_max_memberships", 20):
        most = view.settings.get("igmp_max_memberships", 20)
        said = f"The socket of {socket.label} holds {memory} octets of options: {most} memberships, as many as it may."
        yield _finding("membership-limit", said, sure=False, cure=_more_memberships(most))
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
        yield _finding("member-of-nobody", said)
        return
    if not view.sources or any(_accepts(merged.filter, source) for source in view.sources):
        return
    shown, refused = listed(merged.filter.sources), listed(view.sources)
    said = f"The members' filter on {view.interface} is {merged.filter.mode.upper()} {{{shown}}}: it refuses {refused}."
    if merged.filter.mode == "exclude":
        yield _finding("source-excluded", said, sure=merged.certain)
    elif len(merged.filter.sources) >= view.settings.get("igmp_max_msf", 10):
        limit = f"net.ipv4.igmp_max_msf allows {view.settings.get('igmp_max_msf', 10)} sources."
        yield _finding("source-limit", said, limit, sure=False)
    else:
        yield _finding("source-not-included", said, sure=merged.certain, cure=_join_source(view))


# Reading


def _reading(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """Judge whether it takes what comes. Its own drops and its own queue say it; no other flow moves them."""
    queue = socket.sampled
    if not view.received or queue is None:
        return
    # A burst that overflows the queue may come and go between two looks at it, but the kernel counts it.
    overflowed = sum(view.counter("Udp.RcvbufErrors", phase) for phase in LOOKS)
    dropped = queue.dropped or 0
    if dropped >= FEW and 2 * overflowed < dropped:
        yield from _rejects(view, socket, queue)
    elif dropped and overflowed:
        yield from _overflows(view, socket, queue)
    elif queue.peak and not queue.fell and _kept_all(view, queue.peak - (queue.low or 0)):
        said = f"The queue of {socket.label} only grew: {queue.peak} of {queue.buffer} octets."
        yield _finding("program-does-not-read", said, sure=False, others=("receive-buffer-overflow",))


def _kept_all(view: View, octets: int) -> bool:
    """Tell whether as much is in the queue as if nothing had been read of what our own receiver heard meanwhile."""
    return 2 * octets >= (view.heard or 0) * _LEAST_TRUESIZE


def _rejects(view: View, socket: Sock, queue: UDPSocket) -> Iterator[Finding | Unknown]:
    dropped = queue.dropped or 0
    said = f"The socket of {socket.label} dropped {many(dropped, 'datagram')}, and its queue did not overflow."
    # Wrong checksums and want of memory count as a socket's drops, too.
    faults = sum(view.counter(f"Udp.{name}", phase) for name in ("InCsumErrors", "MemErrors") for phase in LOOKS)
    every = (_dropped_while_joined(view, queue) or 0) >= (view.heard or 0) - _AT_THE_EDGES
    sure = every or 2 * view.dropped(["SOCKET_FILTER"]) >= (view.heard or 0)
    if 2 * faults >= dropped and not view.dropped(["SOCKET_FILTER"]):
        yield Unknown(("socket-filter", "cgroup-filter", "bad-udp-checksum"), (said,), (WITH_PID,))
    elif socket.filter_length:
        length = many(socket.filter_length, "instruction")
        yield _finding("socket-filter", said, f"Its BPF program has {length}.", sure=sure)
    elif socket.filter_length == 0:
        yield _finding("cgroup-filter", said, "The socket itself has no BPF program.", sure=False)
    else:
        yield Unknown(("socket-filter", "cgroup-filter"), (said,), (WITH_PID,))


def _overflows(view: View, socket: Sock, queue: UDPSocket) -> Iterator[Finding | Unknown]:
    waited = f"up to {queue.peak} of {queue.buffer} octets waited."
    said = f"The socket of {socket.label} dropped {many(queue.dropped or 0, 'datagram')}; {waited}"
    # It was full when it dropped. If it is not always full, somebody reads.
    if queue.fell or (queue.low is not None and 2 * queue.low < queue.buffer):
        full = view.dropped(["SOCKET_RCVBUFF"]) or 2 * (queue.peak or 0) >= queue.buffer
        yield _finding("receive-buffer-overflow", said, sure=bool(full), cure=_read_faster(view, queue))
        return
    dropped, heard = _dropped_while_joined(view, queue), view.heard or 0
    if dropped is None or heard < FEW or not (socket.states or socket.pids):
        codes = ("program-does-not-read", "program-stopped", "receive-buffer-overflow")
        yield Unknown(codes, (said, "Its queue never fell."), (WITH_PID,))
    elif dropped >= heard - _AT_THE_EDGES:
        every = f"It dropped as many as our own receiver heard, {heard}: each read would have made room."
        yield _finding("program-does-not-read", said, every)
    else:
        more = ("program-does-not-read",)
        yield _finding("receive-buffer-overflow", said, sure=False, others=more, cure=_read_faster(view, queue))


def _read_faster(view: View, queue: UDPSocket) -> tuple[str, ...]:
    """Return what is to be done against a full queue."""
    most = view.settings.get("rmem_max")
    # The kernel doubles what is asked for (socket(7)).
    allowed = "" if most is None else f" net.core.rmem_max allows {2 * most}."
    return (
        "If it reads more slowly than datagrams come, only faster reading helps.",
        f"For bursts, set a larger SO_RCVBUF: the buffer has {queue.buffer} octets.{allowed}",
    )


def _dropped_while_joined(view: View, queue: UDPSocket) -> int | None:
    found = view.case.get(Sockets, "joined")
    return next((each.dropped for each in (found.sockets if found else ()) if each.inode == queue.inode), None)


# What it hears besides


def _cross_talk(view: View, sockets: Sequence[Sock]) -> Iterator[Finding | Unknown]:
    twins = view.case.get(Twins)
    foreign = {each.group for each in twins.heard if each.group not in {None, view.question.group}} if twins else set()
    if not foreign or view.own is None or not view.received:
        return
    for socket in sockets:
        if not socket.is_wild or not socket.multicast_all:
            continue
        if socket.memberships is None:
            sure = socket.option_memory is not None and socket.option_memory // _MEMBERSHIP == 1
            others = foreign if sure else set()
        else:
            others = foreign - {each.group for each in socket.memberships}
        if others:
            said = f"{listed(others)} comes in with the same port. The socket of {socket.label} has not joined it."
            how = "Its socket is bound to 0.0.0.0 with IP_MULTICAST_ALL 1, so it hears what others have joined."
            yield _finding("cross-talk", said, how, sure=socket.memberships is not None)
            return


def _hears_by(view: View, socket: Sock, ifindexes: Sequence[int]) -> bool:
    """Tell whether a socket hears the group by all of these interfaces; one that can't be asked may."""
    if socket.ifindex:
        return set(ifindexes) <= {socket.ifindex}
    if socket.memberships is None or socket.multicast_all:
        return True
    return set(ifindexes) <= {held.ifindex for held in socket.memberships if held.group == view.question.group}


def _duplicates(view: View, sockets: Sequence[Sock]) -> Iterator[Finding]:
    twins = view.case.get(Twins)
    for each in twins.duplicated if twins else ():
        heard_by = [socket for socket in sockets if _hears_by(view, socket, each.ifindexes)]
        if each.number >= FEW and each.group in {None, view.question.group} and heard_by:
            by = listed(view.name(index) for index in each.ifindexes)
            said = f"{many(each.number, 'datagram')} came twice within 50 ms, by {by}."
            yield _finding("duplicates", said)
            return
