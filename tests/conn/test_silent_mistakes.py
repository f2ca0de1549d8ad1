"""Mistakes that Python, or the kernel, would take without a word."""

from __future__ import annotations

import builtins
import gc
import inspect
import socket
import ssl
import typing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import trio_ipv4
from trio_ipv4 import (
    Conn,
    ControlFlags,
    Datagram,
    Header,
    Membership,
    PacketConn,
    RawConn,
    RawDatagram,
    SourceFilter,
    follow_group,
    open_raw,
    open_udp,
    serve_group,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4 import Interface

GROUP = "239.1.2.3"
HERE = ("127.0.0.1", 5000)


# A membership that nobody enters


async def test_who_waits_for_a_group_that_was_never_joined_is_told() -> None:
    async with open_udp("0.0.0.0", 5000) as conn:
        conn.joined("lo", GROUP)
        conn.joined("lo", "239.1.2.4")
        gc.collect()
        with pytest.warns(RuntimeWarning, match=r"239\.1\.2\.3, 239\.1\.2\.4 was never joined: .*'async with'") as told:
            with trio.move_on_after(0.01):
                await conn.receive()
        assert told[0].filename == __file__
        with trio.move_on_after(0.01):  # Once.
            await conn.receive_batch()


async def test_as_an_error_it_loses_nothing() -> None:
    async with open_udp("0.0.0.0", 5000) as conn:
        conn.joined("lo", GROUP)
        gc.collect()
        await conn.send_to(b"first", HERE)
        assert (await conn.receive()).payload == b"first"
        with pytest.raises(RuntimeWarning, match="was never joined"):
            await conn.receive()
        await conn.send_to(b"second", HERE)
        assert (await conn.receive()).payload == b"second"


async def test_a_membership_that_was_entered_or_was_to_be_is_no_mistake() -> None:
    async with open_udp("0.0.0.0", 5000) as conn:
        async with conn.joined("lo", GROUP):
            pass
        with trio.CancelScope() as scope:
            scope.cancel()
            async with conn.joined("lo", GROUP):
                pass
        kept = conn.joined("lo", GROUP)
        gc.collect()
        with trio.move_on_after(0.01):
            await conn.receive()
        async with kept:
            pass


# An attribute that doesn't exist


@pytest.mark.parametrize(
    ("name", "hint"),
    [("multicast_tll", "; did you mean 'multicast_ttl'?"), ("recieve_buffer_size", "; did you mean"), ("colour", "")],
)
async def test_an_attribute_that_does_not_exist_cannot_be_set(name: str, hint: str) -> None:
    async with open_udp() as packets, open_raw(253) as raw:
        for conn in (packets, raw):
            with pytest.raises(AttributeError, match=f"has no attribute '{name}' to set") as caught:
                setattr(conn, name, 5)
            assert hint in str(caught.value)
        membership = packets.joined("lo", GROUP)
        with pytest.raises(AttributeError):
            membership.source = 1  # type: ignore[attr-defined]
        async with membership:
            pass
    with socket.socket() as a_socket, pytest.raises(AttributeError, match="did you mean 'tos'"):
        Conn(trio.socket.from_stdlib_socket(a_socket)).to = 1  # type: ignore[attr-defined]


async def test_a_test_can_replace_a_method_and_a_subclass_has_what_it_wants() -> None:
    class Marked(Conn):
        def __init__(self, a_socket: trio.socket.SocketType) -> None:
            super().__init__(a_socket)
            self.colour = "red"

    with socket.socket() as a_socket:
        assert Marked(trio.socket.from_stdlib_socket(a_socket)).colour == "red"
    async with open_udp() as conn:
        conn.receive = "something else"  # type: ignore[method-assign, assignment]
        assert conn.receive == "something else"


# Control flags that don't exist


@pytest.mark.parametrize("number", [128, 1 << 20, 0x1FF])
def test_control_flags_that_do_not_exist_cannot_be_made(number: int) -> None:
    with pytest.raises(ValueError, match="invalid value"):
        ControlFlags(number)
    with pytest.raises(ValueError, match="invalid value"):
        ControlFlags.TTL | number


def test_control_flags_are_a_set_of_their_own() -> None:
    everything = ControlFlags(127)
    assert everything ^ ControlFlags.TTL == ~ControlFlags.TTL
    assert [flag.name for flag in everything] == ["TTL", "SRC", "DST", "INTERFACE", "TOS", "TIMESTAMP", "DROPS"]


# What was dropped


@pytest.mark.parametrize("raw", [False, True])
async def test_drops_are_told_at_once(raw: bool) -> None:
    conn: PacketConn | RawConn = open_raw(253, "127.0.0.1") if raw else open_udp(*HERE)
    async with conn, open_udp() as sender:
        conn.receive_buffer_size = 5000
        conn.control_flags = ControlFlags.DROPS
        assert conn.drops == 0
        if isinstance(conn, PacketConn):
            await sender.send_batch([Datagram(bytes(500), HERE)] * 50)
        else:
            header = Header(src="127.0.0.1", dst="127.0.0.1", protocol=253, ttl=9)
            await conn.send_batch([RawDatagram(header, bytes(500))] * 50)
        assert conn.drops > 0
        queued = await conn.receive_batch(50)
        assert len(queued) + conn.drops == 50
        assert queued[-1].control.drops == 0  # None had been dropped when these were queued.


async def test_the_counter_with_a_datagram_tells_of_what_came_before_it() -> None:
    async with open_udp(*HERE) as conn:
        conn.receive_buffer_size = 5000
        conn.control_flags = ControlFlags.DROPS
        await conn.send_batch([Datagram(bytes(500), HERE)] * 50)
        await conn.receive_batch(50)
        await conn.send_to(b"after the burst", HERE)
        assert (await conn.receive()).control.drops == conn.drops > 0


# Wrong arguments say what to pass instead


async def handler(conn: PacketConn, interface: Interface) -> None:
    raise AssertionError


def synchronous(conn: PacketConn, interface: Interface) -> None:
    return None


async def asynchronous(interface: Interface) -> bool:
    raise AssertionError


async def generator(conn: PacketConn, interface: Interface) -> Any:
    yield


WRONG: list[tuple[Callable[[PacketConn], object], str]] = [
    (
        lambda conn: conn.joined(GROUP),  # type: ignore[call-overload]
        r"takes an interface, then a group, got '239\.1\.2\.3' alone: joined\(None, group\)",
    ),
    (
        lambda conn: conn.joined("lo", GROUP, sources=["192.0.2.1"]),  # type: ignore[call-overload]
        r"SourceFilter\.include\('192\.0\.2\.1', \.\.\.\)",
    ),
    (lambda conn: conn.set_source_filter("lo", GROUP, {"192.0.2.1"}), r"SourceFilter\.include"),  # type: ignore[arg-type]
    (lambda _: Datagram("text", HERE), r"must be bytes, got 'text': encode it, 'text'\.encode\(\)"),  # type: ignore[arg-type]
    (lambda _: trio_ipv4.GroupReq("lo", GROUP), r"interface_by_name\(\)"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(WRONG)))
async def test_a_wrong_argument_says_what_to_pass(number: int) -> None:
    mistake, says = WRONG[number]
    async with open_udp() as conn:
        with pytest.raises(TypeError, match=says):
            mistake(conn)
        assert not conn.memberships


async def test_a_stream_or_listener_of_another_kind_says_which_part_to_pass() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = trio.SocketStream(trio.socket.socket())
    async with listeners[0], stream:
        with pytest.raises(TypeError, match=r"pass listener\.socket"):
            Conn(listeners[0])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"trio\.SocketStream, the transport_stream below TLS"):
            Conn(trio.SSLStream(stream, ssl.create_default_context(), server_hostname="localhost"))  # type: ignore[arg-type]


