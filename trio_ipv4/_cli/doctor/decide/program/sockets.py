"""The sockets that are judged: the program's own, or all of them on the port, from whichever witness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.doctor.evidence import Held, Program, ProgramSocket, Sockets, UDPSocket

if TYPE_CHECKING:
    from trio_ipv4._cli.doctor.decide.view import View

MEMBERSHIP: Final = 48
"""Octets of option memory that a membership takes (struct ip_mc_socklist), where a pointer has 64 bits."""


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


def find_sockets(view: View) -> list[Sock]:
    """Return the program's sockets on the port; all those on the port, if no program shows its own."""
    program = view.case.get(Program)
    sampled = {each.inode: each for each in open_sockets(view)}
    if program is not None and program.sockets:
        its_own = [each for each in program.sockets if each.port == view.question.port and each.here is not False]
        return [_of_program(program, each, sampled.get(each.inode)) for each in its_own]
    on_port = [each for each in sampled.values() if each.port == view.question.port]
    if program is not None and (its := [each for each in on_port if program.pid in each.pids]):
        on_port = its
    state = (program.state,) if program is not None else ()
    return [_of_listed(each, state) for each in on_port]


def open_sockets(view: View) -> list[UDPSocket]:
    """Return the UDP sockets that were listed, on any port, each with what all looks say of it."""
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
    return attrs.evolve(
        _of_either(f"{program.name} (pid {program.pid})", socket),
        memberships=socket.memberships,
        filter_length=socket.filter_length,
        sampled=sampled,
        states=(program.state,),
        pids=(program.pid,),
    )


def _of_listed(socket: UDPSocket, state: tuple[str, ...]) -> Sock:
    return attrs.evolve(
        _of_either(name_of(socket), socket), sampled=socket, states=socket.states or state, pids=socket.pids
    )


def _of_either(label: str, socket: ProgramSocket | UDPSocket) -> Sock:
    """Return what both witnesses tell of a socket."""
    return Sock(
        label,
        socket.local,
        socket.family,
        socket.port,
        socket.peer,
        socket.ifindex,
        socket.multicast_all,
        socket.only_ipv6,
        socket.option_memory,
    )


def name_of(socket: UDPSocket) -> str:
    """Return the program that has a socket, or at least the user."""
    if socket.pids:
        return f"{socket.names[0] if socket.names else 'a program'} (pid {socket.pids[0]})"
    return f"user {socket.uid}"
