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
