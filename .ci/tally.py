"""Add up the test reports in a folder; fail if one is missing, or if a test was skipped that could have run."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

REPORTS = ["tests-3.11", "tests-3.12", "tests-3.13", "tests_oldest", "build", "sanitize"]
ALLOWED = [
    # How the reason of a skip may begin that no machine of CI's kind can help.
]

EVERYTHING = REPORTS[0]
SECOND = REPORTS[1:5]
"""They leave out tests that `EVERYTHING` has run, and say how many."""

ran = failed = skipped = 0
wrong = []
counts = {}
for name in REPORTS:
    report = Path(sys.argv[1], f"{name}.xml")
    cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    counts[name] = len(cases)
    if not cases:
        wrong.append(f"{name} ran no test")
    for case in cases:
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skip is None:
            ran += 1
        else:
            skipped += 1
            reason = skip.get("message", "")
            if skip.get("type") != "pytest.xfail" and not reason.startswith(tuple(ALLOWED)):
                wrong.append(f"{name}: {case.get('classname')}.{case.get('name')} was skipped: {reason}")

for name in SECOND:
    note = Path(sys.argv[1], f"{name}.left-out")
    left_out = int(note.read_text()) if note.exists() else 0
    if counts[name] + left_out != counts[EVERYTHING]:
        wrong.append(f"{name} ran {counts[name]} tests and left out {left_out}, of {counts[EVERYTHING]}")
print(*wrong, sep="\n", end="\n" if wrong else "")
print(f"{ran} passed, {failed} failed, {skipped} skipped")
sys.exit(bool(wrong or failed))
