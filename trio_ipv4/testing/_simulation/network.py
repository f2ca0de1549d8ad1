"""The way in: `simulate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._kernel.system import CURRENT
from trio_ipv4.testing._simulation.capture import Capture
from trio_ipv4.testing._simulation.hosts import SimulatedHost
from trio_ipv4.testing._simulation.links import Conditions, SimulatedLink
from trio_ipv4.testing._simulation.machine import Machine
from trio_ipv4.testing._simulation.order import ordered_by
from trio_ipv4.testing._simulation.outside import Outside
from trio_ipv4.testing._simulation.world import World

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


@contextlib.contextmanager
def simulate(seed: object = 0, *, strict: bool = True) -> Iterator[SimulatedNetwork]:
    """Make a network of hosts that exist only in this process.

    Two programs on two hosts::

        with simulate(seed=7) as net:
            lan = net.link(latency=0.002, loss=0.1)
            for number, name in enumerate(("a", "b"), 1):
                net.host(name).attach(lan, "en0", f"198.18.0.{number}/24")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(net["a"].run, hear.main, "en0")
                nursery.start_soon(net["b"].run, talk.main, "en0")

    The hosts behave as Linux does; the documentation lists what is simulated, and how that is known. What is not raises
    `UnsupportedError`. It needs no privilege, no Linux and no network: nothing leaves the process. Under
    `trio.testing.MockClock(autojump_threshold=0)` time costs nothing: an hour passes in about a second. The same seed
    makes the same world, as long as the program decides nothing by chance itself: random numbers of links and hosts
    come from it, and so does the order in which trio runs the tasks of one instant.

    Args:
        seed: What chance depends on: a number, a string, or anything with a `str` of its own.
        strict: Whether a task on none of the hosts is refused a connection, or a list of interfaces, with a
            `RuntimeError`. Otherwise that task would have real ones.
    """
    world = World(seed)
    network = SimulatedNetwork(world)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ordered_by(seed))
        if strict:
            stack.enter_context(_outside())
        try:
            yield network
        finally:
            world.is_over = True
            for capture in world.captures:
                capture.close()


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    token = CURRENT.set(Outside())
    try:
        yield
    finally:
        # A generator may be ended in another context; that one was never changed.
        with contextlib.suppress(ValueError):
            CURRENT.reset(token)


@final
class SimulatedNetwork(Mapping[str, SimulatedHost]):
    """A simulated network: a mapping from names to hosts. Made by `simulate`."""

    def __init__(self, world: World) -> None:
        self._world: Final = world
        self._hosts: Final[dict[str, SimulatedHost]] = {}
        self._links: Final[list[SimulatedLink]] = []

    def link(
        self,
        *,
        name: str | None = None,
        latency: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        snooping: bool = False,
        querier: bool = True,
        up: bool = True,
    ) -> SimulatedLink:
        """Make a link, to which hosts attach interfaces. By default it is ideal. `SimulatedLink.set` changes it later.

        Each condition is drawn from random numbers of its own in each direction, so that one shifts no other.

        Args:
            name: Its name: "link0", "link1" ... by default.
            latency: How long every packet takes, in seconds.
            jitter: The most that it takes longer, in seconds; evenly distributed. Packets keep their order.
            loss: The probability that a packet gets lost.
            duplicate: The probability that it arrives twice.
            reorder: The probability that it comes late: by the latency and the jitter once more, so that later ones
                overtake it.
            snooping: Whether the link is a switch that forwards a group only to members and routers (RFC 4541). It
                knows them by IGMP, so a group comes from a moment after the join on, some 10 milliseconds.
                224.0.0.0/24 goes everywhere.
            querier: Whether somebody asks for members every 125 seconds. Without, a snooping switch forgets a member
                260 seconds after its last report (RFC 3376 section 8.4).
            up: Whether the link works. While it does not, its interfaces have no carrier.

        Raises:
            ValueError: A value is out of range, or the name is in use.
        """
        conditions = Conditions(
            latency=latency,
            jitter=jitter,
            loss=loss,
            duplicate=duplicate,
            reorder=reorder,
            snooping=snooping,
            querier=querier,
            up=up,
        )
        name = f"link{len(self._links)}" if name is None else name
        if any(each.name == name for each in self._links):
            raise ValueError(f"this network has a link {name!r} already")
        link = SimulatedLink(self._world, name, conditions)
        self._links.append(link)
        return link

    def host(self, name: str, *, privileged: bool = True) -> SimulatedHost:
        """Make a host, with a loopback interface and nothing else.

        Args:
            name: Its name.
            privileged: Whether its programs have root's rights: raw sockets, ports below 1,024, larger buffers.

        Raises:
            ValueError: There is a host of that name.
        """
        return self._add(name, is_router=False, privileged=privileged)

    def router(self, name: str) -> SimulatedHost:
        """Make a host that forwards between its interfaces: unicast by its routes, and every group to all other links.

        What it forwards has a TTL of one less, and of 1 nothing is left: it answers that with an ICMP error. Groups of
        224.0.0.0/24 stay on their link. A source's packets are forwarded from the interface where the group was first
        heard from it. `set_sysctl("net.ipv4.conf.all.rp_filter", 1)` checks sources against the routes.
        Hosts need a route to it: ``host.add_route("0.0.0.0/0", via=...)``. Errors as for `host`.
        """
        return self._add(name, is_router=True, privileged=True)

    @property
    def links(self) -> Sequence[SimulatedLink]:
        """The links, in the order in which they were made."""
        return tuple(self._links)

    def capture(self, path: str | os.PathLike[str]) -> Capture:
        """Write every packet that is put on a link to a file, which tcpdump, tshark and Wireshark read (pcap).

        That goes on until the network ends, or the capture is closed: it is a context manager, and has `close()`. A
        packet is noted when it is sent, also if it gets lost. One that a router forwards is noted once more. What stays
        on a host is not noted.

        Raises:
            OSError: The file can't be written.
        """
        capture = Capture(path, self._world.clock)
        self._world.captures.append(capture)
        return capture

    def __getitem__(self, name: str) -> SimulatedHost:
        return self._hosts[self._world.require_host(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def __repr__(self) -> str:
        return f"<simulated network of {', '.join(self._hosts) or 'no hosts'}>"

    def _add(self, name: str, *, is_router: bool, privileged: bool) -> SimulatedHost:
        if name in self._hosts:
            raise ValueError(f"this network has a host {name!r} already")
        machine = Machine(self._world, name, is_router=is_router, privileged=privileged)
        self._world.machines[name] = machine
        self._hosts[name] = host = SimulatedHost(self._world, machine, self._links)
        return host
