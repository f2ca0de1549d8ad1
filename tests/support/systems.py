"""Systems for a test to be on: this machine's own, by another way to call it, or with another platform."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
from trio_ipv4._kernel.calls.compiled import Compiled, Extension, load_extension
from trio_ipv4._kernel.calls.one_by_one import OneByOne
from trio_ipv4._kernel.native import NativeSystem
from trio_ipv4._kernel.system import CURRENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._abi.platform import Option, Platform
    from trio_ipv4._kernel.calls import Calls
    from trio_ipv4._kernel.system import System

WAYS = ("compiled", "ctypes", "one by one")


def find_extension() -> Extension | None:
    """Return the compiled part, if there is one that fits this Python."""
    try:
        return load_extension()
    except ImportError:
        return None


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


class Counted:
    """A system that notes the calls to it and to its sockets."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.calls: list[str] = []

    def socket(self, *arguments: int) -> Any:
        self.calls.append("socket")
        return CountedSocket(self, self._system.socket(*arguments))

    def adopt(self, handle: Any) -> Any:
        return CountedSocket(self, self._system.adopt(handle))

    def __getattr__(self, name: str) -> Any:
        return noting(self.calls, self._system, name)


class CountedSocket:
    """A socket of such a system."""

    def __init__(self, system: Counted, socket: Any) -> None:
        self.system = system
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        # What is known without the kernel is no call.
        return getattr(self._socket, name) if name == "fileno" else noting(self.system.calls, self._socket, name)


def noting(calls: list[str], owner: Any, name: str) -> Any:
    """Return an attribute; a method that notes its calls."""
    value = getattr(owner, name)
    if not inspect.ismethod(value):
        return value

    def call(*arguments: Any) -> Any:
        calls.append(name)
        return value(*arguments)

    return call
