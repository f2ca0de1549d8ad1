"""Control messages, as received and as requests (recvmsg(2), ip(7), cmsg(3)).

A fact stands here three times: as a flag of `ControlFlags`, as a field of `ControlMessage`, and as a row of `FACTS`,
which ties these to the platform's names. `facts.py` says what a row is.
"""

from __future__ import annotations

import collections.abc
import enum
import ipaddress
import operator
import struct
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from trio_ipv4._abi import structs
from trio_ipv4._abi.this import IS_FREE_THREADED, this_platform
from trio_ipv4._errors import ParseError
from trio_ipv4._values.facts import Fact, Request, Table, read_number, write_integer
from trio_ipv4._values.fields import to_integer, to_octets, to_optional_integer, to_source
from trio_ipv4._values.interface import to_ifindex

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import Interface


_SECOND: Final = 1_000_000_000
# The seconds of a timestamp are a signed number of 64 bits.
FIRST_NS: Final = -(1 << 63) * _SECOND
LAST_NS: Final = (1 << 63) * _SECOND - 1
_FIRST_INT, _LAST_INT = -(1 << 31), (1 << 31) - 1  # C's int.


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


DEFAULT_FLAGS: Final = ControlFlags.DST | ControlFlags.INTERFACE
"""The facts that `Datagram.reply` needs."""


@final
@attrs.frozen(init=False)
class OtherControl:
    """A control message of a kind that `ControlMessage` has no field for (cmsg(3)).

    Args:
        level: Its level, such as `SOL_SOCKET`.
        type: Its type, the number of an option in most cases.
        data: Its octets.
    """

    level: int
    type: int
    data: bytes

    def __init__(self, level: int, type: int, data: bytes = b"") -> None:  # noqa: A002  # The name in cmsg(3).
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_integer(level, "level", _FIRST_INT, _LAST_INT),
            to_integer(type, "type", _FIRST_INT, _LAST_INT),
            to_octets(data, "data"),
        )


def _to_others(values: object) -> tuple[OtherControl, ...]:
    if values == ():
        return ()
    if not isinstance(values, collections.abc.Iterable):
        raise TypeError(f"other must be a collection of OtherControl, got {values!r}")
    given = tuple(values)
    for each in given:
        if not isinstance(each, OtherControl):
            raise TypeError(f"other must have nothing but OtherControl, got {each!r}")
    return given


