"""What the commands show: as text for people, on terminals and in pipes, and as JSON lines."""

from __future__ import annotations

import enum
import json
import re
import sys
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from support.terminal import on_terminal
from trio_ipv4._cli.output import (
    Column,
    JSONLines,
    Line,
    Record,
    Remark,
    Report,
    Row,
    Sentence,
    Text,
    choose_output,
    describe_sources,
    lay_out,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.pure

ESCAPE = "\x1b"
TESTS = Path(__file__).parents[1]
RED = f"{ESCAPE}[31mred"


@attrs.frozen
class Listed(Row):
    event: ClassVar[str] = "listed"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("name", width=6),
        Column("flags", gives_way=2),
        Column("MTU", gives_way=1, right=True),
        Column("address", width=12),
    )
    name: str
    mtu: int = 1500
    address: str = "198.18.0.1"
    flags: str = "UP BROADCAST RUNNING MULTICAST LOWER_UP"

    def cells(self) -> tuple[str, ...]:
        return (self.name, self.flags, str(self.mtu), self.address)

    def style(self) -> str:
        return "green"


@attrs.frozen
class Other(Row):
    event: ClassVar[str] = "other"
    columns: ClassVar[tuple[Column, ...]] = (Column("other"),)
    value: int = 7

    def cells(self) -> tuple[str, ...]:
        return (str(self.value),)


@attrs.frozen
class Said(Sentence):
    event: ClassVar[str] = "said"
    words: str

    def text(self) -> str:
        return self.words

    def style(self) -> str:
        return "bold red"


@attrs.frozen
class Explained(Remark):
    event: ClassVar[str] = "explained"
    words: str

    def text(self) -> str:
        return self.words


@attrs.frozen
class Reported(Report):
    event: ClassVar[str] = "reported"
    words: str

    def lines(self) -> tuple[Line, ...]:
        return (
            Line(self.words, style="bold red"),
            Line(),
            Line(self.words, indent=2),
            Line(self.words, indent=4, whole=True),
        )


class Mode(enum.Enum):
    INCLUDE = 1


@attrs.frozen
class Inner:
    address: IPv4Address
    octets: bytes


@attrs.frozen
class Everything(Record):
    event: ClassVar[str] = "everything"
    values: Any


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Text]:
    """Make a text output that takes its streams for a terminal, so many columns wide."""

    def make(columns: int) -> Text:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
        return Text()

    return make


# In a pipe


def test_in_a_pipe_each_record_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Text()
    output.show(Listed("en0"))
    output.show(Said("words " * 100))
    output.table([Listed("en1"), Listed("en2")])
    shown, told = capsys.readouterr()
    assert told == ""
    assert ESCAPE not in shown
    assert [line.split()[0] for line in shown.splitlines()] == ["name", "en0", "words", "name", "en1", "en2"]
    assert all(title in shown.splitlines()[0] for title in ("name", "MTU", "address", "flags"))


def test_rows_of_one_kind_have_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    output = Text()
    output.table([Other()])
    for name in ("a", "b"):
        output.show(Listed(name))
    for record in (Explained("meanwhile"), Listed("c"), Other(), Listed("d"), Said("x"), Listed("e")):
        output.show(record)
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first == ["other", "7", "name", "a", "b", "c", "other", "7", "name", "d", "x", "name", "e"]


def test_rows_that_come_one_by_one_are_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Text()
    output.show(Listed("a", 9))
    output.show(Listed("abcdef", 65536))
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.index("flags") == first.index("UP") == second.index("UP") == 8


def test_no_rows_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    Text().table([])
    JSONLines().table([])
    assert capsys.readouterr() == ("", "")


def test_remarks_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(["These are many words that explain."] * 10)
    Text().show(Explained(words))
    assert capsys.readouterr() == ("", f"{words}\n")


def test_all_of_it_can_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output = Text(to_stderr=True)
    output.show(Listed("en0"))
    output.show(Said("words"))
    output.table([Other()])
    shown, told = capsys.readouterr()
    assert shown == ""
    assert [line.split()[0] for line in told.splitlines()] == ["name", "en0", "words", "other", "7"]


def test_in_a_pipe_a_live_table_goes_on_below_under_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    with Text().live() as redraw:
        redraw([Other(1)])
        assert capsys.readouterr().out.split() == ["other", "1"]
        redraw([Other(2)])
    assert capsys.readouterr().out.split() == ["2"]


