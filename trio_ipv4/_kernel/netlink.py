"""rtnetlink(7): the kernel's own list of links and IPv4 addresses, and its messages about their changes.

`memberships.py` does the same for the groups that interfaces are in, by what is here for both.
"""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, final

from trio_ipv4._abi import structs
from trio_ipv4._codec.interface_table import InterfaceTable
from trio_ipv4._codec.rtnetlink import (
    Done,
    Failure,
    Interrupted,
    Message,
    Overrun,
    address_dump_request,
    link_dump_request,
    parse_messages,
)
from trio_ipv4._errors import ADVICE, ParseError
from trio_ipv4._kernel import namespaces, options
from trio_ipv4._kernel.calls import MSG_DONTWAIT, MSG_TRUNC
from trio_ipv4._kernel.explain import explain, refusal
from trio_ipv4._kernel.lookup import index_of_name
from trio_ipv4._kernel.native import current_system
from trio_ipv4._values.fields import to_integer
from trio_ipv4._values.interface import MAX_IFINDEX, Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trio_ipv4._codec.rtnetlink import ByteOrder
    from trio_ipv4._kernel.system import Socket, System


class _Table(Protocol):
    """What messages add up to. `apply_all` takes many in, and says `False` if everything has to be read anew."""

    def apply_all(self, messages: Iterable[Message], /) -> bool | None: ...


_TableT = TypeVar("_TableT", bound=_Table)

NETLINK_ROUTE: Final = 0  # linux/netlink.h
KERNEL: Final = 0
"""The kernel's port (netlink(7)): nobody else can have it."""
MAX_NETLINK: Final = 1 << 16
"""Larger than any message of the kernel's dumps (NLMSG_GOODSIZE is at most 32 KiB)."""
# linux/rtnetlink.h
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_NETCONF: Final = 1 << 23
"""RTNLGRP_IPV4_NETCONF, the 24th group."""
_BUFFER: Final = 1 << 20
_DUMPS: Final = 3
"""How many dumps to add up, if each is interrupted: what one leaves out, another one has."""
_ENOUGH: Final = 0.2
"""Seconds after which one that came to its end will do."""
_MOST_EVENTS: Final = 5000
"""Changes to read in one go. A full buffer holds less, so that those are among them that came before."""
_PATIENCE: Final = 0.5
"""Seconds in which to read the interfaces while changes get lost."""
_NO_NETLINK: Final = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL),
        *(errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP),
    }
)
"""Errnos of sandboxes, and of kernels without rtnetlink."""


def interfaces() -> tuple[Interface, ...]:
    """List the interfaces of this thread's network namespace, by index. Not a checkpoint.

    The kernel answers at once. Where it says that something changed while it answered, it is asked again, twice at
    most, and the changes are applied: so the answer is right also where interfaces change all the time. With 1,000
    interfaces and 500 changes a second it takes less than a second.

    Raises:
        OSError: EBUSY: the changes came faster than they could be read. EPERM, EACCES, EAFNOSUPPORT: rtnetlink is
            refused here, as in some sandboxes.
        UnsupportedError: Not on Linux.
    """
    found = list_interfaces(current_system())
    return tuple(found[index] for index in sorted(found))


def interface_by_name(name: str) -> Interface:
    """Return the interface with that name, in this thread's network namespace.

    An alternative name will do, as for connections, if it has at most 15 octets.

    Raises:
        OSError: ENODEV: there is none; others as for `interfaces`.
    """
    system = current_system()
    system.platform.number("rtnetlink")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    with contextlib.closing(system.socket(structs.AF_INET, structs.SOCK_DGRAM, 0)) as socket:
        index = index_of_name(socket, name)
    return interface_by_index(index)


def interface_by_index(index: int) -> Interface:
    """Return the interface with that index, in this thread's network namespace.

    Raises:
        OSError: ENODEV: there is none; others as for `interfaces`.
    """
    to_integer(index, "index", 1, MAX_IFINDEX)
    for interface in interfaces():
        if interface.index == index:
            return interface
    raise refusal(errno.ENODEV, "interface", f"find the interface with index {index}")


