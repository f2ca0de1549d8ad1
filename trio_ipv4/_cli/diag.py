"""The sockets of this network namespace, as the kernel lists them for everybody: sock_diag(7).

It lists every bound socket, whosever it is: inode, user, port, and the memory that its options take. A socket without
such memory is a member of nothing. It names no process.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.netlink import DONE, DUMP, ERROR, REQUEST, marshal_message, split_attributes, split_messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
# struct inet_diag_req_v2 (linux/inet_diag.h): family, protocol, what to tell, states; the rest, an identity, is empty.
_REQUEST: Final = struct.Struct("=BBBxI48x")
_INET_DIAG_SKMEMINFO: Final = 7  # linux/inet_diag.h
_ALL_STATES: Final = 0xFFFFFFFF
# struct inet_diag_msg (linux/inet_diag.h): the port, in network order; further behind, the user and the inode.
_PORT: Final = struct.Struct("!H")
_PORT_AT: Final = 4
_OWNER: Final = struct.Struct("=II")
_OWNER_AT: Final = 64
_MESSAGE_SIZE: Final = 72
_OPTMEM_AT: Final = 6 * 4  # SK_MEMINFO_OPTMEM (linux/sock_diag.h)
_NUMBER: Final = struct.Struct("=I")
_UDPLITE: Final = 136  # linux/in.h; not every platform's module has it.
_RAW: Final = socket.IPPROTO_RAW
"""To sock_diag: raw sockets of every protocol."""
_KINDS: Final = {
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
        may_be_member: Whether its options take memory, as a membership does.
    """

    protocol: str
    port: int | None
    user: int
    may_be_member: bool


def list_sockets() -> dict[int, Listed]:
    """Return the sockets that can be members of IPv4 groups, by their inodes; those that are not bound are missing.

    A kind that this kernel can't list is missing, too: without CONFIG_INET_RAW_DIAG, or in a sandbox.
    """
    found: dict[int, Listed] = {}
    for (family, protocol), name in _KINDS.items():
        with contextlib.suppress(OSError):
            found.update(_parse(message, name) for message in _dump(family, protocol))
    return found


def _dump(family: int, protocol: int) -> Iterator[bytes]:
    request = _REQUEST.pack(family, protocol, 1 << (_INET_DIAG_SKMEMINFO - 1), _ALL_STATES)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.sendto(marshal_message(_SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, request), (0, 0))
        while True:
            # The kernel makes parts of a dump of at most 32 KiB (netlink_dump in net/netlink/af_netlink.c).
            part = netlink.recv(1 << 16)
            for kind, body in split_messages(part):
                if kind in {DONE, ERROR}:
                    # An error: this kernel can't list this kind.
                    return
                yield body


def _parse(message: bytes, protocol: str) -> tuple[int, Listed]:
    (port,) = _PORT.unpack_from(message, _PORT_AT)
    user, inode = _OWNER.unpack_from(message, _OWNER_AT)
    # A raw socket has its protocol's number there.
    return inode, Listed(protocol, None if protocol == "raw" else port, user, _option_memory(message) != 0)


def _option_memory(message: bytes) -> int | None:
    for kind, value in split_attributes(message[_MESSAGE_SIZE:]):
        if kind == _INET_DIAG_SKMEMINFO:
            return int(_NUMBER.unpack_from(value, _OPTMEM_AT)[0])
    return None
