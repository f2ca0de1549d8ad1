"""Run the tests under every Python that is found, keep what came out, and write docs/reference/pythons.md.

    python tools/pythons/run.py RESULTS [--wheels FOLDER] [--tests PATH ...] [PYTHON | FOLDER ...]

A folder is one that chroot.py makes; every Python in it is taken. Each Python gets a virtual environment. The package
is installed there from the wheel that fits, of those that `nox -s wheels -- FOLDER` made, or else from source. Its
tests run against what was installed, as under a second Python (tests/conftest.py).
A test that takes the ways to call the kernel runs once by each: its name tells which. RESULTS keeps one JSON file for
each Python; without a Python, only the page is written anew.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from entering import enter
from page import WAYS, write_page

PROJECT = Path(__file__).parents[2]
COPIED = ("tests", "tools", "docs", "pyproject.toml", "README.md", "hatch_build.py", "noxfile.py", "CHANGELOG.md")
INTERRUPTED = 2
"""pytest.ExitCode.INTERRUPTED"""
LEFT_OUT = {"atheris", "coverage", "zeroconf"}
"""What only tests need that a second Python need not run. Not every Python can install it."""
INSIDE = Path("/var/lib/trio-ipv4-pythons")
"""Where all is done, on this machine or in a chroot. Nobody but root can have made it."""
NAMES = ("usr/bin/python3.[0-9]*", "usr/bin/pypy3", "opt/*/bin/python3.[0-9]*")
ABOUT = """
import glob, importlib.metadata, json, platform, subprocess, sys, trio_ipv4
how = trio_ipv4.implementation()
libc = platform.libc_ver()
if libc[0] not in ("glibc", "musl"):  # Python knows musl since 3.14.
    told = subprocess.run(glob.glob("/lib/ld-musl-*")[0], stderr=subprocess.PIPE, text=True).stderr
    libc = "musl", told.split("Version ")[1].split()[0]
wheel = importlib.metadata.distribution("trio-ipv4").read_text("WHEEL")
print(json.dumps({
    "implementation": platform.python_implementation(), "version": platform.python_version(),
    "free_threaded": "free-threading" in sys.version, "libc": libc, "machine": platform.machine(),
    "linux": platform.release().split("-")[0], "way": how.way, "reason": how.reason, "of": trio_ipv4.__version__,
    "wheel": [line.split()[1] for line in wheel.splitlines() if line.startswith("Tag:")][0],
}))
"""


def main() -> None:
    """Run the tests, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--tests", nargs="+", default=["tests"], metavar="PATH")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER")
    options = parser.parse_intermixed_args()
    options.results.mkdir(parents=True, exist_ok=True)
    for root, python in find(options.pythons):
        print(f"{python} in {root}", flush=True)
        result = run(root, python, options.tests, options.workers, options.wheels)
        (options.results / f"{name_of(root, python)}.json").write_text(json.dumps(result, indent=1))
        print({key: result[key] for key in ("ways", "failed", "error") if key in result}, flush=True)
    results = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    (PROJECT / "docs/reference/pythons.md").write_text(write_page(results))


def find(names: list[str]) -> list[tuple[Path, str]]:
    """Return each Python with the folder that is its root."""
    found = []
    for name in names:
        if Path(name).is_dir():
            root = Path(name).absolute()
            paths = sorted(path for pattern in NAMES for path in root.glob(pattern) if "config" not in path.name)
            # One Python may have several names, as python3.13 and python3.13t.
            named = {path.stat().st_ino: path for path in reversed(paths)}
            found += [(root, f"/{path.relative_to(root)}") for path in sorted(named.values())]
        elif (command := shutil.which(name)) is not None:
            found.append((Path("/"), command))
        else:
            sys.exit(f"{name} is neither a folder nor a Python")
    return found


def name_of(root: Path, python: str) -> str:
    return re.sub(r"[^\w.]+", "-", f"{python} in {root}").strip("-")


