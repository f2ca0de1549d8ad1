"""Ask `trio-ipv4 doctor` about every fault that we can make, with every privilege, and count what it says.

    python tools/doctor_matrix.py RESULTS                  all of it: some hours of examinations, four at a time
    python tools/doctor_matrix.py RESULTS --sample 20      20 faults, drawn at random
    python tools/doctor_matrix.py --check                  whether the faults are what they claim, without any doctor
    python tools/doctor_matrix.py --shell rp_filter_strict a shell in such a network, to look for oneself

As root. Each lab is a process in namespaces of its own (tests/network_faults/network.py); nothing touches the machine.
What doctor writes is kept as RESULTS/NAME-VARIANT-PRIVILEGE-PID-NOISE.jsonl: evidence for tests of its conclusions.

Of each examination's verdict:
  right        it is one of those that the table accepts, proved or likely
  cannot-tell  it names none
  wrong        it names another one; for a healthy set-up: it names any
  crash        there is no verdict, or a traceback
The exit status is 1 if anything is wrong or crashed, or a lab could not be made.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from network_faults import scripts
from network_faults.fault import HEALTHY, Fault
from network_faults.faults import FAULTS
from network_faults.network import TESTS, UNSHARE, remove_control_group
from network_faults.session import PRIVILEGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

VARIANTS: Final = ("faulty", "healthy")
OUTCOMES: Final = ("right", "cannot-tell", "wrong", "crash")
LAB_LIMIT: Final = 120
"""Seconds for a lab and its check; an examination may take as long besides."""


@attrs.frozen
class Expected:
    """What is right for a fault, of the table or of a script."""

    name: str
    codes: tuple[str, ...]
    codes_without_pid: tuple[str, ...] = ()
    scripts: str = ""
    """The script's folder."""

    @property
    def label(self) -> str:
        """Names a script apart from a row with the same name."""
        return f"{self.name}@scripts" if self.scripts else self.name


@attrs.frozen
class Lab:
    """A job for one process: a lab, and what is asked of it."""

    expected: Expected
    variant: str
    noise: bool
    round: int = 1

    @property
    def label(self) -> str:
        noise = "noise" if self.noise else "quiet"
        return f"{self.expected.label} {self.variant} {noise}" + (f" round {self.round}" if self.round > 1 else "")


@attrs.frozen
class Result:
    """What came of an examination, of a check, or of the attempt to make a lab."""

    lab: Lab
    outcome: str
    code: str = ""
    certainty: str = ""
    others: tuple[str, ...] = ()
    privilege: str = ""
    pid: bool = False
    seconds: float = 0.0
    text: str = ""

    def __str__(self) -> str:
        asked = f" {self.privilege}{' --pid' if self.pid else ''}" if self.privilege else ""
        said = f": {self.code} ({self.certainty})" if self.code else ""
        return f"{self.outcome:11} {self.lab.label}{asked}{said}" + (f"\n    {self.text}" if self.text else "")


