"""Scripts in processes that lack what a sandbox lacks: system calls that it refuses, tables that it hides.

A seccomp filter (seccomp(2), SECCOMP_SET_MODE_FILTER) can't be taken off again, so each script has its own process.
That runs in the network namespace of the test that starts it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import trio_ipv4

if TYPE_CHECKING:
    from collections.abc import Sequence

# (AUDIT_ARCH_*, numbers): linux/audit.h; asm/unistd.h
X86_64: Final = (
    0xC000003E,
    {"socket": 41, "bind": 49, "setsockopt": 54, "getsockopt": 55, "recvmmsg": 299, "sendmmsg": 307},
)
AARCH64: Final = (
    0xC00000B7,
    {"socket": 198, "bind": 200, "setsockopt": 208, "getsockopt": 209, "recvmmsg": 243, "sendmmsg": 269},
)
MACHINES: Final = {"x86_64": X86_64, "aarch64": AARCH64}

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38  # linux/prctl.h
SECCOMP_MODE_FILTER = 2  # linux/seccomp.h
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
# linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_RET, BPF_JMP|BPF_JEQ|BPF_K
LOAD, RETURN, JUMP_IF_EQUAL = 0x20, 0x06, 0x15
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # linux/seccomp.h: struct seccomp_data; both machines are little-endian

NETLINK_NAME_SIZE = 12
"""The length of a struct sockaddr_nl (linux/netlink.h); a struct sockaddr_in has 16."""


class Refusal(NamedTuple):
    """A system call, the errno that it gets, and the arguments with which it gets it: pairs of position and value."""

    call: str
    errno: int
    arguments: tuple[tuple[int, int], ...] = ()


def no_netlink(errno: int) -> Refusal:
    return Refusal("socket", errno, ((0, int(socket.AF_NETLINK)),))


def no_netlink_bind(errno: int) -> Refusal:
    return Refusal("bind", errno, ((2, NETLINK_NAME_SIZE),))


def no_option(call: str, errno: int, level: int, name: int) -> Refusal:
    """Refuse one option to "getsockopt" or "setsockopt"."""
    return Refusal(call, errno, ((1, level), (2, name)))


def run(script: str, refusals: Sequence[Refusal] = (), *, before: str = "", table: str | None = None) -> list[str]:
    """Run the body of an asynchronous function in a process that has been refused these calls; return what it prints.

    Args:
        script: Statements. `trio`, `trio_ipv4` with all its names, and some of the standard library are imported.
        refusals: What is refused, once all that is imported.
        before: Statements that are carried out before anything is refused.
        table: "hidden" or "empty": what /proc/net/igmp is.
    """
    if platform.machine() not in MACHINES or struct.calcsize("P") != 8:
        pytest.skip("the numbers of the system calls are known for x86_64 and aarch64 alone")
    path = [str(Path(trio_ipv4.__file__).parents[1]), str(Path(__file__).parents[1]), *filter(None, sys.path)]
    code = f"""
import sys
sys.path[:] = {path!r}
import contextlib, errno, os, socket, struct, subprocess, trio
from ipaddress import IPv4Address
import trio_ipv4
from trio_ipv4 import *
from trio_ipv4 import testing
from support import sandbox, systems
{"" if table is None else f"sandbox.replace_tables(empty={table == 'empty'})"}
{textwrap.dedent(before)}
for refusal in {[tuple(refusal) for refusal in refusals]!r}:
    sandbox.refuse(*refusal)
async def main():
    with trio.fail_after(30):
{textwrap.indent(textwrap.dedent(script), " " * 8)}
trio.run(main)
"""
    argv = [sys.executable, "-W", "error", "-c", code]
    if table is not None:
        argv = ["unshare", "--mount", "--propagation", "private", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# In the process of the script


def refuse(call: str, errno: int, arguments: tuple[tuple[int, int], ...] = ()) -> None:
    """Refuse a system call to this thread, for good, and to those that it starts."""
    arch, numbers = MACHINES[platform.machine()]
    wanted = [(ARCH_AT, arch), (NUMBER_AT, numbers[call])]
    wanted += [(ARGUMENTS_AT + 8 * position, value) for position, value in arguments]
    program: list[tuple[int, int, int, int]] = []
    for at, value in wanted:
        to_the_last = 2 * (len(wanted) - len(program) // 2) - 1
        program += [(LOAD, 0, 0, at), (JUMP_IF_EQUAL, 0, to_the_last, value)]
    program += [(RETURN, 0, 0, SECCOMP_RET_ERRNO | errno), (RETURN, 0, 0, SECCOMP_RET_ALLOW)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))  # sock_filter
    sock_fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(filters)))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, first, second in (
        (PR_SET_NO_NEW_PRIVS, 1, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(sock_fprog)),
    ):
        arguments_of_prctl = [ctypes.c_ulong(each) for each in (first, second, 0, 0)]
        if libc.prctl(option, *arguments_of_prctl) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")


def replace_tables(*, empty: bool) -> None:
    """Hide the kernel's tables of this process, in its private mount namespace; or put an empty one there."""
    for net in {f"/proc/{os.getpid()}/net", f"/proc/{os.getpid()}/task/{threading.get_native_id()}/net"}:
        subprocess.run(["mount", "-t", "tmpfs", "none", net], check=True)
        if empty:
            Path(net, "igmp").touch()
    for table in (Path("/proc/thread-self/net/igmp"), Path("/proc/net/igmp")):
        assert table.read_text() == "" if empty else not table.exists()
