"""recvmmsg(2) and sendmmsg(2) from C: `_mmsg.c`, if there was a C compiler when the package was built."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

from trio_ipv4._abi.this import IS_FREE_THREADED
from trio_ipv4._kernel.calls import CONTROL_SIZE
from trio_ipv4._kernel.calls.mmsg import MmsgReceiver, MmsgSender

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Mapping, Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Columns, Kind, Receiver, Recipe, Sender
    from trio_ipv4._kernel.calls.mmsg import Slots


NAME: Final = "trio_ipv4._kernel.calls._mmsg"
AGAIN: Final = "Install trio-ipv4 again."
NOT_COMPILED: Final = (
    "Nothing was compiled when trio-ipv4 was installed: install a C compiler and Python.h (Debian: gcc, libc6-dev, "
    "python3-dev), then trio-ipv4 again from source."
)


class Extension(Protocol):
    """The functions of `_mmsg`; see there."""

    def receive(self, descriptor: int, memory: mmap.mmap, limit: int, control_size: int, /) -> int: ...
    def values(self, memory: mmap.mmap, count: int, recipe: Recipe, /) -> list[Any] | None: ...
    def columns(
        self, values: tuple[Any, ...], kind: Kind, names: Mapping[Any, bytes], request: Callable[[Any], bytes], /
    ) -> Columns | None: ...
    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> int: ...


def load_extension() -> Extension:
    """Return the compiled part.

    Raises:
        ImportError: There is none that fits this Python. The message says why, in a sentence or two.
    """
    if sys.implementation.name != "cpython" or IS_FREE_THREADED:
        # Not even tried: what such a Python would load may be another's, and free-threaded Python would switch its lock
        # on for it.
        raise ImportError("The compiled part is for CPython with a global interpreter lock.")
    try:
        found = importlib.import_module(NAME)
    except Exception as error:  # A file that is not ours may raise anything.
        if isinstance(error, ModuleNotFoundError) and error.name == NAME:
            raise ImportError(NOT_COMPILED) from None
        raise ImportError(f"The compiled part can't be loaded: {error}. {AGAIN}") from error
    if missing := [name for name in ("receive", "values", "columns", "send") if not hasattr(found, name)]:
        raise ImportError(f"The compiled part lacks `{missing[0]}`. {AGAIN}")
    return cast("Extension", found)


@final
class Compiled:
    """The calls from C, with the loops over datagrams there, too."""

    def __init__(self, platform: Platform, extension: Extension) -> None:
        self._platform: Final = platform
        self._extension: Final = extension

    def receiver(self) -> Receiver:
        return MmsgReceiver(self._platform, _Receiving(self._extension))

    def sender(self) -> Sender:
        return MmsgSender(self._platform, _Sending(self._extension))


@final
class _Receiving:
    def __init__(self, extension: Extension) -> None:
        self._receive: Final = extension.receive
        self._values: Final = extension.values

    def fill(self, slots: Slots, descriptor: int, limit: int, /) -> int:
        return self._receive(descriptor, slots.memory, limit, CONTROL_SIZE)

    def values(self, slots: Slots, count: int, recipe: Recipe, /) -> list[Any] | None:
        return self._values(slots.memory, count, recipe)


@final
class _Sending:
    def __init__(self, extension: Extension) -> None:
        self._send: Final = extension.send
        self.columns = extension.columns

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]:
        try:
            return self._send(descriptor, payloads, names, controls), None
        except OSError as error:
            return 0, error
