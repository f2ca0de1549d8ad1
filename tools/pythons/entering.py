"""How to run a command in another root folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARED = ("/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/xdg/pip")
"""What a command there shares with this machine: how it reaches package indexes. Nothing of it is copied."""


def enter(root: Path, command: list[str], shared: Sequence[str] = SHARED) -> list[str]:
    """Return what runs a command with another folder as its root, in a mount namespace of its own.

    The machine's /proc is bound there, not mounted anew: a new mount of it would share its options with the machine's.
    The folder becomes the namespace's root (pivot_root(2)): in a mere chroot, no user namespace can be made.
    """
    if root == Path("/"):
        return command
    new = shlex.quote(str(root))
    steps = [f"mount --rbind {new} {new}"]
    steps += [f"mount --rbind /{name} {new}/{name}" for name in ("proc", "sys", "dev")]
    for path in map(Path, shared):
        if path.exists():
            make = "mkdir -p" if path.is_dir() else "touch"
            steps += [f"mkdir -p {new}{path.parent}", f"{make} {new}{path}", f"mount --bind {path} {new}{path}"]
    steps += [f"cd {new}", "pivot_root . .", "umount -l .", "cd /", 'exec "$@"']
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", " && ".join(steps), "sh", *command]
