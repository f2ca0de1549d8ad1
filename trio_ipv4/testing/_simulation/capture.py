"""Packets on the links, written to a file that tcpdump, tshark and Wireshark read (pcap-savefile(5))."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, final

if TYPE_CHECKING:
    import os

    from trio_ipv4.testing._simulation.clock import Clock
    from trio_ipv4.testing._simulation.packets import Packet

_MAGIC: Final = 0xA1B2_3C4D
"""Times are in nanoseconds."""
_VERSION: Final = 2, 4
_SNAPLEN: Final = 65535
_LINKTYPE_RAW: Final = 101
"""Packets begin with the IP header."""


@final
class Capture:
    """A capture that goes on until it is closed, or the network ends. Made by `SimulatedNetwork.capture`."""

    def __init__(self, path: str | os.PathLike[str], clock: Clock) -> None:
        self._clock: Final = clock
        self._file: Final = Path(path).open("wb")  # noqa: SIM115  # It stays open.
        self._file.write(struct.pack("<IHHiIII", _MAGIC, *_VERSION, 0, 0, _SNAPLEN, _LINKTYPE_RAW))

    def write(self, packet: Packet) -> None:
        """Write a packet down, at this moment."""
        if not self._file.closed:
            octets = packet.octets()
            seconds, nanoseconds = divmod(self._clock.nanoseconds(), 10**9)
            self._file.write(struct.pack("<IIII", seconds, nanoseconds, len(octets), len(octets)) + octets)

    def close(self) -> None:
        """End the capture. The file is complete."""
        if not self._file.closed:
            self._clock.catch_up()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
