"""What the demo has to show, as records: `Page` makes a page of them, `JSONLines` JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from trio_ipv4._cli.output import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from trio_ipv4._cli.kernel_tables import Member

    Event: TypeAlias = "Start | Step | Memberships | Sent | Received | Check | Verdict"
    Show: TypeAlias = Callable[[Event], None]


@attrs.frozen
class Group:
    """A group of the demo, and the sources that its receiver asks for."""

    name: str
    address: str
    port: int
    mode: str
    sources: tuple[str, ...]


@attrs.frozen
class Start(Record):
    """The demo begins."""

    event: ClassVar[str] = "start"
    title: str
    text: str
    interface: str
    ifindex: int
    groups: tuple[Group, ...]


@attrs.frozen
class Step(Record):
    """What happens next, and why."""

    event: ClassVar[str] = "step"
    number: int
    title: str
    text: str


@attrs.frozen
class Memberships(Record):
    """The kernel's table, or that part of it which is about the demo's groups."""

    event: ClassVar[str] = "memberships"
    when: str
    memberships: tuple[Member, ...]


@attrs.frozen
class Sent(Record):
    """A datagram that was handed to the kernel."""

    event: ClassVar[str] = "sent"
    number: int
    source: str
    destination: str
    port: int
    ttl: int
    tos: int
    should_arrive: bool
    """Whether the filter of the group's receiver lets it through."""


@attrs.frozen
class Received(Record):
    """A datagram that arrived, with the kernel's facts; `None` is a fact that did not come."""

    event: ClassVar[str] = "received"
    number: int | None
    receiver: str
    source: str
    source_port: int
    destination: str | None
    port: int
    interface: str | None
    ifindex: int | None
    ttl: int | None
    tos: int | None
    timestamp_ns: int | None


@attrs.frozen
class Check(Record):
    """What should be so, and what was seen."""

    event: ClassVar[str] = "check"
    what: str
    ok: bool
    expected: tuple[str, ...]
    seen: tuple[str, ...]


@attrs.frozen
class Verdict(Record):
    """The last event: whether the kernel confirmed every step."""

    event: ClassVar[str] = "verdict"
    ok: bool
    checks: int
    failed: int
    text: str
