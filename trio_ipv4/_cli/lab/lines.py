"""The lines in a stream of octets."""

from __future__ import annotations

from typing import Final, final

LONGEST: Final = 65536
"""In octets: a longer line comes in parts, so that a command without line ends can't fill the memory."""


@final
class Lines:
    """Cut octets, as they come, into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, octets: bytes | bytearray) -> list[str]:
        """Take octets, and return the lines that they complete."""
        *whole, rest = (self._rest + bytes(octets)).split(b"\n")
        found = [part for line in whole for part in _cut(line.removesuffix(b"\r"))]
        *full, self._rest = _cut(rest)
        return [_text(line) for line in found + full]

    def end(self) -> list[str]:
        """Return the last line, if it has no end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _cut(line: bytes) -> list[bytes]:
    return [line[start : start + LONGEST] for start in range(0, len(line), LONGEST)] or [b""]


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace")
