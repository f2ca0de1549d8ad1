"""This host's own memberships, by the kernel's table: what can be watched without privilege."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._cli.watch.records import GroupState, Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ipv4._cli.kernel_tables import Member as KernelMember

THIS_HOST: Final = "this host"
_ALL_SYSTEMS: Final = "224.0.0.1"
"""Each host is a member of it, and nobody reports it (RFC 9776 section 5)."""


@final
class OwnMemberships:
    """Tells joins and leaves by comparing what the kernel says from time to time.

    Args:
        interfaces: Names; none: all but loopback.
    """

    def __init__(self, interfaces: tuple[str, ...]) -> None:
        self._interfaces: Final = interfaces
        self._known: dict[tuple[str, str], KernelMember] = {}

    def look(self, now: int, members: Iterable[KernelMember]) -> list[Member]:
        """Return what has changed."""
        before = self._known
        self._known = {(each.interface, each.group): each for each in members if self._is_wanted(each)}
        came = [self._known[key] for key in self._known if key not in before]
        went = [before[key] for key in before if key not in self._known]
        return [
            *(_record(now, "last", "left", each) for each in went),
            *(_record(now, "first", "reported", each) for each in came),
        ]

    def states(self) -> Iterator[GroupState]:
        """Return each membership."""
        for each in self._known.values():
            group, sources = IPv4Address(each.group), tuple(map(IPv4Address, each.sources))
            yield GroupState(each.interface, group, THIS_HOST, None, each.mode, sources, None, None)

    def counts(self) -> tuple[int, int]:
        """Return how many groups there are, and how many members."""
        return len(self._known), len(self._known)

    def _is_wanted(self, member: KernelMember) -> bool:
        if member.group == _ALL_SYSTEMS:
            return False
        return member.interface in self._interfaces if self._interfaces else member.interface != "lo"


def _record(now: int, change: str, reason: str, member: KernelMember) -> Member:
    sources = tuple(map(IPv4Address, member.sources)) if change == "first" else ()
    mode = member.mode if change == "first" else None
    return Member(now, member.interface, change, reason, IPv4Address(member.group), THIS_HOST, mode, sources)
