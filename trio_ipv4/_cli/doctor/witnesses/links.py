"""The interfaces of this network namespace, and hints about the machine.

It asks rtnetlink(7) (RTM_GETLINK), /sys and /proc. It needs no privilege, and disturbs nothing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final, Literal

import attrs

from trio_ipv4 import InterfaceFlags, interfaces
from trio_ipv4._cli.doctor.evidence import Link, Links
from trio_ipv4._cli.netlink import DUMP, ask, marshal_attribute, split_attributes

_VENDOR: Final = Path("/sys/class/dmi/id/sys_vendor")
_VERSION: Final = Path("/proc/version")
_RTM_GETLINK: Final = 18  # linux/rtnetlink.h
_LINK: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg (linux/rtnetlink.h): family, hardware's type, index, flags, and which of them change."""
_IFLA_ADDRESS: Final = 1  # linux/if_link.h, and those below
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_EXT_MASK: Final = 29
_IFLA_PROMISCUITY: Final = 30
_IFLA_CARRIER: Final = 33
_IFLA_LINK_NETNSID: Final = 37
_IFLA_XDP: Final = 43
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INFO_SLAVE_KIND: Final = 4
_IFLA_INFO_SLAVE_DATA: Final = 5
_IFLA_MACVLAN_MODE: Final = 1
_IFLA_BRPORT_ISOLATED: Final = 33
_IFLA_XDP_ATTACHED: Final = 2
_SKIP_STATS: Final = struct.pack("=I", 1 << 3)  # RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
_XDP: Final[Mapping[int, Literal["native", "generic", "offloaded"]]] = {
    1: "native",  # XDP_ATTACHED_DRV
    2: "generic",  # XDP_ATTACHED_SKB
    3: "offloaded",  # XDP_ATTACHED_HW
    4: "native",  # XDP_ATTACHED_MULTI: one in the driver, and one in the hardware.
}
_MODES: Final = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}
"""MACVLAN_MODE_*, linux/if_link.h."""
_MACVLANS: Final = frozenset({"macvlan", "macvtap"})
_PAIRS: Final = frozenset({"veth", "netkit", "vxcan"})
"""Kinds that come in pairs: their IFLA_LINK is the other end, and not below."""
_LISTENING_MASTERS: Final = frozenset({"bridge", "openvswitch"})
"""What makes its ports promiscuous by itself."""


@attrs.frozen
class _Answer:
    """A link, as the kernel describes it, and how many there are that want all its frames."""

    link: Link
    promiscuity: int


def look() -> Links:
    """Look at all interfaces.

    Raises:
        OSError: rtnetlink is refused, as in some sandboxes.
    """
    addresses = {each.index: each.addresses for each in interfaces()}
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + marshal_attribute(_IFLA_EXT_MASK, _SKIP_STATS)
    bodies = ask(socket.NETLINK_ROUTE, _RTM_GETLINK, DUMP, request)
    # Where a dump had to be asked for twice, the later answers count.
    answers = {each.link.index: each for each in (_parse(body, addresses) for body in bodies)}
    return Links(
        links=_with_listeners([answers[index] for index in sorted(answers)]),
        vendor=_read(_VENDOR),
        wsl="microsoft" in (_read(_VERSION) or "").lower(),
    )


def _parse(body: bytes, addresses: Mapping[int, Sequence[IPv4Interface]]) -> _Answer:
    _, _, index, bits, _ = _LINK.unpack_from(body)
    flags = InterfaceFlags(bits)
    found = dict(split_attributes(body[_LINK.size :]))
    kinds = dict(split_attributes(found.get(_IFLA_LINKINFO, b"")))
    kind, port_kind = _text(kinds.get(_IFLA_INFO_KIND)), _text(kinds.get(_IFLA_INFO_SLAVE_KIND))
    port = dict(split_attributes(kinds.get(_IFLA_INFO_SLAVE_DATA, b""))) if port_kind == "bridge" else {}
    xdp = dict(split_attributes(found.get(_IFLA_XDP, b"")))
    link = Link(
        index=index,
        name=_text(found.get(_IFLA_IFNAME)) or "",
        up=InterfaceFlags.UP in flags,
        carrier=bool(_number(found.get(_IFLA_CARRIER))),
        loopback=InterfaceFlags.LOOPBACK in flags,
        multicast=InterfaceFlags.MULTICAST in flags,
        mtu=_number(found.get(_IFLA_MTU)),
        kind=kind,
        port_kind=port_kind,
        mode=_mode(kinds.get(_IFLA_INFO_DATA, b"")) if kind in _MACVLANS else None,
        master=_number(found.get(_IFLA_MASTER)) or None,
        lower=None if kind in _PAIRS or _IFLA_LINK_NETNSID in found else _number(found.get(_IFLA_LINK)) or None,
        hardware_address=found.get(_IFLA_ADDRESS, b"").hex(":") or None,
        addresses=tuple(addresses.get(index, ())),
        xdp=_XDP.get(_number(xdp.get(_IFLA_XDP_ATTACHED))),
        isolated=bool(_number(port.get(_IFLA_BRPORT_ISOLATED))),
    )
    return _Answer(link, _number(found.get(_IFLA_PROMISCUITY)))


def _with_listeners(answers: Sequence[_Answer]) -> tuple[Link, ...]:
    """Say which are promiscuous because somebody listens.

    A bridge makes its ports so, and a macvlan the device below it (`__dev_set_rx_mode` in net/core/dev.c): each counts
    as one.
    """
    below = Counter({each.link.lower for each in answers if each.link.kind in _MACVLANS})
    return tuple(
        attrs.evolve(
            each.link,
            promiscuous=each.promiscuity > below[each.link.index] + (each.link.port_kind in _LISTENING_MASTERS),
        )
        for each in answers
    )


def _mode(data: bytes) -> str | None:
    return _MODES.get(_number(dict(split_attributes(data)).get(_IFLA_MACVLAN_MODE)))


def _number(value: bytes | None) -> int:
    """Read a number in the machine's order of octets; 0, if it is missing."""
    return int.from_bytes(value or b"", sys.byteorder)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _read(file: Path) -> str | None:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    return None
