"""The interpreter of a simulated Linux against the kernel's: on UDP, on netlink, and when programs are attached."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import random
import socket
import struct
import sys
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trio_ipv4 import RawInstruction, UnsupportedError
from trio_ipv4._kernel.lifetimes import _program as lifetimes_program
from trio_ipv4._values.bpf import marshal_program
from trio_ipv4.testing._simulation.bpf import check, parse_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._codec.rtnetlink import ByteOrder
    from trio_ipv4.testing._simulation.bpf import Instruction

Program: TypeAlias = "list[Instruction]"

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
NETLINK_USERSOCK = 2  # linux/netlink.h
ETH_P_IP = 0x0800  # linux/if_ether.h
LOOPBACK = 1  # Its index, in each network namespace.
RETURN, RETURN_A = 0x06, 0x16  # linux/bpf_common.h
SET_A, SET_X, STORE_A, STORE_X, A_TO_X, X_TO_A = 0x00, 0x01, 0x02, 0x03, 0x07, 0x87
A_FROM_MEMORY, X_FROM_MEMORY, LENGTH, X_LENGTH, HEADER = 0x60, 0x61, 0x80, 0x81, 0xB1
STORES, RELOADS = (STORE_A, STORE_X), (A_FROM_MEMORY, X_FROM_MEMORY)
ABSOLUTE = WORD, HALF, OCTET = (0x20, 0x28, 0x30)
INDIRECT = WORD_AT_X, _, OCTET_AT_X = (0x40, 0x48, 0x50)
OPERATIONS = (*range(0x04, 0x84, 0x10), 0x94, 0xA4)
ADD, SUBTRACT, MULTIPLY, DIVIDE, _, _, SHIFT_LEFT, SHIFT_RIGHT, MODULO, XOR = OPERATIONS
NEGATE, BY_X = 0x84, 0x08
XOR_X = XOR | BY_X
JUMP, EQUAL, GREATER = 0x05, 0x15, 0x25
CONDITIONS = (EQUAL, EQUAL | BY_X, GREATER, GREATER | BY_X, 0x35, 0x3D, 0x45, 0x4D)
LL_OFF, NET_OFF, AD_OFF = 0xFFE0_0000, 0xFFF0_0000, 0xFFFF_F000  # linux/filter.h, as unsigned
PROTOCOL, IFINDEX, NLATTR, NLATTR_NEST, CPU, ALU_XOR_X = (AD_OFF + each for each in (0, 8, 12, 16, 36, 40))
UNANSWERED = {
    "SKF_AD_PKTTYPE": 4,
    "SKF_AD_MARK": 20,
    "SKF_AD_QUEUE": 24,
    "SKF_AD_HATYPE": 28,
    "SKF_AD_RXHASH": 32,
    "SKF_AD_VLAN_TAG": 44,
    "SKF_AD_VLAN_TAG_PRESENT": 48,
    "SKF_AD_PAY_OFFSET": 52,
    "SKF_AD_RANDOM": 56,
    "SKF_AD_VLAN_TPID": 60,
}
HASH = [(XOR_X, 0, 0, 0), (MULTIPLY, 0, 0, 0x9E37_79B1), (SHIFT_RIGHT, 0, 0, 25), (RETURN_A, 0, 0, 0)]
"""Returns seven bits of a hash of A and X, so that the length tells what they were."""
MESSAGE = bytes(random.Random(1).sample(range(256), 130))
AFRESH = [HealthCheck.function_scoped_fixture]  # Sockets may be used for many examples.


class Pair:
    """A socket with a program, and one that sends to it. The kernel delivers before `sendto` returns."""

    def __init__(self, receiver: socket.socket, sender: socket.socket) -> None:
        self.receiver = receiver
        self.sender = sender

    def accepts(self, program: Sequence[Instruction]) -> bool:
        """Attach a program, in place of the last one."""
        octets = ctypes.create_string_buffer(marshal_program(RawInstruction(*each) for each in program))
        fprog = struct.pack("@HP", len(program), ctypes.addressof(octets))
        try:
            self.receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        except OSError as error:
            assert error.errno == errno.EINVAL
            return False
        return True

    def pass_on(self, message: bytes) -> bytes | None:
        """Return what is left of a message, or `None`."""
        self.sender.sendto(message, self.receiver.getsockname())
        return received(self.receiver)


class UDP(Pair):
    """A third socket gets the packet from the IP header on."""

    def __init__(self, receiver: socket.socket, sender: socket.socket, tap: socket.socket) -> None:
        super().__init__(receiver, sender)
        self.tap = tap

    def pass_on_both(self, message: bytes) -> tuple[bytes | None, bytes]:
        """Return what is left of a payload, or `None`, and the packet."""
        kept = self.pass_on(message)
        packet = received(self.tap)
        assert packet is not None
        return kept, packet


def received(receiver: socket.socket) -> bytes | None:
    with contextlib.suppress(BlockingIOError):
        return receiver.recv(4096, socket.MSG_DONTWAIT)
    return None


@pytest.fixture
def udp(private_net: None) -> Iterator[UDP]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as tap,
    ):
        receiver.bind(("127.0.0.1", 0))
        yield UDP(receiver, sender, tap)


@pytest.fixture
def netlink(private_net: None) -> Iterator[Pair]:
    """Processes may send each other anything by it."""
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK) as receiver,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK) as sender,
    ):
        receiver.bind((0, 0))
        yield Pair(receiver, sender)


def is_accepted(program: Sequence[Instruction]) -> bool:
    """What the simulation does not support, the kernel accepts."""
    try:
        check(program)
    except UnsupportedError:
        return True
    except OSError as error:
        assert (error.errno, error.strerror) == (errno.EINVAL, "Invalid argument")
        return False
    return True


def run_udp(program: Sequence[Instruction], packet: bytes) -> bytes | None:
    """Return the payload that is left. The kernel trims to the UDP header at most."""
    keep = run(program, packet[20:], packet, protocol=ETH_P_IP, interface=LOOPBACK)
    return packet[28 : 20 + max(8, keep)] if keep else None


def run_netlink(program: Sequence[Instruction], message: bytes) -> bytes | None:
    keep = run(program, message, message)
    return message[:keep] if keep else None


words = st.one_of(
    st.integers(0, 9),
    st.sampled_from([31, 32, 33, 255, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]),
    st.integers(0, 0xFFFF_FFFF),
)
offsets = st.one_of(
    st.integers(0, 40),
    st.integers(100, 180),
    st.integers(NET_OFF, NET_OFF + 60),
    st.sampled_from([0x7FFF_FFFE, 0x7FFF_FFFF, 0x8000_0000, LL_OFF - 1]),
)
slots = st.integers(0, 3)
short = st.integers(0, 3)


def instructions(opcodes: Sequence[int], k: st.SearchStrategy[int]) -> st.SearchStrategy[Instruction]:
    return st.tuples(st.sampled_from(opcodes), st.just(0), st.just(0), k)


pieces: st.SearchStrategy[Program] = st.one_of(
    *(
        each.map(lambda instruction: [instruction])
        for each in (
            instructions(ABSOLUTE, offsets | st.sampled_from([PROTOCOL, IFINDEX, NLATTR, NLATTR_NEST, ALU_XOR_X])),
            instructions(INDIRECT, offsets | st.integers(0xFFFF_FFF0, 0xFFFF_FFFF) | st.just(AD_OFF)),
            instructions([HEADER], offsets | st.just(AD_OFF)),
            instructions(OPERATIONS, st.integers(1, 31)),
            instructions(
                [each for each in OPERATIONS if each not in (SHIFT_LEFT, SHIFT_RIGHT)], words.map(lambda k: k or 1)
            ),
            instructions([each | BY_X for each in OPERATIONS], st.just(0)),
            instructions([NEGATE, A_TO_X, X_TO_A, LENGTH, X_LENGTH], words),
            instructions([SET_A, SET_X], words),
            instructions([*STORES, *RELOADS], slots),
            instructions([RETURN, RETURN_A], st.integers(0, 50)),
            instructions([JUMP], short),
            st.tuples(st.sampled_from(CONDITIONS), short, short, words),
        )
    ),
    # Search for an attribute.
    st.builds(
        lambda kind, at, which: [(SET_X, 0, 0, kind), (SET_A, 0, 0, at), (WORD, 0, 0, which)],
        st.integers(0, 4),
        st.sampled_from([0, 4, 8]) | st.integers(0, 60),
        st.sampled_from([NLATTR, NLATTR_NEST]),
    ),
)
beginnings: st.SearchStrategy[Program] = st.one_of(
    st.just([]),
    st.builds(
        lambda a, x: [
            (SET_A, 0, 0, a),
            (SET_X, 0, 0, x),
            *((STORE_A, 0, 0, 0), (STORE_X, 0, 0, 1), (STORE_A, 0, 0, 2), (STORE_X, 0, 0, 3)),
        ],
        words,
        words,
    ),
)
endings = st.one_of(
    st.builds(lambda k: [(RETURN, 0, 0, k)], st.integers(0, 50)),
    st.just([(RETURN_A, 0, 0, 0)]),
    st.just(HASH),
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    middle = draw(st.lists(pieces, max_size=8))
    program = [*draw(beginnings), *itertools.chain.from_iterable(middle), *draw(endings)]
    return list(fit_jumps(program))


def fit_jumps(program: Program) -> Iterator[Instruction]:
    """Let no jump lead past the end."""
    for left, (opcode, jt, jf, k) in zip(reversed(range(len(program))), program, strict=True):
        most = max(left - 1, 0)
        yield opcode, min(jt, most), min(jf, most), min(k, most) if opcode == JUMP else k


def attributes(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Rarely, a length is wrong."""
    one = st.builds(
        lambda kind, value, error: struct.pack("=HH", len(value) + 4 + error, kind) + value + bytes(-len(value) % 4),
        st.integers(0, 4) | st.sampled_from([0x8001, 0x4002]),  # NLA_F_NESTED, NLA_F_NET_BYTEORDER
        payload,
        st.sampled_from([0, 0, 0, 0, 0, 0, -1, 2, -4, 9]),
    )
    return st.lists(one, max_size=4).map(b"".join)


