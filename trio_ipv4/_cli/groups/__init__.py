"""`trio-ipv4 groups`: who on this host is in which group on which interface."""

# The modules, from the top; each imports only what is below it:
#
#   __init__    the command
#   report      rows and summary, from the tables and from what the sockets said
#   records     what is shown
#   witness     asks the sockets, and tells suspects from members

from __future__ import annotations

import shutil
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Final

import attrs
from cyclopts import App, Parameter

from trio_ipv4 import interface_by_name
from trio_ipv4._cli.arguments import AsJSON, Groups, InterfaceNames
from trio_ipv4._cli.ends import Status
from trio_ipv4._cli.groups.records import GroupListed, GroupListedBriefly, NobodyThere
from trio_ipv4._cli.groups.report import gather, make_rows, read_entries, summarize
from trio_ipv4._cli.groups.witness import look
from trio_ipv4._cli.output import JSONLines, Output, choose_output, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

app: Final = App(name="groups", usage="Usage: trio-ipv4 groups [OPTIONS] [GROUP...]\n")


@app.default
def command(
    groups: Annotated[Groups, Parameter(name="GROUP")] = (),
    /,
    *,
    interface: InterfaceNames = (),
    group: Groups = (),
    as_json: AsJSON = False,
) -> int:
    """Show who on this host is in which group on which interface.

    Without privilege, the processes of other users are not seen, and it says so. Nothing is joined, sent or changed.

        trio-ipv4 groups                            all groups
        trio-ipv4 groups 239.1.2.3                  who is in this one?
        sudo trio-ipv4 groups --interface lo        the processes of all users

    The exit status is 0; 1 if nobody is in a group that was asked for; 5 if the kernel refused.

    Args:
        groups: Only these groups. Default: all.
        interface: Only this interface. May be repeated. Default: all.
        group: The same as GROUP. May be repeated.
    """
    return main(choose_output(as_json=as_json), interface, (*groups, *group))


def main(output: Output, names: Sequence[str] = (), groups: Sequence[IPv4Address] = ()) -> int:
    """Show the groups of this thread's network namespace, and return the exit status. It never waits."""
    indices = [interface_by_name(name).index for name in names]
    entries, evidence = gather(lambda: read_entries(indices, groups), look)
    rows = make_rows(entries, evidence)
    output.table(_fit(rows))
    missing = [group for group in dict.fromkeys(groups) if group not in {row.group for row in rows}]
    for each in missing:
        output.show(NobodyThere(each))
    summary = summarize(rows, evidence)
    # Where all that was asked for is missing, the words have said so.
    if rows or not missing or isinstance(output, JSONLines):
        output.show(summary)
    return Status.NEGATIVE if missing else Status.DONE


def _fit(rows: Sequence[GroupListed]) -> Sequence[GroupListed]:
    """Shorten lists of sources, if a terminal has no room for them: to cut one would cut an address in the middle."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or all(len(line) <= width for line in lay_out(rows, None)):
        return rows
    return [GroupListedBriefly(**attrs.asdict(row, recurse=False)) for row in rows]
