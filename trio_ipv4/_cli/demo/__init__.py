"""`trio-ipv4 demo`: multicast at work on the loopback interface, confirmed by the kernel at every step."""

# story    real datagrams on loopback, and what the kernel says at every step
# page     the story as a page for people
# texts    what it says between the facts
# events   what there is to show

from __future__ import annotations

import contextlib

import trio

from trio_ipv4._cli.arguments import AsJSON
from trio_ipv4._cli.demo.page import Page
from trio_ipv4._cli.demo.story import run_demo
from trio_ipv4._cli.output import JSONLines, Record


def command(*, as_json: AsJSON = False) -> int:
    """Show multicast at work on the loopback interface.

    Three receivers join groups, real datagrams arrive or are refused, and after every step the kernel's own table of
    memberships is compared with what should be there. It needs no root, and nothing leaves this machine. The exit
    status is 0 if the kernel confirms every step, 1 if not, 130 after Ctrl-C.
    """
    return trio.run(run_demo, _show_json if as_json else Page().show)


def _show_json(event: Record) -> None:
    """Write an event. Whether anybody reads it, as in `| head`, changes nothing else."""
    with contextlib.suppress(BrokenPipeError):
        JSONLines().show(event)