def open_netlink(system: System, groups: int) -> Socket:
    """Open a socket to a system's routing tables (rtnetlink(7)), subscribed to a mask of groups (RTMGRP_*)."""
    family = system.platform.number("rtnetlink")
    try:
        socket = system.socket(family, structs.SOCK_RAW, NETLINK_ROUTE)
    except OSError as error:
        raise _explain_netlink(error, "make a netlink socket") from None
    try:
        socket.bind((KERNEL, groups))
    except OSError as error:
        socket.close()
        raise _explain_netlink(error, "bind a netlink socket") from None
    return socket


def list_interfaces(system: System, beside: Socket | None = None) -> Mapping[int, Interface]:
    """List the interfaces of the network in which a system makes sockets now, by index.

    Raises:
        ValueError: That is not the network of the socket `beside`.
    """
    with contextlib.closing(open_netlink(system, 0)) as asking, contextlib.closing(subscribe(system)) as events:
        if beside is not None and not namespaces.are_same(asking, beside):
            raise ValueError("this connection belongs to another network namespace than the one that is current")
        return settle(asking, events, read_interfaces, "list the interfaces", "watch_interfaces()").interfaces


def settle(
    asking: Socket, events: Socket, read: Callable[[Socket], Iterator[_TableT | None]], attempt: str, instead: str
) -> _TableT:
    """Read everything, again while changes get lost meanwhile, and bring it to the state of now.

    Args:
        asking: The socket to ask on.
        events: The socket to which the kernel tells changes.
        read: `read_interfaces`, or its like.
        attempt: The attempt, for an error.
        instead: The function that has more patience.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        is_told = drain(events)
        *_, table = read(asking)
        changes = receive_all(events)
        if is_told and table is not None and changes is not None and table.apply_all(changes) is not False:
            return table
        if time.monotonic() > deadline:
            break
    raise refusal(
        errno.EBUSY,
        "netlink",
        attempt,
        advice=f"for {_PATIENCE} seconds, changes came faster than they could be read: try again, or use {instead}",
    )


def subscribe(system: System) -> Socket:
    """Open a socket to which the kernel tells changes of links and of IPv4 addresses."""
    socket = open_netlink(system, RTMGRP_LINK | RTMGRP_IPV4_IFADDR)
    try:
        grow(socket)
    except BaseException:
        socket.close()
        raise
    return socket


def grow(socket: Socket) -> None:
    """Make room for changes."""
    # Linux gives at most twice net.core.rmem_max, and unasked about half of that: 50 to 100 links.
    options.set_integer(socket, "SO_RCVBUF", _BUFFER)


def read_interfaces(asking: Socket) -> Iterator[InterfaceTable | None]:
    """Read all links and addresses, in slices of some milliseconds: between them the caller may do other things.

    The last value is the answer; the others are `None`. Changes that came meanwhile have to be applied to the answer:
    subscribe first. If something changes in the middle of a dump (NLM_F_DUMP_INTR), the kernel may leave something out.
    Then it is asked again, and the answers add up. If no dump comes to its end, the answer is `None`.
    """
    return read_dumps(asking, (link_dump_request, address_dump_request), InterfaceTable, "list the interfaces")


def read_dumps(
    asking: Socket,
    requests: Sequence[Callable[[int, ByteOrder], bytes]],
    add_up: Callable[[list[Message]], _TableT],
    attempt: str,
    *,
    is_marked: bool = True,
) -> Iterator[_TableT | None]:
    """Read the answers to requests for everything, as `read_interfaces` does.

    Args:
        asking: The socket to ask on.
        requests: The requests, each of which is a dump.
        add_up: Makes the answer of the messages.
        attempt: The attempt, for an error.
        is_marked: Whether the kernel says so when something changes between the parts of a dump (NLM_F_DUMP_INTR).
    """
    messages: list[Message] = []
    is_complete = False
    deadline = time.monotonic() + _ENOUGH
    for _ in range(_DUMPS):
        if is_complete and time.monotonic() > deadline:
            break
        dump = _Dump(len(requests), attempt)
        for octets in _dump_all(asking, requests, attempt):
            yield None
            dump.add(parse_messages(octets, asking.system.platform.byte_order))
        if dump.is_complete and not dump.is_interrupted and (is_marked or dump.is_in_one_part):
            yield add_up(dump.messages)
            return
        messages += dump.messages
        is_complete = is_complete or dump.is_complete
    yield add_up(messages) if is_complete else None


def receive_messages(socket: Socket) -> tuple[Message, ...] | None:
    """Read one datagram of the kernel's; `()` if somebody else sent it, `None` if there is none.

    That messages were lost, for lack of room, is an `Overrun`.
    """
    data = receive(socket)
    return data if data is None or isinstance(data, tuple) else parse_messages(data, socket.system.platform.byte_order)


def receive_all(socket: Socket) -> list[Message] | None:
    """Read the changes that have come up to now; `None` if some were lost. What can't be read is as good as lost.

    All are read before any is parsed, so that a flood of them can't go on for ever.
    """
    found: list[bytes] = []
    for _ in range(_MOST_EVENTS):
        try:
            data = receive(socket)
        except OSError:
            return None
        if data is None:
            break
        if isinstance(data, bytes):
            found.append(data)
        elif data:
            return None
    try:
        messages = [each for data in found for each in parse_messages(data, socket.system.platform.byte_order)]
    except ParseError:
        return None
    return None if any(isinstance(message, Overrun) for message in messages) else messages


def receive(socket: Socket) -> bytes | tuple[Overrun, ...] | None:
    """Read the octets of one datagram of the kernel's; a tuple if it can't be used, `None` if there is none."""
    try:
        data, flags, sender = socket.recvmsg(MAX_NETLINK)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return (Overrun(0),)
    # Root may send to any netlink socket, but only the kernel has port 0 (netlink(7)).
    if sender[0] != KERNEL:
        return ()
    return (Overrun(0),) if flags & MSG_TRUNC else data


def drain(socket: Socket, limit: int = 1000) -> bool:
    """Empty the queue, up to `limit` datagrams; tell whether nothing is left.

    After an overflow the kernel drops everything until the queue was empty (linux net/netlink/af_netlink.c,
    `netlink_rcv_wake`), and says so only once: what is read before that is not all that there was.
    """
    for _ in range(limit):
        try:
            socket.recvmsg(1, MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
    return False


@final
class _Dump:
    """The answers to requests, each of which has an end."""

    def __init__(self, requests: int, attempt: str) -> None:
        self.messages: Final[list[Message]] = []
        self.is_interrupted = False
        self._requests: Final = requests
        self._attempt: Final = attempt
        self._ends = 0
        self._parts = 0

    @property
    def is_complete(self) -> bool:
        """Whether all answers came to their ends."""
        return self._ends == self._requests

    @property
    def is_in_one_part(self) -> bool:
        """Whether nothing could change in the middle of an answer. The end may be a part of its own."""
        return self._parts <= self._requests

    def add(self, messages: Sequence[Message]) -> None:
        """Take a part of the answers in."""
        before = len(self.messages)
        for message in messages:
            match message:
                case Failure():
                    raise _explain_netlink(OSError(message.errno, ""), self._attempt)
                case Done():
                    self._ends += 1
                case Interrupted() | Overrun():
                    self.is_interrupted = True
                case _:
                    self.messages.append(message)
        self._parts += len(self.messages) > before


def _dump_all(asking: Socket, requests: Sequence[Callable[[int, ByteOrder], bytes]], attempt: str) -> list[bytes]:
    """Make one request after the other, and return the octets of the answers.

    One dump at a time: a kernel serves no more per socket. Nothing is parsed meanwhile, since that takes longer: the
    less time between, the less changes. The kernel has put the answer into the queue when sending returns, and more of
    it whenever some was read, so that nothing here waits (linux net/netlink/af_netlink.c, `netlink_dump`).
    """
    answers: list[bytes] = []
    for request in requests:
        drain(asking)  # The rest of an earlier dump that overflowed.
        try:
            asking.sendto(request(1, asking.system.platform.byte_order), (KERNEL, 0))
            while True:
                data, flags, sender = asking.recvmsg(MAX_NETLINK)
                if sender[0] == KERNEL and not flags & MSG_TRUNC:
                    answers.append(data)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise _explain_netlink(error, attempt) from None
    return answers


def _explain_netlink(error: OSError, attempt: str) -> OSError:
    """Explain an error; where rtnetlink is missing, say which functions need it."""
    missing = error.errno in _NO_NETLINK
    return explain(error, "netlink", attempt, advice=ADVICE["netlink", errno.EPERM] if missing else None)
