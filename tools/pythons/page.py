"""Write the page of the Pythons, docs/reference/pythons.md, from the results that run.py keeps."""

from __future__ import annotations

from typing import Any

WAYS = ("compiled", "ctypes", "one by one")
"""As the tests' names have them (tests/support/systems.py)."""
WANTED = (*(f"CPython 3.{minor}" for minor in (11, 12, 13, 14, 15, "13t", "14t", "15t")), "PyPy 3.11")
"""The Pythons that the library is meant for."""
LIBCS = ("glibc", "musl")
PAGE = """\
<!-- Written by `nox -s pythons`, from what it ran. Change tools/pythons/page.py instead. -->
# Pythons

The library receives and sends batches in one of three ways:

`compiled`
: recvmmsg(2) and sendmmsg(2), called from C. For CPython with a global interpreter lock, where a C compiler was there
  when the package was installed.

`ctypes`
: The same calls, from Python.

`one by one`
: One call for each datagram, where the platform or a sandbox lacks these two.

They differ in what [a batch costs](../explanation/performance.md#what-the-compiled-part-is-worth), and in nothing else.
A compiled part that does not fit this Python is passed over. `trio-ipv4 --version` names the way, and says how to get
the compiled part where it is missing. On PyPy, the commands `groups` and `doctor` ask no socket of another process,
because PyPy would change the socket by that.

A program asks for the way:

```{{eval-rst}}
.. currentmodule:: trio_ipv4

.. autofunction:: implementation

.. autoclass:: Implementation

.. py:data:: __version__
   :type: str

   The version of the distribution, as `importlib.metadata` has it. Not in `__all__`.
```

## What was run

`nox -s pythons` installs the wheel that fits each Python, and runs the tests, without those that a kernel or another
program decides whatever the Python. A test for which the way matters runs once by each way. The cells give the number
of tests that passed, and of those that failed, if any did. A dash stands for a way that this Python does not have.

{table}

{details}

Not run by this session:

{missing}

`nox -s tests` runs CPython 3.11, 3.12 and 3.13 at every change, whether or not they stand here. A free-threaded Python,
and one that is linked to musl, were compiled from Debian's sources by `tools/pythons/chroot.py`.
"""


def write_page(results: list[dict[str, Any]]) -> str:
    """Return the page."""
    ran = sorted((each for each in results if "ways" in each), key=_order)
    titles = ("Python", "libc", "wheel", "Linux", "date", "any way", *WAYS)
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    rows += [_row(each) for each in ran]
    return PAGE.format(table="\n".join(rows), details=_details(ran, results), missing=_missing(ran))


def python_of(result: dict[str, Any], *, short: bool = False) -> str:
    """Return the name of a Python, such as CPython 3.13t."""
    version = ".".join(result["version"].split(".")[:2]) if short else result["version"]
    return f"{result['implementation']} {version}{'t' if result['free_threaded'] else ''}"


def _missing(ran: list[dict[str, Any]]) -> str:
    done = {(python_of(each, short=True), each["libc"][0]) for each in ran}
    lines = []
    for libc in LIBCS:
        lacking = [python for python in WANTED if (python, libc) not in done]
        lines.append(f"- With {libc}: {', '.join(lacking) or 'none'}.")
    return "\n".join(lines)


def _order(result: dict[str, Any]) -> tuple[Any, ...]:
    version = [int("".join(c for c in part if c.isdigit()) or 0) for part in result["version"].split(".")]
    return result["implementation"] != "CPython", result["free_threaded"], version


def _row(result: dict[str, Any]) -> str:
    cells = [python_of(result), " ".join(result["libc"]), f"`{result['wheel']}`", result["linux"], result["date"]]
    cells += [_cell(result["ways"][way]) for way in ("any", *WAYS)]
    return "| " + " | ".join(cells) + " |"


def _cell(counts: dict[str, int]) -> str:
    if not counts["passed"] and not counts["failed"]:
        return "–"
    return f"{counts['passed']:,}" + (f" ({counts['failed']} failed)" if counts["failed"] else "")


def _details(ran: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    """Tell what failed, which part of the tests was run where it is not all, and what could not be installed."""
    lines = []
    for each in ran:
        name = f"{python_of(each)}, {each['libc'][0]}"
        if each["tests"] != ["tests"]:
            lines.append(f"- {name}: only {', '.join(f'`{path}`' for path in each['tests'])}.")
        if each.get("stopped"):
            lines.append(f"- {name}: the run was stopped before its end, so these are the tests until then.")
        failed = sorted({test.split("[")[0].removeprefix("tests.") for test in each["failed"]})
        if failed:
            lines.append(f"- {name}: failed {', '.join(f'`{test}`' for test in failed)}.")
    lines += [f"- `{each['python']}` could not be run: {each['error']}" for each in results if "error" in each]
    return "\n".join(lines)
