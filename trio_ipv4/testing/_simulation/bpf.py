"""Classic BPF as a simulated Linux runs it: the check of a program when it is attached, and its run for a message.

As of Linux 6.18, net/core/filter.c. Not simulated: Linux makes a longer eBPF program of it, and refuses one with jumps
across some thousand loads (EINVAL), or too long for net.core.optmem_max (ENOMEM). SKF_AD_NLATTR finds nothing in a
datagram of more than 16 KiB, as that is in several pieces; here it does.
"""

from __future__ import annotations

import errno
import operator
import os
import struct
import sys
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from trio_ipv4._values.bpf import MAX_INSTRUCTIONS
from trio_ipv4.testing._simulation.refuse import not_simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ipv4._codec.rtnetlink import ByteOrder

Instruction: TypeAlias = "tuple[int, int, int, int]"
"""Opcode, jt, jf and k, as in `struct sock_filter` (linux/filter.h)."""

_WORD: Final = 0xFFFF_FFFF
# linux/bpf_common.h; the size BPF_W and the source BPF_K are 0.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)  # BPF_CLASS(); _JMP as a whole opcode is BPF_JMP | BPF_JA.
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = range(0, 0xC0, 0x20)  # BPF_MODE()
_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1}  # BPF_SIZE()
_DIV, _LSH, _RSH, _NEG, _MOD = 0x30, 0x60, 0x70, 0x80, 0x90  # BPF_OP()
_X: Final = 0x08  # BPF_SRC()
_RETURNS: Final = (_RET, _RET | 0x10)  # Of k, and of A.
_TAX, _TXA = _MISC, _MISC | 0x80
_STORES: Final = (_ST, _STX)
_RELOADS: Final = (_LD | _MEM, _LDX | _MEM)
_MEMORY_WORDS: Final = 16  # BPF_MEMWORDS, linux/filter.h
_LIMITS: Final = {_ALU | _LSH: 32, _ALU | _RSH: 32} | dict.fromkeys(_STORES + _RELOADS, _MEMORY_WORDS)  # Of k.
# SKF_..., linux/filter.h, as unsigned as k is.
_LL_OFF, _NET_OFF, _AD_OFF = (_WORD + 1 - off for off in (0x200000, 0x100000, 0x1000))
_ANCILLARY_NAMES: Final = (  # SKF_AD_..., in steps of four.
    "PROTOCOL PKTTYPE IFINDEX NLATTR NLATTR_NEST MARK QUEUE HATYPE RXHASH CPU ALU_XOR_X VLAN_TAG VLAN_TAG_PRESENT "
    "PAY_OFFSET RANDOM VLAN_TPID"
)
_ANCILLARY: Final = {_AD_OFF + 4 * number: name for number, name in enumerate(_ANCILLARY_NAMES.split())}


@final
class _End(Exception):
    """The program ends early."""

    def __init__(self, result: int) -> None:
        self.result: Final = result


