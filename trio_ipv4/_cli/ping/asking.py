"""The side that asks: requests go out at intervals, answers and errors come in.

One socket does all. Its port is the kernel's choice, and answers by multicast come to that port, too. So several runs
on one host don't hear each other. Of groups it hears only what it joined itself (IP_MULTICAST_ALL is off).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import random
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_ipv4 import (
    ControlFlags,
    Datagram,
    Interface,
    PacketConn,
    ParseError,
    SocketError,
    SourceFilter,
    UnreachableCode,
    UnsupportedError,
    follow_group,
    interface_by_name,
    interfaces,
    open_udp,
)
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.output import Output, reason_of
from trio_ipv4._cli.ping.plan import Asking, Course, advise, describe_group
from trio_ipv4._cli.ping.protocol import ANSWER_TTL, LAST_OCTET, Kind, Message, find_number, parse_message
from trio_ipv4._cli.ping.records import (
    Answer,
    Hint,
    Loss,
    MulticastCame,
    PingStarted,
    PingSummary,
    ResponderFound,
    Statistics,
)
from trio_ipv4._cli.ping.remarks import Remarks
from trio_ipv4._cli.ping.statistics import KINDS, Book, Figures, Finding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_FACTS: Final = ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TTL | ControlFlags.TIMESTAMP
STATUSES: Final = {
    Finding.BOTH: Status.DONE,
    Finding.UNICAST_ONLY: Status.NEGATIVE,
    Finding.MIXED: Status.NEGATIVE,
    Finding.MULTICAST_ONLY: Status.MULTICAST_ONLY,
    Finding.NOTHING: Status.NOTHING,
}
"""Which exit status a finding has."""
_LONGEST_IN_QUEUE: Final = 1.0
"""In seconds. An answer that seems to have lain in the socket for longer was stamped by a clock that has been set."""
_NUMBERS: Final = 1 << 32


async def ask(output: Output, asking: Asking) -> int:
    """Ask until all requests had their time, or until stopped. Return the exit status."""
    client = _Client(output, asking)
    async with until_stopped(asking.seconds) as stop:
        await client.run()
    return stop.status(client.conclude())


@final
class _Client:
    def __init__(self, output: Output, asking: Asking) -> None:
        self._output: Final = output
        self._asking: Final = asking
        self._run: Final = random.getrandbits(32)
        """Random: process numbers, which ssmping takes, may be the same on two hosts that hear one group."""
        self._book: Final = Book(asking.wait, None if asking.target.is_multicast else asking.target)
        self._begun = self._joined = trio.current_time()
        self._errors = 0
        self._ignored = 0
        self._known: Final[set[IPv4Address]] = set()
        self._remarks: Final = Remarks(output, "There is more like this. It is not told, but counted.")
        self._names: frozenset[str] = frozenset(asking.interfaces)
        """Of the interfaces to join on; none: all that can hear multicast."""
        self._last_answers = trio.CancelScope()
        self._is_joined = self._has_asked_all = self._is_member = False
        self._last_asked = self._begun
        self._unreachable: SocketError | None = None
        """The latest error that says why requests can't be delivered."""
        self._drops = 0

    async def run(self) -> None:
        """Ask, and show the answers."""
        async with open_udp(control_flags=_FACTS) as conn:
            conn.ttl = conn.multicast_ttl = self._asking.ttl
            conn.report_errors = True
            try:
                async with self._member(conn), trio.open_nursery() as nursery:
                    self._joined, self._is_joined = trio.current_time(), True
                    nursery.start_soon(self._receive, conn)
                    nursery.start_soon(self._receive_errors, conn)
                    await self._ask_all(conn)
                    nursery.cancel_scope.cancel()
            finally:
                self._drops = conn.drops

    def conclude(self) -> int:
        """Show figures and finding; return the exit status."""
        now, finding, asking = trio.current_time(), self._book.finding(), self._asking
        figures = self._book.figures(now)
        self._output.table(list(map(self._to_row, figures)))
        summary = PingSummary(
            finding.value,
            asking.target,
            asking.group,
            self._book.sent,
            self._book.responders if finding is not Finding.NOTHING else (),
            self._errors,
            self._ignored,
            self._drops,
            tuple(loss for kind in KINDS if (loss := _sum_up(figures, kind)).lost),
            now - self._begun,
        )
        self._output.show(summary)
        if finding is not Finding.BOTH:
            self._output.show(Hint(advise(finding, asking, self._course())))
        return STATUSES[finding]

    def _course(self) -> Course:
        own = [address.ip for interface in interfaces() for address in interface.addresses]
        asked_for, told = self._last_asked - self._joined, self._unreachable
        return Course(self._is_member, asked_for, told and told.offender, told and told.icmp_code, own)

    # Memberships

    @contextlib.asynccontextmanager
    async def _member(self, conn: PacketConn) -> AsyncIterator[None]:
        """Hear the answers in the group."""
        for name in self._asking.interfaces:
            interface_by_name(name)  # Raises if there is none.
        asking = self._asking
        if not asking.target.is_multicast and not self._names:
            self._names = frozenset(await _interface_towards(asking.target, asking.port))
        if self._names and not any(map(self._matches, interfaces())):
            raise self._no_interface()
        if self._names or asking.target.is_multicast:
            follow = functools.partial(
                follow_group,
                conn,
                asking.group,
                sources=asking.sources,
                on_refusal=self._note_refusal,
                **self._limits,
            )
            async with trio.open_nursery() as nursery:
                joined: tuple[Interface, ...] = await nursery.start(follow)
                self._tell_start([each.name for each in joined])
                yield
                nursery.cancel_scope.cancel()
        else:  # The kernel chooses by its routes.
            async with conn.joined(None, asking.group, sources=asking.sources) as membership:
                self._tell_start([each.name for each in interfaces() if each.index == membership.interface])
                yield

    def _tell_start(self, names: list[str]) -> None:
        asking, self._is_member = self._asking, bool(names)
        octets = asking.sizes or (len(asking.make_request(0, 1).marshal()),)
        is_specific = asking.sources != SourceFilter.any()
        start = PingStarted(asking.target, asking.port, asking.group, is_specific, tuple(names), octets, asking.ttl)
        self._output.show(start)
        if not asking.target.is_multicast and asking.group.packed[-1] != LAST_OCTET:
            self._output.show(Hint(describe_group(asking.group)))

    def _note_refusal(self, interface: Interface, error: OSError) -> None:
        """Give up if the join that all depends on is refused at the start."""
        if not self._is_joined and not self._asking.target.is_multicast:
            raise error
        self._remarks.tell(f"Not joined on {interface.name}: {reason_of(error)}")

    @property
    def _limits(self) -> dict[str, Any]:
        """What limits the interfaces; nothing: all that can hear multicast, which is the library's default."""
        return {"where": self._matches} if self._names else {}

    def _matches(self, interface: Interface) -> bool:
        return interface.is_up and is_named(interface, self._names)

    def _no_interface(self) -> OSError:
        words = "no interface is set up and supports multicast: name one by --interface"
        if self._names:
            names = sorted(self._names)
            is_, how = "is" if len(names) == 1 else "are", ", ".join(f"'ip link set {name} up'" for name in names)
            words = f"{', '.join(names)} {is_} not set up: {how}"
        return OSError(errno.ENETDOWN if self._names else errno.ENODEV, words)

    # Requests

    async def _ask_all(self, conn: PacketConn) -> None:
        numbers = itertools.count(1) if self._asking.count is None else range(1, self._asking.count + 1)
        due = trio.current_time()
        for number in numbers:
            await trio.sleep_until(due)
            await self._ask(conn, number % _NUMBERS)
            due = max(due + self._asking.interval, trio.current_time())
        self._has_asked_all = True
        self._set_deadline()
        with self._last_answers:
            await trio.sleep_forever()

    async def _ask(self, conn: PacketConn, number: int) -> None:
        octets = self._asking.make_request(self._run, number).marshal()
        self._last_asked = trio.current_time()
        self._book.ask(number, len(octets), self._last_asked)
        try:
            await self._send(conn, Datagram(octets, (str(self._asking.target), self._asking.port)))
        except BaseException as error:
            self._book.withdraw(number)
            if number == 1 or not isinstance(error, OSError):
                raise
            self._show_error(number, None, reason_of(error))

    async def _send(self, conn: PacketConn, datagram: Datagram) -> None:
        """Send a request. To a group it goes on every interface; those that refuse are told of once."""
        if not self._asking.target.is_multicast:
            await conn.send(datagram)
            return
        outcomes = await conn.send_everywhere(datagram, **self._limits)
        refusals = {interface.name: error for interface, error in outcomes.items() if error is not None}
        if len(refusals) == len(outcomes):
            # Nowhere: then one of the refusals is the error, or that nothing matched.
            raise next(iter(refusals.values()), self._no_interface())
        for name, error in refusals.items():
            self._remarks.tell(f"Not asked on {name}: {reason_of(error)}")

    # Answers

    async def _receive(self, conn: PacketConn) -> None:
        async for datagram in conn:
            if not self._take(datagram):
                self._ignored += 1

    def _take(self, datagram: Datagram) -> bool:
        """Show an answer; return False if it is none of ours."""
        try:
            message = parse_message(datagram.payload)
        except ParseError:
            return False
        address, number, facts = IPv4Address(datagram.peer[0]), message.number, datagram.control
        if message.kind is not Kind.ANSWER or message.run != self._run or number is None:
            return False
        if not self._asking.target.is_multicast and address != self._asking.target:
            words = f"{address} has answered, which was not asked. Does {self._asking.target} belong to it?"
            self._remarks.tell(words)
            return False
        kind = "multicast" if facts.dst is not None and facts.dst.is_multicast else "unicast"
        at = trio.current_time() - time_in_queue(facts.timestamp_ns)
        hops = to_hops(facts.ttl)
        heard = self._book.take(number, address, kind, at, hops)
        if heard is None:
            return False
        self._introduce(address, message)
        size = len(datagram.payload)
        late, again = heard.is_late, heard.is_duplicate
        self._output.show(
            Answer(number, address, kind, heard.round_trip, hops, facts.ttl, size, late, again, error=None)
        )
        if heard.is_first and kind == "multicast":
            self._output.show(MulticastCame(address, number, at - self._joined))
        # Neither a duplicate changes what is awaited, nor does any answer in a group.
        if not again and not self._asking.target.is_multicast:
            self._set_deadline()
        return True

    def _introduce(self, responder: IPv4Address, message: Message) -> None:
        if responder not in self._known and message.version is not None:
            self._output.show(ResponderFound(responder, message.version))
        self._known.add(responder)

    def _set_deadline(self) -> None:
        """Wait no longer than an answer may come."""
        if self._has_asked_all:
            self._last_answers.deadline = self._book.open_until()

    # Errors

    async def _receive_errors(self, conn: PacketConn) -> None:
        while True:
            error = await conn.receive_error()
            number = find_number(error.payload, self._run)
            if isinstance(error.icmp_code, UnreachableCode):
                self._unreachable = error
            self._show_error(number, error.offender, error.reason)

    def _show_error(self, number: int | None, teller: IPv4Address | None, words: str) -> None:
        self._errors += 1
        self._output.show(
            Answer(number, teller, "error", None, None, None, None, late=False, duplicate=False, error=words)
        )

    def _to_row(self, figures: Figures) -> Statistics:
        first = None if figures.first is None else figures.first - self._joined
        return Statistics(
            responder=figures.responder,
            kind=figures.kind,
            octets=figures.octets,
            sent=figures.sent,
            received=figures.received,
            lost=figures.lost,
            lost_before_first=figures.lost_before_first,
            pending=figures.pending,
            late=figures.late,
            duplicates=figures.duplicates,
            min_seconds=figures.least,
            mean_seconds=figures.mean,
            max_seconds=figures.most,
            deviation_seconds=figures.deviation,
            hops=figures.hops,
            first_number=figures.first_number,
            first_seconds_after_join=first,
        )


