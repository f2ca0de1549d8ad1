"""Systems of a lab: the network of a host; and this process's own network while a lab is open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._kernel.native import NativeSystem, current_system
from trio_ipv4._kernel.system import CURRENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4.testing._namespaces import Namespace


class HostSystem(NativeSystem):
    """The network of a host. The calling thread goes there to make a socket, and to read /proc; then it is back."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__()
        self._namespace: Final = namespace

    def socket(self, family: int, kind: int, protocol: int) -> Socket:
        return self._namespace.call(super().socket, family, kind, protocol)

    def if_nameindex(self) -> list[tuple[int, str]]:
        return self._namespace.call(super().if_nameindex)

    def sysctl(self, name: str) -> str | None:
        return self._namespace.call(super().sysctl, name)

    def igmp_table(self) -> str | None:
        return self._namespace.call(super().igmp_table)


@final
class CalledSystem(HostSystem):
    """The network of a host, for sockets that one call makes there and that are used from elsewhere."""

    def sysctl(self, name: str) -> str | None:
        return super().sysctl(name) if self._namespace.is_current else None


@final
class BesideLab(NativeSystem):
    """This process's own network, for a program that has a lab open and is on none of its hosts."""

    def check_home(self) -> None:
        if _is_machines_own():
            raise RuntimeError(
                "a lab is open, and this would act on all of the machine's own interfaces: run it on a host, "
                "await lab['a'].run(...), or end the lab first"
            )


@contextlib.contextmanager
def beside_lab() -> Iterator[None]:
    """Note in the context that a lab is open."""
    here = current_system()
    if type(here) is not NativeSystem:
        yield
        return
    token = CURRENT.set(BesideLab(here.platform, here.calls))
    try:
        yield
    finally:
        # A generator may be ended in another context; that one was never changed.
        with contextlib.suppress(ValueError):
            CURRENT.reset(token)


def _is_machines_own() -> bool:
    """Tell whether the thread is in the network namespace of the first process.

    Who may not look at that process is the root of a user namespace alone, and so in a private network.
    """
    try:
        return os.path.samestat(Path("/proc/thread-self/ns/net").stat(), Path("/proc/1/ns/net").stat())
    except PermissionError:
        return False
