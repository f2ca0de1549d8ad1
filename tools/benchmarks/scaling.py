"""Scaling: what grows, and how, with the number of groups, scopes, connections, and sources."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from contestants import HERE, Failed, Programs

if TYPE_CHECKING:
    from turns import Plan

LIMITS = {"igmp_max_memberships": 100_000, "igmp_max_msf": 100_000}


def run(programs: Programs, plan: Plan) -> dict[str, list[dict[str, object]]]:
    """Return tables by title."""
    for name, value in LIMITS.items():  # Of this network namespace alone.
        Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))
    command = [programs.python, str(HERE / "peers/scale.py"), str(plan.most), str(plan.sources), str(plan.rounds)]
    done = subprocess.run(command, env=programs.environment(), capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise Failed(done.stderr[-2000:])
    return json.loads(done.stdout)
