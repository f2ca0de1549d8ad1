"""A lab from its making to its end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

import attrs
import trio

from trio_ipv4._cli.ends import Status, Stop, until_stopped
from trio_ipv4._cli.lab.notes import Note, own_note, written
from trio_ipv4._cli.lab.records import Comment, Down, Hint, HostInterface, Up
from trio_ipv4._cli.lab.running import run_on
from trio_ipv4._cli.lab.way_in import environment_on
from trio_ipv4._cli.lab.words import SWITCH, HostCommand
from trio_ipv4.testing import lab_available, open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ipv4._cli.output import Output
    from trio_ipv4.testing import Lab


@attrs.frozen
class Plan:
    """What lab to make, and what to do in it.

    `ends` has the links of those hosts that are not on every link.
    """

    hosts: tuple[str, ...] = ("a", "b")
    links: int = 1
    router: bool = False
    on: tuple[HostCommand, ...] = ()
    name: str = "lab"
    seconds: float | None = None
    ends: Mapping[str, tuple[int, ...]] = attrs.Factory(dict)

    def links_of(self, host: str) -> tuple[int, ...]:
        """Return the links that a host is on."""
        return self.ends.get(host) or tuple(range(max([self.links, *(1 + max(ends) for ends in self.ends.values())])))


async def main(output: Output, plan: Plan) -> int:
    """Hold a lab until it is stopped, or until its commands have ended."""
    statuses: list[int | None] = [None] * len(plan.on)
    began = trio.current_time()
    # The first is not stopped with the second: commands have last words.
    async with trio.open_nursery() as relays, until_stopped() as stop:
        with _made(plan) as lab, written(_note(plan.name, lab)):
            _show(output, lab, plan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_hung_up, stop)
                with trio.move_on_after(math.inf if plan.seconds is None else plan.seconds):
                    if plan.on:
                        await _run_commands(lab, plan, output, relays, statuses)
                    else:
                        await trio.sleep_forever()
                nursery.cancel_scope.cancel()
    output.show(Down(plan.name, trio.current_time() - began))
    return stop.status(next(filter(None, statuses), Status.DONE))


@contextlib.contextmanager
def _made(plan: Plan) -> Iterator[Lab]:
    if (reason := lab_available()) is not None:
        raise OSError(reason)
    try:
        with open_lab({each: plan.links_of(each) for each in plan.hosts}, links=plan.links, router=plan.router) as lab:
            yield lab
    except subprocess.CalledProcessError as error:  # `ip` refused; the message holds its words.
        raise OSError(f"no such lab can be made here: {error}") from None


def _note(name: str, lab: Lab) -> Note:
    return own_note(name, {host.name: host.command([]) for host in (*lab.values(), lab.switch)})


def _show(output: Output, lab: Lab, plan: Plan) -> None:
    output.table(
        [
            HostInterface(host.name, each.name, each.index, IPv4Interface(address), lab.bridge(int(each.name[2:])))
            for host in lab.values()
            for each in host.interfaces
            for address in each.addresses
        ]
    )
    output.show(Up(plan.name, os.getpid(), (*lab, SWITCH), len(plan.on), plan.seconds))
    if plan.on:
        return
    enter = "trio-ipv4 lab enter" + ("" if plan.name == "lab" else f" --name {plan.name}")
    first, last = plan.hosts[0], plan.hosts[-1]
    output.show(Comment(f"a shell on {first}, from another terminal"))
    output.show(Hint(f"{enter} {first}"))
    output.show(Comment(f"a command on {last}"))
    output.show(Hint(f"{enter} {last} trio-ipv4 listen 239.1.2.3:5000"))


async def _run_commands(lab: Lab, plan: Plan, output: Output, relays: trio.Nursery, statuses: list[int | None]) -> None:
    """Run the commands at once, and note the exit statuses of those that end by themselves."""

    async def run(place: int, on: HostCommand) -> None:
        host = lab.switch if on.host == SWITCH else lab[on.host]
        statuses[place] = await run_on(host, on.command, environment_on(plan.name, host.name), output, relays)

    async with trio.open_nursery() as nursery:
        for place, on in enumerate(plan.on):
            nursery.start_soon(run, place, on)


async def _until_hung_up(stop: Stop) -> None:
    """Stop when the terminal goes away, so that the commands do not stay. Not if nohup(1) has us ignore that."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for number in signals:
            stop.by_signal(number)
