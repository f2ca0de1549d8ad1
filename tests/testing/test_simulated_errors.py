"""Errors that come back over a router, and what they teach: on the kernel, in a lab, and simulated.

tests/conn/test_error_queue.py has what one host does; `test_differential.py` compares programs of all kinds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support import here
from support.here import BOTH
from trio_ipv4 import (
    ControlFlags,
    ControlMessage,
    Datagram,
    ErrorOrigin,
    Header,
    HeaderFlags,
    ICMPDestinationUnreachable,
    ICMPEcho,
    ICMPParameterProblem,
    ICMPRedirect,
    ICMPType,
    MPLSLabel,
    MPLSLabelStack,
    PacketConn,
    PathMTUDiscovery,
    RawDatagram,
    Timestamping,
    UnsupportedError,
    open_ip,
    open_raw,
    open_udp,
    open_unprivileged_icmp,
    parse_icmp,
)
from trio_ipv4._values.checksum import with_checksum
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4 import RawConn, SocketError
    from trio_ipv4.testing import Network, SimulatedNetwork

A, B = "198.18.0.1", "198.18.1.2"
NEAR_ROUTER = "198.18.0.254"
NOBODY_HERE, NOBODY_THERE = "198.18.0.77", "198.18.1.77"
DEAD = 7000
PROTOCOL = 253
"""For experiments (RFC 3692)."""
Clock = trio.testing.MockClock
ECHO = ICMPEcho(1, 7, b"payload")


@pytest.fixture
def routed(private_net: None, request: pytest.FixtureRequest) -> Iterator[Network]:
    """Hosts "a" and "b" on two links, with a router between them: in a lab or simulated, as the test is."""
    if here.machine() is not None:
        with simulate() as simulated:
            make_routed(simulated)
            yield simulated
        return
    request.getfixturevalue("needs_lab")
    with open_lab({"a": [0], "b": [1]}, router=True) as lab:
        yield lab


def make_routed(net: SimulatedNetwork) -> None:
    """Make them simulated, with the names and addresses of the lab's."""
    router = net.router("router")
    for number, name in enumerate("ab"):
        link, host = net.link(), net.host(name)
        router.attach(link, f"en{number}", f"198.18.{number}.254/24")
        host.attach(link, f"en{number}", f"198.18.{number}.{number + 1}/24")
        host.add_route("0.0.0.0/0", via=f"198.18.{number}.254")


def reporting(net: Network, opens: Callable[..., Any] = open_udp, host: str = "a") -> Any:
    """Open a connection that reports errors."""
    conn = net[host].call(opens)
    conn.report_errors = True
    return conn


async def told(conn: PacketConn | RawConn) -> SocketError:
    with trio.fail_after(20):
        return await conn.receive_error()


