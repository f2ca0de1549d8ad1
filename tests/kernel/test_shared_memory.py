"""Buffers that the kernel reads and writes belong to one process and one call.

Not to a child as well, after a fork, and not to a thread that looks around in the middle; and an interrupt in the
middle of preparing them leaves nothing that the next call takes for its own.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import trio_ipv4
from support.systems import extension, on
from trio_ipv4 import ControlMessage, Datagram, open_udp
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel.calls import mmsg
from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
from trio_ipv4._kernel.native import NativeSystem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IP_TOS, IP_TTL, IP_RECVTTL, IP_RECVTOS = 1, 2, 12, 13  # linux/in.h
PORT = 5000


@pytest.fixture(params=["compiled", "ctypes"])
def through(request: pytest.FixtureRequest) -> str:
    """Say how a script is to call the kernel."""
    if request.param == "compiled":
        extension()
    return str(request.param)


def script(body: str, through: str | None = None) -> list[str]:
    """Return the command that runs a script in a process of its own: by the way that is installed, or by another."""
    path = [str(Path(trio_ipv4.__file__).parents[1]), *filter(None, sys.path)]
    code = f"""
import sys
sys.path[:] = {path!r}
import json, mmap, os, trio
from trio_ipv4 import *
from trio_ipv4._kernel.calls import mmsg
from support import systems
if {through!r}:
    systems.use({through!r})
{textwrap.dedent(body)}
"""
    return [sys.executable, "-W", "error", "-c", code]


# After a fork


@pytest.mark.parametrize(
    ("memory", "seen"),
    [
        ("mmsg.private_memory(5000)", [0, 0]),
        # Python's default, so that this test is known to notice.
        ("mmap.mmap(-1, 5000)", [7, 7]),
    ],
    ids=["of batches", "of Python's default"],
)
def test_what_a_child_writes_into_a_buffer_its_parent_does_not_see(memory: str, seen: list[int]) -> None:
    body = f"""
    memory = {memory}
    child = os.fork()
    if child == 0:
        memory[0] = memory[4999] = 7
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(json.dumps([memory[0], memory[4999]]))
    """
    done = subprocess.run(script(body), capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == seen


ROUNDS, BATCH, UNIT, SENT_SIZE = 3000, 16, 8, 200
PARENT_AND_CHILD = f"""
def open():
    return open_udp("127.0.0.1", {PORT})

async def warm_up(conn):
    here = ("127.0.0.1", {PORT})
    for _ in range(3):
        await conn.send_batch([Datagram(b"warm-up!", here)] * {BATCH})
        left = {BATCH}
        while left:
            left -= len(await conn.receive_batch({BATCH}, max_bytes=2048))

