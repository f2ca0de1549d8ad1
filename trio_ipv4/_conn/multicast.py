"""MulticastConn: the options and the memberships that PacketConn and RawConn both have."""

from __future__ import annotations

import ipaddress
import warnings
from typing import TYPE_CHECKING, Final, Self, overload

import trio

from trio_ipv4._abi.structs import SOCK_DGRAM, SOCK_RAW
from trio_ipv4._codec import explicit_steps
from trio_ipv4._conn import switches
from trio_ipv4._conn.ledger import Ledger, Membership, callers_level
from trio_ipv4._conn.options import Conn, unwrap
from trio_ipv4._conn.turns import OwnedSocket, to_system
from trio_ipv4._errors import CappedBufferWarning
from trio_ipv4._kernel import bpf, lookup, options
from trio_ipv4._values.bpf import to_program
from trio_ipv4._values.control import ControlFlags
from trio_ipv4._values.fields import to_bool, to_group, to_integer, to_unicast
from trio_ipv4._values.group import GroupReq
from trio_ipv4._values.icmp import ICMPFilter
from trio_ipv4._values.source_filter import SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._codec.explicit_steps import Change
    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.bpf import RawInstruction
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike

_ANY: Final = SourceFilter.any()


class MulticastConn(Conn):
    """What connections that send and receive datagrams share. It owns its socket: closing it closes the socket.

    Args:
        socket: A trio socket of AF_INET, of a kind that the subclass takes. None of its options is changed.

    Raises:
        TypeError: Anything else.
    """

    _kinds: tuple[int, ...] = (SOCK_DGRAM, SOCK_RAW)
    _kind_names = "SOCK_DGRAM or SOCK_RAW"

    def __init__(self, socket: trio.socket.SocketType) -> None:
        trio_socket = unwrap(socket)
        if trio_socket is not socket or trio_socket.type not in self._kinds:  # It may be a stream's.
            raise TypeError(f"pass a trio socket of type {self._kind_names}, not {socket!r}")
        self._set_up(to_system(trio_socket), trio_socket)

    def _set_up(
        self, socket: Socket, trio_socket: trio.socket.SocketType, control_flags: ControlFlags | None = None
    ) -> None:
        super()._set_up(socket, trio_socket, control_flags)
        self._owned = OwnedSocket(socket, trio_socket)
        self._ledger = Ledger(socket)
        self._control_flags = switches.switched_on(socket) if control_flags is None else control_flags
        self._multicast_interface: int | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._owned.note_run()
        return self

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Leave every membership, then close the socket. Tasks that wait on it wake with `trio.ClosedResourceError`.

        Leaving comes first so that a descriptor that was duplicated, or inherited by a child, keeps none of what was
        joined through this connection. A forked child that closes leaves nothing: it would take it from its parent.
        Not a checkpoint. It works from any thread, and where trio does not run.
        """
        if not self._closed:
            self._closed = True
            try:
                self._ledger.close()
            finally:
                self._owned.close()

    # Options of multicast that is sent

    @property
    def multicast_ttl(self) -> int:
        """The time to live of multicast that is sent, 0 to 255 hops (IP_MULTICAST_TTL).

        Default 1 (RFC 1112 section 6.1). 0 stays on this host only if the host is a member of the group on that
        interface and hears the sender there; otherwise Linux sends it to the link.
        """
        return options.get_integer(self._usable, "IP_MULTICAST_TTL")

    @multicast_ttl.setter
    def multicast_ttl(self, value: int) -> None:
        options.set_integer(self._usable, "IP_MULTICAST_TTL", to_integer(value, "multicast_ttl", 0, 255))

    @property
    def multicast_loopback(self) -> bool:
        """Whether members on this host hear what this socket sends, on the same interface (IP_MULTICAST_LOOP).

        Default `True`. It is the sender's option, on Unix. What is sent on a loopback interface comes back over it in
        any case.
        """
        return bool(options.get_integer(self._usable, "IP_MULTICAST_LOOP"))

    @multicast_loopback.setter
    def multicast_loopback(self, value: bool) -> None:
        options.set_integer(self._usable, "IP_MULTICAST_LOOP", to_bool(value, "multicast_loopback"))

    @property
    def multicast_interface(self) -> int | None:
        """The index of the interface on which multicast leaves; `None`, the default, leaves it to Linux.

        With `None`, the source address chooses its interface if the socket is bound to one or the control message has a
        `src`; otherwise the routes choose. An `ifindex` in a control message comes before this.

        Set it to an `Interface`, a name, an index, an `IPv4Address` that the interface owns, or `None`. What was set
        here reads back; Linux's own getter (IP_MULTICAST_IF) can't tell an interface that was set by index.

        Raises:
            OSError: ENODEV or EADDRNOTAVAIL: there is no such interface or address. EINVAL: the socket is bound to
                another device.
            UnsupportedError: A name or an address, on platforms other than Linux.
        """
        socket = self._usable
        if self._multicast_interface is not None:
            return self._multicast_interface
        address = ipaddress.IPv4Address(options.get_multicast_interface_address(socket))
        return lookup.resolve(socket, address) if int(address) else None

    @multicast_interface.setter
    def multicast_interface(self, value: InterfaceLike) -> None:
        socket = self._usable
        index = lookup.resolve(socket, value)
        # With the index alone the source of what is sent on loopback would be 0.0.0.0.
        loopback = index is not None and lookup.is_loopback(socket, index)
        options.set_multicast_interface(socket, index or 0, _LOOPBACK if loopback else _NO_ADDRESS)
        self._multicast_interface = index

    # Options of what is received

    @property
    def multicast_all(self) -> bool:
        """Whether groups that other sockets of this host joined are heard too (IP_MULTICAST_ALL, Linux).

        With it, a source filter has a say only on the interface where this socket joined.

        The kernel's default is `True`; the `open_*` functions set it to `False`.

        Raises:
            UnsupportedError: The platform has no such option.
        """
        return bool(options.get_integer(self._usable, "IP_MULTICAST_ALL"))

    @multicast_all.setter
    def multicast_all(self, value: bool) -> None:
        options.set_integer(self._usable, "IP_MULTICAST_ALL", to_bool(value, "multicast_all"))

    @property
    def control_flags(self) -> ControlFlags:
        """The facts that are received with each datagram, as a whole set. Default: what the socket has switched on.

        Datagrams that are queued already have the facts that are asked for when they are read. Some can't be had
        later: what came when none of SRC, DST and INTERFACE was asked for has no `ifindex` and no `local`; without
        TIMESTAMP, `timestamp_ns` may be the time of reading; without DROPS, `drops` is 0. If the kernel refuses a part,
        nothing is changed.

        Linux stamps what arrives only while somebody on the host asks for it, and begins a moment after the first
        socket does: until then, `timestamp_ns` is the time of reading, with TIMESTAMP from the start, too. `drops` is
        the count when the datagram was queued: the next datagram after a burst shows what the burst has cost. The
        property `drops` shows it at once.

        Raises:
            TypeError: Not `ControlFlags`.
            UnsupportedError: The platform has no such fact.
        """
        self._require_open()
        return self._control_flags

    @control_flags.setter
    def control_flags(self, value: ControlFlags) -> None:
        if not isinstance(value, ControlFlags):
            raise TypeError(f"control_flags must be ControlFlags, got {value!r}")
        before = switches.switched_on(self._usable)
        try:
            switches.switch(self._usable, before, value)
        except BaseException:
            switches.switch(self._usable, switches.switched_on(self._usable), before)
            raise
        self._note_control_flags(value)

    def _note_control_flags(self, value: ControlFlags) -> None:
        """Note which facts were meant; the switches are on."""
        self._control_flags = value
        self._control_flags_changed()

    def _control_flags_changed(self) -> None:
        """Do what follows from other facts being received."""

    @property
    def receive_buffer_size(self) -> int:
        """The size of the kernel's receive buffer, in octets, its bookkeeping included (SO_RCVBUF; socket(7)).

        Default: sysctl net.core.rmem_default. Linux doubles what is set, to make room for its bookkeeping, and caps it
        at sysctl net.core.rmem_max, without an error; then this warns (`CappedBufferWarning`).
        """
        return options.get_integer(self._usable, "SO_RCVBUF")

    @receive_buffer_size.setter
    def receive_buffer_size(self, value: int) -> None:
        size = to_integer(value, "receive_buffer_size", 1, 0x3FFF_FFFF)
        granted = options.set_buffer_size(self._usable, "SO_RCVBUF", size)
        if granted < size:
            message = (
                f"asked for a receive buffer of {size:,} octets, the kernel granted {granted:,}: raise sysctl "
                "net.core.rmem_max"
            )
            warnings.warn(message, CappedBufferWarning, stacklevel=callers_level())

    @property
    def drops(self) -> int:
        """How many datagrams this socket has dropped so far, modulo 2**32, by now (SO_MEMINFO; Linux).

        Most were dropped because the receive buffer was full. Datagrams with a wrong checksum count too. Over UDP, so
        do those that a BPF program refused.

        Raises:
            UnsupportedError: The platform has no such counter.
        """
        return options.get_drops(self._usable)

    # Filters by content

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
        What was queued before is not filtered: attach before binding or joining, or discard what is queued. Over UDP
        what it refuses counts as dropped (`drops`). It is SO_ATTACH_FILTER (Linux), and needs no privilege.

        Raises:
            ValueError: An empty program, one of over 4,096 instructions, one without a final return, or a jump past
                the end.
            OSError: EINVAL: an instruction that the kernel doesn't know. ENOMEM: over sysctl net.core.optmem_max.
                EPERM: the filter is locked.
            UnsupportedError: The platform has no such filter.
        """
        self._attach(to_program(program))

    @trio.lowlevel.enable_ki_protection
    def detach_filter(self) -> None:
        """Detach the BPF program (SO_DETACH_FILTER).

        Raises:
            OSError: ENOENT: there is none. EPERM: the filter is locked.
        """
        self._detach()

    def _attach(self, program: tuple[RawInstruction, ...]) -> None:
        bpf.attach_filter(self._usable, program)

    def _detach(self) -> None:
        bpf.detach_filter(self._usable)

    # Memberships

    @overload
    def joined(self, interface: GroupReq, /) -> Membership: ...
    @overload
    def joined(self, interface: InterfaceLike, group: AddressLike, *, sources: SourceFilter = _ANY) -> Membership: ...
    def joined(
        self,
        interface: InterfaceLike | GroupReq,
        group: AddressLike | None = None,
        *,
        sources: SourceFilter = _ANY,
    ) -> Membership:
        """Return a membership for `async with`: joined inside the block, left after it, however it ends.

        Entering is a checkpoint, then the join: a task that is already cancelled never joins. Leaving is one system
        call that waits for nothing but the kernel's lock, so it can't be cancelled away, and is no checkpoint. Neither
        needs a privilege. A join that will hear nothing, or nothing across a router, warns (`DeafMembershipWarning`,
        `SourceSpecificRangeWarning`); leaving does where the kernel refuses the filter that remains
        (`MembershipWarning`).

        Args:
            interface: Where to join; `None` lets the kernel choose by its routes, once. Or a whole `GroupReq`.
            group: A multicast address.
            sources: The sources to hear; every one by default.

        Raises:
            TypeError: An argument has the wrong type, or one is missing.
            ValueError: `group` is not a multicast address.
            OSError: On entering: the kernel refused, such as ENOBUFS for more groups than sysctl
                net.ipv4.igmp_max_memberships (20) or more sources than net.ipv4.igmp_max_msf (10), or there is no such
                interface. Nothing is joined then.
            UnsupportedError: On entering: only Linux has all that it takes.
        """
        if group is None and not isinstance(interface, GroupReq):
            raise TypeError(
                f"joined() takes an interface, then a group, got {interface!r} alone: joined(None, group) lets the "
                "kernel choose the interface"
            )
        if isinstance(interface, GroupReq):
            if group is not None or sources is not _ANY:
                raise TypeError("a GroupReq names group and sources itself: pass nothing beside it")
            return Membership(self._ledger, interface.interface, interface.group, interface.sources)
        return Membership(self._ledger, interface, to_group(group, "group"), to_sources(sources))

    @property
    def memberships(self) -> Mapping[tuple[int, IPv4Address], SourceFilter]:
        """A snapshot of what was joined through this connection: the merged filter of each (interface index, group).

        It is what the kernel has, and so may be wider than what is asked for: see `MembershipWarning`.
        """
        self._require_open()
        return self._ledger.memberships

    @trio.lowlevel.enable_ki_protection
    def repair_memberships(self) -> None:
        """Leave and join again each membership that a deleted interface has made dead, where another has its index now.

        A membership whose interface is gone is kept, for the day on which an interface with its index comes back.

        Raises:
            OSError: The kernel refused to join again. The other memberships are repaired all the same. If it refused
                several, the message names each, and the errno is that of the first.
        """
        self._ledger.repair()

    def source_filter(self, interface: InterfaceLike, group: AddressLike) -> SourceFilter:
        """Read the filter of a membership from the kernel: the merge of all scopes and explicit operations.

        Raises:
            OSError: EADDRNOTAVAIL: the socket is not a member. ENODEV: no interface of that name; with `None`, no
                route.
        """
        self._require_open()
        return self._ledger.read(interface, to_group(group, "group"))

    # Go's operations, for programs whose memberships are not scoped

    def join_group(self, interface: InterfaceLike, group: AddressLike) -> None:
        """Join a group from any source, until `leave_group` or `close`. Go: `JoinGroup`.

        The explicit operations act on one hold of their own for each (interface, group), beside the scopes of `joined`.

        Raises:
            OSError: EADDRINUSE: it was joined explicitly before. Others: the kernel refused. Nothing is changed.
        """
        self._explicit(interface, group, explicit_steps.join, "join")

    def leave_group(self, interface: InterfaceLike, group: AddressLike) -> None:
        """Leave a group that was joined explicitly, whatever its filter. Go: `LeaveGroup`.

        With `None` for the interface: where the explicit operations joined by `None`, even if the route has moved.

        Raises:
            OSError: EADDRNOTAVAIL: it was not joined explicitly.
        """
        self._explicit(interface, group, explicit_steps.leave, "leave")

    def join_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Join a group from one source, or hear one source more. Go: `JoinSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is heard already. EINVAL: the group was joined from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.join_source(address), f"join {address} in")

    def leave_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Hear one source less; with the last one the group is left. Go: `LeaveSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source was not joined. EINVAL: not a member, or joined from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.leave_source(address), f"leave {address} in")

    def exclude_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Block one source of a group that was joined from any source. Go: `ExcludeSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is blocked already. EINVAL: not a member from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.exclude_source(address), f"exclude {address} in")

    def include_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Unblock one source that was blocked. Go: `IncludeSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is not blocked. EINVAL: not a member from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.include_source(address), f"include {address} in")

    def set_source_filter(self, interface: InterfaceLike, group: AddressLike, sources: SourceFilter) -> None:
        """Replace the filter of the explicit hold, joining if need be; INCLUDE {} leaves (RFC 3678 section 5.2.1).

        Raises:
            OSError: The kernel refused; nothing is changed.
        """
        self._explicit(interface, group, explicit_steps.replace(to_sources(sources)), f"set {sources} for")

    @trio.lowlevel.enable_ki_protection
    def _explicit(self, interface: InterfaceLike, group: AddressLike, change: Change, attempt: str) -> None:
        address = to_group(group, "group")
        self._ledger.explicit(interface, address, change, f"{attempt} {address}")


_NO_ADDRESS: Final = bytes(4)
_LOOPBACK: Final = ipaddress.IPv4Address("127.0.0.1").packed
