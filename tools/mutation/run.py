"""Change the code a little, and see whether a test notices: `python tools/mutation/run.py all`.

It needs cosmic-ray. Each of its mutants of the values, the ABI and the ledger is tried in a copy of the tree, with the
quick tests of its module alone. What no test notices is printed, and is an error unless `survivors.txt` gives a reason
for it. Root's privileges, or a network of its own (`python -m trio_ipv4.testing`), are needed for the ledger's tests.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import itertools
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins
import hypothesis.strategies
import pytest
import pytest_trio  # noqa: F401  # Each mutant's process is forked from this one, and has it, and trio, at once.

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parents[2]
PACKAGE = TREE / "trio_ipv4"
SURVIVORS = Path(__file__).with_name("survivors.txt")
SECONDS = 60
"""After which a mutant's endless loop counts as noticed."""
MEMORY = 4 << 30
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
TESTS = {
    "_conn/holds.py": ["tests/conn/test_holds.py"],
    "_conn/ledger.py": [
        "tests/kernel/test_interface_names.py",
        *(f"tests/conn/test_{name}.py" for name in ("survivors", "membership", "silent_mistakes", "traps")),
        "tests/interfaces/test_monitor.py",
    ],
    "_abi/*.py": ["tests/abi", "tests/values/test_control.py"],
    "_codec/*.py": ["tests/codec/test_{}.py"],
    "_values/control.py": ["tests/values/test_control.py", "tests/values/test_facts.py"],
    "_values/facts.py": ["tests/values/test_facts.py"],
    "_values/*.py": ["tests/values/test_{}.py"],
}
"""The tests of a module: of the first pattern that it matches."""


class Mutant(NamedTuple):
    """One small change of one module."""

    module: str
    operator: str
    occurrence: int
    line: int

    def describe(self) -> str:
        """Tell what is changed where, in words that stay the same when other lines come and go."""
        source = (PACKAGE / self.module).read_text()
        changed = cosmic_ray.mutating.mutate_code(source, operator(self.operator), self.occurrence)
        lines = list(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0))[3:]
        before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        return f"{self.module} {definition(ast.parse(source), self.line)}: {before} -> {after or 'nothing'}"


def definition(node: ast.AST, line: int) -> str:
    """Return the name of the innermost class or function at a line, as in `Ledger.close`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            if first <= line <= (child.end_lineno or first):
                return f"{child.name}.{definition(child, line)}".rstrip(".")
    return ""


def operator(name: str) -> cosmic_ray.operators.operator.Operator:
    return cosmic_ray.plugins.get_operator(name)()


def mutants(module: str) -> Iterator[Mutant]:
    """Yield the mutants of a module that can change what it does."""
    source = (PACKAGE / module).read_text()
    tree = cosmic_ray.ast.get_ast(source)
    ignored = list(never_evaluated(ast.parse(source)))
    for name in cosmic_ray.plugins.operator_names():
        if cosmic_ray.plugins.get_operator(name).arguments():
            continue
        nodes = cosmic_ray.ast.ast_nodes(tree)
        positions = (position for node in nodes for position in operator(name).mutation_positions(node))
        for occurrence, (begin, _) in enumerate(positions):
            if not any(first <= begin < last for first, last in ignored):
                yield Mutant(module, name, occurrence, begin[0])


def never_evaluated(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where only type checkers look."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            typing_only = ("final", "overload", "override")
            found = [each for each in node.decorator_list if isinstance(each, ast.Name) and each.id in typing_only]
            found += [node.returns] if not isinstance(node, ast.ClassDef) else []
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found = [node]
        else:
            continue
        for each in found:
            if each is not None:
                # A decorator's mutant begins at its '@'.
                yield (each.lineno, max(each.col_offset - 1, 0)), (each.end_lineno or 0, each.end_col_offset or 0)


def tests_of(module: str) -> list[str]:
    pattern = next(pattern for pattern in TESTS if Path(module).match(pattern))
    return [test.format(Path(module).stem) for test in TESTS[pattern]]


def prepare(directory: str) -> None:
    """Make a worker's copy of the tree, and work in it."""
    copy = Path(directory, str(os.getpid()))
    shutil.copytree(TREE, copy, ignore=shutil.ignore_patterns(".*", "_build", "__pycache__"))
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)


@functools.cache
def passes_unchanged(module: str) -> bool:
    """Run the tests of a module on the module as it is, which leaves everything compiled but for the module."""
    passed = passes(module, compiles=True)
    # Compiled code is told from newer by its size and its second only.
    for compiled in Path("trio_ipv4", module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
        compiled.unlink()
    return passed


def survives(mutant: Mutant) -> bool:
    if not passes_unchanged(mutant.module):
        raise AssertionError(f"the tests of {mutant.module} fail without any mutant")
    path = Path("trio_ipv4", mutant.module)
    with cosmic_ray.mutating.use_mutation(path, operator(mutant.operator), mutant.occurrence):
        return passes(mutant.module)


def passes(module: str, *, compiles: bool = False) -> bool:
    """Run the tests of a module in a process of their own."""
    child = os.fork()
    if child == 0:
        os._exit(test(module, compiles))
    end = time.monotonic() + SECONDS
    while (done := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None and time.monotonic() < end:
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # And whatever it started.
    os.waitpid(child, 0)
    return done is not None and (done.si_code, done.si_status) == (os.CLD_EXITED, 0)


def test(module: str, compiles: bool) -> int:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    sys.dont_write_bytecode = not compiles
    os.environ["PYTHONDONTWRITEBYTECODE"] = "" if compiles else "1"
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    try:
        return int(pytest.main([*OPTIONS, *tests_of(module)]))
    except BaseException:
        return 1


def accepted() -> set[str]:
    """Return what may survive; the lines that begin with # say why."""
    return {line for line in SURVIVORS.read_text().splitlines() if line and not line.startswith("#")}


def main() -> int:
    paths = [PACKAGE / "_conn" / name for name in ("holds.py", "ledger.py")]
    for room in ("_codec", "_values", "_abi"):
        paths += sorted(PACKAGE.glob(f"{room}/*.py"))
    modules = [str(path.relative_to(PACKAGE)) for path in paths if path.name != "__init__.py"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="+", choices=["all", *modules], metavar="MODULE", help="_values/header.py, or all"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    known = accepted()
    tried = noticed = unknown = 0
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(options.jobs, initializer=prepare, initargs=(directory,)) as workers,
    ):
        for module in modules if "all" in options.modules else options.modules:
            made = list(mutants(module))
            alive = list(itertools.compress(made, workers.map(survives, made)))
            print(f"{module}: {score(len(made) - len(alive), len(made))}", flush=True)
            for line in (mutant.describe() for mutant in alive):
                print("    " if line in known else "NEW ", line, flush=True)
                unknown += line not in known
            tried, noticed = tried + len(made), noticed + len(made) - len(alive)
    print(f"{score(noticed, tried)}; {unknown} survivors have no reason in {SURVIVORS.name}")
    return 1 if unknown else 0


def score(noticed: int, tried: int) -> str:
    return f"{noticed} of {tried} noticed, {noticed / tried:.1%}"


if __name__ == "__main__":
    sys.exit(main())