@final
@attrs.frozen(init=False, weakref_slot=False)  # Without that slot, `_Unfrozen` can lay out an equal object.
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
        hardware_timestamp_ns: Received: when the interface's hardware received it, by its own clock
            (`PacketConn.timestamping`).
        other: Messages of kinds that this class has no field for, in order: received, because an option was set on the
            bare socket; sending, to be passed to the kernel as they are.

    Sending obeys `src`, `ifindex`, `ttl`, `tos` and `other` per datagram. The other fields are facts, which a request
    can't have: `marshal` and everything that sends raise `ValueError` for them.
    """

    ttl: int | None
    src: IPv4Address | None
    dst: IPv4Address | None
    ifindex: int | None
    tos: int | None
    local: IPv4Address | None
    timestamp_ns: int | None
    drops: int | None
    hardware_timestamp_ns: int | None
    other: tuple[OtherControl, ...]

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
        hardware_timestamp_ns: int | None = None,
        other: Iterable[OtherControl] = (),
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            to_optional_integer(ttl, "ttl", 0, 255),
            to_source(src, "src"),
            to_source(dst, "dst"),
            to_ifindex(ifindex, "ifindex"),
            to_optional_integer(tos, "tos", 0, 255),
            to_source(local, "local"),
            to_optional_integer(timestamp_ns, "timestamp_ns", FIRST_NS, LAST_NS),
            to_optional_integer(drops, "drops", 0, 0xFFFF_FFFF),
            to_optional_integer(hardware_timestamp_ns, "hardware_timestamp_ns", FIRST_NS, LAST_NS),
            _to_others(other),
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
        """Read a control buffer, as recvmsg(2) fills it. A short tail is ignored.

        Raises:
            ParseError: A length contradicts the buffer, or a known message has a wrong size or value.
        """
        return parse_control(this_platform(), to_octets(data, "data"))

    def __repr__(self) -> str:
        present = ((field.name, getattr(self, field.name)) for field in attrs.fields(ControlMessage))
        fields = ", ".join(f"{name}={_readable(value)}" for name, value in present if value not in (None, ()))
        return f"ControlMessage({fields})"


EMPTY: Final = ControlMessage()


def _read_sender(_platform: Platform, content: bytes, _offset: int) -> tuple[IPv4Address | None]:
    return (_present(content),)


def _read_pktinfo(platform: Platform, content: bytes, offset: int) -> tuple[object, ...]:
    ifindex, local, destination = structs.parse_in_pktinfo(platform, content)
    if ifindex < 0:
        raise ParseError(f"an interface index must not be negative, got {ifindex}", offset=offset)
    # A datagram that was queued before IP_PKTINFO was switched on has an index of 0 and addresses of 0.0.0.0.
    return ifindex or None, _present(local), _present(destination)


def _write_pktinfo(platform: Platform, control: ControlMessage) -> bytes | None:
    if control.src is None and control.ifindex is None:
        return None
    source = structs.ANY if control.src is None else control.src.packed
    return structs.in_pktinfo(platform, control.ifindex or 0, source, structs.ANY)


def _read_timestamp(platform: Platform, content: bytes, offset: int) -> tuple[int]:
    return (structs.parse_timespec(platform, content, offset),)


def _read_stamps(platform: Platform, content: bytes, offset: int) -> tuple[int | None]:
    _, hardware_ns = structs.parse_scm_timestamping(platform, content, offset)
    return (hardware_ns or None,)


_TIMESTAMP: Final = Fact(
    flags=ControlFlags.TIMESTAMP,
    switch="SO_TIMESTAMPNS",
    message="SO_TIMESTAMPNS",
    title="a timestamp",
    fields=("timestamp_ns",),
    sizes=(structs.TIMESPEC_SIZE,),
    read=_read_timestamp,
)
FACTS: Final = Table(
    Fact(
        flags=ControlFlags.SRC,
        switch="IP_PKTINFO",  # Go asks for it too, although recvmsg(2) tells the sender without.
        message=None,
        title="the sender's address",
        fields=("src",),
        sizes=(4,),
        read=_read_sender,
    ),
    Fact(
        flags=ControlFlags.DST | ControlFlags.INTERFACE,
        switch="IP_PKTINFO",
        message="IP_PKTINFO",
        title="IP_PKTINFO",
        fields=("ifindex", "local", "dst"),
        sizes=(structs.IN_PKTINFO_SIZE,),
        read=_read_pktinfo,
        request=Request(("ifindex", "src"), _write_pktinfo),
    ),
    Fact(
        flags=ControlFlags.TTL,
        switch="IP_RECVTTL",
        message="IP_TTL",
        title="ttl",
        fields=("ttl",),
        sizes=(1, 4),  # Linux sends an int, Darwin one octet.
        read=read_number("ttl", 255),
        request=Request(("ttl",), write_integer("ttl", 1, 255)),
    ),
    Fact(
        flags=ControlFlags.TOS,
        switch="IP_RECVTOS",
        message="IP_TOS",
        title="tos",
        fields=("tos",),
        sizes=(1, 4),  # Both send one octet, and take an int.
        read=read_number("tos", 255),
        request=Request(("tos",), write_integer("tos", 0, 255)),
    ),
    _TIMESTAMP,
    Fact(
        flags=ControlFlags.DROPS,
        switch="SO_RXQ_OVFL",
        message="SO_RXQ_OVFL",
        title="a drop counter",
        fields=("drops",),
        sizes=(4,),
        read=read_number("drops", 0xFFFF_FFFF),
        absent=0,  # The kernel sends no message while the count is 0.
    ),
    Fact(
        flags=0,
        switch=None,  # `PacketConn.timestamping` sets this one.
        message="SO_TIMESTAMPING",
        title="timestamps of hardware and software",
        fields=("hardware_timestamp_ns",),
        sizes=(structs.SCM_TIMESTAMPING_SIZE,),
        read=_read_stamps,
    ),
)
"""All facts. A request has its messages in this order."""

_FIELDS: Final = tuple(field.name for field in attrs.fields(ControlMessage))
_NEVER_REQUESTED: Final = [name for name in _FIELDS if name not in {*FACTS.requested, "other"}]
_NOTHING: Final = (None,) * len(_NEVER_REQUESTED)
_never_requested: Final = operator.attrgetter(*_NEVER_REQUESTED)


def marshal_control(platform: Platform, control: ControlMessage) -> bytes:
    """Lay out a request for `platform`."""
    if _never_requested(control) != _NOTHING:
        name = next(name for name in _NEVER_REQUESTED if getattr(control, name) is not None)
        raise ValueError(
            f"{name} must be None when sending, got {_readable(getattr(control, name))}: a received control message is "
            "not a request"
        )
    written = FACTS.write(platform, control)
    if not control.other:
        return written
    return written + b"".join(structs.cmsg(platform, each.level, each.type, each.data) for each in control.other)


def parse_control(platform: Platform, data: bytes, flags: int = 0, sender: bytes = b"") -> ControlMessage:
    """Read a control buffer of `platform`, on a socket that receives `flags`; arguments as for `Table.read`."""
    fields = FACTS.read(platform, data, flags, sender)
    return ControlMessage(**fields, other=[OtherControl(*each) for each in FACTS.others(platform, data)])


@final
class LeadingTimestamp:
    """The timestamp at the start of a control buffer: Linux writes it before all else (`sock_recv_cmsgs`).

    It is the one fact that differs from datagram to datagram where the others are the same, so it is worth reading by
    itself.
    """

    def __init__(self, platform: Platform) -> None:
        (length,) = _TIMESTAMP.sizes
        kind = platform.control.get(_TIMESTAMP.message or "")
        self.size: Final = structs.cmsg_space(platform, length)
        """Of the message as a whole, in octets."""
        self._header: Final = structs.cmsg(platform, *kind, bytes(length))[:-length] if kind else None
        self._unpack: Final = struct.Struct(f"{platform.prefix}{self.size - length}xqq").unpack_from

    def read(self, data: bytes) -> int | None:
        """Return the timestamp in nanoseconds, if it is there and valid."""
        if self._header is None or not data.startswith(self._header) or len(data) < self.size:
            return None
        seconds, nanoseconds = self._unpack(data)
        return seconds * _SECOND + nanoseconds if 0 <= nanoseconds < _SECOND else None


def stamped_by_slots(control: ControlMessage, timestamp_ns: int) -> ControlMessage:
    """Return a control message with another timestamp, without conversion and validation, on free-threaded Python."""
    made = object.__new__(ControlMessage)
    for store, value in zip(_STORE, (timestamp_ns, *_all_but_timestamp(control)), strict=True):
        store(made, value)
    return made


def stamped_by_class(control: ControlMessage, timestamp_ns: int) -> ControlMessage:
    """Do the same on every other Python.

    As for a received datagram (datagram.py): the values have been checked, and a frozen class's own way to store them
    takes several times as long. A class with the same slots that is not frozen stores them, then becomes the frozen
    class.
    """
    made: ControlMessage = _Unfrozen(timestamp_ns, *_all_but_timestamp(control))
    made.__class__ = ControlMessage
    return made


_OTHERS: Final = [name for name in _FIELDS if name not in _TIMESTAMP.fields]
_all_but_timestamp: Final = operator.attrgetter(*_OTHERS)
_Unfrozen: Final[Any] = attrs.make_class("_Unfrozen", [*_TIMESTAMP.fields, *_OTHERS], slots=True, weakref_slot=False)
_STORE: Final = [getattr(ControlMessage, name).__set__ for name in (*_TIMESTAMP.fields, *_OTHERS)]

stamped: Final = stamped_by_slots if IS_FREE_THREADED else stamped_by_class
"""Return a control message with another timestamp, without conversion and validation."""


def _present(packed: bytes) -> IPv4Address | None:
    return None if packed == structs.ANY else ipaddress.IPv4Address(packed)


def _readable(value: object) -> str:
    return repr(str(value)) if isinstance(value, ipaddress.IPv4Address) else repr(value)
