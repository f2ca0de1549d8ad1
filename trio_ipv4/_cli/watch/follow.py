"""Which interfaces are watched, as they come and go."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

from trio_ipv4 import Interface, InterfaceChange, InterfaceChangeKind, watch_interfaces
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.interface_facts import facts_of
from trio_ipv4._cli.watch.records import InterfaceChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._cli.watch.show import Options, Show
    from trio_ipv4._cli.watch.watcher import Watcher
    from trio_ipv4._cli.watch.wire import Wire


def is_wanted(interface: Interface, options: Options) -> bool:
    """Tell whether an interface is to be watched.

    What comes in by a port of a bridge, bond or team shows on that. On loopback nobody speaks IGMP.
    """
    if options.interfaces:
        return interface.is_up and is_named(interface, options.interfaces)
    return interface.is_up and not interface.is_loopback and not interface.is_port


@final
class Watched:
    """The interfaces that are watched on the wire."""

    def __init__(self, options: Options, wire: Wire, watcher: Watcher, show: Show, now: Callable[[], int]) -> None:
        self._options: Final = options
        self._wire: Final = wire
        self._watcher: Final = watcher
        self._show: Final = show
        self._now: Final = now
        self._names: Final[dict[int, str]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._names.values())

    def note(self, interface: Interface, *, is_there: bool) -> None:
        """Begin to watch an interface, or end it, as it is now."""
        known = self._names.get(interface.index)
        name = interface.name if is_there and is_wanted(interface, self._options) else None
        if known == name:
            return
        if known is not None:
            self._end(interface.index, known)
        if name is not None:
            self._begin(interface.index, name)

    def _begin(self, index: int, name: str) -> None:
        self._names[index] = name
        with contextlib.suppress(OSError):  # It is gone already, and its end will be told.
            self._wire.add(index)
        self._watcher.begin(self._now(), name)

    def _end(self, index: int, name: str) -> None:
        del self._names[index]
        with contextlib.suppress(OSError):  # It is gone.
            self._wire.remove(index)
        self._show.records(self._watcher.end(self._now(), name))


async def follow(show: Show, options: Options, note: Callable[[InterfaceChange], None], now: Callable[[], int]) -> None:
    """Hand over each change of an interface, and show it, if that was asked for."""
    known: dict[int, tuple[object, ...]] = {}
    async with watch_interfaces() as changes:
        async for change in changes:
            record = _changed(now(), change)
            # To watch an interface sets a flag of it, which is no news.
            facts = (record.change == "removed", *(each for each in record.flags if each != "ALLMULTI"), *_rest(record))
            if options.changes and known.get(record.index) != facts and _is_asked_for(change, options):
                show.records([record])
            known[record.index] = facts
            if change.kind is InterfaceChangeKind.REMOVED:
                del known[record.index]
            note(change)


def _is_asked_for(change: InterfaceChange, options: Options) -> bool:
    return not options.interfaces or is_named(change.interface, options.interfaces)


def _rest(record: InterfaceChanged) -> tuple[object, ...]:
    return record.interface, record.mtu, record.addresses


def _changed(now: int, change: InterfaceChange) -> InterfaceChanged:
    interface = change.interface
    return InterfaceChanged(
        timestamp_ns=now, interface=interface.name, change=change.kind.name.lower(), **facts_of(interface)
    )
