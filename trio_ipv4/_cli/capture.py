"""Captures: files of packets, as tcpdump and Wireshark read and write them.

Files are written in the format pcap (draft-ietf-opsawg-pcap), with nanoseconds, and raw IP packets in them. Files of
the formats pcap and pcapng are read, with either order of octets, any resolution of time, and the usual kinds of links.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from _typeshed import WriteableBuffer

STANDARD_INPUT: Final = Path("-")

_MICROSECONDS: Final = 0xA1B2C3D4  # draft-ietf-opsawg-pcap section 4
_NANOSECONDS: Final = 0xA1B23C4D
_FILE: Final = "IHHiIII"
_FILE_LENGTH: Final = struct.calcsize(f"={_FILE}")
_PACKET: Final = "IIII"
_SNAP_LENGTH: Final = 65535
_LONGEST: Final = 1 << 24
"""A longer packet, or block, is a sign of a broken file. tcpdump's own limit for a packet is 262144 octets."""
_RAW_IP: Final = 101  # https://www.tcpdump.org/linktypes.html: LINKTYPE_RAW, and those below
_IPV4: Final = 228
_ETHERNET: Final = 1
_BSD_LOOPBACK: Final = 0
_LINUX_COOKED: Final = 113
_LINUX_COOKED_2: Final = 276
_TYPE_AT: Final = {_ETHERNET: 12, _LINUX_COOKED: 14, _LINUX_COOKED_2: 0}
_HEADER: Final = {_ETHERNET: 14, _LINUX_COOKED: 16, _LINUX_COOKED_2: 20, _BSD_LOOPBACK: 4}
_KNOWN: Final = {_RAW_IP, _IPV4, *_HEADER}
_ETHERTYPE_IPV4: Final = b"\x08\x00"
_ETHERTYPES_OF_TAGS: Final = {b"\x81\x00", b"\x88\xa8"}  # IEEE 802.1Q and 802.1ad
_AF_INET: Final = {b"\x02\0\0\0", b"\0\0\0\x02"}  # In the order of the machine that wrote the file.

_SECTION: Final = 0x0A0D0D0A  # draft-ietf-opsawg-pcapng section 4.1, the block types of this page, and 4.2 to 4.4
_INTERFACE: Final = 1
_SIMPLE: Final = 3
_ENHANCED: Final = 6
_ORDER: Final = 0x1A2B3C4D  # section 4.1: it tells the order of octets
_NAME, _RESOLUTION, _OFFSET = 2, 9, 14  # section 4.2: options of an interface
_POWER_OF_TWO: Final = 0x80
_LATEST: Final = 1 << 63
"""In nanoseconds since the epoch, in the year 2262: a later time is a sign of a broken file."""
_BUFFER: Final = 1 << 16


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


@attrs.frozen
class Captured:
    """A packet of a capture, from its IP header on, with its time in nanoseconds since the epoch.

    `interface` is its name, or its number as "#3", where the file tells it.
    """

    timestamp_ns: int
    packet: bytes
    interface: str | None


def read_capture(path: Path, before_waiting: Callable[[], None] = lambda: None) -> Iterator[Captured]:
    """Read the IPv4 packets of a file, or of a pipe. Others are passed over.

    A last packet that is cut short ends the file: whoever writes it may not be done.

    Args:
        path: The file; `STANDARD_INPUT`: what is written into this program.
        before_waiting: Called each time before more octets are read, which may take long: packets may wait.

    Raises:
        OSError: The file can't be read; or it is of another format, or broken, or of a kind of link that is not known
            here.
    """
    # The number, since who waits in `sys.stdin` keeps Python from its end.
    number = path == STANDARD_INPUT
    with (
        open(0 if number else path, "rb", buffering=0, closefd=not number) as raw,
        io.BufferedReader(_Raw(raw, before_waiting), _BUFFER) as file,
    ):
        start = file.read(4)
        if start == struct.pack("=I", _SECTION):
            yield from _Sections(file, path, start)
        else:
            yield from _read_pcap(file, start + file.read(_FILE_LENGTH - 4), path)


