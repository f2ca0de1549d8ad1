"""The benchmarks run; what they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "tools" / "benchmarks" / "run.py"
EVERYWHERE = {"ours-batch-pure", "ours-single-pure", "trio-recvmsg", "trio-recvfrom", "asyncio"}
"""Who needs nothing but what the tests need."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("benchmarks")
    subprocess.run([sys.executable, RUN, "--quick", "--only", "drain", "--output", directory], check=True, timeout=120)
    return directory


def test_drain_measures_every_contestant_that_is_there(output):
    results = json.loads((output / "results.json").read_text())
    measured = {series["name"] for series in results["drain"]}
    assert measured >= EVERYWHERE
    for series in results["drain"]:
        assert series["payload"] == 256
        assert len(series["wall_ns"]) == len(series["cpu_ns"]) == 2
        low, high = series["quartiles_ns"]
        assert 0 < low <= series["median_ns"] <= high


def test_who_is_missing_is_named(output):
    results = json.loads((output / "results.json").read_text())
    measured = {series["label"] for series in results["drain"]}
    missing = results["missing"]
    listed = [sys.executable, "-c", "import contestants; print(*(one.label for one in contestants.DRAIN), sep='\\n')"]
    labels = subprocess.run(listed, cwd=RUN.parent, capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(labels) == measured | {label.removesuffix(" (drain)") for label in missing}
    assert len(labels) > 10
    table = (output / "results.md").read_text()
    assert all(label in table for label in [*measured, *missing])
    assert not [reason for reason in missing.values() if reason.startswith("failed")]


def test_the_plot_is_well_formed(output):
    root = ET.parse(output / "drain.svg").getroot()
    assert len(root.findall(".//{*}polyline")) >= 1
    assert len(root.findall(".//{*}rect")) > len(EVERYWHERE)
