"""What the rules ask of a case. `None` means: not seen. No rule reads it as "no"."""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from trio_ipv4._cli.doctor.evidence import (
    IGMP,
    Counters,
    Drop,
    Drops,
    Flow,
    InputAnswer,
    InputRoutes,
    Link,
    Links,
    Member,
    Memberships,
    OwnReceiver,
    Phase,
    Routes,
    Settings,
    Twins,
    Way,
    Wire,
)
from trio_ipv4._cli.merge import Merged, merge
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ipv4._cli.doctor.case import Case

Look: TypeAlias = Literal["before", "joined"]

LOOKS: Final[tuple[Look, Look]] = ("joined", "before")
"""The phases that took time, the later one first."""
FEW: Final = 3
"""Fewer datagrams than this show nothing, where they have to be told from other flows' by their number."""
ALL_HOSTS: Final = IPv4Address("224.0.0.1")
SOURCE_SPECIFIC: Final = IPv4Network("232.0.0.0/8")  # RFC 4607
LINK_LOCAL: Final = IPv4Network("224.0.0.0/24")  # RFC 5771 section 4
_NEVER_A_SOURCE: Final = (
    # net/ipv4/route.c, ip_mc_validate_source and ip_route_input_slow
    IPv4Network("0.0.0.0/32"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("240.0.0.0/4"),
)


class View:
    """A case, as the rules see it."""

    def __init__(self, case: Case) -> None:
        self.case: Final = case
        self.question: Final = case.question
        self.links: Final = {link.index: link for link in self._links()}
        self.link: Final = self.links.get(self.question.ifindex or 0)
        self.own_addresses: Final = {
            address.ip for link in self.links.values() for address in link.addresses if not address.ip.is_loopback
        }
        self.memberships: Final = case.get(Memberships)
        self.own: Final = case.get(OwnReceiver, "joined")
        self.settings: Final = getattr(case.get(Settings), "values", {})

    def _links(self) -> tuple[Link, ...]:
        found = self.case.get(Links)
        return found.links if found else ()

    def name(self, index: int | None) -> str:
        """Return an interface's name, or its number where it has gone."""
        link = self.links.get(index or 0)
        return link.name if link else f"interface {index}"

    @property
    def interface(self) -> str:
        """The examined interface's name."""
        return self.question.interface or "no interface"

    # What was received

    @functools.cached_property
    def heard(self) -> int | None:
        """How many datagrams our own receiver heard. `None`: it could not look.

        Where the wire shows that others send, what this host sends itself doesn't count.
        """
        if self.own is None:
            return None
        if self.own.refused is not None and not self.own.heard:
            # Somebody holds the port. The raw socket stands below ports.
            return self.own.raw
        own = frozenset() if self.link is None or self.link.loopback else self.own_addresses
        foreign = sum(each.number for each in self.own.heard if each.source not in own)
        return foreign if self.good else sum(each.number for each in self.own.heard)

    @property
    def only_own(self) -> bool:
        """All that our own receiver heard was sent by this host itself."""
        heard = self.own.heard if self.own is not None else ()
        is_loopback = self.link is not None and self.link.loopback
        return bool(heard) and not is_loopback and all(each.source in self.own_addresses for each in heard)

    @property
    def received(self) -> bool:
        """Our own receiver heard the group: the network and this host are in order."""
        return bool(self.heard) and not self.deaf

    @property
    def deaf(self) -> bool:
        """Our own receiver looked, and heard nothing, or less than half of what the wire showed."""
        if self.heard is None or self.own is None:
            return False
        sent = total(self.good)
        return self.heard == 0 or (sent >= FEW and 2 * (self.heard + self.own.drops) < sent)

    @functools.cached_property
    def twin_heard(self) -> int | None:
        """How many datagrams of the group other programs' memberships let in, before we joined."""
        twins = self.case.get(Twins)
        if twins is None or (twins.refused is not None):
            return None
        return sum(each.number for each in twins.heard if each.group in {None, self.question.group})

    @functools.cached_property
    def sources(self) -> frozenset[IPv4Address]:
        """The sources that send the group to this port here, as far as anybody saw."""
        found = {self.question.source} if self.question.source else set()
        for phase in LOOKS:
            found |= {flow.source for flow in self.incoming(phase) or ()}
        if self.own is not None:
            found |= {each.source for each in self.own.heard}
        twins = self.case.get(Twins)
        found |= {each.source for each in twins.heard if each.group == self.question.group} if twins else set()
        return frozenset(found)

    # The wire

    def flows(self, phase: Phase) -> tuple[Flow, ...] | None:
        """Return what the wire showed. `None`: it could not be heard."""
        wire = self.case.get(Wire, phase)
        return wire.flows if wire else None

    def incoming(self, phase: Phase) -> list[Flow] | None:
        """Return the datagrams of the group, to the port, that came in by the interface, faults included."""
        flows = self.flows(phase)
        return None if flows is None else [flow for flow in flows if self.is_asked(flow) and self.is_incoming(flow)]

    def is_asked(self, flow: Flow) -> bool:
        """Tell whether it is the group and the port that were asked for. A later fragment has no port."""
        ours = flow.destination == self.question.group and flow.protocol == 17
        asked = self.question.source in {None, flow.source}
        return ours and asked and (flow.port == self.question.port or flow.fragment == "later")

    def is_incoming(self, flow: Flow) -> bool:
        """Tell whether it came in by the interface."""
        return flow.ifindex == self.question.ifindex and flow.direction != "out"

    def outgoing(self) -> list[Flow] | None:
        """Return the datagrams of the group, to the port, that this host sent, by whatever interface."""
        looks = [flows for phase in LOOKS if (flows := self.flows(phase)) is not None]
        if not looks:
            return None
        return [flow for flows in looks for flow in flows if self.is_asked(flow) and self._is_outgoing(flow)]

    def _is_outgoing(self, flow: Flow) -> bool:
        """Tell whether this host sent it. What is sent on the loopback interface is seen as it comes in there."""
        link = self.links.get(flow.ifindex)
        return flow.direction == "out" or (link is not None and link.loopback)

    @functools.cached_property
    def look(self) -> Look:
        """The look in which datagrams are counted: the one with our join, unless only the other was made."""
        return "joined" if self.own is not None or self.flows("joined") is not None else "before"

    @functools.cached_property
    def wire_count(self) -> int | None:
        """How many datagrams of the group came in on the wire in that look, whatever their faults."""
        return total(flows) if (flows := self.incoming(self.look)) is not None else None

    @property
    def wire_silent(self) -> bool:
        """The wire was heard without a gap, and showed none of the group's datagrams to the port."""
        looks = [wire for phase in LOOKS if (wire := self.case.get(Wire, phase)) is not None]
        gap = any(wire.dropped for wire in looks)
        return bool(looks) and not gap and not any(self.incoming(phase) for phase in LOOKS)

    @functools.cached_property
    def good(self) -> list[Flow]:
        """The datagrams on the wire that have no fault of their own, in the look that is counted."""
        return [flow for flow in self.incoming(self.look) or () if is_whole(flow) and not self.is_martian(flow.source)]

    def is_martian(self, source: IPv4Address) -> bool:
        """Tell whether no datagram may come from an address. A link-local group may come from 0.0.0.0.

        What is sent on the loopback interface has its route already, and is not asked again when it comes in.
        """
        if self.link is not None and self.link.loopback:
            return False
        if source == IPv4Address(0):
            return self.question.group not in LINK_LOCAL
        return any(source in network for network in _NEVER_A_SOURCE)

    # What the kernel says

    def drops(self) -> Iterator[Drop]:
        """Return what the kernel said of why it dropped datagrams of the group, to the port, on the interface."""
        found = self.case.get(Drops, self.look)
        for drop in found.drops if found else ():
            here = drop.here and drop.ifindex in {self.question.ifindex, None, 0}
            # What goes out has no interface yet when the output hook drops it.
            here = here and (drop.source in self.own_addresses) == (self.question.role == "sender")
            if here and drop.protocol == 17 and drop.port in {self.question.port, None}:
                yield drop

    def dropped(self, reasons: Iterable[str] = (), places: Iterable[str] = ()) -> int:
        """Count the drops for one of these reasons, or at one of these places; both, if both are given."""
        reasons, places = tuple(reasons), tuple(places)
        return sum(
            drop.number
            for drop in self.drops()
            if (not reasons or drop.reason in reasons) and (not places or drop.place in places)
        )

    @property
    def knows_drops(self) -> bool:
        """The drop witness looked."""
        return self.case.get(Drops, self.look) is not None

    def counter(self, name: str, phase: Phase | None = None) -> int:
        """Return by how much a counter grew."""
        found = self.case.get(Counters, phase or self.counted)
        return found.grown.get(name, 0) if found else 0

    @functools.cached_property
    def counted(self) -> Phase:
        """The look of which the counters are taken."""
        return "joined" if self.case.get(Counters, "joined") else "before"

    def answers(self) -> Iterator[InputAnswer]:
        """Return what the input route said of sources, the neighbour left out.

        An interface that was never up refuses all of them, so it says nothing about any.
        """
        if self.link is not None and not self.link.up:
            return
        for phase in reversed(LOOKS):
            found = self.case.get(InputRoutes, phase)
            yield from (each for each in (found.answers if found else ()) if not each.neighbour)

    @functools.cached_property
    def neighbour(self) -> InputAnswer | None:
        """What the input route said of a neighbour, before we joined."""
        found = self.case.get(InputRoutes)
        return next((each for each in (found.answers if found else ()) if each.neighbour), None)

    def ways(self, destination: IPv4Address) -> Way | None:
        """Return which way the routes lead to an address."""
        for phase in reversed(LOOKS):
            found = self.case.get(Routes, phase)
            for way in found.ways if found else ():
                if way.destination == destination:
                    return way
        return None

    # Memberships, as they were before we joined

    def member(self, ifindex: int | None) -> Member | None:
        """Return the membership of the group on an interface."""
        found = self.memberships.members if self.memberships else ()
        return next((each for each in found if each.group == self.question.group and each.ifindex == ifindex), None)

    @functools.cached_property
    def was_member(self) -> bool | None:
        """The interface was a member before we joined. `None`: nobody knows."""
        return None if self.memberships is None else self.member(self.question.ifindex) is not None

    @functools.cached_property
    def members_elsewhere(self) -> list[Member]:
        """The memberships of the group on other interfaces of this host."""
        found = self.memberships.members if self.memberships else ()
        return [each for each in found if each.group == self.question.group and each.ifindex != self.question.ifindex]

    @functools.cached_property
    def other_groups(self) -> frozenset[IPv4Address]:
        """The groups that this host has joined besides, 224.0.0.1 left out."""
        found = self.memberships.members if self.memberships else ()
        return frozenset(each.group for each in found) - {self.question.group, ALL_HOSTS}

    def filter(self) -> Merged | None:
        """Return which sources the interface's members hear, merged, before we joined. `None`: there is no member."""
        member = self.member(self.question.ifindex)
        if member is None or self.memberships is None:
            return None
        counts = {
            each.source: (each.including, each.excluding)
            for each in self.memberships.sources
            if each.ifindex == self.question.ifindex
        }
        return merge(member.users, counts)

    def igmp(self) -> IGMP | None:
        """Return the messages on the wire, if they could be heard, until we sent a report of our own."""
        found = [each for each in self.case.evidence if isinstance(each, IGMP) and each.phase not in {"probe", "after"}]
        if not found:
            return None
        return IGMP(
            seconds=sum(each.seconds for each in found),
            messages=tuple(message for each in found for message in each.messages),
        )

    def version(self) -> int | None:
        """Return the version of IGMP that the interface speaks."""
        if self.memberships is None:
            return None
        return self.memberships.versions.get(str(self.question.ifindex))

    def for_how_long(self) -> str:
        """Say since when the interface is a member, if that is known: ", for 17 min"."""
        member = self.member(self.question.ifindex)
        return f", for {duration(member.seconds)}" if member and member.seconds is not None else ""


def total(flows: Iterable[Flow]) -> int:
    """Count datagrams: later fragments are none of their own."""
    return sum(flow.number for flow in flows if flow.fragment != "later")


def is_whole(flow: Flow) -> bool:
    """Tell whether IP and UDP take a frame as it is: untagged, for this station, in one piece, without a fault."""
    return flow.vlan in {None, 0} and flow.direction != "other_host" and flow.fragment is None and not flow.faults


def duration(seconds: float) -> str:
    """Say how long something took."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def listed(addresses: Iterable[object], most: int = 5) -> str:
    """List some things in words."""
    texts = sorted(map(str, addresses))
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {many(len(texts) - most, 'other')}"
