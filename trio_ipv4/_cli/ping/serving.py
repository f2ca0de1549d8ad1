"""The side that answers: by unicast, and by multicast in the group that the request names.

It must be of no use to those who forge the sender's address. So an answer is at most three times as long as its
request, and usually as long. There is a limit of requests in a second, in which long ones count for several. Answers
are never answered, and multicast goes only to groups that are meant for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version as version_of
from ipaddress import IPv4Address
from typing import Any, Final, final

import attrs
import trio

from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    Interface,
    InterfaceChangeKind,
    PacketConn,
    ParseError,
    follow_group,
    interface_by_name,
    interfaces,
    open_udp,
    watch_interfaces,
)
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.output import Output, reason_of
from trio_ipv4._cli.ping.allowance import Allowance
from trio_ipv4._cli.ping.protocol import (
    ANSWER_TTL,
    DEFAULT_GROUP,
    Kind,
    Message,
    is_source_specific,
    make_answer,
    may_answer_in,
    parse_message,
)
from trio_ipv4._cli.ping.records import ClientCame, ServingStarted, ServingSummary
from trio_ipv4._cli.ping.remarks import Remarks

_FACTS: Final = ControlFlags.DST | ControlFlags.INTERFACE
_CLIENTS: Final = 1024
"""How many clients are remembered."""
_IN_A_PACKET: Final = 1472
"""Octets of UDP payload that Ethernet carries in a packet: 1500 (RFC 894) without an IP and a UDP header."""


@attrs.frozen
class Serving:
    """What to answer.

    Args:
        groups: The groups in which requests are heard, and in which answers may be given.
        interfaces: The names of the interfaces on which requests count; none: all.
        port: The port.
        limit: How many requests are answered in a second. One whose answer takes several packets counts as so many.
        seconds: How long to go on.
    """

    groups: tuple[IPv4Address, ...]
    interfaces: tuple[str, ...]
    port: int
    limit: int
    seconds: float | None


async def serve(
    output: Output, serving: Serving, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> int:
    """Answer until stopped. Return the exit status."""
    responder = _Responder(output, serving)
    async with until_stopped(serving.seconds) as stop:
        await responder.run(task_status)
    output.show(responder.summary())
    return stop.status(Status.DONE)


@final
class _Responder:
    def __init__(self, output: Output, serving: Serving) -> None:
        self._output: Final = output
        self._serving: Final = serving
        self._groups: Final = frozenset(serving.groups)
        self._version: Final = f"trio-ipv4 {version_of('trio-ipv4')}"
        self._begun: Final = trio.current_time()
        self._allowance: Final = Allowance(serving.limit, self._begun)
        self._interfaces: Final[dict[int, Interface]] = {}
        self._clients: Final[OrderedDict[tuple[str, int], None]] = OrderedDict()
        more = "There is more that is not done for strangers. It is not told, but counted."
        self._remarks: Final = Remarks(output, more)
        self._came = self._requests = self._by_unicast = self._by_multicast = 0
        self._ignored = self._over_limit = self._refused = self._drops = 0

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Answer."""
        for name in self._serving.interfaces:
            interface_by_name(name)  # Raises if there is none.
        serving = self._serving
        async with _open(serving.port) as conn, trio.open_nursery() as nursery:
            conn.ttl = conn.multicast_ttl = ANSWER_TTL
            await nursery.start(self._watch)
            # One that names no interfaces hears the groups on all that the library takes by default.
            limits: dict[str, Any] = {"where": self._matches} if serving.interfaces else {}
            for group in serving.groups:
                # Anybody may ask: a group whose members name their sources can't be joined.
                if not is_source_specific(group):
                    await nursery.start(functools.partial(follow_group, conn, group, **limits))
            own = tuple(self._own_addresses())
            self._output.show(ServingStarted(serving.port, serving.groups, serving.interfaces, serving.limit, own))
            task_status.started()
            try:
                async for datagram in conn:
                    await self._take(conn, datagram)
            finally:
                self._drops = conn.drops

    def summary(self) -> ServingSummary:
        """Return what was done."""
        return ServingSummary(
            clients=self._came,
            requests=self._requests,
            answered_by_unicast=self._by_unicast,
            answered_by_multicast=self._by_multicast,
            ignored=self._ignored,
            over_limit=self._over_limit,
            refused=self._refused,
            drops=self._drops,
            seconds=trio.current_time() - self._begun,
        )

    async def _watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the table of interfaces."""
        async with watch_interfaces() as changes:
            # Those that are there come as changes, too, but later than the first request may.
            self._interfaces.update({each.index: each for each in interfaces()})
            task_status.started()
            async for change in changes:
                if change.kind is InterfaceChangeKind.REMOVED:
                    self._interfaces.pop(change.interface.index, None)
                else:
                    self._interfaces[change.interface.index] = change.interface

    def _matches(self, interface: Interface) -> bool:
        return is_named(interface, self._serving.interfaces)

    def _own_addresses(self) -> Iterator[IPv4Address]:
        """Return the addresses at which this host can be asked from elsewhere."""
        for each in self._interfaces.values():
            if each.is_up and not each.is_loopback and (not self._serving.interfaces or self._matches(each)):
                yield from (address.ip for address in each.addresses)

    async def _take(self, conn: PacketConn, datagram: Datagram) -> None:
        request = self._read(datagram)
        if request is None:
            self._ignored += 1
            return
        self._requests += 1
        octets = make_answer(request, self._version).marshal()
        if not self._allowance.take(trio.current_time(), -(-len(octets) // _IN_A_PACKET)):
            self._over_limit += 1
            limit = self._serving.limit
            self._remarks.tell(f"More than {limit} requests in a second: the rest is not answered (--limit).")
            return
        group = request.group or DEFAULT_GROUP
        may = may_answer_in(group, self._groups)
        self._note_client(datagram, group, may=may)
        self._by_unicast += await self._send(conn, datagram.reply(octets))
        if may:
            control = self._way(datagram.control)
            answer = Datagram(octets, (str(group), datagram.peer[1]), control=control)
            self._by_multicast += await self._send(conn, answer)

    def _read(self, datagram: Datagram) -> Message | None:
        """Return the request, if it is one, and came to an address of this host, or a group of its own."""
        facts, (sender, port) = datagram.control, datagram.peer
        if sender == "0.0.0.0" or port == 0:
            return None  # Nobody there can be answered.
        if facts.dst is None or not (facts.dst.is_multicast or facts.dst == facts.local):
            return None  # Broadcast.
        interface = self._interfaces.get(facts.ifindex or 0)
        if self._serving.interfaces and (interface is None or not self._matches(interface)):
            return None
        try:
            message = parse_message(datagram.payload)
        except ParseError:
            return None
        return message if message.kind is Kind.REQUEST else None

    def _note_client(self, datagram: Datagram, group: IPv4Address, *, may: bool) -> None:
        """Show a client that is new."""
        is_known = datagram.peer in self._clients
        self._clients[datagram.peer] = None
        self._clients.move_to_end(datagram.peer)
        if is_known:
            return
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        self._came += 1
        facts = datagram.control
        interface = self._interfaces.get(facts.ifindex or 0)
        name = f"#{facts.ifindex}" if interface is None else interface.name
        address, port = datagram.peer
        assert facts.dst is not None
        size = len(datagram.payload)
        self._output.show(ClientCame(IPv4Address(address), port, facts.dst, name, group, may, size))
        if not may:
            words = f"Multicast to {group} is not for strangers to ask for: allow it by '--serve {group}'."
            self._remarks.tell(words)

    def _way(self, asked: ControlMessage) -> ControlMessage:
        """Return from which address, and on which interface, multicast answers go: the address that was asked.

        The interface is that on which the request came. A request of this host itself came by the loopback interface;
        then the kernel chooses that of the address.
        """
        if asked.dst is not None and asked.dst.is_multicast:
            return ControlMessage(ifindex=asked.ifindex)
        interface = self._interfaces.get(asked.ifindex or 0)
        is_own = interface is not None and interface.is_loopback
        return ControlMessage(src=asked.local, ifindex=None if is_own else asked.ifindex)

    async def _send(self, conn: PacketConn, answer: Datagram) -> bool:
        try:
            await conn.send(answer)
        except OSError as error:
            self._refused += 1
            self._remarks.tell(f"Not answered: {reason_of(error)}", about=error.errno)
            return False
        return True


@contextlib.asynccontextmanager
async def _open(port: int) -> AsyncIterator[PacketConn]:
    try:
        conn = open_udp("0.0.0.0", port, control_flags=_FACTS)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        words = (
            f"UDP port {port} is taken on this host: another responder runs, such as ssmpingd. Stop it, or choose "
            "another port for both sides by --port"
        )
        raise OSError(errno.EADDRINUSE, words) from None
    async with conn:
        yield conn
