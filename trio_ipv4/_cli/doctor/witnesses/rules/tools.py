"""Other programs that show rules: run, and nothing more than their output read."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

_SECONDS: Final = 5.0
"""Chosen: a ruleset with a hundred thousand addresses takes one."""
_PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where such programs are. The search path of plain users often lacks these."""


class ToolError(Exception):
    """The program is missing, or it failed."""


def run(*words: str) -> str:
    """Run a program in this thread's network namespace, and return its output.

    Raises:
        ToolError: It is missing, it failed, or it took too long.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), _PLACES])
    if (program := shutil.which(words[0], path=path)) is None:
        raise ToolError
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        raise ToolError from None
    return done.stdout.decode(errors="replace")
