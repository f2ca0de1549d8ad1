"""Captures: files of packets, as tcpdump and Wireshark read and write them.

Files are written in the format pcap (draft-ietf-opsawg-pcap), with nanoseconds, and raw IP packets in them. Files with
either order of octets, either resolution of time, and the usual kinds of links are read.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_MICROSECONDS: Final = 0xA1B2C3D4  # draft-ietf-opsawg-pcap section 4
_NANOSECONDS: Final = 0xA1B23C4D
_PCAPNG: Final = 0x0A0D0D0A  # draft-ietf-opsawg-pcapng section 4.1: the type of a section's header
_FILE: Final = "IHHiIII"
_PACKET: Final = "IIII"
_SNAP_LENGTH: Final = 65535
_RAW_IP: Final = 101  # https://www.tcpdump.org/linktypes.html: LINKTYPE_RAW, and those below
_IPV4: Final = 228
_ETHERNET: Final = 1
_LINUX_COOKED: Final = 113
_LINUX_COOKED_2: Final = 276
_ETHERTYPE_IPV4: Final = b"\x08\x00"
_ETHERTYPES_OF_TAGS: Final = {b"\x81\x00", b"\x88\xa8"}  # IEEE 802.1Q and 802.1ad


@final
class CaptureWriter:
    """Write IP packets to a new file.

    Args:
        path: Where. A file that is there is replaced.

    Raises:
        OSError: The file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._file: Final = path.open("wb")
        self._file.write(struct.pack(f"={_FILE}", _NANOSECONDS, 2, 4, 0, 0, _SNAP_LENGTH, _RAW_IP))

    def write(self, timestamp_ns: int, packet: bytes) -> None:
        """Write a packet, from its IP header on, with its time since the epoch."""
        seconds, nanoseconds = divmod(timestamp_ns, 10**9)
        kept = packet[:_SNAP_LENGTH]
        self._file.write(struct.pack(f"={_PACKET}", seconds, nanoseconds, len(kept), len(packet)) + kept)

    def flush(self) -> None:
        """Let other programs see what was written so far."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_capture(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read the IPv4 packets of a file, each with its time in nanoseconds since the epoch. Others are passed over.

    A last packet that is cut short ends the file: whoever writes it may not be done.

    Raises:
        OSError: The file can't be read.
        ValueError: It is of another format, or of a kind of link that is not known here.
    """
    with path.open("rb") as file:
        order, unit, link = _read_start(file, path)
        packet = struct.Struct(f"{order}{_PACKET}")
        while len(start := file.read(packet.size)) == packet.size:
            seconds, fraction, length, _ = packet.unpack(start)
            octets = file.read(length)
            if len(octets) == length and (found := _network_layer(link, octets)):
                yield seconds * 10**9 + fraction * unit, found


def _read_start(file: BinaryIO, path: Path) -> tuple[str, int, int]:
    """Return the order of octets, the unit of time in nanoseconds, and the kind of link."""
    start = file.read(struct.calcsize(f"={_FILE}"))
    for order in "<>":
        if len(start) < struct.calcsize(f"={_FILE}"):
            break
        magic, *_, link = struct.unpack(f"{order}{_FILE}", start)
        if magic in {_MICROSECONDS, _NANOSECONDS}:
            link &= 0xFFFF  # The upper bits tell of frame check sequences.
            if link not in {_RAW_IP, _IPV4, _ETHERNET, _LINUX_COOKED, _LINUX_COOKED_2}:
                raise ValueError(f"{path} is of a link type that is not known here, {link}")
            return order, 1 if magic == _NANOSECONDS else 1000, link
        if magic == _PCAPNG:
            raise ValueError(f"{path} is in the format pcapng: convert it by 'editcap -F pcap {path} NEW'")
    raise ValueError(f"{path} is no capture in the format pcap, as 'tcpdump -w' writes it")


def _network_layer(link: int, frame: bytes) -> bytes:
    """Return the IPv4 packet of a frame, or nothing if it has none."""
    if link in {_RAW_IP, _IPV4}:
        return frame if frame[:1] and frame[0] >> 4 == 4 else b""
    at = {_ETHERNET: 12, _LINUX_COOKED: 14, _LINUX_COOKED_2: 0}[link]
    ahead = {_ETHERNET: 14, _LINUX_COOKED: 16, _LINUX_COOKED_2: 20}[link]
    while link == _ETHERNET and frame[at : at + 2] in _ETHERTYPES_OF_TAGS:
        at, ahead = at + 4, ahead + 4
    return frame[ahead:] if frame[at : at + 2] == _ETHERTYPE_IPV4 else b""
