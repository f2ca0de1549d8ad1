"""What the kernel shows at once, and to everybody: interfaces, routes, memberships, sockets, the program."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from trio_ipv4._cli.doctor.evidence import Links, Memberships, OwnReceiver, Sockets, Twins, Wire
from trio_ipv4._cli.doctor.witnesses import (
    elsewhere,
    input_routes,
    links,
    memberships,
    program,
    routes,
    settings,
    sockets,
)
from trio_ipv4._cli.netlink import network_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._cli.doctor.evidence import InputRoutes, Link, Phase
    from trio_ipv4._cli.doctor.journal import Journal

    Key: TypeAlias = "tuple[int, IPv4Address]"
    """An interface's index, and a group."""

_LOOKS: Final[tuple[Phase, ...]] = ("before", "joined")
_MOST_SOURCES: Final = 64
"""So many are asked about, at most: anybody can forge more."""


@final
class Tables:
    """Reads tables, each when it is its turn.

    Args:
        journal: Where it is kept.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal: Final = journal
        self._question: Final = journal.question
        self._holder: int | None = None
        """The only program that has the port open."""

    def read(self) -> None:
        """Read all of them, before anything else."""
        asked, ask = self._question, self._journal.ask
        to = (asked.group, asked.source, asked.receiver)
        ask("links", links.look)
        ask("settings", lambda: settings.look(asked.interface))
        ask("routes", lambda: routes.look(each for each in to if each is not None))
        ask("membership", lambda: memberships.look(asked.group))
        ask("input_route", lambda: self._ask_input_routes([] if asked.source is None else [asked.source], "before"))
        ask("elsewhere", lambda: elsewhere.look(asked.group, asked.port))
        self.look_at_program("before")

    def read_memberships(self) -> None:
        """Read the memberships once more, while our own receiver is joined."""
        self._journal.ask("membership", lambda: memberships.look(self._question.group, "joined"))

    def read_sockets(self, sampler: sockets.Sampler, phase: Phase) -> None:
        """Read the sockets that there are, with what was seen meanwhile of those on the port."""

        def look() -> Sockets:
            seen, there = sampler.take(phase), sockets.look(self._question.port, phase=phase)
            sampled = {each.inode for each in seen.sockets}
            others = tuple(each for each in there.sockets if each.inode not in sampled)
            return attrs.evolve(seen, sockets=seen.sockets + others)

        self._journal.ask("sockets", look)

    def look_at_program(self, phase: Phase) -> None:
        """Look into the program that was named, or into the only one that has the port open."""
        asked, journal = self._question, self._journal
        if asked.pid is None and self._holder is None and asked.role == "receiver":
            with journal.noting("sockets"):
                self._holder = _only_holder(sockets.look(asked.port), asked.port)
        pid = self._holder if asked.pid is None else asked.pid
        if pid is not None:
            indexes = {each.index for each in self._links()}
            members = {key for key in self.members() if key[1] != asked.group}
            journal.ask("program", lambda: program.look(pid, asked.group, indexes, members, _network(), phase))
        elif asked.role != "router":
            journal.skip("program", "--pid")

    def ask_about_sources(self) -> None:
        """Ask which way the routes lead to each source that was heard, and whether its datagrams may come in."""
        sources = self._sources()
        if sources:
            self._journal.ask("routes", lambda: attrs.evolve(routes.look(sources), phase="joined"))
            self._journal.ask("input_route", lambda: self._ask_input_routes(sources, "joined"))

    def members(self) -> set[Key]:
        """Return the groups of the interfaces, as they were before anything else."""
        found = self._journal.get(Memberships)
        return {(each.ifindex, each.group) for each in found.members} if found else set()

    def _links(self) -> tuple[Link, ...]:
        found = self._journal.get(Links)
        return found.links if found else ()

    def _ask_input_routes(self, sources: Iterable[IPv4Address], phase: Phase) -> InputRoutes | None:
        asked = self._question
        if asked.ifindex is None:
            return None
        link = next((each for each in self._links() if each.index == asked.ifindex), None)
        neighbour = None if link is None else input_routes.neighbour_of(link)
        return attrs.evolve(input_routes.look(asked.ifindex, asked.group, sources, neighbour), phase=phase)

    def _sources(self) -> list[IPv4Address]:
        """Return the sources that were named or heard, in any of the looks."""
        asked, get = self._question, self._journal.get
        found = set() if asked.source is None else {asked.source}
        for phase in _LOOKS:
            if wire := get(Wire, phase):
                found |= {
                    each.source
                    for each in wire.flows
                    if each.destination == asked.group and each.direction != "out" and each.port in {asked.port, None}
                }
            for heard in (get(Twins, phase), get(OwnReceiver, phase)):
                found |= {each.source for each in heard.heard} if heard else set()
        return sorted(found)[:_MOST_SOURCES]


def _only_holder(found: Sockets, port: int) -> int | None:
    """Return the process that holds every socket on the port; `None`: there are several, or they can't be seen."""
    holders = [set(each.pids) for each in found.sockets if each.port == port]
    return min(set.intersection(*holders), default=None) if holders else None


def _network() -> bytes | None:
    """Return what identifies this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        return network_of(own)
