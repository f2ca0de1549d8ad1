"""The program that counts drops: it runs on the raw tracepoint kfree_skb, and writes into a map.

It lets through UDP datagrams over IPv4 to one group, in one network namespace. A packet whose network can't be told is
counted too. Where the structures are and how many arguments the tracepoint has is read from the running kernel's BTF.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import attrs

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.doctor.witnesses.drops.assembler import FRAME, Assembler

if TYPE_CHECKING:
    from trio_ipv4._cli.doctor.witnesses.drops.btf import Types

TRACEPOINT: Final = "kfree_skb"
NAMES: Final = frozenset(
    {
        *("sk_buff", "net_device", "net", "ns_common", "sock", "sock_common", "task_struct", "nsproxy"),
        *("skb_drop_reason", f"btf_trace_{TRACEPOINT}"),
    }
)
"""Of the kernel's types."""
_KEY: Final = struct.Struct("=IIQ4s2s?x")
KEY_SIZE: Final = _KEY.size
COUNT: Final = struct.Struct("=Q")

# The tracepoint's arguments (include/trace/events/skb.h), eight octets each.
_SKB_AT: Final = 0
_PLACE_AT: Final = 8
_REASON_AT: Final = 16
_SOCKET_AT: Final = 24
_WITH_REASON: Final = 3
"""So many arguments there are since Linux 5.17."""
_WITH_SOCKET: Final = 4
"""Since Linux 6.11, where a socket refused the packet."""

# The stack. The key, in the order of `_KEY`:
_REASON: Final = -24
_IFINDEX: Final = -20
_PLACE: Final = -16
_SOURCE: Final = -8
_PORT: Final = -4
_HERE: Final = -2
_VALUE: Final = -32
_POINTER: Final = -40
_NUMBER: Final = -48
_HEADER: Final = -72
_PORTS: Final = -80
_LOWEST: Final = -80

_HEADER_SIZE: Final = 20  # RFC 791 section 3.1, and the places below.
_FRAGMENT_AT: Final = 6
_PROTOCOL_AT: Final = 9
_SOURCE_AT: Final = 12
_DESTINATION_AT: Final = 16
_FRAGMENT_OFFSET: Final = struct.unpack("=H", struct.pack("!H", 0x1FFF))[0]
_DESTINATION_PORT_AT: Final = 2  # RFC 768
_PROBE_READ_KERNEL: Final = 113  # linux/bpf.h: enum bpf_func_id, and those below.
_LOOKUP: Final = 1
_UPDATE: Final = 2
_CURRENT_TASK: Final = 35
_NOEXIST: Final = 1  # linux/bpf.h: BPF_NOEXIST


@attrs.frozen
class Key:
    """What is counted together. The numbers are 0 where they are not known.

    Args:
        here: It was in the network namespace; else that can't be told.
    """

    reason: int
    ifindex: int
    place: int
    source: IPv4Address
    port: int
    here: bool

    @classmethod
    def parse(cls, octets: bytes) -> Key:
        """Read a key of the map."""
        reason, ifindex, place, source, port, here = _KEY.unpack(octets)
        return cls(reason, ifindex, place, IPv4Address(source), int.from_bytes(port, "big"), here)


def assemble(types: Types, counts: int, group: IPv4Address, network: int) -> bytes:
    """Return the program.

    Args:
        types: The kernel's, with `NAMES`.
        counts: The map's descriptor.
        group: The group.
        network: The network namespace's inode.

    Raises:
        UnsupportedError: This kernel tells no reasons, or lacks something else.
    """
    arguments = types.arguments_of(TRACEPOINT)
    if arguments < _WITH_REASON:
        raise UnsupportedError("the reason of skb:kfree_skb (Linux 5.17)", "this kernel")
    return _Writer(types).write(counts, group, network, with_socket=arguments >= _WITH_SOCKET)