def test_in_a_pipe_each_line_of_a_report_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    output, words = Text(), " ".join(["words"] * 40)
    output.table([Listed("en0")])
    output.show(Reported(words))
    output.show(Listed("en1"))
    shown, told = capsys.readouterr()
    assert told == ""
    assert shown.splitlines()[2:6] == [words, "", f"  {words}", f"    {words}"]
    assert shown.splitlines()[6].startswith("name")


# On a terminal


def test_a_terminal_has_colours(terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(200).show(Said("words"))
    assert capsys.readouterr().out == f"{ESCAPE}[1;31mwords{ESCAPE}[0m\n"


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (200, ["name", "flags", "MTU", "address"]),
        (60, ["name", "MTU", "address"]),
        (24, ["name", "address"]),
        (5, ["name", "address"]),  # Never without these.
    ],
)
def test_columns_leave_when_there_is_no_room(
    terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str], columns: int, titles: list[str]
) -> None:
    terminal(columns).table([Listed("en0"), Listed("a-long-name")])
    shown = [strip(line) for line in capsys.readouterr().out.splitlines()]
    assert shown[0].split() == titles
    assert len(shown) == 3
    assert columns < 24 or max(map(len, shown)) <= columns


def test_remarks_are_wrapped_to_be_read(terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str]) -> None:
    for columns, widest in ((60, 60), (200, 88)):
        terminal(columns).show(Explained("These are many words that explain. " * 10))
        shown, told = capsys.readouterr()
        assert shown == ""
        assert widest - 10 < max(map(cell_len, told.splitlines())) <= widest


