"""Which way to make the calls: the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
from trio_ipv4._kernel.calls.compiled import Compiled, load_extension
from trio_ipv4._kernel.calls.one_by_one import OneByOne

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Calls

NEEDS_LINUX: Final = "recvmmsg(2) and sendmmsg(2) are Linux's."


@final
@attrs.frozen
class Implementation:
    """How this installation receives and sends batches: `implementation` tells.

    Args:
        way: `"compiled"`: recvmmsg(2) and sendmmsg(2), from C. `"ctypes"`: the same calls, from Python.
            `"one by one"`: a call for each datagram. The results are the same; the cost is not. A sandbox that lacks
            the calls shows only when they are made: then each datagram has its own, and this does not tell.
        reason: Why there is no compiled part, and how to get it, where that can be had; `None` if there is one.
    """

    way: str
    reason: str | None = None


def choose(platform: Platform) -> tuple[Calls, Implementation]:
    """Return the fastest way that this platform and this installation have, and what it is."""
    if not platform.has_mmsg:
        return OneByOne(platform), Implementation("one by one", NEEDS_LINUX)
    try:
        extension = load_extension()
    except ImportError as error:
        return ByCtypes(platform), Implementation("ctypes", str(error))
    return Compiled(platform, extension), Implementation("compiled")
