"""The Python contestants: `python peer.py NAME ROLE`. See protocol.md for the lines on standard input and output.

Standard input is read with a blocking call, on purpose: until the line has come, nothing may take from the socket.
"""

# ruff: noqa: PLC0415  # Each contestant imports what it needs, and the others need not be installed.

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import struct
import sys
import time

FACTS = struct.Struct("i4s4s")  # struct in_pktinfo
IP_PKTINFO, IP_TTL, IP_RECVTTL = 8, 2, 12  # linux/in.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
RECEIVE_BUFFER = 16 << 20
MAX_BYTES = 2048
CONTROL_ROOM = 256
SENT_TTL = 7


class Clock:
    """How long the work took."""

    def __init__(self):
        self.cpu = cpu_ns()
        self.wall = time.monotonic_ns()

    def report(self, count, last):
        """Answer; `last` is a datagram, or its payload."""
        wall, cpu = time.monotonic_ns() - self.wall, cpu_ns() - self.cpu
        control = getattr(last, "control", None)
        ttl, ifindex = (control.ttl or 0, control.ifindex or 0) if control is not None else (0, 0)
        print("ok", wall, cpu, count, len(payload_of(last)), ttl, ifindex, flush=True)


def cpu_ns():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def payload_of(datagram):
    return getattr(datagram, "payload", datagram)


def commands():
    """Yield (command, count, limit, payload, endpoint)."""
    for line in sys.stdin:
        command, count, limit, *more = line.split()
        length, address, port = more or (0, "0.0.0.0", 0)
        yield command, int(count), int(limit), b"x" * int(length), (address, int(port))


def ready(port):
    print("ready", port, flush=True)


def grow_receive_buffer(made):
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def stdlib_socket(role, *, control=False):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if role != "flow":
        grow_receive_buffer(made)
    if control:
        made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    made.bind(("0.0.0.0", 0))
    made.setblocking(False)
    return made


async def receive_singly(role, receive, count):
    """Receive `count` datagrams one by one, or until a single octet comes."""
    clock = Clock()
    if role == "flow":
        received, last = 1, await receive()
        while len(payload_of(last)) != 1:
            received, last = received + 1, await receive()
        return clock.report(received, last)
    for _ in range(count):
        last = await receive()
    return clock.report(count, last)


# trio_ipv4


def be_pure():
    """Do without the compiled part, in an older version of the package, too."""
    try:
        from trio_ipv4._abi.this import this_platform
        from trio_ipv4._kernel.calls.by_ctypes import ByCtypes
        from trio_ipv4._kernel.native import NativeSystem
        from trio_ipv4._kernel.system import CURRENT
    except ImportError:
        from trio_ipv4._kernel import batch

        batch.compiled = None
    else:
        CURRENT.set(NativeSystem(calls=ByCtypes(this_platform())))


async def ours(name, role):
    import trio_ipv4

    if name.endswith("-pure"):
        be_pure()
    name = name.removesuffix("-pure")
    flags = trio_ipv4.ControlFlags
    facts = flags(0) if name == "ours-bare" else flags.DST | flags.INTERFACE | flags.TTL
    async with trio_ipv4.open_udp(control_flags=facts) as conn:
        if role != "flow":
            grow_receive_buffer(conn.socket)
        if "-gro" in name:
            conn.receive_offload = True
        ready(conn.local_endpoint[1])
        for command, count, limit, payload, endpoint in commands():
            if command == "send":
                await ours_send(trio_ipv4, name, conn, count, limit, payload, endpoint)
            elif "-batch" in name:
                await ours_batches(conn, role, count, limit, {"max_bytes": MAX_BYTES} if "2048" in name else {})
            else:
                await receive_singly(role, conn.receive, count)


async def ours_batches(conn, role, count, limit, keywords):
    clock, received, length = Clock(), 0, 0
    while received < count if role != "flow" else length != 1:
        batch = await conn.receive_batch(min(limit, count - received) if role != "flow" else limit, **keywords)
        received += len(batch)
        length = len(batch[-1].payload)
    clock.report(received, batch[-1])


async def ours_send(trio_ipv4, name, conn, count, limit, payload, endpoint):
    """Values are made anew for each datagram, as a program would; the request for a TTL is one value."""
    request = trio_ipv4.ControlMessage(ttl=SENT_TTL)
    datagram = trio_ipv4.Datagram(payload, endpoint, control=request)
    clock = Clock()
    if name == "ours-bare":
        for _ in range(count):
            await conn.send_to(payload, endpoint)
    elif "-batch" not in name:
        for _ in range(count):
            await conn.send(trio_ipv4.Datagram(payload, endpoint, control=request))
    for many in chunks(count, limit) if "-batch" in name else ():
        if name == "ours-batch":
            await conn.send_batch([trio_ipv4.Datagram(payload, endpoint, control=request) for _ in range(many)])
        elif name == "ours-batch-to":
            await conn.send_batch_to([payload] * many, endpoint, control=request)
        elif name == "ours-batch-same":
            await conn.send_batch([datagram] * many)
        else:
            await conn.send_segmented(payload * many, len(payload), endpoint, control=request)
    clock.report(count, payload)


