"""The examples of the documentation, as programs to run and as modules to import."""

from __future__ import annotations

import importlib
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

    from trio_ipv4.testing import LabHost, SimulatedNetwork

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"


def example(host: LabHost, name: str, *arguments: str) -> list[str]:
    """The command that runs an example in a host."""
    return host.command([sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *arguments])


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """An example as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(name)


def join_two_hosts(net: SimulatedNetwork) -> None:
    """Add hosts "a" and "b" on one link, as those of a lab."""
    link = net.link(latency=0.001)
    for number, name in enumerate("ab", 1):
        net.host(name).attach(link, "en0", f"198.18.0.{number}/24")


def is_member(host: LabHost, interface: str, group: str) -> bool:
    """Whether a host is in a group on an interface, as its kernel says."""
    index = next(each.index for each in host.interfaces if each.name == interface)
    return (index, IPv4Address(group)) in host.groups()
