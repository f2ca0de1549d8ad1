"""One protocol for all that the commands have to show.

A command makes records: immutable values, each of a kind that has a name. It hands them to an `Output` as they come.
`JSONLines` writes each as an object on a line of its own. `Text` writes them for people. So both say the same, and a
command never asks which of the two it has.

A record is a sentence, a row, or a report of several lines. Rows of one kind stand under common headings. In a terminal
that is too narrow for all columns, those with the highest `gives_way` are left out. In a pipe there is no width, no
colour, and one line for each record, or for each line of a report. Remarks are sentences that explain: as text they go
to standard error, so that a pipe gets the facts alone.
"""

from __future__ import annotations

import contextlib
import enum
import io
import json
import os
import sys
import time
from ipaddress import IPv4Address, IPv4Interface
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

import attrs
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text as Styled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    Redraw: TypeAlias = "Callable[[Sequence[Row]], None]"

WIDEST: Final = 88
"""In columns: longer lines of prose are hard to read."""
_GAP: Final = "  "
_BLOCKED: Final = 1.0
"""In seconds, chosen: a write that takes longer waits for a reader."""
_CUT: Final = "..."


@attrs.frozen
class Record:
    """What a command has to show. Its fields are the keys of the JSON object, beside "event", its kind's name."""

    event: ClassVar[str]


@attrs.frozen
class Sentence(Record):
    """A record that is told in words."""

    def text(self) -> str:
        """Return the words, as one line."""
        raise NotImplementedError

    def style(self) -> str:
        """Return how a terminal shows them, in rich's terms."""
        return ""


@attrs.frozen
class Remark(Sentence):
    """Words that explain what is going on. As text they go to standard error."""


@attrs.frozen
class Line:
    """A line of a report.

    Args:
        words: The words.
        indent: How many columns it stands further right.
        style: How a terminal shows it, in rich's terms.
        whole: Whether it is never broken, as a command that is to be copied.
    """

    words: str = ""
    indent: int = attrs.field(default=0, kw_only=True)
    style: str = attrs.field(default="", kw_only=True)
    whole: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class Report(Record):
    """A record that is told in several lines."""

    def lines(self) -> tuple[Line, ...]:
        """Return the lines. A terminal breaks the long ones between words."""
        raise NotImplementedError


@attrs.frozen
class Column:
    """A column of rows.

    Args:
        title: Its heading.
        width: The least width, for rows that come one by one.
        gives_way: In a narrow terminal the columns with the highest number are left out first. 0: never.
        shortest: In a narrow terminal its cells may be cut to this width, before a column is left out. 0: never.
        right: Whether its cells stand to the right, as numbers do.
    """

    title: str
    width: int = attrs.field(default=0, kw_only=True)
    gives_way: int = attrs.field(default=0, kw_only=True)
    shortest: int = attrs.field(default=0, kw_only=True)
    right: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class Row(Record):
    """A record that stands in a table."""

    columns: ClassVar[tuple[Column, ...]]

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        raise NotImplementedError

    def style(self) -> str:
        """Return how a terminal shows the row, in rich's terms."""
        return ""


class Output(Protocol):
    """Where a command shows its records."""

    def show(self, record: Record) -> None:
        """Show a record at once."""

    def table(self, rows: Sequence[Row]) -> None:
        """Show rows of one kind that belong together."""

    def live(self) -> AbstractContextManager[Redraw]:
        """Return a block in which rows of one kind are shown anew, each time as a whole."""
        raise NotImplementedError


class JSONLines:
    """Write records as JSON, one object a line."""

    def show(self, record: Record) -> None:
        """Write a line."""
        fields = {"event": record.event, **attrs.asdict(record, value_serializer=_to_json)}
        write(json.dumps(fields, allow_nan=False) + "\n")

    def table(self, rows: Sequence[Row]) -> None:
        """Write a line for each row."""
        for row in rows:
            self.show(row)

    @contextlib.contextmanager
    def live(self) -> Iterator[Redraw]:
        """Write a line for each row, each time."""
        yield self.table


