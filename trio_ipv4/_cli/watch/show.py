"""What was asked for: which records are shown, and for which of them a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from trio_ipv4._cli.watch.records import Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address

    from trio_ipv4._cli.output import Output, Record, Row
    from trio_ipv4._cli.watch.commands import Commands


@final
@attrs.frozen(kw_only=True)
class Options:
    """What the command line asks for.

    Args:
        interfaces: By name; none: all that are up, but loopback and ports of bridges, bonds and teams.
        groups: None: all.
        command: What to run on the first and the last member of a group; nothing: nothing.
        seconds: How long; `None`: until a signal.
        changes: Whether to show changes of interfaces.
        until_querier: Whether to end at the first query.
    """

    interfaces: tuple[str, ...] = ()
    groups: frozenset[IPv4Address] = frozenset()
    command: tuple[str, ...] = ()
    seconds: float | None = None
    changes: bool = False
    until_querier: bool = False


@final
class Show:
    """Shows records that are about the groups that were asked for, or about no group."""

    def __init__(self, output: Output, groups: frozenset[IPv4Address], commands: Commands | None = None) -> None:
        self._output: Final = output
        self._groups: Final = groups
        self._commands: Final = commands

    def records(self, records: Iterable[Record]) -> None:
        """Show records, and run the command for those that call for it."""
        for record in records:
            if self._is_wanted(record):
                self._output.show(record)
                if self._commands is not None and isinstance(record, Member) and record.change in {"first", "last"}:
                    self._commands.offer(record)

    def table(self, rows: Iterable[Row]) -> None:
        """Show a table, without the rows of other groups."""
        wanted: Sequence[Row] = [row for row in rows if self._is_wanted(row)]
        if wanted:
            self._output.table(wanted)

    def _is_wanted(self, record: Record) -> bool:
        group = getattr(record, "group", None)
        return group is None or not self._groups or group in self._groups