async def work(conn, marker, peer):
    sending = [Datagram(marker * {SENT_SIZE}, ("127.0.0.1", peer))] * {BATCH}
    numbers, torn = [], []
    with trio.fail_after(50):
        for _ in range({ROUNDS}):
            await conn.send_batch(sending)
            for datagram in await conn.receive_batch({BATCH}, max_bytes=2048):
                payload, first = datagram.payload, datagram.payload[:{UNIT}]
                if not first or payload != first * (len(payload) // {UNIT}):
                    torn.append(repr(payload[:40]))
                numbers.append(int.from_bytes(first, "big"))
    return numbers, torn[:5]

conn = open()
trio.run(warm_up, conn)
reading, writing = os.pipe()
print("ready", flush=True)
child = os.fork()
marker, peer = (b"C", PEERS[1]) if child == 0 else (b"P", PEERS[0])
numbers, torn = trio.run(work, conn, marker, peer)
if child == 0:
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        json.dump([numbers, torn], pipe)
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as pipe:
    of_child = json.load(pipe)
assert os.waitpid(child, 0)[1] == 0
print(json.dumps([[numbers, torn], of_child]))
"""


def test_parent_and_child_mix_no_payloads(through: str) -> None:
    """They have one socket, and each has its own turn with the datagrams that arrive there.

    This process floods the socket with numbers, each of which only one of them may have, and hears what they send.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood, peer() as of_parent, peer() as of_child:
        ports = [each.getsockname()[1] for each in (of_parent, of_child)]
        command = script(f"PEERS = {ports!r}\n{PARENT_AND_CHILD}", through)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                assert process.stdout.readline() == "ready\n", process.stderr.read()
                heard: tuple[set[bytes], set[bytes]] = set(), set()
                numbers = itertools.count()
                deadline = time.monotonic() + 55
                # What they print at the end is longer than a pipe holds: it is read when it comes.
                while not is_readable(process.stdout.fileno()):
                    assert time.monotonic() < deadline
                    for number in itertools.islice(numbers, BATCH):
                        # Of different lengths, so that not every batch is like the last one.
                        flood.sendto(number.to_bytes(UNIT, "big") * (1 + number % 200), ("127.0.0.1", PORT))
                    for payloads, each in zip(heard, (of_parent, of_child), strict=True):
                        payloads.update(queued(each))
                output, errors = process.communicate(timeout=20)
            finally:
                process.kill()
            assert process.returncode == 0, errors
    assert heard == ({b"P" * SENT_SIZE}, {b"C" * SENT_SIZE})
    (numbers_of_parent, torn_of_parent), (numbers_of_child, torn_of_child) = json.loads(output)
    assert torn_of_parent == torn_of_child == []
    assert min(len(numbers_of_parent), len(numbers_of_child)) >= ROUNDS
    both = numbers_of_parent + numbers_of_child
    assert len(both) == len(set(both))
    assert numbers_of_parent == sorted(numbers_of_parent)
    assert numbers_of_child == sorted(numbers_of_child)


def peer() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made


def queued(a_socket: socket.socket, most: int = 1000) -> Iterator[bytes]:
    for _ in range(most):
        try:
            yield a_socket.recv(65535)
        except BlockingIOError:
            return


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# In the middle of a call: the garbage collector's lists


LOOK_AROUND = """
    import gc, threading
    from trio_ipv4._conn.packet import _KIND
    values = tuple(
        Datagram(b"%d" % i, ("127.0.0.1", 1 + i % 3), control=ControlMessage(ttl=1 + i % 7)) for i in range(50)
    )
    gc.disable()
    gc.freeze()  # What is there already is not looked at.
    looks, lists = 0, 0
    def look():
        global looks, lists
        for each in gc.get_objects():
            if type(each) is list:
                lists += 1
                for at in range(len(each)):
                    str(each[at])
        looks += 1
    def look_in_another_thread():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    class Names:
        def __getitem__(self, peer):
            look_in_another_thread()
            return repr(peer).encode()
    def request(control):
        look_in_another_thread()
        return repr(control).encode()
"""


def test_a_thread_that_looks_at_every_list_finds_none_with_holes() -> None:
    """A hole crashes the interpreter, so that it has a process of its own."""
    extension()
    body = textwrap.dedent(LOOK_AROUND) + textwrap.dedent("""
    columns = systems.extension().columns(values, _KIND, Names(), request)
    print(json.dumps([looks, lists > looks, columns == (
        [each.payload for each in values],
        [repr(each.peer).encode() for each in values],
        [repr(each.control).encode() for each in values],
    )]))
    """)
    done = subprocess.run(script(body), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [100, True, True]


# In the middle of a call: interrupts


class Interrupt(Exception):
    """It stands for KeyboardInterrupt, which would end the test run."""


class InterruptedStruct:
    """A struct whose `pack_into` is interrupted before its n-th call."""

    def __init__(self, whole: struct.Struct, calls: int) -> None:
        self._whole = whole
        self._left = calls
        self.size = whole.size

    def pack_into(self, *arguments: Any) -> None:
        if not self._left:
            raise Interrupt
        self._left -= 1
        self._whole.pack_into(*arguments)


@pytest.fixture
def by_ctypes() -> Iterator[None]:
    with on(NativeSystem(calls=ByCtypes(this_platform()))):
        yield


@pytest.fixture
def hearing() -> Iterator[socket.socket]:
    """A plain socket that is told TTL and TOS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", PORT))
        made.setblocking(False)
        for option in (IP_RECVTTL, IP_RECVTOS):
            made.setsockopt(socket.IPPROTO_IP, option, 1)
        yield made


def on_the_wire(hearing: socket.socket, count: int) -> list[tuple[bytes, int, int]]:
    """Return payload, TTL and TOS of what was sent. Loopback has delivered it when sending returns."""
    heard = []
    for _ in range(count):
        payload, messages, _, _ = hearing.recvmsg(65535, 256)
        facts = {kind: int.from_bytes(data, sys.byteorder) for _, kind, data in messages}
        heard.append((payload, facts[IP_TTL], facts[IP_TOS]))
    with pytest.raises(BlockingIOError):
        hearing.recv(1)
    return heard


CONTROLS = {
    "nothing": [ControlMessage()] * 4,
    "a TTL": [ControlMessage(ttl=7)] * 4,
    "another TTL": [ControlMessage(ttl=9)] * 4,
    "a TOS": [ControlMessage(tos=0x20)] * 4,
    "both": [ControlMessage(ttl=11, tos=0x40)] * 4,
    "each its own": [ControlMessage(ttl=3), ControlMessage(), ControlMessage(tos=8), ControlMessage(ttl=4, tos=16)],
}


def datagrams(controls: Sequence[ControlMessage], word: bytes) -> list[Datagram]:
    return [Datagram(b"%s %d" % (word, i), ("127.0.0.1", PORT), control=each) for i, each in enumerate(controls)]


def expected(sent: Sequence[Datagram]) -> list[tuple[bytes, int, int]]:
    return [(each.payload, each.control.ttl or 64, each.control.tos or 0) for each in sent]


@pytest.mark.usefixtures("by_ctypes")
@pytest.mark.parametrize("interrupted", CONTROLS)
@pytest.mark.parametrize("first", CONTROLS)
async def test_an_interrupted_send_leaves_no_control_message_to_the_next(
    hearing: socket.socket, first: str, interrupted: str
) -> None:
    async with open_udp("127.0.0.1") as conn:
        for after, last in itertools.product(range(4), CONTROLS.values()):
            # What was laid out before, an interrupt in the middle of laying out something else, and then the next.
            before = datagrams(CONTROLS[first], b"before")
            await conn.send_batch(before)
            assert on_the_wire(hearing, 4) == expected(before)
            headers = conn._outbox.sender._way._headers  # type: ignore[attr-defined]
            assert headers is not None
            whole = headers._header
            headers._header = InterruptedStruct(whole, after)
            try:
                await conn.send_batch(datagrams(CONTROLS[interrupted], b"interrupted"))
            except Interrupt:
                sent = 0
            else:
                sent = 4  # There was nothing to lay out anew.
            finally:
                headers._header = whole  # type: ignore[misc]
            on_the_wire(hearing, sent)
            then = datagrams(last, b"then")
            await conn.send_batch(then)
            assert on_the_wire(hearing, 4) == expected(then)


@pytest.mark.usefixtures("by_ctypes")
async def test_a_send_is_interrupted_where_headers_differ() -> None:
    """So that the test above is known to interrupt."""
    async with open_udp("127.0.0.1") as conn, open_udp("127.0.0.1", PORT):
        await conn.send_batch(datagrams(CONTROLS["a TTL"], b"before"))
        headers = conn._outbox.sender._way._headers  # type: ignore[attr-defined]
        assert headers is not None
        headers._header = InterruptedStruct(headers._header, 2)  # type: ignore[assignment,misc]
        with pytest.raises(Interrupt):
            await conn.send_batch(datagrams(CONTROLS["both"], b"interrupted"))


class HalfStruct:
    """What lays out half of many structures in a row, and is interrupted then."""

    def __init__(self, layout: str, count: int) -> None:
        self._half = struct.Struct(layout[0] + layout[1:] * (count // 2))
        self._fields = 2 * (count // 2)

    def pack_into(self, memory: Any, at: int, *fields: int) -> None:
        self._half.pack_into(memory, at, *fields[: self._fields])
        raise Interrupt


@pytest.mark.parametrize("calls", ["compiled", "ctypes"], indirect=True)
@pytest.mark.parametrize("limit", [4, 8])
@pytest.mark.parametrize(("before", "interrupted"), [(100, 70), (70, 100), (128, 65), (65, 128)])
async def test_an_interrupted_receive_leaves_no_bounds_to_the_next(
    calls: str, before: int, interrupted: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = b"x" * 200
    async with open_udp("127.0.0.1", PORT) as conn, open_udp("127.0.0.1") as sending:
        eight = [Datagram(payload, ("127.0.0.1", PORT))] * 8

        async def receive(max_bytes: int) -> None:
            got: list[Datagram] = []
            while len(got) < 8:
                got += await conn.receive_batch(8, max_bytes=max_bytes)
            assert [(each.payload, each.truncated) for each in got] == [(payload[:max_bytes], True)] * 8

        for then in (before, interrupted):
            await sending.send_batch(eight)
            await receive(before)
            await sending.send_batch(eight)
            with monkeypatch.context() as patch:
                patch.setattr(mmsg, "repeated", HalfStruct)
                with pytest.raises(Interrupt):
                    await conn.receive_batch(limit, max_bytes=interrupted)
            await receive(then)


# What a child inherits of a ledger


AFTER_A_FORK = """
import os, subprocess
import trio
from trio_ipv4 import open_udp
from trio_ipv4.testing import igmp_groups

def ip(*lines):
    subprocess.run(["ip", "-batch", "-"], input="\\n".join([*lines, ""]), text=True, check=True)

MADE = ["link add br9 index 99 type bridge mcast_snooping 0", "link set br9 up"]

async def main():
    ip(*MADE)
    async with open_udp("0.0.0.0", 5000) as conn:
        async with conn.joined(99, "239.1.2.3"), conn.joined(99, "239.1.2.3"):
            ip("link del br9", *MADE)
            child = os.fork()
            if child == 0:
                # What the child learns must not be lost to the parent.
                conn.memberships
                os._exit(0)
            os.waitpid(child, 0)
            async with conn.joined(99, "239.1.2.3"):
                print([users for (index, group), users in igmp_groups().items() if str(group) == "239.1.2.3"])

trio.run(main)
"""


def test_a_child_does_not_hide_from_its_parent_that_a_link_was_deleted() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AFTER_A_FORK], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("[1]\n", 0), done.stderr


CLOSED_BY_A_CHILD = """
import os
import trio
import trio.testing
from trio_ipv4 import open_udp
from trio_ipv4.testing import igmp_groups

def users():
    return [users for (index, group), users in igmp_groups().items() if str(group) == "239.1.2.3"]

def wait_for(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def child_closes(conn):
    descriptor = conn.socket.fileno()
    child = os.fork()
    if child == 0:
        conn.close()
        try:
            os.fstat(descriptor)
        except OSError:
            os._exit(0)
        os._exit(1)
    wait_for(child)

async def main():
    async with open_udp("0.0.0.0", 5000) as conn, open_udp() as sending, trio.open_nursery() as nursery:
        sending.multicast_interface = "lo"
        heard, at_all = trio.open_memory_channel(10)

        async def hear():
            async for datagram in conn:
                heard.send_nowait(datagram.payload)

        async with conn.joined("lo", "239.1.2.3") as membership:
            child_closes(conn)
            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked()
            await trio.to_thread.run_sync(child_closes, conn)  # While a task waits.
            child = os.fork()
            if child == 0:
                conn._ledger.release(membership._joined, membership)  # As at the end of its block.
                os._exit(0)
            wait_for(child)
            print(users())
            await sending.send_to(b"still here", ("239.1.2.3", 5000))
            with trio.fail_after(20):
                print(await at_all.receive())
        print(users())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_a_child_that_closes_its_copy_takes_nothing_from_its_parent() -> None:
    script = [sys.executable, "-c", CLOSED_BY_A_CHILD]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("[1]\nb'still here'\n[]\n", 0), done.stderr
