"""The demo: three receivers on loopback, six datagrams, and what the kernel says at every step."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import time
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4 import ControlFlags, ControlMessage, SourceFilter, UnsupportedError, interfaces, open_udp
from trio_ipv4._cli.demo import texts
from trio_ipv4._cli.demo.events import Check, Group, Memberships, Received, Sent, Start, Verdict
from trio_ipv4._cli.kernel_tables import Member, read_memberships
from trio_ipv4._cli.output import describe_sources

if TYPE_CHECKING:
    from trio_ipv4 import Datagram, Interface, PacketConn
    from trio_ipv4._cli.demo.events import Event, Show

LIMIT: Final = 20
"""Seconds for everything: far more than the few milliseconds that it takes."""
PATIENCE: Final = 3
"""Seconds to wait for datagrams. On loopback they arrive at once, or never."""
LOOKING: Final = 1
"""Seconds to look for all memberships. While other programs join, the kernel's tables leave out sources."""
RECENT_NS: Final = 60 * 10**9

REFUSED_SOURCE: Final = "127.0.0.2"
HEARD_SOURCE: Final = "127.0.0.1"
# In the order in which they send: what arrives from the second shows that the first was refused, and isn't late.
SENDERS: Final = {REFUSED_SOURCE: 0x28, HEARD_SOURCE: 0xB8}
"""The senders' addresses, each with its TOS: AF11 (RFC 2597) and EF (RFC 3246)."""

LOCAL_SCOPE: Final = ipaddress.IPv4Network("239.255.0.0/16")  # RFC 2365 section 6.1
SOURCE_SPECIFIC: Final = ipaddress.IPv4Network("232.1.0.0/16")  # A part of what hosts may choose (RFC 4607 section 1).
WANTED: Final = {
    "A": (LOCAL_SCOPE, SourceFilter.any()),
    "B": (SOURCE_SPECIFIC, SourceFilter.include(HEARD_SOURCE)),
    "C": (LOCAL_SCOPE, SourceFilter.exclude(REFUSED_SOURCE)),
}
FACTS: Final = ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TTL | ControlFlags.TOS | ControlFlags.TIMESTAMP


class CannotRunError(Exception):
    """Something that the demo needs is missing."""


async def run_demo(show: Show) -> int:
    """Tell the story, and return the exit status: 0 only if the kernel confirmed every step."""
    checks: list[Check] = []
    problems: list[str] = []

    def show_and_count(event: Event) -> None:
        if isinstance(event, Check):
            checks.append(event)
        show(event)

    try:
        with trio.fail_after(LIMIT):
            await _prepare_and_tell(show_and_count)
    except* (OSError, CannotRunError, UnsupportedError) as errors:
        problems += _sentences(errors)
    except* trio.TooSlowError:
        problems.append(f"it has not ended within {LIMIT} seconds")
    verdict = _judge(checks, problems)
    show(verdict)
    return 0 if verdict.ok else 1


async def _prepare_and_tell(show: Show) -> None:
    interface = _find_loopback()
    async with contextlib.AsyncExitStack() as stack:
        # The receivers' connections outlive their memberships: so it is not closing that leaves.
        receivers = {name: await stack.enter_async_context(open_udp(control_flags=FACTS)) for name in WANTED}
        senders = {source: await stack.enter_async_context(open_udp(source)) for source in SENDERS}
        for sender in senders.values():
            sender.multicast_interface = interface
        await Story(show, interface, receivers, senders).tell()