messages = st.builds(
    lambda header, found, rest: header + found + rest or b"x",
    st.sampled_from([b"", bytes(8)]) | st.binary(max_size=16),
    attributes(attributes(st.binary(max_size=8))),
    st.binary(max_size=3) | st.just(bytes(120)),
)


@settings(deadline=None, max_examples=400, suppress_health_check=AFRESH)
@given(program=programs(), payload=st.binary(max_size=30) | st.binary(min_size=120, max_size=180))
def test_udp_keeps_of_a_datagram_what_the_interpreter_says(udp: UDP, program: Program, payload: bytes) -> None:
    assert udp.accepts(program) == is_accepted(program)
    if is_accepted(program):
        kept, packet = udp.pass_on_both(payload)
        with contextlib.suppress(UnsupportedError):
            assert kept == run_udp(program, packet)


@settings(deadline=None, max_examples=300, suppress_health_check=AFRESH)
@given(program=programs(), message=messages)
def test_netlink_keeps_of_a_message_what_the_interpreter_says(netlink: Pair, program: Program, message: bytes) -> None:
    assert netlink.accepts(program) == is_accepted(program)
    if is_accepted(program):
        kept = netlink.pass_on(message)
        with contextlib.suppress(UnsupportedError):
            assert kept == run_netlink(program, message)


