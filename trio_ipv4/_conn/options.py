"""SocketOptions: the options of a datagram socket. Plain ones are rows; the others are properties."""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from trio_ipv4._conn.option_rows import BoolOption, BufferSize, EnumOption, IntegerOption
from trio_ipv4._conn.owned import OwnedConn
from trio_ipv4._kernel import bpf, lookup, options
from trio_ipv4._kernel.path_mtu import path_mtu
from trio_ipv4._values.bpf import to_program
from trio_ipv4._values.fields import LIMITED_BROADCAST, UNSPECIFIED, to_address
from trio_ipv4._values.icmp import ICMPFilter
from trio_ipv4._values.path_mtu import PathMTUDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._conn.outbox import Outbox
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.bpf import RawInstruction
    from trio_ipv4._values.control import ControlMessage
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike

_NO_ADDRESS: Final = bytes(4)
_LOOPBACK: Final = ipaddress.IPv4Address("127.0.0.1")


class ProgramHolder(Protocol):
    """Attaches and detaches BPF programs on a connection."""

    def attach(self, program: tuple[RawInstruction, ...], /) -> None: ...
    def detach(self) -> None: ...


class SocketOptions(OwnedConn):
    """The part of a connection that gets and sets options."""

    _outbox: Outbox
    _bpf: ProgramHolder

    multicast_ttl: IntegerOption = IntegerOption(
        "IP_MULTICAST_TTL",
        0,
        255,
        """The time to live of multicast that is sent, 0 to 255 hops (IP_MULTICAST_TTL).

        Default 1 (RFC 1112 section 6.1). 0 stays on this host only if the host is a member of the group on that
        interface and hears the sender there; otherwise Linux sends it to the link.
        """,
    )
    multicast_loopback: BoolOption = BoolOption(
        "IP_MULTICAST_LOOP",
        """Whether members on this host hear this socket, on the same interface (IP_MULTICAST_LOOP).

        Default `True`. It is the sender's option, on Unix. On a loopback interface datagrams come back in any case.
        """,
    )
    multicast_all: BoolOption = BoolOption(
        "IP_MULTICAST_ALL",
        """Whether groups that other sockets of this host joined are heard too (IP_MULTICAST_ALL, Linux).

        With it, a source filter has a say only on the interface where this socket joined.

        The kernel's default is `True`; the `open_*` functions set it to `False`.

        Raises:
            UnsupportedError: The platform has no such option.
        """,
    )

    @property
    def multicast_interface(self) -> int | None:
        """The index of the interface on which multicast leaves; `None`, the default, leaves it to Linux.

        With `None`, the source address chooses its interface if the socket is bound to one or the control message has a
        `src`; otherwise the routes choose. An `ifindex` in a control message comes before this.

        Set it to an `Interface`, a name, an index, an `IPv4Address` that the interface owns, or `None`. An address is
        the source of multicast as well, on that interface; otherwise the kernel takes the first address of the
        interface. The index that was set here reads back; Linux's own getter (IP_MULTICAST_IF) does not tell it.

        Raises:
            OSError: ENODEV or EADDRNOTAVAIL: there is no such interface or address. EADDRINUSE: several interfaces have
                the address; the message names them. EINVAL: the socket is bound to another device.
            UnsupportedError: A name or an address, on platforms other than Linux.
        """
        socket = self._usable
        if self._outbox.multicast_interface is not None:
            return self._outbox.multicast_interface
        address = ipaddress.IPv4Address(options.get_multicast_interface_address(socket))
        return lookup.resolve(socket, address) if int(address) else None

    @multicast_interface.setter
    def multicast_interface(self, value: InterfaceLike) -> None:
        socket = self._usable
        index = lookup.resolve(socket, value)
        source = value if isinstance(value, ipaddress.IPv4Address) else None
        if source is None and index is not None and lookup.is_loopback(socket, index):
            source = _LOOPBACK  # With the index alone, datagrams on loopback would have the source 0.0.0.0.
        options.set_multicast_interface(socket, index or 0, _NO_ADDRESS if source is None else source.packed)
        self._outbox.multicast_interface = index
        self._outbox.complete = None if source is None else functools.partial(_with_source, socket, index)

    receive_buffer_size: BufferSize = BufferSize(
        "SO_RCVBUF",
        "net.core.rmem_max",
        """The size of the kernel's receive buffer, in octets, its bookkeeping included (SO_RCVBUF; socket(7)).

        Default: sysctl net.core.rmem_default. Linux doubles the value, to make room for its bookkeeping, and caps it at
        sysctl net.core.rmem_max, unless the process has CAP_NET_ADMIN. A value that was capped warns
        (`CappedBufferWarning`).
        """,
    )
    send_buffer_size: BufferSize = BufferSize(
        "SO_SNDBUF",
        "net.core.wmem_max",
        """The size of the kernel's send buffer, in octets, its bookkeeping included (SO_SNDBUF; socket(7)).

        Default: sysctl net.core.wmem_default. As for `receive_buffer_size`; the sysctl is net.core.wmem_max. Sending
        waits while the buffer is full of datagrams that the interface has not sent yet.
        """,
    )
    path_mtu_discovery: EnumOption[PathMTUDiscovery] = EnumOption(
        "IP_MTU_DISCOVER",
        PathMTUDiscovery,
        """Whether datagrams may be fragmented (IP_MTU_DISCOVER, ip(7); Linux). Default: `PathMTUDiscovery.WANT`.

        The default is DONT instead while sysctl net.ipv4.ip_no_pmtu_disc is not 0. A `RawConn` writes "don't fragment"
        into the header itself.

        Raises:
            TypeError: Not `PathMTUDiscovery`.
            UnsupportedError: This is neither Linux nor a simulated network.
        """,
    )

    def path_mtu(self, address: AddressLike) -> int:
        """Return the length of the longest packet that reaches an address whole, as far as the kernel knows.

        In octets, with the IP header. A UDP payload may have 28 octets less. It begins with the MTU of the interface,
        and shrinks when a router tells of a smaller one: that takes a datagram that must not be fragmented, and time.
        Linux forgets it after ten minutes (sysctl net.ipv4.route.mtu_expires). Not a checkpoint, and nothing is sent
        (IP_MTU, ip(7)).

        Raises:
            OSError: ENETUNREACH: there is no route. EHOSTUNREACH, EACCES, EINVAL: the route is of type unreachable,
                prohibit or blackhole.
            UnsupportedError: This is neither Linux nor a simulated network.
            ValueError: A host name; or the connection belongs to another network namespace than the current one.
        """
        destination, socket = to_address(address, "address"), self._usable
        socket.system.platform.option("IP_MTU")
        index = self._outbox.multicast_interface if destination.is_multicast else None
        bound = ipaddress.IPv4Address(socket.getsockname()[0])
        source = UNSPECIFIED if bound.is_multicast or bound == LIMITED_BROADCAST else bound
        return path_mtu(socket, destination, source, index or options.find_integer(socket, "SO_BINDTOIFINDEX") or None)

    @property
    def drops(self) -> int:
        """How many datagrams this socket has dropped so far, modulo 2**32, by now (SO_MEMINFO; Linux).

        Most were dropped because the receive buffer was full. Datagrams with a wrong checksum count too. Over UDP, so
        do those that a BPF program refused.

        Raises:
            UnsupportedError: The platform has no such counter.
        """
        return options.get_drops(self._usable)

    # Filters by content, in the kernel

    @property
    def icmp_filter(self) -> ICMPFilter:
        """Which ICMP types a raw ICMP socket does not receive (ICMP_FILTER, raw(7); Linux). Default: none is blocked.

        Raises:
            OSError: EOPNOTSUPP or ENOPROTOOPT: not a raw socket of IPPROTO_ICMP.
            UnsupportedError: The platform has no such filter.
        """
        return bpf.get_icmp_filter(self._usable)

    @icmp_filter.setter
    def icmp_filter(self, value: ICMPFilter) -> None:
        if not isinstance(value, ICMPFilter):
            raise TypeError(f"icmp_filter must be an ICMPFilter, got {value!r}")
        bpf.set_icmp_filter(self._usable, value)

    @trio.lowlevel.enable_ki_protection
    def attach_filter(self, program: Iterable[RawInstruction]) -> None:
        """Let the kernel keep only datagrams that a classic BPF program accepts, in place of any earlier program.

        Over UDP the program sees the UDP header first, the payload at offset 8; over an ICMP datagram socket (icmp(7))
        the ICMP header; over raw IP the IP header. It returns how many octets to keep, headers included: 0 drops the
        datagram, and one that is cut off is not `truncated`.
        Datagrams that are queued already are not filtered: attach before binding or joining, or discard the queue. Over
        UDP, refused datagrams count as dropped (`drops`). It is SO_ATTACH_FILTER (Linux), and needs no privilege.

        Raises:
            ValueError: An empty program, one of over 4,096 instructions, one without a final return, or a jump past
                the end.
            OSError: EINVAL: an instruction that the kernel doesn't know. ENOMEM: over sysctl net.core.optmem_max.
                EPERM: the BPF program is locked (SO_LOCK_FILTER).
            UnsupportedError: The platform has no such filter.
        """
        self._require_open()
        self._bpf.attach(to_program(program))

    @trio.lowlevel.enable_ki_protection
    def detach_filter(self) -> None:
        """Detach the BPF program (SO_DETACH_FILTER).

        Raises:
            OSError: ENOENT: there is none. EPERM: the BPF program is locked (SO_LOCK_FILTER).
        """
        self._require_open()
        self._bpf.detach()


def _with_source(socket: Socket, index: int | None, control: ControlMessage) -> ControlMessage:
    """Add the source to a request for another interface than that with `index`.

    The kernel would take the address that was set for that one (IP_MULTICAST_IF).
    """
    if control.ifindex in (None, index) or control.src is not None:
        return control
    source = lookup.first_address(socket, control.ifindex)
    return attrs.evolve(control, src=source)
