"""A few of the faults are what they claim, and the runner tells right from wrong; `nox -s doctor` runs all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from network_faults.fault import HEALTHY
from network_faults.faults import FAULTS, ROWS
from network_faults.network import UNSHARE
from support.files import load
from trio_ipv4._cli.doctor.causes import CAUSES

TOOL = Path(__file__).parents[2] / "tools" / "doctor_matrix.py"
pure = pytest.mark.pure
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of mounts and processes are made by root")


def tell(out: str, *, name: str = "not_joined", variant: str = "faulty", **more: Any) -> str:
    """Return what the runner makes of an examination's output."""
    tool = load(TOOL)
    lab = tool.Lab(tool.of_table(FAULTS[name]), variant, noise=False)
    line = {"privilege": "root", "pid": True, "seconds": 1.0, "status": 1, "errors": "", "out": out, **more}
    outcome: str = tool.judge(lab, line).outcome
    return outcome


def verdict(code: str, certainty: str = "proved") -> str:
    lines = [{"event": "start"}, {"event": "verdict", "code": code, "certainty": certainty, "others": []}]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


@pure
def test_every_cause_has_a_fault_and_every_fault_a_cause() -> None:
    codes = {code for fault in FAULTS.values() for code in fault.codes + fault.codes_without_pid}
    assert codes == {*CAUSES, HEALTHY}


@pure
def test_the_names_are_unique() -> None:
    assert len(FAULTS) == len(ROWS)


@pure
def test_a_verdict_is_judged() -> None:
    assert tell(verdict("not-a-member")) == "right"
    assert tell(verdict("not-a-member", "likely")) == "right"
    assert tell(verdict("not-a-member", "cannot-tell")) == "cannot-tell"
    assert tell(verdict("other-port")) == "wrong"
    assert tell(verdict(HEALTHY)) == "wrong"
    assert tell(verdict(HEALTHY), variant="healthy") == "right"
    assert tell(verdict("not-a-member"), variant="healthy") == "wrong"


@pure
def test_a_verdict_may_be_weaker_where_the_program_can_not_be_asked() -> None:
    assert tell(verdict("not-a-member"), name="dead_membership") == "wrong"
    assert tell(verdict("not-a-member"), name="dead_membership", pid=False) == "right"
    assert tell(verdict("not-a-member"), name="dead_membership", privilege="plain") == "right"


@pure
@pytest.mark.parametrize(
    "line",
    [
        {"out": ""},
        {"out": '{"event": "start"}\n'},
        {"out": verdict("not-a-member"), "status": 5},
        {"out": verdict("not-a-member"), "errors": "Traceback (most recent call last):"},
    ],
)
def test_an_examination_without_a_verdict_is_a_crash(line: dict[str, Any]) -> None:
    assert tell(**line) == "crash"


@needs_root
@pytest.mark.usefixtures("needs_lab")
def test_faults_and_healthy_set_ups_are_what_they_claim() -> None:
    names = ["rp_filter_strict", "not_joined", "tx_no_route", "reuseport"]
    command = [sys.executable, str(TOOL), "--check", "--workers", "2", "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nright ") == 2 * len(names)


@needs_root
@pytest.mark.usefixtures("needs_lab")
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"faulty_receive": ""}, "should have got nothing"),
        ({"faulty_receive": "--no-such-option"}, "receive did not start"),
        ({"faulty_transmit": "--no-send"}, "the sender sent 0"),
        ({"faulty_receive": None, "before": (("b", "ip link set en0 down"),)}, "should have got all"),
    ],
)
def test_a_fault_that_is_none_is_noticed(changes: dict[str, Any], complaint: str) -> None:
    program = f"""
import attrs
from network_faults.faults import FAULTS
from network_faults.lab import FaultLab
from network_faults.network import enter_private

enter_private()
lab = FaultLab(attrs.evolve(FAULTS["not_joined"], **{changes!r}), faulty=True)
lab.build()
lab.check()
"""
    command = [*UNSHARE, sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode != 0
    assert complaint in done.stderr, done.stderr
