"""What was lost, by the numbers in the payload: our own probes count their datagrams, and so does RTP.

A number that was skipped is lost, until it comes late after all. A number that comes again is a duplicate. So at any
time

    received = expected - lost + duplicates

where the expected numbers are those from the first one that was heard to the highest one. Stray numbers are in none of
these: those that are far from all others, and that no successor follows.
"""

from __future__ import annotations

import bisect
from typing import Final, final

from trio_ipv4._cli.probe import parse_probe

_GAPS: Final = 256
"""How many gaps of a stream are remembered. A number from an older gap can't be told from a duplicate."""
_EARLIER: Final = 256
"""How far below the first number that was heard others may come: the network may have swapped the very first ones."""
_STREAMS: Final = 16
"""How many streams of a flow are followed at once."""
_CANDIDATES: Final = 64
"""How many streams of a flow may be on their way to be recognised as RTP."""
_COUNTS: Final = ("lost", "duplicates", "reordered", "restarts")

_MODULUS: Final = 1 << 16  # RFC 3550 appendix A.1: RTP_SEQ_MOD, and the two below it
_MAX_DROPOUT: Final = 3000
_MAX_MISORDER: Final = 100
RUN: Final = 5
"""So many RTP packets in a row make a stream. Appendix A.1 asks for 2 where the session is known to be RTP."""
_VERSION: Final = 2  # RFC 3550 section 5.1, and the one below it
_RTP_HEADER: Final = 12
_RTCP: Final = range(192, 224)  # RFC 5761 section 4: an RTP packet's second octet avoids these types of RTCP.


@final
class Sequence:
    """Counts by the numbers of one stream.

    Args:
        first: The first number that was heard.
    """

    __slots__ = ("_base", "_earlier", "_gaps", "_next", "duplicates", "lost", "reordered", "restarts", "used_ns")

    def __init__(self, first: int) -> None:
        self._base, self._next = first, first + 1
        self._gaps: Final = _Gaps(first)
        self.lost = 0
        self.duplicates = 0
        self.reordered = 0
        self.restarts = 0
        self.used_ns = 0
        """When a number came last, in nanoseconds; whoever keeps it says so."""
        self._earlier = 0
        """How many numbers are expected beside those from the base to the next one."""

    @property
    def highest(self) -> int:
        """The highest number so far."""
        return self._next - 1

    @property
    def expected(self) -> int:
        """How many numbers there are from the first one that was heard to the highest one."""
        return self._earlier + self._next - self._base

    def is_near(self, number: int) -> bool:
        """Tell whether a number is so close to those that came that it is no stray one."""
        return self._base - _EARLIER <= number < self._next + _MAX_DROPOUT

    def note(self, number: int) -> None:
        """Count a number."""
        if number == self._next:
            self._next += 1
        elif number > self._next:
            self.lost += number - self._next
            self._gaps.add(self._next, number)
            self._next = number + 1
        elif not self._gaps.take(number):
            self.duplicates += 1
        else:
            self.reordered += 1
            if number >= self._base:
                self.lost -= 1
            else:
                self._earlier += 1

    def restart(self, first: int) -> None:
        """Go on from another number: the sender began anew. The counts stay."""
        self.restarts += 1
        self._earlier += self._next - self._base
        self._base, self._next = first, first + 1
        self._gaps.begin(first)