@final
class _Raw(io.RawIOBase):
    """A file without a buffer that tells before it is read."""

    def __init__(self, raw: io.FileIO, before_waiting: Callable[[], None]) -> None:
        self._raw: Final = raw
        self._before_waiting: Final = before_waiting

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Read what is there, or wait."""
        self._before_waiting()
        return self._raw.readinto(buffer)


def _read_pcap(file: BinaryIO, start: bytes, path: Path) -> Iterator[Captured]:
    order, unit, link = _read_start(start, path)
    packet = struct.Struct(f"{order}{_PACKET}")
    while len(head := file.read(packet.size)) == packet.size:
        seconds, fraction, length, _ = packet.unpack(head)
        if length > _LONGEST:
            raise OSError(f"{path} is broken: a packet of {length} octets")
        octets = file.read(length)
        if len(octets) == length and (found := _network_layer(link, octets)):
            yield Captured(seconds * 10**9 + fraction * unit, found, _number(link, octets))


def _read_start(start: bytes, path: Path) -> tuple[str, int, int]:
    """Return the order of octets, the unit of time in nanoseconds, and the kind of link."""
    for order in "<>" if len(start) == _FILE_LENGTH else "":
        magic, *_, link = struct.unpack(f"{order}{_FILE}", start)
        if magic in {_MICROSECONDS, _NANOSECONDS}:
            # The upper bits tell of frame check sequences.
            return order, 1 if magic == _NANOSECONDS else 1000, _known(link & 0xFFFF, path)
    raise OSError(f"{path} is no capture in the format pcap or pcapng, as 'tcpdump -w' and Wireshark write it")


def _known(link: int, path: Path) -> int:
    if link not in _KNOWN:
        raise OSError(f"{path} is of a link type that is not known here, {link}")
    return link


@attrs.frozen
class _Interface:
    """What a file of the format pcapng tells of an interface: link type, name, units in a second, and an offset."""

    link: int
    name: str | None
    units: int
    offset: int


@final
class _Sections:
    """The packets of a file of the format pcapng: sections of blocks, each section with its own order of octets."""

    def __init__(self, file: BinaryIO, path: Path, start: bytes) -> None:
        self._file: Final = file
        self._start = start
        self._path: Final = path
        self._order = "<"
        self._interfaces: list[_Interface] = []
        self._time = 0

    def __iter__(self) -> Iterator[Captured]:
        while len(head := self._start + self._file.read(12 - len(self._start))) == 12:
            self._start = b""
            # The octets behind the length belong to the body. In the header of a section, they tell the order.
            if head[:4] == struct.pack("=I", _SECTION):
                self._order = "<" if struct.unpack_from("<I", head, 8)[0] == _ORDER else ">"
                self._interfaces = []
            kind, length = struct.unpack_from(f"{self._order}II", head)
            if not 12 <= length <= _LONGEST:
                raise OSError(f"{self._path} is broken: a block of {length} octets")
            body = head[8:] + self._file.read(length - 12)
            if len(body) < length - 8:
                return
            yield from self._read_block(kind, body[:-4])

    def _read_block(self, kind: int, body: bytes) -> Iterator[Captured]:
        try:
            if kind == _INTERFACE:
                self._interfaces.append(self._read_interface(body))
            elif kind == _ENHANCED:
                number, high, low, length = struct.unpack_from(f"{self._order}IIII", body)
                yield from self._packet(self._interfaces[number], body[20 : 20 + length], high << 32 | low)
            elif kind == _SIMPLE:  # It has no time, and the first interface is meant.
                (length,) = struct.unpack_from(f"{self._order}I", body)
                yield from self._packet(self._interfaces[0], body[4 : 4 + length], None)
        except (struct.error, IndexError):
            raise OSError(f"{self._path} is broken: a block of type {kind} is too short, or out of place") from None

    def _packet(self, interface: _Interface, frame: bytes, units: int | None) -> Iterator[Captured]:
        if units is not None:
            self._time = interface.offset * 10**9 + units * 10**9 // interface.units
            if not 0 <= self._time < _LATEST:
                raise OSError(f"{self._path} is broken: a packet of {self._time} ns since the epoch")
        if found := _network_layer(interface.link, frame):
            yield Captured(self._time, found, interface.name or _number(interface.link, frame))

    def _read_interface(self, body: bytes) -> _Interface:
        (link,) = struct.unpack_from(f"{self._order}H", body)
        options = dict(self._options(body[8:]))
        resolution = options.get(_RESOLUTION, b"\x06")[0]
        units = 2 ** (resolution & ~_POWER_OF_TWO) if resolution & _POWER_OF_TWO else 10**resolution
        (offset,) = struct.unpack(f"{self._order}q", options.get(_OFFSET, bytes(8)))
        name = options[_NAME].rstrip(b"\0").decode(errors="backslashreplace") if _NAME in options else None
        return _Interface(_known(link, self._path), name, units, offset)

    def _options(self, octets: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(octets):
            code, length = struct.unpack_from(f"{self._order}HH", octets, at)
            yield code, octets[at + 4 : at + 4 + length]
            at += 4 + (length + 3 & ~3)  # Options are filled up to 32 bits.


def _network_layer(link: int, frame: bytes) -> bytes:
    """Return the IPv4 packet of a frame, or nothing if it has none."""
    if link in {_RAW_IP, _IPV4}:
        return frame if frame[:1] and frame[0] >> 4 == 4 else b""
    if link == _BSD_LOOPBACK:
        return frame[_HEADER[link] :] if frame[:4] in _AF_INET else b""
    at, ahead = _TYPE_AT[link], _HEADER[link]
    while link == _ETHERNET and frame[at : at + 2] in _ETHERTYPES_OF_TAGS:
        at, ahead = at + 4, ahead + 4
    return frame[ahead:] if frame[at : at + 2] == _ETHERTYPE_IPV4 else b""


def _number(link: int, frame: bytes) -> str | None:
    """Return the number of the interface, if it comes with the packet, as in a capture of all interfaces."""
    # https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
    return f"#{struct.unpack_from('!I', frame, 4)[0]}" if link == _LINUX_COOKED_2 else None
