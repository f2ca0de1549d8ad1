"""The command line. It imports only the public package, like any stranger."""

# The layers, from the top; each imports only what is below it, and the public package:
#
#   __init__       the commands and their exit status
#   demo           the story: real datagrams on loopback, and what the kernel says at every step
#   interfaces     the list of interfaces
#   show           events as text for people, or as JSON lines
#   texts          what the demo says between the facts
#   kernel_tables  the kernel's memberships, read from /proc/net
#   events         what there is to show

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from typing import Annotated, Final

import trio
from cyclopts import App, Parameter

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.demo import run_demo
from trio_ipv4._cli.interfaces import show_interfaces
from trio_ipv4._cli.show import JSONLines, Page, prepare_stdout

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it.

AsJSON = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, one object a line.")]

app = App(name="trio-ipv4", help="IPv4 multicast, confirmed by the kernel.", version=version_of("trio-ipv4"))


# The functions are not named as their commands: those names are modules here.
@app.command(name="demo")
def show_the_demo(*, as_json: AsJSON = False) -> int:
    """Show multicast at work on the loopback interface.

    Three receivers join groups, real datagrams arrive or are refused, and after every step the kernel's own table of
    memberships is compared with what should be there. It needs no root, and nothing leaves this machine. The exit
    status is 0 if the kernel confirms every step, 1 if not, 130 after Ctrl-C.
    """
    return trio.run(run_demo, JSONLines() if as_json else Page())


@app.command(name="interfaces")
def list_interfaces(*, as_json: AsJSON = False) -> int:
    """List the network interfaces with their IPv4 addresses."""
    return show_interfaces(JSONLines() if as_json else Page())


def run() -> None:
    """Run the command line, and exit."""
    prepare_stdout()
    status = INTERRUPTED
    try:
        # Depending on its version, cyclopts returns what the command returned, or exits with it.
        status = app()
    except* KeyboardInterrupt:
        # Which may have come in a group, from a nursery. Every membership was left on the way here.
        sys.stderr.write("Interrupted.\n")
    except* (OSError, UnsupportedError) as errors:
        status = 1
        sys.stderr.write("".join(f"trio-ipv4: {error}\n" for error in errors.exceptions))
    sys.exit(status)