class Runner:
    """Makes labs, several at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        pids = {"no": (False,), "yes": (True,), "both": (False, True)}[options.pid]
        self.runs = [*itertools.product(options.privileges, pids)]

    def run(self, labs: Iterable[Lab]) -> Iterator[Result]:
        with concurrent.futures.ThreadPoolExecutor(self.options.workers) as pool:
            for future in concurrent.futures.as_completed([pool.submit(self.examine, lab) for lab in labs]):
                yield from future.result()

    def examine(self, lab: Lab) -> list[Result]:
        job = self.job(lab)
        lines, error = run_session(job, LAB_LIMIT + LAB_LIMIT // 2 * len(self.runs))
        return [*self.read(lab, lines, error)]

    def job(self, lab: Lab, *, shell: bool = False) -> dict[str, Any]:
        return {
            "name": lab.expected.name,
            "scripts": lab.expected.scripts,
            "variant": lab.variant,
            "noise": lab.noise,
            "control_group": f"trio-ipv4-{os.getpid()}-{lab.expected.name}-{lab.variant}-{lab.noise:d}-{lab.round}",
            "owner": self.options.owner,
            "runs": self.runs,
            "check": self.options.check,
            "shell": shell,
            "doctor": self.options.doctor,
            "seconds": self.options.seconds,
        }

    def read(self, lab: Lab, lines: list[dict[str, Any]], error: str) -> Iterator[Result]:
        ends = {"checked", "failed"} if self.options.check else {"examined", "no pid", "failed"}
        for line in lines:
            if line["event"] == "failed":
                yield Result(lab, "crash", text=f"the lab failed: {line['text']}")
            elif line["event"] == "checked":
                yield Result(lab, "right")
            elif line["event"] == "examined":
                yield self.keep(lab, line)
        if error or not ends & {line["event"] for line in lines}:
            yield Result(lab, "crash", text=f"the lab ended early. {error}")

    def keep(self, lab: Lab, line: dict[str, Any]) -> Result:
        named = "ownpid" if self.options.owner == "nobody" else "pid"
        pid, noise = named if line["pid"] else "nopid", "noise" if lab.noise else "quiet"
        name = f"{lab.expected.label}-{lab.variant}-{line['privilege']}-{pid}-{noise}"
        path = self.options.results / (name + (f"-{lab.round}" if lab.round > 1 else ""))
        path.with_suffix(".jsonl").write_text(line["out"], encoding="utf-8")
        if line["errors"]:
            path.with_suffix(".stderr").write_text(line["errors"], encoding="utf-8")
        return judge(lab, line, owner=self.options.owner)


def run_session(job: dict[str, Any], limit: float) -> tuple[list[dict[str, Any]], str]:
    """Run a lab's process; return what it wrote, and what went wrong with it."""
    command = [*UNSHARE, *session(job)]
    error = ""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit, env=environment())
        out, error = done.stdout, done.stderr.strip()[-2000:] if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        out, error = (expired.stdout or b"").decode(), f"no end within {limit} s"
    finally:
        remove_control_group(job["control_group"])
    return [json.loads(line) for line in out.splitlines()], error


