"""What a program hears besides: other groups by the same port, and datagrams that come twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, in_the_program
from trio_ipv4._cli.doctor.decide.program.sockets import MEMBERSHIP
from trio_ipv4._cli.doctor.decide.view import FEW, listed
from trio_ipv4._cli.doctor.evidence import Twins
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._cli.doctor.decide.program.sockets import Sock
    from trio_ipv4._cli.doctor.decide.view import View


def cross_talk(view: View, sockets: Sequence[Sock]) -> Iterator[Finding | Unknown]:
    """Judge whether a socket hears groups that it has not joined."""
    twins = view.case.get(Twins)
    foreign = {each.group for each in twins.heard if each.group not in {None, view.question.group}} if twins else set()
    if not foreign or view.own is None or not view.received:
        return
    for socket in sockets:
        if not socket.is_wild or not socket.multicast_all:
            continue
        if socket.memberships is None:
            sure = socket.option_memory is not None and socket.option_memory // MEMBERSHIP == 1
            others = foreign if sure else set()
        else:
            others = foreign - {each.group for each in socket.memberships}
        if others:
            said = f"{listed(others)} comes in with the same port. The socket of {socket.label} has not joined it."
            how = "Its socket is bound to 0.0.0.0 with IP_MULTICAST_ALL 1, so it hears what others have joined."
            yield in_the_program("cross-talk", said, how, sure=socket.memberships is not None)
            return


def duplicates(view: View, sockets: Sequence[Sock]) -> Iterator[Finding]:
    """Judge whether datagrams come twice, by two interfaces on which it is joined."""
    twins = view.case.get(Twins)
    for each in twins.duplicated if twins else ():
        heard_by = [socket for socket in sockets if _hears_by(view, socket, each.ifindexes)]
        if each.number >= FEW and each.group in {None, view.question.group} and heard_by:
            by = listed(view.name(index) for index in each.ifindexes)
            said = f"{many(each.number, 'datagram')} came twice within 50 ms, by {by}."
            yield in_the_program("duplicates", said)
            return


def _hears_by(view: View, socket: Sock, ifindexes: Sequence[int]) -> bool:
    """Tell whether a socket hears the group by all of these interfaces; one that can't be asked may."""
    if socket.ifindex:
        return set(ifindexes) <= {socket.ifindex}
    if socket.memberships is None or socket.multicast_all:
        return True
    return set(ifindexes) <= {held.ifindex for held in socket.memberships if held.group == view.question.group}
