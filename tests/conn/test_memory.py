"""What a connection costs in memory, and that strangers can't make it cost more."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap

from trio_ipv4 import ControlFlags, open_udp
from trio_ipv4._conn.caches import CACHED


async def test_a_million_distinct_sources_do_not_grow_what_a_connection_remembers() -> None:
    async with open_udp(control_flags=ControlFlags.SRC | ControlFlags.TTL) as conn:
        for number in range(1_000_000):
            conn._codec._tables.peers[struct.pack("=H2xI8x", 2, number)]
        for number in range(50_000):
            conn._codec._tables.controls[number.to_bytes(4, "big")]
        assert len(conn._codec._tables.peers) <= CACHED
        assert len(conn._codec._tables.controls) <= CACHED


def run(script: str) -> str:
    """Run a script in a process of its own, whose memory is nobody else's."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout


def test_datagrams_from_ever_new_sources_leave_memory_flat() -> None:
    """Loopback has 127.0.0.0/8 to send from, and each source has 65,535 ports."""
    out = run(
        """
        import resource, trio
        from trio_ipv4 import *

        async def main():
            async with open_udp(control_flags=ControlFlags(127)) as receiver, open_udp() as sender:
                receiver.receive_buffer_size = 1 << 20
                here = ("127.0.0.1", receiver.local_endpoint[1])
                number = 1
                for round in range(125):
                    batch = []
                    for _ in range(256):
                        number += 1
                        source = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                        batch.append(Datagram(b"x", here, control=ControlMessage(src=source)))
                    for _ in range(4):
                        await sender.send_batch(batch)
                        got = 0
                        while got < 256:
                            got += len(await receiver.receive_batch(256))
                    if round == 24:
                        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

        trio.run(main)
        """
    )
    # 25,600 sources more (each four times), which would be several MiB if each left something behind.
    assert int(out) < 1024  # KiB


def test_buffers_of_a_thousand_connections_cost_only_the_pages_that_datagrams_touched() -> None:
    out = run(
        """
        import resource, trio
        from trio_ipv4 import *

        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * resource.getpagesize()

        async def main():
            resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
            async with open_udp() as sender:
                conns = [open_udp() for _ in range(1000)]
                before = resident()
                for conn in conns:
                    await sender.send_to(b"x", ("127.0.0.1", conn.local_endpoint[1]))
                    await conn.receive_batch(64)  # 64 times 65,535 octets of room: 4 MiB of addresses.
                print((resident() - before) // len(conns))
                for conn in conns:
                    conn.close()

        trio.run(main)
        """
    )
    assert int(out) < 64 * 1024
