from __future__ import annotations

import ctypes
import pickle
import socket
import struct
import sys
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ipv4._errors import ParseError
from trio_ipv4._values.bpf import RawInstruction, marshal_program, parse_bpf, to_program

RETURN = RawInstruction(0x06, 0, 0, 0xFFFF)  # BPF_RET | BPF_K
RETURN_A = RawInstruction(0x16, 0, 0, 0)  # BPF_RET | BPF_A
LOAD = RawInstruction(0x00, 0, 0, 0)  # BPF_LD | BPF_IMM

# tcpdump -ddd -y RAW 'icmp[0] == 8'
TCPDUMP = """\
12
48 0 0 0
84 0 0 240
21 0 8 64
48 0 0 9
21 0 6 1
40 0 0 6
69 4 0 8191
177 0 0 0
80 0 0 0
21 0 1 8
6 0 0 262144
6 0 0 0
"""

INSTRUCTIONS = st.builds(
    RawInstruction, st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF)
)
# What a kernel could take: opcodes that it knows, short jumps, small operands.
KNOWN = [
    *(0x00, 0x01, 0x02, 0x03, 0x60, 0x61, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x81, 0xB1, 0x07, 0x87),
    *(mode | source | 4 for mode in range(0x00, 0xB0, 0x10) for source in (0, 8)),
    *(mode | source | 5 for mode in range(0x00, 0x60, 0x10) for source in (0, 8)),
    *(0x06, 0x16, 0x0E, 0x1E, 0xFFFF, 0x106),
]
PLAUSIBLE = st.lists(
    st.builds(RawInstruction, st.sampled_from(KNOWN), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    max_size=5,
)


def kernel_accepts(program: list[RawInstruction]) -> bool:
    """Attach the program to a socket (SO_ATTACH_FILTER 26, asm-generic/socket.h; `struct sock_fprog`)."""
    code = ctypes.create_string_buffer(marshal_program(program), 8 * len(program))
    fprog = struct.pack("HP", len(program), ctypes.addressof(code))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
        try:
            unbound.setsockopt(socket.SOL_SOCKET, 26, fprog)
        except OSError:
            return False
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own check is Linux's")
@given(PLAUSIBLE)
@example([RETURN])
@example([RETURN_A])
@example([RawInstruction(0x05, 0, 0, 0), RETURN])
@example([RawInstruction(0x05, 9, 9, 0), RETURN])
@example([RawInstruction(0x15, 0, 0, 7), RETURN])
@example([RawInstruction(0x00, 255, 255, 0), RETURN])
@example([RawInstruction(0x07, 255, 255, 0), RETURN])
@example([RawInstruction(0x06, 255, 255, 0)])
@example([LOAD] * 4095 + [RETURN])
def test_what_the_kernel_accepts_is_never_refused(program: list[RawInstruction]) -> None:
    if kernel_accepts(program):
        assert to_program(program) == tuple(program)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own check is Linux's")
@pytest.mark.parametrize(
    "program",
    [
        [LOAD],
        [RawInstruction(0x0E, 0, 0, 0)],
        [RawInstruction(0x05, 0, 0, 1), RETURN],
        [RawInstruction(0x05, 0, 0, 0xFFFF_FFFF), RETURN],
        [RawInstruction(0x15, 1, 0, 0), RETURN],
        [RawInstruction(0x1D, 0, 1, 0), RETURN],
        [LOAD] * 4096 + [RETURN],
    ],
)
def test_what_is_refused_here_the_kernel_refuses_too(program: list[RawInstruction]) -> None:
    with pytest.raises(ValueError, match="instruction"):
        to_program(program)
    assert not kernel_accepts(program)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([], "a program must have from 1 to 4096 instructions, got 0"),
        ([LOAD] * 4096 + [RETURN], "a program must have from 1 to 4096 instructions, got 4097"),
        ([RETURN, LOAD], "instruction 1, the last, must be a return, got RawInstruction(op=0x0, jt=0, jf=0, k=0x0)"),
        (
            [LOAD, RawInstruction(0x05, 0, 0, 1), RETURN],
            "instruction 1 jumps past the end: k must be from 0 to 0, got 1",
        ),
        (
            [RawInstruction(0x15, 2, 0, 8), RETURN, RETURN],
            "instruction 0 jumps past the end: jt must be from 0 to 1, got 2",
        ),
        (
            [RawInstruction(0x15, 0, 255, 8), RETURN, RETURN],
            "instruction 0 jumps past the end: jf must be from 0 to 1, got 255",
        ),
        ([RETURN, RawInstruction(0x15, 0, 0, 8)], "instruction 1, the last, must be a return, got RawInstruction("),
        ([RETURN] * 4 + [LOAD], "instruction 4, the last, must be a return, got RawInstruction("),
        (
            [LOAD, RawInstruction(0x05, 0, 0, 3), *[RETURN] * 3],
            "instruction 1 jumps past the end: k must be from 0 to 2, got 3",
        ),
    ],
)
def test_a_program_says_which_instruction_is_wrong(program: list[RawInstruction], message: str) -> None:
    with pytest.raises(ValueError, match="instruction") as caught:
        to_program(program)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "jump",
    [
        RawInstruction(0x05, 0, 0, 254),  # BPF_JMP | BPF_JA
        RawInstruction(0x15, 254, 0, 0),  # BPF_JMP | BPF_JEQ | BPF_K
        RawInstruction(0x1D, 0, 254, 0),  # BPF_JMP | BPF_JEQ | BPF_X
    ],
)
def test_a_jump_may_lead_to_the_last_instruction(jump: RawInstruction) -> None:
    assert to_program([jump, *[LOAD] * 254, RETURN])[0] == jump
    with pytest.raises(ValueError, match=r"must be from 0 to 253, got 254"):
        to_program([jump, *[LOAD] * 253, RETURN])


