"""Transmit timestamps (linux net/core/sock.c, net/core/skbuff.c; Documentation/networking/timestamping.rst)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4.testing._simulation import errors
from trio_ipv4.testing._simulation.linux import LINUX
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse

if TYPE_CHECKING:
    from trio_ipv4.testing._simulation.internet import InternetSocket

_ALL: Final = (1 << 19) - 1
"""SOF_TIMESTAMPING_MASK, linux/net_tstamp.h."""


def _flags(*names: str) -> int:
    return sum(LINUX.number(f"SOF_TIMESTAMPING_{name}") for name in names)


_SOFTWARE, _SCHED, _HARDWARE = (_flags(name) for name in ("TX_SOFTWARE", "TX_SCHED", "TX_HARDWARE"))
_HOW: Final = _flags("SOFTWARE", "OPT_ID", "OPT_TSONLY")
"""How stamps are told, if they are simulated: with a number, and without the datagram."""
# Datagrams that are received bring none, with or without this filter: the library reads no stamp of software there.
_KNOWN: Final = _HOW | _SOFTWARE | _SCHED | _HARDWARE | _flags("RX_HARDWARE", "RAW_HARDWARE", "OPT_RX_FILTER")
_SENT, _SCHEDULED = 0, 1
"""SCM_TSTAMP_SND and SCM_TSTAMP_SCHED, linux/errqueue.h."""


def switch(socket: InternetSocket, value: int) -> None:
    """Set SO_TIMESTAMPING. Numbers begin at 0 when they are switched on (`sock_set_timestamping`)."""
    if value & ~_ALL:
        refuse(errno.EINVAL)
    if value and (value & _HOW != _HOW or value & ~_KNOWN):
        raise not_simulated(f"SO_TIMESTAMPING {value:#x}")
    if value and not socket.options["SO_TIMESTAMPING"]:
        socket.next_stamp = 0
    socket.options["SO_TIMESTAMPING"] = value


def stamp(socket: InternetSocket, *, is_out: bool) -> None:
    """Number a datagram, and stamp it if it gets out now: for the packet scheduler, and the driver (`__skb_tstamp_tx`).

    No hardware stamps anything here, but the numbers count on (`__ip_append_data`).
    """
    wanted = socket.options["SO_TIMESTAMPING"]
    if not wanted & (_SOFTWARE | _SCHED | _HARDWARE):
        return
    number, socket.next_stamp = socket.next_stamp, (socket.next_stamp + 1) & 0xFFFF_FFFF
    now = socket.system.clock.nanoseconds()
    for flag, kind in ((_SCHED, _SCHEDULED), (_SOFTWARE, _SENT)):
        if is_out and wanted & flag:
            socket.report(errors.stamped(kind, number, now))