async def test_what_is_no_datagram_is_not_sent_and_says_what_is() -> None:
    async with open_udp() as packets, open_raw(253) as raw:
        for wrong in (b"x", "x", None):
            with pytest.raises(TypeError, match=r"pass a Datagram, .*send_to\(payload, endpoint\)"):
                await packets.send(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"pass a RawDatagram, .*RawDatagram\(header, payload\)"):
                await raw.send(wrong)  # type: ignore[arg-type]
        for wrong in (b"x", "x", Datagram(b"x", HERE), None):
            with pytest.raises(TypeError, match=r"pass a collection of datagrams .* send\(\) takes one"):
                await packets.send_batch(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pass a Datagram, not b'x'"):
            await packets.send_batch([Datagram(b"x", HERE), b"x"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match=r"parse_bpf\(\)"):
            packets.attach_filter("1\n6 0 0 0\n")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"'0\.0\.0\.0' stands for all"):
            open_udp("", 5000)
        with pytest.raises(TypeError, match=r"'x'\.encode\(\)"):
            await packets.send_to("x", HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (synchronous, "handler must be an asynchronous function .*synchronous.*, which returned None"),
        (None, "handler must be an asynchronous function"),
        (5, "handler must be an asynchronous function"),
        (generator, "without yield"),
    ],
)
async def test_a_handler_that_is_not_asynchronous_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises((TypeError, BaseExceptionGroup)) as caught, trio.fail_after(20):
        await serve_group(wrong, GROUP, 5000, where=lambda each: each.is_loopback)
    told = caught.value
    while isinstance(told, BaseExceptionGroup):
        (told,) = told.exceptions
    assert isinstance(told, TypeError)
    assert pytest.raises(TypeError, match=says)
    with pytest.raises(TypeError, match=says):
        raise told