@pytest.mark.parametrize("op", [0x00, 0x01, 0x02, 0x03, 0x04, 0x07])  # BPF_LD to BPF_ALU, and BPF_MISC
def test_only_jumps_are_held_to_the_programs_end(op: int) -> None:
    program = (RawInstruction(op, 255, 255, 0xFFFF_FFFF), RETURN)
    assert to_program(program) == program


@pytest.mark.parametrize("value", [(6, 0, 0, 0), 6, None, b"\6\0\0\0\0\0\0\0"])
def test_a_program_is_made_of_instructions(value: Any) -> None:
    with pytest.raises(TypeError, match="instruction 1 must be a RawInstruction, got "):
        to_program([RETURN, value])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0x10000, 0, 0, 0), ValueError, "op must be from 0 to 65535, got 65536"),
        ((0, 256, 0, 0), ValueError, "jt must be from 0 to 255, got 256"),
        ((0, 0, -1, 0), ValueError, "jf must be from 0 to 255, got -1"),
        ((0, 0, 0, 2**32), ValueError, "k must be from 0 to 4294967295, got 4294967296"),
        ((True, 0, 0, 0), TypeError, "op must be an integer from 0 to 65535, got True"),
        ((0, 0, 0, 1.0), TypeError, "k must be an integer from 0 to 4294967295, got 1.0"),
    ],
)
def test_an_instruction_names_field_range_and_value(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        RawInstruction(*arguments)
    assert str(caught.value) == message


@given(INSTRUCTIONS)
def test_instructions_are_values(instruction: RawInstruction) -> None:
    assert eval(repr(instruction)) == instruction
    assert pickle.loads(pickle.dumps(instruction)) == instruction
    assert hash(attrs.evolve(instruction)) == hash(instruction)


def test_an_instruction_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        RETURN.k = 0  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del RETURN.k


@given(st.lists(INSTRUCTIONS, max_size=5))
def test_each_instruction_takes_eight_octets_in_the_hosts_order(program: list[RawInstruction]) -> None:
    for byte_order, layout in (("little", "<HBBI"), ("big", ">HBBI")):
        octets = marshal_program(program, byte_order)  # type: ignore[arg-type]
        assert [RawInstruction(*fields) for fields in struct.iter_unpack(layout, octets)] == program
    assert marshal_program(program) == marshal_program(program, sys.byteorder)


def test_a_program_has_the_octets_of_struct_sock_filter() -> None:
    instruction = RawInstruction(0x15, 1, 2, 0x03040506)
    assert marshal_program([instruction], "little") == bytes.fromhex("1500 01 02 06050403")
    assert marshal_program([instruction], "big") == bytes.fromhex("0015 01 02 03040506")


def test_what_tcpdump_prints_is_read() -> None:
    program = parse_bpf(TCPDUMP)
    assert len(program) == 12
    assert program[2] == RawInstruction(21, 0, 8, 64)
    assert program[-1] == RawInstruction(6, 0, 0, 0)
    assert to_program(program) == program
    if sys.platform == "linux":
        assert kernel_accepts(list(program))


@pytest.mark.parametrize("text", [TCPDUMP.strip(), TCPDUMP.replace("\n", "\r\n"), "\n" + TCPDUMP + "\n \n"])
def test_white_space_around_lines_does_not_matter(text: str) -> None:
    assert parse_bpf(text) == parse_bpf(TCPDUMP)


@given(st.lists(INSTRUCTIONS, min_size=1, max_size=9))
def test_any_program_in_tcpdumps_form_is_read_back(program: list[RawInstruction]) -> None:
    lines = [f"{each.op} {each.jt} {each.jf} {each.k}" for each in program]
    assert parse_bpf("\n".join([str(len(program)), *lines, ""])) == tuple(program)


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "expected the number of instructions alone on the first line"),
        ("6 0 0 0\n", 0, "expected the number of instructions alone on the first line"),
        ("(000) ret #262144\n", 0, "expected the number of instructions alone on the first line"),
        ("0\n", 0, "the number of instructions must be from 1 to 4096, got 0"),
        ("-1\n", 0, "the number of instructions must be a decimal number from 0 to 4096, got '-1'"),
        ("4097\n", 0, "the number of instructions must be a decimal number from 0 to 4096, got '4097'"),
        (
            "1" * 5000,
            0,
            "the number of instructions must be a decimal number from 0 to 4096, got '11111111111111111111'",
        ),
        ("2\n6 0 0 0\n", 10, "2 instructions were announced, got 1"),
        ("1\n6 0 0 0\n6 0 0 0\n", 10, "1 instructions were announced, there are more"),
        ("1\n6 0 0\n", 2, "expected the four numbers 'op jt jf k', got 3 words"),
        ("2\n6 0 0 0\n65536 0 0 0\n", 10, "op must be a decimal number from 0 to 65535, got '65536'"),
        ("1\n6 256 0 0\n", 2, "jt must be a decimal number from 0 to 255, got '256'"),
        ("1\n6 0 0x0 0\n", 2, "jf must be a decimal number from 0 to 255, got '0x0'"),
        ("1\n6 0 0 4294967296\n", 2, "k must be a decimal number from 0 to 4294967295, got '4294967296'"),
        ("1\n6 0 0 1_0\n", 2, "k must be a decimal number from 0 to 4294967295, got '1_0'"),
        ("1\n6 0 0 ٣\n", 2, "k must be a decimal number from 0 to 4294967295, got '٣'"),
    ],
)
def test_a_parse_error_says_which_line_is_wrong(text: str, offset: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_bpf(text)
    assert caught.value.message == message
    assert caught.value.offset == offset


@given(st.text() | st.text("0123456789 \n\r\t-_", max_size=60) | st.from_regex(r"[1-3]\n([0-9]{1,3} ?){1,9}\n.*"))
def test_any_text_is_a_program_or_a_parse_error(text: str) -> None:
    try:
        program = parse_bpf(text)
    except ParseError as error:
        offset = error.offset
    else:
        offset = len(program)
    assert 0 <= offset <= len(text)


@pytest.mark.parametrize("count", [300, 4096])
def test_a_program_has_as_many_instructions_as_announced(count: int) -> None:
    assert parse_bpf(f"{count}\n" + "0 0 0 0\n" * count) == (LOAD,) * count
    with pytest.raises(ParseError, match=f"^{count} instructions were announced, got {count - 1} "):
        parse_bpf(f"{count}\n" + "0 0 0 0\n" * (count - 1))
    with pytest.raises(ParseError, match=f"^{count} instructions were announced, there are more "):
        parse_bpf(f"{count}\n" + "0 0 0 0\n" * (count + 1))


@pytest.mark.parametrize("text", [TCPDUMP.encode(), None, 1])
def test_a_program_is_read_from_text_only(text: Any) -> None:
    with pytest.raises(TypeError, match="text must be a string, got "):
        parse_bpf(text)
