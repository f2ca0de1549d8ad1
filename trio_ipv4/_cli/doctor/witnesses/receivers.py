"""Receivers of our own: twins, which join nothing, and one that joins.

Twins see what other programs' memberships let in. There is one for each group that this host is in, bound to that group
and to the port, with IP_MULTICAST_ALL 1. They need no privilege, send nothing, and change nothing but a counter: a
datagram that no other socket wants is not counted as Udp IgnoredMulti while a twin is there. They are never bound to
0.0.0.0, since unicast reaches one socket of several: it would be missing in the program.

The receiver that joins is made right: bound to the group, joined on the interface, IP_MULTICAST_ALL 0. So it hears if
the network and this host are in order. It needs no privilege. With CAP_NET_RAW a raw socket hears beside it, which sits
between IP and UDP. What it disturbs: a join is reported to the network, if nobody on this host was a member; switches
then forward the group, programs that are no members hear it as well, and at the end the network is told of a leave.
"""

from __future__ import annotations

import contextlib
import errno
import time
import warnings
from collections import OrderedDict
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import trio

from trio_ipv4 import ControlFlags, SourceFilter, open_ip, open_udp
from trio_ipv4._cli.doctor.evidence import Duplicated, HeardFrom, Links, OwnReceiver, Phase, Question, Twins
from trio_ipv4._cli.doctor.witnesses.frames import UDP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from trio_ipv4 import Datagram, PacketConn

_MOST_TWINS: Final = 64
_PORTION: Final = 64
"""So many datagrams are looked at before other tasks run."""
_QUEUED: Final = 8192
"""More datagrams than a socket's buffer holds: one takes 768 octets of it at least, with the kernel's bookkeeping."""
_BUFFER: Final = 1 << 20
"""In octets, for bursts. The kernel may grant less."""
_SAME: Final = 0.05
"""In seconds: within this time, equal datagrams of one sender are copies of one."""
_MOST_REMEMBERED: Final = 8192
_MOST_SOURCES: Final = 4096
_FACTS: Final = ControlFlags.TTL | ControlFlags.DST | ControlFlags.INTERFACE
_UDP_HEADER: Final = 8
"""In octets (RFC 768)."""
_PORT: Final = slice(2, 4)
"""The destination's port in it."""

Refusal: TypeAlias = Literal["bind", "join"]


@final
class _Copies:
    """Finds datagrams that came twice.

    A sender may say the same again and again. So copies that came by one interface count only if their payload has no
    further copies, and each such payload counts once.

    Args:
        links: Which interfaces are ports of which: a frame that a port delivers also shows on its master.
    """

    def __init__(self, links: Links | None) -> None:
        found = links.links if links else ()
        self._masters: Final = {frozenset((each.index, each.master)) for each in found if each.master is not None}
        self._recent: OrderedDict[int, tuple[float, int | None]] = OrderedDict()
        self._pairs: dict[tuple[int, IPv4Address, tuple[int, ...]], int] = {}

    def add(self, group: IPv4Address, datagram: Datagram, now: float) -> None:
        """Note a datagram that a twin heard."""
        ifindex = datagram.control.ifindex
        key = hash((group, datagram.peer, datagram.payload))
        self._forget(now)
        before = self._recent.pop(key, None)
        if before is None:
            self._recent[key] = now, ifindex
        elif before[1] is not None and ifindex is not None:
            pair = tuple(sorted({before[1], ifindex}))
            if frozenset(pair) not in self._masters and len(self._pairs) < _MOST_REMEMBERED:
                self._pairs[key, group, pair] = self._pairs.get((key, group, pair), 0) + 1

    def _forget(self, now: float) -> None:
        while self._recent:
            key, (since, _) = next(iter(self._recent.items()))
            if now - since < _SAME and len(self._recent) < _MOST_REMEMBERED:
                return
            del self._recent[key]

    def take(self) -> tuple[Duplicated, ...]:
        """Return what came twice since the last call."""
        counts: dict[tuple[IPv4Address, tuple[int, ...]], int] = {}
        for (_, group, pair), number in self._pairs.items():
            if len(pair) > 1 or number == 1:
                counts[group, pair] = counts.get((group, pair), 0) + number
        self._pairs.clear()
        return tuple(Duplicated(pair, number, group) for (group, pair), number in counts.items())


@final
class _Heard:
    """Counts datagrams by group, source and interface."""

    def __init__(self) -> None:
        self._found: dict[tuple[IPv4Address, str, int | None], tuple[int, int | None]] = {}

    def add(self, group: IPv4Address, datagram: Datagram) -> None:
        """Count a datagram."""
        control = datagram.control
        key = group, datagram.peer[0], control.ifindex
        if key not in self._found and len(self._found) >= _MOST_SOURCES:
            key = group, "0.0.0.0", control.ifindex  # Anybody can forge more: the rest is counted as of one.
        number, ttl = self._found.get(key, (0, None))
        known = [each for each in (ttl, control.ttl) if each is not None]
        self._found[key] = number + 1, max(known, default=None)

    def take(self) -> tuple[HeardFrom, ...]:
        """Return the counts since the last call."""
        found, self._found = self._found, {}
        return tuple(
            HeardFrom(IPv4Address(source), ifindex, number, ttl, group)
            for (group, source, ifindex), (number, ttl) in found.items()
        )


