"""What goes beside a datagram: control messages, as received and as requests (recvmsg(2), ip(7), cmsg(3))."""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import this_platform
from trio_ipv4._errors import ParseError, UnsupportedError
from trio_ipv4._values.fields import to_octets, to_optional_integer, to_source
from trio_ipv4._values.interface import to_ifindex

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from typing import Any

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


_SECOND: Final = 1_000_000_000
# The seconds of a timestamp are a signed number of 64 bits.
_FIRST_NS: Final = -(1 << 63) * _SECOND
_LAST_NS: Final = (1 << 63) * _SECOND - 1


class ControlFlags(enum.IntFlag, boundary=enum.STRICT):
    """Which facts to receive with each datagram. A number with other bits is a `ValueError`.

    SRC, DST and INTERFACE share one kernel switch (IP_PKTINFO), which also fills `local`: facts that were not asked for
    may be present.
    """

    TTL = 1
    """The header's time to live, in hops."""
    SRC = 2
    """The sender's address."""
    DST = 4
    """The header's destination: which group, or which of this host's addresses."""
    INTERFACE = 8
    """The index of the interface on which the datagram arrived."""
    TOS = 16
    """The header's type of service: DSCP and ECN."""
    TIMESTAMP = 32
    """When the kernel received the datagram; the first ones may tell when it was read."""
    DROPS = 64
    """How many datagrams this socket had dropped when this one was queued."""


@final
@attrs.frozen(init=False, weakref_slot=False)  # Without that slot, `_Stamped` can lay out an equal object.
class ControlMessage:
    """Facts that were received with a datagram, or requests that go with one that is sent. Absent is `None`.

    Args:
        ttl: Received: from the header, 0 to 255 hops. Sending: 1 to 255.
        src: Received: the sender's address. Sending: the source address, which must be one of this host's.
        dst: Received: the header's destination address.
        ifindex: Received: the index of the interface on which it arrived. Sending: the outgoing interface; an
            `Interface` is converted. Without `src`, Linux then forgets the address that the socket is bound to, and
            chooses one of the interface's.
        tos: The type of service, 0 to 255, received from the header or to be sent.
        local: Received: the kernel's local address (`ipi_spec_dst`). Of unicast it is the destination. Of multicast and
            broadcast it is a hint: the source that the routes choose for an answer, which can be an address of another
            interface where subnets overlap; absent, if there is no route back.
        timestamp_ns: Received: when the kernel received it, in nanoseconds since the epoch. The first ones may be later
            (`PacketConn.control_flags`).
        drops: Received: datagrams that this socket had dropped when this one was queued, modulo 2**32; 0 when asked for
            and none.

    Sending obeys `src`, `ifindex`, `ttl` and `tos` per datagram. The other fields are facts, which a request can't
    have: `marshal` and everything that sends raise `ValueError` for them.
    """

    ttl: int | None
    src: IPv4Address | None
    dst: IPv4Address | None
    ifindex: int | None
    tos: int | None
    local: IPv4Address | None
    timestamp_ns: int | None
    drops: int | None

    def __init__(
        self,
        *,
        ttl: int | None = None,
        src: AddressLike | None = None,
        dst: AddressLike | None = None,
        ifindex: Interface | int | None = None,
        tos: int | None = None,
        local: AddressLike | None = None,
        timestamp_ns: int | None = None,
        drops: int | None = None,
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_optional_integer(ttl, "ttl", 0, 255),
            to_source(src, "src"),
            to_source(dst, "dst"),
            to_ifindex(ifindex, "ifindex"),
            to_optional_integer(tos, "tos", 0, 255),
            to_source(local, "local"),
            to_optional_integer(timestamp_ns, "timestamp_ns", _FIRST_NS, _LAST_NS),
            to_optional_integer(drops, "drops", 0, 0xFFFF_FFFF),
        )

    @property
    def ecn(self) -> int | None:
        """The explicit congestion notification, 0 to 3 (RFC 3168), from `tos`; `None` without it."""
        return None if self.tos is None else self.tos & 0x3

    @property
    def dscp(self) -> int | None:
        """The differentiated services code point, 0 to 63 (RFC 2474), from `tos`; `None` without it."""
        return None if self.tos is None else self.tos >> 2

    def marshal(self) -> bytes:
        """Return the control buffer of this request, as sendmsg(2) takes it; empty if nothing is asked for.

        Raises:
            ValueError: A field is set that only receiving fills, or `ttl` is 0.
            UnsupportedError: The platform has no control message for a field.
        """
        return marshal_control(this_platform(), self)

    @classmethod
    def parse(cls, data: bytes) -> ControlMessage:
        """Read a control buffer, as recvmsg(2) fills it. Messages of other kinds are ignored, and so is a short tail.

        Raises:
            ParseError: A length contradicts the buffer, or a known message has a wrong size or value.
        """
        return parse_control(this_platform(), to_octets(data, "data"))

    def __repr__(self) -> str:
        present = ((field.name, getattr(self, field.name)) for field in attrs.fields(ControlMessage))
        fields = ", ".join(f"{name}={_readable(value)}" for name, value in present if value is not None)
        return f"ControlMessage({fields})"


