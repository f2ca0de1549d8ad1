"""The seam is whole: a system with nothing of the kernel in it runs the examples, and sockets remember their system."""

from __future__ import annotations

import errno
import inspect
import os
import runpy
from pathlib import Path

import pytest
import trio
import trio.testing

from support import fake
from support.systems import on
from trio_ipv4 import PacketConn, interfaces, open_udp
from trio_ipv4._kernel import system as seam
from trio_ipv4._kernel.native import NativeSystem, current_system

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_hear_and_talk_run_on_a_system_that_is_not_the_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    hear, talk = (runpy.run_path(str(EXAMPLES / name))["main"] for name in ("hear.py", "talk.py"))

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(talk)

    with on(system := fake.FakeSystem()):
        trio.run(both, clock=trio.testing.MockClock(autojump_threshold=0))
    assert capsys.readouterr().out.splitlines() == [
        f"('127.0.0.1', 40000) {f'hello {number}'.encode()!r}" for number in range(1, 11)
    ]
    assert not system.sockets


def test_a_system_takes_less_than_150_lines() -> None:
    assert len(inspect.getsource(fake).splitlines()) < 150


def test_the_fake_has_the_seam_and_nothing_of_the_kernel() -> None:
    for protocol, made in ((seam.System, fake.FakeSystem), (seam.Socket, fake.FakeSocket)):
        wanted = {name for name in vars(protocol) if not name.startswith("_")}
        assert wanted <= {*dir(made), "system", "kind", "handle"}
    assert {"socket", "ctypes", "fcntl"}.isdisjoint(vars(fake))


async def test_an_open_connection_keeps_its_system() -> None:
    there = NativeSystem()
    with on(there):
        conn = open_udp()
    async with conn:
        assert conn._socket.system is there
        assert current_system() is not there


async def test_a_bare_trio_socket_belongs_to_the_current_system() -> None:
    with on(here := NativeSystem()):
        conn = PacketConn(trio.socket.socket(type=trio.socket.SOCK_DGRAM))
    async with conn:
        assert conn._socket.system is here


async def test_a_trio_socket_of_another_system_keeps_its_own() -> None:
    with on(system := fake.FakeSystem()):
        conn = open_udp("0.0.0.0", 5000)
    again = PacketConn(conn.socket)  # Outside of it.
    assert again._socket is conn._socket
    again.close()
    assert not system.sockets


async def test_a_closed_socket_of_another_system_wakes_those_who_wait() -> None:
    with on(fake.FakeSystem()):
        conn = open_udp("0.0.0.0", 5000)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await conn.receive()

        await trio.testing.wait_all_tasks_blocked()
        conn.close()


def test_a_facility_that_a_system_lacks_is_an_error() -> None:
    with on(fake.FakeSystem()), pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        interfaces()
