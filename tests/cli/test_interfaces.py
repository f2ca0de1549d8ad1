"""`trio-ipv4 interfaces`: the list, and what comes and goes, as ip(8) does it in the test's own network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.records import Kept
from support.terminal import on_terminal
from trio_ipv4._cli import interfaces
from trio_ipv4._cli.interfaces import InterfaceChanged, InterfaceListed
from trio_ipv4._cli.output import lay_out

if TYPE_CHECKING:
    from conftest import AsNobody, Eventually
    from trio_ipv4._cli.output import Row

COMMAND = [sys.executable, "-m", "trio_ipv4", "interfaces"]
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""

needs_lab = pytest.mark.usefixtures("needs_lab")


class Collected(Kept):
    """What was shown."""

    def changes(self) -> list[tuple[str, str]]:
        return [(each.change, each.name) for each in self.records]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def ip_json(*arguments: str) -> Any:
    return json.loads(subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True).stdout)


def add_pair(name: str = "en0", peer: str = "en1") -> None:
    ip("link", "add", name, "type", "veth", "peer", "name", peer)


# As links come and go


@needs_lab
async def test_links_that_come_change_and_go_are_shown(eventually: Eventually) -> None:
    output = Collected()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interfaces._watch, output, None)
        await eventually(lambda: output.changes() == [("added", "lo")])
        add_pair()
        await eventually(lambda: {("added", "en0"), ("added", "en1")} <= set(output.changes()))

        ip("address", "add", "198.18.0.1/24", "dev", "en0")
        await eventually(lambda: output.records[-1].addresses == ("198.18.0.1/24",))
        [told] = ip_json("address", "show", "dev", "en0")
        shown = output.records[-1]
        assert (shown.change, shown.index, shown.name, shown.mtu) == ("changed", told["ifindex"], "en0", told["mtu"])
        assert not shown.up

        ip("link", "set", "en0", "up", "mtu", "1400")
        await eventually(lambda: any((each.name, each.up, each.mtu) == ("en0", True, 1400) for each in output.records))
        ip("link", "set", "en1", "name", "new")
        await eventually(lambda: ("changed", "new") in output.changes())
        [told] = ip_json("link", "show", "dev", "new")
        [renamed] = [each for each in output.records if each.name == "new"]
        assert renamed.index == told["ifindex"]

        ip("link", "delete", "en0")
        await eventually(lambda: {("removed", "en0"), ("removed", "new")} <= set(output.changes()))
        [gone] = [each for each in output.records if (each.change, each.name) == ("removed", "en0")]
        assert gone.index == shown.index
        signal.raise_signal(signal.SIGTERM)


@needs_lab
async def test_a_link_that_is_made_anew_with_its_index_has_gone_and_come(eventually: Eventually) -> None:
    ip("link", "add", "en0", "index", "77", "type", "veth", "peer", "name", "en1")
    output = Collected()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interfaces._watch, output, None)
        await eventually(lambda: len(output.records) == 3)
        ip("link", "delete", "en0")
        ip("link", "add", "en0", "index", "77", "type", "veth", "peer", "name", "en1")
        await eventually(lambda: output.changes().count(("added", "en0")) == 2)
        assert [each.change for each in output.records if each.index == 77][:3] == ["added", "removed", "added"]
        signal.raise_signal(signal.SIGINT)


async def test_it_ends_in_time() -> None:
    assert await interfaces._watch(Collected(), 0.05) == 0


# The command


@needs_lab
def test_json_lines_come_while_it_watches() -> None:
    with subprocess.Popen([*COMMAND, "--watch", "--json"], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        assert (first["event"], first["change"], first["name"]) == ("interface_change", "added", "lo")
        add_pair("en0", "en1")
        added = [json.loads(watch.stdout.readline()) for _ in range(2)]
        assert {each["name"] for each in added} == {"en0", "en1"}
        assert {each["index"] for each in added} == {each["ifindex"] for each in ip_json("link")} - {first["index"]}
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=DEADLINE)
        assert watch.returncode == 130


@needs_lab
def test_in_a_pipe_each_change_is_one_line() -> None:
    with subprocess.Popen([*COMMAND, "--watch"], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        heading, first = watch.stdout.readline(), watch.stdout.readline()
        assert heading.split() == ["change", "index", "name", "up", "multicast", "MTU", "addresses", "flags"]
        assert first.split()[:3] == ["added", "1", "lo"]
        assert first.index("127.0.0.1/8") == heading.index("addresses")
        add_pair()
        lines = [watch.stdout.readline() for _ in range(2)]
        assert {line.split()[2] for line in lines} == {"en0", "en1"}
        assert all(line.index("en") == heading.index("name") for line in lines)
        watch.terminate()
        assert "\x1b" not in watch.communicate(timeout=DEADLINE)[0]
        assert watch.returncode == 143


def test_a_time_alone_means_to_watch() -> None:
    done = subprocess.run([*COMMAND, "--for", "2s", "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["interface_change"]


@needs_lab
@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (60, ["index", "name", "up", "multicast", "MTU", "addresses"]),
        (200, ["index", "name", "up", "multicast", "MTU", "addresses", "flags"]),
    ],
)
def test_on_a_terminal_the_table_fits(columns: int, titles: list[str]) -> None:
    add_pair("fifteen-octets-", "en1")
    ip("address", "add", "198.18.100.100/24", "dev", "en1")
    with on_terminal(COMMAND, columns=columns) as screen:
        lines = screen.read_to_end().splitlines()
    assert screen.process.returncode == 0
    assert lines[0] == f"\x1b[1;36m{lines[0][7:-4]}\x1b[0m"
    assert [title for title in titles if title in lines[0]] == titles or columns < 80
    assert all(len(line) <= columns for line in lines[1:])
    assert "fifteen-octets-" in lines[-1] + lines[-2]
    assert "198.18.100.100/24" in lines[-1] + lines[-2]
    assert ("LOOPBACK" in lines[1]) == (columns == 200)


@needs_lab
def test_on_a_terminal_ctrl_c_ends_the_watch() -> None:
    with on_terminal([*COMMAND, "--watch"], columns=60) as screen:
        screen.read_until("127.0.0.1/8")
        screen.type("\x03")
        screen.read_to_end()
        assert screen.process.returncode == 130
        assert "Traceback" not in screen.shown


@needs_lab
def test_a_name_that_is_no_text_is_shown() -> None:
    subprocess.run([b"ip", b"link", b"add", b"\xffen", b"type", b"veth", b"peer", b"name", b"en1"], check=True)
    text = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert (text.returncode, text.stderr) == (0, "")
    assert "\\udcffen" in text.stdout
    listed = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, check=True).stdout
    assert "\udcffen" in {json.loads(line)["name"] for line in listed.splitlines()}


def test_a_plain_user_may_look(as_nobody: AsNobody) -> None:
    argv = as_nobody([*COMMAND, "--for", "2s", "--json"])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "lo"


# Widths


FACTS: Any = (
    12,
    "fifteen-octets-",
    True,
    True,
    65536,
    ("UP", "BROADCAST", "RUNNING", "MULTICAST"),
    ("198.18.100.100/24",),
)


@pytest.mark.pure
@pytest.mark.parametrize("row", [InterfaceListed(*FACTS), InterfaceChanged(*FACTS, "changed")])
def test_flags_give_way_before_names_and_addresses(row: Row) -> None:
    assert "RUNNING" in lay_out([row], 200)[1].plain
    for width in (60, 50):
        heading, line = (each.plain for each in lay_out([row], width))
        assert max(len(heading), len(line)) <= 60
        assert "RUNNING" not in line
        assert "fifteen-octets-" in line
        assert "198.18.100.100/24" in line


@pytest.mark.pure
def test_an_interface_without_addresses_has_a_dash() -> None:
    assert InterfaceListed(1, "en0", False, False, 1500, (), ()).cells() == ("1", "en0", "no", "no", "1500", "-", "")
