"""Statistics of flows: what one source sends to one group and port, as heard on one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._cli.listen.sequence import RUN, Streams

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

MAX_FLOWS: Final = 10_000
"""So many flows are kept apart. The datagrams of more are counted together, in one flow for each group."""
_SMOOTHING: Final = 16  # RFC 3550 section 6.4.1
_SILENT: Final = 3.0
"""In seconds. A flow is said to have stopped after this time, at the earliest."""
_LONGEST_WAY_NS: Final = 120 * 10**9
"""RFC 9293 section 3.4.2: no datagram lives longer than the maximum segment lifetime. A time of sending that says so is
a forged one, or that of a clock that was set."""
_REGULAR: Final = 5
"""Fewer datagrams than these tell nothing of how often they come."""


@attrs.frozen
class FlowKey:
    """Which flow. Of all those that are not kept apart, source and interface are `None`, and the port is 0."""

    group: IPv4Address
    port: int
    source: IPv4Address | None
    interface: str | None

    @property
    def endpoint(self) -> str:
        """The group, with its port if there is just one."""
        return f"{self.group}:{self.port}" if self.port else str(self.group)


@final
class Flow:
    """What came by one flow. Times are those of the kernel, in nanoseconds since the epoch.

    `jitter_ns` is the estimator of RFC 3550 section 6.4.1, J += (|D| - J) / 16. D is by how much the time between two
    datagrams differs from the time between their sending, where the payload says when it was sent (our own probes).
    Elsewhere D is by how much it differs from the time between the two datagrams before.
    """

    __slots__ = (
        "_arrived_before",
        "_gap_ns",
        "_looked_at",
        "_moved_at",
        "_octets_before",
        "_regular_ns",
        "_sent_ns",
        "datagrams",
        "first_ns",
        "is_clocked",
        "is_silent",
        "jitter_ns",
        "key",
        "latest_ns",
        "least_octets",
        "longest_gap_ns",
        "most_octets",
        "octets",
        "resumed_after_ns",
        "streams",
        "tos",
        "ttl",
    )

    def __init__(self, key: FlowKey) -> None:
        self.key: Final = key
        self.streams: Final = Streams()
        self.datagrams = self.octets = 0
        self.least_octets, self.most_octets = 1 << 16, 0
        self.ttl: Final[set[int | None]] = set()
        self.tos: Final[set[int | None]] = set()
        self.first_ns = self.latest_ns = 0
        self.longest_gap_ns = 0
        self.jitter_ns = 0.0
        self.is_clocked = False
        """Whether the sender's clock is known, for the jitter."""
        self.is_silent = False
        """Whether it was found to have stopped, and has not come back since."""
        self.resumed_after_ns = 0
        """How long it was silent before it came back; whoever tells of it sets it to 0."""
        self._regular_ns = 0
        """The longest gap, those in which it had stopped aside."""
        self._looked_at = 0
        self._moved_at = 0.0
        self._gap_ns: int | None = None
        self._sent_ns: int | None = None
        self._arrived_before = self._octets_before = 0

    def note(self, source_port: int, payload: bytes, ttl: int | None, tos: int | None, now_ns: int) -> None:
        """Count a datagram."""
        size = len(payload)
        self.datagrams += 1
        self.octets += size
        if size < self.least_octets:
            self.least_octets = size
        if size > self.most_octets:
            self.most_octets = size
        self.ttl.add(ttl)
        self.tos.add(tos)
        sent_ns = self.streams.note(source_port, payload, now_ns)
        if self.datagrams > 1:
            self._note_gap(now_ns - self.latest_ns, sent_ns)
        else:
            self.first_ns = now_ns
        self.latest_ns, self._sent_ns = now_ns, sent_ns

    def _note_gap(self, gap_ns: int, sent_ns: int | None) -> None:
        if gap_ns > self.longest_gap_ns:
            self.longest_gap_ns = gap_ns
        if self.is_silent:
            self.is_silent, self.resumed_after_ns = False, gap_ns
        elif gap_ns > self._regular_ns:
            self._regular_ns = gap_ns
        self.is_clocked = sent_ns is not None and self._sent_ns is not None
        # The condition is spelled out for the type checker.
        even_ns = sent_ns - self._sent_ns if sent_ns is not None and self._sent_ns is not None else self._gap_ns
        if even_ns is not None and abs(gap_ns - even_ns) < _LONGEST_WAY_NS:
            self.jitter_ns += (abs(gap_ns - even_ns) - self.jitter_ns) / _SMOOTHING
        self._gap_ns = gap_ns

    @property
    def is_undecided(self) -> bool:
        """Whether it may be RTP, and too little came to tell."""
        return self.datagrams < RUN and self.streams.is_undecided

    @property
    def news(self) -> int:
        """How many datagrams came since `begin_interval`."""
        return self.datagrams - self._arrived_before

    @property
    def octets_of_news(self) -> int:
        """How many octets of payload came since `begin_interval`."""
        return self.octets - self._octets_before

    def begin_interval(self) -> None:
        """Begin another interval, for the rates."""
        self._arrived_before, self._octets_before = self.datagrams, self.octets

    def has_stopped(self, now: float) -> bool:
        """Tell whether a flow that came regularly has stopped since the last look, and note that it is silent.

        It has not come for 3 s, and for three times as long as ever before.

        Args:
            now: The time, in seconds, by a clock that does not jump.
        """
        if self.datagrams != self._looked_at:
            self._looked_at, self._moved_at = self.datagrams, now
            return False
        enough = max(_SILENT, 3 * self._regular_ns / 1e9)
        if self.is_silent or self.datagrams < _REGULAR or now - self._moved_at < enough:
            return False
        self.is_silent = True
        return True


@final
class FlowTable:
    """All flows, up to a number, and one for each group with all others."""

    def __init__(self) -> None:
        self._flows: Final[dict[FlowKey, Flow]] = {}
        self.is_full = False
        """Whether there are more flows than are kept apart."""

    def __len__(self) -> int:
        return len(self._flows)

    def all(self) -> Iterable[Flow]:
        """Return the flows, in the order in which they came."""
        return self._flows.values()

    def find(self, key: FlowKey) -> Flow:
        """Return the flow of a key, or the one of all others."""
        flow = self._flows.get(key)
        if flow is not None:
            return flow
        if len(self._flows) >= MAX_FLOWS:
            self.is_full = True
            key = FlowKey(key.group, 0, None, None)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(key)
        return flow