def test_a_terminal_breaks_the_lines_of_a_report(
    terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(["words"] * 40)
    for columns, widest in ((60, 60), (200, 88)):
        terminal(columns).show(Reported(words))
        *lines, whole = capsys.readouterr().out.splitlines()
        assert whole == f"    {words}"
        at = lines.index("")
        assert all(line.startswith(f"{ESCAPE}[1;31mwords") for line in lines[:at])
        assert all(line.startswith("  words") for line in lines[at + 1 :])
        assert widest - 10 < max(len(strip(line)) for line in lines) <= widest
        assert " ".join(map(strip, lines[:at])) == words
        assert " ".join(line.strip() for line in lines[at + 1 :]) == words


def test_a_terminal_narrower_than_the_margin_does_no_harm(
    terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(2).show(Reported("ab cd"))
    assert "".join(strip(capsys.readouterr().out).split()) == "abcd" * 3


def test_a_live_table_is_drawn_over_itself(
    terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = terminal(60)
    with output.live() as redraw:
        redraw([Other(1), Other(2)])
        first = capsys.readouterr().out
        assert [strip(line).split() for line in first.splitlines()][-3:] == [["other"], ["1"], ["2"]]
        redraw([Other(3), Other(4)])
        second = capsys.readouterr().out
        assert second.count(f"{ESCAPE}[1A") == 2  # ECMA-48's CUU: up to the first of three lines.
        assert "3" in second
        # Between two drawings, what is said stands above the table, whole.
        output.show(Explained("meanwhile"))
        shown, told = capsys.readouterr()
        assert "meanwhile" in shown
        assert told == ""
    output.show(Explained("behind"))
    assert "behind" in capsys.readouterr().err


def test_a_real_terminal_has_its_width() -> None:
    program = "from test_output import *; Text().table([Listed('en0')]); Text().show(Explained('why'))"
    argv = [sys.executable, "-c", f"import sys; sys.path += {[str(TESTS), str(TESTS / 'cli')]!r}; {program}"]
    for columns, titles in ((60, ["name", "MTU", "address"]), (200, ["name", "flags", "MTU", "address"])):
        with on_terminal(argv, columns=columns) as screen:
            shown = screen.read_to_end()
        assert screen.process.returncode == 0, shown
        assert strip(shown.splitlines()[0]).split() == titles
        assert ESCAPE in shown
        assert shown.splitlines()[-1] == "why"


# Widths


CELLS = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Rows of some kind."""
    ways = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    found = tuple(
        Column(f"title{place}", gives_way=way, right=draw(st.booleans()), shortest=draw(st.sampled_from([0, 8])))
        for place, way in enumerate(ways)
    )

    @attrs.frozen
    class Drawn(Row):
        event: ClassVar[str] = "drawn"
        columns: ClassVar[tuple[Column, ...]] = found
        texts: tuple[str, ...]

        def cells(self) -> tuple[str, ...]:
            return self.texts

    return [Drawn(tuple(draw(CELLS) for _ in ways)) for _ in range(draw(st.integers(1, 4)))]


@given(tables(), st.integers(1, 120))
def test_lines_fit_unless_what_never_gives_way_is_too_wide(rows: list[Row], width: int) -> None:
    lines = [line.plain for line in lay_out(rows, width)]
    columns = rows[0].columns
    kept = [column for column in columns if column.title in lines[0]]
    assert max(map(cell_len, lines)) <= width or not any(column.gives_way for column in kept)
    # Whoever left gave way before all who stayed.
    gone = [column.gives_way for column in columns if column not in kept]
    assert not gone or min(gone) >= max([0, *(column.gives_way for column in kept)])


@given(tables())
def test_without_a_width_nothing_is_lost(rows: list[Row]) -> None:
    heading, *lines = (line.plain for line in lay_out(rows, None))
    assert heading.split() == [column.title for column in rows[0].columns]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert all(printable(cell).rstrip() in line for cell in row.cells())
        assert "\n" not in line


def test_wide_characters_stay_in_line() -> None:
    heading, wide, narrow = (line.plain for line in lay_out([Listed("网络接口"), Listed("en0")], None))
    at = heading.index("flags")
    assert narrow.index("UP") == at
    assert cell_len(wide[: wide.index("UP")]) == at


def test_a_name_can_t_command_the_terminal(terminal: Callable[[int], Text], capsys: pytest.CaptureFixture[str]) -> None:
    for output in (Text(), terminal(200)):
        output.show(Listed(RED))
        output.show(Said(f"{RED}\n"))
        output.show(Explained(f"{RED}\n"))
        shown, told = capsys.readouterr()
        assert shown.count("\\x1b[31mred") == 2
        assert shown.count("\\n") == told.count("\\n") == 1
        output.show(Reported(f"{RED}\n"))
        assert capsys.readouterr().out.count("\\x1b[31mred\\n") == 3
        assert RED not in shown + told


@given(st.text())
def test_what_is_printable_stays_and_the_rest_is_spelled(text: str) -> None:
    spelled = printable(text)
    assert spelled.isprintable()
    if text.isprintable():
        assert spelled == text
    assert printable(spelled) == spelled


def test_markup_and_emoji_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    Text().show(Said("[bold]en0[/bold] :warning: 198.18.0.1"))
    assert capsys.readouterr().out == "[bold]en0[/bold] :warning: 198.18.0.1\n"


# JSON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        ("网 \x1b\n\udcff", "网 \x1b\n\udcff"),
        (IPv4Address("239.1.2.3"), "239.1.2.3"),
        (IPv4Interface("198.18.0.1/24"), "198.18.0.1/24"),
        (Mode.INCLUDE, "include"),
        (b"\x00\xff", "00ff"),
        ((1, IPv4Address("0.0.0.0")), [1, "0.0.0.0"]),
        ([Mode.INCLUDE, b"\x01"], ["include", "01"]),
        ({"a": IPv4Address("1.2.3.4")}, {"a": "1.2.3.4"}),
        (Inner(IPv4Address("1.2.3.4"), b"\x01"), {"address": "1.2.3.4", "octets": "01"}),
        ((Inner(IPv4Address("1.2.3.4"), b""),), [{"address": "1.2.3.4", "octets": ""}]),
    ],
)
def test_a_value_has_its_json(value: Any, expected: Any, capsys: pytest.CaptureFixture[str]) -> None:
    JSONLines().show(Everything(value))
    shown, told = capsys.readouterr()
    assert told == ""
    assert shown.count("\n") == 1
    assert json.loads(shown) == {"event": "everything", "values": expected}


def test_json_has_a_line_for_each_record_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    output = JSONLines()
    output.show(Said("a"))
    output.show(Explained("b"))
    output.table([Other(1), Other(2)])
    with output.live() as redraw:
        redraw([Other(3)])
    shown, told = capsys.readouterr()
    assert told == ""
    assert [json.loads(line)["event"] for line in shown.splitlines()] == ["said", "explained", *["other"] * 3]


def test_the_option_chooses_the_output() -> None:
    assert isinstance(choose_output(as_json=True), JSONLines)
    assert isinstance(choose_output(as_json=False), Text)


def test_sources_are_said_in_words() -> None:
    assert describe_sources("include", ["198.18.0.1", "198.18.0.2"]) == "only 198.18.0.1, 198.18.0.2"
    assert describe_sources("include", []) == "nobody"
    assert describe_sources("exclude", ["198.18.0.1"]) == "all but 198.18.0.1"
    assert describe_sources("exclude", []) == "everybody"


def strip(line: str) -> str:
    """Take the colours off."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
