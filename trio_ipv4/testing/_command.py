"""`python -m trio_ipv4.testing`: run a command as root of a private network, without being root outside."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_ipv4 import UnsupportedError
from trio_ipv4.testing._namespaces import CLONE_NEWNET, last_error, libc, set_loopback_up

if TYPE_CHECKING:
    from collections.abc import Sequence

CLONE_NEWNS: Final = 0x0002_0000  # linux/sched.h
CLONE_NEWUSER: Final = 0x1000_0000  # linux/sched.h
MS_REC: Final = 0x4000  # linux/mount.h
MS_PRIVATE: Final = 0x4_0000  # linux/mount.h

USAGE: Final = """\
usage: python -m trio_ipv4.testing COMMAND [ARGUMENT ...]

Run COMMAND in a private network: a new network namespace, its loopback up, that ends with the last process in it.
Without root, COMMAND runs as the root of a new user namespace, so that it can make network labs and raw sockets;
outside, it has the rights that you have.

The exit status is COMMAND's; 125 if the private network can't be made, 126 if COMMAND can't be run, 127 if there is
no such program, 2 for wrong usage.
"""

_SWITCHES: Final = (
    # What may forbid user namespaces, and the value that allows them.
    ("kernel.unprivileged_userns_clone", "1"),  # Debian's kernels
    ("kernel.apparmor_restrict_unprivileged_userns", "0"),  # Ubuntu's, since 23.10
    ("user.max_user_namespaces", "more than 0"),
)


def main(arguments: Sequence[str]) -> int:
    """Become the command; return only the exit status of a failure, after a message on standard error."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if command[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    if not command or command[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 2
    try:
        _enter_private_network()
    except (OSError, UnsupportedError) as error:
        sys.stderr.write(f"python -m trio_ipv4.testing: {error}\n")
        return 125
    return _become(command)


def _enter_private_network() -> None:
    if os.geteuid() == 0:
        if libc().unshare(CLONE_NEWNET | CLONE_NEWNS) == 0:
            _keep_mounts_private()
            set_loopback_up()
            return
        error = last_error("make a network namespace")
        if error.errno != errno.EPERM:  # A container's root, say: it may still make a user namespace.
            raise error
    try:
        _enter_user_namespace()
        _keep_mounts_private()
        set_loopback_up()
    except OSError as error:
        raise OSError(error.errno, f"can't make a private user namespace: {error}\n{_advice()}") from None


def _enter_user_namespace() -> None:
    """Become root of a new user namespace that maps only the present user (user_namespaces(7))."""
    uid, gid = os.geteuid(), os.getegid()
    if libc().unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise last_error("unshare user, network and mount namespaces")
    process = Path("/proc/self")
    (process / "setgroups").write_text("deny", encoding="ascii")  # Without this, gid_map is refused.
    (process / "uid_map").write_text(f"0 {uid} 1", encoding="ascii")
    (process / "gid_map").write_text(f"0 {gid} 1", encoding="ascii")


def _keep_mounts_private() -> None:
    """Let no mount of the command's show outside, as unshare(1) does: `ip netns add`, say, mounts."""
    if libc().mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise last_error("make the mounts private")


def _become(command: Sequence[str]) -> int:
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores these, and what is ignored stays so across execve(2).
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        sys.stderr.write(f"python -m trio_ipv4.testing: can't run {command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _advice() -> str:
    lines = ["User namespaces without root may be forbidden here. What decides, with the value that allows them:"]
    for name, wanted in _SWITCHES:
        with contextlib.suppress(OSError):
            value = Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
            lines.append(f"  {name} is {value}; {wanted} allows them")
    lines.append("Containers often forbid them by seccomp as well. Root needs none of this.")
    return "\n".join(lines)
