"""The names of the kernel's functions, by addresses within them: /proc/kallsyms."""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

_FILE: Final = Path("/proc/kallsyms")


def name_functions(addresses: Collection[int]) -> dict[int, str]:
    """Return the names of the functions that have these addresses; empty where the kernel hides them, or has none.

    What a compiler split off a function (`.cold`, `.isra.0`) has the function's name.
    """
    functions = _read_functions()
    starts = [start for start, _ in functions]
    named = {}
    for address in addresses:
        # An address to return to is behind the call: at the very end it would be the next function's.
        place = bisect.bisect_left(starts, address) - 1
        named[address] = functions[place][1].partition(".")[0] if place >= 0 else ""
    return named


def _read_functions() -> list[tuple[int, str]]:
    """Return addresses and names, in order. Hidden addresses are 0 (kernel.kptr_restrict, proc_sys_kernel(5))."""
    try:
        lines = _FILE.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        # Address, kind, name; behind these, a module.
        address, kind, name, *_ = line.split(None, 3)
        if kind in "tTwW" and (number := int(address, 16)):
            found.append((number, name))
    found.sort()
    return found
