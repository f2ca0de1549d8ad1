"""Memberships: the part of a connection that joins and leaves groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import trio

from trio_ipv4._codec import explicit_steps
from trio_ipv4._conn.membership import Membership
from trio_ipv4._conn.owned import OwnedConn
from trio_ipv4._values.fields import to_group, to_unicast
from trio_ipv4._values.group import GroupReq
from trio_ipv4._values.source_filter import ANY, SourceFilter, to_sources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._codec.explicit_steps import Step
    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4._values.interface import InterfaceLike


class Memberships(OwnedConn):
    """The part of a connection that joins and leaves groups."""

    @overload
    def joined(self, interface: GroupReq, /) -> Membership: ...
    @overload
    def joined(self, interface: InterfaceLike, group: AddressLike, *, sources: SourceFilter = ANY) -> Membership: ...
    def joined(
        self,
        interface: InterfaceLike | GroupReq,
        group: AddressLike | None = None,
        *,
        sources: SourceFilter = ANY,
    ) -> Membership:
        """Return a membership for `async with`: joined inside the block, left after it, however it ends.

        Entering is a checkpoint, then the join: a task that is already cancelled never joins. Leaving is one system
        call that waits for nothing but the kernel's lock, so it can't be cancelled away, and is no checkpoint. Neither
        needs a privilege. A join that will hear nothing, or nothing across a router, warns (`DeafMembershipWarning`,
        `SourceSpecificRangeWarning`); leaving does where the kernel refuses the filter that remains
        (`MembershipWarning`).

        Args:
            interface: Where to join; `None` lets the kernel choose by its routes, once. Or a whole `GroupReq`.
            group: A multicast address.
            sources: The sources to hear; every one by default.

        Raises:
            TypeError: An argument has the wrong type, or one is missing.
            ValueError: `group` is not a multicast address.
            OSError: On entering: the kernel refused, such as ENOBUFS for more groups than sysctl
                net.ipv4.igmp_max_memberships (20) or more sources than net.ipv4.igmp_max_msf (10), or there is no such
                interface. Nothing is joined then.
            UnsupportedError: On entering: only Linux has all that it takes.
        """
        if group is None and not isinstance(interface, GroupReq):
            raise TypeError(
                f"joined() takes an interface, then a group, got {interface!r} alone: joined(None, group) lets the "
                "kernel choose the interface"
            )
        if isinstance(interface, GroupReq):
            if group is not None or sources is not ANY:
                raise TypeError("a GroupReq names group and sources itself: pass nothing beside it")
            return Membership(self._ledger, interface.interface, interface.group, interface.sources)
        return Membership(self._ledger, interface, to_group(group, "group"), to_sources(sources))

    @property
    @trio.lowlevel.enable_ki_protection
    def memberships(self) -> Mapping[tuple[int, IPv4Address], SourceFilter]:
        """A snapshot of this connection's memberships: the merged filter of each (interface index, group).

        These are the kernel's filters, which may be wider than the scopes ask for: see `MembershipWarning`. A
        membership that has died with its interface is not among them. Not a checkpoint. If the interface is back and
        the kernel refuses to join again, that warns (`MembershipWarning`).
        """
        self._require_open()
        return self._ledger.memberships

    @trio.lowlevel.enable_ki_protection
    def repair_memberships(self) -> None:
        """Join again each membership that a deleted interface has made dead, where another has its index now.

        That is done without being asked for, too, as soon as anybody notices (`Membership.is_alive` says when). What is
        left for this is a join that was refused then (`MembershipWarning`). A membership whose interface is gone is
        kept, for the day on which an interface with its index comes back.

        Where rtnetlink can't be asked, as in some sandboxes, every membership is left and joined again.

        Raises:
            OSError: The kernel refused to join again. The other memberships are repaired all the same. If it refused
                several, the message names each, and the errno is that of the first.
        """
        self._ledger.repair()

    @trio.lowlevel.enable_ki_protection
    def refresh_memberships(self) -> None:
        """Announce every membership of this connection again: see `Membership.refresh`.

        Raises:
            OSError: As for `Membership.refresh`. The others are announced all the same. Of several refusals the message
                names each, and the errno is that of the first.
        """
        self._ledger.refresh_all()

    @trio.lowlevel.enable_ki_protection
    def source_filter(self, interface: InterfaceLike, group: AddressLike) -> SourceFilter:
        """Read the filter of a membership from the kernel: the merge of all scopes and explicit operations.

        Raises:
            OSError: EADDRNOTAVAIL: the socket is not a member. ENODEV: no interface of that name; with `None`, no
                route.
        """
        self._require_open()
        return self._ledger.read(interface, to_group(group, "group"))

    # Go's operations, for programs whose memberships are not scoped

    def join_group(self, interface: InterfaceLike, group: AddressLike) -> None:
        """Join a group from any source, until `leave_group` or `close`. Go: `JoinGroup`.

        The explicit operations act on one hold of their own for each (interface, group), beside the scopes of `joined`.

        Raises:
            OSError: EADDRINUSE: it was joined explicitly before. Others: the kernel refused. Nothing is changed.
        """
        self._explicit(interface, group, explicit_steps.join, "join")

    def leave_group(self, interface: InterfaceLike, group: AddressLike) -> None:
        """Leave a group that was joined explicitly, whatever its filter. Go: `LeaveGroup`.

        With `None` for the interface: where the explicit operations joined by `None`, even if the route has moved.

        Raises:
            OSError: EADDRNOTAVAIL: it was not joined explicitly.
        """
        self._explicit(interface, group, explicit_steps.leave, "leave")

    def join_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Join a group from one source, or hear one source more. Go: `JoinSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is heard already. EINVAL: the group was joined from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.join_source(address), f"join {address} in")

    def leave_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Hear one source less; with the last one the group is left. Go: `LeaveSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source was not joined. EINVAL: not a member, or joined from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.leave_source(address), f"leave {address} in")

    def exclude_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Block one source of a group that was joined from any source. Go: `ExcludeSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is blocked already. EINVAL: not a member from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.exclude_source(address), f"exclude {address} in")

    def include_source_specific_group(self, interface: InterfaceLike, group: AddressLike, source: AddressLike) -> None:
        """Unblock one source that was blocked. Go: `IncludeSourceSpecificGroup`.

        Raises:
            OSError: EADDRNOTAVAIL: the source is not blocked. EINVAL: not a member from any source.
        """
        address = to_unicast(source, "source")
        self._explicit(interface, group, explicit_steps.include_source(address), f"include {address} in")

    def set_source_filter(self, interface: InterfaceLike, group: AddressLike, sources: SourceFilter) -> None:
        """Replace the filter of the explicit hold, joining if need be; INCLUDE {} leaves (RFC 3678 section 5.2.1).

        Raises:
            OSError: The kernel refused; nothing is changed.
        """
        self._explicit(interface, group, explicit_steps.replace(to_sources(sources)), f"set {sources} for")

    @trio.lowlevel.enable_ki_protection
    def _explicit(self, interface: InterfaceLike, group: AddressLike, step: Step, attempt: str) -> None:
        address = to_group(group, "group")
        self._ledger.explicit(interface, address, step, f"{attempt} {address}")
