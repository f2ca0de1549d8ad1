"""What a user's type checker makes of the connections. Checked by mypy and pyright; never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from typing import assert_type

import trio

from trio_ipv4 import (
    Conn,
    ControlFlags,
    ControlMessage,
    Datagram,
    GroupReq,
    HostMembership,
    Interface,
    InterfaceChange,
    Membership,
    MembershipChange,
    PacketConn,
    PathMTUDiscovery,
    RawConn,
    RawDatagram,
    SocketError,
    SourceFilter,
    Timestamping,
    follow_group,
    host_memberships,
    open_ip,
    open_raw,
    open_udp,
    open_unprivileged_icmp,
    serve_group,
    watch_interfaces,
    watch_memberships,
)

GROUP = IPv4Address("233.252.0.1")


async def udp(interface: Interface) -> None:
    async with open_udp("0.0.0.0", 5000, share_port=True, control_flags=ControlFlags.TTL) as conn:
        assert_type(conn, PacketConn)
        async with conn.joined(interface, GROUP, sources=SourceFilter.any()) as membership:
            assert_type(membership, Membership)
            assert_type(membership.interface, int)
            assert_type(membership.group, IPv4Address)
            assert_type(membership.sources, SourceFilter)
            async for datagram in conn:
                assert_type(datagram, Datagram)
        async with conn.joined(GroupReq(None, GROUP)):
            assert_type(await conn.receive(), Datagram)
            assert_type(await conn.receive_batch(16, max_bytes=1500), Sequence[Datagram])
            async for batch in conn.batches(limit=16):
                assert_type(batch, Sequence[Datagram])
        await conn.send(Datagram(b"", (GROUP, 5000)))
        await conn.send_to(b"", ("233.252.0.1", 5000), control=ControlMessage(ttl=1))
        await conn.send_batch(Datagram(b"", (GROUP, 5000)) for _ in range(2))
        assert_type(conn.memberships, Mapping[tuple[int, IPv4Address], SourceFilter])
        assert_type(conn.local_endpoint, tuple[str, int])

        await conn.send(b"")  # type: ignore[arg-type]
        open_udp("0.0.0.0", 5000, True)  # type: ignore[call-arg]


def is_a_channel(conn: PacketConn, raw: RawConn) -> tuple[trio.abc.Channel[Datagram], trio.abc.Channel[RawDatagram]]:
    return conn, raw


async def raw_ip() -> None:
    assert_type(open_ip(1), PacketConn)
    async with open_raw(2) as conn:
        assert_type(conn, RawConn)
        async for datagram in conn:
            assert_type(datagram, RawDatagram)


def options(conn: PacketConn) -> None:
    assert_type(conn.tos, int)
    assert_type(conn.multicast_ttl, int)
    assert_type(conn.multicast_loopback, bool)
    assert_type(conn.multicast_interface, int | None)
    assert_type(conn.control_flags, ControlFlags)
    conn.multicast_interface = "en0"
    conn.multicast_interface = IPv4Address("192.0.2.1")
    conn.multicast_interface = None

    assert_type(conn.path_mtu_discovery, PathMTUDiscovery)
    assert_type(conn.path_mtu("192.0.2.1"), int)
    assert_type(conn.send_buffer_size, int)
    assert_type(conn.report_errors, bool)
    assert_type(conn.timestamping, Timestamping)
    conn.path_mtu_discovery = PathMTUDiscovery.DO

    conn.path_mtu_discovery = 2  # type: ignore[assignment]
    conn.timestamping = 1  # type: ignore[assignment]
    conn.tos = "low"  # type: ignore[assignment]
    conn.local_endpoint = ("192.0.2.1", 5000)  # type: ignore[misc]


async def errors(conn: PacketConn | RawConn) -> None:
    error = await conn.receive_error()
    assert_type(error, SocketError)
    assert_type(conn.receive_error_nowait(), SocketError)
    assert_type(error.destination, tuple[str, int] | None)
    assert_type(error.mtu, int | None)
    assert_type(open_unprivileged_icmp("127.0.0.1", 7), PacketConn)


def wrapped(stream: trio.SocketStream, trio_socket: trio.socket.SocketType, stdlib_socket: socket.socket) -> None:
    Conn(stream).tos = 0x28
    Conn(trio_socket)
    PacketConn(trio_socket)

    PacketConn(stdlib_socket)  # type: ignore[arg-type]
    PacketConn(stream)  # type: ignore[arg-type]


async def changes() -> None:
    async with watch_interfaces() as watch:
        async for change in watch:
            assert_type(change, InterfaceChange)
    assert_type(host_memberships(), tuple[HostMembership, ...])
    async with watch_memberships() as joins:
        async for join in joins:
            assert_type(join, MembershipChange)
            assert_type(join.membership, HostMembership)
            assert_type(join.membership.interface, int)
            assert_type(join.membership.group, IPv4Address)
            assert_type(join.membership.age, float)


async def long_running(nursery: trio.Nursery, conn: PacketConn) -> None:
    async def handle(conn: PacketConn, interface: Interface) -> None: ...

    await nursery.start(follow_group, conn, GROUP)
    await nursery.start(partial(follow_group, conn, GROUP, where=lambda interface: interface.is_loopback))
    interfaces: tuple[Interface, ...] = await nursery.start(serve_group, handle, GROUP, 5000)
    assert_type(interfaces, tuple[Interface, ...])