def session(job: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "network_faults.session", json.dumps(job)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def judge(lab: Lab, line: dict[str, Any], *, owner: str = "root") -> Result:
    """Compare what doctor said with what is the case."""
    asked = {"privilege": line["privilege"], "pid": line["pid"], "seconds": line["seconds"]}
    verdict = last_verdict(line["out"])
    if verdict is None or line["status"] not in (0, 1, 3) or "Traceback" in line["errors"]:
        text = f"exit status {line['status']}. {line['errors'].strip()[-300:]}"
        return Result(lab, "crash", text=text, **asked)
    code, certainty = str(verdict.get("code")), str(verdict.get("certainty"))
    others = tuple(verdict.get("others") or ())
    accepted = right_codes(lab, asked_program=line["pid"] and (line["privilege"] == "root" or owner == "nobody"))
    outcome = "cannot-tell" if certainty == "cannot-tell" else "right" if code in accepted else "wrong"
    text = f"right is {' or '.join(accepted)}" if outcome == "wrong" else ""
    return Result(lab, outcome, code, certainty, others, text=text, **asked)


def right_codes(lab: Lab, *, asked_program: bool) -> tuple[str, ...]:
    if lab.variant == "healthy":
        return (HEALTHY,)
    return lab.expected.codes + (() if asked_program else lab.expected.codes_without_pid)


def last_verdict(out: str) -> dict[str, Any] | None:
    lines = out.splitlines()
    with contextlib.suppress(ValueError, IndexError):
        found = json.loads(lines[-1])
        if isinstance(found, dict) and found.get("event") == "verdict":
            return found
    return None


def of_table(fault: Fault) -> Expected:
    return Expected(fault.name, fault.codes, fault.codes_without_pid)


def of_scripts(folder: Path) -> Iterator[Expected]:
    """Leave out those that can't be imported, and say so."""
    for name in scripts.names(folder):
        try:
            fault = scripts.load(folder, name)
        except ImportError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        yield Expected(name, (fault.verdict,), scripts=str(folder))


def choose(options: argparse.Namespace) -> list[Expected]:
    """What was asked for, in an order that mixes long and short."""
    known = [of_table(fault) for fault in FAULTS.values()]
    if options.scripts:
        known = [*of_scripts(options.scripts)]
    if options.only:
        missing = set(options.only) - {each.name for each in known}
        if missing:
            sys.exit(f"there are no faults named {', '.join(sorted(missing))}")
        known = [each for each in known if each.name in options.only]
    chance = random.Random(options.seed)
    return chance.sample(known, min(options.sample or len(known), len(known)))


def labs(options: argparse.Namespace) -> Iterator[Lab]:
    noises = {"no": (False,), "yes": (True,), "both": (False, True)}[options.noise]
    faults = choose(options)
    for number in range(1, options.rounds + 1):
        for variant, noise, expected in itertools.product(options.variants, noises, faults):
            yield Lab(expected, variant, noise, number)


def summarize(results: Sequence[Result]) -> str:
    """One row for each privilege, noise and variant."""
    table: dict[tuple[str, ...], collections.Counter[str]] = {}
    for each in results:
        asked = f"{each.privilege}{' --pid' if each.pid else ''}"
        key = each.lab.variant, "noise" if each.lab.noise else "quiet", asked
        count = table.setdefault(key, collections.Counter())
        count[each.outcome] += 1
        right = set(each.lab.expected.codes)
        count["named"] += each.outcome == "cannot-tell" and bool(right & {each.code, *each.others})
    heads = ("variant", "noise", "asked by", *OUTCOMES, "(named)")
    rows = [(*key, *(str(count[each]) for each in (*OUTCOMES, "named"))) for key, count in sorted(table.items())]
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return (
        "\n".join(text.rstrip() for text in texts)
        + "\n(named): cannot tell, but what is right is among what it could be"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", type=Path, nargs="?", help="the folder for what doctor writes")
    add("--only", nargs="+", metavar="NAME")
    add("--sample", type=int, metavar="N", help="so many faults, drawn at random")
    add("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    add("--rounds", type=int, default=1)
    add("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    add("--privileges", nargs="+", choices=PRIVILEGES, default=[*PRIVILEGES])
    add("--pid", choices=("no", "yes", "both"), default="both", help="whether doctor is told of the program")
    add("--owner", choices=("root", "nobody"), default="root", help="whose the receiver is: nobody may ask its own")
    add("--noise", choices=("no", "yes", "both"), default="both", help="whether other flows go wrong beside")
    add("--seconds", default="1.5s", help="what doctor is told by --for")
    add("--doctor", default=f"{sys.executable} -m trio_ipv4 doctor", metavar="COMMAND")
    add("--scripts", type=Path, metavar="DIR", help="the faults of this folder, in place of the table's")
    add("--workers", type=int, default=4)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="ask no doctor; see whether the faults are what they claim")
    what.add_argument("--shell", choices=sorted(FAULTS), metavar="NAME", help="open a shell in a network with it")
    what.add_argument("--list", action="store_true", help="list the faults")
    return parser.parse_args(arguments)


def open_shell(options: argparse.Namespace) -> int:
    variant = "healthy" if options.variants == ["healthy"] else "faulty"
    job = Runner(options).job(Lab(of_table(FAULTS[options.shell]), variant, noise=False), shell=True)
    try:
        return subprocess.run([*UNSHARE, *session(job)], check=False, env=environment()).returncode
    finally:
        remove_control_group(job["control_group"])


def main() -> int:
    options = parse()
    if options.list:
        print("\n".join(f"{each.name:28} {', '.join(each.codes):32} {each.title}" for each in FAULTS.values()))
        return 0
    if options.shell:
        return open_shell(options)
    if options.check:
        options.noise = "no" if options.noise == "both" else options.noise
    elif options.results is None:
        sys.exit("a folder for the results is missing")
    else:
        options.results.mkdir(parents=True, exist_ok=True)
    chosen = [*labs(options)]
    print(f"seed {options.seed}: {len(chosen)} labs", flush=True)
    begin, results = time.monotonic(), []
    for result in Runner(options).run(chosen):
        results.append(result)
        print(result, flush=True)
    print(f"\n{summarize(results)}\n{len(results)} results in {time.monotonic() - begin:.0f} s")
    return int(any(each.outcome in ("wrong", "crash") for each in results))


if __name__ == "__main__":
    sys.exit(main())
