"""What all parts of one simulated network share: time, chance, and who is in it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from trio_ipv4.testing._simulation.clock import Clock

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.capture import Capture
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.packets import Packet


T = TypeVar("T")

_MANY: Final = 4096


def remember(known: dict[tuple[Any, ...], T], key: tuple[Any, ...], value: T) -> T:
    """Keep what was worked out, and return it. A full table forgets everything."""
    if len(known) > _MANY:
        known.clear()
    known[key] = value
    return value


@final
class World:
    """The clock, the random numbers, the hosts' kernels and the captures of one network."""

    def __init__(self, seed: object) -> None:
        self.seed: Final = seed
        self.clock: Final = Clock()
        self.machines: Final[dict[str, Machine]] = {}
        self.captures: Final[list[Capture]] = []
        self.is_over = False

    def chance(self, *names: str) -> random.Random:
        """Return random numbers of their own for something: the same for the same seed, whatever else happens."""
        return random.Random("/".join(map(str, (self.seed, *names))))

    def require_host(self, name: str) -> str:
        """Return the name of a host of this network."""
        if name not in self.machines:
            raise KeyError(f"no host {name!r} in this network, only {', '.join(self.machines) or 'none yet'}")
        return name

    def capture(self, packet: Packet) -> None:
        """Note a packet that is put on a link."""
        for each in self.captures:
            each.write(packet)
