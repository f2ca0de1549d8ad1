"""Random programs for two networks: the kernel's, in a lab, and the simulated one. Each outcome is comparable.

The sockets are used through the seam, as the library uses them, so that no bookkeeping of the library comes between.
"""

from __future__ import annotations

import contextlib
import errno
import select
import struct
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

from support.here import lab_hosts, simulated_hosts
from trio_ipv4 import ControlMessage, ErrorOrigin, RawInstruction
from trio_ipv4._abi import structs
from trio_ipv4._abi.linux import LINUX
from trio_ipv4._abi.structs import IPPROTO_ICMP, SOCK_RAW
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.bpf import marshal_program
from trio_ipv4._values.socket_error import parse_socket_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trio_ipv4._kernel.calls import Received
    from trio_ipv4.testing import Lab, Network

HOSTS: Final = ("a", "b")
INTERFACES: Final = ("en0", "en1")
Slot = int
Outcome = Any
Heard = tuple[Any, ...]
"""Who got a datagram, and all facts that came with it."""

_HOST_UNREACHABLE: Final = b"\3\1"
"""ARP gives up after three seconds: the kernel may tell so in the middle of a program."""
_PATIENCE: Final = 5
_MOMENT: Final = 0.0005
"""In seconds: how long to wait for what has to come, and for what must not."""
_EPHEMERAL: Final = 32768
"""The first port that the kernel chooses by itself (net.ipv4.ip_local_port_range)."""


def home(host: str, interface: str) -> str:
    """The address, with its prefix length, that an interface begins with."""
    return f"198.18.{interface[2:]}.{1 + HOSTS.index(host)}/24"


@contextlib.contextmanager
def lab_world() -> Iterator[World]:
    """Two hosts of the lab, on two links that are plain cables."""
    with lab_hosts(len(INTERFACES)) as lab, contextlib.closing(LabWorld(lab)) as world:
        yield world


@contextlib.contextmanager
def simulated_world() -> Iterator[World]:
    """The same, simulated."""
    with simulated_hosts(len(INTERFACES)) as network, contextlib.closing(World(network)) as world:
        yield world


