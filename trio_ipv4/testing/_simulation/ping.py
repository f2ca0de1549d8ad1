"""ICMP sockets without privilege, "ping sockets" (linux net/ipv4/ping.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from trio_ipv4._values.checksum import with_checksum
from trio_ipv4.testing._simulation.packets import ANY
from trio_ipv4.testing._simulation.refuse import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4.testing._simulation.devices import Device
    from trio_ipv4.testing._simulation.internet import InternetSocket
    from trio_ipv4.testing._simulation.machine import Machine

_REQUESTS: Final = frozenset({8, 42})
"""ICMP_ECHO and ICMP_EXT_ECHO, linux/icmp.h."""
_HEADER: Final = 8
_MAX_PACKET: Final = 65535
_GROUP_OF_ROOT, _GROUP_OF_OTHERS = 0, 1000
"""The group that a program is of."""


def check_group(machine: Machine) -> None:
    """Refuse a socket to a program whose group may not have one (`ping_init_sock`)."""
    first, last = map(int, machine.sysctls["net.ipv4.ping_group_range"].split())
    if not first <= (_GROUP_OF_ROOT if machine.privileged else _GROUP_OF_OTHERS) <= last:
        refuse(errno.EACCES)


def is_supported(message: bytes) -> bool:
    """Tell whether a message is one that a ping socket sends, and hears errors about (`ping_supported`)."""
    return message[0] in _REQUESTS and message[1] == 0


def choose(machine: Machine, wanted: int, *, shared: bool) -> int:
    """Return the identifier for a socket: the wanted one, or with 0 a free one (`ping_get_port`).

    Sockets that all set SO_REUSEADDR may have the same.
    """
    others = [each for each in machine.sockets if each.is_ping]
    if wanted:
        same = [each for each in others if each.identifier == wanted]
        if same and not (shared and all(each.options["SO_REUSEADDR"] for each in same)):
            refuse(errno.EADDRINUSE)
        return wanted
    taken = {each.identifier for each in others}
    last = machine.last_identifier
    free = next((each for each in (*range(last + 1, 1 << 16), *range(1, last + 1)) if each not in taken), 0)
    if not free:
        refuse(errno.EADDRINUSE)
    machine.last_identifier = free
    return free


def complete(message: bytes, identifier: int) -> bytes:
    """Check a message that is to be sent, and write identifier and checksum (`ping_v4_sendmsg`)."""
    if len(message) > _MAX_PACKET:
        refuse(errno.EMSGSIZE)
    if len(message) < _HEADER or not is_supported(message):
        refuse(errno.EINVAL)
    return with_checksum(message[:2] + bytes(2) + identifier.to_bytes(2, "big") + message[6:])


def find(sockets: Iterable[InternetSocket], device: Device, local: bytes, message: bytes) -> InternetSocket | None:
    """Find the socket that hears a reply, or an error about a request (`ping_lookup`). The last one has it.

    Args:
        sockets: The sockets of the host, in the order in which they were bound.
        device: Where the ICMP message came in.
        local: The address that it was for.
        message: The reply, or the request.
    """
    identifier = int.from_bytes(message[4:6], "big")
    found = None
    for each in sockets:
        is_meant = each.is_ping and each.identifier == identifier
        if is_meant and each.address in (ANY, local) and each.device in (0, device.index):
            found = each
    return found
