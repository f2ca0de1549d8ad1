"""Which way to make the calls: the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
from trio_ipv4._kernel.calls.compiled import Compiled, find_extension
from trio_ipv4._kernel.calls.one_by_one import OneByOne

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Calls


def fastest(platform: Platform) -> Calls:
    """Return the fastest way that this platform and this installation have."""
    if not platform.has_mmsg:
        return OneByOne(platform)
    extension = find_extension()
    return ByCtypes(platform) if extension is None else Compiled(platform, extension)
