"""Tables from octets to values: the kernel hands over the same octets again and again."""

from __future__ import annotations

import abc
import functools
import ipaddress
import itertools
from typing import TYPE_CHECKING, Final, TypeVar, final

from trio_ipv4._abi import structs
from trio_ipv4._errors import ParseError
from trio_ipv4._kernel import offload
from trio_ipv4._kernel.calls import MSG_CTRUNC
from trio_ipv4._values.control import (
    EMPTY,
    FACTS,
    ControlFlags,
    ControlMessage,
    LeadingTimestamp,
    parse_control,
    stamped,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.calls import Received
    from trio_ipv4._values.fields import Endpoint

KeyT = TypeVar("KeyT")
MadeT = TypeVar("MadeT")
CACHED: Final = 1024
"""How many addresses, and how many control messages, a connection remembers. A sender that varies its source can make
it parse again, but not grow."""


class Remembered(dict[KeyT, MadeT], abc.ABC):
    """Values by the keys that they were made of. A full table forgets everything."""

    def __missing__(self, key: KeyT) -> MadeT:
        if len(self) >= CACHED:
            self.clear()
        self[key] = made = self._make(key)
        return made

    @abc.abstractmethod
    def _make(self, key: KeyT) -> MadeT: ...


@final
class Peers(Remembered[bytes, "Endpoint"]):
    """Endpoints by their `struct sockaddr_in`: the kernel hands over the same 16 octets again and again."""

    def _make(self, key: bytes) -> Endpoint:
        address, port = structs.parse_sockaddr_in(key)
        return str(ipaddress.IPv4Address(address)), port


@final
class Names(Remembered["Endpoint", bytes]):
    """The `struct sockaddr_in` of endpoints."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform: Final = platform

    def _make(self, key: Endpoint) -> bytes:
        address, port = key
        return structs.sockaddr_in(self._platform, ipaddress.IPv4Address(address).packed, port)


class ByControl(Remembered[bytes, MadeT]):
    """Values by the octets of control messages.

    A timestamp at the start differs from datagram to datagram. The octets after it are often the same, so they alone
    are the key.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform: Final = platform

    def __missing__(self, key: bytes) -> MadeT:
        leading = self._leading
        timestamp_ns = leading.read(key)
        if timestamp_ns is not None:
            try:
                made = self[key[leading.size :]]
            except ParseError:
                pass  # Its offset would be that in the rest.
            else:
                return self._stamped(made, timestamp_ns)
        return super().__missing__(key)

    @functools.cached_property
    def _leading(self) -> LeadingTimestamp:
        return LeadingTimestamp(self._platform)

    def _stamped(self, made: MadeT, _timestamp_ns: int) -> MadeT:
        """Return the value for a timestamp before the rest."""
        return made


@final
class Controls(ByControl[ControlMessage]):
    """Control messages by their octets, for one set of flags."""

    def __init__(self, platform: Platform, flags: ControlFlags) -> None:
        super().__init__(platform)
        self._flags: Final = flags
        self.with_sender: Final = FACTS.needs_sender(flags)
        """Whether the sender's address is a part of a control message. Then its four octets stand at the end of a
        key."""

    def _stamped(self, made: ControlMessage, timestamp_ns: int) -> ControlMessage:
        return stamped(made, timestamp_ns) if made.timestamp_ns is None else made

    def _make(self, key: bytes) -> ControlMessage:
        end = len(key) - 4 if self.with_sender else len(key)
        return parse_control(self._platform, key[:end], self._flags, key[end:])


@final
class SegmentSizes(ByControl[int]):
    """GRO segment sizes by the octets of control messages; 0 where none is told."""

    def _make(self, key: bytes) -> int:
        return offload.segment_size(self._platform, key)


@final
class Tables:
    """The tables of one connection."""

    def __init__(self, platform: Platform, facts: ControlFlags) -> None:
        self.platform: Final = platform
        self.peers: Final = Peers()
        self.names: Final = Names(platform)
        self.use_facts(facts)
        self._last_request: tuple[ControlMessage, bytes] = EMPTY, b""

    def use_facts(self, facts: ControlFlags) -> None:
        """Take control messages for those of a socket that receives `facts`."""
        self.facts = facts
        self.controls = Controls(self.platform, facts)

    def peers_of(self, received: Received) -> Iterable[Endpoint]:
        """Return the sender of each datagram, without end if it is the same."""
        if isinstance(received.names, bytes):
            return itertools.repeat(self.peers[received.names])
        return map(self.peers.__getitem__, received.names)

    def controls_of(self, received: Received) -> Iterable[ControlMessage]:
        """Return the control message of each datagram, without end if it is the same."""
        names, controls, flags = received.names, received.controls, received.flags
        if flags is not None:
            # One that was cut off is not parsed: decoding puts an error in its place.
            each = itertools.repeat(controls) if isinstance(controls, bytes) else controls
            controls = [b"" if flag & MSG_CTRUNC else octets for octets, flag in zip(each, flags)]  # noqa: B905
        if self.controls.with_sender:
            each_name = itertools.repeat(names) if isinstance(names, bytes) else names
            each_control = [controls] * len(received.payloads) if isinstance(controls, bytes) else controls
            return [self.controls[control + name[4:8]] for control, name in zip(each_control, each_name)]  # noqa: B905
        if isinstance(controls, bytes):
            return itertools.repeat(self.controls[controls])
        return map(self.controls.__getitem__, controls)

    def request(self, control: ControlMessage) -> bytes:
        """Return the octets of a request. The next datagram's is often the same."""
        last, octets = self._last_request
        if control is not last and control != last:
            octets = control.marshal()
            self._last_request = control, octets
        return octets
