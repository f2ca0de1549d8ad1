"""Network interfaces as values: the state of one, at one moment."""

from __future__ import annotations

import enum
import ipaddress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from trio_ipv4._values.fields import to_integer

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_IFINDEX: Final = 0x7FFF_FFFF
"""An interface index is a positive C int (linux/if.h)."""
IPV4_MIN_MTU: Final = 68
"""With less, Linux ends IPv4 on an interface, and with it the memberships (linux/inetdevice.h)."""


class InterfaceFlags(enum.IntFlag, boundary=enum.KEEP):
    """The flags of an interface (IFF_*, linux/if.h; netdevice(7)). Bits without a name are kept."""

    UP = 0x1
    BROADCAST = 0x2
    DEBUG = 0x4
    LOOPBACK = 0x8
    POINTOPOINT = 0x10
    NOTRAILERS = 0x20
    RUNNING = 0x40
    NOARP = 0x80
    PROMISC = 0x100
    ALLMULTI = 0x200
    MASTER = 0x400
    SLAVE = 0x800
    MULTICAST = 0x1000
    PORTSEL = 0x2000
    AUTOMEDIA = 0x4000
    DYNAMIC = 0x8000
    LOWER_UP = 0x10000
    DORMANT = 0x20000
    ECHO = 0x40000


@final
@attrs.frozen(init=False)
class Interface:
    """A network interface, as it was when it was asked for.

    Args:
        index: The kernel's number for it, 1 or more. Unique in its namespace among the interfaces that exist; the
            kernel reuses it after deletion.
        name: Its name, such as `"eth0"`.
        mtu: The longest IP packet that it carries, in octets.
        flags: IFF_* flags.
        addresses: Its IPv4 addresses with their prefixes, in the kernel's order: the first is the primary one.
        kind: The kind of a virtual link, such as `"bridge"`, `"vlan"`, `"veth"`, `"wireguard"` (IFLA_INFO_KIND,
            linux/if_link.h); `None` for a plain device.
        master: The index of the link that this one is a port of (IFLA_MASTER), such as a bridge or a bond; `None` if
            there is none.
        master_kind: The kind of `master`, such as `"bridge"`, `"bond"`, `"team"`, `"vrf"` (IFLA_INFO_SLAVE_KIND).
        alternative_names: Further names (IFLA_ALT_IFNAME), such as `"enp0s31f6"`.
        hardware_address: Its address on the link, 6 octets on Ethernet (IFLA_ADDRESS); empty if it has none.
    """

    index: int
    name: str
    mtu: int
    flags: InterfaceFlags
    addresses: tuple[ipaddress.IPv4Interface, ...]
    kind: str | None
    master: int | None
    master_kind: str | None
    alternative_names: tuple[str, ...]
    hardware_address: bytes

    def __init__(
        self,
        index: int,
        name: str,
        mtu: int,
        flags: InterfaceFlags,
        addresses: Iterable[ipaddress.IPv4Interface] = (),
        *,
        kind: str | None = None,
        master: int | None = None,
        master_kind: str | None = None,
        alternative_names: Iterable[str] = (),
        hardware_address: bytes = b"",
    ) -> None:
        if not isinstance(hardware_address, bytes):
            raise TypeError(f"hardware_address must be bytes, got {hardware_address!r}")
        if isinstance(alternative_names, str):
            raise TypeError(f"alternative_names must be several strings, got {alternative_names!r}")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(index, "index", 1, MAX_IFINDEX),
            _text(name, "name"),
            to_integer(mtu, "mtu", 0, 0xFFFF_FFFF),
            InterfaceFlags(to_integer(flags, "flags", 0, 0xFFFF_FFFF)),
            tuple(_interface_address(address) for address in addresses),
            None if kind is None else _text(kind, "kind"),
            None if master is None else to_integer(master, "master", 1, MAX_IFINDEX),
            None if master_kind is None else _text(master_kind, "master_kind"),
            tuple(_text(each, "an alternative name") for each in alternative_names),
            hardware_address,
        )

    @property
    def is_up(self) -> bool:
        """Whether the administrator has set it up (IFF_UP); says nothing of the carrier."""
        return InterfaceFlags.UP in self.flags

    @property
    def is_multicast(self) -> bool:
        """Whether it supports multicast (IFF_MULTICAST). Linux's loopback lacks the flag, but carries multicast."""
        return InterfaceFlags.MULTICAST in self.flags

    @property
    def is_loopback(self) -> bool:
        """Whether it is a loopback interface (IFF_LOOPBACK)."""
        return InterfaceFlags.LOOPBACK in self.flags

    @property
    def is_port(self) -> bool:
        """Whether it is a port of a bridge, bond, team or the like: what arrives there, the master receives.

        A membership on a port hears nothing. An interface in a VRF is none: it receives by itself.
        """
        return self.master is not None and self.master_kind != "vrf"


class InterfaceChangeKind(enum.Enum):
    """The kinds of change of an interface."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@final
@attrs.frozen(init=False)
class InterfaceChange:
    """An interface that appeared, changed (any field of it) or went, with its last known state."""

    kind: InterfaceChangeKind
    interface: Interface

    def __init__(self, kind: InterfaceChangeKind, interface: Interface) -> None:
        if not isinstance(kind, InterfaceChangeKind):
            raise TypeError(f"kind must be an InterfaceChangeKind, got {kind!r}")
        if not isinstance(interface, Interface):
            raise TypeError(f"interface must be an Interface, got {interface!r}")
        self.__attrs_init__(kind, interface)  # pyright: ignore[reportAttributeAccessIssue]


InterfaceLike: TypeAlias = "Interface | str | int | ipaddress.IPv4Address | None"
"""What names an interface to a connection: an `Interface`, a name (a string is always a name), an index, an
`IPv4Address` that it owns, or `None` for the one that the kernel's routes choose."""


def to_ifindex(value: object, name: str) -> int | None:
    """Convert an `Interface` or an index; `None` says 'absent', 0 does not.

    A name or an address is a `TypeError`: a value has no socket to ask.
    """
    if value is None:
        return None
    if isinstance(value, Interface):
        return value.index
    if isinstance(value, str | ipaddress.IPv4Address):
        raise TypeError(
            f"{name} must be an Interface or an index, got {value!r}: only a connection can resolve names and "
            "addresses; interface_by_name() finds a name"
        )
    return to_integer(value, name, 1, MAX_IFINDEX)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return value


def _interface_address(value: object) -> ipaddress.IPv4Interface:
    if not isinstance(value, ipaddress.IPv4Interface):
        raise TypeError(f"addresses must be IPv4Interface values, got {value!r}")
    return value
