"""Predicates on interfaces: which ones to follow, to serve, to send on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._values.interface import Interface

InterfacePredicate: TypeAlias = "Callable[[Interface], bool]"
"""A function that says whether an interface matches: `where`."""


def can_hear_multicast(interface: Interface) -> bool:
    """Tell whether an interface is set up, supports multicast, and is no port of a bridge, bond or team.

    This is the default of `where=`. A predicate of your own can narrow it. No checkpoint, any platform.
    """
    return interface.is_up and interface.is_multicast and not interface.is_port


def require_predicate(where: object) -> None:
    """Check a predicate, before anything is opened."""
    if not callable(where):
        raise TypeError(f"where must be a function of an Interface, got {where!r}")


@trio.lowlevel.disable_ki_protection  # It is the caller's code: it may be interrupted, as everywhere.
def ask(where: InterfacePredicate, interface: Interface) -> bool:
    """Ask a predicate about an interface."""
    answer: object = where(interface)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(f"where must be a synchronous function of an Interface, got the asynchronous {where!r}")
    return bool(answer)
