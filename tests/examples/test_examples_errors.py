"""The examples about errors that come back and about paths, in a lab with a router, watched from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4.testing import Lab, LabHost

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
ECHO: Final = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("0.0.0.0", 5000))
    print("ready", flush=True)
    while True:
        question, peer = server.recvfrom(100)
        server.sendto(b"yes, " + question, peer)
"""


@pytest.fixture
def lab(needs_lab: None) -> Iterator[Lab]:
    """The hosts "a" and "b", with a router between them."""
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        yield lab


def run(name: str, *arguments: str, host: LabHost | None = None) -> list[str]:
    argv = [sys.executable, str(EXAMPLES / name), *arguments]
    command = argv if host is None else host.command(argv)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_of_many_peers_each_is_told_its_own_fate(lab: Lab) -> None:
    there, router = str(lab["b"].addresses[0]), lab["router"]
    gateway = str(router.addresses[0])
    router.ip("route", "add", "unreachable", "198.19.0.0/16")
    router.ip("route", "add", "prohibit", "198.20.0.0/16")
    with subprocess.Popen(lab["b"].command([sys.executable, "-c", ECHO]), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        peers = [f"{there}:5000", f"{there}:5001", "198.19.0.1:5000", "198.20.0.1:5000", f"{gateway}:5000"]
        told = run("ask_many.py", *peers, host=lab["a"])
        server.kill()
    assert sorted(told) == sorted(
        [
            f"{there}:5000 answers b'yes, are you there?'",
            f"{there}:5001 port unreachable, says {there}",
            f"198.19.0.1:5000 host unreachable, says {gateway}",
            f"198.20.0.1:5000 communication prohibited, says {gateway}",
            f"{gateway}:5000 port unreachable, says {gateway}",
        ]
    )


def test_a_peer_that_a_firewall_silences_is_told_as_silent(lab: Lab) -> None:
    there = str(lab["b"].addresses[0])
    rules = "add table t; add chain t i { type filter hook input priority 0; policy drop; }"
    subprocess.run(lab["b"].command(["nft", rules]), check=True)
    assert run("ask_many.py", f"{there}:5000", host=lab["a"]) == [f"{there}:5000 is silent"]


def test_without_an_argument_it_asks_two_peers_on_loopback() -> None:
    told = run("ask_many.py")
    assert told[1].endswith(" answers b'yes'")
    assert told[0] == "127.0.0.1:9 port unreachable, says 127.0.0.1"


def test_the_path_is_as_wide_as_its_narrowest_link(lab: Lab) -> None:
    there = str(lab["b"].addresses[0])
    assert run("find_path_mtu.py", there, host=lab["a"]) == ["1500 octets, IP header included"]
    lab["router"].ip("link", "set", "en1", "mtu", "1300")
    assert run("find_path_mtu.py", there, host=lab["a"]) == ["1300 octets, IP header included"]
    # The kernel's own word for it.
    assert "mtu 1300" in lab["a"].ip("route", "get", there)


def test_without_an_argument_it_finds_the_path_to_this_host() -> None:
    assert int(run("find_path_mtu.py")[0].split()[0]) >= 65535
