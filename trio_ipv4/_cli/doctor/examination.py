"""The course of an examination: who is asked, in which order.

First come the tables, then a look that changes nothing; only then a receiver of our own joins. The join changes what is
looked at: while somebody on a host is a member, programs that are none may hear the group as well, and a switch
forwards the group to a host that has reported it. Rules of others are read last, to name the one that is to blame.

Everything here only collects. What follows from it is `decide`'s.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_ipv4 import interfaces
from trio_ipv4._cli.arguments import is_named
from trio_ipv4._cli.doctor.evidence import Links
from trio_ipv4._cli.doctor.journal import Journal
from trio_ipv4._cli.doctor.looks import open_looks
from trio_ipv4._cli.doctor.tables import Tables
from trio_ipv4._cli.doctor.witnesses import router, routes, rules
from trio_ipv4._cli.doctor.witnesses.rules import tools

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from trio_ipv4._cli.doctor.case import Case
    from trio_ipv4._cli.doctor.evidence import Question
    from trio_ipv4._cli.output import Record

_FIREWALL: Final = "nftables"


def choose_interface(name: str | None, group: IPv4Address) -> tuple[str | None, int | None]:
    """Return the name and the index of the interface that is to be examined: the named one, or where the routes lead.

    The index is `None` where there is no such interface, or no route.
    """
    try:
        there = interfaces()
    except OSError:
        # A sandbox without rtnetlink: the name alone can be asked for.
        return (name, _index_of(name)) if name is not None else (None, None)
    if name is not None:
        return next(((each.name, each.index) for each in there if is_named(each, (name,))), (name, None))
    with contextlib.suppress(OSError):
        (way,) = routes.look([group]).ways
        return next(((each.name, each.index) for each in there if each.index == way.ifindex), (None, None))
    return None, None


def _index_of(name: str) -> int | None:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    return None


async def examine(question: Question, show: Callable[[Record], object]) -> Case:
    """Ask every witness that may look, show what each says as it comes, and return all of it.

    Args:
        question: What was asked.
        show: Shows a record.
    """
    journal = Journal(question, show)
    tables = Tables(journal)
    tables.read()
    async with open_looks(journal, tables) as looks:
        await looks.look_only()
        if question.role == "receiver" and question.ifindex is not None:
            await looks.join(question.ifindex)
        else:
            tables.ask_about_sources()
    await _read_rules(journal)
    return journal.case


async def _read_rules(journal: Journal) -> None:
    """Read the rules of the firewall and the like, and what a router knows."""
    question, links = journal.question, journal.get(Links) or Links()
    with journal.noting("rules"):
        try:
            # It runs other programs, which may hang.
            found, bridges = await trio.to_thread.run_sync(rules.look, question, links, abandon_on_cancel=True)
        finally:
            tools.kill_all()
        journal.add(found, bridges)
        if _FIREWALL not in found.seen:
            journal.skip("rules", "nft" if question.privileges.net_admin else "CAP_NET_ADMIN")
    journal.ask("router", lambda: attrs.evolve(router.look(), phase="after"))
