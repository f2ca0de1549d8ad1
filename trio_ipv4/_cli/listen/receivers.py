"""The connections: one for each group and port, bound to the group, so that unicast to the port stays with others.

A socket of its own for each group has a limit of memberships and a count of drops of its own, too.
"""

from __future__ import annotations

import contextlib
import socket
import warnings
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from trio_ipv4 import (
    CappedBufferWarning,
    ControlFlags,
    ControlMessage,
    Datagram,
    PacketConn,
    interfaces,
    open_ip,
    open_udp,
    watch_interfaces,
)
from trio_ipv4._cli.listen.flows import FlowKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ipv4._cli.arguments import GroupPort
    from trio_ipv4._cli.listen.flows import Flow, FlowTable

DEFAULT_BUFFER: Final = 4 << 20
"""In octets: at 100,000 datagrams a second, a tenth of a second of small ones."""
_FACTS: Final = ControlFlags.TTL | ControlFlags.TOS | ControlFlags.TIMESTAMP | ControlFlags.DST | ControlFlags.INTERFACE
_UDP_HEADER: Final = 8  # RFC 768
_BATCH: Final = 1024
"""The most that one call of the kernel takes (UIO_MAXIOV)."""
_MAX_ORIGINS: Final = 20_000
_MOST_QUEUED: Final = 1 << 22
"""More datagrams than any receive buffer holds: one takes some 256 octets of it at least (struct sk_buff)."""
_COUNTER: Final = 1 << 32
"""The kernel's counter of drops has 32 bits."""


@attrs.frozen
class Origin:
    """Where datagrams come from and go to, with the flow that counts them."""

    group: IPv4Address
    port: int
    source: IPv4Address
    source_port: int
    interface: str
    flow: Flow = attrs.field(repr=False)


class Sink(Protocol):
    """What is done with each datagram beside counting it."""

    def __call__(self, origin: Origin, payload: bytes, control: ControlMessage, /) -> None: ...


@final
class Names:
    """The interfaces' names by index, as they change."""

    def __init__(self) -> None:
        self._names: Final = {each.index: each.name for each in interfaces()}
        self.at_change: Final[list[Callable[[], None]]] = []

    def __getitem__(self, index: int | None) -> str:
        return self._names.get(index or 0) or f"#{index}"

    async def follow(self) -> None:
        """Keep them up to date."""
        async with watch_interfaces() as changes:
            async for change in changes:
                # A name stays when its interface goes: datagrams from there may still be queued.
                if self._names.get(change.interface.index) != change.interface.name:
                    self._names[change.interface.index] = change.interface.name
                    for tell in self.at_change:
                        tell()


@final
class Quota:
    """How many datagrams are taken, at most."""

    def __init__(self, count: int | None) -> None:
        self._left = count
        self.at_end: Callable[[], None] = lambda: None

    @property
    def is_used_up(self) -> bool:
        """Whether all were taken."""
        return self._left == 0

    def cut(self, batch: Sequence[Datagram]) -> Sequence[Datagram]:
        """Return as much of a batch as may be taken."""
        if self._left is None:
            return batch
        taken = batch[: self._left]
        self._left -= len(taken)
        if self._left == 0:
            self.at_end()
        return taken


