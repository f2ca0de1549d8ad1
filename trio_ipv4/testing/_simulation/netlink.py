"""rtnetlink(7) of a simulated host: the messages about its interfaces, and the sockets on which it tells them."""

from __future__ import annotations

import collections
import errno
import struct
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from trio_ipv4._abi import structs
from trio_ipv4._codec.rtnetlink import (
    IFA_CACHEINFO,
    IFA_MULTICAST,
    RTA_DST,
    RTA_IIF,
    RTA_IP_PROTO,
    RTA_SRC,
    RTCF_LOCAL,
    RTM_DELLINK,
    RTM_DELMULTICAST,
    RTM_GETMULTICAST,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_NEWMULTICAST,
    RTM_NEWNETCONF,
    RTM_NEWROUTE,
)
from trio_ipv4._kernel.calls import MSG_PEEK, MSG_TRUNC
from trio_ipv4._kernel.memberships import RTNLGRP_IPV4_MCADDR
from trio_ipv4._kernel.netlink import RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_NETCONF, RTMGRP_LINK
from trio_ipv4.testing._simulation import bpf
from trio_ipv4.testing._simulation.linux import LINUX
from trio_ipv4.testing._simulation.packets import Packet, is_group
from trio_ipv4.testing._simulation.refuse import not_simulated, refuse
from trio_ipv4.testing._simulation.sockets import BaseSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._kernel.calls import Receiver, Sender
    from trio_ipv4.testing._simulation.devices import Address, Device
    from trio_ipv4.testing._simulation.machine import Machine

# linux/rtnetlink.h, linux/netlink.h
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_MULTI: Final = 2
_ROUTE_AT: Final = 28
"""Where the attributes of a request about routes begin: behind `struct nlmsghdr` and `struct rtmsg`."""
_GROUPS: Final = {
    RTM_NEWLINK: RTMGRP_LINK,
    RTM_DELLINK: RTMGRP_LINK,
    _RTM_NEWADDR: RTMGRP_IPV4_IFADDR,
    _RTM_DELADDR: RTMGRP_IPV4_IFADDR,
    RTM_NEWNETCONF: RTMGRP_IPV4_NETCONF,
    RTM_NEWMULTICAST: 1 << (RTNLGRP_IPV4_MCADDR - 1),
    RTM_DELMULTICAST: 1 << (RTNLGRP_IPV4_MCADDR - 1),
}
# linux/if_addr.h
_IFA_F_SECONDARY: Final = 0x01
_IFA_F_PERMANENT: Final = 0x80
_FOR_EVER: Final = 0xFFFF_FFFF
"""INFINITY_LIFE_TIME, linux/addrconf.h."""
_MEMORY: Final = {RTM_NEWLINK: 2304, RTM_DELLINK: 2304}
_MEMORY_OF_OTHERS: Final = 768
"""What a message counts in the buffer: Linux's messages about links have some 1,400 octets, others 100."""


def new_link(device: Device, sequence: int = 0) -> bytes:
    """Tell that a link exists, and how it is (RTM_NEWLINK)."""
    return _link(RTM_NEWLINK, device, sequence)


def deleted_link(device: Device) -> bytes:
    """Tell that a link is gone (RTM_DELLINK)."""
    return _link(RTM_DELLINK, device, 0)


def new_address(device: Device, address: Address, sequence: int = 0) -> bytes:
    """Tell that a link has an address (RTM_NEWADDR)."""
    return _address(_RTM_NEWADDR, device, address, sequence)


def deleted_address(device: Device, address: Address) -> bytes:
    """Tell that a link has an address no longer (RTM_DELADDR)."""
    return _address(_RTM_DELADDR, device, address, 0)


def new_settings(device: Device) -> bytes:
    """Tell that a link has IPv4 settings (RTM_NEWNETCONF)."""
    body = struct.pack("<B3x", structs.AF_INET) + _attribute(1, struct.pack("<i", device.index))
    return _message(RTM_NEWNETCONF, body, 0)


def new_group(device: Device, group: bytes) -> bytes:
    """Tell that an interface has joined a group (RTM_NEWMULTICAST)."""
    return _group(RTM_NEWMULTICAST, device, group, 0)


def deleted_group(device: Device, group: bytes) -> bytes:
    """Tell that an interface leaves a group, while it still has it (RTM_DELMULTICAST)."""
    return _group(RTM_DELMULTICAST, device, group, 0)


