"""Replies leave where the question was heard, from an address of that interface, whatever the routes say.

`ipi_spec_dst`, the kernel's hint, follows the route back to the sender (net/ipv4/fib_frontend.c, fib_compute_spec_dst).
The oracle is the one who asked: where does the answer come from?
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ipv4 import ControlMessage, Datagram, PacketConn, interface_by_name, open_udp
from trio_ipv4.testing import open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio_ipv4.testing import Lab, LabHost

pytestmark = pytest.mark.usefixtures("needs_lab")

GROUP = "224.0.0.251"
PORT = 5353
LIMITED = "255.255.255.255"


@pytest.fixture
def overlapping() -> Iterator[Lab]:
    """Host "a" is on two links with one prefix; "b" and "c" are on one of them each."""
    with open_lab({"a": [0, 1], "b": [0], "c": [1]}) as lab:
        a, b, c = lab["a"], lab["b"], lab["c"]
        give(a, "en0", "169.254.0.1/16")
        give(a, "en1", "169.254.0.2/16")
        give(b, "en0", "169.254.0.8/16")
        give(c, "en1", "169.254.0.9/16")
        yield lab


def give(host: LabHost, device: str, *addresses: str) -> None:
    """Let an interface have these addresses and no other; check no reverse paths, which would hide what is tested."""
    host.ip("address", "flush", "dev", device)
    for address in addresses:
        host.ip("address", "add", address, "broadcast", "+", "dev", device)
    for name in ("all", device):
        host.call(Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text, "0")


@contextlib.asynccontextmanager
async def answering(host: LabHost, *devices: str) -> AsyncIterator[PacketConn]:
    """Answer every question on a host, and give the connection that does."""
    async with host.call(open_udp, "0.0.0.0", PORT) as conn, contextlib.AsyncExitStack() as stack:
        for device in devices:
            await stack.enter_async_context(conn.joined(device, GROUP))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, conn)
            yield conn
            nursery.cancel_scope.cancel()


async def answer_all(conn: PacketConn) -> None:
    async for datagram in conn:
        if datagram.payload == b"?":
            await conn.send(datagram.reply(b"!"))


async def ask(host: LabHost, device: str, destination: str, *, bind: str = "0.0.0.0", port: int = PORT) -> str:
    """Return the address from which the answer comes."""
    async with host.call(open_udp, bind, port) as conn:
        index = host.call(interface_by_name, device).index
        request = ControlMessage(ifindex=index, src=None if bind == "0.0.0.0" else bind)
        with trio.fail_after(20):
            await conn.send_to(b"?", (destination, PORT), control=request)
            async for datagram in conn:
                if datagram.payload == b"!":
                    return datagram.peer[0]
    raise AssertionError


@pytest.mark.parametrize("destination", [GROUP, "169.254.255.255", LIMITED])
async def test_the_answer_has_an_address_of_the_link_on_which_it_was_asked(overlapping: Lab, destination: str) -> None:
    async with answering(overlapping["a"], "en0", "en1"):
        for _ in range(2):
            assert await ask(overlapping["b"], "en0", destination) == "169.254.0.1"
            assert await ask(overlapping["c"], "en1", destination) == "169.254.0.2"


async def test_one_lan_by_wire_and_by_wifi(overlapping: Lab) -> None:
    # Two interfaces with addresses of one global subnet; the route by the first one is the better one.
    a = overlapping["a"]
    give(a, "en0", "198.18.0.1/24")
    give(a, "en1", "198.18.0.2/24")
    give(overlapping["c"], "en1", "198.18.0.9/24")
    async with answering(a, "en0", "en1"):
        for destination in (GROUP, "198.18.0.255", LIMITED):
            assert await ask(overlapping["c"], "en1", destination) == "198.18.0.2"


async def test_the_hint_is_another_interfaces_address(overlapping: Lab) -> None:
    # Why all this: were the hint right, these tests would show nothing.
    a, c = overlapping["a"], overlapping["c"]
    async with a.call(open_udp, "0.0.0.0", PORT) as conn, conn.joined("en1", GROUP), c.call(open_udp) as asking:
        asking.multicast_interface = "en1"
        await asking.send_to(b"?", (GROUP, PORT))
        question = await conn.receive()
    assert question.control.ifindex == a.call(interface_by_name, "en1").index
    assert question.control.local == IPv4Address("169.254.0.1")


async def test_the_address_for_the_askers_subnet_is_chosen(overlapping: Lab) -> None:
    give(overlapping["a"], "en1", "198.18.1.1/24", "198.18.2.1/24")
    give(overlapping["c"], "en1", "198.18.2.9/24")
    async with answering(overlapping["a"], "en1"):
        assert await ask(overlapping["c"], "en1", GROUP) == "198.18.2.1"


async def test_unicast_is_answered_from_the_address_that_was_asked(overlapping: Lab) -> None:
    give(overlapping["a"], "en1", "198.18.1.1/24", "198.18.1.2/24")
    give(overlapping["c"], "en1", "198.18.1.9/24")
    async with answering(overlapping["a"]):
        for address in ("198.18.1.1", "198.18.1.2"):
            assert await ask(overlapping["c"], "en1", address) == address


@pytest.mark.parametrize("destination", [GROUP, LIMITED])
async def test_a_host_without_an_address_answers_on_the_link(overlapping: Lab, destination: str) -> None:
    a, c = overlapping["a"], overlapping["c"]
    for device in ("en0", "en1"):
        give(a, device)
    give(c, "en1", "198.18.1.9/24")
    # Who asks must find the answer's source, 0.0.0.0, credible: its own checks of reverse paths are off.
    async with a.call(open_udp, "0.0.0.0", PORT) as conn, conn.joined("en1", GROUP), c.call(open_udp) as asking:
        index = c.call(interface_by_name, "en1").index
        await asking.send_to(b"?", (destination, PORT), control=ControlMessage(ifindex=index))
        with trio.fail_after(20):
            question = await conn.receive()
        assert question.control.local is None
        reply = question.reply(b"!")
        assert reply.control == ControlMessage(ifindex=question.control.ifindex)
        await conn.send(reply)


async def test_who_asks_by_broadcast_from_another_subnet_is_answered(overlapping: Lab) -> None:
    # A device with a factory address, or none of this network: the routes lead elsewhere, or nowhere.
    give(overlapping["a"], "en0", "198.18.0.1/24")
    give(overlapping["a"], "en1", "198.18.1.1/24")
    overlapping["a"].ip("route", "add", "default", "via", "198.18.0.254")
    give(overlapping["c"], "en1", "192.168.255.9/24")
    overlapping["c"].ip("route", "add", "198.18.1.0/24", "dev", "en1")
    async with answering(overlapping["a"]):
        assert await ask(overlapping["c"], "en1", LIMITED) == "198.18.1.1"


@pytest.mark.parametrize("port", [PORT, 68])
async def test_who_has_no_address_gets_no_reply_that_reaches_this_host(overlapping: Lab, port: int) -> None:
    a, c = overlapping["a"], overlapping["c"]
    give(c, "en1")
    async with a.call(open_udp, "0.0.0.0", PORT) as conn, c.call(open_udp, "0.0.0.0", port) as asking:
        index = c.call(interface_by_name, "en1").index
        await asking.send_to(b"?", (LIMITED, PORT), control=ControlMessage(ifindex=index))
        with trio.fail_after(20):
            question = await conn.receive()
        assert question.peer[0] == "0.0.0.0"
        with pytest.raises(ValueError, match=r"no address yet .*'255\.255\.255\.255'.*ControlMessage\(ifindex="):
            question.reply(b"!")
        # What the message says to do.
        there = ControlMessage(ifindex=question.control.ifindex)
        await conn.send(Datagram(b"!", (LIMITED, port), control=there))
        with trio.fail_after(20):
            while (await asking.receive()).payload != b"!":
                pass  # Its own question, which a broadcast brings back.
