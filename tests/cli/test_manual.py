"""The manual pages of the commands: every command has one, and it lists every record with all its keys."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import attrs
import pytest

from support.files import load
from trio_ipv4 import _cli
from trio_ipv4._cli.output import Record

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/reference/cli"
COMMANDS = [*_cli.COMMANDS]
for _found in pkgutil.walk_packages(_cli.__path__, f"{_cli.__name__}."):
    importlib.import_module(_found.name)  # A command is imported when it is run, and its records with it.


def records(kind: type[Record] = Record) -> dict[str, set[type[Record]]]:
    """The kinds of records that commands make, by the name of their event."""
    found: dict[str, set[type[Record]]] = {}
    for each in kind.__subclasses__():
        # Other tests may have made kinds of their own.
        if "event" in vars(each) and each.__module__.startswith("trio_ipv4."):
            found.setdefault(each.event, set()).add(each)
        for event, kinds in records(each).items():
            found.setdefault(event, set()).update(kinds)
    return found


def rows(event: str) -> list[str]:
    """The rows of the pages' tables that are about an event."""
    lines = [line for page in PAGES.glob("*.md") for line in page.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith(f"| `{event}` |")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_that_the_index_names(command: str) -> None:
    page = (PAGES / f"{command}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# trio-ipv4 {command}\n")
    assert f"[`{command}`]({command}.md)" in (PAGES / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("event", sorted(records()))
def test_every_key_of_every_record_is_in_the_manual(event: str) -> None:
    for kind in records()[event]:
        keys = {field.name for field in attrs.fields(kind)}
        named = [set(re.findall(r"`(\w+)`", row)) for row in rows(event)]
        assert any(keys <= found for found in named), (kind, keys, named)


def test_every_transcript_is_of_a_scene_as_it_is_played_now() -> None:
    """The script that makes them is run by hand: `tools/transcripts/run.py`."""
    scenes = load(ROOT / "tools/transcripts/scenes.py")
    found = [match for page in (ROOT / "docs").rglob("*.md") for match in scenes.MARK.finditer(page.read_text())]
    assert sorted(match[1] for match in found) == sorted(scenes.SCENES)
    for match in found:
        commands = scenes.SCENES[match[1]].shown
        typed = [each.shown or each.text for each in commands]
        assert [line[2:] for line in match[0].splitlines() if line.startswith("$ ")] == typed
        # What is not shown may only prepare it, or end it.
        assert all(each.text.endswith(text) for each, text in zip(commands, typed, strict=True))
        # It has said something.
        assert len(match[0].split("```text")[1].splitlines()) > 2 + len(typed)


def test_every_example_in_a_scene_is_there() -> None:
    scenes = load(ROOT / "tools/transcripts/scenes.py")
    named = {
        name
        for scene in scenes.SCENES.values()
        for each in (*scene.shown, *scene.beside, *scene.before)
        for name in re.findall(r"(?:^| )python (\w+\.py)\b", each.text)
    }
    assert named >= {"ping.py", "market_data.py", "market_data_feed.py"}
    assert [name for name in named if not (ROOT / "docs/examples" / name).is_file()] == []


def test_every_exit_status_is_in_the_manual() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    for status in _cli.Status:
        assert re.search(rf"^\| ([0-9, ]*\b)?{status.value}\b", index, re.MULTILINE), status