class Text:
    """Write records for people: on a terminal, or one line for each in a pipe.

    Args:
        to_stderr: Leave standard output to the command, and write to standard error.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        # Markup and highlighting would read things into names and numbers that nobody put there.
        plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
        self._console: Final = (
            Terminal(stderr=True, **plain) if to_stderr else Terminal(file=cast("IO[str]", _Stdout()), **plain)
        )
        self._remarks: Final = Terminal(stderr=True, **plain)
        self._width: Final = self._console.width if self._console.is_terminal else None
        self._kind: type[Record] | None = None
        self._widths: Final[dict[type[Record], list[int]]] = {}
        """Of the columns of each kind so far, so that rows which come one by one stay in line."""
        self._live: Live | None = None

    def show(self, record: Record) -> None:
        """Write a line. The first of several rows of a kind has headings above it."""
        if isinstance(record, Remark):
            self._remark(record)
            return
        if isinstance(record, Row):
            self._append([record])
        elif isinstance(record, Sentence):
            # A terminal would break the line within words.
            self._console.print(Styled(printable(record.text()), record.style()), soft_wrap=self._width is None)
            self._kind = type(record)
        elif isinstance(record, Report):
            for line in record.lines():
                self._print(self._break(line))
            self._kind = type(record)

    def table(self, rows: Sequence[Row]) -> None:
        """Write rows under their headings."""
        self._print(lay_out(rows, self._width))
        self._kind = None

    @contextlib.contextmanager
    def live(self) -> Iterator[Redraw]:
        """Draw the rows over those of the last time. In a pipe, write them below."""
        if self._width is None:
            yield self._append
            return
        # Redirected, standard output would come back to the console, which writes to it: without end. Warnings go
        # through the console, so that they stand above the rows; but not if standard error is no terminal.
        on_terminal = self._remarks.is_terminal
        live_rows = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=on_terminal)
        with live_rows as live:
            self._live = live
            try:
                yield lambda rows: live.update(Group(*lay_out(rows, self._width)), refresh=True)
            finally:
                self._live = None

    def _append(self, rows: Sequence[Row]) -> None:
        """Write rows below those of their kind."""
        if rows:
            kind = type(rows[0])
            above = self._widths.setdefault(kind, [column.width for column in kind.columns])
            self._print(lay_out(rows, self._width, headings=kind is not self._kind, above=above))
            self._kind = kind

    def _remark(self, remark: Remark) -> None:
        # Where both are one terminal, a line between those that are drawn anew has to go through the same console.
        console = self._console if self._live is not None and self._remarks.is_terminal else self._remarks
        words = Styled(printable(remark.text()), remark.style())
        if console.is_terminal:
            console.print(words, width=min(console.width, WIDEST))
        else:
            console.print(words, soft_wrap=True)

    def _break(self, line: Line) -> list[Styled]:
        """Break a line of a report where the terminal, or a reader's eye, needs it."""
        parts = [Styled(printable(line.words), line.style)]
        if self._width is not None and not line.whole:
            parts = list(parts[0].wrap(self._console, max(1, min(self._width, WIDEST) - line.indent)))
        for part in parts:
            part.rstrip()
        return [Styled(" " * line.indent) + part for part in parts]

    def _print(self, lines: Sequence[Styled]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)


def lay_out(
    rows: Sequence[Row], width: int | None, *, headings: bool = True, above: list[int] | None = None
) -> list[Styled]:
    """Return rows of one kind as lines, with as many of their columns as the width has room for.

    Args:
        rows: The rows.
        width: How many columns of characters there are; `None`: as many as it takes.
        headings: Whether a line of headings comes first.
        above: The widths of the columns above, which stay in line with these. It takes in the widths of these rows.
    """
    if not rows:
        return []
    columns = rows[0].columns
    table = [tuple(map(printable, row.cells())) for row in rows]
    widths = [
        max([above[place] if above else 0, cell_len(column.title), *(cell_len(cells[place]) for cells in table)])
        for place, column in enumerate(columns)
    ]
    if above is not None:
        above[:] = widths
    least = [min(each, column.shortest or each) for column, each in zip(columns, widths, strict=True)]
    kept = _choose(columns, least, width)
    widths = _share_out(columns, least, widths, kept, width)

    def line(cells: Sequence[str], style: str) -> Styled:
        padded = (_pad(_cut(cells[place], widths[place]), widths[place], right=columns[place].right) for place in kept)
        return Styled(_GAP.join(padded).rstrip(), style)

    top = [line([column.title for column in columns], "bold cyan")] if headings else []
    return top + [line(cells, row.style()) for cells, row in zip(table, rows, strict=True)]


