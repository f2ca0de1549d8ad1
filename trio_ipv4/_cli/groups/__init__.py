"""`trio-ipv4 groups`: who on this host is in which group on which interface."""

# The modules, from the top; each imports only what is below it:
#
#   __init__    the command
#   report      rows and summary, from the tables and from what the sockets said
#   records     what is shown
#   witness     asks the sockets, and tells suspects from members
#   foreign     a socket of another process, through a duplicate of its descriptor
#   processes   which process holds which socket, by /proc
#   diag        the sockets of everybody, by sock_diag
#   merge       what an interface hears, from what its sockets want (pure)

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated

from trio_ipv4 import interface_by_name
from trio_ipv4._cli.arguments import AsJSON, InterfaceName, read_group, reads_each
from trio_ipv4._cli.ends import Status
from trio_ipv4._cli.groups.records import NobodyThere
from trio_ipv4._cli.groups.report import gather, make_rows, read_entries, summarize
from trio_ipv4._cli.groups.witness import look
from trio_ipv4._cli.output import Output, choose_output

if TYPE_CHECKING:
    from collections.abc import Sequence


def command(
    *,
    interface: tuple[InterfaceName, ...] = (),
    group: Annotated[tuple[IPv4Address, ...], reads_each(read_group, "GROUP")] = (),
    as_json: AsJSON = False,
) -> int:
    """Show who on this host is in which group on which interface.

    Without privilege, the processes of other users are not seen, and it says so. Nothing is joined, sent or changed.

    The exit status is 0; 1 if nobody is in a group that was asked for; 5 if the kernel refused.

    Args:
        interface: Only this interface. May be repeated. Default: all.
        group: Only this group. May be repeated. Default: all.
    """
    return main(choose_output(as_json=as_json), interface, group)


def main(output: Output, names: Sequence[str] = (), groups: Sequence[IPv4Address] = ()) -> int:
    """Show the groups of this thread's network namespace, and return the exit status. It never waits."""
    indices = [interface_by_name(name).index for name in names]
    entries, evidence = gather(lambda: read_entries(indices, groups), look)
    rows = make_rows(entries, evidence)
    output.table(rows)
    missing = [group for group in dict.fromkeys(groups) if group not in {row.group for row in rows}]
    for each in missing:
        output.show(NobodyThere(each))
    output.show(summarize(rows, evidence))
    return Status.NEGATIVE if missing else Status.DONE
