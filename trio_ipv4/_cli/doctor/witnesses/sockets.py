"""The UDP sockets on the port, whosever they are, and those that don't loop back what they send (sock_diag(7)).

It needs no privilege, and disturbs nothing. Which process holds a socket is seen of this user's own processes, or of
all with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, final

import attrs
import trio

from trio_ipv4._cli.diag import Listed, list_udp_sockets
from trio_ipv4._cli.doctor.evidence import Phase, Sockets, UDPSocket
from trio_ipv4._cli.processes import describe, find_sockets, own_sockets, state_of

_PAUSE: Final = 0.1
"""Seconds between two looks at the queues."""
_DROPS_MODULUS: Final = 1 << 32
"""The kernel counts a socket's drops in 32 bits (`sk_drops` in net/sock.h)."""


def look(port: int, *, without: Collection[int] = (), phase: Phase = "before") -> Sockets:
    """Look at the sockets on the port, and at those that have IP_MULTICAST_LOOP off.

    Args:
        port: The port.
        without: Inodes of sockets to leave out. Those of this process are left out besides.
        phase: When this is.

    Raises:
        FileNotFoundError: /proc is not mounted.
    """
    left_out = own_sockets().union(without)
    found = {
        inode: listed
        for inode, listed in list_udp_sockets().items()
        if inode not in left_out and (listed.port == port or listed.multicast_loop is False)
    }
    return Sockets(sockets=_describe(found), phase=phase)


@final
class Sampler:
    """Looks at the queues of the sockets on the port, ten times a second: one that never empties isn't read.

        with Sampler(5000) as sampler:
            nursery.start_soon(sampler.run)
            ...
            sockets = sampler.take("before")

    The arguments and errors are those of `look`.
    """

    def __init__(self, port: int, *, without: Collection[int] = ()) -> None:
        self._port: Final = port
        self._without: Final = frozenset(without)
        self._ranges: dict[int, _Range] = {}
        self._sample()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: it holds nothing."""

    async def run(self) -> None:
        """Look until it is cancelled."""
        while True:
            await trio.sleep(_PAUSE)
            self._sample()

    def take(self, phase: Phase) -> Sockets:
        """Return the sockets that there are now, with what was seen of them since the last time."""
        listed = self._sample()
        ranges, self._ranges = self._ranges, {inode: _Range(each) for inode, each in listed.items()}
        return Sockets(sockets=tuple(ranges[each.inode].put_into(each) for each in _describe(listed)), phase=phase)

    def _sample(self) -> Mapping[int, Listed]:
        left_out = own_sockets() | self._without
        listed = {inode: each for inode, each in list_udp_sockets(self._port).items() if inode not in left_out}
        for inode, each in listed.items():
            self._ranges.setdefault(inode, _Range(each)).add(each)
        return listed


@final
class _Range:
    """What a socket's queue was like for a while."""

    def __init__(self, first: Listed) -> None:
        self._first: Final = first
        self._last = first
        self._peak = self._low = first.queued
        self._fell = False

    def add(self, listed: Listed) -> None:
        """Take in one more look."""
        self._peak = max(self._peak, listed.queued)
        self._low = min(self._low, listed.queued)
        self._fell |= listed.queued < self._last.queued
        self._last = listed

    def put_into(self, socket: UDPSocket) -> UDPSocket:
        """Return the socket with what was seen."""
        dropped = ((self._last.drops or 0) - (self._first.drops or 0)) % _DROPS_MODULUS
        return attrs.evolve(socket, peak=self._peak, low=self._low, dropped=dropped, fell=self._fell)


def _describe(found: Mapping[int, Listed]) -> tuple[UDPSocket, ...]:
    """Make the records, with the processes that hold the sockets: one look through all processes."""
    held = {each.inode: tuple(each.pids) for each in find_sockets().sockets} if found else {}
    return tuple(_make(inode, listed, held.get(inode, ())) for inode, listed in found.items())


def _make(inode: int, listed: Listed, pids: tuple[int, ...]) -> UDPSocket:
    return UDPSocket(
        inode=inode,
        family=6 if listed.protocol == "udp6" else 4,
        local=listed.local,
        port=listed.port or 0,
        peer=listed.peer,
        ifindex=listed.ifindex,
        uid=listed.user,
        queued=listed.queued,
        buffer=listed.buffer or 0,
        drops=listed.drops or 0,
        option_memory=listed.option_memory,
        multicast_all=listed.multicast_all,
        multicast_loop=listed.multicast_loop,
        only_ipv6=listed.only_ipv6,
        pids=pids,
        names=tuple(describe(pid).name for pid in pids),
        states=tuple(map(state_of, pids)),
    )
