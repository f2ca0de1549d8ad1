"""Nine of ten tests run on the kernel and on the simulated network; the others say why."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.pure
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "explanation" / "simulated-network.md"
TOPICS: Final = (
    "conn/test_membership.py",
    "interfaces/test_follow_group.py",
    "interfaces/test_serve_group.py",
    "interfaces/test_watch_interfaces.py",
    "conn/test_receive_send.py",
)
"""Memberships, follow, serve, watch, receive and send."""


def test_nine_of_ten_run_on_both() -> None:
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    paths = [f"tests/{path}" for path in TOPICS]
    done = subprocess.run([*argv, *paths], capture_output=True, text=True, check=True, cwd=ROOT)
    networks: dict[str, set[str]] = collections.defaultdict(set)
    for line in done.stdout.splitlines():
        if found := re.fullmatch(r"(\S+::\w+)(?:\[(kernel|simulated)?.*\])?", line):
            networks[found[1]].add(found[2] or "kernel")
    assert len(networks) > 130
    both = [name for name, where in networks.items() if where == {"kernel", "simulated"}]
    assert len(both) >= 0.9 * len(networks), sorted(set(networks) - set(both))


def test_each_reason_why_not_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in (ROOT / "tests").rglob("test_*.py"):
        for reason in re.findall(r'kernel_only\("(.*)"\)', path.read_text(encoding="utf-8")):
            assert f"\n- **{reason}**" in page, reason
