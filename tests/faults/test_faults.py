"""Each scenario, cancelled at every checkpoint, and with every system call refused with the errnos that it can give.

Set TRIO_IPV4_FAULT_FIGURES to a file's name to have the numbers appended to it.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import socket
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from faults.harness import ERRNOS, Refusals, World
from faults.scenarios import SCENARIOS, follows_a_group, sends_everywhere, serves_a_group
from support.here import BOTH
from trio_ipv4 import MembershipWarning, RefusedInterfaceWarning, UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.native import NativeSystem, current_system
from trio_ipv4._kernel.system import CURRENT
from trio_ipv4.testing import cancel_at_each_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scenarios import Scenario

pytestmark = BOTH
by_name = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


MARKS = {
    follows_a_group: ["both joined"],
    serves_a_group: ["en0", "en1"],
    sends_everywhere: ["en0: True", "en1: True"],
}


@by_name
async def test_leaves_nothing_wherever_it_is_cancelled(scenario: Scenario) -> None:
    world = World()
    trio.lowlevel.add_instrument(world)
    try:
        runs = await cancel_at_each_checkpoint(partial(scenario, world), after_each=world.check)
    finally:
        trio.lowlevel.remove_instrument(world)
    assert runs > 2
    assert world.looks > runs
    note(f"cancelled {scenario.__name__} {runs} {world.looks}")


@by_name
@pytest.mark.kernel_only("ways to call the kernel")
@pytest.mark.parametrize("calls", ["ctypes"], indirect=True)
async def test_leaves_nothing_whatever_call_by_ctypes_is_refused(
    scenario: Scenario, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(current_system())
    refusals.stand_before_ctypes(monkeypatch)
    await refuse_all(scenario, refusals)


@by_name
async def test_leaves_nothing_whatever_call_is_refused(scenario: Scenario) -> None:
    await refuse_all(scenario, Refusals(current_system()))


async def refuse_all(scenario: Scenario, refusals: Refusals) -> None:
    """Run a scenario again and again, each time with another refusal."""
    world = World()
    CURRENT.set(refusals)
    with refusals.refusing(None):
        await scenario(world)
    world.check()
    assert refusals.calls
    assert world.marks == MARKS.get(scenario, [])
    count = len(refusals.calls)
    plan = list(refused_calls(refusals.calls))
    trio.lowlevel.add_instrument(world)
    tried = 0
    try:
        for call, refused_with in plan:
            await refuse(scenario, world, refusals, call, refused_with)
            tried += 1
    finally:
        trio.lowlevel.remove_instrument(world)
    note(f"refused {scenario.__name__} {count} {tried} {world.looks}")


@pytest.mark.kernel_only("another system's methods")
@pytest.mark.parametrize("number", [0, 1])
async def test_an_unreadable_cookie_is_not_another_namespace(number: int) -> None:
    refusals = Refusals(NativeSystem())
    with (
        contextlib.closing(refusals.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)) as one,
        contextlib.closing(refusals.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)) as other,
        refusals.refusing(("cookie", number), errno.EPERM),
    ):
        assert namespaces.are_same(one, other)


async def refuse(
    scenario: Scenario, world: World, refusals: Refusals, call: tuple[str, int], refused_with: int
) -> None:
    """Run once. What comes out is an OSError with the errno that went in, if anything does."""
    told: list[BaseException] = []
    world.may_stay = call[0] == "leave"
    what = f"{call[0]}, number {call[1]}, refused with {errno.errorcode[refused_with]}"
    with warnings.catch_warnings(), refusals.refusing(call, refused_with):
        warnings.simplefilter("ignore", MembershipWarning)
        warnings.simplefilter("ignore", RefusedInterfaceWarning)
        try:
            with trio.fail_after(20):
                await scenario(world)
        except BaseException as error:  # All of them are looked at.
            told = list(leaves(error))
    assert all(says(each, refused_with) for each in told), (what, told)
    try:
        world.check()
    except AssertionError as error:
        error.add_note(f"{what}; told: {told}")
        raise


def says(told: BaseException, refused_with: int) -> bool:
    """Tell whether an error is what was refused: with that errno, or that an older kernel lacks the option."""
    if isinstance(told, UnsupportedError):
        older = errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP
        return told.option == "RTNLGRP_IPV4_MCADDR" and refused_with in older
    return isinstance(told, OSError) and told.errno == refused_with


def refused_calls(calls: list[str]) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield what to refuse, with which errno: each call, named by kind and number, with each errno."""
    seen: collections.Counter[str] = collections.Counter()
    for kind in calls:
        for each in ERRNOS[kind]:
            yield (kind, seen[kind]), each
        seen[kind] += 1


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


def note(line: str) -> None:
    if name := os.environ.get("TRIO_IPV4_FAULT_FIGURES"):
        with Path(name).open("a", encoding="ascii") as file:
            file.write(f"{line}\n")
