"""Fifteen seconds of the soak; `python tests/soak.py --minutes 60` is the real one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_fifteen_seconds_of_everything_leave_nothing() -> None:
    # A process of its own, so that its memory is its own.
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--minutes", "0.25", "--seed", "20260101"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]+)(?:,|$)", done.stdout)}
    for name in ("rounds", "join", "change", "churn", "flood", "flaps", "datagrams", "served", "changes", "cancelled"):
        assert counts.get(name, 0) > 0, (name, done.stdout)
