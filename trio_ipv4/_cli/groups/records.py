"""What the command shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import attrs

from trio_ipv4._cli.output import Column, Remark, Row, Sentence, describe_sources

if TYPE_CHECKING:
    from ipaddress import IPv4Address

Certainty: TypeAlias = Literal["proven", "possible"]


@attrs.frozen
class SocketShown:
    """A socket: its kind, its port, and what it hears, as far as that is known."""

    protocol: str
    port: int | None
    mode: str | None = None
    sources: tuple[IPv4Address, ...] | None = None


@attrs.frozen
class ProcessShown:
    """A process that is a member, or may be. If only its user is known, it has neither number nor name."""

    pid: int | None
    name: str | None
    user: str | None
    certainty: Certainty
    sockets: tuple[SocketShown, ...]

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of {self.user}"
        several = f" ({len(self.sockets)} sockets)" if len(self.sockets) > 1 else ""
        # As in GROUP:PORT. Several ports stand in the order of their sockets.
        ports = ",".join(str(port) for port in dict.fromkeys(each.port for each in self.sockets) if port is not None)
        return f"{self.name}[{self.pid}]{':' if ports else ''}{ports}{several}"


@attrs.frozen
class GroupListed(Row):
    """A group on an interface.

    Args:
        interface: The interface's name.
        ifindex: Its index.
        group: The group.
        mode: Of the interface's filter, as the kernel merges it from those of the sockets.
        sources: Of the same.
        certain: Whether the filter is certain. If not, more sources may be heard than it says.
        sockets: How many sockets are members.
        kernel: Whether the kernel itself is a member, without any socket.
        processes: Who holds them.
        unseen: How many of the sockets belong to nobody that was seen.
        dead: How many of the sockets that were seen hear nothing, since their interface was deleted and made anew.
    """

    event: ClassVar[str] = "group"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("interface"),
        Column("group"),
        Column("sockets", gives_way=2, right=True),
        Column("hears", gives_way=1),
        Column("processes", shortest=20),
    )
    interface: str
    ifindex: int
    group: IPv4Address
    mode: str
    sources: tuple[IPv4Address, ...]
    certain: bool
    sockets: int
    kernel: bool
    processes: tuple[ProcessShown, ...]
    unseen: int
    dead: int

    def cells(self) -> tuple[str, ...]:
        """Return what stands in each column."""
        return self.interface, str(self.group), str(self.sockets), self._hears(), "; ".join(self._who())

    def style(self) -> str:
        """Return how a terminal shows the row: what is the kernel's alone recedes."""
        return "" if self.sockets else "dim"

    def _hears(self) -> str:
        sources = self._name_sources()
        if self.certain:
            return describe_sources(self.mode, sources)
        if self.mode == "include":
            return f"{', '.join(sources)}, perhaps everybody"
        return f"all but perhaps {', '.join(sources)}"

    def _name_sources(self) -> tuple[str, ...]:
        return tuple(map(str, self.sources))

    def _who(self) -> list[str]:
        proven = ", ".join(str(each) for each in self.processes if each.certainty == "proven")
        possible = ", ".join(str(each) for each in self.processes if each.certainty == "possible")
        unseen = f"{self.unseen} not seen" + (f", perhaps {possible}" if possible else "")
        dead = f"{self.dead} of them dead: the interface was made anew"
        told = (("the kernel", self.kernel), (proven, proven), (dead, self.dead), (unseen, self.unseen))
        return [words for words, true in told if true]


@attrs.frozen
class GroupListedBriefly(GroupListed):
    """The same for a narrow terminal: of several sources it names the first, and tells how many more there are."""

    def _name_sources(self) -> tuple[str, ...]:
        first, *more = map(str, self.sources) if self.sources else [""]
        return (first, f"+{len(more)}") if more else super()._name_sources()


@attrs.frozen
class Summary(Sentence):
    """How much was seen.

    Args:
        groups: How many rows there are.
        sockets: How many memberships the sockets have in them.
        unseen: How many of these belong to nobody that was seen.
        unreadable: How many processes don't show their descriptors.
        refused: How many processes show theirs, but don't let their sockets be asked.
        needs: The capabilities that would show more.
        can_ask: Whether this kernel and this Python let sockets be asked.
    """

    event: ClassVar[str] = "summary"
    groups: int
    sockets: int
    unseen: int
    unreadable: int
    refused: int
    needs: tuple[str, ...]
    can_ask: bool

    def text(self) -> str:
        """Return it in words."""
        if not self.sockets:
            return "No socket is a member."
        whole = "1 membership" if self.sockets == 1 else f"{self.sockets} memberships"
        if not self.unseen:
            every = {1: "The owner of", 2: "The owners of both"}.get(self.sockets, f"The owners of all {self.sockets}")
            return f"{every} {'1 membership was' if self.sockets == 1 else 'memberships were'} seen."
        if self.unseen == self.sockets:
            owner = "owner" if self.sockets == 1 else "owners"
            return f"The {owner} of {whole} {_were(self.sockets)} not seen{self._why()}"
        owner = "owner" if self.unseen == 1 else "owners"
        return f"The {owner} of {self.unseen} of {whole} {_were(self.unseen)} not seen{self._why()}"

    def _why(self) -> str:
        if not self.can_ask:
            return ": this kernel, a sandbox, or PyPy lets no socket be asked (pidfd_getfd(2), Linux 5.6)."
        if not self.needs:
            return ": they are the kernel's own, or processes outside this PID namespace."
        hidden = f"{_processes(self.unreadable)} could not be looked into" if self.unreadable else ""
        silent = f"{_processes(self.refused)} can't be asked" if self.refused else ""
        reasons = " and ".join(reason for reason in (hidden, silent) if reason)
        return f": {reasons}. Root sees more ({' and '.join(self.needs)})."


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


@attrs.frozen
class NobodyThere(Remark):
    """A group that was asked for, and has no member."""

    event: ClassVar[str] = "no_member"
    group: IPv4Address

    def text(self) -> str:
        """Return it in words."""
        return f"Nobody here is a member of {self.group}."
