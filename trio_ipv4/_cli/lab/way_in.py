"""The way into a lab that another process holds."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.lab.notes import VARIABLE, Note, directory, read_note
from trio_ipv4._cli.lab.records import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._cli.output import Output

PATIENCE: Final = 5.0
"""In seconds: a lab in the background of a script may be about to come."""
_LOOK_AGAIN: Final = 0.05
_SYSTEM_PATH: Final = ("/usr/sbin", "/sbin")
"""Where distributions keep `ip`: on a host everybody is root."""


def find_lab(name: str, output: Output) -> Note:
    """Return the note of a running lab; wait a little if there is none.

    Raises:
        OSError: There is none.
    """
    deadline = time.monotonic() + PATIENCE
    told = False
    while (note := read_note(name)) is None or not note.is_current:
        why = (
            f"No lab named {name!r} is up."
            if note is None
            else f"The lab {name!r} has gone, with its process {note.pid}."
        )
        if not told:
            output.show(Waiting(name, PATIENCE, why))
            told = True
        if time.monotonic() > deadline:
            named = "" if name == "lab" else f" --name {name}"
            raise OSError(f"{why} To make one: trio-ipv4 lab up{named}")
        time.sleep(_LOOK_AGAIN)
    return note


def command_line(note: Note, host: str, command: Sequence[str]) -> list[str]:
    """Return what runs a command on a host of the lab; an empty one is a shell."""
    program, *way = note.hosts[host]
    theirs, own = Path(f"/proc/{note.pid}/ns/user"), Path("/proc/self/ns/user")
    if not theirs.samefile(own):
        # A plain user's lab. Who owns the user namespace may enter it, and is its root (user_namespaces(7)). Other
        # users and groups are not mapped there, so nsenter(1) must not try to change to any.
        way = [f"--user={theirs}", "--preserve-credentials", *way]
    return [program, *way, *(command or [os.environ.get("SHELL") or "/bin/sh"])]


def environment_on(lab: str, host: str) -> dict[str, str]:
    """Return the environment of what runs on a host."""
    own = dict(os.environ)
    path = own.get("PATH", os.defpath).split(os.pathsep)
    path += [each for each in _SYSTEM_PATH if each not in path]
    if shutil.which("trio-ipv4") is None:
        path.append(str(Path(sys.executable).parent))
    return {
        **own,
        "PATH": os.pathsep.join(path),
        "PS1": f"{host}$ ",
        "TRIO_IPV4_HOST": host,
        "TRIO_IPV4_LAB": lab,
        VARIABLE: str(directory()),
    }
