"""The pytest plugin, as a user's test suite has it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """
import trio
from trio_ipv4 import open_udp

async def hear(network):
    async with network["a"].call(open_udp, "0.0.0.0", 5000) as conn, network["b"].call(open_udp) as other:
        conn.join_group("en0", "239.1.2.3")
        other.multicast_interface = "en0"
        await other.send_to(b"x", ("239.1.2.3", 5000))
        assert (await conn.receive()).peer[0] == "198.18.0.2"

def test_on_both(network):
    trio.run(hear, network)

def test_simulated(simulated, request):
    trio.run(hear, simulated)
    assert simulated._world.seed == request.node.nodeid

def test_in_the_lab(lab):
    trio.run(hear, lab)
"""


WITHOUT_IP = """
from trio_ipv4.testing import _lab_host
_lab_host._SYSTEM_PATH = ""
"""


def run(path: Path, more: str = "", **environment: str) -> str:
    (path / "conftest.py").write_text(f'pytest_plugins = ["trio_ipv4.testing.pytest_plugin"]\n{more}')
    (path / "test_suite.py").write_text(SUITE)
    argv = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.usefixtures("needs_lab")
def test_its_fixtures_are_a_lab_a_simulated_network_and_both(tmp_path: Path) -> None:
    assert "4 passed" in run(tmp_path)


def test_without_a_lab_the_others_run_and_the_reason_is_told(tmp_path: Path) -> None:
    written = run(tmp_path, WITHOUT_IP, PATH=str(tmp_path))
    assert "2 passed, 2 skipped" in written
    assert "no network lab can be made here: the program `ip` is missing" in written
