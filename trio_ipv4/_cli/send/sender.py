"""The datagrams of one interface: opened, paced, handed to the kernel, and counted."""

from __future__ import annotations

import contextlib
import errno
import math
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from trio_ipv4 import Interface, PartialSendError, PathMTUDiscovery, interface_by_index, interface_by_name, open_udp
from trio_ipv4._cli.route import Way, find_way
from trio_ipv4._cli.send.pacing import Lateness, Pacer
from trio_ipv4._cli.send.plan import FileGiven, Plan
from trio_ipv4._cli.send.records import InterfaceFacts, Start, describe, reach, refused

F = TypeVar("F", bound=InterfaceFacts)

if TYPE_CHECKING:
    from trio_ipv4 import PacketConn
    from trio_ipv4._cli.output import Output
    from trio_ipv4._cli.send.payloads import Source

_TICK: Final = 0.001
"""In seconds: at high rates, that which becomes due in this time is sent as one batch."""
_IDLE: Final = 0.01
"""In seconds: whoever takes longer to write to us had nothing to write."""
_MOST_AT_ONCE: Final = 1024
_OCTETS_AT_ONCE: Final = 1 << 17
"""So that a slow link has taken a batch soon."""
_LASTING: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EHOSTUNREACH,
        errno.EINVAL,
        errno.ENETUNREACH,
        errno.ENODEV,
    }
)
"""What the kernel would say of every other datagram, too."""
_PASSING: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})
"""What has nothing to do with the datagram, and goes by."""
_ATTEMPTS: Final = 10
"""So many in a row have to be refused for other reasons, before any was sent: a firewall may refuse one and not the
next."""
_GRACE: Final = 1.0
"""In seconds: how long the last batch may wait for room in the send buffer, so that the count of datagrams is right."""


