"""The page of the Pythons says what was run, what failed, and what was not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

TOOLS = Path(__file__).parents[2] / "tools/pythons"
pytestmark = pytest.mark.pure

REPORT = b"""<testsuites><testsuite>
<testcase classname="tests.a" name="test_any"/>
<testcase classname="tests.a" name="test_way[compiled]"><skipped/></testcase>
<testcase classname="tests.a" name="test_way[ctypes]"/>
<testcase classname="tests.a" name="test_way[kernel-one by one-x]"/>
<testcase classname="tests.a" name="test_way[one by one]"><failure/></testcase>
<testcase classname="tests.a" name="test_way[simulated-own]"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(TOOLS)
    import page  # type: ignore[import-not-found]  # noqa: PLC0415
    import run  # type: ignore[import-not-found]  # noqa: PLC0415

    for name in ("page", "run", "entering"):
        monkeypatch.delitem(sys.modules, name)
    return page, run


def result(**changes: Any) -> dict[str, Any]:
    about = {"implementation": "CPython", "version": "3.15.2", "free_threaded": False, "libc": ["glibc", "2.42"]}
    run = {"python": "/x", "wheel": "py3-none-any", "date": "2026-11-30", "tests": ["tests"], "linux": "6.18"}
    return {**run, "failed": [], **about, **changes}


def test_tests_are_counted_by_the_way_in_their_names(tools: tuple[Any, Any]) -> None:
    told = tools[1].counted(REPORT)
    assert told["ways"] == {
        "any": {"passed": 1, "failed": 1, "skipped": 0},
        "compiled": {"passed": 0, "failed": 0, "skipped": 1},
        "ctypes": {"passed": 1, "failed": 0, "skipped": 0},
        "one by one": {"passed": 1, "failed": 1, "skipped": 0},
    }
    assert told["failed"] == ["tests.a::test_way[one by one]", "tests.a::test_way[simulated-own]"]


def test_the_page_names_what_was_run_what_failed_and_what_was_not(tools: tuple[Any, Any]) -> None:
    page, run = tools
    broken = {"python": "/opt/python3.15t", "error": "no pip"}
    ran = result(free_threaded=True, tests=["tests/conn"], **run.counted(REPORT))
    text = page.write_page([broken, result(version="3.9.1", **run.counted(REPORT)), ran])
    rows = [line for line in text.splitlines() if line.startswith("| CPython")]
    assert rows == [
        "| CPython 3.9.1 | glibc 2.42 | `py3-none-any` | 6.18 | 2026-11-30 | 1 (1 failed) | – | 1 | 1 (1 failed) |",
        "| CPython 3.15.2t | glibc 2.42 | `py3-none-any` | 6.18 | 2026-11-30 | 1 (1 failed) | – | 1 | 1 (1 failed) |",
    ]
    assert "- CPython 3.15.2t, glibc: only `tests/conn`." in text
    assert "- CPython 3.15.2t, glibc: failed `a::test_way`." in text
    assert "- `/opt/python3.15t` could not be run: no pip" in text
    glibc, musl = (line for line in text.splitlines() if line.startswith("- With "))
    assert "CPython 3.15," in glibc
    assert "CPython 3.15t" not in glibc
    assert "CPython 3.15t" in musl


def test_making_is_measured_both_ways() -> None:
    script = "import making; making.ROUNDS, making.SECONDS = 1, 0.01; making.main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=TOOLS, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()[-4:]
    assert [line.split()[:3] for line in lines] == [
        [value, "by", way] for value in ("Datagram", "ControlMessage") for way in ("class:", "slots:")
    ]
    assert sum(line.endswith("chosen") for line in lines) == 2
