"""recvmmsg and sendmmsg, below the connections: buffers, limits, errors."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel.calls import MSG_TRUNC
from trio_ipv4._kernel.native import NativeSystem, current_system

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.calls import Calls


pytestmark = pytest.mark.usefixtures("calls")


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a_socket:
        a_socket.setblocking(False)
        with contextlib.suppress(PermissionError):
            a_socket.setsockopt(socket.SOL_SOCKET, 33, 8_000_000)  # SO_RCVBUFFORCE: for the machine's root
        a_socket.bind(("127.0.0.1", 5000))
        yield a_socket


def name() -> bytes:
    return structs.sockaddr_in(this_platform(), socket.inet_aton("127.0.0.1"), 5000)


def the_calls() -> Calls:
    system = current_system()
    assert isinstance(system, NativeSystem)
    return system.calls


def send(a_socket: socket.socket, payloads: list[bytes]) -> tuple[int, OSError | None]:
    count = len(payloads)
    return the_calls().sender().send(a_socket.fileno(), payloads, [name()] * count, [b""] * count)


def test_an_empty_queue_is_nothing(udp: socket.socket) -> None:
    assert the_calls().receiver().receive(udp.fileno(), 10, 100) is None


def test_what_is_handed_out_is_not_overwritten_by_the_next_call(udp: socket.socket) -> None:
    receiver = the_calls().receiver()
    kept = []
    for number in range(3):
        assert send(udp, [bytes([number]) * 50] * 3) == (3, None)
        kept.append(receiver.receive(udp.fileno(), 10, 100))
    gc.collect()
    assert [list(each.payloads) for each in kept if each] == [[bytes([number]) * 50] * 3 for number in range(3)]


def test_a_longer_datagram_leaves_nothing_in_the_next(udp: socket.socket) -> None:
    receiver = the_calls().receiver()
    for payloads in ([b"longer"] * 2, [b"x", b""], [b"", b"y"]):
        send(udp, payloads)
        received = receiver.receive(udp.fileno(), 10, 100)
        assert received is not None
        assert list(received.payloads) == payloads
        assert received.flags is None


def test_room_of_another_size_is_obeyed(udp: socket.socket) -> None:
    receiver = the_calls().receiver()
    for room in (100, 3, 65535, 3, 1):
        send(udp, [b"12345"] * 2)
        received = receiver.receive(udp.fileno(), 10, room)
        assert received is not None
        assert list(received.payloads) == [b"12345"[:room]] * 2
        assert [bool(flags & MSG_TRUNC) for flags in received.flags or (0, 0)] == [room < 5] * 2


def test_a_limit_beyond_the_kernels_keeps_its_buffers(udp: socket.socket, calls: str) -> None:
    receiver = the_calls().receiver()
    buffers = set()
    for _ in range(3):
        send(udp, [b"x"])
        received = receiver.receive(udp.fileno(), 5000, 100)
        assert received is not None
        assert list(received.payloads) == [b"x"]
        buffers.update(map(id, getattr(receiver, "_slots", {}).values()))
    assert len(buffers) == (0 if calls == "one by one" else 1)


def test_the_kernels_most_in_one_call_is_1024(udp: socket.socket, calls: str) -> None:
    if udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 8_000_000:
        pytest.skip("net.core.rmem_max is too low, and only the machine's root may pass it")
    sent, refused = send(udp, [b"x"] * 1100)
    assert (sent, refused) == (1100 if calls == "one by one" else 1024, None)
    received = the_calls().receiver().receive(udp.fileno(), 1100, 10)
    assert received is not None
    assert len(received.payloads) == 1024


def test_a_descriptor_that_is_no_socket_is_an_error() -> None:
    with open("/dev/null", "rb") as file:  # noqa: PTH123
        with pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)) as caught:
            the_calls().receiver().receive(file.fileno(), 1, 10)
        assert caught.value.errno == errno.ENOTSOCK


def test_a_default_timeout_of_the_program_is_not_waited_for(udp: socket.socket, calls: str) -> None:
    # In a trio program nothing may block, whatever `socket.setdefaulttimeout` says.
    socket.setdefaulttimeout(0.5)
    try:
        before = time.monotonic()
        assert the_calls().receiver().receive(udp.fileno(), 1, 10) is None
        assert time.monotonic() - before < 0.4
    finally:
        socket.setdefaulttimeout(None)
    assert send(udp, [b"x"]) == (1, None)
    assert the_calls().receiver().receive(udp.fileno(), 1, 10) is not None
