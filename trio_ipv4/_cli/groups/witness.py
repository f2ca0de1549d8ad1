"""Who is a member: what the sockets themselves say, and what can be guessed of those that can't be asked."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from trio_ipv4._cli.diag import Listed, list_sockets
from trio_ipv4._cli.foreign import Question, classes_of, duplicate, most_memberships
from trio_ipv4._cli.netlink import network_of
from trio_ipv4._cli.processes import Held, Socket, find_sockets, shares_network, user_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from ipaddress import IPv4Address

    from trio_ipv4._cli.merge import Filter

    Key: TypeAlias = "tuple[int, IPv4Address]"
    """An interface's index, and a group."""


@attrs.frozen
class Proven:
    """A socket that said what it is a member of.

    Args:
        pids: The processes that hold it.
        protocol: Its kind.
        port: Its own port, if it has one.
        filters: What it hears of each group on each interface.
    """

    pids: tuple[int, ...]
    protocol: str
    port: int | None
    filters: Mapping[Key, Filter]


@attrs.frozen
class Suspect:
    """A socket that may be a member of something, and can't be asked.

    Args:
        pids: The processes that hold it; empty if they don't show it.
        user: Whose socket it is, if no process shows it.
        protocol: Its kind.
        port: Its own port, if it has one and that is known.
    """

    pids: tuple[int, ...]
    user: str | None
    protocol: str
    port: int | None


@attrs.frozen
class Evidence:
    """What was found out.

    Args:
        members: For each group on each interface, the sockets that said so themselves.
        suspects: The sockets that can't be asked.
        unreadable: How many processes don't show their descriptors.
        refused: How many processes show their descriptors, but don't let them be duplicated.
        can_ask: Whether sockets can be duplicated at all: not before Linux 5.6, in some sandboxes, or on PyPy.
    """

    members: Mapping[Key, Sequence[Proven]]
    suspects: tuple[Suspect, ...]
    unreadable: int
    refused: int
    can_ask: bool = True


class RefusedError(Exception):
    """No process that holds the socket lets it be duplicated."""


def look(keys: Collection[Key]) -> Evidence:
    """Ask every socket that can be found which of these groups it is a member of."""
    return Witness(keys, list_sockets()).look(find_sockets())


class Witness:
    """Asks the sockets of this thread's network namespace.

    Args:
        keys: What to ask about.
        listed: The sockets that the kernel lists.
    """

    def __init__(self, keys: Collection[Key], listed: Mapping[int, Listed]) -> None:
        self._questions: Final = {key: Question(*key) for key in keys}
        self._listed: Final = listed
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            self._network: Final = network_of(own)
        self._classes: Final = classes_of(os.getpid())
        self._refusing: Final[dict[int, bool]] = {}
        self._can_ask = True

    def look(self, held: Held) -> Evidence:
        """Ask the sockets that processes hold."""
        members: dict[Key, list[Proven]] = {}
        suspects = []
        for each in held.sockets:
            if each.inode in self._listed and not self._listed[each.inode].may_be_member:
                continue
            try:
                if (answer := self._ask(each)) is not None:
                    for key in answer.filters:
                        members.setdefault(key, []).append(answer)
            except RefusedError:
                suspects += self._suspect(each)
        suspects += self._unheld({each.inode for each in held.sockets})
        return Evidence(members, tuple(suspects), held.unreadable, sum(self._refusing.values()), self._can_ask)

    def _ask(self, asked: Socket) -> Proven | None:
        """Return what a socket says; `None`: it is another namespace's, or closed by now."""
        refused = False
        for pid, number in asked.holders:
            if not self._may_try(pid):
                refused = True
                continue
            try:
                with duplicate(pid, number, asked.inode) as duplicated:
                    return self._question(asked, duplicated) if self._is_here(asked, duplicated) else None
            except OSError as error:
                # Any other error: the process is gone, or its descriptor.
                if error.errno in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
                    refused = self._refusing[pid] = True
                    self._can_ask &= error.errno != errno.ENOSYS
        if refused:
            raise RefusedError
        return None

    def _may_try(self, pid: int) -> bool:
        if pid not in self._refusing:
            self._refusing[pid] = classes_of(pid) != self._classes
        return not self._refusing[pid]

    def _is_here(self, asked: Socket, duplicated: socket.socket) -> bool:
        if self._network is not None:
            return network_of(duplicated) == self._network
        return asked.inode in self._listed or any(map(shares_network, asked.pids))

    def _question(self, asked: Socket, duplicated: socket.socket) -> Proven:
        descriptor, most = duplicated.fileno(), most_memberships(duplicated)
        filters: dict[Key, Filter] = {}
        for key, question in self._questions.items():
            if len(filters) >= most:
                break
            if (answer := question.put(descriptor)) is not None:
                filters[key] = answer
        # A raw socket has its protocol's number there; 0: it is not bound.
        port = None if asked.protocol == "raw" else duplicated.getsockname()[1] or None
        return Proven(tuple(asked.pids), asked.protocol, port, filters)

    def _suspect(self, refusing: Socket) -> list[Suspect]:
        listed = self._listed.get(refusing.inode)
        if listed is None and not any(map(shares_network, refusing.pids)):
            return []
        return [Suspect(tuple(refusing.pids), None, refusing.protocol, listed.port if listed else None)]

    def _unheld(self, held: Collection[int]) -> list[Suspect]:
        """Return the sockets that the kernel lists and no process shows."""
        return [
            Suspect((), user_name(listed.user), listed.protocol, listed.port)
            for inode, listed in self._listed.items()
            if listed.may_be_member and inode not in held
        ]
