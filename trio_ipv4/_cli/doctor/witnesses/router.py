"""Multicast routing on this host: the interfaces and flows of a routing daemon (/proc/net/ip_mr_vif, ip_mr_cache).

It needs no privilege, and disturbs nothing.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

from trio_ipv4._cli.doctor.evidence import VIF, CacheEntry, Router
from trio_ipv4._cli.kernel_tables import as_linux_writes, read_lines, to_address

_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
_OUTGOING: Final = re.compile(r"([0-9]+):([0-9]+)")
"""`%2d:%-3d` (ipmr_mfc_seq_show in net/ipv4/ipmr.c)."""


def look() -> Router:
    """Look whether this host is a multicast router, and what it knows."""
    with as_linux_writes("ip_mr_vif"):
        vifs = tuple(map(_read_vif, _lines("ip_mr_vif")))
    with as_linux_writes("ip_mr_cache"):
        cache = tuple(map(_read_entry, _lines("ip_mr_cache")))
    return Router(forwarding=_forwards(), vifs=vifs, cache=cache)


def _forwards() -> bool:
    with contextlib.suppress(OSError):
        return _FORWARD.read_text(encoding="ascii").strip() != "0"
    return False


def _lines(table: str) -> list[str]:
    """Return the lines below the heading; none, if this kernel has no multicast routing (CONFIG_IP_MROUTE)."""
    with contextlib.suppress(FileNotFoundError):
        return read_lines(table)[1:]
    return []


def _read_vif(line: str) -> VIF:
    # A number; a name, which may hold spaces other than ASCII's; and seven figures (ipmr_vif_seq_show).
    number, rest = line.split(maxsplit=1)
    return VIF(int(number), rest.rsplit(maxsplit=7)[0].strip(" "))


def _read_entry(line: str) -> CacheEntry:
    group, origin, incoming, packets, _octets, wrong, *outgoing = line.split()
    return CacheEntry(
        to_address(group),
        to_address(origin),
        int(incoming),
        int(packets),
        int(wrong),
        tuple((int(vif), int(threshold)) for vif, threshold in _OUTGOING.findall(" ".join(outgoing))),
    )
