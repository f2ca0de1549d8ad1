"""Whether a program takes what comes: its own drops and its own queue say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide.finding import WITH_PID, Finding, Unknown, in_the_program
from trio_ipv4._cli.doctor.decide.view import FEW, LOOKS
from trio_ipv4._cli.doctor.evidence import Sockets
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.program.sockets import Sock
    from trio_ipv4._cli.doctor.decide.view import View
    from trio_ipv4._cli.doctor.evidence import UDPSocket

_AT_THE_EDGES: Final = 2
"""In datagrams: two witnesses begin and end a look one after the other."""
_LEAST_TRUESIZE: Final = 512
"""Octets that the smallest datagram takes in a queue: its data and a struct sk_buff (SKB_TRUESIZE, linux/skbuff.h)."""


def judge_reading(view: View, socket: Sock) -> Iterator[Finding | Unknown]:
    """Judge whether it takes what comes. Its own drops and its own queue say it; no other flow moves them."""
    queue = socket.sampled
    if not view.received or queue is None:
        return
    # A burst that overflows the queue may come and go between two looks at it, but the kernel counts it.
    overflowed = sum(view.counter("Udp.RcvbufErrors", phase) for phase in LOOKS)
    dropped = queue.dropped or 0
    if dropped >= FEW and 2 * overflowed < dropped:
        yield from _rejects(view, socket, queue)
    elif dropped and overflowed:
        yield from _overflows(view, socket, queue)
    elif queue.peak and not queue.fell and _kept_all(view, queue.peak - (queue.low or 0)):
        said = f"The queue of {socket.label} only grew: {queue.peak} of {queue.buffer} octets."
        yield in_the_program("program-does-not-read", said, sure=False, others=("receive-buffer-overflow",))


def _kept_all(view: View, octets: int) -> bool:
    """Tell whether as much is in the queue as if nothing had been read of what our own receiver heard meanwhile."""
    return 2 * octets >= (view.heard or 0) * _LEAST_TRUESIZE


def _rejects(view: View, socket: Sock, queue: UDPSocket) -> Iterator[Finding | Unknown]:
    dropped = queue.dropped or 0
    said = f"The socket of {socket.label} dropped {many(dropped, 'datagram')}, and its queue did not overflow."
    # Wrong checksums and want of memory count as a socket's drops, too.
    faults = sum(view.counter(f"Udp.{name}", phase) for name in ("InCsumErrors", "MemErrors") for phase in LOOKS)
    every = (_dropped_while_joined(view, queue) or 0) >= (view.heard or 0) - _AT_THE_EDGES
    sure = every or 2 * view.dropped(["SOCKET_FILTER"]) >= (view.heard or 0)
    if 2 * faults >= dropped and not view.dropped(["SOCKET_FILTER"]):
        yield Unknown(("socket-filter", "cgroup-filter", "bad-udp-checksum"), (said,), (WITH_PID,))
    elif socket.filter_length:
        length = many(socket.filter_length, "instruction")
        yield in_the_program("socket-filter", said, f"Its BPF program has {length}.", sure=sure)
    elif socket.filter_length == 0:
        yield in_the_program("cgroup-filter", said, "The socket itself has no BPF program.", sure=False)
    else:
        yield Unknown(("socket-filter", "cgroup-filter"), (said,), (WITH_PID,))


def _overflows(view: View, socket: Sock, queue: UDPSocket) -> Iterator[Finding | Unknown]:
    waited = f"up to {queue.peak} of {queue.buffer} octets waited."
    said = f"The socket of {socket.label} dropped {many(queue.dropped or 0, 'datagram')}; {waited}"
    # It was full when it dropped. If it is not always full, somebody reads.
    if queue.fell or (queue.low is not None and 2 * queue.low < queue.buffer):
        full = view.dropped(["SOCKET_RCVBUFF"]) or 2 * (queue.peak or 0) >= queue.buffer
        yield in_the_program("receive-buffer-overflow", said, sure=bool(full), cure=_read_faster(view, queue))
        return
    dropped, heard = _dropped_while_joined(view, queue), view.heard or 0
    if dropped is None or heard < FEW or not (socket.states or socket.pids):
        codes = ("program-does-not-read", "program-stopped", "receive-buffer-overflow")
        yield Unknown(codes, (said, "Its queue never fell."), (WITH_PID,))
    elif dropped >= heard - _AT_THE_EDGES:
        every = f"It dropped as many as our own receiver heard, {heard}: each read would have made room."
        yield in_the_program("program-does-not-read", said, every)
    else:
        more = ("program-does-not-read",)
        yield in_the_program("receive-buffer-overflow", said, sure=False, others=more, cure=_read_faster(view, queue))


def _read_faster(view: View, queue: UDPSocket) -> tuple[str, ...]:
    """Return what is to be done against a full queue."""
    most = view.settings.get("rmem_max")
    # The kernel doubles what is asked for (socket(7)).
    allowed = "" if most is None else f" net.core.rmem_max allows {2 * most}."
    return (
        "If it reads more slowly than datagrams come, only faster reading helps.",
        f"For bursts, set a larger SO_RCVBUF: the buffer has {queue.buffer} octets.{allowed}",
    )


def _dropped_while_joined(view: View, queue: UDPSocket) -> int | None:
    found = view.case.get(Sockets, "joined")
    return next((each.dropped for each in (found.sockets if found else ()) if each.inode == queue.inode), None)
