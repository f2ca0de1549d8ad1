"""The examples run unmodified on a simulated network, here and where there is no Linux."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

from trio_ipv4.testing import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4.testing import SimulatedNetwork

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
SUITES: Final = ("test_your_program.py", "test_ssdp_search.py")
ELSEWHERE = """
import errno, socket, sys
import pytest

name, examples, *options = sys.argv[1:]
sys.path.insert(0, examples)

class Elsewhere:
    # Once pytest has found out where it is itself; nothing has imported trio_ipv4 yet.
    def pytest_collection(self):
        assert "trio_ipv4" not in sys.modules
        if name != "linux":
            sys.platform = name
            for missing in ("ENONET", "ECOMM", "EREMOTEIO"):  # CPython's errno has them on Linux.
                delattr(errno, missing)
            del socket.AF_NETLINK, socket.AF_PACKET
            sys.modules["fcntl"] = None

    def pytest_unconfigure(self):
        sys.platform = "linux"

sys.exit(pytest.main(options, plugins=[Elsewhere()]))
"""


@pytest.mark.parametrize("name", ["linux", "darwin", "win32"])
def test_the_example_suites_pass_where_there_is_no_linux_and_no_privilege(name: str, tmp_path: Path) -> None:
    empty = tmp_path / "pytest.ini"
    empty.write_text("[pytest]\n")
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "-c", str(empty), "--rootdir", str(EXAMPLES)]
    suites = [str(EXAMPLES / suite) for suite in SUITES]
    argv = [sys.executable, "-c", ELSEWHERE, name, str(EXAMPLES), *options, *suites]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed" in done.stdout


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNetwork]:
    monkeypatch.syspath_prepend(EXAMPLES)
    with simulate() as net:
        link = net.link(latency=0.001)
        for number, name in enumerate(("a", "b"), 1):
            net.host(name).attach(link, "en0", f"198.18.0.{number}/24")
        yield net


async def run(nursery: trio.Nursery, net: SimulatedNetwork, host: str, program: str, *arguments: str) -> None:
    """Start an example with arguments, and wait until it waits."""
    main: Any = importlib.import_module(program).main
    before, sys.argv = sys.argv, [program, *arguments]
    nursery.start_soon(net[host].run, main)
    await trio.testing.wait_all_tasks_blocked()
    sys.argv = before


async def test_the_mdns_browser_finds_what_is_announced_and_finds_it_again_after_a_flap(
    net: SimulatedNetwork, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        await run(nursery, net, "a", "mdns_browser", "--interface", "en0", "--announce", "My printer")
        await run(nursery, net, "b", "mdns_browser", "--interface", "en0")
        await trio.sleep(5)
        found = "en0: My printer._http._tcp.local at my-printer.local:8080"
        assert capsys.readouterr().out.count(found) == 1
        net["b"].detach("en0")
        await trio.sleep(60)
        net["b"].attach(net.links[0], "en0", "198.18.0.2/24")
        await trio.sleep(5)
        assert capsys.readouterr().out.count(found) == 1
        nursery.cancel_scope.cancel()


async def test_ssdp_search_finds_who_answers(
    net: SimulatedNetwork, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        await run(nursery, net, "a", "ssdp_search", "--interface", "en0", "--answer", "http://a/")
        await run(nursery, net, "b", "ssdp_search", "--interface", "en0")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert "en0: 198.18.0.1 is uuid:" in capsys.readouterr().out


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNetwork]:
    """Two routers between "a" and "b". Each link takes a millisecond."""
    monkeypatch.syspath_prepend(EXAMPLES)
    with simulate() as net:
        links = [net.link(latency=0.001) for _ in range(3)]
        for position, name in enumerate(("a", "r1", "r2", "b")):
            host = net.host(name)
            for number in {position - 1, position} & {0, 1, 2}:
                host.attach(links[number], f"en{number}", f"198.18.{number}.{position + 1}/24")
            host.set_sysctl("net.ipv4.ip_forward", int(name.startswith("r")))
        for name, network, gateway in [
            ("a", "198.18.2.0/24", "198.18.0.2"),
            ("r1", "198.18.2.0/24", "198.18.1.3"),
            ("r2", "198.18.0.0/24", "198.18.1.2"),
            ("b", "198.18.0.0/24", "198.18.2.3"),
            ("a", "203.0.113.0/24", "198.18.0.2"),
        ]:
            net[name].add_route(network, via=gateway)
        net["a"].set_sysctl("net.ipv4.ping_group_range", "0 2147483647")
        yield net


async def outcome(
    net: SimulatedNetwork, capsys: pytest.CaptureFixture[str], program: str, *arguments: str
) -> tuple[int, list[str]]:
    """Run an example on host "a"; return its exit status and the lines that it prints."""
    module: Any = importlib.import_module(program)
    status = await net["a"].run(module.main, module.read_arguments([*arguments]))
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("arguments", [(), ("--raw",)], ids=["unprivileged", "raw"])
async def test_ping_tells_replies_errors_and_silence_apart(
    path: SimulatedNetwork,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    addresses = ("198.18.2.4", "198.18.0.99", "203.0.113.1")  # Nobody has the second one: ARP takes 3 seconds.
    status, lines = await outcome(path, capsys, "ping", *addresses, "--count", "1", "--seconds", "1", *arguments)
    assert (status, lines) == (
        1,
        [
            "203.0.113.1  1  net unreachable, says 198.18.0.2, 2.000 ms",
            "198.18.2.4   1  reply from 198.18.2.4, 64 octets, ttl 62, 6.000 ms",
            "198.18.0.99  1  no answer in 1 s",
            "",
            "198.18.2.4   1 sent, 1 received, 0% lost, min/median/max 6.000/6.000/6.000 ms",
            "198.18.0.99  1 sent, 0 received, 100% lost",
            "203.0.113.1  1 sent, 0 received, 100% lost",
        ],
    )


@pytest.mark.parametrize("arguments", [(), ("--icmp",)], ids=["udp", "icmp"])
async def test_traceroute_finds_the_routers(
    path: SimulatedNetwork,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    expected = [
        " 1  198.18.0.2  2.000 ms  2.000 ms  2.000 ms",
        " 2  198.18.1.3  4.000 ms  4.000 ms  4.000 ms",
        " 3  198.18.2.4  6.000 ms  6.000 ms  6.000 ms",
    ]
    assert await outcome(path, capsys, "traceroute", "198.18.2.4", *arguments) == (0, expected)
    unreachable = [" 1  198.18.0.2  2.000 ms !N"]
    arguments = ("203.0.113.1", "--probes", "1", *arguments)
    assert await outcome(path, capsys, "traceroute", *arguments) == (1, unreachable)
