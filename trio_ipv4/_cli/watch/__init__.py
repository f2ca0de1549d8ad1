"""`trio-ipv4 watch`: IGMP on the wire, and what follows from it."""

# The modules, from the top; each imports only what is below it:
#
#   live, replay  the wire and the clock, or a capture, feed the watcher
#   follow        which interfaces are watched
#   own           this host's memberships, where there is no privilege for the wire
#   wire          a packet socket
#   show          what was asked for
#   commands      --exec
#   watcher       the state machine, without sockets and clocks; it puts together:
#     versions    older versions of IGMP beside version 3
#     members     who is a member of which group
#     querier     who asks
#   packets       IP packets, and what is wrong with them
#   records       what is shown beside messages
#   messages      messages, in words
#   timers, words

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter

from trio_ipv4._cli.arguments import AsJSON, For, Groups, InterfaceNames, reads, wrong_usage
from trio_ipv4._cli.output import choose_output
from trio_ipv4._cli.watch import live, replay
from trio_ipv4._cli.watch.show import Options


def _read_command(text: str) -> tuple[str, ...]:
    """Read a command as a shell would split it."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"must be a command with its arguments, got {text!r}: {error}") from None
    if not words:
        raise ValueError("must be a command with its arguments, as './joined.sh', got nothing")
    return words


def command(
    *,
    interface: InterfaceNames = (),
    group: Groups = (),
    run: Annotated[tuple[str, ...] | None, Parameter(name="--exec"), reads(_read_command, "COMMAND")] = None,
    seconds: For = None,
    interfaces: bool = False,
    read: Annotated[Path | None, Parameter(name="--read", metavar="FILE", allow_leading_hyphen=True)] = None,
    until_querier: bool = False,
    as_json: AsJSON = False,
) -> int:
    """Watch IGMP on the wire: who asks, and who joins and leaves which group.

    It shows each message in words, and what follows from it: the election of
    a querier, and its silence; the first and the last member of a group;
    memberships that are about to run out; older versions of IGMP that get in
    the way of newer ones. At the end: who asks, and who is a member.

    To hear the wire takes root, or CAP_NET_RAW. Without, only this host's own
    memberships are watched. --read takes no privilege.

        trio-ipv4 watch --until-querier --for 260s    does anybody ask?
        trio-ipv4 watch --group 239.1.2.3             who joins, who leaves?
        tcpdump -U -w - igmp | trio-ipv4 watch --read -

    The exit status is 0; 1 if --until-querier heard none; 130 after Ctrl-C;
    5 if the kernel refused.

    Args:
        interface: Only this interface; may be repeated. Default: all that are up, but loopback and ports of bridges,
            bonds and teams.
        group: Only what is about this group, or about none; may be repeated.
        run: Run this command, without a shell, on the first and the last member of a group. Its environment has EVENT
            (first or last), GROUP, INTERFACE, HOST, and SOURCE, if the group is wanted from some sources only.
        seconds: How long, as 30s or 5m. Default: until Ctrl-C.
        interfaces: Show each interface that comes, changes or goes, too.
        read: Read this capture (pcap or pcapng) instead of the wire; -: standard input.
        until_querier: End as soon as a query is heard. With --for 260s: that is longer than a querier with default
            timers is silent.
    """
    options = Options(
        interfaces=interface,
        groups=frozenset(group),
        command=run or (),
        seconds=seconds,
        changes=interfaces,
        until_querier=until_querier,
    )
    output = choose_output(as_json=as_json)
    if read is None:
        return trio.run(live.main, output, options)
    about_the_wire = {"--interface": interface, "--interfaces": interfaces, "--exec": run, "--for": seconds}
    for name in (name for name, given in about_the_wire.items() if given):
        raise wrong_usage("watch", f"{name} is about the wire: leave it out with --read, which reads a file")
    return trio.run(replay.main, output, options, read)