class _Writer:
    """Writes the program. Register 6 has the arguments, 7 the packet, 8 its IP header, 9 what is looked at.

    The network of a packet is that of its device. A packet in a queue may have none:

    - In a socket's queue, the device's place in the packet has something else, which is no address of the kernel's
      (udp_set_dev_scratch in net/ipv4/udp.c). Since Linux 6.11 the tracepoint names the socket that refuses a packet;
      what is refused later, for its checksum, is refused while a program reads. Then it is the program's network.
    - Of a fragment that waits for others, nothing tells.
    """

    def __init__(self, types: Types) -> None:
        self._to: Final = Assembler()
        self._types: Final = types

    def write(self, counts: int, group: IPv4Address, network: int, *, with_socket: bool) -> bytes:
        to = self._to
        to.move(6, 1)
        to.load(7, 6, _SKB_AT, 8)
        for place in range(_LOWEST, 0, 8):
            to.store_number(FRAME, place, 0, 8)
        self._choose(group)
        self._describe()
        self._find_port()
        self._find_interface()
        self._find_network(with_socket=with_socket)
        self._compare_network(network)
        self._count(counts)
        to.label("out")
        to.set(0, 0)
        to.exit()
        return to.assemble()

    def _read(self, place: int, width: int, base: int, offset: int = 0) -> None:
        """Read the kernel's memory into the stack; what can't be read is 0. Registers 1 to 5 are lost."""
        self._to.move(1, FRAME)
        self._to.add_number(1, place)
        self._to.set(2, width)
        self._to.move(3, base)
        self._to.add_number(3, offset)
        self._to.call(_PROBE_READ_KERNEL)

    def _choose(self, group: IPv4Address) -> None:
        """Go out unless it is UDP to the group."""
        to = self._to
        self._read(_POINTER, 8, 7, self._types.offset("sk_buff", "head"))
        self._read(_NUMBER, 2, 7, self._types.offset("sk_buff", "network_header"))
        to.load(8, FRAME, _POINTER, 8)
        to.load(1, FRAME, _NUMBER, 2)
        to.add(8, 1)
        self._read(_HEADER, _HEADER_SIZE, 8)
        to.load(1, FRAME, _HEADER, 1)
        to.mask(1, 0xF0)
        to.jump_unless(1, 0x40, "out")
        to.load(1, FRAME, _HEADER + _PROTOCOL_AT, 1)
        to.jump_unless(1, socket.IPPROTO_UDP, "out")
        to.load(1, FRAME, _HEADER + _DESTINATION_AT, 4)
        to.set_unsigned(2, struct.unpack("=I", group.packed)[0])
        to.jump_unless_same(1, 2, "out")

    def _describe(self) -> None:
        to = self._to
        for place, argument, width in ((_REASON, _REASON_AT, 4), (_PLACE, _PLACE_AT, 8)):
            to.load(1, 6, argument, 8)
            to.store(FRAME, place, 1, width)
        to.load(1, FRAME, _HEADER + _SOURCE_AT, 4)
        to.store(FRAME, _SOURCE, 1, 4)

    def _find_port(self) -> None:
        to = self._to
        to.load(1, FRAME, _HEADER + _FRAGMENT_AT, 2)
        to.mask(1, _FRAGMENT_OFFSET)
        to.jump_unless(1, 0, "no port")  # A later fragment.
        to.load(9, FRAME, _HEADER, 1)
        to.mask(9, 0x0F)
        to.shift_left(9, 2)  # The header's length is in units of four octets.
        to.add(9, 8)
        self._read(_PORTS, 4, 9)
        to.load(1, FRAME, _PORTS + _DESTINATION_PORT_AT, 2)
        to.store(FRAME, _PORT, 1, 2)
        to.label("no port")

    def _find_interface(self) -> None:
        """Find the interface; and leave the network of the device, or 0, at the pointer's place.

        Where there is no device, the interface by which the packet came in may still be told.
        """
        to = self._to
        self._read(_POINTER, 8, 7, self._types.offset("sk_buff", "dev"))
        to.load(9, FRAME, _POINTER, 8)
        to.jump_if(9, 0, "no device")
        self._read(_IFINDEX, 4, 9, self._types.offset("net_device", "ifindex"))
        self._read(_POINTER, 8, 9, self._types.offset("net_device", "nd_net"))
        to.load(1, FRAME, _POINTER, 8)
        to.jump_unless(1, 0, "no device")
        to.store_number(FRAME, _IFINDEX, 0, 4)  # Every device has a network: this was none.
        to.label("no device")
        to.load(1, FRAME, _IFINDEX, 4)
        to.jump_unless(1, 0, "interface")
        self._read(_IFINDEX, 4, 7, self._types.offset("sk_buff", "skb_iif"))
        to.label("interface")

    def _find_network(self, *, with_socket: bool) -> None:
        """Have the network in register 9: the device's; that of a socket which refused or sent it; or the reader's."""
        to = self._to
        to.load(9, FRAME, _POINTER, 8)
        to.jump_unless(9, 0, "network")
        if with_socket:
            to.load(9, 6, _SOCKET_AT, 8)
            to.jump_unless(9, 0, "socket")
        self._read(_POINTER, 8, 7, self._types.offset("sk_buff", "sk"))
        to.load(9, FRAME, _POINTER, 8)
        to.jump_unless(9, 0, "socket")
        if with_socket:
            # Before Linux 6.11 a packet without a socket may also be one that is refused as it comes in.
            self._find_reader()
        to.jump("count")
        to.label("socket")
        common = self._types.offset("sock", "__sk_common")
        self._read(_POINTER, 8, 9, common + self._types.offset("sock_common", "skc_net"))
        to.load(9, FRAME, _POINTER, 8)
        to.jump_if(9, 0, "count")
        to.label("network")

    def _find_reader(self) -> None:
        """If the packet is in a socket's queue, have the network of the program that runs."""
        to = self._to
        self._read(_POINTER, 8, 7, self._types.offset("sk_buff", "dev"))
        to.load(1, FRAME, _POINTER, 8)
        to.jump_if(1, 0, "count")
        to.jump_if_below(1, 0, "count")  # An address of the kernel's: its highest bit is a sign.
        to.call(_CURRENT_TASK)
        to.move(9, 0)
        self._read(_POINTER, 8, 9, self._types.offset("task_struct", "nsproxy"))
        to.load(9, FRAME, _POINTER, 8)
        to.jump_if(9, 0, "count")  # It ends.
        self._read(_POINTER, 8, 9, self._types.offset("nsproxy", "net_ns"))
        to.load(9, FRAME, _POINTER, 8)
        to.jump_unless(9, 0, "network")

    def _compare_network(self, network: int) -> None:
        to = self._to
        to.store_number(FRAME, _NUMBER, 0, 8)
        self._read(_NUMBER, 4, 9, self._types.offset("net", "ns") + self._types.offset("ns_common", "inum"))
        to.load(1, FRAME, _NUMBER, 4)
        to.jump_if(1, 0, "count")
        to.set_unsigned(2, network)
        to.jump_unless_same(1, 2, "out")
        to.store_number(FRAME, _HERE, 1, 1)

    def _count(self, counts: int) -> None:
        to = self._to
        to.label("count")
        self._look_up(counts)
        to.jump_unless(0, 0, "counted")
        # Two processors may come here at once: the entry begins with 0, and only one of them makes it.
        self._point(counts)
        to.move(3, FRAME)
        to.add_number(3, _VALUE)
        to.set(4, _NOEXIST)
        to.call(_UPDATE)
        self._look_up(counts)
        to.jump_if(0, 0, "out")  # The map is full.
        to.label("counted")
        to.set(1, 1)
        to.increment(0, 1)

    def _look_up(self, counts: int) -> None:
        self._point(counts)
        self._to.call(_LOOKUP)

    def _point(self, counts: int) -> None:
        """Have the map and the key as the first two arguments."""
        self._to.load_map(1, counts)
        self._to.move(2, FRAME)
        self._to.add_number(2, _REASON)
