"""The error family, and the advice for refusals of the kernel. Data only: nothing here asks the system.

Four families:

* The kernel said no: an `OSError` with the same errno, hence the same built-in subclass. The message names the attempt,
  the interface or address, and the next step.
* The caller passed nonsense: `TypeError` or `ValueError`, naming the field, the range and the value.
* The bytes are nonsense: `ParseError`.
* This platform can't: `UnsupportedError`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Mapping


@final
class ParseError(ValueError):
    """Raised for malformed bytes.

    `offset` is the position, in octets from the start of the input, at which the parser could not go on.
    """

    def __init__(self, message: str, *, offset: int = 0) -> None:
        super().__init__(message, offset)
        self.message: Final = message
        self.offset: Final = offset

    def __str__(self) -> str:
        return f"{self.message} (at offset {self.offset})"

    def __reduce__(self) -> tuple[object, ...]:
        return _parse_error, (self.message, self.offset), self.__dict__


def _parse_error(message: str, offset: int) -> ParseError:
    """Make a `ParseError` from positional arguments, as unpickling needs."""
    return ParseError(message, offset=offset)


@final
class UnsupportedError(NotImplementedError):
    """Raised when the platform has no such `option`: its name, or that of a call, in the kernel's headers.

    `platform` is `sys.platform`, or says which kernels lack it, such as "Linux before 6.15".
    """

    def __init__(self, option: str, platform: str) -> None:
        super().__init__(option, platform)
        self.option: Final = option
        self.platform: Final = platform

    def __str__(self) -> str:
        return f"{self.option} is not available on {self.platform}"


@final
class PartialSendError(OSError):
    """Raised when a batch was sent in part: the first `sent` datagrams are out, the next one was refused.

    "Out" means that the kernel took it. The errno is the kernel's. ECONNREFUSED is about an earlier datagram: go on at
    the refused one, `values[sent:]`. EPERM is about the refused one itself: go on behind it, `values[sent + 1:]`. It is
    no built-in subclass, such as `PermissionError`, whatever the errno. None sent is a plain `OSError`.
    """

    def __init__(self, errno: int, strerror: str, sent: int) -> None:
        super().__init__(errno, strerror)
        self.sent: Final = sent

    def __reduce__(self) -> tuple[object, ...]:
        return PartialSendError, (self.errno, self.strerror, self.sent), self.__dict__


class SourceSpecificRangeWarning(UserWarning):
    """Warns of a join from any source in 232.0.0.0/8.

    Routers must ignore it there, so nothing will arrive across one (RFC 4607 section 2; RFC 4604 section 2.1 asks
    hosts to tell the application).
    """


class DeafMembershipWarning(UserWarning):
    """Warns of a join on a socket that is bound to a unicast address or another group: it will hear nothing of it.

    A connected socket is bound so, too; if it is connected after the join, nothing warns.
    """


class CappedBufferWarning(UserWarning):
    """Warns of a buffer that the kernel made smaller than it was asked to: the sysctl that it names allows no more."""


class MembershipWarning(RuntimeWarning):
    """Warns that the kernel refused a narrower filter when a scope ended: the socket keeps the wider one.

    The next change of that membership tries again, and warns again if it is in vain.

    Also warns that it refused to join again after the interface was made anew: `repair_memberships` tries again.
    """


class RefusedInterfaceWarning(RuntimeWarning):
    """Warns of an interface on which `follow_group`, `serve_group` or `serve_interfaces` was refused.

    The others go on, and this one is tried again whenever an interface changes.
    """


class NoInterfaceWarning(UserWarning):
    """Warns that no interface matches when `follow_group`, `serve_group` or `serve_interfaces` starts."""


Topic: TypeAlias = Literal[
    "make udp",
    "make raw",
    "make icmp",
    "bind",
    "bind low",
    "bind shared",
    "bind any",
    "netlink",
    "join",
    "explicit",
    "route",
    "path",
    "filter",
    "send",
    "receive",
    "multicast interface",
    "option",
    "bpf",
    "icmp",
    "interface",
]
"""The kind of an attempt, which advice depends on."""

ADVICE: Final[Mapping[tuple[Topic, int], str]] = {
    # (topic, errno): what to do next. "{net.ipv4.x}" becomes "net.ipv4.x is 20" where the value can be known.
    ("make udp", errno.EPERM): "a sandbox or a security module forbids it",
    ("make udp", errno.EACCES): "a sandbox or a security module forbids it",
    ("make udp", errno.EMFILE): "the process has too many open files: raise 'ulimit -n'",
    ("make udp", errno.ENFILE): "the host has too many open files: {fs.file-max}",
    ("make raw", errno.EPERM): "raw sockets need CAP_NET_RAW: run as root, or give the interpreter the capability",
    ("make raw", errno.EACCES): "a sandbox or a security module forbids it",
    ("make raw", errno.EMFILE): "the process has too many open files: raise 'ulimit -n'",
    ("make raw", errno.ENFILE): "the host has too many open files: {fs.file-max}",
    (
        "make icmp",
        errno.EACCES,
    ): "the group of the process is not within the range: "
    "{net.ipv4.ping_group_range}; or use a raw socket, open_ip(1), which needs CAP_NET_RAW",
    ("make icmp", errno.EPERM): "a sandbox or a security module forbids it",
    ("make icmp", errno.EMFILE): "the process has too many open files: raise 'ulimit -n'",
    ("make icmp", errno.ENFILE): "the host has too many open files: {fs.file-max}",
    ("bind", errno.EADDRINUSE): "another socket has this port: with share_port=True on all of them they share it",
    ("bind", errno.EADDRNOTAVAIL): "no interface of this host has that address; interfaces() lists them",
    ("bind", errno.EACCES): "a sandbox or a security module forbids it",
    ("bind low", errno.EACCES): "lower ports need CAP_NET_BIND_SERVICE: {net.ipv4.ip_unprivileged_port_start}",
    ("bind shared", errno.EADDRINUSE): "another socket has this port and does not share it: it needs share_port=True "
    "(SO_REUSEADDR), too",
    ("bind any", errno.EADDRINUSE): "no port is free: {net.ipv4.ip_local_port_range}",
    ("bind any", errno.EADDRNOTAVAIL): "no interface of this host has that address; interfaces() lists them",
    ("netlink", errno.EPERM): "rtnetlink is refused here, as in some sandboxes and on Android: interfaces can't be "
    "listed, watched or followed; connections work, with an interface's name, index or address",
    ("join", errno.ENOBUFS): "either the socket is in as many groups as one may be: "
    "{net.ipv4.igmp_max_memberships}; raise it with sysctl, or spread the groups over several connections; or source "
    "lists and BPF programs have used up the socket's option memory: {net.core.optmem_max}",
    ("join", errno.ENOMEM): "source lists and BPF programs have used up the socket's option memory: "
    "{net.core.optmem_max}; raise it with sysctl",
    ("join", errno.ENOPROTOOPT): "this kernel has no such membership option (RFC 3678), as in some sandboxes",
    ("join", errno.ENODEV): "no such interface, or it has no IPv4; interfaces() lists them",
    ("join", errno.EADDRINUSE): "the socket is a member already, by a join that this connection did not make: leave "
    "there first",
    ("join", errno.EADDRNOTAVAIL): "the socket is not a member of it",
    ("explicit", errno.EADDRINUSE): "it was joined by an explicit operation already",
    ("explicit", errno.EADDRNOTAVAIL): "no such explicit membership, or the source is there already, or is not there",
    ("explicit", errno.EINVAL): "not legal in the mode of this explicit membership: sources are joined and left one by "
    "one only without join_group, excluded and included only after it",
    ("route", errno.ENODEV): "no route to the group, so the kernel can't choose the interface: name one",
    ("route", errno.EADDRINUSE): "the socket is a member on several interfaces, or by other means: name the interface",
    ("path", errno.ENETUNREACH): "no route there; for a group, set multicast_interface",
    ("path", errno.EHOSTUNREACH): "the route is of type unreachable: 'ip route get' shows it",
    ("path", errno.EACCES): "the route is of type prohibit: 'ip route get' shows it",
    (
        "path",
        errno.EINVAL,
    ): "the route is of type blackhole, as 'ip route get' shows; or the socket is bound to a loopback "
    "address, and the destination is elsewhere",
    ("filter", errno.ENOBUFS): "too many sources for one filter: {net.ipv4.igmp_max_msf}, {net.core.optmem_max}; raise "
    "them with sysctl",
    ("filter", errno.ENOMEM): "source lists and BPF programs have used up the socket's option memory: "
    "{net.core.optmem_max}; raise it with sysctl",
    ("filter", errno.ENODEV): "the interface is gone",
    ("filter", errno.ESRCH): "the interface was deleted and created anew: repair_memberships() joins again",
    # Other causes of a refusal to send depend on the datagram: _kernel/causes.py.
    ("send", errno.ECONNREFUSED): "an earlier datagram, maybe to another peer, came back as 'port unreachable': nobody "
    "listens there; this one was not sent, and can be sent again",
    (
        "send",
        errno.EPROTO,
    ): "an earlier datagram, maybe to another peer, came back with an ICMP error; this one was not "
    "sent, and can be sent again",
    ("send", errno.ENODEV): "no such interface; interfaces() lists them",
    ("send", errno.ENXIO): "no such interface; interfaces() lists them",
    ("send", errno.ENETDOWN): "the interface is down",
    ("send", errno.EPIPE): "the socket was shut down for sending (shutdown(2))",
    ("receive", errno.ECONNREFUSED): "a datagram that was sent earlier came back as 'port unreachable': nobody listens "
    "there",
    (
        "receive",
        errno.EHOSTUNREACH,
    ): "a datagram that was sent earlier came back as 'host unreachable', or 'prohibited'",
    ("receive", errno.ENETUNREACH): "a datagram that was sent earlier came back as 'network unreachable'",
    ("receive", errno.EMSGSIZE): "a datagram that was sent earlier was longer than the path's MTU",
    ("receive", errno.ENETDOWN): "the interface went down",
    ("multicast interface", errno.EADDRNOTAVAIL): "no such interface or address; interfaces() lists them",
    ("multicast interface", errno.EINVAL): "the socket is bound to another device (SO_BINDTOIFINDEX)",
    ("option", errno.EPERM): "this needs a capability, CAP_NET_ADMIN or CAP_NET_RAW",
    ("option", errno.ENOPROTOOPT): "this kind of socket has no such option",
    ("option", errno.EOPNOTSUPP): "this kind of socket has no such option",
    ("option", errno.EADDRNOTAVAIL): "no such interface or address; interfaces() lists them",
    ("option", errno.ENODEV): "no such interface; interfaces() lists them",
    ("bpf", errno.EINVAL): "the kernel doesn't know an instruction, or it reaches past the scratch memory",
    ("bpf", errno.EPERM): "the socket's BPF program is locked (SO_LOCK_FILTER)",
    ("bpf", errno.ENOENT): "no BPF program is attached",
    ("bpf", errno.ENOMEM): "the program does not fit beside what the socket has: {net.core.optmem_max}",
    ("icmp", errno.EOPNOTSUPP): "only a raw socket of IPPROTO_ICMP has an ICMP filter: open_ip(1) or open_raw(1)",
    ("icmp", errno.ENOPROTOOPT): "only a raw socket of IPPROTO_ICMP has an ICMP filter: open_ip(1) or open_raw(1)",
    ("interface", errno.ENODEV): "no such interface; interfaces() lists them",
    ("interface", errno.EADDRNOTAVAIL): "no interface has that address; interfaces() lists them",
}
"""The next step after an errno, by topic: the kind of attempt."""
