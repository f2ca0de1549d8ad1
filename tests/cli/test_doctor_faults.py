"""Doctor is asked about faults that are really there: a sample of those of `nox -s doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from network_faults.faults import FAULTS

MATRIX = Path(__file__).parents[2] / "tools/doctor_matrix.py"
SAMPLE = (
    # One for each place in which a datagram gets lost, and one set-up that only looks odd.
    "not_joined",
    "dead_membership",
    "ssm_wrong_source",
    "socket_filter",
    "rp_filter_strict",
    "nft_input_drop",
    "lost_fragments",
    "snooping_no_querier",
    "tx_wrong_interface",
    "router_no_daemon",
    "rp_filter_loose_route",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of mounts and processes are made by root")
@pytest.mark.parametrize("fault", SAMPLE)
def test_the_fault_is_named_and_a_healthy_network_is_not_ill(fault: str, tmp_path: Path) -> None:
    pid = "no" if FAULTS[fault].pid is None else "yes"
    options = ["--only", fault, "--privileges", "root", "plain", "--pid", pid, "--noise", "no", "--seconds", "1"]
    argv = [sys.executable, str(MATRIX), str(tmp_path), *options, "--workers", "2"]
    # A plain user can't write what coverage measures.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # As root the fault is not only not missed, but named.
    verdicts = [
        line for line in ran.stdout.splitlines() if " root" in line and not line.startswith(("faulty", "healthy"))
    ]
    assert verdicts
    assert all(line.startswith("right") for line in verdicts), ran.stdout