@final
@attrs.define
class _Machine:
    """The registers and the memory of a program, and the message for which it runs."""

    data: bytes
    network: bytes
    protocol: int
    interface: int
    attribute: struct.Struct  # struct nlattr
    a: int = 0
    x: int = 0
    memory: list[int] = attrs.field(factory=lambda: [0] * _MEMORY_WORDS)

    def run(self, program: Sequence[Instruction]) -> int:
        at = 0
        while True:
            opcode, jt, jf, k = program[at]
            at += 1
            if opcode in _RETURNS:
                return self.a if opcode & 0x10 else k
            if opcode in _STORES:
                self.memory[k] = self.a if opcode == _ST else self.x
            elif opcode == _JMP:
                at += k
            elif opcode in _JUMPS:
                at += jt if _CONDITIONS[opcode & 0xF0](self.a, self.x if opcode & _X else k) else jf
            elif opcode & 7 == _LDX or opcode == _TAX:
                self.x = self.value(opcode, k)
            else:
                self.a = self.value(opcode, k) & _WORD

    def value(self, opcode: int, k: int) -> int:
        """Return what an instruction puts into A or X."""
        if opcode & 7 == _MISC:
            return self.a if opcode == _TAX else self.x
        if opcode & 7 == _ALU:
            return _ARITHMETIC[opcode & 0xF0](self.a, self.x if opcode & _X else k)
        if opcode & 0xE0 == _LEN:
            return len(self.data)
        if opcode in _RELOADS:
            return self.memory[k]
        if opcode not in _FROM_MESSAGE:
            return k
        if opcode & 0xE0 == _MSH:
            return (self.load(k, 1) & 0xF) * 4
        if opcode in _ABSOLUTE and k in _ANCILLARY:
            return _ANSWERED[_ANCILLARY[k]](self)
        return self.load(k if opcode in _ABSOLUTE else self.x + k, _SIZES[opcode & 0x18])

    def load(self, offset: int, size: int) -> int:
        """Load from the message, as bpf_skb_load_helper_32() and its like."""
        octets, offset = self.data, offset & _WORD
        if offset >= _NET_OFF:  # Also from SKF_AD_OFF on, if X led there.
            octets, offset = self.network, offset - _NET_OFF
        elif offset >= _LL_OFF:
            raise not_simulated("SKF_LL_OFF")
        loaded = octets[offset : offset + size]
        if len(loaded) < size:
            raise _End(0)
        return int.from_bytes(loaded, "big")

    def index(self) -> int:
        if not self.interface:
            raise _End(self.a)  # Without a device, convert_bpf_extensions() makes it exit with what is in A.
        return self.interface

    def find(self, start: int, end: int) -> int:
        """Return where the attribute of type X is, or 0, as nla_find()."""
        while end - start >= 4:
            length, kind = self.attribute.unpack_from(self.data, start)
            if not 4 <= length <= end - start:
                break
            if kind & 0x3FFF == self.x:  # NLA_TYPE_MASK, linux/netlink.h
                return start
            start += (length + 3) & ~3  # NLA_ALIGN()
        return 0

    def find_nested(self) -> int:
        """Search in the attribute at A, as bpf_skb_get_nlattr_nest()."""
        room = len(self.data) - self.a
        length = self.attribute.unpack_from(self.data, self.a)[0] if room >= 4 else 0
        return self.find(self.a + 4, self.a + length) if length <= room else 0


_ANSWERED: Final[dict[str, Callable[[_Machine], int]]] = {
    "PROTOCOL": lambda m: m.protocol,
    "IFINDEX": _Machine.index,
    "NLATTR": lambda m: m.find(m.a, len(m.data)),
    "NLATTR_NEST": _Machine.find_nested,
    "CPU": lambda _: 0,
    "ALU_XOR_X": lambda m: m.a ^ m.x,
}
_ARITHMETIC: Final[dict[int, Callable[[int, int], int]]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    _DIV: operator.floordiv,
    0x40: operator.or_,
    0x50: operator.and_,
    _LSH: lambda a, by: a << (by & 31),  # Of X, five bits count, as in ___bpf_prog_run() (kernel/bpf/core.c).
    _RSH: lambda a, by: a >> (by & 31),
    _NEG: lambda a, _: -a,
    _MOD: operator.mod,
    0xA0: operator.xor,
}
_CONDITIONS: Final = {0x10: operator.eq, 0x20: operator.gt, 0x30: operator.ge, 0x40: operator.and_}
_JUMPS: Final = frozenset(_JMP | op | source for op in _CONDITIONS for source in (0, _X))
_ABSOLUTE: Final = frozenset(_LD | _ABS | size for size in _SIZES)
_FROM_MESSAGE: Final = _ABSOLUTE | {_LD | _IND | size for size in _SIZES} | {_LDX | _MSH | 0x10}
_FROM_ELSEWHERE: Final = frozenset(kind | mode for kind in (_LD, _LDX) for mode in (_IMM, _MEM, _LEN))
_CALCULATIONS: Final = frozenset(_ALU | op | source for op in _ARITHMETIC for source in (0, _X)) - {_ALU | _NEG | _X}
_OPCODES: Final = _FROM_MESSAGE | _FROM_ELSEWHERE | _CALCULATIONS | _JUMPS | {_JMP, _TAX, _TXA, *_STORES, *_RETURNS}


