"""Membership: one scope's hold in the ledger, as a context manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_ipv4._conn.turns import require_trio
from trio_ipv4._errors import MembershipWarning
from trio_ipv4._values.source_filter import SourceFilter, to_sources

if TYPE_CHECKING:
    from ipaddress import IPv4Address
    from types import TracebackType

    from trio_ipv4._conn.ledger import Entry, Ledger
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike


@final
class Membership:
    """One scope's membership of a group on an interface: joined inside `async with`, left after it.

    It is bound to one interface index and ends with that interface, or when its MTU falls below 68; `follow_group`
    follows. Leaving does not empty the socket's queue: queued datagrams still arrive. A membership can be
    entered once.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_entered",
        "_entry",
        "_group",
        "_ledger",
        "_requested",
        "_sources",
        "_waiting",
    )

    def __init__(self, ledger: Ledger, interface: InterfaceLike, group: IPv4Address, sources: SourceFilter) -> None:
        self._ledger: Final = ledger
        self._requested: Final = interface
        self._group: Final = group
        self._sources = sources
        self._entry: Entry | None = None
        self._entered = False
        self._ended = False
        self._waiting: Final = ledger.expect(self, group)

    @property
    def interface(self) -> int:
        """The index of the interface that was joined on: the one that the kernel chose, if it was to choose.

        Raises:
            RuntimeError: Before the block has been entered.
        """
        return self._joined.key[0]

    @property
    def group(self) -> IPv4Address:
        """The group."""
        return self._group

    @property
    def sources(self) -> SourceFilter:
        """The sources that this scope asks for; other scopes may make the socket hear more."""
        return self._sources

    @property
    @trio.lowlevel.enable_ki_protection
    def is_alive(self) -> bool:
        """Whether the kernel hears for it now. Not a checkpoint.

        `False` before the block and after it, for a filter that hears nobody, and once the interface is gone. If an
        interface with the same index comes, the group is joined there again, and this is `True`; if it comes with
        another index, it stays `False`. Where rtnetlink can't be asked, as in some sandboxes, nobody notices that an
        interface is gone.

        An interface that goes is noticed by every operation on memberships in this run of trio, this one included, and
        at once while anything watches, follows or serves interfaces.
        """
        return self._entry is not None and not self._ended and self._ledger.is_alive(self._entry)

    def set_sources(self, sources: SourceFilter) -> None:
        """Replace this scope's filter, at once. Not a checkpoint.

        Raises:
            OSError: The kernel refused, such as ENOBUFS for more sources than sysctl net.ipv4.igmp_max_msf (10), or
                ENODEV for an interface that is gone; nothing is changed.
            RuntimeError: Before the block has been entered.
            trio.ClosedResourceError: After the block, or when the connection is closed.
        """
        self._replace(to_sources(sources))

    def allow(self, *addresses: AddressLike) -> None:
        """Hear these sources too, whatever the mode. Errors as `set_sources`; `ValueError` if one is not unicast."""
        self._replace(self._sources.allow(*addresses))

    def block(self, *addresses: AddressLike) -> None:
        """Hear these sources no longer, whatever the mode. Errors as `allow`.

        Other scopes of the same group may still hear them, and then the socket does.
        """
        self._replace(self._sources.block(*addresses))

    @trio.lowlevel.enable_ki_protection
    def refresh(self) -> None:
        """Announce the membership again, for a switch or router that may have forgotten it. Not a checkpoint.

        Where nobody sends IGMP queries, a switch that snoops forgets a member after some minutes, 260 seconds as a rule
        (RFC 9776 section 8.4, RFC 4541 section 2.1.1): call this every minute or two there. A network with a querier
        does not need it.

        If this socket is the only member of this host on the interface, it leaves and joins again, and misses what
        arrives in between. Otherwise that would announce nothing. Then it sends a report of its own, which needs
        CAP_NET_RAW. Linux.

        Raises:
            OSError: EPERM: there are other members, or nobody can tell, and this process may not send a report. ENODEV:
                the interface is gone. Others: the kernel refused.
            RuntimeError: Before the block has been entered.
            trio.ClosedResourceError: After the block, or when the connection is closed.
        """
        if self._ended:
            raise trio.ClosedResourceError("this membership has ended with its block")
        self._ledger.refresh(self._joined)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Membership:
        if self._entered:
            raise RuntimeError("a membership can be entered only once: call joined() again")
        self._ledger.expected.pop(self._waiting, None)
        require_trio()
        self._entered = True
        try:
            await trio.lowlevel.checkpoint()
            self._entry = self._ledger.enter(self, self._requested, self._group, self._sources)
        except BaseException:
            self._entered = False
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not a checkpoint: leaving can't block, and so can't be cancelled away.
        self._ended = True
        try:
            self._ledger.release(self._joined, self)
        except (OSError, MembershipWarning) as refused:  # A warning may be an error.
            if error is None:
                raise
            error.add_note(f"Besides, at the end of the membership: {refused}")

    @trio.lowlevel.enable_ki_protection
    def _replace(self, sources: SourceFilter) -> None:
        if self._ended:
            raise trio.ClosedResourceError("this membership has ended with its block")
        self._ledger.replace(self._joined, self, sources)
        self._sources = sources

    @property
    def _is_lost(self) -> bool:
        """Whether it was alive and is no longer, as far as it was noticed."""
        return self._entry is not None and self._entry.is_lost

    @property
    def _joined(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("the interface is known only after 'async with' has joined")
        return self._entry

    def __repr__(self) -> str:
        state = "ended" if self._ended else "not joined yet" if self._entry is None else f"on index {self.interface}"
        return f"<Membership of {self._group}, {self._sources}, {state}>"
