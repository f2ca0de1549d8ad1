"""What `lab` has to show."""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import ClassVar

import attrs

from trio_ipv4._cli.output import Column, Remark, Row, Sentence


@attrs.frozen
class HostInterface(Row):
    """An interface of a host."""

    event: ClassVar[str] = "host_interface"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("host"),
        Column("interface"),
        Column("address"),
        Column("index", gives_way=1, right=True),
        Column("bridge", gives_way=2),
    )
    host: str
    interface: str
    index: int
    address: IPv4Interface
    bridge: str

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return (self.host, self.interface, str(self.address), str(self.index), self.bridge)


@attrs.frozen
class Up(Remark):
    """The lab is ready."""

    event: ClassVar[str] = "up"
    name: str
    pid: int
    hosts: tuple[str, ...]
    commands: int
    seconds: float | None

    def text(self) -> str:
        """Return the words."""
        until = "until its commands have ended, or Ctrl-C" if self.commands else "until Ctrl-C"
        limit = "" if self.seconds is None else f", for {self.seconds:g} s at most"
        return f"The lab {self.name!r} is up, {until}{limit}."


@attrs.frozen
class Comment(Remark):
    """What the next hint is for."""

    event: ClassVar[str] = "comment"
    purpose: str

    def text(self) -> str:
        """Return the words, which a shell passes over."""
        return f"# {self.purpose}"


@attrs.frozen
class Hint(Remark):
    """What to do next: a command line, alone on its line, so that it can be pasted."""

    event: ClassVar[str] = "hint"
    command: str

    def text(self) -> str:
        """Return the words."""
        return self.command


@attrs.frozen
class Line(Sentence):
    """A line that a command wrote to its standard output."""

    event: ClassVar[str] = "output"
    host: str
    stream: str
    line: str

    def text(self) -> str:
        """Return the words."""
        return f"{self.host}: {self.line.expandtabs()}"


@attrs.frozen
class ErrorLine(Line, Remark):
    """A line that a command wrote to its standard error. As text it goes to ours."""


@attrs.frozen
class Exited(Remark):
    """A command has ended: by itself, or because the lab did."""

    event: ClassVar[str] = "exited"
    host: str
    command: str
    status: int
    by_itself: bool

    def text(self) -> str:
        """Return the words."""
        return f"{self.host}: {'ended' if self.by_itself else 'was ended'}, exit status {self.status}"


@attrs.frozen
class Down(Remark):
    """The lab has gone."""

    event: ClassVar[str] = "down"
    name: str
    seconds: float

    def text(self) -> str:
        """Return the words."""
        return f"The lab {self.name!r} is gone, after {self.seconds:.1f} s."


@attrs.frozen
class Waiting(Remark):
    """There is no such lab yet."""

    event: ClassVar[str] = "waiting"
    name: str
    seconds: float
    why: str

    def text(self) -> str:
        """Return the words."""
        return f"{self.why} Waiting {self.seconds:g} s for it."
