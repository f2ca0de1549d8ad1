"""Fifteen seconds of the soak, and leaks that it has to find; `python tools/soak.py --minutes 60` is the real one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "tools" / "soak.py"
LEAKS = {
    "a descriptor": "self.kept = [*getattr(self, 'kept', ()), open('/dev/null')]",
    "a membership": "self.kept = conn = soak.open_udp(); conn.join_group('en0', '239.9.9.9')",
    "a task": "soak.trio.lowlevel.spawn_system_task(soak.trio.sleep_forever)",
    "memory": "self.kept = [*getattr(self, 'kept', ()), b'x' * (1 << 20)]",
}
"""What a leaking library would leave behind in a second of the soak."""


def test_fifteen_seconds_of_everything_leave_nothing() -> None:
    # A process of its own, so that its memory is its own.
    command = [sys.executable, str(SOAK), "--minutes", "0.25", "--seed", "20260101"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]+)(?:,|$)", done.stdout)}
    for name in ("rounds", "join", "change", "churn", "flood", "flaps", "datagrams", "served", "changes", "cancelled"):
        assert counts.get(name, 0) > 0, (name, done.stdout)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found(leak: str) -> None:
    program = f"""
import soak

class Leaking(soak.Soak):
    async def round(self):
        soak.ROUND_SECONDS = 0.1
        {LEAKS[leak]}
        await super().round()

soak.Soak = Leaking
soak.soak(0, 20260101)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=SOAK.parent, capture_output=True, text=True, timeout=110, check=False)
    found = "memory grew by" if leak == "memory" else "AssertionError: round 0 left State("
    assert found in done.stderr, done.stdout + done.stderr
