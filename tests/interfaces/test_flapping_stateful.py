"""Links and addresses that change at random, and in storms, against follow_group and serve_group.

The model is which links exist, up and with multicast; the oracle is /proc/net/igmp, and what arrives.
"""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
import tracemalloc
import warnings
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs
import hypothesis
import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.links import ip
from trio_ipv4 import (
    ControlMessage,
    Datagram,
    Interface,
    NoInterfaceWarning,
    PacketConn,
    follow_group,
    open_udp,
    serve_group,
)
from trio_ipv4.testing import igmp_groups, private_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Eventually

FOLLOWED: Final = IPv4Address("239.9.0.1")
SERVED: Final = IPv4Address("239.9.0.2")
PORT: Final = 5009
SECONDS: Final = 10
SERIAL: Final = itertools.count()


def wait(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.001)


def held() -> dict[tuple[int, IPv4Address], int]:
    return {key: users for key, users in igmp_groups().items() if key[1] in (FOLLOWED, SERVED)}


def expected(indexes: set[int]) -> dict[tuple[int, IPv4Address], int]:
    return {(index, group): 1 for index in indexes for group in (FOLLOWED, SERVED)}


class Program:
    """follow_group and serve_group in an event loop of its own, in a thread that is in the namespace of its maker."""

    def __init__(self) -> None:
        self.heard: list[tuple[IPv4Address, int, bytes]] = []
        self.running: dict[int, int] = {}
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(SECONDS)

    def note(self, datagram: Datagram) -> None:
        assert datagram.control.dst is not None
        assert datagram.control.ifindex is not None
        self.heard.append((datagram.control.dst, datagram.control.ifindex, datagram.payload))

    def stop(self) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # It is raised where the test sees it.
            self.error = error

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with open_udp("0.0.0.0", PORT, share_port=True) as conn, trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoInterfaceWarning)
                await nursery.start(follow_group, conn, FOLLOWED)
                await nursery.start(serve_group, self._serve, SERVED, PORT)
            self._started.set()
            async for datagram in conn:
                self.note(datagram)

    async def _serve(self, conn: PacketConn, interface: Interface) -> None:
        self.running[interface.index] = self.running.get(interface.index, 0) + 1
        assert self.running[interface.index] == 1, "the last one has not ended"
        try:
            async for datagram in conn:
                assert datagram.control.ifindex == interface.index
                self.note(datagram)
        finally:
            self.running[interface.index] -= 1


@attrs.define
class Link:
    """What the model knows of a link."""

    index: int
    is_up: bool = False
    is_multicast: bool = True
    has_address: bool = False


