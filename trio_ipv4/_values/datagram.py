"""One datagram, either way."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._abi.this import IS_FREE_THREADED
from trio_ipv4._values.control import EMPTY, ControlMessage
from trio_ipv4._values.fields import LIMITED_BROADCAST, UNSPECIFIED, to_bool, to_endpoint, to_octets
from trio_ipv4._values.header import Header

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4._values.fields import Endpoint, EndpointLike


@final
@attrs.frozen(init=False, weakref_slot=False)  # Without that slot, `make_datagram` can lay out an equal object.
class Datagram:
    """A payload, whom it came from or goes to, and its control message.

    Args:
        payload: The payload of UDP; on a raw socket, and on an ICMP one (icmp(7)), of IP.
        peer: `(address, port)`: the source when received, the destination when sent. Over raw IP the port
            is 0.
        control: Facts when received, requests when sent; empty by default, never `None`.
        truncated: Whether the datagram was longer than the caller's `max_bytes`, so that its end is lost.
    """

    payload: bytes
    peer: Endpoint
    control: ControlMessage
    truncated: bool

    def __init__(
        self, payload: bytes, peer: EndpointLike, *, control: ControlMessage = EMPTY, truncated: bool = False
    ) -> None:
        if not isinstance(control, ControlMessage):
            raise TypeError(f"control must be a ControlMessage, got {control!r}")
        _set_payload(self, payload if type(payload) is bytes else to_octets(payload, "payload"))
        _set_peer(self, to_endpoint(peer, "peer"))
        _set_control(self, control)
        _set_truncated(self, truncated if truncated is False else to_bool(truncated, "truncated"))

    def reply(self, payload: bytes, *, tos: int | None = None) -> Datagram:
        """Return the answer to a received datagram: to its sender, from the address that was asked.

        The answer to multicast or broadcast leaves on the interface on which the question came, from the address that
        the kernel chooses there. The answer to unicast goes where the routes lead, which may be another interface: so
        replies also pass where routes are asymmetric. A reply to a link-local sender leaves on the interface
        on which it was heard.

        Raises:
            ValueError: The datagram was received without `ControlFlags.DST` and `INTERFACE`, so that nobody knows which
                address was asked; or its sender has no address yet (0.0.0.0, as a DHCP client).
        """
        asked, sender = self.control, ipaddress.IPv4Address(self.peer[0])
        if sender == UNSPECIFIED:
            raise ValueError(
                "the sender has no address yet (0.0.0.0), and what is sent there reaches this host itself: answer to "
                "the link, with Datagram(payload, ('255.255.255.255', port), control=ControlMessage(ifindex=...))"
            )
        by_group = asked.dst is not None and (asked.dst.is_multicast or asked.dst == LIMITED_BROADCAST)
        by_broadcast = asked.local is not None and asked.dst not in (asked.local, None)
        if asked.ifindex is not None and (by_group or by_broadcast):
            # A hint of the kernel's, `local` follows the routes to the sender. It is no address of this interface where
            # subnets overlap, and absent where there is no route.
            control = ControlMessage(ifindex=asked.ifindex, tos=tos)
        elif asked.local is not None:
            control = ControlMessage(src=asked.local, ifindex=asked.ifindex if sender.is_link_local else None, tos=tos)
        else:
            raise ValueError(
                "control.local must not be None: a reply needs a datagram received with ControlFlags.DST or INTERFACE"
            )
        return Datagram(payload, self.peer, control=control)


# Programs make one of these for each datagram that they send; a frozen class's own way to store takes twice the time.
_set_payload, _set_peer, _set_control, _set_truncated = (
    getattr(Datagram, name).__set__ for name in ("payload", "peer", "control", "truncated")
)


def make_by_slots(payload: bytes, peer: Endpoint, control: ControlMessage, truncated: bool = False) -> Datagram:  # noqa: FBT002
    """Make a received `Datagram`, without conversion and validation, on free-threaded Python."""
    made = _new(Datagram)
    _set_payload(made, payload)
    _set_peer(made, peer)
    _set_control(made, control)
    _set_truncated(made, truncated)
    return made


_new: Final = object.__new__


class _ReceivedDatagram:
    """A datagram in the making: `_ReceivedDatagram(...)` returns a `Datagram`, in a third of the time.

    The receive path has nothing to convert and nothing to validate: it hands over the kernel's answer. A frozen class
    stores each field through `object.__setattr__`; this one stores directly, and then becomes the frozen class, which
    Python allows between classes with the same slots. With a Python function call for each datagram instead, a batch
    would cost half as much again. Where threads run in parallel, the change of the class stops them all; there,
    `make_by_slots` is faster (tools/pythons/making.py measures both).
    """

    __slots__ = ("control", "payload", "peer", "truncated")

    def __init__(self, payload: bytes, peer: Endpoint, control: ControlMessage, truncated: bool = False) -> None:  # noqa: FBT002
        self.payload = payload
        self.peer = peer
        self.control = control
        self.truncated = truncated
        self.__class__ = Datagram  # type: ignore[assignment]  # noqa: PLE0237


make_by_class: Callable[..., Datagram] = _ReceivedDatagram  # type: ignore[assignment]
"""The same, on every other Python."""
make_datagram: Final = make_by_slots if IS_FREE_THREADED else make_by_class
"""Make a received `Datagram`, without conversion and validation."""


@final
@attrs.frozen(init=False)
class RawDatagram:
    """An IP packet: header, payload, and control message.

    Args:
        header: Whom it came from and goes to, and the rest of RFC 791. When sending, Linux fills in the total length
            and the checksum always, the source where it is 0.0.0.0, and the identification where it is 0 and
            fragmenting is allowed (raw(7)).
        payload: The octets after the header.
        control: Facts when received; requests when sent, of which raw sockets obey `src` and `ifindex`.
        truncated: Whether the payload was longer than the caller's `max_bytes`, so that its end is lost.
    """

    header: Header
    payload: bytes
    control: ControlMessage
    truncated: bool

    def __init__(
        self, header: Header, payload: bytes, *, control: ControlMessage = EMPTY, truncated: bool = False
    ) -> None:
        if not isinstance(header, Header):
            raise TypeError(f"header must be a Header, got {header!r}")
        if not isinstance(control, ControlMessage):
            raise TypeError(f"control must be a ControlMessage, got {control!r}")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            header, to_octets(payload, "payload"), control, to_bool(truncated, "truncated")
        )
