"""The bridges on this host, by rtnetlink(7); no privilege is needed.

The files of /sys/class/net may be another network namespace's, so they are not read.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4._cli.doctor.evidence import Bridge, Rule
from trio_ipv4._cli.netlink import DUMP, ask, split_attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_RTM_GETLINK: Final = 18  # linux/rtnetlink.h
_LINK: Final = struct.Struct("=BxHiII")  # linux/rtnetlink.h: struct ifinfomsg; the index is the third.
_IFLA_IFNAME: Final = 3  # linux/if_link.h, and those below
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INFO_SLAVE_KIND: Final = 4
_IFLA_INFO_SLAVE_DATA: Final = 5
_IFLA_BR_MCAST_SNOOPING: Final = 23
_IFLA_BR_MCAST_QUERIER: Final = 25
_IFLA_BRPORT_MCAST_FLOOD: Final = 27
_IFLA_BRPORT_ISOLATED: Final = 33


@attrs.frozen
class _Device:
    index: int
    name: str
    master: int | None
    kind: str
    data: Mapping[int, bytes]
    port_kind: str
    port_data: Mapping[int, bytes]


def look(devices: Collection[str]) -> tuple[tuple[Bridge, ...], list[Rule]]:
    """Return all bridges, and the settings that keep multicast away from hosts: those of the devices that are named.

    Raises:
        OSError: The kernel refuses.
    """
    found = _list()
    bridges = [each for each in found if each.kind == "bridge"]
    told = tuple(
        Bridge(
            each.index,
            snooping=_is_on(each.data, _IFLA_BR_MCAST_SNOOPING),
            querier=_is_on(each.data, _IFLA_BR_MCAST_QUERIER),
            ports=tuple(port.index for port in found if port.master == each.index),
        )
        for each in bridges
    )
    masters = {each.master for each in found if each.name in devices}
    near = [each for each in bridges if each.name in devices or each.index in masters]
    return told, [rule for each in near for rule in _settings(each, found)]


def _settings(bridge: _Device, devices: Collection[_Device]) -> list[Rule]:
    rules = []
    if _is_on(bridge.data, _IFLA_BR_MCAST_SNOOPING) and not _is_on(bridge.data, _IFLA_BR_MCAST_QUERIER):
        command = f"ip link set dev {bridge.name} type bridge mcast_querier 1"
        rules.append(_rule(f"{bridge.name}: mcast_snooping 1 mcast_querier 0", command))
    for port in devices:
        if port.master == bridge.index and port.port_kind == "bridge":
            if _is_on(port.port_data, _IFLA_BRPORT_ISOLATED):
                rules.append(_rule(f"{port.name}: isolated on", f"bridge link set dev {port.name} isolated off"))
            if port.port_data.get(_IFLA_BRPORT_MCAST_FLOOD) == b"\0":
                command = f"bridge link set dev {port.name} mcast_flood on"
                rules.append(_rule(f"{port.name}: mcast_flood off", command))
    return rules


def _rule(text: str, remove: str) -> Rule:
    return Rule("bridge", text, None, remove, matches=("udp", "igmp"))


def _is_on(data: Mapping[int, bytes], attribute: int) -> bool:
    return data.get(attribute, b"\0") != b"\0"


def _list() -> list[_Device]:
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return [_read(answer) for answer in ask(socket.NETLINK_ROUTE, _RTM_GETLINK, DUMP, request)]


def _read(answer: bytes) -> _Device:
    _, _, index, _, _ = _LINK.unpack_from(answer)
    told = dict(split_attributes(answer[_LINK.size :]))
    info = dict(split_attributes(told.get(_IFLA_LINKINFO, b"")))
    master = told.get(_IFLA_MASTER)
    return _Device(
        index,
        _text(told.get(_IFLA_IFNAME, b"")),
        None if master is None else struct.unpack("=I", master)[0],
        _text(info.get(_IFLA_INFO_KIND, b"")),
        dict(split_attributes(info.get(_IFLA_INFO_DATA, b""))),
        _text(info.get(_IFLA_INFO_SLAVE_KIND, b"")),
        dict(split_attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""))),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