@contextlib.contextmanager
def refused(name: str) -> Iterator[None]:
    """Expect an errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        yield
    assert caught.value.errno == getattr(errno, name)


def kind(error: SocketError) -> tuple[str, ErrorOrigin, int | None, int | None, str]:
    return errno.errorcode[error.errno], error.origin, error.icmp_type, error.icmp_code, str(error.offender)


def path_mtu(net: Network, conn: PacketConn, address: str = B) -> int:
    return net["a"].call(conn.path_mtu, address)


# Who tells, and of what


@BOTH
async def test_a_host_tells_of_a_port_that_nobody_has(routed: Network) -> None:
    async with reporting(routed) as conn:
        await conn.send_to(b"hello", (B, DEAD))
        error = await told(conn)
    assert kind(error) == ("ECONNREFUSED", ErrorOrigin.ICMP, 3, 3, B)
    assert (error.destination, error.payload, error.info) == ((B, DEAD), b"hello", 0)


@BOTH
async def test_a_router_tells_that_the_ttl_is_used_up(routed: Network) -> None:
    async with reporting(routed) as conn:
        await conn.send_to(b"hello", (B, DEAD), control=ControlMessage(ttl=1))
        error = await told(conn)
    assert kind(error) == ("EHOSTUNREACH", ErrorOrigin.ICMP, 11, 0, NEAR_ROUTER)
    assert (error.destination, error.payload) == ((B, DEAD), b"hello")


@BOTH
async def test_that_nobody_has_an_address_is_told_after_three_seconds(routed: Network) -> None:
    async with reporting(routed) as conn:
        start = trio.current_time()
        await conn.send_to(b"there", (NOBODY_THERE, DEAD))
        await conn.send_to(b"here", (NOBODY_HERE, DEAD))
        await trio.sleep(0.5)
        await conn.send_to(b"later", (NOBODY_HERE, DEAD))
        errors = [await told(conn) for _ in "123"]
        assert 2.5 < trio.current_time() - start < 6
    found = {error.payload: (*kind(error), error.destination) for error in errors}
    unreachable = "EHOSTUNREACH", ErrorOrigin.ICMP, 3, 1
    assert found == {
        b"there": (*unreachable, NEAR_ROUTER, (NOBODY_THERE, DEAD)),
        b"here": (*unreachable, A, (NOBODY_HERE, DEAD)),
        b"later": (*unreachable, A, (NOBODY_HERE, DEAD)),
    }


@BOTH
@pytest.mark.parametrize("with_header", [False, True])
async def test_raw_sockets_are_told_of_a_protocol_that_nobody_has(routed: Network, with_header: bool) -> None:
    opens = functools.partial(open_raw if with_header else open_ip, PROTOCOL)
    async with reporting(routed, opens) as conn, reporting(routed, functools.partial(open_ip, PROTOCOL)) as other:
        if with_header:
            header = Header(src=A, dst=B, protocol=PROTOCOL, ttl=9)
            await conn.send(RawDatagram(header, b"eight or more"))
        else:
            await conn.send_to(b"eight or more", (B, 0))
        error, beside = await told(conn), await told(other)
    assert kind(error) == kind(beside) == ("ENOPROTOOPT", ErrorOrigin.ICMP, 3, 2, B)
    assert error.destination == beside.destination == (B, 0)
    assert beside.payload == b"eight or more"
    if with_header:
        quoted = Header.parse(error.payload)
        assert (quoted.dst, quoted.ttl, error.payload[20:]) == (IPv4Address(B), 8, b"eight or more")
    else:
        assert error.payload == b"eight or more"


@BOTH
async def test_an_error_is_found_among_the_facts_of_its_icmp_message(routed: Network) -> None:
    async with reporting(routed) as conn:
        await conn.send_to(b"x", (B, DEAD))
        await told(conn)
        conn.control_flags = ControlFlags.TTL | ControlFlags.DST | ControlFlags.INTERFACE | ControlFlags.TIMESTAMP
        await conn.send_to(b"x", (B, DEAD))
        error = await told(conn)
    assert (error.timestamp_ns is not None, error.destination) == (True, (B, DEAD))


@BOTH
@pytest.mark.parametrize("in_batches", [False, True])
async def test_a_dead_peer_does_not_disturb_the_other(routed: Network, in_batches: bool) -> None:
    routed["b"].set_sysctl("net.ipv4.icmp_ratelimit", 0)
    async with reporting(routed) as conn, routed["b"].call(open_udp, "0.0.0.0", 5000) as alive:
        datagrams = [Datagram(b"%d" % number, (B, (5000, DEAD)[number % 2])) for number in range(40)]
        if in_batches:
            await conn.send_batch(datagrams)
        else:
            for each in datagrams:
                await conn.send(each)
        heard: list[bytes] = []
        with trio.fail_after(20):
            while len(heard) < 20:
                heard += [each.payload for each in await alive.receive_batch(40)]
        errors = [await told(conn) for _ in range(20)]
        with pytest.raises(trio.WouldBlock):
            conn.receive_nowait()
    assert heard == [b"%d" % number for number in range(0, 40, 2)]
    assert [error.payload for error in errors] == [b"%d" % number for number in range(1, 40, 2)]


# The path MTU


@BOTH
async def test_a_router_tells_the_mtu_of_its_next_link_and_the_host_learns_it(routed: Network) -> None:
    routed["router"].set_mtu("en1", 1000)
    async with reporting(routed) as conn, routed["b"].call(open_udp, "0.0.0.0", 5000) as hears:
        assert path_mtu(routed, conn) == 1500
        await conn.send_to(bytes(1400), (B, 5000))
        error = await told(conn)
        assert kind(error) == ("EMSGSIZE", ErrorOrigin.ICMP, 3, 4, NEAR_ROUTER)
        assert (error.mtu, error.destination) == (1000, (B, 5000))
        assert path_mtu(routed, conn) == 1000
        assert path_mtu(routed, conn, NEAR_ROUTER) == 1500
        await conn.send_to(b"cut".ljust(1400), (B, 5000))  # On this host, from now on.
        with trio.fail_after(20):
            assert (await hears.receive()).payload == b"cut".ljust(1400)


@BOTH
async def test_a_router_cuts_what_may_be_cut(routed: Network) -> None:
    routed["router"].set_mtu("en1", 1000)
    async with reporting(routed) as conn, routed["b"].call(open_udp, "0.0.0.0", 5000) as hears:
        for mode in (PathMTUDiscovery.DONT, PathMTUDiscovery.INTERFACE, PathMTUDiscovery.OMIT):
            conn.path_mtu_discovery = mode
            await conn.send_to(b"cut".ljust(1400), (B, 5000))
            with trio.fail_after(20):
                assert (await hears.receive()).payload == b"cut".ljust(1400)
        assert path_mtu(routed, conn) == 1500


@BOTH
@pytest.mark.parametrize(
    ("mode", "longest", "known"),
    [(PathMTUDiscovery.DO, 1000, 1000), (PathMTUDiscovery.PROBE, 1500, 1500), (PathMTUDiscovery.INTERFACE, 1500, 1500)],
)
async def test_longer_ones_are_refused_with_the_mtu(
    routed: Network, mode: PathMTUDiscovery, longest: int, known: int
) -> None:
    routed["router"].set_mtu("en1", 1000)
    async with reporting(routed) as conn:
        conn.path_mtu_discovery = PathMTUDiscovery.PROBE
        await conn.send_to(bytes(1400), (B, DEAD))
        assert (await told(conn)).mtu == 1000
        conn.path_mtu_discovery = mode
        for length in (longest - 27, longest + 500):
            with pytest.raises(OSError, match="must not be fragmented") as caught:
                await conn.send_to(bytes(length), (B, DEAD))
            assert caught.value.errno == errno.EMSGSIZE
            error = await told(conn)
            assert (error.origin, error.info, error.destination, error.offender) == (
                *(ErrorOrigin.LOCAL, known, (B, 0), None),
            )
        conn.path_mtu_discovery = PathMTUDiscovery.DO
        await conn.send_to(bytes(1000 - 28), (B, DEAD))
        assert kind(await told(conn)) == ("ECONNREFUSED", ErrorOrigin.ICMP, 3, 3, B)


@BOTH
async def test_a_host_does_not_believe_in_less_than_552_and_cuts_then(routed: Network) -> None:
    routed["router"].set_mtu("en1", 400)
    async with reporting(routed) as conn, routed["b"].call(open_udp, "0.0.0.0", 5000) as hears:
        await conn.send_to(bytes(900), (B, 5000))
        assert (await told(conn)).mtu == 400
        assert path_mtu(routed, conn) == 552
        await conn.send_to(b"cut".ljust(500), (B, 5000))
        with trio.fail_after(20):
            assert (await hears.receive()).payload == b"cut".ljust(500)


@BOTH
async def test_a_path_follows_the_mtu_of_the_interface(routed: Network) -> None:
    routed["router"].set_mtu("en1", 1000)
    async with reporting(routed) as conn:
        await conn.send_to(bytes(1400), (B, DEAD))
        assert (await told(conn)).mtu == 1000
        for mtu, expected in ((1400, 1000), (900, 900), (1400, 1400)):
            routed["a"].set_mtu("en0", mtu)
            assert path_mtu(routed, conn) == expected


@BOTH
async def test_a_whole_packet_that_must_not_be_cut_is_refused_by_icmp_of_this_host(routed: Network) -> None:
    routed["router"].set_mtu("en1", 1000)
    async with reporting(routed) as probe, reporting(routed, functools.partial(open_raw, PROTOCOL)) as conn:
        await probe.send_to(bytes(1400), (B, DEAD))
        await told(probe)
        header = Header(src=A, dst=B, protocol=PROTOCOL, ttl=9, flags=HeaderFlags.DONT_FRAGMENT)
        with refused("EMSGSIZE"):
            conn._socket.sendto(header.marshal() + bytes(1400), (B, 0))
        error = await told(conn)
        assert (*kind(error), error.mtu) == ("EMSGSIZE", ErrorOrigin.ICMP, 3, 4, A, 1000)


# Ping sockets


@BOTH
def test_a_ping_socket_needs_a_group_that_is_allowed(routed: Network) -> None:
    routed["a"].set_sysctl("net.ipv4.ping_group_range", "1 0")
    with pytest.raises(PermissionError, match="ping_group_range"):
        routed["a"].call(open_unprivileged_icmp)


@BOTH
async def test_a_ping_socket_hears_replies_and_errors(routed: Network) -> None:
    routed["a"].set_sysctl("net.ipv4.ping_group_range", "0 0")
    flags = ControlFlags.TTL | ControlFlags.DST | ControlFlags.INTERFACE
    opens = functools.partial(open_unprivileged_icmp, identifier=4711, control_flags=flags)
    async with reporting(routed, opens) as conn:
        assert conn.local_endpoint == ("0.0.0.0", 4711)
        await conn.send_to(ECHO.marshal(), (B, 0))
        with trio.fail_after(20):
            reply = await conn.receive()
        message = parse_icmp(reply.payload)
        assert isinstance(message, ICMPEcho)
        assert (message.type, message.identifier, message.sequence, message.data) == (
            *(ICMPType.ECHO_REPLY, 4711, 7, b"payload"),
        )
        assert (reply.peer, reply.control.ttl, reply.control.dst) == ((B, 0), 63, IPv4Address(A))
        # The kernel looks for no local address.
        assert (reply.control.ifindex, reply.control.local) == (routed["a"].interfaces[0].index, None)
        await conn.send_to(ECHO.marshal(), (B, 0), control=ControlMessage(ttl=1))
        error = await told(conn)
    assert kind(error) == ("EHOSTUNREACH", ErrorOrigin.ICMP, 11, 0, NEAR_ROUTER)
    quoted = parse_icmp(error.payload)
    assert isinstance(quoted, ICMPEcho)
    assert (error.destination, quoted.identifier, quoted.data) == ((B, 0), 4711, b"payload")


@BOTH
async def test_identifiers_are_unique_and_no_ports(routed: Network) -> None:
    routed["a"].set_sysctl("net.ipv4.ping_group_range", "0 0")
    opens = functools.partial(routed["a"].call, open_unprivileged_icmp)
    async with opens(identifier=4711), routed["a"].call(open_udp, "0.0.0.0", 4711), opens() as one, opens() as other:
        assert len({one.local_endpoint[1], other.local_endpoint[1], 0, 4711}) == 4
        with refused("EADDRINUSE"):
            opens(identifier=4711)
        with refused("EADDRNOTAVAIL"):
            opens("10.1.1.1")


@BOTH
@pytest.mark.parametrize("message", [ECHO.marshal()[:7], b"\0" + ECHO.marshal()[1:], b"\x08\1" + ECHO.marshal()[2:]])
async def test_a_ping_socket_sends_echo_requests_alone(routed: Network, message: bytes) -> None:
    routed["a"].set_sysctl("net.ipv4.ping_group_range", "0 0")
    async with routed["a"].call(open_unprivileged_icmp) as conn:
        with refused("EINVAL"):
            await conn.send_to(message, (B, 0))


# Transmit timestamps


@BOTH
async def test_each_datagram_is_stamped_once_for_each_place_in_order(routed: Network) -> None:
    async with routed["a"].call(open_udp) as conn:
        conn.timestamping = Timestamping.TX_SOFTWARE | Timestamping.TX_SCHED
        for number in range(3):
            await conn.send_to(b"%d" % number, (NEAR_ROUTER, DEAD))
        stamps = [await told(conn) for _ in range(6)]
        assert sorted((each.number, each.info) for each in stamps) == [*itertools.product(range(3), range(2))]
        assert {each.origin for each in stamps} == {ErrorOrigin.TIMESTAMPING}
        for place in range(2):
            times = [each.timestamp_ns or 0 for each in stamps if each.info == place]
            assert times == sorted(times)
            assert 0 not in times
        conn.timestamping = Timestamping(0)
        conn.timestamping = Timestamping.TX_SOFTWARE
        await conn.send_batch_to([b"x", b"y"], (NEAR_ROUTER, DEAD))
        assert [((each := await told(conn)).number, each.info) for _ in "12"] == [(0, 0), (1, 0)]


@BOTH
async def test_hardware_that_stamps_nothing_counts_on(routed: Network) -> None:
    async with routed["a"].call(open_udp) as conn:
        conn.timestamping = Timestamping.TX_HARDWARE
        await conn.send_to(b"x", (NEAR_ROUTER, DEAD))
        conn.timestamping = Timestamping.TX_SOFTWARE | Timestamping.RX_HARDWARE
        await conn.send_to(b"x", (NEAR_ROUTER, DEAD))
        assert (await told(conn)).number == 1


@BOTH
async def test_a_datagram_that_nobody_takes_is_not_stamped(routed: Network) -> None:
    async with routed["a"].call(open_udp) as conn:
        conn.timestamping = Timestamping.TX_SOFTWARE
        await conn.send_to(b"x", (NOBODY_HERE, DEAD))
        await conn.send_to(b"x", (NEAR_ROUTER, DEAD))
        assert (await told(conn)).number == 1


# ICMP by hand


async def forge(net: Network, message: bytes) -> None:
    """Send an ICMP message from b to a."""
    async with net["b"].call(open_ip, 1) as icmp:
        await icmp.send_to(message, (A, 0))


def quote(source: int, payload: bytes = b"payload", protocol: int = 17) -> bytes:
    header = Header(src=A, dst="203.0.113.9", protocol=protocol, ttl=3, total_len=28 + len(payload))
    udp = source.to_bytes(2, "big") + DEAD.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    return header.with_checksum().marshal() + udp + payload


@BOTH
@pytest.mark.parametrize("code", range(16))
async def test_each_code_of_unreachable_has_its_errno(routed: Network, code: int) -> None:
    names = "ENETUNREACH EHOSTUNREACH ENOPROTOOPT ECONNREFUSED EMSGSIZE EOPNOTSUPP ENETUNREACH EHOSTDOWN ENONET "
    names += "ENETUNREACH EHOSTUNREACH ENETUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH"
    async with reporting(routed) as conn:
        mtu = 777 if code == 4 else None
        await forge(routed, ICMPDestinationUnreachable(code, quote(conn.local_endpoint[1]), mtu=mtu).marshal())
        error = await told(conn)
    assert error.errno == getattr(errno, names.split()[code])
    assert (error.icmp_code, error.info, error.offender) == (code, mtu or 0, IPv4Address(B))
    assert (error.destination, error.payload) == (("203.0.113.9", DEAD), b"payload")


@BOTH
async def test_a_parameter_problem_tells_the_octet(routed: Network) -> None:
    async with reporting(routed) as conn:
        await forge(routed, ICMPParameterProblem(0, quote(conn.local_endpoint[1]), pointer=20).marshal())
        error = await told(conn)
    assert (errno.errorcode[error.errno], error.icmp_type, error.info) == ("EPROTO", 12, 20)


@BOTH
@pytest.mark.parametrize("is_sound", [True, False])
async def test_extensions_are_told(routed: Network, is_sound: bool) -> None:
    labels = MPLSLabelStack([MPLSLabel(18, ttl=9)])
    async with reporting(routed) as conn:
        error = ICMPDestinationUnreachable(1, quote(conn.local_endpoint[1]), extensions=[labels])
        octets = error.marshal()
        if not is_sound:  # The length of the object, and the checksum over all.
            octets = octets[:2] + bytes(2) + octets[4:-8] + b"\0\x09" + octets[-6:]
            octets = with_checksum(octets)
        await forge(routed, octets)
        found = await told(conn)
    assert len(found.extensions) == is_sound
    assert found.payload.startswith(b"payload")


@BOTH
@pytest.mark.parametrize(
    "message",
    [
        ICMPDestinationUnreachable(16, quote(5000)).marshal(),
        ICMPDestinationUnreachable(3, quote(5000)[:27]).marshal(),
        ICMPDestinationUnreachable(3, quote(5001)).marshal(),
        ICMPDestinationUnreachable(3, quote(5000)).marshal()[:-1] + b"?",  # A wrong checksum.
        b"\x0b\1" + bytes(6) + quote(5000),
        ICMPRedirect(1, "198.18.0.253", quote(5000)).marshal(),
    ],
)
async def test_what_is_no_error_of_a_socket_is_not_told(routed: Network, message: bytes) -> None:
    async with routed["a"].call(open_udp, "0.0.0.0", 5000) as conn:
        conn.report_errors = True
        await forge(routed, message)
        await forge(routed, ICMPDestinationUnreachable(3, quote(5000, b"sound")).marshal())
        assert (await told(conn)).payload == b"sound"


# Only simulated


@pytest.fixture
def net() -> Iterator[SimulatedNetwork]:
    with simulate() as net:
        make_routed(net)
        yield net


@pytest.mark.pure
async def test_a_path_is_forgotten_after_ten_minutes(net: SimulatedNetwork, autojump_clock: Clock) -> None:
    net["router"].set_mtu("en1", 1000)
    async with reporting(net) as conn:
        await conn.send_to(bytes(1400), (B, DEAD))
        assert (await told(conn)).mtu == 1000
        await trio.sleep(599)
        assert path_mtu(net, conn) == 1000
        await trio.sleep(2)
        assert path_mtu(net, conn) == 1500


@pytest.mark.pure
@pytest.mark.parametrize(("value", "learned"), [(0, 1000), (1, 552), (2, 1500), (3, 1500)])
async def test_a_host_may_be_told_not_to_learn(net: SimulatedNetwork, value: int, learned: int) -> None:
    net["router"].set_mtu("en1", 1000)
    net["a"].set_sysctl("net.ipv4.ip_no_pmtu_disc", value)
    async with reporting(net) as conn:
        assert conn.path_mtu_discovery is (PathMTUDiscovery.DONT if value else PathMTUDiscovery.WANT)
        conn.path_mtu_discovery = PathMTUDiscovery.PROBE
        await conn.send_to(bytes(1400), (B, DEAD))
        assert path_mtu(net, conn) == learned


@pytest.mark.pure
async def test_errors_beyond_the_receive_buffer_are_lost(net: SimulatedNetwork) -> None:
    net["b"].set_sysctl("net.ipv4.icmp_ratelimit", 0)
    async with net["a"].call(open_udp) as conn:
        conn.receive_buffer_size = 4000
        conn.report_errors = True
        socket = conn._socket
        for _ in range(12):
            await conn.send_to(b"x", (B, DEAD))
            assert conn.receive_error_nowait()
        for _ in range(20):  # Behind the library's back, which would read them. A pending error fails every other one.
            try:
                socket.sendto(b"x", (B, DEAD))
            except OSError as error:
                assert error.errno == errno.ECONNREFUSED
        assert sum(1 for _ in iter(lambda: _take(socket), None)) == 9


def _take(socket: Any) -> Any:
    try:
        return socket.receive_error()
    except BlockingIOError:
        return None


@pytest.mark.pure
def test_an_unprivileged_host_has_another_group(net: SimulatedNetwork) -> None:
    host = net.host("nobody", privileged=False)
    host.set_sysctl("net.ipv4.ping_group_range", "0 0")
    with pytest.raises(PermissionError):
        host.call(open_unprivileged_icmp)
    host.set_sysctl("net.ipv4.ping_group_range", "0 2147483647")
    host.call(open_unprivileged_icmp).close()


@pytest.mark.pure
async def test_stamps_of_another_kind_are_refused(net: SimulatedNetwork) -> None:
    async with net["a"].call(open_udp) as conn:
        with pytest.raises(UnsupportedError, match="SO_TIMESTAMPING"):
            conn.socket.setsockopt(1, 37, 1 << 3)  # SOF_TIMESTAMPING_RX_SOFTWARE, linux/net_tstamp.h
