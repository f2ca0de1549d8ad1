"""Fixtures for pytest: a lab, a simulated network, and both, one after the other.

Opt in by one line in the test suite's top conftest.py:

    pytest_plugins = ["trio_ipv4.testing.pytest_plugin"]

Each fixture is two hosts, "a" and "b", on one link, with the interface en0 and the addresses 198.18.0.1 and 198.18.0.2.
A test may add to that. It is asynchronous under pytest-trio, or calls `trio.run`. On a simulated network time costs
nothing with pytest-trio's fixture `autojump_clock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_ipv4.testing import lab_available, open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4.testing import Lab, Network, SimulatedNetwork


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab: the kernel's own network namespaces. The test is skipped, with the reason, where none can be made."""
    reason = lab_available()
    if reason is not None:
        pytest.skip(reason)
    with open_lab() as opened:
        yield opened


@pytest.fixture
def simulated(request: pytest.FixtureRequest) -> Iterator[SimulatedNetwork]:
    """A simulated network, strict, and with the test's own name as its seed: a test has the same world each time."""
    with simulate(seed=request.node.nodeid) as network:
        link = network.link()
        for number, name in enumerate(("a", "b"), 1):
            network.host(name).attach(link, "en0", f"198.18.0.{number}/24")
        yield network


@pytest.fixture(params=["lab", "simulated"])
def network(request: pytest.FixtureRequest) -> Network:
    """A lab, then a simulated network: the test runs on both."""
    found: Network = request.getfixturevalue(request.param)
    return found