@final
class _Gaps:
    """The numbers that are missing, as ranges in order. At first those below the first number: they may yet come."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, first: int) -> None:
        self._starts: Final[list[int]] = []
        self._ends: Final[list[int]] = []
        self.begin(first)

    def begin(self, first: int) -> None:
        """Begin anew with another first number."""
        self._starts[:] = [max(0, first - _EARLIER)]
        self._ends[:] = [first]

    def add(self, start: int, end: int) -> None:
        """Add a range."""
        self._starts.append(start)
        self._ends.append(end)
        self._forget()

    def take(self, number: int) -> bool:
        """Take a number out; tell whether it was missing."""
        place = bisect.bisect_right(self._starts, number) - 1
        if place < 0 or number >= (end := self._ends[place]):
            return False
        parts = [(self._starts[place], number), (number + 1, end)]
        left = [part for part in parts if part[0] < part[1]]
        self._starts[place : place + 1] = [start for start, _ in left]
        self._ends[place : place + 1] = [end for _, end in left]
        self._forget()
        return True

    def _forget(self) -> None:
        """Keep the latest gaps alone."""
        del self._starts[:-_GAPS], self._ends[:-_GAPS]


@final
class ProbeSequence:
    """The numbers of a stream of our own probes, which never wrap around.

    As in `RTPSequence`, a number far from all others is believed only if its successor follows. Far ahead, what lies
    between is lost; far below the first, the sender has begun anew. So no single forged number ruins the counts.

    Args:
        first: The first number that was heard.
    """

    __slots__ = ("_suspect", "counts")

    def __init__(self, first: int) -> None:
        self._suspect = -1
        """The number that would prove the one before it."""
        self.counts: Final = Sequence(first)

    def note(self, number: int) -> None:
        """Count a number."""
        if self.counts.is_near(number):
            self.counts.note(number)
        elif number != self._suspect:
            self._suspect = number + 1
        elif number > self.counts.highest:
            self.counts.note(number - 1)
            self.counts.note(number)
        else:
            self.counts.restart(number - 1)
            self.counts.note(number)


@final
class RTPSequence:
    """The 16-bit numbers of an RTP stream, which wrap around (RFC 3550 appendix A.1).

    Less than 3,000 ahead is loss. Less than 100 behind is late or a duplicate. Another number is a stray one, unless
    its successor follows it: then the sender has restarted.

    Args:
        first: The first number of a stream.
    """

    __slots__ = ("_highest", "_suspect", "counts")

    def __init__(self, first: int) -> None:
        self._highest = _MODULUS + first
        self._suspect = -1
        """The number that would prove a restart (bad_seq)."""
        self.counts: Final = Sequence(self._highest)

    def note(self, number: int) -> None:
        """Count a number."""
        ahead = (number - self._highest) % _MODULUS
        if ahead < _MAX_DROPOUT:
            self._highest += ahead
            self.counts.note(self._highest)
        elif ahead > _MODULUS - _MAX_MISORDER:
            self.counts.note(self._highest + ahead - _MODULUS)
        elif number == self._suspect:
            # The one before it was the first of the new numbers.
            self._highest = _MODULUS + number
            self.counts.restart(self._highest - 1)
            self.counts.note(self._highest)
        else:
            self._suspect = (number + 1) % _MODULUS


@final
class Streams:
    """The numbered streams of one flow: probes and RTP, told apart by source port and identifier (in RTP, the SSRC)."""

    def __init__(self) -> None:
        self._probes: Final[dict[tuple[int, int], ProbeSequence]] = {}
        self._rtp: Final[dict[tuple[int, int], RTPSequence]] = {}
        self._candidates: Final[dict[tuple[int, int, int], list[int]]] = {}
        """By source port, SSRC and payload type: the first number of a run, and the last."""
        self._settled: Final = dict.fromkeys(("expected", *_COUNTS), 0)
        """The counts of streams that are no longer followed."""

    def note(self, source_port: int, payload: bytes, now_ns: int) -> int | None:
        """Count the number in a payload, if there is one. Return when it was sent, if it says so, in nanoseconds."""
        if (probe := parse_probe(payload)) is not None:
            stream, number, sent_ns = probe
            sequence = self._probes.get((source_port, stream))
            if sequence is None:
                self._make_room()
                sequence = self._probes[source_port, stream] = ProbeSequence(number)
            else:
                sequence.note(number)
            sequence.counts.used_ns = now_ns
            return sent_ns
        if payload and payload[0] >> 6 == _VERSION and is_plausible_rtp(payload):
            self._note_rtp(source_port, payload, now_ns)
        return None

    @property
    def is_undecided(self) -> bool:
        """Whether it may be RTP, and too little came to tell."""
        return bool(self._candidates) and not self._probes and not self._rtp

    def names(self) -> tuple[str, ...]:
        """Return the names of the streams: what numbers them, and their identifiers in hexadecimal."""
        return (
            *(f"probe {identifier:08x}" for _, identifier in self._probes),
            *(f"RTP {ssrc:08x}" for _, ssrc in self._rtp),
        )

    def totals(self) -> dict[str, int | None]:
        """Add up the counts of all streams; `None` each if nothing was numbered."""
        followed = [
            *(each.counts for each in self._probes.values()),
            *(each.counts for each in self._rtp.values()),
        ]
        if not followed:
            return dict.fromkeys(self._settled)
        return {what: count + sum(getattr(each, what) for each in followed) for what, count in self._settled.items()}

    def _note_rtp(self, source_port: int, payload: bytes, now_ns: int) -> None:
        number, ssrc = int.from_bytes(payload[2:4]), int.from_bytes(payload[8:12])
        sequence = self._rtp.get((source_port, ssrc))
        if sequence is not None:
            sequence.note(number)
        elif (first := self._prove((source_port, ssrc, payload[1] & 0x7F), number)) is None:
            return
        else:
            self._make_room()
            sequence = self._rtp[source_port, ssrc] = RTPSequence(first)
            for each in range(1, RUN):
                sequence.note((first + each) % _MODULUS)
        sequence.counts.used_ns = now_ns

    def _prove(self, candidate: tuple[int, int, int], number: int) -> int | None:
        """Return the first number of a run that is long enough to be a stream of RTP."""
        run = self._candidates.get(candidate)
        if run is None:
            if len(self._candidates) == _CANDIDATES:
                del self._candidates[next(iter(self._candidates))]
            self._candidates[candidate] = [number, number]
        elif number == (run[1] + 1) % _MODULUS:
            run[1] = number
            if (number - run[0]) % _MODULUS == RUN - 1:
                del self._candidates[candidate]
                return run[0]
        elif number != run[1]:  # A duplicate neither proves nor disproves.
            run[:] = [number, number]
        return None

    def _make_room(self) -> None:
        """If there are too many streams, follow the one no longer that was silent for longest."""
        if len(self._probes) + len(self._rtp) < _STREAMS:
            return
        used = {
            **{(True, key): each.counts for key, each in self._probes.items()},
            **{(False, key): each.counts for key, each in self._rtp.items()},
        }
        is_probe, key = min(used, key=lambda each: used[each].used_ns)
        for what in self._settled:
            self._settled[what] += getattr(used[is_probe, key], what)
        (self._probes if is_probe else self._rtp).pop(key)


def is_plausible_rtp(payload: bytes) -> bool:
    """Tell whether a payload could be an RTP packet of version 2 (RFC 3550 section 5.1, appendix A.1)."""
    if len(payload) < _RTP_HEADER or payload[0] >> 6 != _VERSION or payload[1] in _RTCP:
        return False
    header = _RTP_HEADER + 4 * (payload[0] & 0x0F)
    if payload[0] & 0x10:  # An extension: its length, in words, is the second half of its first word.
        header += 4 + 4 * int.from_bytes(payload[header + 2 : header + 4])
    padding = payload[-1] if payload[0] & 0x20 else 0
    return header + padding <= len(payload)
