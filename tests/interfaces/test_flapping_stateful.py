"""Links and addresses that change at random, and in storms, against follow_group and serve_group.

The model is which links exist, up, with multicast, and no ports; the oracle is /proc/net/igmp, and what arrives.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import socket
import threading
import time
import warnings
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import hypothesis
import pytest
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
from trio_ipv4.testing._namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Eventually

FOLLOWED: Final = IPv4Address("239.9.0.1")
"""By two connections."""
SERVED: Final = IPv4Address("239.9.0.2")
PORT: Final = 5009
SECONDS: Final = 10
SERIAL: Final = itertools.count()
NETWORKS: Final = itertools.cycle(range(250))
"""A new one for each address: of two in one network, the second would go with the first."""


def wait(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.001)


def held() -> dict[tuple[int, IPv4Address], int]:
    return {key: users for key, users in igmp_groups().items() if key[1] in (FOLLOWED, SERVED)}


def expected(indexes: set[int], followers: int = 1) -> dict[tuple[int, IPv4Address], int]:
    numbers = {FOLLOWED: followers, SERVED: 1}
    return {(index, group): number for index in indexes for group, number in numbers.items()}


class Program:
    """An event loop of its own, in a thread that is in the namespace of its maker.

    Two connections follow one group, and handlers serve another one.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, bytes]] = []
        self.running: dict[int, int] = {}
        self.addresses: dict[int, tuple[IPv4Interface, ...]] = {}
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(SECONDS)

    def note(self, who: str, datagram: Datagram) -> None:
        assert datagram.control.ifindex is not None
        self.heard.append((who, datagram.control.ifindex, datagram.payload))

    def stop(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
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
        async with (
            open_udp("0.0.0.0", PORT, share_port=True) as one,
            open_udp("0.0.0.0", PORT, share_port=True) as other,
            trio.open_nursery() as nursery,
        ):
            self._scope = nursery.cancel_scope
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoInterfaceWarning)
                await nursery.start(follow_group, one, FOLLOWED)
                await nursery.start(follow_group, other, FOLLOWED)
                await nursery.start(serve_group, self._serve, SERVED, PORT)
            nursery.start_soon(self._listen, "one", one)
            nursery.start_soon(self._listen, "other", other)
            self._started.set()

    async def _listen(self, who: str, conn: PacketConn) -> None:
        async for datagram in conn:
            self.note(who, datagram)

    async def _serve(self, conn: PacketConn, interface: Interface) -> None:
        self.running[interface.index] = self.running.get(interface.index, 0) + 1
        self.addresses[interface.index] = interface.addresses
        assert self.running[interface.index] == 1, "the last one has not ended"
        try:
            async for datagram in conn:
                assert datagram.control.ifindex == interface.index
                self.note("handler", datagram)
        finally:
            self.running[interface.index] -= 1


@attrs.define
class Link:
    """What the model knows of a link."""

    index: int
    is_bridge: bool = True
    is_up: bool = False
    is_multicast: bool = True
    address: IPv4Interface | None = None
    master: str | None = None

    @property
    def matches(self) -> bool:
        return self.is_up and self.is_multicast and self.master is None


