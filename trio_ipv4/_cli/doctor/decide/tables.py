"""What the tables decide alone: without a look at any datagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.decide.finding import Finding, in_the_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.view import View

_MOST_NAMES: Final = 8


def find(view: View) -> Iterator[Finding]:
    """Look at the interface, and at the routes that choose one."""
    question = view.question
    way = view.ways(question.group)
    if question.ifindex is None:
        if question.named:
            yield in_the_tables("no-such-interface", *_what_there_is(view))
        elif way is not None and way.error is not None:
            yield no_route(view, way.error)
        return
    link = view.link
    if link is None:
        return
    if not link.up:
        yield in_the_tables("interface-down", f"{link.name} lacks the flag UP.")
    elif not link.carrier and not link.loopback:
        yield in_the_tables("no-carrier", f"{link.name} is up, and has no carrier.")


def _what_there_is(view: View) -> Iterator[str]:
    """Say that no interface has the name, which one was meant perhaps, and which ones there are."""
    asked, links = view.question.interface, [*view.links.values()]
    yield f"No interface is called {asked}."
    for each in links:
        if asked in {str(each.index), *(str(address.ip) for address in each.addresses)}:
            yield f"{asked} is {'the number' if asked == str(each.index) else 'an address'} of {each.name}."
    if links:
        yield f"There are: {', '.join(each.name for each in links[:_MOST_NAMES])}{' ...' * (len(links) > _MOST_NAMES)}."


def no_route(view: View, error: str) -> Finding:
    """Return what it means that the routes have none to the group."""
    said = f"The kernel's routes answer {error} for {view.question.group}."
    if error == "ENETUNREACH":
        return in_the_tables("no-multicast-route", f"{said} No interface was named either.")
    return in_the_tables("route-forbids", said)
