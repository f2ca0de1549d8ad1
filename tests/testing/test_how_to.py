"""What docs/how-to/testing-your-program.md shows of labs does what it says."""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from trio_ipv4 import open_udp
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from trio_ipv4.testing import Lab

pytestmark = pytest.mark.usefixtures("needs_lab", "private_net")
PAGE: Final = Path(__file__).parents[2] / "docs/how-to/testing-your-program.md"


def run(part: str, behind: str = "", **names: Any) -> None:
    """Run the block of the page that has a certain part, and something behind it."""
    (source,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if part in each]
    exec(source + behind, {"subprocess": subprocess} | names)


async def send(lab: Lab, group: str, number: int) -> None:
    async with lab["a"].call(open_udp) as conn:
        conn.multicast_interface = "en0"
        for _ in range(number):
            await conn.send_to(b"datagram", (group, 5000))


def test_a_datagram_crosses_several_routers() -> None:
    run('"r1": [0, 1]', CROSSES, socket=socket)


CROSSES: Final = """\
    hears, tells = (lab[name].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) for name in "ba")
    with hears, tells:
        hears.bind(("0.0.0.0", 5000))
        hears.settimeout(5)
        tells.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 3)  # One for each router, and one to arrive.
        tells.sendto(b"hello", ("198.18.2.4", 5000))
        payload, peer = hears.recvfrom(100)
        assert (payload, peer[0]) == (b"hello", "198.18.0.1")
"""


async def test_the_switch_drops_some_of_one_group() -> None:
    with open_lab(("a", "b")) as lab:
        run("numgen random", lab=lab)
        await send(lab, "239.1.2.4", 1000)
        assert dropped(lab) == 0
        await send(lab, "239.1.2.3", 1000)
        assert 30 < dropped(lab) < 200  # One of ten is meant: seven standard deviations each way.


def dropped(lab: Lab) -> int:
    argv = lab.switch.command(["nft", "list", "ruleset"])
    listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return int(re.findall(r"counter packets (\d+)", listed)[0])


SHOW: Final = "import os; print(os.getuid(), open('/proc/self/status').read())"


@pytest.mark.usefixtures("as_nobody")
def test_a_program_runs_as_a_user_without_privilege() -> None:
    said: list[str] = []

    def run_program(argv: list[str], *, check: bool) -> None:
        # That user can't read what is in this test's folders.
        argv = [*argv[: argv.index("python3")], "/usr/bin/python3", "-c", SHOW]
        said.append(subprocess.run(argv, check=check, capture_output=True, text=True).stdout)

    with open_lab(("a",)) as lab:
        run("setpriv", lab=lab, subprocess=argparse.Namespace(run=run_program))
    assert said[0].startswith("65534 ")
    assert int(re.findall(r"CapBnd:\s+(\w+)", said[0])[0], 16) == 0
