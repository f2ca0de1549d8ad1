"""Which interfaces match a predicate, as they come and go: the basis of follow_group, serve_group, serve_interfaces."""

from __future__ import annotations

import errno
import inspect
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import trio

from trio_ipv4._conn.warn import warn
from trio_ipv4._conn.where import ask
from trio_ipv4._errors import NoInterfaceWarning, RefusedInterfaceWarning
from trio_ipv4._values.interface import IPV4_MIN_MTU, InterfaceChangeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._conn.interface_feed import InterfaceFeed
    from trio_ipv4._conn.where import InterfacePredicate
    from trio_ipv4._values.interface import Interface, InterfaceChange

RefusalHandler: TypeAlias = "Callable[[Interface, OSError], object]"
"""A synchronous function that is told why an interface could not be used: `on_refusal`."""

_VANISHED: Final = (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
"""Errnos for an index without an interface: of a join, of SO_BINDTOIFINDEX, and of IP_MULTICAST_IF."""


@trio.lowlevel.disable_ki_protection
def warn_of_refusal(interface: Interface, error: OSError) -> None:
    """Warn that an interface refused (`RefusedInterfaceWarning`): the default."""
    reason = error.strerror or str(error)
    warn(f"left out {interface.name} until something changes: {reason}", RefusedInterfaceWarning)


class Step(NamedTuple):
    """Stop on interface `went`, start on `came`. Both are set when an interface was renumbered."""

    went: int | None
    came: Interface | None


@final
class Matching:
    """Which interfaces match, as steps.

    Args:
        feed: The changes of the interfaces.
        where: The predicate.
        by_address: Whether an interface whose addresses change is another one.
    """

    def __init__(self, feed: InterfaceFeed, where: InterfacePredicate, *, by_address: bool = False) -> None:
        self._feed: Final = feed
        self._where: Final = where
        self._by_address: Final = by_address
        self._matching: Final[dict[int, Interface]] = {}
        self._others: Final[dict[int, str]] = {}

    async def receive(self) -> list[Step]:
        """Wait for changes, and return their steps; the first time, a step for each interface that matches now."""
        steps = (self._step(change) for change in await self._feed.receive())
        return [step for step in steps if step is not None]

    async def begin(self) -> list[Step]:
        """Return a step for each interface that matches now. If there is none, warn."""
        await self._feed.begin()
        steps = await self.receive() if self._feed.has_changes else []
        if not steps:
            others = ", ".join(self._others.values()) or "none"
            message = f"no interface matches now, of {others}: this waits for one that does"
            warn(message, NoInterfaceWarning)
        return steps

    def _step(self, change: InterfaceChange) -> Step | None:
        interface = change.interface
        before = self._matching.pop(interface.index, None)
        exists = change.kind is not InterfaceChangeKind.REMOVED
        matches = exists and interface.mtu >= IPV4_MIN_MTU and ask(self._where, interface)
        if matches:
            self._matching[interface.index] = interface
        elif exists:
            self._others[interface.index] = interface.name
        if before is None:
            return Step(None, interface) if matches else None
        if not matches:
            return Step(interface.index, None)
        renumbered = self._by_address and before.addresses != interface.addresses
        return Step(interface.index, interface) if renumbered else None


@final
class Refusals:
    """The interfaces that match and refused. Each is told of once for each reason, and tried again."""

    def __init__(self, feed: InterfaceFeed, on_refusal: RefusalHandler) -> None:
        self._feed: Final = feed
        self._on_refusal: Final = on_refusal
        self._told: Final[dict[int, int | None]] = {}
        # When they first refused as if they were gone: by the number of drains.
        self._vanished: Final[dict[int, int]] = {}

    def note(self, interface: Interface, error: OSError) -> None:
        """Tell of a refusal. Not if the interface has just vanished: the next change says so."""
        if error.errno in _VANISHED and not self._is_vanished_for_good(interface.index):
            return
        if self._told.get(interface.index, 0) != error.errno:
            self._told[interface.index] = error.errno
            _tell(self._on_refusal, interface, error)

    def forget(self, index: int) -> None:
        """Forget an interface that works now, or is gone."""
        self._told.pop(index, None)
        self._vanished.pop(index, None)

    def _is_vanished_for_good(self, index: int) -> bool:
        """Tell whether an interface refuses as if it were gone, and no message says so.

        If it had been gone the first time, the message would have been among those that were read since.
        """
        first = self._vanished.setdefault(index, self._feed.drains)
        return self._feed.drains > first and not self._feed.has_changes


def require_refusal_handler(on_refusal: object) -> None:
    """Check a function that is told of refusals, before anything is opened."""
    if not callable(on_refusal) or inspect.iscoroutinefunction(on_refusal):
        raise TypeError(f"on_refusal must be a synchronous function of an Interface and an OSError, got {on_refusal!r}")


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
def _tell(on_refusal: RefusalHandler, interface: Interface, error: OSError) -> None:
    on_refusal(interface, error)
