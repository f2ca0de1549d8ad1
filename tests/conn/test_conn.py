from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_ipv4 import Conn, PacketConn, RawConn, open_raw, open_udp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ETH_P_ALL = 3  # linux/if_ether.h
PACKET_OUTGOING = 4  # linux/if_packet.h
# Every integer option of the level IPPROTO_IP and SOL_SOCKET that can be read: what wrapping might change.
OPTIONS = [(level, name) for level in (socket.IPPROTO_IP, socket.SOL_SOCKET, socket.IPPROTO_UDP) for name in range(110)]


def options_of(a_socket: Any) -> dict[tuple[int, int], bytes]:
    """All options of a socket, as the kernel tells them, and the descriptor's own flags."""
    found = {}
    for level, name in OPTIONS:
        with contextlib.suppress(OSError):
            found[level, name] = a_socket.getsockopt(level, name, 64)
    descriptor = a_socket.fileno()
    found[-1, 0] = bytes([os.get_blocking(descriptor), os.get_inheritable(descriptor)])
    return found


def udp() -> trio.socket.SocketType:
    return trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@contextlib.asynccontextmanager
async def tcp() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """A stream that `trio.serve_tcp` accepted, and the client's end of it."""
    accepted: trio.MemorySendChannel[trio.SocketStream]
    accepted, streams = trio.open_memory_channel(1)

    async def keep(stream: trio.SocketStream) -> None:
        await accepted.send(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, keep, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            yield await streams.receive(), client
        nursery.cancel_scope.cancel()


async def test_packets_of_a_stream_with_a_lower_ttl_than_the_lowest_are_not_heard() -> None:
    async with tcp() as (server, client):
        conn = Conn(server)
        assert conn.min_ttl == 0
        conn.min_ttl = 255
        Conn(client).ttl = 254
        await client.send_all(b"from afar")
        with trio.move_on_after(0.3) as scope:
            await server.receive_some()
        assert scope.cancelled_caught
        Conn(client).ttl = 255
        with trio.fail_after(20):
            assert await server.receive_some() == b"from afar"  # It was sent again.


async def test_over_udp_the_lowest_ttl_is_kept_and_not_obeyed() -> None:
    async with open_udp("127.0.0.1") as conn:
        conn.min_ttl = 255
        assert conn.min_ttl == 255
        await conn.send_to(b"hello", conn.local_endpoint)
        with trio.fail_after(20):
            assert (await conn.receive()).payload == b"hello"


async def test_the_tos_of_an_accepted_stream_is_on_the_wire() -> None:
    async with tcp() as (server, client):
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as wire:
            wire.bind(("lo", ETH_P_ALL))
            conn = Conn(server)
            conn.tos = 0x28
            conn.ttl = 7
            assert (conn.tos, conn.ttl) == (0x28, 7)
            await server.send_all(b"marked")
            assert await client.receive_some() == b"marked"
            packets = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, (_, _, kind, *_) = wire.recvfrom(2000, socket.MSG_DONTWAIT)
                    if kind != PACKET_OUTGOING and packet.endswith(b"marked"):
                        packets.append((packet[1], packet[8]))
        # RFC 791: the second octet is the type of service, the ninth the time to live.
        assert packets == [(0x28, 7)]
        assert server.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x28
        assert server.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
        assert conn.socket is server.socket


async def test_a_connected_udp_socket_has_its_options() -> None:
    with udp() as one, udp() as other:
        await one.bind(("127.0.0.1", 0))
        await other.connect(one.getsockname())
        one.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        one.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        conn = Conn(other)
        conn.tos, conn.ttl = 0xB9, 3
        await other.send(b"x")
        _, ancillary, _, _ = await one.recvmsg(10, 100)
        seen = {kind: int.from_bytes(data, "little") for _, kind, data in ancillary}
        assert seen == {socket.IP_TOS: 0xB9, socket.IP_TTL: 3}
        assert conn.local_endpoint == other.getsockname()


async def test_a_raw_socket_has_its_options() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, 253) as raw:
        conn = Conn(raw)
        conn.tos = 4
        assert raw.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 4


async def test_defaults_are_the_kernels() -> None:
    with udp() as a_socket:
        assert (Conn(a_socket).tos, Conn(a_socket).ttl) == (0, 64)


