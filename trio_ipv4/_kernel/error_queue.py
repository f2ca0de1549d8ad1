"""The error queue of a socket (ip(7): IP_RECVERR; recvmsg(2): MSG_ERRQUEUE; Linux).

ICMP errors about datagrams that were sent wait there, and transmit timestamps (SO_TIMESTAMPING). Beside the queue a
socket has one *pending* error, the latest, which the next call on it is told: receive or send, whatever its peer.
Reading the queue to its end clears that, too (linux net/core/skbuff.c, `sock_dequeue_err_skb`).
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import options
from trio_ipv4._kernel.causes import EARLIER, MAYBE_EARLIER
from trio_ipv4._kernel.explain import explain
from trio_ipv4._values.socket_error import ErrorOrigin, SocketError, parse_socket_error
from trio_ipv4._values.timestamps import Timestamping, stamping_flags, wanted_stamps

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket

PENDING: Final = EARLIER | MAYBE_EARLIER | {getattr(errno, "EREMOTEIO", 121)}
"""The errnos of ICMP errors. EREMOTEIO, Linux's alone, tells of a redirect (linux net/ipv4/ping.c, `ping_err`)."""


def has_queue(socket: Socket) -> bool:
    """Tell whether sockets have an error queue on this platform."""
    return "MSG_ERRQUEUE" in socket.system.platform.numbers


def read_error(socket: Socket) -> SocketError | None:
    """Take one message from the queue; `None` if it is empty."""
    try:
        payload, control, name = socket.receive_error()
    except BlockingIOError:
        return None
    except OSError as error:
        raise explain(error, "receive", "read the error queue", socket) from None
    destination = (str(name[0]), int(name[1])) if name else None
    try:
        return parse_socket_error(socket.system.platform, payload, control, destination)
    except ParseError:  # Its control messages did not fit: somebody has set many options on the bare socket.
        return SocketError(0, ErrorOrigin.NONE, destination=destination, payload=payload)


def clear_pending(socket: Socket) -> int:
    """Take the pending error of a socket, and return its errno; 0 if there is none (socket(7): SO_ERROR)."""
    return options.get_integer(socket, "SO_ERROR")


def is_reported(socket: Socket) -> bool:
    """Tell whether a socket keeps ICMP errors."""
    return bool(options.find_integer(socket, "IP_RECVERR"))


def report(socket: Socket, *, on: bool) -> None:
    """Keep ICMP errors, with their extensions where the kernel can (since Linux 5.9); or forget those in the queue."""
    if options.has_option(socket, "IP_RECVERR_RFC4884"):
        with contextlib.suppress(OSError):
            options.set_integer(socket, "IP_RECVERR_RFC4884", on)
    options.set_integer(socket, "IP_RECVERR", on)
    if not on:
        clear_pending(socket)


def stamps_of(socket: Socket) -> Timestamping:
    """Return the timestamps that a socket takes."""
    return wanted_stamps(socket.system.platform, options.find_integer(socket, "SO_TIMESTAMPING") or 0)


def stamp(socket: Socket, wanted: Timestamping) -> None:
    """Take timestamps."""
    value = stamping_flags(socket.system.platform, wanted)
    only_asked_for = socket.system.platform.number("SOF_TIMESTAMPING_OPT_RX_FILTER")
    try:
        options.set_integer(socket, "SO_TIMESTAMPING", value)
    except OSError as error:
        if error.errno != errno.EINVAL or not value & only_asked_for:
            raise
        options.set_integer(socket, "SO_TIMESTAMPING", value & ~only_asked_for)