@final
class Story:
    """One telling: groups that nobody is in at the start, and the connections of their receivers and of the senders."""

    def __init__(
        self, show: Show, interface: Interface, receivers: dict[str, PacketConn], senders: dict[str, PacketConn]
    ) -> None:
        self._show: Final = show
        self._interface: Final = interface
        self._receivers: Final = receivers
        self._senders: Final = senders
        self._groups: Final = _choose_groups({name: conn.local_endpoint[1] for name, conn in receivers.items()})
        self._datagrams: Final = self._plan()

    async def tell(self) -> None:
        """Show every step, and check it."""
        title = texts.TITLE.format(version=version_of("trio-ipv4"), interface=self._interface.name)
        self._show(Start(title, texts.INTRODUCTION, self._interface.name, self._interface.index, self._groups))
        self._show(texts.BEFORE)
        self._check_that_nobody_is_a_member("before")
        outbox, inbox = trio.open_memory_channel[Received](64)
        async with trio.open_nursery() as nursery:
            # A step without those before it would show nothing.
            if await self._join(nursery, outbox) and await self._send():
                await self._hear(inbox)
            nursery.cancel_scope.cancel()
        self._show(texts.CANCEL)
        self._check_that_nobody_is_a_member("after")

    def _check_that_nobody_is_a_member(self, when: str) -> None:
        members = self._ask_kernel()
        self._show(Memberships(when, members))
        self._check("None of the groups has a member.", (), tuple(map(_describe_member, members)))

    async def _join(self, nursery: trio.Nursery, outbox: trio.MemorySendChannel[Received]) -> bool:
        self._show(texts.JOIN)
        refusals: dict[str, tuple[str, ...]] = {}
        for group in self._groups:
            try:
                await nursery.start(self._receive, group, outbox)
            except OSError as refused:
                refusals[group.name] = (_sentence(refused),)
        wanted = {
            group.name: Member(group.address, self._interface.name, self._interface.index, 1, group.mode, group.sources)
            for group in self._groups
        }
        members = self._ask_kernel()
        with trio.move_on_after(0 if refusals else LOOKING):
            while not {*wanted.values()} <= {*members}:
                await trio.sleep(LOOKING / 100)
                members = self._ask_kernel()
        self._show(Memberships("during", members))
        results = []
        for group in self._groups:
            expected = wanted[group.name]
            seen = tuple(_describe_member(member) for member in members if member.group == group.address)
            what = f"The receiver of {group.name} is a member, and hears {describe_sources(group.mode, group.sources)}."
            results.append(self._check(what, (_describe_member(expected),), seen + refusals.get(group.name, ())))
        return all(results)

    async def _receive(
        self, group: Group, outbox: trio.MemorySendChannel[Received], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Hear a group until this task is cancelled."""
        conn = self._receivers[group.name]
        async with conn.joined(self._interface, group.address, sources=WANTED[group.name][1]):
            task_status.started()
            async for datagram in conn:
                await outbox.send(self._to_event(group, datagram))

    async def _send(self) -> bool:
        self._show(texts.SEND)
        refusals = []
        for sent in self._datagrams:
            control = ControlMessage(ttl=sent.ttl, tos=sent.tos)
            try:
                await self._senders[sent.source].send_to(
                    _payload(sent.number), (sent.destination, sent.port), control=control
                )
            except OSError as refused:
                refusals.append(f"{sent.number}: {_sentence(refused)}")
            else:
                self._show(sent)
        return self._check(f"The kernel took all {len(self._datagrams)} datagrams.", (), tuple(refusals))

    async def _hear(self, inbox: trio.MemoryReceiveChannel[Received]) -> None:
        self._show(texts.HEAR)
        # To each group, the last datagram is one that its receiver should hear: with that, all is there.
        waiting = set({sent.destination: sent.number for sent in self._datagrams}.values())
        heard = []
        with trio.move_on_after(PATIENCE):
            while waiting:
                received = await inbox.receive()
                self._show(received)
                heard.append(received)
                waiting.discard(received.number)
        for group in self._groups:
            self._check_what_was_heard(group, [received for received in heard if received.receiver == group.name])

    def _check_what_was_heard(self, group: Group, heard: list[Received]) -> None:
        to_group = [sent for sent in self._datagrams if sent.destination == group.address]
        expected = [sent for sent in to_group if sent.should_arrive]
        refused = [str(sent.number) for sent in to_group if not sent.should_arrive]
        what = f"The receiver of {group.name} heard {' and '.join(str(sent.number) for sent in expected)}, as sent"
        self._check(
            f"{what}, and not {' and '.join(refused)}." if refused else f"{what}.",
            tuple(self._describe_sent(sent) for sent in expected),
            tuple(map(_describe_received, heard)),
        )

    def _check(self, what: str, expected: tuple[str, ...], seen: tuple[str, ...]) -> bool:
        ok = expected == seen
        self._show(Check(what, ok, expected, seen))
        return ok

    def _ask_kernel(self) -> tuple[Member, ...]:
        members = _read_memberships()
        return tuple(member for group in self._groups for member in members if member.group == group.address)

    def _plan(self) -> tuple[Sent, ...]:
        """Return what is to be sent: to each group, one datagram from each sender."""
        pairs = [(group, source) for group in self._groups for source in SENDERS]
        return tuple(
            Sent(
                number,
                source,
                group.address,
                group.port,
                ttl=10 + number,
                tos=SENDERS[source],
                should_arrive=WANTED[group.name][1].accepts(source),
            )
            for number, (group, source) in enumerate(pairs, start=1)
        )

    def _to_event(self, group: Group, datagram: Datagram) -> Received:
        control = datagram.control
        here = control.ifindex == self._interface.index
        return Received(
            next((sent.number for sent in self._datagrams if _payload(sent.number) == datagram.payload), None),
            group.name,
            datagram.peer[0],
            datagram.peer[1],
            None if control.dst is None else str(control.dst),
            group.port,
            self._interface.name if here else None,
            control.ifindex,
            control.ttl,
            control.tos,
            control.timestamp_ns,
        )

    def _describe_sent(self, sent: Sent) -> str:
        """Describe a datagram as it should arrive."""
        interface = f"{self._interface.name} ({self._interface.index})"
        facts = sent.number, sent.source, sent.destination, interface, sent.ttl, sent.tos
        return _describe(*facts, "within the last minute")


def _choose_groups(ports: dict[str, int]) -> tuple[Group, ...]:
    """Choose groups that nobody on this machine is in, so that several demos can run at once."""
    taken = {member.group for member in _read_memberships()}
    groups = []
    for name, (network, sources) in WANTED.items():
        address = _random_address(network)
        while address in taken:
            address = _random_address(network)
        taken.add(address)
        listed = tuple(sorted(map(str, sources.sources)))
        groups.append(Group(name, address, ports[name], sources.mode.value, listed))
    return tuple(groups)


def _random_address(network: ipaddress.IPv4Network) -> str:
    return str(network[random.randrange(network.num_addresses)])


def _find_loopback() -> Interface:
    loopback = next((each for each in interfaces() if each.is_loopback), None)
    if loopback is None:
        raise CannotRunError(texts.NO_LOOPBACK)
    if not loopback.is_up:
        raise CannotRunError(texts.DOWN.format(interface=loopback.name))
    return loopback


def _read_memberships() -> tuple[Member, ...]:
    try:
        return read_memberships()
    except OSError as error:
        raise CannotRunError(texts.NO_TABLES.format(error=error.strerror)) from None


def _payload(number: int) -> bytes:
    return f"datagram {number} of the demo".encode()


def _describe_member(member: Member) -> str:
    sockets = "1 socket" if member.sockets == 1 else f"{member.sockets} sockets"
    sources = describe_sources(member.mode, member.sources)
    return f"{member.group} on {member.interface} ({member.ifindex}), {sockets}, hears {sources}"


def _describe_received(received: Received) -> str:
    recent = received.timestamp_ns is not None and abs(time.time_ns() - received.timestamp_ns) < RECENT_NS
    return _describe(
        received.number,
        received.source,
        received.destination,
        f"{received.interface} ({received.ifindex})",
        received.ttl,
        received.tos,
        "within the last minute" if recent else f"at {received.timestamp_ns} ns",
    )


def _describe(*facts: object) -> str:
    number, source, destination, interface, ttl, tos, stamped = facts
    return f"{number} from {source} to {destination} on {interface}, TTL {ttl}, TOS {tos}, stamped {stamped}"


def _sentences(errors: BaseExceptionGroup[Exception]) -> list[str]:
    """Return a sentence for each error, which may be in groups within groups: nurseries make them."""
    found = []
    for error in errors.exceptions:
        found += _sentences(error) if isinstance(error, BaseExceptionGroup) else [_sentence(error)]
    return found


def _sentence(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _judge(checks: list[Check], problems: list[str]) -> Verdict:
    failed = sum(not check.ok for check in checks)
    if problems:
        text = texts.BROKEN.format(problem="; ".join(problems))
    elif failed:
        text = texts.REFUTED.format(failed=failed, checks=len(checks))
    else:
        text = texts.CONFIRMED.format(checks=len(checks))
    return Verdict(not problems and not failed, len(checks), failed, text)
