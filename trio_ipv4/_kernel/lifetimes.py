"""On which links IPv4 has ended, and on which it has begun, by a subscription to the kernel's messages (rtnetlink(7)).

With IPv4 on its link a membership ends. That happens when the link is deleted or moved to another namespace, and when
its MTU falls below IPv4's minimum. The kernel queues the message of that before it lets anybody join there anew, since
both take the RTNL lock. So an empty queue is proof that no membership has ended.

A BPF program lets only messages of that kind into the queue, so that a flood of others can't make it overflow.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final, NamedTuple, final

from trio_ipv4._codec.rtnetlink import (
    RTM_DELLINK,
    RTM_NEWLINK,
    RTM_NEWNETCONF,
    NewLink,
    NewSettings,
    RemovedLink,
)
from trio_ipv4._kernel import bpf, options
from trio_ipv4._kernel.calls import MSG_DONTWAIT, MSG_PEEK
from trio_ipv4._kernel.netlink import (
    RTMGRP_IPV4_NETCONF,
    RTMGRP_LINK,
    drain,
    open_netlink,
    receive_all,
    receive_messages,
)
from trio_ipv4._values.bpf import RawInstruction
from trio_ipv4._values.interface import IPV4_MIN_MTU

if TYPE_CHECKING:
    from trio_ipv4._codec.rtnetlink import ByteOrder
    from trio_ipv4._kernel.system import Socket, System

_BUFFER: Final = 1 << 20
_MOST: Final = 5000
"""Messages to throw away at one look. A full buffer holds less."""
_LOOK: Final = MSG_PEEK | MSG_DONTWAIT
_PASSED: Final = (RTM_NEWLINK, RTM_DELLINK, RTM_NEWNETCONF)
# linux/bpf_common.h
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_HALF: Final = 0x28
_LOAD_OCTET: Final = 0x30
_LOAD_WORD_AT_X: Final = 0x40  # BPF_LD | BPF_W | BPF_IND
_SET_A: Final = 0x00  # BPF_LD | BPF_IMM
_SET_X: Final = 0x01  # BPF_LDX | BPF_IMM
_A_TO_X: Final = 0x07  # BPF_MISC | BPF_TAX
_RSH: Final = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_FIND_ATTRIBUTE: Final = 0xFFFF_F000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR (linux/filter.h): of type X, from A on.


class News(NamedTuple):
    """Indexes of links on which IPv4 has ended, and on which it may have begun. Any of them, if messages were lost."""

    ended: frozenset[int]
    begun: frozenset[int]
    is_lost: bool

    def may_have_ended(self, index: int) -> bool:
        """Tell whether the memberships on a link may have ended."""
        return self.is_lost or index in self.ended

    def may_have_begun(self, index: int) -> bool:
        """Tell whether a join on a link may succeed now that failed before."""
        # Kernels without sysctl do not tell of a beginning. It may have come right after the end.
        return self.is_lost or index in self.begun or index in self.ended


LOST: Final = News(frozenset(), frozenset(), is_lost=True)
"""Nobody knows what has happened."""


@final
class Lifetimes:
    """The ends and beginnings of IPv4 on links, in the namespace in which a system makes sockets now, from now on."""

    def __init__(self, system: System) -> None:
        self.process: Final = system.process()
        """A forked child must not read: it would take messages from its parent."""
        self._was_lost = False
        self.socket: Final = open_netlink(system, RTMGRP_LINK | RTMGRP_IPV4_NETCONF)
        try:
            _grow(self.socket)
            with contextlib.suppress(OSError):  # In some sandboxes. Then other messages come too, and are passed over.
                bpf.attach_filter(self.socket, _program(system.platform.byte_order))
            receive_messages(self.socket)  # If that is refused, say so now.
        except BaseException:
            self.socket.close()
            raise

    def read(self) -> News | None:
        """Return the news since the last call, or since the beginning; `None` if there are none."""
        try:
            self.socket.recvmsg(1, _LOOK)  # Nearly always in vain, so as quickly as can be.
        except BlockingIOError:
            self._was_lost = False
            return None
        except OSError:
            self._was_lost = True
        messages = None if self._was_lost else receive_all(self.socket)
        if messages is None:
            # Until the queue is empty, the kernel drops all messages and says nothing of it.
            self._was_lost = not drain(self.socket, _MOST)
            return LOST
        ended: set[int] = set()
        begun: set[int] = set()
        for message in messages:
            if isinstance(message, RemovedLink) or (isinstance(message, NewLink) and message.mtu < IPV4_MIN_MTU):
                ended.add(message.index)
            elif isinstance(message, NewSettings):
                begun.add(message.index)
        return News(frozenset(ended), frozenset(begun), is_lost=False)

    def close(self) -> None:
        """Close the subscription."""
        self.socket.close()


def _grow(socket: Socket) -> None:
    """Make room for some hundred deletions, and with CAP_NET_ADMIN for more than net.core.rmem_max allows."""
    options.set_integer(socket, "SO_RCVBUF", _BUFFER)
    with contextlib.suppress(OSError):
        options.set_integer(socket, "SO_RCVBUFFORCE", _BUFFER)


class _Line(NamedTuple):
    """A line of a BPF program: its opcode and operand, and the labels to go to if a comparison holds, and if not."""

    opcode: int
    operand: int
    yes: str = ""
    no: str = ""
    label: str = ""


@functools.cache
def _program(byte_order: ByteOrder) -> tuple[RawInstruction, ...]:
    """Return a BPF program that passes RTM_NEWNETCONF, RTM_DELLINK, and RTM_NEWLINK with an MTU that ends IPv4.

    Netlink's integers are in the host's order, BPF loads in network order. With the family AF_BRIDGE, a bridge tells of
    its ports in the same types.
    """
    kind = {each: int.from_bytes(each.to_bytes(2, byte_order), "big") for each in _PASSED}
    # A little-endian MTU of less than 68, in network order: only the first octet counts, and the others are 0.
    swap = (_Line(_JSET, 0x00FF_FFFF, yes="refuse"), _Line(_RSH, 24)) if byte_order == "little" else ()
    lines = (
        _Line(_LOAD_HALF, 4),  # nlmsg_type
        _Line(_JEQ, kind[RTM_NEWNETCONF], yes="pass"),
        _Line(_JEQ, kind[RTM_DELLINK], yes="deleted"),
        _Line(_JEQ, kind[RTM_NEWLINK], no="refuse"),
        _Line(_LOAD_OCTET, 16),  # ifi_family: AF_UNSPEC
        _Line(_JEQ, 0, no="refuse"),
        _Line(_SET_X, 4),  # Find IFLA_MTU behind the two headers.
        _Line(_SET_A, 32),
        _Line(_LOAD_WORD, _FIND_ATTRIBUTE),
        _Line(_JEQ, 0, yes="refuse"),
        _Line(_A_TO_X, 0),
        _Line(_LOAD_WORD_AT_X, 4),
        *swap,
        _Line(_JGE, IPV4_MIN_MTU, yes="refuse", no="pass"),
        _Line(_LOAD_OCTET, 16, label="deleted"),
        _Line(_JEQ, 0, yes="pass", no="refuse"),
        _Line(_RETURN, 0xFFFF_FFFF, label="pass"),
        _Line(_RETURN, 0, label="refuse"),
    )
    labels = {line.label: number for number, line in enumerate(lines)}
    return tuple(
        RawInstruction(
            line.opcode,
            labels[line.yes] - number - 1 if line.yes else 0,
            labels[line.no] - number - 1 if line.no else 0,
            line.operand,
        )
        for number, line in enumerate(lines)
    )
