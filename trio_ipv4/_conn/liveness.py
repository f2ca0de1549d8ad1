"""Which memberships of a socket are surely alive: they were at the last look, and no link has been deleted since.

A membership dies when its interface is deleted. If another interface gets the same index, the kernel goes on to answer
for the dead entry, and only the table of groups (/proc/net/igmp) tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from trio_ipv4._kernel import groups
from trio_ipv4._kernel.deletions import Deletions, watch_deletions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._kernel.system import Socket

Key: TypeAlias = "tuple[int, IPv4Address]"


class Entry(Protocol):
    """An entry of the ledger: its key, and the era in which its membership was last seen alive."""

    seen: int

    @property
    def key(self) -> Key: ...


@final
class Liveness:
    """The memberships of one socket. Whenever a link may have been deleted, a new era begins."""

    def __init__(self, socket: Socket) -> None:
        self._socket: Final = socket
        self._era = 1
        self._deletions: Deletions | None = None
        self._can_watch = True

    def is_sure(self, entry: Entry) -> bool:
        """Tell whether a membership is surely alive."""
        if self._deletions is None and self._can_watch:
            self._deletions = watch_deletions(self._socket)
            self._can_watch = self._deletions is not None
            self._era += 1
        if self._deletions is None or self._deletions.any():
            self._era += 1
        return entry.seen == self._era

    def note(self, entry: Entry) -> None:
        """Note that a membership is alive now."""
        entry.seen = self._era

    def look(self, entries: Iterable[Entry]) -> groups.InterfaceGroups | None:
        """Read the kernel's table, once for all memberships."""
        table = groups.read_table(self._socket)
        if self._deletions is not None and table is not None:
            for entry in entries:
                if entry.key in table:
                    entry.seen = self._era
        return table

    def close(self) -> None:
        """Close the subscription."""
        if self._deletions is not None:
            self._deletions.close()
            self._deletions, self._can_watch = None, False
