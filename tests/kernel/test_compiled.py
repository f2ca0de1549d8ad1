"""`_mmsg`, the compiled part, by itself: what it refuses, and that it holds on to nothing. Whether it does what Python
does, the tests of connections show, which run with both."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.systems import extension
from trio_ipv4 import ControlMessage, Datagram
from trio_ipv4._abi.this import this_platform
from trio_ipv4._conn.packet import _KIND
from trio_ipv4._kernel.calls import CONTROL_SIZE, Recipe
from trio_ipv4._kernel.calls.mmsg import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4._kernel.calls.compiled import Extension

PEER, CONTROL = ("127.0.0.1", 5000), ControlMessage(ttl=7)
MANY = 1000
LIMIT = 8


class Same:
    """A table that has the same for every key, and notes the keys that are asked for."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.asked: list[object] = []

    def __getitem__(self, key: object) -> object:
        self.asked.append(key)
        return self.value


class Refusing:
    def __getitem__(self, key: object) -> object:
        raise ArithmeticError(key)


def nothing(control: ControlMessage) -> bytes:
    return b""


def impossible(control: ControlMessage) -> bytes:
    raise ArithmeticError(control)


def recipe(peers: Any = None, controls: Any = None, *, with_source: bool = False, sizes: Any = None) -> Recipe:
    return Recipe(_KIND, peers or Same(PEER), controls or Same(CONTROL), with_source, sizes)


@pytest.fixture
def compiled() -> Extension:
    return extension()


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO (linux/in.h)
        yield made


def fill(compiled: Extension, slots: Slots, udp: socket.socket) -> int:
    return compiled.receive(udp.fileno(), slots.memory, slots.count, CONTROL_SIZE)


@pytest.fixture
def slots(compiled: Extension, udp: socket.socket) -> Slots:
    """Buffers in which two datagrams of 5 octets are."""
    made = Slots(this_platform(), LIMIT, 100)
    for payload in (b"first", b"other"):
        udp.sendto(payload, udp.getsockname())
    assert fill(compiled, made, udp) == 2
    return made


def references() -> list[int]:
    # From 3.12 on nobody counts those of `None` and `False` (PEP 683).
    counted = (None, False) if sys.version_info < (3, 12) else ()
    return [sys.getrefcount(each) for each in (Datagram, PEER, CONTROL, *_KIND.slots, *counted)]


def grown(before: list[int]) -> list[int]:
    """By how much; a few come and go with whoever else holds them."""
    return [now - then for then, now in zip(before, references(), strict=True) if not -MANY < now - then < MANY]


def test_values_are_as_python_makes_them(compiled: Extension, slots: Slots) -> None:
    made = compiled.values(slots.memory, 2, recipe())
    assert made == [Datagram(payload, PEER, control=CONTROL) for payload in (b"first", b"other")]
    assert [each.truncated for each in made] == [False, False]


def test_the_keys_are_the_octets_that_the_kernel_wrote(compiled: Extension, slots: Slots) -> None:
    peers, controls = Same(PEER), Same(CONTROL)
    compiled.values(slots.memory, 2, recipe(peers, controls, with_source=True))
    columns = slots.columns(2)
    assert isinstance(columns.names, bytes)
    assert isinstance(columns.controls, bytes)
    # Once for both datagrams, whose facts are equal.
    assert (peers.asked, controls.asked) == ([columns.names], [columns.controls + columns.names[4:8]])
    assert columns.controls


@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 6, 2**62, -1])
def test_segments_are_cut_by_their_size(compiled: Extension, slots: Slots, size: int) -> None:
    made = compiled.values(slots.memory, 2, recipe(sizes=Same(size)))
    assert made is not None
    step = size if 0 < size < 5 else 5
    expected = [whole[at : at + step] for whole in (b"first", b"other") for at in range(0, 5, step)]
    assert [each.payload for each in made] == expected


def test_an_empty_datagram_is_one_value(compiled: Extension, udp: socket.socket) -> None:
    made = Slots(this_platform(), 1, 100)
    udp.sendto(b"", udp.getsockname())
    assert fill(compiled, made, udp) == 1
    for sizes in (None, Same(0), Same(7)):
        assert compiled.values(made.memory, 1, recipe(sizes=sizes)) == [Datagram(b"", PEER, control=CONTROL)]


@pytest.mark.parametrize("bad", [{"peers": Refusing()}, {"controls": Refusing()}, {"sizes": Refusing()}])
def test_what_a_table_raises_comes_out(compiled: Extension, slots: Slots, bad: dict[str, Any]) -> None:
    made = recipe(**bad)
    before = references()
    for _ in range(2 * MANY):
        with pytest.raises(ArithmeticError):
            compiled.values(slots.memory, 2, made)
    assert not grown(before)


