"""The running kernel's types, as it describes them itself: BTF (Documentation/bpf/btf.rst of Linux).

Structures differ from kernel to kernel, and numbers of reasons too; this description is the kernel's own. Everybody may
read it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_ipv4 import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_FILE: Final = Path("/sys/kernel/btf/vmlinux")
_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
"""linux/btf.h: struct btf_header: magic, version, flags, its length; where types are, their length; so for strings."""
_TYPE: Final = struct.Struct("=III")  # struct btf_type: name, info, and its size or another type.
_MEMBER: Final = struct.Struct("=III")  # struct btf_member: name, type, offset in bits.
_ENUMERATOR: Final = struct.Struct("=Ii")  # struct btf_enum: name, value.
_PTR: Final = 2  # BTF_KIND_PTR, and those below.
_STRUCT: Final = 4
_UNION: Final = 5
_ENUM: Final = 6
_TYPEDEF: Final = 8
_AFTER: Final = {1: 4, 3: 12, 14: 4, 17: 4}
"""Octets behind a type, by its kind: INT, ARRAY, VAR, DECL_TAG."""
_AFTER_EACH: Final = {_STRUCT: 12, _UNION: 12, _ENUM: 8, 13: 8, 15: 12, 19: 12}
"""Octets for each of its parts: STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64."""


class Types:
    """Some of the kernel's types.

    Args:
        octets: The description.
        names: The names of those that will be asked for.

    Raises:
        UnsupportedError: It is none.
    """

    def __init__(self, octets: bytes, names: Collection[str]) -> None:
        try:
            magic, _, _, header, types, types_length, strings, strings_length = _HEADER.unpack_from(octets)
        except struct.error:
            magic = header = types = types_length = strings = strings_length = 0
        if magic != _MAGIC:
            raise UnsupportedError("BTF (CONFIG_DEBUG_INFO_BTF)", "this kernel")
        self._octets: Final = octets
        self._strings: Final = octets[header + strings :][:strings_length]
        self._places: Final = [0]
        """Where each type begins, by its number; number 0 is void."""
        self._found: Final[dict[str, list[int]]] = {name: [] for name in names}
        self._scan(header + types, header + types + types_length)

    def _scan(self, place: int, end: int) -> None:
        wanted = {self._strings.find(b"\0" + name.encode() + b"\0") + 1: name for name in self._found}
        wanted.pop(0, None)  # It is not there.
        unpack = _TYPE.unpack_from
        while place < end:
            # More than a hundred thousand times.
            name, info, _ = unpack(self._octets, place)
            self._places.append(place)
            if name in wanted:
                self._found[wanted[name]].append(place)
            kind = info >> 24 & 0x1F
            place += _TYPE.size
            if kind in _AFTER_EACH:
                place += _AFTER_EACH[kind] * (info & 0xFFFF)
            elif kind in _AFTER:
                place += _AFTER[kind]

    def offset(self, structure: str, member: str) -> int:
        """Return where a member of a structure is, in octets; also one within a part that has no name.

        Raises:
            UnsupportedError: This kernel has none.
        """
        for place in self._of_kind(structure, _STRUCT):
            for name, bits in self._members(place):
                if name == member:
                    return bits // 8
        raise UnsupportedError(f"{structure}.{member}", "this kernel")

    def enumerators(self, enumeration: str) -> dict[int, str]:
        """Return the names of an enumeration's values. One that doesn't exist is empty."""
        return {
            value: self._string(name)
            for place in self._of_kind(enumeration, _ENUM)
            for name, value in self._parts(place, _ENUMERATOR)
        }

    def arguments_of(self, tracepoint: str) -> int:
        """Return how many arguments a tracepoint has: `btf_trace_NAME` is a pointer to a function that takes them.

        Its first parameter is not theirs (include/trace/bpf_probe.h).
        """
        for place in self._of_kind(f"btf_trace_{tracepoint}", _TYPEDEF):
            pointer = self._places[_TYPE.unpack_from(self._octets, place)[2]]
            function = self._places[_TYPE.unpack_from(self._octets, pointer)[2]]
            return int(_TYPE.unpack_from(self._octets, function)[1] & 0xFFFF) - 1
        return 0

    def _of_kind(self, name: str, kind: int) -> list[int]:
        return [place for place in self._found[name] if self._kind(place) == kind]

    def _kind(self, place: int) -> int:
        return int(_TYPE.unpack_from(self._octets, place)[1] >> 24 & 0x1F)

    def _parts(self, place: int, of: struct.Struct) -> Iterator[tuple[int, ...]]:
        number = _TYPE.unpack_from(self._octets, place)[1] & 0xFFFF
        return of.iter_unpack(self._octets[place + _TYPE.size :][: number * of.size])

    def _members(self, place: int, base: int = 0) -> Iterator[tuple[str, int]]:
        # The highest bit says that offsets have the width of a bit field above them.
        mask = 0xFF_FFFF if _TYPE.unpack_from(self._octets, place)[1] >> 31 else 0xFFFF_FFFF
        for name, kind, offset in self._parts(place, _MEMBER):
            if name:
                yield self._string(name), base + (offset & mask)
            elif self._kind(self._places[kind]) in {_STRUCT, _UNION}:
                yield from self._members(self._places[kind], base + (offset & mask))

    def _string(self, start: int) -> str:
        return self._strings[start : self._strings.index(b"\0", start)].decode()


def read_types(names: Collection[str]) -> Types:
    """Read the kernel's types.

    Raises:
        UnsupportedError: It doesn't describe them.
    """
    try:
        return Types(_FILE.read_bytes(), names)
    except FileNotFoundError:
        raise UnsupportedError("BTF (CONFIG_DEBUG_INFO_BTF)", "this kernel") from None
