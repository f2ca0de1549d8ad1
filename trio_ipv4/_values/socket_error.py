"""What comes back for datagrams that were sent: ICMP errors, local ones, transmit timestamps.

Linux keeps these in the error queue of a socket (ip(7): IP_RECVERR; recvmsg(2): MSG_ERRQUEUE). Each entry has a `struct
sock_extended_err` (linux/errqueue.h), and a part of the datagram that it is about.
"""

from __future__ import annotations

import enum
import errno as errnos
import ipaddress
from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._abi import structs
from trio_ipv4._errors import ParseError
from trio_ipv4._values.control import FIRST_NS, LAST_NS
from trio_ipv4._values.fields import to_address, to_endpoint, to_integer, to_octets, to_optional_integer
from trio_ipv4._values.icmp import ICMPType
from trio_ipv4._values.icmp_error import UnreachableCode
from trio_ipv4._values.icmp_extension import parse_extensions, to_extensions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._values.fields import AddressLike, Endpoint, EndpointLike
    from trio_ipv4._values.icmp_extension import ICMPExtensionObject

_OCTET: Final = 0xFF
_WORD: Final = 0xFFFF_FFFF
_ICMP_TYPES: Final = frozenset(ICMPType)
_CODES: Final = frozenset(UnreachableCode)


class ErrorOrigin(enum.IntEnum):
    """Who told of it (linux/errqueue.h: SO_EE_ORIGIN_*)."""

    NONE = 0
    """Unknown: the kernel named no origin, or one that this library does not know, or its control messages were cut
    off; or the error is from before errors were reported."""
    LOCAL = 1
    """This host's kernel, at the call that sent."""
    ICMP = 2
    """An ICMP error from a router, from the destination, or from this host."""
    ICMP6 = 3
    """Not of IPv4."""
    TIMESTAMPING = 4
    """No error: the time at which a datagram was sent (`PacketConn.timestamping`)."""
    ZEROCOPY = 5
    """Not asked for by this library (MSG_ZEROCOPY)."""
    TXTIME = 6
    """A datagram missed the time at which it was to be sent (SO_TXTIME)."""


_ORIGINS: Final = frozenset(ErrorOrigin)
_BY_THIS_HOST: Final = {ErrorOrigin.LOCAL: "refused by this host", ErrorOrigin.TIMESTAMPING: "timestamp"}


@final
@attrs.frozen(init=False)
class SocketError:
    """An error about a datagram that was sent earlier, or the time at which it was sent. It is a value, no exception.

    Args:
        errno: The error's number, as in the module `errno`. ENOMSG for a timestamp.
        origin: Who told of it.
        icmp_type: The type of the ICMP message; `None` if it is no ICMP error.
        icmp_code: Its code; `None` likewise. A code of "destination unreachable" that has a name is an
            `UnreachableCode`.
        info: A number that depends on the kind: an MTU, where the datagram was too long (see `mtu`); the octet at fault
            of a parameter problem; the gateway's address of a redirect; where a timestamp was taken (0: at the driver,
            1: at the packet scheduler). Otherwise 0.
        offender: The host or router that sent the ICMP error; `None` if there is none.
        destination: `(address, port)` of the datagram that it is about; `None` if the kernel does not tell, as of
            timestamps. The port is 0 over ICMP and raw IP, and of a LOCAL error unless the socket is connected.
        payload: The octets of the datagram that came back. Over UDP they begin behind the UDP header, over ICMP and raw
            IP behind the IP header, and on a `RawConn` with the IP header. A router may quote no more than 8 octets
            behind the IP header (RFC 792), which is the UDP header alone. Empty for LOCAL errors and timestamps.
        extensions: What a router added to its ICMP error: MPLS labels, interfaces (RFC 4884). Before Linux 5.9 they
            stay in `payload`.
        number: Of a timestamp: which datagram it belongs to, counted from 0; `None` otherwise.
        timestamp_ns: When it came, in nanoseconds since the epoch, if `ControlFlags.TIMESTAMP` was on; for a timestamp,
            when the driver or the packet scheduler was given the datagram, by the clock of this host.
        hardware_timestamp_ns: When the interface's hardware sent the datagram, by the clock of the hardware.
    """

    errno: int
    origin: ErrorOrigin
    icmp_type: int | None
    icmp_code: int | None
    info: int
    offender: IPv4Address | None
    destination: Endpoint | None
    payload: bytes
    extensions: tuple[ICMPExtensionObject, ...]
    number: int | None
    timestamp_ns: int | None
    hardware_timestamp_ns: int | None

    def __init__(
        self,
        errno: int,
        origin: ErrorOrigin,
        icmp_type: int | None = None,
        icmp_code: int | None = None,
        info: int = 0,
        offender: AddressLike | None = None,
        destination: EndpointLike | None = None,
        payload: bytes = b"",
        timestamp_ns: int | None = None,
        *,
        extensions: Iterable[ICMPExtensionObject] = (),
        number: int | None = None,
        hardware_timestamp_ns: int | None = None,
    ) -> None:
        kind = to_optional_integer(icmp_type, "icmp_type", 0, _OCTET)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(errno, "errno", 0, _WORD),
            ErrorOrigin(to_integer(origin, "origin", 0, max(ErrorOrigin))),
            kind if kind is None or kind not in _ICMP_TYPES else ICMPType(kind),
            _to_code(kind, to_optional_integer(icmp_code, "icmp_code", 0, _OCTET)),
            to_integer(info, "info", 0, _WORD),
            None if offender is None else to_address(offender, "offender"),
            None if destination is None else to_endpoint(destination, "destination"),
            to_octets(payload, "payload"),
            to_extensions(extensions),
            to_optional_integer(number, "number", 0, _WORD),
            to_optional_integer(timestamp_ns, "timestamp_ns", FIRST_NS, LAST_NS),
            to_optional_integer(hardware_timestamp_ns, "hardware_timestamp_ns", FIRST_NS, LAST_NS),
        )

    @property
    def mtu(self) -> int | None:
        """The longest packet that the path takes, in octets with the IP header; `None` unless this error tells it.

        Routers tell it that don't fragment ("fragmentation needed", RFC 1191), and so does this host's kernel.
        """
        by_router = self.icmp_code is UnreachableCode.FRAGMENTATION_NEEDED
        by_kernel = self.origin is ErrorOrigin.LOCAL and self.errno == errnos.EMSGSIZE
        return self.info or None if by_router or by_kernel else None

    @property
    def reason(self) -> str:
        """The error in a few words, such as "host unreachable", or "fragmentation needed, mtu 1400"."""
        if self.origin is not ErrorOrigin.ICMP:
            text = _BY_THIS_HOST.get(self.origin, f"origin {self.origin.name}")
        elif isinstance(self.icmp_code, UnreachableCode):
            text = str(self.icmp_code)
        elif isinstance(self.icmp_type, ICMPType):
            text = str(self.icmp_type)
        else:
            text = f"ICMP type {self.icmp_type}, code {self.icmp_code}"
        return text if self.mtu is None else f"{text}, mtu {self.mtu}"

    def __str__(self) -> str:
        words = [self.reason]
        if self.number is not None:
            words.append(f"number {self.number}")
        if self.offender is not None:
            words.append(f"told by {self.offender}")
        if self.destination is not None:
            words.append(f"about {self.destination[0]}, port {self.destination[1]}")
        return f"{', '.join(words)} ({errnos.errorcode.get(self.errno, self.errno)})"