def run(root: Path, python: str, tests: list[str], workers: str, wheels: Path | None) -> dict[str, Any]:
    """Install the package under a Python and run its tests; return what came out."""
    inside = INSIDE / name_of(Path("/"), python)
    outside = root / inside.relative_to("/")
    shutil.rmtree(outside / "source", ignore_errors=True)
    outside.mkdir(parents=True, exist_ok=True)  # An environment that is there already is used again.
    result: dict[str, Any] = {"python": python, "date": dt.datetime.now(dt.UTC).date().isoformat()}
    result["tests"] = tests
    source = outside / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build")
    for name in (*COPIED, "trio_ipv4", "LICENSE", "LICENSE.MIT", "LICENSE.APACHE2"):
        path = PROJECT / name
        shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source / name)
    own = str(inside / "venv/bin/python")
    what = [str(inside / "source")]
    if wheels:
        shutil.copytree(wheels, source / "dist")
        what = ["--no-index", "--find-links", str(inside / "source/dist"), "--only-binary=:all:", "trio-ipv4"]
    steps = (
        [python, "-m", "venv", str(inside / "venv")],
        [own, "-m", "pip", "install", "--quiet", "--prefer-binary", *requirements()],
        [own, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", *what],
    )
    for step in steps:
        done = subprocess.run(enter(root, step), capture_output=True, text=True, check=False)
        if done.returncode:
            return result | {"error": f"{' '.join(step[1:5])}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"}
    # What is installed is tested: there is nothing to import in the source now.
    shutil.rmtree(source / "trio_ipv4")
    about = subprocess.run(enter(root, [own, "-c", ABOUT]), capture_output=True, text=True, check=False)
    if about.returncode:
        return result | {"error": about.stderr.strip().splitlines()[-1]}
    report = inside / "report.xml"
    written = root / report.relative_to("/")
    written.unlink(missing_ok=True)  # An earlier run's.
    pytest = ["pytest", "-q", "-n", workers, "-p", "no:cacheprovider", "--timeout=300", "--timeout-method=thread"]
    options = [f"--junitxml={report}", f"--second-python={inside / 'left-out'}"]
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(inside / "source"), own, "-m", *pytest, *options, *tests]
    with (outside / "output").open("w") as output:
        # In CI, hypothesis tries the same examples each time.
        environment = ["env", "TRIO_IPV4_REQUIRE_LAB=1", "CI=true", *command]
        done = subprocess.run(enter(root, environment), stdout=output, stderr=subprocess.STDOUT, check=False)
    result["stopped"] = done.returncode == INTERRUPTED
    if not written.exists():
        return result | {"error": f"pytest wrote no report: see {outside / 'output'}"}
    return result | json.loads(about.stdout) | counted(written.read_bytes())


def requirements() -> list[str]:
    """Return what the package and its tests need."""
    told = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wanted = [*told["project"]["dependencies"], *told["project"]["optional-dependencies"]["cli"]]
    for each in told["dependency-groups"]["test"]:
        wanted += [each] if isinstance(each, str) else told["dependency-groups"][each["include-group"]]
    return [each for each in wanted if re.split(r"[^\w-]", each)[0] not in LEFT_OUT]


def counted(report: bytes) -> dict[str, Any]:
    """Count the tests in a report of pytest's, by the way that their names tell."""
    ways = {way: dict.fromkeys(("passed", "failed", "skipped"), 0) for way in (*WAYS, "any")}
    failed = []
    for case in ET.fromstring(report).iter("testcase"):
        name = case.get("name", "")
        way = next((way for way in WAYS if re.search(rf"[\[-]{way}[\]-]", name)), "any")
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            failed.append(f"{case.get('classname')}::{name}")
        elif case.find("skipped") is not None:
            outcome = "skipped"
        ways[way][outcome] += 1
    return {"ways": ways, "failed": failed}


if __name__ == "__main__":
    main()