@pytest.mark.parametrize("value", [0, 1, 0x28, 255])
async def test_every_tos_reads_back(value: int) -> None:
    with udp() as a_socket:
        conn = Conn(a_socket)
        conn.tos = value
        assert conn.tos == a_socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == value


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("tos", 256, ValueError, "tos must be from 0 to 255, got 256"),
        ("tos", -1, ValueError, "tos must be from 0 to 255, got -1"),
        ("tos", True, TypeError, "tos must be an integer from 0 to 255, got True"),
        ("tos", None, TypeError, "tos must be an integer from 0 to 255, got None"),
        ("ttl", 0, ValueError, "ttl must be from 1 to 255, got 0"),
        ("ttl", -1, ValueError, "ttl must be from 1 to 255, got -1"),
        ("ttl", 256, ValueError, "ttl must be from 1 to 255, got 256"),
        ("ttl", "64", TypeError, "ttl must be an integer from 1 to 255, got '64'"),
    ],
)
async def test_what_is_out_of_range_is_refused_and_changes_nothing(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    with udp() as a_socket:
        conn = Conn(a_socket)
        conn.tos, conn.ttl = 8, 9
        with pytest.raises(error, match=message):
            setattr(conn, name, value)
        assert (conn.tos, conn.ttl) == (8, 9)


async def test_a_conn_never_closes_what_it_does_not_own() -> None:
    async with tcp() as (server, client):
        conn = Conn(server)
        async with conn:
            pass
        conn.close()
        await conn.aclose()
        Conn(server.socket).close()
        del conn
        await server.send_all(b"open")
        assert await client.receive_some() == b"open"


@pytest.mark.parametrize(
    "operation",
    [
        lambda conn: conn.tos,
        lambda conn: setattr(conn, "tos", 1),
        lambda conn: conn.ttl,
        lambda conn: setattr(conn, "ttl", 1),
        lambda conn: conn.local_endpoint,
    ],
)
async def test_every_operation_of_a_closed_conn_is_refused(operation: Callable[[Conn], object]) -> None:
    with udp() as a_socket:
        conn = Conn(a_socket)
        other = Conn(a_socket)
        conn.close()
        conn.close()
        with pytest.raises(trio.ClosedResourceError):
            operation(conn)
        operation(other)
        a_socket.close()
        with pytest.raises(trio.ClosedResourceError):
            operation(other)


async def test_aclose_is_a_checkpoint_and_closes_even_when_cancelled() -> None:
    with udp() as a_socket:
        conn = Conn(a_socket)
        with trio.testing.assert_checkpoints():
            await conn.aclose()
        conn = Conn(a_socket)
        with trio.CancelScope() as scope:
            scope.cancel()
            await conn.aclose()
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            conn.tos  # noqa: B018


async def test_the_repr_names_the_endpoint() -> None:
    with udp() as a_socket:
        await a_socket.bind(("127.0.0.1", 5000))
        conn = Conn(a_socket)
        assert repr(conn) == "<Conn 127.0.0.1:5000>"
        conn.close()
        assert repr(conn) == "<Conn (closed)>"


# What can be wrapped


async def test_wrapping_changes_nothing() -> None:
    with udp() as a_socket:
        for _ in range(2):
            before = options_of(a_socket)
            assert len(before) > 30
            Conn(a_socket)
            PacketConn(a_socket)
            assert options_of(a_socket) == before
            # Once more with all of them set against the library's habits.
            for name, value in (
                (8, 0),
                (12, 1),
                (13, 1),
                (49, 1),
                (32, b"\x7f\0\0\1"),
                (33, 9),
                (34, 0),
                (1, 5),
                (2, 6),
            ):
                a_socket.setsockopt(socket.IPPROTO_IP, name, value)
            a_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9999)
            a_socket.setsockopt(socket.SOL_SOCKET, 40, 1)


async def test_wrapping_as_a_raw_conn_sets_ip_hdrincl_alone() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, 253) as raw:
        before = options_of(raw)
        PacketConn(raw)
        assert options_of(raw) == before
        RawConn(raw)
        before[socket.IPPROTO_IP, socket.IP_HDRINCL] = (1).to_bytes(4, "little")
        assert options_of(raw) == before


def stdlib(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind)


def in_trio(family: int, kind: int) -> trio.socket.SocketType:
    return trio.socket.socket(family, kind)


INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stdlib(INET, DGRAM), r"pass a trio\.SocketStream or a trio socket \(trio\.socket\.from_stdlib_socket"),
        (lambda: stdlib(INET, STREAM), r"pass a trio\.SocketStream or a trio socket"),
        (lambda: in_trio(INET6, DGRAM), "pass a socket of AF_INET, not of .*AF_INET6"),
        (lambda: in_trio(UNIX, DGRAM), "pass a socket of AF_INET, not of .*AF_UNIX"),
        (lambda: None, r"pass a trio\.SocketStream or a trio socket .* not None"),
        (lambda: 3, r"pass a trio\.SocketStream or a trio socket .* not 3"),
        (lambda: open_udp(), r"pass a trio\.SocketStream or a trio socket .* not <PacketConn"),
    ],
)
@pytest.mark.parametrize("kind", [Conn, PacketConn, RawConn])
async def test_the_wrong_kind_is_a_type_error_that_says_what_to_pass(
    kind: Any, make: Callable[[], Any], message: str
) -> None:
    wrong = make()
    try:
        with pytest.raises(TypeError, match=message):
            kind(wrong)
    finally:
        if hasattr(wrong, "close"):
            wrong.close()


async def test_packets_do_not_come_from_streams() -> None:
    async with tcp() as (server, _):
        for wrong in (server, server.socket):
            for kind, wanted in ((PacketConn, "SOCK_DGRAM or SOCK_RAW"), (RawConn, "SOCK_RAW")):
                with pytest.raises(TypeError, match=f"pass a trio socket of type {wanted}, not"):
                    kind(wrong)  # type: ignore[arg-type]
        assert server.socket.fileno() >= 0


async def test_headers_do_not_come_from_udp() -> None:
    with udp() as a_socket:
        with pytest.raises(TypeError, match="pass a trio socket of type SOCK_RAW, not"):
            RawConn(a_socket)
        assert a_socket.fileno() >= 0


async def test_an_ssl_stream_is_not_its_transport() -> None:
    async with tcp() as (_, client):
        stream = trio.SSLStream(client, ssl.create_default_context(), server_hostname="localhost")
        with pytest.raises(TypeError, match=r"pass a trio\.SocketStream"):
            Conn(stream)  # type: ignore[arg-type]


async def test_packet_connections_are_conns() -> None:
    async with open_udp() as packets, open_raw(253) as raw:
        assert isinstance(packets, Conn)
        assert isinstance(raw, Conn)
        for conn in (packets, raw):
            conn.tos, conn.ttl = 0xB8, 5
            assert (conn.tos, conn.ttl) == (0xB8, 5)
            assert conn.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0xB8
            assert conn.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 5