async def _interface_towards(target: IPv4Address, port: int) -> list[str]:
    """Return the name of the interface to which the route to an address leads; nothing: the kernel may choose.

    The multicast of a source comes from where the routes to it lead (reverse-path forwarding, RFC 7761 section 4).
    """
    try:
        async with open_udp() as conn:
            await conn.socket.connect((str(target), port))  # Nothing is sent.
            source = IPv4Address(conn.local_endpoint[0])
    except OSError as error:
        raise OSError(error.errno, f"can't ask {target}: {error.strerror}") from None
    except UnsupportedError:  # A simulated network.
        return []
    own = [each for each in interfaces() if any(source == address.ip for address in each.addresses)]
    # A router may have its own address on the loopback interface, where nobody else is heard.
    return [each.name for each in own if not each.is_loopback or any(target in net.network for net in each.addresses)]


def time_in_queue(timestamp_ns: int | None) -> float:
    """Return for how long a datagram lay in the socket before it was read, in seconds."""
    if timestamp_ns is None:
        return 0.0
    seconds = (time.time_ns() - timestamp_ns) / 1e9
    return seconds if 0 <= seconds < _LONGEST_IN_QUEUE else 0.0


def to_hops(ttl: int | None) -> int | None:
    """Return how many routers an answer has passed; `None` if its TTL was another one from the start."""
    return ANSWER_TTL - ttl if ttl is not None and ttl <= ANSWER_TTL else None


def _sum_up(figures: Sequence[Figures], kind: str) -> Loss:
    """Return how many answers of a kind are missing, from all responders."""
    of_kind = [each for each in figures if each.kind == kind]
    return Loss(
        kind,
        lost=sum(each.lost for each in of_kind),
        of=sum(each.received + each.lost for each in of_kind),
        before_first=sum(each.lost_before_first for each in of_kind),
    )