EMPTY: Final = ControlMessage()


def marshal_control(platform: Platform, control: ControlMessage) -> bytes:
    """Lay out a request for `platform`."""
    _check_request(control)
    parts: list[bytes] = []
    if control.src is not None or control.ifindex is not None:
        source = structs.ANY if control.src is None else control.src.packed
        data = structs.in_pktinfo(platform, control.ifindex or 0, source, structs.ANY)
        parts.append(structs.cmsg(platform, *_kind(platform, "IP_PKTINFO"), data))
    for name, number in (("IP_TTL", control.ttl), ("IP_TOS", control.tos)):
        if number is not None:
            data = struct.pack(platform.prefix + "i", number)
            parts.append(structs.cmsg(platform, *_kind(platform, name), data))
    return b"".join(parts)


def parse_control(platform: Platform, data: bytes) -> ControlMessage:
    """Read a control buffer of `platform`."""
    fields: dict[str, Any] = {}
    kinds = {platform.control[name]: read for name, read in _READERS.items() if name in platform.control}
    for offset, level, kind, content in structs.iterate_cmsgs(platform, data):
        if read := kinds.get((level, kind)):
            fields.update(read(platform, content, offset))
    return ControlMessage(**fields)


@final
class LeadingTimestamp:
    """The timestamp at the start of a control buffer: Linux writes it before all else (`sock_recv_cmsgs`).

    It is the one fact that differs from datagram to datagram where the others are the same, so it is worth reading by
    itself.
    """

    def __init__(self, platform: Platform) -> None:
        kind = platform.control.get("SO_TIMESTAMPNS")
        self.size: Final = structs.cmsg_space(platform, 16)
        """Of the message as a whole, in octets."""
        self._header: Final = structs.cmsg(platform, *kind, bytes(16))[:-16] if kind else None
        self._content: Final = struct.Struct(f"{platform.prefix}{self.size - 16}xqq")

    def read(self, data: bytes) -> int | None:
        """Return the timestamp in nanoseconds, if it is there and valid."""
        if self._header is None or not data.startswith(self._header) or len(data) < self.size:
            return None
        seconds, nanoseconds = self._content.unpack_from(data)
        return seconds * _SECOND + nanoseconds if 0 <= nanoseconds < _SECOND else None


class _Stamped:
    """A control message in the making: `_Stamped(control, timestamp_ns)` returns a `ControlMessage`.

    As for a received datagram (datagram.py): what is stored has been checked, and a frozen class's own way to store it
    takes several times as long.
    """

    __slots__ = ("drops", "dst", "ifindex", "local", "src", "timestamp_ns", "tos", "ttl")

    def __init__(self, control: ControlMessage, timestamp_ns: int) -> None:
        self.ttl = control.ttl
        self.src = control.src
        self.dst = control.dst
        self.ifindex = control.ifindex
        self.tos = control.tos
        self.local = control.local
        self.timestamp_ns = timestamp_ns
        self.drops = control.drops
        self.__class__ = ControlMessage  # type: ignore[assignment]  # noqa: PLE0237


