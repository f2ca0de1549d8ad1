"""Nothing stays: a canary, a cable from here into the lab, vanishes when the kernel removes the far end's namespace."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ipv4.testing import open_lab, private_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4.testing import Lab

HOLD_A_LAB = """
from trio_ipv4.testing import open_lab
with open_lab(links=2, router=True) as lab:
    print(*(host.namespace for host in (*lab.values(), lab.switch)), flush=True)
    input()
"""


def set_canaries(paths: list[str]) -> None:
    for number, path in enumerate(paths):
        argv = ["ip", "link", "add", f"canary{number}", "type", "veth", "peer", "name", "canary", "netns", path]
        subprocess.run(argv, check=True)


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def held_namespaces() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except FileNotFoundError:  # The one that listed the directory.
            continue
    return {each for each in found if each.startswith("net:")}


def own_namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_a_lab_leaves_nothing(needs_lab: None, wait_until: Callable[..., None]) -> None:
    before, held = links(), held_namespaces()
    with open_lab(links=2, router=True) as lab:
        assert links() == before
        set_canaries([host.namespace for host in (*lab.values(), lab.switch)])
        assert len(links()) == len(before) + 4
    assert held_namespaces() == held
    wait_until(lambda: links() == before)


def test_a_lab_leaves_nothing_when_its_block_raises(needs_lab: None, wait_until: Callable[..., None]) -> None:
    before, held = links(), held_namespaces()

    def use() -> None:
        with open_lab(router=True) as lab:
            set_canaries([host.namespace for host in (*lab.values(), lab.switch)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert held_namespaces() == held
    wait_until(lambda: links() == before)


def test_a_killed_process_leaves_nothing(needs_lab: None, wait_until: Callable[..., None]) -> None:
    before = links()
    argv = [sys.executable, "-c", HOLD_A_LAB]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        set_canaries(holder.stdout.readline().split())
        assert len(links()) == len(before) + 4
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    wait_until(lambda: links() == before)


def test_a_private_network_has_only_its_loopback_and_ends(wait_until: Callable[..., None]) -> None:
    before, own = links(), own_namespace()
    with private_network():
        assert own_namespace() != own
        assert links() == ["lo"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
            endpoint.bind(("127.0.0.1", 0))
            endpoint.sendto(b"", endpoint.getsockname())
    assert own_namespace() == own
    assert links() == before


def test_a_private_network_ends_when_its_block_raises() -> None:
    own = own_namespace()
    with pytest.raises(ZeroDivisionError), private_network():
        raise ZeroDivisionError
    assert own_namespace() == own


@pytest.fixture
def alarm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # What measures coverage takes a lock of its own, in which an interrupt would leave it.
    tracer = sys.gettrace()
    sys.settrace(None)
    previous = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    sys.settrace(tracer)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Interrupted between open and with.
def test_an_interrupt_at_any_moment_leaves_no_thread_behind(lab: Lab, alarm: None) -> None:
    own, interrupted = own_namespace(), 0
    chance = random.Random(1)
    for _ in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-4))
            for _ in range(1000):
                lab["a"].call(int)
        except KeyboardInterrupt:
            interrupted += 1
        assert own_namespace() == own
    assert interrupted
