"""Links of the test's own network namespace."""

from __future__ import annotations

import subprocess

from support.here import simulated_ip


def ip(*lines: str) -> None:
    """Have iproute2 carry the lines out: `ip("link set en0 up")`. On a simulated host it is not needed."""
    simulated = simulated_ip()
    if simulated is not None:
        for line in lines:
            simulated.carry_out(line)
        return
    subprocess.run(["ip", "-batch", "-"], input="\n".join([*lines, ""]), text=True, check=True)


def bridge(name: str, index: int, host: int = 1) -> list[str]:
    """Return the lines that make an interface with the address 198.18.INDEX.HOST/24.

    A bridge without ports comes up at once, and sends nothing anywhere.
    """
    return [
        f"link add {name} index {index} type bridge mcast_snooping 0",
        f"address add 198.18.{index}.{host}/24 dev {name}",
        f"link set {name} up",
    ]


def veth(name: str, index: int) -> list[str]:
    """Return the lines that make an interface whose far end, in the same namespace, is `far-NAME`."""
    return [
        f"link add {name} index {index} type veth peer name far-{name}",
        f"link set far-{name} up",
        f"link set {name} up",
    ]