def parse_program(octets: bytes, byte_order: ByteOrder) -> tuple[Instruction, ...]:
    """Read an array of `struct sock_filter` (linux/filter.h)."""
    return tuple(struct.iter_unpack("<HBBI" if byte_order == "little" else ">HBBI", octets))


def load(octets: bytes, byte_order: ByteOrder) -> tuple[Instruction, ...]:
    """Read a program, and check it, as when it is attached. Errors as for `check`."""
    program = parse_program(octets, byte_order)
    check(program)
    return program


def check(program: Sequence[Instruction]) -> None:
    """Refuse what Linux refuses to attach: bpf_check_basics_ok(), bpf_check_classic(), check_load_and_stores().

    Raises:
        OSError: Linux refuses it: EINVAL.
        UnsupportedError: Linux accepts it, but it loads what a simulation does not know.
    """
    if (
        not 1 <= len(program) <= MAX_INSTRUCTIONS
        or not all(_is_allowed(each, len(program) - at - 1) for at, each in enumerate(program))
        or program[-1][0] not in _RETURNS
        or not _loads_what_it_stored(program)
    ):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    for opcode, _, _, k in program:
        if opcode in _ABSOLUTE and k in _ANCILLARY and _ANCILLARY[k] not in _ANSWERED:
            raise not_simulated(f"SKF_AD_{_ANCILLARY[k]}")
        if opcode in _FROM_MESSAGE and _LL_OFF <= k < _NET_OFF:
            raise not_simulated("SKF_LL_OFF")


def run(
    program: Sequence[Instruction],
    data: bytes,
    network: bytes = b"",
    *,
    protocol: int = 0,
    interface: int = 0,
    byte_order: ByteOrder = sys.byteorder,
) -> int:
    """Return how many octets of a message to keep, which may be more than there are. 0 refuses it.

    Args:
        program: What `check` accepts.
        data: What it loads from offset 0 on: of UDP from the UDP header on, of raw IP from the IP header on.
        network: What it loads from SKF_NET_OFF on: from the IP header on. Of netlink, the message.
        protocol: SKF_AD_PROTOCOL: ETH_P_IP (linux/if_ether.h), or 0 for netlink.
        interface: SKF_AD_IFINDEX; 0 if the message has no device, as netlink's.
        byte_order: The host's, for netlink's attributes.

    Raises:
        UnsupportedError: X leads a load to SKF_LL_OFF, which `check` can't see.
    """
    machine = _Machine(data, network, protocol, interface, struct.Struct("<HH" if byte_order == "little" else ">HH"))
    try:
        return machine.run(program)
    except _End as end:
        return end.result
    except ZeroDivisionError:  # By X. "For cBPF programs, this was always return 0" (bpf_convert_filter()).
        return 0


def _is_allowed(instruction: Instruction, left: int) -> bool:
    """Tell whether an instruction may be there, with so many behind it."""
    opcode, *_, k = instruction
    if opcode in (_ALU | _DIV, _ALU | _MOD):
        return k != 0
    if opcode in _LIMITS:
        return k < _LIMITS[opcode]
    if opcode in _ABSOLUTE:
        return k < _AD_OFF or k in _ANCILLARY
    if skips := _skips(instruction):
        return max(skips) < left
    return opcode in _OPCODES


def _loads_what_it_stored(program: Sequence[Instruction]) -> bool:
    """Tell whether each word that is loaded from the memory was stored before, on every way that leads there."""
    everything, stored = (1 << _MEMORY_WORDS) - 1, 0  # A bit for each word.
    arriving = [everything] * len(program)
    for at, instruction in enumerate(program):
        opcode, *_, k = instruction
        stored &= arriving[at]
        if opcode in _STORES:
            stored |= 1 << k
        elif opcode in _RELOADS and not stored >> k & 1:
            return False
        for skip in (skips := _skips(instruction)):
            arriving[at + 1 + skip] &= stored
        if skips:
            stored = everything
    return True


def _skips(instruction: Instruction) -> tuple[int, ...]:
    """Give how many instructions a jump may skip; none of any other."""
    opcode, jt, jf, k = instruction
    if opcode == _JMP:
        return (k,)
    return (jt, jf) if opcode in _JUMPS else ()
