"""Receive and send many datagrams in one call of the kernel: one protocol, three ways.

`compiled.py` calls recvmmsg(2) and sendmmsg(2) from C, if there was a C compiler when the package was built;
`by_ctypes.py` does the same in Python; `one_by_one.py` takes one datagram at a time, where these calls are missing.
`choice.py` knows which of them can be had. The tests take them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_BATCH: Final = 1024
"""The kernel takes no more messages in one call (UIO_MAXIOV, linux/uio.h)."""
CONTROL_SIZE: Final = 256
"""Room for the control messages of one datagram, in octets. All facts of the table fit (a test adds them up); the rest
is for options that a caller sets on the bare socket."""
ERROR_CONTROL_SIZE: Final = 512
"""The same in the error queue, whose messages bring the facts of an ICMP error, and the error."""
HEADER_ROOM: Final = 60
"""The longest IP header, in octets: 15 words of 4 (RFC 791). It precedes the payload on a raw socket."""
MSG_CTRUNC: Final = 0x8  # linux/socket.h
MSG_TRUNC: Final = 0x20
MSG_PEEK: Final = 0x2
MSG_DONTWAIT: Final = 0x40

Columns: TypeAlias = "tuple[Sequence[bytes], Sequence[bytes], Sequence[bytes]]"
"""Datagrams on their way to the kernel: payloads, the `struct sockaddr_in` of each, the control messages of each."""


class Received(NamedTuple):
    """Datagrams from the kernel, as columns. A column of equal octets is those octets, once."""

    payloads: Sequence[bytes]
    names: bytes | Sequence[bytes]
    """The sender of each, as a `struct sockaddr_in`."""
    controls: bytes | Sequence[bytes]
    flags: Sequence[int] | None
    """MSG_TRUNC and MSG_CTRUNC of each; `None` if none has any."""


class Kind(NamedTuple):
    """A class of values, and its slots for payload, peer, control message and whether the payload was cut off."""

    type: type[object]
    slots: tuple[Any, Any, Any, Any]


class Recipe(NamedTuple):
    """How to make values of datagrams that were received whole."""

    kind: Kind
    peers: Mapping[bytes, object]
    """Peers by their `struct sockaddr_in`."""
    controls: Mapping[bytes, object]
    """Control messages by their octets."""
    with_source: bool
    """Whether the four octets of the sender's address follow these in the key."""
    sizes: Mapping[bytes, int] | None
    """Control octets -> GRO segment size (0: not coalesced). `None` while UDP_GRO is off."""


class Receiver(Protocol):
    """Receives on one socket.

    `receive` takes up to `limit` datagrams of up to `max_bytes` octets each; `None` if none is queued. With a recipe,
    the result may be a list of values. An `OSError` is a refusal of the kernel, or a pending error of the socket.
    """

    def receive(
        self, descriptor: int, limit: int, max_bytes: int, recipe: Recipe | None = None, /
    ) -> list[Any] | Received | None: ...


class Sender(Protocol):
    """Sends on one socket.

    `send` sends datagrams, each to the `struct sockaddr_in` of its name, with its control messages. It returns how many
    the kernel took, and why it stopped, if it did. A full send buffer is the error EAGAIN. When the kernel takes a
    part, the reason comes out only on the next call.

    `columns` takes values of one kind apart, as `send` wants them; `None` if one is of another kind. `names` gives the
    `struct sockaddr_in` of a peer, `request` marshals a control message.
    """

    def send(
        self, descriptor: int, payloads: Sequence[bytes], names: Sequence[bytes], controls: Sequence[bytes], /
    ) -> tuple[int, OSError | None]: ...
    def columns(
        self, values: tuple[Any, ...], kind: Kind, names: Mapping[Any, bytes], request: Callable[[Any], bytes], /
    ) -> Columns | None: ...


class Calls(Protocol):
    """One way to make the calls."""

    def receiver(self) -> Receiver: ...
    def sender(self) -> Sender: ...
