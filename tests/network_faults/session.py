"""One lab, and all that is asked of it: the process in private namespaces that tools/doctor_matrix.py starts.

It takes its job as JSON in its argument, and writes a line of JSON for each answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from network_faults.faults import FAULTS
from network_faults.lab import NOBODY, FaultLab
from network_faults.network import TESTS, NetworkError, enter_private, within
from network_faults.programs import tell
from network_faults.scripts import ScriptLab

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOBODY: Final = "setpriv --reuid 65534 --regid 65534 --clear-groups"
PRIVILEGES: Final = {
    "plain": shlex.join(NOBODY),
    "raw": f"{_NOBODY} --inh-caps=+net_raw --ambient-caps=+net_raw",
    "admin": f"{_NOBODY} --inh-caps=+net_admin --ambient-caps=+net_admin",
    "root": "",
}
DOCTOR_LIMIT: Final = 60
"""Seconds that an examination may take."""


class Lab(Protocol):
    """What a session needs of a lab: one of the table's, or one of a folder of scripts."""

    @property
    def where(self) -> str: ...
    @property
    def has_pid(self) -> bool: ...
    def build(self) -> None: ...
    def again(self) -> None: ...
    def arguments(self, *, pid: bool) -> list[str]: ...
    def check(self) -> None: ...


def make_lab(job: dict[str, Any]) -> Lab:
    faulty, noise = job["variant"] == "faulty", job["noise"]
    if job["scripts"]:
        return ScriptLab(Path(job["scripts"]), job["name"], faulty=faulty, noise=noise)
    more = {"control_group": job["control_group"], "owner": job["owner"]}
    return FaultLab(FAULTS[job["name"]], faulty=faulty, noise=noise, **more)


def run(job: dict[str, Any]) -> None:
    enter_private()
    lab = make_lab(job)
    begin = time.monotonic()
    lab.build()
    tell(event="up", seconds=round(time.monotonic() - begin, 2))
    if job["shell"]:
        open_shell(lab)
    elif job["check"]:
        lab.check()
        tell(event="checked")
    else:
        for number, (privilege, pid) in enumerate(job["runs"]):
            if pid and not lab.has_pid:
                tell(event="no pid", privilege=privilege)
                continue
            if number:
                lab.again()
            examine(lab, privilege, pid=pid, doctor=job["doctor"], seconds=job["seconds"])


def examine(lab: Lab, privilege: str, *, pid: bool, doctor: str, seconds: str) -> None:
    arguments = [*lab.arguments(pid=pid), "--json", "--for", seconds]
    command = [*within(lab.where), *shlex.split(PRIVILEGES[privilege]), *shlex.split(doctor), *arguments]
    begin = time.monotonic()
    # Not of root's: what is written there can't be by others.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=DOCTOR_LIMIT,
            cwd=TESTS.parent,
            env=environment,
        )
        status, out, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        status, out, errors = -1, (expired.stdout or b"").decode(), f"no end within {DOCTOR_LIMIT} s"
    tell(
        event="examined",
        privilege=privilege,
        pid=pid,
        arguments=arguments,
        status=status,
        out=out,
        errors=errors,
        seconds=round(time.monotonic() - begin, 2),
    )


def open_shell(lab: Lab) -> None:
    """Let somebody look around in the host in which doctor would be asked."""
    arguments = shlex.join(lab.arguments(pid=True))
    print(
        f"{lab.where}: trio-ipv4 doctor {arguments}    (`ip netns exec HOST COMMAND` for the other hosts)", flush=True
    )
    subprocess.run([*within(lab.where), "bash"], check=False)


def main(arguments: Sequence[str]) -> None:
    try:
        run(json.loads(arguments[0]))
    except (NetworkError, SystemExit) as error:  # The scripts raise SystemExit.
        tell(event="failed", text=str(error))
    except Exception:
        tell(event="failed", text=traceback.format_exc())
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
