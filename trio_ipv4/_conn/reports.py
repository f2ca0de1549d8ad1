"""ErrorReports: the part of a connection that tells what came back for the datagrams that it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ipv4._conn.error_queue import NOT_REPORTED
from trio_ipv4._conn.owned import OwnedConn
from trio_ipv4._kernel import error_queue
from trio_ipv4._values.fields import to_bool
from trio_ipv4._values.timestamps import Timestamping

if TYPE_CHECKING:
    from trio_ipv4._values.socket_error import SocketError


class ErrorReports(OwnedConn):
    """The part of a connection that receives errors and transmit timestamps. They come in the order of the kernel."""

    @property
    def report_errors(self) -> bool:
        """Whether ICMP errors come by `receive_error`, each with the peer that it is about (IP_RECVERR; Linux).

        Default `False`: then the kernel tells no ICMP error, unless the socket is connected. With `True`, an ICMP error
        fails neither `receive` nor a send. A send still fails if the kernel refuses the datagram itself. EMSGSIZE is
        then reported as well, with the MTU (`ErrorOrigin.LOCAL`). ENOBUFS says that the interface's queue is full;
        without `report_errors` the kernel tells nobody.

        An error that a connected socket has from before comes first, with `ErrorOrigin.NONE`.

        An unprivileged ICMP connection hears of redirects, too (EREMOTEIO): the router has sent the datagram on.

        A raw socket hears the errors about all packets of its protocol, whoever on this host sent them. Linux tells
        none that quotes less than 8 octets behind the IP header, as of a raw packet with a shorter payload.

        Switching it off forgets the errors in the kernel's queue. Transmit timestamps stay, and so do errors that this
        connection has read already.

        Raises:
            UnsupportedError: This is neither Linux nor a simulated network.
        """
        self._require_open()
        return self._owned.errors.is_reported

    @report_errors.setter
    def report_errors(self, value: bool) -> None:
        error_queue.report(self._usable, on=to_bool(value, "report_errors"))
        if value:
            self._owned.errors.begin()
        else:
            self._owned.errors.end()

    @property
    def timestamping(self) -> Timestamping:
        """Which further timestamps to take (SO_TIMESTAMPING; Linux). Default: none. No privilege is needed.

        A transmit timestamp comes by `receive_error`, as a `SocketError` with `origin` TIMESTAMPING, `number` and
        `timestamp_ns`, or `hardware_timestamp_ns`. The first datagram that is sent after the first flag was set has the
        number 0. One that is refused with EMSGSIZE takes no number. One that a firewall (EPERM) or a full queue
        (ENOBUFS) refuses takes one, although it was not sent. Where hardware stamps, no stamp by software comes.
        Loopback and virtual interfaces stamp by software only; some stamp nothing. What the kernel cuts itself
        (`send_segmented`) brings one stamp for all segments of a call.

        The kernel keeps stamps, and errors, in the receive buffer. When that is full, it drops new ones.

        Raises:
            TypeError: Not `Timestamping`.
            UnsupportedError: This is neither Linux nor a simulated network.
        """
        self._require_open()
        return self._owned.errors.stamps

    @timestamping.setter
    def timestamping(self, value: Timestamping) -> None:
        if not isinstance(value, Timestamping):
            raise TypeError(f"timestamping must be Timestamping, got {value!r}")
        error_queue.stamp(self._usable, value)
        self._owned.errors.stamps = value
        self._owned.errors.wake()

    async def receive_error(self) -> SocketError:
        """Receive the next error, or transmit timestamp. A checkpoint; cancelled, it has taken nothing.

        It can be awaited while other tasks receive and send; several tasks take turns. This connection keeps up to
        4,096 that it has read. Of more, it drops the oldest.

        Raises:
            RuntimeError: Nothing would ever come: neither `report_errors` nor a transmit timestamp is on.
            OSError: A pending error of the socket, such as ECONNREFUSED of a connected one.
            UnsupportedError: This is neither Linux nor a simulated network.
            trio.ClosedResourceError: The connection is closed.
        """
        self._require_errors()
        return await self._owned.receive_error()

    @trio.lowlevel.enable_ki_protection
    def receive_error_nowait(self) -> SocketError:
        """Receive an error that is there already. Not a checkpoint.

        Raises:
            trio.WouldBlock: There is none, or another task is waiting for it.
            Exception: What `receive_error` raises.
        """
        self._require_errors()
        return self._owned.receive_error_nowait()

    def _require_errors(self) -> None:
        socket, errors = self._usable, self._owned.errors
        if errors.may_have_errors:
            return
        socket.system.platform.option("IP_RECVERR")
        errors.note_switches()  # It may have been set on the bare socket.
        if not errors.may_have_errors:
            raise RuntimeError(NOT_REPORTED)
