"""`Host.run`: a program, and all that it starts, is on a host of the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import trio_ipv4
from trio_ipv4 import Interface, PacketConn, follow_group, interfaces, open_udp, serve_group, watch_interfaces
from trio_ipv4.testing import Lab, igmp_groups, open_lab

if TYPE_CHECKING:
    from conftest import Eventually

GROUP, PORT = "239.1.2.3", 5000


def names() -> list[str]:
    return [each.name for each in interfaces()]


async def test_a_program_lists_and_opens_on_its_host(lab: Lab) -> None:
    async def program(greeting: str) -> tuple[str, list[str], PacketConn]:
        return greeting, names(), open_udp("0.0.0.0", PORT)

    greeting, found, conn = await lab["a"].run(program, "hello")
    async with conn:
        assert (greeting, found) == ("hello", ["lo", "en0"])
        assert names() == ["lo"]
        # What was opened there stays there, wherever it is used.
        async with conn.joined("en0", GROUP) as membership:
            assert (membership.interface, membership.group) in lab["a"].call(igmp_groups)
            assert (membership.interface, membership.group) not in igmp_groups()


async def test_tasks_and_threads_that_a_program_starts_are_there_too(lab: Lab) -> None:
    found: dict[str, list[str]] = {}

    async def note(key: str) -> None:
        found[key] = names()

    async def program(outer: trio.Nursery) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "inner")
        outer.start_soon(note, "outer")
        found["thread"] = await trio.to_thread.run_sync(names)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "beside")
        nursery.start_soon(lab["a"].run, program, nursery)
    assert found == {"beside": ["lo"], "inner": ["lo", "en0"], "outer": ["lo", "en0"], "thread": ["lo", "en0"]}


async def test_two_hosts_talk(lab: Lab) -> None:
    async def hear(task_status: trio.TaskStatus[None]) -> bytes:
        async with open_udp("0.0.0.0", PORT) as conn, conn.joined("en0", GROUP):
            task_status.started()
            heard.append((await conn.receive()).payload)
            return heard[0]

    async def talk() -> None:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            await conn.send_to(b"hello", (GROUP, PORT))

    heard: list[bytes] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lab["a"].run, hear)
            await lab["b"].run(talk)
    assert heard == [b"hello"]


async def test_watching_and_following_are_about_the_host(lab: Lab, eventually: Eventually) -> None:
    seen: list[str] = []

    async def watch() -> None:
        async with watch_interfaces() as changes:
            async for change in changes:
                seen.append(change.interface.name)  # noqa: PERF401  # It never ends.

    async def follow() -> None:
        async with open_udp("0.0.0.0", PORT) as conn:
            await follow_group(conn, GROUP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab["a"].run, watch)
        nursery.start_soon(lab["b"].run, follow)
        await eventually(lambda: seen == ["lo", "en0"])
        (en0,) = lab["b"].interfaces
        await eventually(lambda: (en0.index, IPv4Address(GROUP)) in lab["b"].call(igmp_groups))
        lab["a"].ip("link", "add", "new0", "type", "veth", "peer", "name", "far0")
        await eventually(lambda: "new0" in seen)
        nursery.cancel_scope.cancel()


async def test_serving_is_about_the_host(lab: Lab) -> None:
    async def handler(conn: PacketConn, interface: Interface) -> None:
        await conn.send((await conn.receive()).reply(interface.name.encode()))

    async def ask() -> bytes:
        async with open_udp() as conn:
            conn.multicast_interface = "en0"
            await conn.send_to(b"who?", (GROUP, PORT))
            return (await conn.receive()).payload

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            served = await nursery.start(lab["a"].run, partial(serve_group, handler, GROUP, PORT))
            assert [each.name for each in served] == ["en0"]
            assert await lab["b"].run(ask) == b"en0"
            nursery.cancel_scope.cancel()


async def test_the_context_is_as_before_however_a_program_ends(lab: Lab) -> None:
    async def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await lab["a"].run(fail)
    with trio.move_on_after(0):
        await lab["a"].run(trio.sleep_forever)
    assert names() == ["lo"]


async def test_a_program_can_go_to_another_host_in_between(lab: Lab) -> None:
    async def inner() -> list[str]:
        return names()

    async def program() -> tuple[list[str], list[str]]:
        return sorted(await lab["b"].run(inner)), names()

    lab["b"].ip("link", "add", "only0", "type", "veth", "peer", "name", "far0")
    assert await lab["a"].run(program) == (["en0", "far0", "lo", "only0"], ["lo", "en0"])


async def test_after_the_lab_a_program_can_open_nothing(needs_lab: None) -> None:
    with open_lab(("a",)) as lab:
        a = lab["a"]

    async def program() -> None:
        open_udp()

    with pytest.raises(trio.ClosedResourceError, match="this lab has ended"):
        await a.run(program)


SERVES_BESIDE_A_LAB = """
import warnings
import trio
from trio_ipv4 import NoInterfaceWarning, serve_group
from trio_ipv4.testing import open_lab

warnings.simplefilter("ignore", NoInterfaceWarning)

async def handler(conn, interface):
    pass

async def serve():
    async with trio.open_nursery() as nursery:
        print(len(await nursery.start(serve_group, handler, "239.1.2.3", 5000)))
        nursery.cancel_scope.cancel()

async def main():
    await serve()
    with open_lab(("a",)) as lab:
        try:
            await serve()
        except* RuntimeError as group:
            print(group.exceptions[0])
        await lab["a"].run(serve)
    await serve()

trio.run(main)
"""


def test_serving_beside_a_lab_refuses_to_touch_the_machines_own_interfaces(needs_lab: None, tmp_path: Path) -> None:
    """A machine of its own: a first process in a network of its own, which is then "the machine's"."""
    script = tmp_path / "serves.py"
    script.write_text(SERVES_BESIDE_A_LAB)
    path = os.pathsep.join([str(Path(trio_ipv4.__file__).parents[1]), *filter(None, sys.path)])
    argv = ["unshare", "--net", "--pid", "--fork", "--mount-proc", sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    before, refusal, inside, after = done.stdout.splitlines()
    assert (before, inside, after) == ("0", "1", "0")
    assert "run it on a host" in refusal
