"""The kernel's settings that reception depends on (/proc/sys/net; networking/ip-sysctl in the kernel's documentation).

/proc/sys/net shows the network namespace of the thread that opens a file. It needs no privilege, and disturbs nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from trio_ipv4._cli.doctor.evidence import Settings

_NET: Final = Path("/proc/sys/net")
_OF_AN_INTERFACE: Final = (
    "rp_filter",
    "force_igmp_version",
    "accept_local",
    "mc_forwarding",
    "drop_unicast_in_l2_multicast",
)
_OF_ALL: Final = {
    "igmp_max_memberships": "ipv4",
    "igmp_max_msf": "ipv4",
    "igmp_link_local_mcast_reports": "ipv4",
    "ip_forward": "ipv4",
    "ipfrag_time": "ipv4",
    "rmem_max": "core",
}


def look(name: str | None) -> Settings:
    """Read the settings of all interfaces and of one.

    Those of the interface begin with `interface.`, as `interface.rp_filter`, whatever its name is. A setting that this
    kernel lacks, or doesn't show in a container, is left out.

    Args:
        name: The interface's name; `None`: there is none to look at.
    """
    files = {each: _NET / place / each for each, place in _OF_ALL.items()}
    for each in _OF_AN_INTERFACE:
        files[f"conf.all.{each}"] = _NET / "ipv4" / "conf" / "all" / each
        if name is not None:
            # A name may hold dots, as that of a VLAN does, but no slash.
            files[f"interface.{each}"] = _NET / "ipv4" / "conf" / name / each
    values = {}
    for each, file in files.items():
        with contextlib.suppress(OSError, ValueError):
            values[each] = int(file.read_text(encoding="ascii"))
    return Settings(values=values)
