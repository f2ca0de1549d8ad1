"""recvmmsg(2) and sendmmsg(2) from C: `_mmsg.c`, if there was a C compiler when the package was built."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

from trio_ipv4._kernel.calls import CONTROL_SIZE
from trio_ipv4._kernel.calls.mmsg import MmsgReceiver, MmsgSender

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Mapping, Sequence

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Columns, Kind, Receiver, Recipe, Sender
    from trio_ipv4._kernel.calls.mmsg import Slots


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


def find_extension() -> Extension | None:
    """Return the compiled part; `None` if the package was installed without it."""
    try:
        return cast("Extension", importlib.import_module("trio_ipv4._kernel.calls._mmsg"))
    except ImportError:
        return None


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
