"""Whether memberships may have died since the last look, by a subscription to the kernel's messages (rtnetlink(7)).

They die when their link is deleted, or moved to another namespace, and when its MTU falls below IPv4's minimum. The
kernel queues the message of that before it lets anybody join there anew. So an empty queue is proof that none has died.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._codec.rtnetlink import NewLink, Overrun, RemovedLink
from trio_ipv4._errors import ParseError, UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.netlink import RTMGRP_LINK, open_netlink, receive_messages
from trio_ipv4._values.interface import IPV4_MIN_MTU

if TYPE_CHECKING:
    from trio_ipv4._codec.rtnetlink import Message
    from trio_ipv4._kernel.system import Socket, System

_MOST: Final = 1000
"""Messages to read at one look. With more of them, one of that kind is as good as certain."""


@final
class Deletions:
    """Events that end memberships in the namespace in which a system makes sockets now, from now on."""

    def __init__(self, system: System) -> None:
        self._netlink: Final = open_netlink(system, RTMGRP_LINK)
        self._process: Final = system.process()

    def any(self) -> bool:
        """Tell whether memberships may have died since the last call, or since the beginning."""
        if self._netlink.system.process() != self._process:
            return True  # After a fork the queue is the parent's: to read it would take messages from the parent.
        found = False
        for _ in range(_MOST):
            try:
                messages = receive_messages(self._netlink)
            except ParseError:
                found = True
                continue
            if messages is None:
                return found
            found = found or any(map(_is_fatal, messages))
        return True

    def close(self) -> None:
        """Close the subscription."""
        self._netlink.close()


def _is_fatal(message: Message) -> bool:
    if isinstance(message, NewLink):
        return message.mtu < IPV4_MIN_MTU
    return isinstance(message, RemovedLink | Overrun)


def watch_deletions(socket: Socket) -> Deletions | None:
    """Begin to watch the namespace of a socket; `None` if it is not this thread's, or the kernel refuses."""
    try:
        deletions = Deletions(socket.system)
    except (OSError, UnsupportedError):
        return None
    with contextlib.ExitStack() as stack:
        stack.callback(deletions.close)
        if namespaces.are_surely_same(socket, deletions._netlink):
            stack.pop_all()
            return deletions
    return None
