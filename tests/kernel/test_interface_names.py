"""A name means the same everywhere: the kernel's names, and alternative names of up to 15 octets."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from support.links import ip
from trio_ipv4 import InterfaceFlags, SourceFilter, interface_by_index, interface_by_name, interfaces, open_udp
from trio_ipv4.testing import cancel_at_each_checkpoint, igmp_groups

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "239.1.2.3"


@pytest.fixture(autouse=True)
def en0() -> None:
    ip(
        "link add en0 index 10 type bridge mcast_snooping 0",
        "link set en0 up",
        "link property add dev en0 altname office",
        "link property add dev en0 altname an_altname_of_more_than_15",
    )


async def indexes(name: str) -> list[int | str]:
    """What each way to name an interface makes of a name."""
    found: list[int | str] = []
    async with open_udp() as conn:

        def join() -> int:
            conn.join_group(name, GROUP)
            (key,) = conn.memberships
            conn.leave_group(name, GROUP)
            return key[0]

        def send_there() -> int | None:
            conn.multicast_interface = name
            return conn.multicast_interface

        ways: list[Callable[[], int | None]] = [lambda: interface_by_name(name).index, join, send_there]
        for way in ways:
            try:
                found.append(way() or 0)
            except OSError as error:
                found.append(errno.errorcode[error.errno or 0])
        try:
            async with conn.joined(name, GROUP) as membership:
                found.append(membership.interface)
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
    return found


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("en0", 10),
        ("office", 10),
        ("lo", 1),
        ("an_altname_of_more_than_15", "ENODEV"),
        ("en7", "ENODEV"),
        ("", "ENODEV"),
    ],
)
async def test_a_name_means_the_same_everywhere(name: str, index: int | str) -> None:
    assert await indexes(name) == [index] * 4


async def test_an_interface_has_its_own_name_however_it_was_found() -> None:
    assert interface_by_name("office") == interface_by_name("en0") == interface_by_index(10) == interfaces()[-1]
    assert interface_by_name("office").name == "en0"
    assert InterfaceFlags.UP in interface_by_name("office").flags


@pytest.mark.parametrize("wrong", [None, 5, b"lo"])
def test_what_is_no_name_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="name must be a string"):
        interface_by_name(wrong)  # type: ignore[arg-type]


# Errors that say all


async def test_the_filter_of_a_non_member_says_where_the_socket_is_a_member() -> None:
    async with open_udp() as conn:
        with pytest.raises(OSError, match=rf"read the filter of {GROUP} on en0 \(interface index 10\): .*not a member"):
            conn.source_filter("en0", GROUP)
        conn.join_group("lo", GROUP)
        with pytest.raises(OSError, match=r"on en0 .*not a member there, only on lo \(interface index 1\)") as caught:
            conn.source_filter("office", GROUP)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert conn.source_filter("lo", GROUP) == SourceFilter.any()


async def test_repairing_tells_each_refusal() -> None:
    groups = [f"239.1.2.{number}" for number in range(3)]
    async with open_udp() as conn:
        for group in groups:
            conn.join_group("en0", group)
        ip("link del en0", "link add en0 index 10 type bridge mcast_snooping 0", "link set en0 up")
        Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("0")
        with pytest.raises(OSError, match="3 memberships are not repaired: ") as caught:
            conn.repair_memberships()
        for group in groups:
            assert f"join {group} on en0" in str(caught.value)
        assert caught.value.errno == errno.ENOBUFS
        Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text("20")
        conn.repair_memberships()
        assert {str(group) for index, group in igmp_groups() if index == 10} >= set(groups)


# Whose checkpoints are counted


async def test_only_the_scenarios_own_tasks_are_counted() -> None:
    async def scenario() -> None:
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)

    alone = await cancel_at_each_checkpoint(scenario)
    async with trio.open_nursery() as around:
        steps = 0

        async def busy() -> None:
            nonlocal steps
            while True:
                steps += 1
                await trio.lowlevel.checkpoint()

        around.start_soon(busy)
        beside = await cancel_at_each_checkpoint(scenario)
        assert steps > beside
        around.cancel_scope.cancel()
    assert alone == beside
