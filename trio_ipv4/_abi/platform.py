"""A platform is a value: its option table, the widths of its words, and how it lays structures out.

Go, quinn-udp and socket2 compile one platform per build, so the others rot unseen. A `Platform` that is passed to pure
codecs lets the tests round-trip Darwin's layouts, and big-endian ones, on any machine.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal, final

import attrs

from trio_ipv4._errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Layout(enum.Enum):
    """How the value of an option is laid out."""

    INT = "a C int, 4 octets"
    DOUBLED = "a C int, 4 octets; the kernel doubles what is set"
    OCTET = "one unsigned octet"
    STRUCT = "a structure: see structs.py"


@final
@attrs.frozen
class Option:
    """A socket option: its level, its number, and the layout of its value."""

    level: int
    name: int
    layout: Layout = Layout.INT


@final
@attrs.frozen
class Platform:
    """How one platform's kernel spells things.

    Args:
        name: As `sys.platform` has it.
        options: The options that this platform has, under the names of its headers.
        control: The numbers of control messages, `(level, type)`, under the names of the headers.
        numbers: Other numbers that this platform has, under the names of the headers: requests of ioctl(2), families.
        word: The size of a pointer, in octets: 8 or 4.
        byte_order: Of this machine's integers.
        cmsg_alignment: To how many octets a control message's header and data are padded.
        cmsg_length_size: The width of `cmsg_len`: `size_t` on Linux, `socklen_t` on the BSDs.
        packed_group_req: Whether `group_req` packs its `sockaddr_storage` at 4 octets, as Darwin does.
        has_sa_len: Whether a `sockaddr` begins with its own length, as on the BSDs.
        mcast_include: The number of RFC 3678's MCAST_INCLUDE.
        mcast_exclude: The number of RFC 3678's MCAST_EXCLUDE.
        header_in_host_order: Whether raw sockets want an IP header's total length and fragment offset in host order.
        length_excludes_header: Whether the kernel has taken the header's length off the total length that it hands up.
        has_mmsg: Whether there are `recvmmsg` and `sendmmsg`.
    """

    name: str
    options: Mapping[str, Option] = attrs.field(factory=dict[str, Option], repr=False)
    control: Mapping[str, tuple[int, int]] = attrs.field(factory=dict[str, tuple[int, int]], repr=False)
    numbers: Mapping[str, int] = attrs.field(factory=dict[str, int], repr=False)
    word: Literal[4, 8] = 8
    byte_order: Literal["little", "big"] = "little"
    cmsg_alignment: int = 8
    cmsg_length_size: Literal[4, 8] = 8
    packed_group_req: bool = False
    has_sa_len: bool = False
    mcast_include: int = 1
    mcast_exclude: int = 0
    header_in_host_order: bool = False
    length_excludes_header: bool = False
    has_mmsg: bool = False

    def option(self, name: str) -> Option:
        """Look up an option by the name that the kernel's headers give it.

        Raises:
            UnsupportedError: This platform has no such option.
        """
        try:
            return self.options[name]
        except KeyError:
            raise UnsupportedError(name, self.name) from None

    def number(self, name: str) -> int:
        """Look up a number by the name that the kernel's headers give it.

        Raises:
            UnsupportedError: This platform has no such number.
        """
        try:
            return self.numbers[name]
        except KeyError:
            raise UnsupportedError(name, self.name) from None

    @property
    def prefix(self) -> str:
        """The byte order as `struct` spells it, with standard sizes and no padding."""
        return "<" if self.byte_order == "little" else ">"
