"""Instructions of eBPF, as octets (RFC 9669), and an assembler with labels.

Registers are numbers: 0 has what a call returned, 1 to 5 are its arguments, 6 to 9 survive it, 10 is the stack's end.
"""

from __future__ import annotations

import struct
from typing import Final

FRAME: Final = 10
_INSTRUCTION: Final = struct.Struct("<BBhi")
"""Operation; the registers, destination and source, in half an octet each; offset; a number."""
_LOAD: Final = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
"""By the width in octets (RFC 9669 section 5.1), and those below: MEM | size | LDX, STX and ST."""
_STORE: Final = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
_STORE_NUMBER: Final = {1: 0x72, 2: 0x6A, 4: 0x62, 8: 0x7A}
_MOVE: Final = 0xBF  # RFC 9669 section 4.1, and those below: operation | source | ALU64.
_MOVE_NUMBER: Final = 0xB7
_MOVE_NUMBER_32: Final = 0xB4
_ADD: Final = 0x0F
_ADD_NUMBER: Final = 0x07
_AND_NUMBER: Final = 0x57
_SHIFT_LEFT: Final = 0x67
_ATOMIC: Final = 0xDB  # RFC 9669 section 5.3; the number 0 is an addition.
_JUMP: Final = 0x05  # RFC 9669 section 4.3, and those below.
_JUMP_IF_NUMBER: Final = 0x15
_JUMP_UNLESS_NUMBER: Final = 0x55
_JUMP_UNLESS: Final = 0x5D
_JUMP_IF_BELOW: Final = 0xC5  # JSLT: with signs.
_CALL: Final = 0x85
_EXIT: Final = 0x95
_LOAD_64: Final = 0x18  # RFC 9669 section 5.4: takes the room of two.
_MAP: Final = 1
"""As the source register of such a load: the number is a map's descriptor."""


class Assembler:
    """Puts a program together. Jumps lead forward, to a label that is placed later."""

    def __init__(self) -> None:
        self._code: Final[list[tuple[int, int, int, int, int]]] = []
        self._jumps: Final[dict[int, str]] = {}
        self._labels: Final[dict[str, int]] = {}

    def assemble(self) -> bytes:
        """Return the program."""
        octets = b""
        for place, (operation, destination, source, offset, number) in enumerate(self._code):
            target = self._labels[self._jumps[place]] - place - 1 if place in self._jumps else offset
            octets += _INSTRUCTION.pack(operation, destination | source << 4, target, number)
        return octets

    def label(self, name: str) -> None:
        """Place a label."""
        self._labels[name] = len(self._code)

    def move(self, to: int, source: int) -> None:
        """Copy a register."""
        self._add(_MOVE, to, source)

    def set(self, to: int, number: int) -> None:
        """Set a register to a number with a sign, of 32 bits."""
        self._add(_MOVE_NUMBER, to, number=number)

    def set_unsigned(self, to: int, number: int) -> None:
        """Set a register to a number of 32 bits without a sign."""
        self._add(_MOVE_NUMBER_32, to, number=number - (1 << 32) if number >> 31 else number)

    def add(self, to: int, source: int) -> None:
        """Add a register to a register."""
        self._add(_ADD, to, source)

    def add_number(self, to: int, number: int) -> None:
        """Add a number."""
        self._add(_ADD_NUMBER, to, number=number)

    def mask(self, to: int, number: int) -> None:
        """Keep some of a register's bits."""
        self._add(_AND_NUMBER, to, number=number)

    def shift_left(self, to: int, bits: int) -> None:
        """Shift a register."""
        self._add(_SHIFT_LEFT, to, number=bits)

    def load(self, to: int, base: int, offset: int, width: int) -> None:
        """Load from memory."""
        self._add(_LOAD[width], to, base, offset)

    def store(self, base: int, offset: int, source: int, width: int) -> None:
        """Store a register."""
        self._add(_STORE[width], base, source, offset)

    def store_number(self, base: int, offset: int, number: int, width: int) -> None:
        """Store a number."""
        self._add(_STORE_NUMBER[width], base, 0, offset, number)

    def increment(self, base: int, source: int) -> None:
        """Add a register to eight octets of memory, at once."""
        self._add(_ATOMIC, base, source)

    def load_map(self, to: int, descriptor: int) -> None:
        """Load a map's address."""
        self._add(_LOAD_64, to, _MAP, 0, descriptor)
        self._add(0)

    def jump(self, label: str) -> None:
        """Jump."""
        self._jump(_JUMP, label)

    def jump_if(self, register: int, number: int, label: str) -> None:
        """Jump if a register is equal to a number."""
        self._jump(_JUMP_IF_NUMBER, label, register, number=number)

    def jump_unless(self, register: int, number: int, label: str) -> None:
        """Jump if a register is not equal to a number."""
        self._jump(_JUMP_UNLESS_NUMBER, label, register, number=number)

    def jump_if_below(self, register: int, number: int, label: str) -> None:
        """Jump if a register, with its sign, is less than a number."""
        self._jump(_JUMP_IF_BELOW, label, register, number=number)

    def jump_unless_same(self, register: int, other: int, label: str) -> None:
        """Jump if two registers differ."""
        self._jump(_JUMP_UNLESS, label, register, other)

    def call(self, helper: int) -> None:
        """Call a function of the kernel, by its number."""
        self._add(_CALL, number=helper)

    def exit(self) -> None:
        """End the program."""
        self._add(_EXIT)

    def _jump(self, operation: int, label: str, register: int = 0, other: int = 0, number: int = 0) -> None:
        self._jumps[len(self._code)] = label
        self._add(operation, register, other, number=number)

    def _add(self, operation: int, destination: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> None:
        self._code.append((operation, destination, source, offset, number))
