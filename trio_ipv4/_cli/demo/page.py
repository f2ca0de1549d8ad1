"""The demo as a page: tables and sentences, for people to read from top to bottom."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trio_ipv4._cli.demo.events import Check, Memberships, Received, Sent, Start, Step, Verdict
from trio_ipv4._cli.output import WIDEST, describe_sources, printable, write

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trio_ipv4._cli.demo.events import Event

_INDENT: Final = (0, 0, 0, 3)
_SENT_COLUMNS: Final = {"#": 1, "from": 9, "to": 21, "TTL": 3, "TOS": 4, "receiver should": 15}
_RECEIVED_COLUMNS: Final = {
    # Wide enough for any value, so that rows can be printed one by one: 77 columns with what is between them.
    "#": 1,
    "kernel time": 15,
    "source": 9,
    "destination": 21,
    "interface": 9,
    "TTL": 3,
    "TOS": 4,
}


class Page:
    """Write events as text: tables and sentences, coloured on a terminal."""

    def __init__(self) -> None:
        # Markup and highlighting would read things into names and numbers that nobody put there.
        self._console: Final = Console(markup=False, highlight=False, emoji=False)
        self._console.width = min(self._console.width, WIDEST)
        self._names: dict[str, str] = {}
        self._interface = ""
        self._table: type | None = None

    def show(self, event: Event) -> None:
        """Write an event."""
        if self._table is not None and type(event) is not self._table:
            self._print("")  # The rows have come to their end.
        header = type(event) is not self._table
        self._table = type(event) if isinstance(event, Sent | Received) else None
        match event:
            case Start():
                self._start(event)
            case Step():
                self._print("", Text(f"{event.number}. {event.title}", "bold"), Padding(event.text, _INDENT), "")
            case Memberships():
                self._memberships(event)
            case Sent():
                self._row(_SENT_COLUMNS, _sent_cells(event), header=header)
            case Received():
                self._row(_RECEIVED_COLUMNS, _received_cells(event), header=header)
            case Check():
                self._check(event)
            case Verdict():
                above = [""] if self._names else []  # Nothing is above it if the demo could not begin.
                self._print(*above, Text(f"Verdict: {event.text}", "bold green" if event.ok else "bold red"))

    def _start(self, event: Start) -> None:
        self._names = {group.address: group.name for group in event.groups}
        self._interface = printable(event.interface)
        table = _table("group", "address", "its receiver wants to hear")
        for group in event.groups:
            table.add_row(group.name, group.address, describe_sources(group.mode, group.sources))
        self._print(Text(event.title, "bold"), "", event.text, "", Padding(table, _INDENT))

    def _memberships(self, event: Memberships) -> None:
        if not event.memberships:
            self._print(Padding("The kernel's table: none of the groups is in it.", _INDENT), "")
            return
        table = _table("group", "address", "interface", "sockets", "who is heard")
        for member in event.memberships:
            name = self._names.get(member.group, "")
            sources = describe_sources(member.mode, member.sources)
            table.add_row(
                name, member.group, f"{printable(member.interface)} ({member.ifindex})", str(member.sockets), sources
            )
        self._print(Padding("The kernel's table:", _INDENT), Padding(table, _INDENT), "")

    def _check(self, event: Check) -> None:
        mark = Text("ok      ", "green") if event.ok else Text("FAILED  ", "bold red")
        line = Table.grid()
        line.add_row(mark, event.what)
        if not event.ok:
            for title, seen in ("expected: ", event.expected), ("seen: ", event.seen):
                for fact in seen or ("nothing",):
                    line.add_row("", Text.assemble((title, "bold"), printable(fact)))
        self._print(Padding(line, _INDENT))

    def _row(self, columns: dict[str, int], cells: tuple[str, ...], *, header: bool) -> None:
        table = _table(*columns, header=header)
        for column, width in zip(table.columns, columns.values(), strict=True):
            column.min_width = max(width, len(str(column.header)))
        table.add_row(*cells)
        self._print(Padding(table, _INDENT))

    def _print(self, *lines: RenderableType) -> None:
        with self._console.capture() as captured:
            self._console.print(*lines, sep="\n")
        # Nothing is gained by the spaces with which rich fills its lines, and they are a nuisance in a file.
        # Whether anybody reads it, as in `| head`, changes nothing else.
        with contextlib.suppress(BrokenPipeError):
            write("".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines()))


def _sent_cells(sent: Sent) -> tuple[str, ...]:
    to = f"{sent.destination}:{sent.port}"
    return (
        str(sent.number),
        sent.source,
        to,
        str(sent.ttl),
        f"{sent.tos:#04x}",
        "hear it" if sent.should_arrive else "not hear it",
    )


def _received_cells(received: Received) -> tuple[str, ...]:
    def known(value: object) -> str:
        return "?" if value is None else str(value)

    return (
        known(received.number),
        "?" if received.timestamp_ns is None else _time_of_day(received.timestamp_ns),
        received.source,
        f"{known(received.destination)}:{received.port}",
        f"{printable(known(received.interface))} ({known(received.ifindex)})",
        known(received.ttl),
        "?" if received.tos is None else f"{received.tos:#04x}",
    )


def _time_of_day(timestamp_ns: int) -> str:
    seconds, nanoseconds = divmod(timestamp_ns, 10**9)
    # The local time zone, as the person's clock has it.
    return f"{dt.datetime.fromtimestamp(seconds):%H:%M:%S}.{nanoseconds // 1000:06}"


def _table(*columns: str, header: bool = True) -> Table:
    return Table(*columns, box=None, show_header=header, header_style="bold cyan", padding=(0, 2, 0, 0), pad_edge=False)
