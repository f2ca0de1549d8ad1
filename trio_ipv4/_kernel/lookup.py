"""Resolve names, indexes and addresses of interfaces, through a socket, which may belong to another namespace."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import struct
from typing import TYPE_CHECKING, Final

from trio_ipv4._abi import structs
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.explain import explain, refusal
from trio_ipv4._values.fields import to_address, to_integer
from trio_ipv4._values.interface import MAX_IFINDEX, Interface, InterfaceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.interface import InterfaceLike

IFNAMSIZ: Final = 16  # linux/if.h


def resolve(socket: Socket, interface: InterfaceLike) -> int | None:
    """Return the index of an interface, asking through `socket`; `None` stays `None`.

    Raises:
        OSError: ENODEV: there is no interface of that name or index. EADDRNOTAVAIL: none has that address.
            EADDRINUSE: several have it.
        TypeError: Not an `Interface`, name, index, `IPv4Address` or `None`.
    """
    if interface is None:
        return None
    if isinstance(interface, Interface):
        return interface.index
    if isinstance(interface, str):
        return index_of_name(socket, interface)
    if isinstance(interface, ipaddress.IPv4Address):
        return _index_of_address(socket, to_address(interface, "interface"))
    return to_integer(interface, "interface", 1, MAX_IFINDEX)


def name_of(socket: Socket, index: int) -> str | None:
    """Return the name of the interface with that index in the socket's namespace, or `None` if there is none."""
    try:
        if "SIOCGIFNAME" not in socket.system.platform.numbers:  # A socket can't belong to another namespace there.
            return dict(socket.system.if_nameindex()).get(index)
        return _text(_ask_by_index(socket, index)[:IFNAMSIZ])
    except OSError:
        return None


def exists(socket: Socket, index: int) -> bool:
    """Tell whether there is an interface with that index in the socket's namespace; `True` if nobody can tell."""
    try:
        _ask_by_index(socket, index)
    except OSError as error:
        return error.errno not in (errno.ENODEV, errno.ENXIO)
    return True


def describe(socket: Socket, index: int) -> str:
    """Name an interface in a message."""
    name = name_of(socket, index)
    return f"interface index {index}" if name is None else f"{name} (interface index {index})"


def is_loopback(socket: Socket, index: int) -> bool:
    """Tell whether the interface with that index, in the socket's namespace, is a loopback one."""
    flags = flags_of(socket, index)
    return flags is not None and InterfaceFlags.LOOPBACK in flags


def flags_of(socket: Socket, index: int) -> InterfaceFlags | None:
    """Return the lower 16 flags of the interface with that index, or `None` if there is none."""
    name = name_of(socket, index)
    if name is None or "SIOCGIFFLAGS" not in socket.system.platform.numbers:
        return None
    try:
        answer = _ioctl(socket, "SIOCGIFFLAGS", os.fsencode(name))
    except OSError:
        return None
    (flags,) = struct.unpack_from(socket.system.platform.prefix + "H", answer, IFNAMSIZ)
    return InterfaceFlags(flags)


def own_addresses(socket: Socket) -> set[ipaddress.IPv4Address]:
    """Return the IPv4 addresses of all interfaces in the socket's namespace."""
    return {address for _, address in _addresses(socket)}


def first_address(socket: Socket, index: int) -> ipaddress.IPv4Address | None:
    """Return the primary address of the interface with that index, `None` if it has none."""
    name = name_of(socket, index)
    return next((address for owner, address in _addresses(socket) if owner == name), None)


def indexes(socket: Socket) -> list[int]:
    """Return the indexes of the interfaces in the socket's namespace; elsewhere than here, of those with an address."""
    if namespaces.is_current(socket):
        with contextlib.suppress(OSError):  # It asks by rtnetlink, which some sandboxes refuse.
            return [index for index, _ in socket.system.if_nameindex()]
    return sorted({index_of_name(socket, name) for name, _ in _addresses(socket)})


def all_indexes(socket: Socket) -> list[int]:
    """Return the indexes of the interfaces in the socket's namespace, by trying one after the other up to 65,535.

    It takes a tenth of a second.
    """
    return [index for index in range(1, 1 << 16) if name_of(socket, index) is not None]


def index_of_name(socket: Socket, name: str) -> int:
    socket.system.platform.number("SIOCGIFINDEX")
    encoded = os.fsencode(name)
    attempt = f"find the interface named {name!r}"
    if not 0 < len(encoded) < IFNAMSIZ or b"\0" in encoded:
        raise refusal(errno.ENODEV, "interface", attempt, advice=_name_advice(name))
    try:
        answer = _ioctl(socket, "SIOCGIFINDEX", encoded)
    except OSError as error:
        raise explain(error, "interface", attempt, advice=_name_advice(name)) from None
    (index,) = struct.unpack_from(socket.system.platform.prefix + "i", answer, IFNAMSIZ)
    return int(index)


def _name_advice(name: str) -> str | None:
    """Say what to pass instead of a string that names no interface."""
    if name.isdecimal():
        return f"a string is a name: for the interface with this index, pass the integer {name}"
    with contextlib.suppress(ValueError):
        if not int(ipaddress.IPv4Address(name)):
            return "a string is a name: None lets the kernel choose the interface"
        if ipaddress.IPv4Address(name).is_multicast:
            return "this is a group: the interface comes first, then the group"
        return f"a string is a name: for the interface that has this address, pass IPv4Address({name!r})"
    if len(os.fsencode(name)) >= IFNAMSIZ:
        return "a name has at most 15 octets; a longer alternative name does not do"
    return None


def _index_of_address(socket: Socket, address: ipaddress.IPv4Address) -> int:
    attempt = f"find the interface that has the address {address}"
    owners = dict.fromkeys(name for name, owned in _addresses(socket) if owned == address)
    if len(owners) > 1:
        advice = f"{' and '.join(owners)} have it: name the interface instead"
        raise refusal(errno.EADDRINUSE, "interface", attempt, advice=advice)
    for name in owners:
        return index_of_name(socket, name)
    raise refusal(errno.EADDRNOTAVAIL, "interface", attempt)


def _addresses(socket: Socket) -> Iterator[tuple[str, ipaddress.IPv4Address]]:
    """Yield name and address of each IPv4 address in the socket's namespace (netdevice(7): SIOCGIFCONF)."""
    socket.system.platform.number("SIOCGIFCONF")
    every, size = socket.ifconf(), structs.ifreq_size(socket.system.platform)
    for offset in range(0, len(every), size):
        request = every[offset : offset + size]
        # A label such as "eth0:1" names an address of eth0.
        yield _text(request[:IFNAMSIZ]).partition(":")[0], ipaddress.IPv4Address(request[20:24])


def _ask_by_index(socket: Socket, index: int) -> bytes:
    return _ioctl(socket, "SIOCGIFNAME", struct.pack(socket.system.platform.prefix + "16xi", index))


def _ioctl(socket: Socket, request: str, value: bytes) -> bytes:
    platform = socket.system.platform
    return socket.ioctl(platform.number(request), value.ljust(structs.ifreq_size(platform), b"\0"))


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])
