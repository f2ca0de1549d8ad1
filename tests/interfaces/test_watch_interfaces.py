"""Interfaces as they are, then as they change."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from support.here import BOTH, machine, subscribers
from support.links import ip
from trio_ipv4 import Interface, InterfaceChange, InterfaceChangeKind, ParseError, watch_interfaces
from trio_ipv4._kernel import netlink as kernel
from trio_ipv4.testing import Lab, private_network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = BOTH

ADDED, CHANGED, REMOVED = InterfaceChangeKind.ADDED, InterfaceChangeKind.CHANGED, InterfaceChangeKind.REMOVED
FORGER = """
import socket, sys
port, messages = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as forger:
    forger.sendto(messages, (port, 0))
"""


def told(change: InterfaceChange) -> tuple[InterfaceChangeKind, str, int, bool, list[str]]:
    interface = change.interface
    return change.kind, interface.name, interface.mtu, interface.is_up, [str(each) for each in interface.addresses]


async def take(changes: AsyncIterator[InterfaceChange], count: int) -> list[InterfaceChange]:
    with trio.fail_after(20):
        return [await anext(changes) for _ in range(count)]


async def rest(changes: AsyncIterator[InterfaceChange]) -> list[InterfaceChange]:
    """Take what there is. A bridge that is made now comes last: when it is told of, everything was."""
    ip("link add last0 type bridge")
    found: list[InterfaceChange] = []
    with trio.fail_after(20):
        while not found or (found[-1].kind, found[-1].interface.name) != (ADDED, "last0"):
            found.append(await anext(changes))
    return found[:-1]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def watcher_ports() -> list[int]:
    """The ports of the netlink sockets here that are subscribed to links and IPv4 addresses (linux/rtnetlink.h)."""
    rows = [line.split() for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]]
    return [int(row[2]) for row in rows if row[1] == "0" and int(row[3], 16) == 0x11]


def shown() -> dict[str, tuple[int, int, tuple[IPv4Interface, ...]]]:
    """What `ip` shows: by name the index, the MTU and the addresses."""
    if (own := machine()) is not None:
        return {
            each.name: (each.index, each.mtu, tuple(address.interface for address in each.addresses))
            for each in own.devices.values()
        }
    return {
        each["ifname"]: (
            each["ifindex"],
            each["mtu"],
            tuple(IPv4Interface(f"{a['local']}/{a['prefixlen']}") for a in each["addr_info"] if a["family"] == "inet"),
        )
        for each in json.loads(run("ip", "-json", "address", "show"))
    }


async def test_what_exists_comes_first() -> None:
    ip("link add br0 index 7 type bridge", "address add 198.18.0.1/24 dev br0", "address add 198.18.0.2/24 dev br0")
    async with watch_interfaces() as changes:
        found = await take(changes, 2)
    assert [change.kind for change in found] == [ADDED, ADDED]
    expected = shown()
    assert {c.interface.name: (c.interface.index, c.interface.mtu, c.interface.addresses) for c in found} == expected


async def test_each_change_comes_once_and_in_order() -> None:
    async with watch_interfaces() as changes:
        await take(changes, 1)
        ip(
            "link add br0 type bridge",
            "address add 198.18.0.1/24 dev br0",
            "link set br0 mtu 1400",
            "link set br0 mtu 1400",
            "address replace 198.18.0.1/24 dev br0",
            "address delete 198.18.0.1/24 dev br0",
            "link set br0 name br1",
            "link delete br1",
        )
        found = [told(change) for change in await rest(changes)]
    assert found == [
        (ADDED, "br0", 1500, False, []),
        (CHANGED, "br0", 1500, False, ["198.18.0.1/24"]),
        (CHANGED, "br0", 1400, False, ["198.18.0.1/24"]),
        (CHANGED, "br0", 1400, False, []),
        (CHANGED, "br1", 1400, False, []),
        (REMOVED, "br1", 1400, False, []),
    ]


async def test_a_link_that_is_made_anew_went_first() -> None:
    ip("link add br0 index 7 type bridge")
    async with watch_interfaces() as changes:
        await take(changes, 2)
        ip("link delete br0", "link add br0 index 7 type bridge")
        found = [(change.kind, change.interface.index) for change in await rest(changes)]
    assert found == [(REMOVED, 7), (ADDED, 7)]


@pytest.mark.kernel_only("namespaces")
async def test_a_link_that_moves_to_another_namespace_is_removed(lab: Lab) -> None:
    ip("link add v0 type veth peer v1")
    async with watch_interfaces() as changes:
        await take(changes, 3)
        ip(f"link set v0 netns {lab['a'].namespace}")
        found = await take(changes, 1)
        while found[-1].kind is not REMOVED:
            found += await take(changes, 1)
    assert found[-1].interface.name == "v0"


@pytest.mark.kernel_only("namespaces")
async def test_it_is_about_the_namespace_in_which_it_was_entered() -> None:
    async with watch_interfaces() as changes:
        await take(changes, 1)
        with private_network():
            ip("link add foreign0 type bridge")
        assert await rest(changes) == []


async def test_cancelling_loses_nothing() -> None:
    async with watch_interfaces() as changes:
        await take(changes, 1)
        for turn in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(changes)
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    await anext(changes)

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                ip(f"link set lo mtu {1000 + turn}")  # Cancelled and readable at the same time.
                nursery.cancel_scope.cancel()
            (change,) = await take(changes, 1)
            assert change.interface.mtu == 1000 + turn


async def test_a_checkpoint_comes_with_each_change() -> None:
    ip("link add br0 type bridge")
    async with watch_interfaces() as changes:
        with trio.testing.assert_checkpoints():
            await anext(changes)
        ip("link set br0 mtu 1400")
        await anext(changes)
        with trio.testing.assert_checkpoints():
            await anext(changes)
        with trio.testing.assert_no_checkpoints():
            await changes.__aexit__(None, None, None)


async def test_several_tasks_share_the_changes() -> None:
    found: list[InterfaceChange] = []

    async def reader() -> None:
        found.append(await anext(changes))

    async with watch_interfaces() as changes:
        await take(changes, 1)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked()
                ip("link add br0 type bridge", "link set br0 mtu 1400", "link delete br0")
    assert [change.kind for change in found] == [ADDED, CHANGED, REMOVED]


async def test_a_reader_that_is_too_slow_is_told_the_difference() -> None:
    ip("link add same0 type bridge", "link add old0 type bridge")
    async with watch_interfaces() as changes:
        await take(changes, 3)
        ip(
            "link delete old0",
            *(f"link set same0 mtu {1000 + number % 400}" for number in range(4000)),
            "link add new0 type bridge",
            "link set same0 mtu 1450",
        )
        found = [(change.kind, change.interface.name, change.interface.mtu) for change in await rest(changes)]
        assert found == [(REMOVED, "old0", 1500), (CHANGED, "same0", 1450), (ADDED, "new0", 1500)]
        ip("link set new0 mtu 1300")  # After that it goes on, change by change.
        (change,) = await take(changes, 1)
        assert (change.kind, change.interface.name, change.interface.mtu) == (CHANGED, "new0", 1300)


async def test_a_dump_that_was_interrupted_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = kernel.read_interfaces, iter(range(5))
    monkeypatch.setattr(
        kernel, "read_interfaces", lambda asking: real(asking) if next(refused, None) is None else iter([None])
    )
    with trio.fail_after(20):
        async with watch_interfaces() as changes:
            assert [change.interface.name for change in await take(changes, 1)] == ["lo"]
    assert next(refused, None) is None


async def test_what_cannot_be_read_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def garbled(_: object) -> None:
        monkeypatch.undo()
        raise ParseError("garbled")

    async with watch_interfaces() as changes:
        await take(changes, 1)
        monkeypatch.setattr(kernel, "receive_messages", garbled)
        ip("link set lo mtu 1400")
        assert [change.interface.mtu for change in await take(changes, 1)] == [1400]


@pytest.mark.kernel_only("another process")
async def test_only_the_kernel_is_believed() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        # What the kernel says of the loopback, but of a link with another index and name.
        asking.send(bytes.fromhex("20000000 12000103 01000000 00000000") + bytes(16))
        forged = asking.recv(65536).replace(b"\x03\x00lo\0", b"\x03\x00xx\0")
        forged = forged[:20] + (99).to_bytes(4, sys.byteorder) + forged[24:]
    assert b"xx\0" in forged
    async with watch_interfaces() as changes:
        await take(changes, 1)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as plain:
            plain.bind((0, 0))
            (watcher,) = watcher_ports()
            for port in (plain.getsockname()[0], watcher):
                run(sys.executable, "-c", FORGER, str(port), forged.hex())
            data, sender = plain.recvfrom(65536)  # It does arrive, and not from port 0.
            assert data == forged
            assert sender[0] != 0
        assert await rest(changes) == []


async def test_leaving_closes_everything() -> None:
    before = descriptors()
    async with watch_interfaces() as changes:
        await take(changes, 1)
        assert subscribers(0x11) == 1
        assert machine() or descriptors() > before
    assert subscribers(0x11) == 0
    assert descriptors() == before
    with pytest.raises(trio.ClosedResourceError):
        await anext(changes)
    with pytest.raises(RuntimeError, match="once"):
        await changes.__aenter__()


async def test_a_reader_wakes_when_the_watch_is_left() -> None:
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        changes = await stack.enter_async_context(watch_interfaces())
        await take(changes, 1)

        async def reader() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await anext(changes)

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()


async def test_a_cancelled_task_opens_nothing_that_stays() -> None:
    before = descriptors()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with watch_interfaces():
            pytest.fail("entered")
    assert scope.cancelled_caught
    assert descriptors() == before


async def test_outside_its_block_there_is_nothing_to_watch() -> None:
    with pytest.raises(RuntimeError, match="inside"):
        await anext(watch_interfaces())


@pytest.mark.pure
def test_an_interface_change_holds_an_interface() -> None:
    interface = Interface(1, "lo", 65536, 1)  # type: ignore[arg-type]
    assert InterfaceChange(ADDED, interface).interface is interface
