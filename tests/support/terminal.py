"""A program on a terminal of its own, of a given width: what it shows, and what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEADLINE: Final = 60
"""Seconds: no measure of anything, but an end."""


class Terminal:
    """The controlling side of a pseudo-terminal (pty(7)), and the program on the other side."""

    def __init__(self, controller: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.shown = ""
        self._controller = controller

    def read_until(self, text: str) -> str:
        """Read until a text has been shown, and return all that was shown so far."""
        while text not in self.shown:
            assert self.read_more(), f"{text!r} was not shown, only {self.shown!r}"
        return self.shown

    def read_to_end(self) -> str:
        """Read until the program has ended, and return all that was shown."""
        while self.read_more():
            pass
        self.process.wait(DEADLINE)
        return self.shown

    def type(self, text: str) -> None:
        """Type: "\\x03" is Ctrl-C."""
        os.write(self._controller, text.encode())

    def read_more(self) -> bool:
        """Read what comes next, and tell whether anything came before the end."""
        readable, _, _ = select.select([self._controller], [], [], DEADLINE)
        assert readable, f"nothing more was shown than {self.shown!r}"
        try:
            octets = os.read(self._controller, 65536)
        except OSError:  # EIO: nobody has the other side open any more.
            return False
        self.shown += octets.decode(errors="replace").replace("\r\n", "\n")
        return bool(octets)


@contextlib.contextmanager
def on_terminal(argv: Sequence[str], *, columns: int = 80, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run a program on a terminal, and end it with the block."""
    controller, own = os.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))  # struct winsize, asm/termios.h
    settings = {**(os.environ if env is None else env), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
        settings.pop(name, None)
    process = subprocess.Popen(
        argv,
        env=settings,
        stdin=own,
        stdout=own,
        stderr=own,
        start_new_session=True,
        # As os.login_tty does, which PyPy lacks: the session's terminal is this one.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # Only a system call.
    )
    os.close(own)
    try:
        yield Terminal(controller, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(controller)
