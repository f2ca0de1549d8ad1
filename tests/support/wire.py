"""Messages on the wire: their checksums, and what tshark reads in packets that a test wrote."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trio_ipv4 import Header


FLAGS = {"False": "0", "True": "1"}


def summed(octets: bytes) -> bytes:
    """Fill in the checksum of a message, by RFC 1071's own way: add up words, fold the carries, invert."""
    blank = octets[:2] + b"\0\0" + octets[4:]
    total = sum(word for (word,) in struct.iter_unpack("!H", blank + bytes(len(blank) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return blank[:2] + struct.pack("!H", total ^ 0xFFFF) + blank[4:]


def need_tshark() -> None:
    """Skip the test where tshark is missing."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")


def write_capture(path: Path, header: Header, messages: Iterable[bytes]) -> None:
    """Write messages to a file, each behind this IP header, with its length and its checksum."""
    # A pcap file (draft-ietf-opsawg-pcap): its header with link type 101, raw IP; then each packet with its own.
    octets = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for message in messages:
        whole = header.header_len + len(message)
        packet = attrs.evolve(header, total_len=whole).with_checksum().marshal() + message
        octets += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    path.write_bytes(octets)


def tshark(capture: Path, *arguments: str) -> str:
    """Return what tshark prints about a capture."""
    argv = ["tshark", "-r", str(capture), "-n", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def fields_of(capture: Path, fields: Iterable[str], *arguments: str) -> list[list[str]]:
    """Return these fields of each packet."""
    words = [word for field in fields for word in ("-e", field)]
    # Wireshark 4.6 prints a flag as False or True, 4.0 as 0 or 1.
    rows = tshark(capture, *arguments, "-T", "fields", *words).splitlines()
    return [[FLAGS.get(field, field) for field in row.split("\t")] for row in rows]