def test_columns_are_those_of_each_value(compiled: Extension) -> None:
    peers = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    requests = [ControlMessage(ttl=1), ControlMessage(ttl=2), ControlMessage()]
    values = tuple(
        Datagram(bytes([i]), peers[i % 2], control=requests[i // 2 % 3]) for i in (0, 0, 1, 2, 3, 3, 4, 5, 6, 0)
    )
    names = {peer: repr(peer).encode() for peer in peers}
    assert compiled.columns(values, _KIND, names, ControlMessage.marshal) == (
        [each.payload for each in values],
        [names[each.peer] for each in values],
        [each.control.marshal() for each in values],
    )
    assert compiled.columns((), _KIND, names, ControlMessage.marshal) == ([], [], [])


def test_no_reference_is_kept_or_lost(compiled: Extension, slots: Slots, udp: socket.socket) -> None:
    name = sockaddr_in(udp)
    values = tuple(Datagram(b"x", PEER, control=CONTROL) for _ in range(3))
    before = references()
    for _ in range(2 * MANY):
        compiled.values(slots.memory, 2, recipe(sizes=Same(2)))
        columns = compiled.columns(values, _KIND, Same(name), nothing)
        assert columns is not None
        assert compiled.columns((*values, 1), _KIND, Same(name), nothing) is None
        assert compiled.send(udp.fileno(), *columns) == 3
        assert compiled.receive(udp.fileno(), slots.memory, LIMIT, 256) == 3
        assert compiled.receive(udp.fileno(), slots.memory, LIMIT, 256) == 0
    assert not grown(before)


def test_memory_that_is_too_small_is_refused(compiled: Extension, udp: socket.socket) -> None:
    with mmap.mmap(-1, 100) as small:
        for limit in (2, 0, -1):
            with pytest.raises(ValueError, match="no room for as many"):
                compiled.receive(udp.fileno(), small, limit, 256)
        for count in (2, -1):
            with pytest.raises(ValueError, match="does not hold as many"):
                compiled.values(small, count, recipe())


@pytest.mark.parametrize(
    "kind",
    [
        (1, _KIND.slots),
        (Datagram, ()),
        (Datagram, _KIND.slots[:3]),
        (Datagram, (*_KIND.slots[:3], property())),
        (Datagram, list(_KIND.slots)),
    ],
)
def test_what_is_no_class_with_four_slots_is_refused(compiled: Extension, slots: Slots, kind: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="expected"):
        compiled.values(slots.memory, 2, Recipe(kind, Same(PEER), Same(CONTROL), False, None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected"):
        compiled.columns((), kind, Same(b""), nothing)  # type: ignore[arg-type]


class Lazy:
    """A sequence that makes its elements when asked, and keeps none."""

    def __init__(self, *elements: Any) -> None:
        self._elements = elements

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, at: int) -> Any:
        element = self._elements[at]
        return bytes(bytearray(element)) if isinstance(element, bytes) else element


@pytest.mark.parametrize("make", [list, lambda elements: Lazy(*elements), iter])
def test_only_tuples_keep_what_is_in_them_alive(
    compiled: Extension, slots: Slots, make: Callable[[tuple[Any, ...]], Any]
) -> None:
    values: Any = (Datagram(b"x", PEER, control=CONTROL),)
    kinds: list[Any] = [make(_KIND), (Datagram, make(_KIND.slots))]
    with pytest.raises(TypeError):
        compiled.columns(make(values), _KIND, Same(b""), nothing)
    with pytest.raises(TypeError):
        compiled.values(slots.memory, 2, make(recipe()))
    for kind in kinds:
        with pytest.raises(TypeError):
            compiled.columns(values, kind, Same(b""), nothing)
        with pytest.raises(TypeError):
            compiled.values(slots.memory, 2, Recipe(kind, Same(PEER), Same(CONTROL), False, None))
    # As tuples they will do.
    assert compiled.columns(values, _KIND, Same(b"name"), nothing) == ([b"x"], [b"name"], [b""])
    assert len(compiled.values(slots.memory, 2, recipe()) or ()) == 2


@pytest.mark.parametrize("lazy", range(3))
def test_what_makes_its_octets_when_asked_is_not_sent(compiled: Extension, udp: socket.socket, lazy: int) -> None:
    columns: list[Any] = [[b"first", b"other"], [sockaddr_in(udp)] * 2, [b"", b""]]
    for make in (list, tuple):
        assert compiled.send(udp.fileno(), *map(make, columns)) == 2
        assert [udp.recv(100), udp.recv(100)] == [b"first", b"other"]
    columns[lazy] = Lazy(*columns[lazy])
    with pytest.raises(TypeError, match="expected a list or a tuple of bytes"):
        compiled.send(udp.fileno(), *columns)
    udp.setblocking(False)
    with pytest.raises(BlockingIOError):
        udp.recv(1)


def sockaddr_in(udp: socket.socket) -> bytes:
    address, port = udp.getsockname()
    return socket.AF_INET.to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + socket.inet_aton(address) + bytes(8)


def test_columns_of_unequal_lengths_are_refused(compiled: Extension, udp: socket.socket) -> None:
    with pytest.raises(IndexError):
        compiled.send(udp.fileno(), [b"x", b"y"], [b""], [b"", b""])
    with pytest.raises(TypeError):
        compiled.send(udp.fileno(), ["text"], [b""], [b""])  # type: ignore[list-item]


def test_what_a_request_raises_comes_out(compiled: Extension) -> None:
    values = (Datagram(b"x", PEER),)
    with pytest.raises(ArithmeticError):
        compiled.columns(values, _KIND, Same(b""), impossible)
    with pytest.raises(ArithmeticError):
        compiled.columns(values, _KIND, Refusing(), nothing)


def test_a_refusal_has_the_kernels_errno(compiled: Extension, slots: Slots) -> None:
    with open("/dev/null", "rb") as file:  # noqa: PTH123
        with pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)):
            compiled.receive(file.fileno(), slots.memory, LIMIT, 256)
        with pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)):
            compiled.send(file.fileno(), [b""], [b""], [b""])