stamped: Callable[[ControlMessage, int], ControlMessage] = _Stamped  # type: ignore[assignment]
"""Return a control message with another timestamp, without conversion and validation."""


def _read_octet(name: str) -> Callable[[Platform, bytes, int], dict[str, Any]]:
    def read(platform: Platform, content: bytes, offset: int) -> dict[str, Any]:
        # Linux sends the TTL as an int and the TOS as one octet; Darwin sends one octet for both.
        if len(content) not in (1, 4):
            raise ParseError(f"{name} must have 1 or 4 octets, got {len(content)}", offset=offset)
        number = int.from_bytes(content, platform.byte_order)
        if number > 255:
            raise ParseError(f"{name} must be from 0 to 255, got {number}", offset=offset)
        return {name: number}

    return read


def _read_pktinfo(platform: Platform, content: bytes, offset: int) -> dict[str, Any]:
    if len(content) != structs.IN_PKTINFO_SIZE:
        raise ParseError(f"IP_PKTINFO must have {structs.IN_PKTINFO_SIZE} octets, got {len(content)}", offset=offset)
    ifindex, local, destination = structs.parse_in_pktinfo(platform, content)
    if ifindex < 0:
        raise ParseError(f"an interface index must not be negative, got {ifindex}", offset=offset)
    # A datagram that was queued before IP_PKTINFO was switched on has an index of 0 and addresses of 0.0.0.0.
    return {"ifindex": ifindex or None, "local": _present(local), "dst": _present(destination)}


def _read_timestamp(platform: Platform, content: bytes, offset: int) -> dict[str, Any]:
    if len(content) != 16:
        raise ParseError(f"a timestamp must have 16 octets, got {len(content)}", offset=offset)
    seconds, nanoseconds = struct.unpack(platform.prefix + "qq", content)
    if not 0 <= nanoseconds < _SECOND:
        raise ParseError(f"nanoseconds must be from 0 to 999999999, got {nanoseconds}", offset=offset)
    return {"timestamp_ns": seconds * _SECOND + nanoseconds}


def _read_drops(platform: Platform, content: bytes, offset: int) -> dict[str, Any]:
    if len(content) != 4:
        raise ParseError(f"a drop counter must have 4 octets, got {len(content)}", offset=offset)
    return {"drops": int.from_bytes(content, platform.byte_order)}


_READERS: Final[dict[str, Callable[[Platform, bytes, int], dict[str, Any]]]] = {
    "IP_TTL": _read_octet("ttl"),
    "IP_TOS": _read_octet("tos"),
    "IP_PKTINFO": _read_pktinfo,
    "SO_TIMESTAMPNS": _read_timestamp,
    "SO_RXQ_OVFL": _read_drops,
}


def _check_request(control: ControlMessage) -> None:
    for name in ("dst", "local", "timestamp_ns", "drops"):
        if (value := getattr(control, name)) is not None:
            raise ValueError(
                f"{name} must be None when sending, got {_readable(value)}: a received control message is not a request"
            )
    if control.ttl == 0:
        raise ValueError("ttl must be from 1 to 255 when sending, got 0")


def _kind(platform: Platform, name: str) -> tuple[int, int]:
    """Return the level and type of a control message that is sent: the plain option's, on every platform."""
    if name not in platform.control:
        raise UnsupportedError(name, platform.name)
    option = platform.option(name)
    return option.level, option.name


def _present(packed: bytes) -> IPv4Address | None:
    return None if packed == structs.ANY else ipaddress.IPv4Address(packed)


def _readable(value: object) -> str:
    return repr(str(value)) if isinstance(value, ipaddress.IPv4Address) else repr(value)