@final
class NetlinkSocket(BaseSocket):
    """A socket to the host's tables."""

    def __init__(self, machine: Machine, kind: int, protocol: int) -> None:
        super().__init__(machine, LINUX.number("rtnetlink"), kind, protocol)
        self._groups = 0
        self._queue: Final[collections.deque[bytes]] = collections.deque()
        self._used = 0
        self._size = machine.sysctl_number("net.core.rmem_default")
        self._program: tuple[bpf.Instruction, ...] = ()
        self._has_lost = False
        """Whether messages were lost, and nobody was told yet."""
        self._is_congested = False

    @property
    def has_something(self) -> bool:
        return bool(self._queue) or self._has_lost

    def release(self) -> None:
        if self in self.system.netlinks:
            self.system.netlinks.remove(self)

    def bind(self, address: Any, /) -> None:
        self.require_open()
        self._subscribe(int(address[1]))

    def _subscribe(self, groups: int) -> None:
        self._groups |= groups
        if self._groups and self not in self.system.netlinks:
            self.system.netlinks.append(self)

    def getsockname(self) -> Any:
        return self.fileno(), self._groups & 0xFFFF_FFFF

    def push(self, message: bytes) -> None:
        """Take a message in, if the socket wants it. When the buffer is full all are lost until it was read empty."""
        (kind,) = struct.unpack_from("<4xH", message)
        if not self._groups & _GROUPS[kind]:
            return
        if self._program and not bpf.run(self._program, message, message, byte_order=LINUX.byte_order):
            return
        if self._is_congested or self._used + _memory(message) > self._size:
            self.lose()
            return
        self._put(message)
        self.wake()

    def lose(self) -> None:
        """Let the buffer overflow: until it was read empty, all messages are lost (`netlink_overrun`)."""
        if not self._is_congested:
            self._has_lost = True
        self._is_congested = True
        self.wake()

    def _put(self, message: bytes) -> None:
        self._queue.append(message)
        self._used += _memory(message)

    def recvmsg(self, size: int, flags: int = 0, /) -> tuple[bytes, int, Any]:
        self.require_open()
        if self._has_lost:
            self._has_lost = False
            self._end_congestion()
            refuse(errno.ENOBUFS)
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        message = self._queue[0]
        if not flags & MSG_PEEK:
            self._queue.popleft()
            self._used -= _memory(message)
            self._end_congestion()
        return message[:size], MSG_TRUNC if len(message) > size else 0, (0, 0)

    def _end_congestion(self) -> None:
        if not self._queue:
            self._is_congested = False

    def sendto(self, data: bytes, _address: Any, /) -> int:
        """Answer a request for all links, addresses or groups, or for an input route."""
        self.require_open()
        kind, sequence = struct.unpack_from("<4xH2xI", data)
        if kind == RTM_GETROUTE:
            self._put(self._input_route(data, sequence))
            return len(data)
        for message in self._answer(kind, sequence):
            self._put(message)
        self._put(_message(_NLMSG_DONE, bytes(4), sequence))
        return len(data)

    def _input_route(self, request: bytes, sequence: int) -> bytes:
        """Tell what becomes of a packet that comes in (`inet_rtm_getroute`)."""
        asked = _attributes_of(request, _ROUTE_AT)
        source, destination = asked[RTA_SRC], asked[RTA_DST]
        device = self.system.devices.get(int.from_bytes(asked[RTA_IIF], LINUX.byte_order))
        if device is None:
            return _error(errno.ENODEV, request, sequence)
        packet = Packet(source, destination, asked[RTA_IP_PROTO][0], bytes(8), 64, 0, dont_fragment=False, memory=0)
        fate = self.system.input.route(device, packet)
        if not fate.is_local and not fate.is_forwarded:
            return _error(errno.EINVAL if is_group(destination) else errno.EHOSTUNREACH, request, sequence)
        flags = RTCF_LOCAL if fate.is_local else 0
        body = struct.pack("<BBBBBBBBI", structs.AF_INET, 32, 32, 0, 0, 0, 0, 0, flags)
        return _message(RTM_NEWROUTE, body + _attribute(RTA_DST, destination), sequence)

    def _answer(self, kind: int, sequence: int) -> Iterator[bytes]:
        for device in self.system.devices.values():
            if kind == _RTM_GETLINK:
                yield new_link(device, sequence)
            elif kind == _RTM_GETADDR:
                for address in device.addresses:
                    yield new_address(device, address, sequence)
            elif kind == RTM_GETMULTICAST:
                for group in reversed(device.groups):  # Linux puts new ones first.
                    yield _group(RTM_GETMULTICAST, device, group, sequence)
            else:
                raise not_simulated(f"a netlink request of type {kind}")

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        self.require_open()
        number = int.from_bytes(value, LINUX.byte_order)
        if (level, name) == _key("SO_RCVBUF"):
            self._size = 2 * min(number, self.system.sysctl_number("net.core.rmem_max"))
        elif (level, name) == _key("SO_RCVBUFFORCE"):
            if not self.system.privileged:
                refuse(errno.EPERM)
            self._size = 2 * number
        elif (level, name) == _key("NETLINK_ADD_MEMBERSHIP"):
            self._subscribe(1 << (number - 1))
        else:
            raise not_simulated(f"option {name} of level {level} of a netlink socket")

    def getsockopt(self, level: int, name: int, _value: bytes, /) -> bytes:
        self.require_open()
        if (level, name) == _key("SO_NETNS_COOKIE"):
            return self.system.cookie
        if (level, name) == _key("SO_RCVBUF"):
            return self._size.to_bytes(4, LINUX.byte_order)
        raise not_simulated(f"option {name} of level {level} of a netlink socket")

    def attach_bpf(self, program: bytes, /) -> None:
        self.require_open()
        self._program = bpf.load(program, LINUX.byte_order)

    def ioctl(self, request: int, _value: bytes, /) -> NoReturn:
        raise not_simulated(f"ioctl {request:#x} on a netlink socket")

    def ifconf(self) -> NoReturn:
        raise not_simulated("SIOCGIFCONF on a netlink socket")

    def receiver(self) -> Receiver:
        raise not_simulated("recvmmsg on a netlink socket")

    def sender(self) -> Sender:
        raise not_simulated("sendmmsg on a netlink socket")


