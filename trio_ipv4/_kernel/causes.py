"""Why the kernel refused to send. One errno has many causes: which of them fit the datagram and the state of the host?

Each row of the table is one cause. A row that is *sure* leaves no room for others. Where none is, all rows that fit are
told, since nobody can know which of them it was. The errnos were measured on Linux 6.18; ip(7) and udp(7) name some.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4._abi import structs
from trio_ipv4._errors import ADVICE
from trio_ipv4._kernel import lookup, options
from trio_ipv4._kernel.explain import refusal
from trio_ipv4._kernel.path_mtu import path_mtu as find_path_mtu
from trio_ipv4._values.control import EMPTY
from trio_ipv4._values.fields import LIMITED_BROADCAST, UNSPECIFIED
from trio_ipv4._values.interface import InterfaceFlags

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from trio_ipv4._kernel.system import Socket
    from trio_ipv4._values.control import ControlMessage

IPPROTO_UDP: Final = 17
_RESERVED: Final = ipaddress.IPv4Network("240.0.0.0/4"), ipaddress.IPv4Network("0.0.0.0/8")
"""Addresses that no host has (RFC 6890), the limited broadcast aside."""


@final
class Attempt:
    """A datagram that was refused, and its socket. The rest is asked of the kernel when a row wants it.

    Args:
        socket: The socket.
        payload: Its octets, with the IP header where the socket sends it (IP_HDRINCL).
        name: The destination, as a `struct sockaddr_in`.
        request: The control message that went with it; its source is `local`, as `ControlMessage.parse` has it.
        multicast_interface: The index that was set for multicast, if one was.
        earlier_are_apart: Whether the errors of earlier datagrams are told elsewhere, so that this is none.
    """

    def __init__(
        self,
        socket: Socket,
        payload: bytes,
        name: bytes,
        request: ControlMessage,
        multicast_interface: int | None,
        *,
        earlier_are_apart: bool = False,
    ) -> None:
        self.earlier_are_apart: Final = earlier_are_apart
        address, self.port = structs.parse_sockaddr_in(name)
        self.destination: Final = ipaddress.IPv4Address(address)
        self.length: Final = len(payload)
        self._payload: Final = payload
        self.socket: Final = socket
        self._request: Final = request
        self._multicast_interface: Final = multicast_interface

    @functools.cached_property
    def protocol(self) -> int:
        """The protocol of a datagram socket: UDP, or ICMP (icmp(7)); 0 for raw IP."""
        return 0 if self.socket.kind == structs.SOCK_RAW else self._option("SO_PROTOCOL", IPPROTO_UDP)

    @functools.cached_property
    def has_header(self) -> bool:
        return self.socket.kind == structs.SOCK_RAW and bool(self._option("IP_HDRINCL", 0))

    @functools.cached_property
    def interface(self) -> int | None:
        """The index of the interface that was named, by whatever means."""
        if self._request.ifindex is not None:
            return self._request.ifindex
        if self.destination.is_multicast and self._multicast_interface is not None:
            return self._multicast_interface
        return self._option("SO_BINDTOIFINDEX", 0) or None

    @functools.cached_property
    def source(self) -> IPv4Address:
        """The source address that was asked for; 0.0.0.0 lets the kernel choose."""
        in_header = self._payload[12:16]  # RFC 791.
        if self.has_header and len(in_header) == 4 and any(in_header):
            return ipaddress.IPv4Address(in_header)
        if self._request.local is not None:
            return self._request.local
        if self._request.ifindex is not None:
            return UNSPECIFIED  # With an interface alone, Linux forgets the address that the socket is bound to.
        bound = ipaddress.IPv4Address(self.socket.getsockname()[0])
        # Bound to a group or to broadcast, a socket sends from an address of the interface (net/ipv4/af_inet.c).
        return UNSPECIFIED if bound.is_multicast or bound == LIMITED_BROADCAST else bound

    @property
    def has_request(self) -> bool:
        return self._request != EMPTY

    @functools.cached_property
    def may_be_earlier(self) -> bool:
        """Whether the kernel may have told the error of an earlier datagram: it does so where somebody asked for it."""
        return bool(self._option("IP_RECVERR", 0)) or self.is_connected

    @functools.cached_property
    def is_connected(self) -> bool:
        with contextlib.suppress(OSError):
            self.socket.getpeername()
            return True
        return False

    @functools.cached_property
    def is_down(self) -> bool:
        return self.interface is not None and self._flag(InterfaceFlags.UP) is False

    @functools.cached_property
    def has_own_source(self) -> bool:
        """Whether the source is an address of this host; `True` if that can't be known."""
        if self.source == UNSPECIFIED or self.source.is_loopback or self.source.is_multicast:
            return True
        try:
            return self.source in lookup.own_addresses(self.socket)
        except (OSError, NotImplementedError):
            return True

    @functools.cached_property
    def path_mtu(self) -> int | None:
        """The longest packet that the path takes; `None` if that can't be known."""
        with contextlib.suppress(OSError, ValueError, NotImplementedError):
            return find_path_mtu(self.socket, self.destination, self.source, self.interface)
        return None

    @property
    def may_broadcast(self) -> bool:
        return bool(self._option("SO_BROADCAST", 1))

    @property
    def send_buffer(self) -> int:
        return self._option("SO_SNDBUF", 0)

    @property
    def where(self) -> str:
        """The interface that was named, for a message."""
        return "" if self.interface is None else lookup.describe(self.socket, self.interface)

    def _flag(self, flag: InterfaceFlags) -> bool | None:
        assert self.interface is not None
        flags = lookup.flags_of(self.socket, self.interface)
        return None if flags is None else flag in flags

    def _option(self, name: str, default: int) -> int:
        """Read an option; a kernel that doesn't have it must not hide why sending failed."""
        value = options.find_integer(self.socket, name)
        return default if value is None else value