async def test_a_handler_that_was_called_already_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pass it without \(\)"):
        await serve_group(asynchronous(None), GROUP, 5000)  # type: ignore[arg-type]


async def test_a_function_that_returns_an_awaitable_is_a_handler() -> None:
    called = []

    async def note(conn: PacketConn, interface: Interface, mark: str) -> None:
        called.append((interface.name, mark))

    async with trio.open_nursery() as nursery:
        for made in (lambda conn, interface: note(conn, interface, "lambda"), partial(note, mark="partial")):
            serve = partial(serve_group, made, where=lambda each: each.is_loopback)
            await nursery.start(serve, GROUP, 5000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(called) == [("lo", "lambda"), ("lo", "partial")]


@pytest.mark.parametrize("where", [asynchronous, "lo", None])
async def test_a_predicate_that_can_not_answer_is_refused(where: Any) -> None:
    async with open_udp("0.0.0.0", 5000) as conn:
        with pytest.raises(TypeError, match="where must be a"):
            await follow_group(conn, GROUP, where=where)
        with pytest.raises(TypeError, match="where must be a"):
            await serve_group(handler, GROUP, 5000, where=where)


# Names


@pytest.mark.pure
def test_every_name_of_a_public_signature_can_be_imported() -> None:
    public = set(trio_ipv4.__all__)
    foreign = {"trio", "types", "collections", "ipaddress", "IPv4Address", "IPv4Interface", "IPv6Address", "enum"}
    for name in public:
        value = getattr(trio_ipv4, name)
        members = [value]
        if inspect.isclass(value) and value not in MADE_BY_METHODS:
            members += [each for key, each in vars(value).items() if not key.startswith("_") or key == "__init__"]
        for member in members:
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            for annotation in getattr(function, "__annotations__", {}).values():
                for word in words(annotation):
                    assert word in public | foreign | KNOWN, f"{word} of {name} is not in trio_ipv4"


MADE_BY_METHODS = (trio_ipv4.Batches, trio_ipv4.InterfaceWatch, Membership)
"""Classes that nobody else makes, so that their constructors are no public signatures."""
KNOWN = {
    *vars(typing), *vars(builtins), "Callable", "Awaitable", "Iterable", "Sequence", "Mapping",
    "Collection", "Self", "Final", "TracebackType", "ValueT", "SocketType", "SocketStream", "TaskStatus", "Nursery",
    "lowlevel", "socket", "abc", "KeyT", "MadeT", "ClosableT",
    "IntegerOption", "BoolOption",  # Rows of options. Those who use them see an int and a bool.
}  # fmt: skip


def words(annotation: object) -> set[str]:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return {each for each in "".join(c if c.isalnum() or c == "_" else " " for c in text).split() if each[0].isalpha()}


@pytest.mark.pure
def test_the_aliases_are_what_the_signatures_say() -> None:
    for name in ("AddressLike", "EndpointLike", "Endpoint", "InterfaceLike", "InterfaceHandler", "InterfacePredicate"):
        assert name in trio_ipv4.__all__
        assert getattr(trio_ipv4, name)
    assert Membership.__module__.startswith("trio_ipv4")
    assert attrs.has(SourceFilter)
    assert Path(trio_ipv4.__file__).name == "__init__.py"
