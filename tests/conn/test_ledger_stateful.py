"""Random scopes, explicit operations, filters and closings on several connections, against a model.

The model is written from RFC 3376 section 3.2 and Linux's table of legal steps, with plain sets, and knows nothing of
`SourceFilter`'s algebra. After each step the kernel's tables, every socket's own filter, `memberships`, and what each
connection hears from each source must agree with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import warnings
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from support.filters import kernel_filter
from support.links import ip, veth
from trio_ipv4 import FilterMode, MembershipWarning, PacketConn, SourceFilter, open_udp
from trio_ipv4.testing import igmp_groups, source_filters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ipv4 import Membership

T = TypeVar("T")
LO, EN0 = 1, 77
FIRST, SECOND = IPv4Address("239.1.2.3"), IPv4Address("239.1.2.4")
KEYS = ((LO, FIRST), (LO, SECOND), (EN0, FIRST))
SOURCES = tuple(IPv4Address(f"127.0.0.{last}") for last in range(1, 5))
LIMIT = 3
"""So few sources may be in one filter (igmp_max_msf) that the kernel refuses some."""
CONNECTIONS = 3

Filter = tuple[str, frozenset[IPv4Address]]
Key = tuple[int, IPv4Address]
NOTHING: Filter = ("include", frozenset())

filters = st.tuples(st.sampled_from(["include", "exclude"]), st.frozensets(st.sampled_from(SOURCES)))
some_sources = st.frozensets(st.sampled_from(SOURCES), max_size=2)
numbers = st.integers(0, CONNECTIONS - 1)
keys = st.sampled_from(KEYS)


def merge(holds: list[Filter]) -> Filter:
    """RFC 3376 section 3.2, word for word."""
    excluding = [sources for mode, sources in holds if mode == "exclude"]
    including = {source for mode, sources in holds if mode == "include" for source in sources}
    if not excluding:
        return "include", frozenset(including)
    return "exclude", frozenset(set.intersection(*map(set, excluding)) - including)


def hears(held: Filter, source: IPv4Address) -> bool:
    return (source in held[1]) == (held[0] == "include")


def to_library(held: Filter) -> SourceFilter:
    return SourceFilter(FilterMode[held[0].upper()], held[1])


@dataclass(eq=False)
class Scope:
    """One `joined` block, driven by hand; and what it asks for."""

    number: int
    key: Key
    membership: Membership
    asked: Filter
    is_closed: bool = False


@dataclass
class Expected:
    """What one connection should have."""

    scopes: list[Scope] = field(default_factory=list)
    explicit: dict[Key, Filter] = field(default_factory=dict)
    kernel: dict[Key, Filter] = field(default_factory=dict)

    def wanted(self, key: Key) -> Filter:
        holds = [scope.asked for scope in self.scopes if scope.key == key]
        return merge([*holds, *([self.explicit[key]] if key in self.explicit else [])])

    def is_refused(self, key: Key) -> bool:
        wanted = self.wanted(key)
        return wanted != self.kernel.get(key, NOTHING) and len(wanted[1]) > LIMIT

    def settle(self, key: Key) -> None:
        self.kernel[key] = self.wanted(key)
        if self.kernel[key] == NOTHING:
            del self.kernel[key]


class Ledgers(RuleBasedStateMachine):
    scopes = Bundle("scopes")

    def __init__(self) -> None:
        super().__init__()
        self.conns = [in_trio(opened) for _ in range(CONNECTIONS)]
        self.expected = [Expected() for _ in range(CONNECTIONS)]

    @rule(target=scopes, number=numbers, key=keys, asked=filters)
    def enter(self, number: int, key: Key, asked: Filter) -> object:
        expected = self.expected[number]
        membership = self.conns[number].joined(*key, sources=to_library(asked))
        scope = Scope(number, key, membership, asked)
        expected.scopes.append(scope)
        if expected.is_refused(key):
            expected.scopes.remove(scope)
            assert refusal(lambda: in_trio(membership.__aenter__)) == errno.ENOBUFS
            return multiple()
        expected.settle(key)
        in_trio(membership.__aenter__)
        return scope

    @rule(scope=consumes(scopes))
    def leave(self, scope: Scope) -> None:
        expected = Expected(scopes=[scope]) if scope.is_closed else self.expected[scope.number]
        expected.scopes.remove(scope)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            in_trio(lambda: scope.membership.__aexit__(None, None, None))
        if expected.is_refused(scope.key):  # The kernel keeps the wider one.
            assert [each.category for each in caught] == [MembershipWarning]
        else:
            expected.settle(scope.key)
            assert not caught

    @rule(scope=scopes, asked=filters)
    def set_sources(self, scope: Scope, asked: Filter) -> None:
        self.change(scope, asked, lambda: scope.membership.set_sources(to_library(asked)))

    @rule(scope=scopes, sources=some_sources)
    def allow(self, scope: Scope, sources: frozenset[IPv4Address]) -> None:
        mode, old = scope.asked
        asked = mode, old | sources if mode == "include" else old - sources
        self.change(scope, asked, lambda: scope.membership.allow(*sources))

    @rule(scope=scopes, sources=some_sources)
    def block(self, scope: Scope, sources: frozenset[IPv4Address]) -> None:
        mode, old = scope.asked
        asked = mode, old - sources if mode == "include" else old | sources
        self.change(scope, asked, lambda: scope.membership.block(*sources))

    def change(self, scope: Scope, asked: Filter, operation: Callable[[], None]) -> None:
        if scope.is_closed:
            with pytest.raises(trio.ClosedResourceError):
                operation()
            return
        expected, before = self.expected[scope.number], scope.asked
        scope.asked = asked
        if expected.is_refused(scope.key):
            scope.asked = before
            assert refusal(operation) == errno.ENOBUFS
        else:
            expected.settle(scope.key)
            operation()
        assert scope.membership.sources == to_library(scope.asked)

    @rule(number=numbers, key=keys)
    def join_group(self, number: int, key: Key) -> None:
        held = self.expected[number].explicit.get(key)
        illegal = errno.EADDRINUSE if held else None
        self.step(number, key, ("exclude", frozenset()), illegal, lambda conn: conn.join_group(*key))

    @rule(number=numbers, key=keys)
    def leave_group(self, number: int, key: Key) -> None:
        held = self.expected[number].explicit.get(key)
        illegal = None if held else errno.EADDRNOTAVAIL
        self.step(number, key, None, illegal, lambda conn: conn.leave_group(*key))

    @rule(number=numbers, key=keys, source=st.sampled_from(SOURCES), adds=st.booleans())
    def change_included(self, number: int, key: Key, source: IPv4Address, adds: bool) -> None:
        mode, old = self.expected[number].explicit.get(key, ("include" if adds else "none", frozenset()))
        illegal = errno.EINVAL if mode != "include" else errno.EADDRNOTAVAIL if (source in old) == adds else None
        new = old | {source} if adds else old - {source}
        name = "join_source_specific_group" if adds else "leave_source_specific_group"
        after = ("include", new) if new else None
        self.step(number, key, after, illegal, lambda conn: getattr(conn, name)(*key, source))

    @rule(number=numbers, key=keys, source=st.sampled_from(SOURCES), adds=st.booleans())
    def change_excluded(self, number: int, key: Key, source: IPv4Address, adds: bool) -> None:
        mode, old = self.expected[number].explicit.get(key, ("none", frozenset()))
        illegal = errno.EINVAL if mode != "exclude" else errno.EADDRNOTAVAIL if (source in old) == adds else None
        new = old | {source} if adds else old - {source}
        name = "exclude_source_specific_group" if adds else "include_source_specific_group"
        self.step(number, key, ("exclude", new), illegal, lambda conn: getattr(conn, name)(*key, source))

    @rule(number=numbers, key=keys, asked=filters)
    def set_source_filter(self, number: int, key: Key, asked: Filter) -> None:
        after = None if asked == NOTHING else asked
        self.step(number, key, after, None, lambda conn: conn.set_source_filter(*key, to_library(asked)))

    def step(
        self, number: int, key: Key, after: Filter | None, illegal: int | None, operation: Callable[[PacketConn], None]
    ) -> None:
        expected, conn = self.expected[number], self.conns[number]
        if illegal is not None:
            assert refusal(lambda: operation(conn)) == illegal
            return
        before = dict(expected.explicit)
        expected.explicit.pop(key, None)
        if after is not None:
            expected.explicit[key] = after
        if expected.is_refused(key):
            expected.explicit = before
            assert refusal(lambda: operation(conn)) == errno.ENOBUFS
        else:
            expected.settle(key)
            operation(conn)

    @rule(number=numbers)
    def repair(self, number: int) -> None:
        """Nothing is dead, but what was kept wider is tried again."""
        expected = self.expected[number]
        refused = [key for key in expected.kernel if expected.is_refused(key)]
        for key in set(expected.kernel) - set(refused):
            expected.settle(key)
        number_of_refusal = refusal(self.conns[number].repair_memberships)
        assert number_of_refusal == (errno.ENOBUFS if refused else None)

    @rule(number=numbers)
    def close_and_open_another(self, number: int) -> None:
        in_trio(self.conns[number].aclose)
        for scope in self.expected[number].scopes:
            scope.is_closed = True
        self.conns[number] = in_trio(opened)
        self.expected[number] = Expected()

    @invariant()
    def everything_agrees(self) -> None:
        users: dict[Key, int] = {}
        for conn, expected in zip(self.conns, self.expected, strict=True):
            assert dict(conn.memberships) == {key: to_library(held) for key, held in expected.kernel.items()}
            for key in KEYS:
                found, held = kernel_filter(conn, key), expected.kernel.get(key)
                assert found == (held and (held[0], sorted(map(str, held[1]))))
                users[key] = users.get(key, 0) + (key in expected.kernel)
        assert {key: igmp_groups().get(key, 0) for key in KEYS} == users
        listed = all_source_filters()
        assert {key: listed.get(key, {}) for key in KEYS} == {key: self.sources_of(key) for key in KEYS}
        for conn, expected in zip(self.conns, self.expected, strict=True):
            assert heard(conn) == {
                (group, source)
                for group in (FIRST, SECOND)
                for source in SOURCES
                if hears(expected.kernel.get((LO, group), NOTHING), source)
            }

    def sources_of(self, key: Key) -> dict[IPv4Address, tuple[int, int]]:
        """What `/proc/net/mcfilter` should say: for each source, how many sockets include and exclude it."""
        counts: dict[IPv4Address, tuple[int, int]] = {}
        for expected in self.expected:
            mode, sources = expected.kernel.get(key, NOTHING)
            for source in sources:
                included, excluded = counts.get(source, (0, 0))
                counts[source] = included + (mode == "include"), excluded + (mode == "exclude")
        return counts

    def teardown(self) -> None:
        for conn in self.conns:
            in_trio(conn.aclose)
        assert igmp_groups().keys().isdisjoint(KEYS)


def in_trio(function: Callable[[], Awaitable[T]]) -> T:
    """Each step has a trio run of its own: a membership and a connection only checkpoint."""

    async def main() -> T:
        return await function()

    return trio.run(main)


async def opened() -> PacketConn:
    return open_udp()


def refusal(operation: Callable[[], object]) -> int | None:
    try:
        operation()
    except OSError as error:
        return error.errno
    return None


def all_source_filters() -> dict[Key, dict[IPv4Address, tuple[int, int]]]:
    """Read `/proc/net/mcfilter` whole.

    The kernel begins with the first interface whose newest group has sources, and passes over those before it
    (igmp_mcf_get_first): so there is one such group on the first interface meanwhile.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as beginning:
        request = IPv4Address("239.0.0.0").packed + SOURCES[0].packed + SOURCES[0].packed  # struct ip_mreq_source
        beginning.setsockopt(socket.IPPROTO_IP, 39, request)  # IP_ADD_SOURCE_MEMBERSHIP, linux/in.h
        return source_filters()


def heard(conn: PacketConn) -> set[tuple[IPv4Address, IPv4Address]]:
    """Send from each source to each group, and return what arrived: on loopback that is at once."""
    port = conn.local_endpoint[1]
    for source in SOURCES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((str(source), 0))
            request = struct.pack("=4s4si", bytes(4), SOURCES[0].packed, LO)  # struct ip_mreqn
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            for group in (FIRST, SECOND):
                sender.sendto(group.packed + source.packed, (str(group), port))
    arrived = []
    with contextlib.suppress(BlockingIOError):
        while True:
            payload = os.read(conn.socket.fileno(), 100)
            arrived.append((IPv4Address(payload[:4]), IPv4Address(payload[4:])))
    assert len(set(arrived)) == len(arrived)
    return set(arrived)


def test_the_ledger_agrees_with_rfc_3376_and_the_kernel() -> None:
    ip(*veth("en0", EN0))
    Path("/proc/sys/net/ipv4/igmp_max_msf").write_text(str(LIMIT), encoding="ascii")
    run_state_machine_as_test(
        Ledgers,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
