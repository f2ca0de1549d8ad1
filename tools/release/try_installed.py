"""Try what is installed: the import, the command, and datagrams over loopback in a batch.

`python -m trio_ipv4.testing python tools/release/try_installed.py compiled` does it in a private network, and fails if
the installation has no compiled part; with `pure`, if it has one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import trio

import trio_ipv4


async def round_trip() -> None:
    """Send a batch to 127.0.0.1 and join a group on `lo`; both are confirmed by what arrives."""
    async with trio_ipv4.open_udp("127.0.0.1") as receiver, trio_ipv4.open_udp("127.0.0.1") as sender:
        peer = receiver.local_endpoint
        for number in range(8):
            await sender.send_to(b"%d" % number, peer)
        payloads: list[bytes] = []
        with trio.fail_after(5):
            while len(payloads) < 8:
                payloads += [datagram.payload for datagram in await receiver.receive_batch()]
    assert payloads == [b"%d" % number for number in range(8)], payloads
    async with (
        trio_ipv4.open_udp("127.0.0.1") as sender,
        trio_ipv4.open_udp() as receiver,
        receiver.joined("lo", "239.1.2.3"),
    ):
        sender.multicast_interface = "lo"
        await sender.send_to(b"to a group", ("239.1.2.3", receiver.local_endpoint[1]))
        with trio.fail_after(5):
            datagram = await receiver.receive()
    assert datagram.payload == b"to a group", datagram


def main(expected: str) -> None:
    where = Path(trio_ipv4.__file__).resolve()
    # A checkout in the working directory would be imported instead of what was installed.
    assert where.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()), f"{where} is not what was installed"
    found = "compiled" if importlib.util.find_spec("trio_ipv4._kernel.calls._mmsg") else "pure"
    assert found == expected, f"it is {found}, not {expected}"
    command = Path(sysconfig.get_path("scripts"), "trio-ipv4")
    version = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    way = version.splitlines()[0]
    assert way.endswith(", compiled") == (expected == "compiled"), f"--version says {way}"
    trio.run(round_trip)
    print(f"{way}, and datagrams arrive, under Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
