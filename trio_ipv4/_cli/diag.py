"""The sockets of this network namespace, as the kernel lists them for everybody: sock_diag(7).

It lists every bound socket, whosever it is: inode, user, port, what waits in its queue, and the memory that its options
take. A socket without such memory is a member of nothing. It names no process.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Final

import attrs

from trio_ipv4._cli.kernel_tables import UDPEntry, read_udp_sockets
from trio_ipv4._cli.netlink import DUMP, ask, split_attributes

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
# struct inet_diag_req_v2 (linux/inet_diag.h): family, protocol, what to tell, states; then an identity, of which the
# port is set, or 0.
_REQUEST: Final = struct.Struct("=BBBxI2s46x")
_INET_DIAG_SKMEMINFO: Final = 7  # linux/inet_diag.h, and those below
_INET_DIAG_SKV6ONLY: Final = 11
_INET_DIAG_SOCKOPT: Final = 22
# Bits of struct inet_diag_sockopt. Compilers lay them out from the other end where numbers begin with the high octet.
_MC_LOOP: Final = 1 << (4 if sys.byteorder == "little" else 3)
_MC_ALL: Final = 1 << (6 if sys.byteorder == "little" else 1)
_ALL_STATES: Final = 0xFFFFFFFF
# struct inet_diag_msg (linux/inet_diag.h): family; ports and addresses, in network order; the interface; behind a
# cookie and a timer, the octets that wait; the user, and the inode.
_MESSAGE: Final = struct.Struct("=B3x2s2s16s16sI12xI4xII")
_MEMORY: Final = struct.Struct("=9I")
"""Up to SK_MEMINFO_DROPS (linux/sock_diag.h)."""
_RCVBUF: Final = 1  # SK_MEMINFO_RCVBUF, and those below
_OPTMEM: Final = 6
_DROPS: Final = 8
_UDPLITE: Final = 136  # linux/in.h; not every platform's module has it.
_RAW: Final = socket.IPPROTO_RAW
"""To sock_diag: raw sockets of every protocol."""
_KINDS: Final[dict[tuple[int, int], str]] = {
    (socket.AF_INET, socket.IPPROTO_UDP): "udp",
    (socket.AF_INET6, socket.IPPROTO_UDP): "udp6",
    (socket.AF_INET, _UDPLITE): "udplite",
    (socket.AF_INET6, _UDPLITE): "udplite6",
    (socket.AF_INET, _RAW): "raw",
}
"""Families and protocols, and our names. IPv6's raw sockets can't join IPv4 groups."""


@attrs.frozen
class Listed:
    """A socket, as sock_diag lists it.

    Args:
        protocol: Its kind.
        port: Its own port; `None` for a raw socket.
        user: The user's number.
        local: The address that it is bound to.
        peer: The address that it is connected to.
        ifindex: The interface that it is bound to.
        queued: How many octets wait in its queue.
        buffer: SO_RCVBUF, in octets.
        drops: How many datagrams it dropped.
        option_memory: How many octets its options take.
        multicast_all: IP_MULTICAST_ALL.
        multicast_loop: IP_MULTICAST_LOOP.
        only_ipv6: IPV6_V6ONLY; `None` for a socket of IPv4's, and for one that is connected.

    The later ones are `None` where this kernel doesn't tell.
    """

    protocol: str
    port: int | None
    user: int
    local: str
    peer: str | None
    ifindex: int | None
    queued: int
    buffer: int | None
    drops: int | None
    option_memory: int | None
    multicast_all: bool | None
    multicast_loop: bool | None
    only_ipv6: bool | None

    @property
    def may_be_member(self) -> bool:
        """Whether its options take memory, as a membership does."""
        return self.option_memory != 0


def list_sockets() -> dict[int, Listed]:
    """Return the sockets that can be members of IPv4 groups, by their inodes; those that are not bound are missing.

    A kind that this kernel can't list is missing, too: without CONFIG_INET_RAW_DIAG, or in a sandbox.
    """
    found: dict[int, Listed] = {}
    for family, protocol in _KINDS:
        with contextlib.suppress(OSError):
            found.update(_list(family, protocol))
    return found


def list_udp_sockets(port: int = 0) -> dict[int, Listed]:
    """Return the UDP sockets of both families by their inodes: those on a port, or all that have one.

    Where sock_diag can't list them, without CONFIG_INET_UDP_DIAG or in a sandbox, /proc tells less of them.

    Raises:
        FileNotFoundError: /proc is not mounted, either.
    """
    try:
        found = _list(socket.AF_INET, socket.IPPROTO_UDP, port)
        return found | _list(socket.AF_INET6, socket.IPPROTO_UDP, port)
    except OSError:
        return {each.inode: _of_table(each) for each in read_udp_sockets() if port in {0, each.port}}


def _list(family: int, protocol: int, port: int = 0) -> dict[int, Listed]:
    what = 1 << (_INET_DIAG_SKMEMINFO - 1)
    request = _REQUEST.pack(family, protocol, what, _ALL_STATES, port.to_bytes(2, "big"))
    bodies = ask(_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, DUMP, request)
    return dict(_parse(body, _KINDS[family, protocol]) for body in bodies)


def _parse(message: bytes, protocol: str) -> tuple[int, Listed]:
    family, port, far_port, local, peer, ifindex, queued, user, inode = _MESSAGE.unpack_from(message)
    attributes = dict(split_attributes(message[_MESSAGE.size :]))
    memory = _memory(attributes)
    listed = Listed(
        protocol=protocol,
        # A raw socket has its protocol's number there.
        port=None if protocol == "raw" else int.from_bytes(port, "big"),
        user=user,
        local=_address(family, local),
        peer=_address(family, peer) if any(far_port) else None,
        ifindex=ifindex or None,
        queued=queued,
        buffer=memory[_RCVBUF] if memory else None,
        drops=memory[_DROPS] if memory else None,
        option_memory=memory[_OPTMEM] if memory else None,
        multicast_all=_bit(attributes.get(_INET_DIAG_SOCKOPT), _MC_ALL),
        multicast_loop=_bit(attributes.get(_INET_DIAG_SOCKOPT), _MC_LOOP),
        only_ipv6=_bit(attributes.get(_INET_DIAG_SKV6ONLY), 1),
    )
    return inode, listed


def _of_table(entry: UDPEntry) -> Listed:
    return Listed(
        protocol="udp6" if ":" in entry.local else "udp",
        port=entry.port,
        user=entry.user,
        local=entry.local,
        peer=entry.peer,
        ifindex=None,
        queued=entry.queued,
        buffer=None,
        drops=entry.drops,
        option_memory=None,
        multicast_all=None,
        multicast_loop=None,
        only_ipv6=None,
    )


def _memory(attributes: dict[int, bytes]) -> tuple[int, ...] | None:
    value = attributes.get(_INET_DIAG_SKMEMINFO, b"")
    return _MEMORY.unpack_from(value) if len(value) >= _MEMORY.size else None


def _address(family: int, octets: bytes) -> str:
    # Not by ipaddress, which writes IPv4's addresses in IPv6 in more than one way.
    return socket.inet_ntop(family, octets[:4] if family == socket.AF_INET else octets)


def _bit(value: bytes | None, bit: int) -> bool | None:
    return bool(value[0] & bit) if value else None
