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


_RUNNING: Final[list[subprocess.Popen[bytes]]] = []
"""At most one for each thread that reads rules; so that they can be ended from another."""


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
        with subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        ) as process:
            _RUNNING.append(process)
            try:
                output, _ = process.communicate(timeout=_SECONDS)
            finally:
                process.kill()
                _RUNNING.remove(process)
    except (OSError, subprocess.SubprocessError):
        raise ToolError from None
    if process.returncode:
        raise ToolError
    return output.decode(errors="replace")


def kill_all() -> None:
    """End the programs that run. Whoever waits for them, in another thread, gets a `ToolError`."""
    for process in tuple(_RUNNING):
        process.kill()