class Flapping(RuleBasedStateMachine):
    """Links are bridges, and cables into another namespace: multicast that leaves on one comes back to its members."""

    @initialize()
    def start(self) -> None:
        self.links: dict[str, Link] = {}
        self.sent: list[tuple[str, int, bytes]] = []
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(private_network())
        self.here = self.stack.enter_context(Path("/proc/thread-self/ns/net").open("rb"))  # noqa: SIM115  # The stack closes it.
        self.elsewhere = self.stack.enter_context(Namespace())
        self.program = Program()

    def teardown(self) -> None:
        if not hasattr(self, "program"):
            return
        try:
            self.program.stop()
            assert held() == {}
            assert sorted(self.program.heard) == sorted(self.sent)
        finally:
            self.stack.close()

    @rule(name=st.sampled_from(["wa", "wb", "wc"]), index=st.integers(10, 13))
    def add(self, name: str, index: int) -> None:
        if name not in self.links and all(link.index != index for link in self.links.values()):
            ip(f"link add {name} index {index} type bridge mcast_snooping 0")
            self.links[name] = Link(index)

    @rule(name=st.sampled_from(["va", "vb"]), index=st.integers(10, 15))
    def add_cable(self, name: str, index: int) -> None:
        if name not in self.links and all(link.index != index for link in self.links.values()):
            ip(f"link add {name} index {index} type veth peer name far{next(SERIAL)} netns {self.elsewhere.path}")
            self.links[name] = Link(index, is_bridge=False)

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.links)))
        ip(f"link delete {name}")
        self.forget(name)

    def forget(self, name: str) -> None:
        del self.links[name]
        for link in self.links.values():
            if link.master == name:
                link.master = None

    @precondition(lambda self: any(not link.is_bridge for link in self.links.values()))
    @rule(data=st.data())
    def hand_to_another_namespace_and_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if not link.is_bridge)))
        ip(f"link set {name} netns {self.elsewhere.path}")
        back = f"/proc/{os.getpid()}/fd/{self.here.fileno()}"
        self.elsewhere.call(ip, f"link set {name} netns {back}")
        is_multicast = self.links[name].is_multicast
        self.links[name] = Link(socket.if_nametoindex(name), is_bridge=False, is_multicast=is_multicast)

    @precondition(lambda self: len({link.is_bridge for link in self.links.values()}) == 2)
    @rule(data=st.data())
    def make_a_port(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if not link.is_bridge)))
        master = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if link.is_bridge)))
        if self.links[port].master != master:
            ip(f"link set {port} master {master}")
            self.links[port].master = master

    @precondition(lambda self: any(link.master for link in self.links.values()))
    @rule(data=st.data())
    def take_a_port_away(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if link.master)))
        ip(f"link set {port} nomaster")
        self.links[port].master = None

    @rule()
    def flood(self) -> None:
        """More messages than a buffer holds."""
        ip(*(f"link set lo mtu {1000 + number % 400}" for number in range(1500)))

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
        if link.address is None:
            link.address = IPv4Interface(f"198.18.{next(NETWORKS)}.1/24")
            ip(f"address add {link.address} dev {name}")
        else:
            ip(f"address delete {link.address} dev {name}")
            link.address = None

    @precondition(lambda self: any(link.address for link in self.links.values()))
    @rule(data=st.data(), new_first=st.booleans())
    def renumber(self, data: st.DataObject, new_first: bool) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, link in self.links.items() if link.address)))
        link = self.links[name]
        old, link.address = link.address, IPv4Interface(f"198.19.{next(NETWORKS)}.1/24")
        steps = [f"address add {link.address} dev {name}", f"address delete {old} dev {name}"]
        ip(*(steps if new_first else reversed(steps)))

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
            for link in self.links.values():
                link.master = new if link.master == old else link.master

    @precondition(lambda self: any(link.is_bridge and link.is_up for link in self.links.values()))
    @rule(data=st.data(), times=st.integers(1, 25))
    def make_anew(self, data: st.DataObject, times: int) -> None:
        """Up before and after: only the messages between tell."""
        up = sorted(name for name, link in self.links.items() if link.is_bridge and link.is_up)
        name = data.draw(st.sampled_from(up))
        index = self.links[name].index
        again = [
            f"link delete {name}",
            f"link add {name} index {index} type bridge mcast_snooping 0",
            f"link set {name} up",
        ]
        ip(*(again * times))
        self.forget(name)
        self.links[name] = Link(index, is_up=True)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "program"):
            return
        matching = {link.index: link for link in self.links.values() if link.matches}
        indexes = set(matching)
        program = self.program
        wait(lambda: held() == expected(indexes, followers=2), lambda: f"{held()}, not {indexes}")
        wait(lambda: {i for i, n in program.running.items() if n} == indexes, lambda: program.running)
        numbers = {index: (link.address,) if link.address else () for index, link in matching.items()}
        wait(lambda: {i: program.addresses[i] for i in indexes} == numbers, lambda: (program.addresses, numbers))
        trio.run(self._probe, indexes)
        wait(lambda: len(program.heard) >= len(self.sent), lambda: (program.heard[-9:], self.sent[-9:]))
        assert sorted(program.heard) == sorted(self.sent)

    async def _probe(self, indexes: set[int]) -> None:
        async with open_udp() as sender:
            for group, index in itertools.product((FOLLOWED, SERVED), indexes):
                payload = b"%d" % next(SERIAL)
                hearers = ["one", "other"] if group == FOLLOWED else ["handler"]
                self.sent += [(hearer, index, payload) for hearer in hearers]
                await sender.send_to(payload, (str(group), PORT), control=ControlMessage(ifindex=index))


def test_whatever_happens_memberships_and_handlers_are_right() -> None:
    run_state_machine_as_test(
        Flapping,
        settings=hypothesis.settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=None,
            # To shrink what fails takes hours: each step waits for the kernel, and chance has a part in it.
            phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


async def test_a_storm_of_ten_thousand_changes(eventually: Eventually) -> None:
    """Nothing is forgotten, nothing is left behind, and nothing piles up."""
    tracemalloc = pytest.importorskip("tracemalloc", reason="PyPy lacks it", exc_type=ImportError)
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