# Lengths, types, and both at once.
halves = st.sampled_from([0, 3, *range(4, 13), 0x4005, 0x8006, 0x3FFF])


@settings(deadline=None, max_examples=40, suppress_health_check=AFRESH)
@given(st.lists(halves, min_size=2, max_size=14), st.binary(max_size=1))
@example([4, 5, 4, 4], b"")  # Two without a value.
@example([5, 6, 0, 0, 8, 7, 0, 0, 4, 5], b"")  # One whose value is padded.
@example([12, 6, 4, 4, 4, 5], b"")  # Two in another one.
@example([16, 0x8006, 8, 7, 0, 0, 4, 5, 4, 4], b"")  # One behind the other one is not in it.
def test_the_kernel_finds_the_same_attributes(netlink: Pair, words: list[int], rest: bytes) -> None:
    message = struct.pack(f"={len(words)}H", *words) + rest
    for start, kind, which in itertools.product(range(len(message) + 2), (4, 5, 0x4005), (NLATTR, NLATTR_NEST)):
        found = [(SET_X, 0, 0, kind), (SET_A, 0, 0, start), (WORD, 0, 0, which), (ADD, 0, 0, 1), (RETURN_A, 0, 0, 0)]
        assert netlink.accepts(found)
        assert netlink.pass_on(message) == run_netlink(found, message), (start, kind, which)


