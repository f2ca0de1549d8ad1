"""The system of a task that is on none of the simulated hosts: it has nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn, final

from trio_ipv4.testing._simulation.linux import LINUX

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform


@final
class Outside:
    """Refuse what would be real, and so cheat."""

    platform: Platform = LINUX

    def _refuse(self, *_: Any) -> NoReturn:
        raise RuntimeError(
            "a network is simulated, and this task is on none of its hosts: run it on one, "
            "await net['a'].run(main), or net['a'].call(open_udp); or pass simulate(strict=False) for the real network"
        )

    socket = adopt = if_nameindex = uptime = _refuse

    def sysctl(self, _name: str) -> None:
        return None

    def igmp_table(self) -> None:
        return None

    def process(self) -> int:
        return os.getpid()

    def check_home(self) -> None:
        self._refuse()
