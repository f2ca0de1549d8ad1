"""`trio-ipv4 lab`: a private network of hosts, to try these commands without a network."""

# hold       a lab from its making to its end
# running    a command on a host
# lines      the lines that it writes
# privilege  a lab for a plain user
# way_in     the way into a lab that another process holds
# notes      how that is found
# records    what there is to show
# words      what people write, and what it means

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import trio
from cyclopts import App, Parameter

from trio_ipv4._cli.arguments import AsJSON, For, wrong_usage
from trio_ipv4._cli.lab.way_in import command_line, environment_on, find_lab
from trio_ipv4._cli.lab.words import ROUTER, SWITCH, Commands, HostNames, Hosts, Links, Name, divide
from trio_ipv4._cli.output import Text, choose_output

__all__ = ("app", "divide")

app = App(
    name="lab",
    help="""\
Make a private network of hosts, to try these commands without a network.

`lab up` makes it and holds it, `lab enter` opens a shell on a host, or runs a command there. Nothing of it touches the
machine's own network. Linux only.
""",
)


@app.command
def up(
    *,
    hosts: Hosts = HostNames(("a", "b")),  # noqa: B008  # Immutable.
    links: Links = 1,
    router: bool = False,
    on: Commands = (),
    name: Name = "lab",
    seconds: For = None,
    as_json: AsJSON = False,
) -> int:
    """Make a lab, and hold it until Ctrl-C.

    Each host has an interface on each of its links: en0 with the address 198.18.0.1, and so on. A link is a bridge that
    snoops and queries IGMPv3. Root is not needed where users may make user namespaces.

        trio-ipv4 lab up --hosts a,b,c
        trio-ipv4 lab up --hosts src:0,dst:1 --router
        trio-ipv4 lab up --on a="trio-ipv4 listen 239.1.2.3:5000" --for 10s

    The exit status is 0; with --on that of the first command that failed, in the order of the options; 5 if no lab can
    be made here, or the name is taken; 130 after Ctrl-C.

    Args:
        hosts: The names of the hosts, and behind a colon the links that a host is on, as a:0,b:0+1. Otherwise it is on
            every link. Default: a,b.
        links: How many links there are, or more if --hosts names more. Default: 1.
        router: Add a host named router, which forwards between the links, multicast too.
        on: Run a command on a host, and end when all such commands have ended. May be repeated. Their lines have the
            name of the host before them.
        name: A name for the lab, if there are several. Default: lab.
        seconds: How long, as 30s or 5m. Default: until Ctrl-C, or until the commands of --on have ended.
    """
    # `trio_ipv4.testing` is needed here alone, and takes its time: other commands shall not wait for it.
    from trio_ipv4._cli.lab.hold import Plan, main  # noqa: PLC0415
    from trio_ipv4._cli.lab.privilege import get_privilege  # noqa: PLC0415

    plan = Plan(hosts.names, links, router, on, name, seconds, hosts.ends)
    known = (*plan.hosts, *((ROUTER,) if router else ()), SWITCH)
    for each in on:
        _check_host(each.host, known, "up")
    get_privilege()
    return trio.run(main, choose_output(as_json=as_json), plan)


@app.command(usage="Usage: trio-ipv4 lab enter [OPTIONS] HOST [COMMAND...]")
def enter(
    host: Annotated[str, Parameter(metavar="HOST")],
    /,
    *command: Annotated[str, Parameter(metavar="COMMAND", allow_leading_hyphen=True)],
    name: Annotated[Name, Parameter(env_var="TRIO_IPV4_LAB")] = "lab",
) -> int:
    """Open a shell on a host of a lab, or run a command there.

    The lab is one that `trio-ipv4 lab up` of the same user holds, in another terminal or in the background. If it is
    not there yet, this waits for 5 seconds.

        trio-ipv4 lab enter a
        trio-ipv4 lab enter b trio-ipv4 watch --for 10s
        trio-ipv4 lab enter switch bridge mdb show

    The exit status is the command's; 5 if there is no such lab.

    Args:
        host: A host of the lab, or "switch", where the bridges are.
        command: The command, with its options. Default: $SHELL.
        name: The lab's name; before HOST. Default: on a host of a lab, that one; else lab.
    """
    note = find_lab(name, Text())
    _check_host(host, tuple(note.hosts), "enter")
    argv = command_line(note, host, command)
    environment = environment_on(name, host)
    sys.stdout.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would last across execve(2).
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], argv, environment)


def _check_host(host: str, known: tuple[str, ...], subcommand: str) -> None:
    if host not in known:
        raise wrong_usage(f"lab {subcommand}", f"There is no host {host!r} in this lab, only {', '.join(known)}.")
