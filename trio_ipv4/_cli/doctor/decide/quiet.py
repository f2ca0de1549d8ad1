"""The same as `kernel`, without the wire: by the counters alone.

They count all flows of this network. So they say something only where nothing else came in: each layer's counter has to
account for all that the layer below let through. Then a verdict is likely, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide.finding import NEEDS_WIRE, Finding, Unknown, found
from trio_ipv4._cli.doctor.decide.kernel import explain_reverse_path, is_port, join_on, port_of
from trio_ipv4._cli.doctor.evidence import Counters
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.view import View

_ENOUGH: Final = 5
"""In datagrams, chosen: fewer may be anything, such as a query and its answers."""
_ELSEWHERE: Final = ("not-on-the-wire", "snooping-without-querier")
"""What came may have been anything."""
_BEFORE_IP: Final = (*_ELSEWHERE, "dropped-at-ingress", "vlan-tagged", "frame-for-another-mac", "dropped-by-xdp")
_BEFORE_ROUTE: Final = (
    *_ELSEWHERE,
    "firewall-prerouting",
    "martian-source",
    "source-is-own-address",
    "same-mac-other-group",
)


def find(view: View) -> Iterator[Finding | Unknown]:
    """Find the layer that loses the datagrams."""
    if not view.deaf or view.flows("joined") is not None or view.case.get(Counters, "joined") is None:
        return
    if is_port(view):
        said = port_of(view)
        yield found("interface-is-a-bridge-port", *said, sure=False, cure=join_on(view), needs=(NEEDS_WIRE,))
        return
    ladder = _Ladder(view)
    if ladder.frames >= _ENOUGH and not _accounts(ladder.packets, ladder.frames) and ladder.packets < _ENOUGH:
        yield from _before_ip(view, ladder)
    elif ladder.packets >= _ENOUGH and ladder.accepted < _ENOUGH:
        yield from _before_the_route(view, ladder)
    elif ladder.accepted >= _ENOUGH:
        yield from _behind_the_route(view, ladder)


class _Ladder:
    """How many datagrams reached each layer."""

    def __init__(self, view: View) -> None:
        self.frames: Final = view.counter(f"dev.{view.interface}.rx_packets")
        self.packets: Final = view.counter("Ip.InReceives")
        self.accepted: Final = view.counter("IpExt.InMcastPkts")
        self.delivered: Final = view.counter("Ip.InDelivers")


def _accounts(part: int, whole: int) -> bool:
    """Tell whether a number is the whole, but for a few others."""
    return whole >= _ENOUGH and 0.9 * whole <= part <= 1.1 * whole


def _before_ip(view: View, ladder: _Ladder) -> Iterator[Unknown]:
    said = f"{view.interface} received {many(ladder.frames, 'frame')}, of which {ladder.packets} reached IP."
    yield Unknown(_BEFORE_IP, (said,), (NEEDS_WIRE,))


def _before_the_route(view: View, ladder: _Ladder) -> Iterator[Finding | Unknown]:
    said = f"IP received {many(ladder.packets, 'packet')}, and the input route accepted {ladder.accepted}."
    grown = {
        "bad-ip-checksum": "Ip.InHdrErrors",
        "reverse-path-filter": "TcpExt.IPReversePathFilter",
        "fragments-lost": "Ip.ReasmReqds",
    }
    for code, name in grown.items():
        if _accounts(view.counter(name), ladder.packets) and not view.counter("Ip.ReasmOKs"):
            more = explain_reverse_path(view, ()) if code == "reverse-path-filter" and view.question.source else ()
            yield found(code, said, f"{name} grew by {view.counter(name)}.", *more, sure=False, needs=(NEEDS_WIRE,))
            return
    yield Unknown(_BEFORE_ROUTE, (said,), (NEEDS_WIRE, "Or name the source that sends: --source ADDRESS."))


def _behind_the_route(view: View, ladder: _Ladder) -> Iterator[Finding | Unknown]:
    """These were for groups that this host has joined. If that is one alone, they were for this one."""
    said = f"The input route accepted {many(ladder.accepted, 'datagram')} for groups that are joined here."
    alone = not view.other_groups
    delivered = ladder.delivered - (ladder.packets - ladder.accepted)
    codes = {
        "bad-udp-checksum": "Udp.InCsumErrors",
        "other-port": "Udp.IgnoredMulti",
        "bad-udp-length": "Udp.InErrors",
    }
    fragments = view.counter("Ip.ReasmReqds")
    if alone and 10 * fragments >= 9 * ladder.accepted and not view.counter("Ip.ReasmOKs"):
        more = f"Ip.ReasmReqds grew by {fragments}, ReasmOKs by 0: none of them became whole."
        yield found("fragments-lost", said, more, sure=False, needs=(NEEDS_WIRE,))
        return
    if alone and delivered < _ENOUGH and ladder.accepted >= _ENOUGH:
        more = f"Ip InDelivers grew by {ladder.delivered}."
        yield found("firewall-input", said, more, sure=False, needs=(NEEDS_WIRE,))
        return
    if any(name.startswith("xfrm.XfrmIn") for name in _grown(view)):
        yield Unknown(("ipsec-policy", "bad-udp-length"), (said,), (NEEDS_WIRE,))
        return
    for code, name in codes.items():
        # Each reader of a long datagram counts its wrong checksum once more (udp_recvmsg in net/ipv4/udp.c).
        if alone and 10 * view.counter(name) >= 9 * ladder.accepted:
            yield found(code, said, f"{name} grew by {view.counter(name)}.", sure=False, needs=(NEEDS_WIRE,))
            return
    elsewhere = () if alone else _ELSEWHERE
    yield Unknown((*elsewhere, *codes, "firewall-input"), (said,), (NEEDS_WIRE,))


def _grown(view: View) -> dict[str, int]:
    found = view.case.get(Counters, "joined")
    return found.grown if found else {}
