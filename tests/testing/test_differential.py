"""The simulated network does what the kernel does: random programs run on both, and each outcome is compared.

What differs is known, and no more: of several UDP sockets that could have a unicast datagram the kernel takes the one
that was bound last, unless another was last read on the processor where the datagram came in (net/ipv4/udp.c,
`compute_score`: `sk_incoming_cpu`); of sockets with SO_REUSEPORT it takes one by a hash. So unicast is not compared
where several sockets fit equally.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from support.programs import HOSTS, INTERFACES, home, lab_world, outcome, simulated_world
from trio_ipv4 import ControlMessage, ICMPFilter, RawInstruction
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._abi.structs import IPPROTO_ICMP, SOCK_DGRAM, SOCK_RAW

if TYPE_CHECKING:
    from support.programs import Heard

pytestmark = pytest.mark.usefixtures("needs_lab")

WANTED = os.environ.get("TRIO_IPV4_PROGRAMS")
PROGRAMS = int(WANTED or 100)
"""How many programs to try. By default the same ones each time, so that CI does not depend on luck; else other ones."""
SLOTS = range(5)
PORTS = 5000, 5001
GROUPS = "239.1.2.3", "239.1.2.4", "232.1.2.3", "224.0.0.77"
OWN = tuple(home(host, interface).partition("/")[0] for host in HOSTS for interface in INTERFACES)
SOURCES = (*OWN, "10.9.9.9", "127.0.0.1")
PLACES = (*INTERFACES, "lo", "0", "99")
PROTOCOL = 253
"""For experiments (RFC 3692)."""
PING = -1
"""Stands for an ICMP socket without privilege."""
DEAD = 7000
REPORTERS = 6000, 6010
"""The first ports of sockets that ask for errors: one port for each slot of a host. So it is no matter of chance which
of several UDP sockets is told."""
HOW = sum(LINUX.number(f"SOF_TIMESTAMPING_{name}") for name in ("SOFTWARE", "OPT_ID", "OPT_TSONLY", "OPT_RX_FILTER"))
STAMPS = {name: LINUX.number(f"SOF_TIMESTAMPING_TX_{name}") | HOW for name in ("SOFTWARE", "SCHED", "HARDWARE")}
SWITCHES = {
    "IP_MULTICAST_TTL": (0, 1, 3, 255, 256, -1),
    "IP_MULTICAST_LOOP": (0, 1),
    "IP_MULTICAST_ALL": (0, 1, 2),
    "IP_TTL": (1, 9, 0, -1),
    "IP_TOS": (0, 40, 300),
    "SO_BROADCAST": (0, 1),
    "IP_PKTINFO": (0, 1),
    "IP_RECVTTL": (0, 1),
    "SO_RXQ_OVFL": (0, 1),
    "IP_HDRINCL": (0, 1),
    "IP_MINTTL": (0, 255, 256),
    "IP_MTU_DISCOVER": (0, 1, 2, 3, 4, 5, 6, -1),
    "IP_RECVERR": (0, 1, 1, 2),
    "IP_RECVERR_RFC4884": (0, 1, 2),
    "SO_REUSEADDR": (0, 1),
    "SO_TIMESTAMPING": (0, 1 << 20, *STAMPS.values(), STAMPS["SOFTWARE"] | STAMPS["SCHED"]),
}
DESTINATIONS = (
    *GROUPS[:1] * 8,
    *GROUPS,
    *OWN,
    *OWN,
    *("224.0.0.1", "127.0.0.1", "127.255.255.255", "198.18.0.255", "198.18.1.255", "198.19.0.255", "255.255.255.255"),
    *("10.9.9.9", "198.18.0.77", "0.0.0.0", "198.19.0.1", "198.18.0.17"),
)

slots = st.sampled_from(SLOTS)
groups = st.sampled_from((*GROUPS[:1] * 4, *GROUPS, "10.1.1.1"))
places = st.sampled_from((*INTERFACES[:1] * 4, *PLACES))
sources = st.sampled_from(SOURCES)


class Programs(RuleBasedStateMachine):
    """Both networks, a step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.simulated = self.stack.enter_context(simulated_world())
        self.real = self.stack.enter_context(lab_world())
        self.raw: dict[int, int] = {}
        self.sharers: dict[int, tuple[object, ...]] = {}
        self.count = 0
        self.reporting: set[int] = set()
        # A program begins with a socket on each host that hears the group, and with one for another protocol.
        for slot, protocol in enumerate((0, 0, PROTOCOL)):
            self.make(slot, HOSTS[slot % 2], PORTS[0], "0.0.0.0", "SO_REUSEADDR", protocol, slot == 0)
            self.both("join", slot, "MCAST_JOIN_GROUP", "en0", GROUPS[0])

    def teardown(self) -> None:
        self.stack.close()

    def both(self, name: str, *arguments: Any) -> Any:
        """Take a step on both networks, and compare."""
        simulated = outcome(getattr(self.simulated, name), *arguments)
        real = outcome(getattr(self.real, name), *arguments)
        assert simulated == real, (name, arguments)
        return real

    def compare_traffic(self) -> None:
        simulated = self.simulated.heard()
        real = self.real.heard(len(simulated))
        assert [each for each in simulated if not self.is_tied(each)] == [
            each for each in real if not self.is_tied(each)
        ]

    def compare_errors(self, looks: str) -> None:
        """Compare who has an error; and which ones, unless they are to wait for the next step."""
        simulated = self.simulated.errored()
        assert simulated == self.real.errored(simulated)
        if looks != "none":
            messages = self.simulated.errors()
            assert messages == self.real.errors(len(messages))

    def is_tied(self, heard: Heard) -> bool:
        """Tell whether another UDP socket could have had a unicast datagram as well."""
        slot, *facts = heard
        if len(facts) == 1:  # A pending error.
            return False
        is_unicast = facts[4] in (*OWN, "127.0.0.1", "198.19.0.1", "198.18.0.17") or facts[4] == "None"
        equals = [other for other, label in self.sharers.items() if label == self.sharers[slot]]
        return is_unicast and not self.raw[slot] and len(equals) > 1

    @rule(
        slot=slots,
        host=st.sampled_from(HOSTS),
        port=st.sampled_from(PORTS),
        address=st.sampled_from((*("0.0.0.0",) * 6, GROUPS[0], OWN[0], OWN[2], "10.9.9.9", "198.18.0.255")),
        shared=st.sampled_from(("SO_REUSEADDR", "SO_REUSEADDR", "SO_REUSEPORT", "SO_BROADCAST")),
        protocol=st.sampled_from((0, 0, 0, 0, 1, PROTOCOL, PING)),
        hears_all=st.booleans(),
    )
    def open(self, slot: int, host: str, port: int, address: str, shared: str, protocol: int, hears_all: bool) -> None:
        self.make(slot, host, port, address, shared, protocol, hears_all)

    def make(self, slot: int, host: str, port: int, address: str, shared: str, protocol: int, hears_all: bool) -> None:
        if slot in self.raw:
            self.both("end", slot)
        self.raw[slot] = protocol
        kind = SOCK_RAW if protocol > 0 else SOCK_DGRAM
        self.both("open", slot, host, kind, IPPROTO_ICMP if protocol == PING else protocol)
        for name in ("IP_PKTINFO", "IP_RECVTTL", "IP_RECVTOS", shared):
            self.both("set_number", slot, name, 1)
        self.both("set_number", slot, "IP_MULTICAST_ALL", int(hears_all))
        bound = self.both("bind", slot, address, port)
        self.sharers[slot] = host, protocol, port, bound if bound == address else "unbound"
        self.reporting.discard(slot)

    @rule(
        slot=slots,
        host=st.sampled_from(HOSTS),
        address=st.sampled_from((*("0.0.0.0",) * 3, OWN[0], OWN[2], "127.0.0.1")),
        protocol=st.sampled_from((0, 0, 0, 1, PROTOCOL, PROTOCOL, PING)),
    )
    def report(self, slot: int, host: str, address: str, protocol: int) -> None:
        """Open a socket that asks for errors."""
        port = REPORTERS[HOSTS.index(host)] + slot
        self.make(slot, host, port, address, "SO_BROADCAST", protocol, False)
        self.both("set_number", slot, "IP_RECVERR", 1)
        self.reporting.add(slot)

    @rule(slot=slots, destination=st.sampled_from(DESTINATIONS), port=st.sampled_from((*PORTS, DEAD)))
    def connect(self, slot: int, destination: str, port: int) -> None:
        """Connect a UDP socket whose port no other one has."""
        if slot in self.reporting and not self.raw[slot]:
            self.both("connect", slot, destination, port)

    def has(self, slot: int) -> bool:
        return slot in self.raw

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        if self.has(slot):
            self.both("end", slot)
            del self.raw[slot], self.sharers[slot]
            self.reporting.discard(slot)

    @rule(
        slot=slots,
        option=st.sampled_from(("MCAST_JOIN_GROUP", "MCAST_JOIN_GROUP", "MCAST_LEAVE_GROUP")),
        interface=places,
        group=groups,
    )
    def join(self, slot: int, option: str, interface: str, group: str) -> None:
        if self.has(slot):
            self.both("join", slot, option, interface, group)

    @rule(
        slot=slots,
        option=st.sampled_from(
            (
                "MCAST_JOIN_SOURCE_GROUP",
                "MCAST_JOIN_SOURCE_GROUP",
                "MCAST_LEAVE_SOURCE_GROUP",
                "MCAST_BLOCK_SOURCE",
                "MCAST_BLOCK_SOURCE",
                "MCAST_UNBLOCK_SOURCE",
            )
        ),
        interface=places,
        group=groups,
        source=sources,
    )
    def source(self, slot: int, option: str, interface: str, group: str, source: str) -> None:
        if self.has(slot):
            self.both("source", slot, option, interface, group, source)

    @rule(
        slot=slots,
        interface=places,
        group=groups,
        mode=st.sampled_from((0, 0, 1, 1, 2)),
        named=st.lists(sources, max_size=4),
    )
    def filter(self, slot: int, interface: str, group: str, mode: int, named: list[str]) -> None:
        if self.has(slot):
            self.both("filter", slot, interface, group, mode, named)

    @rule(slot=slots, interface=places, group=groups)
    def read_filter(self, slot: int, interface: str, group: str) -> None:
        if self.has(slot):
            self.both("read_filter", slot, interface, group)

    @rule(slot=slots, choice=st.sampled_from([(name, value) for name, values in SWITCHES.items() for value in values]))
    def switch(self, slot: int, choice: tuple[str, int]) -> None:
        if not self.has(slot) or (choice[0] == "IP_RECVERR" and not self.raw[slot] and slot not in self.reporting):
            return
        self.both("set_number", slot, *choice)
        self.both("get", slot, choice[0], bytes(4))

    @rule(slot=slots)
    def pending(self, slot: int) -> None:
        if self.has(slot):
            self.both("get", slot, "SO_ERROR", bytes(4))

    @rule(slot=slots, interface=places, address=st.sampled_from(("0.0.0.0", "0.0.0.0", *OWN, "10.9.9.9", "127.0.0.1")))
    def multicast_interface(self, slot: int, interface: str, address: str) -> None:
        if self.has(slot):
            self.both("multicast_interface", slot, interface, address)

    @rule(slot=slots, interface=places)
    def bind_device(self, slot: int, interface: str) -> None:
        if self.has(slot):
            self.both("bind_device", slot, interface)
            self.sharers[slot] = (*self.sharers[slot][:4], *(interface,) * (interface != "0"))

    @rule(slot=slots, mask=st.sampled_from((ICMPFilter.block_all(), ICMPFilter(), ICMPFilter().block(0))))
    def icmp_filter(self, slot: int, mask: ICMPFilter) -> None:
        if self.has(slot):
            self.both("set", slot, "ICMP_FILTER", mask.mask.to_bytes(4, "little"))

    @rule(slot=slots, kept=st.sampled_from((0, 9, 20, 65535)))
    def program(self, slot: int, kept: int) -> None:
        """Keep so much of datagrams to odd ports, and of packets of odd lengths; all of the others, and of ICMP's."""
        if self.has(slot):
            program = [
                RawInstruction(0x28, 0, 0, 0 if self.raw[slot] == PING else 2),  # ldh [2]
                RawInstruction(0x45, 0, 1, 1),  # jset #1
                RawInstruction(0x06, 0, 0, kept),
                RawInstruction(0x06, 0, 0, 65535),
            ]
            self.both("attach", slot, program)

    @rule(
        slot=slots,
        destination=st.sampled_from(DESTINATIONS),
        port=st.sampled_from((*PORTS[:1] * 4, *PORTS, DEAD, DEAD, 0)),
        interface=st.sampled_from(("", "", "", *PLACES[:3], "99")),
        source=st.sampled_from((*(None,) * 5, *SOURCES)),
        ttl=st.sampled_from((None, None, 1, 7)),
        tos=st.sampled_from((None, None, 0, 0x28)),
        length=st.sampled_from((8, 8, 8, 8, 600, 2000, 65507, 65508)),
        looks=st.sampled_from(("both", "both", "errors", "none")),
    )
    def send(
        self,
        slot: int,
        destination: str,
        port: int,
        interface: str,
        source: str | None,
        ttl: int | None,
        tos: int | None,
        length: int,
        looks: str,
    ) -> None:
        if not self.has(slot):
            return
        self.count += 1
        payload = b"%d" % self.count
        if self.raw[slot] in (
            1,
            PING,
        ):  # An ICMP message has to be one: an echo request of a sound length and checksum.
            payload = b"\x08\x00" + (0xFFFF - 0x0800).to_bytes(2, "big") + bytes(4)
        request = ControlMessage(src=source, ttl=ttl, tos=tos)
        self.both("send", slot, payload.ljust(length, b"\0"), (destination, port), interface, request)
        self.compare_errors(looks)
        if looks == "both":
            self.compare_traffic()

    @precondition(lambda self: any(not protocol for protocol in self.raw.values()))
    @rule(
        slot=slots,
        size=st.sampled_from((0, 5000, 20000)),
        lengths=st.lists(st.sampled_from((1, 197, 198, 646, 1472, 1473, 1700, 3000)), min_size=4, max_size=40),
        interface=st.sampled_from(INTERFACES),
    )
    def burst(self, slot: int, size: int, lengths: list[int], interface: str) -> None:
        """Overflow receive buffers."""
        if self.raw.get(slot) != 0:
            return
        for each in self.raw:
            self.both("set_number", each, "SO_RCVBUF", size)
        for length in lengths:
            self.count += 1
            payload = (b"%d" % self.count).ljust(length)
            self.both("send", slot, payload, (GROUPS[0], PORTS[0]), interface, ControlMessage())
        self.compare_traffic()
        for each in self.raw:
            self.both("drops", each)
            self.both("set_number", each, "SO_RCVBUF", 200000)

    @rule(
        host=st.sampled_from(HOSTS),
        interface=st.sampled_from(INTERFACES),
        how=st.sampled_from(
            ("down", "up", "gone", "back", "back", "anew", "small", "large", "renumber", "more", "less")
        ),
        index=st.sampled_from((50, 51)),
    )
    def flap(self, host: str, interface: str, how: str, index: int) -> None:
        self.both("flap", host, interface, how, index + 2 * INTERFACES.index(interface))
        self.both("groups")


def test_random_programs_have_the_same_outcomes_on_the_simulated_network_as_in_the_kernel() -> None:
    run_state_machine_as_test(
        Programs,
        settings=settings(
            max_examples=PROGRAMS,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=WANTED is None,
            phases=(Phase.generate,) if WANTED is None else (Phase.generate, Phase.shrink),  # That may take minutes.
            suppress_health_check=list(HealthCheck),
        ),
    )
