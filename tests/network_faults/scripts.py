"""Labs of a folder of scripts that have a class `It` each (as fault.py there has it): others' faults, in our runner."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from network_faults.network import RUN, NetworkError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEAF = {"not-on-the-wire", "firewall-input", "reverse-path-filter"}
"""Verdicts of faults that let nothing through from the beginning on."""
HELPERS = {"fault", "lab", "rx", "tx", "igmp_send", "mrouted", "xdp", "cgroup_drop", "bpf", "counters"}


def names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        if path.stem not in HELPERS:
            yield path.stem


def beside(folder: Path) -> Path:
    """Return where bpf.py is, which the scripts need."""
    return folder.parent / "sketches" / "doctor"


def load(folder: Path, name: str) -> Any:
    """Import a script's fault.

    Raises:
        ImportError: It needs something that is not there.
    """
    if str(folder) not in sys.path:
        sys.path[:0] = [str(folder), str(beside(folder))]
    made = importlib.import_module(name).It()
    made.name = name
    return made


class ScriptLab:
    """One variant of a script's fault."""

    def __init__(self, folder: Path, name: str, *, faulty: bool, noise: bool) -> None:
        os.environ["PYTHONPATH"] = str(beside(folder))
        os.environ["DX_RUN"] = str(RUN)
        if noise:
            os.environ["DX_NOISE"] = "1"
        self.fault = load(folder, name)
        self.lab = importlib.import_module("lab")
        self.faulty = faulty

    @property
    def where(self) -> str:
        return str(self.lab.PRE + self.fault.where)

    @property
    def has_pid(self) -> bool:
        return "--pid" in self.arguments(pid=True)

    def build(self) -> None:
        self.fault.build(self.faulty)

    def again(self) -> None:
        if self.faulty:
            self.fault.again()
            time.sleep(self.fault.between)

    def arguments(self, *, pid: bool) -> list[str]:
        found: list[str] = self.fault.args(pid)
        return found

    def check(self) -> None:
        """By the receiver's own count at its end, which the scripts' receivers write: the healthy one got something."""
        time.sleep(1.0)
        total = self.fault.received().get("total", 0)
        if not self.faulty and not total:
            raise NetworkError("the receiver of the healthy variant got nothing")
        if self.faulty and total and self.fault.verdict in DEAF:
            raise NetworkError(f"the receiver of the faulty variant got {total}")
