"""What this process may do: its effective capabilities, by /proc.

They belong to a thread, so it is the calling one that is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trio_ipv4._cli.doctor.evidence import Privileges

NET_ADMIN: Final = 12  # linux/capability.h: CAP_NET_ADMIN, and those below
NET_RAW: Final = 13
SYS_PTRACE: Final = 19
SYS_ADMIN: Final = 21
PERFMON: Final = 38  # Since Linux 5.8; CAP_SYS_ADMIN had its rights before, and has them still.
BPF: Final = 39
_STATUS: Final = Path("/proc/thread-self/status")


def look() -> Privileges:
    """Return what this process may do. Where there is no /proc, as on macOS: nothing."""
    try:
        return parse(_STATUS.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return Privileges()


def parse(status: str) -> Privileges:
    """Read the line "CapEff:" of a /proc/PID/status (proc_pid_status(5)): a mask in hexadecimal."""
    mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)

    def has(*numbers: int) -> bool:
        return all(mask >> number & 1 for number in numbers)

    return Privileges(
        net_raw=has(NET_RAW), net_admin=has(NET_ADMIN), bpf=has(BPF, PERFMON) or has(SYS_ADMIN), ptrace=has(SYS_PTRACE)
    )
