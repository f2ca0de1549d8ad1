"""Fuzz the parsers, guided by coverage: `python tools/fuzz/run.py --seconds 60 [target ...]`. Needs atheris.

Each target begins from its kept corpus. What it finds is kept there only with `--keep`, as far as it reaches code that
nothing else does. A fault ends it, with the input in a file `crash-...` in the present directory.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
# Far more time, and memory, than any of these inputs is worth.
LIMITS = ("-timeout=5", "-rss_limit_mb=512", "-max_len=4096", "-print_final_stats=1", "-verbosity=0")


def main() -> int:
    sys.path.insert(0, str(HERE))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="keep what reaches new code in the corpus")
    if sys.argv[1:2] == ["--inside"]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    options = parser.parse_args()
    from targets import TARGETS  # noqa: PLC0415  # In the process that fuzzes it must come after atheris.

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    return max(run(target, options.seconds, options.keep) for target in options.targets or TARGETS)


def run(target: str, seconds: int, keep: bool) -> int:
    """Fuzz one target in a process of its own, and print how often it was run."""
    corpus = CORPUS / target
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory, "found")
        found.mkdir()
        status, figures = start(target, f"-max_total_time={seconds}", *LIMITS, str(found), str(corpus))
        print(f"{target}: {figures}", "" if status == 0 else f"FAILED ({status})", flush=True)
        if keep and status == 0:
            least = Path(directory, "least")
            least.mkdir()
            status, _ = start(target, "-merge=1", "-max_len=4096", str(least), str(found), str(corpus))
            if status == 0:
                replace(corpus, least)
    return status


def start(target: str, *arguments: str) -> tuple[int, str]:
    # libFuzzer takes the process over, and ends it.
    command = [sys.executable, __file__, "--inside", target, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wanted = ("number_of_executed_units", "average_exec_per_sec", "peak_rss_mb")
    figures = [line.removeprefix("stat::") for line in done.stderr.splitlines() if any(name in line for name in wanted)]
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
    return done.returncode, ", ".join(" ".join(line.split()) for line in figures)


def fuzz(target: str, arguments: list[str]) -> None:
    import atheris  # noqa: PLC0415  # The tests look at this file's targets where it is missing.

    with atheris.instrument_imports(include=["trio_ipv4"]):
        targets = importlib.import_module("targets")
    # To merge, libFuzzer starts itself by this name, through a shell and without quotes.
    name = f"{sys.executable} {__file__} --inside {target}"
    atheris.Setup([name, *arguments], targets.TARGETS[target])
    atheris.Fuzz()


def replace(corpus: Path, least: Path) -> None:
    """Keep the smaller inputs; seeds, which have names, stay."""
    for each in corpus.glob("found-*"):
        each.unlink()
    for each in sorted(least.iterdir()):
        octets = each.read_bytes()
        if len(octets) <= 512:
            (corpus / f"found-{hashlib.sha256(octets).hexdigest()[:12]}").write_bytes(octets)


if __name__ == "__main__":
    sys.exit(main())