class Cause(NamedTuple):
    """One cause of an errno: its text, when it fits, and whether it then is the only one."""

    errno: int
    text: str
    fits: Callable[[Attempt], bool] = lambda _: True
    is_sure: bool = False


_SENDING: Final = (
    Cause(errno.EINVAL, "the port is 0", lambda a: a.protocol == IPPROTO_UDP and a.port == 0, is_sure=True),
    Cause(
        errno.EINVAL,
        "the source {a.source} is a loopback address, and what leaves this host can't have one: bind to 0.0.0.0 or to "
        "an address of the interface, or pass ControlMessage(src=...)",
        lambda a: a.source.is_loopback and not a.destination.is_loopback,
        is_sure=True,
    ),
    Cause(
        errno.EINVAL,
        "the source {a.source} is not the address of a host",
        lambda a: a.source.is_multicast or a.source == LIMITED_BROADCAST,
        is_sure=True,
    ),
    Cause(
        errno.EINVAL,
        "an unprivileged ICMP socket sends echo requests only, of 8 octets or more (icmp(7))",
        lambda a: a.protocol == structs.IPPROTO_ICMP,
    ),
    Cause(errno.EINVAL, "the IP header is not one that the kernel takes (raw(7))", lambda a: a.has_header),
    Cause(errno.EINVAL, "the route to {a.destination} is of type blackhole ('ip route get {a.destination}' shows it)"),
    Cause(errno.EINVAL, "this socket does not obey a field of the control message", lambda a: a.has_request),
    Cause(
        errno.EACCES,
        "{a.destination} is the broadcast address: set SO_BROADCAST on conn.socket, as open_udp does",
        lambda a: a.destination == LIMITED_BROADCAST and not a.may_broadcast,
        is_sure=True,
    ),
    Cause(
        errno.EACCES,
        "{a.destination} is a broadcast address, and SO_BROADCAST is not set on conn.socket (open_udp sets it)",
        lambda a: not a.may_broadcast,
    ),
    Cause(errno.EACCES, "the route to {a.destination} is of type prohibit ('ip route get {a.destination}' shows it)"),
    Cause(errno.EPERM, "a firewall on this host (nftables, iptables) or a BPF program of the cgroup refuses it"),
    Cause(errno.ENETUNREACH, "{a.where} is down: set it up", lambda a: a.is_down, is_sure=True),
    Cause(
        errno.ENETUNREACH,
        "the source is not an address of this host: {a.source}; interfaces() lists them",
        lambda a: not a.has_own_source,
    ),
    Cause(
        errno.ENETUNREACH,
        "hosts have no addresses such as {a.destination} (RFC 6890)",
        lambda a: a.destination != LIMITED_BROADCAST and any(a.destination in net for net in _RESERVED),
    ),
    Cause(
        errno.ENETUNREACH,
        "no route to the destination; for a group, name the interface: multicast_interface, or "
        "ControlMessage(ifindex=...)",
        lambda a: a.destination.is_multicast and a.interface is None,
    ),
    Cause(
        errno.ENETUNREACH,
        "no route to the broadcast address: name the interface by ControlMessage(ifindex=...)",
        lambda a: a.destination == LIMITED_BROADCAST and a.interface is None,
    ),
    Cause(
        errno.ENETUNREACH,
        "{a.where} has no IPv4, or it is another device than the one that the socket is bound to",
        lambda a: a.interface is not None,
    ),
    Cause(
        errno.ENETUNREACH,
        "no route to the destination",
        lambda a: not a.destination.is_multicast and a.destination != LIMITED_BROADCAST and a.interface is None,
    ),
    Cause(
        errno.EHOSTUNREACH,
        "the route to {a.destination} is of type unreachable ('ip route get {a.destination}' shows it)",
    ),
    Cause(
        errno.EMSGSIZE,
        "{a.length:,} octets are more than a datagram can carry: 65,507 octets of payload over UDP",
        lambda a: a.protocol == IPPROTO_UDP and a.length > 65507,
        is_sure=True,
    ),
    Cause(errno.EMSGSIZE, "longer than an IP packet can be", lambda a: a.length > 65535 - 20, is_sure=True),
    Cause(
        errno.EMSGSIZE,
        "longer than the path's MTU of {a.path_mtu:,} octets with the IP header, and it must not be fragmented "
        "(path_mtu_discovery)",
        lambda a: a.path_mtu is not None,
    ),
    Cause(errno.EMSGSIZE, "longer than the MTU, and it must not be fragmented", lambda a: a.path_mtu is None),
    Cause(
        errno.ENOBUFS,
        "the send buffer has no room for the fragments: SO_SNDBUF is {a.send_buffer:,}; raise "
        "send_buffer_size, up to sysctl net.core.wmem_max",
        lambda a: 4 * a.length > a.send_buffer,  # The kernel counts its own bookkeeping, too.
    ),
    Cause(
        errno.ENOBUFS,
        "the control message found no room in the socket's option memory: {{net.core.optmem_max}}",
        lambda a: a.has_request,
    ),
    # Without IP_RECVERR the kernel keeps this one to itself (net/ipv4/udp.c: udp_send_skb).
    Cause(errno.ENOBUFS, "the interface's queue is full: send more slowly", lambda a: a.may_be_earlier),
)
EARLIER: Final = frozenset(
    {errno.ECONNREFUSED, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.EPROTO}
    # Linux alone has it.
    | {value for name, value in vars(errno).items() if name == "ENONET"}
)
"""Errnos of ICMP errors about an earlier datagram, and of nothing else (net/ipv4/icmp.c: icmp_err_convert)."""
MAYBE_EARLIER: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""Errnos that such an error may have, among other causes."""


def explain_sending(error: OSError, what: str, attempt: Attempt) -> OSError:
    """Return an `OSError` with the same errno, hence the same subclass, that names the possible causes.

    Args:
        error: The error of the kernel.
        what: The datagram for the message, such as "1 octets".
        attempt: The datagram, its destination and its socket.
    """
    number = error.errno or 0
    if number in EARLIER:
        # The destination of this datagram may be in perfect health.
        return refusal(
            number, "send", f"send {what}", advice=ADVICE.get(("send", number), ADVICE["send", errno.EPROTO])
        )
    found = [cause for cause in _SENDING if cause.errno == number and cause.fits(attempt)]
    told = [cause.text.format(a=attempt) for cause in ([c for c in found if c.is_sure] or found)]
    may_be_earlier = number in MAYBE_EARLIER and attempt.may_be_earlier and not attempt.earlier_are_apart
    if may_be_earlier and not any(cause.is_sure for cause in found):
        told.append("an earlier datagram, maybe to another peer, came back with an ICMP error")
    to = f"{attempt.destination}, port {attempt.port}"
    return refusal(number, "send", f"send {what} to {to}", attempt.socket, advice="; or ".join(told) or None)