def _key(name: str) -> tuple[int, int]:
    option = LINUX.option(name)
    return option.level, option.name


def _memory(message: bytes) -> int:
    return _MEMORY.get(struct.unpack_from("<4xH", message)[0], _MEMORY_OF_OTHERS)


def _link(kind: int, device: Device, sequence: int) -> bytes:
    body = struct.pack("<BxHiII", 0, 772 if device.is_loopback else 1, device.index, device.flags, 0)
    body += _attribute(3, device.name.encode() + b"\0") + _attribute(4, struct.pack("<I", device.mtu))
    return _message(kind, body + _attribute(1, device.hardware_address), sequence)


def _address(kind: int, device: Device, address: Address, sequence: int) -> bytes:
    flags = _IFA_F_SECONDARY if address.is_secondary else 0
    body = struct.pack("<BBBBI", structs.AF_INET, address.length, flags, address.scope, device.index)
    return _message(kind, body + _attribute(1, address.packed) + _attribute(2, address.packed), sequence)


def _group(kind: int, device: Device, group: bytes, sequence: int) -> bytes:
    """Lay out a group of an interface's (`inet_fill_ifmcaddr`)."""
    body = struct.pack("<BBBBI", structs.AF_INET, 32, _IFA_F_PERMANENT, 0, device.index)
    stamp = int(device.groups[group].joined_at * 100) & 0xFFFF_FFFF
    times = struct.pack("<IIII", _FOR_EVER, _FOR_EVER, stamp, stamp)
    return _message(kind, body + _attribute(IFA_MULTICAST, group) + _attribute(IFA_CACHEINFO, times), sequence)


def _error(number: int, request: bytes, sequence: int) -> bytes:
    """Refuse a request (netlink(7): NLMSG_ERROR): the negative errno, and the request's header."""
    return _message(_NLMSG_ERROR, struct.pack("<i", -number) + request[:16], sequence)


def _attributes_of(message: bytes, at: int) -> dict[int, bytes]:
    """Return the attributes of a message from this place on."""
    found = {}
    while at < len(message):
        length, kind = struct.unpack_from("<HH", message, at)
        found[kind] = message[at + 4 : at + length]
        at += -(-length // 4) * 4
    return found


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(data), kind) + data.ljust(-(-len(data) // 4) * 4, b"\0")


def _message(kind: int, body: bytes, sequence: int) -> bytes:
    flags = _NLM_F_MULTI if sequence else 0
    return struct.pack("<IHHII", 16 + len(body), kind, flags, sequence, 0) + body
