"""Where timestamps of datagrams are taken (SO_TIMESTAMPING, linux/net_tstamp.h)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_ipv4._abi.platform import Platform


class Timestamping(enum.IntFlag, boundary=enum.STRICT):
    """Which timestamps to take, beside those of `ControlFlags.TIMESTAMP`.

    A number with other bits is a `ValueError`.
    """

    TX_SOFTWARE = 1
    """When the driver of the interface was given the datagram. Where the hardware stamps it too, only that stamp
    comes."""
    TX_HARDWARE = 2
    """When the interface's hardware sent it. The interface has to be told, with root (`hwstamp_ctl`)."""
    TX_SCHED = 4
    """When the packet scheduler was given the datagram. From there until TX_SOFTWARE it waited in the interface's
    queue."""
    RX_HARDWARE = 8
    """When the interface's hardware received a datagram: `ControlMessage.hardware_timestamp_ns`."""


SENDING: Final = Timestamping.TX_SOFTWARE | Timestamping.TX_HARDWARE | Timestamping.TX_SCHED
"""Those that come back in the error queue."""


def stamping_flags(platform: Platform, wanted: Timestamping) -> int:
    """Return the value of SO_TIMESTAMPING: what to take, and how to tell it.

    A stamp comes with the number of its datagram, and without its octets. Stamps by software come with datagrams that
    are received only where somebody asked for them, if the kernel can tell (since Linux 6.12).
    """
    if not wanted:
        return 0
    names = [name for name in (flag.name for flag in wanted) if name]
    names += ["SOFTWARE", "RAW_HARDWARE", "OPT_ID", "OPT_TSONLY", "OPT_RX_FILTER"]
    return sum(platform.number(f"SOF_TIMESTAMPING_{name}") for name in names)


def wanted_stamps(platform: Platform, value: int) -> Timestamping:
    """Return what a value of SO_TIMESTAMPING takes."""
    return Timestamping(
        sum(flag for flag in Timestamping if value & platform.numbers.get(f"SOF_TIMESTAMPING_{flag.name}", 0))
    )
