"""How a plain user gets a lab: as root of a user namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from trio_ipv4._cli.lab.notes import VARIABLE, directory
from trio_ipv4.testing import private_network

_AGAIN: Final = "_TRIO_IPV4_LAB_AGAIN"
_PRIVATELY: Final = [sys.executable, "-m", "trio_ipv4.testing"]


def get_privilege() -> None:
    """Return if network namespaces can be made here; else begin this program anew where they can.

    Raises:
        OSError: They can be made nowhere; the message says what forbids it.
        UnsupportedError: This is not Linux.
    """
    again = os.environ.pop(_AGAIN, None) is not None
    try:
        with private_network():
            return
    except PermissionError:
        if again:
            raise
    # Try first: after execve(2), the exit status would be that of the other program.
    tried = subprocess.run([*_PRIVATELY, "true"], stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode != 0:
        raise OSError(f"no network lab can be made here: {tried.stderr.strip()}")
    environment = {**os.environ, _AGAIN: "1", VARIABLE: str(directory())}
    sys.stdout.flush()
    os.execve(sys.executable, [*_PRIVATELY, sys.executable, *sys.orig_argv[1:]], environment)
