"""`trio-ipv4 interfaces`: the interfaces of this network namespace, now or as they come and go."""

from __future__ import annotations

from typing import ClassVar

import attrs
import trio

from trio_ipv4 import InterfaceChange, interfaces, watch_interfaces
from trio_ipv4._cli.arguments import AsJSON, For
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.interface_facts import facts_of
from trio_ipv4._cli.output import Column, Output, Row, choose_output


@attrs.frozen
class InterfaceListed(Row):
    """A network interface."""

    event: ClassVar[str] = "interface"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("index", right=True),
        Column("name"),
        Column("up", gives_way=1),
        Column("multicast", gives_way=3),
        Column("MTU", gives_way=2, right=True),
        Column("addresses"),
        Column("flags", gives_way=4),
    )
    index: int
    name: str
    up: bool
    multicast: bool
    mtu: int
    flags: tuple[str, ...]
    addresses: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (
            str(self.index),
            self.name,
            _yes(self.up),
            _yes(self.multicast),
            str(self.mtu),
            " ".join(self.addresses) or "-",
            " ".join(self.flags),
        )


@attrs.frozen
class InterfaceChanged(InterfaceListed):
    """An interface that came, changed or went."""

    event: ClassVar[str] = "interface_change"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("change", width=7),
        Column("index", width=5, right=True),
        Column("name", width=15),
        Column("up", width=3, gives_way=1),
        Column("multicast", width=9, gives_way=3),
        Column("MTU", width=5, gives_way=2, right=True),
        Column("addresses", width=18),
        Column("flags", gives_way=4),
    )
    change: str

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (self.change, *super().cells())


def command(
    *,
    watch: bool = False,
    seconds: For = None,
    as_json: AsJSON = False,
) -> int:
    """List the network interfaces with their IPv4 addresses.

    No privilege is needed. The exit status is 0; 130 after Ctrl-C, 5 if the kernel refused.

    Args:
        watch: Go on, and show each interface that comes, changes or goes.
        seconds: With --watch: how long, as 30s or 5m. Default: until Ctrl-C.
    """
    output = choose_output(as_json=as_json)
    if watch or seconds is not None:
        return trio.run(_watch, output, seconds)
    output.table([InterfaceListed(name=interface.name, **facts_of(interface)) for interface in interfaces()])
    return Status.DONE


async def _watch(output: Output, seconds: float | None) -> int:
    async with until_stopped(seconds) as stop, watch_interfaces() as changes:
        async for change in changes:
            output.show(_changed(change))
    return stop.status(Status.DONE)


def _changed(change: InterfaceChange) -> InterfaceChanged:
    interface = change.interface
    return InterfaceChanged(name=interface.name, **facts_of(interface), change=change.kind.name.lower())


def _yes(so: bool) -> str:
    return "yes" if so else "no"