class Receiver:
    """Receives what comes to one group and port.

    Args:
        endpoint: The group, and the port.
        conn: A connection that is bound there.
        flows: Where they are counted.
        names: The interfaces' names.
        quota: How many may come.
        sinks: What else is done with each.
    """

    def __init__(
        self, endpoint: GroupPort, conn: PacketConn, flows: FlowTable, names: Names, quota: Quota, sinks: Sequence[Sink]
    ) -> None:
        self.endpoint: Final = endpoint
        self.conn: Final = conn
        self.datagrams = 0
        self.dropped = 0
        self._drops = 0
        self._flows: Final = flows
        self._names: Final = names
        self._quota: Final = quota
        self._sinks: Final = tuple(sinks)
        self._origins: Final[dict[object, Origin]] = {}
        names.at_change.append(self._origins.clear)

    async def run(self) -> None:
        """Receive until cancelled."""
        async for batch in self.conn.batches(_BATCH):
            self.take(batch)

    def drain(self) -> None:
        """Take what is queued, once the group was left."""
        with contextlib.suppress(trio.WouldBlock):
            for _ in range(_MOST_QUEUED):
                if self._quota.is_used_up:
                    return
                self.take([self.conn.receive_nowait()])

    def count_drops(self) -> int:
        """Return how many datagrams the kernel dropped at the socket since the last time."""
        before, self._drops = self._drops, self.conn.drops
        new = (self._drops - before) % _COUNTER
        self.dropped += new
        return new

    def take(self, batch: Sequence[Datagram]) -> None:
        """Count datagrams."""
        origins, sinks = self._origins, self._sinks
        taken = self._quota.cut(self._choose(batch))
        self.datagrams += len(taken)
        for datagram in taken:
            control = datagram.control
            key, payload = self._split(datagram)
            origin = origins.get(key)
            if origin is None:
                origin = self._find(key, datagram)
            origin.flow.note(origin.source_port, payload, control.ttl, control.tos, control.timestamp_ns or 0)
            for sink in sinks:
                sink(origin, payload, control)

    def _choose(self, batch: Sequence[Datagram]) -> Sequence[Datagram]:
        """Return those that are datagrams of UDP."""
        return batch

    def _split(self, datagram: Datagram) -> tuple[object, bytes]:
        """Return what tells a datagram's origin from others, and its payload."""
        return (datagram.peer, datagram.control.ifindex), datagram.payload

    def _ports(self, datagram: Datagram) -> tuple[int, int]:
        """Return the port from which a datagram came, and the one to which it went."""
        return datagram.peer[1], self.endpoint.port or 0

    def _find(self, key: object, datagram: Datagram) -> Origin:
        source_port, port = self._ports(datagram)
        if len(self._origins) >= _MAX_ORIGINS:
            self._origins.clear()
        source, interface = IPv4Address(datagram.peer[0]), self._names[datagram.control.ifindex]
        flow = self._flows.find(FlowKey(self.endpoint.group, port, source, interface))
        origin = Origin(self.endpoint.group, port, source, source_port, interface, flow)
        self._origins[key] = origin
        return origin


@final
class AnyPortReceiver(Receiver):
    """Receives what comes to one group on every port, by raw IP. The kernel does not look at UDP's checksum then."""

    def _choose(self, batch: Sequence[Datagram]) -> Sequence[Datagram]:
        """Return those whose UDP header tells a length that can be."""
        return [each for each in batch if _UDP_HEADER <= int.from_bytes(each.payload[4:6]) <= len(each.payload)]

    def _split(self, datagram: Datagram) -> tuple[object, bytes]:
        """Return what tells a datagram's origin from others, its ports too, and its payload."""
        segment = datagram.payload
        payload = segment[_UDP_HEADER : int.from_bytes(segment[4:6])]
        return (datagram.peer, datagram.control.ifindex, segment[:4]), payload

    def _ports(self, datagram: Datagram) -> tuple[int, int]:
        """Return the ports of the UDP header."""
        return int.from_bytes(datagram.payload[:2]), int.from_bytes(datagram.payload[2:4])


def open_connection(endpoint: GroupPort, buffer: int | None, stack: contextlib.ExitStack) -> PacketConn:
    """Open a connection for a group and port.

    Args:
        endpoint: The group, and the port; `None` for every port.
        buffer: The size of the receive buffer, in octets; by default `DEFAULT_BUFFER`, or what the kernel grants of it.
        stack: It closes the connection at its end.

    Raises:
        OSError: As `open_udp`. PermissionError: every port, without CAP_NET_RAW.
    """
    group, port = str(endpoint.group), endpoint.port
    if port is None:
        conn = _open_every_port(group)
    else:
        conn = open_udp(group, port, bind_group=True, share_port=True, control_flags=_FACTS)
    stack.callback(conn.close)
    with warnings.catch_warnings():
        if buffer is None:
            # Nobody asked for just this size. If it is too small, the drops tell.
            warnings.simplefilter("ignore", CappedBufferWarning)
        conn.receive_buffer_size = buffer or DEFAULT_BUFFER
    return conn


def _open_every_port(group: str) -> PacketConn:
    try:
        return open_ip(socket.IPPROTO_UDP, group, control_flags=_FACTS)
    except PermissionError as refusal:
        reason = f"{group} without a port takes every UDP port by a raw socket, which needs CAP_NET_RAW"
        raise PermissionError(refusal.errno, f"{reason}: name a port, as {group}:5000, or run as root") from refusal