@final
class Sender:
    """Sends to one destination by one interface.

    Args:
        output: Where to show where it goes, and refusals.
        plan: What to do.
        name: The interface; `None`: the routes choose.
        stream: The number of the probes' stream, if they are probes.
    """

    def __init__(self, output: Output, plan: Plan, name: str | None, stream: int | None) -> None:
        self._output: Final = output
        self._plan: Final = plan
        self.stream: Final = stream
        self._to: Final = (str(plan.to.group), plan.to.port)
        self._pacer = Pacer(plan.rate, 0)
        self._late: Final = Lateness()
        self._shield = trio.CancelScope()
        self._errnos: Final[set[int | None]] = set()
        self._first: float | None = None
        self._last = 0.0
        self._source: IPv4Address | None = None
        self.interface = name
        """Its name, where it is known."""
        self.datagrams = 0
        self.octets = 0
        self.refused = 0
        """How many datagrams were refused."""
        self.reason: str | None = None
        """Why the kernel refused first, if it did."""

    async def run(self, source: Source, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send payloads until there are no more, or the interface refuses all of them.

        It has started when it has told where they go.
        """
        with contextlib.closing(source):
            try:
                interface = None if self.interface is None else interface_by_name(self.interface)
                conn = self._open(interface)
            except OSError as error:
                self._refuse(error, given_up=True)
                task_status.started()
                return
            async with conn:
                self._show_start(conn, interface)
                task_status.started()
                self._pacer = Pacer(self._plan.rate, trio.current_time())
                await self._send(conn, source)

    def hurry(self) -> None:
        """Let the batch that is being sent take only a moment more."""
        self._shield.deadline = trio.current_time() + _GRACE

    def _open(self, interface: Interface | None) -> PacketConn:
        address = self._plan.source
        if interface is not None and address is None:
            address = _own_address(interface)
        conn = open_udp(address or "0.0.0.0")
        try:
            if interface is not None:
                conn.multicast_interface = interface
            self._set_options(conn)
        except BaseException:
            conn.close()
            raise
        return conn

    def _set_options(self, conn: PacketConn) -> None:
        plan = self._plan
        if plan.ttl is not None:
            conn.multicast_ttl = plan.ttl
        if plan.tos is not None:
            conn.tos = plan.tos
        if not plan.loop:
            conn.multicast_loopback = False
        if not plan.fragment:
            conn.path_mtu_discovery = PathMTUDiscovery.DO

    def _show_start(self, conn: PacketConn, interface: Interface | None) -> None:
        to, bound = self._plan.to, IPv4Address(conn.local_endpoint[0])
        source = None if bound.is_unspecified else bound
        if interface is None:
            way = find_way(conn, to.group, to.port, source=source, tos=conn.tos)
            source = source or way.source
            interface = _interface_of(way)
        self._source = source
        self.interface = self.interface or (interface.name if interface else None)
        ttl = conn.multicast_ttl
        self._output.show(
            Start(
                destination=to.group,
                port=to.port,
                interface=self.interface,
                ifindex=interface.index if interface else None,
                source=source,
                ttl=ttl,
                tos=conn.tos,
                loopback=conn.multicast_loopback,
                stream=self.stream,
                reach=reach(to.group, ttl, by_loopback=interface is not None and interface.is_loopback),
            )
        )

    async def _send(self, conn: PacketConn, source: Source) -> None:
        pacer, woke = self._pacer, -math.inf
        left = math.inf if self._plan.count is None else self._plan.count
        while left:
            if not source.is_ready:
                since = trio.current_time()
                if not await source.wait():
                    return
                # A file is read in a moment, and does not slow down the rate. Who writes to us may take long.
                if trio.current_time() - since > _IDLE:
                    pacer.resume(trio.current_time())
            await trio.sleep_until(max(pacer.due, woke + _TICK))
            woke = trio.current_time()
            pacer.forgive(woke)
            batch, dues = self._take(source, woke, min(left, _MOST_AT_ONCE))
            left -= len(batch)
            if not await self._hand_over(conn, batch, dues):
                return

    def _take(self, source: Source, now: float, most: float) -> tuple[list[bytes], list[float]]:
        """Return the payloads that are due, and when they were."""
        batch: list[bytes] = []
        dues: list[float] = []
        octets, pacer = 0, self._pacer
        while len(batch) < most and octets < _OCTETS_AT_ONCE and source.is_ready and (due := pacer.due) <= now:
            payload = source.take()
            pacer.count(len(payload))
            octets += len(payload)
            batch.append(payload)
            dues.append(due)
        return batch, dues

    async def _hand_over(self, conn: PacketConn, batch: list[bytes], dues: list[float]) -> bool:
        """Send a batch, and go on behind each datagram that is refused. Return `False` if the interface is given up."""
        done = 0
        while done < len(batch):
            await trio.lowlevel.checkpoint_if_cancelled()
            sent, error = await self._try(conn, batch[done:])
            self._count(batch[done : done + sent], dues[done : done + sent])
            done += sent
            if error is not None:
                self.refused += 1
                is_hopeless = self._is_hopeless(error.errno)
                self._refuse(error, given_up=is_hopeless)
                if is_hopeless:
                    return False
                done += 1
        return True

    def _is_hopeless(self, number: int | None) -> bool:
        """Tell whether nothing was sent so far, and what was refused with this errno says that nothing will be."""
        if self.datagrams or number in _PASSING:
            return False
        if number == errno.EMSGSIZE:
            # The pieces of a file have other sizes.
            return not (isinstance(self._plan.what, FileGiven) and self._plan.what.is_cut)
        return number in _LASTING or self.refused >= _ATTEMPTS

    async def _try(self, conn: PacketConn, batch: list[bytes]) -> tuple[int, OSError | None]:
        """Send a batch; return how many are out, and why the next one was refused."""
        # When a batch is cancelled, nobody knows how much of it is out. So it is not, unless the interface is stuck.
        sent, error = 0, None
        with trio.CancelScope(shield=True) as self._shield:
            try:
                await conn.send_batch_to(batch, self._to)
                sent = len(batch)
            except OSError as refusal:
                sent, error = refusal.sent if isinstance(refusal, PartialSendError) else 0, refusal
        return sent, error

    def _count(self, payloads: list[bytes], dues: list[float]) -> None:
        if not payloads:
            return
        self._last = trio.current_time()
        if self._first is None:
            self._first = self._last
        self.datagrams += len(payloads)
        self.octets += sum(map(len, payloads))
        if self._pacer.is_paced:
            for due in dues:
                self._late.add(self._last - due)

    def _refuse(self, error: OSError, *, given_up: bool) -> None:
        self.reason = self.reason or describe(error)
        if given_up and error.errno in self._errnos:
            # It was told once. The news is that there is an end.
            error = OSError(error.errno, f"nothing was sent, {self.refused} times in a row, and it is given up")
        if given_up or error.errno not in self._errnos:
            self._errnos.add(error.errno)
            self._output.show(refused(self.interface, error, given_up=given_up))

    @property
    def behind(self) -> float:
        """By how many seconds the machine fell behind."""
        return self._pacer.behind

    @property
    def seconds(self) -> float:
        """The time from the first datagram to the last."""
        return 0.0 if self._first is None else self._last - self._first

    def summary(self, kind: type[F]) -> F:
        """Return what was sent in all, as a record of this kind."""
        # So many intervals lie between the first and the last.
        rate = (self.datagrams - 1) / self.seconds if self.seconds else None
        return kind(
            interface=self.interface,
            source=self._source,
            datagrams=self.datagrams,
            octets=self.octets,
            refused=self.refused,
            seconds=self.seconds,
            datagrams_per_second=rate,
            bits_per_second=rate * 8 * self.octets / self.datagrams if rate else None,
            late_median_seconds=self._late.quantile(0.5),
            late_p99_seconds=self._late.quantile(0.99),
            late_most_seconds=self._late.most,
            behind_seconds=self.behind,
            reason=self.reason,
        )


def _own_address(interface: Interface) -> IPv4Address:
    """Return the address from which to send on an interface."""
    if not interface.addresses:
        reason = "has no IPv4 address to send from: --source names another of this host's"
        raise OSError(errno.EADDRNOTAVAIL, f"{interface.name} {reason}")
    return interface.addresses[0].ip


def _interface_of(way: Way) -> Interface | None:
    try:
        return None if way.ifindex is None else interface_by_index(way.ifindex)
    except OSError:  # It has gone meanwhile.
        return None
