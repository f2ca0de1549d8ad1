"""Ctrl-C and cancellation at every step of join, change and leave, one after the other.

A trace function sends SIGINT before the n-th line or call of the library, for n = 1, 2, 3, ... until the scenario runs
to its end untouched. trio's own handler decides what then happens: at once, or at the next checkpoint where
`enable_ki_protection` holds. After each run the ledger and the kernel agree, no scope has left anything behind, and
the KeyboardInterrupt has come out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import random
import signal
import socket
import struct
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest
import trio

import trio_ipv4
from support.filters import kernel_filter, spell
from trio_ipv4 import Membership, PacketConn, SourceFilter, open_udp
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    Scenario = Callable[[PacketConn], Awaitable[None]]

GROUP = IPv4Address("239.1.2.3")
LO = 1
OTHER = IPv4Address("239.1.2.4")
HERE = LO, GROUP
ANY, NONE = SourceFilter.any(), SourceFilter.none()
INCLUDE, EXCLUDE = SourceFilter.include, SourceFilter.exclude
A, B = "127.0.0.1", "127.0.0.2"
PACKAGE = str(Path(trio_ipv4.__file__).parent)
PURE = tuple(f"{PACKAGE}/{room}" for room in ("_abi", "_values"))
"""What happens in there comes out of the call, and is seen there."""
SIOCSIFMTU = 0x8922  # linux/sockios.h
MOST = 5000
"""More steps than any scenario has."""


def assert_agreement(conn: PacketConn) -> None:
    """The ledger has what the kernel has."""
    assert kernel_filter(conn, HERE) == spell(conn.memberships.get(HERE, NONE))
    assert set(conn.memberships) <= {HERE}


# The scenarios. `body` stands for the caller's code inside a block.


async def body() -> None:
    await trio.lowlevel.checkpoint()


async def one_scope(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP):
        await body()


async def several_scopes(conn: PacketConn) -> None:
    async with conn.joined("lo", GROUP, sources=EXCLUDE(A)):
        async with conn.joined(LO, GROUP, sources=INCLUDE(A, B)) as inner:
            await body()
            inner.block(A)
            inner.set_sources(NONE)
            inner.allow(B)
        await body()


async def scope_that_hears_nobody(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=NONE) as membership:
        membership.set_sources(EXCLUDE(A))
        await body()
        membership.set_sources(NONE)
        membership.allow(A)
        membership.set_sources(ANY)


async def scope_by_route(conn: PacketConn) -> None:
    async with conn.joined(None, GROUP, sources=EXCLUDE(A)):
        await body()


async def dead_scope(conn: PacketConn) -> None:
    async with conn.joined(LO, GROUP, sources=EXCLUDE(A)):
        lose_memberships_of_loopback()
        async with conn.joined(LO, GROUP):
            await body()
            lose_memberships_of_loopback()
            conn.repair_memberships()
            await body()


async def refused_narrowing(conn: PacketConn) -> None:
    Path("/proc/sys/net/ipv4/igmp_max_msf").write_text("1", encoding="ascii")
    wide = conn.joined(LO, GROUP)
    async with conn.joined(LO, GROUP, sources=NONE) as first, conn.joined(LO, GROUP, sources=INCLUDE(B)) as second:
        async with wide:
            first.set_sources(INCLUDE(A))
            await body()
        await body()
        second.set_sources(NONE)


SCOPED: Final = [one_scope, several_scopes, scope_that_hears_nobody, scope_by_route, dead_scope]


async def any_source_steps(conn: PacketConn) -> None:
    conn.join_group(LO, GROUP)
    conn.exclude_source_specific_group(LO, GROUP, A)
    conn.include_source_specific_group(LO, GROUP, A)
    conn.leave_group(LO, GROUP)


async def steps_by_route(conn: PacketConn) -> None:
    conn.join_group(None, GROUP)
    conn.exclude_source_specific_group(None, GROUP, A)
    conn.leave_group(None, GROUP)


async def source_specific_steps(conn: PacketConn) -> None:
    conn.join_source_specific_group("lo", GROUP, A)
    conn.join_source_specific_group(LO, GROUP, B)
    conn.leave_source_specific_group(LO, GROUP, A)
    conn.leave_source_specific_group(LO, GROUP, B)


async def whole_filters(conn: PacketConn) -> None:
    conn.set_source_filter(LO, GROUP, EXCLUDE(A))
    conn.set_source_filter(LO, GROUP, INCLUDE(B))
    await body()
    conn.source_filter(LO, GROUP)
    conn.set_source_filter(LO, GROUP, NONE)


EXPLICIT: Final = [any_source_steps, steps_by_route, source_specific_steps, whole_filters]


def lose_memberships_of_loopback() -> None:
    """An MTU under 68 takes IPv4 off an interface (inetdev_event), which makes every membership there a dead one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for mtu in (60, 65536):
            fcntl.ioctl(asking, SIOCSIFMTU, struct.pack("16si20x", b"lo", mtu))
    assert HERE not in igmp_groups()


