"""What a fact is, and how a table of facts reads and writes control buffers (recvmsg(2), ip(7), cmsg(3)).

A fact comes with a datagram. It is one row of a table. The row says which flags ask for the fact, which socket option
switches it on, which control message brings it, and which fields it fills. The table itself is in `control.py`, beside
the flags and the fields. To add a fact, add these three there, and the platform's numbers in `_abi`. All code that
depends on which facts there are goes through the table, but for the simulated network, which brings the fact by itself
(testing/_simulation/options.py and datagrams.py).

This module knows rows, platforms and octets. It knows none of the facts.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, final

import attrs

from trio_ipv4._abi import structs
from trio_ipv4._errors import ParseError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from trio_ipv4._abi.platform import Platform


Other: TypeAlias = "tuple[int, int, bytes]"
"""A control message that no row reads: level, type and octets."""


class Request(NamedTuple):
    """How a program asks for something, by a control message that goes with a datagram."""

    fields: tuple[str, ...]
    """The fields that the message carries. The other fields of a fact can't be asked for."""
    write: Callable[[Platform, Any], bytes | None]
    """Return the content of the message for a platform and a `ControlMessage`; `None` if it asks for none of these
    fields. Raises `ValueError` for a value that can't be asked for."""


@final
@attrs.frozen
class Fact:
    """A row: the facts that one control message brings.

    Args:
        flags: The flags that ask for it. Any of them is enough.
        switch: The socket option that makes the kernel send it. Several rows may share one. `None`: no flag does.
        message: The control message that brings it. `None`: it is read from the sender's address.
        title: Its name in error messages.
        fields: The fields that it fills.
        sizes: The possible lengths of its content, in octets.
        read: Return the values of the fields, in their order, given the platform, the content, and the content's offset
            for a `ParseError`.
        request: How a request uses this message. `None`: a request can't.
        absent: The value of each field if the fact was asked for and the kernel sent no message.
    """

    flags: int = attrs.field(converter=int)  # Arithmetic with members of an enumeration takes ten times as long.
    switch: str | None
    message: str | None
    title: str
    fields: tuple[str, ...]
    sizes: Collection[int]
    read: Callable[[Platform, bytes, int], tuple[object, ...]]
    request: Request | None = None
    absent: object = None

    def values(self, platform: Platform, content: bytes, offset: int) -> zip[tuple[str, object]]:
        """Return the fields with their values, read from the content of a message, which begins at `offset`.

        Raises:
            ParseError: It has a wrong size or value.
        """
        if len(content) not in self.sizes:
            sizes = " or ".join(map(str, self.sizes))
            raise ParseError(f"{self.title} must have {sizes} octets, got {len(content)}", offset=offset)
        return zip(self.fields, self.read(platform, content, offset), strict=True)


@final
class Table:
    """Rows, and what follows from them."""

    def __init__(self, *rows: Fact) -> None:
        self.rows: Final = rows
        self.switches: Final = _switches(rows)
        """The flags that need each option, by its name."""
        self.requested: Final = frozenset(name for row in rows if row.request for name in row.request.fields)
        """The fields that a request may have."""
        self._requests: Final = [(row.message, row.request) for row in rows if row.message and row.request]
        self._by_message: Final = [(row.message, row) for row in rows if row.message]
        self._by_sender: Final = [row for row in rows if row.message is None]
        self._needing_sender: Final = sum(row.flags for row in self._by_sender)
        self._absent: Final = [row for row in rows if row.absent is not None]

    def needs_sender(self, flags: int) -> bool:
        """Tell whether a fact that `flags` ask for is read from the sender's address."""
        return bool(self._needing_sender & int(flags))

    def read(self, platform: Platform, data: bytes, flags: int = 0, sender: bytes = b"") -> dict[str, Any]:
        """Return the fields that a control buffer fills on a socket that receives `flags`.

        Messages that nobody asked for are read too.

        Args:
            platform: The platform that wrote the buffer.
            data: The control buffer.
            flags: What was asked for.
            sender: The 4 octets of the sender's address, if `needs_sender(flags)`.

        Raises:
            ParseError: A length contradicts the buffer, or a known message has a wrong size or value.
        """
        asked, known = int(flags), platform.control
        rows = {known[message]: row for message, row in self._by_message if message in known}
        fields: dict[str, Any] = {name: row.absent for row in self._absent if row.flags & asked for name in row.fields}
        for offset, level, kind, content in structs.iterate_cmsgs(platform, data):
            if row := rows.get((level, kind)):
                fields.update(row.values(platform, content, offset))
        for row in self._by_sender:
            if row.flags & asked:
                fields.update(row.values(platform, sender, len(data)))
        return fields

    def others(self, platform: Platform, data: bytes) -> list[Other]:
        """Return the messages that no row reads, in order, without those that this library sends and reads itself."""
        # On the BSDs a message that is sent has another number than the same one that comes.
        sent = {(option.level, option.name) for name in platform.control if (option := platform.options.get(name))}
        known = sent | set(platform.control.values())
        return [record[1:] for record in structs.iterate_cmsgs(platform, data) if record[1:3] not in known]

    def write(self, platform: Platform, control: object) -> bytes:
        """Lay out the messages of a request, a `ControlMessage`, in the order of the rows.

        Raises:
            ValueError: A field has a value that can't be asked for.
            UnsupportedError: The platform has no control message for a field.
        """
        messages: list[bytes] = []
        for name, request in self._requests:
            content = request.write(platform, control)
            if content is not None:
                messages.append(structs.cmsg(platform, *_sent_kind(platform, name), content))
        return b"".join(messages)


def read_number(name: str, highest: int) -> Callable[[Platform, bytes, int], tuple[int]]:
    """Return how to read one unsigned integer in the platform's byte order."""

    def read(platform: Platform, content: bytes, offset: int) -> tuple[int]:
        number = int.from_bytes(content, platform.byte_order)
        if number > highest:
            raise ParseError(f"{name} must be from 0 to {highest}, got {number}", offset=offset)
        return (number,)

    return read


def write_integer(name: str, lowest: int, highest: int) -> Callable[[Platform, Any], bytes | None]:
    """Return how to write a field as a C int."""

    def write(platform: Platform, control: object) -> bytes | None:
        number = getattr(control, name)
        if number is None:
            return None
        if not lowest <= number <= highest:
            raise ValueError(f"{name} must be from {lowest} to {highest} when sending, got {number}")
        return struct.pack(platform.prefix + "i", number)

    return write


def _switches(rows: tuple[Fact, ...]) -> Mapping[str, int]:
    flags: dict[str, int] = {}
    for row in rows:
        if row.switch is not None:
            flags[row.switch] = flags.get(row.switch, 0) | row.flags
    return flags


def _sent_kind(platform: Platform, name: str) -> tuple[int, int]:
    """Return the level and type of a control message that is sent: the plain option's, on every platform."""
    if name not in platform.control:
        raise UnsupportedError(name, platform.name)
    option = platform.option(name)
    return option.level, option.name