@final
class TwinsWitness:
    """Hears what other programs' memberships let in. It is a context manager.

    Args:
        question: What was asked.
        groups: The groups that this host is in.
        links: The interfaces.
    """

    def __init__(self, question: Question, groups: Iterable[IPv4Address], links: Links | None = None) -> None:
        self._twins: Final[dict[IPv4Address, PacketConn]] = {}
        self._heard: Final = _Heard()
        self._copies: Final = _Copies(links)
        self._refused: str | None = None
        for group in list(dict.fromkeys([question.group, *groups]))[:_MOST_TWINS]:
            try:
                self._twins[group] = _open(group, question.port, multicast_all=True)
            except OSError as error:
                if group == question.group:
                    self._refused = _name(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for twin in self._twins.values():
            twin.close()

    async def run(self) -> None:
        """Hear until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            for group, twin in self._twins.items():
                nursery.start_soon(_hear, twin, self._noting(group))

    def take(self, phase: Phase) -> Twins:
        """Return what was heard since the last call, or since the beginning."""
        for group, twin in self._twins.items():
            _read(twin, self._noting(group), _QUEUED)
        return Twins(phase=phase, heard=self._heard.take(), duplicated=self._copies.take(), refused=self._refused)

    def _noting(self, group: IPv4Address) -> Callable[[Datagram], None]:
        def note(datagram: Datagram) -> None:
            self._heard.add(group, datagram)
            self._copies.add(group, datagram, time.monotonic())

        return note


@final
class OwnReceiverWitness:
    """Joins, and hears. It is an asynchronous context manager, joined inside the block.

    A refusal by the kernel is evidence, and no error. If our socket can't be bound, the group is joined all the same,
    and the raw socket goes on.

    Args:
        question: What was asked.
        members_before: Whether the interface was a member already.
    """

    def __init__(self, question: Question, *, members_before: bool | None = None) -> None:
        self._question: Final = question
        self._members_before: Final = members_before
        self._heard: Final = _Heard()
        self._conn: PacketConn | None = None
        self._raw: PacketConn | None = None
        self._spare: PacketConn | None = None
        self._refused: tuple[str, Refusal] | None = None
        self._drops = self._datagrams = 0
        self._since = 0.0

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._since = time.monotonic()
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def run(self) -> None:
        """Hear until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            if self._conn is not None:
                nursery.start_soon(_hear, self._conn, self._note)
            if self._raw is not None:
                nursery.start_soon(_hear, self._raw, self._note_raw)

    def take(self, phase: Phase) -> OwnReceiver:
        """Return what was heard since the last call, or since the join."""
        refused, what = self._refused or (None, None)
        now, since, self._since = time.monotonic(), self._since, time.monotonic()
        raw = None
        if self._raw is not None:
            _read(self._raw, self._note_raw, _QUEUED)
            raw, self._datagrams = self._datagrams, 0
        return OwnReceiver(
            phase=phase,
            heard=self._take_heard(),
            drops=self._take_drops(),
            seconds=now - since,
            refused=refused,
            refused_what=what,
            raw=raw,
            members_before=self._members_before,
        )

    def _take_heard(self) -> tuple[HeardFrom, ...]:
        if self._conn is not None:
            _read(self._conn, self._note, _QUEUED)
        return self._heard.take()

    def _take_drops(self) -> int:
        if self._conn is None:
            return 0
        before, self._drops = self._drops, self._conn.drops
        return self._drops - before

    def _open(self) -> None:
        asked = self._question
        try:
            self._conn = _open(asked.group, asked.port, multicast_all=False)
        except OSError as error:
            self._refused = _name(error), "bind"
            # It is bound to a port of its own, and hears nothing; but what was joined comes to this host.
            self._spare = open_udp()
        self._open_raw()
        member = self._conn or self._spare
        try:
            if member is not None:
                _join(member, asked)
        except OSError as error:
            self._refused = self._refused or (_name(error), "join")

    def _open_raw(self) -> None:
        """Open the raw socket and join it, if that is permitted."""
        asked = self._question
        with contextlib.suppress(OSError):
            raw = open_ip(UDP, asked.group)
            try:
                _enlarge(raw)
                _join(raw, asked)
            except BaseException:
                raw.close()
                raise
            self._raw = raw

    def _close(self) -> None:
        for conn in (self._conn, self._raw, self._spare):
            if conn is not None:
                conn.close()

    def _note(self, datagram: Datagram) -> None:
        self._heard.add(self._question.group, datagram)

    def _note_raw(self, datagram: Datagram) -> None:
        # Before it was bound, the raw socket heard datagrams to other addresses too.
        is_for_group = datagram.control.dst == self._question.group
        port = int.from_bytes(datagram.payload[_PORT], "big")
        self._datagrams += is_for_group and port == self._question.port


def _open(group: IPv4Address, port: int, *, multicast_all: bool) -> PacketConn:
    conn = open_udp(group, port, bind_group=True, share_port=True, multicast_all=multicast_all, control_flags=_FACTS)
    try:
        _enlarge(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _enlarge(conn: PacketConn) -> None:
    """Give a socket a larger buffer; that the kernel caps it is no matter for the user."""
    with warnings.catch_warnings(action="ignore"):
        conn.receive_buffer_size = _BUFFER


def _join(conn: PacketConn, asked: Question) -> None:
    """Join as the question says. What the library warns of is for `decide` to tell.

    It waits for nothing, so no other task meets the changed filter of warnings.
    """
    with warnings.catch_warnings(action="ignore"):
        sources = SourceFilter.include(asked.source) if asked.source else SourceFilter.exclude()
        conn.set_source_filter(asked.ifindex, asked.group, sources)


def _name(error: OSError) -> str:
    """Return the name of an errno."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


async def _hear(conn: PacketConn, note: Callable[[Datagram], None]) -> None:
    while True:
        await trio.lowlevel.wait_readable(conn.socket)
        _read(conn, note, _PORTION)


def _read(conn: PacketConn, note: Callable[[Datagram], None], most: int) -> None:
    with contextlib.suppress(trio.WouldBlock):
        for _ in range(most):
            note(conn.receive_nowait())
