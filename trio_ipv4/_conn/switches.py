"""The switches of facts: the socket options that make the kernel send facts along with datagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ipv4._kernel import options
from trio_ipv4._values.control import FACTS, ControlFlags

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket


def to_flags(control_flags: object) -> ControlFlags:
    """Check flags."""
    if not isinstance(control_flags, ControlFlags):
        raise TypeError(f"control_flags must be ControlFlags, got {control_flags!r}")
    return control_flags


def settings(flags: ControlFlags) -> list[tuple[str, int]]:
    """Return the options, with their values, that make a socket receive `flags`."""
    return [(name, int(bool(int(flags) & facts))) for name, facts in FACTS.switches.items()]


def switched_on(socket: Socket) -> ControlFlags:
    """Return the facts that a socket receives."""
    return ControlFlags(sum(facts for name, facts in FACTS.switches.items() if _is_on(socket, name)))


def switch(socket: Socket, before: ControlFlags, flags: ControlFlags) -> None:
    """Set the switches that differ between `before` and `flags`."""
    now = dict(settings(before))
    for name, value in settings(flags):
        if value != now[name]:
            options.set_integer(socket, name, value)


def _is_on(socket: Socket, name: str) -> bool:
    if not options.has_option(socket, name):
        return False
    try:
        return bool(options.get_integer(socket, name))
    except OSError as error:
        if error.errno not in options.LACKING:
            raise
        return False  # Some sandboxes lack options of the platform.
