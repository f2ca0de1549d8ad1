"""Classic BPF programs: instructions, the kernel's rules for them, and the text that `tcpdump -ddd` prints."""

from __future__ import annotations

import re
import struct
import sys
from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._errors import ParseError
from trio_ipv4._values.fields import to_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS (linux/bpf_common.h)."""

_CLASS: Final = 0x07  # BPF_CLASS(), linux/bpf_common.h
_JUMP: Final = 0x05  # BPF_JMP; as a whole opcode, BPF_JMP | BPF_JA
_RETURNS: Final = (0x06, 0x16)  # BPF_RET | BPF_K and BPF_RET | BPF_A: the two that the kernel knows
_FIELDS: Final = (("op", 0xFFFF), ("jt", 0xFF), ("jf", 0xFF), ("k", 0xFFFF_FFFF))
"""The fields of `struct sock_filter` (linux/filter.h), and the highest value of each."""

_LINE: Final = re.compile(r"[^\n]+")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
"""At most ten digits, as 2**32 - 1 has: `int()` takes much that tcpdump never prints, and refuses very long ones."""


@final
@attrs.frozen(init=False)
class RawInstruction:
    """One instruction of a classic BPF program, as the kernel reads it (`struct sock_filter`, linux/filter.h).

    Args:
        op: The opcode, 0 to 65535.
        jt: How many instructions a jump skips when its condition holds, 0 to 255.
        jf: How many it skips otherwise, 0 to 255.
        k: The operand, 0 to 2**32 - 1.

    Raises:
        TypeError: A field is not an integer.
        ValueError: A field is out of its range.
    """

    op: int = attrs.field(repr=hex)
    jt: int
    jf: int
    k: int = attrs.field(repr=hex)

    def __init__(self, op: int, jt: int, jf: int, k: int) -> None:
        fields = zip(_FIELDS, (op, jt, jf, k), strict=True)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            *(to_integer(value, name, 0, highest) for (name, highest), value in fields)
        )


def to_program(instructions: Iterable[RawInstruction]) -> tuple[RawInstruction, ...]:
    """Check a program as the kernel would. The kernel reports only EINVAL; this says which instruction and why.

    The kernel checks more: unknown opcodes, division by a constant zero, scratch slots (net/core/filter.c,
    `bpf_check_classic`). What it accepts passes here.

    Raises:
        TypeError: It is a string, or an element is not a `RawInstruction`.
        ValueError: There are none or more than 4096, a jump leads past the end, or the last one is no return.
    """
    given: object = instructions
    if isinstance(given, str):
        raise TypeError("a program must be a collection of RawInstruction, got a string: parse_bpf() reads tcpdump's")
    program = tuple(instructions)
    if not 1 <= len(program) <= MAX_INSTRUCTIONS:
        raise ValueError(f"a program must have from 1 to {MAX_INSTRUCTIONS} instructions, got {len(program)}")
    for index, instruction in enumerate(program):
        if not isinstance(instruction, RawInstruction):
            raise TypeError(f"instruction {index} must be a RawInstruction, got {instruction!r}")
    if program[-1].op not in _RETURNS:
        raise ValueError(f"instruction {len(program) - 1}, the last, must be a return, got {program[-1]!r}")
    for index, instruction in enumerate(program):
        _check_jumps(instruction, index, len(program))
    return program


def marshal_program(program: Iterable[RawInstruction], byte_order: Literal["little", "big"] = sys.byteorder) -> bytes:
    """Write an array of `struct sock_filter` (linux/filter.h), 8 octets each, in the host's order."""
    layout = struct.Struct("<HBBI" if byte_order == "little" else ">HBBI")
    return b"".join(layout.pack(each.op, each.jt, each.jf, each.k) for each in program)


def parse_bpf(text: str) -> tuple[RawInstruction, ...]:
    r"""Read a program as `tcpdump -ddd` prints it: the number of instructions, then `op jt jf k` on a line for each.

    tcpdump assumes Ethernet unless told otherwise; on a raw IP socket, a program sees the packet from its IP header:
    `tcpdump -ddd -y RAW 'icmp[0] == 8'`. On a UDP socket it sees it from the UDP header.

    Raises:
        TypeError: `text` is not a string.
        ParseError: Anything else. Its `offset` is in characters, and that of the line at fault.

    Example:
        >>> parse_bpf("1\n6 0 0 65535\n")
        (RawInstruction(op=0x6, jt=0, jf=0, k=0xffff),)
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {text!r}")
    lines = _lines(text)
    count = _parse_count(*next(lines, (0, [])))
    program: list[RawInstruction] = []
    for offset, numbers in lines:
        if len(program) == count:
            raise ParseError(f"{count} instructions were announced, there are more", offset=offset)
        program.append(_parse_instruction(offset, numbers))
    if len(program) < count:
        raise ParseError(f"{count} instructions were announced, got {len(program)}", offset=len(text))
    return tuple(program)


def _check_jumps(instruction: RawInstruction, index: int, length: int) -> None:
    if instruction.op & _CLASS != _JUMP:
        return
    skips = {"k": instruction.k} if instruction.op == _JUMP else {"jt": instruction.jt, "jf": instruction.jf}
    highest = length - index - 2
    for name, skip in skips.items():
        if skip > highest:
            raise ValueError(f"instruction {index} jumps past the end: {name} must be from 0 to {highest}, got {skip}")


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give the words of each line that has any, and where the line starts."""
    for match in _LINE.finditer(text):
        words = match[0].split()
        if words:
            yield match.start(), words


def _parse_count(offset: int, words: list[str]) -> int:
    if len(words) != 1:
        raise ParseError("expected the number of instructions alone on the first line", offset=offset)
    count = _parse_number(offset, words[0], "the number of instructions", MAX_INSTRUCTIONS)
    if count == 0:
        raise ParseError(f"the number of instructions must be from 1 to {MAX_INSTRUCTIONS}, got 0", offset=offset)
    return count


def _parse_instruction(offset: int, words: list[str]) -> RawInstruction:
    if len(words) != len(_FIELDS):
        raise ParseError(f"expected the four numbers 'op jt jf k', got {len(words)} words", offset=offset)
    return RawInstruction(
        *(_parse_number(offset, word, name, highest) for word, (name, highest) in zip(words, _FIELDS, strict=True))
    )


def _parse_number(offset: int, word: str, name: str, highest: int) -> int:
    if not _NUMBER.fullmatch(word) or int(word) > highest:
        raise ParseError(f"{name} must be a decimal number from 0 to {highest}, got {word[:20]!r}", offset=offset)
    return int(word)