def outcome(operation: Callable[..., object], *arguments: Any) -> Outcome:
    """Return a result, or the name of an errno."""
    try:
        return operation(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


class World:
    """One of the networks, and the sockets of a program on it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        for host in HOSTS:
            network[host].set_sysctl("net.ipv4.icmp_ratelimit", 0)
            network[host].set_sysctl("net.ipv4.ping_group_range", "0 0")
        self.sockets: dict[Slot, Any] = {}
        self.hosts: dict[Slot, str] = {}
        self.protocols: dict[Slot, int] = {}
        self.receivers: dict[Slot, Any] = {}
        self.senders: dict[Slot, Any] = {}

    # Sockets

    def open(self, slot: Slot, host: str, kind: int, protocol: int) -> Outcome:
        socket = self.network[host].call(lambda: current_system().socket(structs.AF_INET, kind, protocol))
        self.sockets[slot], self.hosts[slot], self.protocols[slot] = socket, host, protocol
        self.receivers[slot], self.senders[slot] = socket.receiver(), socket.sender()

    def end(self, slot: Slot) -> Outcome:
        self.sockets.pop(slot).close()
        return self.groups()

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()

    def bind(self, slot: Slot, address: str, port: int) -> Outcome:
        self.sockets[slot].bind((address, port))
        return self.sockets[slot].getsockname()[0]

    def connect(self, slot: Slot, address: str, port: int) -> Outcome:
        socket = self.sockets[slot]
        socket.connect((address, port))
        address, port = socket.getsockname()
        return address, _stable_port(port), socket.getpeername(), self.get(slot, "IP_MTU", bytes(4))

    def set(self, slot: Slot, option: str, value: bytes) -> Outcome:
        known = LINUX.option(option)
        self.sockets[slot].setsockopt(known.level, known.name, value)
        return self.groups() if option.startswith("MCAST") else None

    def set_number(self, slot: Slot, option: str, value: int) -> Outcome:
        return self.set(slot, option, value.to_bytes(4, "little", signed=value < 0))

    def get(self, slot: Slot, option: str, value: bytes) -> Outcome:
        known = LINUX.option(option)
        return self.sockets[slot].getsockopt(known.level, known.name, value)

    def attach(self, slot: Slot, program: Sequence[RawInstruction]) -> Outcome:
        self.sockets[slot].attach_bpf(marshal_program(program, "little"))

    # Multicast

    def join(self, slot: Slot, option: str, interface: str, group: str) -> Outcome:
        return self.set(slot, option, structs.group_req(LINUX, self.index(slot, interface), packed(group)))

    def source(self, slot: Slot, option: str, interface: str, group: str, source: str) -> Outcome:
        index = self.index(slot, interface)
        return self.set(slot, option, structs.group_source_req(LINUX, index, packed(group), packed(source)))

    def filter(self, slot: Slot, interface: str, group: str, mode: int, sources: Sequence[str]) -> Outcome:
        addresses = [packed(each) for each in sources]
        request = structs.group_filter(LINUX, self.index(slot, interface), packed(group), mode, addresses)
        return self.set(slot, "MCAST_MSFILTER", request)

    def read_filter(self, slot: Slot, interface: str, group: str) -> Outcome:
        room = bytearray(structs.group_filter(LINUX, self.index(slot, interface), packed(group), 0, ()))
        room[-4:] = (16).to_bytes(4, "little")
        answer = self.get(slot, "MCAST_MSFILTER", bytes(room + bytes(16 * 128)))
        return structs.parse_group_filter(LINUX, answer)

    def multicast_interface(self, slot: Slot, interface: str, address: str) -> Outcome:
        value = structs.ip_mreqn(LINUX, bytes(4), packed(address), self.index(slot, interface))
        self.set(slot, "IP_MULTICAST_IF", value)
        return self.get(slot, "IP_MULTICAST_IF", bytes(4))

    def bind_device(self, slot: Slot, interface: str) -> Outcome:
        return self.set_number(slot, "SO_BINDTOIFINDEX", self.index(slot, interface))

    # Traffic

    def send(
        self, slot: Slot, payload: bytes, endpoint: tuple[str, int], interface: str, request: ControlMessage
    ) -> Outcome:
        if interface:
            request = ControlMessage(
                ifindex=self.index(slot, interface), src=request.src, ttl=request.ttl, tos=request.tos
            )
        return self.send_octets(slot, payload, endpoint, request.marshal())

    def send_octets(self, slot: Slot, payload: bytes, endpoint: tuple[str, int], control: bytes) -> Outcome:
        name = structs.sockaddr_in(LINUX, packed(endpoint[0]), endpoint[1])
        sent, error = self.senders[slot].send(self.sockets[slot].fileno(), [payload], [name], [control])
        return errno.errorcode[error.errno] if error is not None else sent

    def heard(self, _expected: int = 0) -> list[Heard]:
        """Return what has arrived, when so many are expected."""
        return sorted(self._drain(), key=repr)

    def drops(self, slot: Slot) -> Outcome:
        return struct.unpack("<9I", self.get(slot, "SO_MEMINFO", bytes(36)))[8]

    def _drain(self) -> list[Heard]:
        found: list[Heard] = []
        for slot in self.sockets:
            received = outcome(self._receive, slot)
            while received is not None:
                # A pending error comes first.
                found += [(slot, received)] if isinstance(received, str) else self._facts(slot, received)
                received = outcome(self._receive, slot)
        return found

    def _receive(self, slot: Slot) -> Received | None:
        received: Received | None = self.receivers[slot].receive(self.sockets[slot].fileno(), 1024, 65535)
        return received

    # Errors

    def errored(self, _expected: Sequence[Slot] = ()) -> list[Slot]:
        """Return which sockets have an error, when these are expected to."""
        return [slot for slot, socket in self.sockets.items() if socket.has_error]

    def errors(self, _expected: int = 0) -> list[Heard]:
        """Return the messages of all error queues, each in its order, when so many are expected."""
        return sorted(self._drain_errors(), key=lambda error: error[0])

    def _drain_errors(self) -> Iterator[Heard]:
        for slot, socket in self.sockets.items():
            while (message := outcome(socket.receive_error)) != "EAGAIN":
                yield from self._error(slot, *message)

    def _error(self, slot: Slot, payload: bytes, control: bytes, name: Any) -> Iterator[Heard]:
        error = parse_socket_error(LINUX, payload, control, name)
        if (error.icmp_type, error.icmp_code) == tuple(_HOST_UNREACHABLE):
            return
        facts = ControlMessage.parse(control)
        includes_header = self.sockets[slot].kind == SOCK_RAW and payload[:1] == b"E"
        yield (
            slot,
            errno.errorcode[error.errno],
            *(error.origin, error.icmp_type, error.icmp_code, error.info, str(error.offender)),
            (error.destination and error.destination[0], error.destination and _stable_port(error.destination[1])),
            self._stable(slot, payload[:60], has_header=includes_header),
            len(payload),
            error.number,
            (error.origin is ErrorOrigin.TIMESTAMPING) == (error.timestamp_ns is not None),
            *(str(facts.dst), self.name(slot, facts.ifindex), str(facts.local), facts.ttl, facts.tos),
        )

    def _facts(self, slot: Slot, received: Received) -> Iterator[Heard]:
        names = _column(received.names, len(received.payloads))
        controls = _column(received.controls, len(received.payloads))
        flags = received.flags or [0] * len(received.payloads)
        for payload, name, control, flag in zip(received.payloads, names, controls, flags, strict=True):
            if self.sockets[slot].kind == SOCK_RAW and payload[20:22] == _HOST_UNREACHABLE:
                continue
            facts = ControlMessage.parse(control)
            interface = self.name(slot, facts.ifindex)
            address, port = structs.parse_sockaddr_in(name)
            yield (
                slot,
                self._stable(slot, payload[:28], has_header=self.sockets[slot].kind == SOCK_RAW),
                len(payload),
                str(IPv4Address(address)),
                _stable_port(port),
                str(facts.dst),
                interface,
                str(facts.local),
                facts.ttl,
                facts.tos,
                facts.drops,
                flag,
            )

    def _stable(self, slot: Slot, octets: bytes, *, has_header: bool) -> bytes:
        """Leave out what nobody can foresee: what the kernel draws, and the checksums over it."""
        header, rest = (octets[:20], octets[20:]) if has_header else (b"", octets)
        if self.protocols[slot] == IPPROTO_ICMP:  # Checksum and identifier.
            rest = rest[:2] + rest[6:]
        return header[:4] + header[6:10] + header[12:] + rest

    # Interfaces

    def index(self, slot: Slot, interface: str) -> int:
        """The index of an interface; a number stands for itself."""
        if interface.isdecimal():
            return int(interface)
        if interface == "lo":
            return 1
        found = {each.name: each.index for each in self.network[self.hosts[slot]].interfaces}
        return found.get(interface, 99)

    def name(self, slot: Slot, index: int | None) -> str:
        found = {each.index: each.name for each in self.network[self.hosts[slot]].interfaces}
        return found.get(index or 0, str(index))

    def flap(self, host: str, interface: str, how: str, index: int) -> Outcome:
        """Do something to an interface; "no" if that makes no sense now."""
        own, link = self.network[host], self.network.links[INTERFACES.index(interface)]
        present = {each.name: each for each in own.interfaces}
        if (how == "back") == (interface in present):
            return "no"
        if how == "back":
            own.attach(link, interface, home(host, interface), index=index)
        elif how == "anew":
            own.detach(interface)
            own.attach(link, interface, home(host, interface), index=present[interface].index)
        elif how == "gone":
            own.detach(interface)
        elif how in ("down", "up"):
            own.set_up(interface, how == "up")
        elif how in ("small", "large"):
            own.set_mtu(interface, 576 if how == "small" else 1500)
        else:
            return self._number(host, interface, how, [str(each) for each in present[interface].addresses])
        return self.interfaces(host)

    def _number(self, host: str, interface: str, how: str, addresses: list[str]) -> Outcome:
        """Change the addresses of an interface."""
        own, first = self.network[host], home(host, interface)
        more = first.replace("/24", "7/24")
        if (how == "less" and not addresses) or (how == "more" and more in addresses):
            return "no"
        if how == "more":
            own.add_address(interface, more)
        elif how == "less":
            own.remove_address(interface, addresses[0])
        else:
            for each in reversed(addresses):  # With a primary address the secondary ones would go.
                own.remove_address(interface, each)
            own.add_address(interface, first.replace("198.18", "198.19"))
        return self.interfaces(host)

    def interfaces(self, host: str) -> Outcome:
        return sorted((each.name, each.mtu, int(each.flags), each.addresses) for each in self.network[host].interfaces)

    def groups(self) -> Outcome:
        """Who is in which group, as the hosts' kernels count it."""
        found = []
        for host in HOSTS:
            names = {1: "lo", **{each.index: each.name for each in self.network[host].interfaces}}
            found += [
                (host, names[index], str(group), users) for (index, group), users in self.network[host].groups().items()
            ]
        return sorted(found)


class LabWorld(World):
    """The kernel's. A packet takes a moment there."""

    network: Lab

    def heard(self, expected: int = 0) -> list[Heard]:
        found = self._drain()
        deadline = time.monotonic() + _PATIENCE
        while len(found) < expected and time.monotonic() < deadline:
            time.sleep(_MOMENT)
            found += self._drain()
        time.sleep(_MOMENT)  # There must be no more than that.
        return sorted(found + self._drain(), key=repr)

    def errored(self, expected: Sequence[Slot] = ()) -> list[Slot]:
        deadline = time.monotonic() + _PATIENCE
        while (found := self._errored()) != expected and time.monotonic() < deadline:
            time.sleep(_MOMENT)
        time.sleep(_MOMENT)
        return found

    def _errored(self) -> list[Slot]:
        poll = select.poll()
        slots = {}
        for slot, socket in self.sockets.items():
            slots[socket.fileno()] = slot
            poll.register(socket.fileno(), 0)  # POLLERR is told unasked.
        found = {slots[descriptor] for descriptor, _ in poll.poll(0)}
        return [slot for slot in self.sockets if slot in found]

    def errors(self, expected: int = 0) -> list[Heard]:
        found = [*self._drain_errors()]
        deadline = time.monotonic() + _PATIENCE
        while len(found) < expected and time.monotonic() < deadline:
            time.sleep(_MOMENT)
            found += self._drain_errors()
        time.sleep(_MOMENT)
        return sorted([*found, *self._drain_errors()], key=lambda error: error[0])


def _stable_port(port: int) -> int | str:
    """Leave out a port that the kernel chose."""
    return port if port < _EPHEMERAL else "ephemeral"


def _column(column: bytes | Sequence[bytes], length: int) -> Sequence[bytes]:
    return [column] * length if isinstance(column, bytes) else column


def packed(address: str) -> bytes:
    return IPv4Address(address).packed
