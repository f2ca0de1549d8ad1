"""The kernel's counters (/proc/net), which count all flows of this network namespace.

It needs no privilege, and disturbs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

from trio_ipv4._cli.doctor.evidence import Counters, Phase
from trio_ipv4._cli.kernel_tables import as_linux_writes, read_lines

_PROTOCOLS: Final = frozenset({"Ip", "IpExt", "Icmp", "IcmpMsg", "Udp"})
_BESIDES: Final = frozenset({"TcpExt.IPReversePathFilter"})
"""It is of IP's, and stands among TCP's."""
_NO_COUNTERS: Final = frozenset({"Ip.Forwarding", "Ip.DefaultTTL"})
_DEV_HEADINGS: Final = 2
"""Lines above the table of devices (`dev_seq_show` in net/core/net-procfs.c)."""
_DEV: Final = (
    # Its columns.
    *("rx_bytes", "rx_packets", "rx_errs", "rx_drop", "rx_fifo", "rx_frame", "rx_compressed", "rx_multicast"),
    *("tx_bytes", "tx_packets", "tx_errs", "tx_drop", "tx_fifo", "tx_colls", "tx_carrier", "tx_compressed"),
)
_SOFTNET_DROPPED: Final = 1
"""The place in a processor's line of /proc/net/softnet_stat (`softnet_seq_show` in net/core/net-procfs.c)."""


def read() -> dict[str, int]:
    """Read all counters that tell of IPv4, by their names.

    As `Ip.InReceives`, `IpExt.InMcastPkts`, `dev.en0.rx_packets`, `xfrm.XfrmInNoPols`. One is of the whole machine:
    `softnet.dropped`, frames that came faster than they could be taken.

    Raises:
        OSError: /proc is not mounted.
    """
    found = dict(_read_pairs("snmp"))
    found |= _read_pairs("netstat")
    found |= _read_devices()
    with contextlib.suppress(FileNotFoundError):  # CONFIG_XFRM_STATISTICS is not set.
        found |= _read_xfrm()
    with contextlib.suppress(FileNotFoundError), as_linux_writes("softnet_stat"):
        found["softnet.dropped"] = sum(int(line.split()[_SOFTNET_DROPPED], 16) for line in read_lines("softnet_stat"))
    return found


def growth(before: Mapping[str, int], after: Mapping[str, int], seconds: float, phase: Phase) -> Counters:
    """Return how much counters grew.

    A device that came meanwhile brings its old counts along, and is left out. Other counters that are missing from
    `before` were 0: the kernel writes some of them only when they are not.
    """
    grown = {}
    for name, value in after.items():
        if name in before or not name.startswith("dev."):
            # Less than before: it is another device of that name.
            more = value - before.get(name, 0)
            if more > 0:
                grown[name] = more
    return Counters(seconds=seconds, grown=grown, phase=phase)


def _read_pairs(table: str) -> Iterator[tuple[str, int]]:
    """Read pairs of lines, of names and of values, which both begin with the protocol."""
    lines = iter(read_lines(table))
    with as_linux_writes(table):
        for names, values in zip(lines, lines, strict=True):
            protocol, *titles = names.split()
            for title, value in zip(titles, values.split()[1:], strict=True):
                name = f"{protocol.removesuffix(':')}.{title}"
                if (protocol.removesuffix(":") in _PROTOCOLS or name in _BESIDES) and name not in _NO_COUNTERS:
                    yield name, int(value)


def _read_devices() -> Iterator[tuple[str, int]]:
    with as_linux_writes("dev"):
        for line in read_lines("dev")[_DEV_HEADINGS:]:
            # A name may hold spaces other than ASCII's, but no colon (dev_valid_name in net/core/dev.c).
            name, _, values = line.partition(":")
            for title, value in zip(_DEV, values.split(), strict=False):
                yield f"dev.{name.strip(' ')}.{title}", int(value)


def _read_xfrm() -> Iterator[tuple[str, int]]:
    with as_linux_writes("xfrm_stat"):
        for line in read_lines("xfrm_stat"):
            name, value = line.split()
            yield f"xfrm.{name}", int(value)