def _choose(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> list[int]:
    """Return the places of the columns that fit."""
    kept = list(range(len(columns)))
    while width is not None and sum(widths[place] for place in kept) + len(_GAP) * (len(kept) - 1) > width:
        leaving = max(kept, key=lambda place: columns[place].gives_way)
        if columns[leaving].gives_way == 0:
            break
        kept.remove(leaving)
    return kept


def _share_out(
    columns: Sequence[Column], least: Sequence[int], widths: Sequence[int], kept: Sequence[int], width: int | None
) -> list[int]:
    """Return the columns' widths: at least the least, and what is left over to those that give way last."""
    if width is None:
        return list(widths)
    shared = list(least)
    spare = max(0, width - sum(least[place] for place in kept) - len(_GAP) * (len(kept) - 1))
    for place in sorted(kept, key=lambda place: columns[place].gives_way):
        more = min(spare, widths[place] - least[place])
        shared[place] += more
        spare -= more
    return shared


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - len(_CUT))).rstrip() + _CUT


def _pad(text: str, width: int, *, right: bool) -> str:
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces


def printable(text: str) -> str:
    """Spell what is not printable: an interface's name may hold a terminal's control sequences."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def many(number: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def reason_of(error: OSError) -> str:
    """Return why something was refused, without the number that Python puts before it."""
    return error.strerror or str(error)


def describe_sources(mode: str, sources: Sequence[str]) -> str:
    """Say which sources a filter lets through."""
    if mode == "include":
        return f"only {', '.join(sources)}" if sources else "nobody"
    return f"all but {', '.join(sources)}" if sources else "everybody"


def choose_output(*, as_json: bool) -> Output:
    """Return the output that the command line asks for."""
    return JSONLines() if as_json else Text()


def prepare_output() -> None:
    """Let nothing make printing fail: a name may have octets that are no text, and a stream may be closed (`>&-`)."""
    # What is opened gets the lowest number: a socket must not get that of standard output.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115  # It stays open.
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write to standard output at once.

    Raises:
        BrokenPipeError: Nobody reads any more, as in `| head`. What is written from now on goes nowhere.
        KeyboardInterrupt: Whoever reads has stopped reading, and a signal came: see `raise_if_blocked`.
    """
    with _writing():
        sys.stdout.write(text)
        sys.stdout.flush()


def write_octets(octets: bytes) -> None:
    """Write octets to standard output, as `write` does."""
    with _writing():
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    _WRITE.since = time.monotonic()
    try:
        yield
    except BrokenPipeError:
        # As Python's documentation advises (library/signal, "Note on SIGPIPE"); else the exit would fail to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
    finally:
        _WRITE.since = None


def raise_if_blocked(*_: object) -> None:
    """End a write that waits for a reader, as behind `| less`: to be called when a signal comes.

    The event loop waits, too, and Python would go on with the write (PEP 475). So nothing else ends the command.
    """
    if _WRITE.since is not None and time.monotonic() - _WRITE.since > _BLOCKED:
        raise KeyboardInterrupt


class _Write:
    """Since when standard output is being written, by `time.monotonic`; `None`: it is not."""

    since: float | None = None


_WRITE: Final = _Write()


class Terminal(Console):
    """A console that lets `BrokenPipeError` out, where rich's would exit with a status of its own."""

    def on_broken_pipe(self) -> None:
        """Raise it again: this is called while it is handled."""
        raise  # noqa: PLE0704


class _Stdout(io.TextIOBase):
    """Standard output for rich, which asks whether it is a terminal, and how it is encoded."""

    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        write(text)
        return len(text)

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()


def _to_json(_: object, __: object, value: object) -> object:
    if isinstance(value, IPv4Address | IPv4Interface):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return value.hex() if isinstance(value, bytes) else value
