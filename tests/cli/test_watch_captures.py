"""Captures: what is written, other programs read; what they write, is read."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.wire import fields_of, need_tshark
from trio_ipv4 import Header
from trio_ipv4._cli.capture import Captured, CaptureWriter, read_capture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.pure

TIMES = [1_700_000_000_123_456_789, 1_700_000_001_000_000_000]
PACKETS = [
    Header(src="198.18.0.1", dst=f"239.1.2.{number}", protocol=2, ttl=1, total_len=20).with_checksum().marshal()
    for number in (1, 2)
]
MAC, COOKED = bytes(12), bytes(14)
"""Addresses of Ethernet, and what is ahead of the type in a capture of any Linux interface."""
ETHERNET = MAC + b"\x08\x00"
ARP = MAC + b"\x08\x06" + bytes(28)


def written(path: Path) -> Path:
    with CaptureWriter(path) as writer:
        for time, packet in zip(TIMES, PACKETS, strict=True):
            writer.write(time, packet)
    return path


def pcap(order: str, link: int, frames: list[bytes], *, magic: int = 0xA1B2C3D4) -> bytes:
    octets = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for number, frame in enumerate(frames):
        octets += struct.pack(f"{order}IIII", 1000 + number, 7, len(frame), len(frame)) + frame
    return octets


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 65535) + options)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(order: str, number: int, units: int, frame: bytes) -> bytes:
    sizes = struct.pack(f"{order}IIIII", number, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, sizes + frame)


def read(path: Path, octets: bytes) -> list[Captured]:
    path.write_bytes(octets)
    return list(read_capture(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


def test_what_is_written_is_read(path: Path) -> None:
    assert [(each.timestamp_ns, each.packet, each.interface) for each in read_capture(written(path))] == [
        (time, packet, None) for time, packet in zip(TIMES, PACKETS, strict=True)
    ]


def test_tshark_reads_what_is_written(path: Path) -> None:
    need_tshark()
    assert fields_of(written(path), ["frame.time_epoch", "ip.dst"]) == [
        ["1700000000.123456789", "239.1.2.1"],
        ["1700000001.000000000", "239.1.2.2"],
    ]


def test_what_is_flushed_can_be_read_while_more_is_written(path: Path) -> None:
    with CaptureWriter(path) as writer:
        writer.write(TIMES[0], PACKETS[0])
        writer.flush()
        assert [each.packet for each in read_capture(path)] == PACKETS[:1]


def test_a_packet_that_is_too_long_is_cut(path: Path) -> None:
    with CaptureWriter(path) as writer:
        writer.write(TIMES[0], PACKETS[0] + bytes(70_000))
    (captured,) = read_capture(path)
    assert len(captured.packet) == 65535


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "modpcap", "pcapng"])
def test_what_wireshark_converts_is_read(kind: str, path: Path, tmp_path: Path) -> None:
    need_tshark()
    converted = tmp_path / "converted"
    argv = ["tshark", "-r", str(written(path)), "-F", kind, "-w", str(converted)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if kind == "modpcap":  # Alexey Kuznetsov's format, with longer headers.
        with pytest.raises(OSError, match="no capture in the format pcap or pcapng"):
            list(read_capture(converted))
        return
    times = [time // 1000 * 1000 for time in TIMES] if kind == "pcap" else TIMES
    assert [(each.timestamp_ns, each.packet) for each in read_capture(converted)] == [*zip(times, PACKETS, strict=True)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("link", "frames", "name"),
    [
        (101, [PACKETS[0], b"\x60" + bytes(39), b"", PACKETS[1]], None),
        (228, PACKETS, None),
        (1, [ETHERNET + PACKETS[0], ARP, b"short", ETHERNET + PACKETS[1]], None),
        (1, [MAC + b"\x81\0\0\7\x08\0" + PACKETS[0], MAC + b"\x88\xa8\0\7\x81\0\0\7\x08\0" + PACKETS[1]], None),
        (
            113,
            [COOKED + b"\x08\0" + PACKETS[0], COOKED + b"\x86\xdd" + bytes(40), COOKED + b"\x08\0" + PACKETS[1]],
            None,
        ),
        (276, [b"\x08\0\0\0\0\0\0\3" + bytes(12) + each for each in PACKETS], "#3"),
        (0, [b"\2\0\0\0" + PACKETS[0], b"\x1e\0\0\0" + bytes(40), b"\0\0\0\2" + PACKETS[1]], None),
    ],
)
def test_the_usual_links_are_read(order: str, link: int, frames: list[bytes], name: str | None, path: Path) -> None:
    found = read(path, pcap(order, link, frames))
    assert [each.packet for each in found] == PACKETS
    assert {each.interface for each in found} == {name}
    assert found[0].timestamp_ns == 1000 * 10**9 + 7000
    assert read(path, pcap(order, link, frames, magic=0xA1B23C4D))[0].timestamp_ns == 1000 * 10**9 + 7


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_tells_interfaces_by_name_and_has_any_resolution(order: str, path: Path) -> None:
    octets = section(order)
    octets += interface(order, 101, option(order, 2, b"en0") + option(order, 9, b"\x09") + option(order, 0, b""))
    octets += interface(order, 1, option(order, 9, b"\x8a") + option(order, 14, struct.pack(f"{order}q", 5)))
    octets += block(order, 5, bytes(12))  # Interface statistics: passed over.
    octets += enhanced(order, 0, 3 * 10**9 + 1, PACKETS[0])
    octets += enhanced(order, 1, 3 * 1024 + 512, ETHERNET + PACKETS[1])
    octets += block(order, 3, struct.pack(f"{order}I", len(PACKETS[0])) + PACKETS[0])
    assert read(path, octets) == [
        Captured(3 * 10**9 + 1, PACKETS[0], "en0"),
        Captured(8_500_000_000, PACKETS[1], None),
        Captured(8_500_000_000, PACKETS[0], "en0"),
    ]


def test_pcapng_has_sections_of_either_order(path: Path) -> None:
    octets = b""
    for order, packet in zip("<>", PACKETS, strict=True):
        octets += section(order) + interface(order, 101) + enhanced(order, 0, 7, packet)
    assert read(path, octets) == [Captured(7000, packet, None) for packet in PACKETS]


def test_a_packet_that_is_cut_short_ends_the_file(path: Path) -> None:
    for whole in (
        pcap("<", 101, PACKETS),
        section("<") + interface("<", 101) + enhanced("<", 0, 0, PACKETS[0]) + enhanced("<", 0, 0, PACKETS[1]),
    ):
        for cut in (1, 10, 20, 30):
            assert [each.packet for each in read(path, whole[:-cut])] == PACKETS[:1]


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "no capture"),
        (b"GIF89a and so on, for more than 24 octets", "no capture"),
        (pcap("<", 147, PACKETS), "link type that is not known here, 147"),
        (section("<") + interface("<", 147), "link type that is not known here, 147"),
        (pcap("<", 101, []) + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30), "broken: a packet of"),
        (section("<") + struct.pack("<III", 6, 1 << 30, 0), "broken: a block of"),
        (section("<") + struct.pack("<III", 6, 4, 0), "broken: a block of"),
        (section("<") + enhanced("<", 0, 0, PACKETS[0]), "out of place"),
        (section("<") + block("<", 1, b""), "too short"),
        (section("<") + interface("<", 101, option("<", 9, b"")), "too short"),
        (section("<") + interface("<", 101, option("<", 14, bytes(4))), "too short"),
        (section("<") + interface("<", 101, option("<", 14, bytes(9))), "too short"),
    ],
)
def test_another_file_is_an_error(octets: bytes, reason: str, path: Path) -> None:
    with pytest.raises(OSError, match=reason):
        read(path, octets)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_capture(tmp_path / "nothing"))


starts = st.sampled_from(
    [b"", pcap("<", 1, []), pcap(">", 276, []), section("<"), section(">") + interface(">", 113), section("<")[:20]]
)
blocks = st.builds(
    lambda kind, body: block("<", kind, body), st.sampled_from([1, 3, 6, 0x0A0D0D0A]), st.binary(max_size=60)
)


@given(starts, st.lists(st.one_of(st.binary(max_size=80), blocks), max_size=4))
def test_no_octets_make_reading_fail(tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pcap"
    try:
        for each in read(path, start + b"".join(rest)):
            assert each.packet
    except OSError as error:
        assert "any.pcap is" in str(error)


def test_a_packet_at_no_time_is_an_error(path: Path) -> None:
    def with_offset(seconds: int) -> bytes:
        return section("<") + interface("<", 101, option("<", 14, struct.pack("<q", seconds)))

    for offset in (1 << 40, -5, -(1 << 63)):
        with pytest.raises(OSError, match=r"some\.pcap is broken: a packet of .* ns since the epoch"):
            read(path, with_offset(offset) + enhanced("<", 0, 0, PACKETS[0]))
    latest = (1 << 63) // 10**9
    (captured,) = read(path, with_offset(latest) + enhanced("<", 0, 0, PACKETS[0]))
    assert captured.timestamp_ns == latest * 10**9


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_pipe_is_read_as_it_is_written(kind: str, path: Path) -> None:
    whole = pcap("<", 101, PACKETS)
    if kind == "pcapng":
        whole = section(">") + interface(">", 101) + b"".join(enhanced(">", 0, 0, each) for each in PACKETS)
    os.mkfifo(path)
    waits: list[int] = []

    def give_up() -> None:
        """Nothing comes after the first time."""
        waits.append(len(found))
        if len(waits) > 1:
            raise BlockingIOError

    found: list[bytes] = []
    with path.open("r+b", buffering=0) as pipe, contextlib.suppress(BlockingIOError):  # Both ends: it opens at once.
        pipe.write(whole)
        found.extend(each.packet for each in read_capture(path, give_up))
    assert found == PACKETS
    assert waits == [0, 2]
