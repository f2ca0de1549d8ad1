"""Measure trio_ipv4 against C, Go, asyncio, uvloop, anyio and plain trio: `python tools/benchmarks/run.py --help`.

Everything runs in a private network namespace, on its loopback. docs/explanation/performance.md tells how to read what
comes out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import drain
import flow
import plot
import report
import scaling
import send
from contestants import HERE, REPOSITORY, Programs
from turns import QUICK, Plan

sys.path.insert(0, str(REPOSITORY))

from trio_ipv4.testing import private_network  # This checkout's, whatever is installed.

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS: Final = ("drain", "send", "flow", "scaling")
RESULTS: Final = REPOSITORY / ".nox" / "results" / "benchmark"


def main() -> None:
    arguments = parse_arguments()
    plan = QUICK if arguments.quick else Plan()
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory, private_network():
        programs = Programs(Path(directory), arguments.python)
        scheduling = "as any other process" if arguments.quick else undisturbed()
        found = {"machine": {**machine(programs), "scheduling": scheduling}, "missing": {}}
        measure(programs, plan, parts, found)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output, plan, found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a few datagrams, to see that it works; figures mean nothing"
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, of %(default)s")
    parser.add_argument("--rounds", type=int, help="measurements of each; the median counts")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the Python contestants")
    parser.add_argument("--output", type=Path, default=RESULTS, help="a directory for what comes out (%(default)s)")
    return parser.parse_args()


def measure(programs: Programs, plan: Plan, parts: list[str], found: dict) -> None:
    missing = found["missing"]
    if "drain" in parts:
        found["drain"] = drain.run(programs, plan, missing)
    if "send" in parts:
        found["send"] = send.run(programs, plan, missing)
    if "flow" in parts:
        # A round takes seconds here, and says more than one of the others.
        found["flow"] = flow.run(programs, replace(plan, rounds=min(plan.rounds, 3)), missing)
    if "scaling" in parts:
        found["scaling"] = scaling.run(programs, plan)


def write(output: Path, plan: Plan, found: dict) -> None:
    """Write results.json, results.md and drain.svg."""
    as_json = {
        **found,
        **{part: [one.as_json() for one in found[part]] for part in ("drain", "send") if part in found},
        "flow": {rate: [one.as_json() for one in series] for rate, series in found.get("flow", {}).items()},
    }
    (output / "results.json").write_text(json.dumps(as_json, indent=1) + "\n")
    (output / "results.md").write_text("\n".join(markdown(plan, found)) + "\n")
    if found.get("drain"):
        python = found["machine"]["python"].partition(",")[0]
        subtitle = f"medians of {plan.rounds} rounds, whiskers: their middle half; dashed: Go's ReadBatch; {python}"
        payload = 256 if 256 in plan.payloads else plan.payloads[0]
        (output / "drain.svg").write_text(plot.svg(found["drain"], payload, subtitle))
    print(f"{output / 'results.md'}")


def markdown(plan: Plan, found: dict) -> Iterator[str]:
    for key, value in found["machine"].items():
        yield f"- {key}: {value}"
    for label, reason in found["missing"].items():
        yield f"- missing: {label}: {reason}"
    for part in ("drain", "send"):
        if part in found:
            yield f"\n## {part.capitalize()}"
            yield from report.ratio_tables(found[part])
            for payload in plan.payloads:
                yield from report.limits_table(found[part], payload)
    if "flow" in found:
        yield f"\n## Flow\n\n{flow.PAYLOAD} octets, {plan.seconds} s:\n"
        yield from report.flow_table(found["flow"])
    for title, rows in found.get("scaling", {}).items():
        yield f"\n## {title}\n"
        yield from report.rows_table(rows)


def undisturbed() -> str:
    """Have other programs of the machine take little from a contestant, where that is allowed.

    The nice value counts within an autogroup (sched(7)), so the group gets one too. A real-time class would do better,
    and can block the machine: Go's threads and its compiler wait for each other by spinning.
    """
    with contextlib.suppress(PermissionError):
        os.setsid()  # An autogroup of our own, unless we lead one already.
    try:
        os.nice(-20)
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/self/autogroup").write_text("-20")
    except PermissionError:
        return "as any other process: expect a larger spread where others run"
    return "nice -20, for the contestants' autogroup too"


def machine(programs: Programs) -> dict[str, str]:
    model = [
        line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": f"{os.cpu_count()} x {model[0].strip() if model else platform.processor()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": interpreter(programs),
        "go": version("go", "version"),
        "golang.org/x/net": debian_version("golang-golang-x-net-dev"),
        "gcc": version("gcc", "--version"),
    }


def interpreter(programs: Programs) -> str:
    command = [programs.python, str(HERE / "peers/interpreter.py")]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def version(*command: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return "not installed"


def debian_version(package: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        command = ["dpkg-query", "--show", "--showformat=${Version}", package]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "not Debian's package"
    return "unknown"


if __name__ == "__main__":
    main()
