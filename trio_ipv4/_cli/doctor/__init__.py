"""`trio-ipv4 doctor`: why does this group not arrive?"""

# The modules, from the top; each imports only what is below it:
#
#   __init__      the command, and what its options mean together
#   examination   which witness is asked when
#   witnesses     each sees one thing, and says what it saw
#   journal       what they have said so far, and who could not look
#   decide        what follows from it: pure
#   records       what is shown beside the evidence
#   causes        the table of all that a verdict may name
#   verdict       what is concluded
#   case          all evidence, as it can be stored and read again
#   capabilities  what this process may do
#   evidence      what witnesses say

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import trio
from cyclopts import App, Parameter

from trio_ipv4._cli.arguments import (
    AsJSON,
    Destination,
    For,
    HostAddress,
    InterfaceName,
    read_destination,
    reads,
    within,
    wrong_usage,
)
from trio_ipv4._cli.doctor import capabilities, decide
from trio_ipv4._cli.doctor.case import Case, read_case
from trio_ipv4._cli.doctor.causes import HEALTHY
from trio_ipv4._cli.doctor.evidence import Question, Role
from trio_ipv4._cli.doctor.examination import choose_interface, examine
from trio_ipv4._cli.doctor.records import conclude
from trio_ipv4._cli.doctor.verdict import Verdict
from trio_ipv4._cli.ends import Status, until_stopped
from trio_ipv4._cli.output import Output, choose_output
from trio_ipv4._cli.processes import is_there

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS: Final = 3.0
_LONGEST_LINE: Final = 1 << 26
"""In characters: of 4,096 flows each takes some 300 in JSON, and of 1,000 groups a program's socket some 100,000."""
_MOST_LINES: Final = 10_000
"""An examination has some 40."""
_MOST_PIDS: Final = 1 << 22
"""PID_MAX_LIMIT (linux/threads.h)."""


_USAGE: Final = """\
Usage: trio-ipv4 doctor [OPTIONS] GROUP:PORT
       trio-ipv4 doctor --read FILE [--strict] [--json]
"""

app: Final = App(name="doctor", usage=_USAGE)


@app.default
def command(
    destination: Annotated[
        Destination | None, Parameter(name="GROUP:PORT"), reads(read_destination, "GROUP:PORT")
    ] = None,
    /,
    *,
    interface: InterfaceName | None = None,
    source: HostAddress | None = None,
    pid: Annotated[int | None, reads(within(1, _MOST_PIDS), "PID")] = None,
    seconds: For = None,
    sender: bool = False,
    receiver: HostAddress | None = None,
    router: bool = False,
    probe: bool = False,
    read: Annotated[Path | None, Parameter(name="--read", metavar="FILE", allow_leading_hyphen=True)] = None,
    strict: bool = False,
    as_json: AsJSON = False,
) -> int:
    """Find out why a group does not arrive, and say how to mend it.

    It reads the kernel's tables, looks at what is there for 3 seconds, and
    joins the group for another 3. If nothing comes, it finds out more, for
    some seconds. Then it names the cause, what proves it, and what mends it.
    Run it on the host that should receive; as root it can tell most. With
    --pid it looks into the program, too.

        trio-ipv4 doctor 239.1.2.3:5000 --interface en0
        trio-ipv4 doctor 239.1.2.3:5000 --interface en0 --pid 4711
        trio-ipv4 doctor 239.1.2.3:5000 --sender     on the host that sends
        trio-ipv4 doctor 239.1.2.3:5000 --router     on a router between

    The exit status is 0 if the group is received, and no fault was found; 1
    if a cause is named; 3 if it can't tell; 130 after Ctrl-C; 2 for wrong
    usage, 5 if the kernel refused.

    Args:
        destination: The group and its port, as 239.1.2.3:5000.
        interface: The interface by which it should come in; with --sender, by which it should go out. Default: where
            the route to the group leads.
        source: The host that sends. Join this source alone, and find out whether datagrams from it may come in.
        pid: The number of the program that should receive, or send. Default: the one that has the port open, if it is
            the only one, and may be looked into.
        seconds: How long to look, and then how long to join, at least 1.5s. Default: 3s. To be sure that nobody
            queries: 130s.
        sender: This host sends the group. Nothing is joined.
        receiver: With --sender: the address of a host that should receive.
        router: This host is a router between sender and receiver. Nothing is joined.
        probe: If the group is silent though this host is a member: send an IGMP report that says so, and see whether it
            comes now. It then comes for some minutes, also for the program. Needs CAP_NET_RAW.
        read: Look at nothing, and give the verdict of this file, which --json has written; -: standard input.
        strict: Name a cause (exit status 1) only if it is proved. One that is likely is 3.
    """
    output = choose_output(as_json=as_json)
    if read is not None:
        about_this_host = {
            "GROUP:PORT": destination,
            "--interface": interface,
            "--source": source,
            "--pid": pid,
            "--for": seconds,
            "--sender": sender,
            "--receiver": receiver,
            "--router": router,
            "--probe": probe,
        }
        for option in (option for option, given in about_this_host.items() if given):
            raise wrong_usage("doctor", f"{option} is what the file of --read says already: leave it out")
        return _decide(output, _read(read), strict=strict)
    if destination is None:
        raise wrong_usage("doctor", "name GROUP:PORT, as 239.1.2.3:5000; or --read FILE")
    role = _choose_role(sender=sender, router=router, receiver=receiver, probe=probe)
    if pid is not None and not is_there(pid):
        raise wrong_usage("doctor", f"there is no process {pid}: name one that runs")
    name, ifindex = choose_interface(interface, destination.group)
    question = Question(
        group=destination.group,
        port=destination.port,
        interface=name,
        ifindex=ifindex,
        named=interface is not None,
        source=source,
        pid=pid,
        role=role,
        receiver=receiver,
        probe=probe,
        seconds=_SECONDS if seconds is None else seconds,
        privileges=capabilities.look(),
    )
    return trio.run(_examine, output, question, strict)


