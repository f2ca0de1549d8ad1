"""What people write about a lab: names, hosts, and commands on them."""

from __future__ import annotations

import re
from collections.abc import Mapping  # At run time, too: cyclopts reads the annotations.
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import attrs

from trio_ipv4._cli.arguments import reads, reads_each, within

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUTER: Final = "router"
SWITCH: Final = "switch"
"""Where the bridges are."""
_LINKS: Final = 32
"""open_lab's limit."""


@attrs.frozen
class HostCommand:
    """A command for sh(1), and the host on which it runs."""

    host: str
    command: str


@attrs.frozen
class HostNames:
    """The names of a lab's hosts, each once, and the links of those that are not on every link."""

    names: tuple[str, ...]
    ends: Mapping[str, tuple[int, ...]] = attrs.Factory(dict)


def read_hosts(text: str) -> HostNames:
    """Read the names of hosts: a,b,c; or with the links that they are on: a:0,b:0+1."""
    named = [each.partition(":") for each in text.split(",")]
    names = tuple(name for name, _, _ in named)
    # As open_lab has it; the library's bridges and its router have their names already.
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,10}", name) for name in names):
        raise ValueError(f"must be names of 1 to 11 letters, digits and _, a letter first, as a,b,c, got {text!r}")
    if len({*names, ROUTER, SWITCH}) != len(names) + 2:
        raise ValueError(f"must be different names, and none of them {ROUTER} or {SWITCH}, as a,b,c, got {text!r}")
    if len(names) > 253:  # open_lab's limit.
        raise ValueError(f"must be at most 253 names, got {len(names)}")
    return HostNames(names, {name: _read_ends(ends, text) for name, colon, ends in named if colon})


def _read_ends(ends: str, text: str) -> tuple[int, ...]:
    numbers = ends.split("+")
    if not all(re.fullmatch("[0-9]{1,2}", each) and int(each) < _LINKS for each in numbers):
        raise ValueError(f"must have links from 0 to {_LINKS - 1} behind a host's colon, as a:0,b:0+1, got {text!r}")
    return tuple(sorted({int(each) for each in numbers}))


def read_host_command(text: str) -> HostCommand:
    """Read a command on a host: a="trio-ipv4 demo"."""
    host, _, command = text.partition("=")
    if not host or not command.strip():
        raise ValueError(f'must be HOST="COMMAND", as a="trio-ipv4 demo", got {text!r}')
    return HostCommand(host, command)


def read_name(text: str) -> str:
    """Read the name of a lab."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError(f"must be 1 to 64 letters, digits, _, . or -, a letter or a digit first, got {text!r}")
    return text


def divide(words: Sequence[str]) -> list[str]:
    """Mark where our words end and those of the command begin: after the host, in `lab enter HOST COMMAND ...`.

    So `--help` or `--name` behind the host are the command's. The mark is "--".
    """
    if list(words[:2]) != ["lab", "enter"]:
        return list(words)
    place = 2
    while place < len(words) and words[place].startswith("-"):
        if words[place] == "--":
            return list(words)
        place += 2 if words[place] == "--name" else 1
    host, rest = words[: place + 1], words[place + 1 :]
    return [*host, *rest] if not rest or rest[0] == "--" else [*host, "--", *rest]


Name: TypeAlias = Annotated[str, reads(read_name, "NAME")]
Hosts: TypeAlias = Annotated[HostNames, reads(read_hosts, "HOST[:LINK],...")]
Commands: TypeAlias = Annotated[tuple[HostCommand, ...], reads_each(read_host_command, 'HOST="COMMAND"')]
Links: TypeAlias = Annotated[int, reads(within(1, _LINKS), "N")]
