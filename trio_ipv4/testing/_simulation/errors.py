"""The error queue of a socket (linux net/core/skbuff.c; net/ipv4/ip_sockglue.c): ICMP errors, refusals, timestamps.

Beside the queue a socket has one pending error, the latest, which its next receive or send is told.
"""

from __future__ import annotations

import collections
import errno
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4._abi import structs
from trio_ipv4._abi.structs import ExtendedError
from trio_ipv4.testing._simulation.linux import LINUX, SMALLEST
from trio_ipv4.testing._simulation.packets import ANY
from trio_ipv4.testing._simulation.refuse import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ipv4._values.fields import Endpoint
    from trio_ipv4.testing._simulation.packets import Packet
    from trio_ipv4.testing._simulation.queues import Queue

LOCAL, BY_ICMP, TIMESTAMPING = 1, 2, 4
"""SO_EE_ORIGIN_*, linux/errqueue.h."""
_STAMP_BY_SOFTWARE: Final = LINUX.number("SOF_TIMESTAMPING_SOFTWARE")


class Entry(NamedTuple):
    """A message of the queue."""

    error: ExtendedError
    payload: bytes = b""
    destination: Endpoint | None = None
    packet: Packet | None = None
    """The ICMP message; `None` if there is none."""
    interface: int = 0
    """Where that came in."""
    stamp: int | None = None
    memory: int = SMALLEST


@final
class ErrorQueue:
    """The error queue of one socket, and its pending error. It shares the memory of the receive buffer."""

    def __init__(self, queue: Queue) -> None:
        self._queue: Final = queue
        self._entries: Final[collections.deque[Entry]] = collections.deque()
        self.pending = 0
        """`sk->sk_err`: an errno, or 0."""

    def __bool__(self) -> bool:
        """Tell whether a socket is in EPOLLERR (`datagram_poll`)."""
        return bool(self._entries or self.pending)

    def put(self, entry: Entry) -> bool:
        """Queue a message, if there is room (`sock_queue_err_skb`)."""
        if not self._queue.charge(entry.memory):
            return False
        self._entries.append(entry)
        return True

    def take(self) -> Entry | None:
        """Take the first message (`sock_dequeue_err_skb`).

        If the next one is an ICMP error, it becomes the pending error. If only the first was one, none is pending.
        """
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self._queue.release(entry.memory)
        if self._entries and self._entries[0].error.origin == BY_ICMP:
            self.pending = self._entries[0].error.errno
        elif entry.error.origin == BY_ICMP:
            self.pending = 0
        return entry

    def take_pending(self) -> int:
        """Take the pending error; 0 if there is none (`sock_error`)."""
        pending, self.pending = self.pending, 0
        return pending

    def raise_pending(self) -> None:
        """Refuse a call because of the pending error, if there is one."""
        if self.pending:
            refuse(self.take_pending())

    def purge(self) -> None:
        """Forget errors. Timestamps stay, and so does the pending error (`skb_errqueue_purge`)."""
        entries = list(self._entries)
        self._entries.clear()
        for entry in entries:
            if entry.error.origin == TIMESTAMPING:
                self._entries.append(entry)
            else:
                self._queue.release(entry.memory)


def local(number: int, destination: bytes, port: int, info: int) -> Entry:
    """Return the message about a refusal to send (`ip_local_error`)."""
    error = ExtendedError(number, LOCAL, 0, 0, info, 0, ANY)
    return Entry(error, destination=(str(IPv4Address(destination)), port))


def stamped(kind: int, number: int, now: int) -> Entry:
    """Return the message with a transmit timestamp (`__skb_complete_tx_timestamp`)."""
    return Entry(ExtendedError(errno.ENOMSG, TIMESTAMPING, 0, 0, kind, number, ANY), stamp=now)


def control_of(entry: Entry, options: Mapping[str, int], now: int) -> bytes:
    """Write the control messages of a message (`ip_recv_error`)."""
    parts = [*_stamps(entry, options, now)]
    if entry.packet is not None:  # Facts come with ICMP errors alone (`ipv4_datagram_support_cmsg`).
        parts += _facts(entry, entry.packet, options)
    parts.append(structs.cmsg(LINUX, *LINUX.control["IP_RECVERR"], entry.error.octets(LINUX)))
    return b"".join(parts)


def _stamps(entry: Entry, options: Mapping[str, int], now: int) -> list[bytes]:
    """Write the timestamps (`__sock_recv_timestamp`)."""
    parts = []
    stamp = entry.stamp
    if options["SO_TIMESTAMPNS"]:
        stamp = now if stamp is None else stamp
        octets = struct.pack("<qq", *divmod(stamp, 10**9))
        parts.append(structs.cmsg(LINUX, *LINUX.control["SO_TIMESTAMPNS"], octets))
    if stamp is not None and options["SO_TIMESTAMPING"] & _STAMP_BY_SOFTWARE:
        octets = structs.scm_timestamping(LINUX, stamp, 0)
        parts.append(structs.cmsg(LINUX, *LINUX.control["SO_TIMESTAMPING"], octets))
    return parts


def _facts(entry: Entry, packet: Packet, options: Mapping[str, int]) -> list[bytes]:
    """Write the facts of an ICMP message, without the address that an answer would have (`ip_cmsg_recv_offset`)."""
    control = LINUX.control
    parts = []
    if options["IP_PKTINFO"]:
        info = structs.in_pktinfo(LINUX, entry.interface, ANY, packet.dst)
        parts.append(structs.cmsg(LINUX, *control["IP_PKTINFO"], info))
    if options["IP_RECVTTL"]:
        parts.append(structs.cmsg(LINUX, *control["IP_TTL"], struct.pack("<i", packet.ttl)))
    if options["IP_RECVTOS"]:
        parts.append(structs.cmsg(LINUX, *control["IP_TOS"], bytes([packet.tos])))
    return parts