def _choose_role(*, sender: bool, router: bool, receiver: object, probe: bool) -> Role:
    """Return which part this host plays.

    Raises:
        CycloptsError: The options can't go together. It says what to write instead.
    """
    if sender and router:
        raise wrong_usage("doctor", "--sender and --router can't go together: run it on each of the two hosts")
    if receiver is not None and not sender:
        raise wrong_usage("doctor", "--receiver goes with --sender: it is where the sender's datagrams should arrive")
    if probe and (sender or router):
        raise wrong_usage("doctor", "--probe is for the host that should receive: leave out --sender and --router")
    return "sender" if sender else "router" if router else "receiver"


async def _examine(output: Output, question: Question, strict: bool) -> int:
    """Examine, and return the exit status. A signal ends it without a verdict."""
    status = int(Status.NOTHING)
    async with until_stopped() as stop:
        output.show(question)
        status = _decide(output, await examine(question, output.show), strict=strict)
    return stop.status(status)


def _read(path: Path) -> Case:
    """Read stored evidence.

    Raises:
        OSError: There is no such file, or it holds something else.
    """
    try:
        if str(path) == "-":
            return read_case(_bounded(sys.stdin), whole=True)
        with path.open(encoding="utf-8", errors="replace") as lines:
            return read_case(_bounded(lines), whole=True)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} is no evidence that 'trio-ipv4 doctor --json' has written: {error}") from None


def _bounded(lines: TextIO) -> Iterator[str]:
    """Yield lines, and no more of them than evidence has.

    Raises:
        ValueError: It is too long.
    """
    for _ in range(_MOST_LINES):
        line = lines.readline(_LONGEST_LINE)
        if not line:
            return
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line has more than {_LONGEST_LINE:,} characters")
        yield line
    raise ValueError(f"it has more than {_MOST_LINES:,} lines")


def _decide(output: Output, case: Case, *, strict: bool) -> int:
    """Show the verdict, and return the exit status."""
    verdict = decide.decide(case)
    output.show(conclude(case, verdict))
    return status_of(verdict, strict=strict)


def status_of(verdict: Verdict, *, strict: bool) -> int:
    """Return the exit status of a verdict."""
    if verdict.code == HEALTHY:
        return Status.DONE
    is_named = verdict.certainty == "proved" or (verdict.certainty == "likely" and not strict)
    return Status.NEGATIVE if is_named else Status.NOTHING
