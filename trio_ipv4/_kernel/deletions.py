"""Whether a link may have been deleted since the last look, by a subscription to the kernel's messages (rtnetlink(7)).

The kernel queues the message of a deletion before it lets anybody join on a link that is made anew. So an empty queue
is proof that no membership has died.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

from trio_ipv4._errors import ParseError, UnsupportedError
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.interfaces import RTMGRP_LINK, open_netlink, receive_messages
from trio_ipv4._values.rtnetlink import Overrun, RemovedLink

if TYPE_CHECKING:
    from trio_ipv4._kernel.socket_like import SocketLike

_MOST: Final = 1000
"""Messages to read at one look. With more of them, a deletion is as good as certain."""


@final
class Deletions:
    """The deletions of links in this thread's network namespace, from now on."""

    def __init__(self) -> None:
        self._netlink: Final = open_netlink(RTMGRP_LINK)

    def any(self) -> bool:
        """Tell whether a link may have been deleted since the last call, or since the beginning."""
        found = False
        for _ in range(_MOST):
            try:
                messages = receive_messages(self._netlink)
            except ParseError:
                found = True
                continue
            if messages is None:
                return found
            found = found or any(isinstance(message, RemovedLink | Overrun) for message in messages)
        return True

    def close(self) -> None:
        """Close the subscription."""
        self._netlink.close()


def watch_deletions(socket: SocketLike) -> Deletions | None:
    """Begin to watch the namespace of a socket; `None` if it is not this thread's, or the kernel refuses."""
    try:
        deletions = Deletions()
    except (OSError, UnsupportedError):
        return None
    with contextlib.ExitStack() as stack:
        stack.callback(deletions.close)
        if namespaces.are_surely_same(socket, deletions._netlink):
            stack.pop_all()
            return deletions
    return None
