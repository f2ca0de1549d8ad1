"""Every block of Python in the documentation is checked by mypy, as strictly as the library.

A block that imports from the library, and awaits nothing outside a function, is a module. Every other is a fragment: it
becomes the body of a function, in which there are the names of `NAMES`, and those that it would import.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.pure
ROOT: Final = Path(__file__).parents[2]
IMPORTS: Final = """\
import contextlib, functools, socket, subprocess
from functools import partial
from ipaddress import IPv4Address
import pytest, trio
from trio_ipv4 import *
from trio_ipv4.testing import *
"""
NAMES: Final = {
    "GROUP": "IPv4Address",
    "conn": "PacketConn",
    "datagram": "Datagram",
    "en0": "Interface",
    "group": "str",
    "interface": "Interface",
    "lab": "Lab",
    "membership": "Membership",
    "nursery": "trio.Nursery",
    "router_alert": "bytes",
    "source": "IPv4Address",
}
"""What a fragment may use, and what it is."""
PLAIN: Final = ("text", "console", "shell-session", "sh", "bash", "")
"""The kinds of blocks that may be transcripts."""
PROMPT: Final = re.compile(r"^\$ ", re.MULTILINE)
FAILED: Final = re.compile(r"^(trio-ipv4: |python: |sh: |\S+\.py: error: |Traceback )", re.MULTILINE)
MISTAKES: Final = {
    "an_argument": "async with conn.joined(interface, group, source='192.0.2.1'):\n    ...",
    "a_method": "await conn.receive_datagram()",
    "a_name": "from trio_ipv4 import open_tcp",
    "no_types": "from trio_ipv4 import open_udp\n\n\ndef main(port):\n    open_udp('', port)",
}
"""Blocks that must not pass."""


class Block(NamedTuple):
    """A block of code, and the line of a page in which it begins."""

    page: str
    line: int
    code: str

    @property
    def name(self) -> str:
        """A name for a module, by which the page is found again."""
        return f"{self.page.removesuffix('.md').replace('/', '_').replace('-', '_')}_line_{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """Return all blocks of these kinds, of the README and of the manual. A block that is only indented has none."""
    return [
        Block(page.relative_to(ROOT).as_posix(), token.map[0] + 1 + (token.type == "fence"), token.content)
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        if page.parent.name != "pages"  # Made when the site is built.
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type in {"fence", "code_block"} and token.info in kinds and token.map is not None
    ]


def module(code: str) -> str:
    """Return a block as a module that can be checked."""
    tree = ast.parse(f"async def function():\n{textwrap.indent(code, '    ')}").body[0]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    if any((node.module or "").startswith("trio_ipv4") for node in imports) and not awaits(tree):
        return code
    parameters = ", ".join(f"{name}: {kind}" for name, kind in NAMES.items() if name not in bound(tree))
    return f"{IMPORTS}\nasync def function({parameters}) -> None:\n{textwrap.indent(code, '    ')}"


def awaits(node: ast.AST) -> bool:
    """Say whether something is awaited in a function, not counting the functions in it."""
    inner = [
        each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return any(isinstance(each, ast.Await | ast.AsyncWith | ast.AsyncFor) or awaits(each) for each in inner)


def bound(tree: ast.AST) -> set[str | None]:
    """Return the names that a block gives a value itself."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in ast.walk(tree) if isinstance(node, ast.MatchAs)}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says of each block, and of the mistakes; in one run, because most of its time goes to trio's types."""
    folder = tmp_path_factory.mktemp("blocks")
    found = {block.name: block.code for block in blocks("python")}
    assert len(found) > 30
    for name, code in {**found, **MISTAKES}.items():
        (folder / f"{name}.py").write_text(module(code), encoding="utf-8")
    config = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache"))
    argv = [sys.executable, "-m", "mypy", *config, "--no-error-summary", "--hide-error-context", "."]
    done = subprocess.run(argv, cwd=folder, text=True, capture_output=True, check=False)
    said = dict.fromkeys([*found, *MISTAKES], "")
    for line in (done.stdout + done.stderr).splitlines():
        said[line.partition(".py:")[0]] += f"{line}\n"
    return said


def test_every_block_of_python_has_the_types_that_the_library_wants(complaints: dict[str, str]) -> None:
    assert "".join(said for name, said in complaints.items() if name not in MISTAKES) == ""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_block_is_found(complaints: dict[str, str], name: str) -> None:
    assert ": error: " in complaints[name]


def test_every_transcript_is_made_by_the_script_that_plays_the_scenes() -> None:
    """A block with a prompt is a transcript, whichever program it shows. Commands without output have no prompt.

    tests/cli/test_manual.py holds the marked ones to their scenes.
    """
    found = [block for block in blocks(*PLAIN) if PROMPT.search(block.code)]
    assert len(found) > 30
    unmarked = []
    for block in found:
        before = (ROOT / block.page).read_text(encoding="utf-8").splitlines()[: block.line - 2]
        if not [line for line in before if line][-1].startswith("<!-- transcript: "):
            unmarked.append(f"{block.page}:{block.line}")
    assert unmarked == []


def test_no_transcript_is_of_a_run_that_could_not_begin() -> None:
    """The tool tells so by its name: 'trio-ipv4: a lab named 'lab' is up already'."""
    told = [block.page for block in blocks(*PLAIN) if FAILED.search(block.code)]
    assert told == []
