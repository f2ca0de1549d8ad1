"""Codecs: how values are made of the kernel's datagrams, and taken apart again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol, TypeVar

from trio_ipv4._errors import ParseError
from trio_ipv4._kernel.calls import CONTROL_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._kernel.calls import Columns, Received, Recipe
    from trio_ipv4._values.control import ControlFlags

ValueT = TypeVar("ValueT")


class Codec(Protocol[ValueT]):
    """One kind of value: datagrams, or IP packets with their headers."""

    # The facts that are received with each value.
    @property
    def facts(self) -> ControlFlags: ...
    def use_facts(self, facts: ControlFlags, /) -> None: ...

    # The most octets that the kernel puts before the payload.
    @property
    def header_room(self) -> int: ...

    # How the calls make values at once; `None` where that can't be done.
    @property
    def recipe(self) -> Recipe | None: ...

    # Whether the kernel may hand over several datagrams as one (UDP_GRO).
    @property
    def is_coalesced(self) -> bool: ...

    # Make values: of a batch in which nothing can be wrong, quickly, or `None`; of any batch, with an error in the
    # place of a malformed one.
    def decode_whole(self, received: Received, /) -> list[ValueT] | None: ...
    def decode(self, received: Received, /) -> Iterable[ValueT | Exception]: ...

    # Cut a payload off after `max_bytes`.
    def bounded(self, value: ValueT, max_bytes: int, /) -> ValueT: ...

    # Take values apart: octets, `struct sockaddr_in`, control messages.
    def encode(self, value: ValueT, /) -> tuple[bytes, bytes, bytes]: ...
    def encode_all(self, values: tuple[ValueT, ...], /) -> Columns: ...


def control_lost() -> OSError:
    """Return the error for control messages that did not fit (MSG_CTRUNC): they are never a shorter message."""
    return OSError(
        errno.EMSGSIZE,
        f"the control messages of a datagram were longer than {CONTROL_SIZE} octets and were cut off "
        "(MSG_CTRUNC): switch off the options that were set on the bare socket",
    )


def header_length(packet: bytes) -> int:
    """Return the length of the IP header that a packet from a raw socket begins with, in octets.

    Raises:
        ParseError: The packet is shorter than its header.
    """
    length = (packet[0] & 0xF) * 4 if packet else 20
    if not 20 <= length <= len(packet):
        raise ParseError(f"an IP header of {length} octets does not fit into {len(packet)}", offset=len(packet))
    return length
