"""Pack what `tools/doctor_matrix.py` has collected into a file, for tests of what follows from it.

    python tools/doctor_cases.py RESULTS [RESULTS ...]

It writes tests/cli/doctor_cases.jsonl.gz: a line for each examination, with its records and the verdicts that are
right. The conclusions in RESULTS are left out: the tests draw them anew.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

TESTS: Final = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from network_faults.fault import HEALTHY, Fault  # noqa: E402  # It stands beside the tests.
from network_faults.faults import FAULTS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE: Final = TESTS / "cli/doctor_cases.jsonl.gz"


def pack(*folders: Path) -> Iterator[str]:
    """Yield a line for each file."""
    for path in sorted(path for folder in folders for path in folder.glob("*.jsonl")):
        name, variant, privilege, pid, noise = path.stem.split("-")
        if (fault := FAULTS.get(name)) is None:
            continue
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [_anonymous(record) for record in records if record["event"] in {"start", "evidence", "skipped"}]
        if kept:
            described = {"name": name, "variant": variant, "privilege": privilege, "pid": pid, "noise": noise}
            right = [HEALTHY] if variant == "healthy" else _right(fault, pid)
            yield json.dumps({**described, "right": right, "records": kept})


def _right(fault: Fault, pid: str) -> list[str]:
    return [*fault.codes, *(fault.codes_without_pid if pid == "nopid" else ())]


def _anonymous(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out on which machine it was."""
    return {**record, "vendor": None} if "vendor" in record else record


if __name__ == "__main__":
    with gzip.GzipFile(FILE, "wb", mtime=0) as file:
        for each in pack(*map(Path, sys.argv[1:])):
            file.write(each.encode() + b"\n")
