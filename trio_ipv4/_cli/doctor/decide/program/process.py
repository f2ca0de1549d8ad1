"""The process itself, and what it means that the port is not open for it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.causes import CAUSES
from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, in_the_program
from trio_ipv4._cli.doctor.decide.program.sockets import name_of, open_sockets
from trio_ipv4._cli.doctor.decide.view import listed
from trio_ipv4._cli.doctor.evidence import Elsewhere, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._cli.doctor.decide.view import View

_NOBODY: Final = "In this one nobody has the port open."
_START: Final = "Its bind may have failed: look at what it says, and start it again."


def judge_process(view: View, program: Program) -> Iterator[Finding | Unknown]:
    """Judge whether the program runs, and whether it does so here."""
    if not program.state:
        yield Unknown((), (f"There is no process {program.pid}.",), ("Name the program that runs now: --pid PID.",))
    elif program.state == "T":
        evidence = f"{program.name} (pid {program.pid}) is in state {program.state}: stopped."
        yield in_the_program("program-stopped", evidence, cure=(f"kill -CONT {program.pid}",))
    elif _is_elsewhere(program):
        evidence = f"{program.name} (pid {program.pid}) is in another network namespace than this command."
        yield in_the_program("other-network-namespace", evidence, cure=_there(view, program.pid))


def _there(view: View, pid: int) -> tuple[str, ...]:
    """Return what is to be done about a program in another network namespace."""
    there = f"nsenter --target {pid} --net trio-ipv4 doctor {view.question.group}:{view.question.port} --pid {pid}"
    look = f"Or ask why it does not arrive there, as root: {there}"
    return (*CAUSES["other-network-namespace"].cure, look)


def _is_elsewhere(program: Program) -> bool:
    """Tell whether its sockets are in another network namespace; if it has none, whether itself is."""
    return all(each.here is False for each in program.sockets) if program.sockets else program.here is False


def without_a_socket(view: View, program: Program | None) -> Iterator[Finding | Unknown]:
    """Nobody has the port open here, or not the program."""
    if port_is_taken(view):
        yield from port_in_use(view)
        return
    if program is None or not program.sockets:
        there = list(_open_elsewhere(view, program))
        yield from there
        if program is not None and program.refused is None and not there:
            yield Unknown(("not-a-member",), (f"{program.name} (pid {program.pid}) has no UDP socket.",), (_START,))
        return
    ports = {each.port for each in program.sockets if each.port}
    if not ports:
        yield Unknown(
            ("not-a-member",), (f"{program.name} (pid {program.pid}) has no UDP socket that is bound.",), (_START,)
        )
    else:
        has = f"{program.name} (pid {program.pid}) has UDP sockets on port {listed(ports)}"
        yield in_the_program("other-port", f"{has}, not on {view.question.port}.")


def _open_elsewhere(view: View, program: Program | None) -> Iterator[Finding]:
    """The port is open in another network namespace: for the program that was named, or for members of the group."""
    there = view.case.get(Elsewhere)
    for each in there.processes if there else ():
        its = program is not None and each.pid == program.pid
        if its or each.member:
            member = ", where the group is joined" if each.member else ""
            said = (
                f"{each.name} (pid {each.pid}) has port {view.question.port} open in another network namespace{member}."
            )
            holders = listed({name_of(each) for each in open_sockets(view) if each.port == view.question.port})
            here = f"In this one port {view.question.port} is held by {holders}." if holders else _NOBODY
            others = () if its else ("not-a-member",)
            cure = _there(view, each.pid)
            yield in_the_program("other-network-namespace", said, here, sure=its, others=others, cure=cure)
            return


def port_is_taken(view: View) -> bool:
    """Tell whether our own receiver could not bind, though it asks to share the port."""
    return view.own is not None and view.own.refused_what == "bind" and view.own.refused == "EADDRINUSE"


def port_in_use(view: View, *, sure: bool = True) -> Iterator[Finding | Unknown]:
    """Our bind failed. It is a fault if the one who holds the port is not the program, or not a member."""
    if not sure and (there := list(_open_elsewhere(view, None))):
        yield from there  # A proxy holds it for a container.
        return
    holders = [each for each in open_sockets(view) if each.port == view.question.port]
    named = listed({name_of(each) for each in holders}) or "somebody whom this user can't see"
    said = f"bind({view.question.group}:{view.question.port}) says EADDRINUSE, though it asks to share the port."
    yield in_the_program(
        "port-in-use", said, f"The port is held by {named}.", sure=sure, others=() if sure else ("not-a-member",)
    )
