"""Refusals of the kernel, explained: the same errno, the attempt, and the next step."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from trio_ipv4._errors import ADVICE
from trio_ipv4._kernel import namespaces
from trio_ipv4._kernel.native import current_system

if TYPE_CHECKING:
    from trio_ipv4._errors import Topic
    from trio_ipv4._kernel.system import Socket


def explain(
    error: OSError, topic: Topic, attempt: str, socket: Socket | None = None, *, advice: str | None = None
) -> OSError:
    """Return an `OSError` with the same errno, hence the same subclass, for an attempt.

    Args:
        error: The error of the kernel.
        topic: The part of `ADVICE` that applies.
        attempt: The attempt, in the infinitive: "join 239.1.2.3 on en0 (index 2)".
        socket: The socket concerned, if any: sysctls are quoted only where it belongs to this thread's namespace.
        advice: The next step, where the caller knows better than `ADVICE`.
    """
    return refusal(error.errno or 0, topic, attempt, socket, advice=advice)


def refusal(
    number: int, topic: Topic, attempt: str, socket: Socket | None = None, *, advice: str | None = None
) -> OSError:
    """Return the `OSError` for an errno, as `explain` does."""
    message = f"can't {attempt}: {os.strerror(number)}"
    if advice := advice or ADVICE.get((topic, number)):
        message += f" ({_quote_sysctls(advice, socket)})"
    return OSError(number, message)


def _quote_sysctls(advice: str, socket: Socket | None) -> str:
    def quote(match: re.Match[str]) -> str:
        name = match[1]
        value = read_sysctl(name, socket)
        return f"sysctl {name}" if value is None else f"{name} is {value}"

    return re.sub(r"\{([\w.-]+)\}", quote, advice)


def read_sysctl(name: str, socket: Socket | None = None) -> str | None:
    """Return a sysctl as text; `None` if it can't be read. Without a socket, that of the current system.

    A thread may have moved to another network namespace since the socket was made. Then nobody can tell.
    """
    if socket is not None and not namespaces.is_current(socket):
        return None
    value = (current_system() if socket is None else socket.system).sysctl(name)
    return None if value is None else value.strip().replace("\t", " to ")