def chunks(count, limit):
    for start in range(0, count, limit):
        yield min(limit, count - start)


# trio.socket


async def trio_sockets(name, role):
    import trio

    bare = name == "trio-recvfrom"
    with trio.socket.from_stdlib_socket(stdlib_socket(role, control=not bare)) as made:
        receive = {"trio-recvfrom": plain, "trio-recvmsg": values, "trio-recvmsg-unparsed": unparsed}[name](made)
        ready(made.getsockname()[1])
        for command, count, _, payload, endpoint in commands():
            if command == "drain":
                await receive_singly(role, receive, count)
                continue
            clock = Clock()
            for _ in range(count):
                if bare:
                    await made.sendto(payload, endpoint)
                else:
                    request = [(socket.IPPROTO_IP, IP_TTL, struct.pack("i", SENT_TTL))]
                    await made.sendmsg([payload], request, 0, endpoint)
            clock.report(count, payload)


def plain(made):
    async def receive():
        payload, _ = await made.recvfrom(MAX_BYTES)
        return payload

    return receive


def unparsed(made):
    async def receive():
        payload, _, _, _ = await made.recvmsg(MAX_BYTES, CONTROL_ROOM)
        return payload

    return receive


def values(made):
    """Receive the same value as `PacketConn.receive` returns, through the public constructors."""
    from trio_ipv4 import ControlMessage, Datagram

    async def receive():
        payload, items, flags, peer = await made.recvmsg(MAX_BYTES, CONTROL_ROOM)
        ttl = ifindex = dst = local = None
        for level, kind, data in items:
            if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                ifindex, to_local, to = FACTS.unpack(data)
                dst, local = ipaddress.IPv4Address(to), ipaddress.IPv4Address(to_local)
            elif level == socket.IPPROTO_IP and kind == IP_TTL:
                ttl = int.from_bytes(data, sys.byteorder)
        control = ControlMessage(ttl=ttl, dst=dst, ifindex=ifindex, local=local)
        return Datagram(payload, peer, control=control, truncated=bool(flags & socket.MSG_TRUNC))

    return receive


# asyncio and uvloop


class Counting(asyncio.DatagramProtocol):
    """Count datagrams, until as many as wanted have come."""

    def expect(self, count):
        self.received, self.wanted, self.last = 0, count, b""
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def datagram_received(self, data, addr):  # noqa: ARG002  # asyncio's signature.
        self.received += 1
        if self.received == self.wanted:
            self.last = data
            self.done.set_result(None)

    def connection_made(self, transport):  # noqa: ARG002  # asyncio's signature.
        self.writable = asyncio.Event()
        self.writable.set()

    def resume_writing(self):
        self.writable.set()

    def pause_writing(self):
        self.writable.clear()


class UntilOctet(Counting):
    """Count datagrams, until one of a single octet."""

    def datagram_received(self, data, addr):  # noqa: ARG002  # asyncio's signature.
        self.received += 1
        if len(data) == 1:
            self.last = data
            self.done.set_result(None)


async def asyncio_protocol(role):
    loop = asyncio.get_running_loop()
    made = stdlib_socket(role)
    port = made.getsockname()[1]
    kind = UntilOctet if role == "flow" else Counting
    transport, protocol = await loop.create_datagram_endpoint(kind, sock=made)
    ready(port)
    for command, count, _, payload, endpoint in commands():
        clock = Clock()
        if command == "drain":
            await protocol.expect(count)
            clock.report(protocol.received, protocol.last)
            continue
        for _ in range(count):
            transport.sendto(payload, endpoint)
            if not protocol.writable.is_set():
                await protocol.writable.wait()
        while transport.get_write_buffer_size():  # noqa: ASYNC110  # asyncio tells of the low-water mark, not of 0.
            await asyncio.sleep(0)
        clock.report(count, payload)
    transport.close()


# anyio


async def anyio_socket(role):
    from anyio.abc import SocketAttribute, UDPSocket

    async with await UDPSocket.from_socket(stdlib_socket(role)) as made:

        async def receive():
            payload, _ = await made.receive()
            return payload

        ready(made.extra(SocketAttribute.local_port))
        for command, count, _, payload, endpoint in commands():
            if command == "drain":
                await receive_singly(role, receive, count)
                continue
            clock = Clock()
            for _ in range(count):
                await made.sendto(payload, *endpoint)
            clock.report(count, payload)


def main(name, role):
    if name.startswith(("ours", "trio")):
        import trio

        trio.run(ours if name.startswith("ours") else trio_sockets, name, role)
    elif name == "asyncio":
        asyncio.run(asyncio_protocol(role))
    elif name == "uvloop":
        import uvloop

        uvloop.run(asyncio_protocol(role))
    else:
        import anyio

        anyio.run(anyio_socket, role, backend=name.removeprefix("anyio-"))


if __name__ == "__main__":
    main(*sys.argv[1:])