@pytest.fixture(autouse=True)
def route_and_handler() -> Iterator[None]:
    """A route for groups; and Python's own handler, which trio replaces by its own for each run, also in a worker."""
    add_route_by_loopback()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def add_route_by_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        address = struct.Struct("=HH4s8x")  # struct sockaddr_in
        destination = address.pack(socket.AF_INET, 0, IPv4Address("224.0.0.0").packed)
        mask = address.pack(socket.AF_INET, 0, IPv4Address("240.0.0.0").packed)
        name = ctypes.create_string_buffer(b"lo")
        # struct rtentry, linux/route.h, with RTF_UP; 0x890b is SIOCADDRT.
        head = struct.pack("=Q", 0) + destination + address.pack(socket.AF_INET, 0, bytes(4)) + mask
        entry = head + struct.pack("@HhLPhPLLH", 1, 0, 0, 0, 0, ctypes.addressof(name), 0, 0, 0)
        with contextlib.suppress(FileExistsError):
            fcntl.ioctl(asking, 0x890B, entry.ljust(120, b"\0"))


# Ctrl-C


class Interruption:
    """Sends SIGINT before the n-th step of the library's code, or of `body`, inside its `with` block."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.sent = False

    def __enter__(self) -> Self:
        self.previous = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self.previous)

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        code = frame.f_code
        name = code.co_filename
        if code is not body.__code__ and (not name.startswith(PACKAGE) or name.startswith(PURE)):
            return None
        if event in ("call", "line") and not self.sent:
            self.left -= 1
            if self.left == 0:
                self.sent = True
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return None if self.sent else self.trace


def run_interrupted(scenario: Scenario, n: int, check: Callable[[PacketConn], None]) -> bool:
    """Run a scenario with Ctrl-C at its n-th step; tell whether there was one."""
    interruption = Interruption(n)
    checked = False

    # Protected but for the scenario, so that a Ctrl-C that was held back waits for a checkpoint or the end of the run.
    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        nonlocal checked
        conn = open_udp()
        try:
            with interruption:
                await trio.lowlevel.disable_ki_protection(scenario)(conn)
        finally:
            check(conn)
            conn.close()
            assert HERE not in igmp_groups()
            checked = True

    came_out = False
    try:
        trio.run(main)
    except KeyboardInterrupt:
        came_out = True
    assert checked
    assert came_out == interruption.sent, f"the Ctrl-C at step {n}"
    return interruption.sent


def check_scopes(conn: PacketConn) -> None:
    assert_agreement(conn)
    assert dict(conn.memberships) == {}, "a scope has left something behind"


def check_explicit(conn: PacketConn) -> None:
    assert_agreement(conn)
    held = conn.memberships.get(HERE, NONE)
    assert conn.source_filter(LO, GROUP) == held if held != NONE else kernel_filter(conn, HERE) is None
    if held == ANY:  # The hold is where the kernel is: the next step is a legal one.
        conn.exclude_source_specific_group(LO, GROUP, B)
        assert kernel_filter(conn, HERE) == ("exclude", [B])
    conn.set_source_filter(LO, GROUP, NONE)
    assert kernel_filter(conn, HERE) is None


@pytest.mark.parametrize("scenario", SCOPED)
def test_ctrl_c_at_any_step_of_a_scope_leaves_nothing(scenario: Scenario) -> None:
    n = 1
    while run_interrupted(scenario, n, check_scopes):
        n += 1
        assert n < MOST
    assert n > 50, "it was interrupted at each of its steps"


@pytest.mark.filterwarnings("ignore::trio_ipv4.MembershipWarning")
def test_ctrl_c_at_any_step_of_a_refused_narrowing_leaves_nothing() -> None:
    n = 1
    while run_interrupted(refused_narrowing, n, check_scopes):
        n += 1
        assert n < MOST
    assert n > 50


@pytest.mark.parametrize("scenario", EXPLICIT)
def test_ctrl_c_at_any_step_of_an_explicit_operation_keeps_ledger_and_kernel_together(scenario: Scenario) -> None:
    n = 1
    while run_interrupted(scenario, n, check_explicit):
        n += 1
        assert n < MOST
    assert n > 50


def test_ctrl_c_at_any_step_in_another_task_leaves_nothing() -> None:
    async def in_a_child(conn: PacketConn) -> None:
        with contextlib.suppress(BaseExceptionGroup):  # A Ctrl-C is the main task's, or comes out of the nursery.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(several_scopes, conn)
            return
        raise KeyboardInterrupt

    n = 1
    while run_interrupted(in_a_child, n, check_scopes):
        n += 1
        assert n < MOST
    assert n > 50


TOO_MANY = INCLUDE(A, B)
REFUSED: Final[dict[str, Callable[[PacketConn, Membership], None]]] = {
    "change": lambda _, membership: membership.set_sources(TOO_MANY),
    "join": lambda conn, _: conn.set_source_filter(LO, OTHER, TOO_MANY),
    "leave": lambda conn, _: conn.leave_group(LO, OTHER),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ctrl_c_at_any_step_of_a_refused_operation_changes_nothing(name: str) -> None:
    Path("/proc/sys/net/ipv4/igmp_max_msf").write_text("1", encoding="ascii")

    async def refused(conn: PacketConn) -> None:
        async with conn.joined(LO, GROUP, sources=EXCLUDE(A)) as membership:
            with contextlib.suppress(OSError):
                REFUSED[name](conn, membership)
                pytest.fail("it was not refused")
            assert kernel_filter(conn, HERE) == ("exclude", [A])
            assert (LO, OTHER) not in igmp_groups()

    n = 1
    while run_interrupted(refused, n, check_scopes):
        n += 1
        assert n < MOST
    assert n > 50


def test_ctrl_c_at_any_step_of_closing_closes() -> None:
    n = 1
    while close_interrupted(n):
        n += 1
        assert n < MOST


def close_interrupted(n: int) -> bool:
    interruption = Interruption(n)
    conns: list[PacketConn] = []

    async def use(conn: PacketConn) -> None:
        async with conn:
            await body()

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        conns.append(open_udp())
        conns[0].join_group(LO, GROUP)
        with interruption:
            await trio.lowlevel.disable_ki_protection(use)(conns[0])

    came_out = False
    try:
        trio.run(main)
    except KeyboardInterrupt:
        came_out = True
    assert came_out == interruption.sent
    left_open = conns[0].socket.fileno() >= 0
    if left_open:
        socket.close(conns[0].socket.detach())
    assert not left_open, f"interrupted at step {n}"
    assert HERE not in igmp_groups()
    return interruption.sent


def test_ctrl_c_at_random_moments_leaves_nothing() -> None:
    """Without a trace function: the signal comes whenever the interpreter looks for it."""
    chance = random.Random(3)
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    interrupted = 0
    for _ in range(150):
        sent = threading.Event()
        delay = chance.uniform(0, 0.002)

        def send(delay: float = delay, sent: threading.Event = sent) -> None:
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                pass
            signal.pthread_kill(main_thread, signal.SIGINT)
            sent.set()

        @trio.lowlevel.enable_ki_protection
        async def main(send: Callable[[], None] = send, sent: threading.Event = sent) -> None:
            nonlocal interrupted
            conn = open_udp()
            sender = threading.Thread(target=send)
            sender.start()
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        await trio.lowlevel.disable_ki_protection(several_scopes)(conn)
                interrupted += 1
            finally:
                sender.join()
                check_scopes(conn)
                conn.close()

        trio.run(main)
    assert interrupted == 150


# Cancellation


class Cancellation(trio.abc.Instrument):
    """Cancels a scope when the main task is about to run for the n-th time, so at its n-th checkpoint."""

    def __init__(self, n: int, scope: trio.CancelScope) -> None:
        self.left = n
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is trio.lowlevel.current_root_task() or task.name != "cancelled_task":
            return
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.filterwarnings("ignore::trio_ipv4.MembershipWarning")
@pytest.mark.parametrize("scenario", [*SCOPED, refused_narrowing])
async def test_cancellation_at_any_checkpoint_of_a_scope_leaves_nothing(scenario: Scenario) -> None:
    n, was_cancelled = 0, True
    while was_cancelled:
        n += 1
        scope = trio.CancelScope()
        instrument = Cancellation(n, scope)
        async with open_udp() as conn:
            trio.lowlevel.add_instrument(instrument)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run_in, scope, scenario, conn, name="cancelled_task")
            finally:
                trio.lowlevel.remove_instrument(instrument)
            check_scopes(conn)
        assert HERE not in igmp_groups()
        was_cancelled = scope.cancelled_caught
        assert n < MOST
    assert n > 2


async def run_in(scope: trio.CancelScope, scenario: Scenario, conn: PacketConn) -> None:
    with scope:
        await scenario(conn)


@pytest.mark.parametrize("scenario", SCOPED)
async def test_a_scenario_that_is_cancelled_before_it_begins_joins_nothing(scenario: Scenario) -> None:
    async with open_udp() as conn:
        seen: list[object] = []

        def watch(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
            if event == "call" and frame.f_code.co_filename.endswith("_kernel/groups.py"):
                seen.append(frame.f_code.co_name)
            return None

        with trio.CancelScope() as scope:
            scope.cancel()
            previous = sys.gettrace()
            sys.settrace(watch)
            try:
                await scenario(conn)
            finally:
                sys.settrace(previous)
        assert scope.cancelled_caught
        assert seen == []
        check_scopes(conn)