class Flapping(RuleBasedStateMachine):
    """Links are bridges without ports: each is alone, and multicast that leaves on it comes back to its members."""

    @initialize()
    def start(self) -> None:
        self.links: dict[str, Link] = {}
        self.sent: list[tuple[IPv4Address, int, bytes]] = []
        self.network = private_network()
        self.network.__enter__()
        self.program = Program()

    def teardown(self) -> None:
        if not hasattr(self, "program"):
            return
        try:
            self.program.stop()
            assert held() == {}
            assert sorted(self.program.heard) == sorted(self.sent)
        finally:
            self.network.__exit__(None, None, None)

    @rule(name=st.sampled_from(["wa", "wb", "wc"]), index=st.integers(10, 13))
    def add(self, name: str, index: int) -> None:
        if name not in self.links and all(link.index != index for link in self.links.values()):
            ip(f"link add {name} index {index} type bridge mcast_snooping 0")
            self.links[name] = Link(index)

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.links)))
        ip(f"link delete {name}")
        del self.links[name]

    @precondition(lambda self: self.links)
    @rule(data=st.data(), up=st.booleans())
    def set_up(self, data: st.DataObject, up: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.links)))
        ip(f"link set {name} {'up' if up else 'down'}")
        self.links[name].is_up = up

    @precondition(lambda self: self.links)
    @rule(data=st.data(), on=st.booleans())
    def set_multicast(self, data: st.DataObject, on: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.links)))
        ip(f"link set {name} multicast {'on' if on else 'off'}")
        self.links[name].is_multicast = on

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def change_address(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.links)))
        link = self.links[name]
        ip(f"address {'delete' if link.has_address else 'add'} 198.18.{link.index}.1/24 dev {name}")
        link.has_address = not link.has_address

    @precondition(lambda self: self.links)
    @rule(data=st.data(), mtu=st.sampled_from([68, 1500]))
    def set_mtu(self, data: st.DataObject, mtu: int) -> None:
        ip(f"link set {data.draw(st.sampled_from(sorted(self.links)))} mtu {mtu}")

    @precondition(lambda self: self.links)
    @rule(data=st.data(), new=st.sampled_from(["wa", "wb", "wc", "wd"]))
    def rename(self, data: st.DataObject, new: str) -> None:
        old = data.draw(st.sampled_from(sorted(self.links)))
        if new not in self.links:
            ip(f"link set {old} name {new}")
            self.links[new] = self.links.pop(old)

    @precondition(lambda self: any(link.is_up for link in self.links.values()))
    @rule(data=st.data(), times=st.integers(1, 25))
    def make_anew(self, data: st.DataObject, times: int) -> None:
        """Up before and after: only the messages between tell."""
        name = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if link.is_up)))
        index = self.links[name].index
        again = [
            f"link delete {name}",
            f"link add {name} index {index} type bridge mcast_snooping 0",
            f"link set {name} up",
        ]
        ip(*(again * times))
        self.links[name] = Link(index, is_up=True)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "program"):
            return
        indexes = {link.index for link in self.links.values() if link.is_up and link.is_multicast}
        wait(lambda: held() == expected(indexes), lambda: f"{held()}, not {indexes}")
        wait(lambda: {i for i, n in self.program.running.items() if n} == indexes, lambda: self.program.running)
        trio.run(self._probe, indexes)
        wait(lambda: len(self.program.heard) >= len(self.sent), lambda: (self.program.heard[-9:], self.sent[-9:]))
        assert sorted(self.program.heard) == sorted(self.sent)

    async def _probe(self, indexes: set[int]) -> None:
        async with open_udp() as sender:
            for group, index in itertools.product((FOLLOWED, SERVED), indexes):
                payload = b"%d" % next(SERIAL)
                self.sent.append((group, index, payload))
                await sender.send_to(payload, (str(group), PORT), control=ControlMessage(ifindex=index))


def test_whatever_happens_memberships_and_handlers_are_right() -> None:
    run_state_machine_as_test(
        Flapping,
        settings=hypothesis.settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


async def test_a_storm_of_ten_thousand_changes(eventually: Eventually) -> None:
    """Nothing is forgotten, nothing is left behind, and nothing piles up."""
    chance = random.Random(6)
    names = [f"n{index}" for index in range(10, 14)]
    ip(*(f"link add {name} index {name[1:]} type bridge mcast_snooping 0" for name in names))
    ip(*(f"link set {name} up" for name in names))
    running: set[int] = set()

    async def handler(conn: PacketConn, interface: Interface) -> None:
        running.add(interface.index)
        try:
            await trio.sleep_forever()
        finally:
            running.discard(interface.index)

    async def storm(changes: int) -> None:
        on = dict.fromkeys(names, True)
        lines = []
        for _ in range(changes):
            name = chance.choice(names)
            on[name] = not on[name]
            lines.append(f"link set {name} multicast {'on' if on[name] else 'off'}")
        for start in range(0, changes, 500):
            # In a thread, so that what is changed is followed at the same time, as fast as it can be.
            await trio.to_thread.run_sync(ip, *lines[start : start + 500])
        indexes = {int(name[1:]) for name in names if on[name]}
        await eventually(lambda: held() == expected(indexes) and running == indexes, seconds=SECONDS)
        ip(*(f"link set {name} multicast on" for name in names))
        await eventually(lambda: len(held()) == 2 * len(names) == 2 * len(running), seconds=SECONDS)

    async def weather(changes: int) -> int:
        await storm(changes)
        gc.collect()
        others = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, __file__)])
        return sum(trace.size for trace in others.traces)

    async with open_udp() as conn, trio.open_nursery() as nursery:
        await nursery.start(follow_group, conn, FOLLOWED)
        await nursery.start(serve_group, handler, SERVED, PORT)
        tracemalloc.start()
        try:
            memory = [await weather(changes) for changes in (1000, 10_000)]
        finally:
            tracemalloc.stop()
        assert memory[1] - memory[0] < 100_000  # octets: ten for each change, where a value has a hundred at least
        nursery.cancel_scope.cancel()
    assert held() == {}
