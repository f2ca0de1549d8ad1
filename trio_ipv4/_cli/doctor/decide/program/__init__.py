"""The program: how its socket is bound, what it is a member of, and whether it reads.

With `--pid`, its sockets tell it themselves. Without, the sockets on the port are looked at from outside. Then there is
a finding only if all of them have a fault: one that is in order may be the one that is meant.

Everything is judged by what it was before our own join, which makes careless sockets hear as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, in_the_program
from trio_ipv4._cli.doctor.decide.program.besides import cross_talk, duplicates
from trio_ipv4._cli.doctor.decide.program.membership import judge_membership
from trio_ipv4._cli.doctor.decide.program.process import (
    judge_process,
    port_in_use,
    port_is_taken,
    without_a_socket,
)
from trio_ipv4._cli.doctor.decide.program.reading import judge_reading
from trio_ipv4._cli.doctor.decide.program.sockets import find_sockets
from trio_ipv4._cli.doctor.decide.view import listed
from trio_ipv4._cli.doctor.evidence import Program, Sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.program.sockets import Sock
    from trio_ipv4._cli.doctor.decide.view import View

_PERMISSIONS: Final = frozenset({"EPERM", "EACCES"})
_BINDINGS: Final = frozenset(
    {"ipv6-only-socket", "socket-is-connected", "bound-to-another-address", "bound-to-another-interface"}
)


def find(view: View) -> Iterator[Finding | Unknown]:
    """Judge the program, or the sockets on the port."""
    program = view.case.get(Program)
    if program is not None:
        stop = list(judge_process(view, program))
        yield from stop
        if stop:
            return
    sockets = find_sockets(view)
    if not sockets:
        if view.case.get(Sockets) is not None:
            yield from without_a_socket(view, program)
        return
    judged = [list(_judge(view, each)) for each in sockets]
    if all(judged):
        # The one that is nearest to right is meant: its binding is in order, at least.
        nearest = min(judged, key=_is_bound_wrong)
        if len(sockets) > 1 and program is None:
            nearest = list(map(_likely, nearest))
        yield from _unless_it_holds_the_port(view, program, nearest)
    yield from cross_talk(view, sockets)
    yield from duplicates(view, sockets)


def is_seen_healthy(view: View) -> bool:
    """Tell whether the program's own socket was looked at, and found to be right."""
    program = view.case.get(Program)
    return program is not None and bool(program.sockets) and bool(find_sockets(view))


def why_unseen(view: View) -> str:
    """Say why the program was not looked into."""
    program = view.case.get(Program)
    if program is not None and program.refused is not None:
        name = f"{program.name} (pid {program.pid})"
        # EXDEV, and ENOSYS, which PyPy has always, stay for root, too.
        cure = ": run this as its own user, or as root" if program.refused in _PERMISSIONS else ""
        return f"{name} can't be asked ({program.refused}){cure}."
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
        and port_is_taken(view)
        and any(each.code == "not-a-member" for each in judged if isinstance(each, Finding))
    ):
        yield from port_in_use(view, sure=False)
    else:
        yield from judged


def _judge(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """Yield the first fault of a socket, in the order in which the kernel matches it."""
    for rule in (_binding, judge_membership, judge_reading):
        found = list(rule(view, socket))
        yield from found
        if found:
            return


def _binding(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    group, who = str(view.question.group), socket.label
    names = {group, f"::ffff:{group}"}
    if socket.states and all(state == "T" for state in socket.states):
        yield in_the_program(
            "program-stopped", f"The program {who} is stopped.", cure=(f"kill -CONT {listed(socket.pids)}",)
        )
    elif socket.only_ipv6:
        yield in_the_program("ipv6-only-socket", f"The socket of {who} is an IPv6 one with IPV6_V6ONLY 1.")
    elif socket.peer is not None and not (socket.local in names and socket.peer in map(str, view.sources)):
        said = f"The socket of {who} is connected to {socket.peer}; its own address is {socket.local}."
        yield in_the_program("socket-is-connected", said)
    elif not socket.is_wild and socket.local not in names:
        yield in_the_program(
            "bound-to-another-address", f"The socket of {who} is bound to {socket.local}, not to {group}."
        )
    elif socket.ifindex and view.link is not None and socket.ifindex not in {view.link.index, view.link.master}:
        said = f"The socket of {who} is bound to {view.name(socket.ifindex)}, not to {view.interface}."
        yield in_the_program("bound-to-another-interface", said)
