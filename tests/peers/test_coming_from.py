"""The pages of docs/coming-from: the names of other libraries exist there, and everything of ours in their tables runs.

multicast_expert_names.txt has the public names of multicast_expert 1.6.0, without those of IPv6 and older spellings.
socket2_names.txt has the methods of socket2 0.6 for IPv4 and datagrams, without those that set something else.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import socket
import types
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_ipv4
from support.links import bridge, ip
from trio_ipv4 import open_udp
from trio_ipv4._abi.linux import LINUX

HERE: Final = Path(__file__).parent
PAGES: Final = HERE.parents[1] / "docs/coming-from"
GROUP, SOURCE = "239.1.2.3", "127.0.0.1"
PORT: Final = 4999
"""Not one of the pages' own."""
NONE: Final = "—"
"""What stands in the place of a counterpart that there is not."""
BEFORE: Final = {
    "conn.leave_group(": "conn.join_group(interface, group)",
    "conn.leave_source_specific_group(": "conn.join_source_specific_group(interface, group, source)",
    "conn.exclude_source_specific_group(": "conn.join_group(interface, group)",
    "conn.include_source_specific_group(": (
        "conn.join_group(interface, group); conn.exclude_source_specific_group(interface, group, source)"
    ),
}
"""What has to be done first."""


def rows(page: str) -> list[tuple[list[str], list[str]]]:
    """The rows of a page's table: the code in the first cell and in the second."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    _, _, *lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    assert all(len(cells) == 3 for cells in lines), lines
    assert all(cells[1] == NONE or "`" in cells[1] for cells in lines)
    return [(code(theirs), code(ours)) for theirs, ours, _ in lines]


def code(cell: str) -> list[str]:
    """The code in a cell, where a bar has a backslash before it."""
    return [each.replace(r"\|", "|") for each in re.findall(r"`([^`]+)`", cell)]


def names(page: str) -> set[str]:
    """What a page says is called so in the other library."""
    return {name.split("=")[0] for theirs, _ in rows(page) for name in theirs}


# Theirs


@pytest.mark.pure
@pytest.mark.parametrize("library", ["multicast_expert", "socket2"])
def test_each_name_of_the_other_library_has_a_row_and_each_row_a_name(library: str) -> None:
    known = set((HERE / f"{library}_names.txt").read_text(encoding="ascii").split())
    assert names(library.replace("_", "-")) == known


@pytest.mark.pure
def test_go_has_the_names() -> None:
    go = set((HERE / "go_names.txt").read_text(encoding="ascii").split())
    assert names("go") <= go


@pytest.mark.pure
def test_the_socket_module_or_the_kernel_has_the_names() -> None:
    known = {*dir(socket), *dir(socket.socket), *LINUX.options}
    # Constants that Python got later than 3.11.
    known |= {"IP_ADD_SOURCE_MEMBERSHIP", "IP_BLOCK_SOURCE"}
    assert names("socket-module") <= known


@pytest.mark.pure
def test_zeroconf_has_the_names() -> None:
    zeroconf = importlib.import_module("zeroconf")
    for name in names("zeroconf"):
        value: Any = zeroconf
        for part in name.split("."):
            value = getattr(value, part)


# Ours


def cells() -> list[Any]:
    pages = sorted(each.stem for each in PAGES.glob("*.md") if each.stem != "index")
    found = [(page, each) for page in pages for _, ours in rows(page) for each in ours]
    return [pytest.param(each, id=f"{page}: {each}") for page, each in found]


@pytest.fixture
def en0() -> None:
    """An interface besides the loopback, and a route to the groups."""
    ip(*bridge("en0", index=2), "route add 224.0.0.0/4 dev en0")


async def run(code: str, namespace: dict[str, Any]) -> None:
    """Run code in which `await` may stand anywhere; a block that only begins there gets a body."""
    if code.endswith(":"):
        code += " break" if " for " in code else " pass"
    compiled = compile(code, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    value = types.FunctionType(compiled, namespace)()
    if inspect.iscoroutine(value):
        await value


def opened(code: str) -> str:
    """Keep what a cell opens, so that it can be closed."""
    return f"conn = {code}" if code.startswith("open_") else code


@pytest.mark.parametrize("code", cells())
async def test_every_cell_of_ours_runs(code: str, en0: None) -> None:
    lo = trio_ipv4.interface_by_name("lo")
    async with open_udp("0.0.0.0", PORT) as conn, trio.open_nursery() as nursery:
        await conn.send_to(b"for who reads", (SOURCE, PORT))
        namespace: dict[str, Any] = {each: getattr(trio_ipv4, each) for each in trio_ipv4.__all__}
        namespace |= {"trio": trio, "IPv4Address": IPv4Address, "conn": conn, "nursery": nursery, "handler": handler}
        namespace |= {"interface": lo, "name": "lo", "group": GROUP, "source": SOURCE, "payload": b"x"}
        namespace |= {"endpoint": (SOURCE, PORT)}
        for beginning, before in BEFORE.items():
            if code.startswith(beginning):
                await run(before, namespace)
        with trio.fail_after(10):
            await run(opened(code), namespace)
        nursery.cancel_scope.cancel()
        with contextlib.suppress(KeyError):
            namespace["conn"].close()


async def handler(_conn: object, _interface: object) -> None:
    await trio.sleep_forever()
