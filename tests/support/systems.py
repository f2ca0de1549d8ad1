"""Systems for a test to be on: this machine's own, by another way to call it, or with another platform."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs
import pytest

from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
from trio_ipv4._kernel.calls.compiled import Compiled, Extension, find_extension
from trio_ipv4._kernel.calls.one_by_one import OneByOne
from trio_ipv4._kernel.native import NativeSystem
from trio_ipv4._kernel.system import CURRENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._abi.platform import Option, Platform
    from trio_ipv4._kernel.calls import Calls
    from trio_ipv4._kernel.system import System

WAYS = ("compiled", "ctypes", "one by one")


def extension() -> Extension:
    """Return the compiled part, or skip the test."""
    if (found := find_extension()) is None:
        pytest.skip("the package was installed without its compiled part")
    return found


def calls_by(way: str) -> Calls:
    """Return one of the ways to receive and send."""
    if way == "compiled":
        return Compiled(this_platform(), extension())
    return ByCtypes(this_platform()) if way == "ctypes" else OneByOne(this_platform())


def use(way: str) -> None:
    """Be on this machine by one of the ways, for good: in a process of its own."""
    CURRENT.set(NativeSystem(calls=calls_by(way)))


@contextlib.contextmanager
def on(system: System) -> Iterator[None]:
    """Be on a system."""
    token = CURRENT.set(system)
    try:
        yield
    finally:
        CURRENT.reset(token)


def on_platform(platform: Platform) -> contextlib.AbstractContextManager[None]:
    """Be on this machine, and take it for another platform."""
    return on(NativeSystem(platform))


def lacking(*names: str) -> Platform:
    """Describe this platform without some of its options."""
    here = this_platform()
    return attrs.evolve(here, options={name: option for name, option in here.options.items() if name not in names})


def having(**added: Option) -> Platform:
    """Describe this platform with other options."""
    here = this_platform()
    return attrs.evolve(here, options={**here.options, **added})