def test_the_kernel_calculates_and_compares_likewise(netlink: Pair) -> None:
    numbers = (0, 1, 2, 7, 31, 32, 0x1234_5678, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
    compared = [(RETURN_A, 0, 0, 0), (RETURN, 0, 0, 9)]
    for a, b in itertools.product(numbers, repeat=2):
        begin = [(SET_X, 0, 0, b), (SET_A, 0, 0, a)]
        for opcode in (*OPERATIONS, *(each | BY_X for each in OPERATIONS), NEGATE):
            program = [*begin, (opcode, 0, 0, b), *HASH]
            assert netlink.accepts(program) == is_accepted(program)
            if is_accepted(program):
                assert netlink.pass_on(MESSAGE) == run_netlink(program, MESSAGE), program
        for opcode in CONDITIONS:
            program = [*begin, (opcode, 1, 0, b), *compared]
            assert netlink.accepts(program)
            assert netlink.pass_on(MESSAGE) == run_netlink(program, MESSAGE), program


def test_the_kernel_loads_and_moves_likewise(netlink: Pair) -> None:
    message = MESSAGE * 2  # So that no load is short of the end.
    end = len(message)
    offsets = (*range(0, end + 2, 5), *range(end - 5, end + 1), NET_OFF, NET_OFF + 9, NET_OFF + end - 1, LL_OFF - 4)
    moves: list[Program] = [
        *([(opcode, 0, 0, k)] for opcode in (*ABSOLUTE, *INDIRECT, HEADER) for k in offsets),
        *([(opcode, 0, 0, 5)] for opcode in (A_TO_X, X_TO_A, LENGTH, X_LENGTH)),
        *([(store, 0, 0, k), (load, 0, 0, k)] for store in STORES for load in RELOADS for k in range(16)),
        *([(opcode, 0, 0, k)] for opcode in ABSOLUTE for k in (PROTOCOL, ALU_XOR_X)),
        [(STORE_A, 0, 0, 0), (STORE_X, 0, 0, 1), (A_FROM_MEMORY, 0, 0, 0), (X_FROM_MEMORY, 0, 0, 1)],
    ]
    for middle in moves:
        program = [(SET_A, 0, 0, 0x1234_5679), (SET_X, 0, 0, 3), *middle, *HASH]
        assert netlink.accepts(program)
        assert is_accepted(program)
        assert netlink.pass_on(message) == run_netlink(program, message), program


@settings(deadline=None, max_examples=200, suppress_health_check=AFRESH)
@given(
    st.lists(
        st.tuples(st.sampled_from([*STORES, *RELOADS, *[JUMP, *CONDITIONS] * 2, RETURN_A]), short, short, short),
        max_size=12,
    )
)
def test_words_of_the_memory_must_be_stored_and_jumps_stay_inside(udp: UDP, body: Program) -> None:
    program = [*body, (RETURN, 0, 0, 0)]
    assert udp.accepts(program) == is_accepted(program)


def test_the_kernel_knows_the_same_opcodes_and_operands(udp: UDP) -> None:
    operands = (0, 1, 15, 16, 31, 32, 0x7FFF_FFFF, LL_OFF, AD_OFF - 1, 0xFFFF_FFFF)
    opcodes = (*range(0x100), 0x120, 0x1006, 0xFFFF)
    for opcode, k in itertools.product(opcodes, operands):
        program = [(STORE_A, 0, 0, 0), (STORE_A, 0, 0, 15), (opcode, 0, 1, k), *[(RETURN, 0, 0, 0)] * 2]
        assert udp.accepts(program) == is_accepted(program), program


def test_the_kernel_knows_the_same_ancillary_offsets(udp: UDP) -> None:
    for opcode, k in itertools.product((*ABSOLUTE, *INDIRECT, HEADER), range(AD_OFF, AD_OFF + 70)):
        program = [(opcode, 0, 0, k), (RETURN, 0, 0, 0)]
        assert udp.accepts(program) == is_accepted(program), program


@pytest.mark.parametrize("length", [0, 1, 4096, 4097])
def test_the_kernel_limits_the_length_likewise(udp: UDP, length: int) -> None:
    program = [(RETURN, 0, 0, 0)] * length
    assert udp.accepts(program) == is_accepted(program) == (length in (1, 4096))


def test_the_last_instruction_must_be_a_return(udp: UDP) -> None:
    program = [(RETURN, 0, 0, 0), (SET_A, 0, 0, 0)]
    assert not udp.accepts(program)
    assert not is_accepted(program)


@pytest.mark.pure
@pytest.mark.parametrize("name", UNANSWERED)
@pytest.mark.parametrize("opcode", ABSOLUTE)
def test_what_a_simulation_does_not_know_is_not_supported(name: str, opcode: int) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check([(opcode, 0, 0, AD_OFF + UNANSWERED[name]), (RETURN, 0, 0, 0)])
    assert (caught.value.option, caught.value.platform) == (name, "the simulated network")


@pytest.mark.pure
@pytest.mark.parametrize("opcode", [*ABSOLUTE, *INDIRECT, HEADER])
def test_the_link_layer_is_not_supported(opcode: int) -> None:
    with pytest.raises(UnsupportedError, match="SKF_LL_OFF"):
        check([(opcode, 0, 0, LL_OFF), (RETURN, 0, 0, 0)])


@pytest.mark.pure
def test_the_link_layer_is_not_supported_where_x_leads_there() -> None:
    program = [(SET_X, 0, 0, LL_OFF - 4), (WORD_AT_X, 0, 0, 4), (RETURN, 0, 0, 1)]
    check(program)
    with pytest.raises(UnsupportedError, match="SKF_LL_OFF"):
        run(program, b"12345678")


@pytest.mark.pure
def test_a_constant_may_have_the_value_of_any_offset() -> None:
    check([(SET_A, 0, 0, AD_OFF + UNANSWERED["SKF_AD_MARK"]), (SET_X, 0, 0, LL_OFF), (RETURN, 0, 0, LL_OFF)])


@pytest.mark.pure
def test_what_is_not_told_of_a_message_is_0() -> None:
    for ancillary in (PROTOCOL, IFINDEX):
        assert run([(WORD, 0, 0, ancillary), (RETURN_A, 0, 0, 0)], b"12345678") == 0


@pytest.mark.pure
def test_what_the_kernel_refuses_is_refused_before_what_is_not_supported() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        check([(WORD, 0, 0, AD_OFF + UNANSWERED["SKF_AD_MARK"])])


EXAMPLES: dict[str, tuple[Program, bytes | None]] = {
    "a load out of bounds ends with 0": ([(HALF, 0, 0, 11), (RETURN, 0, 0, 99)], None),
    "the last half-word is in bounds": ([(HALF, 0, 0, 10), (RETURN, 0, 0, 99)], b"abcd"),
    "a header out of bounds ends with 0": ([(HEADER, 0, 0, 12), (RETURN, 0, 0, 99)], None),
    "X times 4 of the IP header's length": ([(HEADER, 0, 0, NET_OFF), (X_TO_A, 0, 0, 0), (RETURN_A, 0, 0, 0)], b"abcd"),
    "the TTL is in the IP header": ([(OCTET, 0, 0, NET_OFF + 8), (RETURN_A, 0, 0, 0)], b"ab"),
    "the IP header leads on to the payload": (
        [(OCTET, 0, 0, NET_OFF + 28), (SUBTRACT, 0, 0, ord("a") - 9), (RETURN_A, 0, 0, 0)],
        b"a",
    ),
    "X and offset may add up": ([(SET_X, 0, 0, 9), (OCTET_AT_X, 0, 0, 0xFFFF_FFFF), (RETURN, 0, 0, 9)], b"a"),
    "division by X = 0 ends with 0": ([(SET_A, 0, 0, 9), (DIVIDE | BY_X, 0, 0, 0), (RETURN, 0, 0, 99)], None),
    "the remainder by X = 0 ends with 0": ([(SET_A, 0, 0, 9), (MODULO | BY_X, 0, 0, 0), (RETURN, 0, 0, 99)], None),
    "of X, a shift takes five bits": (
        [(SET_A, 0, 0, 5), (SET_X, 0, 0, 33), (SHIFT_LEFT | BY_X, 0, 0, 0), (RETURN_A, 0, 0, 0)],
        b"ab",
    ),
    "A and X begin as 0": ([(EQUAL | BY_X, 0, 1, 0), (EQUAL, 1, 0, 0), (RETURN, 0, 0, 0), (RETURN, 0, 0, 10)], b"ab"),
    "the device is the loopback": ([(WORD, 0, 0, IFINDEX), (ADD, 0, 0, 9), (RETURN_A, 0, 0, 0)], b"ab"),
    "the protocol is in the host's order": (
        [(OCTET, 0, 0, PROTOCOL), (EQUAL, 0, 1, ETH_P_IP), (RETURN, 0, 0, 9), (RETURN, 0, 0, 0)],
        b"a",
    ),
    "less than a UDP header keeps the header": ([(RETURN, 0, 0, 1)], b""),
    "a constant is not signed": (
        [(SET_A, 0, 0, 1), (GREATER, 0, 1, 0xFFFF_FFFF), (RETURN, 0, 0, 0), (RETURN, 0, 0, 9)],
        b"a",
    ),
}


@pytest.mark.parametrize(("program", "kept"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_kernel_says_likewise_that(udp: UDP, program: Program, kept: bytes | None) -> None:
    udp.sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 10)
    assert udp.accepts(program)
    by_kernel, packet = udp.pass_on_both(b"abcd")
    check(program)
    assert run_udp(program, packet) == by_kernel == kept


def test_without_a_device_its_index_ends_the_program_with_a(netlink: Pair) -> None:
    program = [(SET_A, 0, 0, 3), (WORD, 0, 0, IFINDEX), (RETURN, 0, 0, 5)]
    assert netlink.accepts(program)
    assert netlink.pass_on(b"abcdefgh") == run_netlink(program, b"abcdefgh") == b"abc"


@pytest.mark.pure
def test_there_is_one_cpu() -> None:
    program = [(SET_A, 0, 0, 3), (WORD, 0, 0, CPU), (RETURN_A, 0, 0, 0)]
    check(program)
    assert run(program, b"abcd") == 0


@pytest.mark.pure
def test_without_a_network_header_loads_from_it_end_with_0() -> None:
    assert run([(OCTET, 0, 0, NET_OFF), (RETURN, 0, 0, 5)], b"abcd") == 0


@pytest.mark.pure
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_a_program_is_read_from_the_octets_that_are_attached(byte_order: ByteOrder) -> None:
    program = lifetimes_program(byte_order)
    octets = marshal_program(program, byte_order)
    assert parse_program(octets, byte_order) == tuple((each.op, each.jt, each.jf, each.k) for each in program)


def link_message(
    byte_order: ByteOrder, kind: int, family: int = 0, *found: tuple[int, bytes], header: int = 16
) -> bytes:
    """A `struct nlmsghdr` of that type, a header that begins with the family, and attributes."""
    order = "<" if byte_order == "little" else ">"
    octets = b"".join(
        struct.pack(f"{order}HH", 4 + len(value), number) + value + bytes(-len(value) % 4) for number, value in found
    )
    return (
        struct.pack(f"{order}IHHII", 16 + header + len(octets), kind, 0, 1, 0)
        + bytes([family]).ljust(header, b"\0")
        + octets
    )


RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWNETCONF = 16, 17, 18, 80  # linux/rtnetlink.h
IFLA_IFNAME, IFLA_MTU = 3, 4  # linux/if_link.h
AF_BRIDGE = 7  # linux/socket.h


def link_messages(byte_order: ByteOrder) -> Iterator[tuple[bytes, bool]]:
    """Messages, and whether the watch for the end of IPv4 wants them."""
    name = (IFLA_IFNAME, b"lo\0")
    for mtu, is_wanted in ((0, True), (67, True), (68, False), (256, False), (1500, False), (65536, False)):
        attribute = (IFLA_MTU, mtu.to_bytes(4, byte_order))
        yield link_message(byte_order, RTM_NEWLINK, 0, name, attribute), is_wanted
        yield link_message(byte_order, RTM_NEWLINK, 0, attribute), is_wanted
        yield link_message(byte_order, RTM_NEWLINK, AF_BRIDGE, name, attribute), False
        yield link_message(byte_order, RTM_GETLINK, 0, name, attribute), False
    yield link_message(byte_order, RTM_NEWLINK, 0, name), False
    yield link_message(byte_order, RTM_NEWLINK), False
    yield link_message(byte_order, RTM_DELLINK), True
    yield link_message(byte_order, RTM_DELLINK, AF_BRIDGE), False
    yield link_message(byte_order, RTM_NEWNETCONF, 2, header=4), True
    yield b"\0", False


@pytest.mark.pure
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_the_program_of_the_library_passes_what_it_wants(byte_order: ByteOrder) -> None:
    program = parse_program(marshal_program(lifetimes_program(byte_order), byte_order), byte_order)
    check(program)
    for message, is_wanted in link_messages(byte_order):
        assert bool(run(program, message, message, byte_order=byte_order)) == is_wanted, message


def test_the_program_of_the_library_does_in_the_kernel_the_same(netlink: Pair) -> None:
    program = parse_program(marshal_program(lifetimes_program(sys.byteorder)), sys.byteorder)
    assert netlink.accepts(program)
    for message, is_wanted in link_messages(sys.byteorder):
        assert netlink.pass_on(message) == run_netlink(program, message) == (message if is_wanted else None)
