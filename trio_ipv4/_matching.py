"""Which interfaces match a predicate, as they come and go: the basis of follow_group and serve_group.

The kernel throws messages away when its buffer overflows. Then an interface that was deleted and re-created meanwhile
may look as before. So after an overflow each membership is looked at: one that is dead is a step, too.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import trio

from trio_ipv4._kernel import groups
from trio_ipv4._values.interface import IPV4_MIN_MTU, InterfaceChangeKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from trio_ipv4._conn.memberships import Memberships
    from trio_ipv4._values.interface import Interface, InterfaceChange
    from trio_ipv4._watch import Feed

InterfacePredicate: TypeAlias = "Callable[[Interface], bool]"


def is_up_and_multicast(interface: Interface) -> bool:
    """Tell whether an interface is set up and supports multicast: the default predicate."""
    return interface.is_up and interface.is_multicast


class Step(NamedTuple):
    """Stop on interface `went`, start on `came`. Both are set when an interface was re-created."""

    went: int | None
    came: Interface | None


@final
class Matching:
    """Which interfaces match, as steps."""

    def __init__(
        self,
        feed: Feed,
        where: InterfacePredicate,
        is_deaf: Callable[[int, groups.InterfaceGroups | None], bool],
    ) -> None:
        self._feed: Final = feed
        self._where: Final = where
        self._is_deaf: Final = is_deaf
        self._matching: Final[dict[int, Interface]] = {}
        self._resyncs = feed.resyncs

    async def receive(self) -> list[Step]:
        """Wait for changes, and return their steps; the first time, a step for each interface that matches now."""
        changes = await self._feed.receive()
        steps = [step for change in changes if (step := self._step(change)) is not None]
        if self._resyncs != self._feed.resyncs:
            self._resyncs = self._feed.resyncs
            new = {step.came.index for step in steps if step.came is not None}
            unchanged = [each for index, each in self._matching.items() if index not in new]
            table = groups.read_table(self._feed.socket)
            steps += [Step(each.index, each) for each in unchanged if self._is_deaf(each.index, table)]
        return steps

    def _step(self, change: InterfaceChange) -> Step | None:
        interface = change.interface
        matched = self._matching.pop(interface.index, None) is not None
        exists = change.kind is not InterfaceChangeKind.REMOVED
        matches = exists and interface.mtu >= IPV4_MIN_MTU and _ask(self._where, interface)
        if matches:
            self._matching[interface.index] = interface
        if matches == matched:
            return None
        return Step(None, interface) if matches else Step(interface.index, None)


def require_predicate(where: object) -> None:
    """Check a predicate, before anything is opened."""
    if not callable(where):
        raise TypeError(f"where must be a function of an Interface, got {where!r}")


def is_dead(conn: Memberships, index: int, group: IPv4Address, table: groups.InterfaceGroups | None) -> bool:
    """Tell whether a membership that the connection has hears nothing, since its interface was made anew."""
    if conn.socket.fileno() < 0:
        return False
    held = conn.memberships.get((index, group))
    return held is not None and groups.is_dead(conn._socket, index, group, held, table)


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
def _ask(where: InterfacePredicate, interface: Interface) -> bool:
    answer: object = where(interface)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(f"where must be a synchronous function of an Interface, got the asynchronous {where!r}")
    return bool(answer)
