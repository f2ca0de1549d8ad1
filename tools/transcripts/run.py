"""Make the transcripts in the manual: run each command in a lab, and write what it says into its page.

    python -m trio_ipv4.testing python tools/transcripts/run.py [SCENE ...]

As root, `unshare --mount --net --pid --fork --kill-child --mount-proc python tools/transcripts/run.py` keeps other
programs of the machine out of sight: doctor looks into every network namespace.

Each `<!-- transcript: SCENE -->` in docs/ is followed by a block of text, which this replaces. What is shown is what
somebody would see on a terminal of 80 columns. scenes.py has the scenes.
Look at what has changed before you commit it: on a slow machine somebody may have come too late.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from scenes import MARK, SCENES

from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from scenes import Command, Scene

    from trio_ipv4.testing import Lab

DOCS: Final = Path(__file__).parents[2] / "docs"
COLUMNS: Final = 80
LIMIT: Final = 30
"""Seconds for a command that is shown."""
SILENT: Final[dict[str, Any]] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


def main(names: list[str]) -> None:
    """Make the transcripts of these scenes, or all, and write them into the pages."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = MARK.sub(lambda match: transcript(match, names), text)
        if made != text:
            page.write_text(made, encoding="utf-8")
            print(f"{page.relative_to(DOCS)}: written")


def transcript(match: re.Match[str], names: list[str]) -> str:
    """Return what stands in a page instead of a mark and its block."""
    name = match[1]
    if names and name not in names:
        return match[0]
    return f"<!-- transcript: {name} -->\n\n```text\n{play(SCENES[name])}```\n"


def play(scene: Scene) -> str:
    """Run the commands of a scene, and return what a person would see."""
    with tempfile.TemporaryDirectory() as files:
        # A lab that is up in another scene, or of somebody else, is no part of it.
        os.environ["TRIO_IPV4_LABS"] = os.environ["TMPDIR"] = files
        with open_lab(scene.hosts, links=scene.links, router=scene.router) as lab:
            for each in scene.before:
                subprocess.run(on(lab, each.host, each.text), check=True, **settings())
            with going_on(lab, scene.beside):
                return "".join(f"$ {each.shown or each.text}\n{show(lab, each)}" for each in scene.shown)


@contextlib.contextmanager
def going_on(lab: Lab, commands: tuple[Command, ...]) -> Iterator[None]:
    """Run commands meanwhile."""
    processes = []
    try:
        for each in commands:
            argv = on(lab, each.host, f"sleep {each.after}; exec {each.text}")
            processes.append(subprocess.Popen(argv, **settings(), **SILENT))
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def show(lab: Lab, command: Command) -> str:
    """Run a command on a terminal, and return what it says there."""
    time.sleep(command.after)
    here, there = pty.openpty()
    ioctl(there, TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    argv = on(lab, command.host, command.text)
    with subprocess.Popen(argv, **settings(), stdin=there, stdout=there, stderr=there) as process:
        os.close(there)
        said = b""
        end = time.monotonic() + LIMIT
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more.
            while select.select([here], [], [], max(0, end - time.monotonic()))[0]:
                said += os.read(here, 65536)
        process.terminate()
    os.close(here)
    return "".join(f"{line.rstrip()}\n" for line in said.decode().replace("\r\n", "\n").splitlines())


def on(lab: Lab, host: str | None, text: str) -> list[str]:
    """Return the words that run a shell's command on a host."""
    argv = ["sh", "-c", text]
    if host is None:
        return argv
    return (lab.switch if host == "switch" else lab[host]).command(argv)


def settings() -> dict[str, Any]:
    """Beside the examples; no colours, nothing drawn anew; and this Python's commands first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "TERM": "dumb", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    return {"cwd": DOCS / "examples", "env": env}


if __name__ == "__main__":
    main(sys.argv[1:])
