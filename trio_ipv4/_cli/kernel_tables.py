"""The kernel's tables in /proc/net, of memberships above all: a witness that knows nothing of this library's books."""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.merge import merge

if TYPE_CHECKING:
    from collections.abc import Iterator

# Not /proc/net, which is /proc/self/net: that shows the network namespace of the process's main thread.
_TABLES: Final = Path("/proc/thread-self/net")


@attrs.frozen
class Member:
    """An entry of the kernel's table: how many sockets want a group, on which interface, from which sources."""

    group: str
    interface: str
    ifindex: int
    sockets: int
    mode: str
    sources: tuple[str, ...]


@attrs.frozen
class UDPEntry:
    """A socket in the kernel's tables of UDP: those that have a port.

    Args:
        inode: Its number, which no other socket on this machine has.
        local: The address that it is bound to.
        port: Its own port.
        peer: The address that it is connected to.
        user: The user's number.
        queued: How many octets wait in its queue.
        drops: How many datagrams it dropped.
    """

    inode: int
    local: str
    port: int
    peer: str | None
    user: int
    queued: int
    drops: int


@contextlib.contextmanager
def as_linux_writes(table: str) -> Iterator[None]:
    """Let a block, or a function, read a table that may be in another format, as a sandbox's own is.

    Raises:
        OSError: It is. The message names the table.
    """
    try:
        yield
    except (ValueError, IndexError, struct.error) as error:
        raise OSError(f"/proc/net/{table} is not in the format of Linux: {error}") from None


def read_memberships() -> tuple[Member, ...]:
    """Read which groups this network namespace is in, on every interface, whoever joined them.

    Raises:
        FileNotFoundError: This is not Linux, or /proc is not mounted.
    """
    counts = read_source_counts()
    members = []
    for group, name, index, sockets in read_groups():
        merged = merge(sockets, counts.get((index, group), {})).filter
        members.append(Member(str(group), name, index, sockets, merged.mode, tuple(map(str, sorted(merged.sources)))))
    return tuple(members)


@as_linux_writes("igmp")
def read_groups(tables: Path | None = None) -> list[tuple[IPv4Address, str, int, int]]:
    """Read /proc/net/igmp: a line for each interface, and under it, indented, one for each of its groups.

    Args:
        tables: Another directory of such tables, as /proc/PID/net, which shows the network namespace of a process.
    """
    groups = []
    index, name = 0, ""
    for line in _lines("igmp", tables):
        if line[0].isspace():
            fields = line.split()
            groups.append((to_address(fields[0]), name, index, int(fields[1])))
        else:
            # A name may hold spaces other than ASCII's, but no colon (dev_valid_name in net/core/dev.c).
            number, _, rest = line.partition("\t")
            index, name = int(number), rest.partition(":")[0].rstrip(" ")
    return groups


@as_linux_writes("mcfilter")
def read_source_counts() -> dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]]:
    """Read /proc/net/mcfilter: for each source of a group, how many sockets include it, and how many exclude it.

    The groups are by interface index and address. One without any source has no line there.
    """
    counts: dict[tuple[int, IPv4Address], dict[IPv4Address, tuple[int, int]]] = {}
    for line in _lines("mcfilter"):
        # Between the index and the group stands the name, or the beginning of it.
        index, *_, group, source, including, excluding = line.split()
        key = int(index), IPv4Address(int(group, 16))
        counts.setdefault(key, {})[IPv4Address(int(source, 16))] = int(including), int(excluding)
    return counts


@as_linux_writes("igmp")
def read_versions() -> dict[int, int]:
    """Read from /proc/net/igmp which version of IGMP each interface speaks now, by the interface's index.

    1 and 2: a querier of that version was heard lately, or the setting `force_igmp_version` says so.
    """
    found = {}
    for line in _lines("igmp"):
        if not line[0].isspace():
            # Behind the name: how many groups, and V1, V2 or V3.
            index, version = line.split()[0], line.split()[-1]
            found[int(index)] = int(version.removeprefix("V"))
    return found


@as_linux_writes("udp")
def read_udp_sockets(tables: Path | None = None) -> list[UDPEntry]:
    """Read /proc/net/udp and udp6. For `tables`, see `read_groups`."""
    lines = _lines("udp", tables)
    with contextlib.suppress(FileNotFoundError):  # There is IPv4 alone.
        lines += _lines("udp6", tables)
    return [_read_udp_socket(line) for line in lines]


def _read_udp_socket(line: str) -> UDPEntry:
    # Slot, own address and port, the peer's, state, octets to send and to read, timer, retransmissions, user, timeout,
    # inode, references, pointer, drops (udp4_format_sock in net/ipv4/udp.c).
    _, local, peer, _, queues, _, _, user, _, inode, _, _, drops = line.split()
    address, _, port = local.rpartition(":")
    far_address, _, far_port = peer.rpartition(":")
    return UDPEntry(
        inode=int(inode),
        local=_to_text(address),
        port=int(port, 16),
        peer=_to_text(far_address) if int(far_port, 16) else None,
        user=int(user),
        queued=int(queues.rpartition(":")[2], 16),
        drops=int(drops),
    )


def _to_text(digits: str) -> str:
    """Read an address of IPv4, or of IPv6: four numbers of 32 bits."""
    octets = b"".join(to_address(digits[place : place + 8]).packed for place in range(0, len(digits), 8))
    return socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)


def to_address(digits: str) -> IPv4Address:
    """Read an address that the kernel has printed in network order as if it were a number of the machine's."""
    return IPv4Address(struct.pack("=I", int(digits, 16)))


def read_lines(table: str, tables: Path | None = None) -> list[str]:
    """Return the lines of a table of /proc/net. For `tables`, see `read_groups`.

    Raises:
        FileNotFoundError: This kernel lacks it; or this is not Linux, or /proc is not mounted.
    """
    text = ((tables or _TABLES) / table).read_text(encoding="utf-8", errors="surrogateescape")
    return text.split("\n")[:-1]


def _lines(table: str, tables: Path | None = None) -> list[str]:
    """Return the lines below the heading."""
    return read_lines(table, tables)[1:]