def parse_socket_error(
    platform: Platform, payload: bytes, control: bytes, destination: Endpoint | None = None
) -> SocketError:
    """Read a message of the error queue.

    Args:
        platform: The platform that wrote it.
        payload: Its octets.
        control: Its control messages.
        destination: The destination of the datagram that it is about, if the kernel tells.

    Raises:
        ParseError: A length contradicts the control buffer, or it says nothing of an error.
    """
    found = {(level, kind): content for _, level, kind, content in structs.iterate_cmsgs(platform, control)}
    content = found.get(platform.control["IP_RECVERR"], b"")
    if len(content) < structs.EXTENDED_ERROR_SIZE:
        size = structs.EXTENDED_ERROR_SIZE
        raise ParseError(f"IP_RECVERR must have at least {size} octets, got {len(content)}", offset=len(control))
    error = structs.ExtendedError.parse(platform, content)
    by_icmp, is_stamp = error.origin == ErrorOrigin.ICMP, error.origin == ErrorOrigin.TIMESTAMPING
    octets, extensions = _without_extensions(platform, payload, error.data) if by_icmp else (payload, ())
    arrived_ns, hardware_ns = _stamps(platform, found, is_stamp=is_stamp)
    return SocketError(
        error.errno,
        ErrorOrigin(error.origin) if error.origin in _ORIGINS else ErrorOrigin.NONE,
        error.type if by_icmp else None,
        error.code if by_icmp else None,
        error.info,
        ipaddress.IPv4Address(error.offender) if by_icmp and error.offender != structs.ANY else None,
        destination,
        octets,
        arrived_ns,
        extensions=extensions,
        number=error.data if is_stamp else None,
        hardware_timestamp_ns=hardware_ns,
    )


def _to_code(kind: int | None, code: int | None) -> int | None:
    if code is None or kind != ICMPType.DESTINATION_UNREACHABLE or code not in _CODES:
        return code
    return UnreachableCode(code)


def _without_extensions(platform: Platform, payload: bytes, data: int) -> tuple[bytes, tuple[ICMPExtensionObject, ...]]:
    """Cut the extensions off (IP_RECVERR_RFC4884). If they can't be read, they stay a part of the payload."""
    start, is_valid = structs.parse_rfc4884(platform, data)
    if not start or not is_valid or start > len(payload):
        return payload, ()
    try:
        return payload[:start], parse_extensions(payload[start:])
    except ParseError:
        return payload, ()


def _stamps(
    platform: Platform, found: Mapping[tuple[int, int], bytes], *, is_stamp: bool
) -> tuple[int | None, int | None]:
    """Return when it came, or was sent, by the clock of this host and by that of the hardware."""
    stamp, stamps = found.get(platform.control["SO_TIMESTAMPNS"]), found.get(platform.control["SO_TIMESTAMPING"])
    software = hardware = 0
    if stamps is not None and len(stamps) == structs.SCM_TIMESTAMPING_SIZE:
        software, hardware = structs.parse_scm_timestamping(platform, stamps)
    if stamp is not None and len(stamp) == structs.TIMESPEC_SIZE and not is_stamp:
        software = structs.parse_timespec(platform, stamp)
    return software or None, hardware or None
