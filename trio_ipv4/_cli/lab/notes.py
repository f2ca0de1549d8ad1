"""How `lab enter` finds a lab that another process holds: by a note, a small file with the lab's name.

Notes lie in a directory that belongs to the user alone, since what stands in them is carried out. A process that was
killed leaves its note. So a note names its process and the time when that began, and counts only while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "TRIO_IPV4_LABS"
"""In the environment: the directory of the notes. Set on the lab's hosts, whose root may be another user outside."""


@attrs.frozen
class Note:
    """A lab's note.

    Args:
        name: The lab's name.
        pid: Its process.
        started: When that process began, in the kernel's ticks.
        hosts: What stands before a command that is to run on a host, by the host's name.
    """

    name: str
    pid: int
    started: int
    hosts: dict[str, list[str]]

    @property
    def is_current(self) -> bool:
        """Whether the process is there, and is not another one with the same number."""
        try:
            return _started(self.pid) == self.started
        except OSError:
            return False


def own_note(name: str, hosts: dict[str, list[str]]) -> Note:
    """Return a note that names this process."""
    return Note(name, os.getpid(), _started(os.getpid()), hosts)


def directory() -> Path:
    """Return the directory of the notes, and make it if there is none.

    Raises:
        OSError: It can't be made, or somebody else may write there.
    """
    if (given := os.environ.get(VARIABLE)) is not None:
        return _checked(Path(given))
    runtime = os.environ.get("XDG_RUNTIME_DIR")  # The XDG Base Directory Specification: it is the user's alone.
    if runtime and _objection(Path(runtime)) is None:
        found = Path(runtime, "trio-ipv4")
    else:
        found = Path(tempfile.gettempdir(), f"trio-ipv4-{os.geteuid()}")
    found.mkdir(mode=0o700, exist_ok=True)
    return _checked(found)


def read_note(name: str) -> Note | None:
    """Return a lab's note, or `None` if there is none that can be read."""
    try:
        found = json.loads((directory() / name).read_bytes())
        return _read(name, found)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(name: str, found: Any) -> Note:
    """Return the note that a file holds, in which anything may stand."""
    pid, started, hosts = found["pid"], found["started"], found["hosts"]
    if not all(type(each) is int for each in (pid, started)) or not isinstance(hosts, dict):
        raise ValueError
    if not all(map(_is_way, hosts.values())):
        raise ValueError
    return Note(name, pid, started, hosts)


def _is_way(found: object) -> bool:
    return isinstance(found, list) and found != [] and all(isinstance(each, str) for each in found)


@contextlib.contextmanager
def written(note: Note) -> Iterator[None]:
    """Let others find the lab during the block.

    Raises:
        OSError: Another lab has the name.
    """
    path = directory() / note.name
    with _locked():
        other = read_note(note.name)
        if other is not None and other.is_current:
            raise OSError(
                f"a lab named {note.name!r} is up already, in process {other.pid}: end it, or give this one another "
                f"name, as --name {note.name[:62]}2"
            )
        # A reader never sees half a note. No lab's name begins with a dot.
        unfinished = path.with_name(f".{note.name}")
        unfinished.write_text(json.dumps(attrs.asdict(note)), encoding="utf-8")
        unfinished.replace(path)
    try:
        yield
    finally:
        with _locked():
            if read_note(note.name) == note:
                path.unlink()


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let nobody else write notes during the block. The lock goes with the descriptor (flock(2))."""
    import fcntl  # noqa: PLC0415  # The command line is imported on Windows, too.

    descriptor = os.open(directory(), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _started(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(fields[19])  # Field 22, starttime (proc_pid_stat(5)), where the first here is field 3.


def _checked(path: Path) -> Path:
    if (objection := _objection(path)) is not None:
        raise OSError(f"the labs' directory {path} {objection}: remove it, or set {VARIABLE} to another one")
    return path


def _objection(path: Path) -> str | None:
    """Return what is wrong with a directory that should be this user's alone."""
    try:
        found = path.lstat()
    except OSError as error:
        return f"can't be used ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "is no directory"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to user {os.geteuid()}"
    if found.st_mode & 0o077:
        return f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}, not 0700)"
    return None
